"""Where kproxy listens, as people write it: texts of `--listen`, and `listeners` of the config file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from kproxy.config.kinds import FILE, SWITCH, Kind, Name, Number, Problem, Unusable, nearest
from kproxy.system.addresses import is_loopback, joined

DEFAULT_ADDRESS, DEFAULT_PORT = "127.0.0.1", 8001

ADDRESS = Name("ADDRESS", "an IP address or host name (0.0.0.0 and :: are all interfaces)")
PORT = Number(0, 65535)

_FIRST_DESCRIPTOR = 3
"""What is passed comes behind stdin, stdout and stderr (sd_listen_fds(3), SD_LISTEN_FDS_START)."""

_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenerConfig:
    """One listener: a unix socket, a passed descriptor, or else an address and port.

    What is set for one listener alone has its place here.
    """

    address: str = DEFAULT_ADDRESS
    port: int = DEFAULT_PORT
    unix_socket: str | None = None
    mode: int | None = None
    """Permissions of the unix socket; None is 0700, kubectl's."""
    owner: str | None = None
    """`user`, `user:group` or `:group` for the unix socket."""
    fd: int | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    """None: the file of the certificate holds the key, too."""
    tls_self_signed: bool | None = None
    """None for this and for tls_certificate: as the flags of that name have it."""
    label: str = "address"
    """What a message about it begins with: `address`, or `listeners[0]`."""

    @property
    def is_tcp(self) -> bool:
        return self.unix_socket is None and self.fd is None

    @property
    def is_on_both_loopbacks(self) -> bool:
        """kubectl's `--address=localhost` is IPv4 alone; whoever lists listeners gets what the name says."""
        return self.is_tcp and self.address == "localhost" and self.setting != "--address"

    @property
    def has_tls(self) -> bool:
        return self.tls_certificate is not None or bool(self.tls_self_signed)

    @property
    def tls_paths(self) -> tuple[Path, Path] | None:
        """The files of certificate and key, if the settings name them."""
        if self.tls_certificate is None:
            return None
        return Path(self.tls_certificate), Path(self.tls_key or self.tls_certificate)

    @property
    def setting(self) -> str:
        """What an address that cannot be had is called in messages."""
        return "--address" if self.label == "address" else self.label

    @property
    def place(self) -> str:
        """Where it listens, in the form of --listen."""
        if self.unix_socket is not None:
            return f"unix:{self.unix_socket}"
        return f"fd:{self.fd}" if self.fd is not None else joined(self.address, self.port)


def exposure(address: str, *, is_tls: bool) -> str:
    """Why a listener is refused that other machines can reach: kproxy cannot tell its callers apart.

    TLS alone does not help: it proves who kproxy is, not who calls.
    """
    reader = "" if is_tls else ", and whoever is on the way can read along"
    return (
        f"{address} can be reached from other machines; all who reach it act with your credentials{reader}; "
        "add --unsafe-listen if that is what you want, as in a container whose port is published on the "
        "host's loopback only, or listen on 127.0.0.1"
    )


def parse_place(text: str) -> ListenerConfig:
    """`ADDRESS:PORT`, `[IPv6]:PORT`, `unix:PATH` or `fd:N` taken apart; raises `Unusable`."""
    if text.startswith("unix:") and len(text) > 5:
        return ListenerConfig(unix_socket=text[5:])
    if found := re.fullmatch(r"fd:([0-9]{1,6})", text):
        return ListenerConfig(fd=_FD.parse(found[1]))
    host, colon, port = text.rpartition(":")
    if colon and host not in ("unix", "fd") and _is_host(host):
        return ListenerConfig(address=host.strip("[]"), port=PORT.parse(port))
    raise _PLACE.unusable(text)


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        try:
            IPv6Address(text[1:-1])
        except AddressValueError:
            return False
        return True
    if re.fullmatch(r"[0-9.]+", text):
        # What looks like an IPv4 address is one: inet_aton would read 127.1 and 010.0.0.1 in its own way.
        try:
            IPv4Address(text)
        except AddressValueError:
            return False
        return True
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None


class Mode(Kind):
    """Permissions of a file in octal. No YAML number: 0660 and 660 are two, and neither looks wrong."""

    expected = "permissions in octal and, in a file, in quotes, such as '0660'"

    def __init__(self) -> None:
        super().__init__("MODE")

    def parse(self, text: str) -> int | None:
        if not text:
            return None
        if not re.fullmatch(r"(0o?)?[0-7]{3}", text):
            raise self.unusable(text)
        return int(text, 8)

    def show(self, value: Any) -> str:
        return "" if value is None else f"{value:04o}"

    def plain(self, value: Any) -> object:
        return None if value is None else self.show(value)


class Owner(Kind):
    """The user and group of a file, as chown(1) takes them."""

    expected = "USER, USER:GROUP or :GROUP"

    def __init__(self) -> None:
        super().__init__("USER[:GROUP]")

    def parse(self, text: str) -> str | None:
        if text and not re.fullmatch(r"[^:\s]+(:[^:\s]+)?|:[^:\s]+", text):
            raise self.unusable(text)
        return text or None


MODE = Mode()
OWNER = Owner()
_FD = Number(_FIRST_DESCRIPTOR, 999_999)
_PLACE = Name("ADDRESS", "ADDRESS:PORT, [IPv6]:PORT, unix:PATH or fd:N")

ENTRY_KEYS: Mapping[str, Kind] = {
    "address": ADDRESS,
    "port": PORT,
    "unix_socket": FILE,
    "mode": MODE,
    "owner": OWNER,
    "fd": _FD,
    "tls_certificate": FILE,
    "tls_key": FILE,
    "tls_self_signed": SWITCH,
}
"""What an entry of `listeners` may hold. The names are those of the fields of `ListenerConfig`."""

_KINDS = ("address", "unix_socket", "fd")


class Listeners(Kind):
    """Listeners: a flag names one as `parse_place` reads it, the file lists mappings or such texts."""

    expected = "a list of listeners"
    repeats = True

    def __init__(self) -> None:
        super().__init__("ADDRESS")

    def parse(self, text: str) -> tuple[ListenerConfig, ...]:
        return labelled(parse_place(line) for line in text.splitlines())

    def take(self, value: object, folder: Path) -> tuple[ListenerConfig, ...]:
        if not isinstance(value, list):
            raise self.unusable(value)
        found: list[ListenerConfig] = []
        problems: list[Problem] = []
        for index, entry in enumerate(value):
            taken = _entry(entry, folder, index, problems)
            if taken is not None:
                found.append(taken)
        if problems:
            raise Unusable("", problems)
        return labelled(found)

    def join(self, first: Any, second: Any) -> tuple[ListenerConfig, ...]:
        return labelled((*first, *second))

    def show(self, value: Any) -> str:
        return ",".join(each.place for each in value)

    def plain(self, value: Any) -> object:
        return [_plain(each) for each in value]


LISTENERS = Listeners()


def labelled(listeners: Any) -> tuple[ListenerConfig, ...]:
    """Each with its number, by which messages name it."""
    return tuple(replace(each, label=f"listeners[{index}]") for index, each in enumerate(listeners))


def _entry(entry: object, folder: Path, index: int, problems: list[Problem]) -> ListenerConfig | None:
    if isinstance(entry, str):
        try:
            place = parse_place(entry)
        except Unusable as unusable:
            problems.append(((index,), str(unusable)))
            return None
        path = place.unix_socket
        return place if path is None else replace(place, unix_socket=FILE.take(path, folder))
    if not isinstance(entry, dict):
        problems.append(((index,), f"expected `port: 8002` and the like, or {_PLACE.expected}"))
        return None
    before = len(problems)
    found: dict[str, Any] = {}
    for key, value in entry.items():
        kind = ENTRY_KEYS.get(key) if isinstance(key, str) else None
        if kind is None:
            near = nearest(str(key), ENTRY_KEYS)
            hint = f", did you mean {near}?" if near else f"; there are {', '.join(ENTRY_KEYS)}"
            problems.append(((index, str(key)), f"unknown setting{hint}"))
        elif value is not None:
            try:
                found[key] = kind.take(value, folder)
            except Unusable as unusable:
                problems.append(((index, key), str(unusable)))
    if len(problems) == before:
        problems += (((index, *path), text) for path, text in _clashes(found))
    return ListenerConfig(**found) if len(problems) == before else None


def _clashes(found: Mapping[str, Any]) -> Iterator[Problem]:
    """What cannot be meant together in one entry."""
    kinds = [kind for kind in _KINDS if found.get(kind) is not None]
    kind = kinds[0] if kinds else "address"
    if len(kinds) > 1:
        yield (), f"cannot set {' and '.join(kinds)} together; make one entry for each"
    elif not kinds and "port" not in found:
        yield (), "expected an address, a port, a unix_socket or an fd"
    elif kind != "address" and "port" in found:
        yield ("port",), f"only an address has a port; leave it out beside {kind}"
    for key in ("mode", "owner"):
        if found.get(key) is not None and kind != "unix_socket":
            yield (key,), "only a unix_socket that kproxy makes has this; leave it out"
    yield from ((path, text) for path, text in tls_clashes(found, is_unix=kind == "unix_socket"))


def tls_clashes(found: Mapping[str, Any], *, is_unix: bool) -> Iterator[Problem]:
    """The same of the three TLS settings."""
    if is_unix:
        for key in ("tls_certificate", "tls_key", "tls_self_signed"):
            if found.get(key):
                yield (key,), "a unix socket has no TLS: nothing can listen in; leave it out"
    elif found.get("tls_certificate") and found.get("tls_self_signed"):
        yield ("tls_self_signed",), "cannot be set beside tls_certificate; leave one out"
    elif found.get("tls_key") and not found.get("tls_certificate"):
        yield ("tls_key",), "needs the tls_certificate that it is of"


def completed(
    listener: ListenerConfig,
    *,
    certificate: str | None,
    key: str | None,
    self_signed: bool,
    mode: int | None,
    owner: str | None,
) -> ListenerConfig:
    """A listener with what it does not say itself taken from the settings for all of them."""
    if listener.unix_socket is not None:
        return replace(
            listener,
            mode=listener.mode if listener.mode is not None else mode,
            owner=listener.owner or owner,
        )
    if listener.tls_certificate is not None or listener.tls_self_signed is not None:
        return listener
    return replace(listener, tls_certificate=certificate, tls_key=key, tls_self_signed=self_signed)


def problems_among(
    listeners: Sequence[ListenerConfig], *, is_exposed_allowed: bool
) -> Iterator[tuple[str, str]]:
    """(label, what is wrong) of these listeners, as far as it can be told without asking the machine."""
    seen: dict[str, ListenerConfig] = {}
    for listener in listeners:
        before = seen.setdefault(listener.place, listener)
        if before is not listener and not (listener.is_tcp and listener.port == 0):
            yield listener.label, f"{listener.place} is listened on already, by {before.label}"
        if listener.is_tcp and is_loopback(listener.address) is False and not is_exposed_allowed:
            yield listener.label, exposure(listener.address, is_tls=listener.has_tls)


def _plain(listener: ListenerConfig) -> dict[str, object]:
    kinds = {"unix_socket", "mode", "owner"} if listener.unix_socket is not None else {"fd"}
    wanted = {"address", "port"} if listener.is_tcp else kinds
    wanted |= {"tls_certificate", "tls_key", "tls_self_signed"}
    return {
        key: kind.plain(value)
        for key, kind in ENTRY_KEYS.items()
        if key in wanted and (value := getattr(listener, key)) is not None
    }

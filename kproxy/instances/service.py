"""Units with which a service manager runs an instance: systemd's for users, and launchd's agents.

They are text made from settings. A file is written only where none is, or one that kproxy wrote and nobody
has changed since: each carries a digest of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path

from kproxy.config.kinds import FILE, FOLDERS
from kproxy.config.schema import OPTIONS, Config
from kproxy.errors import ConfigError, KproxyError
from kproxy.instances.instance import DEFAULT_NAME, naming
from kproxy.instances.keeper import settings_in
from kproxy.system.supervisor import MANAGER_MARGIN_SECONDS

SYSTEMD, LAUNCHD = "systemd", "launchd"
WATCHDOG_SECONDS = 30
_PATH_VARIABLES = {"PATH": FOLDERS, "SSL_CERT_FILE": FILE, "SSL_CERT_DIR": FOLDERS}
_OTHER_VARIABLES = (
    "KUBECTL_KUBERC", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy",
)  # fmt: skip
"""A service manager does not have the shell's environment: without PATH it finds no exec plugin."""


class ServiceError(KproxyError):
    """A unit file cannot be written or removed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One instance, as a service manager is to run it."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    folder: str | None
    """The working directory, where the program is only found there."""
    stop_seconds: int
    sockets: tuple[str, ...] = ()
    """What systemd is to listen on, as ListenStream= has it; empty: kproxy binds them itself."""
    socket_mode: int = 0o700

    @property
    def title(self) -> str:
        """The name of the unit, without its ending."""
        return "kproxy" if self.name == DEFAULT_NAME else f"kproxy-{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitFile:
    """A file for a service manager, and where it belongs."""

    path: Path
    content: str


def describe(
    name: str, config: Config, arguments: Sequence[str], environ: Mapping[str, str], *, with_socket: bool
) -> Service:
    """What is to run. Raises ConfigError for settings that systemd cannot listen on."""
    command, folder = _program()
    ending_seconds = config.grace_period_seconds + config.shutdown_delay_seconds
    return Service(
        name=name,
        command=(*command, "start", "--foreground", *naming(name), *arguments),
        environment=tuple(_environment(environ)),
        folder=folder,
        stop_seconds=round(ending_seconds) + MANAGER_MARGIN_SECONDS,
        sockets=tuple(_sockets(config)) if with_socket else (),
        socket_mode=_socket_mode(config),
    )


def _program() -> tuple[tuple[str, ...], str | None]:
    """How this kproxy is started, and from where if that matters."""
    script = Path(sys.executable).with_name("kproxy")
    if os.access(script, os.X_OK):
        return (str(script),), None
    home = str(Path(__file__).resolve().parents[2])
    is_installed = Path(home).name in ("site-packages", "dist-packages")
    return (sys.executable, "-m", "kproxy"), None if is_installed else home


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, kind in _PATH_VARIABLES.items():
        if value := environ.get(name):
            if name == "PATH":
                # A relative folder there means another one for each program; better none.
                value = os.pathsep.join(filter(os.path.isabs, value.split(os.pathsep)))
            yield name, kind.absolute(value, Path.cwd())
    for name in _OTHER_VARIABLES:
        if (value := environ.get(name)) and "@" not in value:
            yield name, value
    yield from settings_in(environ, Path.cwd())


def left_out(environ: Mapping[str, str]) -> list[str]:
    """Variables in force here that hold a secret, which a unit file must not."""
    secret = [option.variable for option in OPTIONS if option.secret and option.variable in environ]
    return [*secret, *(name for name in _OTHER_VARIABLES if "@" in environ.get(name, ""))]


def _sockets(config: Config) -> Iterator[str]:
    for listener in config.listener_configs():
        if listener.owner:
            raise ConfigError(
                f"{listener.label}: systemd gives a user's sockets to nobody else; leave out the owner, "
                "or --socket"
            )
        if listener.unix_socket is not None:
            yield os.path.abspath(listener.unix_socket)
        elif listener.fd is not None:
            raise ConfigError(f"{listener.label}: a socket unit passes descriptors itself; give an address")
        elif listener.port == 0:
            raise ConfigError("port: a socket unit needs a port of its own; give another than 0")
        else:
            host = listener.address.strip("[]")
            hosts = ["127.0.0.1"] if host == "localhost" else [host]
            if listener.is_on_both_loopbacks:
                hosts.append("::1")
            for each in hosts:
                yield f"{_ip(each)}:{listener.port}"


def _socket_mode(config: Config) -> int:
    """systemd has one mode for all sockets of a unit: what all of them allow."""
    unix = [each for each in config.listener_configs() if each.unix_socket is not None]
    return reduce(and_, (0o700 if each.mode is None else each.mode for each in unix)) if unix else 0o700


def _ip(host: str) -> str:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"address: a socket unit needs an IP address, not {host!r}") from None
    return f"[{found}]" if found.version == 6 else str(found)


# -- what the files say --


def unit_files(service: Service, manager: str, environ: Mapping[str, str]) -> tuple[UnitFile, ...]:
    """All that the service manager needs."""
    if manager == LAUNCHD:
        path = Path("~/Library/LaunchAgents").expanduser() / f"local.{service.title}.plist"
        return (UnitFile(path=path, content=_sealed(_property_list(service))),)
    contents = (_service_unit(service), _socket_unit(service))
    return tuple(
        UnitFile(path=path, content=_sealed(content))
        for path, content in zip(_systemd_paths(service.title, environ), contents, strict=True)
        if content
    )


def _systemd_paths(title: str, environ: Mapping[str, str]) -> tuple[Path, Path]:
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folder = Path(home, "systemd", "user")
    return folder / f"{title}.service", folder / f"{title}.socket"


def _service_unit(service: Service) -> str:
    has_socket = bool(service.sockets)
    lines = [
        f"# {_SEAL}",
        "# Change it with `systemctl --user edit`; `kproxy service uninstall` removes it.",
        "[Unit]",
        f"Description=kproxy ({_percent(service.name)}), a local gateway to the Kubernetes API",
        *([f"Requires={service.title}.socket", f"After={service.title}.socket"] if has_socket else []),
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={' '.join(_word(word, '$') for word in service.command)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartSec=1",
        "# Wrong settings do not get better by trying again.",
        "RestartPreventExitStatus=2",
        f"TimeoutStopSec={service.stop_seconds}",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        *([f"WorkingDirectory={_percent(service.folder)}"] if service.folder else []),
        *(f"Environment={_word(f'{name}={value}')}" for name, value in service.environment),
        "# What a manager of users can enforce, and exec plugins can live with: they open browsers, keep",
        "# caches in the home, and compile code.",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "UMask=0077",
        "",
        "[Install]",
        *([f"Also={service.title}.socket"] if has_socket else ["WantedBy=default.target"]),
    ]
    return "\n".join(lines) + "\n"


def _socket_unit(service: Service) -> str:
    if not service.sockets:
        return ""
    lines = [
        f"# {_SEAL}",
        f"# systemd listens, and starts {service.title}.service with the first client.",
        "[Unit]",
        f"Description=Where kproxy ({_percent(service.name)}) listens",
        "",
        "[Socket]",
        *(f"ListenStream={_percent(each)}" for each in service.sockets),
        f"SocketMode={service.socket_mode:04o}",
        "",
        "[Install]",
        "WantedBy=sockets.target",
    ]
    return "\n".join(lines) + "\n"


def _percent(text: str) -> str:
    """systemd.unit(5): a percent sign begins a specifier."""
    return text.replace("%", "%%")


def _word(text: str, *doubled: str) -> str:
    """systemd.service(5), "Command lines": one word, whatever is in it."""
    for sign in ("%", *doubled):
        text = text.replace(sign, sign * 2)
    if re.fullmatch(r"[\w@%+=:,./$-]+", text):
        return text
    for sign, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(sign, escape)
    return f'"{text}"'


def _property_list(service: Service) -> str:
    # Imported here: only launchd has it.
    import plistlib

    log_path = Path(f"~/Library/Logs/{service.title}.log").expanduser()
    entries: dict[str, object] = {
        "Label": f"local.{service.title}",
        "ProgramArguments": list(service.command),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        # Again after a crash, not after an orderly end.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": service.stop_seconds,
        "StandardErrorPath": str(log_path),
        "Umask": 0o077,
    }
    if service.folder:
        entries["WorkingDirectory"] = service.folder
    head, _, rest = plistlib.dumps(entries, sort_keys=False).decode().partition("<plist ")
    return f"{head}<!-- {_SEAL} -->\n<plist {rest}"


# -- the seal --

_SEAL = "Written by kproxy service install, sha256:-"
_SEALED = re.compile(r"Written by kproxy service install, sha256:([0-9a-f]{64}|-)")


def _digest(content: str) -> str:
    return hashlib.sha256(_SEALED.sub(_SEAL, content, count=1).encode()).hexdigest()


def _sealed(content: str) -> str:
    return content and content.replace(_SEAL, _SEAL[:-1] + _digest(content), 1)


def is_ours(content: str) -> bool:
    """Whether kproxy wrote this, and nobody has changed it since."""
    found = _SEALED.search(content)
    return found is not None and found[1] == _digest(content)


# -- files --


def install(files: Sequence[UnitFile], paths: Sequence[Path]) -> None:
    """Write all files, or none when one may not be replaced, and remove the others of `paths`.

    Raises ServiceError.
    """
    # Imported here: hardly a command writes a unit.
    from kproxy.system.privatefile import make_folder, write_private

    surplus = [path for path in paths if path not in {file.path for file in files} and os.path.lexists(path)]
    check_replaceable(paths)
    uninstall(surplus)
    for file in files:
        try:
            make_folder(file.path.parent)
            write_private(file.path, file.content.encode())
        except OSError as error:
            raise ServiceError(f"cannot write {file.path}: {error.strerror}") from None


def uninstall(paths: Sequence[Path]) -> None:
    """Remove these files. Raises ServiceError."""
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            raise ServiceError(f"cannot remove {path}: {error.strerror}") from None


def unit_paths(name: str, manager: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the files of an instance belong, whether they are there or not."""
    bare = Service(name=name, command=(), environment=(), folder=None, stop_seconds=0)
    if manager == LAUNCHD:
        return tuple(file.path for file in unit_files(bare, manager, environ))
    return _systemd_paths(bare.title, environ)


def check_replaceable(paths: Sequence[Path]) -> None:
    """Raises ServiceError when one of them is not as kproxy wrote it; what is absent may be written."""
    for path in paths:
        try:
            content = "" if path.is_symlink() else path.read_text()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ServiceError(f"{path} cannot be read: {error}") from None
        if not is_ours(content):
            was = "changed since kproxy wrote it" if _SEALED.search(content) else "not written by kproxy"
            raise ServiceError(f"{path} was {was}, so it stays as it is; move it away first")


def tell_systemd(*words: str) -> str | None:
    """Run `systemctl --user`; None when it went well, else why not."""
    # Imported here: only this command runs a program and waits for it.
    import shutil
    import subprocess

    program = shutil.which("systemctl")
    if program is None:
        return "systemctl is not here"
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(  # noqa: S603 -- our own words, and no shell
            [program, "--user", *words], capture_output=True, text=True, timeout=20, check=False
        )
        return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")
    return "it did not answer"

"""Where to listen, as people write it: texts, entries of the config file, and what clashes."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.config.kinds import Unusable
from kproxy.config.listeners import (
    LISTENERS,
    MODE,
    OWNER,
    ListenerConfig,
    is_loopback,
    joined,
    parse_place,
)
from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import Given, Settings, read

BY_NAME = {option.name: option for option in OPTIONS}

ports = st.integers(0, 65535)
host_names = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9](\.[a-z][a-z0-9]{0,10})*", fullmatch=True)
addresses = st.one_of(st.ip_addresses().map(str), host_names)


def flags(**texts: str | list[str]) -> list[Given]:
    """Settings as flags would give them, a list for a flag that is given several times."""
    return [
        Given(option=BY_NAME[name], text=text, origin=BY_NAME[name].flag)
        for name, value in texts.items()
        for text in ([value] if isinstance(value, str) else value)
    ]


def read_file(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None, **texts: str) -> Settings:
    (tmp_path / "config.yaml").write_text(text)
    return read(flags(config=str(tmp_path / "config.yaml"), **texts), environ or {})


def places(settings: Settings) -> list[str]:
    assert settings.problems == ()
    return [each.place for each in settings.config.listener_configs()]


# -- texts --


@given(address=addresses, port=ports)
def test_an_address_and_port_read_back_as_they_were_joined(address: str, port: int) -> None:
    """IPv4, IPv6 in brackets, and names."""
    place = parse_place(joined(address, port))
    assert (place.address, place.port, place.unix_socket, place.fd) == (address, port, None, None)
    assert place.place == joined(address, port)


@given(path=st.text(min_size=1))
def test_a_path_is_taken_as_it_is(path: str) -> None:
    """Whatever it holds: colons, blanks, brackets."""
    assert parse_place(f"unix:{path}").unix_socket == path


@given(text=st.text(max_size=40))
def test_any_text_is_a_place_or_a_problem(text: str) -> None:
    """Nothing else is raised, and what is taken says the same again."""
    try:
        place = parse_place(text)
    except Unusable:
        return
    assert parse_place(place.place) == place


@pytest.mark.parametrize(
    "text",
    [
        "", "8001", ":8001", "127.0.0.1", "::1", "::1:8001", "[::1]", "[127.0.0.1]:1", "127.0.0.300:1",
        "127.1:80", "010.0.0.1:80", "localhost:65536", "localhost:-1", "localhost:http", "a b:1", "-x:1",
        "x-:1", "unix:", "unix", "fd:", "fd:x", "fd:2", "fd:-3", "http://localhost:8001", "localhost:1/",
        "x" * 254 + ":1",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(text: str) -> None:
    """An address without a port, one that only looks like one, the three standard streams."""
    with pytest.raises(Unusable):
        parse_place(text)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("::ffff:127.0.0.1", True),
        ("localhost", True), ("LocalHost", True), ("a.localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False), ("169.254.1.1", False),
        ("example.org", None), ("localhost.example.org", None), ("notlocalhost", None),
    ],
)  # fmt: skip
def test_loopback(address: str, expected: bool | None) -> None:
    """Who can reach an address; a name must be looked up first."""
    assert is_loopback(address) is expected


@given(ip=st.ip_addresses())
def test_an_address_is_loopback_when_it_is_in_the_blocks_for_it(ip: ipaddress.IPv4Address) -> None:
    """127.0.0.0/8 and ::1, and the former in IPv6 form."""
    text = str(getattr(ip, "ipv4_mapped", None) or ip)
    assert is_loopback(str(ip)) is (text.startswith("127.") or text == "::1")


@pytest.mark.parametrize(("text", "mode"), [("0660", 0o660), ("660", 0o660), ("0o600", 0o600), ("", None)])
def test_modes_are_octal(text: str, mode: int | None) -> None:
    """As chmod reads them."""
    assert MODE.parse(text) == mode
    assert MODE.parse(MODE.show(mode)) == mode


@pytest.mark.parametrize("value", [432, 660, "0888", "rw-rw----", "01660", True, None])
def test_a_mode_in_a_file_needs_quotes(value: object) -> None:
    """YAML 1.1 reads 0660 as 432 and 660 as 660: nobody could tell which was meant."""
    with pytest.raises(Unusable, match="in quotes"):
        MODE.take(value, Path("/"))


@pytest.mark.parametrize("text", ["root", "root:root", ":staff", "1000", "1000:1000", "a.b:c-d"])
def test_owners(text: str) -> None:
    """As chown takes them."""
    assert OWNER.parse(text) == text


@pytest.mark.parametrize("text", [":", "a:", "a:b:c", "a b"])
def test_what_is_no_owner(text: str) -> None:
    """A colon promises a group."""
    with pytest.raises(Unusable):
        OWNER.parse(text)


# -- which layer says where to listen --


def test_without_any_setting_there_is_kubectls_listener() -> None:
    """127.0.0.1:8001."""
    assert places(read([], {})) == ["127.0.0.1:8001"]


def test_listen_takes_the_place_of_the_default() -> None:
    """Who says where to listen gets that, and no port 8001 besides."""
    assert places(read(flags(listeners=["127.0.0.1:8002", "unix:/x", "fd:3"]), {})) == [
        "127.0.0.1:8002", "unix:/x", "fd:3",
    ]  # fmt: skip


def test_port_and_listen_together_are_both() -> None:
    """The one of --port is the first, whose line programs read."""
    settings = read(flags(listeners="[::1]:8002", port="8001"), {})
    assert places(settings) == ["127.0.0.1:8001", "[::1]:8002"]


def test_a_flag_for_the_port_beats_the_files_listeners(tmp_path: Path) -> None:
    """`kproxy --port=0` works whatever the config file lists."""
    text = "listeners: ['127.0.0.1:8002']\naddress: 127.0.0.2\n"
    assert places(read_file(tmp_path, text, port="9000")) == ["127.0.0.2:9000"]


def test_a_flag_that_listens_beats_the_files_port(tmp_path: Path) -> None:
    """And the variable's, as an image may set one."""
    settings = read_file(tmp_path, "port: 8002\n", {"KPROXY_ADDRESS": "127.0.0.2"}, listeners="[::1]:1")
    assert places(settings) == ["[::1]:1"]


def test_variables_list_one_to_a_line() -> None:
    """As all variables with several values."""
    assert places(read([], {"KPROXY_LISTENERS": "localhost:1\nunix:/x"})) == ["localhost:1", "unix:/x"]


# -- the config file --


def test_the_file_lists_mappings_and_texts(tmp_path: Path) -> None:
    """Relative paths start at the file's folder."""
    text = """
tls_self_signed: true
unix_socket_mode: '0660'
listeners:
  - port: 8002
  - address: ::1
    port: 8443
    tls_certificate: tls.crt
    tls_key: sub/tls.key
  - 127.0.0.1:8003
  - unix_socket: kproxy.sock
    mode: '0600'
    owner: ':staff'
  - unix:other.sock
  - port: 8004
    tls_self_signed: false
  - fd: 3
"""
    settings = read_file(tmp_path, text)
    assert settings.problems == ()
    plain, given, short, unix, other, off, fd = settings.config.listener_configs()
    assert (plain.address, plain.port, plain.tls_self_signed) == ("127.0.0.1", 8002, True)
    assert (given.address, given.tls_certificate, given.tls_key, given.tls_self_signed) == (
        "::1", str(tmp_path / "tls.crt"), str(tmp_path / "sub/tls.key"), None,
    )  # fmt: skip
    assert (short.place, short.has_tls) == ("127.0.0.1:8003", True)
    assert (unix.unix_socket, unix.mode, unix.owner) == (str(tmp_path / "kproxy.sock"), 0o600, ":staff")
    assert (other.unix_socket, other.mode, other.has_tls) == (str(tmp_path / "other.sock"), 0o660, False)
    assert (off.port, off.has_tls) == (8004, False)
    assert (fd.fd, fd.has_tls) == (3, True)


def test_every_problem_of_the_file_has_its_place_and_line(tmp_path: Path) -> None:
    """In one go, and with what was probably meant."""
    text = """listeners:
  - port: abc
  - adress: 127.0.0.1
    port: 1
  - port: 1
    unix_socket: x
  - unix_socket: y
    mode: 0660
  - "1.2.3.4"
  - 8001
  - {}
  - address: localhost
    fd: 3
  - unix_socket: z
    tls_self_signed: true
  - port: 2
    tls_key: x
  - port: 3
    mode: '0600'
"""
    assert (
        "\n".join(read_file(tmp_path, text).problems) + "\n"
        == """\
listeners[0].port: expected 0-65535, got 'abc' (config.yaml line 2)
listeners[1].adress: unknown setting, did you mean address? (config.yaml line 3)
listeners[2].port: only an address has a port; leave it out beside unix_socket (config.yaml line 5)
listeners[3].mode: expected permissions in octal and, in a file, in quotes, such as '0660', \
got 432 (config.yaml line 8)
listeners[4]: expected ADDRESS:PORT, [IPv6]:PORT, unix:PATH or fd:N, got '1.2.3.4' (config.yaml line 9)
listeners[5]: expected `port: 8002` and the like, or ADDRESS:PORT, [IPv6]:PORT, unix:PATH or fd:N \
(config.yaml line 10)
listeners[6]: expected an address, a port, a unix_socket or an fd (config.yaml line 11)
listeners[7]: cannot set address and fd together; make one entry for each (config.yaml line 12)
listeners[8].tls_self_signed: a unix socket has no TLS: nothing can listen in; leave it out \
(config.yaml line 15)
listeners[9].tls_key: needs the tls_certificate that it is of (config.yaml line 17)
listeners[10].mode: only a unix_socket that kproxy makes has this; leave it out (config.yaml line 19)
"""
    )


def test_a_list_is_expected(tmp_path: Path) -> None:
    """One mapping alone is no list of one."""
    assert read_file(tmp_path, "listeners: {port: 1}\n").problems == (
        "listeners: expected a list of listeners, got {'port': 1} (config.yaml line 1)",
    )


@pytest.mark.parametrize("text", ["8001", "unix:", "fd:x"])
def test_a_flag_with_a_problem_says_what_it_takes(text: str) -> None:
    """Under the name that people typed."""
    assert read(flags(listeners=[text]), {}).problems == (
        f"listeners: expected ADDRESS:PORT, [IPv6]:PORT, unix:PATH or fd:N, got '{text}' (--listen)",
    )


def test_what_is_in_force_can_be_written_to_a_file(tmp_path: Path) -> None:
    """`kproxy check` shows listeners as the file would hold them."""
    settings = read(flags(listeners=["[::1]:1", "unix:/x", "fd:3"]), {})
    plain = LISTENERS.plain(settings.config.listeners)
    assert plain == [{"address": "::1", "port": 1}, {"unix_socket": "/x"}, {"fd": 3}]
    assert LISTENERS.take(plain, tmp_path) == settings.config.listeners


# -- clashes --


@pytest.mark.parametrize(
    "texts", [{"address": "0.0.0.0"}, {"address": "::"}, {"listeners": "10.0.0.1:1"}, {"listeners": "[::]:1"}]
)
def test_what_other_machines_can_reach_must_be_asked_for(texts: dict[str, str]) -> None:
    """The problem names the flag; with it there is none."""
    (problem,) = read(flags(**texts), {}).problems
    assert "add --unsafe-listen" in problem
    assert problem.endswith(f"({BY_NAME[next(iter(texts))].flag})")
    assert read(flags(**texts, unsafe_listen="true"), {}).problems == ()


def test_tls_alone_is_not_enough() -> None:
    """It proves who kproxy is, not who calls; only the remark on reading along is not made."""
    (plain,) = read(flags(address="0.0.0.0"), {}).problems
    (tls,) = read(flags(address="0.0.0.0", tls_self_signed="true"), {}).problems
    assert "read along" in plain
    assert "read along" not in tls
    assert "add --unsafe-listen" in tls


def test_the_same_place_twice_is_a_problem() -> None:
    """Port 0 is another one each time."""
    settings = read(flags(listeners=["127.0.0.1:1", "127.0.0.1:1", "unix:x", "unix:x"]), {})
    assert [problem.partition(",")[0] for problem in settings.problems] == [
        "listeners[1]: 127.0.0.1:1 is listened on already",
        "listeners[3]: unix:x is listened on already",
    ]
    assert read(flags(listeners=["127.0.0.1:0", "127.0.0.1:0"]), {}).problems == ()


def test_tls_settings_that_clash() -> None:
    """Two certificates for one listener, and a key of nothing."""
    (problem,) = read(flags(tls_certificate="a", tls_self_signed="true"), {}).problems
    assert problem.startswith("tls_self_signed: cannot be set beside tls_certificate; leave one out")
    (problem,) = read(flags(tls_key="a"), {}).problems
    assert problem == "tls_key: needs the tls_certificate that it is of (--tls-key)"


def test_only_a_listed_localhost_is_both_loopbacks() -> None:
    """kubectl's --address=localhost is IPv4 alone."""
    (first,) = Config(address="localhost").listener_configs()
    assert not first.is_on_both_loopbacks
    (listed,) = read(flags(listeners="localhost:0"), {}).config.listener_configs()
    assert listed.is_on_both_loopbacks


def test_defaults_of_a_listener_are_kubectls() -> None:
    """An entry with a port alone is on 127.0.0.1."""
    assert ListenerConfig() == Config().first_listener()

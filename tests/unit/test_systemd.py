"""What is said to systemd and taken from it, byte for byte, without a program around it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.config.listeners import ListenerConfig
from kproxy.errors import ConfigError
from kproxy.listeners.passed import listeners_of
from kproxy.system.supervisor import Serving
from kproxy.system.systemd import Notifier, take_notifier, take_passed_sockets
from kproxy.telemetry.log import configure

WHAT = Serving(
    addresses=("127.0.0.1:8001", "[::1]:8001"),
    urls=("http://127.0.0.1:8001", "http://[::1]:8001"),
    context="dev\nREADY=0",
    server="https://example.org",
    contexts=(),
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a service manager hears of its services."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(60)
        yield heard


def said(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


async def test_each_step_is_one_message(manager: socket.socket) -> None:
    """READY, RELOADING with its time, READY again, STOPPING; nothing is READY after that."""
    notifier = Notifier(manager.getsockname(), None)
    notifier.serving(WHAT)
    # The line break of a context's name begins no assignment.
    serving = "STATUS=Serving 127.0.0.1:8001, [::1]:8001 for context devREADY=0"
    assert said(manager) == ["READY=1", serving]
    notifier.reloading()
    reloading, at, _ = said(manager)
    assert reloading == "RELOADING=1"
    assert at.removeprefix("MONOTONIC_USEC=").isdecimal()
    notifier.reloaded()
    assert said(manager) == ["READY=1", serving]
    notifier.stopping(60.0)
    # The unit knows the grace period of its installation only.
    assert said(manager)[:2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=70000000"]
    notifier.reloading()
    notifier.reloaded()
    notifier.close()
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sockets without a file")
async def test_an_abstract_socket_is_reached() -> None:
    """systemd writes its first byte, a zero, as @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0kproxy-test-{os.getpid()}")
        notifier = Notifier(f"@kproxy-test-{os.getpid()}", None)
        notifier.serving(WHAT)
        assert said(heard)[0] == "READY=1"
        notifier.close()


async def test_the_watchdog_is_fed_at_half_of_its_time(manager: socket.socket) -> None:
    """As long as the event loop turns, and no longer."""
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    notifier = Notifier(manager.getsockname(), 0.1)
    notifier.serving(WHAT)
    at = []
    while len(at) < 4:
        if await loop.sock_recv(manager, 4096) == b"WATCHDOG=1":
            at.append(loop.time())
    notifier.close()
    assert all(later - earlier >= 0.045 for earlier, later in itertools.pairwise(at))
    assert at[-1] - at[0] < 4 * 0.1


async def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path) -> None:
    """kproxy serves all the same."""
    log = tmp_path / "log"
    with log.open("w") as stream:
        configure("json", 0, stream)
        notifier = Notifier(str(tmp_path / "gone"), None)
        notifier.serving(WHAT)
        notifier.stopping(1.0)
        notifier.close()
    assert log.read_text().count("supervisor.unreachable") == 1


@pytest.mark.parametrize(
    ("variables", "watchdog_seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_of_another_process_is_not_fed(
    variables: dict[str, str], watchdog_seconds: float | None
) -> None:
    """WATCHDOG_PID says whose it is; no variable is left for children."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "PATH": "/bin", **variables}
    notifier = take_notifier(environ)
    assert notifier is not None
    assert notifier._watchdog_seconds == watchdog_seconds
    notifier.close()
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_an_address_that_is_no_unix_socket_is_nobody(address: str) -> None:
    """Without NOTIFY_SOCKET, or with one of a kind that is not known, nobody is told."""
    assert take_notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"}) is None


def passed_variables(count: object, names: str = "", pid: int | None = None) -> dict[str, str]:
    return {
        "LISTEN_FDS": str(count),
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDNAMES": names,
        "LISTEN_PIDFDID": "1",
        "PATH": "/bin",
    }


@pytest.mark.parametrize("environ", [{}, passed_variables(2, pid=1), passed_variables(0)])
def test_sockets_for_another_process_are_left_alone(environ: dict[str, str]) -> None:
    """LISTEN_PID says whose they are; a child that inherits the variables is not meant."""
    assert take_passed_sockets(environ) == ()
    assert set(environ) <= {"PATH"}


@pytest.mark.parametrize(("count", "expected"), [("many", "expected the number"), (900, "is not open")])
def test_sockets_that_are_not_there_are_an_error(count: object, expected: str) -> None:
    """Serving something else than was asked for would go unnoticed."""
    with pytest.raises(ConfigError, match=expected):
        take_passed_sockets(passed_variables(count))


def test_a_passed_socket_is_what_is_configured_for_its_address(tmp_path: Path) -> None:
    """In whatever order they come; the address may be written in another way."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        plain = ListenerConfig(address="localhost", port=first.getsockname()[1], tls_self_signed=False)
        tls = ListenerConfig(port=second.getsockname()[1], tls_certificate="/c")
        local = ListenerConfig(unix_socket=str(tmp_path / "s"), mode=0o660)
        passed = [each.fileno() for each in (unix, second, first)]
        found = listeners_of(passed, (plain, tls, local))
        assert [each.fd for each in found] == passed
        assert [each.tls_certificate for each in found] == [None, "/c", None]
        assert [each.tls_self_signed for each in found] == [None, None, False]
        assert {each.label for each in found} == {"LISTEN_FDS"}
        assert found[0].unix_socket is None
        # They are still open, and nobody's but the caller's.
        assert first.getsockname()[1] == plain.port


def test_a_passed_socket_of_unknown_tls_is_an_error() -> None:
    """Who expects https must not get http; without such settings there is nothing to mistake."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        place = f"127.0.0.1:{passed.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{place} was passed, but is none of `listeners`"):
            listeners_of([passed.fileno()], (ListenerConfig(port=1, tls_self_signed=True),))
        (found,) = listeners_of([passed.fileno()], (ListenerConfig(port=1),))
        assert found == ListenerConfig(fd=passed.fileno(), label="LISTEN_FDS")

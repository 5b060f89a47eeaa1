"""The protocol of systemd, spoken with the real program: readiness, reloads, watchdog, passed sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.api_server import exec_user
from tests.support.exec_plugin import Plugin
from tests.support.instances import get
from tests.support.program import Process, Program, kubeconfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is a program for Linux")

NOWHERE = "http://127.0.0.1:1"


class Manager:
    """Where a service manager hears of its service."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(60)
        self.address = str(folder / "notify")

    def close(self) -> None:
        self._socket.close()

    def hear(self) -> dict[str, str]:
        """The next message."""
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def hear_of(self, key: str) -> dict[str, str]:
        """The next message that has this assignment; others, such as the watchdog's, are passed over."""
        while True:
            if key in (message := self.hear()):
                return message

    def forget(self) -> None:
        """What has come and was not heard."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)
        self._socket.settimeout(60)

    def hears_nothing(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(60)
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path)) as found:
        yield found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return kubeconfig(tmp_path, NOWHERE)


def test_each_step_of_its_life_is_told(manager: Manager, config: Path) -> None:
    """READY when it serves, RELOADING and READY again around a SIGHUP, STOPPING at the end."""
    with Program(kubeconfig=config, env={"NOTIFY_SOCKET": manager.address}) as program:
        ready = manager.hear()
        assert ready["READY"] == "1"
        assert f"Serving {program.serving_on}" in ready["STATUS"]
        program.send_signal(signal.SIGHUP)
        reloading = manager.hear()
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert manager.hear() == ready
        program.send_signal(signal.SIGTERM)
        stopping = manager.hear()
        assert (stopping["STOPPING"], stopping["EXTEND_TIMEOUT_USEC"]) == ("1", "20000000")
        assert program.wait() == 0


def test_a_changed_kubeconfig_is_a_reload(manager: Manager, config: Path, tmp_path: Path) -> None:
    """READY follows also when the new one cannot be used: the old one is in force."""
    with Program(kubeconfig=config, env={"NOTIFY_SOCKET": manager.address}, allow_complaints=True) as program:
        assert manager.hear()["READY"] == "1"
        config.write_text("{")
        assert manager.hear()["RELOADING"] == "1"
        assert manager.hear()["READY"] == "1"
        program.wait_for_output("reload_failed")


def test_the_watchdog_is_fed(manager: Manager, config: Path) -> None:
    """While the event loop turns; a process that hangs is silent, so that systemd can see it."""
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with Program(kubeconfig=config, env=env) as program:
        for _ in range(3):
            assert manager.hear_of("WATCHDOG") == {"WATCHDOG": "1"}
        program.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.pid, os.WSTOPPED)
        manager.forget()
        assert manager.hears_nothing(0.6)
        program.send_signal(signal.SIGCONT)
        assert manager.hear_of("WATCHDOG")
        assert program.stop() == 0
        assert manager.hear_of("STOPPING")


def test_a_start_that_fails_is_never_ready(manager: Manager, config: Path) -> None:
    """Nor stopping: it has not begun."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        command = [sys.executable, "-m", "kproxy", f"--port={port}", f"--kubeconfig={config}"]
        with Process(command, env={"NOTIFY_SOCKET": manager.address}) as program:
            assert program.wait() == 1
    assert manager.hears_nothing(0.01)


class Activated(Program):
    """kproxy started as systemd does it with a socket unit: descriptors from 3 on, meant for its pid."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *args: str,
        kubeconfig: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        descriptors = [each.fileno() for each in sockets]
        super().__init__(*args, kubeconfig=kubeconfig, env=env)
        # First out of the way of 3 and what follows, then there.
        moves = [f"exec {90 + index}<&{descriptor}" for index, descriptor in enumerate(descriptors)]
        moves += [f"exec {3 + index}<&{90 + index} {90 + index}<&-" for index in range(len(descriptors))]
        moves += [f"exec {each}<&-" for each in descriptors if each >= 3 + len(descriptors)]
        script = "; ".join(
            [*moves, f"LISTEN_FDS={len(descriptors)} LISTEN_PID=$$ exec {shlex.join(self.command)}"]
        )
        self.command = ["bash", "-c", script]
        self._pass_fds = tuple(descriptors)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """One TCP, one unix, both listening."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "k.sock"))
        unix.listen()
        yield tcp, unix


def get_over_unix(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(60)
        connected.connect(path)
        connection = http.client.HTTPConnection("localhost")
        connection.sock = connected
        connection.request("GET", "/version")
        return connection.getresponse().status


def test_passed_sockets_are_served(
    sockets: tuple[socket.socket, socket.socket], manager: Manager, config: Path
) -> None:
    """Both, instead of a port of its own; each has its line on stdout, and readiness names both."""
    tcp, unix = sockets
    port, path = tcp.getsockname()[1], unix.getsockname()
    env = {"NOTIFY_SOCKET": manager.address, "LISTEN_FDNAMES": "web:local"}
    with Activated(sockets, kubeconfig=config, env=env) as program:
        program.wait_for_output(rf"\AStarting to serve on 127\.0\.0\.1:{port}\n.* {path}\n", "stdout")
        assert f"127.0.0.1:{port}, {path}" in manager.hear()["STATUS"]
        assert get(f"127.0.0.1:{port}", "/version")[0] == 502
        assert get_over_unix(path) == 502
        assert program.stop() == 0
    # The socket file is systemd's, which goes on listening for the next one.
    assert Path(path).exists()


def test_passed_sockets_speak_what_their_entries_say(config: Path, tmp_path: Path) -> None:
    """One is http and one https in the config file; they are passed in another order."""
    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        socket.create_server(("127.0.0.1", 0)) as tls,
    ):
        http_port, https_port = plain.getsockname()[1], tls.getsockname()[1]
        settings = tmp_path / "config.yaml"
        settings.write_text(
            f"listeners: [{{port: {http_port}}}, {{port: {https_port}, tls_self_signed: true}}]\n"
        )
        flag, env = f"--config={settings}", {"XDG_STATE_HOME": str(tmp_path)}
        with Activated([tls, plain], flag, kubeconfig=config, env=env) as program:
            assert get(f"127.0.0.1:{http_port}", "/version")[0] == 502
            trust = ssl.create_default_context(cafile=str(tmp_path / "kproxy" / "tls" / "tls.crt"))
            connection = http.client.HTTPSConnection("127.0.0.1", https_port, timeout=20, context=trust)
            with contextlib.closing(connection):
                connection.request("GET", "/version")
                assert connection.getresponse().status == 502
            assert program.stop() == 0
        with socket.create_server(("127.0.0.1", 0)) as unknown:
            program = Activated([unknown], flag, kubeconfig=config, env=env)
            with pytest.raises(AssertionError, match="is none of `listeners`"):
                program.start()
    assert program.exit_code == 2


def test_passed_sockets_outlive_a_reload(
    sockets: tuple[socket.socket, socket.socket], manager: Manager, config: Path, tmp_path: Path
) -> None:
    """They are no change of the settings: nothing waits for a restart."""
    settings = tmp_path / "config.yaml"
    settings.write_text("grace_period: 10s\n")
    env = {"NOTIFY_SOCKET": manager.address, "KPROXY_CONFIG": str(settings)}
    with Activated(sockets, kubeconfig=config, env=env) as program:
        assert manager.hear()["READY"] == "1"
        settings.write_text("grace_period: 11s\n")
        program.send_signal(signal.SIGHUP)
        assert manager.hear_of("READY")
        assert get(f"127.0.0.1:{sockets[0].getsockname()[1]}", "/version")[0] == 502
        assert program.stop() == 0
    events = [line["event"] for line in program.log_events()]
    assert "config.reloaded" in events
    assert "config.restart_needed" not in events


def test_who_waited_before_the_start_is_served(
    sockets: tuple[socket.socket, socket.socket], config: Path
) -> None:
    """The first client is what starts it."""
    with socket.create_connection(sockets[0].getsockname(), 60) as client:
        client.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with Activated(sockets, kubeconfig=config):
            assert client.recv(12) == b"HTTP/1.1 502"


def test_sockets_for_somebody_else_are_not_taken(config: Path) -> None:
    """LISTEN_PID is another process: kproxy listens by itself."""
    with Program(kubeconfig=config, env={"LISTEN_FDS": "1", "LISTEN_PID": "1"}) as program:
        assert program.serving_on.startswith("127.0.0.1:")


def test_what_is_passed_and_does_not_listen_is_an_error(config: Path) -> None:
    """As a unit with Accept=yes passes it."""
    left, right = socket.socketpair()
    with left, right:
        program = Activated([left], kubeconfig=config)
        with pytest.raises(AssertionError, match="not listening"):
            program.start()
    assert program.exit_code == 2


def test_exec_plugins_get_neither_sockets_nor_variables(
    sockets: tuple[socket.socket, socket.socket], manager: Manager, tmp_path: Path
) -> None:
    """A plugin that takes them for its own would speak in our name, or hold the port open."""
    plugin = Plugin(tmp_path / "plugin")
    plugin.issues({"token": "t"})
    told = tmp_path / "told"
    (plugin.directory / "behaviour").write_text(f"env > {told}; ls -l /proc/self/fd >> {told}\n")
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", user={"exec": exec_user(plugin)})
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000", "LISTEN_FDNAMES": "a:b"}
    with Activated(sockets, kubeconfig=path, env=env) as program:
        assert get(f"127.0.0.1:{sockets[0].getsockname()[1]}", "/version")[0] == 502
        assert plugin.runs == 1
        assert program.stop() == 0
    text = told.read_text()
    assert "PATH=" in text
    for word in ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "socket:"):
        assert word not in text


def test_an_instance_in_the_foreground_is_a_service(manager: Manager, config: Path, tmp_path: Path) -> None:
    """The command of the unit that `kproxy service` writes: READY once it serves, known to the commands."""
    env = {"NOTIFY_SOCKET": manager.address, "XDG_RUNTIME_DIR": str(tmp_path)}
    with Program("start", "--foreground", kubeconfig=config, env=env) as program:
        assert manager.hear()["READY"] == "1"
        with Process([sys.executable, "-m", "kproxy", "status", "--json"], env=env) as status:
            assert status.wait() == 0
        found = json.loads(status.stdout)["instances"][0]
        assert (found["pid"], found["is_detached"]) == (program.pid, False)
        os.kill(found["pid"], signal.SIGTERM)
        assert manager.hear()["STOPPING"] == "1"
        assert program.wait() == 0

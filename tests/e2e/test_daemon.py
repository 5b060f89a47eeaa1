"""kproxy in the background, by the commands that people use: start, stop, restart, status, logs."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kproxy.instances import daemon
from kproxy.instances.instance import InstanceFolder
from tests.e2e.clusters import Cluster
from tests.support import secrets
from tests.support.api_server import exec_user
from tests.support.exec_plugin import Plugin
from tests.support.instances import Instances, get
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import kubeconfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

NOWHERE = "http://127.0.0.1:1"
"""An API server that is not there: starting must not need it."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    return f"--kubeconfig={kubeconfig(tmp_path, NOWHERE)}"


@pytest.fixture
def instances(tmp_path: Path) -> Iterator[Instances]:
    with Instances(tmp_path) as found:
        yield found


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Mounts a small file system of its own; the test is skipped where that is not permitted."""
    mounted: list[Path] = []

    def mount_tmpfs(path: Path, options: str) -> None:
        path.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "kproxy-test", str(path)],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
        mounted.append(path)

    yield mount_tmpfs
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte of the file system; the file that takes it all."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


# -- start --


def test_a_start_returns_when_it_serves(instances: Instances, config: str) -> None:
    """The first line is that of the foreground, the process id is on stderr, the answer is there."""
    done = instances.run("start", "--port=0", config)
    found = re.fullmatch(r"Starting to serve on (127\.0\.0\.1:\d+)\n", done.stdout)
    assert found
    assert get(found[1], "/version")[0] == 502
    (pid,) = instances.pids()
    assert f"(pid {pid})" in done.stderr


def test_the_password_of_a_server_is_not_told(instances: Instances, tmp_path: Path) -> None:
    """Neither by the commands, which is looked at behind each test, nor kept in the folder."""
    server = f"http://me:{secrets.plant('userinfo')}@127.0.0.1:1"
    instances.start("--port=0", f"--kubeconfig={kubeconfig(tmp_path, server)}")
    assert instances.status()["server"] == "http://[hidden]@127.0.0.1:1"
    instances.run("status")
    instances.run("logs")
    files = [path for path in instances.state.rglob("*") if path.is_file()]
    assert secrets.leaked("".join(path.read_text() for path in files)) == []


def test_a_daemon_is_detached(instances: Instances, config: str) -> None:
    """A session without a terminal, nothing inherited but its folder and environment, stderr in the log."""
    reader, writer = os.pipe()
    try:
        instances.start("--port=0", config, pass_fds=[writer])
    finally:
        os.close(writer)
    # It would be held open, as the lock of a shell script, for as long as the daemon lives.
    assert os.read(reader, 1) == b""
    os.close(reader)
    pid = instances.status()["pid"]
    assert os.getsid(pid) not in (pid, os.getsid(0))
    assert os.getpgid(pid) != os.getpgrp()
    terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
    assert terminal == "0"
    files = [os.readlink(f"/proc/{pid}/fd/{descriptor}") for descriptor in (0, 1, 2)]
    assert files == ["/dev/null", "/dev/null", str(instances.state / "default.log")]
    assert os.readlink(f"/proc/{pid}/cwd") == str(instances.home)


def test_a_start_without_any_stream_is_a_start(instances: Instances, config: str) -> None:
    """With all three closed, as some schedulers do, nothing of ours takes their place."""
    command = shlex.join([sys.executable, "-m", "kproxy", "start", "--port=0", config])
    script = f"{command} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", script], env=instances.environ, cwd=instances.home, check=True, timeout=60)
    pid = instances.status()["pid"]
    assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
    assert get(instances.status()["addresses"][0], "/version")[0] == 502
    instances.run("stop")
    assert instances.events()[0] == "server.started"
    assert instances.events()[-2:] == ["server.draining", "server.stopped"]


@pytest.mark.parametrize("command", ["start --port=0", "status", "logs", "check", "version --json", "stop"])
def test_a_stream_that_is_closed_is_no_other(instances: Instances, config: str, command: str) -> None:
    """Without stderr its lines do not go to stdout; without stdout there is no traceback."""
    instances.start("--port=0", config)
    line = f"{shlex.quote(sys.executable)} -m kproxy {command}"
    line += f" {config}" * (command.startswith(("start", "check")))
    for closed in ("2>&-", ">&-"):
        done = subprocess.run(
            ["sh", "-c", f"{line} {closed}"], env=instances.environ, cwd=instances.home, text=True,
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert "pid" not in done.stdout or command in ("status", "version --json")
        assert "Traceback" not in done.stderr


def test_a_full_stdout_keeps_nothing_from_serving(instances: Instances, config: str) -> None:
    """As nohup.out on a full disk; one line says so. What only prints has failed then."""
    line = f"{shlex.quote(sys.executable)} -m kproxy"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f"{line} {command} >/dev/full"], env=instances.environ, cwd=instances.home,
            stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip

    started = run(f"start --port=0 {config}")
    assert started.returncode == 0
    assert started.stderr.startswith("error: cannot write to stdout: No space left on device\nkproxy runs ")
    assert get(instances.status()["addresses"][0], "/version")[0] == 502
    shown = run("status")
    assert (shown.returncode, shown.stderr) == (1, "error: cannot write to stdout: No space left on device\n")


def test_relative_paths_mean_what_they_meant(instances: Instances, tmp_path: Path, config: str) -> None:
    """The daemon stays in the folder it was started in, and a restart from elsewhere goes back there."""
    (instances.home / "site").mkdir()
    (instances.home / "site" / "page.txt").write_text("here")
    kubeconfig(instances.home, NOWHERE, name="relative")
    flags = ("--www=site", "--unix-socket=k.sock", "--kubeconfig=relative.kubeconfig", "--www-prefix=/w/")
    assert instances.start(*flags) == "k.sock"

    def page() -> bytes:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(str(instances.home / "k.sock"))
            connection = http.client.HTTPConnection("localhost")
            connection.sock = connected
            connection.request("GET", "/w/page.txt")
            return connection.getresponse().read()

    assert page() == b"here"
    before = instances.status()["pid"]
    instances.run("restart", cwd=tmp_path)
    assert instances.status()["pid"] != before
    assert page() == b"here"
    assert instances.status()["status"]["name"] == "default"


def test_files_of_instances_are_private(instances: Instances, config: str) -> None:
    """State and log are nobody else's, whatever the umask says."""
    instances.start("--port=0", config)
    assert stat.S_IMODE(instances.state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in instances.state.iterdir()} == {0o600}


def test_two_starts_at_once_are_one_daemon(instances: Instances, config: str) -> None:
    """All tell the same address, all end with 0, one serves."""
    command = ("start", "--port=0", config)
    ended = instances.at_once(*[command] * 4)
    assert {code for code, _, _ in ended} == {0}
    (line,) = {stdout for _, stdout, _ in ended}
    assert line.startswith("Starting to serve on ")
    assert len(instances.pids()) == 1
    (pid,) = instances.pids()
    assert sum("already running" in stderr for _, _, stderr in ended) == 3
    assert all(f"(pid {pid})" in stderr for _, _, stderr in ended)


def test_two_starts_that_differ_are_told_apart(instances: Instances, config: str) -> None:
    """Nobody takes another proxy for the one that was asked for."""
    ended = instances.at_once(("start", "--port=0", config, "-v=4"), ("start", "--port=0", config, "-v=0"))
    assert sorted(code for code, _, _ in ended) == [0, 1]
    assert len(instances.pids()) == 1
    (error,) = [stderr for code, _, stderr in ended if code == 1]
    assert "with other settings" in error
    assert "kproxy restart" in error


@pytest.mark.parametrize("name", ["KUBECONFIG", "KPROXY_REJECT_METHODS"])
def test_a_start_with_another_environment_is_told_apart(
    instances: Instances, tmp_path: Path, config: str, name: str
) -> None:
    """`KUBECONFIG=prod kproxy start` must not be content with the one that serves dev."""
    env = {"KUBECONFIG": config.partition("=")[2]}
    instances.start("--port=0", env=env)
    instances.start("--port=0", env=env)
    (tmp_path / "other").mkdir()
    other = {"KUBECONFIG": str(kubeconfig(tmp_path / "other", NOWHERE)), "KPROXY_REJECT_METHODS": "POST"}
    done = instances.run("start", "--port=0", env={**env, name: other[name]}, code=1)
    assert f"with other settings (KUBECONFIG={env['KUBECONFIG']} --port=0)" in done.stderr
    instances.run("restart", env={**env, name: other[name]})
    assert f"{name}={other[name]}" in instances.status()["variables"]


def test_a_second_start_of_the_same_is_fine(instances: Instances, config: str) -> None:
    """Scripts may start it as often as they like; the order of flags does not matter."""
    address = instances.start("--port=0", config)
    again = instances.run("start", config, "--port=0")
    assert again.stdout == f"Starting to serve on {address}\n"
    assert "already running" in again.stderr


def test_several_instances_stand_side_by_side(instances: Instances, config: str) -> None:
    """By name; each is stopped alone."""
    instances.start("--port=0", config)
    instances.start("--name=dev", "--port=0", config)
    shown = instances.run("status").stdout
    assert "default: serving\n" in shown
    assert "dev: serving\n" in shown
    instances.run("stop")
    assert instances.status(code=3)["state"] == "stopped"
    assert instances.status("dev")["state"] == "serving"


@pytest.mark.parametrize("name", ["../evil", "-x", "", ".a", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(instances: Instances, config: str, name: str) -> None:
    """Names become parts of paths."""
    done = instances.run("start", f"--name={name}", config, code=2)
    assert "--name: expected letters" in done.stderr
    assert not instances.state.exists()


def test_a_busy_port_is_told_in_the_childs_words(
    instances: Instances, config: str, reserved_port: int
) -> None:
    """The same line and exit code as in the foreground, and nothing is left running."""
    port = reserved_port
    with socket.create_server(("127.0.0.1", port)):
        done = instances.run("start", f"--port={port}", config, code=1)
        foreground = instances.run(f"--port={port}", config, code=1)
    assert done.stderr == foreground.stderr
    assert f"port {port}" in done.stderr
    assert done.stdout == ""
    assert instances.pids() == set()
    assert instances.status(code=3)["state"] == "failed"
    # For whoever was not there, as after a start by cron.
    assert instances.log() == done.stderr
    # What failed can be tried again as it was.
    instances.run("restart")
    assert instances.status()["addresses"] == [f"127.0.0.1:{port}"]


def test_what_was_can_be_started_again(instances: Instances, config: str) -> None:
    """The status of one that failed has its command, name and quotes and all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        flags = (f"--port={server.getsockname()[1]}", config, "--accept-origins=^https://a b$")
        instances.run("start", "--name=dev", *flags, code=1)
    shown = instances.run("status", "--name=dev", code=3).stdout
    found = re.search(r"^  was: +kproxy (.*)$", shown, re.MULTILINE)
    assert found
    instances.run(*shlex.split(found[1]))
    assert instances.status("dev")["is_running"]


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from kproxy.errors import KproxyError
from kproxy.instances import detaching
from kproxy.instances.instance import InstanceFolder
from kproxy.instances.keeper import Launch
from kproxy.config.sources import read

with InstanceFolder(Path(sys.argv[1]), create=True) as folder:
    def run(_, keeper, *__):
        assert folder.read("default").pid == os.getpid()
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    launch = Launch(name="default", settings=read([], {}), arguments=(), withheld=())
    try:
        detaching.start_detached(launch, folder, folder.lock("default"), run, 20.0)
    except KproxyError as error:
        print(error.message)
    while folder.is_locked("default"):
        pass
"""


def test_a_stop_that_comes_early_is_told(instances: Instances) -> None:
    """Before there is an event loop that takes signals, whoever started it hears why it ended."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(instances.state)], env=instances.environ, text=True,
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "a signal ended it before it served\n"
    assert instances.status(code=3)["state"] == "failed"


def test_problems_are_told_with_code_2(instances: Instances, tmp_path: Path) -> None:
    """Those of the command line before anything is started, those of the kubeconfig by the child."""
    done = instances.run("start", "--port=none", code=2)
    assert "port: expected" in done.stderr
    assert "See 'kproxy start --help'." in done.stderr
    missing = tmp_path / "none"
    done = instances.run("start", "--port=0", f"--kubeconfig={missing}", code=2)
    assert done.stderr == f"error: --kubeconfig {missing}: no such file\n"
    assert instances.pids() == set()


def test_a_start_that_hangs_is_called_off(instances: Instances, tmp_path: Path) -> None:
    """A kubeconfig on a dead disk, here a pipe: after --timeout there is an error and no process."""
    os.mkfifo(tmp_path / "pipe")
    done = instances.run("start", "--port=0", "--timeout=1s", f"--kubeconfig={tmp_path / 'pipe'}", code=1)
    assert "did not serve within 1 s" in done.stderr
    assert instances.pids() == set()
    assert instances.status(code=3)["state"] == "failed"


def test_a_daemon_that_nobody_waits_for_ends(instances: Instances, tmp_path: Path) -> None:
    """Its starter was killed: it must not begin to serve behind everybody's back."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    starter = instances.process("start", "--port=0", f"--kubeconfig={pipe}")
    starter.start()
    content = kubeconfig(tmp_path, NOWHERE).read_text()
    with pipe.open("w") as kubeconfig_pipe:  # once the child reads it
        starter.kill()
        kubeconfig_pipe.write(content)
    with (instances.state / "default.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert instances.status(code=3)["state"] == "failed"
    assert instances.pids() == set()


def test_a_service_managers_variables_are_not_the_daemons(instances: Instances, config: str) -> None:
    """In the terminal of an editor that is a service, it would speak in that service's name."""
    path = instances.home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        instances.start("--port=0", config, env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "100000"})
        instances.run("stop")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


# -- crashes --


def test_a_crash_is_survived(instances: Instances, config: str) -> None:
    """After SIGKILL the status says so, and a start serves again: on the same socket, under the same name."""
    flags = (f"--unix-socket={instances.home / 'k.sock'}", config)
    instances.start(*flags)
    first = instances.status()["pid"]
    instances.kill(first)
    assert instances.status(code=3)["state"] == "crashed"
    assert "crashed" in instances.run("status", code=3).stdout
    instances.start(*flags)
    assert instances.status()["pid"] != first
    assert len(instances.pids()) == 1


def test_a_restart_after_a_crash_knows_the_settings(instances: Instances, config: str) -> None:
    """The record outlives the process."""
    instances.start("--port=0", config, "--grace-period=7s")
    instances.kill(instances.status()["pid"])
    instances.run("restart")
    assert "--grace-period=7s" in instances.status()["arguments"]


@pytest.mark.parametrize("is_locked", [False, True])
def test_another_process_with_the_pid_is_left_alone(
    instances: Instances, config: str, is_locked: bool
) -> None:
    """The id of a crashed instance now belongs to an innocent, who is neither shown as ours nor stopped."""
    instances.start("--port=0", config)
    instances.kill(instances.status()["pid"])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        path = instances.state / "default.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": bystander.pid}))
        with (instances.state / "default.lock").open("r+") as lock:
            if is_locked:
                # Somebody starts it right now, and has not written down who that is.
                fcntl.flock(lock, fcntl.LOCK_EX)
                done = instances.run("stop", "--timeout=300ms", code=1)
                assert "is starting" in done.stderr
                assert instances.status()["state"] == "starting"
        if not is_locked:
            assert instances.status(code=3)["state"] == "crashed"
            assert "not running" in instances.run("stop").stderr
        assert bystander.poll() is None
        instances.start("--port=0", config)
        assert bystander.poll() is None
        bystander.kill()


# -- stop --


def test_a_stop_waits_for_the_end(instances: Instances, config: str) -> None:
    """When it returns the process is gone and the port is free; stopping what does not run is no error."""
    address = instances.start("--port=0", config)
    done = instances.run("stop")
    assert 'instance "default" is stopped' in done.stderr
    assert instances.pids() == set()
    with pytest.raises(ConnectionRefusedError):
        get(address, "/")
    assert instances.events()[-1] == "server.stopped"
    assert "not running" in instances.run("stop").stderr
    assert instances.run("status", code=3).stdout.startswith("no instance runs")


@pytest.mark.slow
def test_a_stop_under_load_breaks_no_answer(instances: Instances, demo: Cluster) -> None:
    """Watches are cut, every request that was answered was answered whole, and all ends well in time."""
    address = instances.start("--port=0", f"--kubeconfig={demo.kubeconfig}", "--grace-period=5s")
    host, _, port = address.rpartition(":")
    answered, broken = [0], list[BaseException]()
    is_warm = threading.Event()

    def ask() -> None:
        try:
            while True:
                status, body = get(address, "/api/v1/namespaces/kube-system/pods")
                assert status in (200, 503), status
                json.loads(body)
                answered[0] += 1
                if answered[0] > 50:
                    is_warm.set()
        except (ConnectionError, http.client.RemoteDisconnected):
            pass  # it accepts no more: the connection was refused, or was still waiting to be accepted
        except BaseException as error:
            broken.append(error)

    with contextlib.ExitStack() as stack:
        watches = []
        for _ in range(5):
            watch = stack.enter_context(socket.create_connection((host, int(port)), 60))
            watch.sendall(b"GET /api/v1/pods?watch=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert watch.recv(12) == b"HTTP/1.1 200"
            watches.append(watch)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert is_warm.wait(LAST_RESORT_SECONDS)
        instances.run("stop")
        for thread in threads:
            thread.join(LAST_RESORT_SECONDS)
        for watch in watches:
            with contextlib.suppress(ConnectionError):
                while watch.recv(65536):
                    pass
    assert broken == []
    assert instances.pids() == set()
    assert instances.events()[-2:] == ["request.finished", "server.stopped"]
    assert not set(instances.events()) & {"internal.failed", "library.reported"}


def test_a_stop_that_takes_too_long_tells_so_and_the_next_one_cuts(
    instances: Instances, tmp_path: Path
) -> None:
    """A request that does not end keeps it for the grace period; who cannot wait asks twice."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        address = instances.start("--port=0", f"--kubeconfig={path}", "--grace-period=10m")
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 60) as client:
            client.sendall(b"GET /api/v1/namespaces HTTP/1.1\r\nHost: localhost\r\n\r\n")
            upstream, _ = silent.accept()
            with upstream:
                assert upstream.recv(65536).startswith(b"GET /api/v1/namespaces ")
                done = instances.run("stop", "--timeout=500ms", code=1)
                assert "kproxy stop` once more cuts them" in done.stderr
                assert instances.status()["state"] == "stopping"
                assert "is stopped" in instances.run("stop", "--timeout=60s").stderr
    assert instances.pids() == set()


def test_a_stop_knows_a_grace_period_that_was_raised_meanwhile(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config file gave running requests more time after the start: the end may take as long."""
    settings = tmp_path / "config.yaml"
    settings.write_text("grace_period: 1ms\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        address = instances.start("--port=0", f"--kubeconfig={path}", f"--config={settings}")
        settings.write_text("grace_period: 10m\n")
        with instances.process("logs", "-f") as log:
            log.wait_for_output("config.reloaded", "stdout")
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), 20) as client,
            InstanceFolder(instances.state, create=False) as folder,
            ThreadPoolExecutor() as pool,
        ):
            client.sendall(b"GET /api/v1/namespaces HTTP/1.1\r\nHost: localhost\r\n\r\n")
            upstream, _ = silent.accept()
            with upstream:
                assert upstream.recv(65536).startswith(b"GET /api/v1/namespaces ")
                monkeypatch.setattr(daemon, "STOP_MARGIN_SECONDS", 1.0)
                stopped = pool.submit(daemon.stop, "default", folder, timeout_seconds=None)
                with pytest.raises(TimeoutError):
                    stopped.result(2.0)
                assert instances.status()["ending_seconds"] == 600
            # The API server has gone, and so the request ends.
            assert stopped.result(20) is not None


# -- restart --


def test_a_restart_keeps_the_settings_or_takes_new_ones(
    instances: Instances, config: str, reserved_port: int
) -> None:
    """Without flags those of the start, with flags only these."""
    address = instances.start(f"--port={reserved_port}", config, "--reject-methods=DELETE")
    first = instances.status()
    assert instances.run("restart").stdout == f"Starting to serve on {address}\n"
    second = instances.status()
    assert second["arguments"] == first["arguments"]
    assert second["pid"] != first["pid"]
    instances.run("restart", "--port=0", config)
    assert instances.status()["arguments"] == [config, "--port=0"]
    assert len(instances.pids()) == 1


def test_a_restart_that_cannot_succeed_leaves_what_runs(
    instances: Instances, tmp_path: Path, config: str
) -> None:
    """A kubeconfig that was broken meanwhile does not end a proxy that works."""
    address = instances.start("--port=0", config)
    Path(config.partition("=")[2]).write_text("{")
    assert instances.run("restart", code=2).stderr.startswith("error: ")
    assert instances.status()["addresses"] == [address]
    assert get(address, "/version")[0] == 502


def test_a_restart_needs_secrets_once_more(instances: Instances, tmp_path: Path) -> None:
    """A token on the command line is written nowhere, so it cannot be known; what runs goes on."""
    token = secrets.plant("daemon-token")
    flags = (f"--kubeconfig={kubeconfig(tmp_path, 'https://127.0.0.1:1')}", "--port=0", f"--token={token}")
    instances.start(*flags)
    for path in instances.state.iterdir():
        assert token not in path.read_text()
    pid = instances.status()["pid"]
    assert "--token" in instances.run("restart", code=2).stderr
    assert instances.status()["pid"] == pid
    instances.run("restart", *flags)
    assert instances.status()["pid"] != pid
    assert "--token is not kept" in instances.run("start", *flags, code=1).stderr


def test_a_restart_of_nothing_is_a_start(instances: Instances, config: str) -> None:
    """As service managers have it."""
    instances.run("restart", "--port=0", config)
    assert instances.status()["is_running"]


# -- status --


def test_status_shows_what_runs(instances: Instances, config: str) -> None:
    """Address, context, process, time, credential and contexts; for programs as JSON."""
    address = instances.start("--port=0", config)
    shown = instances.run("status").stdout
    for line in (r"default: serving", rf"  address: +{address}", r"  context: +test \(http://127.0.0.1:1\)"):
        assert re.search(f"^{line}$", shown, re.MULTILINE)
    assert re.search(r"^  pid: +\d+$", shown, re.MULTILINE)
    assert re.search(r"^  uptime: +\d+s$", shown, re.MULTILINE)
    assert re.search(r"^  \* test: .*credential none; http://test\.localhost:\d+/$", shown, re.MULTILINE)
    found = instances.status()
    assert (found["state"], found["is_running"]) == ("serving", True)
    assert found["status"]["contexts"][0]["name"] == "test"
    assert found["status"]["pid"] == found["pid"]


def test_status_of_one_that_does_not_answer(instances: Instances, config: str) -> None:
    """With --admin=off, or when it hangs, what the record says is still told."""
    instances.start("--port=0", config, "--admin=off")
    assert instances.status()["status"] is None
    assert "does not say more" in instances.run("status").stdout
    pid = instances.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert instances.status()["is_running"]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_status_over_a_unix_socket(instances: Instances, config: str) -> None:
    """No port needs to be open."""
    instances.start(f"--unix-socket={instances.home / 'k.sock'}", config, "--admin=socket")
    assert instances.status()["status"]["listeners"][0]["address"] == str(instances.home / "k.sock")


# -- in the foreground, by name --


def test_an_instance_in_the_foreground_is_known_by_name(instances: Instances, config: str) -> None:
    """As a service manager runs it: shown and stopped like the others, its log is on stderr."""
    with instances.process("start", "--foreground", "--name=svc", "--port=0", config) as program:
        program.wait_for_output(r"^Starting to serve on ", "stdout")
        program.wait_for_output("server.started")
        assert instances.status("svc")["pid"] == program.pid
        assert "in the foreground" in instances.run("restart", "--name=svc", code=1).stderr
        assert (
            "already running" in instances.run("start", "--name=svc", "--foreground", config, code=1).stderr
        )
        assert "writes its log where it was started" in instances.run("logs", "--name=svc", code=1).stderr
        instances.run("stop", "--name=svc")
        assert program.wait() == 0
    assert instances.status("svc", code=3)["state"] == "stopped"


# -- logs --


def test_logs_show_the_end_and_go_on(instances: Instances, config: str) -> None:
    """The last lines, then what is added, also once the file was exchanged for being full."""
    address = instances.start("--port=0", config, "--log-max-bytes=4096")
    assert '"server.started"' in instances.log()
    assert instances.run("logs", "--tail=0").stdout == ""
    with instances.process("logs", "-f", "--tail=1") as following:
        following.wait_for_output("server.started", "stdout")
        for number in range(40):
            assert get(address, f"/n/{number}-")[0] == 502
            following.wait_for_output(f'"/n/{number}-"', "stdout")
        heard = re.findall(r'"/n/(\d+)-"', following.stdout)
    assert heard == [str(number) for number in range(40)]
    older = instances.state / "default.log.1"
    assert 0 < older.stat().st_size <= 4096
    assert (instances.state / "default.log").stat().st_size <= 4096
    assert stat.S_IMODE(older.stat().st_mode) == 0o600
    assert '"/n/39-"' in instances.run("logs", "--tail=1").stdout


def test_what_a_login_plugin_says_is_in_the_log_and_in_status(instances: Instances, tmp_path: Path) -> None:
    """In plain text, within --log-max-bytes; the error has the last lines and names the log for the rest."""
    plugin = Plugin(tmp_path / "acme", "acme")
    token = secrets.plant("plugin-token")
    plugin.does(
        f"printf '\\033[31mError:\\033[0m Bearer {token} \\033]0;title\\007has ended\\n' >&2\n"
        "yes 'trying https://login.example.com once more' | head -n 300 >&2\n"
        "echo 'Run: acme login --profile dev' >&2; exit 255"
    )
    config = f"--kubeconfig={kubeconfig(tmp_path, 'https://127.0.0.1:1', user={'exec': exec_user(plugin)})}"
    address = instances.start("--port=0", config, "--log-max-bytes=8192")
    code, body = get(address, "/api")
    log = instances.state / "default.log"
    assert code == 502
    message = json.loads(body)["message"]
    assert "exit code 255" in message
    assert message.endswith(f"\nRun: acme login --profile dev\n(there is more in {log})")
    shown = instances.run("status").stdout
    assert re.search(r"last error: .*exit code 255.*\n(      trying .*\n)+      Run: acme login", shown)
    assert max(log.stat().st_size, log.with_name("default.log.1").stat().st_size) <= 8192
    written = instances.log()
    assert "Run: acme login --profile dev" in written
    assert "\x1b" not in written
    plugin.does("yes '\033[31mno\033[0m' >&2 & sleep 0.3; kill $!; exit 1")
    deadline = time.monotonic() + LAST_RESORT_SECONDS
    # A plugin that has failed is not run again at once.
    while "more than 64 KiB" not in (
        told := json.loads(get(address, "/again")[1])["message"] + instances.log()
    ):
        assert time.monotonic() < deadline, told
    assert max(log.stat().st_size, log.with_name("default.log.1").stat().st_size) <= 8192


def test_status_says_what_is_waited_for(instances: Instances, tmp_path: Path) -> None:
    """While a plugin runs, with what it says; that may be where to log in."""
    plugin = Plugin(tmp_path / "acme", "acme")
    plugin.does("echo 'enter ABC-123 at https://login' >&2; exec sleep 60")
    config = f"--kubeconfig={kubeconfig(tmp_path, 'https://127.0.0.1:1', user={'exec': exec_user(plugin)})}"
    address = instances.start("--port=0", config)
    host, _, port = address.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
        connection.request("GET", "/api")
        for _ in range(100):
            shown = instances.run("status").stdout
            if "it says" in shown:
                break
        assert re.search(
            r"test: waiting for acme, \d+ s; credential exec; it says: enter ABC-123 at https://login; ",
            shown,
        )
    instances.run("stop")


def test_whoever_follows_no_log_is_told(instances: Instances, config: str) -> None:
    """A name that is misspelt looks like one that has nothing to say; one that starts later is shown."""
    instances.start("--port=0", config)
    with instances.process("logs", "-f", "--name=dev") as following:
        following.wait_for_output('instance "dev" has no log yet')
        instances.start("--port=0", "--name=dev", config)
        following.wait_for_output("server.started", "stdout")


def test_logs_of_nobody_are_an_error(instances: Instances) -> None:
    """With the place where they would be."""
    assert "has no log in" in instances.run("logs", code=1).stderr


@pytest.mark.slow
def test_a_full_disk_stops_only_the_log(
    instances: Instances, config: str, mount: Callable[[Path, str], None]
) -> None:
    """Requests go on, memory stays bounded, and later the log says how many lines it lost."""
    mount(instances.state.parent, "size=6m,mode=0700")
    address = instances.start("--port=0", config)
    host, _, port = address.rpartition(":")
    filler = fill(instances.state.parent)
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:

        def ask() -> None:
            connection.request("GET", "/n/" + "x" * 900)
            answer = connection.getresponse()
            assert answer.status == 502
            answer.read()

        for _ in range(1500):
            ask()
        assert instances.status()["state"] == "serving"
        # A second one cannot note that it exists, and says so.
        done = instances.run("start", "--name=other", "--port=0", config, code=1)
        assert "No space left on device" in done.stderr
        filler.unlink()
        with instances.process("logs", "-f", "--tail=-1") as following:
            ask()
            dropped = following.wait_for_output(r'"log.dropped".*"count": (\d+)', "stdout")
    assert 0 < int(dropped[1]) < 1500
    assert "is stopped" in instances.run("stop").stderr


def test_a_full_disk_does_not_hold_up_the_end(
    instances: Instances, config: str, mount: Callable[[Path, str], None]
) -> None:
    """It stops in order without being able to write so."""
    mount(instances.state.parent, "size=256k,mode=0700")
    instances.start("--port=0", config)
    fill(instances.state.parent)
    assert "is stopped" in instances.run("stop").stderr
    assert instances.pids() == set()
    assert instances.run("status", code=3).stdout.startswith("no instance runs")


# -- where the state is --


def test_without_a_runtime_folder_the_home_has_the_state(tmp_path: Path, config: str) -> None:
    """As in a session that no login manager set up."""
    with Instances(tmp_path, has_runtime_dir=False) as instances:
        instances.start("--port=0", config)
        assert (instances.home / ".local" / "state" / "kproxy" / "default.json").exists()
        instances.run("stop")


def test_a_read_only_home_is_told(tmp_path: Path, config: str, mount: Callable[[Path, str], None]) -> None:
    """What cannot be written, and what to set instead; that helps."""
    with Instances(tmp_path, has_runtime_dir=False) as instances:
        if os.geteuid() == 0:
            # Root writes where permissions say no.
            mount(instances.home, "ro,size=64k")
        else:
            instances.home.chmod(0o500)
        done = instances.run("start", "--port=0", config, code=1)
        (line,) = done.stderr.splitlines()
        assert str(instances.home / ".local" / "state" / "kproxy") in line
        assert "XDG_RUNTIME_DIR" in line
        assert instances.run("status", code=3).stdout.startswith("no instance runs")
        assert "not running" in instances.run("stop").stderr
        instances.environ["XDG_RUNTIME_DIR"] = str(tmp_path)
        instances.state = tmp_path / "kproxy"
        instances.start("--port=0", config)
        instances.run("stop")
        instances.home.chmod(0o700) if os.geteuid() != 0 else None


def test_a_folder_that_others_can_write_is_not_trusted(instances: Instances, config: str) -> None:
    """Nor is a link; nothing is started, stopped or read there."""
    instances.state.mkdir()
    instances.state.chmod(0o777)
    for command in (("start", config), ("stop",), ("status",), ("logs",)):
        assert "can be written by other users" in instances.run(*command, code=1).stderr
    instances.state.rmdir()
    instances.state.symlink_to(instances.home)
    assert "symbolic link" in instances.run("start", config, code=1).stderr
    instances.state.unlink()


# -- service --


def test_a_service_is_written_printed_and_removed(instances: Instances, config: str) -> None:
    """The file, and what to run; without a session of systemd it is told what that would have been."""
    printed = instances.run("service", "print", "--systemd", "--name=dev", config).stdout
    done = instances.run("service", "install", "--systemd", "--name=dev", config)
    path = instances.home / ".config" / "systemd" / "user" / "kproxy-dev.service"
    assert path.read_text() == printed
    assert f"wrote {path}\n" in done.stdout
    assert "systemctl --user enable --now kproxy-dev.service" in done.stdout
    path.write_text(printed + "# mine\n")
    assert "was changed" in instances.run("service", "install", "--systemd", "--name=dev", code=1).stderr
    assert "was changed" in instances.run("service", "uninstall", "--systemd", "--name=dev", code=1).stderr
    path.write_text(printed)
    assert f"removed {path}\n" in instances.run("service", "uninstall", "--systemd", "--name=dev").stdout
    assert not path.exists()
    assert "nothing is installed" in instances.run("service", "uninstall", "--systemd").stdout


def test_a_unit_holds_no_secret(instances: Instances, config: str) -> None:
    """A token is refused as a flag, and left out as a variable."""
    token = secrets.plant("unit-token")
    done = instances.run("service", "print", "--systemd", config, f"--token={token}", code=2)
    assert "--token" in done.stderr
    done = instances.run("service", "install", "--systemd", config, env={"KPROXY_TOKEN": token})
    assert "KPROXY_TOKEN is not written there" in done.stderr
    for path in (instances.home / ".config" / "systemd" / "user").iterdir():
        assert token not in path.read_text()


def test_a_service_for_launchd_is_printed_everywhere(instances: Instances, config: str) -> None:
    """A property list, alone, so that it can go into a file."""
    assert instances.run("service", "print", "--launchd", config).stdout.startswith("<?xml ")
    assert "only one of them" in instances.run("service", "print", "--launchd", "--systemd", code=2).stderr
    assert "systemd only" in instances.run("service", "print", "--launchd", "--socket", code=2).stderr

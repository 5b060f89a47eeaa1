"""Starting and stopping the real program: its first line, its exit codes, its complaints."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import urllib.request
from pathlib import Path

import pytest

from tests.support import secrets
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import KPROXY, ROOT, Process, Program, ended, kubeconfig

NOWHERE = "http://127.0.0.1:1"
"""An API server that is not there: starting must not need it."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return kubeconfig(tmp_path, NOWHERE)


def refused(*args: str, code: int, env: dict[str, str] | None = None) -> str:
    """What kproxy says on stderr before it ends with that exit code, with nothing on stdout."""
    program = ended(*args, code=code, env=env)
    assert program.stdout == ""
    assert program.stderr.startswith("error: ")
    return program.stderr


def test_the_first_line_names_the_address(config: Path) -> None:
    """stdout has one line, in kubectl's words, with the port that was bound; all else is on stderr."""
    with Program(kubeconfig=config) as program:
        address = program.serving_on
        with socket.create_connection(("127.0.0.1", program.port)):
            pass
        assert program.stop() == 0
    assert program.stdout == f"Starting to serve on {address}\n"
    assert address == f"127.0.0.1:{program.port}"
    assert [line["event"] for line in program.log_events()][:1] == ["server.started"]


def test_the_port_that_was_asked_for_is_bound(config: Path, reserved_port: int) -> None:
    """As kubectl proxy, with the command in front as in scripts that say `kubectl proxy`."""
    with Program("proxy", f"-p{reserved_port}", kubeconfig=config) as program:
        assert program.serving_on == f"127.0.0.1:{reserved_port}"


def test_the_loopback_of_ipv6_can_be_listened_on(config: Path) -> None:
    """--address=::1 prints brackets, as Go does."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Program("--address=::1", kubeconfig=config) as program:
        assert program.serving_on.startswith("[::1]:")
        with socket.create_connection(("::1", program.port)):
            pass


def test_a_file_in_the_place_of_a_socket_is_kept(config: Path, tmp_path: Path) -> None:
    """It has content, and is somebody's."""
    path = tmp_path / "kproxy.sock"
    path.write_text("precious")
    assert "not a socket" in refused(f"--unix-socket={path}", f"--kubeconfig={config}", code=1)
    assert path.read_text() == "precious"


def test_an_address_of_another_machine_is_one_clear_line(config: Path) -> None:
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    flags = ("--port=0", "--address=192.0.2.1", "--unsafe-listen")
    (line,) = refused(*flags, f"--kubeconfig={config}", code=1).splitlines()
    assert "192.0.2.1" in line


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["--acept-hosts=x"], "did you mean --accept-hosts"),
        (["--port=-1"], "port: expected 0-65535, got '-1' (--port)"),
        (["--port=0", "--accept-paths=("], "is not a regular expression"),
        (["--unix-socket=/tmp/x", "--port=0"], "cannot set --unix-socket and --port at the same time"),
        (["--port=0", "--www=/", "--www-prefix=/"], "www_prefix"),
        (["serv"], 'unknown command "serv"'),
    ],
)
def test_wrong_usage_ends_with_code_2(args: list[str], expected: str, config: Path) -> None:
    """One line with the problem, one that says where help is."""
    problem, hint = refused(*args, f"--kubeconfig={config}", code=2).splitlines()
    assert expected in problem
    assert hint == "See 'kproxy --help'."


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    """The file that --kubeconfig names must be there."""
    told = refused("--port=0", f"--kubeconfig={tmp_path}/none", code=2)
    assert told == f"error: --kubeconfig {tmp_path}/none: no such file\n"


def test_without_any_kubeconfig_the_demo_is_offered() -> None:
    """Who has no cluster learns where one was looked for, and how to try kproxy without one."""
    told = refused("--port=0", code=2)
    assert ".kube/config" in told
    assert "kproxy demo" in told


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Flags, variables, config file and kubeconfig: nobody mends one to hear of the next."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("clusters: {not: a list}\n")
    settings = tmp_path / "config.yaml"
    settings.write_text("grace_period: soon\n")
    flags = ("--port=abc", f"--kubeconfig={broken}", f"--config={settings}")
    lines = refused(*flags, code=2, env={"KPROXY_LOG_FORMAT": "xml"}).splitlines()
    assert lines[0] == "error: 4 problems:"
    assert [line for line in lines if "(--port)" in line]
    assert [line for line in lines if "(KPROXY_LOG_FORMAT)" in line]
    assert [line for line in lines if "(config.yaml line 1)" in line]
    assert [line for line in lines if str(broken) in line]


def test_no_complaint_shows_a_secret(tmp_path: Path) -> None:
    """A kubeconfig that cannot be used is told about without its credentials."""
    password = secrets.plant("start-password")
    config = kubeconfig(
        tmp_path,
        "https://127.0.0.1:1",
        token=secrets.plant("start-token"),
        user={"username": "u", "password": password},
    )
    told = refused("--port=0", f"--kubeconfig={config}", f"--as-uid={'x' * 10}", code=2)
    assert "token and username/password" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_order(config: Path, number: int) -> None:
    """Ctrl-C and `kill` are orderly ends: exit code 0, the last event says so, no traceback."""
    with Program(kubeconfig=config) as program:
        assert program.stop(number) == 0
    assert [line["event"] for line in program.log_events()][-1] == "server.stopped"


def test_ctrl_c_during_the_start_is_quiet() -> None:
    """Before kproxy serves there is nothing to end in order, and nothing to say."""
    program = (
        "import os, signal, sys, kproxy.server.server\n"
        "kproxy.server.server.run = lambda *args, **more: os.kill(os.getpid(), signal.SIGINT)\n"
        "from kproxy.cli.main import main\n"
        "sys.exit(main([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_hangs_can_be_ended(tmp_path: Path, number: int) -> None:
    """A kubeconfig on a dead disk, here a pipe that nobody writes to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        Process([*KPROXY, "--port=0", f"--kubeconfig={pipe}"]) as program,
        pipe.open("wb"),  # comes back when kproxy has begun to read
    ):
        assert program.stop(number) == 130
    assert program.stdout == ""


def test_settings_come_from_variables_and_the_config_file(config: Path, tmp_path: Path) -> None:
    """A daemon needs no flags at all."""
    settings = tmp_path / "config.yaml"
    settings.write_text(f"unix_socket: here.sock\nkubeconfig: {config.name}\nlog_format: console\n")
    with Process(KPROXY, env={"KPROXY_CONFIG": str(settings), "KPROXY_V": "4"}) as program:
        program.wait_for_output(r"^Starting to serve on .*/here\.sock\n", "stdout")
        program.wait_for_output("server.started")
        assert program.stop() == 0
    assert program.log_events() == []


@pytest.mark.parametrize("command", [["check"], ["--port=0"]])
def test_the_warnings_of_kubectl_are_given(config: Path, command: list[str]) -> None:
    """What weakens the proxy, or looks like a mistake, is said on start and by check, which goes on."""
    args = [*command, "--disable-filter", "--www=/no/such/folder", f"--kubeconfig={config}"]
    with Process([*KPROXY, *args], env={"HTTP2_PING_TIMEOUT_SECONDS": "soon"}) as program:
        if command == ["check"]:
            assert program.wait() == 0
            told = re.findall("^# warning: (.*)$", program.stdout, re.MULTILINE)
        else:
            program.wait_for_event("config.questioned", 3)
            assert program.stop() == 0
            told = [line["detail"] for line in program.log_events("config.questioned")]
    begins = ("Request filter disabled", "Failed to stat static file directory /no/such/folder", "HTTP2_PING")
    assert [each.startswith(begin) for each, begin in zip(told, begins, strict=True)] == [True] * 3


def test_the_demo_needs_nothing() -> None:
    """`kproxy demo` serves a pretend cluster: an answer within moments, and no file of ours in sight."""
    with Program("demo") as program:
        with urllib.request.urlopen(f"{program.url}/version", timeout=LAST_RESORT_SECONDS) as answer:
            assert "gitVersion" in json.load(answer)
        url = f"{program.url}/api/v1/namespaces"
        with urllib.request.urlopen(url, timeout=LAST_RESORT_SECONDS) as answer:
            assert json.load(answer)["kind"] == "NamespaceList"
        assert program.stop() == 0


def test_it_starts_quickly(config: Path) -> None:
    """CPU time to the first answer, best of three, whoever else is at work; tests/bench has the real time."""

    def seconds() -> float:
        with Program(kubeconfig=config) as program:
            with socket.create_connection(("127.0.0.1", program.port)) as client:
                client.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(64).startswith(b"HTTP/1.1 502")
            return program.cpu_seconds()

    assert min(seconds() for _ in range(3)) < 1


def test_it_runs_as_a_kubectl_plugin(tmp_path: Path, config: Path) -> None:
    """kubectl hands `kubectl kproxy ARGS` to the program kubectl-kproxy with ARGS."""
    plugin = tmp_path / "kubectl-kproxy"
    plugin.write_text(f"#!{sys.executable}\nimport sys\nfrom kproxy.__main__ import main\nsys.exit(main())\n")
    plugin.chmod(0o755)
    done = subprocess.run(
        [plugin, "version"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.startswith("kproxy ")


@pytest.mark.parametrize("has_nohup", [False, True])
def test_it_ends_with_its_terminal_unless_nohup_says_otherwise(config: Path, has_nohup: bool) -> None:
    """Nobody closes a window to leave a proxy with their credentials behind; `nohup` asks for just that."""
    terminal, own_side = pty.openpty()
    command = [*KPROXY, "--port=0", f"--kubeconfig={config}"]
    with subprocess.Popen(
        ["nohup", *command] if has_nohup else command,
        cwd=ROOT,
        stdin=own_side,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline().startswith(b"Starting to serve on ")
            program.send_signal(signal.SIGHUP)  # while the window is open: a reload
            with pytest.raises(subprocess.TimeoutExpired):
                program.wait(0.5)
            os.close(own_side)
            os.close(terminal)
            if has_nohup:
                with pytest.raises(subprocess.TimeoutExpired):
                    program.wait(0.5)
            else:
                assert program.wait(LAST_RESORT_SECONDS) == 0
        finally:
            program.kill()

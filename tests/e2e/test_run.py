"""`kproxy run -- COMMAND`: a proxy for one command, its environment, exit code and signals; nothing stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from kproxy.config.schema import OPTIONS
from tests.e2e.clusters import Cluster
from tests.support import proc, secrets
from tests.support.program import KPROXY, ROOT, Process, ended, kubeconfig
from tests.support.terminal import Terminal
from tests.support.tools import needs

NOWHERE = ("-s", "http://127.0.0.1:1")
SECONDS = 60.0

needs_kubectl, needs_curl = needs("kubectl"), needs("curl")


@pytest.fixture
def runtime() -> Iterator[Path]:
    """XDG_RUNTIME_DIR, which is empty afterwards, whatever the test did."""
    # Not below tmp_path: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="runtime-") as folder:
        yield Path(folder)
        assert os.listdir(folder) == []


def ran(*args: str, runtime: Path, code: int = 0, **env: str) -> Process:
    """`kproxy run ARGS`, waited for; without a word of kproxy's own unless it fails."""
    return ended("run", *args, code=code, env={"XDG_RUNTIME_DIR": str(runtime), **env})


def through(cluster: Cluster, *args: str, runtime: Path, code: int = 0, **env: str) -> Process:
    return ran(f"--kubeconfig={cluster.kubeconfig}", *args, runtime=runtime, code=code, **env)


# -- what the command finds --


@needs_kubectl
def test_a_shell_with_kubectl(demo: Cluster, runtime: Path) -> None:
    """kubectl finds the cluster, and the output is kubectl's alone."""
    process = through(demo, "--", "sh", "-c", "kubectl get pods -n shop -o name", runtime=runtime)
    assert "pod/db-0\n" in process.stdout
    assert all(line.startswith("pod/") for line in process.stdout.splitlines())
    assert process.stderr == ""


def test_a_script_with_the_python_client(demo: Cluster, runtime: Path, tmp_path: Path) -> None:
    """load_kube_config() finds the proxy."""
    script = tmp_path / "script.py"
    script.write_text(
        "from kubernetes import client, config\n"
        "config.load_kube_config()\n"
        "print(*(pod.metadata.name for pod in client.CoreV1Api().list_namespaced_pod('shop').items))\n"
    )
    process = through(demo, "--", sys.executable, str(script), runtime=runtime)
    assert "db-0" in process.stdout
    assert process.stderr == ""


@needs_curl
def test_braces_become_the_url(demo: Cluster, runtime: Path) -> None:
    """In every argument, however often, but not in the command's name."""
    process = through(demo, "--", "curl", "-sf", "{}/version", "{}/api/v1/namespaces", runtime=runtime)
    assert '"gitVersion"' in process.stdout
    assert '"NamespaceList"' in process.stdout
    assert (
        ran(*NOWHERE, "--", "{}", runtime=runtime, code=127).stderr
        == 'error: "{}" is in no folder of $PATH\n'
    )


def test_the_environment_of_the_command(tmp_path: Path, runtime: Path) -> None:
    """KUBECONFIG without a credential, for nobody else to read; the URL twice; all else stays."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:1", token=secrets.plant("run-token"))
    script = (
        'echo "$KPROXY_URL $KUBERNETES_MASTER $MINE"; cat "$KUBECONFIG"; '
        'stat -c "%a" "$KUBECONFIG" "${KUBECONFIG%/*}" >&2'
    )
    process = ran(f"--kubeconfig={config}", "--", "sh", "-c", script, runtime=runtime, MINE="as it was")
    first, _, text = process.stdout.partition("\n")
    url, master, mine = first.split(" ", 2)
    assert (master, mine) == (url, "as it was")
    assert url.startswith("http://127.0.0.1:")
    found = yaml.safe_load(text)
    assert found["current-context"] == "test"
    assert found["clusters"] == [
        {"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": True}}
    ]
    assert found["users"] == [{"name": "kproxy", "user": {}}]
    assert process.stderr == "600\n700\n"


def test_no_credential_of_ours_is_handed_on(tmp_path: Path, runtime: Path) -> None:
    """What is secret among the settings is gone from the command's environment; nothing else is."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:1")
    settings = {option.variable: secrets.plant(option.name) for option in OPTIONS if option.secret}
    assert {"KPROXY_TOKEN", "KPROXY_PASSWORD"} <= set(settings)
    # Each alone: kproxy refuses two ways to authenticate.
    for name, value in settings.items():
        variables = {name: value, "KPROXY_USERNAME": "me", "KPROXY_V": "-1", "MY_TOKEN": "as it was"}
        if name == "KPROXY_TOKEN":
            del variables["KPROXY_USERNAME"]
        # The test fails as well when a planted secret is in the output.
        process = ran(f"--kubeconfig={config}", "--", "env", runtime=runtime, **variables)
        found = dict(line.split("=", 1) for line in process.stdout.splitlines())
        assert name not in found
        assert variables.items() - found.items() == {(name, value)}


@needs_kubectl
@needs_curl
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1|127.0.0.1"),
        ({"NO_PROXY": ".corp"}, ".corp,127.0.0.1|.corp,127.0.0.1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "b,127.0.0.1|a,127.0.0.1"),
        ({"no_proxy": "*"}, "*|*"),
    ],
)
def test_an_http_proxy_does_not_stand_between(before: dict[str, str], after: str, runtime: Path) -> None:
    """curl and Python send what is for a loopback address to it, too, unless they are told not to."""
    script = 'echo "$NO_PROXY|$no_proxy"; curl -s -o /dev/null -w %{http_code} $KPROXY_URL/version'
    process = ran(
        *NOWHERE, "--", "sh", "-c", script, runtime=runtime, http_proxy="http://127.0.0.1:9", **before
    )
    assert process.stdout == f"{after}\n502"


def test_the_namespace_of_the_context_is_kept(demo: Cluster, tmp_path: Path, runtime: Path) -> None:
    """Without -n kubectl looks where it would have looked without kproxy; --namespace is another one."""
    content = yaml.safe_load(demo.kubeconfig.read_text())
    content["contexts"][0]["context"]["namespace"] = "shop"
    config = tmp_path / "config"
    config.write_text(yaml.safe_dump(content))
    get_pods = ["--", "kubectl", "get", "pods", "-o", "name"]
    assert "pod/db-0" in ran(f"--kubeconfig={config}", *get_pods, runtime=runtime).stdout
    shown = ran(f"--kubeconfig={config}", "-n", "default", *get_pods, runtime=runtime).stdout
    assert "pod/clock" in shown


@needs_kubectl
def test_each_served_context_is_in_the_kubeconfig(demo: Cluster, tmp_path: Path, runtime: Path) -> None:
    """Names stay as they are, however odd; each leads to its own cluster, the default one is current."""
    content = yaml.safe_load(demo.kubeconfig.read_text())
    name = content["current-context"]
    odd = "arn:aws:eks/ä b%2F🙂"
    content["contexts"] += [
        {"name": odd, "context": content["contexts"][0]["context"]},
        {"name": "dead", "context": {"cluster": "dead", "user": content["users"][0]["name"]}},
        {"name": "not served", "context": content["contexts"][0]["context"]},
    ]
    content["clusters"].append({"name": "dead", "cluster": {"server": "http://127.0.0.1:1"}})
    config = tmp_path / "config"
    config.write_text(yaml.safe_dump(content))
    script = (
        "kubectl config get-contexts -o name; kubectl config current-context; "
        f'kubectl --context "{odd}" get ns shop -o name; '
        "kubectl --context dead get ns shop || echo dead"
    )
    process = ran(
        f"--kubeconfig={config}", f"--contexts={name},{odd},dead", "--", "sh", "-c", script, runtime=runtime
    )
    assert process.stdout.splitlines() == [*sorted([name, odd, "dead"]), name, "namespace/shop", "dead"]


@needs_kubectl
def test_kubectl_may_change_the_kubeconfig(demo: Cluster, runtime: Path) -> None:
    """It is a file like any other: kubectl writes its lock beside it. All of it goes in the end."""
    script = "kubectl config set-context --current --namespace=shop >/dev/null && kubectl get pods -o name"
    assert "pod/db-0" in through(demo, "--", "sh", "-c", script, runtime=runtime).stdout


@needs_kubectl
def test_the_filters_hold(demo: Cluster, runtime: Path) -> None:
    """--reject-methods=POST: the command can look, and not make anything."""
    script = "kubectl get ns shop -o name && kubectl create ns never-made"
    process = through(demo, "--reject-methods=POST", "--", "sh", "-c", script, runtime=runtime, code=1)
    assert process.stdout == "namespace/shop\n"
    assert "--reject-methods" in process.stderr


@needs_curl
def test_a_unix_socket_of_its_own(demo: Cluster, runtime: Path) -> None:
    """In a folder that nobody else can enter. kubectl, which cannot use it, does not go around it either."""
    curl = ["--unix", "--", "curl", "-sf", "--unix-socket", "{}", "http://localhost/version"]
    assert '"gitVersion"' in through(demo, *curl, runtime=runtime).stdout
    script = 'stat -c "%F %a" "$KPROXY_SOCKET" "${KPROXY_SOCKET%/*}"; echo "$KPROXY_URL"; kubectl get ns'
    process = through(demo, "--unix", "--", "sh", "-c", script, runtime=runtime, code=1)
    first, second, url = process.stdout.splitlines()
    assert (first, second) == ("socket 700", "directory 700")
    assert url.startswith(f"unix:{runtime}/")


@needs_kubectl
def test_the_demo_can_be_tried(runtime: Path) -> None:
    """`kproxy run --demo` needs no cluster at all."""
    assert (
        "pod/db-0"
        in ran("--demo", "--", "kubectl", "get", "po", "-n", "shop", "-o", "name", runtime=runtime).stdout
    )


@needs_kubectl
def test_one_inside_another(demo: Cluster, runtime: Path) -> None:
    """The inner kproxy serves the outer one; variables made for the command are none of its settings."""
    inner = [*KPROXY, "run", "--", "kubectl", "get", "ns", "shop", "-o", "name"]
    process = through(demo, "--", *inner, runtime=runtime, PYTHONPATH=str(ROOT))
    assert (process.stdout, process.stderr) == ("namespace/shop\n", "")


def test_a_daemons_settings_of_listening_and_logging_do_not_count(tmp_path: Path, runtime: Path) -> None:
    """They are for the one that serves all the time. Flags count: -v has request lines."""
    settings = tmp_path / "config.yaml"
    settings.write_text("unix_socket: there.sock\nv: 4\naddress: 192.0.2.1\n")
    env = {"KPROXY_CONFIG": str(settings), "KPROXY_V": "6"}
    process = ran(*NOWHERE, "--", "sh", "-c", "echo $KPROXY_URL", runtime=runtime, **env)
    assert process.stdout.startswith("http://127.0.0.1:")
    assert process.stderr == ""
    process = ran(*NOWHERE, "-v0", "--", "true", runtime=runtime, **env)
    assert process.log_events()[0]["event"] == "server.started"


def test_a_command_without_the_double_dash(runtime: Path) -> None:
    """From its first word on all is the command's, flags of the same name as kproxy's too."""
    process = ran(
        *NOWHERE, "sh", "-c", 'echo "$@"', "sh", "-v", "--port=1", "--help", "--", "x", runtime=runtime
    )
    assert process.stdout == "-v --port=1 --help -- x\n"


# -- how it ends --


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_code_is_the_commands(script: str, code: int, runtime: Path) -> None:
    """128 and the signal's number when one ended it, as shells tell it."""
    process = ran(*NOWHERE, "--", "sh", "-c", script, runtime=runtime, code=code)
    assert (process.stdout, process.stderr) == ("", "")


def test_a_command_that_cannot_run(tmp_path: Path, runtime: Path) -> None:
    """127 when it is not there, 126 when it is no program; one line says which, and what to do."""
    plain = tmp_path / "plain"
    plain.write_text("echo no first line\n")
    told = ran(*NOWHERE, "--", "no-such-command", "x", runtime=runtime, code=127).stderr
    assert told == 'error: "no-such-command" is in no folder of $PATH\n'
    assert "Not a directory" in ran(*NOWHERE, "--", f"{plain}/x", runtime=runtime, code=126).stderr
    assert "it is not there" in ran(*NOWHERE, "--", f"{plain}x", runtime=runtime, code=127).stderr
    assert "make it executable" in ran(*NOWHERE, "--", str(plain), runtime=runtime, code=126).stderr
    plain.chmod(0o755)
    assert "no script with #!" in ran(*NOWHERE, "--", str(plain), runtime=runtime, code=126).stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["-s", "http://127.0.0.1:1"], 2, "kproxy run needs -- COMMAND"),
        (["--kubeconfig=/no/such/file", "--", "touch"], 2, "/no/such/file"),
        (["--port=1", "--unix", *NOWHERE, "--", "touch"], 2, "port: --unix makes a socket of its own"),
        (["--demo", "--context=x", "--", "touch"], 2, "context: the demo brings its own"),
        ([*NOWHERE, "--address=192.0.2.1", "--unsafe-listen", "--", "touch"], 1, "192.0.2.1"),
    ],
)
def test_nothing_runs_without_a_proxy(
    args: list[str], code: int, told: str, tmp_path: Path, runtime: Path
) -> None:
    """kproxy's own problems are told before the command has begun."""
    made = tmp_path / "made"
    process = ran(*args, *([str(made)] if "--" in args else []), runtime=runtime, code=code)
    assert told in process.stderr
    assert not made.exists()


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_are_passed_on(name: str, runtime: Path) -> None:
    """The command gets it once, and says how kproxy ends."""
    program = (
        "import signal, sys\n"
        f"numbers = {{signal.SIG{name}}}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
        "print('ready', flush=True)\n"
        "assert signal.sigtimedwait(numbers, 20)\n"
        "print('got it')\n"
        "assert not signal.sigtimedwait(numbers, 0.2)\n"
        "sys.exit(9)\n"
    )
    with Process(
        [*KPROXY, "run", *NOWHERE, "--", sys.executable, "-c", program],
        env={"XDG_RUNTIME_DIR": str(runtime)},
    ) as process:
        process.wait_for_output("^ready$", "stdout")
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.wait() == 9
    assert process.stdout == "ready\ngot it\n"
    assert process.stderr == ""


def test_a_signal_that_ends_the_command_ends_kproxy(runtime: Path) -> None:
    """`kill` of a `kproxy run` is a kill of what it runs."""
    with Process(
        [*KPROXY, "run", *NOWHERE, "--", "sh", "-c", "echo ready; exec sleep 60"],
        env={"XDG_RUNTIME_DIR": str(runtime)},
    ) as process:
        process.wait_for_output("^ready$", "stdout")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def test_signals_are_as_kproxy_found_them(runtime: Path) -> None:
    """None is blocked, and those are ignored that were before: `nohup kproxy run` means the command, too."""
    script = "grep -E 'Sig(Blk|Ign)' /proc/self/status"
    plain = ran(*NOWHERE, "--", "sh", "-c", script, runtime=runtime).stdout.split()
    assert int(plain[1], 16) == 0
    assert int(plain[3], 16) & 1 << signal.SIGPIPE - 1 == 0
    with Process(
        ["nohup", *KPROXY, "run", *NOWHERE, "--", "sh", "-c", script], env={"XDG_RUNTIME_DIR": str(runtime)}
    ) as process:
        assert process.wait() == 0
    ignored = int(process.stdout.split()[3], 16)
    assert ignored == int(plain[3], 16) | 1 << signal.SIGHUP - 1


@contextlib.contextmanager
def gone(*pids: int) -> Iterator[None]:
    """The processes have ended within some time after the block."""
    with contextlib.ExitStack() as stack:
        descriptors = [os.pidfd_open(pid) for pid in pids]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        yield
        for pid, descriptor in zip(pids, descriptors, strict=True):
            assert select.select([descriptor], [], [], SECONDS)[0], f"process {pid} is still there"


@pytest.mark.parametrize("is_group", [False, True], ids=["kproxy alone", "its whole group"])
def test_a_killed_kproxy_takes_all_with_it(is_group: bool, runtime: Path) -> None:
    """SIGKILL: the command dies at once, the folder goes right after."""
    with Process(
        [*KPROXY, "run", *NOWHERE, "--", "sh", "-c", "echo $KUBECONFIG; exec sleep 60"],
        env={"XDG_RUNTIME_DIR": str(runtime)},
    ) as process:
        config = Path(process.wait_for_output("^(/.+)$", "stdout")[1])
        assert config.exists()
        janitor, command = proc.tree(process.pid)[1:]
        with gone(janitor, command):
            if is_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not config.parent.exists()


def test_only_the_janitor_stands_by(runtime: Path) -> None:
    """It holds no descriptor that others wait for the end of, and no signal but SIGKILL reaches it."""
    with Process(
        [*KPROXY, "run", *NOWHERE, "--", "sh", "-c", "echo ready; exec sleep 60"],
        env={"XDG_RUNTIME_DIR": str(runtime)},
    ) as process:
        process.wait_for_output("^ready$", "stdout")
        janitor, _ = proc.tree(process.pid)[1:]
        assert [
            os.readlink(f"/proc/{janitor}/fd/{name}")[:5] for name in os.listdir(f"/proc/{janitor}/fd")
        ] == ["pipe:"]
        assert (os.getsid(janitor), os.readlink(f"/proc/{janitor}/cwd")) == (janitor, "/")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(janitor, number)
        with gone(janitor):
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 128 + signal.SIGTERM


def test_an_unusable_runtime_folder_is_no_obstacle(tmp_path: Path, runtime: Path) -> None:
    """Then the folder is where temporary ones are."""
    process = ran(
        *NOWHERE, "--", "sh", "-c", "echo $KUBECONFIG", runtime=runtime / "none", TMPDIR=str(tmp_path)
    )
    assert process.stdout.startswith(f"{tmp_path}/kproxy-run-")
    assert not Path(process.stdout.strip()).parent.exists()


def test_a_runtime_folder_that_others_write_to_is_not_used(tmp_path: Path, runtime: Path) -> None:
    """They could put another kubeconfig there, and so run programs in our name."""
    runtime.chmod(0o777)
    process = ran(*NOWHERE, "--", "sh", "-c", "echo $KUBECONFIG", runtime=runtime, TMPDIR=str(tmp_path))
    assert process.stdout.startswith(f"{tmp_path}/kproxy-run-")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(closed: str, runtime: Path) -> None:
    """As some schedulers start programs; no pipe or socket of ours takes their place."""
    command = shlex.join([*KPROXY, "run", *NOWHERE, "--", "sh", "-c", "test -n $KPROXY_URL && exit 7"])
    with Process(["sh", "-c", f"{command} {closed}"], env={"XDG_RUNTIME_DIR": str(runtime)}) as process:
        assert process.wait() == 7
    assert process.stdout + process.stderr == ""


# -- with pipes and terminals --


def test_standard_input_is_the_commands(runtime: Path) -> None:
    """`... | kproxy run -- COMMAND | ...`"""
    done = subprocess.run(
        [*KPROXY, "run", *NOWHERE, "--", "cat"], input=b"through\n", capture_output=True, cwd=ROOT,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)}, check=True, timeout=SECONDS,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"through\n", b"")


@needs_kubectl
def test_in_the_background_of_a_pipeline(demo: Cluster, runtime: Path) -> None:
    """The reader sees the end of the output as soon as the command has ended."""
    run = f"{sys.executable} -m kproxy run --kubeconfig={demo.kubeconfig} -- kubectl get ns shop -o name"
    done = subprocess.run(
        ["sh", "-c", f"{run} | cat & wait; echo over"], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)}, check=True, timeout=SECONDS,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("namespace/shop\nover\n", "")


COUNTING = (
    "import os, signal, sys, threading\n"
    "count = 0\n"
    # A handler written in Python would not run while its thread is about to read, and then reads.
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
    "def listen():\n"
    "    global count\n"
    "    while signal.sigwait({signal.SIGINT}):\n"
    "        count += 1\n"
    "        os.write(1, b'got %d' % count)\n"
    "threading.Thread(target=listen, daemon=True).start()\n"
    "print('ready', flush=True)\n"
    "for line in sys.stdin:\n"
    "    print('line', line.strip(), count, flush=True)\n"
)


def in_terminal(command: Sequence[str], runtime: Path) -> Terminal:
    return Terminal(command, env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)})


def test_ctrl_c_reaches_the_command_once(runtime: Path) -> None:
    """The terminal tells it itself; `kill -INT` by somebody is passed on, in the foreground too."""
    terminal = in_terminal([*KPROXY, "run", *NOWHERE, "--", sys.executable, "-c", COUNTING], runtime)
    try:
        terminal.until(b"ready")
        os.write(terminal.keyboard, b"\x03")
        terminal.until(b"got 1")
        os.write(terminal.keyboard, b"a\n")
        terminal.until(b"line a 1")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(b"got 2")
        os.write(terminal.keyboard, b"b\n")
        terminal.until(b"line b 2")
        os.write(terminal.keyboard, b"\x04")
        assert terminal.process.wait(SECONDS) == 0
    finally:
        terminal.close()


@needs("bash")
def test_ctrl_z_stops_both_and_both_go_on(tmp_path: Path, runtime: Path) -> None:
    """As any job of the shell: it sees that it has stopped, and `fg` continues both."""
    script = tmp_path / "command.py"
    script.write_text(COUNTING)
    terminal = in_terminal(["bash", "--norc", "--noprofile", "-i"], runtime)
    try:
        os.write(
            terminal.keyboard, shlex.join([*KPROXY, "run", *NOWHERE, sys.executable, str(script)]).encode()
        )
        os.write(terminal.keyboard, b"\n")
        terminal.until(b"ready")
        os.write(terminal.keyboard, b"\x1a")
        terminal.until(b"Stopped")
        os.write(terminal.keyboard, b"fg\n")
        terminal.until(b"fg\r\n")
        os.write(terminal.keyboard, b"on\n")
        terminal.until(b"line on 0")
        os.write(terminal.keyboard, b"\x04")
        os.write(terminal.keyboard, b"exit 5\n")
        assert terminal.process.wait(SECONDS) == 5
    finally:
        terminal.close()


def test_the_command_has_the_terminal(runtime: Path) -> None:
    """It is in the foreground, and so reads what is typed and is told of the window's size."""
    script = 'test -t 0 && test -t 1 && read answer && echo "read $answer" && stty size'
    terminal = in_terminal([*KPROXY, "run", *NOWHERE, "--", "sh", "-c", script], runtime)
    try:
        fcntl.ioctl(terminal.keyboard, termios.TIOCSWINSZ, b"\x07\0\x29\0\0\0\0\0")
        os.write(terminal.keyboard, b"this\n")
        terminal.until(b"read this")
        terminal.until(b"7 41")
        assert terminal.process.wait(SECONDS) == 0
    finally:
        terminal.close()


def test_the_command_ends_with_its_terminal(runtime: Path) -> None:
    """A closed window hangs it up, and kproxy with it."""
    terminal = in_terminal([*KPROXY, "run", *NOWHERE, "--", sys.executable, "-c", COUNTING], runtime)
    try:
        terminal.until(b"ready")
        with gone(*proc.tree(terminal.process.pid)):
            os.close(terminal.keyboard)
        assert terminal.process.wait(SECONDS) == 128 + signal.SIGHUP
    finally:
        terminal.keyboard = os.open(os.devnull, os.O_RDONLY)
        terminal.close()


def test_the_folder_is_ours_alone(runtime: Path) -> None:
    """Mode 0700, whatever the umask."""
    done = subprocess.run(
        ["sh", "-c", 'umask 0; exec "$@"', "sh", *KPROXY, "run", *NOWHERE, "--", "sh", "-c",
         'stat -c "%a" "$KUBECONFIG" "${KUBECONFIG%/*}"; umask'],
        capture_output=True, text=True, cwd=ROOT, check=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
    )  # fmt: skip
    assert done.stdout.split() == ["600", "700", "0000"]

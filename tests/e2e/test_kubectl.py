"""kubectl through kproxy, as with --server=http://localhost:8001, from get to exec and attach.

exec and attach need the WebSockets of kubectl 1.29 (KEP-4006): the demo cluster speaks no SPDY.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.clusters import Api, Cluster, config_map
from tests.support.ports import reserved_port
from tests.support.program import ROOT, Process, Program, ProxyProcess

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")

SECONDS = 60.0
CLOCK = "clock"
"""A pod of the demo cluster's namespace default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    code: int
    out: str
    err: str


class Kubectl:
    """kubectl that talks to one server, with a home of its own and no kubeconfig."""

    def __init__(self, server: str, home: Path) -> None:
        self.server = server
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            # On by default since 1.31.
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true",
        }

    def run(
        self,
        *args: str,
        stdin: bytes | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run it to its end, whatever that is."""
        done = subprocess.run(
            ["kubectl", f"--server={self.server}", *args],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env={**self.env, **(env or {})},
            cwd=cwd,
            timeout=SECONDS,
            check=False,
        )
        return Done(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    def __call__(self, *args: str, stdin: bytes | None = None, cwd: Path | None = None) -> str:
        """What it prints when all goes well."""
        done = self.run(*args, stdin=stdin, cwd=cwd)
        assert done.code == 0, f"kubectl {shlex.join(args)}: {done}"
        return done.out

    def process(self, *args: str) -> Process:
        """It, running until the block is left."""
        return Process(["kubectl", f"--server={self.server}", *args], env=self.env)


Connect = Callable[[ProxyProcess], Kubectl]


@pytest.fixture(scope="session")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Connect:
    # One home for all, so that what the server has is asked for once.
    home = tmp_path_factory.mktemp("kubectl-home")
    return lambda program: Kubectl(program.url, home)


@pytest.fixture
def kubectl(connect: Connect, proxy: ProxyProcess) -> Kubectl:
    """Through the default kproxy, to any cluster."""
    return connect(proxy)


@pytest.fixture
def demo_kubectl(connect: Connect, demo_proxy: ProxyProcess) -> Kubectl:
    """Through the default kproxy, to the demo cluster."""
    return connect(demo_proxy)


@pytest.fixture
def exec_kubectl(connect: Connect, open_proxy: ProxyProcess) -> Kubectl:
    """Through a kproxy that lets exec through, to the demo cluster."""
    if _minor_version() < 29:
        pytest.skip("this kubectl speaks SPDY only, the demo cluster WebSocket only; 1.29 or newer does both")
    return connect(open_proxy)


@functools.cache
def _minor_version() -> int:
    done = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=True, timeout=SECONDS
    )
    found = re.match(r"\d+", json.loads(done.stdout)["clientVersion"]["minor"])
    assert found
    return int(found[0])


def manifest(folder: Path, text: str) -> str:
    path = folder / "manifest.yaml"
    path.write_text(text)
    return str(path)


MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: colors
data:
  sky: {sky}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 1
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: demo/web:1
"""
CRONTAB = """\
apiVersion: stable.example.com/v1
kind: CronTab
metadata:
  name: hourly
spec:
  cronSpec: "0 * * * *"
"""


def test_get_shows_tables(kubectl: Kubectl, namespace: str, api: Api) -> None:
    """get asks for the server's tables by its Accept header; -o wide for more of them, -o json for none."""
    api.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map("colors", sky="blue"))
    heads, row = kubectl("-n", namespace, "get", "configmap", "colors").splitlines()
    assert heads.split() == ["NAME", "DATA", "AGE"]
    assert row.split()[:2] == ["colors", "1"]
    assert "colors" in kubectl("get", "configmaps", "--all-namespaces", "-o", "wide")
    shown = json.loads(kubectl("-n", namespace, "get", "configmap/colors", "-o", "json"))
    assert shown["data"] == {"sky": "blue"}
    missing = kubectl.run("-n", namespace, "get", "configmap", "none")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == 'Error from server (NotFound): configmaps "none" not found\n'


@pytest.mark.parametrize(
    ("command", "flag", "message"),
    [
        (("get", "pods"), "--server=http://127.0.0.1:{port}", "connection refused; is the cluster up?"),
        (("version",), "--server=http://127.0.0.1:{port}", "connection refused; is the cluster up?"),
        (("get", "pods"), "--reject-paths=^/api$", "--reject-paths"),
        (("get", "pods"), "--accept-hosts=^nobody$", "--accept-hosts"),
    ],
)
def test_a_failure_of_discovery_is_told(
    command: tuple[str, ...], flag: str, message: str, demo: Cluster, tmp_path: Path
) -> None:
    """With a cold cache kubectl first asks for what it reads raw, and shows of its failure only text."""
    with (
        reserved_port() as port,
        Program(flag.format(port=port), kubeconfig=demo.kubeconfig) as program,
    ):
        done = Kubectl(program.url, tmp_path).run(*command)
    assert done.code == 1
    assert message in done.err


def test_get_wide_has_the_nodes(demo_kubectl: Kubectl) -> None:
    """The columns of priority 1 of a pod."""
    heads, row = demo_kubectl("get", "pod", CLOCK, "-o", "wide").splitlines()
    assert "NODE" in heads.split()
    assert "demo-node-" in row


def test_get_in_chunks(kubectl: Kubectl, namespace: str, api: Api) -> None:
    """Lists come in pages, each with the `continue` of the one before."""
    for number in range(5):
        api.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map(f"map-{number}"))
    names = kubectl("-n", namespace, "get", "configmaps", "--chunk-size=2", "-o", "name").split()
    assert [name for name in names if "map-" in name] == [f"configmap/map-{number}" for number in range(5)]


def test_get_watches(kubectl: Kubectl, namespace: str, api: Api) -> None:
    """get -w prints a row for each change, as it happens."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.ask("POST", path, config_map("colors"))
    # All of the namespace: the watch of one by its name misses what happens before it begins.
    with kubectl.process("-n", namespace, "get", "configmaps", "-w") as watch:
        watch.wait_for_output(r"^colors +0 ", "stdout")
        api.merge(f"{path}/colors", {"data": {"sky": "blue"}})
        watch.wait_for_output(r"^colors +1 ", "stdout")
        api.merge(f"{path}/colors", {"data": {"sea": "green"}})
        watch.wait_for_output(r"^colors +2 ", "stdout")


def test_describe_a_pod(demo_kubectl: Kubectl) -> None:
    """describe joins the pod with its events, which it finds by field selectors."""
    shown = demo_kubectl("describe", "pod", CLOCK)
    assert re.search(r"^Name: +clock$", shown, re.MULTILINE)
    assert re.search(r"^Status: +Running$", shown, re.MULTILINE)
    assert "Pretended to start the containers" in shown


def test_apply_on_the_client_side(kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    """Made, changed by a patch of kubectl's own making, and left alone."""

    def apply(sky: str) -> str:
        return kubectl("-n", namespace, "apply", "-f", manifest(tmp_path, MAP.format(sky=sky)))

    assert apply("blue") == "configmap/colors created\n"
    assert apply("gray") == "configmap/colors configured\n"
    assert apply("gray") == "configmap/colors unchanged\n"
    value = kubectl("-n", namespace, "get", "configmap", "colors", "-o", "jsonpath={.data.sky}")
    assert value == "gray"


def test_apply_on_the_server_side(kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    """One PATCH of type apply makes the object, the next one changes it."""
    for sky in ("blue", "gray"):
        out = kubectl(
            "-n", namespace, "apply", "--server-side", "-f", manifest(tmp_path, MAP.format(sky=sky))
        )
        assert out == "configmap/colors serverside-applied\n"
    value = kubectl("-n", namespace, "get", "configmap", "colors", "-o", "jsonpath={.data.sky}")
    assert value == "gray"


def test_a_custom_resource(demo_kubectl: Kubectl, demo_namespace: str, tmp_path: Path) -> None:
    """What discovery tells is enough: apply, get by short name with the definition's own columns, delete."""
    n = ("-n", demo_namespace)
    out = demo_kubectl(*n, "apply", "-f", manifest(tmp_path, CRONTAB))
    assert out == "crontab.stable.example.com/hourly created\n"
    heads, row = demo_kubectl(*n, "get", "ct").splitlines()
    assert heads.split() == ["NAME", "SCHEDULE", "AGE"]
    assert "0 * * * *" in row
    assert 'crontab.stable.example.com "hourly" deleted' in demo_kubectl(*n, "delete", "crontab", "hourly")


def test_scale_and_wait(demo_kubectl: Kubectl, demo_namespace: str, tmp_path: Path) -> None:
    """scale uses a subresource; wait and rollout status watch until it has come about."""
    n = ("-n", demo_namespace)
    demo_kubectl(*n, "apply", "-f", manifest(tmp_path, DEPLOYMENT))
    demo_kubectl(*n, "wait", "deployment/web", "--for=condition=Available", "--timeout=60s")
    assert "deployment.apps/web scaled" in demo_kubectl(*n, "scale", "deployment", "web", "--replicas=3")
    status = demo_kubectl(*n, "rollout", "status", "deployment/web", "--timeout=60s")
    assert 'deployment "web" successfully rolled out' in status
    demo_kubectl(*n, "wait", "pods", "-l", "app=web", "--for=condition=Ready", "--timeout=60s")
    assert len(demo_kubectl(*n, "get", "pods", "-o", "name").split()) == 3


def test_wait_for_a_deletion(demo_kubectl: Kubectl, demo_namespace: str, tmp_path: Path) -> None:
    """delete does not wait here, so wait is the one that sees the pods go."""
    n = ("-n", demo_namespace)
    demo_kubectl(*n, "apply", "-f", manifest(tmp_path, DEPLOYMENT))
    demo_kubectl(*n, "wait", "deployment/web", "--for=condition=Available", "--timeout=60s")
    demo_kubectl(*n, "delete", "deployment", "web", "--wait=false")
    waited = demo_kubectl.run(*n, "wait", "pods", "-l", "app=web", "--for=delete", "--timeout=60s")
    # Which of the two depends on whether they are gone already when it looks.
    assert waited.code == 0 or "no matching resources found" in waited.err
    assert demo_kubectl(*n, "get", "pods", "-o", "name") == ""


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("merge", {"data": {"sky": "gray"}}),
        ("json", [{"op": "replace", "path": "/data/sky", "value": "gray"}]),
        ("strategic", {"data": {"sky": "gray"}}),
    ],
    ids=["merge", "json", "strategic"],
)
def test_patch(kubectl: Kubectl, namespace: str, api: Api, kind: str, patch: object) -> None:
    """patch --type says in the Content-Type what the body is."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.ask("POST", path, config_map("colors", sky="blue"))
    out = kubectl("-n", namespace, "patch", "configmap", "colors", "--type", kind, "-p", json.dumps(patch))
    assert out == "configmap/colors patched\n"
    assert api.ask("GET", f"{path}/colors")["data"] == {"sky": "gray"}


def test_edit_goes_through_a_patch(kubectl: Kubectl, namespace: str, api: Api) -> None:
    """edit reads the object, lets an editor change it, and patches the difference."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.ask("POST", path, config_map("colors", sky="blue"))
    editor = {"KUBE_EDITOR": "sed -i s/blue/gray/"}
    done = kubectl.run("-n", namespace, "edit", "configmap", "colors", env=editor)
    assert (done.code, done.out) == (0, "configmap/colors edited\n")
    assert api.ask("GET", f"{path}/colors")["data"] == {"sky": "gray"}


def test_delete(kubectl: Kubectl, namespace: str, api: Api) -> None:
    """delete by name and by label; what is gone is NotFound."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    for name in ("one", "two", "three"):
        body = config_map(name)
        body["metadata"]["labels"] = {"go": "away" if name != "one" else "stay"}
        api.ask("POST", path, body)
    assert 'configmap "two" deleted' in kubectl("-n", namespace, "delete", "configmap", "two")
    assert 'configmap "three" deleted' in kubectl("-n", namespace, "delete", "configmap", "-l", "go=away")
    names = kubectl("-n", namespace, "get", "configmap", "-o", "name").split()
    assert [name for name in names if "kube-root-ca" not in name] == ["configmap/one"]


def test_logs(demo_kubectl: Kubectl) -> None:
    """logs are plain text, not JSON."""
    lines = demo_kubectl("logs", CLOCK, "--tail=3").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("made-up line ") for line in lines)


def test_logs_follow(demo_kubectl: Kubectl) -> None:
    """logs -f prints each line as it is written."""
    with demo_kubectl.process("logs", "-f", "--tail=1", CLOCK) as logs:
        first = int(logs.wait_for_output(r"^made-up line (\d+) ", "stdout")[1])
        for number in (first + 1, first + 2):
            logs.wait_for_output(rf"^made-up line {number} ", "stdout")


def test_exec_is_refused_by_default(demo_kubectl: Kubectl) -> None:
    """As by kubectl proxy; but the refusal names the rule, and kubectl shows it."""
    done = demo_kubectl.run("exec", CLOCK, "--", "echo", "hello")
    assert done.code == 1
    assert "--reject-paths '^/api/.*/pods/.*/exec'" in done.err
    assert "to allow it" in done.err
    assert "hello" not in done.out


def test_exec(exec_kubectl: Kubectl) -> None:
    """Both outputs and the exit code of a command come over a WebSocket."""
    done = exec_kubectl.run("exec", CLOCK, "--", "cat", "/etc/hostname", "/nope")
    assert (done.code, done.out) == (1, "clock\n")
    assert done.err.startswith("cat: /nope: No such file or directory\n")
    assert "exit code 1" in done.err


def test_exec_with_standard_input(exec_kubectl: Kubectl) -> None:
    """The end of standard input reaches the command, after all that came before."""
    content = b"".join(b"line %d\n" % number for number in range(20_000))
    assert exec_kubectl("exec", "-i", CLOCK, "--", "cat", stdin=content).encode() == content


def test_exec_answers_line_by_line(exec_kubectl: Kubectl) -> None:
    """A conversation: each side waits for the other before it goes on."""
    command = [f"--server={exec_kubectl.server}", "exec", "-i", CLOCK, "--", "sh"]
    shell = subprocess.Popen(
        ["kubectl", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=exec_kubectl.env, bufsize=0
    )
    with shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            for number in range(3):
                shell.stdin.write(b"echo answer-%d\n" % number)
                assert shell.stdout.readline() == b"answer-%d\n" % number
            shell.stdin.write(b"exit 7\n")
            shell.stdin.close()
            assert shell.wait(SECONDS) == 7
        finally:
            shell.kill()


def test_exec_over_spdy_tells_why_not(connect: Connect, open_proxy: ProxyProcess) -> None:
    """The upgrade that the cluster refuses is answered in the cluster's own words."""
    kubectl = connect(open_proxy)
    env = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
    done = kubectl.run("exec", CLOCK, "--", "echo", "hello", env=env)
    assert done.code == 1
    assert "the demo cluster serves exec over WebSocket only" in done.err


def test_exec_with_bytes_of_every_value(exec_kubectl: Kubectl) -> None:
    """They arrive as they are, in either direction, as cp (tar over exec) needs it."""
    content = random.Random(7).randbytes(700_000)
    command = ["kubectl", f"--server={exec_kubectl.server}", "exec", "-i", CLOCK, "--", "cat"]
    done = subprocess.run(
        command, input=content, capture_output=True, env=exec_kubectl.env, timeout=SECONDS, check=True
    )
    assert done.stdout == content


def test_attach_shows_what_is_written(exec_kubectl: Kubectl) -> None:
    """attach without a terminal is the output from now on."""
    with exec_kubectl.process("attach", CLOCK) as attached:
        first = int(attached.wait_for_output(r"^made-up line (\d+) ", "stdout")[1])
        attached.wait_for_output(rf"^made-up line {first + 1} ", "stdout")


def test_port_forward_tells_why_not(demo_kubectl: Kubectl) -> None:
    """The demo cluster has no ports; its refusal of the upgrade comes through. (Tunnels: conformance.)"""
    done = demo_kubectl.run("port-forward", f"pod/{CLOCK}", ":80")
    assert done.code == 1
    assert "the demo cluster does not forward ports" in done.err


def test_top_without_metrics(demo_kubectl: Kubectl) -> None:
    """No metrics API is an error of the cluster, not of the proxy."""
    done = demo_kubectl.run("top", "pods")
    assert (done.code, done.err) == (1, "error: Metrics API not available\n")


def test_discovery(demo_kubectl: Kubectl) -> None:
    """api-resources, version and auth can-i need discovery alone."""
    assert re.search(r"^crontabs +ct +", demo_kubectl("api-resources"), re.MULTILINE)
    assert "kproxy-demo" in demo_kubectl("version")
    assert "yes" in demo_kubectl("auth", "can-i", "get", "pods")


@pytest.mark.skipif(
    KUBECTL is not None and _minor_version() < 27, reason="OpenAPI v3, which the demo has, came with 1.27"
)
def test_explain(demo_kubectl: Kubectl) -> None:
    """explain reads OpenAPI v3."""
    assert re.search(r"^KIND: +Pod$", demo_kubectl("explain", "pods"), re.MULTILINE)


def test_it_is_a_kubectl_plugin(cluster: Cluster, tmp_path: Path) -> None:
    """With kubectl-kproxy in PATH, `kubectl kproxy` serves, and ends in order with kubectl."""
    plugin = tmp_path / "kubectl-kproxy"
    plugin.write_text(f"#!{sys.executable}\nimport sys\nfrom kproxy.__main__ import main\nsys.exit(main())\n")
    plugin.chmod(0o755)
    env = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KUBECONFIG": str(cluster.kubeconfig),
    }
    with ProxyProcess(["kubectl", "kproxy", "--port=0", "--v=0"], env=env) as program:
        connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=SECONDS)
        connection.request("GET", "/version")
        assert b"gitVersion" in connection.getresponse().read()
        connection.close()
        assert program.stop() == 0

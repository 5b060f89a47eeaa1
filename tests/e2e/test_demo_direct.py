"""Real clients on the demo cluster without any proxy: kubectl, curl, the Python client.

What works here and not through kproxy is kproxy's fault.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clusters import Cluster
from tests.e2e.demo_clients import (
    OPENAPI_V3_MINOR,
    WEBSOCKET_MINOR,
    Client,
    Kubectl,
    find_curl,
    find_kubectl,
    need_minor,
)

_numbers = itertools.count(1)

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, labels: {app: nginx}}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - {name: nginx, image: "nginx:1.27", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: COLOR}
---
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine}
spec: {cronSpec: "* * * * *", image: COLOR}
"""


def manifest(color: str, replicas: int = 2) -> str:
    return MANIFEST.replace("COLOR", color).replace("REPLICAS", str(replicas))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def kubectl(demo: Cluster, home: Path) -> Kubectl:
    """With a namespace of its own as the default."""
    found = find_kubectl(demo.kubeconfig, home)
    namespace = f"direct-{next(_numbers)}"
    found("create", "namespace", namespace)
    return Kubectl([*found.command, f"--namespace={namespace}"], found.environment)


@pytest.fixture
def exec_kubectl(demo: Cluster, home: Path) -> Kubectl:
    """For exec, in the namespace default with its pod `clock`."""
    found = find_kubectl(demo.kubeconfig, home)
    need_minor(found, WEBSOCKET_MINOR, "the demo cluster serves exec over WebSocket, not over SPDY")
    return found


@pytest.fixture
def pod(kubectl: Kubectl) -> str:
    kubectl("run", "box", "--image=demo/box:1")
    kubectl("wait", "--for=condition=Ready", "pod/box", "--timeout=60s")
    return "box"


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[Iterator[str]]:
    """The lines of a program that is ended with the block."""
    with process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.kill()


def test_get_shows_tables(kubectl: Kubectl) -> None:
    """All namespaces, wide columns, nodes, custom kinds with their own columns, everything."""
    lines = kubectl("get", "pods", "-A").splitlines()
    assert lines[0].split() == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert any(line.split()[:4] == ["default", "clock", "1/1", "Running"] for line in lines)
    wide = kubectl("get", "pods", "-A", "-o", "wide")
    assert "NODE" in wide.splitlines()[0]
    assert "demo-node-1" in wide
    assert "+kproxy-demo" in kubectl("get", "nodes")
    assert kubectl("get", "ct", "-n", "shop").split()[:3] == ["NAME", "SCHEDULE", "AGE"]
    everything = kubectl("get", "all", "-n", "default", "-o", "name").split()
    assert {"pod/clock", "service/kubernetes", "deployment.apps/hello"} <= set(everything)


def test_get_as_json_selects_and_sorts(kubectl: Kubectl) -> None:
    """Raw objects, selectors and client-side sorting over what the server sends."""
    pods = kubectl.json("get", "pods", "-A", "-l", "app in (web, cart)")["items"]
    assert {pod["metadata"]["labels"]["app"] for pod in pods} == {"web", "cart"}
    assert {pod["kind"] for pod in pods} == {"Pod"}
    names = kubectl("get", "secrets", "-A", "--sort-by=.metadata.name", "-o", "name").split()
    assert names == ["secret/db-credentials", "secret/demo-token"]
    chunked = kubectl("get", "pods", "-A", "--chunk-size=4", "-o", "name").split()
    assert len(chunked) == len(set(chunked)) >= 12


def test_services_and_their_endpoints(kubectl: Kubectl) -> None:
    """The columns of a real cluster; describing a service and scaling its deployment show the endpoints."""
    n = ("-n", "shop")
    lines = kubectl("get", "services", *n).splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert {line.split()[0] for line in lines[1:]} == {"cart", "web", "worker"}
    heads, row = kubectl("get", "endpointslices", *n, "-l", "kubernetes.io/service-name=web").splitlines()
    assert heads.split() == ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]
    addresses = {pod["status"]["podIP"] for pod in kubectl.json("get", "pods", *n, "-l", "app=web")["items"]}
    assert row.split()[1:4] == ["IPv4", "8080", ",".join(row.split()[3].split(","))]
    assert set(row.split()[3].split(",")) == addresses
    assert "TargetPort:" in kubectl("describe", "service", "web", *n)
    kubectl("apply", "-f", "-", stdin=manifest("red", replicas=2))
    kubectl("expose", "deployment", "nginx", "--port=80")
    kubectl("rollout", "status", "deployment/nginx", "--timeout=60s")
    path = "jsonpath={.endpoints[1].conditions.ready}=true"
    kubectl(
        "wait", "endpointslices", "-l", "kubernetes.io/service-name=nginx", f"--for={path}", "--timeout=60s"
    )


def test_describe(kubectl: Kubectl) -> None:
    """Typed clients read every kind of built-in object."""
    assert "Pretended to start the containers" in kubectl("describe", "pod", "clock", "-n", "default")
    assert "RollingUpdate" in kubectl("describe", "deployment", "web", "-n", "shop")
    assert "pretended by kproxy demo" in kubectl.run("describe", "node", "demo-node-1").stdout
    for what in ("service/hello", "configmap/about-this-demo", "secret/demo-token", "ct/my-crontab"):
        assert kubectl("describe", what, "-n", "default").startswith("Name:")


def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    """Client-side apply makes three-way patches of built-in and custom kinds; deleting takes them away."""
    kinds = ["deployment.apps/nginx", "configmap/settings", "crontab.stable.example.com/mine"]

    def apply(color: str) -> list[str]:
        return kubectl("apply", "-f", "-", stdin=manifest(color)).splitlines()

    assert apply("red") == [f"{kind} created" for kind in kinds]
    assert apply("red") == [f"{kind} unchanged" for kind in kinds]
    assert apply("blue") == [f"{kinds[0]} unchanged", f"{kinds[1]} configured", f"{kinds[2]} configured"]
    assert kubectl.json("get", "configmap", "settings")["data"] == {"color": "blue"}
    kubectl("delete", "-f", "-", "--timeout=60s", stdin=manifest("blue"))
    assert "NotFound" in kubectl.fails("get", "ct", "mine")


def test_server_side_apply(kubectl: Kubectl) -> None:
    """apply --server-side creates and merges."""
    kubectl("apply", "--server-side", "-f", "-", stdin=manifest("red"))
    kubectl("apply", "--server-side", "-f", "-", stdin=manifest("blue"))
    assert kubectl.json("get", "configmap", "settings")["data"] == {"color": "blue"}


def test_create_from_flags_and_files(kubectl: Kubectl) -> None:
    """Typed commands, which are protobuf since 1.32, and what they leave to the server."""
    kubectl("create", "configmap", "a", "--from-literal=x=y")
    assert '"a" already exists' in kubectl.fails("create", "configmap", "a")
    kubectl("create", "secret", "generic", "s", "--from-literal=k=not-a-secret")
    assert kubectl.json("get", "secret", "s")["data"] == {"k": "bm90LWEtc2VjcmV0"}
    kubectl("create", "deployment", "none", "--image=demo/none", "--replicas=0", "--port=80")
    assert kubectl.json("get", "deployment", "none")["spec"]["replicas"] == 0
    kubectl("expose", "deployment", "none")
    assert kubectl.json("get", "service", "none")["spec"]["ports"][0]["port"] == 80


def test_the_server_runs_dry_and_explains(kubectl: Kubectl) -> None:
    """A dry run answers and stores nothing; a kind is explained."""
    need_minor(kubectl, OPENAPI_V3_MINOR, "older ones read OpenAPI v2")
    assert "server dry run" in kubectl("create", "configmap", "a", "--dry-run=server")
    assert "NotFound" in kubectl.fails("get", "configmap", "a")
    assert "CronTab" in kubectl("explain", "crontabs")


@pytest.mark.parametrize(
    ("kind", "patch", "data"),
    [
        ("strategic", '{"data":{"b":"2"}}', {"a": "1", "b": "2"}),
        ("merge", '{"data":{"a":null,"b":"2"}}', {"b": "2"}),
        ("json", '[{"op":"add","path":"/data/b","value":"2"},{"op":"remove","path":"/data/a"}]', {"b": "2"}),
    ],
)
def test_patch(kubectl: Kubectl, kind: str, patch: str, data: dict[str, str]) -> None:
    """Three types of patches, as `kubectl edit` sends them too."""
    kubectl("create", "configmap", "a", "--from-literal=a=1")
    kubectl("patch", "configmap", "a", f"--type={kind}", "-p", patch)
    assert kubectl.json("get", "configmap", "a")["data"] == data


def test_label_annotate_replace_and_edit(kubectl: Kubectl) -> None:
    """Labels and annotations come and go; replace sends a whole object; edit what the editor left."""
    kubectl("create", "configmap", "a", "--from-literal=a=1")
    kubectl("label", "configmap", "a", "color=red")
    kubectl("annotate", "configmap", "a", "note=here")
    value = kubectl.json("get", "configmap", "a")
    assert (value["metadata"]["labels"], value["metadata"]["annotations"]) == (
        {"color": "red"},
        {"note": "here"},
    )
    kubectl("label", "configmap", "a", "color-")
    assert "labels" not in kubectl.json("get", "configmap", "a")["metadata"]
    conflict = kubectl.fails("replace", "-f", "-", stdin=json.dumps(value))
    assert "the object has been modified" in conflict
    editor = Client(kubectl.command, {**kubectl.environment, "KUBE_EDITOR": "sed -i s/here/there/"})
    assert editor("edit", "configmap", "a") == "configmap/a edited\n"
    assert kubectl.json("get", "configmap", "a")["metadata"]["annotations"] == {"note": "there"}


def test_scale_wait_and_roll_out(kubectl: Kubectl) -> None:
    """Pods follow the replicas, a new image rolls out, and kubectl's waiting commands see the end of it."""
    kubectl("apply", "-f", "-", stdin=manifest("red", replicas=1))
    kubectl("scale", "deployment", "nginx", "--replicas=3")
    kubectl("rollout", "status", "deployment/nginx", "--timeout=60s")
    kubectl("wait", "--for=condition=Available", "deployment/nginx", "--timeout=60s")
    assert kubectl("get", "deployment", "nginx").splitlines()[1].split()[:4] == ["nginx", "3/3", "3", "3"]
    kubectl("set", "image", "deployment/nginx", "nginx=nginx:1.28")
    kubectl("rollout", "status", "deployment/nginx", "--timeout=60s")
    images = {
        each["spec"]["containers"][0]["image"]
        for each in kubectl.json("get", "pods")["items"]
        if "deletionTimestamp" not in each["metadata"]
    }
    assert images == {"nginx:1.28"}


def test_get_watches(kubectl: Kubectl) -> None:
    """`get -w` shows a row for each change."""
    kubectl("apply", "-f", "-", stdin=manifest("red", replicas=1))
    kubectl("rollout", "status", "deployment/nginx", "--timeout=60s")
    with running(kubectl.start("get", "deployment", "nginx", "-w")) as lines:
        assert next(lines).split()[:2] == ["NAME", "READY"]
        assert next(lines).split()[:2] == ["nginx", "1/1"]
        kubectl("scale", "deployment", "nginx", "--replicas=2")
        assert any(line.split()[:2] == ["nginx", "2/2"] for line in lines)


def test_logs(kubectl: Kubectl, pod: str) -> None:
    """A few lines, with their times, and followed as they come."""
    assert len(kubectl("logs", "clock", "--tail=3", "-n", "default").splitlines()) == 3
    stamped = kubectl("logs", "clock", "--tail=1", "--timestamps", "-n", "default")
    assert "Z made-up line" in stamped
    with running(kubectl.start("logs", "-f", pod)) as lines:
        numbers = [int(next(lines).split()[2]) for _ in range(3)]
        assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_exec(exec_kubectl: Kubectl) -> None:
    """Output, errors, exit code and standard input of a command."""
    done = exec_kubectl.run("exec", "clock", "--", "cat", "/etc/hostname", "/nope")
    assert (done.returncode, done.stdout) == (1, "clock\n")
    assert done.stderr.splitlines()[0] == "cat: /nope: No such file or directory"
    assert exec_kubectl.run("exec", "clock", "--", "sh", "-c", "exit 3").returncode == 3
    assert (
        exec_kubectl("exec", "-i", "clock", "--", "cat", stdin="in and out\n" * 1000) == "in and out\n" * 1000
    )
    unknown = exec_kubectl.run("exec", "clock", "--", "nosuch")
    assert (unknown.returncode, "executable file not found" in unknown.stderr) == (127, True)


def test_run_attached(exec_kubectl: Kubectl) -> None:
    """`kubectl run -i --rm`: a shell in a pod of its own, which goes with it."""
    done = exec_kubectl.run(
        "run", "shell", "-i", "--tty=false", "--rm", "--restart=Never", "--image=demo/box:1", "--", "sh"
    )
    assert done.returncode == 0, done
    # kubectl asks for the deletion and does not wait for it.
    exec_kubectl.run("wait", "--for=delete", "pod/shell", "--timeout=20s")
    assert "NotFound" in exec_kubectl.fails("get", "pod", "shell")


def test_deleting_pods(kubectl: Kubectl, pod: str) -> None:
    """Gracefully until it is gone, by label, and a whole namespace."""
    kubectl("delete", "pod", pod, "--timeout=60s")
    assert 'pods "box" not found' in kubectl.fails("get", "pod", pod)
    kubectl("run", "other", "--image=demo/box:1", "--labels=a=b")
    kubectl("delete", "pods", "-l", "a=b", "--timeout=60s")
    namespace = kubectl.command[-1].partition("=")[2]
    # It warns that namespaces are in no namespace.
    assert kubectl.run("delete", "namespace", namespace, "--timeout=60s").returncode == 0
    assert "NotFound" in kubectl.fails("get", "namespace", namespace)


def test_what_it_is_and_what_one_may(kubectl: Kubectl) -> None:
    """Version, resources, rights; and no metrics, said properly."""
    assert json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"].endswith(
        "+kproxy-demo"
    )
    names = kubectl("api-resources", "-o", "name").split()
    assert {"pods", "deployments.apps", "crontabs.stable.example.com"} <= set(names)
    assert kubectl("auth", "can-i", "delete", "pods").strip() == "yes"
    assert "Metrics API not available" in kubectl.fails("top", "pods")


def test_forbidden_is_what_kubectl_says(kubectl: Kubectl) -> None:
    """To nobody in particular everything is forbidden, in the words of a real cluster."""
    error = kubectl.fails("get", "pods", "-A", "--as=system:anonymous")
    assert error == (
        'Error from server (Forbidden): pods is forbidden: User "system:anonymous" cannot list resource '
        '"pods" in API group "" at the cluster scope\n'
    )


def test_curl(demo: Cluster, tmp_path: Path) -> None:
    """Reads for people, a watch that shows a change, and a write in each way."""
    curl, url = find_curl(demo.kubeconfig, tmp_path)
    assert '\n  "gitVersion": "v1.32.0+kproxy-demo",\n' in curl(f"{url}/version")
    maps = f"{url}/api/v1/namespaces/default/configmaps"
    json_type = ("--header", "Content-Type: application/json")
    with running(curl.start(f"{maps}?watch=true")) as lines:
        assert json.loads(next(lines))["object"]["metadata"]["name"] == "about-this-demo"
        made = json.loads(curl(maps, *json_type, "--data", '{"metadata":{"name":"curled"},"data":{"a":"1"}}'))
        event = json.loads(next(lines))
        assert (event["type"], event["object"]["metadata"]["uid"]) == ("ADDED", made["metadata"]["uid"])
    made["data"]["a"] = "2"
    assert '"a": "2"' in curl("--request", "PUT", f"{maps}/curled", *json_type, "--data", json.dumps(made))
    assert '"status": "Success"' in curl("--request", "DELETE", f"{maps}/curled")
    form = json.loads(curl(maps, "--data", "a=b"))
    assert form["code"] == 415


@pytest.mark.parametrize(("flag", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl_over_either_version(demo: Cluster, tmp_path: Path, flag: str, version: str) -> None:
    """What ALPN offers is up to the client, and makes no difference to what it gets."""
    curl, url = find_curl(demo.kubeconfig, tmp_path)
    *body, last = curl(flag, "--write-out", "\\n%{http_version}", f"{url}/api/v1/nodes").splitlines()
    assert (json.loads("\n".join(body))["kind"], last) == ("NodeList", version)


def test_the_python_client(demo: Cluster, home: Path) -> None:
    """List, create, conflict, watch, exec with streams, scale, custom objects, in a process of its own."""
    pytest.importorskip("kubernetes", reason="the Python client is not installed (pip install kubernetes)")
    script = """
        from kubernetes import client, config, dynamic, watch
        from kubernetes.stream import stream

        config.load_kube_config()
        core, apps = client.CoreV1Api(), client.AppsV1Api()
        assert "clock" in [pod.metadata.name for pod in core.list_namespaced_pod("default").items]
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="py"), data={"a": "1"})
        made = core.create_namespaced_config_map("default", body)
        made.data["a"] = "2"
        core.replace_namespaced_config_map("py", "default", made)
        try:
            core.replace_namespaced_config_map("py", "default", made)
        except client.ApiException as error:
            assert error.status == 409, error
        else:
            raise AssertionError("a stale version was taken")
        core.patch_namespaced_config_map("py", "default", {"data": {"b": "3"}})
        for event in watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=20):
            if event["object"].metadata.name == "py":
                assert event["object"].data == {"a": "2", "b": "3"}
                break
        core.delete_namespaced_config_map("py", "default")

        arguments = {"stdout": True, "stderr": True, "tty": False, "_preload_content": False}
        shell = stream(
            core.connect_get_namespaced_pod_exec, "clock", "default", command=["sh"], stdin=True, **arguments
        )
        shell.write_stdin("echo out\\ncat /nope\\n")
        assert shell.readline_stdout(timeout=60) == "out"
        assert shell.readline_stderr(timeout=60) == "cat: /nope: No such file or directory"
        shell.write_stdin("exit 3\\n")
        shell.run_forever(timeout=60)
        assert shell.returncode == 3, shell.returncode

        scale = apps.patch_namespaced_deployment_scale("cart", "shop", {"spec": {"replicas": 3}})
        assert scale.spec.replicas == 3
        apps.patch_namespaced_deployment_scale("cart", "shop", {"spec": {"replicas": 2}})
        assert len(core.read_namespaced_pod_log("clock", "default", tail_lines=2).splitlines()) == 2
        custom = dynamic.DynamicClient(client.ApiClient())
        crontabs = custom.resources.get(api_version="stable.example.com/v1", kind="CronTab")
        assert crontabs.get(name="my-crontab", namespace="default").spec.cronSpec == "*/5 * * * *"
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": str(home), "KUBECONFIG": str(demo.kubeconfig)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

"""The Python client `kubernetes` through kproxy: urllib3 for requests, websocket-client for exec."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from kubernetes import client, watch
from kubernetes.stream import stream, ws_client

from tests.e2e.clusters import Api, Cluster, config_map
from tests.support.program import Program

SECONDS = 60
EXEC = {"stderr": True, "stdout": True, "tty": False, "_request_timeout": SECONDS}
Connect = Callable[[Program], client.CoreV1Api]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A client for the address of a kproxy, without any credential."""
    with contextlib.ExitStack() as stack:

        def connected(program: Program) -> client.CoreV1Api:
            api_client = client.ApiClient(client.Configuration(host=program.url))
            stack.callback(_close, api_client)
            return client.CoreV1Api(api_client)

        yield connected


@pytest.fixture
def core(connect: Connect, proxy: Program) -> client.CoreV1Api:
    return connect(proxy)


def _close(api_client: client.ApiClient) -> None:
    """ApiClient.close leaves the connections to the garbage collector."""
    pools = api_client.rest_client.pool_manager.pools
    for key in pools.keys():  # noqa: SIM118 -- it cannot be iterated over
        pools[key].close()
    api_client.close()


def named(name: str, **data: str) -> client.V1ConfigMap:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def test_the_life_of_an_object(core: client.CoreV1Api, namespace: str) -> None:
    """create, read, patch, replace with a conflict, delete."""
    core.create_namespaced_config_map(namespace, named("it", a="1"), _request_timeout=SECONDS)
    made = core.read_namespaced_config_map("it", namespace)
    core.patch_namespaced_config_map("it", namespace, {"data": {"b": "2"}})
    made.data = {"a": "3"}
    with pytest.raises(client.ApiException) as refused:
        core.replace_namespaced_config_map("it", namespace, made)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert core.read_namespaced_config_map("it", namespace).data == {"a": "1", "b": "2"}
    core.delete_namespaced_config_map("it", namespace)
    with pytest.raises(client.ApiException, match="NotFound"):
        core.read_namespaced_config_map("it", namespace)


def test_a_list_in_pages(core: client.CoreV1Api, namespace: str, api: Api) -> None:
    """limit and continue: all objects, none twice, over one kept connection."""
    for number in range(5):
        api.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map(f"map-{number}"))
    found: list[str] = []
    pages = 0
    token = None
    while pages == 0 or token:
        page = core.list_namespaced_config_map(namespace, limit=2, _continue=token, _request_timeout=SECONDS)
        assert len(page.items) <= 2
        found += [each.metadata.name for each in page.items]
        token = page.metadata._continue
        pages += 1
    assert [name for name in found if name.startswith("map-")] == [f"map-{number}" for number in range(5)]
    assert pages >= 3


def test_a_watch_shows_changes(core: client.CoreV1Api, namespace: str, api: Api) -> None:
    """Each change once, in order, while it happens."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = core.list_namespaced_config_map(namespace).metadata.resource_version
    events = watch.Watch()
    steps: list[Callable[[], Any]] = [
        lambda: api.merge(f"{path}/it", {"data": {"a": "1"}}),
        lambda: api.ask("DELETE", f"{path}/it"),
        events.stop,
    ]
    api.ask("POST", path, config_map("it", a="0"))
    seen = []
    for event in events.stream(
        core.list_namespaced_config_map, namespace, resource_version=since, _request_timeout=SECONDS
    ):
        if event["object"].metadata.name == "it":
            seen.append((event["type"], event["object"].data))
            steps.pop(0)()
    assert seen == [("ADDED", {"a": "0"}), ("MODIFIED", {"a": "1"}), ("DELETED", {"a": "1"})]


def test_a_watch_resumes_after_its_time_is_over(core: client.CoreV1Api, namespace: str, api: Api) -> None:
    """The server ends a watch after timeoutSeconds: a good end, and nothing is missed from there on."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.ask("POST", path, config_map("one"))
    events = watch.Watch()
    listed = {"timeout_seconds": 1, "_request_timeout": SECONDS}
    seen = [
        event["object"].metadata.name
        for event in events.stream(core.list_namespaced_config_map, namespace, **listed)
    ]
    assert "one" in seen
    api.ask("POST", path, config_map("two"))
    resumed = []
    for event in events.stream(
        core.list_namespaced_config_map, namespace, resource_version=events.resource_version, **listed
    ):
        resumed.append(event["object"].metadata.name)
        events.stop()
    assert resumed == ["two"]


def test_a_watch_resumes_after_a_cut(
    connect: Connect, cluster: Cluster, namespace: str, api: Api, reserved_port: int
) -> None:
    """kproxy dies under a watch: the client hears of it, and gets what it missed from the next kproxy."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = api.ask("GET", path)["metadata"]["resourceVersion"]
    api.ask("POST", path, config_map("one"))
    port = f"--port={reserved_port}"
    events = watch.Watch()

    def names(core: client.CoreV1Api, since: str) -> Iterator[str]:
        for event in events.stream(
            core.list_namespaced_config_map, namespace, resource_version=since, _request_timeout=SECONDS
        ):
            yield event["object"].metadata.name

    with Program(port, kubeconfig=cluster.kubeconfig) as first:
        watched = names(connect(first), since)
        assert next(watched) == "one"
        first.kill()
        with pytest.raises(urllib3.exceptions.HTTPError):
            next(watched)
    api.ask("POST", path, config_map("two"))
    with Program(port, kubeconfig=cluster.kubeconfig) as second:
        watched = names(connect(second), events.resource_version)
        assert next(watched) == "two"
        watched.close()


@contextlib.contextmanager
def opened(core: client.CoreV1Api, *command: str, stdin: bool = False) -> Iterator[ws_client.WSClient]:
    """A running command in the pod `clock`."""
    call = core.connect_get_namespaced_pod_exec
    running = stream(
        call, "clock", "default", command=list(command), stdin=stdin, _preload_content=False, **EXEC
    )
    try:
        yield running
    finally:
        # close() does nothing once the server has said that it closes.
        running.sock.shutdown()


def test_exec_gives_both_outputs(connect: Connect, open_proxy: Program) -> None:
    """A command from its start to its end, with its exit code."""
    with opened(connect(open_proxy), "cat", "/etc/hostname", "/nope") as command:
        command.run_forever(timeout=SECONDS)
        err = "cat: /nope: No such file or directory\n"
        assert (command.read_stdout(), command.read_stderr()) == ("clock\n", err)
        assert command.returncode == 1


def test_exec_as_a_conversation(connect: Connect, open_proxy: Program) -> None:
    """Standard input while it runs, and the exit code at the end."""
    with opened(connect(open_proxy), "sh", stdin=True) as shell:
        for number in range(3):
            shell.write_stdin(f"echo answer-{number}\n")
            assert shell.readline_stdout(timeout=SECONDS) == f"answer-{number}"
        shell.write_stdin("exit 3\n")
        shell.run_forever(timeout=SECONDS)
        assert shell.returncode == 3


def test_exec_is_refused_by_default(connect: Connect, demo_proxy: Program) -> None:
    """The WebSocket is answered 403, and the client shows the Status that names the rule."""
    with pytest.raises(client.ApiException) as refused, opened(connect(demo_proxy), "sh"):
        pass
    assert "403 Forbidden" in str(refused.value)
    assert "--reject-paths" in str(refused.value)


def test_logs(connect: Connect, demo_proxy: Program) -> None:
    """Followed line by line, as they are written."""
    core = connect(demo_proxy)
    lines = watch.Watch().stream(
        core.read_namespaced_pod_log, "clock", "default", tail_lines=1, _request_timeout=SECONDS
    )
    first, second, third = (int(next(lines).split()[2]) for _ in range(3))
    assert (second, third) == (first + 1, first + 2)
    lines.close()

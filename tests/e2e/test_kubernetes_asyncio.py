"""The Python client `kubernetes_asyncio` through kproxy: aiohttp for requests and for exec."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from kubernetes_asyncio import client, watch
from kubernetes_asyncio.stream import WsApiClient

from tests.e2e.clusters import Api, Cluster, config_map
from tests.support.program import Program

SECONDS = 60
EXEC = {"stderr": True, "stdout": True, "tty": False}


@contextlib.asynccontextmanager
async def connected(program: Program) -> AsyncIterator[client.CoreV1Api]:
    async with client.ApiClient(client.Configuration(host=program.url)) as api_client:
        yield client.CoreV1Api(api_client)


@contextlib.asynccontextmanager
async def connected_for_exec(program: Program) -> AsyncIterator[client.CoreV1Api]:
    async with WsApiClient(client.Configuration(host=program.url)) as api_client:
        yield client.CoreV1Api(api_client)


async def test_the_life_of_an_object(proxy: Program, namespace: str) -> None:
    """create, patch, a conflict, delete."""
    async with connected(proxy) as core:
        made = await core.create_namespaced_config_map(
            namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="it"), data={"a": "1"})
        )
        await core.patch_namespaced_config_map("it", namespace, {"data": {"b": "2"}})
        made.data = {"a": "3"}
        with pytest.raises(client.ApiException, match="Conflict"):
            await core.replace_namespaced_config_map("it", namespace, made)
        assert (await core.read_namespaced_config_map("it", namespace)).data == {"a": "1", "b": "2"}
        await core.delete_namespaced_config_map("it", namespace)
        with pytest.raises(client.ApiException, match="NotFound"):
            await core.read_namespaced_config_map("it", namespace)


async def test_a_list_in_pages(proxy: Program, namespace: str, api: Api) -> None:
    """limit and continue: all objects, none twice."""
    for number in range(5):
        api.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map(f"map-{number}"))
    found: list[str] = []
    more: dict[str, Any] = {}
    async with connected(proxy) as core:
        while True:
            page = await core.list_namespaced_config_map(namespace, limit=2, **more)
            assert len(page.items) <= 2
            found += [each.metadata.name for each in page.items]
            if not page.metadata._continue:
                break
            more = {"_continue": page.metadata._continue}
    assert [name for name in found if name.startswith("map-")] == [f"map-{number}" for number in range(5)]


async def test_many_requests_at_once(demo_proxy: Program) -> None:
    """Each answer is that of its own request."""
    async with connected(demo_proxy) as core, asyncio.timeout(SECONDS):
        listed = await core.list_pod_for_all_namespaces()
        pods = [(each.metadata.name, each.metadata.namespace) for each in listed.items] * 5
        read = await asyncio.gather(*(core.read_namespaced_pod(*pod) for pod in pods))
    assert [(each.metadata.name, each.metadata.namespace) for each in read] == pods


async def test_a_watch_resumes_after_a_cut(
    cluster: Cluster, namespace: str, api: Api, reserved_port: int
) -> None:
    """kproxy dies under a watch: the client hears of it, and gets what it missed from the next kproxy."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = api.ask("GET", path)["metadata"]["resourceVersion"]
    api.ask("POST", path, config_map("one"))
    port = f"--port={reserved_port}"
    events = watch.Watch()

    async with asyncio.timeout(SECONDS):
        async with Program(port, kubeconfig=cluster.kubeconfig) as first, connected(first) as core:
            watched = events.stream(core.list_namespaced_config_map, namespace, resource_version=since)
            assert (await anext(watched))["object"].metadata.name == "one"
            first.kill()
            with pytest.raises(aiohttp.ClientPayloadError):
                await anext(watched)
            await events.close()
        api.ask("POST", path, config_map("two"))
        resumed = watch.Watch()
        async with (
            Program(port, kubeconfig=cluster.kubeconfig) as second,
            connected(second) as core,
            resumed.stream(
                core.list_namespaced_config_map, namespace, resource_version=events.resource_version
            ) as watched,
        ):
            assert (await anext(watched))["object"].metadata.name == "two"


async def test_exec_gives_the_output(open_proxy: Program) -> None:
    """A whole command, both outputs together."""
    async with connected_for_exec(open_proxy) as core, asyncio.timeout(SECONDS):
        command = ["cat", "/etc/hostname", "/nope"]
        out = await core.connect_get_namespaced_pod_exec("clock", "default", command=command, **EXEC)
    assert sorted(out.splitlines()) == ["cat: /nope: No such file or directory", "clock"]


async def test_exec_as_a_conversation(open_proxy: Program) -> None:
    """Standard input while it runs, and the exit code at the end, on channels 0, 1 and 3."""
    async with connected_for_exec(open_proxy) as core, asyncio.timeout(SECONDS):
        opening = await core.connect_get_namespaced_pod_exec(
            "clock", "default", command=["sh"], stdin=True, _preload_content=False, **EXEC
        )
        async with opening as socket:
            for number in range(3):
                await socket.send_bytes(b"\0echo answer-%d\n" % number)
                assert await _next(socket, 1) == b"answer-%d\n" % number
            await socket.send_bytes(b"\0exit 3\n")
            status = await _next(socket, 3)
    assert b'"ExitCode"' in status
    assert WsApiClient.parse_error_data(status.decode()) == 3


async def test_exec_is_refused_by_default(demo_proxy: Program) -> None:
    """The WebSocket is answered 403."""
    async with connected_for_exec(demo_proxy) as core, asyncio.timeout(SECONDS):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await core.connect_get_namespaced_pod_exec("clock", "default", command=["sh"], **EXEC)
    assert refused.value.status == 403


async def _next(socket: aiohttp.ClientWebSocketResponse, channel: int) -> bytes:
    """The next message of a channel that says something; an empty one means that it is connected."""
    while True:
        message = await socket.receive_bytes()
        if message[0] == channel and message[1:]:
            return message[1:]

"""A demo cluster in this process and a client that talks to it directly, without any proxy."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from kproxy.demo import DemoCluster
from tests.support.patience import LAST_RESORT_SECONDS

DEFAULT = "/api/v1/namespaces/default"
CONFIGMAPS = f"{DEFAULT}/configmaps"
PODS = f"{DEFAULT}/pods"
HELLO = "/apis/apps/v1/namespaces/default/deployments/hello"
CRONTABS = "/apis/stable.example.com/v1/namespaces/default/crontabs"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
QUICK: Mapping[str, Any] = {"life": False, "settle_seconds": 0.02, "log_seconds": 0.05}
"""Nothing changes but by the test, and what does so is quick."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def names(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.value["items"]]


class DemoSession:
    """Requests with the cluster's client certificate."""

    def __init__(self, cluster: DemoCluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """`body` is sent as it is if it is bytes, else as JSON; header names have `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        data = None
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            data = io.BytesIO(body)
        async with self.http.request(method, self.cluster.url + path, data=data, headers=sent) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.request("GET", path, **headers)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The value of an answer that must be a success."""
        reply = await self.request(method, path, body, **headers)
        assert reply.status < 300, f"{method} {path}: {reply}"
        return reply.value

    @contextlib.asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[Events]:
        """What is not over with its first bytes: a watch, a followed log."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.get(self.cluster.url + path, headers=sent) as response:
            assert response.status == 200, await response.text()
            yield Events(response)

    def watch(self, path: str, **headers: str) -> contextlib.AbstractAsyncContextManager[Events]:
        return self.stream(f"{path}{'&' if '?' in path else '?'}watch=true", **headers)


class Events:
    """The lines of a stream as they come, which with a watch are events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def line(self, seconds: float = LAST_RESORT_SECONDS) -> bytes:
        async with asyncio.timeout(seconds):
            line = await self.response.content.readline()
        if not line:
            raise EOFError
        return line

    async def next(self, seconds: float = LAST_RESORT_SECONDS) -> tuple[str, Any]:
        """Type and object of the next event; TimeoutError if none comes, EOFError at the end."""
        event = json.loads(await self.line(seconds))
        return event["type"], event["object"]

    async def named(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events."""
        found = [await self.next() for _ in range(count)]
        return [(kind, value["metadata"]["name"]) for kind, value in found]


def client_context(cluster: DemoCluster, *, certificate: bool = True) -> ssl.SSLContext:
    """TLS as a client of the cluster has it, with its certificate or with none."""
    context = ssl.create_default_context(cadata=cluster.ca_pem.decode())
    if certificate:
        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder) / "client.pem"
            pair.write_bytes(cluster.client.certificate_pem + cluster.client.key_pem)
            context.load_cert_chain(pair)
    return context


@contextlib.asynccontextmanager
async def open_session(cluster: DemoCluster, *, certificate: bool = True) -> AsyncIterator[DemoSession]:
    """One client of a cluster that runs."""
    connector = aiohttp.TCPConnector(ssl=client_context(cluster, certificate=certificate))
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**24) as http:
        yield DemoSession(cluster, http)


@contextlib.asynccontextmanager
async def open_demo(**arguments: Any) -> AsyncIterator[DemoSession]:
    """A quick demo cluster and a client of it."""
    async with DemoCluster(**{**QUICK, **arguments}) as cluster, open_session(cluster) as session:
        yield session

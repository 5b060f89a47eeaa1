"""The HTTP/2 peer of the tests, held up to real clients: what it says they understand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import secrets
from tests.support.answers import BLOCK
from tests.support.client import RawClient
from tests.support.http2_answers import JSON, answer, big, echo, head, script
from tests.support.http2_answers import end as end_stream
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.program import KubectlProxy, kubeconfig
from tests.support.tools import needs

needs_kubectl, needs_curl = needs("kubectl"), needs("curl")
SIZE = 3_000_000


@pytest.fixture
def ca() -> CA:
    return CA()


@pytest.fixture
async def server(ca: CA) -> AsyncIterator[Http2Server]:
    async with Http2Server(echo(), tls=ca.server_context(alpn=H2)) as server:
        yield server


@pytest.fixture
async def proxy(server: Http2Server, ca: CA, tmp_path: Path) -> AsyncIterator[KubectlProxy]:
    config = kubeconfig(tmp_path, server, ca_pem=ca.pem, token=secrets.plant("token"))
    async with KubectlProxy(kubeconfig=config) as proxy:
        yield proxy


async def curl(server: Http2Server, ca: CA, tmp_path: Path, target: str, *args: str) -> bytes:
    authority = tmp_path / "ca.crt"
    authority.write_bytes(ca.pem)
    command = ["curl", "-q", "-sS", "--fail", "--max-time", "20", "--cacert", str(authority), "--http2"]
    process = await asyncio.create_subprocess_exec(
        *command, *args, server.url + target, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors
    return out


@needs_curl
async def test_curl_speaks_http2_with_it(server: Http2Server, ca: CA, tmp_path: Path) -> None:
    """By ALPN, with fields and body as sent."""
    out = await curl(server, ca, tmp_path, "/x?y", "-d", "hello", "-H", "X-One: 1", "-w", "%{http_version}")
    seen, _, version = out.rpartition(b"}")
    assert version == b"2"
    request = json.loads(seen + b"}")
    assert [":path", "/x?y"] in request["fields"]
    assert ["x-one", "1"] in request["fields"]
    assert request["body"] == "hello"
    assert not server.requests


@needs_curl
async def test_curl_gets_a_big_answer_and_sends_a_big_body(
    server: Http2Server, ca: CA, tmp_path: Path
) -> None:
    """More than any window, both ways."""
    server.paths["/big"] = big(SIZE)
    path = tmp_path / "body"
    path.write_bytes((BLOCK * (SIZE // len(BLOCK) + 1))[:SIZE])
    assert await curl(server, ca, tmp_path, "/big") == path.read_bytes()
    out = await curl(server, ca, tmp_path, "/upload", "--data-binary", f"@{path}")
    assert json.loads(out)["size"] == SIZE


@needs_curl
async def test_curl_understands_its_odd_frames(server: Http2Server, ca: CA, tmp_path: Path) -> None:
    """Padding, an interim answer and trailers."""

    async def respond(stream: Stream) -> None:
        await stream.read_body()
        await stream.send_interim(103, [("link", "</x>")])
        await stream.send_head(200, [JSON])
        await stream.send_data(b"padded", padding=200)
        await stream.send_trailers([("x-sum", "1")])

    server.answers = respond
    assert await curl(server, ca, tmp_path, "/") == b"padded"


@needs_kubectl
async def test_kubectl_speaks_http2_with_it(server: Http2Server, proxy: KubectlProxy) -> None:
    """Requests of several clients share one connection."""
    server.paths["/api/big"] = big(SIZE)
    for _ in range(3):
        async with await RawClient.connect(proxy.address) as client:
            response = await client.request("POST", "/api/x", [("X-One", "1")], b"hello")
            assert response.json()["body"] == "hello"
            response = await client.request("GET", "/api/big")
            assert response.body.size == SIZE
    assert len(server.h2_connections) == 1
    assert not server.requests


@needs_kubectl
async def test_kubectl_streams_from_it(server: Http2Server, proxy: KubectlProxy) -> None:
    """The head comes before the first event; a client that leaves is a RST_STREAM."""
    more = asyncio.Event()
    server.answers = script(head(200, JSON), more, b"event\n", asyncio.Event())
    client = await RawClient.connect(proxy.address)
    await client.send(b"GET /api/v1/pods?watch=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = await client.read_head()
    more.set()
    await client.read_until(response, b"event\n")
    client.close()
    stream = server.streams[-1]
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await stream.over.wait()
    assert stream.reset_code is not None
    server.answers = script(head(200, JSON), b"{}", end_stream)
    async with await RawClient.connect(proxy.address) as client:
        assert (await client.request("GET", "/api")).json() == {}


@needs_kubectl
async def test_kubectl_is_told_of_a_cut_by_it(server: Http2Server, proxy: KubectlProxy) -> None:
    """A stream that is reset in its body is no whole answer."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        await stream.send_data(b"half")
        await stream.reset(2)

    server.answers = respond
    async with await RawClient.connect(proxy.address) as client:
        response = await client.request("GET", "/api")
        assert (response.text, response.body.is_complete) == ("half", False)
    server.answers = answer(b"{}")

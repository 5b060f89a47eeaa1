"""Upgrades: exec, attach, port-forward and WebSockets become bytes both ways after a 101."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import BLOCK, Step, answer, big_sha256, chunk, head, script, sequence, tunnel
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import Program, kubeconfig
from tests.support.upstream import ByteUpstream, Connection, Request

PROGRAM_ARGS = ("--reject-paths=",)
EXEC = "/api/v1/namespaces/ns/pods/p/exec?command=sh&stdin=true"
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
WEBSOCKET = [
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
    ("Sec-WebSocket-Extensions", "permessage-deflate"),
]


async def open_tunnel(gateway: Gateway, method: str = "POST") -> tuple[RawClient, Request]:
    """A client behind its 101, and the request that led to it."""
    client, request = await gateway.start(method, EXEC, UPGRADE)
    response = await client.read_head(method)
    assert response.status == 101
    return client, request


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_bytes_pass_both_ways(gateway: Gateway, method: str) -> None:
    """SPDY's exec is a POST, WebSocket's a GET; what they say is nobody's business but theirs."""
    gateway.answers(tunnel())
    client, _ = await open_tunnel(gateway, method)
    for data in (b"\0\xff\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 1000):
        await client.send(data)
        assert await client.read_exactly(len(data)) == data


async def test_the_fields_of_an_upgrade_reach_the_api_server(gateway: Gateway) -> None:
    """Protocols, keys and repeated stream versions stay; the credential is added, gzip is not asked for."""
    versions = [
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ("X-Stream-Protocol-Version", "channel.k8s.io"),
    ]
    gateway.answers(tunnel())
    client, request = await gateway.start("GET", EXEC, [*WEBSOCKET, *versions])
    assert (await client.read_head()).status == 101
    assert request.target == EXEC
    assert request.value("Authorization") == f"Bearer {gateway.token}"
    assert request.connection.client_certificate_cn == "alice"
    assert request.value("Upgrade") == "websocket"
    assert (request.value("Connection") or "").lower() == "upgrade"
    for name, value in WEBSOCKET[2:]:
        assert request.values(name) == [value]
    assert [field for field in request.headers if field[0] == "X-Stream-Protocol-Version"] == versions
    assert request.value("X-Forwarded-For") == "127.0.0.1"
    assert request.values("Accept-Encoding") == request.values("Content-Length") == []


async def test_the_101_passes_as_it_came(gateway: Gateway) -> None:
    """Names, order and extra fields of the 101 belong to the two ends."""
    fields = [
        ("upgrade", "websocket"),
        ("Connection", "upgrade"),
        ("X-Odd", "1"),
        ("Sec-WebSocket-Accept", "x="),
    ]
    gateway.answers(script(head(101, fields, reason="Switching"), Step.WAIT_FOR_END))
    client, _ = await gateway.start("GET", EXEC, WEBSOCKET)
    response = await client.read_head()
    assert (response.status, response.reason, response.headers) == (101, "Switching", fields)


async def test_bytes_glued_to_the_101_arrive(gateway: Gateway) -> None:
    """A shell prompts at once: its first bytes are often in the packet of the head."""
    gateway.answers(tunnel(first=b"$ "))
    client, _ = await open_tunnel(gateway)
    assert await client.read_exactly(2) == b"$ "


async def test_bytes_glued_to_the_request_arrive(gateway: Gateway) -> None:
    """A client that is sure of its upgrade does not wait for the 101."""
    gateway.answers(tunnel())
    client = await gateway.connect()
    await client.send(request_bytes("POST", EXEC, UPGRADE) + b"early")
    assert (await client.read_head()).status == 101
    assert await client.read_exactly(5) == b"early"


async def test_many_bytes_sent_before_the_101_arrive(gateway: Gateway) -> None:
    """More than we keep waits in the client's kernel until the tunnel stands."""
    go_on = asyncio.Event()

    async def late(connection: Connection, request: Request) -> None:
        await go_on.wait()
        await tunnel()(connection, request)

    gateway.answers(late)
    client, _ = await gateway.start("POST", EXEC, UPGRADE)
    data = BLOCK * 10
    sending = asyncio.create_task(client.send(data))
    go_on.set()
    assert (await client.read_head()).status == 101
    assert await client.read_exactly(len(data)) == data
    await sending


async def test_a_half_close_of_the_api_server_leaves_the_clients_direction_open(tmp_path: Path) -> None:
    """The last bytes of stdin still count when stdout has ended.

    Without TLS only: asyncio ends both directions of TLS at a close_notify. Streams over TLS end in-band.
    """
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def respond(connection: Connection, request: Request) -> None:
        await connection.send(head(101, UPGRADE) + b"bye")
        await connection.channel.shut_write()
        rest.set_result(await connection.read_exactly(5))

    async with (
        ByteUpstream(respond) as upstream,
        Program(*PROGRAM_ARGS, kubeconfig=kubeconfig(tmp_path, upstream)) as program,
        await RawClient.connect(program.address) as client,
    ):
        await client.send(request_bytes("POST", EXEC, UPGRADE))
        assert (await client.read_head()).status == 101
        assert await client.read_to_end() == b"bye"
        await client.send(b"late!")
        assert await asyncio.wait_for(rest, LAST_RESORT_SECONDS) == b"late!"


async def test_bytes_before_the_end_of_the_api_server_arrive(gateway: Gateway) -> None:
    """The last lines of a command's output are the ones that say why it failed."""
    gateway.answers(script(head(101, UPGRADE) + BLOCK * 8, Step.CLOSE))
    client, _ = await open_tunnel(gateway)
    assert await client.read_to_end() == BLOCK * 8
    assert client.end == "eof"


async def test_a_half_close_of_the_client_leaves_the_answer_time_to_arrive(gateway: Gateway) -> None:
    """`echo x | kubectl exec -i ... cat`: stdin ends first, the output is on its way."""

    async def respond(connection: Connection, request: Request) -> None:
        await connection.send(head(101, UPGRADE))
        data = await connection.read_exactly(5)
        await connection.send(data.upper())
        connection.channel.close()

    gateway.answers(respond)
    client, _ = await open_tunnel(gateway)
    await client.send(b"hello")
    await client.shut_write()
    assert await client.read_to_end() == b"HELLO"
    assert client.end == "eof"


async def test_a_reset_of_the_api_server_is_no_tidy_end(gateway: Gateway) -> None:
    """A port-forwarded download that broke off must not look complete to its client, and so is reset, too."""
    ready = asyncio.Event()
    gateway.answers(script(head(101, UPGRADE), ready, Step.RESET))
    client, _ = await open_tunnel(gateway)
    ready.set()
    await client.read_to_end()
    assert client.end == "reset"


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_megabytes_pass_a_tunnel(gateway: Gateway, direction: str) -> None:
    """`kubectl cp` of 8 MB, with a reader that begins late."""
    size = 8_000_000
    found = hashlib.sha256()
    begin = asyncio.Event()

    async def respond(connection: Connection, request: Request) -> None:
        await connection.send(head(101, UPGRADE))
        if direction == "down":
            for start in range(0, size, len(BLOCK)):
                await connection.send(BLOCK[: size - start])
            await connection.read_some()
        else:
            connection.pause_reading()
            await begin.wait()
            connection.resume_reading()
            received = 0
            while received < size and (piece := await connection.read_some()):
                found.update(piece)
                received += len(piece)
            await connection.send(b"!")

    gateway.answers(respond)
    client, _ = await open_tunnel(gateway)
    if direction == "down":
        for _ in range(size // 100_000):
            found.update(await client.read_exactly(100_000))
    else:
        async with asyncio.TaskGroup() as tasks:

            async def upload() -> None:
                for start in range(0, size, len(BLOCK)):
                    await client.send(BLOCK[: size - start])

            tasks.create_task(upload())
            begin.set()
        assert await client.read_exactly(1) == b"!"
    assert found.hexdigest() == big_sha256(size)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_a_refused_upgrade_is_relayed_and_closed(gateway: Gateway, status: int) -> None:
    """kubectl prints the `Status` in it: 'pods "p" not found', and not 'bad handshake'."""
    body = b'{"kind":"Status","message":"no"}'
    gateway.answers(answer(body, status))
    client, _ = await gateway.start("POST", EXEC, UPGRADE)
    response = await client.read_response()
    assert (response.status, bytes(response.body.data)) == (status, body)
    assert response.values("Connection") == ["close"]
    assert await client.read_to_end() == b""


async def test_a_refused_upgrade_in_chunks_is_relayed(gateway: Gateway) -> None:
    """Long refusals have no Content-Length."""
    gateway.answers(script(head(403, [("Transfer-Encoding", "chunked")]) + chunk(b"no") + b"0\r\n\r\n"))
    client, _ = await gateway.start("POST", EXEC, UPGRADE)
    response = await client.read_response()
    assert (response.status, response.text, response.body.is_complete) == (403, "no", True)


@pytest.mark.parametrize("status", [200, 204, 302])
async def test_an_ignored_upgrade_is_an_error(gateway: Gateway, status: int) -> None:
    """kubectl waits for a stream: a plain answer would hang it."""
    gateway.answers(answer(b"", status))
    client, request = await gateway.start("POST", EXEC, UPGRADE)
    response = await client.read_response()
    assert response.status == 502
    assert f"invalid upgrade response: status code {status}" in response.json()["message"]
    assert response.value("Proxy-Status") == "kproxy; error=http_upgrade_failed"
    await asyncio.wait_for(request.connection.ended.wait(), LAST_RESORT_SECONDS)


async def test_a_101_that_nobody_asked_for_is_an_error(gateway: Gateway) -> None:
    """Bytes behind it would reach the client as an answer to its next request."""
    gateway.answers(
        script(head(101, UPGRADE) + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Step.WAIT_FOR_END)
    )
    client = await gateway.connect()
    response = await client.request("GET", "/api")
    assert (response.status, response.value("Proxy-Status")) == (502, "kproxy; error=http_protocol_error")
    gateway.answers(answer(b"next"))
    assert (await client.request("GET", "/api")).text == "next"


async def test_an_upgrade_never_uses_an_idle_connection(gateway: Gateway) -> None:
    """One that died while idle would take the session with it: an exec cannot be sent twice."""
    gateway.answers(sequence(answer(b"{}"), tunnel()))
    await gateway.request()
    await open_tunnel(gateway)
    first, second = gateway.upstream.requests
    assert first.connection is not second.connection


async def test_curls_wish_for_http_2_is_ignored(gateway: Gateway) -> None:
    """`curl --http2` asks for h2c in passing and is content with HTTP/1.1."""
    fields = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")]
    gateway.answers(answer(b"{}"))
    response = await gateway.request(headers=fields)
    assert response.status == 200
    [request] = gateway.upstream.requests
    assert request.values("Upgrade") == request.values("HTTP2-Settings") == []


async def test_an_upgrade_in_http_1_0_is_no_upgrade(gateway: Gateway) -> None:
    """HTTP/1.0 has none (RFC 9110, 7.8)."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    await client.send(request_bytes("GET", "/api", UPGRADE).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (await client.read_response()).status == 200
    assert gateway.upstream.requests[0].values("Upgrade") == []


async def test_a_tunnel_is_logged_at_its_end(gateway: Gateway) -> None:
    """With status 101 and the bytes of both directions; without the query, where the command is."""
    gateway.answers(tunnel())
    path = "/api/v1/namespaces/ns/pods/logged/exec"
    client, _ = await gateway.start("POST", f"{path}?command=hush", UPGRADE)
    await client.read_head()
    await client.send(b"12345")
    await client.read_exactly(5)
    client.close()
    [line] = await gateway.finished(path)
    assert (line["status"], line["bytes_in"], line["verb"]) == (101, 5, "create")
    assert line["bytes_out"] >= 5
    assert "hush" not in gateway.program.stderr

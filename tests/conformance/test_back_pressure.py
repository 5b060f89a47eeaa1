"""Who reads slowly slows down who sends, in both directions; nothing piles up in between."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import zlib

import pytest

from tests.conformance.conftest import Gateway, big_answer
from tests.support import proc
from tests.support.answers import answer, big, big_sha256, head
from tests.support.client import request_bytes
from tests.support.patience import LAST_RESORT_SECONDS, standstill
from tests.support.uploads import Upload
from tests.support.upstream import Connection, Request

SIZE = 40_000_000
SMALL_BUFFER = 32 * 1024
# What the kernels' buffers of both connections and our own may hold on loopback; far from SIZE.
IN_FLIGHT_BYTES = 30_000_000


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_reader_that_stalls_stops_the_api_server(gateway: Gateway, framing: str) -> None:
    """A list of a big cluster must not pile up in the proxy because a pager waits for a key."""
    gateway.answers(big_answer(SIZE, framing))
    client = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER)
    await client.send(request_bytes("GET", "/api"))
    response = await client.read_head()
    connection = gateway.upstream.connections[0]
    assert await standstill(lambda: connection.sent_bytes) < IN_FLIGHT_BYTES
    assert await client.digest(response) == big_sha256(SIZE)
    assert response.body.is_complete


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_api_server_that_stalls_stops_the_upload(gateway: Gateway, framing: str) -> None:
    """The other direction: `kubectl cp` into a slow pod must not fill the proxy's memory."""
    go_on = asyncio.Event()
    found = hashlib.sha256()

    async def read_late(connection: Connection, request: Request) -> None:
        connection.pause_reading()
        await go_on.wait()
        connection.resume_reading()
        while piece := await connection.read_body_piece(request):
            found.update(piece)
        await connection.send(head(200, [("Content-Length", "0")]))

    await gateway.replace_upstream(receive_buffer_bytes=SMALL_BUFFER)
    gateway.answers(read_late)
    client = await gateway.connect()
    upload = Upload(client, SIZE, framing)
    await client.send(request_bytes("POST", "/api", upload.fields))
    await gateway.upstream.wait_for_requests(1)
    uploading = asyncio.create_task(upload.send())
    try:
        assert await standstill(lambda: upload.sent) < IN_FLIGHT_BYTES
        assert not uploading.done()
        go_on.set()
        await asyncio.wait_for(uploading, LAST_RESORT_SECONDS)
    finally:
        uploading.cancel()
    assert (await client.read_response()).status == 200
    assert found.hexdigest() == big_sha256(SIZE)


async def test_a_stalled_reader_of_an_unpacked_answer_stops_the_api_server(gateway: Gateway) -> None:
    """gzip multiplies: 30 KB may stand for 30 MB, which must wait packed, not unpacked."""
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(SIZE // 1_000_000)) + packer.flush()

    async def send(connection: Connection, request: Request) -> None:
        fields = [("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))]
        await connection.send(head(200, fields) + packed)

    gateway.answers(send)
    idle = gateway.program.rss_bytes()
    proc.reset_peak(gateway.program.pid)
    client = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER)
    await client.send(request_bytes("GET", "/api"))
    response = await client.read_head()
    await client.read_rest(response)
    assert (response.body.is_complete, response.body.size) == (True, SIZE)
    assert gateway.program.peak_rss_bytes() - idle < SIZE / 4


async def test_one_stalled_reader_does_not_stop_the_others(gateway: Gateway) -> None:
    """Connections to the API server are not shared: forty watches in a debugger hold up nobody."""
    gateway.answers(big(SIZE))
    gateway.answers(big(10), "/small")
    for _ in range(3):
        stalled = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER)
        await stalled.send(request_bytes("GET", "/api"))
        await stalled.read_head()
    for _ in range(5):
        assert (await gateway.request(target="/small")).body.size == 10


async def test_a_stalled_reader_leaves_a_connection_that_others_can_use(gateway: Gateway) -> None:
    """The API server has answered, the client has not read: nobody else may wait for it."""
    gateway.answers(answer(gzip.compress(bytes(SIZE)), headers=[("Content-Encoding", "gzip")]), "/slow")
    gateway.replies(b"{}")
    slow = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER)
    await slow.send(request_bytes("GET", "/slow"))
    await slow.read_head()
    assert (await gateway.request()).text == "{}"
    assert len(gateway.upstream.connections) == 1


async def test_a_pipelining_client_that_does_not_read_is_not_read(gateway: Gateway) -> None:
    """Requests behind a stalled answer wait in the client's kernel, not in our memory."""
    gateway.answers(big(SIZE))
    client = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER)
    await client.send(request_bytes("GET", "/api"))
    await client.read_head()
    client.timeout = 0.5
    follower = request_bytes("GET", "/api", [("X-Pad", "a" * 8000)])

    async def send_them_all() -> None:
        for _ in range(SIZE // len(follower)):
            await client.send(follower)

    with pytest.raises(TimeoutError):
        await send_them_all()
    assert len(gateway.upstream.requests) == 1


async def test_answers_of_our_own_do_not_pile_up(gateway: Gateway) -> None:
    """Who asks for refusals and pages without reading them is not read either, until it reads."""
    client = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER, timeout=1.0)
    request = request_bytes("GET", "/-/status", [("X-Pad", "a" * 4000)])
    sent = 0

    async def send_them_all() -> None:
        nonlocal sent
        for _ in range(SIZE // len(request)):
            await client.send(request)
            sent += 1

    with pytest.raises(TimeoutError):
        await send_them_all()
    client.timeout = LAST_RESORT_SECONDS
    for _ in range(min(sent, 500)):
        assert (await client.read_response()).status == 200

"""Watches, followed logs and uploads: each piece passes when it comes, in the framing that it came in."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import time
import zlib
from statistics import median

import pytest

from tests.conformance.conftest import Gateway, Http2Gateway, big_answer
from tests.support.answers import Step, big_sha256, chunk, chunked, head, script, watch
from tests.support.client import request_bytes
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.uploads import Upload
from tests.support.upstream import Connection, Request

WATCH = "/api/v1/pods?watch=true"
CHUNKED = [("Transfer-Encoding", "chunked")]
GZIP = [("Content-Encoding", "gzip")]
SIZE = 5_000_000
EVENT_SECONDS = 0.05
ROUNDS = 20


async def test_the_head_of_a_watch_comes_before_its_first_event(either: Gateway) -> None:
    """Client libraries count a watch as open from then on; a quiet namespace must not look hung."""
    running = await either.watch()
    assert (running.response.status, running.response.framing) == (200, "chunked")
    assert running.response.body.size == 0
    await running.ends()


@pytest.mark.numbers
async def test_each_event_comes_within_50_ms(either: Gateway) -> None:
    """A watch is only as good as its delay: no piece waits for a full buffer, a timer or the next one."""
    running = await either.watch()
    delays = []
    for number in range(ROUNDS):
        event = b'{"type":"MODIFIED","object":{"n":%d}}\n' % number
        sent_at = time.monotonic()
        running.events.put_nowait(event)
        assert await running.client.read_piece(running.response) == event
        delays.append(time.monotonic() - sent_at)
    print(f"watch event delay: median {median(delays) * 1e3:.2f} ms, max {max(delays) * 1e3:.2f} ms")
    assert sorted(delays)[ROUNDS // 4] < EVENT_SECONDS, "what a busy machine does not hold up comes at once"


async def test_a_client_may_watch_on_where_a_watch_has_ended(either: Gateway) -> None:
    """The API server ends a watch after a few minutes; clients then resume on the same connection."""
    running = await either.watch()
    await running.goes_on()
    await running.ends()
    running.events.put_nowait(running.last)
    assert (await running.client.request("GET", "/watched?watch=true")).body.is_complete


async def test_many_watches_do_not_mix(either: Gateway) -> None:
    """Forty at once, on one connection if that is HTTP/2: each client sees its own events alone."""

    async def follow(target: str) -> None:
        running = await either.watch(target)
        for number in range(5):
            await running.goes_on(f"{target} {number}\n".encode())
        await running.ends()
        assert running.response.text == "".join(f"{target} {number}\n" for number in range(5))

    await follow("/first")
    await asyncio.gather(*(follow(f"/w{number}") for number in range(40)))
    if isinstance(either, Http2Gateway):
        assert len(either.connections) == 1


async def test_chunks_pass_as_they_came(gateway: Gateway) -> None:
    """Framing is not redone: chunk sizes and trailers are the API server's own."""
    body = b"3\r\nabc\r\n00001\r\nd\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n"
    gateway.answers(script(head(200, [*CHUNKED, ("Trailer", "X-Sum")]) + body))
    client, _ = await gateway.start()
    response = await client.read_head()
    assert response.value("Trailer") == "X-Sum"
    assert await client.read_exactly(len(body)) == body


@pytest.mark.parametrize("is_slow", [False, True], ids=["at-once", "byte-by-byte"])
async def test_chunk_extensions_end_here(gateway: Gateway, is_slow: bool) -> None:
    """They are of one hop (RFC 9112, 7.1.1), as those of uploads, however they are cut on the way."""
    body = b'3;a=b\r\nabc\r\n01 ; x="y"\r\nd\r\n4 \r\n;e=f\r\n0;x\r\nX-Sum: a;b\r\n\r\n'
    passed = b"3\r\nabc\r\n01\r\nd\r\n4\r\n;e=f\r\n0\r\nX-Sum: a;b\r\n\r\n"
    pieces = [body[at : at + 1] for at in range(len(body))] if is_slow else [body]
    gateway.answers(script(head(200, CHUNKED), *pieces))
    client, _ = await gateway.start()
    await client.read_head()
    assert await client.read_exactly(len(passed)) == passed
    gateway.answers(chunked([b"next"]))
    assert (await client.request("GET", "/api")).text == "next"


async def test_an_answer_in_tiny_chunks_arrives_whole(gateway: Gateway) -> None:
    """Read in turns, so that it holds up nobody; also when the API server closes right behind it."""
    size = 100_000
    body = b"".join(b"1\r\n%c\r\n" % (65 + at % 26) for at in range(size)) + b"0\r\n\r\n"
    gateway.answers(script(head(200, CHUNKED) + body), "/kept")
    gateway.answers(script(head(200, [*CHUNKED, ("Connection", "close")]) + body, Step.CLOSE))
    client = await gateway.connect()
    for target in ("/kept", "/kept", "/closed"):
        response = await client.request("GET", target)
        assert response.body.is_complete
        assert bytes(response.body.data) == bytes(65 + at % 26 for at in range(size))


async def test_a_followed_log_without_a_length_passes_as_it_comes(gateway: Gateway) -> None:
    """Kubelets end a log by closing; the client's connection stays, so for it the log is chunked."""
    more, seen = asyncio.Event(), asyncio.Event()
    gateway.answers(
        script(head(200, [("Content-Type", "text/plain")]), b"one\n", more, b"two\n", seen, Step.CLOSE)
    )
    client, _ = await gateway.start(target="/api/v1/namespaces/ns/pods/p/log?follow=true")
    response = await client.read_head()
    assert response.framing == "chunked"
    assert await client.read_piece(response) == b"one\n"
    more.set()
    assert await client.read_piece(response) == b"two\n"
    seen.set()
    assert await client.read_piece(response) == b""
    assert response.body.is_complete
    gateway.answers(chunked([b"next"]))
    assert (await client.request("GET", "/api")).text == "next"


async def test_a_slow_answer_with_a_length_passes_as_it_comes(gateway: Gateway) -> None:
    """A known length is no reason to wait for all of it."""
    more = asyncio.Event()
    gateway.answers(script(head(200, [("Content-Length", "6")]), b"abc", more, b"def"))
    client, _ = await gateway.start()
    response = await client.read_head()
    assert (response.framing, await client.read_piece(response)) == ("length", b"abc")
    more.set()
    assert await client.read_piece(response) == b"def"
    assert response.body.is_complete


async def test_a_dripping_answer_passes_byte_by_byte(gateway: Gateway) -> None:
    """Also a head that comes in single bytes, and a chunk cut anywhere."""
    whole = head(200, CHUNKED) + chunk(b"hello") + chunk(b"!" * 17) + b"0\r\n\r\n"

    async def drip(connection: Connection, request: Request) -> None:
        for byte in whole:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0)

    gateway.answers(drip)
    client = await gateway.connect()
    for _ in range(2):
        response = await client.request("GET", "/api")
        assert (response.text, response.body.is_complete) == ("hello" + "!" * 17, True)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_big_answer_arrives_whole(gateway: Gateway, framing: str) -> None:
    """5 MB in each framing: a list of many pods is no special case."""
    gateway.answers(big_answer(SIZE, framing))
    client, _ = await gateway.start()
    response = await client.read_head()
    assert await client.digest(response) == big_sha256(SIZE)
    assert response.body.is_complete


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_big_upload_arrives_whole(either: Gateway, framing: str) -> None:
    """5 MB in each framing, read as fast as it comes: many times the windows of HTTP/2."""
    found = hashlib.sha256()
    either.reads(found.update)
    client = await either.connect()
    upload = Upload(client, SIZE, framing)
    await client.send(request_bytes("POST", "/api", upload.fields))
    await upload.send()
    assert (await client.read_response()).status == 201
    assert found.hexdigest() == big_sha256(SIZE)


async def test_each_piece_of_an_upload_arrives_when_it_is_sent(either: Gateway) -> None:
    """`kubectl cp` and log shippers stream into requests that last for hours."""
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    either.reads(pieces.put_nowait)
    client = await either.connect()
    await client.send(request_bytes("POST", "/api", CHUNKED))
    for number in range(ROUNDS):
        await client.send(chunk(b"%d" % number))
        assert await asyncio.wait_for(pieces.get(), LAST_RESORT_SECONDS) == b"%d" % number
    await client.send(b"0\r\n\r\n")
    assert (await client.read_response()).status == 201


async def test_the_trailers_of_an_upload_pass(gateway: Gateway) -> None:
    """Announced or not, they belong to the body."""
    gateway.answers(chunked([b"x"]))
    client = await gateway.connect()
    await client.send(
        request_bytes("POST", "/api", [*CHUNKED, ("Trailer", "X-Sum")])
        + b"1\r\nx\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"
    )
    await client.read_response()
    [request] = gateway.upstream.requests
    assert request.body.trailers == [("X-Sum", "1"), ("X-More", "2")]
    assert request.value("Trailer") == "X-Sum"


async def test_a_gzip_answer_that_we_asked_for_is_unpacked(either: Gateway) -> None:
    """The client did not ask for gzip, so it must not see it; between us and the cluster it saves time."""
    plain = b'{"items":[' + b'{"kind":"Pod"},' * 20_000 + b"{}]}"
    either.replies(gzip.compress(plain), GZIP)
    client = await either.connect()
    for _ in range(2):
        response = await client.request("GET", "/api")
        assert response.values("Content-Encoding") == response.values("Content-Length") == []
        assert (bytes(response.body.data), response.body.is_complete) == (plain, True)


async def test_gzip_that_is_broken_from_the_start_is_an_error(either: Gateway) -> None:
    """Nothing of the answer is out yet, so the client can be told what is wrong."""
    either.replies(b"\x1f\x8b\x08\0" + bytes(6) + b"\xff" * 40, GZIP)
    response = await either.request()
    assert response.status == 502
    assert b"gzip is broken" in bytes(response.body.data)


async def test_a_gzip_answer_that_the_client_asked_for_stays_packed(either: Gateway) -> None:
    """Who asks for gzip gets the API server's own bytes."""
    packed = gzip.compress(b"{}")
    either.replies(packed, GZIP)
    response = await either.request(headers=[("Accept-Encoding", "gzip")])
    assert response.value("Content-Encoding") == "gzip"
    assert bytes(response.body.data) == packed


async def test_a_gzip_watch_passes_event_by_event(gateway: Gateway) -> None:
    """A flushed gzip stream is unpacked at each flush, not at its end."""
    events: asyncio.Queue[bytes | Step] = asyncio.Queue()
    gateway.answers(watch(events, GZIP))
    client, _ = await gateway.start(target=WATCH)
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    response = None
    for number in range(3):
        event = b'{"n":%d}\n' % number
        events.put_nowait(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
        response = response or await client.read_head()
        assert await client.read_piece(response) == event
    events.put_nowait(packer.flush())
    events.put_nowait(Step.LAST_CHUNK)
    assert response is not None
    await client.read_rest(response)
    assert response.body.is_complete


@pytest.mark.parametrize("damage", ["broken", "early end"])
async def test_a_damaged_gzip_answer_is_cut(either: Gateway, damage: str) -> None:
    """What cannot be unpacked to its end must not look complete."""
    packed = gzip.compress(bytes(range(256)) * 2_000)
    packed = packed[:500] if damage == "early end" else packed[:500] + b"\xff" * 200
    either.replies(packed, GZIP, length=False)
    client = await either.connect()
    await client.send(request_bytes("GET", "/api"))
    try:
        response = await client.read_response()
    except ConnectionResetError:
        return
    assert not response.body.is_complete or response.status == 502

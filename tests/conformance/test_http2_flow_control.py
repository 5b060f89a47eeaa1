"""Windows of HTTP/2: who does not read holds up its own stream, no other, and nothing piles up in between."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conformance.conftest import Http2Gateway
from tests.support import http2_frames, proc, secrets
from tests.support.answers import BLOCK, big_sha256, chunk
from tests.support.channel import Channel
from tests.support.client import RawClient, Response, request_bytes
from tests.support.http2_answers import JSON, answer, big, echo, head, raw, script, wait_until_over
from tests.support.http2_frames import INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE
from tests.support.http2_server import H2, Http2Connection, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS, standstill
from tests.support.pki import CA
from tests.support.program import Program, kubeconfig
from tests.support.uploads import Upload

SIZE = 20_000_000
SMALL_BUFFER = 32 * 1024
CHUNKED = [("Transfer-Encoding", "chunked")]
# The window of a stream, what its transport buffers, and what the kernel holds for a client on loopback.
HELD_BYTES = 8_000_000
GROWTH_BYTES = 6_000_000


async def sent_of(stream: Stream) -> int:
    """What was sent of an answer, once that does not grow."""
    return await standstill(lambda: stream.sent_bytes)


async def stall(gateway: Http2Gateway, target: str) -> tuple[RawClient, Response, Stream]:
    """A client that asks and then does not read."""
    client, stream = await gateway.begin(target=target, receive_buffer_bytes=SMALL_BUFFER)
    return client, await client.read_head(), stream


# -- answers --


@pytest.mark.parametrize("length", [True, False])
async def test_a_reader_that_stalls_stops_its_stream(http2_gateway: Http2Gateway, length: bool) -> None:
    """What is held for it is about a megabyte; read on, the answer is whole."""
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    before = http2_gateway.program.rss_bytes()
    http2_gateway.streams_for(big(SIZE, length=length), "/big")
    client, response, stream = await stall(http2_gateway, "/big")
    assert await sent_of(stream) < HELD_BYTES
    assert http2_gateway.program.rss_bytes() - before < GROWTH_BYTES
    assert await client.digest(response) == big_sha256(SIZE)
    assert response.body.is_complete


async def test_a_reader_that_stalls_holds_up_nobody_else(http2_gateway: Http2Gateway) -> None:
    """Twenty of them, with all that their windows hold, and one that reads, on the same connection."""
    http2_gateway.streams_for(big(SIZE), "/big")
    stalled = [await stall(http2_gateway, "/big") for _ in range(20)]
    assert max(await asyncio.gather(*(sent_of(stream) for _, _, stream in stalled))) < HELD_BYTES
    size = 5_000_000
    http2_gateway.streams_for(big(size), "/live")
    client, _ = await http2_gateway.begin(target="/live")
    assert await client.digest(await client.read_head()) == big_sha256(size)
    assert len(http2_gateway.connections) == 1
    client, response, _ = stalled[0]
    assert await client.digest(response) == big_sha256(SIZE)


async def test_a_stalled_reader_that_leaves(http2_gateway: Http2Gateway) -> None:
    """Its stream is reset though nothing of it moves."""
    http2_gateway.streams_for(big(SIZE), "/big")
    client, _, stream = await stall(http2_gateway, "/big")
    await sent_of(stream)
    client.reset()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await stream.over.wait()
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1


async def test_a_server_that_ignores_the_window_is_cut_off(http2_gateway: Http2Gateway) -> None:
    """60 MB for a reader that stalls: its stream or the connection ends, and nothing was kept."""

    async def pour(stream: Stream) -> None:
        frames = http2_frames.frame(http2_frames.DATA, bytes(16384), stream_id=stream.id) * 60
        for _ in range(60):
            await stream.connection.send_raw(frames)
        await stream.over.wait()

    http2_gateway.streams_for(script(head(200, JSON), pour), "/flood")
    before = http2_gateway.program.rss_bytes()
    client, response, stream = await stall(http2_gateway, "/flood")
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await stream.over.wait()
    assert http2_gateway.program.rss_bytes() - before < GROWTH_BYTES
    await client.digest(response)
    assert not response.body.is_complete
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200


async def test_what_gzip_unpacks_to_waits_packed(http2_gateway: Http2Gateway) -> None:
    """50 KB on the wire are 50 MB: unpacked as the client reads."""
    plain = 50_000_000
    packed = gzip.compress(bytes(plain), 9)
    http2_gateway.streams_for(answer(packed, headers=[("content-encoding", "gzip")]), "/zip")
    before = http2_gateway.program.rss_bytes()
    client, response, _ = await stall(http2_gateway, "/zip")
    await asyncio.sleep(0.3)
    assert http2_gateway.program.rss_bytes() - before < GROWTH_BYTES
    size = 0
    while piece := await client.read_piece(response):
        size += len(piece)
        response.body.data.clear()
    assert (size, response.body.is_complete) == (plain, True)


# -- uploads --


class Sending(Upload):
    """A client's, that goes on by itself."""

    def __init__(self, client: RawClient, size: int = SIZE) -> None:
        super().__init__(client, size)
        self.task = asyncio.create_task(self.send())

    async def stands_still(self) -> int:
        return await standstill(lambda: self.sent)


class Reading:
    """A responder that reads nothing until it may, and then everything."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.found = hashlib.sha256()

    async def __call__(self, stream: Stream) -> None:
        await self.may.wait()
        while piece := await stream.read_piece():
            self.found.update(piece)
        await stream.send_head(201, [("content-length", "0")], end=True)


async def widen(connection: Http2Connection) -> None:
    """The window of all streams together is no limit."""
    await connection.open_window(1 << 28)


@pytest.mark.parametrize("shared", ["wide", "exhausted"])
async def test_an_api_server_that_stalls_stops_the_upload(http2_gateway: Http2Gateway, shared: str) -> None:
    """The client is not read any more; requests without a body go on, whichever window is closed."""
    if shared == "wide":
        http2_gateway.server.on_connection = widen
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    before = http2_gateway.program.rss_bytes()
    reading = Reading()
    http2_gateway.streams_for(reading, "/upload")
    client, _ = await http2_gateway.begin("POST", "/upload", CHUNKED)
    upload = Sending(client)
    assert await upload.stands_still() < HELD_BYTES
    assert http2_gateway.program.rss_bytes() - before < GROWTH_BYTES
    assert (await http2_gateway.request()).status == 200
    if shared == "wide":
        assert (await http2_gateway.request("POST", "/api", body=b"small")).status == 200
    reading.may.set()
    assert (await client.read_response("POST")).status == 201
    await upload.task
    assert reading.found.hexdigest() == big_sha256(SIZE)
    assert len(http2_gateway.connections) == 1


async def test_an_upload_that_waited_for_the_dial_stops_there_too(tmp_path: Path) -> None:
    """What came during the dial is more than the windows take: nothing piles up behind it."""
    shake = asyncio.Event()

    async def hold(channel: Channel) -> None:
        await shake.wait()

    ca = CA()
    reading = Reading()
    tls = ca.server_context(alpn=H2)
    async with Http2Server(reading, tls=tls, before_handshake=hold) as server:
        path = kubeconfig(tmp_path, server, ca_pem=ca.pem, token=secrets.plant("token"))
        async with (
            Program(f"--unix-socket={tmp_path}/socket", kubeconfig=path) as program,
            AsyncExitStack() as owned,
        ):
            client = await RawClient.connect(program.address)
            owned.callback(client.reset)
            program.send_signal(signal.SIGSTOP)  # so that it reads much at once
            await client.send(request_bytes("POST", "/upload", CHUNKED))
            upload = Sending(client)
            await upload.stands_still()
            program.send_signal(signal.SIGCONT)
            await upload.stands_still()
            shake.set()
            await server.wait_for_streams(1)
            assert await upload.stands_still() < HELD_BYTES
            reading.may.set()
            assert (await client.read_response("POST")).status == 201
            await upload.task
    assert reading.found.hexdigest() == big_sha256(SIZE)


async def test_a_long_upload_leaves_windows_to_others(http2_gateway: Http2Gateway) -> None:
    """Who always has more to send gets some of the window of all, and then it is somebody else's turn."""
    http2_gateway.streams_for(Reading())
    client, long = await http2_gateway.begin("POST", "/long", CHUNKED)
    connection = long.connection
    connection.h2.increment_flow_control_window(1 << 24, long.id)
    await connection.flushed()
    upload = Sending(client)
    await upload.stands_still()
    body = b"x" * 10_000
    _, short = await http2_gateway.begin("POST", "/short", [("Content-Length", "10000")], body)
    for _ in range(3):
        await connection.open_window(len(body))
        await connection.ping()
    assert short.body.is_complete
    upload.task.cancel()


async def test_a_stalled_upload_whose_client_leaves(http2_gateway: Http2Gateway) -> None:
    """RST_STREAM, and the half that came does not look whole."""
    reading = Reading()
    http2_gateway.streams_for(reading, "/upload")
    client, stream = await http2_gateway.begin("POST", "/upload", CHUNKED)
    upload = Sending(client)
    await upload.stands_still()
    upload.task.cancel()
    client.reset()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await stream.over.wait()
    assert not stream.body.is_complete
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200


async def test_a_window_of_zero_from_the_start(http2_gateway: Http2Gateway) -> None:
    """The head goes, the body waits for the window, the end of an empty one does not."""
    http2_gateway.server.settings[INITIAL_WINDOW_SIZE] = 0
    http2_gateway.streams_for(echo())
    assert (await http2_gateway.request()).status == 200
    assert (await http2_gateway.request("POST", "/api", body=b"")).status == 200
    client, stream = await http2_gateway.begin("POST", headers=[("Content-Length", "5")], body=b"hello")
    connection = stream.connection
    await connection.ping()
    assert not connection.seen(http2_frames.DATA, stream.id)
    connection.h2.increment_flow_control_window(1, stream.id)
    await connection.ping()
    assert len(stream.body.data) >= 1
    assert stream.body.arrivals[0][1] == 1
    if not stream.body.is_complete:
        connection.h2.increment_flow_control_window(100, stream.id)
        await connection.flushed()
    response = await client.read_response("POST")
    assert response.json()["body"] == "hello"


async def test_a_window_that_shrinks_below_zero(http2_gateway: Http2Gateway) -> None:
    """In mid-upload the server takes back what was used already: the client waits until it is made up for."""
    reading = Reading()
    http2_gateway.streams_for(reading, "/upload")
    client, stream = await http2_gateway.begin("POST", "/upload", CHUNKED)
    size = 1_000_000
    upload = Sending(client, size)
    await upload.stands_still()
    connection = stream.connection
    came = len(connection.seen(http2_frames.DATA, stream.id))
    for window in (1000, 0, 500, 100_000, 1000):
        await connection.change_settings({INITIAL_WINDOW_SIZE: window})
    await connection.ping()
    assert len(connection.seen(http2_frames.DATA, stream.id)) <= came + 1
    await connection.change_settings({INITIAL_WINDOW_SIZE: 65535})
    reading.may.set()
    assert (await client.read_response("POST")).status == 201
    await upload.task
    assert reading.found.hexdigest() == big_sha256(size)


async def test_a_window_that_grows_by_settings(http2_gateway: Http2Gateway) -> None:
    """It opens streams that wait, without a WINDOW_UPDATE."""
    http2_gateway.server.settings[INITIAL_WINDOW_SIZE] = 0
    http2_gateway.streams_for(echo())
    assert (await http2_gateway.request()).status == 200
    client, stream = await http2_gateway.begin("POST", headers=[("Content-Length", "5")], body=b"hello")
    await stream.connection.change_settings({INITIAL_WINDOW_SIZE: 100})
    assert (await client.read_response("POST")).json()["body"] == "hello"


async def test_frames_are_no_larger_than_the_server_takes(http2_gateway: Http2Gateway) -> None:
    """16 KB, unless it says more, and again after it has said less."""
    http2_gateway.server.on_connection = widen
    http2_gateway.server.settings[INITIAL_WINDOW_SIZE] = 1_000_000
    http2_gateway.server.settings[MAX_FRAME_SIZE] = 100_000
    http2_gateway.streams_for(echo())
    body = BLOCK * 8
    for size in (100_000, 16384, 50_000, 16384):
        client, stream = await http2_gateway.begin("POST", headers=CHUNKED)
        await client.send(chunk(body) + b"0\r\n\r\n")
        assert (await client.read_response("POST")).json()["size"] == len(body)
        await stream.connection.change_settings({MAX_FRAME_SIZE: size})


async def test_small_uploads_take_turns(http2_gateway: Http2Gateway) -> None:
    """Thirty at once share a window of 64 KB; each arrives whole."""
    http2_gateway.streams_for(echo())

    async def post(number: int) -> None:
        client = await http2_gateway.connect()
        body = f"{number}.".encode() * 5_000
        await client.send(request_bytes("POST", f"/api/{number}", CHUNKED) + chunk(body) + b"0\r\n\r\n")
        response = await client.read_response("POST")
        assert response.json()["body"] == body.decode()

    await asyncio.gather(*(post(number) for number in range(30)))
    assert len(http2_gateway.connections) == 1


@pytest.mark.parametrize("overflow", ["one stream", "all"])
async def test_a_window_that_overflows_by_settings(http2_gateway: Http2Gateway, overflow: str) -> None:
    """RFC 9113, 6.9.2: a window above 2 GB is an error, not a large number; the next request is served."""

    def frames(stream: Stream) -> bytes:
        number = stream.id if overflow == "one stream" else 0
        return (
            http2_frames.window_frame(number, 2**31 - 1 - 65535)
            + http2_frames.settings_frame({INITIAL_WINDOW_SIZE: 65536})
            + http2_frames.window_frame(number, 1)
        )

    http2_gateway.streams_for(script(raw(frames), wait_until_over))
    response = await http2_gateway.request()
    assert response.status == 502
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200


@pytest.mark.slow
async def test_memory_stays_flat(http2_gateway: Http2Gateway) -> None:
    """100 MB down and 100 MB up, in pieces of what a list or an image may have."""
    http2_gateway.server.on_connection = widen
    reading = Reading()
    reading.may.set()
    http2_gateway.streams_for(big(SIZE), "/big")
    http2_gateway.streams_for(reading, "/upload")
    client = await http2_gateway.connect()
    await client.send(request_bytes("GET", "/big"))
    await client.digest(await client.read_head())
    proc.reset_peak(http2_gateway.program.pid)
    before = http2_gateway.program.rss_bytes()
    for _ in range(5):
        await client.send(request_bytes("GET", "/big"))
        assert await client.digest(await client.read_head()) == big_sha256(SIZE)
    for _ in range(5):
        await client.send(request_bytes("POST", "/upload", CHUNKED))
        upload = Sending(client)
        assert (await client.read_response("POST")).status == 201
        await upload.task
    assert http2_gateway.program.peak_rss_bytes() - before < GROWTH_BYTES

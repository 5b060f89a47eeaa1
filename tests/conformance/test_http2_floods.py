"""API servers that send frames without end: memory stays, the connection ends, other contexts go on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conformance.conftest import Http2Gateway, Pki
from tests.support import http2_frames as h2
from tests.support import proc
from tests.support.api_server import Kubeconfig
from tests.support.client import RawClient, Response, request_bytes
from tests.support.flooding import FLOODS, Flooding, pour
from tests.support.http2_answers import JSON, answer
from tests.support.http2_frames import END_STREAM, frame
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS, standstill
from tests.support.program import Program
from tests.support.uploads import Upload

FLOOD_BYTES = 2_000_000_000
"""More than passes while a flood is noticed and, after GOAWAY, listened to for 0.1 s."""
GROWTH_BYTES = 15_000_000
ASKED = 200
LIMIT_SECONDS = 0.1

HEADLESS = ("RST_STREAM",)
SOME = ("PING", "SETTINGS", "empty DATA", "WINDOW_UPDATE", "heads behind the end")


def is_failure(response: Response) -> bool:
    return response.status == 502 or not response.body.is_complete


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads nothing"])
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_its_connection(http2_gateway: Http2Gateway, kind: str, reads: bool) -> None:
    """With ENHANCE_YOUR_CALM; nothing piles up, whether what it asks for is read or not."""
    sent: list[int] = []

    async def flood(stream: Stream) -> None:
        if kind not in HEADLESS:
            await stream.send_head(200, [JSON])
        if not reads:
            stream.connection.pause_reading()
        sent.append(await pour(stream, FLOODS[kind](stream), FLOOD_BYTES))
        stream.connection.resume_reading()
        await stream.connection.ended.wait()

    server = http2_gateway.server
    server.allows_errors = True
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    http2_gateway.streams_for(flood, "/flood")
    proc.reset_peak(http2_gateway.program.pid)
    before = http2_gateway.program.rss_bytes()
    client = await http2_gateway.connect()
    await client.send(request_bytes("GET", "/flood"))
    with contextlib.suppress(ConnectionResetError):
        response = await client.read_response()
        assert is_failure(response) or kind.endswith("behind the end"), response.text
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await http2_gateway.connections[0].ended.wait()
    grown = http2_gateway.program.peak_rss_bytes() - before
    print(f"{kind}: {sum(sent) / 1e6:.1f} MB taken, {grown / 1e6:.1f} MB more memory")
    assert sum(sent) < FLOOD_BYTES
    assert grown < GROWTH_BYTES
    if reads:
        goaway = http2_gateway.connections[0].goaway
        assert goaway is not None
        assert goaway[1] == h2.ENHANCE_YOUR_CALM
    assert (await http2_gateway.request()).json() == {}


async def test_the_error_says_why(http2_gateway: Http2Gateway) -> None:
    """A 502 that names the flood: what to look at is the API server, or what stands before it."""

    async def flood(stream: Stream) -> None:
        await pour(stream, FLOODS["PING"](stream), FLOOD_BYTES)

    http2_gateway.server.allows_errors = True
    http2_gateway.streams_for(flood)
    response = await http2_gateway.request()
    assert response.status == 502
    assert "floods the connection" in response.json()["message"]


async def test_acknowledgements_that_nobody_reads_do_not_pile_up(http2_gateway: Http2Gateway) -> None:
    """Also where so many PINGs may come, since an upload asks for much: they would wait behind the upload."""
    server = http2_gateway.server
    server.allows_errors = True
    server.settings[h2.INITIAL_WINDOW_SIZE] = 1 << 28
    server.on_connection = lambda connection: connection.open_window(1 << 28)
    sent: list[int] = []

    async def ask_on(stream: Stream) -> None:
        stream.connection.pause_reading()
        await standstill(lambda: upload.sent)
        sent.append(await pour(stream, FLOODS["PING"](stream), FLOOD_BYTES))
        stream.connection.resume_reading()

    http2_gateway.streams_for(ask_on)
    client = await http2_gateway.connect()
    upload = Upload(client, 1 << 28)
    await client.send(request_bytes("POST", "/api", upload.fields))
    sending = asyncio.create_task(upload.send())
    response = await client.read_response("POST")
    client.reset()
    await asyncio.gather(sending, return_exceptions=True)
    assert response.status == 502
    assert "reads none of the answers" in response.json()["message"]
    assert sum(sent) < FLOOD_BYTES


async def test_much_control_that_an_upload_asks_for_is_no_flood(http2_gateway: Http2Gateway) -> None:
    """A server that gives windows back by 512 bytes, twice, as older ones of Go do: 40 MB in 80 uploads."""

    async def give_back_in_steps(stream: Stream) -> None:
        while piece := await stream.read_piece():
            # A little on top of what `read_piece` gives back.
            for _ in range(0, len(piece), 512):
                stream.connection.give_back(1, stream.id)
        await answer(b"{}")(stream)

    http2_gateway.streams_for(give_back_in_steps)

    async def upload() -> None:
        client = await http2_gateway.connect()
        for _ in range(10):
            assert (await client.request("POST", "/api", body=b"x" * 500_000)).status == 200

    await asyncio.gather(*(upload() for _ in range(8)))
    assert len(http2_gateway.connections) == 1


async def test_what_was_under_way_when_its_reader_left_is_no_flood(http2_gateway: Http2Gateway) -> None:
    """Thousands of small pieces of logs that nobody follows any more, and then requests that are answered."""

    async def log(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        await stream.over.wait()
        await stream.connection.send_raw(frame(h2.DATA, b"x", stream_id=stream.id) * 3000)
        done.append(stream)
        http2_gateway.server.changed()

    done: list[Stream] = []
    http2_gateway.streams_for(log, "/log")
    http2_gateway.streams_for(answer(b"{}"))
    clients = [await http2_gateway.connect() for _ in range(8)]
    for client in clients:
        await client.send(request_bytes("GET", "/log?watch=true"))
        await client.read_head()
    for client in clients:
        client.reset()
    await http2_gateway.server.wait_for(lambda: len(done) == len(clients), "they are told")
    await http2_gateway.connections[0].ping()
    assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1


async def test_small_pieces_arrive_whole(http2_gateway: Http2Gateway) -> None:
    """An answer in 200,000 frames of a byte each, which is taken in turns, and one beside it."""
    count = 200_000

    async def drop_by_drop(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        pieces = [frame(h2.DATA, b"%d" % (n % 10), stream_id=stream.id) for n in range(count)]
        await stream.connection.send_raw(b"".join(pieces))
        await stream.connection.send_raw(frame(h2.DATA, stream_id=stream.id, flags=END_STREAM))

    http2_gateway.streams_for(drop_by_drop)
    responses = await asyncio.gather(*(http2_gateway.request() for _ in range(2)))
    for response in responses:
        assert response.body.is_complete
        assert response.text == "0123456789" * (count // 10)
    assert len(http2_gateway.connections) == 1


async def test_what_waits_its_turn_when_the_connection_ends_still_counts(http2_gateway: Http2Gateway) -> None:
    """Small pieces and then the end of everything, in one go: the answer is whole."""
    count = 20_000

    async def say_all_and_go(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        pieces = frame(h2.DATA, b"x", stream_id=stream.id) * count
        await stream.connection.send_raw(pieces + frame(h2.DATA, stream_id=stream.id, flags=END_STREAM))
        await stream.connection.channel.shut_write()
        await stream.connection.ended.wait()

    http2_gateway.streams_for(say_all_and_go)
    for _ in range(5):
        response = await http2_gateway.request()
        assert response.body.is_complete
        assert response.text == "x" * count


# -- other contexts --


async def timed(client: RawClient, program: Program) -> tuple[list[float], list[float]]:
    """What each of some requests took, in order of size: seconds, and seconds of the program's CPU.

    The latter is how much else the loop did before it had answered, whatever else the machine does.
    """
    took, used = [], []
    for _ in range(ASKED):
        asked_at, before = time.monotonic(), proc.cpu_seconds(program.pid)
        assert (await client.request("GET", "/api")).status == 200
        took.append(time.monotonic() - asked_at)
        used.append(proc.cpu_seconds(program.pid) - before)
    return sorted(took), sorted(used)


@pytest.mark.numbers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small DATA", "a long head", *SOME])
async def test_a_flood_leaves_the_loop_to_other_contexts(pki: Pki, tmp_path: Path, kind: str) -> None:
    """One context's API server does its worst for four clients; the requests of another stay below 100 ms."""
    async with AsyncExitStack() as owned:
        hostile = await owned.enter_async_context(Flooding.started(kind))
        calm = Http2Server(answer(b"{}"), tls=pki.ca.server_context(alpn=H2))
        await owned.enter_async_context(calm)
        config = Kubeconfig(tmp_path / "config")
        for name, url, ca_pem in (("calm", calm.url, pki.ca.pem), ("hostile", hostile.url, hostile.ca_pem)):
            config.clusters[name] = {
                "server": url,
                "certificate-authority-data": base64.b64encode(ca_pem).decode(),
            }
            config.users[name] = {}
        config.current = "calm"
        config.write()
        program = await owned.enter_async_context(Program("--all-contexts", kubeconfig=config.path))
        client = await RawClient.connect(program.address)
        owned.callback(client.reset)
        await timed(client, program)
        await hostile.suffer(program.address)
        took, used = await timed(client, program)
    middle, late = ASKED // 2, ASKED * 99 // 100
    print(
        f"{kind}: median {took[middle] * 1e3:.1f} ms, p99 {took[late] * 1e3:.1f} ms; "
        f"of CPU {used[middle] * 1e3:.1f} and {used[late] * 1e3:.1f} ms"
    )
    assert used[late] < LIMIT_SECONDS

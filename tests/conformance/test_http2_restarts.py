"""API servers that go away in order, behind one address: every upload is done, and done once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.conftest import Http2Gateway
from tests.support import secrets
from tests.support.answers import answer as http1_answer
from tests.support.answers import chunk
from tests.support.client import RawClient, request_bytes
from tests.support.http2_answers import answer, echo, sequence
from tests.support.http2_frames import REFUSED_STREAM
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.pki import CA
from tests.support.program import Program, kubeconfig
from tests.support.proxies import Balancer
from tests.support.upstream import Connection, Request

KB_100 = 100_000
ANY_STREAM = 2**31 - 1


class Uploads:
    """A responder that counts what was done: each body that was read to its end, by what it begins with.

    A stream above the last that its connection's GOAWAY names is left alone, however much of it came.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.last_done: dict[object, int] = defaultdict(int)

    async def __call__(self, stream: Stream) -> None:
        connection = stream.connection
        body = await stream.read_body()
        if connection.last_stream_id is not None and stream.id > connection.last_stream_id:
            await stream.over.wait()
            return
        self.done[body.data[:20].decode().strip()] += 1
        self.last_done[connection] = max(self.last_done[connection], stream.id)
        await self.after(stream)
        await answer(b"{}")(stream)

    async def after(self, stream: Stream) -> None:
        """One is done and not answered yet."""

    async def leave_out_the_rest(self, stream: Stream) -> None:
        """GOAWAY that takes back what is above all that was done."""
        if stream.connection.last_stream_id is None:
            await stream.connection.go_away(self.last_done[stream.connection])


async def post(client: RawClient, name: str, size: int) -> None:
    response = await client.request("POST", "/api", body=name.ljust(20).encode().ljust(size, b"x"))
    assert response.status == 200, response.text


async def work(address: tuple[str, int] | str, workers: int, each: int, size: int) -> set[str]:
    """That many uploads one by one by so many clients at once; returns their names."""

    async def go_on(worker: int) -> None:
        client = await RawClient.connect(address)
        try:
            for step in range(each):
                await post(client, f"{worker}/{step}", size)
        finally:
            client.reset()

    await asyncio.gather(*(go_on(worker) for worker in range(workers)))
    return {f"{worker}/{step}" for worker in range(workers) for step in range(each)}


@pytest.mark.parametrize(("size", "each"), [(100, 20), (KB_100, 20), (1024 * 1024, 5)])
async def test_goaway_under_load_loses_no_upload(http2_gateway: Http2Gateway, size: int, each: int) -> None:
    """Every twentieth is the last that its connection does, as with --goaway-chance; 16 clients write."""

    class Leaving(Uploads):
        async def after(self, stream: Stream) -> None:
            if sum(self.done.values()) % 20 == 0:
                await self.leave_out_the_rest(stream)

    uploads = Leaving()
    http2_gateway.streams_for(uploads)
    names = await work(http2_gateway.program.address, 16, each, size)
    assert uploads.done == Counter(names)
    assert len(http2_gateway.connections) > 3


async def test_a_request_may_meet_many_that_go_away(http2_gateway: Http2Gateway) -> None:
    """Nine connections that leave it out, one after the other: nothing was done, so it goes on."""

    async def leave_out(stream: Stream) -> None:
        await stream.connection.go_away(0)
        await stream.over.wait()

    http2_gateway.streams_for(sequence(*[leave_out] * 9, echo()))
    response = await http2_gateway.request("POST", "/api", body=b"x" * KB_100)
    assert (response.status, response.json()["size"]) == (200, KB_100)
    assert len(http2_gateway.connections) == 10


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["GOAWAY", "REFUSED_STREAM"])
async def test_an_upload_that_is_under_way_is_begun_anew(
    http2_gateway: Http2Gateway, how: str, framing: str
) -> None:
    """What came is kept, what comes later follows, and each byte arrives once and in order."""

    async def leave_out(stream: Stream) -> None:
        first = 0
        while first < KB_100:
            first += len(await stream.read_piece())
        if how == "GOAWAY":
            await stream.connection.go_away(0)
            await stream.over.wait()
        else:
            await stream.reset(REFUSED_STREAM)

    body = bytes(range(256)) * 2000
    http2_gateway.streams_for(sequence(leave_out, echo()))
    is_chunked = framing == "chunked"
    field = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(len(body)))
    first, rest = body[:200_000], body[200_000:]
    client, _ = await http2_gateway.begin("POST", headers=[field])
    await client.send(chunk(first) if is_chunked else first)
    await http2_gateway.server.wait_for_streams(2)
    await client.send(chunk(rest) + b"0\r\n\r\n" if is_chunked else rest)
    response = await client.read_response("POST")
    assert response.status == 200
    assert response.json()["body"].encode("latin-1") == body


async def test_what_has_not_left_is_sent_elsewhere(http2_gateway: Http2Gateway) -> None:
    """An idle connection ends in the moment in which a POST would go over it: nobody has seen it."""
    http2_gateway.streams_for(echo())
    program = http2_gateway.program
    for number in range(5):
        assert (await http2_gateway.request()).json()["connection"] == number
        client = await http2_gateway.connect()
        program.send_signal(signal.SIGSTOP)
        await client.send(request_bytes("POST", "/api", body=b"once"))
        await http2_gateway.connections[number].channel.shut_write()
        program.send_signal(signal.SIGCONT)
        response = await client.read_response("POST")
        assert (response.status, response.json()["body"]) == (200, "once"), response.text
        assert len(http2_gateway.server.streams) == 2 * number + 2


async def test_a_long_upload_meets_no_connection_that_was_idle(http2_gateway: Http2Gateway) -> None:
    """It cannot be sent twice: a connection that ends as a restart would end it must not be met at all."""

    async def serve_one(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        if len(connection.requests) > 1:
            connection.channel.reset()
            return
        await http1_answer(b"{}")(connection, request)

    server = http2_gateway.server
    http2_gateway.answers(serve_one)
    for _ in range(3):
        response = await http2_gateway.request("POST", "/api", body=b"x" * 2_000_000)
        assert response.status == 200, response.text
    assert len(server.connections) == 3
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        for connection in server.connections:
            await connection.ended.wait()


async def test_a_connection_that_ends_in_its_handshake_is_dialled_again(http2_gateway: Http2Gateway) -> None:
    """As those do that a server has not accepted yet when it stops to listen: nothing was asked."""
    dials: list[int] = []

    async def refuse_two(channel: object) -> None:
        dials.append(1)
        if len(dials) < 3:
            raise ConnectionResetError

    await http2_gateway.replace_upstream(before_handshake=refuse_two)
    http2_gateway.streams_for(echo())
    response = await http2_gateway.request("POST", "/api", body=b"once")
    assert (response.status, response.json()["body"]) == (200, "once")
    assert len(dials) == 3


@pytest.mark.slow
async def test_a_rolling_restart_loses_no_upload(tmp_path: Path) -> None:
    """Two API servers behind one address are replaced in turn, twelve times, while 16 clients write."""
    uploads = Uploads()
    ca = CA()
    tls = ca.server_context(alpn=H2)

    async def drain(server: Http2Server) -> None:
        """As Go does: no new streams, then those up to the last, then the end."""
        for connection in server.h2_connections:
            if not connection.ended.is_set():
                await connection.go_away(ANY_STREAM)
                await connection.ping()
                await connection.go_away(uploads.last_done[connection])
                await connection.ended.wait()

    async with AsyncExitStack() as owned:

        async def begun() -> Http2Server:
            return await owned.enter_async_context(Http2Server(uploads, tls=tls))

        servers = [await begun(), await begun()]
        balancer = await owned.enter_async_context(Balancer([each.port for each in servers]))
        path = kubeconfig(tmp_path, balancer.url, ca_pem=ca.pem, token=secrets.plant("token"))
        program = await owned.enter_async_context(Program(kubeconfig=path))
        working = asyncio.create_task(work(program.address, 16, 60, KB_100))
        restarts = 0

        def is_due(count: int) -> bool:
            return working.done() or sum(uploads.done.values()) >= count

        while not working.done() and restarts < 12:
            old = servers.pop(0)
            next_at = sum(uploads.done.values()) + 40
            await until(partial(is_due, next_at), "some uploads are done")
            servers.append(new := await begun())
            balancer.ports = [each.port for each in servers]
            await old.stop_listening()
            async with asyncio.timeout(LAST_RESORT_SECONDS):
                await drain(old)
            assert new.port != old.port
            restarts += 1
        assert uploads.done == Counter(await working)
    assert restarts > 5

"""A silent connection is asked for a sign of life, and given up when there is none: a laptop that slept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conformance.conftest import Http2Gateway
from tests.support import http2_frames, secrets
from tests.support.answers import BLOCK
from tests.support.api_server import ask
from tests.support.client import request_bytes
from tests.support.http2_answers import (
    JSON,
    answer,
    big,
    echo,
    head,
    raw,
    script,
    sequence,
    wait_until_over,
)
from tests.support.http2_frames import PING
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.program import Program, kubeconfig

PROGRAM_ENV = {"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "1", "HTTP2_PING_TIMEOUT_SECONDS": "1"}
PATIENCE_SECONDS = 2.0


async def test_a_dead_connection_cuts_its_watch(http2_gateway: Http2Gateway) -> None:
    """After a second of silence PING, after another the end; what is new goes to another connection."""
    http2_gateway.server.holds = {PING}
    running = await http2_gateway.watch()
    began = time.monotonic()
    await running.is_cut()
    passed = time.monotonic() - began
    assert passed > 0.8
    assert running.stream.connection.seen(PING)
    http2_gateway.server.holds = set()
    http2_gateway.streams_for(echo())
    assert (await http2_gateway.request()).json()["connection"] == 1


@pytest.mark.parametrize("kind", ["no answer", "no greeting", "half a head"])
async def test_a_request_on_a_dead_connection_is_answered(http2_gateway: Http2Gateway, kind: str) -> None:
    """504 with a Status that says what to look at; a head that has begun keeps nobody waiting for ever."""
    http2_gateway.server.holds = {PING, http2_frames.SETTINGS} if kind == "no greeting" else {PING}
    half = raw(lambda stream: http2_frames.frame(http2_frames.HEADERS, b"\x88", stream_id=stream.id))
    http2_gateway.server.greets = kind != "no greeting"
    http2_gateway.streams_for(
        script(half, wait_until_over) if kind == "half a head" else script(wait_until_over)
    )
    response = await http2_gateway.request()
    assert response.status in (502, 504)
    assert response.json()["kind"] == "Status"
    assert "PING" in response.json()["message"]


async def test_a_dead_idle_connection_is_not_used_again(http2_gateway: Http2Gateway) -> None:
    """It is found out while nobody needs it: even a POST then meets a good one."""
    http2_gateway.server.holds = {PING}
    http2_gateway.streams_for(echo())
    assert (await http2_gateway.request()).json()["connection"] == 0
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await http2_gateway.connections[0].ended.wait()
    assert (await http2_gateway.request("POST", "/api", body=b"x")).json()["connection"] == 1


async def test_the_first_request_after_a_rest_finds_out(http2_gateway: Http2Gateway) -> None:
    """A laptop has slept: PING goes with the request, which is sent again on a good connection."""
    http2_gateway.server.holds = {PING}
    http2_gateway.streams_for(echo())
    assert (await http2_gateway.request()).json()["connection"] == 0
    http2_gateway.server.holds = set()
    http2_gateway.streams_for(sequence(script(wait_until_over), echo()))
    await asyncio.sleep(0.3)  # the rest: over a sixth of the second after which PING comes by itself
    asked = asyncio.ensure_future(http2_gateway.request())
    _, stream = await http2_gateway.server.wait_for_streams(2)
    await http2_gateway.server.wait_for(lambda: stream.connection.seen(PING), "a PING")
    assert stream.connection.pinged_at[0] - stream.received_at < 0.5
    assert (await asked).json()["connection"] == 1


async def test_the_first_request_after_a_rest_finds_out_beside_a_watch(http2_gateway: Http2Gateway) -> None:
    """Nobody's laptop sleeps without a watch being open."""
    connection = (await http2_gateway.watch()).stream.connection
    http2_gateway.streams_for(echo())
    await asyncio.sleep(0.3)  # the rest
    assert (await http2_gateway.request()).status == 200
    stream = http2_gateway.server.streams[-1]
    await http2_gateway.server.wait_for(lambda: connection.seen(PING), "a PING")
    assert connection.pinged_at[0] - stream.received_at < 0.5


async def test_a_quiet_watch_lives_on(http2_gateway: Http2Gateway) -> None:
    """A namespace in which nothing happens is no dead connection: PING is answered, again and again."""
    running = await http2_gateway.watch()
    connection = running.stream.connection
    await http2_gateway.server.wait_for(lambda: len(connection.seen(PING)) >= 3, "three PINGs")
    await running.goes_on(b"at last\n")
    assert not connection.ended.is_set()


async def test_events_are_signs_of_life(http2_gateway: Http2Gateway) -> None:
    """A connection that is heard is not asked, and a server that answers no PING is no matter then."""
    http2_gateway.server.holds = {PING}
    running = await http2_gateway.watch()
    heard_at = [running.stream.received_at]
    for number in range(25):
        await running.goes_on(b"event %d\n" % number)
        heard_at.append(time.monotonic())
        await asyncio.sleep(0.1)
    heard_at.append(time.monotonic())
    silence = max(later - earlier for earlier, later in pairwise(heard_at))
    assert silence > 1 or not running.stream.connection.seen(PING), "a busy machine may make it silent itself"


async def test_a_reader_that_stalls_is_no_dead_connection(http2_gateway: Http2Gateway) -> None:
    """The connection is read on, so that answers to PING are heard, whatever a client does."""
    size = 10_000_000
    http2_gateway.streams_for(big(size))
    client, stream = await http2_gateway.begin(receive_buffer_bytes=32 * 1024)
    response = await client.read_head()
    connection = stream.connection
    await http2_gateway.server.wait_for(lambda: len(connection.seen(PING)) >= 2, "two PINGs")
    await client.read_rest(response)
    assert (response.body.size, response.body.is_complete) == (size, True)


async def test_the_servers_own_pings_are_answered(http2_gateway: Http2Gateway) -> None:
    """With the bytes they brought, also in the middle of a download and without any stream."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        for number in range(10):
            await stream.send_data(BLOCK)
            await stream.connection.ping(b"number%2d" % number)
        await stream.send_data(b"", end=True)

    http2_gateway.streams_for(respond)
    assert (await http2_gateway.request()).body.size == 10 * len(BLOCK)
    await http2_gateway.connections[0].ping(b"idle now")
    assert not http2_gateway.connections[0].ended.is_set()


async def test_all_requests_of_a_dead_connection_end(http2_gateway: Http2Gateway) -> None:
    """Twenty watches and twenty that wait for a head: each client is told, none waits on."""
    http2_gateway.server.holds = {PING}
    http2_gateway.streams_for(script(head(200, JSON), wait_until_over), "/watch")
    http2_gateway.streams_for(script(wait_until_over))
    clients = []
    for number in range(40):
        client = await http2_gateway.connect()
        await client.send(request_bytes("GET", "/watch" if number % 2 else f"/api/{number}"))
        clients.append(client)
    await http2_gateway.server.wait_for_streams(40)
    for number, client in enumerate(clients):
        response = await client.read_response()
        if number % 2:
            assert not response.body.is_complete
        else:
            assert response.status in (502, 504)


# -- with other variables --


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Http2Server, Path]]:
    ca = CA()
    async with Http2Server(echo(), tls=ca.server_context(alpn=H2)) as server:
        yield server, kubeconfig(tmp_path, server, ca_pem=ca.pem, token=secrets.plant("token"))


async def test_zero_turns_it_off(server: tuple[Http2Server, Path]) -> None:
    """As in kubectl: nobody is asked, and a silent connection stays."""
    upstream, path = server
    upstream.holds = {PING}
    async with Program(
        kubeconfig=path, env={**PROGRAM_ENV, "HTTP2_READ_IDLE_TIMEOUT_SECONDS": "0"}
    ) as program:
        assert (await ask(program)).status == 200
        await asyncio.sleep(PATIENCE_SECONDS + 0.5)
        assert (await ask(program)).json()["connection"] == 0
    assert not upstream.h2_connections[0].seen(PING)


async def test_no_time_for_a_ping_is_the_usual_time(server: tuple[Http2Server, Path]) -> None:
    """0 is 15 s in Go's http2.Transport: no connection is given up at once."""
    upstream, path = server
    async with Program(kubeconfig=path, env={**PROGRAM_ENV, "HTTP2_PING_TIMEOUT_SECONDS": "0"}) as program:
        assert (await ask(program)).status == 200
        await upstream.wait_for(lambda: upstream.h2_connections[0].seen(PING), "a PING")
        assert (await ask(program)).json()["connection"] == 0


async def test_a_variable_that_is_no_number_is_told(server: tuple[Http2Server, Path]) -> None:
    """The default counts, and the log says so."""
    _, path = server
    async with Program(kubeconfig=path, env={"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "soon"}) as program:
        await program.output("HTTP2_READ_IDLE_TIMEOUT_SECONDS")
        [line] = program.log_events("config.questioned")
        assert "soon" in line["detail"]
        assert "30" in line["detail"]


async def test_an_answer_is_not_cut_by_a_ping_in_time(http2_gateway: Http2Gateway) -> None:
    """Answered late but within its time: the connection goes on."""
    http2_gateway.server.holds = {PING}
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    [connection] = http2_gateway.connections
    await http2_gateway.server.wait_for(lambda: bool(connection.seen(PING)), "a PING")
    await asyncio.sleep(0.5)
    await connection.release()
    await http2_gateway.server.wait_for(lambda: len(connection.seen(PING)) > 1, "the next PING")
    assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1

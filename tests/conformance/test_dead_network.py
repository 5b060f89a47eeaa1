"""Connections that died in silence, as in a laptop's sleep or without its VPN: nobody waits for their end.

No packet passes on such a connection any more, and no FIN or RST ever tells of it. The limits allow for a
busy machine; each test prints what it took.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conformance.conftest import Gateway, Http2Gateway
from tests.support import answers, http2_answers
from tests.support.client import request_bytes
from tests.support.http2_server import Stream
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import Program
from tests.support.upstream import Connection, Request, Responder

pytestmark = [pytest.mark.slow, pytest.mark.numbers]

REST_SECONDS = 5.3
"""Silence after which a connection is doubted (5 s), and a little more."""
SOON_SECONDS = 4.0
"""Aimed at is 1 s, which a busy machine may stretch; without doubts it is 15 s and more."""
RESUMED_SECONDS = 12.0
"""Within that a resume is noticed and dead watches end; aimed at is 7 s. Without it: 45 s and more."""
STOPPED_SECONDS = 5.0
"""How long a program must stand still to believe that the machine slept: 2 s more than between two looks."""


@asynccontextmanager
async def soon(what: str, seconds: float = SOON_SECONDS) -> AsyncIterator[None]:
    began = time.monotonic()
    yield
    passed = time.monotonic() - began
    print(f"\n{what}: {passed:.2f} s")
    assert passed < seconds


async def rested(gateway: Gateway) -> None:
    """A connection to the API server that has carried a request, and was silent since for a while."""
    gateway.answers(answers.echo())
    if isinstance(gateway, Http2Gateway):
        gateway.streams_for(http2_answers.echo())
    assert (await gateway.request("GET", "/first")).status == 200
    await asyncio.sleep(REST_SECONDS)


def received(gateway: Gateway, method: str, target: str) -> int:
    """How often the API server has seen such a request."""
    if isinstance(gateway, Http2Gateway):
        return sum((each.method, each.target) == (method, target) for each in gateway.server.streams)
    return sum((each.method, each.target) == (method, target) for each in gateway.upstream.requests)


async def sleeps(gateway: Gateway) -> None:
    """The machine sleeps, as far as the program can tell: it stands still for a while."""
    gateway.program.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        gateway.program.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_the_first_request_after_silence(either: Gateway, method: str) -> None:
    """Its connection is dead and the network is back: it is answered soon, and reaches the server once."""
    await rested(either)
    await either.upstream.lose_connections()
    async with soon(method):
        response = await either.request(method, "/next", body=None if method == "GET" else b"x")
    assert response.status == 200
    assert received(either, method, "/next") == 1


@pytest.mark.parametrize("down_seconds", [2.0, 9.0])
async def test_the_first_get_after_an_outage(either: Gateway, down_seconds: float) -> None:
    """It was sent while nothing arrived, and is answered soon after the network is back."""
    await rested(either)
    await either.upstream.lose_network()
    asked = asyncio.ensure_future(either.request("GET", "/next"))
    await asyncio.sleep(down_seconds)
    assert not asked.done()
    either.upstream.find_network()
    async with soon("GET"):
        assert (await asked).status == 200


async def test_a_watch_ends_after_a_sleep(either: Gateway) -> None:
    """Its connection died while the machine slept: it ends within seconds, and its client comes back."""
    running = await either.watch()
    await either.upstream.lose_connections()
    await sleeps(either)
    async with soon("watch", RESUMED_SECONDS):
        await running.is_cut()
    async with soon("watch again"):
        await either.watch()


async def test_a_watch_that_lives_outlasts_a_sleep(either: Gateway) -> None:
    """The server answers for its connection, and the watch goes on."""
    running = await either.watch()
    await sleeps(either)
    await asyncio.sleep(RESUMED_SECONDS - 2)
    await running.goes_on()


# -- in doubt: the first answer counts --


def paused(seconds: float) -> Responder:
    """Answer after a while, with the number of the connection."""

    async def respond(connection: Connection, request: Request) -> None:
        await asyncio.sleep(seconds)
        await answers.json_answer({"connection": connection.number})(connection, request)

    return respond


async def test_a_slow_answer_on_a_connection_that_lives(gateway: Gateway) -> None:
    """HTTP/1.1 cannot tell that it lives: a second one is asked, and dropped when the first answers."""
    await rested(gateway)
    gateway.answers(answers.sequence(paused(1.5), answers.never_answer()), "/slow")
    response = await gateway.request("GET", "/slow")
    assert response.json() == {"connection": 0}
    assert received(gateway, "GET", "/slow") == 2
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await gateway.upstream.connections[1].ended.wait()
    assert not gateway.upstream.connections[0].ended.is_set()


async def test_a_slow_answer_over_http2(http2_gateway: Http2Gateway) -> None:
    """PING is answered: nothing is sent twice, however long the answer takes."""
    await rested(http2_gateway)

    async def respond(stream: Stream) -> None:
        await asyncio.sleep(1.5)
        await http2_answers.answer(b"{}")(stream)

    http2_gateway.streams_for(respond, "/slow")
    assert (await http2_gateway.request("GET", "/slow")).status == 200
    assert received(http2_gateway, "GET", "/slow") == 1
    assert len(http2_gateway.connections) == 1


async def test_there_is_no_second_connection(gateway: Gateway) -> None:
    """A dial that fails is no failure of a request whose first connection answers after all."""
    await rested(gateway)
    gateway.answers(paused(1.5), "/slow")
    await gateway.upstream.stop_listening()
    response = await gateway.request("GET", "/slow")
    assert (response.status, response.json()) == (200, {"connection": 0})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_first_is_lost_in_the_end(gateway: Gateway, method: str) -> None:
    """The second one, which has been asked already, answers."""
    await rested(gateway)
    is_lost = asyncio.Event()

    async def lose(connection: Connection, request: Request) -> None:
        await gateway.upstream.wait_for(lambda: received(gateway, method, "/slow") == 2)
        connection.channel.reset()
        is_lost.set()

    async def answer_later(connection: Connection, request: Request) -> None:
        await is_lost.wait()
        await paused(0.2)(connection, request)

    gateway.answers(answers.sequence(lose, answer_later), "/slow")
    client = await gateway.connect()
    await client.send(request_bytes(method, "/slow"))
    response = await client.read_response(method)
    assert response.status == 200
    assert received(gateway, method, "/slow") == 2


async def test_the_client_leaves_while_two_are_asked(gateway: Gateway) -> None:
    """Both API servers are told that nobody listens any more."""
    await rested(gateway)
    gateway.answers(answers.never_answer(), "/slow")
    client = await gateway.connect()
    await client.send(request_bytes("GET", "/slow"))
    await gateway.upstream.wait_for(lambda: received(gateway, "GET", "/slow") == 2)
    client.reset()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        for connection in gateway.upstream.connections:
            await connection.ended.wait()


# -- on their way --


async def test_a_request_on_its_way_when_http2_dies(http2_gateway: Http2Gateway) -> None:
    """It was sent on a connection that lived: who waits for 5 s without a sign of life asks elsewhere."""
    http2_gateway.streams_for(
        http2_answers.sequence(http2_answers.script(http2_answers.wait_until_over), http2_answers.echo())
    )
    client, _ = await http2_gateway.begin("GET", "/slow")
    await http2_gateway.upstream.lose_connections()
    async with soon("GET on its way", RESUMED_SECONDS):
        response = await client.read_response()
    assert (response.status, response.json()["connection"]) == (200, 1)


async def test_a_request_on_its_way_when_the_machine_sleeps(gateway: Gateway) -> None:
    """Over HTTP/1.1 only the sleep gives rise to a doubt: any answer may take as long as it likes."""
    gateway.answers(answers.sequence(answers.never_answer(), answers.echo()), "/slow")
    client, _ = await gateway.start("GET", "/slow")
    await gateway.upstream.lose_connections()
    await sleeps(gateway)
    async with soon("GET on its way"):
        assert (await client.read_response()).status == 200


async def test_an_upgrade_on_its_way_when_the_machine_sleeps(gateway: Gateway) -> None:
    """It is asked for once: a second exec would be a second command."""
    gateway.answers(answers.never_answer(), "/exec")
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    await gateway.start("GET", "/exec", fields)
    seen = len(program_of(gateway).log_events("context.resumed"))
    await sleeps(gateway)
    await program_of(gateway).event("context.resumed", seen + 1)
    await asyncio.sleep(1.5)
    assert received(gateway, "GET", "/exec") == 1


async def test_other_watches_end_when_one_connection_is_found_dead(gateway: Gateway) -> None:
    """No machine slept, a VPN went down and up: a second connection's answer casts a doubt on all others."""
    running = await gateway.watch()
    await rested(gateway)
    await gateway.upstream.lose_connections()
    async with soon("watch", RESUMED_SECONDS):
        assert (await gateway.request("GET", "/next")).status == 200
        await running.is_cut()


async def test_a_sleep_is_told(either: Gateway) -> None:
    """The log has one line for each context with connections, and says how long."""
    running = await either.watch()
    seen = len(program_of(either).log_events("context.resumed"))
    await sleeps(either)
    line = await program_of(either).event("context.resumed", seen + 1)
    assert 1 <= line["slept_seconds"] <= STOPPED_SECONDS + 60
    await running.goes_on()


def program_of(gateway: Gateway) -> Program:
    assert isinstance(gateway.program, Program)
    return gateway.program

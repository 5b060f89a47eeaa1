"""Connections that died in silence, as in a laptop's sleep or without its VPN: nobody waits for their end.

No packet passes on such a connection any more, and no FIN or RST ever tells of it. The limits allow for a busy
machine; each test prints what it took.
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

REST_SECONDS = 5.3
"""Silence after which a connection is doubted (5 s), and a little more."""
SOON_SECONDS = 4.0
"""Aimed at is 1 s, which a busy machine may stretch; without doubts it is 15 s and more."""
RESUMED_SECONDS = 12.0
"""Within that a resume is noticed and dead watches end; aimed at is 7 s. Without it: 45 s and more."""
STOPPED_SECONDS = 4.0
"""How long a program must have stood still to believe that the machine slept: 2 s, and some more."""


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
    either.upstream.lose_connections()
    async with soon(method):
        response = await either.request(method, "/next", body=None if method == "GET" else b"x")
    assert response.status == 200
    assert received(either, method, "/next") == 1


@pytest.mark.parametrize("down_seconds", [2.0, 9.0])
async def test_the_first_get_after_an_outage(either: Gateway, down_seconds: float) -> None:
    """It was sent while nothing arrived, and is answered soon after the network is back."""
    await rested(either)
    either.upstream.lose_network()
    asked = asyncio.ensure_future(either.request("GET", "/next"))
    await asyncio.sleep(down_seconds)
    assert not asked.done()
    either.upstream.find_network()
    async with soon("GET"):
        assert (await asked).status == 200


async def test_a_watch_ends_after_a_sleep(either: Gateway) -> None:
    """Its connection died while the machine slept: it ends within seconds, and its client comes back."""
    running = await either.watch()
    either.upstream.lose_connections()
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

"""Whether a peer is there: with the event loop's own timers, and a peer that says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kproxy.errors import KproxyError
from kproxy.upstream.health import Health
from kproxy.upstream.http2.pulse import Pulse
from tests.support.patience import LAST_RESORT_SECONDS

NEVER_SECONDS = 3600.0


class Peer:
    """What a Pulse has asked of a peer that never answers, and what it has concluded."""

    def __init__(self) -> None:
        self.pings = 0
        self.is_doubted = asyncio.Event()
        self.given_up: list[KproxyError] = []
        health = Health(read_idle_seconds=NEVER_SECONDS, ping_seconds=NEVER_SECONDS, patience_seconds=0.02)
        self.pulse = Pulse(
            asyncio.get_running_loop(), health, self._ping, self.is_doubted.set, self.given_up.append
        )

    def _ping(self) -> None:
        self.pings += 1


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    peer.pulse.start()
    yield peer
    peer.pulse.stop()


async def test_nobody_waits_for_a_peer_in_doubt(peer: Peer) -> None:
    """It has some seconds left to save its streams: who wants a living connection has none."""
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await peer.pulse.verify()
    assert peer.is_doubted.is_set()
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await peer.pulse.verify()
    assert asyncio.get_running_loop().time() - began < 1
    assert (peer.pings, peer.given_up) == (1, [])

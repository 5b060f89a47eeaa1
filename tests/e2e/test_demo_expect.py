"""Expect: 100-continue at the demo cluster, which curl sends with every upload of some size."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.e2e.clusters import config_map
from tests.e2e.demo_session import CONFIGMAPS, open_demo

SECONDS = 60.0


async def test_a_body_is_asked_for() -> None:
    """A client that sends its body only after a 100 need not wait for ever, on one connection twice."""
    async with open_demo() as session, asyncio.timeout(SECONDS):
        for name in ("one", "two"):
            url = session.cluster.url + CONFIGMAPS
            async with session.http.post(url, json=config_map(name), expect100=True) as response:
                assert response.status == 201


async def test_no_body_is_asked_for_in_vain() -> None:
    """What is refused before its body is read is refused at once: the client never sends it."""
    async with open_demo() as session, asyncio.timeout(SECONDS):
        body = aiohttp.BytesPayload(b"x" * 100_000)
        url = session.cluster.url + CONFIGMAPS + "/x/nonsense"
        async with session.http.put(url, data=body, expect100=True) as response:
            assert response.status == 404

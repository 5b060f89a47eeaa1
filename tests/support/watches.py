"""A client's watch together with the API server's side of it, over whichever protocol the two speak."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.client import RawClient, Response
from tests.support.http2_server import Stream


class Watch:
    """It is open: its head has come. `events` are what the API server sends, `last` ends it."""

    def __init__(
        self, client: RawClient, response: Response, events: asyncio.Queue[Any], last: object
    ) -> None:
        self.client = client
        self.response = response
        self.events = events
        self.last = last

    async def goes_on(self, text: bytes = b"going on\n") -> None:
        self.events.put_nowait(text)
        await self.client.read_until(self.response, text)

    async def ends(self) -> None:
        """As the API server ends it."""
        self.events.put_nowait(self.last)
        await self.client.read_rest(self.response)
        assert self.response.body.is_complete

    async def is_cut(self) -> None:
        await self.client.read_rest(self.response)
        assert not self.response.body.is_complete


class Http2Watch(Watch):
    """Over HTTP/2, where it is a stream."""

    def __init__(
        self, client: RawClient, response: Response, events: asyncio.Queue[Any], stream: Stream
    ) -> None:
        super().__init__(client, response, events, None)
        self.stream = stream

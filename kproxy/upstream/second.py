"""A request that is sent once more on another connection, because the first one may be dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from kproxy.errors import KproxyError, UpstreamTimeout, UpstreamUnreachable
from kproxy.http.framing import Body
from kproxy.http.heads import Field, ResponseHead
from kproxy.upstream.carrier import Carrier, Outgoing, Receiver

AGAIN_SECONDS = 1.0
"""After a dial that failed, while the first connection is waited for anyway."""


class Owner(Receiver, Protocol):
    """Whose request it is: the receiver of the first answer that begins, on whichever connection."""

    def on_second_chosen(self, carrier: Carrier) -> None:
        """Its answer begins: what follows comes from this carrier, and the first one is to be dropped."""

    def on_second_failed(self, error: Exception) -> None:
        """There will be no answer from it."""


class Second:
    """The Receiver of the second connection: passes on to the owner once it is chosen.

    It is from the first word of its answer on, or when the owner has nobody else to wait for.
    """

    __slots__ = (
        "_body",
        "_carrier",
        "_is_alone",
        "_is_chosen",
        "_outgoing",
        "_owner",
        "_task",
        "_trailers",
        "method",
    )

    def __init__(
        self,
        owner: Owner,
        open_carrier: Callable[[], Awaitable[Carrier]],
        outgoing: Outgoing,
        body: bytes,
        trailers: list[Field],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """The request is complete: `body` is all of it."""
        self.method = owner.method
        self._owner = owner
        self._outgoing = outgoing
        self._body = body
        self._trailers = trailers
        self._carrier: Carrier | None = None
        self._is_alone = False
        self._is_chosen = False
        self._task: asyncio.Task[None] | None = loop.create_task(self._send(open_carrier))

    async def _send(self, open_carrier: Callable[[], Awaitable[Carrier]]) -> None:
        carrier: Carrier | None = None
        while carrier is None:
            try:
                carrier = await open_carrier()
            except Exception as error:
                # There may be no way to the server yet: a laptop that wakes up has to find its network first.
                is_lasting = not isinstance(error, UpstreamUnreachable | UpstreamTimeout)
                if is_lasting or self._is_alone:
                    self._task = None
                    self._owner.on_second_failed(error)
                    return
                await asyncio.sleep(AGAIN_SECONDS)
        self._task = None
        self._carrier = carrier
        carrier.send(self, self._outgoing, self._body, self._trailers)
        if self._is_alone:
            self._choose()

    def go_alone(self) -> None:
        """The first one is lost."""
        self._is_alone = True
        self._choose()

    def drop(self) -> None:
        """The first one has answered, or nobody waits any more."""
        if self._task is not None:
            self._task.cancel()
        if self._carrier is not None:
            self._carrier.abort()

    def _choose(self) -> None:
        if self._carrier is not None and not self._is_chosen:
            self._is_chosen = True
            self._owner.on_second_chosen(self._carrier)

    # -- Receiver --

    def on_interim(self, head: ResponseHead) -> None:
        self._choose()
        self._owner.on_interim(head)

    def on_head(self, head: ResponseHead, body: Body, *, is_alone: bool) -> bool:
        self._choose()
        return self._owner.on_head(head, body, is_alone=is_alone)

    def on_body(self, data: bytes) -> None:
        self._owner.on_body(data)

    def on_end(self, trailers: list[Field]) -> None:
        self._owner.on_end(trailers)

    def on_upgrade(self, head: ResponseHead, early: bytes, detach: Callable[[], asyncio.Transport]) -> None:
        self._choose()
        self._owner.on_upgrade(head, early, detach)

    def on_lost(self, error: KproxyError, *, is_unprocessed: bool = False) -> None:
        if self._is_chosen:
            self._owner.on_lost(error, is_unprocessed=is_unprocessed)
        else:
            self._owner.on_second_failed(error)

    def on_silence(self) -> None:
        """Who waits for the first one, too, has two chances already."""
        if self._is_chosen:
            self._owner.on_silence()

    def on_upstream_paused(self) -> None:
        self._owner.on_upstream_paused()

    def on_upstream_resumed(self) -> None:
        self._owner.on_upstream_resumed()

"""What carries one request to an API server: an HTTP/1.1 connection or an HTTP/2 stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from kproxy.errors import KproxyError
from kproxy.http.framing import Body
from kproxy.http.heads import Field, ResponseHead

MAX_INTERIMS = 100
"""Interim answers to one request; without an end to them there would be none to its work."""


class Outgoing:
    """A request head to send; made once for a client that sends the same head again."""

    __slots__ = ("block", "header_block", "is_chunked")

    def __init__(self, block: bytes, *, is_chunked: bool) -> None:
        self.block = block
        """The head as HTTP/1.1 has it, with its empty line."""
        self.is_chunked = is_chunked
        self.header_block: bytes | None = None
        """The same for HTTP/2, from the first time that it is sent so."""


class Receiver(Protocol):
    """Who an answer goes to. Called synchronously, in this order, from the transport's callbacks."""

    method: str

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx other than 101."""

    def on_head(self, head: ResponseHead, body: Body, *, is_alone: bool) -> bool:
        """The final head, and how its body ends; unless it `is_alone`, `on_body` or `on_end` follows at once.

        True asks for what the body's chunks hold, False for its bytes as they came.
        """

    def on_body(self, data: bytes) -> None: ...

    def on_end(self, trailers: list[Field]) -> None:
        """The answer is complete; the carrier waits to be released or aborted."""

    def on_upgrade(self, head: ResponseHead, early: bytes, detach: Callable[[], asyncio.Transport]) -> None:
        """A 101. The connection, which `detach` hands over, is the receiver's, as is what came with it."""

    def on_lost(self, error: KproxyError, *, is_unprocessed: bool = False) -> None:
        """It ended before the answer did. `is_unprocessed`: the API server has said that it did nothing."""

    def on_silence(self) -> None:
        """The connection was silent before this request, and still is: it may be dead, or slow."""

    def on_upstream_paused(self) -> None:
        """The API server reads slower than we send."""

    def on_upstream_resumed(self) -> None: ...


class Carrier(Protocol):
    """Idle until `send`; then it is the receiver's until `release` or `abort`."""

    wants_payload: bool
    """Whether the receiver gets what the chunks hold, or the body as it came."""

    @property
    def is_reused(self) -> bool:
        """Whether the peer may have gone away before it saw this request."""

    def send(self, receiver: Receiver, request: Outgoing, body: bytes, trailers: list[Field] | None) -> None:
        """Send the head with the body so far, which is all of it if there are `trailers`, be they empty."""

    def send_body(self, data: bytes) -> None: ...

    def end_body(self, trailers: list[Field]) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def release(self) -> None:
        """Give it back after `on_end`."""

    def abort(self) -> None:
        """Drop the request: what tells an API server that nobody listens any more."""

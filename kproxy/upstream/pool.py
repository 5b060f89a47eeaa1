"""The connections of one upstream: the idle ones, those that are shared, and the set of all that are open."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import cast

from kproxy.errors import KproxyError
from kproxy.upstream.carrier import Carrier
from kproxy.upstream.health import REST_SECONDS, Health
from kproxy.upstream.http1 import UpstreamConnection
from kproxy.upstream.http2.connection import MAX_STREAMS, Http2Connection
from kproxy.upstream.vigil import now

# After this many connections have closed, what they held is given back to the system, this much later. The
# TLS of uvloop takes 256 KiB of heap for each; glibc keeps most of it, and more of it at each new burst.
TRIM_AFTER_CLOSED = 50
TRIM_SECONDS = 1.0
HTTP1_SECONDS = 300.0
"""How long an API server that asked for HTTP/1.1 is not spoken to in HTTP/2."""
IDLE_SECONDS = 90.0
"""As Go's net/http; load balancers before API servers drop idle connections after a few minutes."""


class Opening(asyncio.Protocol):
    """Stands in while a connection is made, until it is known which protocol it speaks (RFC 7301)."""

    def __init__(self, pool: Pool, opened_with: object) -> None:
        self._pool = pool
        self._opened_with = opened_with
        self.connection: UpstreamConnection | Http2Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        ssl_object = transport.get_extra_info("ssl_object")
        is_http2 = ssl_object is not None and ssl_object.selected_alpn_protocol() == "h2"
        self.connection = self._pool.connection(self._opened_with, is_http2=is_http2)
        cast("asyncio.Transport", transport).set_protocol(self.connection)
        self.connection.connection_made(transport)


class Pool:
    """No upper limit on how many are open: a limit would let forty watches starve a `get`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        explain: Callable[[Exception], KproxyError],
        health: Health,
        idle_seconds: float = IDLE_SECONDS,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        """`explain` says what broke a connection, in the words of who dialled it.

        `rest_seconds` is after how long an idle connection of HTTP/1.1 may be dead.
        """
        self._loop = loop
        self._explain = explain
        self._health = health
        self._idle_seconds = idle_seconds
        self._rest_seconds = rest_seconds
        self._generation: object = None
        self.max_streams = MAX_STREAMS
        """What the API server said last: new connections believe it until they hear otherwise."""
        self._is_retired = False
        self._http1_until = 0.0
        self._idle: list[UpstreamConnection] = []
        self._shared: list[Http2Connection] = []
        """HTTP/2 connections that may take another request."""
        self._open: set[UpstreamConnection | Http2Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._trim: asyncio.TimerHandle | None = None
        self._closed = 0

    def __repr__(self) -> str:
        return f"<Pool {len(self._open)} open, {len(self._idle)} idle>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many carry no request."""
        return len(self._idle) + sum(shared.is_idle for shared in self._shared)

    @property
    def wants_http1(self) -> bool:
        return self._loop.time() < self._http1_until

    @property
    def shares(self) -> bool:
        """Whether an HTTP/2 connection may take another request than the one that it was opened for."""
        return not self._is_retired and not self.wants_http1

    def opening(self, opened_with: object) -> Opening:
        """A protocol for the dialer; `opened_with` is the TLS context it dials with."""
        return Opening(self, opened_with)

    def connection(self, opened_with: object, *, is_http2: bool) -> UpstreamConnection | Http2Connection:
        """A new connection object; it counts as open from now on."""
        if is_http2:
            shared = Http2Connection(self, self._explain, opened_with, self._loop, self._health)
            self._open.add(shared)
            return shared
        connection = UpstreamConnection(self, self._explain, opened_with)
        self._open.add(connection)
        return connection

    def take(self, *, must_live: bool = False) -> Carrier | None:
        """A place on a shared connection, or the connection that was idle for the shortest time.

        `must_live`: none that was silent for so long that it may be dead, for what cannot be sent twice.
        """
        for shared in self._shared:
            stream = shared.open_stream(must_live=must_live)
            if stream is not None:
                return stream
        return self.take_connection(must_live=must_live)

    def take_connection(self, *, must_live: bool = False) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_usable:
                continue
            connection.is_rested = now() - connection.idle_since > self._rest_seconds
            if connection.is_rested and must_live:
                # What is dialled instead takes its place.
                connection.close()
                return None
            return connection
        return None

    async def verify(self) -> None:
        """Ask the shared connections that were silent for a sign of life, and wait for it for a moment."""
        if self._shared:
            await asyncio.gather(*(shared.verify() for shared in self._shared))

    def look_after(self, *, has_slept: bool) -> bool:
        """Find out about connections that may be dead while somebody waits; False when there are none."""
        for connection in list(self._open):
            connection.look_after(has_slept=has_slept)
        return bool(self._open)

    def probe(self) -> None:
        """One of HTTP/1.1 was silent when another answered: the others may be dead, too."""
        for connection in self._open:
            if isinstance(connection, UpstreamConnection):
                connection.probe()

    def share(self, connection: Http2Connection) -> None:
        """Let requests use it, the newest connection first."""
        if not self.shares or connection.opened_with is not self._generation:
            connection.retire()
            return
        self._shared.insert(0, connection)
        self._sweep_later()

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is complete; one that may not be used again is closed."""
        is_stale = self._is_retired or connection.opened_with is not self._generation
        if is_stale or connection.is_for_one or not connection.keep_alive:
            connection.close()
            return
        connection.idle_since = now()
        self._idle.append(connection)
        self._sweep_later()

    def forget(self, connection: UpstreamConnection | Http2Connection) -> None:
        """It is closed, or its transport was handed over."""
        self._open.discard(connection)
        if connection in self._shared:
            self._shared.remove(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._closed += 1
        if self._closed >= TRIM_AFTER_CLOSED and self._trim is None:
            self._trim = self._loop.call_later(TRIM_SECONDS, self._give_back_memory)

    def renew(self, generation: object) -> None:
        """Connections of an earlier TLS context take no more requests: the client certificate was renewed."""
        self._generation = generation
        self._close_idle()

    def retire(self) -> None:
        """Keep nothing for later any more; what carries a request goes on."""
        self._is_retired = True
        self._close_idle()

    def require_http1(self) -> None:
        """The API server wants HTTP/1.1 (RFC 9113, 7): its HTTP/2 connections take no more requests."""
        self._http1_until = self._loop.time() + HTTP1_SECONDS
        self._retire_shared()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._retire_shared()

    def _retire_shared(self) -> None:
        shared, self._shared = self._shared, []
        for each in shared:
            each.retire()

    def close(self) -> None:
        """End every connection at once. Idempotent."""
        if self._trim is not None:
            self._trim.cancel()
            self._trim = None
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        self._shared.clear()
        for connection in list(self._open):
            connection.abort()

    def _give_back_memory(self) -> None:
        # Imported here: only who has had many connections needs it.
        import ctypes

        self._trim = None
        self._closed = 0
        # First what goes round in circles in the TLS of a closed connection.
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl and macOS have not
        if trim is not None:
            trim(0)

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_seconds, self._close_stale)

    def _close_stale(self) -> None:
        self._sweep = None
        expired_at = now() - self._idle_seconds + 0.001
        while self._idle and self._idle[0].idle_since <= expired_at:
            self._idle.pop(0).close()
        for shared in [each for each in self._shared if each.is_idle and each.idle_since <= expired_at]:
            shared.retire()
            self._shared.remove(shared)
        waiting = [each.idle_since for each in self._idle] + [each.idle_since for each in self._shared]
        if waiting:
            since = min(waiting)
            left_seconds = max(since, expired_at) + self._idle_seconds - now()
            self._sweep = self._loop.call_later(left_seconds, self._close_stale)

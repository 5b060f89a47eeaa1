"""The idle connections of one upstream, and the set of all that are open."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from kproxy.errors import KproxyError
from kproxy.upstream.connection import UpstreamConnection

# After this many connections have closed, what they held is given back to the system, this much later. The
# TLS of uvloop takes 256 KiB of heap for each; glibc keeps most of it, and more of it at each new burst.
TRIM_AFTER_CLOSED = 50
TRIM_SECONDS = 1.0
IDLE_SECONDS = 90.0
"""As Go's net/http; load balancers before API servers drop idle connections after a few minutes."""


class Pool:
    """No upper limit on how many are open: a limit would let forty watches starve a `get`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        explain: Callable[[Exception], KproxyError],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """`explain` says what broke a connection, in the words of who dialled it."""
        self._loop = loop
        self._explain = explain
        self._idle_seconds = idle_seconds
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._trim: asyncio.TimerHandle | None = None
        self._closed = 0

    def __repr__(self) -> str:
        return f"<Pool {len(self._open)} open, {len(self._idle)} idle>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many wait for a request."""
        return len(self._idle)

    def connection(self) -> UpstreamConnection:
        """A new connection object for the dialer to connect; it counts as open from now on."""
        connection = UpstreamConnection(self.forget, self._explain)
        self._open.add(connection)
        return connection

    def take(self) -> UpstreamConnection | None:
        """The connection that was idle for the shortest time, None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                connection.is_reused = True
                return connection
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is complete; one that may not be used again is closed."""
        if not connection.keep_alive:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_seconds, self._close_stale)

    def forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._closed += 1
        if self._closed >= TRIM_AFTER_CLOSED and self._trim is None:
            self._trim = self._loop.call_later(TRIM_SECONDS, self._give_back_memory)

    def close_idle(self) -> None:
        """Close what is idle, as when the client certificate was renewed."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """End every connection at once. Idempotent."""
        if self._trim is not None:
            self._trim.cancel()
            self._trim = None
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
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

    def _close_stale(self) -> None:
        self._sweep = None
        now = self._loop.time()
        while self._idle and now - self._idle[0].idle_since >= self._idle_seconds - 0.001:
            self._idle.pop(0).close()
        if self._idle:
            due = self._idle[0].idle_since + self._idle_seconds
            self._sweep = self._loop.call_at(due, self._close_stale)

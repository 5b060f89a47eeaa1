"""After a 101: bytes both ways, whatever the protocol (WebSocket, SPDY/3.1), until both sides have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kproxy.system.sockets import allow_stalls, end_by_reset

# How long one side may stay open after the other has ended, without a byte passing. A side that was told of
# the end is finishing; one that could not be told (asyncio has no half-close over TLS) gets out what is on
# its way.
TOLD_SECONDS = 30.0
UNTOLD_SECONDS = 0.02


class Tunnel:
    """Owns both transports from the 101 on. `on_closed(bytes_in, bytes_out)` is called once, at the end."""

    __slots__ = ("_downstream", "_linger", "_loop", "_on_closed", "_upstream", "is_closed")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        downstream: asyncio.Transport,
        upstream: asyncio.Transport,
        on_closed: Callable[[int, int], None],
    ) -> None:
        self._loop = loop
        self._on_closed = on_closed
        self._linger: asyncio.TimerHandle | None = None
        self.is_closed = False
        self._downstream = _End(self, downstream)
        self._upstream = _End(self, upstream)
        self._downstream.peer, self._upstream.peer = self._upstream, self._downstream
        downstream.set_protocol(self._downstream)
        upstream.set_protocol(self._upstream)
        allow_stalls(upstream)

    def __repr__(self) -> str:
        return f"<Tunnel in={self._downstream.count_bytes} out={self._upstream.count_bytes}>"

    @property
    def count_bytes(self) -> tuple[int, int]:
        """What passed so far: from downstream, from upstream."""
        return self._downstream.count_bytes, self._upstream.count_bytes

    def start(self, from_downstream: bytes, from_upstream: bytes) -> None:
        """Pass on what either side had sent before the tunnel stood, then let both flow."""
        if from_upstream:
            self._upstream.data_received(from_upstream)
        if from_downstream:
            self._downstream.data_received(from_downstream)
        self._downstream.transport.resume_reading()
        self._upstream.transport.resume_reading()

    def abort(self) -> None:
        """Cut both sides. Idempotent."""
        self._downstream.transport.abort()
        self._upstream.transport.abort()

    def half_closed(self, *, is_told: bool) -> None:
        """One side has ended: both are closed when the other has too, or has been silent for a while."""
        if self._downstream.has_ended and self._upstream.has_ended:
            self._close()
        elif self._linger is None:
            self._await_silence(TOLD_SECONDS if is_told else UNTOLD_SECONDS, -1)

    def _await_silence(self, seconds: float, seen_bytes: int) -> None:
        passed = self._downstream.count_bytes + self._upstream.count_bytes
        if passed == seen_bytes:
            self._close()
        else:
            self._linger = self._loop.call_later(seconds, self._await_silence, seconds, passed)

    def _close(self) -> None:
        self._downstream.transport.close()
        self._upstream.transport.close()

    def lost(self, end: _End, exc: Exception | None) -> None:
        """A transport is gone for good: what was received is still delivered, then the other one ends."""
        end.is_lost = True
        if end.peer.is_lost:
            if not self.is_closed:
                self.is_closed = True
                if self._linger is not None:
                    self._linger.cancel()
                self._on_closed(self._downstream.count_bytes, self._upstream.count_bytes)
        elif exc is not None:
            # A reset stays a reset: a tidy end would make a cut stream look complete.
            end_by_reset(end.peer.transport)
            end.peer.transport.abort()
        else:
            end.peer.transport.close()


class _End(asyncio.Protocol):
    """One side: what it receives is written to its peer."""

    __slots__ = ("_is_tls", "_tunnel", "count_bytes", "has_ended", "is_lost", "peer", "transport")

    peer: _End

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self.count_bytes = 0
        self.has_ended = False
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.count_bytes += len(data)
        self.peer.transport.write(data)

    def pause_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def eof_received(self) -> bool:
        self.has_ended = True
        peer = self.peer.transport
        is_told = not peer.is_closing() and peer.can_write_eof()
        if is_told:
            peer.write_eof()
        self._tunnel.half_closed(is_told=is_told)
        # Over TLS asyncio closes both directions whatever is returned, and warns about True.
        return not self._is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.lost(self, exc)

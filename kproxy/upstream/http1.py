"""One HTTP/1.1 connection to an API server, and the one exchange at a time that it carries."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from kproxy.errors import KproxyError, UpstreamProtocolError, UpstreamUnreachable
from kproxy.http.framing import Body, ChunkedBody, CloseBody, body_of, chunk, last_chunk, without
from kproxy.http.heads import Field, MalformedHeadError, ResponseHead, find_head
from kproxy.system.sockets import PROBING_SECONDS, probe
from kproxy.upstream.carrier import MAX_INTERIMS, Outgoing, Receiver
from kproxy.upstream.health import PATIENCE_SECONDS

# Every connection reads into this one and copies what came: a read of its own size would have the C library
# map and unmap 256 KiB of memory for each answer. Nothing is kept in it between two callbacks.
_BUFFER = memoryview(bytearray(256 * 1024))
# What of an answer in tiny chunks may wait for its turn; then reading stops. Not at once: a server that
# closes behind its answer would cut it, since uvloop's TLS gives up what is unread then.
_MAX_REST_BYTES = 1024 * 1024


class Owner(Protocol):
    """Keeps connections of HTTP/1.1."""

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is complete."""

    def forget(self, connection: UpstreamConnection) -> None:
        """It is closed, or its transport was handed over."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """A Carrier. States: idle (no receiver), head (no `_body`), body, closed.

    What arrives while idle is a protocol error or an end; either way the connection is of no use any more.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_explain",
        "_has_carried",
        "_interims",
        "_is_chunked",
        "_is_lost",
        "_is_read_paused",
        "_lost_by",
        "_owner",
        "_receiver",
        "_rest",
        "_stop_probing",
        "_waits",
        "idle_since",
        "is_for_one",
        "is_rested",
        "is_reused",
        "keep_alive",
        "opened_with",
        "transport",
        "wants_payload",
    )

    def __init__(
        self, owner: Owner, explain: Callable[[Exception], KproxyError], opened_with: object
    ) -> None:
        self._owner = owner
        self._explain = explain
        self._receiver: Receiver | None = None
        self._body: Body | None = None
        self._buffer = b""
        self._rest = b""
        """What of the body has come, and waits for its turn."""
        self._waits = False
        self._is_lost = False
        self._lost_by: Exception | None = None
        self._is_chunked = False
        self._has_carried = False
        self._stop_probing: Callable[[], None] | None = None
        self._is_read_paused = False
        self._interims = 0
        self.wants_payload = False
        """Whether the receiver gets what the chunks hold, or the body as it came."""
        self.transport: asyncio.Transport | None = None
        self.opened_with = opened_with
        """The TLS context it was dialled with, by identity: an idle connection does not outlive that."""
        self.is_reused = False
        self.is_for_one = False
        """Whether it is closed behind its first request."""
        self.keep_alive = True
        self.idle_since = 0.0
        """By `vigil.now`."""
        self.is_rested = False
        """Whether it was idle for so long that it may be dead: who sends on it is told if it stays silent."""

    # -- called by the owner of the exchange --

    def send(self, receiver: Receiver, request: Outgoing, body: bytes, trailers: list[Field] | None) -> None:
        self._receiver = receiver
        self._body = None
        self._interims = 0
        self._is_chunked = request.is_chunked
        self.is_reused = self._has_carried
        self._has_carried = True
        data = request.block
        if self._is_chunked:
            data += (chunk(body) if body else b"") + (last_chunk(trailers) if trailers is not None else b"")
        elif body:
            data += body
        self._write(data)
        if self.is_rested:
            self._doubt_soon(receiver)

    def _doubt_soon(self, receiver: Receiver) -> None:
        asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._doubt, receiver)

    def _doubt(self, receiver: Receiver) -> None:
        has_begun = self._body is not None or self._buffer or self._interims
        if self._receiver is receiver and not has_begun:
            receiver.on_silence()

    def send_body(self, data: bytes) -> None:
        # Chunks are framed anew: their sizes mean nothing, their extensions could mean something to somebody.
        self._write(chunk(data) if self._is_chunked else data)

    def end_body(self, trailers: list[Field]) -> None:
        if self._is_chunked:
            self._write(last_chunk(trailers))

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._is_read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_read_paused = False
        if self._rest:
            self._give_way()
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def release(self) -> None:
        if self._is_read_paused:
            # For a client that has yet to read the end of its answer; the next one's must come in.
            self.resume_reading()
        self._owner.put(self)

    def abort(self) -> None:
        self._receiver = None
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """End an idle connection, or one whose answer is complete."""
        self._receiver = None
        if self.transport is not None:
            self.transport.close()

    def detach(self) -> asyncio.Transport:
        """Hand the transport over, for a tunnel. Nothing here touches it afterwards."""
        self._end_probe()
        transport, self.transport = self.transport, None
        self._receiver = None
        self._owner.forget(self)
        assert transport is not None
        return transport

    def look_after(self, *, has_slept: bool) -> None:
        """After a sleep: doubt a peer that has not begun to answer, and probe it if somebody waits for it."""
        if has_slept:
            if self._receiver is not None and self._body is None:
                self._doubt_soon(self._receiver)
            self.probe()

    def probe(self) -> None:
        """While somebody waits the kernel finds out whether the peer lives: HTTP/1.1 has no PING."""
        if self._receiver is not None and self.transport is not None and self._stop_probing is None:
            self._stop_probing = probe(self.transport)
            asyncio.get_running_loop().call_later(2 * PROBING_SECONDS, self._end_probe)

    def _end_probe(self) -> None:
        stop_probing, self._stop_probing = self._stop_probing, None
        if stop_probing is not None:
            stop_probing()

    @property
    def is_usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    # -- called by the transport --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_BUFFER[:nbytes]))

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            # An answer nobody asked for: reading it as the next one would be response splitting.
            self.abort()
            return
        if self._rest:
            self._rest += data
            self._bound_rest()
            return
        # An answer has begun: whatever happens now, it was not the request that found the connection dead.
        self.is_reused = False
        try:
            if self._body is None:
                data = self._buffer + data if self._buffer else data
                self._buffer = b""
                while self._body is None:
                    end = find_head(data)
                    if end < 0:
                        self._buffer = data
                        return
                    head = ResponseHead(data[:end])
                    data = data[end + 4 :]
                    if head.status >= 200:
                        self._body = body = body_of(head, receiver.method)
                        self.keep_alive = head.keep_alive
                        self.wants_payload = receiver.on_head(
                            head, body, is_alone=not data and not body.is_finished
                        )
                    elif head.status == 101:
                        receiver.on_upgrade(head, data, self.detach)
                        return
                    else:
                        self._take_interim(receiver, head)
                    if self._receiver is not receiver:
                        return
            self._feed(receiver, self._body, data)
        except MalformedHeadError as error:
            self._fail(_not_http(error))
        except UpstreamProtocolError as error:
            self._fail(error)

    def _take_interim(self, receiver: Receiver, head: ResponseHead) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIMS:
            raise MalformedHeadError("too many interim answers")
        receiver.on_interim(head)

    def _feed(self, receiver: Receiver, body: Body, data: bytes) -> None:
        payload: list[bytes] | None = [] if self.wants_payload else None
        broken: MalformedHeadError | None = None
        try:
            used = body.feed(data, payload)
        except MalformedHeadError as error:
            used, broken = error.good_bytes, error
        if payload is not None:
            if payload:
                receiver.on_body(payload[0] if len(payload) == 1 else b"".join(payload))
        elif used:
            passed = data if used == len(data) else data[:used]
            # Chunk extensions mean nothing beyond this connection (RFC 9112, 7.1.1).
            receiver.on_body(without(passed, body.cuts) if body.cuts else passed)
        if broken is not None:
            raise broken
        if self._receiver is not receiver:
            return
        if body.is_finished:
            if used < len(data):
                self.keep_alive = False
            self._finish(receiver, body)
        elif used < len(data):
            self._rest = data[used:]
            self._give_way()

    def _give_way(self) -> None:
        """Go on with the rest in the next round of the loop: so many chunks hold up everybody else."""
        if not self._waits:
            self._waits = True
            self._bound_rest()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _bound_rest(self) -> None:
        if len(self._rest) > _MAX_REST_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _go_on(self) -> None:
        self._waits = False
        receiver, body = self._receiver, self._body
        if receiver is None or body is None or self._is_read_paused:
            return
        rest, self._rest = self._rest, b""
        try:
            self._feed(receiver, body, rest)
        except MalformedHeadError as error:
            self._fail(_not_http(error))
        if self._rest or self._is_read_paused:
            return
        if self._is_lost:
            self._tell_of_loss()
        else:
            self.resume_reading()

    def _finish(self, receiver: Receiver, body: Body) -> None:
        self._receiver = None
        self._body = None
        receiver.on_end(body.trailers if isinstance(body, ChunkedBody) else [])

    def eof_received(self) -> bool:
        receiver, body = self._receiver, self._body
        if receiver is not None and isinstance(body, CloseBody) and not self._is_cut():
            self.keep_alive = False
            self._finish(receiver, body)
        return False

    def _is_cut(self) -> bool:
        """Whether TLS ended without a goodbye: what lasts until the end may then be a part (RFC 9112, 9.8).

        uvloop reports that as an error of its own, asyncio does not.
        """
        ssl_object = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        if ssl_object is None:
            return False
        try:
            ssl_object.read(1)
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLError:
            return False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._owner.forget(self)
        self.keep_alive = False
        self._is_lost = True
        self._lost_by = exc
        if not self._rest:
            self._tell_of_loss()

    def _tell_of_loss(self) -> None:
        exc = self._lost_by
        if self._receiver is not None:
            if exc is not None:
                self._fail(self._explain(exc))
            elif self._body is not None or self._buffer:
                self._fail(
                    UpstreamUnreachable("the API server closed the connection in the middle of its answer")
                )
            else:
                self._fail(UpstreamUnreachable("the API server closed the connection before it answered"))

    def _fail(self, error: KproxyError) -> None:
        receiver, self._receiver = self._receiver, None
        if self.transport is not None:
            self.transport.abort()
        if receiver is not None:
            receiver.on_lost(error)

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.on_upstream_paused()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.on_upstream_resumed()


def _not_http(error: MalformedHeadError) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"the API server's answer is not HTTP/1.1: {error}")

"""One local client's connection: requests in, in order; answers out, in the same order.

Our own protocol and not aiohttp's: it needs the bytes as they came (targets, trailers, what a client sends
before a 101), runs a relayed request without waking a task, and starts without importing aiohttp. Measured
in tests/bench; the reasons are in the README's map.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from time import monotonic
from typing import Any, Literal, Protocol, cast

from kproxy.errors import (
    BadRequest,
    KproxyError,
    proxy_status,
    shows_text_alone,
    status_body,
    text_body,
)
from kproxy.http.forwarding import answer_block
from kproxy.http.framing import Body, ChunkedBody, LengthBody
from kproxy.http.heads import Field, MalformedHeadError, RequestHead, find_head
from kproxy.system.sockets import end_by_reset
from kproxy.telemetry.exchange import Exchange

# Bytes of later, pipelined requests that are kept while one is being answered; then reading stops.
MAX_PIPELINED_BYTES = 64 * 1024
MAX_REMEMBERED_BYTES = 4096
# So long requests that are answered at once follow each other; then others have their turn.
TURN_SECONDS = 0.001
# What is read and thrown away of the body of a request that was already answered, before we give up on it.
MAX_DRAINED_BYTES = 256 * 1024
# How long a refused upload may take to notice that it was refused, before its connection is cut.
LINGER_SECONDS = 2.0
# A client that has begun a head must finish it (slowloris); an idle connection may stay as long as it likes.
HEAD_SECONDS = 60.0
# A client that only half-closed (`nc -N`) still reads. One that is gone looks the same until we write to it,
# so an unfinished answer gets this long and no longer: nobody may be left to read it.
HALF_CLOSE_SECONDS = 0.75
LOOK_OUT_SECONDS = 0.5


class Handler(Protocol):
    """Who answers a request whose head was read. All calls come from the transport's callbacks."""

    def on_request_body(self, data: bytes) -> None:
        """A piece of what the body holds, without chunk framing."""

    def on_request_end(self, trailers: list[Field]) -> None: ...

    def on_request_broken(self, error: BadRequest) -> None:
        """The body's framing is broken: nothing more will come, and what came must not look complete."""

    def on_downstream_lost(self) -> None:
        """Nobody is left to answer to."""

    def on_downstream_paused(self) -> None:
        """The client reads slower than we write."""

    def on_downstream_resumed(self) -> None: ...


class Discard:
    """The handler of a body that nobody wants any more."""

    def on_request_body(self, data: bytes) -> None: ...

    def on_request_end(self, trailers: list[Field]) -> None: ...

    def on_request_broken(self, error: BadRequest) -> None: ...

    def on_downstream_lost(self) -> None: ...

    def on_downstream_paused(self) -> None: ...

    def on_downstream_resumed(self) -> None: ...


_DISCARD = Discard()


class Waiting(Discard):
    """The client of an answer that a task of ours makes; it may have gone by the time that it is ready."""

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream
        self.is_gone = False

    def on_request_broken(self, error: BadRequest) -> None:
        self._downstream.abort()

    def on_downstream_lost(self) -> None:
        self.is_gone = True
        self._downstream.exchange.proxy_error = "connection_terminated"
        self._downstream.finish(keep_alive=False)


class Turns:
    """Connections that had their turn and have more to do: one of them goes on in each round of the loop.

    However many clients flood us, who sends a request now and then waits for one turn, not for all of theirs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def are_awaited(self) -> bool:
        return bool(self._waiting)

    def wait(self, go_on: Callable[[], None]) -> None:
        if not self._waiting:
            self._loop.call_soon(self._next)
        self._waiting.append(go_on)

    def _next(self) -> None:
        go_on = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._next)
        go_on()


class Listener(Protocol):
    """What a connection needs of the listener that accepted it."""

    name: str
    kind: Literal["tcp", "unix"]
    url: str
    is_local: bool
    """Whether only programs of this machine reach it: on a loopback address or a unix socket."""
    is_tls: bool
    connections: set[Downstream]
    turns: Turns

    def dispatch(self, downstream: Downstream, head: RequestHead) -> None:
        """Find who answers `head`: must lead to `answer`, `refuse` or `hand_to`, at once."""

    def finished(self, exchange: Exchange) -> None: ...


class Downstream(asyncio.Protocol):
    """States: waiting for a head; handling (`_handler`, and `_body` while one comes); lingering; closed."""

    __slots__ = (
        "_body",
        "_buffer",
        "_closes",
        "_connected_at",
        "_discarded_bytes",
        "_handler",
        "_has_skipped_line",
        "_is_advancing",
        "_is_eof",
        "_is_held",
        "_is_lingering",
        "_is_read_paused",
        "_is_turn",
        "_lingers",
        "_look_out",
        "_loop",
        "_raw_head",
        "_timer",
        "_waits",
        "answering",
        "client",
        "client_address",
        "exchange",
        "extra_fields",
        "forwarded",
        "head",
        "is_write_paused",
        "listener",
        "transport",
    )

    exchange: Exchange
    head: RequestHead
    extra_fields: bytes
    """What the answer at hand has beside its own fields, in lines: those of CORS."""
    forwarded: object
    """For who relays: what was made of the last head, to be used again when the next is the same object."""

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self._loop = loop
        self._buffer = b""
        self._raw_head: bytes | None = None
        self.extra_fields = b""
        self.forwarded = None
        self._body: Body | None = None
        self._handler: Handler | None = None
        self.answering: asyncio.Task[None] | None = None
        """The task that answers the request at hand, if one does."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_out: asyncio.TimerHandle | None = None
        self._discarded_bytes = 0
        self._has_skipped_line = False
        self._is_advancing = False
        self._waits = False
        """Whether it has had its turn, and is to go on in a later round of the loop."""
        self._is_turn = False
        self._is_eof = False
        self._is_lingering = False
        self._closes = False
        self._lingers = False
        self._is_held = False
        """Whether the handler wants no more of the body for now."""
        self._is_read_paused = False
        self.is_write_paused = False
        self.transport: asyncio.Transport | None = None
        self.client = "unix"
        self.client_address: bytes | None = None
        self._connected_at = monotonic()

    def __repr__(self) -> str:
        state = "closed" if self.transport is None else "handling" if self._handler else "idle"
        return f"<Downstream {self.client} {state}>"

    # -- the transport's callbacks --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.listener.connections.add(self)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            host, port = peer[:2]
            if host.startswith("::ffff:") and "." in host:
                # An IPv4 client of a listener on `::`; Go tells its address as what it is, too.
                host = host[7:]
            self.client = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self.client_address = host.encode("ascii")

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.listener.connections.discard(self)
        self._cancel_timer()
        self._end_look_out()
        self._buffer = b""
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_downstream_lost()
        if self.answering is not None:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        if self._body is not None and not self._buffer:
            data = self._feed_body(data)
            if not data:
                return
        if self._is_lingering:
            self._discard(len(data))
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._handler is None and not self.is_write_paused:
            self._advance()
        elif len(self._buffer) > MAX_PIPELINED_BYTES:
            # No hold for an upgrade's early bytes beyond this either: the tunnel will ask for more.
            self._stop_reading()

    def eof_received(self) -> bool:
        self._is_eof = True
        if self._handler is None or self._is_lingering:
            return False
        if self._body is not None:
            # An upload that ends before its length can only be aborted.
            return False
        self._set_timer(HALF_CLOSE_SECONDS, self.abort)
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self.is_write_paused = True
        if self._handler is not None:
            self._handler.on_downstream_paused()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._handler is not None:
            self._handler.on_downstream_resumed()
        elif not self._closes:
            self._next()

    # -- requests --

    def _advance(self) -> None:
        """Read heads off the buffer, until one must be waited for or is being answered.

        A client that does not read its answers waits, or those that are given at once would pile up.
        """
        if self._is_advancing or self._waits:
            # A handler that answered at once calls back into here; the loop below goes on instead.
            return
        self._is_advancing = True
        began_at = 0.0
        try:
            while self._handler is None and self._buffer and self.transport is not None:
                if self._closes or self.is_write_paused:
                    return
                if began_at and self._has_had_turn(began_at):
                    self._give_way()
                    return
                if not self._read_head():
                    return
                began_at = began_at or self.exchange.started_at
        finally:
            self._is_advancing = False

    def _has_had_turn(self, began_at: float) -> bool:
        """Whether others are next. Who did not wait has no turn while others do."""
        is_turn = self._is_turn or not self.listener.turns.are_awaited
        return not is_turn or monotonic() - began_at > TURN_SECONDS

    def _give_way(self) -> None:
        """Go on when it is our turn again. What comes meanwhile waits in the client's kernel."""
        if not self._waits:
            self._waits = True
            self._stop_reading()
            self.listener.turns.wait(self._take_turn)

    def _take_turn(self) -> None:
        self._waits = False
        self._is_turn = True
        try:
            self._go_on()
        finally:
            self._is_turn = False

    def _go_on(self) -> None:
        if self.transport is None:
            return
        if self._body is not None and self._buffer:
            if self._is_held:
                return
            data, self._buffer = self._buffer, b""
            self._buffer = self._feed_body(data) + self._buffer
        if self._handler is None and not self.is_write_paused:
            self._advance()
        self._read_on()

    def _read_head(self) -> bool:
        buffer = self._buffer
        if buffer[:2] == b"\r\n" and not self._has_skipped_line:
            # RFC 9112 section 2.2: one empty line before a request line is ignored.
            self._has_skipped_line = True
            buffer = self._buffer = buffer[2:]
        try:
            end = find_head(buffer)
            if end < 0:
                if self._timer is None:
                    self._set_timer(HEAD_SECONDS, self._head_timed_out)
                return False
            if self._timer is not None:
                self._cancel_timer()
            raw = buffer[:end]
            if raw == self._raw_head:
                # A client that polls sends the same head again and again: what was made of it stays good.
                head = self.head
            else:
                head = RequestHead(raw)
                self._raw_head = raw if end <= MAX_REMEMBERED_BYTES else None
        except MalformedHeadError as error:
            self._reject(BadRequest(str(error), error.status))
            return False
        except BadRequest as error:
            self._reject(error)
            return False
        self._buffer = buffer[end + 4 :]
        self._has_skipped_line = False
        self.head = head
        self.exchange = Exchange(head.method, head.path, self.client, self.listener.name)
        if not head.keep_alive:
            self._closes = True
        if head.is_chunked:
            self._body = ChunkedBody()
        elif head.content_length:
            self._body = LengthBody(head.content_length)
        # Until dispatch names another: whoever answers at once wants nothing of the body.
        self._handler = _DISCARD
        self._discarded_bytes = 0
        self.listener.dispatch(self, head)
        if self._body is not None and self._buffer:
            data, self._buffer = self._buffer, b""
            self._buffer = self._feed_body(data) + self._buffer
        return True

    def _feed_body(self, data: bytes) -> bytes:
        """Give the body its part of `data`; returns what is behind it."""
        body = self._body
        assert body is not None
        payload: list[bytes] = []
        broken: MalformedHeadError | None = None
        try:
            used = body.feed(data, payload)
        except MalformedHeadError as error:
            used, broken = error.good_bytes, error
        handler = self._handler
        if handler is None or handler is _DISCARD:
            self._discard(used)
        elif payload:
            piece = payload[0] if len(payload) == 1 else b"".join(payload)
            self.exchange.bytes_in += len(piece)
            handler.on_request_body(piece)
        if broken is not None:
            self._break_off(
                BadRequest(f"the request body is not framed as HTTP/1.1 says: {broken}", broken.status)
            )
            return b""
        if self._is_lingering:
            return b""
        if not body.is_finished:
            if used < len(data):
                self._give_way()
        elif self._body is body:
            self._body = None
            if self._handler is _DISCARD:
                self._next()
            elif self._handler is not None:
                self._handler.on_request_end(body.trailers if isinstance(body, ChunkedBody) else [])
        return data[used:]

    def _break_off(self, error: BadRequest) -> None:
        """Nothing after a broken body can be told apart from it: this is the last answer."""
        self._body = None
        self._closes = self._lingers = True
        if self._handler is None or self._handler is _DISCARD:
            self._linger()
        else:
            self._handler.on_request_broken(error)

    def _reject(self, error: BadRequest) -> None:
        """Answer a head that could not be read. Nothing after it can be trusted."""
        self.exchange = Exchange("", "", self.client, self.listener.name)
        self._closes = self._lingers = True
        self._buffer = b""
        self._handler = _DISCARD
        self._answer_error(error)

    def _head_timed_out(self) -> None:
        self._timer = None
        self._reject(BadRequest(f"no complete request head came within {HEAD_SECONDS:.0f} s", 408))

    # -- for whoever answers --

    @property
    def has_unread_body(self) -> bool:
        return self._body is not None

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may come on this connection after the answer at hand."""
        return not self._closes

    @property
    def idle_since(self) -> float | None:
        """Since when nobody waits for an answer or reads one; None when somebody does."""
        transport = self.transport
        if self._handler is not None or self._waits or self._is_lingering or transport is None:
            return None
        if transport.is_closing() or transport.get_write_buffer_size():
            return None
        exchange = getattr(self, "exchange", None)
        return self._connected_at if exchange is None else exchange.finished_at

    @property
    def has_begun(self) -> bool:
        """Whether some of the next request has come."""
        return bool(self._buffer)

    def hand_to(self, handler: Handler) -> None:
        """`handler` answers the request at hand and must end with `finish` or `abort`."""
        self._handler = handler

    def run(self, answer: Coroutine[Any, Any, None], handler: Handler) -> None:
        """Answer the request at hand in a task that ends with the connection."""
        self._handler = handler
        self.answering = self._loop.create_task(answer)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.exchange.bytes_out += len(data)
            self.transport.write(data)

    def pause_reading(self) -> None:
        """For the handler: no more of the body until `resume_reading`."""
        self._is_held = True
        self._stop_reading()

    def resume_reading(self) -> None:
        self._is_held = False
        if self._body is not None and self._buffer:
            self._give_way()
        else:
            self._read_on()

    def _stop_reading(self) -> None:
        if not self._is_read_paused and self.transport is not None and not self.transport.is_closing():
            self._is_read_paused = True
            self.transport.pause_reading()
            self._look_out = self._loop.call_later(LOOK_OUT_SECONDS, self._look_for_reset)

    def _read_on(self) -> None:
        """Read again, unless there is a reason left not to."""
        if not self._is_read_paused or self._is_held or self._waits:
            return
        # A head may be longer than what is kept while another request is answered.
        has_room = len(self._buffer) <= MAX_PIPELINED_BYTES or (
            self._handler is None and not self.is_write_paused
        )
        if has_room and self.transport is not None and not self.transport.is_closing():
            self._is_read_paused = False
            self.transport.resume_reading()
            self._end_look_out()

    def _look_for_reset(self) -> None:
        """A connection that is not read does not tell that it was reset: ask the kernel now and then."""
        self._look_out = None
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or not self._is_read_paused:
            return
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        if poll.poll(0):
            self.abort()
        else:
            self._look_out = self._loop.call_later(LOOK_OUT_SECONDS, self._look_for_reset)

    def _end_look_out(self) -> None:
        if self._look_out is not None:
            self._look_out.cancel()
            self._look_out = None

    def answer(
        self,
        status: int,
        reason: str,
        fields: tuple[tuple[str, str], ...],
        body: bytes,
        *,
        sends_body: bool = True,
    ) -> None:
        """Answer the request at hand from here, and go on to the next one."""
        if self._body is not None and self.head.expects_continue:
            # Whether the client will send its body now or not cannot be known (RFC 9110, 10.1.1).
            self._closes = True
        self.exchange.status = status
        block = answer_block(status, reason, fields, len(body), closes=self._closes, extra=self.extra_fields)
        self.write(block + body if sends_body else block)
        self.finish(keep_alive=True)

    def refuse(self, error: KproxyError, fields: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer the request at hand with an error of ours: a `Status`, or text for whom it says more."""
        head = self.head
        as_text = shows_text_alone(head.path, head.text(b"accept") or "")
        self._answer_error(error, fields, sends_body=head.method != "HEAD", as_text=as_text)

    def turn_away(self, error: KproxyError) -> None:
        """Answer the request at hand in plain text, whatever the client takes, and take no other one."""
        self._closes = self._lingers = True
        self._answer_error(error, sends_body=self.head.method != "HEAD", as_text=True)

    def _answer_error(
        self,
        error: KproxyError,
        fields: tuple[tuple[str, str], ...] = (),
        *,
        sends_body: bool = True,
        as_text: bool = False,
    ) -> None:
        self.exchange.proxy_error = error.proxy_error
        content_type = "text/plain; charset=utf-8" if as_text else "application/json"
        self.answer(
            error.status,
            HTTPStatus(error.status).phrase,
            (("Content-Type", content_type), ("Proxy-Status", proxy_status(error)), *fields),
            text_body(error) if as_text else status_body(error),
            sends_body=sends_body,
        )

    def finish(self, *, keep_alive: bool) -> None:
        """The answer is complete. Without `keep_alive` the connection ends behind it."""
        self._handler = None
        self.answering = None
        self.extra_fields = b""
        self.exchange.finished_at = monotonic()
        self.listener.finished(self.exchange)
        if self.transport is None:
            return
        if self._is_eof:
            keep_alive = False
            self._cancel_timer()
        if not keep_alive:
            self._closes = True
        if self._body is not None:
            self._handler = _DISCARD
            if self._closes:
                self._linger()
            else:
                self.resume_reading()
        elif self._closes:
            self._linger() if self._buffer or self._lingers else self.transport.close()
        else:
            self._next()

    def _next(self) -> None:
        self._handler = None
        if self._closes:
            if self.transport is not None:
                self.transport.close()
            return
        self._is_held = False
        if self._buffer:
            self._advance()
        if self._is_read_paused and not self._is_advancing:
            self._read_on()

    def abort(self) -> None:
        """Cut the connection: the only honest end of an answer that cannot be completed."""
        handler, self._handler = self._handler, None
        self._cancel_timer()
        if self.transport is not None:
            self.transport.abort()
        if handler is not None:
            handler.on_downstream_lost()

    def reset(self) -> None:
        """`abort`, for a client to whom the end of the connection is the end of the answer."""
        if self.transport is not None:
            end_by_reset(self.transport)
        self.abort()

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Hand over the transport and what was read beyond the request, for a tunnel."""
        transport, self.transport = self.transport, None
        assert transport is not None
        early, self._buffer = self._buffer, b""
        self._handler = None
        self._cancel_timer()
        self._end_look_out()
        self.listener.connections.discard(self)
        return transport, early

    def close_when_idle(self) -> None:
        """Draining: no request is taken after the one at hand."""
        self._closes = True
        if self._handler is None and self.transport is not None:
            self.transport.close()

    # -- the end of a connection whose client is still sending --

    def _linger(self) -> None:
        """Send our end, read on for a while: closing at once would reset the answer away (RFC 9112, 9.6)."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._is_lingering = True
        self._body = None
        self._buffer = b""
        if transport.can_write_eof():
            transport.write_eof()
        self.resume_reading()
        self._set_timer(LINGER_SECONDS, self._end_linger)

    def _end_linger(self) -> None:
        self._timer = None
        if self.transport is None:
            return
        if self.transport.can_write_eof():
            # Our end was sent when the lingering began.
            self.transport.abort()
        else:
            self.transport.close()

    def _discard(self, size_bytes: int) -> None:
        self._discarded_bytes += size_bytes
        if self._discarded_bytes > MAX_DRAINED_BYTES and not self._is_lingering:
            self._closes = True
            self._linger()

    def _set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

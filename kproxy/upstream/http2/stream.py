"""One request on an HTTP/2 connection, and its answer."""

from __future__ import annotations

from typing import Protocol

from kproxy.errors import KproxyError, UpstreamUnreachable
from kproxy.http.framing import Body, LengthBody, body_of
from kproxy.http.heads import Field, MalformedHeadError, ResponseHead
from kproxy.http.http2.frames import (
    DATA,
    END_STREAM,
    MAX_PATIENCE,
    STREAM_WINDOW_BYTES,
    ErrorCode,
    data_frames,
    frame,
    window_update,
)
from kproxy.http.http2.heads import head_of, trailers_of, without_body
from kproxy.http.http2.hpack import Pair, encode_fields, encode_request
from kproxy.upstream.carrier import MAX_INTERIMS, Outgoing, Receiver

MAX_UNSENT_BYTES = 128 * 1024
"""Of an upload that its window or the network holds up; above that the client is not read."""


class Owner(Protocol):
    """The connection of streams, as they see it."""

    send_window_bytes: int
    is_write_paused: bool
    patience: int
    """How many frames may still come that bring no request forward."""

    def begin(self, stream: Http2Stream, block: bytes, *, ends: bool) -> None:
        """Give the stream its number and window, and send its head."""

    def write_block(self, stream_id: int, block: bytes, *, ends: bool) -> None: ...

    def write(self, data: bytes) -> None: ...

    def drop(self, stream: Http2Stream, code: ErrorCode | None = None) -> None:
        """The stream is over; with a `code` it is cut."""

    def decode(self, block: bytes) -> list[Pair]: ...

    def known_head(self, block: bytes) -> ResponseHead | None: ...

    def remember_head(self, block: bytes, head: ResponseHead) -> None: ...


class Http2Stream:
    """A Carrier: one request on a connection."""

    __slots__ = (
        "_body",
        "_connection",
        "_ends",
        "_interims",
        "_is_local_done",
        "_is_paused",
        "_is_stalled",
        "_receiver",
        "_taken_bytes",
        "_trailers",
        "_unsent",
        "_unsent_bytes",
        "id",
        "is_over",
        "is_reused",
        "send_window_bytes",
        "wants_payload",
    )

    def __init__(self, connection: Owner, *, is_reused: bool) -> None:
        self._connection = connection
        self.is_reused = is_reused
        self.wants_payload = False
        self.id = 0
        """0 until it is sent."""
        self.is_over = False
        self.send_window_bytes = 0
        self._receiver: Receiver | None = None
        self._body: Body | None = None
        self._taken_bytes = 0
        self._unsent: list[memoryview] = []
        self._unsent_bytes = 0
        self._trailers: list[Field] = []
        self._ends = False
        self._interims = 0
        self._is_local_done = False
        self._is_paused = False
        self._is_stalled = False

    # -- called by the owner of the request --

    def send(self, receiver: Receiver, request: Outgoing, body: bytes, trailers: list[Field] | None) -> None:
        connection = self._connection
        self._receiver = receiver
        block = request.header_block
        if block is None:
            block = request.header_block = encode_request(request.block, is_tls=True)
        self._is_local_done = ends = trailers is not None and not body and not trailers
        connection.begin(self, block, ends=ends)
        if not ends:
            if trailers is not None:
                self._ends = True
                self._trailers = trailers
            self.send_body(body)

    def send_body(self, data: bytes) -> None:
        if data:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)
        self.pump()

    def end_body(self, trailers: list[Field]) -> None:
        if not self._is_local_done:
            self._ends = True
            self._trailers = trailers
            self.pump()

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._give_window()

    def release(self) -> None:
        if not self.is_over:
            self.abort()

    def abort(self) -> None:
        self._receiver = None
        self._connection.drop(self, ErrorCode.CANCEL)

    # -- called by the connection --

    @property
    def is_sending(self) -> bool:
        return not self._is_local_done

    @property
    def has_begun(self) -> bool:
        """Whether something of the answer came, be it an interim one."""
        return self._body is not None or self._interims > 0

    def pump(self) -> None:
        """Send of the body what the windows allow; tell the receiver when too much must wait."""
        if self.is_over:
            return
        connection, unsent = self._connection, self._unsent
        while unsent and not connection.is_write_paused:
            piece = unsent[0]
            room = min(len(piece), connection.send_window_bytes, self.send_window_bytes)
            if room <= 0:
                break
            if room == len(piece):
                del unsent[0]
            else:
                unsent[0] = piece[room:]
            connection.send_window_bytes -= room
            self.send_window_bytes -= room
            self._unsent_bytes -= room
            if connection.patience < MAX_PATIENCE:
                # Windows may be given back in small steps: by 512 bytes, and twice, in older ones of Go.
                connection.patience += 2 + (room >> 6)
            self._is_local_done = ends = self._ends and not unsent and not self._trailers
            connection.write(data_frames(self.id, piece[:room], ends=ends))
        if self._ends and not unsent and not self._is_local_done:
            self._end_body()
        if self._receiver is not None:
            self._tell_of_stall(self._receiver)

    def _end_body(self) -> None:
        self._is_local_done = True
        if self._trailers:
            block = encode_fields([field[2] for field in self._trailers])
            self._connection.write_block(self.id, block, ends=True)
        else:
            self._connection.write(frame(DATA, END_STREAM, self.id))

    def _tell_of_stall(self, receiver: Receiver) -> None:
        if not self._is_stalled and self._unsent_bytes > MAX_UNSENT_BYTES:
            self._is_stalled = True
            receiver.on_upstream_paused()
        elif self._is_stalled and self._unsent_bytes <= MAX_UNSENT_BYTES // 2:
            self._is_stalled = False
            receiver.on_upstream_resumed()

    def on_block(self, block: bytes, *, ends: bool, is_alone: bool) -> None:
        """A whole header block: an interim or final head, or trailers. Raises MalformedHeadError."""
        receiver, connection = self._receiver, self._connection
        if self._body is not None:
            fields = connection.decode(block)
            if not ends:
                raise MalformedHeadError("trailers that do not end the answer")
            self._finish(trailers_of(fields))
            return
        head = connection.known_head(block) if not ends else None
        if head is None:
            head = head_of(connection.decode(block))
            if head.status < 200:
                if ends or head.status == 101:
                    raise MalformedHeadError(f"a {head.status} that ends the answer or switches protocols")
                # They take no window, so that nothing else holds them back when the client does not read.
                self._interims += 1 + (len(block) >> 12)
                if self._interims > MAX_INTERIMS:
                    raise MalformedHeadError("too many interim answers")
                if receiver is not None:
                    receiver.on_interim(head)
                return
            if ends:
                head = without_body(head, receiver.method if receiver is not None else "GET")
            else:
                connection.remember_head(block, head)
        if receiver is None:
            return
        self.is_reused = False
        self._body = body = body_of(head, receiver.method)
        self.wants_payload = receiver.on_head(head, body, is_alone=is_alone and not ends)
        if ends and self._receiver is receiver:
            self._finish([])

    def on_data(self, data: bytes, window_bytes: int, *, ends: bool) -> None:
        """A piece of the body; `window_bytes` is what it took of the window. Raises MalformedHeadError."""
        receiver, body = self._receiver, self._body
        if receiver is None:
            return
        if body is None:
            raise MalformedHeadError("a body before its head")
        self._taken_bytes += window_bytes
        if self._taken_bytes > STREAM_WINDOW_BYTES:
            raise MalformedHeadError("more of a body than its window has room for")
        if data:
            if body.feed(data) < len(data):
                raise MalformedHeadError("a body that is longer than its Content-Length")
            receiver.on_body(data)
        if self._taken_bytes >= STREAM_WINDOW_BYTES // 2 and not ends:
            self._give_window()
        if ends and self._receiver is receiver:
            self._finish([])

    def _give_window(self) -> None:
        if self._taken_bytes and not self._is_paused and not self.is_over:
            self._connection.write(window_update(self.id, self._taken_bytes))
            self._taken_bytes = 0

    def _finish(self, trailers: list[Field]) -> None:
        receiver, self._receiver = self._receiver, None
        if isinstance(self._body, LengthBody) and not self._body.is_finished:
            self._receiver = receiver
            raise MalformedHeadError("an answer that is shorter than its Content-Length")
        if self._is_local_done:
            self._connection.drop(self)
        if receiver is not None:
            receiver.on_end(trailers)

    def doubt(self) -> None:
        """The connection may be dead: somebody who waits for a first word may want to ask elsewhere."""
        if self._receiver is not None and not self.has_begun:
            self._receiver.on_silence()

    def fail(self, error: KproxyError, *, is_unprocessed: bool = False) -> None:
        """Tell the receiver; the connection has let go of the stream already."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_lost(error, is_unprocessed=is_unprocessed)

    def cut_error(self) -> KproxyError:
        """What `fail` is told when the connection has ended."""
        where = "before it answered" if self._body is None else "in the middle of its answer"
        return UpstreamUnreachable(f"the API server closed the connection {where}")

"""One HTTP/2 connection to an API server, and the requests that share it (RFC 9113). TLS only, by ALPN.

A stream looks to who uses it like an HTTP/1.1 connection. What many streams say in one round of the event
loop leaves in one write, and what arrives for them is one read: that is where the CPU goes, and why watches
are cheap. A stream whose client does not read holds up to STREAM_WINDOW_BYTES and no other stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from kproxy.errors import KproxyError, UpstreamProtocolError, UpstreamUnreachable
from kproxy.http.heads import MalformedHeadError, ResponseHead
from kproxy.http.http2.frames import (
    ACK,
    CONNECTION_WINDOW_BYTES,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW_BYTES,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_HEAD_BYTES,
    MAX_PATIENCE,
    MAX_WINDOW_BYTES,
    PADDED,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    Setting,
    error_name,
    frame,
    goaway,
    head_frames,
    read_frame_head,
    read_number,
    read_settings,
    rst_stream,
    window_update,
)
from kproxy.http.http2.hpack import NO_TABLE, Decoder, MalformedBlockError, Pair
from kproxy.upstream.health import Health
from kproxy.upstream.http2.pulse import Pulse
from kproxy.upstream.http2.stream import Http2Stream
from kproxy.upstream.vigil import now

MAX_STREAMS = 100
"""How many requests share a connection until the API server says how many it takes; Go assumes it, too."""
_LAST_STREAM_ID = 1 << 30
_MAX_KNOWN_HEADS, _MAX_KNOWN_BYTES = 64, 1024
# Of one header block; the frames of a head of MAX_HEAD_BYTES may well be small, but not without end.
_MAX_BLOCK_FRAMES = 1024
_MAX_SETTINGS = 32

# How many frames are taken in one round of the event loop: other connections want theirs, too. What costs by
# its length (all but DATA) counts for one more frame in 16 bytes.
_TURN_FRAMES = 512
# What may wait for its turn. Then no more is read, but not before: a TLS transport of uvloop whose reading is
# paused drops what it has when the peer ends the connection.
_MAX_WAITING_BYTES = 1024 * 1024

# Frames that bring no request forward: so many a second, and more for what we have asked (`patience`).
_IDLE_FRAMES = 1000
# An API server may have this much under way on a stream when it hears that nobody listens any more.
_CANCELLED_FRAMES = 10 * _IDLE_FRAMES
# What waits for a peer that does not read: answers to its own frames, and heads of requests.
_MAX_UNREAD_ACKS = 1000
_MAX_UNREAD_BYTES = 1024 * 1024
# How long a peer that floods the connection is listened to after GOAWAY.
_GOODBYE_SECONDS = 0.1

# What is said before anything was done.
_REFUSALS = (ErrorCode.REFUSED_STREAM, ErrorCode.HTTP_1_1_REQUIRED)

# As in `upstream.connection`: all connections read into this one, and nothing stays in it between callbacks.
_BUFFER = memoryview(bytearray(256 * 1024))
# What waits for its turn is as much as fits into it behind as much.
_PIECE_BYTES = 128 * 1024


class Owner(Protocol):
    """Keeps connections of HTTP/2."""

    max_streams: int
    """How many requests the API server took at once on its last connection."""

    def forget(self, connection: Http2Connection) -> None:
        """It is closed."""

    def require_http1(self) -> None:
        """The API server asks for HTTP/1.1 (RFC 9113, 7)."""


class Http2Connection(asyncio.BufferedProtocol):
    """States: open; ending (no new streams, closed behind the last one); closed (no transport)."""

    def __init__(
        self,
        owner: Owner,
        explain: Callable[[Exception], KproxyError],
        opened_with: object,
        loop: asyncio.AbstractEventLoop,
        health: Health,
    ) -> None:
        self._owner = owner
        self._explain = explain
        self.opened_with = opened_with
        """The TLS context it was dialled with, by identity: no new stream outlives that."""
        self._loop = loop
        self._pulse = Pulse(loop, health, self._ping, self._doubt, self._lose)
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Http2Stream] = {}
        self._pledged = 0
        """Streams that were handed out, sent or not."""
        self._next_id = 1
        self._max_streams = owner.max_streams
        self._is_ending = False
        self._is_lost = False
        """Nobody waits any more for what it may still say."""
        self._is_new = True
        self._decoder = Decoder()
        self._heads: dict[bytes, ResponseHead] = {}
        self._rest = b""
        self._is_behind = False
        """Whether frames are left for the next round: what is read until then waits behind them."""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_read_paused = False
        self._end: tuple[Exception | None] | None = None
        """How the connection ended, while what came before is still to be taken."""
        self._open_block: tuple[int, int, bytearray] | None = None
        """Stream, flags and beginning of a header block that goes on in the next frame."""
        self._block_frames = 0
        self._owes_table_size = True
        self._taken_bytes = 0
        self.send_window_bytes = DEFAULT_WINDOW_BYTES
        self._initial_window_bytes = DEFAULT_WINDOW_BYTES
        self.is_write_paused = False
        self._has_more_room = False
        """Whether a body that waits may go on: windows have grown since it was tried."""
        self._out: list[bytes] = []
        self._flushed_id = 1
        """Streams from here on have not left yet."""
        self._unread_acks = 0
        self.patience = _IDLE_FRAMES
        """How many frames may still come that bring no request forward; what we send adds to it."""
        self._patient_since = loop.time()
        self.idle_since = now()

    def __repr__(self) -> str:
        return f"<Http2Connection {len(self._streams)} streams>"

    # -- for the pool --

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        return not self._pledged

    def open_stream(self, *, must_live: bool = False) -> Http2Stream | None:
        """A stream for one request, None when the connection takes no more, or may be dead.

        `must_live`: one that was silent for a while will not do, unless it is asked first (`verify`).
        """
        if self._is_ending or self._pledged >= self._max_streams or not self.is_usable:
            return None
        if self.is_write_paused and self._unread_bytes > _MAX_UNREAD_BYTES:
            return None
        pulse = self._pulse
        if pulse.doubted_at > pulse.heard_at or (must_live and pulse.is_rested):
            return None
        self._pledged += 1
        return Http2Stream(self, is_reused=self._next_id > 1)

    async def verify(self) -> None:
        """Ask a connection that was silent for a while for a sign of life, and wait for it for a moment."""
        if self._pulse.is_rested:
            await self._pulse.verify()

    def look_after(self, *, has_slept: bool) -> None:
        """Press a peer that somebody waits for in vain, and every peer after a sleep."""
        pulse = self._pulse
        if has_slept or (pulse.is_rested and any(not each.has_begun for each in self._streams.values())):
            pulse.press()

    def retire(self) -> None:
        """Take no new requests; close behind the last one."""
        self._is_ending = True
        if not self._pledged:
            self.close()

    def close(self) -> None:
        """End an idle connection. Idempotent."""
        if self._transport is not None and not self._transport.is_closing():
            self.write(goaway(ErrorCode.NO_ERROR))
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """End it and all its streams at once; who asked for them is not told."""
        for stream in self._streams.values():
            stream.is_over = True
        self._streams.clear()
        self._stop_taking()
        if self._transport is not None:
            self._transport.abort()

    # -- for its streams --

    def begin(self, stream: Http2Stream, block: bytes, *, ends: bool) -> None:
        """Give the stream its number and window, and send its head."""
        stream.id = stream_id = self._next_id
        self._next_id = stream_id + 2
        if stream_id >= _LAST_STREAM_ID:
            self._is_ending = True
        stream.send_window_bytes = self._initial_window_bytes
        self._streams[stream_id] = stream
        if self.patience < MAX_PATIENCE:
            self.patience += 10
        self.write_block(stream_id, block, ends=ends)
        pulse = self._pulse
        if now() - pulse.heard_at > pulse.rest_seconds:
            pulse.press()

    def write_block(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        """Send a header block."""
        if self._owes_table_size:
            self._owes_table_size = False
            block = NO_TABLE + block
        self.write(head_frames(stream_id, block, ends=ends))

    def write(self, data: bytes) -> None:
        """Send frames with whatever else is to be sent in this round of the event loop."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(data)

    def drop(self, stream: Http2Stream, code: ErrorCode | None = None) -> None:
        """The stream is over. `code`: it is cut, and the API server must be told. Idempotent."""
        if stream.is_over:
            return
        stream.is_over = True
        if stream.id:
            del self._streams[stream.id]
            if code is not None:
                self.write(rst_stream(stream.id, code))
                self.patience = min(self.patience + _CANCELLED_FRAMES, MAX_PATIENCE)
        self._pledged -= 1
        if not self._pledged:
            self.idle_since = now()
            if self._is_ending:
                self.close()

    def decode(self, block: bytes) -> list[Pair]:
        """The fields of a header block, each block once and in order."""
        try:
            pairs = self._decoder.decode(block)
        except MalformedBlockError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        # One byte can stand for a field of 4 KB; so few fields come to no more than the block and the table.
        if len(pairs) > 64 and sum(len(name) + len(value) + 32 for name, value in pairs) > MAX_HEAD_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a head is too long when it is unpacked")
        return pairs

    def known_head(self, block: bytes) -> ResponseHead | None:
        """The head that the same bytes were before; then they need not be decoded."""
        return self._heads.get(block)

    def remember_head(self, block: bytes, head: ResponseHead) -> None:
        """The same bytes mean the same head, unless the dynamic table had a part in it."""
        if not self._decoder.has_history and len(block) <= _MAX_KNOWN_BYTES:
            if len(self._heads) >= _MAX_KNOWN_HEADS:
                self._heads.clear()
            self._heads[block] = head

    # -- called by the transport --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._out.append(PREFACE)
        self._flush()
        self._pulse.start()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._is_behind:
            return _BUFFER[:_PIECE_BYTES]
        kept = len(self._rest)
        if not kept:
            return _BUFFER
        _BUFFER[:kept] = self._rest
        return _BUFFER[kept:]

    def data_received(self, data: bytes) -> None:
        """What was read before this became the transport's protocol."""
        for start in range(0, len(data), MAX_FRAME_BYTES):
            piece = data[start : start + MAX_FRAME_BYTES]
            self.get_buffer(0)[: len(piece)] = piece
            self.buffer_updated(len(piece))

    def buffer_updated(self, nbytes: int) -> None:
        self._pulse.heard_at = now()
        if self._is_behind:
            self._wait_for_turn(bytes(_BUFFER[:nbytes]))
            return
        if self._is_lost:
            return
        size = len(self._rest) + nbytes
        self._rest = b""
        try:
            position = self._read_frames(size)
        except ConnectionFault as fault:
            self._fail(fault)
            return
        if position < size:
            self._rest = bytes(_BUFFER[position:size])
        if self._has_more_room:
            self._pump()
        if self._waiting:
            self._is_behind = True
        if self._is_behind:
            self._loop.call_soon(self._go_on)

    # -- what is too much for one round of the event loop --

    def _wait_for_turn(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _MAX_WAITING_BYTES and not self._is_read_paused and self.is_usable:
            assert self._transport is not None
            self._is_read_paused = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Take another turn's worth, as if it had just been read."""
        if self._is_lost:
            return
        self._is_behind = False
        self.get_buffer(0)
        more = b""
        kept = len(self._rest)
        if self._waiting and kept <= _PIECE_BYTES:
            more = self._waiting.popleft()
            self._waiting_bytes -= len(more)
            _BUFFER[kept : kept + len(more)] = more
        self.buffer_updated(len(more))
        if self._is_behind:
            return
        if self._end is not None:
            self._fail_streams(*self._end)
        elif self._is_read_paused and self.is_usable:
            assert self._transport is not None
            self._is_read_paused = False
            self._transport.resume_reading()

    def _stop_taking(self) -> None:
        self._is_lost = True
        self._is_behind = False
        self._waiting.clear()

    # -- frames --

    def _read_frames(self, size: int) -> int:
        """Take the whole frames in the buffer, as many as one turn has; returns where the rest begins.

        Pieces of one body that lie one behind the other are passed on as one.
        """
        view = _BUFFER
        streams = self._streams
        stream: Http2Stream | None = None
        pieces: list[memoryview] = []
        window_bytes = position = 0
        left = _TURN_FRAMES
        while left > 0 and size - position >= 9:
            left -= 1
            high, low, kind, flags, stream_id = read_frame_head(view, position)
            stream_id &= 0x7FFFFFFF
            length = high << 8 | low
            if length > MAX_FRAME_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is longer than was agreed")
            start = position + 9
            end = start + length
            if end > size:
                break
            position = end
            if kind or self._open_block is not None or self._is_new:
                if pieces and stream is not None:
                    self._deliver(stream, pieces, window_bytes, ends=False)
                    pieces, stream = [], None
                left -= length >> 4
                self._take_frame(kind, flags, stream_id, start, end, size)
                continue
            self._taken_bytes += length
            found = streams.get(stream_id)
            if found is not stream:
                if pieces and stream is not None:
                    self._deliver(stream, pieces, window_bytes, ends=False)
                stream, pieces, window_bytes = found, [], 0
            if found is None:
                self._check_is_over(stream_id)
                continue
            if flags & PADDED:
                start, end = _without_padding(start, end)
            if not length and not flags & END_STREAM:
                self._take_idle_frame()
            pieces.append(view[start:end])
            window_bytes += length
            if flags & END_STREAM:
                self._deliver(found, pieces, window_bytes, ends=True)
                stream, pieces, window_bytes = None, [], 0
        if pieces and stream is not None:
            self._deliver(stream, pieces, window_bytes, ends=False)
        if self._taken_bytes >= CONNECTION_WINDOW_BYTES // 4:
            self.write(window_update(0, self._taken_bytes))
            self._taken_bytes = 0
        self._is_behind = left <= 0
        return position

    def _take_idle_frame(self) -> None:
        """One that brings no request forward. Too many of them are a flood, whatever they are."""
        self.patience -= 1
        if self.patience < 0:
            now = self._loop.time()
            if now - self._patient_since < 1.0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that serve no request")
            self._patient_since = now
            self.patience = _IDLE_FRAMES

    def _deliver(
        self, stream: Http2Stream, pieces: list[memoryview], window_bytes: int, *, ends: bool
    ) -> None:
        try:
            stream.on_data(
                bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces), window_bytes, ends=ends
            )
        except MalformedHeadError as error:
            self._refuse(stream, error)

    def _refuse(self, stream: Http2Stream, error: Exception) -> None:
        """What came for the stream is not HTTP/2; the others go on (RFC 9113, 5.4.2)."""
        self.drop(stream, ErrorCode.PROTOCOL_ERROR)
        stream.fail(UpstreamProtocolError(f"the API server's answer is not HTTP/2: {error}"))

    def _take_frame(self, kind: int, flags: int, stream_id: int, start: int, end: int, size: int) -> None:
        """Any frame but DATA, and whatever comes in the middle of a header block or before the settings."""
        if self._is_new:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "it does not begin with its settings")
            self._is_new = False
        if self._open_block is not None and (kind != CONTINUATION or stream_id != self._open_block[0]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == HEADERS:
            block_end = end
            if flags & PADDED:
                start, block_end = _without_padding(start, end)
            if flags & HAS_PRIORITY:
                start += 5
            if start > block_end:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame is too short")
            self._take_block(stream_id, flags, bytes(_BUFFER[start:block_end]), size, end)
        elif kind == CONTINUATION:
            if self._open_block is None:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION continues nothing")
            _, first_flags, before = self._open_block
            self._open_block = None
            flags = flags & END_HEADERS | first_flags
            before += _BUFFER[start:end]
            self._take_block(stream_id, flags, before, size, end)
        else:
            self._take_idle_frame()
            take = _TAKE.get(kind)
            if take is not None:
                take(self, flags, stream_id, bytes(_BUFFER[start:end]))

    # -- header blocks --

    def _take_block(self, stream_id: int, flags: int, block: bytes | bytearray, size: int, end: int) -> None:
        if len(block) > MAX_HEAD_BYTES:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a head is longer than {MAX_HEAD_BYTES} bytes")
        if not flags & END_HEADERS:
            self._block_frames += 1
            if self._block_frames > _MAX_BLOCK_FRAMES:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a head has too many frames")
            self._open_block = (stream_id, flags & END_STREAM, bytearray(block))
            return
        self._block_frames = 0
        block = bytes(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_is_over(stream_id)
            self.patience -= len(block) >> 6
            # What it means is nobody's business any more; what it does to the table is.
            self.decode(block)
            return
        # Head and body of a small answer come together and leave in one write. DATA may hold nothing, though.
        is_alone = True
        if size - end >= 9:
            high, low, kind, next_flags, next_id = read_frame_head(_BUFFER, end)
            length = high << 8 | low
            says_something = (length or next_flags & END_STREAM) and not next_flags & PADDED
            is_alone = kind != DATA or next_id != stream_id or length > size - end - 9 or not says_something
        try:
            stream.on_block(block, ends=bool(flags & END_STREAM), is_alone=is_alone)
        except MalformedHeadError as error:
            self._refuse(stream, error)

    def _check_is_over(self, stream_id: int) -> None:
        if not stream_id & 1 or stream_id >= self._next_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame is for a stream that was never opened")
        self._take_idle_frame()

    # -- other frames --

    def _take_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a RST_STREAM frame has a wrong length")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_is_over(stream_id)
            return
        code = read_number(payload)
        is_unprocessed = code in _REFUSALS and not stream.has_begun
        if is_unprocessed and code == ErrorCode.HTTP_1_1_REQUIRED:
            self._owner.require_http1()
        self.drop(stream)
        # The API server has looked at it: this is no connection that ended while it was idle.
        stream.is_reused = False
        stream.fail(
            UpstreamUnreachable(f"the API server ended the request ({error_name(code)})"),
            is_unprocessed=is_unprocessed,
        )

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "settings are for the whole connection")
        if len(payload) % 6 or (flags & ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame has a wrong length")
        if flags & ACK:
            self._decoder.limit_table(0)
            return
        if len(payload) > 6 * _MAX_SETTINGS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings at once")
        # Each may go through all streams.
        self.patience -= len(payload) >> 2
        for key, value in read_settings(payload):
            self._take_setting(key, value)
        self._acknowledge(frame(SETTINGS, ACK, 0))
        self._has_more_room = True

    def _take_setting(self, key: int, value: int) -> None:
        if key == Setting.MAX_CONCURRENT_STREAMS:
            # One that takes none refuses our one, and somebody is told; otherwise we would dial for ever.
            self._max_streams = self._owner.max_streams = max(1, value)
        elif key == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW_BYTES:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            for stream in self._streams.values():
                stream.send_window_bytes += value - self._initial_window_bytes
            self._initial_window_bytes = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not MAX_FRAME_BYTES <= value < 1 << 24:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame size is out of bounds")
            # Larger ones would only make others wait longer.
        elif key == Setting.HEADER_TABLE_SIZE:
            self._owes_table_size = True
        elif key == Setting.ENABLE_PUSH and value:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a server may not ask for pushes")

    def _take_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a push was promised, which we have turned off")

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a PING is for the whole connection")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a PING frame has a wrong length")
        if flags & ACK:
            self._pulse.note_answer()
        else:
            self._acknowledge(frame(PING, ACK, 0, payload))

    def _acknowledge(self, ack: bytes) -> None:
        if self.is_write_paused:
            self._unread_acks += 1
            if self._unread_acks > _MAX_UNREAD_ACKS:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "it reads none of the answers it asks for")
        self.write(ack)

    def _take_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113, 6.8: what is above the last stream was not looked at and may be asked again elsewhere."""
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a GOAWAY is for the whole connection")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY frame is too short")
        last_id = read_number(payload) & 0x7FFFFFFF
        code = read_number(payload[4:])
        if code == ErrorCode.HTTP_1_1_REQUIRED:
            self._owner.require_http1()
        self._is_ending = True
        for stream in [each for each in self._streams.values() if each.id > last_id]:
            self.drop(stream)
            stream.fail(
                UpstreamUnreachable(f"the API server closes the connection ({error_name(code)})"),
                is_unprocessed=True,
            )
        if not self._pledged:
            self.close()

    def _take_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a WINDOW_UPDATE frame has a wrong length")
        more = read_number(payload) & 0x7FFFFFFF
        if not stream_id:
            if not more:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            self.send_window_bytes += more
            if self.send_window_bytes > MAX_WINDOW_BYTES:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            self._has_more_room = True
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_is_over(stream_id)
            return
        stream.send_window_bytes += more
        if not more or stream.send_window_bytes > MAX_WINDOW_BYTES:
            self._refuse(stream, ValueError("a window that grows by nothing, or by too much"))
            return
        self._has_more_room = True

    def _pump(self) -> None:
        self._has_more_room = False
        for stream in [each for each in self._streams.values() if each.is_sending]:
            room_bytes = self.send_window_bytes
            stream.pump()
            if self.send_window_bytes < room_bytes and stream.id in self._streams:
                # It is served last the next time, so that no long upload takes all that there is.
                self._streams[stream.id] = self._streams.pop(stream.id)

    # -- writing --

    def _flush(self) -> None:
        out, self._out = self._out, []
        transport = self._transport
        if transport is not None and out and not transport.is_closing():
            self._flushed_id = self._next_id
            transport.write(b"".join(out) if len(out) > 1 else out[0])

    def _ping(self) -> None:
        self.write(frame(PING, 0, 0, bytes(8)))

    def _doubt(self) -> None:
        for stream in list(self._streams.values()):
            stream.doubt()

    @property
    def _unread_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._unread_acks = 0
        self._pump()

    # -- ends --

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pulse.stop()
        self._owner.forget(self)
        if self._is_behind:
            self._end = (exc,)
        else:
            self._fail_streams(exc)

    def _fail_streams(self, exc: Exception | None) -> None:
        """The connection has ended."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.is_over = True
            error = stream.cut_error() if exc is None else self._explain(exc)
            # What has not left was not processed.
            stream.fail(error, is_unprocessed=stream.id >= self._flushed_id)

    def _fail(self, fault: ConnectionFault) -> None:
        self.write(goaway(fault.code))
        self._flush()
        is_flood = fault.code == ErrorCode.ENHANCE_YOUR_CALM
        what = "the API server floods the connection" if is_flood else "the API server's answer is not HTTP/2"
        transport = self._transport
        self._lose(UpstreamProtocolError(f"{what}: {fault}"), at_once=False)
        if transport is not None and is_flood:
            self._loop.call_later(_GOODBYE_SECONDS, transport.abort)

    def _lose(self, error: KproxyError, *, at_once: bool = True) -> None:
        self._is_ending = True
        self._stop_taking()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.is_over = True
            stream.fail(error)
        if self._transport is not None:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()


_TAKE: dict[int, Callable[[Http2Connection, int, int, bytes], None]] = {
    RST_STREAM: Http2Connection._take_rst_stream,
    SETTINGS: Http2Connection._take_settings,
    PUSH_PROMISE: Http2Connection._take_push_promise,
    PING: Http2Connection._take_ping,
    GOAWAY: Http2Connection._take_goaway,
    WINDOW_UPDATE: Http2Connection._take_window_update,
}
"""What is not here is ignored: PRIORITY, and frames that are not known (RFC 9113, 4.1)."""


def _without_padding(start: int, end: int) -> tuple[int, int]:
    if start == end or (padding := _BUFFER[start]) >= end - start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame is all padding")
    return start + 1, end - padding

"""HTTP/2 in front of an aiohttp server, which knows HTTP/1.1 only (RFC 9113).

Each stream gets a handler of its own, which takes the stream for a connection with a single request: what
goes in is written as HTTP/1.1, what comes out is read as that and sent as frames. A client that does not ask
for `h2` by ALPN gets aiohttp itself; upgrades come that way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from kproxy.errors import BadRequest
from kproxy.http.framing import Body, CloseBody, body_of, chunk, last_chunk
from kproxy.http.heads import MalformedHeadError, RequestHead, ResponseHead
from kproxy.http.http2 import frames
from kproxy.http.http2.frames import ConnectionFault, ErrorCode, Setting, frame
from kproxy.http.http2.hpack import NO_TABLE, Decoder, MalformedBlockError, Pair, encode_fields

MAX_STREAMS = 250  # as many as Go's server allows
WINDOW_BYTES = 256 * 1024  # what a client may send of one body before the handler has read it
_HIGH_WATER_BYTES, _LOW_WATER_BYTES = 64 * 1024, 16 * 1024
_MAX_BLOCK_FRAMES = 64
_MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = {
    Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    Setting.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
    Setting.MAX_HEADER_LIST_SIZE: frames.MAX_HEAD_BYTES,
}
_SIZES = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_OF_THE_CONNECTION = (frames.SETTINGS, frames.PING, frames.GOAWAY)
_PSEUDO_FIELDS = frozenset((b":method", b":scheme", b":path", b":authority"))
_NOT_IN_HTTP2 = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")  # 8.2.2


class Front:
    """Makes the protocol of each new connection, and ends them all."""

    def __init__(self, server: web.Server) -> None:
        self._server, self._connections = server, set[Connection]()

    def __call__(self) -> asyncio.Protocol:
        return Connection(self._server, self._connections)

    async def close(self, grace_seconds: float) -> None:
        """Tell the clients, give the handlers that long, and cut what is left."""
        for connection in self._connections:
            connection.say_goodbye()
        await self._server.shutdown(grace_seconds)
        for connection in list(self._connections):
            connection.close()


class Connection(asyncio.Protocol):
    """A connection of HTTP/2 and its streams. One of HTTP/1.1 is handed to aiohttp as it is."""

    transport: asyncio.Transport

    def __init__(self, server: Callable[[], asyncio.Protocol], connections: set[Connection]) -> None:
        self.server = server
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        # What the client takes at the moment: on all streams together, and at first on a new one.
        self.window_bytes = self.first_window_bytes = frames.DEFAULT_WINDOW_BYTES
        self.is_write_paused = self._has_begun = self._has_settings = self._is_ending = False
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._decoder = Decoder()
        # What the next header block begins with: after settings, that we use no table (RFC 7541, 4.2).
        self._block_start = b""
        # Stream, flags and beginning of a header block that goes on in the next frame.
        self._open_block: tuple[int, int, list[bytes]] | None = None
        self._input, self._output = bytearray(), list[bytes]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are not derived from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is None or ssl_object.selected_alpn_protocol() != "h2":
            handler = self.server()
            self.transport.set_protocol(handler)
            handler.connection_made(transport)
            return
        self._connections.add(self)
        values = b"".join(key.to_bytes(2) + value.to_bytes(4) for key, value in _SETTINGS.items())
        self.send(frame(frames.SETTINGS, 0, 0, values) + frames.window_update(0, MAX_STREAMS * WINDOW_BYTES))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        while self._streams:
            self._streams.popitem()[1].lose()

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._input += data
        try:
            del self._input[: self._read_frames(self._input)]
        except (ConnectionFault, MalformedBlockError) as fault:
            self.say_goodbye(getattr(fault, "code", ErrorCode.COMPRESSION_ERROR))
            self.close()

    def send(self, data: bytes) -> None:
        """What is said in one round of the event loop leaves in one write."""
        if not self._output:
            self._loop.call_soon(self._flush)
        self._output.append(data)

    def send_head(self, stream_id: int, head: ResponseHead, *, ends: bool) -> None:
        status = b"\x08\x03%d" % head.status  # `:status` of the static table as the name, and three digits
        block = self._block_start + status + encode_fields([line for _, _, line in head.fields])
        self._block_start = b""
        self.send(frames.head_frames(stream_id, block, ends=ends))

    def say_goodbye(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        self._is_ending = True
        self.send(frame(frames.GOAWAY, 0, 0, self._last_id.to_bytes(4) + code.to_bytes(4)))

    def close(self) -> None:
        self._flush()
        self.transport.close()

    def _flush(self) -> None:
        output, self._output = b"".join(self._output), []
        if output and not self.transport.is_closing():
            self.transport.write(output)

    def drop(self, stream: Stream, code: ErrorCode | None = None) -> None:
        """The stream is over; with a code the client is told so. Idempotent."""
        if self._streams.pop(stream.id, None) is not None and code is not None:
            self.send(frames.rst_stream(stream.id, code))

    def _pump(self) -> None:
        for stream in list(self._streams.values()):
            stream.pump()

    def _find(self, stream_id: int) -> Stream | None:
        """None for one that is over: the client may not have heard of that yet."""
        if not stream_id & 1 or stream_id > self._last_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame is for a stream that was never opened")
        return self._streams.get(stream_id)

    def _read_frames(self, data: bytearray) -> int:
        """Take every whole frame; returns where the rest begins. Raises ConnectionFault."""
        position = 0
        if not self._has_begun:
            if not _MAGIC.startswith(data[: len(_MAGIC)]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "it does not begin as HTTP/2 does")
            if len(data) < len(_MAGIC):
                return 0
            self._has_begun, position = True, len(_MAGIC)
        while len(data) - position >= 9:
            high, low, kind, flags, stream_id = frames.read_frame_head(data, position)
            length = high << 8 | low
            is_odd = length != _SIZES.get(kind, length) or (kind == frames.SETTINGS and length % 6)
            if length > frames.MAX_FRAME_BYTES or is_odd:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame has a wrong length")
            end = position + 9 + length
            if end > len(data):
                break
            self._take_frame(kind, flags, stream_id & 0x7FFFFFFF, bytes(data[position + 9 : end]))
            position = end
        return position

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        is_first = not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK)
        is_between = self._open_block and (kind != frames.CONTINUATION or stream_id != self._open_block[0])
        if is_first or is_between or (stream_id and kind in _OF_THE_CONNECTION):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame is out of place")
        match kind:
            case frames.DATA:
                if payload:
                    self.send(frames.window_update(0, len(payload)))
                if stream := self._find(stream_id):
                    data = _without_padding(flags, payload)
                    stream.take(data, len(payload), ends=bool(flags & frames.END_STREAM))
            case frames.HEADERS:
                payload = _without_padding(flags, payload)
                self._take_block(stream_id, flags, [payload[5 if flags & frames.HAS_PRIORITY else 0 :]])
            case frames.CONTINUATION if self._open_block:
                _, first_flags, parts = self._open_block
                self._take_block(stream_id, first_flags | flags & frames.END_HEADERS, [*parts, payload])
            case frames.CONTINUATION | frames.PUSH_PROMISE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame that no client may send")
            case frames.RST_STREAM:
                if stream := self._find(stream_id):
                    self.drop(stream)
                    stream.lose()
            case frames.SETTINGS if not flags & frames.ACK:
                self._take_settings(payload)
            case frames.PING if not flags & frames.ACK:
                self.send(frame(frames.PING, frames.ACK, 0, payload))
            case frames.WINDOW_UPDATE:
                more_bytes = frames.read_number(payload) & 0x7FFFFFFF
                if holder := self._find(stream_id) if stream_id else self:
                    holder.window_bytes += more_bytes
                    if not more_bytes or holder.window_bytes > frames.MAX_WINDOW_BYTES:
                        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window grows by 0 or too much")
                    self._pump()

    def _take_settings(self, payload: bytes) -> None:
        for key, value in frames.read_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE and value > frames.MAX_WINDOW_BYTES:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            more_bytes = value - self.first_window_bytes if key == Setting.INITIAL_WINDOW_SIZE else 0
            self.first_window_bytes += more_bytes
            for stream in self._streams.values():
                stream.window_bytes += more_bytes
        self._has_settings, self._block_start = True, NO_TABLE
        self.send(frame(frames.SETTINGS, frames.ACK, 0))
        self._pump()

    def _take_block(self, stream_id: int, flags: int, parts: list[bytes]) -> None:
        if len(parts) > _MAX_BLOCK_FRAMES or sum(map(len, parts)) > frames.MAX_HEAD_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a head is too long")
        if not flags & frames.END_HEADERS:
            self._open_block = (stream_id, flags, parts)
            return
        self._open_block = None
        # Also where nobody is interested any more: it changes what the next blocks mean.
        pairs = self._decoder.decode(b"".join(parts))
        ends = bool(flags & frames.END_STREAM)
        if stream_id <= self._last_id or not stream_id & 1:
            if stream := self._find(stream_id):
                stream.take(b"", 0, ends=ends)  # trailers, which nobody here reads
            return
        self._last_id = stream_id
        if self._is_ending or len(self._streams) >= MAX_STREAMS:
            self.send(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        try:
            head = _request_head(pairs, ends=ends)
            stream = Stream(self, stream_id, RequestHead(head).method, has_request=ends)
        except (MalformedHeadError, BadRequest):
            self.send(frames.rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return
        self._streams[stream_id] = stream
        stream.handler.connection_made(stream)
        stream.handler.data_received(head + b"\r\n\r\n")


class Stream(asyncio.Transport):
    """One request and its answer, as the transport of a handler that has them to itself."""

    def __init__(self, connection: Connection, stream_id: int, method: str, *, has_request: bool) -> None:
        super().__init__()
        self.id, self.window_bytes = stream_id, connection.first_window_bytes
        self.handler = connection.server()
        self._connection, self._method = connection, method
        # The request: whether it is complete, what the client may send now, and what it may once it is read.
        self._has_request, self._is_read_paused = has_request, False
        self._room_bytes, self._owed_bytes = WINDOW_BYTES, 0
        # The answer: its head as far as it came, its body, and what of that is not sent yet.
        self._head, self._unsent = b"", bytearray()
        self._body: Body | None = None
        self._has_answered = self._is_handler_paused = self._is_closing = self._is_lost = False

    def take(self, data: bytes, window_bytes: int, *, ends: bool) -> None:
        """A piece of the body, which took that much of the window."""
        self._room_bytes -= window_bytes
        if self._has_request or self._room_bytes < 0:
            self._cut(ErrorCode.STREAM_CLOSED if self._has_request else ErrorCode.FLOW_CONTROL_ERROR)
            return
        self._has_request = ends
        data = (chunk(data) if data else b"") + (last_chunk() if ends else b"")
        if data and not self._is_lost:
            self.handler.data_received(data)
        self._owed_bytes += window_bytes
        if not self._is_read_paused:
            self.resume_reading()
        if ends and self._has_answered:
            self._connection.drop(self)

    def lose(self) -> None:
        """Nothing comes from the client or goes to it any more. Idempotent."""
        self._has_answered = self._is_closing = True
        if not self._is_lost:
            self._is_lost = True
            self.handler.connection_lost(None)

    def pump(self) -> None:
        """Send what the windows and the connection take."""
        if self._has_answered or self._body is None:
            return
        connection, room_bytes = self._connection, 0
        if not connection.is_write_paused:
            room_bytes = max(0, min(len(self._unsent), self.window_bytes, connection.window_bytes))
        is_last = self._body.is_finished and room_bytes == len(self._unsent)
        if room_bytes:
            piece = memoryview(bytes(self._unsent[:room_bytes]))
            del self._unsent[:room_bytes]
            self.window_bytes -= room_bytes
            connection.window_bytes -= room_bytes
            connection.send(frames.data_frames(self.id, piece, ends=is_last))
        elif is_last:
            connection.send(frame(frames.DATA, frames.END_STREAM, self.id))
        if is_last:
            self._finish()
        is_much = len(self._unsent) > (_LOW_WATER_BYTES if self._is_handler_paused else _HIGH_WATER_BYTES)
        if is_much != self._is_handler_paused and not self._is_lost:
            self._is_handler_paused = is_much
            (self.handler.pause_writing if is_much else self.handler.resume_writing)()

    def _finish(self) -> None:
        """The answer is complete. The handler may still read a request that it refused, and closes then."""
        self._has_answered = True
        if self._has_request:
            self._connection.drop(self)
        if self._is_closing:
            self._cut(ErrorCode.NO_ERROR)

    def _cut(self, code: ErrorCode) -> None:
        """End it on both sides, as far as it has not ended; the handler hears of it once it has returned."""
        self._has_answered = self._is_closing = True
        self._connection.drop(self, code)
        asyncio.get_running_loop().call_soon(self.lose)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = bytes(data)
        while self._body is None and not self._has_answered:
            head, found, rest = (self._head + rest).partition(b"\r\n\r\n")
            self._head = b"" if found else head
            if not found:
                return
            answer = ResponseHead(head)
            is_final = answer.status >= 200  # or an interim answer (RFC 9110, 15.2)
            self._body = body_of(answer, self._method) if is_final else None
            ends = self._body is not None and self._body.is_finished
            self._connection.send_head(self.id, answer, ends=ends)
            if ends:
                self._finish()
        if self._body is not None and not self._has_answered:
            pieces: list[bytes] = []
            self._body.feed(rest, pieces)
            self._unsent += b"".join(pieces)
            self.pump()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if self._has_answered:
            self._cut(ErrorCode.NO_ERROR)  # the rest of the request is not wanted (RFC 9113, 8.1)
        elif isinstance(self._body, CloseBody):
            self._body.is_finished = True
            self.pump()
        elif self._body is None or not self._body.is_finished:
            self._cut(ErrorCode.INTERNAL_ERROR)  # as Go's server cuts what its handler gives up

    def is_closing(self) -> bool:
        return self._is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection.transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._is_read_paused = True

    def resume_reading(self) -> None:
        self._is_read_paused = False
        if self._owed_bytes and not self._has_request and not self._is_closing:
            self._connection.send(frames.window_update(self.id, self._owed_bytes))
            self._room_bytes += self._owed_bytes
            self._owed_bytes = 0


def _without_padding(flags: int, payload: bytes) -> bytes:
    if flags & frames.PADDED and (not payload or payload[0] >= len(payload)):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame is all padding")
    return payload[1 : len(payload) - payload[0]] if flags & frames.PADDED else payload


def _request_head(pairs: list[Pair], *, ends: bool) -> bytes:
    """As HTTP/1.1 has it, without the empty line at its end. Raises MalformedHeadError."""
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    is_long = sum(len(name) + len(value) + 32 for name, value in pairs) > frames.MAX_HEAD_BYTES
    for name, value in pairs:
        if name in _PSEUDO_FIELDS and not lines and name not in pseudo:
            pseudo[name] = value
        elif b":" in name or name != name.lower() or name in _NOT_IN_HTTP2 or b"\r" in name + value:
            raise MalformedHeadError("a field that does not belong there")
        elif name != b"content-length":  # the end of the stream is the end of the body
            lines.append(name + b": " + value)
    is_odd = len(pseudo.keys() - {b":authority"}) < 3 or b"\r" in b"".join(pseudo.values())
    if is_long or is_odd:
        raise MalformedHeadError("a head that is too long or does not say what is asked for")
    if b":authority" in pseudo:
        lines = [b"host: " + pseudo[b":authority"], *(each for each in lines if each[:5] != b"host:")]
    lines += [b"connection: close"] if ends else [b"connection: close", b"transfer-encoding: chunked"]
    return b"\r\n".join((pseudo[b":method"] + b" " + pseudo[b":path"] + b" HTTP/1.1", *lines))

"""Where a message body ends: Content-Length, chunked, or with the connection (RFC 9112, 6 and 7). No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kproxy.wire import Field, MalformedHeadError, ResponseHead, parse_fields, shown

# RFC 9112 section 7.1.1 asks for a bound on chunk extensions; nobody sends any.
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 64 * 1024

_is_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?").fullmatch

# Fields that frame, route or authenticate a message have no business behind its body (RFC 9110, 6.5.1).
NOT_IN_TRAILERS = frozenset(
    (b"transfer-encoding", b"content-length", b"host", b"authorization", b"connection", b"trailer", b"te",
     b"content-encoding", b"content-type", b"content-range", b"cookie", b"expect", b"upgrade",
     b"proxy-authorization")
)  # fmt: skip


class LengthBody:
    """A body of a known number of bytes."""

    __slots__ = ("is_finished", "left_bytes")

    def __init__(self, length_bytes: int) -> None:
        self.left_bytes = length_bytes
        self.is_finished = not length_bytes

    def feed(self, data: bytes, payload: list[bytes] | None = None) -> int:
        """How many bytes at the start of `data` belong to the body; they are put on `payload` if given."""
        size = len(data)
        if size >= self.left_bytes:
            size = self.left_bytes
            self.is_finished = True
        self.left_bytes -= size
        if payload is not None and size:
            payload.append(data if size == len(data) else data[:size])
        return size


class CloseBody:
    """A body that lasts until the connection ends; only a response can have one."""

    __slots__ = ("is_finished",)

    def __init__(self) -> None:
        self.is_finished = False

    def feed(self, data: bytes, payload: list[bytes] | None = None) -> int:
        if payload is not None and data:
            payload.append(data)
        return len(data)


class ChunkedBody:
    """A chunked body (RFC 9112, 7.1) up to and including its trailers and last empty line."""

    __slots__ = ("_left_bytes", "_line", "_state", "_trailer_bytes", "is_finished", "trailers")

    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self) -> None:
        self._state = self._SIZE
        self._left_bytes = 0
        self._line = b""
        self._trailer_bytes = 0
        self.trailers: list[Field] = []
        self.is_finished = False

    def feed(self, data: bytes, payload: list[bytes] | None = None) -> int:
        """How many bytes at the start of `data` belong to the body, framing included.

        What the chunks hold is put on `payload` if given. Raises MalformedHeadError when the framing is
        broken; its `good_bytes` of this `data` were sound, and `payload` has what they held.
        """
        position, size = 0, len(data)
        while position < size and not self.is_finished:
            if self._state == self._DATA:
                end = position + self._left_bytes
                if end > size:
                    end = size
                if payload is not None:
                    payload.append(data[position:end])
                self._left_bytes -= end - position
                position = end
                if not self._left_bytes:
                    self._state = self._DATA_END
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                self._keep(data[position:])
                return size
            line = self._line + data[position:line_end] if self._line else data[position:line_end]
            self._line = b""
            try:
                self._read_line(line)
            except MalformedHeadError as error:
                error.good_bytes = position
                raise
            position = line_end + 1
        return position

    def _keep(self, part: bytes) -> None:
        self._line += part
        limit = MAX_TRAILER_BYTES if self._state == self._TRAILER else MAX_CHUNK_LINE_BYTES
        if len(self._line) > limit or (self._state == self._DATA_END and self._line != b"\r"):
            raise MalformedHeadError("a chunk line is too long")

    def _read_line(self, line: bytes) -> None:
        if line[-1:] != b"\r":
            raise MalformedHeadError("a chunk line does not end in CR LF")
        line = line[:-1]
        if self._state == self._SIZE:
            match = _is_chunk_line(line)
            if not match or len(line) > MAX_CHUNK_LINE_BYTES:
                raise MalformedHeadError("a chunk size is not a hexadecimal number")
            self._left_bytes = int(match[1], 16)
            self._state = self._DATA if self._left_bytes else self._TRAILER
        elif self._state == self._DATA_END:
            if line:
                raise MalformedHeadError("a chunk is longer than its size says")
            self._state = self._SIZE
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise MalformedHeadError("the trailers are too long", 431)
            (field,) = parse_fields((line,))
            if field[0] in NOT_IN_TRAILERS:
                raise MalformedHeadError(f"{shown(field[0])} may not be a trailer")
            self.trailers.append(field)
        else:
            self.is_finished = True


Body = LengthBody | ChunkedBody | CloseBody


def body_of(head: ResponseHead, request_method: str) -> Body:
    """How the body behind this head ends (RFC 9112, 6.3)."""
    if request_method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return LengthBody(0)
    if head.is_chunked:
        return ChunkedBody()
    if head.content_length is not None:
        return LengthBody(head.content_length)
    return CloseBody()


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. Empty data would end the body: callers do not pass it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[Field] = ()) -> bytes:
    """The end of a chunked body, with its trailers."""
    return b"0\r\n" + b"".join(field[2] + b"\r\n" for field in trailers) + b"\r\n"

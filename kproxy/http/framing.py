"""Where a message body ends: Content-Length, chunked, or with the connection (RFC 9112, 6 and 7). No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kproxy.http.heads import Field, MalformedHeadError, ResponseHead, parse_fields, shown

# RFC 9112 section 7.1.1 asks for a bound on chunk extensions; nobody sends any.
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 64 * 1024
# Chunks read at a stretch, half a millisecond's work: 256 KB may hold 40,000, and everybody waits.
MAX_CHUNKS_AT_ONCE = 250

_is_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?").fullmatch
_DIGITS = b"0123456789ABCDEFabcdef"

# Fields that frame, route or authenticate a message have no business behind its body (RFC 9110, 6.5.1).
NOT_IN_TRAILERS = frozenset(
    (b"transfer-encoding", b"content-length", b"host", b"authorization", b"connection", b"trailer", b"te",
     b"content-encoding", b"content-type", b"content-range", b"cookie", b"expect", b"upgrade",
     b"proxy-authorization")
)  # fmt: skip


class LengthBody:
    """A body of a known number of bytes."""

    __slots__ = ("is_finished", "left_bytes")
    cuts: tuple[()] = ()

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
    cuts: tuple[()] = ()

    def __init__(self) -> None:
        self.is_finished = False

    def feed(self, data: bytes, payload: list[bytes] | None = None) -> int:
        if payload is not None and data:
            payload.append(data)
        return len(data)


class ChunkedBody:
    """A chunked body (RFC 9112, 7.1) up to and including its trailers and last empty line."""

    __slots__ = ("_left_bytes", "_line", "_state", "_trailer_bytes", "cuts", "is_finished", "trailers")

    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self) -> None:
        self._state = self._SIZE
        self._left_bytes = 0
        self._line = b""
        self._trailer_bytes = 0
        self.trailers: list[Field] = []
        self.is_finished = False
        self.cuts: list[tuple[int, int]] = []
        """Where the last `data` had chunk extensions: start and end of each, for `without`."""

    def feed(self, data: bytes, payload: list[bytes] | None = None) -> int:
        """How many bytes at the start of `data` belong to the body and were read, framing included.

        A body that is not finished and has not taken all had MAX_CHUNKS_AT_ONCE: the rest is to be fed when
        others had their turn. What the chunks hold is put on `payload` if given. Raises MalformedHeadError
        when the framing is broken; its `good_bytes` of this `data` were sound, and `payload` has what they
        held.
        """
        position, size, left = 0, len(data), MAX_CHUNKS_AT_ONCE
        if self.cuts:
            self.cuts = []
        while position < size and left and not self.is_finished:
            if self._state == self._DATA:
                end = position + self._left_bytes
                if end > size:
                    end = size
                if payload is not None:
                    payload.append(data[position:end])
                self._left_bytes -= end - position
                position = end
                if not self._left_bytes:
                    is_closed = data.startswith(b"\r\n", end)
                    self._state = self._SIZE if is_closed else self._DATA_END
                    position += 2 * is_closed
                continue
            left -= 1
            line_end = data.find(b"\n", position)
            if line_end < 0:
                self._keep(data[position:])
                if self._state == self._SIZE:
                    self._cut_extension(self._line, position, size)
                return size
            line = self._line + data[position:line_end] if self._line else data[position:line_end]
            self._line = b""
            try:
                if self._read_line(line):
                    self._cut_extension(line, position, line_end)
            except MalformedHeadError as error:
                error.good_bytes = position
                raise
            position = line_end + 1
        return position

    def _cut_extension(self, line: bytes, start: int, end: int) -> None:
        """Note what of a size's `line`, whose last part is from `start` to `end`, is behind its digits."""
        start = max(start, end - len(line.lstrip(_DIGITS)))
        end -= line.endswith(b"\r")
        if start < end:
            self.cuts.append((start, end))

    def _keep(self, part: bytes) -> None:
        self._line += part
        limit = MAX_TRAILER_BYTES if self._state == self._TRAILER else MAX_CHUNK_LINE_BYTES
        if len(self._line) > limit or (self._state == self._DATA_END and self._line != b"\r"):
            raise MalformedHeadError("a chunk line is too long")

    def _read_line(self, line: bytes) -> bool:
        """Whether the line has a chunk extension."""
        if line[-1:] != b"\r":
            raise MalformedHeadError("a chunk line does not end in CR LF")
        line = line[:-1]
        if self._state == self._SIZE:
            match = _is_chunk_line(line)
            if not match or len(line) > MAX_CHUNK_LINE_BYTES:
                raise MalformedHeadError("a chunk size is not a hexadecimal number")
            self._left_bytes = int(match[1], 16)
            self._state = self._DATA if self._left_bytes else self._TRAILER
            return len(match[1]) < len(line)
        if self._state == self._DATA_END:
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
        return False


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


def without(data: bytes, cuts: Iterable[tuple[int, int]]) -> bytes:
    """`data` less what is between each start and end, which are in order."""
    kept, position = [], 0
    for start, end in cuts:
        kept.append(data[position:start])
        position = end
    kept.append(data[position:])
    return b"".join(kept)


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. Empty data would end the body: callers do not pass it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[Field] = ()) -> bytes:
    """The end of a chunked body, with its trailers."""
    return b"0\r\n" + b"".join(field[2] + b"\r\n" for field in trailers) + b"\r\n"

"""HTTP/1.1 framing as the test tools read it: written apart from kproxy, so that both can't err alike."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Protocol

MAX_HEAD_BYTES = 8 * 1024 * 1024


class Source(Protocol):
    """Bytes that came (`buffer`) and a way to wait for more (`fill`: False at the end)."""

    buffer: bytearray

    async def fill(self) -> bool: ...


class Truncated(Exception):
    """The stream ended inside a message."""


@dataclass(slots=True)
class Head:
    """A start line and its fields, names and order as sent (latin-1)."""

    raw: bytes
    start_line: str
    headers: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The only value of a field, None when it is absent; AssertionError when it is there twice."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None


@dataclass(slots=True)
class Body:
    """What came of a body: `data` holds its first `keep_bytes`, `arrivals` (seconds, bytes) per piece."""

    keep_bytes: int = 4 * 1024 * 1024
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    chunk_sizes: list[int] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    is_complete: bool = False

    def add(self, piece: bytes, at: float) -> None:
        self.size += len(piece)
        self.arrivals.append((at, len(piece)))
        if room := self.keep_bytes - len(self.data):
            self.data += piece[:room]


def parse_head(raw: bytes) -> Head:
    lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = []
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        headers.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return Head(raw, lines[0].decode("latin-1"), headers)


def oddities(head: Head) -> list[str]:
    """What a strict reader (RFC 9112) would object to; a proxy must send none of it."""
    found = []
    if b"\n" in head.raw.replace(b"\r\n", b"") or b"\r" in head.raw.replace(b"\r\n", b""):
        found.append("bare CR or LF")
    if b"\0" in head.raw:
        found.append("NUL")
    for name, _ in head.headers:
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
            found.append(f"field name {name!r}")
    if len(head.values("content-length")) > 1:
        found.append("repeated Content-Length")
    if head.values("content-length") and head.values("transfer-encoding"):
        found.append("Content-Length with Transfer-Encoding")
    if any(value.lower() != "chunked" for value in head.values("transfer-encoding")):
        found.append("unknown transfer coding")
    return found


async def read_head(source: Source) -> Head | None:
    """Read up to the empty line; None when the stream ends before the first byte."""
    while (end := source.buffer.find(b"\r\n\r\n")) < 0:
        if len(source.buffer) > MAX_HEAD_BYTES:
            raise Truncated("no end of head")
        if not await source.fill():
            if source.buffer:
                raise Truncated(f"the stream ended in a head: {bytes(source.buffer[:200])!r}")
            return None
    return parse_head(_take(source.buffer, end + 4))


def framing_of(head: Head) -> str:
    """ "chunked", "length" or "none" by the fields alone."""
    if any("chunked" in value.lower() for value in head.values("transfer-encoding")):
        return "chunked"
    return "length" if head.values("content-length") else "none"


def body_reader(head: Head) -> BodyReader:
    """For a request's body: no fields, no body (RFC 9112 section 6.3)."""
    kind = framing_of(head)
    return BodyReader(
        kind if kind == "chunked" else "length", int((head.values("content-length") or ["0"])[0])
    )


class BodyReader:
    """Takes one body out of a buffer, piece by piece, as it comes.

    `framing` is "chunked", "length" or "close" (to the end of the stream). What it takes is noted in
    `body`; `is_done` is true after the last byte, also when that makes a body without any.
    """

    def __init__(self, framing: str, length: int = 0) -> None:
        self.body = Body()
        self.is_done = framing == "length" and length == 0
        self.body.is_complete = self.is_done
        self._framing = framing
        self._left = length
        self._expect = "size"

    def take(self, buffer: bytearray) -> bytes | None:
        """Remove and return the next bytes; None when more must come first (or all is done).

        Raises Truncated when the chunk framing is broken.
        """
        while not self.is_done and buffer:
            if self._framing == "close" or self._left:
                piece = _take(buffer, min(self._left or len(buffer), len(buffer)))
                self._left -= len(piece) if self._framing != "close" else 0
                if self._framing == "length" and not self._left:
                    self._finish()
                self.body.add(piece, time.monotonic())
                return piece
            end = buffer.find(b"\r\n")
            if end < 0:
                return None
            self._line(_take(buffer, end + 2)[:-2])
        return None

    def end(self) -> None:
        """Note the end of the stream; raises Truncated when the body needs more."""
        if self._framing == "close":
            self._finish()
        if not self.is_done:
            raise Truncated(f"the stream ended after {self.body.size} bytes of a {self._framing} body")

    def _line(self, line: bytes) -> None:
        if self._expect == "size":
            digits = line.partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]+", digits):
                raise Truncated(f"not a chunk size: {line[:60]!r}")
            self._left = int(digits, 16)
            self._expect = "after data" if self._left else "trailer"
            if self._left:
                self.body.chunk_sizes.append(self._left)
        elif self._expect == "after data":
            if line:
                raise Truncated("no CRLF after a chunk")
            self._expect = "size"
        elif line:
            name, _, value = line.partition(b":")
            self.body.trailers.append((name.decode("latin-1"), value.strip().decode("latin-1")))
        else:
            self._finish()

    def _finish(self) -> None:
        self.is_done = self.body.is_complete = True


def _take(buffer: bytearray, size: int) -> bytes:
    data = bytes(buffer[:size])
    del buffer[:size]
    return data

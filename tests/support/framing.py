"""HTTP/1.1 framing as the test tools read it: written apart from kproxy, so that both can't err alike."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
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
    return parse_head(_take(source, end + 4))


def framing_of(head: Head) -> str:
    """"chunked", "length" or "none" by the fields alone."""
    if any("chunked" in value.lower() for value in head.values("transfer-encoding")):
        return "chunked"
    return "length" if head.values("content-length") else "none"


async def pieces(source: Source, framing: str, length: int, body: Body) -> AsyncIterator[bytes]:
    """Yield a body's bytes as they come; `framing` is "chunked", "length" or "close" (to the end).

    Raises Truncated when the stream ends too early or the chunk framing is broken.
    """
    if framing == "close":
        while source.buffer or await source.fill():
            yield _take(source, len(source.buffer))
    elif framing == "length":
        async for piece in _exactly(source, length):
            yield piece
    else:
        while size := await _chunk_size(source):
            body.chunk_sizes.append(size)
            async for piece in _exactly(source, size):
                yield piece
            if await _line(source):
                raise Truncated("no CRLF after a chunk")
        while line := await _line(source):
            name, _, value = line.partition(b":")
            body.trailers.append((name.decode("latin-1"), value.strip().decode("latin-1")))
    body.is_complete = True


async def _chunk_size(source: Source) -> int:
    line = await _line(source)
    if not re.fullmatch(rb"[0-9A-Fa-f]+", line.partition(b";")[0].strip()):
        raise Truncated(f"not a chunk size: {line[:60]!r}")
    return int(line.partition(b";")[0], 16)


async def _exactly(source: Source, size: int) -> AsyncIterator[bytes]:
    while size:
        if not source.buffer and not await source.fill():
            raise Truncated(f"{size} bytes short")
        piece = _take(source, min(size, len(source.buffer)))
        size -= len(piece)
        yield piece


async def _line(source: Source) -> bytes:
    while (end := source.buffer.find(b"\r\n")) < 0:
        if not await source.fill():
            raise Truncated("the stream ended in a line")
    return _take(source, end + 2)[:-2]


def _take(source: Source, size: int) -> bytes:
    data = bytes(source.buffer[:size])
    del source.buffer[:size]
    return data

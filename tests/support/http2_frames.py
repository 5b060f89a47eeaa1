"""HTTP/2 frames as bytes (RFC 9113 section 4 and 6), sound ones and any other: nothing is checked here."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
NAMES = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MAX_HEADER_LIST_SIZE = 6

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)
INADEQUATE_SECURITY, HTTP_1_1_REQUIRED = 12, 13


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came. `length` is that of its payload."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def name(self) -> str:
        return NAMES[self.kind] if self.kind < len(NAMES) else f"type {self.kind:#x}"

    @property
    def length(self) -> int:
        return len(self.payload)

    @property
    def raw(self) -> bytes:
        return frame(self.kind, self.payload, stream_id=self.stream_id, flags=self.flags)

    def number(self) -> int:
        """The payload of RST_STREAM (a code) and WINDOW_UPDATE (an increment)."""
        return int.from_bytes(self.payload[:4], "big") & 0x7FFFFFFF

    def settings(self) -> dict[int, int]:
        return dict(struct.iter_unpack("!HI", self.payload))


def frame(
    kind: int, payload: bytes = b"", *, stream_id: int = 0, flags: int = 0, length: int | None = None
) -> bytes:
    """A frame; `length` is what it says of its payload when that is not the truth."""
    said = len(payload) if length is None else length
    return said.to_bytes(3, "big") + struct.pack("!BBL", kind, flags, stream_id) + payload


def take_frames(buffer: bytearray) -> Iterator[Frame]:
    """Remove and yield the whole frames at the start of `buffer`."""
    while len(buffer) >= 9:
        length = int.from_bytes(buffer[:3], "big")
        if len(buffer) < 9 + length:
            return
        kind, flags, stream_id = struct.unpack_from("!BBL", buffer, 3)
        payload = bytes(buffer[9 : 9 + length])
        del buffer[: 9 + length]
        yield Frame(kind, flags, stream_id & 0x7FFFFFFF, payload)


def settings_frame(settings: Mapping[int, int] | None = None, *, ack: bool = False) -> bytes:
    pairs = (settings or {}).items()
    return frame(SETTINGS, b"".join(struct.pack("!HI", *pair) for pair in pairs), flags=ACK if ack else 0)


def goaway_frame(last_stream_id: int, code: int = NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, struct.pack("!LL", last_stream_id, code) + debug)


def reset_frame(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, struct.pack("!L", code), stream_id=stream_id)


def window_frame(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, struct.pack("!L", increment), stream_id=stream_id)


def header_frames(
    stream_id: int, block: bytes, cuts: Sequence[int] = (), *, end: bool = False, between: bytes = b""
) -> bytes:
    """HEADERS and CONTINUATIONs: the block is cut at the offsets `cuts`; `between` stands behind HEADERS."""
    edges = [0, *cuts, len(block)]
    pieces = [block[start:stop] for start, stop in itertools.pairwise(edges)]
    found = b""
    for number, piece in enumerate(pieces):
        flags = END_HEADERS if number == len(pieces) - 1 else 0
        if number == 0 and end:
            flags |= END_STREAM
        found += frame(CONTINUATION if number else HEADERS, piece, stream_id=stream_id, flags=flags)
        if number == 0:
            found += between
    return found


def padded_headers(
    stream_id: int, block: bytes, padding: int = 0, *, end: bool = False, priority: bytes = b""
) -> bytes:
    """One HEADERS frame with padding and, if given, the five bytes of a priority."""
    flags = END_HEADERS | PADDED | (END_STREAM if end else 0) | (HAS_PRIORITY if priority else 0)
    payload = bytes([padding]) + priority + block + bytes(padding)
    return frame(HEADERS, payload, stream_id=stream_id, flags=flags)

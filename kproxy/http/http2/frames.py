"""HTTP/2 frames: their numbers, and how they are written (RFC 9113, 4 and 6). Pure."""

from __future__ import annotations

import struct
from enum import IntEnum

STREAM_WINDOW_BYTES = 1024 * 1024
"""What an API server may send of one answer before its client has taken it."""
CONNECTION_WINDOW_BYTES = 1 << 30
DEFAULT_WINDOW_BYTES = 65535
MAX_WINDOW_BYTES = (1 << 31) - 1
MAX_FRAME_BYTES = 16384
"""Ours and the least that anybody must take; larger frames would only make other streams wait."""
MAX_HEAD_BYTES = 256 * 1024
MAX_PATIENCE = 100_000
"""Frames of a peer that bring no request forward, at the most: after much work that it had to do for us."""

# Frame types, as numbers: they are compared for each frame.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20


class Setting(IntEnum):
    """RFC 9113, 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def error_name(code: int) -> str:
    return ErrorCode(code).name if code <= max(ErrorCode) else f"code {code}"


class ConnectionFault(Exception):
    """What the peer did ends the connection; `code` is what it is told (RFC 9113, 5.4.1)."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        self.code = code
        super().__init__(message)


# Length (its high and low part), type, flags, stream. For writing, length and type are one number.
read_frame_head = struct.Struct(">HBBBI").unpack_from
_frame_head = struct.Struct(">IBI").pack
_setting = struct.Struct(">HI")
_number = struct.Struct(">I")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return _frame_head(len(payload) << 8 | kind, flags, stream_id) + payload


def window_update(stream_id: int, more_bytes: int) -> bytes:
    """`stream_id` 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _number.pack(more_bytes))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _number.pack(code))


def goaway(code: ErrorCode) -> bytes:
    """No stream of the peer was taken: there are none without pushes."""
    return frame(GOAWAY, 0, 0, _number.pack(0) + _number.pack(code))


def head_frames(stream_id: int, block: bytes, *, ends: bool) -> bytes:
    """A header block as HEADERS and, where it is long, CONTINUATION."""
    flags = END_STREAM if ends else 0
    if len(block) <= MAX_FRAME_BYTES:
        return _frame_head(len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id) + block
    pieces = [block[start : start + MAX_FRAME_BYTES] for start in range(0, len(block), MAX_FRAME_BYTES)]
    first, *middle, last = pieces
    return b"".join(
        (
            frame(HEADERS, flags, stream_id, first),
            *(frame(CONTINUATION, 0, stream_id, piece) for piece in middle),
            frame(CONTINUATION, END_HEADERS, stream_id, last),
        )
    )


def data_frames(stream_id: int, data: memoryview, *, ends: bool) -> bytes:
    """A piece of a body, which must fit the windows, as frames."""
    parts: list[bytes | memoryview] = []
    last = len(data) - MAX_FRAME_BYTES
    for start in range(0, len(data), MAX_FRAME_BYTES):
        piece = data[start : start + MAX_FRAME_BYTES]
        flags = END_STREAM if ends and start >= last else 0
        parts += (_frame_head(len(piece) << 8 | DATA, flags, stream_id), piece)
    return b"".join(parts)


def read_number(payload: bytes) -> int:
    """The first four bytes."""
    (number,) = _number.unpack_from(payload)
    return int(number)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    return list(_setting.iter_unpack(payload))


def _settings(values: dict[Setting, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(key, value) for key, value in values.items()))


PREFACE = b"".join(
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _settings(
            {
                Setting.HEADER_TABLE_SIZE: 0,
                Setting.ENABLE_PUSH: 0,
                Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                Setting.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            }
        ),
        window_update(0, CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES),
    )
)
"""How a client begins: the magic, our settings, and a window for all answers together."""

"""HTTP/1.1 as RFC 9112 has it, read from a whole byte string. Written apart from kproxy and from http1.py:

the fuzzer asks it what was sent, and what came out on either side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([0-9])\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t \x21-\x7e\x80-\xff]*))?\Z")
_NAME = re.compile(_TOKEN + rb"\Z")
_VALUE = re.compile(rb"[\t \x21-\x7e\x80-\xff]*\Z")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t \x21-\x7e\x80-\xff]*)?\Z")


class NotHttpError(Exception):
    """The bytes are no HTTP/1.1, or ambiguous."""


class _BrokenBodyError(Exception):
    """The head was sound, the body's framing is not."""


@dataclass(slots=True, kw_only=True)
class Message:
    """A request or response. An incomplete one ended in its body."""

    start: tuple[bytes, ...]
    """Method, target, minor version; or status, reason, minor version."""
    fields: list[tuple[bytes, bytes]]
    framing: str = "none"
    """"none", "length", "chunked", "close" or "tunnel"."""
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_complete: bool = True

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    @property
    def minor(self) -> int:
        return int(self.start[2])

    @property
    def options(self) -> set[bytes]:
        """The words of Connection."""
        return {
            word.strip(b" \t").lower() for value in self.values(b"connection") for word in value.split(b",")
        }


@dataclass(slots=True, kw_only=True)
class Stream:
    """What one direction of a connection held. `rest` is what came behind the last whole message."""

    messages: list[Message] = field(default_factory=list)
    problem: str | None = None
    rest: bytes = b""


def read_requests(data: bytes) -> Stream:
    """The requests of a client's stream, up to the first that is wrong or incomplete."""
    return _read(data, lambda head, position, _: _frame_request(head, data, position), is_request=True)


def read_responses(data: bytes, methods: Sequence[bytes], *, ended: bool) -> Stream:
    """The responses to requests of these methods; `ended` tells that the connection was closed tidily."""
    return _read(
        data,
        lambda head, position, number: _frame_response(
            head, data, position, methods[number] if number < len(methods) else b"GET", ended
        ),
        is_request=False,
    )


def _read(data: bytes, frame: Callable[[Message, int, int], int], *, is_request: bool) -> Stream:
    stream = Stream()
    position = 0
    number = 0
    try:
        while position < len(data):
            while is_request and data.startswith(b"\r\n", position):
                position += 2
            end = data.find(b"\r\n\r\n", position)
            if end < 0:
                stream.rest = data[position:]
                return stream
            message = _head(data[position:end], is_request=is_request)
            try:
                position = frame(message, end + 4, number)
            except _BrokenBodyError as error:
                message.is_complete = False
                stream.messages.append(message)
                raise NotHttpError(str(error)) from None
            stream.messages.append(message)
            if is_request or not message.start[0].startswith(b"1"):
                number += 1
            if not message.is_complete or message.framing == "tunnel":
                stream.rest = data[position:]
                return stream
    except NotHttpError as error:
        stream.problem = str(error)
        stream.rest = data[position:]
    return stream


def _head(raw: bytes, *, is_request: bool) -> Message:
    lines = raw.split(b"\r\n")
    match = (_REQUEST_LINE if is_request else _STATUS_LINE).match(lines[0])
    if match is None:
        raise NotHttpError(f"start line {lines[0][:80]!r}")
    start = (match[1], match[2], match[3]) if is_request else (match[2], match[3] or b"", match[1])
    return Message(start=start, fields=[_field(line) for line in lines[1:]])


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or _NAME.match(name) is None or _VALUE.match(value) is None:
        raise NotHttpError(f"field line {line[:80]!r}")
    return name.lower(), value.strip(b" \t")


def _frame_request(head: Message, data: bytes, position: int) -> int:
    hosts = head.values(b"host")
    if len(hosts) > 1 or (not hosts and head.minor):
        raise NotHttpError("Host is missing or repeated")
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if codings:
        if lengths or not head.minor or [each.lower() for each in codings] != [b"chunked"]:
            raise NotHttpError("ambiguous framing")
        return _chunks(head, data, position)
    if not lengths:
        return position
    if len(lengths) > 1:
        raise NotHttpError("two lengths")
    return _length(head, data, position, lengths[0])


def _frame_response(head: Message, data: bytes, position: int, method: bytes, ended: bool) -> int:
    status = int(head.start[0])
    if status == 101:
        head.framing = "tunnel"
        return position
    if status < 200 or status in (204, 304) or method == b"HEAD":
        return position
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if codings:
        if [each.lower() for each in codings] != [b"chunked"]:
            raise NotHttpError("unknown coding")
        return _chunks(head, data, position)
    if len(set(lengths)) > 1:
        raise NotHttpError("two lengths")
    if lengths:
        return _length(head, data, position, lengths[0])
    head.framing = "close"
    head.body = data[position:]
    head.is_complete = ended
    return len(data)


def _length(head: Message, data: bytes, position: int, value: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", value):
        raise NotHttpError(f"length {value[:40]!r}")
    head.framing = "length"
    end = position + int(value)
    head.body = data[position:end]
    head.is_complete = end <= len(data)
    return min(end, len(data))


def _chunks(head: Message, data: bytes, position: int) -> int:
    head.framing = "chunked"
    head.is_complete = False
    parts = []
    try:
        while True:
            line, position = _line(data, position)
            match = _CHUNK_SIZE.match(line)
            if match is None or int(match[1], 16) >= 1 << 60:
                raise _BrokenBodyError(f"chunk size {line[:40]!r}")
            size = int(match[1], 16)
            if not size:
                break
            parts.append(data[position : position + size])
            position += size
            line, position = _line(data, position)
            if line:
                raise _BrokenBodyError("no line end behind a chunk")
        while True:
            line, position = _line(data, position)
            if not line:
                break
            head.trailers.append(_field(line))
    except _Short:
        return len(data)
    except NotHttpError as error:
        raise _BrokenBodyError(str(error)) from None
    finally:
        head.body = b"".join(parts)
    head.is_complete = True
    return position


def chunks_end(data: bytes, position: int) -> int:
    """Where a whole chunked body that begins at `position` ends."""
    return _chunks(Message(start=(), fields=[]), data, position)


class _Short(Exception):
    """More must come."""


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    if end < 0:
        raise _Short
    if data[end - 1 : end] != b"\r" or end - 1 < position:
        raise NotHttpError("a line without CR")
    return data[position : end - 1], end + 1

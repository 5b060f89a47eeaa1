"""HTTP/1.1 on the wire (RFC 9112): message heads and body framing. Bytes in, values out, no I/O.

Strict on purpose. A head either matches the grammar or is refused: whatever two parsers could read in two
ways is how requests are smuggled. The bytes that pass are passed on as they came, so names keep their case,
duplicates their order and trailers their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kproxy.errors import BadRequest, UpstreamProtocolError

# Selectors, tokens and cookies are long; Go's server takes 1 MiB in all, most proxies 8 KiB a field.
MAX_FIELD_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024
# RFC 9112 section 7.1.1 asks for a bound on chunk extensions; nobody sends any.
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 64 * 1024

Field = tuple[bytes, bytes, bytes]
"""One header field: lower-case name, value without the white space around it, the line as it came."""

_CONTROLS_GONE = bytes(c for c in range(256) if (c >= 0x20 and c != 0x7F) or c in b"\t\r\n")
_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_target = re.compile(rb"[!-~\x80-\xff]+").fullmatch
_is_status_line = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([^\r\n]*))?").fullmatch
_is_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?").fullmatch
_is_version = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
_split_absolute = re.compile(r"(?i)https?://([^/?#]*)(.*)").fullmatch

# Heads repeat themselves: the lines of a dashboard's polls and of an API server's answers are mostly the ones
# seen before. Lines that may hold a secret are not kept.
_known_lines: dict[bytes, Field] = {}
_known_status_lines: dict[bytes, tuple[int, int, bytes]] = {}
_MAX_KNOWN_LINES = 2048
_MAX_KNOWN_BYTES = 160
_NOT_KEPT = (b"authorization", b"cookie", b"token", b"secret", b"key", b"password")

# Fields that frame, route or authenticate a message have no business behind its body (RFC 9110, 6.5.1).
_NOT_IN_TRAILERS = frozenset(
    (b"transfer-encoding", b"content-length", b"host", b"authorization", b"connection", b"trailer", b"te",
     b"content-encoding", b"content-type", b"content-range", b"cookie", b"expect", b"upgrade",
     b"proxy-authorization")
)  # fmt: skip


class MalformedHeadError(ValueError):
    """A head or a body framing that is not HTTP/1.1.

    `status` is what a server should answer to it; `good_bytes`, for a body, how much before it was sound.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        self.good_bytes = 0
        super().__init__(message)


def parse_fields(lines: Iterable[bytes]) -> list[Field]:
    """Header or trailer lines, without their CRLF, as fields. Raises MalformedHeadError (RFC 9112, 5)."""
    known = _known_lines
    return [known.get(line) or _read_field(line) for line in lines]


def _read_field(line: bytes) -> Field:
    name, colon, value = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        raise MalformedHeadError("header lines may not be folded (RFC 9112, 5.2)")
    if len(line) > MAX_FIELD_BYTES:
        raise MalformedHeadError(f"header {_shown(name)} is longer than {MAX_FIELD_BYTES} bytes", 431)
    if not _is_token(name):
        raise MalformedHeadError(f"{_shown(name)} is not a header name")
    if not colon:
        raise MalformedHeadError("a header line has no colon")
    lower = name.lower()
    field = (lower, value.strip(b" \t"), line)
    if len(line) <= _MAX_KNOWN_BYTES and not any(word in lower for word in _NOT_KEPT):
        if len(_known_lines) >= _MAX_KNOWN_LINES:
            _known_lines.clear()
        _known_lines[line] = field
    return field


def _shown(name: bytes) -> str:
    return repr(name[:60].decode("latin-1"))


def _lines(head: bytes) -> list[bytes]:
    if head.translate(None, _CONTROLS_GONE):
        raise MalformedHeadError("control characters are not allowed in a head")
    lines = head.split(b"\r\n")
    ends = len(lines) - 1
    if head.count(b"\r") != ends or head.count(b"\n") != ends:
        raise MalformedHeadError("lines must end in CR LF, and neither may stand alone (RFC 9112, 2.2)")
    return lines


def find_head(buffer: bytes | bytearray) -> int:
    """Where the head in `buffer` ends (its last CR LF CR LF excluded), or -1 when more must come.

    Raises MalformedHeadError as soon as no further byte could make it a head.
    """
    end = buffer.find(b"\r\n\r\n")
    if (end < 0 and len(buffer) > MAX_HEAD_BYTES) or end > MAX_HEAD_BYTES:
        raise MalformedHeadError(f"the head is longer than {MAX_HEAD_BYTES} bytes", 431)
    if end < 0 and buffer.count(b"\n") != buffer.count(b"\r\n"):
        raise MalformedHeadError("lines must end in CR LF (RFC 9112, 2.2)")
    return end


class RequestHead:
    """A downstream request up to its body; every claim about framing has been checked."""

    __slots__ = (
        "absolute_authority",
        "content_length",
        "expects_continue",
        "fields",
        "host",
        "is_chunked",
        "is_upgrade",
        "keep_alive",
        "method",
        "minor",
        "names",
        "options",
        "path",
        "target",
    )

    def __init__(self, head: bytes) -> None:
        """Parse `head` (without its closing empty line). Raises BadRequest with the status to answer."""
        try:
            self._parse(head)
        except MalformedHeadError as error:
            raise BadRequest(str(error), error.status) from None

    def _parse(self, head: bytes) -> None:
        lines = _lines(head)
        request_line = lines[0].split(b" ")
        if len(request_line) != 3:
            raise MalformedHeadError("the request line is not 'METHOD target HTTP/1.1'")
        method, target, version = request_line
        if version == b"HTTP/1.1":
            self.minor = 1
        else:
            self.minor = _minor_version(version)
        if not _is_token(method):
            raise MalformedHeadError("the method is not a token")
        if not _is_target(target):
            raise MalformedHeadError("the request target has characters that must be percent-encoded")
        if len(target) > MAX_FIELD_BYTES:
            raise MalformedHeadError(f"the request target is longer than {MAX_FIELD_BYTES} bytes", 414)
        del lines[0]
        self.method = method.decode("ascii")
        self.fields = parse_fields(lines)
        self.names = names = {field[0]: field[1] for field in self.fields}
        self._read_host(target)
        self.path = self.target.partition("?")[0]
        self._read_framing()
        connection = names.get(b"connection")
        self.options = self.list_of(b"connection") if connection is not None else frozenset[bytes]()
        if self.minor:
            self.keep_alive = b"close" not in self.options
        else:
            self.keep_alive = b"keep-alive" in self.options and b"close" not in self.options
        # An upgrade is a hop-by-hop wish: named in Connection, and HTTP/1.1 only (RFC 9110, 7.8). h2c, which
        # `curl --http2` asks for, may be ignored: every client that asks can do without.
        self.is_upgrade = (
            b"upgrade" in self.options
            and self.minor == 1
            and names.get(b"upgrade", b"").lower() not in (b"", b"h2c")
        )
        self.expects_continue = (
            b"expect" in names and self.minor == 1 and names[b"expect"].lower() == b"100-continue"
        )

    def _read_host(self, target: bytes) -> None:
        hosts = self.all_of(b"host") if b"host" in self.names else []
        if len(hosts) > 1:
            raise MalformedHeadError("there is more than one Host header")
        self.host = hosts[0].decode("latin-1") if hosts else None
        if self.host is None and self.minor:
            raise MalformedHeadError("an HTTP/1.1 request needs a Host header")
        self.target = target.decode("latin-1")
        self.absolute_authority = None
        if target[:1] == b"/":
            return
        absolute = _split_absolute(self.target)
        if absolute:
            # RFC 9112 section 3.2.2: the host of an absolute-form target counts, not the Host header.
            authority, rest = absolute.groups()
            self.absolute_authority = authority
            self.host = authority
            self.target = rest if rest.startswith("/") else "/" + rest
        elif self.method not in ("CONNECT", "OPTIONS") or (self.method == "OPTIONS" and target != b"*"):
            raise MalformedHeadError("the request target must be a path that starts with '/'")

    def _read_framing(self) -> None:
        names = self.names
        self.content_length: int | None = None
        self.is_chunked = False
        if b"transfer-encoding" in names:
            if b"content-length" in names:
                raise MalformedHeadError("Content-Length and Transfer-Encoding exclude each other")
            if not self.minor:
                raise MalformedHeadError("HTTP/1.0 has no Transfer-Encoding")
            if [coding.lower() for coding in self.all_of(b"transfer-encoding")] != [b"chunked"]:
                raise MalformedHeadError("the only Transfer-Encoding served here is one 'chunked'", 501)
            self.is_chunked = True
        elif b"content-length" in names:
            lengths = self.all_of(b"content-length")
            if len(lengths) > 1:
                raise MalformedHeadError("there is more than one Content-Length")
            self.content_length = _length(lengths[0])

    def all_of(self, name: bytes) -> list[bytes]:
        """The values of every field of that lower-case name, in order."""
        return [field[1] for field in self.fields if field[0] == name]

    def list_of(self, name: bytes) -> frozenset[bytes]:
        """The lower-case members of a comma-separated field (RFC 9110, 5.6.1)."""
        members = b",".join(self.all_of(name)).lower().split(b",")
        return frozenset(member.strip(b" \t") for member in members)

    def text(self, name: bytes) -> str | None:
        """The last value of that field as text, None when there is none."""
        value = self.names.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def has_body(self) -> bool:
        return self.is_chunked or bool(self.content_length)


def _minor_version(version: bytes) -> int:
    match = _is_version(version)
    if not match:
        raise MalformedHeadError("the request line does not end in an HTTP version")
    major, minor = match.groups()
    if major != b"1":
        raise MalformedHeadError("only HTTP/1.0 and HTTP/1.1 are served here", 505)
    # RFC 9110 section 2.5: a higher minor version is answered as the highest one known.
    return 0 if minor == b"0" else 1


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise MalformedHeadError("Content-Length is not a number of bytes")
    return int(value)


class ResponseHead:
    """An upstream response up to its body. `raw` is all of it as it came, without the closing empty line."""

    __slots__ = (
        "content_length",
        "fields",
        "is_chunked",
        "keep_alive",
        "minor",
        "names",
        "raw",
        "reason",
        "status",
    )

    def __init__(self, head: bytes) -> None:
        """Parse `head` (without its closing empty line). Raises UpstreamProtocolError."""
        try:
            self._parse(head)
        except MalformedHeadError as error:
            raise UpstreamProtocolError(f"the API server's answer is not HTTP/1.1: {error}") from None

    def _parse(self, head: bytes) -> None:
        self.raw = head
        lines = _lines(head)
        status_line = lines[0]
        known = _known_status_lines.get(status_line) or _read_status_line(status_line)
        self.minor, self.status, self.reason = known
        del lines[0]
        self.fields = fields = parse_fields(lines)
        self.names = names = {field[0]: field[1] for field in fields}
        self.content_length: int | None = None
        self.is_chunked = False
        if b"transfer-encoding" in names:
            codings = [field[1].lower() for field in fields if field[0] == b"transfer-encoding"]
            if codings != [b"chunked"]:
                raise MalformedHeadError("Transfer-Encoding is not one 'chunked'")
            self.is_chunked = True
        elif b"content-length" in names:
            lengths = {field[1] for field in fields if field[0] == b"content-length"}
            if len(lengths) > 1:
                raise MalformedHeadError("Content-Length is given twice, differently")
            self.content_length = _length(lengths.pop())
        options = names[b"connection"].lower() if b"connection" in names else b""
        self.keep_alive = b"close" not in options if self.minor else b"keep-alive" in options

    def body_of(self, request_method: str) -> Body:
        """How the body behind this head ends (RFC 9112, 6.3)."""
        if request_method == "HEAD" or self.status in (204, 304) or self.status < 200:
            return LengthBody(0)
        if self.is_chunked:
            return ChunkedBody()
        if self.content_length is not None:
            return LengthBody(self.content_length)
        return CloseBody()


def _read_status_line(line: bytes) -> tuple[int, int, bytes]:
    match = _is_status_line(line)
    if not match:
        raise MalformedHeadError("no status line")
    minor, status, reason = match.groups()
    known = (1 if minor == b"1" else 0, int(status), reason or b"")
    if len(_known_status_lines) < _MAX_KNOWN_BYTES and len(line) <= _MAX_KNOWN_BYTES:
        _known_status_lines[line] = known
    return known


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
            (field,) = parse_fields(_lines(line))
            if field[0] in _NOT_IN_TRAILERS:
                raise MalformedHeadError(f"{_shown(field[0])} may not be a trailer")
            self.trailers.append(field)
        else:
            self.is_finished = True


Body = LengthBody | ChunkedBody | CloseBody


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. Empty data would end the body: callers do not pass it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[Field] = ()) -> bytes:
    """The end of a chunked body, with its trailers."""
    return b"0\r\n" + b"".join(field[2] + b"\r\n" for field in trailers) + b"\r\n"

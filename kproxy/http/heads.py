"""HTTP/1.1 message heads on the wire (RFC 9112). Bytes in, values out, no I/O.

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
# Methods are names in logs, metrics and decisions that are remembered; the longest registered has 17 letters.
MAX_METHOD_BYTES = 64

Field = tuple[bytes, bytes, bytes]
"""One header field: lower-case name, value without the white space around it, the line as it came."""

_ALLOWED_IN_LINES = bytes(c for c in range(256) if (c >= 0x20 and c != 0x7F) or c == 0x09)
_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_name_start = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,60}").match
_is_target = re.compile(rb"[!-~\x80-\xff]+").fullmatch
_is_status_line = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?").fullmatch
_is_version = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
_split_absolute = re.compile(r"(?i)https?://([^/?#]*)(.*)").fullmatch

# Heads repeat themselves: the lines of a dashboard's polls and of an API server's answers are mostly the ones
# seen before. Lines that may hold a secret are not kept.
_known_lines: dict[bytes, Field] = {}
_known_status_lines: dict[bytes, tuple[int, int, bytes]] = {}
_MAX_KNOWN_LINES = 2048
_MAX_KNOWN_BYTES = 160
_NOT_KEPT = (b"authorization", b"cookie", b"token", b"secret", b"key", b"password")


class MalformedHeadError(ValueError):
    """A head or a body framing that is not HTTP/1.1.

    `status` is what a server should answer to it; `good_bytes`, for a body, how much before it was sound.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        self.good_bytes = 0
        super().__init__(message)


def parse_fields(lines: Iterable[bytes]) -> list[Field]:
    """Header or trailer lines, without their CRLF, as fields. Raises MalformedHeadError (RFC 9112, 5).

    Every byte is judged here, a bare CR or LF too; a line that is known was judged when it was first seen.
    """
    known = _known_lines
    return [known.get(line) or _read_field(line) for line in lines]


def _read_field(line: bytes) -> Field:
    if b"\r" in line or b"\n" in line:
        raise MalformedHeadError("lines must end in CR LF, and neither may stand alone (RFC 9112, 2.2)")
    if line.translate(None, _ALLOWED_IN_LINES):
        raise MalformedHeadError("control characters are not allowed in a head")
    name, colon, value = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        raise MalformedHeadError("header lines may not be folded (RFC 9112, 5.2)")
    if len(line) > MAX_FIELD_BYTES:
        raise MalformedHeadError(f"header {shown(name)} is longer than {MAX_FIELD_BYTES} bytes", 431)
    if not colon:
        # Not shown: a line without its colon may be an Authorization with its token.
        raise MalformedHeadError("a header line has no colon")
    if not _is_token(name):
        raise MalformedHeadError(f"{shown(name)} is not a header name")
    lower = name.lower()
    field = (lower, value.strip(b" \t"), line)
    if len(line) <= _MAX_KNOWN_BYTES and not any(word in lower for word in _NOT_KEPT):
        if len(_known_lines) >= _MAX_KNOWN_LINES:
            _known_lines.clear()
        _known_lines[line] = field
    return field


def shown(name: bytes) -> str:
    """The start of a name, fit for a message; nothing behind what could be one, which may be a secret."""
    start = _is_name_start(name)
    return repr(start[0].decode("ascii")) if start else "what stands before a colon"


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
        lines = head.split(b"\r\n")
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
        if len(method) > MAX_METHOD_BYTES:
            raise MalformedHeadError(f"the method is longer than {MAX_METHOD_BYTES} bytes", 501)
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
        # An upgrade is a hop-by-hop wish: named in Connection, and HTTP/1.1 only (RFC 9110, 7.8).
        self.is_upgrade = b"upgrade" in self.options and self.minor == 1 and self._leaves_http()
        self.expects_continue = (
            b"expect" in names and self.minor == 1 and names[b"expect"].lower() == b"100-continue"
        )

    def _leaves_http(self) -> bool:
        """Whether what Upgrade asks for is not HTTP again, whose requests nobody here would judge.

        h2c, which `curl --http2` asks for, may be ignored: every client that asks can do without.
        """
        protocols = {member.partition(b"/")[0] for member in self.list_of(b"upgrade")} - {b""}
        return bool(protocols) and protocols.isdisjoint((b"h2c", b"http", b"tls"))

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
    """An upstream response up to its body. `raw` is all of it as it came, without the closing empty line.

    `connection` holds the members of all Connection fields, in lower case.
    """

    __slots__ = (
        "connection",
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

    @classmethod
    def of(cls, status: int, reason: bytes, fields: list[Field]) -> ResponseHead:
        """A head that came as fields (HTTP/2). Raises MalformedHeadError when they contradict each other."""
        head = cls.__new__(cls)
        head.minor, head.status, head.reason = 1, status, reason
        lines = [b"HTTP/1.1 %d %b" % (status, reason)]
        lines += [field[2] for field in fields]
        head.raw = b"\r\n".join(lines)
        head._take(fields)
        return head

    def _parse(self, head: bytes) -> None:
        self.raw = head
        status_line, *lines = head.split(b"\r\n")
        known = _known_status_lines.get(status_line) or _read_status_line(status_line)
        self.minor, self.status, self.reason = known
        self._take(parse_fields(lines))

    def _take(self, fields: list[Field]) -> None:
        self.fields = fields
        self.names = names = {field[0]: field[1] for field in fields}
        self.content_length: int | None = None
        self.is_chunked = False
        if b"transfer-encoding" in names:
            codings = [field[1].lower() for field in fields if field[0] == b"transfer-encoding"]
            if codings != [b"chunked"]:
                raise MalformedHeadError("Transfer-Encoding is not one 'chunked'")
            self.is_chunked = True
        elif b"content-length" in names:
            if len(names) < len(fields):
                lengths = {field[1] for field in fields if field[0] == b"content-length"}
                if len(lengths) > 1:
                    raise MalformedHeadError("Content-Length is given twice, differently")
            self.content_length = _length(names[b"content-length"])
        self.connection = connection = names.get(b"connection", b"").lower()
        if connection and len(names) < len(fields):
            listed = [field[1].lower() for field in fields if field[0] == b"connection"]
            self.connection = connection = b",".join(listed)
        self.keep_alive = b"close" not in connection if self.minor else b"keep-alive" in connection


def _read_status_line(line: bytes) -> tuple[int, int, bytes]:
    match = _is_status_line(line)
    if not match:
        raise MalformedHeadError("no status line")
    minor, status, reason = match.groups()
    known = (1 if minor == b"1" else 0, int(status), reason or b"")
    if len(_known_status_lines) < _MAX_KNOWN_LINES and len(line) <= _MAX_KNOWN_BYTES:
        _known_status_lines[line] = known
    return known

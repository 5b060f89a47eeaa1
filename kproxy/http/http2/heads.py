"""HTTP/2 fields as heads and trailers of HTTP/1.1, which is what clients here speak (RFC 9113, 8). Pure."""

from __future__ import annotations

from http import HTTPStatus

from kproxy.http.framing import NOT_IN_TRAILERS
from kproxy.http.heads import Field, MalformedHeadError, ResponseHead, parse_fields
from kproxy.http.http2.hpack import Pair

# What belongs to a connection makes a message malformed here (RFC 9113, 8.2.2).
_NOT_IN_HTTP2 = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)

_known_fields: dict[Pair, Field] = {}
_MAX_KNOWN_FIELDS = 2048


# -- heads --


def head_of(pairs: list[Pair]) -> ResponseHead:
    """A response head (RFC 9113, 8.3.2). Raises MalformedHeadError."""
    if not pairs or pairs[0][0] != b":status":
        raise MalformedHeadError("a head without its status")
    status = pairs[0][1]
    if len(status) != 3 or not status.isdigit() or status < b"100":
        raise MalformedHeadError("a status that is no number")
    code = int(status)
    return ResponseHead.of(code, _reason(code), _fields_of(pairs[1:]))


def without_body(head: ResponseHead, method: str) -> ResponseHead:
    """The head of an answer that ends with it: HTTP/1.1 must be told so, HTTP/2 need not."""
    if method == "HEAD" or head.status in (204, 304) or head.content_length is not None:
        return head
    length = (b"content-length", b"0", b"Content-Length: 0")
    return ResponseHead.of(head.status, head.reason, [*head.fields, length])


def trailers_of(pairs: list[Pair]) -> list[Field]:
    """What stands behind a body. Raises MalformedHeadError."""
    fields = _fields_of(pairs)
    if any(field[0] in NOT_IN_TRAILERS for field in fields):
        raise MalformedHeadError("a field that may not be a trailer")
    return fields


def _fields_of(pairs: list[Pair]) -> list[Field]:
    known = _known_fields
    return [known.get(pair) or _read_pair(pair) for pair in pairs]


def _read_pair(pair: Pair) -> Field:
    """As the line that a client of HTTP/1.1 gets; names are spelt as Go spells them."""
    name, value = pair
    spelt = b"-".join([part.capitalize() for part in name.split(b"-")])
    (field,) = parse_fields((spelt + b": " + value,))
    if field[0] != name or name in _NOT_IN_HTTP2:
        raise MalformedHeadError("a field that does not belong into HTTP/2")
    if len(value) <= 100:
        if len(_known_fields) >= _MAX_KNOWN_FIELDS:
            _known_fields.clear()
        _known_fields[pair] = field
    return field


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""

"""What happens to header fields and targets on their way through (RFC 9110, 7.6.1). Pure.

Fields keep their spelling, order and duplicates; what is dropped, replaced or added is decided here and
nowhere else.
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from time import time
from urllib.parse import quote_from_bytes

from kproxy import __version__
from kproxy.http.heads import RequestHead, ResponseHead

# Connection-specific fields of RFC 9110 7.6.1 and RFC 2616 13.5.1. Transfer-Encoding and Trailer belong to
# the framing, which is kept when it is passed on untouched.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
     b"upgrade")
)  # fmt: skip
_FRAMING = frozenset((b"transfer-encoding", b"trailer", b"content-length"))

# Naming one of these in Connection must not strip what we answer for (RFC 9110, 7.6.1: "MUST NOT").
_NOT_FOR_CONNECTION = frozenset((b"host", b"content-length", b"transfer-encoding", b"x-forwarded-for"))

# With it the service worker of one app answers for all that is served at our origin, and for what is served
# there next week; without it for what lies below its own script (Service Workers, "Update").
_NOT_FOR_CLIENTS = _HOP_BY_HOP | {b"service-worker-allowed"}

_REPLACED_IN_REQUESTS = frozenset((b"host", b"x-forwarded-for"))
_DROPPED_FROM_REQUESTS = _HOP_BY_HOP | _REPLACED_IN_REQUESTS | _FRAMING | {b"authorization"}

USER_AGENT = f"kproxy/{__version__} ({sys.platform})".encode()

# For these an empty body is said, for others it goes without saying (RFC 9110, 8.6).
_HAVE_BODIES = frozenset(("POST", "PUT", "PATCH"))
_VISIBLE = bytes(range(0x21, 0x7F))
_escapes_in_key = re.compile(rb"[^!#$&'*+\-.^_`|~0-9A-Za-z]")


def authorization_block(authorization: str | None) -> bytes:
    """The credential as a ready-made header line, empty when there is none."""
    return b"" if authorization is None else b"Authorization: " + authorization.encode("latin-1") + b"\r\n"


def basic_authorization(username: str, password: str) -> str:
    """RFC 7617, with the UTF-8 that client-go uses."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode("ascii")


class Impersonation:
    """The `Impersonate-*` fields of a kubeconfig user, made once.

    A client that brings its own Impersonate-User is left alone; without one, its other Impersonate-* fields
    stand beside ours (client-go transport/round_trippers.go).
    """

    __slots__ = ("_has_uid", "block")

    def __init__(
        self,
        user: str | None,
        uid: str | None,
        groups: Iterable[str],
        extra: Iterable[tuple[str, Iterable[str]]],
    ) -> None:
        lines = []
        if user:
            lines.append(f"Impersonate-User: {user}".encode())
            if uid:
                lines.append(f"Impersonate-Uid: {uid}".encode())
            lines += [f"Impersonate-Group: {group}".encode() for group in groups]
            for key, values in extra:
                name = b"Impersonate-Extra-" + _escape_key(key)
                lines += [name + b": " + value.encode() for value in values]
        self._has_uid = bool(user and uid)
        self.block = b"".join(line + b"\r\n" for line in lines)

    def for_request(self, head: RequestHead) -> tuple[bytes, frozenset[bytes]]:
        """The lines to add to a request, and the names of its fields that they replace.

        Of several Impersonate-User the first counts, here as in client-go and the API server; one that
        Connection names goes no further, and counts for nothing.
        """
        users = [] if b"impersonate-user" in head.options else head.all_of(b"impersonate-user")
        if not self.block or (users and users[0]):
            return b"", frozenset()
        replaced = {b"impersonate-user"} | ({b"impersonate-uid"} if self._has_uid else set())
        return self.block, frozenset(replaced)


def _escape_key(key: str) -> bytes:
    return _escapes_in_key.sub(lambda match: b"%%%02X" % match[0][0], key.encode())


def map_target(target: str, base_path: str) -> str:
    """Put the path of the cluster's server URL before a target, unless the target already begins with it."""
    if target.startswith(base_path + "/") or target.partition("?")[0] == base_path:
        return target
    return base_path + target


def quote_target(target: str) -> str:
    """A target as it may stand in a Location field: bytes beyond ASCII are percent-encoded, no others."""
    return quote_from_bytes(target.encode("latin-1"), safe=_VISIBLE)


def request_block(
    head: RequestHead,
    *,
    target: str,
    authority: bytes,
    credential_block: bytes,
    impersonation: Impersonation | None,
    client_address: bytes | None,
    asks_for_gzip: bool,
) -> bytes:
    """The head to send upstream, empty line included.

    `credential_block` is left out when the client brings a non-empty Authorization of its own, as client-go
    does. `client_address` goes into X-Forwarded-For; unix sockets have none.
    """
    names = head.names
    dropped = _DROPPED_FROM_REQUESTS
    if head.options:
        dropped = dropped | (head.options - _NOT_FOR_CONNECTION)
    lines = [f"{head.method} {target} HTTP/1.1\r\nHost: ".encode("latin-1") + authority]
    tail = b""
    if head.is_upgrade:
        option = next(each for each in _split_list(head.all_of(b"connection")) if each.lower() == b"upgrade")
        tail += b"Connection: " + option + b"\r\nUpgrade: " + names[b"upgrade"] + b"\r\n"
    if impersonation is not None:
        block, replaced = impersonation.for_request(head)
        tail += block
        dropped = dropped | replaced
    lines += [field[2] for field in head.fields if field[0] not in dropped]
    if b"authorization" in names and has_own_authorization(head):
        lines += [field[2] for field in head.fields if field[0] == b"authorization" and field[1]]
    else:
        tail = credential_block + tail
    if head.is_chunked:
        tail += b"Transfer-Encoding: chunked\r\n"
        if b"trailer" in names:
            tail += b"Trailer: " + b", ".join(head.all_of(b"trailer")) + b"\r\n"
    elif head.content_length:
        tail += b"Content-Length: %d\r\n" % head.content_length
    elif head.method in _HAVE_BODIES and (head.content_length == 0 or not head.is_upgrade):
        tail += b"Content-Length: 0\r\n"
    if b"te" in names and b"trailers" in head.list_of(b"te"):
        tail += b"TE: trailers\r\nConnection: TE\r\n" if not head.is_upgrade else b""
    if client_address is not None:
        is_kept = b"x-forwarded-for" in names and b"x-forwarded-for" not in head.options
        before = head.all_of(b"x-forwarded-for") if is_kept else []
        tail += b"X-Forwarded-For: " + b", ".join([*filter(None, before), client_address]) + b"\r\n"
    elif b"x-forwarded-for" in names:
        lines += [field[2] for field in head.fields if field[0] == b"x-forwarded-for"]
    if asks_for_gzip:
        tail += b"Accept-Encoding: gzip\r\n"
    if not names.get(b"user-agent"):
        tail += b"User-Agent: " + USER_AGENT + b"\r\n"
    lines.append(tail)
    return b"\r\n".join(lines) + b"\r\n"


def has_own_authorization(head: RequestHead) -> bool:
    """Whether a client brings a credential of its own; of several fields the first counts, as in Go."""
    own = head.all_of(b"authorization")
    return bool(own and own[0]) and b"authorization" not in head.options


def _split_list(values: Iterable[bytes]) -> list[bytes]:
    return [member.strip(b" \t") for member in b",".join(values).split(b",")]


def may_ask_for_gzip(head: RequestHead) -> bool:
    """Whether gzip may be asked of the upstream for a client that did not mention encodings.

    Not for HEAD (nothing to unpack), Range (of the packed bytes) and upgrades: Go's net/http does the same.
    """
    return (
        b"accept-encoding" not in head.names
        and b"range" not in head.names
        and head.method != "HEAD"
        and not head.is_upgrade
    )


def is_gzip(head: ResponseHead) -> bool:
    return head.names.get(b"content-encoding", b"").lower() == b"gzip"


def response_block(
    head: ResponseHead,
    *,
    framing: bytes,
    keeps_framing: bool,
    has_body: bool,
    is_unpacked: bool,
    connection: bytes,
    extra: bytes = b"",
) -> bytes:
    """The head to send downstream, empty line included.

    With `keeps_framing` Content-Length, Transfer-Encoding and Trailer stay as the API server wrote them
    (without a body only the length); otherwise `framing`, whole lines or nothing, stands in for them.
    `connection` is the line for Connection or empty, `extra` whole lines of ours.
    """
    names = head.names
    tail = connection + extra
    if b"date" not in names:
        tail += b"Date: " + _http_date().encode() + b"\r\n"
    is_chunked_too = head.is_chunked and b"content-length" in names
    if (
        keeps_framing
        and has_body
        and head.minor
        and not is_chunked_too
        and _NOT_FOR_CLIENTS.isdisjoint(names)
    ):
        return head.raw + b"\r\n" + tail + b"\r\n"
    dropped = _NOT_FOR_CLIENTS
    if head.connection not in (b"", b"close", b"keep-alive"):
        dropped = dropped.union(_split_list([head.connection])) - _NOT_FOR_CONNECTION
    if not keeps_framing:
        dropped = dropped | _FRAMING
        tail = framing + tail
    elif head.status == 204:
        # Some client may wait for what a length promises; a 204 has no body (RFC 9110, 8.6).
        dropped = dropped | _FRAMING
    elif not has_body:
        dropped = dropped | {b"transfer-encoding", b"trailer"}
    elif is_chunked_too:
        dropped = dropped | {b"content-length"}
    if is_unpacked:
        dropped = dropped | {b"content-encoding"}
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    lines += [field[2] for field in head.fields if field[0] not in dropped]
    lines.append(tail)
    return b"\r\n".join(lines) + b"\r\n"


def moved(head: ResponseHead, prefix: bytes) -> ResponseHead:
    """An answer whose Location, if it is a path, leads below `prefix`, where clients find the API server."""
    fields = [
        (field[0], prefix + field[1], field[2].partition(b":")[0] + b": " + prefix + field[1])
        if field[0] == b"location" and field[1].startswith(b"/") and not field[1].startswith(b"//")
        else field
        for field in head.fields
    ]
    changed = copy(head)
    changed.fields = fields
    changed.names = {field[0]: field[1] for field in fields}
    changed.raw = b"\r\n".join([head.raw.partition(b"\r\n")[0], *[field[2] for field in fields]])
    return changed


def interim_block(head: ResponseHead) -> bytes:
    """A 1xx head: nothing in it may be taken for the connection or the framing of the answer to come."""
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    lines += [field[2] for field in head.fields if field[0] not in _HOP_BY_HOP | _FRAMING]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def upgrade_block(head: ResponseHead) -> bytes:
    """A 101 head, as the API server sent it: names, order and extra fields belong to the two ends."""
    lines = [b"HTTP/1.1 101 " + head.reason, *[field[2] for field in head.fields]]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _http_date() -> str:
    return _http_date_at(int(time()))


@lru_cache(maxsize=1)
def _http_date_at(seconds: int) -> str:
    # Imported here: it takes longer than all of our own modules, and is needed once a second at most.
    from email.utils import formatdate

    return formatdate(seconds, usegmt=True)


def answer_block(
    status: int,
    reason: str,
    fields: Iterable[tuple[str, str]],
    length_bytes: int,
    *,
    closes: bool,
    extra: bytes,
) -> bytes:
    """The head of an answer of our own; `extra` are lines more."""
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in fields]
    lines.append(f"Content-Length: {length_bytes}")
    lines.append(f"Date: {_http_date()}")
    if closes:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1") + extra + b"\r\n"

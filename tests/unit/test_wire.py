"""HTTP/1.1 heads and body framing: what is read, what is refused, and that no two readings exist."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import BadRequest, UpstreamProtocolError
from kproxy.http.heads import (
    MAX_FIELD_BYTES,
    MAX_HEAD_BYTES,
    MalformedHeadError,
    RequestHead,
    ResponseHead,
    find_head,
)


def request(*lines: bytes) -> RequestHead:
    return RequestHead(b"\r\n".join(lines))


def test_a_request_head_keeps_its_lines_as_they_came() -> None:
    """Spelling, order and duplicates of header fields survive, and the target is not touched."""
    head = request(b"GET /a%2Fb//c?x=%zz;y HTTP/1.1", b"HOST: h", b"X-A:  1 ", b"x-a: 2")

    assert head.target == "/a%2Fb//c?x=%zz;y"
    assert [field[2] for field in head.fields] == [b"HOST: h", b"X-A:  1 ", b"x-a: 2"]
    assert head.all_of(b"x-a") == [b"1", b"2"]


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [
        ((b"GET / HTTP/1.1",), 400, "needs a Host"),
        ((b"GET / HTTP/1.1", b"Host: a", b"Host: a"), 400, "more than one Host"),
        ((b"GET / HTTP/1.1", b"Host : a"), 400, "not a header name"),
        ((b"GET / HTTP/1.1", b"Host: a", b" folded"), 400, "folded"),
        ((b"GET / HTTP/1.1", b"Host: a", b"X: 1\x00"), 400, "control"),
        ((b"GET / HTTP/1.1", b"Host: a", b"X: 1\r2"), 400, "CR LF"),
        ((b"GET / HTTP/1.1", b"Host: a\nX: 1"), 400, "CR LF"),
        ((b"GET / HTTP/1.1", b"Host: a", b"no colon"), 400, "no colon"),
        ((b"GET / HTTP/1.1", b"Host: a", b"nocolon"), 400, "no colon"),
        ((b"GET / HTTP/1.1", b"Host: a", b": empty"), 400, "not a header name"),
        ((b"GET  / HTTP/1.1", b"Host: a"), 400, "request line"),
        ((b"GET /", b"Host: a"), 400, "request line"),
        ((b"G@T / HTTP/1.1", b"Host: a"), 400, "method"),
        ((b"G" * 65 + b" / HTTP/1.1", b"Host: a"), 501, "longer than 64"),
        ((b"GET /\t HTTP/1.1", b"Host: a"), 400, "target"),
        ((b"GET relative HTTP/1.1", b"Host: a"), 400, "starts with"),
        ((b"GET * HTTP/1.1", b"Host: a"), 400, "starts with"),
        ((b"GET / HTTP/2.0", b"Host: a"), 505, "HTTP/1.0 and HTTP/1.1"),
        ((b"GET / http/1.1", b"Host: a"), 400, "version"),
        ((b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 1", b"Content-Length: 1"), 400, "more than one"),
        ((b"POST / HTTP/1.1", b"Host: a", b"Content-Length: +1"), 400, "not a number"),
        ((b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 1_0"), 400, "not a number"),
        ((b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 1, 1"), 400, "not a number"),
        ((b"POST / HTTP/1.1", b"Host: a", b"Content-Length: " + b"9" * 30), 400, "not a number"),
        (
            (b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 1", b"Transfer-Encoding: chunked"),
            400,
            "exclude",
        ),
        ((b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: gzip, chunked"), 501, "chunked"),
        (
            (b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
            501,
            "one",
        ),
        ((b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: chunked"), 400, "HTTP/1.0"),
        ((b"GET / HTTP/1.1", b"Host: a", b"X: " + b"a" * MAX_FIELD_BYTES), 431, "longer"),
        ((b"GET /" + b"a" * MAX_FIELD_BYTES + b" HTTP/1.1", b"Host: a"), 414, "longer"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: tuple[bytes, ...], status: int, said: str) -> None:
    """Each break of RFC 9112 is refused with its own status and a sentence that names it."""
    with pytest.raises(BadRequest, match=re.escape(said)) as caught:
        request(*lines)

    assert caught.value.status == status


def test_an_absolute_target_names_the_host() -> None:
    """RFC 9112 3.2.2: the authority of an absolute-form target replaces the Host header."""
    head = request(b"GET http://evil.example/api?x HTTP/1.1", b"Host: localhost")

    assert (head.host, head.target) == ("evil.example", "/api?x")


@pytest.mark.parametrize(
    ("version", "connection", "keeps_alive"),
    [(b"1.1", b"", True), (b"1.1", b"Close", False), (b"1.0", b"", False), (b"1.0", b"Keep-Alive", True)],
)
def test_keep_alive_follows_version_and_connection(
    version: bytes, connection: bytes, keeps_alive: bool
) -> None:
    """HTTP/1.1 stays open unless told to close, HTTP/1.0 closes unless told to stay."""
    head = request(b"GET / HTTP/" + version, b"Host: a", b"Connection: " + connection)

    assert head.keep_alive is keeps_alive


@pytest.mark.parametrize(
    ("lines", "is_upgrade"),
    [
        ((b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"), True),
        ((b"Connection: Upgrade", b"Upgrade: SPDY/3.1"), True),
        ((b"Upgrade: websocket",), False),
        ((b"Connection: upgraded", b"Upgrade: websocket"), False),
        ((b"Connection: Upgrade",), False),
        ((b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), False),
        ((b"Connection: Upgrade", b"Upgrade: websocket, H2C"), False),
        ((b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"), False),
        ((b"Connection: Upgrade", b"Upgrade: h2c,"), False),
        ((b"Connection: Upgrade", b"Upgrade: HTTP/2.0"), False),
        ((b"Connection: Upgrade", b"Upgrade: TLS/1.2, HTTP/1.1"), False),
        ((b"Connection: Upgrade", b"Upgrade: ,"), False),
    ],
)
def test_an_upgrade_is_named_in_connection(lines: tuple[bytes, ...], is_upgrade: bool) -> None:
    """Upgrade counts only beside `Connection: upgrade`, and where it does not lead to HTTP again."""
    assert request(b"GET / HTTP/1.1", b"Host: a", *lines).is_upgrade is is_upgrade


def test_find_head_refuses_early() -> None:
    """Bare LF lines and endless heads are refused before they are complete."""
    assert find_head(b"GET / HTTP/1.1\r\nHost: a\r\n") == -1
    assert find_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest") == 23
    with pytest.raises(MalformedHeadError, match="CR LF"):
        find_head(b"GET / HTTP/1.1\nHost: a\n\n")
    with pytest.raises(MalformedHeadError, match="longer"):
        find_head(b"a" * (MAX_HEAD_BYTES + 1))


def response(*lines: bytes) -> ResponseHead:
    return ResponseHead(b"\r\n".join(lines))


@pytest.mark.parametrize(
    "lines",
    [
        (b"HTTP/2 200 OK",),
        (b"garbage",),
        (b"HTTP/1.1 20 OK",),
        (b"HTTP/1.1 200 OK", b"Content-Length: 1", b"Content-Length: 2"),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"),
        (b"HTTP/1.1 200 OK", b"Content-Length: x"),
    ],
)
def test_an_answer_that_is_not_http_is_the_upstreams_fault(lines: tuple[bytes, ...]) -> None:
    """A broken answer is an UpstreamProtocolError (502), never a BadRequest."""
    with pytest.raises(UpstreamProtocolError):
        response(*lines)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_an_error(data: bytes) -> None:
    """Parsing answers or refuses; it raises nothing else."""
    with contextlib.suppress(BadRequest):
        RequestHead(data)

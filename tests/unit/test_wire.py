"""HTTP/1.1 heads and body framing: what is read, what is refused, and that no two readings exist."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import BadRequest, UpstreamProtocolError
from kproxy.wire import (
    MAX_FIELD_BYTES,
    MAX_HEAD_BYTES,
    ChunkedBody,
    CloseBody,
    LengthBody,
    MalformedHeadError,
    RequestHead,
    ResponseHead,
    chunk,
    find_head,
    last_chunk,
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
        ((b"GET / HTTP/1.1", b"Host: a", b"no colon"), 400, "not a header name"),
        ((b"GET / HTTP/1.1", b"Host: a", b"nocolon"), 400, "no colon"),
        ((b"GET / HTTP/1.1", b"Host: a", b": empty"), 400, "not a header name"),
        ((b"GET  / HTTP/1.1", b"Host: a"), 400, "request line"),
        ((b"GET /", b"Host: a"), 400, "request line"),
        ((b"G@T / HTTP/1.1", b"Host: a"), 400, "method"),
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
    ],
)
def test_an_upgrade_is_named_in_connection(lines: tuple[bytes, ...], is_upgrade: bool) -> None:
    """Upgrade counts only beside `Connection: upgrade`; h2c is a wish that may be ignored."""
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
    ("method", "lines", "kind"),
    [
        ("GET", (b"HTTP/1.1 200 OK", b"Content-Length: 3"), LengthBody),
        ("GET", (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), ChunkedBody),
        ("GET", (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Content-Length: 3"), ChunkedBody),
        ("GET", (b"HTTP/1.1 200",), CloseBody),
        ("HEAD", (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), LengthBody),
        ("GET", (b"HTTP/1.1 204 No Content",), LengthBody),
        ("GET", (b"HTTP/1.1 304 Not Modified", b"Content-Length: 9"), LengthBody),
    ],
)
def test_the_end_of_a_response_body(method: str, lines: tuple[bytes, ...], kind: type[object]) -> None:
    """RFC 9112 6.3 decides how a body ends, by method, status and fields."""
    body = response(*lines).body_of(method)

    assert type(body) is kind
    assert body.is_finished is (method == "HEAD" or b"200" not in lines[0])


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


CHUNKED = b"3\r\nabc\r\n0A ;ext=1\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=12))
def test_chunked_framing_does_not_depend_on_how_it_arrives(cuts: list[int]) -> None:
    """Any split of the bytes gives the same payload, the same end, and leaves what is behind it alone."""
    body, payload, used = ChunkedBody(), list[bytes](), 0
    stream = CHUNKED + b"NEXT"
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in zip(edges, edges[1:], strict=False):
        piece = stream[start:end]
        if body.is_finished:
            break
        used += body.feed(piece, payload)

    assert body.is_finished
    assert used == len(CHUNKED)
    assert b"".join(payload) == b"abc0123456789"
    assert [field[2] for field in body.trailers] == [b"X-Sum: 1"]


@pytest.mark.parametrize(
    "stream",
    [
        b"-1\r\n",
        b"0x3\r\nabc\r\n",
        b"1_0\r\n",
        b"+3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"\r\n",
        b"3\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabcX\n",
        b"3\r\nabc\nX",
        b"3;\x00\r\nabc\r\n",
        b"3;" + b"e" * 9000,
        b"f" * 17 + b"\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: 1\x00\r\n\r\n",
    ],
)
def test_broken_chunks_are_refused(stream: bytes) -> None:
    """Sizes, line ends, extensions and trailers that another parser might read otherwise are errors."""
    body = ChunkedBody()

    with pytest.raises(MalformedHeadError):
        body.feed(stream)


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=8))
def test_chunks_of_ours_read_back(pieces: list[bytes]) -> None:
    """What `chunk` and `last_chunk` write, ChunkedBody reads."""
    body, payload = ChunkedBody(), list[bytes]()
    stream = b"".join(map(chunk, pieces)) + last_chunk()

    assert body.feed(stream, payload) == len(stream)
    assert body.is_finished
    assert b"".join(payload) == b"".join(pieces)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_an_error(data: bytes) -> None:
    """Parsing answers or refuses; it raises nothing else."""
    try:
        RequestHead(data)
    except BadRequest as error:
        assert 400 <= error.status < 600

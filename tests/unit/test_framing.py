"""Where bodies end, and that no split of the bytes changes it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.http.framing import (
    MAX_CHUNKS_AT_ONCE,
    ChunkedBody,
    CloseBody,
    LengthBody,
    body_of,
    chunk,
    last_chunk,
    without,
)
from kproxy.http.heads import MalformedHeadError, ResponseHead


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
    body = body_of(ResponseHead(b"\r\n".join(lines)), method)

    assert type(body) is kind
    assert body.is_finished is (method == "HEAD" or b"200" not in lines[0])


CHUNKED = b"3\r\nabc\r\n0A ;ext=1\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=12))
def test_chunked_framing_does_not_depend_on_how_it_arrives(cuts: list[int]) -> None:
    """Any split of the bytes gives the same payload, the same end, and leaves what is behind it alone."""
    body, payload, used = ChunkedBody(), list[bytes](), 0
    stream = CHUNKED + b"NEXT"
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in pairwise(edges):
        piece = stream[start:end]
        if body.is_finished:
            break
        used += body.feed(piece, payload)

    assert body.is_finished
    assert used == len(CHUNKED)
    assert b"".join(payload) == b"abc0123456789"
    assert [field[2] for field in body.trailers] == [b"X-Sum: 1"]


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=12))
def test_what_is_passed_on_has_no_extensions(places: list[int]) -> None:
    """Wherever the bytes are cut: all else stays as it came."""
    body, passed = ChunkedBody(), b""
    for start, end in pairwise([0, *sorted(places), len(CHUNKED)]):
        used = body.feed(CHUNKED[start:end])
        passed += without(CHUNKED[start : start + used], body.cuts)

    assert passed == CHUNKED.replace(b" ;ext=1", b"")


def test_many_chunks_are_read_in_turns() -> None:
    """A call of `feed` takes a bounded number of them, and goes on where it left off."""
    stream, payload, calls = chunk(b"x") * 10_000 + last_chunk(), list[bytes](), 0
    body = ChunkedBody()
    while stream:
        stream = stream[body.feed(stream, payload) :]
        calls += 1

    assert body.is_finished
    assert b"".join(payload) == b"x" * 10_000
    assert calls == 10_000 // MAX_CHUNKS_AT_ONCE + 1


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

"""Random bytes: properties of the readers, and mutated streams through a whole proxy.

KPROXY_FUZZ_SEED sets the seed of the mutated streams, KPROXY_FUZZ_COUNT how many there are, and
KPROXY_FUZZ_ONLY plays one of them again, by its number.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from contextlib import AsyncExitStack

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.errors import BadRequest, UpstreamProtocolError
from kproxy.http.forwarding import request_block
from kproxy.http.framing import ChunkedBody
from kproxy.http.heads import MalformedHeadError, RequestHead, ResponseHead
from tests.conformance.fuzz import strict
from tests.conformance.fuzz.lane import Lane
from tests.conformance.fuzz.mutate import ANSWERS, plan
from tests.support.effort import effort

LANES = 8
MEMORY_BYTES = 60_000_000
SHOWN = 5


@pytest.mark.numbers
@pytest.mark.parametrize("count", [effort(500), pytest.param(effort(4_000), marks=pytest.mark.slow)])
async def test_mutated_streams(count: int) -> None:
    """It answers or closes, forwards what was sent and nothing else, and stays small and quiet."""
    seed = os.environ.get("KPROXY_FUZZ_SEED") or str(random.SystemRandom().randrange(1 << 32))
    count = int(os.environ.get("KPROXY_FUZZ_COUNT") or count)
    only = os.environ.get("KPROXY_FUZZ_ONLY")
    numbers = iter([int(only)] if only else range(count))
    print(f"KPROXY_FUZZ_SEED={seed}")
    loop = asyncio.get_running_loop()
    problems: list[str] = []

    async def play(lane: Lane) -> None:
        for number in numbers:
            chosen = plan(f"{seed}:{number}")
            found = await lane.play(chosen)
            if found:
                where = f"KPROXY_FUZZ_SEED={seed} KPROXY_FUZZ_ONLY={number}"
                problems.append("\n  ".join((where, *found, f"{chosen}"[:3000])))
            if len(problems) >= SHOWN:
                return

    started_at = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with structlog.testing.capture_logs() as logged:
        async with AsyncExitStack() as owned:
            lanes = [
                await owned.enter_async_context(Lane(loop, frozenset(ANSWERS)).open()) for _ in range(LANES)
            ]
            await asyncio.gather(*(play(lane) for lane in lanes))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    seconds = time.monotonic() - started_at
    print(f"{count} streams in {seconds:.1f} s, {grown / 1e6:.1f} MB more memory at the peak")
    assert not problems, "\n\n".join(problems)
    assert [entry for entry in logged if entry["event"] in ("internal.failed", "library.reported")] == []
    assert grown < MEMORY_BYTES


# -- properties of the readers --

TOKENS = st.text("abcXYZ09-_.!~", min_size=1, max_size=12).map(str.encode)
NAMES = st.one_of(
    TOKENS,
    st.sampled_from(
        [
            b"Host",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Connection",
            b"Upgrade",
            b"TE",
            b"Expect",
            b"X-One",
        ]
    ),
)
VALUES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"localhost", b"5", b"0", b"chunked", b"close", b"X-One, TE", b"Upgrade", b"trailers", b""]
    ),
)
GAPS = st.sampled_from([b": ", b":", b" : ", b":\t", b"", b"\r\n: "])
LINES = st.tuples(NAMES, GAPS, VALUES).map(b"".join)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n "])
REQUEST_LINES = st.one_of(
    st.sampled_from([b"GET /api HTTP/1.1", b"POST /a%2Fb?c HTTP/1.1", b"GET http://localhost/x HTTP/1.0"]),
    st.tuples(TOKENS, st.binary(max_size=20), st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"])).map(
        b" ".join
    ),
)
STATUS_LINES = st.one_of(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 204 "]), st.binary(max_size=30)
)


@st.composite
def heads(draw: st.DrawFn, first: st.SearchStrategy[bytes]) -> bytes:
    """A head without its empty line, well-formed or not."""
    data = draw(first)
    for line in draw(st.lists(LINES, max_size=6)):
        data += draw(ENDS) + line
    return data


@settings(max_examples=effort(250))
@given(heads(REQUEST_LINES))
def test_a_request_head_is_read_as_a_strict_reader_reads_it(head: bytes) -> None:
    """What is taken is HTTP/1.1, with the method, target and framing that another reader finds."""
    try:
        read = RequestHead(head)
    except BadRequest:
        return
    stream = strict.read_requests(head + b"\r\n\r\n")
    assert stream.problem is None
    [message] = stream.messages
    assert message.start[0] == read.method.encode()
    assert message.framing == (
        "chunked" if read.is_chunked else "length" if message.values(b"content-length") else "none"
    )
    assert [(name, value) for name, value, _ in read.fields] == message.fields


@settings(max_examples=effort(250))
@given(heads(STATUS_LINES))
def test_an_answers_head_is_read_as_a_strict_reader_reads_it(head: bytes) -> None:
    """The same towards the API server."""
    try:
        read = ResponseHead(head)
    except UpstreamProtocolError:
        return
    stream = strict.read_responses(head + b"\r\n\r\n", [b"GET"], ended=True)
    assert stream.problem is None
    [message] = stream.messages
    assert message.start[0] == str(read.status).encode()
    assert [(name, value) for name, value, _ in read.fields] == message.fields


@settings(max_examples=effort(125))
@given(heads(REQUEST_LINES))
def test_what_is_forwarded_is_one_request(head: bytes) -> None:
    """Whatever passes the reader leaves as exactly one head, without the fields of our own connection."""
    try:
        read = RequestHead(head)
    except BadRequest:
        return
    block = request_block(
        read,
        target=read.target,
        authority=b"upstream",
        credential_block=b"Authorization: Bearer x\r\n",
        impersonation=None,
        client_address=b"127.0.0.1",
        asks_for_gzip=False,
    )
    stream = strict.read_requests(block)
    assert stream.problem is None
    assert stream.rest == b""
    [message] = stream.messages
    assert message.values(b"host") == [b"upstream"]
    assert message.values(b"keep-alive") == message.values(b"proxy-connection") == []
    assert bool(message.values(b"transfer-encoding")) == read.is_chunked


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """What the chunks hold, and the body on the wire."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    wire = b""
    for part in parts:
        extension = draw(st.sampled_from([b"", b";x=y", b" ;x", b';q="a;b"']))
        digits = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%04x"]))
        wire += digits % len(part) + extension + b"\r\n" + part + b"\r\n"
    trailers = draw(st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: 1\r\nB: 2\r\n"]))
    return b"".join(parts), wire + b"0\r\n" + trailers + b"\r\n"


def feed(body: ChunkedBody, data: bytes, places: list[int]) -> tuple[bytes, int, bool]:
    """What came out of the chunks, how many bytes were taken, and whether it broke off."""
    payload: list[bytes] = []
    taken = 0
    cuts = sorted({min(place, len(data)) for place in places})
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if body.is_finished:
            break
        try:
            taken += body.feed(data[start:end], payload)
        except MalformedHeadError as error:
            return b"".join(payload), taken + error.good_bytes, True
    return b"".join(payload), taken, False


PLACES = st.lists(st.integers(0, 300), max_size=12)


@settings(max_examples=effort(125))
@given(chunked_bodies(), PLACES, st.binary(max_size=10))
def test_chunks_are_read_in_any_pieces(body: tuple[bytes, bytes], places: list[int], behind: bytes) -> None:
    """The same bytes come out wherever they were cut on the way, and what follows is left alone."""
    payload, wire = body
    reader = ChunkedBody()
    assert feed(reader, wire + behind, places) == (payload, len(wire), False)
    assert reader.is_finished


@settings(max_examples=effort(250))
@given(
    st.lists(
        st.sampled_from([b"0", b"1", b"a", b"\r\n", b"\n", b"\r", b";", b"xy", b"X: 1", b" ", b"\0"]),
        max_size=20,
    ),
    PLACES,
)
def test_broken_chunks_break_off_wherever_they_are_cut(parts: list[bytes], places: list[int]) -> None:
    """Whether a body is sound does not depend on the pieces it comes in."""
    data = b"".join(parts)
    whole, cut = ChunkedBody(), ChunkedBody()
    expected, found = feed(whole, data, []), feed(cut, data, places)
    assert (found[0], found[2], cut.is_finished) == (expected[0], expected[2], whole.is_finished)

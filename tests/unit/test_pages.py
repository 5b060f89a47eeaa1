"""Byte ranges, work in threads, and what is relied upon inside of aiohttp."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Sized

import pytest
from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion, RawRequestMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from kproxy.errors import BadRequest, Denied
from kproxy.web.static import StatusResponse, in_thread, parse_ranges
from tests.support.patience import LAST_RESORT_SECONDS


@pytest.mark.parametrize(
    ("header", "ranges"),
    [
        ("", []),
        ("bytes=", []),
        ("items=0-1", []),
        ("bytes=0-0", [range(1)]),
        ("bytes=9-", [range(9, 10)]),
        ("bytes=-1", [range(9, 10)]),
        ("bytes=-11", [range(10)]),
        ("bytes= 2 - 3 ,, 5-", [range(2, 4), range(5, 10)]),
        ("bytes=8-99,10-", [range(8, 10)]),
        (f"bytes={',' * 31}0-0", [range(1)]),
        (f"bytes={',' * 32}0-0", []),
        ("bytes=0-5,5-9", []),
        ("bytes=999999999999999999-,0-0", [range(1)]),
    ],
)
def test_ranges_of_ten_bytes(header: str, ranges: list[range]) -> None:
    """What a Range header asks of a file of ten bytes; [] sends all of it."""
    assert parse_ranges(header, 10) == ranges


@pytest.mark.parametrize(
    "header",
    ["bytes=10-", "bytes=-0", "bytes=-", "bytes=3-2", "bytes=a-b", "bytes=--1", "bytes=1", "bytes=\u0661-",
     "bytes=0-1,x", "bytes=" + "9" * 5000 + "-"],
)  # fmt: skip
def test_ranges_that_cannot_be_served(header: str) -> None:
    """A range outside of ten bytes, or that is none, is 416."""
    with pytest.raises(BadRequest) as caught:
        parse_ranges(header, 10)
    assert caught.value.status == 416


@given(st.from_regex(r"bytes=([0-9]{0,3}-[0-9]{0,3}(, ?)?){0,5}", fullmatch=True), st.integers(0, 1000))
def test_ranges_never_leave_the_file(header: str, size: int) -> None:
    """Whatever is asked for: no empty range, no byte outside, and not more bytes than there are."""
    try:
        ranges = parse_ranges(header, size)
    except BadRequest:
        return
    assert all(0 <= wanted.start < wanted.stop <= size for wanted in ranges)
    assert sum(map(len, ranges)) <= size


def test_a_status_response_names_the_rule() -> None:
    """An error is told to people in its body and to programs in Proxy-Status, beside the fields given."""
    response = StatusResponse(Denied("some-rule", "not so"), {"Retry-After": "1"})
    assert dict(response.headers) == {
        "Retry-After": "1",
        "Content-Type": "application/json",
        "Proxy-Status": 'kproxy; error=http_request_denied; details="some-rule"',
    }
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["message"] == "kproxy: not so"


async def test_a_cancelled_wait_outlasts_the_work() -> None:
    """A file may be closed after a cancelled wait: nothing reads it any more."""
    is_started, may_end = threading.Event(), threading.Event()

    def work() -> None:
        is_started.set()
        may_end.wait(LAST_RESORT_SECONDS)
        raise OSError("of no interest to anybody")

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(is_started.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


# aiohttp has no public way to answer a request that another parser has read. Beside `web.BaseRequest` and
# `StreamResponse` these are the parts of aiohttp 3.12 to 3.14 that pages.py stands on; the tests in
# conformance/test_own_answers.py show that they work together.


def test_aiohttp_internal_a_request_is_made_of_these_parts() -> None:
    """BaseRequest takes a message, a payload, a protocol, a writer, a task and a loop, in this order."""
    parameters = [*inspect.signature(web.BaseRequest.__init__).parameters][1:7]
    assert parameters == ["message", "payload", "protocol", "payload_writer", "task", "loop"]
    message = RawRequestMessage(
        method="GET",
        path="/a%2Fb?c",
        version=HttpVersion(1, 0),
        headers=CIMultiDictProxy(CIMultiDict(range="bytes=0-")),
        raw_headers=((b"range", b"bytes=0-"),),
        should_close=True,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL.build(path="/a%2Fb", query_string="c", encoded=True),
    )
    assert (message.path, str(message.url)) == ("/a%2Fb?c", "/a%2Fb?c")
    assert EMPTY_PAYLOAD.is_eof()


def test_aiohttp_internal_the_head_passes_a_hook_before_it_is_written() -> None:
    """The hook that takes the Server field out is a coroutine method of the request."""
    assert inspect.iscoroutinefunction(web.BaseRequest._prepare_hook)
    source = inspect.getsource(web.StreamResponse._start)
    assert source.index("_prepare_headers") < source.index("_prepare_hook") < source.index("_write_headers")


async def test_aiohttp_internal_a_protocol_holds_the_writer_back() -> None:
    """A StreamWriter needs `transport` of a BaseProtocol, waits while it is paused, and counts."""
    sent: list[int] = []

    async def count(piece: Sized) -> None:
        sent.append(len(piece))

    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    writer = StreamWriter(protocol, loop, on_chunk_sent=count)
    assert writer.output_size == 0
    protocol.transport = _Sink()
    protocol.pause_writing()
    task = asyncio.create_task(writer.write(b"x" * 100_000))
    await asyncio.sleep(0)
    assert not task.done()
    protocol.resume_writing()
    await task
    assert (sent, writer.output_size) == ([100_000], 100_000)


def test_aiohttp_internal_an_answer_says_whether_its_connection_stays() -> None:
    """`keep_alive` and Content-Length are what is read of a finished answer."""
    response = web.Response(body=b"x")
    response.force_close()
    assert response.keep_alive is False
    assert hdrs.CONTENT_LENGTH == "Content-Length"


class _Sink(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        return False

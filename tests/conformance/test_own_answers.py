"""Answers of kproxy itself: an aiohttp handler on a connection that aiohttp does not own."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from kproxy.errors import Denied
from kproxy.web.static import Answered, Handler
from tests.support.client import RawClient, Response
from tests.support.page_server import PageServer
from tests.support.patience import LAST_RESORT_SECONDS

KEEP_ALIVE = b"Connection: keep-alive\r\n"


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=f"{request.method} {request.raw_path}")


async def stream(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"one ")
    await response.write(b"two")
    return response


async def ask(handler: Handler, request: bytes) -> tuple[Response, str | None, list[Answered]]:
    """The answer to a GET, how the connection ended (None: it is open), and what `respond` said of it."""
    async with PageServer(handler) as server, await RawClient.connect(server.address) as client:
        await client.send(request)
        response = await client.read_response()
        if not server.answered or not server.answered[-1].keep_alive:
            await client.read_to_end()
        return response, client.end, server.answered


@pytest.mark.parametrize(
    ("version", "connection", "end", "announced"),
    [
        (b"1.1", b"", None, None),
        (b"1.1", b"Connection: close\r\n", "eof", "close"),
        (b"1.0", b"", "eof", None),
        (b"1.0", KEEP_ALIVE, None, "keep-alive"),
    ],
)
async def test_keep_alive_is_as_the_request_says(
    version: bytes, connection: bytes, end: str | None, announced: str | None
) -> None:
    """The answer speaks the request's version and keeps or ends the connection as that asks."""
    request = b"GET / HTTP/" + version + b"\r\nHost: x\r\n" + connection + b"\r\n"
    response, ended, answered = await ask(hello, request)
    assert (response.version, ended) == (f"HTTP/{version.decode()}", end)
    assert response.value("Connection") == announced
    assert [answer.keep_alive for answer in answered] == [end is None]


async def test_requests_on_one_connection_are_answered_in_order() -> None:
    """Two requests sent at once get two answers, the first one first."""
    async with PageServer(hello) as server, await RawClient.connect(server.address) as client:
        await client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2?a=%2F HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.read_response()).text == "GET /1"
        assert (await client.read_response()).text == "GET /2?a=%2F"


async def test_an_answer_does_not_name_the_server() -> None:
    """Neither aiohttp nor Python is told to the client; Date is there once."""
    response, _, _ = await ask(hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert response.value("Server") is None
    assert response.value("Date") is not None


async def test_an_answer_of_unknown_length_is_chunked_for_http_1_1() -> None:
    """A streamed answer is chunked, complete, and counted without its head."""
    response, end, answered = await ask(stream, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (response.framing, response.text, response.body.is_complete) == ("chunked", "one two", True)
    assert end is None
    assert answered == [Answered(status=200, body_bytes=7, keep_alive=True, proxy_error=None)]


async def test_an_answer_of_unknown_length_ends_an_http_1_0_connection() -> None:
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the answer, keep-alive or not."""
    request = b"GET / HTTP/1.0\r\nHost: x\r\n" + KEEP_ALIVE + b"\r\n"
    response, end, answered = await ask(stream, request)
    assert (response.framing, response.text, end) == ("close", "one two", "eof")
    assert [answer.keep_alive for answer in answered] == [False]


async def test_an_error_of_ours_is_a_status() -> None:
    """A KproxyError of a handler becomes a `Status` with `Proxy-Status`, and the connection stays."""

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        raise Denied("some-rule", "not here")

    response, end, answered = await ask(refuse, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (response.status, response.json()["kind"], end) == (403, "Status", None)
    assert response.value("Proxy-Status") == 'kproxy; error=http_request_denied; details="some-rule"'
    assert answered[0].proxy_error == "http_request_denied"


@pytest.mark.parametrize(
    ("raised", "reason", "proxy_error"),
    [
        (web.HTTPNotFound(text="no such page"), "NotFound", "http_request_error"),
        (web.HTTPMethodNotAllowed("PUT", ["GET"]), "MethodNotAllowed", "http_request_error"),
        (web.HTTPServiceUnavailable(), "ServiceUnavailable", "proxy_internal_error"),
    ],
)
async def test_an_error_of_aiohttp_is_a_status(
    raised: web.HTTPException, reason: str, proxy_error: str
) -> None:
    """An HTTPException of a handler is told as a `Status`, never as aiohttp's plain text."""

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        raise raised

    response, _, answered = await ask(fail, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    status = json.loads(response.body.data)
    assert response.values("Content-Type") == ["application/json"]
    assert (status["code"], status["reason"]) == (raised.status, reason)
    assert answered[0].proxy_error == proxy_error
    assert response.value("Allow") == ("GET" if raised.status == 405 else None)


async def test_a_redirect_raised_by_a_handler_is_no_error() -> None:
    """An HTTPException below 400 is the answer itself."""

    async def move(request: web.BaseRequest) -> web.StreamResponse:
        raise web.HTTPFound("/there")

    response, _, answered = await ask(move, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (response.status, response.value("Location")) == (302, "/there")
    assert answered[0].proxy_error is None


async def test_a_failure_before_the_head_is_the_callers() -> None:
    """What nobody foresaw is raised with the connection untouched, for the caller to answer and log."""

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        raise ZeroDivisionError

    async with PageServer(fail) as server, await RawClient.connect(server.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await client.read_to_end() == b""
        assert client.end == "eof"
        assert [type(error) for error in server.failed] == [ZeroDivisionError]


@pytest.mark.parametrize("error", [ZeroDivisionError(), Denied("some-rule", "too late")])
async def test_a_failure_after_the_head_cuts_the_connection(error: Exception) -> None:
    """A started answer that cannot be completed ends without its final chunk."""

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise error

    async with PageServer(fail) as server, await RawClient.connect(server.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        response = await client.read_response()
        assert not response.body.is_complete
        assert server.failed == [error]


async def test_a_client_that_goes_wakes_a_writer_that_waits_for_it() -> None:
    """A handler blocked by back-pressure ends with ConnectionError when downstream is gone."""

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 100_000)

    async with PageServer(pour) as server:
        async with await RawClient.connect(server.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_head()
            async with asyncio.timeout(LAST_RESORT_SECONDS):
                await server.connections[0].paused.wait()
            client.reset()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await server.connections[0].ended.wait()
        assert isinstance(server.failed[0], ConnectionError)


async def test_a_client_that_asks_on_without_reading_is_not_answered_on() -> None:
    """Pipelined requests wait for the answers before them to be taken: memory does not fill with them."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "40000"})
        await response.prepare(request)
        await response.write(b"x" * 40_000)  # less than aiohttp writes without looking back
        return response

    async with (
        PageServer(answer) as server,
        await RawClient.connect(server.address, receive_buffer_bytes=4096) as client,
        await RawClient.connect(server.address) as other,
    ):
        assert (await client.request("GET", "/")).status == 200
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await server.connections[0].paused.wait()
        for _ in range(20):
            assert (await other.request("GET", "/")).status == 200
        assert server.connections[0].transport.get_write_buffer_size() < 200_000
        for _ in range(2000):
            assert (await client.read_response()).body.size == 40_000

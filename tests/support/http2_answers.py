"""What an `Http2Server` answers: responders that take a Stream, for the usual cases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.answers import BLOCK, Step
from tests.support.http2_server import Fields, Http2Responder, Stream

JSON = ("content-type", "application/json")

Piece = bytes | asyncio.Event | Fields | Callable[[Stream], Any]


def answer(
    body: bytes = b"", status: int = 200, headers: Sequence[tuple[str, str]] = (), *, length: bool = True
) -> Http2Responder:
    """A whole answer, with content-length unless `length` is false; none of the body after HEAD."""

    async def respond(stream: Stream) -> None:
        await stream.read_body()
        fields = [JSON, *headers]
        if length:
            fields.append(("content-length", str(len(body))))
        ends = not body or stream.method == "HEAD"
        await stream.send_headers([(":status", str(status)), *fields], end=ends, more=not ends)
        if not ends:
            await stream.send_data(body, end=True)

    return respond


def json_answer(value: Any, status: int = 200) -> Http2Responder:
    return answer(json.dumps(value).encode(), status)


def echo() -> Http2Responder:
    """The request as JSON: its fields (pairs), body (latin-1), size and trailers, stream and connection."""

    async def respond(stream: Stream) -> None:
        await stream.read_body()
        seen = {
            "fields": stream.fields,
            "body": stream.body.data.decode("latin-1"),
            "size": stream.body.size,
            "trailers": stream.body.trailers,
            "stream": stream.id,
            "connection": stream.connection.number,
            "cn": stream.connection.client_certificate_cn,
        }
        await answer(json.dumps(seen).encode())(stream)

    return respond


def script(*steps: Piece, early: bool = False) -> Http2Responder:
    """Do `steps` in order, after the request's body unless `early`.

    A list is a HEADERS frame with these fields, bytes are DATA, an Event is waited for, a callable is called
    with the stream and awaited.
    """

    async def respond(stream: Stream) -> None:
        if not early:
            await stream.read_body()
        for step in steps:
            match step:
                case bytes():
                    await stream.send_data(step)
                case list():
                    await stream.send_headers(step)
                case asyncio.Event():
                    await step.wait()
                case _:
                    await step(stream)

    return respond


def head(status: int = 200, *headers: tuple[str, str]) -> Fields:
    """For `script`."""
    return [(":status", str(status)), *headers]


async def end(stream: Stream) -> None:
    """For `script`: END_STREAM."""
    await stream.send_data(b"", end=True)


async def wait_until_over(stream: Stream) -> None:
    """For `script`: until the client has reset the stream or the connection has ended."""
    await stream.over.wait()


def reset(code: int) -> Callable[[Stream], Any]:
    """For `script`: RST_STREAM."""

    async def send(stream: Stream) -> None:
        await stream.reset(code)

    return send


def cut(how: Step) -> Callable[[Stream], Any]:
    """For `script`: end the whole connection by Step.CLOSE, CUT or RESET."""

    async def end_connection(stream: Stream) -> None:
        stream.connection.close(how)

    return end_connection


def raw(data: bytes | Callable[[Stream], bytes]) -> Callable[[Stream], Any]:
    """For `script`: any bytes on the connection."""

    async def send(stream: Stream) -> None:
        await stream.connection.send_raw(data if isinstance(data, bytes) else data(stream))

    return send


def watch(events: asyncio.Queue[bytes | None], headers: Sequence[tuple[str, str]] = ()) -> Http2Responder:
    """The head at once, then each of `events` as a DATA frame; None ends the stream."""

    async def respond(stream: Stream) -> None:
        await stream.read_body()
        await stream.send_head(200, [JSON, *headers])
        over = asyncio.ensure_future(stream.over.wait())
        waiting: set[asyncio.Future[Any]] = {over}
        try:
            while True:
                getting = asyncio.ensure_future(events.get())
                waiting = {over, getting}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    return
                event = getting.result()
                await stream.send_data(event or b"", end=event is None)
                if event is None:
                    return
        finally:
            for each in waiting:
                each.cancel()

    return respond


def big(size: int, *, length: bool = True) -> Http2Responder:
    """`size` bytes of the pattern of `answers.big`, as fast as the windows allow: see `stream.sent_bytes`."""

    async def respond(stream: Stream) -> None:
        await stream.read_body()
        await stream.send_head(200, [JSON, *([("content-length", str(size))] if length else [])])
        for start in range(0, size, len(BLOCK)):
            await stream.send_data(BLOCK[: size - start])
        await stream.send_data(b"", end=True)

    return respond


def never_answer() -> Http2Responder:
    """Read the request, then nothing, until the client goes away."""
    return script(wait_until_over)


def sequence(*responders: Http2Responder) -> Http2Responder:
    """The first for the first request, and so on; the last for all that follow."""
    left = list(responders)

    async def respond(stream: Stream) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(stream)

    return respond

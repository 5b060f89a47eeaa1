"""What a `ByteUpstream` answers: responders from raw bytes, or ready ones for the usual cases."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

from tests.support.upstream import Connection, Request, Responder

Headers = Sequence[tuple[str, str]]
BLOCK = bytes(range(256)) * 256


class Step(enum.Enum):
    """What a script does besides sending bytes."""

    CLOSE = "close the connection tidily"
    CUT = "close TCP without TLS close_notify"
    RESET = "close with RST"
    SHUT_WRITE = "end our direction, keep reading"
    WAIT_FOR_END = "wait until the peer closed or reset"
    READ_BODY = "read the request's body"
    LAST_CHUNK = "send the last chunk"


Piece = bytes | Step | asyncio.Event | float | Callable[[Connection, Request], Awaitable[None]]


def head(
    status: int = 200, headers: Headers = (), *, reason: str | None = None, version: str = "HTTP/1.1"
) -> bytes:
    """A response head as bytes; nothing is added to `headers`."""
    phrase = HTTPStatus(status).phrase if reason is None else reason
    lines = [f"{version} {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def script(*steps: Piece, early: bool = False) -> Responder:
    """Do `steps` in order: bytes are sent as they are, an Event is waited for, a float is a pause in
    seconds (for drips only), a callable is awaited. The request's body is read first unless `early`.
    """

    async def respond(connection: Connection, request: Request) -> None:
        if not early:
            await connection.read_body(request)
        for step in steps:
            await _do(step, connection, request)

    return respond


async def _do(step: Piece, connection: Connection, request: Request) -> None:
    match step:
        case bytes():
            await connection.send(step)
        case asyncio.Event():
            await step.wait()
        case float() | int():
            await asyncio.sleep(step)
        case Step.CLOSE:
            connection.channel.close()
        case Step.CUT:
            connection.channel.abandon()
        case Step.RESET:
            connection.channel.reset()
        case Step.SHUT_WRITE:
            await connection.channel.shut_write()
        case Step.WAIT_FOR_END:
            await connection.ended.wait()
        case Step.READ_BODY:
            await connection.read_body(request)
        case Step.LAST_CHUNK:
            await connection.send(b"0\r\n\r\n")
        case _:
            await step(connection, request)


def answer(
    body: bytes = b"", status: int = 200, headers: Headers = (), *, content_type: str = "application/json"
) -> Responder:
    """A whole response with Content-Length (and no body after HEAD)."""

    async def respond(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        fields = [("Content-Type", content_type), *headers, ("Content-Length", str(len(body)))]
        await connection.send(head(status, fields) + (b"" if request.method == "HEAD" else body))

    return respond


def json_answer(value: Any, status: int = 200, headers: Headers = ()) -> Responder:
    return answer(json.dumps(value).encode(), status, headers)


def status_answer(code: int, reason: str, message: str = "", headers: Headers = ()) -> Responder:
    """A Kubernetes `Status` failure."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return json_answer(status, code, headers)


def sequence(*responders: Responder) -> Responder:
    """The first for the first request, and so on; the last for all that follow."""
    left = list(responders)

    async def respond(connection: Connection, request: Request) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(connection, request)

    return respond


def watch(events: asyncio.Queue[bytes | Step], headers: Headers = ()) -> Responder:
    """A chunked stream: each bytes put into `events` is one chunk, a Step is done (LAST_CHUNK ends it).

    Several watches that share one queue share its events out among them; give each its own.
    """

    async def respond(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        fields = [("Content-Type", "application/json"), *headers, ("Transfer-Encoding", "chunked")]
        await connection.send(head(200, fields))
        ending = asyncio.ensure_future(connection.ended.wait())
        waiting: set[asyncio.Future[Any]] = {ending}
        try:
            while True:
                getting = asyncio.ensure_future(events.get())
                waiting = {ending, getting}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    return
                event = getting.result()
                await _do(chunk(event) if isinstance(event, bytes) else event, connection, request)
                if event in (Step.LAST_CHUNK, Step.CLOSE, Step.CUT, Step.RESET):
                    return
        finally:
            for each in waiting:
                each.cancel()

    return respond


def chunked(pieces: Iterable[bytes], headers: Headers = (), *, trailers: Headers = ()) -> Responder:
    """A chunked response that is there at once, one write per chunk."""

    async def respond(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        fields = [("Content-Type", "application/json"), *headers, ("Transfer-Encoding", "chunked")]
        await connection.send(head(200, fields))
        for piece in pieces:
            await connection.send(chunk(piece))
        last = "".join(f"{name}: {value}\r\n" for name, value in trailers).encode("latin-1")
        await connection.send(b"0\r\n" + last + b"\r\n")

    return respond


def big(size: int, *, framing: str = "length") -> Responder:
    """`size` bytes of a known pattern (see `big_sha256`), as fast as the peer reads.

    `framing` is "length", "chunked" or "close". How far it came: `connection.sent_bytes`.
    """
    fields = {
        "length": [("Content-Length", str(size))],
        "chunked": [("Transfer-Encoding", "chunked")],
        "close": [("Connection", "close")],
    }[framing]

    async def respond(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        await connection.send(head(200, [("Content-Type", "application/json"), *fields]))
        for start in range(0, size, len(BLOCK)):
            block = BLOCK[: size - start]
            await connection.send(chunk(block) if framing == "chunked" else block)
        if framing == "chunked":
            await connection.send(b"0\r\n\r\n")
        elif framing == "close":
            connection.channel.close()

    return respond


def big_sha256(size: int) -> str:
    """Hex digest of what `big(size)` sends."""
    digest = hashlib.sha256()
    for start in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: size - start])
    return digest.hexdigest()


def never_answer() -> Responder:
    """Read the request, then nothing, until the peer goes away."""
    return script(Step.WAIT_FOR_END)


def echo() -> Responder:
    """The request as JSON: method, target, headers (pairs), body (latin-1), framing, trailers."""

    async def respond(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        seen = {
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "body": request.body.data.decode("latin-1"),
            "size": request.body.size,
            "framing": request.framing,
            "trailers": request.body.trailers,
        }
        body = json.dumps(seen).encode()
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        await connection.send(head(200, fields) + (b"" if request.method == "HEAD" else body))

    return respond


def tunnel(headers: Headers | None = None, *, first: bytes = b"") -> Responder:
    """101 with `headers`, `first` glued to it, then every byte back; a half-close is answered by ours."""

    async def respond(connection: Connection, request: Request) -> None:
        protocol = request.value("upgrade") or ""
        fields = [("Connection", "Upgrade"), ("Upgrade", protocol)] if headers is None else headers
        await connection.send(head(101, fields) + first)
        while data := await connection.read_some():
            await connection.send(data)
        await connection.channel.shut_write()
        connection.channel.close()

    return respond


def truncated(body: bytes, promised: int) -> Responder:
    """Promise `promised` bytes, send `body`, and close: an answer cut in the middle."""
    return script(head(200, [("Content-Length", str(promised))]) + body, Step.CLOSE)

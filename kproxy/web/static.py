"""What kproxy answers itself through aiohttp: `respond` for any aiohttp handler, `StaticFiles` for --www.

The downstream connection is parsed and owned by `downstream`; aiohttp has the use of it for one answer.
Importing aiohttp takes longer than kproxy may take to start, so this module is imported when a page is
first needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sized
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from os import pread
from pathlib import Path
from typing import TypeVar, cast

from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion, RawRequestMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from kproxy.errors import BadRequest, KproxyError, proxy_status, status_body
from kproxy.http.heads import RequestHead
from kproxy.web.folder import File, Folder, Moved, decode_path

PIECE_BYTES = 256 * 1024
# Of one request; beyond, all of the file is sent (RFC 9110, 14.2).
MAX_RANGES = 32

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class LocalConnection(BaseProtocol):
    """A downstream connection as aiohttp's request and writer see it.

    Whoever owns the transport passes on `pause_writing`, `resume_writing` and `connection_lost`, and begins
    with `pause_writing` when the transport is paused already.
    """

    __slots__ = ("peername", "sockname", "ssl_context")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        super().__init__(loop)
        self.transport = transport
        self.ssl_context = transport.get_extra_info("sslcontext")
        self.peername = transport.get_extra_info("peername")
        self.sockname = transport.get_extra_info("sockname")


class _LocalRequest(web.BaseRequest):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # aiohttp would name itself and its Python; an answer of ours is told by Proxy-Status alone.
        response.headers.pop(hdrs.SERVER, None)


class StatusResponse(web.Response):
    """An error of ours as a Kubernetes `Status`, with `headers` beside its own."""

    def __init__(self, error: KproxyError, headers: Mapping[str, str] | None = None) -> None:
        own = {hdrs.CONTENT_TYPE: "application/json", "Proxy-Status": proxy_status(error)}
        super().__init__(status=error.status, headers={**(headers or {}), **own}, body=status_body(error))
        self.proxy_error = error.proxy_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What became of a request that was answered here; `proxy_error` as in `KproxyError`."""

    status: int
    body_bytes: int
    keep_alive: bool
    proxy_error: str | None


async def respond(
    handler: Handler, head: RequestHead, connection: LocalConnection, *, keep_alive: bool
) -> Answered:
    """Answer a request that another parser has read, whose body is not for the handler.

    `keep_alive` is the caller's verdict on the request (Connection, HTTP version, draining); the answer may
    still end the connection. A `KproxyError` or an aiohttp `HTTPException` of the handler is answered as a
    `Status`. Raises ConnectionError when downstream is gone, and what else the handler raised; when part
    of the answer was on its way by then, the connection has been aborted.
    """
    body_bytes = 0

    async def count(piece: Sized) -> None:
        nonlocal body_bytes
        body_bytes += len(piece)

    loop = asyncio.get_running_loop()
    writer = StreamWriter(connection, loop, on_chunk_sent=count)
    request = _LocalRequest(
        _message(head, keep_alive),
        EMPTY_PAYLOAD,
        cast("web.RequestHandler", connection),  # a request asks it for facts of the transport only
        writer,
        cast("asyncio.Task[None]", asyncio.current_task()),
        loop,
    )
    try:
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            response = answer if answer.status < 400 else _status_of(answer)
        except KproxyError as error:
            if writer.output_size:
                raise
            response = StatusResponse(error)
        await response.prepare(request)
        await response.write_eof()
        await writer.drain()  # or pipelined requests would fill the memory with short answers
    except BaseException:
        # A tidy end would pass a cut answer off as a whole one.
        if writer.output_size and connection.transport is not None:
            connection.transport.abort()
        raise
    # An answer of unknown length to HTTP/1.0 ends with the connection, though aiohttp says keep-alive of it.
    is_framed = head.minor > 0 or hdrs.CONTENT_LENGTH in response.headers
    return Answered(
        status=response.status,
        body_bytes=body_bytes,
        keep_alive=bool(response.keep_alive) and is_framed,
        proxy_error=response.proxy_error if isinstance(response, StatusResponse) else None,
    )


def _message(head: RequestHead, keep_alive: bool) -> RawRequestMessage:
    path, _, query = head.target.partition("?")
    headers = CIMultiDict((name.decode("ascii"), value.decode("latin-1")) for name, value, _ in head.fields)
    return RawRequestMessage(
        method=head.method,
        path=head.target,
        version=HttpVersion(1, head.minor),
        headers=CIMultiDictProxy(headers),
        raw_headers=tuple((name, value) for name, value, _ in head.fields),
        should_close=not keep_alive,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL.build(path=path, query_string=query, encoded=True),
    )


def _status_of(answer: web.HTTPException) -> StatusResponse:
    error: KproxyError
    if answer.status < 500:
        error = BadRequest(answer.text or answer.reason, answer.status)
    else:
        error = KproxyError(answer.text or answer.reason)
        error.status = answer.status
    kept = {name: value for name, value in answer.headers.items() if not name.startswith("Content-")}
    return StatusResponse(error, kept)


class StaticFiles:
    """An aiohttp handler that serves a folder as Go's http.FileServer does (net/http/fs.go).

    Other than there: methods but GET and HEAD are refused, so is a symlink out of the folder unless
    `follow_symlinks`, and what is neither file nor directory is never opened.
    """

    def __init__(self, root: Path, prefix: str, *, follow_symlinks: bool) -> None:
        """`prefix` begins and ends with a slash."""
        self._prefix = prefix
        self._folder = Folder(root, follow_symlinks=follow_symlinks)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            error = BadRequest(f"static files are for GET and HEAD, not {request.method}", 405)
            return StatusResponse(error, {hdrs.ALLOW: "GET, HEAD"})
        target, _, query = request.raw_path.partition("?")
        path = "/" + decode_path(target.removeprefix(self._prefix))
        if path.endswith("/index.html"):
            return _redirect("./", query)
        with contextlib.ExitStack() as opened:
            found = await in_thread(partial(self._folder.find, path, opened))
            if isinstance(found, Moved):
                return _redirect(found.location, query)
            headers: dict[str, str] = {}
            if found.modified_at:
                headers[hdrs.LAST_MODIFIED] = formatdate(found.modified_at, usegmt=True)
            verdict = judge_preconditions(request, found.modified_at)
            if verdict == 304:
                return web.Response(status=304, headers=headers)
            if verdict == 412:
                return StatusResponse(BadRequest(f"{target} is not what a precondition asks", 412), headers)
            if isinstance(found, File):
                return await _send(request, found, headers)
            headers[hdrs.CONTENT_TYPE] = "text/html; charset=utf-8"
            return web.Response(body=found.page, headers=headers)


def _redirect(location: str, query: str) -> web.Response:
    return web.Response(status=301, headers={hdrs.LOCATION: f"{location}?{query}" if query else location})


def judge_preconditions(request: web.BaseRequest, modified_at: int) -> int | None:
    """304, 412 or None to go on, for a page with a date (0: unknown) and no ETag (RFC 9110, 13.2.2)."""
    if request.if_match is not None:
        if all(tag.value != "*" for tag in request.if_match):
            return 412
    elif (date := request.if_unmodified_since) and modified_at > date.timestamp():
        return 412
    if request.if_none_match is not None:
        return 304 if any(tag.value == "*" for tag in request.if_none_match) else None
    date = request.if_modified_since
    return 304 if date and 0 < modified_at <= date.timestamp() else None


def _wanted(request: web.BaseRequest, modified_at: int) -> str:
    """The Range header, empty where If-Range asks for all: it must name this very date (RFC 9110, 13.1.5)."""
    if hdrs.IF_RANGE in request.headers:
        date = request.if_range
        if not (date and modified_at and date.timestamp() == modified_at):
            return ""
    return request.headers.get(hdrs.RANGE, "")


def parse_ranges(header: str, size_bytes: int) -> list[range]:
    """The ranges of bytes to send, none when all is to be sent. Raises BadRequest (416)."""
    unit, _, specs = header.partition("=")
    if unit != "bytes":
        return []  # RFC 9110, 14.2: a unit that is not known is ignored
    if specs.count(",") >= MAX_RANGES:
        return []  # an attack or a mistake, as below
    ranges: list[range] = []
    is_outside = False
    for spec in (part.strip(" \t") for part in specs.split(",")):
        if not spec:
            continue
        match = re.fullmatch(r"(\d{0,18})[ \t]*-[ \t]*(\d{0,18})", spec, re.ASCII)
        first, last = match.groups() if match else ("", "")
        if first:
            if last and int(last) < int(first):
                raise BadRequest(f"Range: {spec!r} ends before it begins", 416)
            wanted = range(int(first), min(int(last) + 1, size_bytes) if last else size_bytes)
        elif last:
            wanted = range(max(size_bytes - int(last), 0), size_bytes)
        else:
            raise BadRequest(f"Range: {spec!r} is no range of bytes", 416)
        if wanted:
            ranges.append(wanted)
        else:
            is_outside = True
    # An empty file is sent whole, as in Go: some clients add a Range to every request.
    if is_outside and not ranges and size_bytes:
        raise BadRequest(f"Range: there are {size_bytes} bytes", 416)
    # More than all of it is an attack or a mistake (RFC 9110, 14.2): it is sent once.
    return ranges if sum(map(len, ranges)) <= size_bytes else []


async def _send(request: web.BaseRequest, file: File, headers: dict[str, str]) -> web.StreamResponse:
    size = file.size_bytes
    try:
        ranges = parse_ranges(_wanted(request, file.modified_at), size)
    except BadRequest as error:
        return StatusResponse(error, {hdrs.CONTENT_RANGE: f"bytes */{size}"})
    headers |= {hdrs.ACCEPT_RANGES: "bytes", hdrs.CONTENT_TYPE: file.media_type}
    parts = [(b"", wanted) for wanted in ranges or [range(size)]]
    closing = b""
    if len(ranges) == 1:
        headers[hdrs.CONTENT_RANGE] = _content_range(ranges[0], size)
    elif ranges:
        boundary = secrets.token_hex(30)
        headers[hdrs.CONTENT_TYPE] = f"multipart/byteranges; boundary={boundary}"
        parts = [(_part_head(boundary, wanted, file), wanted) for wanted in ranges]
        parts[0] = (parts[0][0].lstrip(), ranges[0])
        closing = f"\r\n--{boundary}--\r\n".encode()
    response = web.StreamResponse(status=206 if ranges else 200, headers=headers)
    response.content_length = sum(len(part) + len(wanted) for part, wanted in parts) + len(closing)
    await response.prepare(request)
    if request.method != "HEAD":
        for part, wanted in parts:
            await response.write(part)
            offset = wanted.start
            while offset < wanted.stop:
                count = min(PIECE_BYTES, wanted.stop - offset)
                data = await in_thread(partial(pread, file.descriptor, count, offset))
                if not data:
                    raise KproxyError("the file became shorter while it was sent")
                await response.write(data)
                offset += len(data)
        await response.write(closing)
    return response


def _content_range(wanted: range, size_bytes: int) -> str:
    return f"bytes {wanted.start}-{wanted.stop - 1}/{size_bytes}"


def _part_head(boundary: str, wanted: range, file: File) -> bytes:
    return (
        f"\r\n--{boundary}\r\nContent-Range: {_content_range(wanted, file.size_bytes)}\r\n"
        f"Content-Type: {file.media_type}\r\n\r\n"
    ).encode()


async def in_thread(job: Callable[[], T]) -> T:
    """Run blocking file work off the loop. A cancelled wait still outlasts it: the file is closed next."""
    future = asyncio.get_running_loop().run_in_executor(None, job)
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        await asyncio.wait([future])
        future.exception()  # nobody wants it any more, but unasked it would be logged
        raise
    return future.result()

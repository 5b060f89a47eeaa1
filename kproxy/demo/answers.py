"""Answers: what every one carries, and how bytes are put on the wire as a real API server puts them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from kproxy.demo.objects import Options
from kproxy.demo.status import ApiError
from kproxy.demo.users import User
from kproxy.demo.views import JSON, YAML, View, choose_view

# From these sizes on a real API server compresses, and Go's net/http no longer knows the length ahead.
_GZIP_BYTES = 128 * 1024
_CHUNKED_BYTES = 2048

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request, who sent it, and the headers that every answer to it has."""

    request: web.BaseRequest
    user: User
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def view(self) -> View:
        accept = ",".join(self.request.headers.getall("Accept", ()))
        return choose_view(accept, self.query, self.request.headers.get("User-Agent", ""))

    @property
    def options(self) -> Options:
        return Options(
            dry_run=self.query.get("dryRun") == "All",
            validation=self.query.get("fieldValidation", "Warn"),
            manager=self.query.get("fieldManager", ""),
        )

    @property
    def upgrades_to_websocket(self) -> bool:
        return self.request.headers.get("Upgrade", "").lower() == "websocket"


async def write(call: Call, body: bytes, *, content_type: str | None = None, code: int = 200) -> web.Response:
    """`body` as an answer, of the media type that the request's view has, unless another is named."""
    request = call.request
    headers = {**call.headers, "Content-Type": content_type or call.view.media_type}
    accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    if request.method == "GET" and len(body) > _GZIP_BYTES and accepts_gzip:
        # In a thread: 20 MB take a third of a second, and a proxy may share this event loop.
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    if len(body) <= _CHUNKED_BYTES:
        return web.Response(body=body, status=code, headers=headers)
    response = web.Response(body=io.BytesIO(body), status=code, headers=headers)
    response.enable_chunked_encoding()
    return response


async def stream(call: Call, content_type: str, pieces: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send the head at once, and each piece as it comes."""
    response = web.StreamResponse(headers={**call.headers, "Content-Type": content_type})
    await response.prepare(call.request)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            await response.write(piece)
    await response.write_eof()
    return response


async def refuse(call: Call, error: ApiError) -> web.Response:
    """The error as a Status: JSON unless YAML was asked for, as the media type may be the error."""
    if error.code == 504:
        call.headers["Retry-After"] = "1"
    accept = call.request.headers.get("Accept", "")
    user_agent = call.request.headers.get("User-Agent", "")
    view = View(media_type=YAML if accept.startswith(YAML) else JSON, pretty=user_agent.startswith("curl"))
    body = view.write_value(error.status)
    return await write(call, body, content_type=view.media_type, code=error.code)


async def until_left(receive: Awaitable[None], work: Awaitable[T]) -> T | None:
    """The result of `work`, or None when `receive`, which reads from the client, ended before it."""
    reader, worker = asyncio.ensure_future(receive), asyncio.ensure_future(work)
    try:
        await asyncio.wait((reader, worker), return_when=asyncio.FIRST_COMPLETED)
        return worker.result() if worker.done() else None
    finally:
        for task in (reader, worker):
            task.cancel()
        await asyncio.gather(reader, worker, return_exceptions=True)

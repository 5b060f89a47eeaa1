"""`PageServer`: a listener whose connections do for `respond` what the real ones do."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self, cast

from kproxy.http.heads import RequestHead, find_head
from kproxy.web.static import Answered, Handler, LocalConnection, respond
from tests.support.patience import LAST_RESORT_SECONDS


class PageServer:
    """Answers every request with `handler`; `answered` and `failed` hold how each of them ended."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.answered: list[Answered] = []
        self.failed: list[BaseException] = []
        self.connections: list[PageConnection] = []
        self.is_changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: PageConnection(self), "127.0.0.1", 0)
        self.address = cast("tuple[str, int]", self._server.sockets[0].getsockname())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await asyncio.gather(*(connection.ended.wait() for connection in self.connections))
        await self._server.wait_closed()


class PageConnection(asyncio.Protocol):
    def __init__(self, server: PageServer) -> None:
        self._server = server
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self.paused = asyncio.Event()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.local = LocalConnection(asyncio.get_running_loop(), self.transport)
        self._server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def pause_writing(self) -> None:
        self.local.pause_writing()
        self.paused.set()

    def resume_writing(self) -> None:
        self.local.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.local.connection_lost(exc)
        if self._task is None:
            self.ended.set()

    def cancel(self) -> None:
        """Cancel the answer at hand, as a downstream does when it is told to stop."""
        assert self._task is not None
        self._task.cancel()

    def _advance(self) -> None:
        if self._task is None and (end := find_head(self._buffer)) >= 0:
            head = RequestHead(self._buffer[:end])
            self._buffer = self._buffer[end + 4 :]
            self._task = asyncio.get_running_loop().create_task(self._answer(head))

    async def _answer(self, head: RequestHead) -> None:
        keep_alive = False
        try:
            answered = await respond(self._server.handler, head, self.local, keep_alive=head.keep_alive)
            self._server.answered.append(answered)
            keep_alive = answered.keep_alive
        except BaseException as error:  # a cancelled answer is looked at by the test, too
            self._server.failed.append(error)
        self._task = None
        if self.local.transport is None:
            self.ended.set()
        elif keep_alive:
            self._advance()
        else:
            self.transport.close()

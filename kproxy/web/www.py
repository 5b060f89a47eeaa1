"""The folder of --www as an origin. aiohttp, which serves it, is imported with the first page."""

from __future__ import annotations

import asyncio
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kproxy.gateway.client import Downstream, Waiting
from kproxy.gateway.origin import Route
from kproxy.http.heads import RequestHead

if TYPE_CHECKING:
    from kproxy.web.static import LocalConnection, StaticFiles

_log = structlog.get_logger()


class Www:
    """Static files; the route's target is their path, prefix and query included."""

    def __init__(
        self, root: str, prefix: str, *, follow_symlinks: bool, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._root = Path(root)
        self._prefix = prefix
        self._follow_symlinks = follow_symlinks
        self._loop = loop
        self._files: StaticFiles | None = None

    def begin(self, call: Downstream, route: Route) -> None:
        from kproxy.web.static import LocalConnection

        head = call.head
        if route.target != head.target:
            head = copy(head)
            head.target = route.target
        assert call.transport is not None
        connection = LocalConnection(self._loop, call.transport)
        if call.is_write_paused:
            connection.pause_writing()
        call.run(self._respond(call, head, connection), _Page(call, connection))

    async def _respond(self, call: Downstream, head: RequestHead, connection: LocalConnection) -> None:
        from kproxy.web.static import StaticFiles, respond

        if self._files is None:
            self._files = StaticFiles(self._root, self._prefix, follow_symlinks=self._follow_symlinks)
        exchange = call.exchange
        try:
            answered = await respond(self._files, head, connection, keep_alive=call.keeps_alive)
        except ConnectionError:
            call.abort()
            return
        except Exception:
            _log.exception("internal.failed", exchange_id=exchange.exchange_id)
            call.abort()
            return
        exchange.status = answered.status
        exchange.proxy_error = answered.proxy_error
        exchange.bytes_out = answered.body_bytes
        call.finish(keep_alive=answered.keep_alive)


class _Page(Waiting):
    """Passes on to aiohttp what the transport says while a page is being written. No page takes a body."""

    def __init__(self, call: Downstream, connection: LocalConnection) -> None:
        super().__init__(call)
        self._connection = connection

    def on_downstream_lost(self) -> None:
        self._connection.connection_lost(None)
        super().on_downstream_lost()

    def on_downstream_paused(self) -> None:
        self._connection.pause_writing()

    def on_downstream_resumed(self) -> None:
        self._connection.resume_writing()

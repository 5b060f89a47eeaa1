"""What does something instead of answering an object: watch, log, exec, attach, proxy."""

from __future__ import annotations

import contextlib
import dataclasses
import html

from aiohttp import web

from kproxy.demo import channels, clock
from kproxy.demo.answers import Call, until_left, write
from kproxy.demo.kinds import PODS
from kproxy.demo.logs import Log
from kproxy.demo.objects import Target
from kproxy.demo.status import not_implemented
from kproxy.demo.store import Store, Stored
from kproxy.demo.views import JSON
from kproxy.demo.watches import Watch
from kproxy.demo.workloads import finished


class Actions:
    """Runs the subresources that stand for an action; keeps the containers that commands have run in."""

    def __init__(self, store: Store, *, log_seconds: float) -> None:
        self._store = store
        self._log_seconds = log_seconds
        self._machines = channels.Machines(store)

    async def act(self, call: Call, target: Target, stored: Stored) -> web.StreamResponse:
        if target.subresource == "proxy":
            return await _proxy_page(call, target)
        if target.subresource == "log":
            return await _send_log(call, Log(self._store, stored, call.query, self._log_seconds))
        if target.subresource == "portforward":
            raise not_implemented("the demo cluster does not forward ports: nothing listens in its pods")
        attach = target.subresource == "attach"
        command = list(call.request.query.getall("command", []))
        remote = channels.parse_remote(stored, call.query, command, attach=attach)
        channels.check_upgrade(call.request, target.subresource)
        attached = channels.attached_command(stored, remote.container)
        if attach and not attached:
            shown = {"container": remote.container, "follow": "true", "tailLines": "0"}
            log = Log(self._store, stored, shown, self._log_seconds)
            return await channels.Session(remote, call.headers).attach(call.request, log)
        container = self._machines.container(stored, remote.container)
        if not attach:
            return await channels.Session(remote, call.headers).exec(call.request, container)
        session = channels.Session(dataclasses.replace(remote, command=attached), call.headers)
        response = await session.exec(call.request, container)
        self._finish(stored, session.exit_code)
        return response

    def _finish(self, stored: Stored, code: int | None) -> None:
        """The command that one attaches to is the container: with it ends a pod that ends at all."""
        current = self._store.get(PODS.resource, *stored.key)
        if code is None or current is None or current.value["spec"].get("restartPolicy") == "Always":
            return
        self._store.put(PODS.resource, finished(current.value, code, clock.now()))


async def serve_watch(call: Call, watch: Watch) -> web.StreamResponse:
    """As JSON lines, or, as a real API server does too, one WebSocket message an event."""
    if call.upgrades_to_websocket:
        socket = web.WebSocketResponse(compress=False)
        socket.headers.update(call.headers)
        await socket.prepare(call.request)
        await until_left(_ignore(socket), watch.run(_Messages(socket)))
        await socket.close()
        return socket
    response = web.StreamResponse(headers={**call.headers, "Content-Type": JSON})
    await response.prepare(call.request)
    await watch.run(_Lines(response))
    await response.write_eof()
    return response


class _Lines:
    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def send(self, lines: bytes) -> None:
        await self._response.write(lines)


class _Messages:
    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def send(self, lines: bytes) -> None:
        for line in lines.splitlines(keepends=True):
            await self._socket.send_str(line.decode())


async def _ignore(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


async def _send_log(call: Call, log: Log) -> web.StreamResponse:
    response = web.StreamResponse(headers={**call.headers, "Content-Type": "text/plain"})
    await response.prepare(call.request)
    async with contextlib.aclosing(log.pieces()) as pieces:
        async for piece in pieces:
            if piece:
                await response.write(piece)
    await response.write_eof()
    return response


async def _proxy_page(call: Call, target: Target) -> web.StreamResponse:
    name = html.escape(f"{target.kind.singular} {target.namespace}/{target.name}")
    shown = html.escape(f"{call.request.method} /{target.rest}")
    text = (
        "<!doctype html><title>kproxy demo</title>\n"
        f"<h1>{name}</h1>\n<p>This is a pretend {target.kind.singular}: it saw <code>{shown}</code>.</p>\n"
    )
    return await write(call, text.encode(), content_type="text/html; charset=utf-8")

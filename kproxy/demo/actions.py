"""What does something instead of answering an object: watch, log, exec, attach, proxy."""

from __future__ import annotations

import contextlib
import html
from collections.abc import AsyncGenerator

from aiohttp import web

from kproxy.demo import clock
from kproxy.demo.answers import Call, stream, until_left, write
from kproxy.demo.channels import Session, attached_command, check_upgrade, parse_remote
from kproxy.demo.container import Container
from kproxy.demo.kinds import PODS
from kproxy.demo.logs import Log
from kproxy.demo.objects import Target
from kproxy.demo.status import bad_request, not_implemented
from kproxy.demo.store import Store, Stored
from kproxy.demo.views import JSON
from kproxy.demo.watches import Watch
from kproxy.demo.workloads import finished


class Actions:
    """Runs the subresources that stand for an action."""

    def __init__(self, store: Store, *, log_seconds: float) -> None:
        self._store = store
        self._log_seconds = log_seconds
        self._containers: dict[tuple[str, str], Container] = {}
        """Those in which somebody has run a command: their files last as long as their pod."""

    async def act(self, call: Call, target: Target, stored: Stored) -> web.StreamResponse:
        if target.subresource == "proxy":
            return await _proxy_page(call, target)
        if target.subresource == "log":
            log = Log(self._store, stored, call.query, self._log_seconds)
            return await stream(call, "text/plain", log.pieces())
        if target.subresource == "portforward":
            raise not_implemented("the demo cluster does not forward ports: nothing listens in its pods")
        remote = parse_remote(stored, call.query)
        attaches = target.subresource == "attach"
        if attaches:
            command = attached_command(stored, remote.container)
        else:
            command = list(call.request.query.getall("command", []))
            if not command:
                raise bad_request("you must specify at least one command for the container")
        check_upgrade(call.request, target.subresource)
        session = Session(call.request, remote, call.headers)
        if not command:
            shown = {"container": remote.container, "follow": "true", "tailLines": "0"}
            return await session.show(Log(self._store, stored, shown, self._log_seconds))
        response = await session.run(self._container(stored, remote.container), command)
        if attaches and session.exit_code is not None:
            self._finish(stored, session.exit_code)
        return response

    def _container(self, pod: Stored, name: str) -> Container:
        alive = {each.value["metadata"]["uid"] for each in self._store.objects(PODS.resource)}
        self._containers = {key: each for key, each in self._containers.items() if key[0] in alive}
        key = (pod.value["metadata"]["uid"], name)
        if key not in self._containers:
            self._containers[key] = Container(pod.value, name)
        return self._containers[key]

    def _finish(self, stored: Stored, code: int) -> None:
        """The command that one attaches to is the container: with it ends a pod that ends at all."""
        current = self._store.get(PODS.resource, *stored.key)
        if current is not None and current.value["spec"].get("restartPolicy") != "Always":
            self._store.put(PODS.resource, finished(current.value, code, clock.now()))


async def serve_watch(call: Call, watch: Watch) -> web.StreamResponse:
    """As JSON lines, or, as a real API server does too, one WebSocket message an event."""
    if not call.upgrades_to_websocket:
        return await stream(call, JSON, watch.lines())
    socket = web.WebSocketResponse(compress=False)
    socket.headers.update(call.headers)
    await socket.prepare(call.request)
    await until_left(_ignore(socket), _send(socket, watch.lines()))
    await socket.close()
    return socket


async def _send(socket: web.WebSocketResponse, pieces: AsyncGenerator[bytes, None]) -> None:
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            for line in piece.splitlines(keepends=True):
                await socket.send_str(line.decode())


async def _ignore(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


async def _proxy_page(call: Call, target: Target) -> web.StreamResponse:
    name = html.escape(f"{target.kind.singular} {target.namespace}/{target.name}")
    shown = html.escape(f"{call.request.method} /{target.rest}")
    text = (
        "<!doctype html><title>kproxy demo</title>\n"
        f"<h1>{name}</h1>\n<p>This is a pretend {target.kind.singular}: it saw <code>{shown}</code>.</p>\n"
    )
    return await write(call, text.encode(), content_type="text/html; charset=utf-8")

"""exec and attach: the streams of a command as channels of one WebSocket (remotecommand, KEP-4006).

The first byte of a message names its channel. v4 has no way to end standard input; v5 has: 255 and the
channel's number. At the end a `Status` in the error channel tells the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from kproxy.demo.answers import until_left
from kproxy.demo.commands import COMMANDS
from kproxy.demo.container import Container
from kproxy.demo.kinds import PODS, Json
from kproxy.demo.logs import Log, container_of, not_running, started_at
from kproxy.demo.paging import is_true
from kproxy.demo.selectors import field_at
from kproxy.demo.shell import NoSuchCommand, Screen, Shell, Streams, Write
from kproxy.demo.status import bad_request, not_implemented
from kproxy.demo.store import Store, Stored, encode
from kproxy.demo.terminal import Input, Terminal

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_PIECE_BYTES = 32 * 1024
_MESSAGE_BYTES = 16 * 1024 * 1024
_CLOSE_SECONDS = 2.0
# A real container runtime is no faster. kubectl counts on that: up to 1.33 it drops what arrives before it
# has made its streams (kubernetes issue 131189).
_START_SECONDS = 0.1


class Machines:
    """The containers in which somebody has run a command: their files last as long as their pod."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._containers: dict[tuple[str, str], Container] = {}

    def container(self, pod: Stored, name: str) -> Container:
        alive = {each.value["metadata"]["uid"] for each in self._store.objects(PODS.resource)}
        self._containers = {key: each for key, each in self._containers.items() if key[0] in alive}
        key = (pod.value["metadata"]["uid"], name)
        if key not in self._containers:
            self._containers[key] = Container(pod.value, name)
        return self._containers[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """What a request for exec or attach asks for."""

    container: str
    command: tuple[str, ...]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


def parse_remote(pod: Stored, query: Mapping[str, str], command: list[str], *, attach: bool) -> Remote:
    """Raises ApiError 400 for what cannot be run there."""
    container = container_of(pod.value, query.get("container", ""), "a container name")
    if started_at(pod.value, container) is None:
        raise not_running(pod.value)
    wanted = {name: is_true(query.get(name)) for name in ("stdin", "stdout", "stderr", "tty")}
    if not any((wanted["stdin"], wanted["stdout"], wanted["stderr"])):
        raise bad_request("you must specify at least one of stdin, stdout, stderr")
    if not attach and not command:
        raise bad_request("you must specify at least one command for the container")
    return Remote(container=container, command=tuple(command), **wanted)


def check_upgrade(request: web.BaseRequest, what: str) -> None:
    """Raises ApiError unless the request upgrades to a WebSocket with a protocol known here."""
    upgrade = request.headers.get("Upgrade", "").lower()
    if upgrade.startswith("spdy"):
        raise not_implemented(
            f"the demo cluster serves {what} over WebSocket only: use kubectl 1.30 or newer"
        )
    if upgrade != "websocket":
        raise bad_request("Upgrade request required")
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if offered != [""] and not set(offered) & set(PROTOCOLS):
        raise bad_request(f"none of the offered subprotocols {offered} is one of {list(PROTOCOLS)}")


class Session:
    """One exec or attach from its upgrade to its end."""

    def __init__(self, remote: Remote, headers: Mapping[str, str]) -> None:
        self._remote = remote
        self._socket = web.WebSocketResponse(
            protocols=PROTOCOLS, max_msg_size=_MESSAGE_BYTES, compress=False, timeout=_CLOSE_SECONDS
        )
        self._socket.headers.update(headers)
        self._stdin = Input()
        self._screen = Screen(is_terminal=remote.tty)
        self._terminal: Terminal | None = None
        self.exit_code: int | None = None
        """Of the command, once it has ended by itself."""

    async def exec(self, request: web.BaseRequest, container: Container) -> web.WebSocketResponse:
        shell = Shell(container, COMMANDS, self._screen)
        streams = Streams(self._stdin, self._writer(_STDOUT), self._writer(_STDERR))
        if self._remote.tty:
            self._terminal = Terminal(self._stdin, self._writer(_STDOUT), shell.interrupt)
        return await self._serve(request, lambda: self._run(shell, streams))

    async def attach(self, request: web.BaseRequest, log: Log) -> web.WebSocketResponse:
        """What a container that only writes shows from now on."""
        return await self._serve(request, lambda: self._show(log))

    async def _serve(
        self, request: web.BaseRequest, work: Callable[[], Awaitable[Json]]
    ) -> web.WebSocketResponse:
        await self._socket.prepare(request)
        status = await until_left(self._receive(), self._after_start(work))
        if status is not None:
            await self._socket.send_bytes(bytes((_ERROR,)) + encode(status))
        await self._socket.close()
        return self._socket

    async def _after_start(self, work: Callable[[], Awaitable[Json]]) -> Json:
        await asyncio.sleep(_START_SECONDS)
        # The real server says "connected" by an empty message on the lowest channel it writes to.
        lowest = _STDOUT if self._remote.stdout else _STDERR if self._remote.stderr else _ERROR
        await self._socket.send_bytes(bytes((lowest,)))
        return await work()

    async def _run(self, shell: Shell, streams: Streams) -> Json:
        command = list(self._remote.command)
        try:
            code = await shell.start(command, streams)
        except NoSuchCommand:
            return _failure(
                "InternalError",
                "Internal error occurred: error executing command in container: exec: "
                f'"{command[0]}": executable file not found in $PATH (this is the toy shell of kproxy demo)',
                {"causes": [{"message": f'exec: "{command[0]}": executable file not found in $PATH'}]},
                500,
            )
        self.exit_code = code
        if code == 0:
            return {"metadata": {}, "status": "Success"}
        message = (
            "command terminated with non-zero exit code: error executing command "
            f"[{' '.join(command)}], exit code {code}"
        )
        details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
        return _failure("NonZeroExitCode", message, details)

    async def _show(self, log: Log) -> Json:
        write = self._writer(_STDOUT)
        async with contextlib.aclosing(log.pieces()) as pieces:
            async for piece in pieces:
                await write(piece)
        return {"metadata": {}, "status": "Success"}

    def _writer(self, channel: int) -> Write:
        # A terminal has one output, and its lines end as a typewriter's.
        channel = _STDOUT if self._remote.tty else channel
        wanted = self._remote.stdout if channel == _STDOUT else self._remote.stderr

        async def write(data: bytes) -> None:
            if not wanted:
                return
            if self._remote.tty:
                data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            for start in range(0, len(data), _PIECE_BYTES):
                await self._socket.send_bytes(bytes((channel,)) + data[start : start + _PIECE_BYTES])

        return write

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                await self._received(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._received(message.data.encode())

    async def _received(self, data: bytes) -> None:
        channel, content = data[:1], data[1:]
        if channel == bytes((_STDIN,)) and self._remote.stdin:
            if self._terminal is not None:
                await self._terminal.feed(content)
            else:
                await self._stdin.feed(content)
        elif channel == bytes((_RESIZE,)):
            self._resize(content)
        elif (
            channel == bytes((_CLOSE,))
            and content == bytes((_STDIN,))
            and self._socket.ws_protocol == PROTOCOLS[0]
        ):
            await self._stdin.end()

    def _resize(self, content: bytes) -> None:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            size = json.loads(content)
            self._screen.columns, self._screen.rows = int(size.get("Width", 0)), int(size.get("Height", 0))


def attached_command(pod: Stored, container: str) -> tuple[str, ...]:
    """What one types into by attaching, as after `kubectl run -it`; empty for what only writes a log."""
    for each in field_at(pod.value, "spec.containers") or ():
        if each["name"] == container and each.get("stdin"):
            return (*each.get("command", ()), *each.get("args", ())) or ("sh",)
    return ()


def _failure(reason: str, message: str, details: Json, code: int | None = None) -> Json:
    status: Json = {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
    }
    return {**status, "code": code} if code else status

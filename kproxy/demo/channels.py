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
from kproxy.demo.kinds import Json
from kproxy.demo.logs import Log, container_of, started_at
from kproxy.demo.paging import is_true
from kproxy.demo.selectors import field_at
from kproxy.demo.shell import NoSuchCommand, Screen, Shell, Streams, Write
from kproxy.demo.status import bad_request, not_implemented
from kproxy.demo.store import Stored, encode
from kproxy.demo.terminal import Input, Terminal

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_PIECE_BYTES = 32 * 1024
_MESSAGE_BYTES = 16 * 1024 * 1024
_CLOSE_SECONDS = 2.0
# A real container runtime is no faster. kubectl counts on that: up to 1.33 it drops what arrives before it
# has made its streams (kubernetes issue 131189).
_START_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """What a request for exec or attach asks for."""

    container: str
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


def parse_remote(pod: Stored, query: Mapping[str, str]) -> Remote:
    """Raises ApiError 400 for what cannot be run there."""
    container = container_of(pod.value, query.get("container", ""))
    if started_at(pod.value, container) is None:
        phase = field_at(pod.value, "status.phase")
        raise bad_request(f"pod {pod.key[1]} has no host assigned or does not run (its phase is {phase})")
    wanted = {name: is_true(query.get(name)) for name in ("stdin", "stdout", "stderr", "tty")}
    if not any((wanted["stdin"], wanted["stdout"], wanted["stderr"])):
        raise bad_request("you must specify at least one of stdin, stdout, stderr")
    return Remote(container=container, **wanted)


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

    def __init__(self, request: web.BaseRequest, remote: Remote, headers: Mapping[str, str]) -> None:
        self._request = request
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

    async def run(self, container: Container, command: list[str]) -> web.WebSocketResponse:
        shell = Shell(container, COMMANDS, self._screen)
        streams = Streams(self._stdin, self._writer(_STDOUT), self._writer(_STDERR))
        if self._remote.tty:
            self._terminal = Terminal(self._stdin, streams.out, shell.interrupt)

        async def work() -> Json:
            try:
                self.exit_code = await shell.start(command, streams)
            except NoSuchCommand:
                return _not_found(command[0])
            return _ended(command, self.exit_code)

        return await self._serve(work)

    async def show(self, log: Log) -> web.WebSocketResponse:
        """What a container that only writes shows from now on."""
        write = self._writer(_STDOUT)

        async def work() -> Json:
            async with contextlib.aclosing(log.pieces()) as pieces:
                async for piece in pieces:
                    await write(piece)
            return _ended([], 0)

        return await self._serve(work)

    async def _serve(self, work: Callable[[], Awaitable[Json]]) -> web.WebSocketResponse:
        async def begin() -> Json:
            await asyncio.sleep(_START_SECONDS)
            # The real server says "connected" by an empty message on the lowest channel it writes to.
            lowest = _STDOUT if self._remote.stdout else _STDERR if self._remote.stderr else _ERROR
            await self._send(lowest, b"")
            return await work()

        await self._socket.prepare(self._request)
        status = await until_left(self._receive(), begin())
        if status is not None:
            await self._send(_ERROR, encode(status))
        await self._socket.close()
        return self._socket

    async def _send(self, channel: int, data: bytes) -> None:
        await self._socket.send_bytes(bytes((channel,)) + data)

    def _writer(self, channel: int) -> Write:
        # A terminal has one output, and its lines end as a typewriter's.
        channel = _STDOUT if self._remote.tty else channel
        wanted = self._remote.stdout if channel == _STDOUT else self._remote.stderr

        async def write(data: bytes) -> None:
            if self._remote.tty:
                data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            for start in range(0, len(data) if wanted else 0, _PIECE_BYTES):
                await self._send(channel, data[start : start + _PIECE_BYTES])

        return write

    async def _receive(self) -> None:
        async for message in self._socket:
            data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
            if data[:1] == bytes((_STDIN,)) and self._remote.stdin:
                await (self._terminal or self._stdin).feed(data[1:])
            elif data[:1] == bytes((_RESIZE,)):
                self._resize(data[1:])
            elif data == bytes((_CLOSE, _STDIN)) and self._socket.ws_protocol == PROTOCOLS[0]:
                await self._stdin.end()

    def _resize(self, content: bytes) -> None:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            size = json.loads(content)
            self._screen.columns, self._screen.rows = int(size.get("Width", 0)), int(size.get("Height", 0))


def attached_command(pod: Stored, container: str) -> list[str]:
    """What one types into by attaching, as after `kubectl run -it`; empty for what only writes a log."""
    spec = next(each for each in pod.value["spec"]["containers"] if each["name"] == container)
    if not spec.get("stdin"):
        return []
    return [*spec.get("command", ()), *spec.get("args", ())] or ["sh"]


def _ended(command: list[str], code: int) -> Json:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    message = (
        "command terminated with non-zero exit code: error executing command "
        f"[{' '.join(command)}], exit code {code}"
    )
    return _failure("NonZeroExitCode", message, {"reason": "ExitCode", "message": str(code)})


def _not_found(name: str) -> Json:
    text = f'exec: "{name}": executable file not found in $PATH'
    message = (
        f"Internal error occurred: error executing command in container: {text} "
        "(this is the toy shell of kproxy demo)"
    )
    return {**_failure("InternalError", message, {"message": text}), "code": 500}


def _failure(reason: str, message: str, cause: Json) -> Json:
    details = {"causes": [cause]}
    status = {"metadata": {}, "status": "Failure"}
    return {**status, "message": message, "reason": reason, "details": details}

"""What containers show and take: logs, exec and attach.

Logs are made up, the same at every read. The streams of a command are channels of one WebSocket (KEP-4006).
The first byte of a message names its channel. v4 has no way to end standard input; v5 has: 255 and the
channel's number. At the end a `Status` in the error channel tells the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import WSMsgType, web

from kproxy.demo import clock
from kproxy.demo.answers import Call, until_left
from kproxy.demo.kinds import PODS
from kproxy.demo.objects import Target
from kproxy.demo.queries import field_at, is_true, parse_count
from kproxy.demo.shell import Container, Input, Shell, Terminal, Write
from kproxy.demo.status import ApiError, bad_request
from kproxy.demo.store import Json, Store, Stored, encode
from kproxy.demo.workloads import finished

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ERROR, _CLOSE = 0, 1, 2, 3, 255
_PIECE_BYTES = 32 * 1024
# A real container runtime is no faster. kubectl counts on that: up to 1.33 it drops what arrives before it
# has made its streams (kubernetes issue 131189).
_START_SECONDS = 0.1


class Remote:
    """One exec or attach in a container of a pod, from its upgrade to its end.

    Raises ApiError at construction for what cannot be run there.
    """

    def __init__(self, call: Call, target: Target, store: Store, pod: Stored, log_seconds: float) -> None:
        query, self._pod, self._store = call.query, pod, store
        name = container_of(pod.value, query.get("container", ""))
        if started_at(pod.value, name) is None:
            phase = field_at(pod.value, "status.phase")
            raise bad_request(f"pod {pod.key[1]} has no host assigned or does not run (its phase is {phase})")
        outputs = ((_STDOUT, "stdout"), (_STDERR, "stderr"))
        self._outputs = [channel for channel, flag in outputs if is_true(query.get(flag))]
        self._takes_stdin, self._is_terminal = is_true(query.get("stdin")), is_true(query.get("tty"))
        if not (self._outputs or self._takes_stdin):
            raise bad_request("you must specify at least one of stdin, stdout, stderr")
        self._attaches = target.subresource == "attach"
        self._command = list(call.request.query.getall("command", []))
        self._log: Log | None = None
        if self._attaches:
            # What one types into, as after `kubectl run -it`; else the container only writes a log.
            spec = next(each for each in pod.value["spec"]["containers"] if each["name"] == name)
            self._command = [*spec.get("command", ()), *spec.get("args", ())] or ["sh"]
            if not spec.get("stdin"):
                shown = {"container": name, "follow": "true", "tailLines": "0"}
                self._log = Log(store, pod, shown, log_seconds)
        elif not self._command:
            raise bad_request("you must specify at least one command for the container")
        _check_upgrade(call.request, target.subresource)
        # A terminal has one output.
        out, err = self._writer(_STDOUT), self._writer(_STDOUT if self._is_terminal else _STDERR)
        self._stdin = Input(is_terminal=self._is_terminal)
        self._shell = Shell(Container(pod.value, name), self._stdin, out, err, self._is_terminal)
        terminal = Terminal(self._stdin, out, self._shell.interrupt)
        self._feed = terminal.feed if self._is_terminal else self._stdin.feed
        options: Any = {"max_msg_size": 16 * 1024 * 1024, "compress": False, "timeout": 2.0}
        self._socket = web.WebSocketResponse(protocols=PROTOCOLS, **options)
        self._socket.headers.update(call.headers)

    async def serve(self, request: web.BaseRequest) -> web.WebSocketResponse:
        await self._socket.prepare(request)
        code = await until_left(self._receive(), self._run())
        if code is not None:
            await self._send(_ERROR, encode(_ended(self._command, code)))
        await self._socket.close()
        pod = self._store.get(PODS.resource, *self._pod.key)
        if self._attaches and code is not None and pod and pod.value["spec"]["restartPolicy"] != "Always":
            # The command that one attaches to is the container: with it ends a pod that ends at all.
            self._store.put(PODS.resource, finished(pod.value, code, clock.now()))
        return self._socket

    async def _run(self) -> int:
        await asyncio.sleep(_START_SECONDS)
        # The real server says "connected" by an empty message on the lowest channel it writes to.
        await self._send((*self._outputs, _ERROR)[0], b"")
        if self._log is None:
            return await self._shell.run(self._command)
        async with contextlib.aclosing(self._log.pieces()) as pieces:
            async for piece in pieces:
                await self._shell.out(piece)
        return 0

    async def _send(self, channel: int, data: bytes) -> None:
        await self._socket.send_bytes(bytes((channel,)) + data)

    def _writer(self, channel: int) -> Write:
        async def write(data: bytes) -> None:
            if self._is_terminal:
                data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            for start in range(0, len(data) if channel in self._outputs else 0, _PIECE_BYTES):
                await self._send(channel, data[start : start + _PIECE_BYTES])

        return write

    async def _receive(self) -> None:
        """Channel 4, the size of the client's terminal, is of no use to any command here."""
        async for message in self._socket:
            data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
            if data[:1] == bytes((_STDIN,)) and data[1:] and self._takes_stdin:
                await self._feed(data[1:])
            elif data == bytes((_CLOSE, _STDIN)) and self._socket.ws_protocol == PROTOCOLS[0]:
                await self._stdin.feed(b"")


def _check_upgrade(request: web.BaseRequest, what: str) -> None:
    """Raises ApiError unless the request upgrades to a WebSocket with a protocol known here."""
    upgrade = request.headers.get("Upgrade", "").lower()
    if upgrade.startswith("spdy"):
        message = f"the demo cluster serves {what} over WebSocket only: use kubectl 1.30 or newer"
        raise ApiError(501, "NotImplemented", message)
    if upgrade != "websocket":
        raise bad_request("Upgrade request required")
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if offered != [""] and not set(offered) & set(PROTOCOLS):
        raise bad_request(f"none of the offered subprotocols {offered} is one of {list(PROTOCOLS)}")


def _ended(command: list[str], code: int) -> Json:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    text = f"command terminated with non-zero exit code: [{' '.join(command)}], exit code {code}"
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    failure = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode"}
    return {**failure, "message": text, "details": details}


_KEPT_LINES = 200  # as if older ones had been rotated away
_PATHS = ("/", "/cart", "/checkout", "/health", "/items/17", "/search?q=tea")


class Log:
    """The log of one container as the query asks for it. Raises ApiError for what has no log."""

    def __init__(self, store: Store, pod: Stored, query: Mapping[str, str], every_seconds: float) -> None:
        self._store = store
        self._pod = pod
        self._every = every_seconds
        self._container = container_of(pod.value, query.get("container", ""))
        named = f'container "{self._container}" in pod "{pod.key[1]}"'
        started = started_at(pod.value, self._container)
        if is_true(query.get("previous")) or started is None:
            what = "is waiting to start: ContainerCreating" if started is None else "has no previous run"
            raise bad_request(f"{named} {what}")
        self._started = started
        self._follows = is_true(query.get("follow"))
        self._timestamps = is_true(query.get("timestamps"))
        self._tail = parse_count(query, "tailLines") if "tailLines" in query else _KEPT_LINES
        seconds = parse_count(query, "sinceSeconds")
        self._since = clock.now() - seconds if seconds else 0.0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The lines so far at once, then, if followed, each as it comes until the pod is gone."""
        count = max(0, int((clock.now() - self._started) / self._every) + 1)
        first = max(0, count - min(self._tail, _KEPT_LINES))
        numbers = (number for number in range(first, count) if self._at(number) >= self._since)
        yield b"".join(map(self._line, numbers))
        while self._follows and await self._waits_for(count):
            yield self._line(count)
            count += 1

    async def _waits_for(self, number: int) -> bool:
        """True once that line is due, False as soon as the pod is gone."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._at(number) - clock.now()
        while True:
            changed = self._store.changed
            found = self._store.get(PODS.resource, *self._pod.key)
            if found is None or found.value["metadata"]["uid"] != self._pod.value["metadata"]["uid"]:
                return False
            try:
                async with asyncio.timeout_at(due):
                    await changed.wait()
            except TimeoutError:
                return True

    def _at(self, number: int) -> float:
        return self._started + number * self._every

    def _line(self, number: int) -> bytes:
        seed = zlib.crc32(f"{self._pod.value['metadata']['uid']}/{number}".encode())
        chance = random.Random(seed)  # noqa: S311 -- the same line at every read
        request = f"GET {chance.choice(_PATHS)} 200 in {chance.randint(1, 90)} ms"
        stamp = f"{clock.utc(self._at(number)):%Y-%m-%dT%H:%M:%S.%f}000Z " if self._timestamps else ""
        return f"{stamp}made-up line {number} of {self._container}: {request}\n".encode()


def container_of(pod: Json, asked: str) -> str:
    """The container that is meant; one must be named where there are several. Raises ApiError 400."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    name = pod["metadata"]["name"]
    if asked and asked not in names:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    if not asked and len(names) > 1:
        shown = f"choose one of: [{' '.join(names)}]"
        raise bad_request(f"a container name must be specified for pod {name}, {shown}")
    return asked or names[0]


def started_at(pod: Json, container: str) -> float | None:
    """When the container started, in epoch seconds; None while it does not run."""
    for status in field_at(pod, "status.containerStatuses") or ():
        if status.get("name") == container:
            with contextlib.suppress(TypeError, ValueError):
                return clock.parse_time(field_at(status, "state.running.startedAt"))
    return None

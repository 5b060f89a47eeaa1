"""The toy shell behind `kubectl exec`: runs the commands of commands.py and nothing real."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kproxy.demo.container import Container, FileError
from kproxy.demo.shell_syntax import For, Pipeline, Redirect, Sequence, ShellSyntaxError, Simple, While, parse
from kproxy.demo.terminal import Input

Write = Callable[[bytes], Awaitable[None]]
INTERRUPTED = 130
# What one command may hand to the next through a pipe.
_PIPE_BYTES = 64 * 1024 * 1024
SHELLS = ("sh", "bash", "ash", "dash")


@dataclass(frozen=True, slots=True)
class Streams:
    """The three standard streams of one command."""

    stdin: Input
    out: Write
    err: Write


@dataclass(slots=True)
class Screen:
    """The client's terminal, if it has one; None columns until it told its size."""

    is_terminal: bool = False
    columns: int | None = None
    rows: int | None = None


class NoSuchCommand(Exception):
    """Neither a command of this shell nor a shell."""


class Exit(Exception):
    """`exit`: ends the shell with that code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


Command = Callable[["Shell", list[str], Streams], Awaitable[int]]


@dataclass(slots=True, eq=False)
class Shell:
    """One shell process: working directory, variables, last exit code."""

    container: Container
    commands: dict[str, Command]
    screen: Screen = field(default_factory=Screen)
    directory: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    _foreground: asyncio.Task[int] | None = None

    def __post_init__(self) -> None:
        if not self.variables:
            self.variables = dict(self.container.environment)

    def interrupt(self) -> None:
        """Ctrl-C: ends the command in the foreground, not the shell."""
        if self._foreground is not None:
            self._foreground.cancel()

    async def start(self, arguments: list[str], streams: Streams) -> int:
        """Run one command line given as a list, as `exec` does. Raises NoSuchCommand."""
        if not self._knows(arguments[0]):
            raise NoSuchCommand(arguments[0])
        try:
            self._foreground = asyncio.ensure_future(self.run(arguments, streams))
            return await self._finish(self._foreground)
        except Exit as exit_:
            return exit_.code

    async def run(self, arguments: list[str], streams: Streams) -> int:
        """The exit code of a command; 127 where there is none of that name."""
        name = _base(arguments[0])
        if name in SHELLS:
            return await self._sub_shell(arguments, streams)
        if not self._knows(name):
            await streams.err(
                f"sh: {arguments[0]}: not found (this is the toy shell of kproxy demo)\n".encode()
            )
            return 127
        try:
            return await self.commands[name](self, arguments, streams)
        except FileError as error:
            await streams.err(f"{name}: {error}\n".encode())
            return 1

    async def script(self, text: str, streams: Streams) -> int:
        """Raises Exit."""
        try:
            sequence = parse(text)
        except ShellSyntaxError as error:
            await streams.err(f"sh: {error}\n".encode())
            return 2
        return await self._sequence(sequence, streams)

    def _knows(self, name: str) -> bool:
        name = _base(name)
        return name in self.commands or name in SHELLS

    async def _sub_shell(self, arguments: list[str], streams: Streams) -> int:
        child = dataclasses.replace(self, variables=dict(self.variables), _foreground=None)
        try:
            if "-c" in arguments[1:]:
                rest = arguments[arguments.index("-c") + 1 :]
                return await child.script(rest[0] if rest else "", streams)
            return await self._interactive(child, streams)
        except Exit as exit_:
            return exit_.code

    async def _interactive(self, child: Shell, streams: Streams) -> int:
        code = 0
        while True:
            if self.screen.is_terminal:
                await streams.out(f"{child.container.hostname}:{child.directory}# ".encode())
            line = await streams.stdin.read_line()
            if not line:
                if self.screen.is_terminal:
                    await streams.out(b"exit\n")
                return code
            text = line.decode(errors="replace")
            self._foreground = asyncio.ensure_future(child.script(text, streams))
            code = await self._finish(self._foreground)
            if self.screen.is_terminal:
                streams.stdin.reopen()
            child.variables["?"] = str(code)

    async def _finish(self, task: asyncio.Task[int]) -> int:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                task.cancel()
                raise
            return INTERRUPTED
        finally:
            self._foreground = None

    async def _sequence(self, sequence: Sequence, streams: Streams) -> int:
        code = int(self.variables.get("?", "0"))
        for connector, pipeline in sequence.steps:
            if (connector == "&&" and code) or (connector == "||" and not code):
                continue
            code = await self._pipeline(pipeline, streams)
            self.variables["?"] = str(code)
        return code

    async def _pipeline(self, pipeline: Pipeline, streams: Streams) -> int:
        """One part after the other, the output of each kept for the next: fine for what ends by itself."""
        stdin = streams.stdin
        for part in pipeline.parts[:-1]:
            kept = bytearray()

            async def keep(data: bytes, kept: bytearray = kept) -> None:
                if len(kept) + len(data) > _PIPE_BYTES:
                    raise FileError(errno.EFBIG, "pipe")
                kept.extend(data)

            await self._part(part, Streams(stdin, keep, streams.err))
            stdin = await _filled(bytes(kept))
        return await self._part(pipeline.parts[-1], Streams(stdin, streams.out, streams.err))

    async def _part(self, part: Simple | For | While, streams: Streams) -> int:
        code = 0
        if isinstance(part, For):
            for word in part.words:
                self.variables[part.variable] = word.expand(self.variables)
                code = await self._sequence(part.body, streams)
            return code
        if isinstance(part, While):
            while await self._sequence(part.condition, streams) == 0:
                code = await self._sequence(part.body, streams)
                # A loop of commands that never wait must not hold up the process.
                await asyncio.sleep(0)
            return code
        return await self._simple(part, streams)

    async def _simple(self, simple: Simple, streams: Streams) -> int:
        words = list(simple.words)
        while words and (assignment := words[0].assignment):
            self.variables[assignment[0]] = assignment[1].expand(self.variables)
            words.pop(0)
        try:
            for redirect in simple.redirects:
                streams = await self._redirected(redirect, streams)
        except FileError as error:
            await streams.err(f"sh: {error}\n".encode())
            return 1
        if not words:
            return 0
        return await self.run([word.expand(self.variables) for word in words], streams)

    async def _redirected(self, redirect: Redirect, streams: Streams) -> Streams:
        operator = redirect.operator
        if redirect.target is None:
            write = streams.err if operator.endswith("2") else streams.out
        else:
            path = self.container.path(self.directory, redirect.target.expand(self.variables))
            if operator == "<":
                return dataclasses.replace(streams, stdin=await _filled(self.container.files.read(path)))
            if not operator.endswith(">>"):
                self.container.files.write(path, b"")
            write = self._append_to(path)
        if operator.startswith("2"):
            return dataclasses.replace(streams, err=write)
        return dataclasses.replace(streams, out=write)

    def _append_to(self, path: str) -> Write:
        async def append(data: bytes) -> None:
            self.container.files.append(path, data)

        return append


async def _filled(content: bytes) -> Input:
    stdin = Input()
    await stdin.feed(content)
    await stdin.end()
    return stdin


def _base(name: str) -> str:
    return name.rpartition("/")[2]

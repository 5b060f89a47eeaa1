"""The toy shell behind `kubectl exec`: runs the commands of commands.py and nothing real."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from kproxy.demo.container import Container, FileError
from kproxy.demo.shell_syntax import Pipeline, ShellSyntaxError, Simple, assignment, expand, parse
from kproxy.demo.terminal import Input

Write = Callable[[bytes], Awaitable[None]]
INTERRUPTED = 130
# What one command may hand to the next through a pipe.
_PIPE_BYTES = 64 * 1024 * 1024
_SHELLS = ("sh", "bash", "ash", "dash")


@dataclass(frozen=True, slots=True)
class Streams:
    """The three standard streams of one command."""

    stdin: Input
    out: Write
    err: Write


@dataclass(slots=True)
class Screen:
    """The client's terminal, if it has one; 0 columns until it told its size."""

    is_terminal: bool = False
    columns: int = 0
    rows: int = 0


class NoSuchCommand(Exception):
    """Neither a command of this shell nor a shell."""


class Exit(Exception):
    """`exit`: ends the shell with that code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command: in which shell, with which arguments and streams."""

    shell: Shell
    arguments: list[str]
    streams: Streams

    @property
    def flags(self) -> str:
        """The letters of `-a` and `-abc`."""
        return "".join(each[1:] for each in self.arguments if each.startswith("-"))

    @property
    def words(self) -> list[str]:
        """What is no flag; `-` alone is none."""
        return [each for each in self.arguments if not each.startswith("-") or each == "-"]

    def path(self, word: str) -> str:
        return self.shell.container.path(self.shell.directory, word)

    async def say(self, text: str) -> int:
        await self.streams.out(text.encode())
        return 0

    async def complain(self, text: str, code: int = 1) -> int:
        await self.streams.err(text.encode() + b"\n")
        return code


Command = Callable[[Call], Awaitable[int]]


@dataclass(slots=True, eq=False)
class Shell:
    """One shell process: working directory, variables, last exit code."""

    container: Container
    commands: Mapping[str, Command]
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
        if _base(arguments[0]) not in (*self.commands, *_SHELLS):
            raise NoSuchCommand(arguments[0])
        try:
            return await self._in_foreground(self._run(arguments, streams))
        except Exit as exit_:
            return exit_.code

    async def _run(self, arguments: list[str], streams: Streams) -> int:
        """The exit code of a command; 127 where there is none of that name."""
        name = _base(arguments[0])
        call = Call(self, arguments[1:], streams)
        if name in _SHELLS:
            return await self._sub_shell(call)
        if name not in self.commands:
            return await call.complain(
                f"sh: {arguments[0]}: not found (this is the toy shell of kproxy demo)", 127
            )
        try:
            return await self.commands[name](call)
        except FileError as error:
            return await call.complain(f"{name}: {error}")

    async def _sub_shell(self, call: Call) -> int:
        child = dataclasses.replace(self, variables=dict(self.variables), _foreground=None)
        try:
            if "-c" in call.arguments[:-1]:
                text = call.arguments[call.arguments.index("-c") + 1]
                return await child._script(text, call.streams)
            return await self._interactive(child, call.streams)
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
            code = await self._in_foreground(child._script(line.decode(errors="replace"), streams))
            if self.screen.is_terminal:
                streams.stdin.reopen()
            child.variables["?"] = str(code)

    async def _in_foreground(self, work: Awaitable[int]) -> int:
        task = self._foreground = asyncio.ensure_future(work)
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

    async def _script(self, text: str, streams: Streams) -> int:
        """Raises Exit."""
        try:
            steps = parse(text)
        except ShellSyntaxError as error:
            await streams.err(f"sh: syntax error: {error}\n".encode())
            return 2
        code = int(self.variables.get("?", "0"))
        for connector, pipeline in steps:
            if not ((connector == "&&" and code) or (connector == "||" and not code)):
                code = await self._pipeline(pipeline, streams)
                self.variables["?"] = str(code)
        return code

    async def _pipeline(self, pipeline: Pipeline, streams: Streams) -> int:
        """One part after the other, the output of each kept for the next: fine for what ends by itself."""
        stdin = streams.stdin
        for part in pipeline[:-1]:
            kept = bytearray()

            async def keep(data: bytes, kept: bytearray = kept) -> None:
                if len(kept) + len(data) > _PIPE_BYTES:
                    raise FileError(errno.EFBIG, "pipe")
                kept.extend(data)

            await self._simple(part, Streams(stdin, keep, streams.err))
            stdin = await _filled(bytes(kept))
        return await self._simple(pipeline[-1], Streams(stdin, streams.out, streams.err))

    async def _simple(self, simple: Simple, streams: Streams) -> int:
        words = list(simple.words)
        while words and (found := assignment(words[0])):
            self.variables[found[0]] = expand(found[1], self.variables)
            words.pop(0)
        try:
            for operator, word in simple.redirects:
                streams = await self._redirected(operator, word, streams)
        except FileError as error:
            await streams.err(f"sh: {error}\n".encode())
            return 1
        if not words:
            return 0
        return await self._run([expand(word, self.variables) for word in words], streams)

    async def _redirected(self, operator: str, word: str | None, streams: Streams) -> Streams:
        if word is None:
            write = streams.err if operator.endswith("2") else streams.out
        else:
            path = self.container.path(self.directory, expand(word, self.variables))
            if operator == "<":
                return dataclasses.replace(streams, stdin=await _filled(self.container.files.read(path)))
            if not operator.endswith(">>"):
                self.container.files.write(path, b"")

            async def write(data: bytes) -> None:
                self.container.files.append(path, data)

        if operator.startswith("2"):
            return dataclasses.replace(streams, err=write)
        return dataclasses.replace(streams, out=write)


async def _filled(content: bytes) -> Input:
    stdin = Input()
    await stdin.feed(content)
    await stdin.end()
    return stdin


def _base(name: str) -> str:
    return name.rpartition("/")[2]

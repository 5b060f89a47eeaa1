"""What `kubectl exec` finds in a pretend container: a few files, commands and a prompt, but no language."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kproxy.demo import clock
from kproxy.demo.queries import field_at
from kproxy.demo.store import Json

Write = Callable[[bytes], Awaitable[None]]
INTERRUPTED = 130
_UNKNOWN = 'exec: "{}": executable file not found in $PATH (this is kproxy demo)\n'
_OPERATORS = frozenset("();<>|&")
_ENTER, _ERASE, _INTERRUPT, _END = "\r\n", "\x7f\b", "\x03", "\x04"


class Container:
    """Its files by their paths, its environment, its name; directories are where files are."""

    def __init__(self, pod: Json, name: str) -> None:
        spec = next(each for each in pod["spec"]["containers"] if each["name"] == name)
        self.hostname: str = pod["metadata"]["name"]
        given = {each["name"]: each.get("value", "") for each in spec.get("env") or ()}
        self.environment = {"PATH": "/bin", "HOSTNAME": self.hostname, "KPROXY_DEMO": "true", **given}
        self._files = {
            "/app/README": "This container is pretended by kproxy demo: a few commands and files.\n",
            "/etc/hostname": f"{self.hostname}\n",
            "/etc/hosts": f"127.0.0.1\tlocalhost\n{field_at(pod, 'status.podIP')}\t{self.hostname}\n",
        }

    def read(self, path: str) -> str:
        """Raises FileNotFoundError or IsADirectoryError."""
        if self.names(path) != [path]:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return self._files[_absolute(path)]

    def names(self, path: str) -> list[str]:
        """What is in a directory; the path itself if it is a file's. Raises FileNotFoundError."""
        start = _absolute(path)
        if start in self._files:
            return [path]
        inside = start.rstrip("/") + "/"
        found = {each[len(inside) :].partition("/")[0] for each in self._files if each.startswith(inside)}
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(found)


class Input:
    """Bytes from a client to a command. A full queue makes the writer wait, so memory stays bounded."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(64)
        self._rest = b""
        self._is_terminal = is_terminal

    async def feed(self, data: bytes) -> None:
        """No data are the end."""
        await self._queue.put(data)

    async def read(self) -> bytes:
        """What is there, or the next piece; b"" at the end."""
        data, self._rest = self._rest or await self._queue.get(), b""
        if not data and not self._is_terminal:
            # For whoever reads next; on a terminal Ctrl-D ends one command, and the prompt goes on.
            self._queue.put_nowait(b"")
        return data

    async def read_line(self) -> bytes:
        """With its newline, but for an unfinished last line; b"" at the end."""
        line = b""
        while not line.endswith(b"\n") and (piece := await self.read()):
            head, newline, self._rest = piece.partition(b"\n")
            line += head + newline
        return line


class Terminal:
    """Between a client's key strokes and an Input: echoes, erases, knows Ctrl-C and Ctrl-D."""

    def __init__(self, target: Input, echo: Write, interrupt: Callable[[], None]) -> None:
        self._target, self._echo, self._interrupt = target, echo, interrupt
        self._line = ""

    async def feed(self, data: bytes) -> None:
        for key in data.decode(errors="replace"):
            if key in _ENTER:
                line, self._line = self._line, ""
                await self._echo(b"\r\n")
                await self._target.feed(line.encode() + b"\n")
            elif key in _ERASE:
                await self._echo(b"\b \b" if self._line else b"")
                self._line = self._line[:-1]
            elif key == _INTERRUPT:
                self._line = ""
                await self._echo(b"^C\r\n")
                self._interrupt()
            elif key == _END and not self._line:
                await self._target.feed(b"")
            else:
                self._line += key
                await self._echo(key.encode())


@dataclass(slots=True, eq=False)
class Shell:
    """What one exec runs in: a container and the three standard streams."""

    container: Container
    stdin: Input
    out: Write
    err: Write
    is_terminal: bool = False
    _foreground: asyncio.Task[int] | None = None

    async def run(self, words: list[str]) -> int:
        """The exit code of a command: 127 if there is none of that name."""
        name, rest = posixpath.basename(words[0]), words[1:]
        try:
            match name, rest:
                case "sh" | "bash", ["-c", line, *_]:
                    return await self._line(line)
                case "sh" | "bash", _:
                    return await self._prompt()
                case "exit", _:
                    return int(rest[0]) & 255 if rest else 0
                case "true" | "false", _:
                    return int(name == "false")
                case "sleep", [seconds]:
                    await asyncio.sleep(float(seconds.removesuffix("s")))
                case "cat", []:
                    while piece := await self.stdin.read():
                        await self.out(piece)
                case "cat" | "ls", _:
                    for word in [word for word in rest if not word.startswith("-")] or ["/"]:
                        lines = "".join(f"{each}\n" for each in self.container.names(word))
                        await self.out((lines if name == "ls" else self.container.read(word)).encode())
                case _ if name in _PRINTED:
                    await self.out(f"{_PRINTED[name](self.container, rest)}\n".encode())
                case _:
                    await self.err(_UNKNOWN.format(words[0]).encode())
                    return 127
        except (OSError, ValueError) as error:
            text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            await self.err(f"{name}: {text}\n".encode())
            return 1 if isinstance(error, OSError) else 2
        return 0

    def interrupt(self) -> None:
        """Ctrl-C: ends the command in the foreground, not the prompt."""
        if self._foreground is not None:
            self._foreground.cancel()

    async def _line(self, line: str) -> int:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        if any(word and _OPERATORS.issuperset(word) for word in words):
            raise ValueError("kproxy demo has no shell language: one command and its words, please")
        return await self.run(words) if words else 0

    async def _prompt(self) -> int:
        code = 0
        while True:
            if self.is_terminal:
                await self.out(f"{self.container.hostname}:/# ".encode())
            line = (await self.stdin.read_line()).decode(errors="replace")
            if not line:
                return code
            task = self._foreground = asyncio.ensure_future(self.run(["sh", "-c", line]))
            try:
                await asyncio.wait((task,))
            finally:
                task.cancel()
            code = INTERRUPTED if task.cancelled() else task.result()
            if line.split()[:1] == ["exit"]:
                return code


def _absolute(path: str) -> str:
    return "/" + posixpath.normpath(f"/{path}").lstrip("/")


_PRINTED: dict[str, Callable[[Container, list[str]], str]] = {
    "date": lambda *_: f"{clock.utc(clock.now()):%a %b %e %H:%M:%S UTC %Y}",
    "echo": lambda _, words: " ".join(words),
    "env": lambda container, _: "\n".join(f"{key}={text}" for key, text in container.environment.items()),
    "help": lambda *_: f"Commands: cat exit false ls sh sleep true {' '.join(_PRINTED)}",
    "hostname": lambda container, _: container.hostname,
    "id": lambda *_: "uid=0(root) gid=0(root) groups=0(root)",
    "whoami": lambda *_: "root",
}

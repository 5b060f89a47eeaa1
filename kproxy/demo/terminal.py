"""Standard input of a command: a plain pipe, or a terminal that echoes, edits a line and knows Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_QUEUED_PIECES = 64
_ENTER, _ERASE, _INTERRUPT, _END, _KILL, _ESCAPE = b"\r\n", b"\x7f\x08", 0x03, 0x04, 0x15, 0x1B


class Input:
    """Bytes from a client to a command. A full queue makes the writer wait, so memory stays bounded."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED_PIECES)
        self._rest = b""
        self._ended = False

    async def feed(self, data: bytes) -> None:
        if data:
            await self._queue.put(data)

    async def end(self) -> None:
        await self._queue.put(b"")

    async def read(self) -> bytes:
        """What is there, or the next piece; b"" at the end."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        if self._ended:
            return b""
        data = await self._queue.get()
        self._ended = not data
        return data

    async def read_line(self) -> bytes:
        """With its newline, but for an unfinished last line; b"" at the end."""
        line = b""
        while piece := await self.read():
            line += piece
            end = line.find(b"\n")
            if end >= 0:
                line, self._rest = line[: end + 1], line[end + 1 :]
                break
        return line

    def reopen(self) -> None:
        """A terminal goes on after Ctrl-D, as the shell above may still read from it."""
        self._ended = False


class Terminal:
    """The line discipline between a client's key strokes and an Input (termios' canonical mode)."""

    def __init__(
        self, target: Input, echo: Callable[[bytes], Awaitable[None]], interrupt: Callable[[], None]
    ) -> None:
        self._target = target
        self._echo = echo
        self._interrupt = interrupt
        self._line = bytearray()
        self._in_escape = False

    async def feed(self, data: bytes) -> None:
        for byte in data:
            await self._key(byte)

    async def _key(self, byte: int) -> None:
        if self._in_escape:
            # Cursor keys and the like: swallowed up to their final letter.
            self._in_escape = not (chr(byte).isalpha() or byte == ord("~"))
        elif byte == _ESCAPE:
            self._in_escape = True
        elif byte in _ENTER:
            await self._echo(b"\r\n")
            line, self._line = bytes(self._line), bytearray()
            await self._target.feed(line + b"\n")
        elif byte in _ERASE:
            if self._line:
                self._erase_letter()
                await self._echo(b"\b \b")
        elif byte == _INTERRUPT:
            self._line.clear()
            await self._echo(b"^C\r\n")
            self._interrupt()
        elif byte == _END:
            if self._line:
                line, self._line = bytes(self._line), bytearray()
                await self._target.feed(line)
            else:
                await self._target.end()
        elif byte == _KILL:
            await self._echo(b"\b \b" * len(self._line.decode(errors="replace")))
            self._line.clear()
        else:
            self._line.append(byte)
            await self._echo(bytes((byte,)))

    def _erase_letter(self) -> None:
        while self._line and self._line.pop() & 0xC0 == 0x80:
            pass  # the other bytes of a UTF-8 letter

"""What an exec plugin says on its stderr: passed on as it comes, and its last lines kept for who asks.

On a terminal it is passed on as it is. In a log it comes line by line, without escape sequences and
secrets, and no more than `PASSED_CHARS` of one run: a plugin in a loop must not push out all else.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Callable
from typing import cast

from kproxy.telemetry.log import Output

LAST_LINES = 10
LAST_CHARS = 2000
PASSED_CHARS = 64 * 1024
# Part of a line waits so long for the rest: "Waiting for the login ..." may be all that comes for a minute.
PART_SECONDS = 0.2
# Between two reads of a plugin that said all that is kept of it: it must be able to end, not to hurry.
LULL_SECONDS = 0.02
BLOCK_CHARS = 1000

# ECMA-48: control sequences; control strings (OSC, DCS, APC, PM, SOS) up to BEL, ST or the line's end; and
# all others.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# A progress bar goes back to the line's start: what was drawn over is not for a log.
_DRAWN_OVER = re.compile(r"^[^\n]*\r(?=[^\r\n])", re.MULTILINE)

# What separates words, but is not printable to Python.
_BLANKS = dict.fromkeys("\t\xa0\u3000", " ")


def plain(text: str) -> str:
    """`text` as it would stand on paper: without escape sequences and control characters but the newline."""
    text = _DRAWN_OVER.sub("", _ESCAPES.sub("", text))
    return "".join(char if char == "\n" or char.isprintable() else _BLANKS.get(char, "") for char in text)


class PluginErrors(asyncio.Protocol):
    """The reading end of the stderr of one run. Its memory is bounded, whatever is said."""

    def __init__(self, loop: asyncio.AbstractEventLoop, output: Output, hide: Callable[[str], str]) -> None:
        """`hide` takes the secrets out of a text."""
        self._loop = loop
        self._output = output
        self._hide = hide
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._transport: asyncio.ReadTransport | None = None
        self._last = ""
        self._count = 0
        self._part = ""
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = loop.create_future()

    def last(self) -> tuple[str, bool]:
        """The last lines, and whether they are all that was said."""
        is_cut = self._count > len(self._last)
        # The rest of a line that was cut could be the rest of a secret.
        kept = self._last.partition("\n")[2] if is_cut else self._last
        lines = [line.rstrip() for line in self._hide(plain(kept)).splitlines() if line.strip()]
        text = "\n".join(lines[-LAST_LINES:])
        is_all = not is_cut and len(lines) <= LAST_LINES and len(text) <= LAST_CHARS
        return text if len(text) <= LAST_CHARS else "…" + text[1 - LAST_CHARS :], is_all

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.ReadTransport", transport)

    def data_received(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        before = self._count
        self._count += len(text)
        # Twice as much: escape sequences and empty lines do not count in the end.
        self._last = (self._last + text)[-2 * LAST_CHARS :]
        if self._output.is_terminal:
            self._output.write(text)
        else:
            if before < PASSED_CHARS:
                self._pass_on(text[: PASSED_CHARS - before])
            if before <= PASSED_CHARS < self._count:
                self._flush()
                self._write(f"[the exec plugin says more than {PASSED_CHARS >> 10} KiB; the rest is dropped]")
        if self._count > PASSED_CHARS and self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_later(LULL_SECONDS, self._read_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._flush()
        if not self.ended.done():
            self.ended.set_result(None)

    # -- into the log --

    def _pass_on(self, text: str) -> None:
        lines, newline, part = (self._part + text).rpartition("\n")
        self._part = part
        if newline:
            self._write(lines)
        if part and self._timer is None:
            self._timer = self._loop.call_later(PART_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        part, self._part = self._part, ""
        if part:
            self._write(part)

    def _write(self, text: str) -> None:
        # Not line by line, for there may be thousands; nor at once, for the log may have less room.
        block = ""
        for line in self._hide(plain(text)).split("\n"):
            block += line + "\n"
            if len(block) > BLOCK_CHARS:
                self._output.write(block)
                block = ""
        if block:
            self._output.write(block)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

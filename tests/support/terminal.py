"""A program in the foreground of a terminal, typed at and read from as by a person."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.patience import LAST_RESORT_SECONDS

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """Made, the program runs; `close` kills its group."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, b"\x28\0\xc8\0\0\0\0\0")  # 40 lines of 200 columns
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(screen)
        self.shown = b""

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def until(self, pattern: bytes) -> re.Match[bytes]:
        """Read until the screen shows it, and forget what it showed; AssertionError when it does not."""
        while not (found := re.search(pattern, self.shown)):
            assert select.select([self.keyboard], [], [], LAST_RESORT_SECONDS)[0], self.shown
            try:
                self.shown += os.read(self.keyboard, 4096)
            except OSError:
                raise AssertionError(self.shown) from None
        self.shown = self.shown[found.end() :]
        return found

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.keyboard)

"""The log of an instance as `kproxy logs` shows it: its last lines, and what is added to it."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kproxy.instances.instance import LogFiles

POLL_SECONDS = 0.2
PIECE_BYTES = 1 << 16


def log_lines(files: LogFiles, count: int | None, *, follow: bool) -> Iterator[bytes]:
    """The last `count` lines of the files, all of them for None; with `follow` what comes after, for ever.

    Raises FileNotFoundError when there is no log, and it is not to be waited for.
    """
    older, current = files
    file = _open(current, waits=follow)
    try:
        lines: deque[bytes] = deque(maxlen=count)
        with contextlib.suppress(FileNotFoundError), older.open("rb") as before:
            # It may have become the older one since it was opened.
            if not os.path.samestat(os.fstat(before.fileno()), os.fstat(file.fileno())):
                lines.extend(before)
        lines.extend(file)
        yield from lines
        while follow:
            # Asked before it is read: what is written to it until it is exchanged must not be missed.
            is_exchanged = _is_another(file, current)
            while piece := file.read(PIECE_BYTES):
                yield piece
            if not is_exchanged:
                time.sleep(POLL_SECONDS)
                continue
            with contextlib.suppress(FileNotFoundError):
                following = current.open("rb")
                # It may have been exchanged twice since it was looked at.
                yield from _between(file, older, following)
                file.close()
                file = following
    finally:
        file.close()


def _between(file: BinaryIO, older: Path, following: BinaryIO) -> Iterator[bytes]:
    """What the older file has, if it is neither of the two."""
    with contextlib.suppress(FileNotFoundError), older.open("rb") as before:
        stat = os.fstat(before.fileno())
        if not any(os.path.samestat(stat, os.fstat(each.fileno())) for each in (file, following)):
            yield from before


def _open(path: Path, *, waits: bool) -> BinaryIO:
    while True:
        try:
            return path.open("rb")
        except FileNotFoundError:
            if not waits:
                raise
        time.sleep(POLL_SECONDS)


def _is_another(file: BinaryIO, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False

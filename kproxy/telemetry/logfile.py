"""The log file of an instance in the background: a descriptor whose file is exchanged when it has grown.

The descriptor stays the same one, stderr, so that Python itself writes to the right file.
"""

from __future__ import annotations

import contextlib
import os
import stat

from kproxy.errors import KproxyError


class LogFileError(KproxyError):
    """The log file cannot be written."""


class LogFile:
    """`NAME` in an open folder; one older file is kept as `NAME.1`."""

    def __init__(
        self, folder: int, name: str, max_bytes: int, descriptor: int = 2, place: str | None = None
    ) -> None:
        """`descriptor` becomes the file with `take_over`, and is what everybody goes on writing to.

        `place` is the whole path, for messages.
        """
        self.place = place or name
        self._folder = folder
        self._name = name
        self._max_bytes = max_bytes
        self._descriptor = descriptor

    def take_over(self) -> None:
        """Raises LogFileError when the file cannot be opened."""
        try:
            self._exchange()
        except OSError as error:
            raise LogFileError(f"cannot write the log {self._name}: {error.strerror}") from None

    def make_room(self, wanted_bytes: int) -> None:
        """Begin a new file when this one is full; where that is not possible the old one goes on."""
        with contextlib.suppress(OSError):
            size = os.fstat(self._descriptor).st_size
            if size and size + wanted_bytes > self._max_bytes:
                # First the old one goes: on a full disk that is what makes room.
                with contextlib.suppress(FileNotFoundError):
                    os.replace(
                        self._name, f"{self._name}.1", src_dir_fd=self._folder, dst_dir_fd=self._folder
                    )
                self._exchange()

    def _exchange(self) -> None:
        # Without O_NONBLOCK a pipe in its place would hold us up.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        opened = os.open(self._name, flags, 0o600, dir_fd=self._folder)
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise OSError(None, "it is no file")
            os.fchmod(opened, 0o600)
            os.dup2(opened, self._descriptor)
        finally:
            os.close(opened)

"""Lock files beside kubeconfig files, as kubectl makes them, but such that a crash does not lock for ever.

kubectl creates `F.lock` exclusively before it changes `F`, removes it after, and fails if it is there
(client-go tools/clientcmd/config.go, lockFile). Ours hold the owner's process id and host, so that one left
behind by a crash is known at once; an empty one of kubectl's is known by its age.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import structlog

# kubectl holds a lock for milliseconds.
STALE_SECONDS = 300.0
POLL_SECONDS = 0.02

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# Writers of one process take turns; a lock file with our own process id is then one of an earlier life
# (in a container that is always process 1).
_turn = threading.Lock()


class LockedError(Exception):
    """Somebody else holds a lock, and may well still be at work."""


@contextlib.contextmanager
def locked(paths: Iterable[Path], *, clock: Callable[[], float], wait_seconds: float) -> Iterator[None]:
    """Hold the lock of every file in `paths`, in sorted order like all others who do.

    Blocks, so it is not for the event loop. `clock` counts seconds since the epoch. A stale lock is taken
    over, with a warning. Where no lock file can be made none is needed: no more can the file be replaced.
    Raises LockedError after `wait_seconds`.
    """
    with _turn, contextlib.ExitStack() as held:
        deadline = time.monotonic() + wait_seconds
        for path in sorted(set(paths)):
            lock_path = f"{path}.lock"
            with contextlib.suppress(OSError):
                _acquire(lock_path, deadline, clock)
                held.callback(_remove, lock_path)
        yield


def _acquire(lock_path: str, deadline: float, clock: Callable[[], float]) -> None:
    while True:
        try:
            descriptor = os.open(lock_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            reason = _staleness(lock_path, clock())
            if reason is not None:
                _take_away(lock_path, reason)
            elif time.monotonic() >= deadline:
                raise LockedError(
                    f"open {lock_path}: file exists; if no kubectl or kproxy is at work, remove it"
                ) from None
            else:
                time.sleep(POLL_SECONDS)
            continue
        with os.fdopen(descriptor, "w") as file:
            file.write(f"kproxy {os.getpid()} {socket.gethostname()}\n")
        return


def _staleness(lock_path: str, now: float) -> str | None:
    """Why nobody holds this lock any more, None if somebody may."""
    try:
        age_seconds = now - os.stat(lock_path).st_mtime
    except FileNotFoundError:
        return None
    if age_seconds > STALE_SECONDS:
        return f"it is {age_seconds / 60:.0f} minutes old"
    try:
        with open(lock_path) as file:
            words = file.read(300).split()
    except (OSError, ValueError):
        return None
    if len(words) != 3 or words[0] != "kproxy" or words[2] != socket.gethostname() or not words[1].isdigit():
        return None
    if int(words[1]) == os.getpid() or not _is_running(int(words[1])):
        return f"process {words[1]} that made it has ended"
    return None


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _take_away(lock_path: str, reason: str) -> None:
    """Remove a stale lock, unless somebody else did so just before and has made a lock of his own."""
    taken_path = f"{lock_path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        before = os.stat(lock_path).st_ino
        os.rename(lock_path, taken_path)
        if os.stat(taken_path).st_ino != before:
            # Back with it; if a third one has come meanwhile he and its owner have to settle it.
            with contextlib.suppress(FileExistsError):
                os.link(taken_path, lock_path)
        else:
            log.warning("kubeconfig.lock_removed", path=lock_path, reason=reason)
        os.unlink(taken_path)


def _remove(lock_path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lock_path)

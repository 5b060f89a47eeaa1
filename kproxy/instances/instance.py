"""Instances by name: the folder that knows of them, their records, and the lock each holds for its life.

An instance is running exactly when somebody holds its lock (flock); that ends with the process, however it
ends. The record beside it says who that is and how it was started, and may be stale. Lock files stay: to
remove one that another process is about to lock would give the name to two.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kproxy.config.kinds import is_instance_name
from kproxy.errors import KproxyError
from kproxy.system.privatefile import make_folder

DEFAULT_NAME = "default"

STARTING, SERVING, STOPPING, FAILED = "starting", "serving", "stopping", "failed"

LogFiles = tuple[Path, Path]
"""The older one, and the one that is written."""


class InstanceError(KproxyError):
    """An instance, or the folder of instances, is not as it must be for what was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of an instance from its start."""

    name: str
    state: str
    host: str
    pid: int
    process_started: str | None
    """Tells this process from a later one with the same id; None where the system does not say."""
    started_at: float
    arguments: tuple[str, ...]
    """Settings as flags, with absolute paths; what a restart starts with."""
    withheld: tuple[str, ...]
    """Flags that hold a secret: given, but not kept."""
    folder: str
    """The working directory, which relative paths start from."""
    version: str
    ending_seconds: float
    """How long its orderly end may take."""
    is_detached: bool
    """Whether it runs in the background with a log of its own."""
    variables: tuple[str, ...] = ()
    """The settings of its environment, as `NAME=value`, without secrets."""
    addresses: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    context: str | None = None
    server: str | None = None

    def is_this_process_alive(self) -> bool:
        """Whether the process that wrote this still runs; a later one with its id does not count."""
        if self.host != socket.gethostname():
            return True  # nobody here can tell
        if not _exists(self.pid):
            return False
        return self.process_started is None or self.process_started == process_start(self.pid)


def naming(name: str) -> tuple[str, ...]:
    """The flag that says which instance is meant, where it must be said."""
    return () if name == DEFAULT_NAME else (f"--name={name}",)


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where instances are known: `$XDG_RUNTIME_DIR/kproxy`, else below the state folder of the home.

    A relative path is ignored, as the XDG Base Directory Specification says.
    """
    for variable, fallback in (("XDG_RUNTIME_DIR", ""), ("XDG_STATE_HOME", "~/.local/state")):
        folder = environ.get(variable) or os.path.expanduser(fallback)
        if os.path.isabs(folder):
            return Path(folder, "kproxy")
    raise InstanceError("no folder for the state of instances; set XDG_RUNTIME_DIR or HOME")


class InstanceFolder:
    """The folder, held open: what is read and written below is in this folder, whatever its name means later.

    It must belong to this user and be closed to all others: whoever could write here could have us signal a
    process or write a log of their choice.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        """Raises FileNotFoundError when it is absent and not to be made, InstanceError when it is unfit."""
        self.path = path
        if create:
            self._make()
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise
        except OSError as error:
            # As some systems and open(2) tell of a link here.
            is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
            what = "it is a symbolic link or no folder" if is_link else error.strerror
            raise InstanceError(
                f"{path} cannot hold the state of instances: {what}; set XDG_RUNTIME_DIR to a folder of yours"
            ) from None
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self) -> None:
        try:
            make_folder(self.path)
        except OSError as error:
            raise InstanceError(
                f"cannot make {self.path} for the state of instances: {error.strerror}; "
                "set XDG_RUNTIME_DIR to a folder of yours that can be written"
            ) from None

    def _check(self) -> None:
        found = os.fstat(self.descriptor)
        if found.st_uid != os.geteuid():
            raise InstanceError(
                f"{self.path} belongs to user {found.st_uid}, not to you; "
                "remove it, or set XDG_RUNTIME_DIR to a folder of yours"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InstanceError(
                f"{self.path} can be written by other users; look at what is in it and remove it, "
                "or set XDG_RUNTIME_DIR to a folder of yours"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(self.descriptor, 0o700)

    # -- records --

    def names(self) -> list[str]:
        """The instances that there is a record of, running or not."""
        found = (each.removesuffix(".json") for each in os.listdir(self.descriptor) if each.endswith(".json"))
        return sorted(name for name in found if is_instance_name(name))

    def read(self, name: str) -> Record | None:
        """What was last noted; None without a note that can be understood."""
        try:
            with os.fdopen(self._open(f"{name}.json", os.O_RDONLY), "rb") as file:
                return _record(json.load(file))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Note it, all or nothing; only who holds the lock may do so."""
        temporary = f".{record.name}.json.{os.getpid()}"
        try:
            descriptor = self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(record), file, indent=1)
            os.replace(
                temporary, f"{record.name}.json", src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor
            )
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self.descriptor)
            raise InstanceError(f"cannot write to {self.path}: {error.strerror}") from None

    def remove(self, name: str) -> None:
        """Forget the record; only who holds the lock may do so."""
        with contextlib.suppress(OSError):
            os.unlink(f"{name}.json", dir_fd=self.descriptor)

    # -- locks --

    def lock(self, name: str) -> int | None:
        """Take the lock, for as long as a copy of this descriptor is open anywhere; None when it is taken."""
        try:
            descriptor = self._open(f"{name}.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise InstanceError(f"cannot write to {self.path}: {error.strerror}") from None
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            if _flock(descriptor, fcntl.LOCK_EX, self.path):
                undo.pop_all()
                return descriptor
        return None

    def is_locked(self, name: str) -> bool:
        """Whether the instance is running. Looking takes a shared lock for a moment; starters try again."""
        try:
            descriptor = self._open(f"{name}.lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not _flock(descriptor, fcntl.LOCK_SH, self.path)
        finally:
            os.close(descriptor)

    # -- logs --

    def log_files(self, name: str) -> LogFiles:
        return self.path / f"{name}.log.1", self.path / f"{name}.log"

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=self.descriptor)


def _flock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InstanceError(
            f"{path} is on a file system without locks ({error.strerror}); set XDG_RUNTIME_DIR to another"
        ) from None
    return True


def _record(found: object) -> Record:
    """Raises TypeError or ValueError for what another version or somebody else wrote."""
    if not isinstance(found, dict):
        raise TypeError("no record of an instance")
    known = {each.name for each in fields(Record)}
    values = {key: _plain(value) for key, value in found.items() if key in known}
    record = Record(**values)
    if not isinstance(record.pid, int) or record.pid <= 0 or not is_instance_name(record.name):
        raise ValueError("no record of an instance")
    return record


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# -- processes --


def process_start(pid: int) -> str | None:
    """When a process began, in a form that is the same as long as it lives; None where nobody says.

    proc(5): field 22 of stat counts from the start of the machine, which boot_id names.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The command's name, in parentheses, may hold anything.
    return f"{boot}:{text.rpartition(')')[2].split()[19]}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _open_process(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None  # a kernel, or a sandbox, that has no such call


@contextlib.contextmanager
def process_of(record: Record) -> Iterator[int | None]:
    """A handle on the instance's process that no later process with its id can take over.

    None where the system has no such handles. Raises ProcessLookupError when the process has ended.
    """
    handle = _open_process(record.pid)
    try:
        # Looked at after the handle was opened: now it cannot become another one any more.
        if not record.is_this_process_alive():
            raise ProcessLookupError
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def send_signal(record: Record, number: int) -> None:
    """Signal the instance's process and no other. Raises ProcessLookupError when it has ended."""
    with process_of(record) as handle:
        if handle is None:
            os.kill(record.pid, number)
        else:
            signal.pidfd_send_signal(handle, number)

"""Instances that run: started, in the background or the foreground, stopped, and asked how they are.

A start takes the instance's lock, forks, and waits until the child serves or says why not. The child keeps
the lock for its life. Whoever finds the lock taken waits to see what comes of that start, so that of two at
once one serves and both tell the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kproxy import __version__
from kproxy.config import Config
from kproxy.errors import ConfigError, KproxyError
from kproxy.instance import (
    FAILED,
    SERVING,
    STARTING,
    STOPPING,
    InstanceError,
    InstanceFolder,
    Record,
    process_start,
    send_signal,
)
from kproxy.logfile import LogFile
from kproxy.settings import Settings
from kproxy.supervisor import SUPERVISOR_VARIABLES, Serving, Supervisor

START_SECONDS = 60.0
"""How long a start may take: nothing is fetched before it serves, but a network home may be slow."""
STOP_MARGIN_SECONDS = 5.0
"""What an end may take on top of the grace period."""
CALL_OFF_SECONDS = 1.0
"""What a start that was called off may take to end by itself."""
POLL_SECONDS = 0.05

Run = Callable[[Settings, Supervisor, LogFile | None], int]
"""Serves until it is told to end, and returns the exit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be started."""

    name: str
    settings: Settings
    arguments: tuple[str, ...]
    """See `Record`."""
    withheld: tuple[str, ...]

    @property
    def config(self) -> Config:
        return self.settings.config

    def record(self, *, is_detached: bool) -> Record:
        return Record(
            name=self.name,
            state=STARTING,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=process_start(os.getpid()),
            started_at=time.time(),
            arguments=self.arguments,
            withheld=self.withheld,
            folder=os.getcwd(),
            version=__version__,
            ending_seconds=self.config.grace_period_seconds + self.config.shutdown_delay_seconds,
            is_detached=is_detached,
        )


class Keeper:
    """Keeps the record of the instance that this process is, as a supervisor of the server."""

    def __init__(self, folder: InstanceFolder, record: Record, report: Callable[[], None]) -> None:
        """`report` is called once the record says that it serves."""
        self._folder = folder
        self._record = record
        self._report = report

    def serving(self, what: Serving) -> None:
        self._record = replace(
            self._record,
            state=SERVING,
            addresses=what.addresses,
            urls=what.urls,
            context=what.context,
            server=what.server,
        )
        self._folder.write(self._record)
        self._report()

    def reloading(self) -> None:
        """Nothing that a record tells."""

    def reloaded(self) -> None:
        """As before."""

    def stopping(self) -> None:
        # On a full disk it ends all the same.
        with contextlib.suppress(InstanceError):
            self._folder.write(replace(self._record, state=STOPPING))

    def close(self) -> None:
        """The record goes once all has ended, which is not yet."""


# -- start --


def start(launch: Launch, folder: InstanceFolder, run: Run, *, timeout_seconds: float) -> tuple[Record, bool]:
    """The record of the instance that serves now, and whether it is the one started here.

    Raises what kept the child from serving: ConfigError or another KproxyError.
    """
    lock, running = _lock_or_running(launch.name, folder, timeout_seconds)
    if running is not None:
        return running, False
    assert lock is not None
    return _start_detached(launch, folder, lock, run, timeout_seconds), True


def serve_in_foreground(launch: Launch, folder: InstanceFolder, run: Run) -> int | Record:
    """Serve as that instance until told to end; the record of the one that runs already instead."""
    lock, running = _lock_or_running(launch.name, folder, START_SECONDS)
    if running is not None:
        return running
    record = launch.record(is_detached=False)
    folder.write(record)
    try:
        code = run(launch.settings, Keeper(folder, record, lambda: None), None)
    except KproxyError:
        folder.write(replace(record, state=FAILED))
        raise
    folder.remove(launch.name)
    assert lock is not None
    os.close(lock)
    return code


def _lock_or_running(
    name: str, folder: InstanceFolder, timeout_seconds: float
) -> tuple[int | None, Record | None]:
    deadline = time.monotonic() + timeout_seconds
    while (lock := folder.lock(name)) is None:
        record = folder.read(name)
        if record is not None and record.state == SERVING and record.is_this_process_alive():
            return None, record
        # Another start is on its way, or the old one is ending: see what comes of it.
        if time.monotonic() > deadline:
            what = record.state if record is not None else "busy"
            raise InstanceError(
                f'instance "{name}" is {what} since over {timeout_seconds:g} s; see kproxy logs'
            )
        time.sleep(POLL_SECONDS)
    return lock, None


def _start_detached(
    launch: Launch, folder: InstanceFolder, lock: int, run: Run, timeout_seconds: float
) -> Record:
    record = launch.record(is_detached=True)
    folder.write(record)
    log_path = folder.log_files(launch.name)[-1]
    log_bytes = log_path.stat().st_size if log_path.exists() else 0
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        # What is buffered here would be written a second time there.
        if stream is not None:
            stream.flush()
    child = os.fork()
    if child == 0:
        # A session of its own, and not its leader: such a process never gets a terminal again (daemon(7)).
        os.setsid()
        if os.fork() == 0:
            os.close(reader)
            _be_the_daemon(launch, folder, record, run, keep={lock, writer}, report_to=writer)
        os._exit(0)
    os.close(writer)
    os.close(lock)
    try:
        os.waitpid(child, 0)
        outcome = _read_outcome(reader, timeout_seconds)
    except BaseException:
        # Whoever waited for it has gone: it must not serve behind their back.
        _call_off(folder, launch.name)
        raise
    finally:
        os.close(reader)
    return _judge(outcome, folder, launch.name, log_bytes)


def _be_the_daemon(
    launch: Launch, folder: InstanceFolder, record: Record, run: Run, *, keep: set[int], report_to: int
) -> None:
    """The rest of this process's life; it does not return."""
    code = 1
    report = _Report(report_to)
    try:
        _close_descriptors({*keep, folder.descriptor, 0, 1, 2})
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        log_file = LogFile(
            folder.descriptor, folder.log_files(launch.name)[-1].name, launch.config.log_max_bytes
        )
        log_file.take_over()
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        for variable in SUPERVISOR_VARIABLES:
            # They were for the process that started us, as in the terminal of an editor that is a service.
            os.environ.pop(variable, None)
        record = replace(record, pid=os.getpid(), process_started=process_start(os.getpid()))
        folder.write(record)
        code = run(launch.settings, Keeper(folder, record, report.serving), log_file)
        folder.remove(launch.name)
    except ConfigError as error:
        code = 2
        report.problems(error.problems)
    except (KproxyError, OSError) as error:
        report.failure(str(error))
    except BaseException as error:
        report.failure(f"{type(error).__name__}, which is a bug in kproxy; the log has more")
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        if report.has_failed:
            with contextlib.suppress(KproxyError):
                folder.write(replace(record, state=FAILED))
        # Not into the frames of the process we were forked from.
        os._exit(code)


class _Report:
    """What the child tells whoever started it, once: that it serves, or why not."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_told = False
        self.has_failed = False

    def serving(self) -> None:
        """Raises BrokenPipeError when nobody waits any more."""
        self._tell({})

    def problems(self, problems: Sequence[str]) -> None:
        self._fail({"problems": list(problems)})

    def failure(self, message: str) -> None:
        self._fail({"message": message})

    def _fail(self, outcome: dict[str, Any]) -> None:
        if not self._is_told:
            self.has_failed = True
            with contextlib.suppress(OSError):
                self._tell(outcome)
        elif sys.stderr is not None:
            # Too late for whoever started it, so the log gets it.
            with contextlib.suppress(OSError):
                sys.stderr.write(f"error: {outcome}\n")

    def _tell(self, outcome: dict[str, Any]) -> None:
        data = json.dumps(outcome).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.close(self._descriptor)
        self._is_told = True


def _close_descriptors(keep: set[int]) -> None:
    """Close what was inherited: a lock or pipe of the shell's must not stay open for our life."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _read_outcome(reader: int, timeout_seconds: float) -> dict[str, Any] | None:
    """What the child told; None when it ended without a word. Raises InstanceError when it takes too long."""
    deadline = time.monotonic() + timeout_seconds
    data = bytearray()
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            raise InstanceError(f"it did not serve within {timeout_seconds:g} s and was stopped")
        if not (piece := os.read(reader, 65536)):
            return None
        data += piece
    found: dict[str, Any] = json.loads(data)
    return found


def _call_off(folder: InstanceFolder, name: str) -> None:
    """End a child that does not serve yet, if need be by force: one that hangs in a read hears no signal."""
    record = folder.read(name)
    if record is None or record.pid == os.getpid():
        return
    for number, seconds in ((signal.SIGTERM, CALL_OFF_SECONDS), (signal.SIGKILL, STOP_MARGIN_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            send_signal(record, number)
        deadline = time.monotonic() + seconds
        while folder.is_locked(name) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if not folder.is_locked(name):
            return


def _judge(outcome: dict[str, Any] | None, folder: InstanceFolder, name: str, log_bytes: int) -> Record:
    if outcome is None:
        log_path = folder.log_files(name)[-1]
        with contextlib.suppress(OSError), log_path.open("rb") as file:
            file.seek(log_bytes)
            if last := file.read()[-2000:].decode(errors="replace").strip():
                raise InstanceError(f"it ended before it served; its last words are:\n{last}")
        raise InstanceError(f"it ended before it served; {log_path} says nothing of it")
    if "problems" in outcome:
        raise ConfigError(outcome["problems"])
    if "message" in outcome:
        raise InstanceError(outcome["message"])
    record = folder.read(name)
    if record is None:
        raise InstanceError("it served, but has ended since")
    return record


# -- stop --


def stop(name: str, folder: InstanceFolder, *, timeout_seconds: float | None) -> Record | None:
    """End the instance in order and wait for that; None when none was running.

    Raises InstanceError when it has not ended by then; asked again, it cuts what is still open.
    """
    asked: Record | None = None
    waits_until = time.monotonic() + (START_SECONDS if timeout_seconds is None else timeout_seconds)
    while folder.is_locked(name):
        record = folder.read(name)
        if asked is None:
            if record is not None and record.host != socket.gethostname():
                raise InstanceError(f'instance "{name}" runs on {record.host}; stop it there')
            if record is not None and _is_signalled(record):
                asked = record
                if timeout_seconds is None:
                    timeout_seconds = record.ending_seconds + STOP_MARGIN_SECONDS
                waits_until = time.monotonic() + timeout_seconds
        elif record is not None and record.pid != asked.pid:
            return asked  # somebody has started another one meanwhile
        if time.monotonic() > waits_until:
            raise InstanceError(_still_there(name, asked))
        time.sleep(POLL_SECONDS)
    if asked is None:
        _forget(name, folder)
    return asked


def _is_signalled(record: Record) -> bool:
    try:
        send_signal(record, signal.SIGTERM)
    except ProcessLookupError:
        # A record from before; whoever holds the lock has not written one yet.
        return False
    except PermissionError:
        raise InstanceError(f'no permission to stop instance "{record.name}" (pid {record.pid})') from None
    return True


def _still_there(name: str, asked: Record | None) -> str:
    if asked is None:
        return f'instance "{name}" is starting and cannot be stopped yet; try again'
    return (
        f'instance "{name}" (pid {asked.pid}) waits for open requests to end; '
        "`kproxy stop` once more cuts them, --timeout waits longer"
    )


def _forget(name: str, folder: InstanceFolder) -> None:
    """Remove what a crashed instance left, unless somebody starts it right now."""
    if folder.read(name) is not None and (lock := folder.lock(name)) is not None:
        folder.remove(name)
        os.close(lock)

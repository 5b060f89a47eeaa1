"""A process that leaves its parent: forked, without terminal and open files, heard of until it serves."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kproxy.errors import ConfigError, KproxyError
from kproxy.instances.instance import (
    FAILED,
    InstanceError,
    InstanceFolder,
    Record,
    send_signal,
)
from kproxy.instances.keeper import Keeper, Launch, Run
from kproxy.system.supervisor import SUPERVISOR_VARIABLES
from kproxy.telemetry.logfile import LogFile

CALL_OFF_SECONDS, KILL_SECONDS = 1.0, 5.0
"""What a start that was called off may take to end by itself, and what after SIGKILL."""
POLL_SECONDS = 0.05


def start_detached(
    launch: Launch, folder: InstanceFolder, lock: int, run: Run, timeout_seconds: float
) -> Record:
    """The record of the instance once it serves; `lock` becomes the child's, and is closed here.

    Raises what kept the child from serving: ConfigError or another KproxyError.
    """
    log_path = folder.log_files(launch.name)[-1]
    log_bytes = log_path.stat().st_size if log_path.exists() else 0
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        # What is buffered here would be written a second time there.
        stream.flush()
    child = os.fork()
    if child == 0:
        # A session of its own, and not its leader: such a process never gets a terminal again (daemon(7)).
        os.setsid()
        if os.fork() == 0:
            os.close(reader)
            _be_the_daemon(launch, folder, run, keep={lock, writer}, report_to=writer)
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
    launch: Launch, folder: InstanceFolder, run: Run, *, keep: set[int], report_to: int
) -> None:
    """The rest of this process's life; it does not return."""
    code = 1
    report = _Report(report_to)
    record = launch.record(is_detached=True)
    try:
        # Until the server has its own way: an end before that is to be told, too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _close_descriptors({*keep, folder.descriptor, 0, 1, 2})
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        path = folder.log_files(launch.name)[-1]
        log_file = LogFile(folder.descriptor, path.name, launch.config.log_max_bytes, place=str(path))
        log_file.take_over()
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        for variable in SUPERVISOR_VARIABLES:
            # They were for the process that started us, as in the terminal of an editor that is a service.
            os.environ.pop(variable, None)
        folder.write(record)
        code = run(launch.settings, Keeper(folder, record, report.serving), log_file, launch.name)
        folder.remove(launch.name)
    except ConfigError as error:
        code = 2
        report.problems(error.problems)
    except (KproxyError, OSError) as error:
        report.failure(str(error))
    except KeyboardInterrupt:
        report.failure("a signal ended it before it served")
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
        self._fail({"problems": list(problems)}, problems)

    def failure(self, message: str) -> None:
        self._fail({"message": message}, [message])

    def _fail(self, outcome: dict[str, Any], lines: Sequence[str]) -> None:
        # In the log, too: whoever looks for it later was not there, or it comes too late for who was.
        with contextlib.suppress(OSError):
            sys.stderr.write("".join(f"error: {line}\n" for line in lines))
        if not self._is_told:
            self.has_failed = True
            with contextlib.suppress(OSError):
                self._tell(outcome)

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
    if record is None:
        return
    for number, seconds in ((signal.SIGTERM, CALL_OFF_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
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

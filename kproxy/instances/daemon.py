"""Instances that run: started, in the background or the foreground, and stopped.

A start takes the instance's lock, forks, and waits until the child serves or says why not. The child keeps
the lock for its life. Whoever finds the lock taken waits to see what comes of that start, so that of two at
once one serves and both tell the same.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace

from kproxy.errors import KproxyError
from kproxy.instances.detaching import start_detached
from kproxy.instances.instance import FAILED, SERVING, InstanceError, InstanceFolder, Record, send_signal
from kproxy.instances.keeper import Keeper, Launch, Run

START_SECONDS = 60.0
"""How long a start may take: nothing is fetched before it serves, but a network home may be slow."""
STOP_MARGIN_SECONDS = 5.0
"""What an end may take on top of the grace period."""
POLL_SECONDS = 0.05


# -- start --


def start(
    launch: Launch, folder: InstanceFolder, run: Run, *, timeout_seconds: float = START_SECONDS
) -> tuple[Record, bool]:
    """The record of the instance that serves now, and whether it is the one started here.

    Raises what kept the child from serving: ConfigError or another KproxyError.
    """
    lock, running = _lock_or_running(launch.name, folder, timeout_seconds)
    if running is not None:
        return running, False
    assert lock is not None
    return start_detached(launch, folder, lock, run, timeout_seconds), True


def serve_in_foreground(launch: Launch, folder: InstanceFolder, run: Run) -> int | Record:
    """Serve as that instance until told to end; the record of the one that runs already instead."""
    lock, running = _lock_or_running(launch.name, folder, START_SECONDS)
    if running is not None:
        return running
    record = launch.record(is_detached=False)
    folder.write(record)
    try:
        code = run(launch.settings, Keeper(folder, record, lambda: None), None, launch.name)
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


# -- stop --


def stop(name: str, folder: InstanceFolder, *, timeout_seconds: float | None) -> Record | None:
    """End the instance in order and wait for that; None when none was running.

    Raises InstanceError when it has not ended by then; asked again, it cuts what is still open.
    """
    asked: Record | None = None
    since, seconds = time.monotonic(), START_SECONDS
    while folder.is_locked(name):
        record = folder.read(name)
        if asked is None:
            if record is not None and record.host != socket.gethostname():
                raise InstanceError(f'instance "{name}" runs on {record.host}; stop it there')
            if record is not None and _is_signalled(record):
                asked, since = record, time.monotonic()
        elif record is not None and record.pid != asked.pid:
            return asked  # somebody has started another one meanwhile
        if asked is not None and record is not None:
            # As it says itself by then: a changed config file may have given it more time.
            seconds = record.ending_seconds + STOP_MARGIN_SECONDS
        if time.monotonic() > since + (seconds if timeout_seconds is None else timeout_seconds):
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
        f'instance "{name}" (pid {asked.pid}) waits for open requests to end; `kproxy stop` once more cuts '
        f"them, --timeout waits longer, and kill -9 {asked.pid} ends one that hangs"
    )


def _forget(name: str, folder: InstanceFolder) -> None:
    """Remove what a crashed instance left, unless somebody starts it right now."""
    if folder.read(name) is not None and (lock := folder.lock(name)) is not None:
        folder.remove(name)
        os.close(lock)

"""The protocol between systemd and a service: readiness, reloads, the watchdog, passed sockets.

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). Nothing of systemd itself is needed, and
whoever speaks the protocol may take its place.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import MutableMapping

import structlog

from kproxy.errors import ConfigError
from kproxy.system.supervisor import MANAGER_MARGIN_SECONDS, SUPERVISOR_VARIABLES, Serving

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""
SEND_SECONDS = 0.5
"""How long the event loop waits, at most, for a manager that does not take a message."""
_log = structlog.get_logger()


def take_passed_sockets(environ: MutableMapping[str, str]) -> tuple[int, ...]:
    """The descriptors of sockets meant for this process; the variables that tell of them are removed.

    Raises ConfigError when they are told of but not there.
    """
    told = {name: environ.pop(name, "") for name in SUPERVISOR_VARIABLES if name.startswith("LISTEN_")}
    if told["LISTEN_PID"] != str(os.getpid()):
        return ()
    if not told["LISTEN_FDS"].isdecimal():
        raise ConfigError(f"LISTEN_FDS: expected the number of passed sockets, got {told['LISTEN_FDS']!r}")
    found = tuple(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(told["LISTEN_FDS"])))
    for descriptor in found:
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            raise ConfigError(
                f"LISTEN_FDS: told of {told['LISTEN_FDS']} sockets, but descriptor {descriptor} is not open"
            ) from None
    return found


class Notifier:
    """Tells the service manager of us, and shows the watchdog that the event loop turns."""

    def __init__(self, address: str, watchdog_seconds: float | None) -> None:
        """`address` as in NOTIFY_SOCKET; `watchdog_seconds` is the time after which silence means death."""
        # Linux names a socket without a file by a first byte of zero, systemd writes it as @.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(SEND_SECONDS)
        self._status = ""
        self._is_stopping = False
        self._has_failed = False

    def serving(self, what: Serving) -> None:
        self._status = f"Serving {', '.join(what.addresses)} for context {what.context}"
        self._send("READY=1", f"STATUS={self._status}")
        if self._watchdog_seconds is not None:
            self._feed()

    def reloading(self) -> None:
        if not self._is_stopping:
            now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._send("RELOADING=1", f"MONOTONIC_USEC={now_usec}", "STATUS=Reloading")

    def reloaded(self) -> None:
        # Too late to be ready again once the end has begun.
        if not self._is_stopping:
            self._send("READY=1", f"STATUS={self._status}")

    def stopping(self, seconds: float) -> None:
        self._is_stopping = True
        # The grace period may have been raised since the unit was written, and its TimeoutStopSec= with it.
        extension = f"EXTEND_TIMEOUT_USEC={round((seconds + MANAGER_MARGIN_SECONDS) * 1e6)}"
        self._send("STOPPING=1", extension, "STATUS=Waiting for open requests to end")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()

    def _feed(self) -> None:
        assert self._watchdog_seconds is not None
        self._send("WATCHDOG=1")
        # sd_watchdog_enabled(3): at half of the time.
        self._timer = asyncio.get_running_loop().call_later(self._watchdog_seconds / 2, self._feed)

    def _send(self, *lines: str) -> None:
        # A line break in a context's name would begin an assignment of its own.
        text = "\n".join("".join(line.splitlines()) for line in lines)
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                _log.warning("supervisor.unreachable", error=error.strerror or str(error))


def take_notifier(environ: MutableMapping[str, str]) -> Notifier | None:
    """Whom to tell, if a service manager wants to know; its variables are removed."""
    address = environ.pop("NOTIFY_SOCKET", "")
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not address.startswith(("/", "@")):
        return None
    is_watched = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
    return Notifier(address, int(usec) / 1e6 if is_watched else None)

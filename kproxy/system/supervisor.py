"""Whoever started kproxy and wants to know how it goes: an init system, or `kproxy start`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

SUPERVISOR_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
)
"""What systemd tells a service, and that service alone: exec plugins are started without them."""
MANAGER_MARGIN_SECONDS = 10
"""What a service manager lets an end take on top of the time that open requests get."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedContext:
    """One context, and where it is found on every listener."""

    name: str
    path: str
    """Begins and ends with a slash."""
    namespace: str | None
    """What kubectl uses for this context when no other is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What is served, and where."""

    addresses: tuple[str, ...]
    """As the first lines on stdout name them."""
    urls: tuple[str, ...]
    """Of the same listeners, in the same order; that of a unix socket is `unix:/path`."""
    context: str
    server: str
    contexts: tuple[ServedContext, ...]
    """All of them, `context` among them."""


class Supervisor(Protocol):
    """Is told in the event loop, and must not block it."""

    def serving(self, what: Serving) -> None:
        """Connections are accepted from now on."""

    def reloading(self) -> None:
        """Changed settings or kubeconfig files are being read."""

    def reloaded(self) -> None:
        """They are in force, or the old ones stay."""

    def stopping(self, seconds: float) -> None:
        """The orderly end has begun, and may take so long."""

    def close(self) -> None:
        """Nothing more will be told."""


class Supervisors:
    """Tells several; without any it tells nobody."""

    def __init__(self, told: Iterable[Supervisor] = ()) -> None:
        self._told = tuple(told)

    def serving(self, what: Serving) -> None:
        for each in self._told:
            each.serving(what)

    def reloading(self) -> None:
        for each in self._told:
            each.reloading()

    def reloaded(self) -> None:
        for each in self._told:
            each.reloaded()

    def stopping(self, seconds: float) -> None:
        for each in self._told:
            each.stopping(seconds)

    def close(self) -> None:
        for each in self._told:
            each.close()


NOBODY = Supervisors()

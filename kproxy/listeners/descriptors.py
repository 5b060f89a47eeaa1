"""Descriptors: a process has so many, and idle clients must not take those that requests need."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterable
from heapq import nsmallest
from operator import attrgetter
from time import monotonic
from typing import NamedTuple, Protocol

import structlog

_RESERVED = 64
"""Kept for dials, files and exec plugins; a quarter of all where there are few."""
_LAST = 16
"""With fewer than these left clients wait in the kernel's queue: what was accepted must be served."""
_FRESH_SECONDS = 0.2
"""Who came just now is about to ask something."""
_CALM_SECONDS = 60.0
"""After so long without need the next one is a new one for the log."""

_log = structlog.get_logger()


class Waiting(NamedTuple):
    """A client without a request that is being answered, and how to end it."""

    has_begun: bool
    """Whether some of its next request has come."""
    since: float
    end: Callable[[], None]


class Place(Protocol):
    """Where clients come in."""

    def waiting(self) -> Iterable[Waiting]: ...

    def accept_carefully(self) -> None:
        """Take clients only as long as `accepts` says so."""


class Descriptors:
    """Near the limit (ulimit -n) it ends clients that only wait, the oldest first, some at a time."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._limit = self._soft_limit = 0
        self._read_limit()
        self._ending = 0
        """Clients that were ended and whose descriptors may still be open."""
        self._last_at = -_CALM_SECONDS

    def accepts(self, descriptor: int) -> bool:
        """Make room if need be; whether another client may be accepted behind the one with this descriptor.

        The kernel gives the lowest free number: all below are in use.
        """
        if descriptor < self._limit:
            self._ending = 0
        elif self._ending:
            self._ending -= 1
        else:
            self._end_some()
        return descriptor < self._soft_limit - min(_LAST, self._reserved // 2)

    def accepts_again(self) -> bool:
        """`accepts`, when nobody was for a while."""
        return self.accepts(_lowest_free())

    def make_room(self) -> bool:
        """Before one is opened: whether clients were ended, whose descriptors the loop's next round has."""
        self.accepts(_lowest_free())
        return self._ending > 0

    @property
    def _reserved(self) -> int:
        return min(_RESERVED, self._soft_limit // 4)

    def _read_limit(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._soft_limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
        self._limit = self._soft_limit - self._reserved

    def _end_some(self) -> None:
        # It may have been changed (prlimit) since.
        self._read_limit()
        now = monotonic()
        waiting = [
            each for place in self.places for each in place.waiting() if now - each.since > _FRESH_SECONDS
        ]
        oldest = nsmallest(max(1, self._reserved // 4), waiting, key=attrgetter("has_begun", "since"))
        self._ending = len(oldest)
        if now - self._last_at > _CALM_SECONDS:
            _log.warning("listener.crowded", limit=self._soft_limit)
        self._last_at = now
        for each in oldest:
            each.end()
        for place in self.places:
            place.accept_carefully()


def _lowest_free() -> int:
    """The number that the next descriptor would get; sys.maxsize when there is none."""
    try:
        number = os.dup(0)
    except OSError as error:
        return sys.maxsize if error.errno in (errno.EMFILE, errno.ENFILE) else 0
    os.close(number)
    return number

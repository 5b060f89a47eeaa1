"""Time that goes on while the machine sleeps, and who notices that it slept.

Event loops and `time.monotonic` stand still meanwhile: a connection that was used a second ago by their count
may have been silent for a night.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial

LOOK_SECONDS = 2.0
"""How often open connections are looked at; all looks of a process come at the same moment."""
LATE_SECONDS = 2.0
"""Of a look that comes so much later than it was meant to: the machine has slept, or kproxy was stopped."""

now: Callable[[], float] = partial(
    # Linux's CLOCK_MONOTONIC stands still in a sleep, that of macOS goes on (clock_gettime(3) of either).
    time.clock_gettime,
    getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC),
)
"""Seconds; only differences mean something."""


class Vigil:
    """Calls `look` every LOOK_SECONDS until it says that there is nothing to look after, or `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look: Callable[[float], bool],
        *,
        clock: Callable[[], float] = now,
    ) -> None:
        """`look` is told for how many seconds the machine slept, 0.0 if it did not; True asks for more.

        `clock` is for tests.
        """
        self._loop = loop
        self._look = look
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Idempotent."""
        if self._timer is None:
            at = self._loop.time()
            left_seconds = (math.floor(at / LOOK_SECONDS) + 1) * LOOK_SECONDS - at
            self._due = self._clock() + left_seconds
            self._timer = self._loop.call_at(at + left_seconds, self._tick)

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        late_seconds = self._clock() - self._due
        if self._look(late_seconds if late_seconds > LATE_SECONDS else 0.0):
            self.start()

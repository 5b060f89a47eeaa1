"""A clock that a test turns: for `clock` and `monotonic` arguments."""

from __future__ import annotations

import time


class Clock:
    """Starts at the real time, so that what real programs say of "now" fits, and then stands still."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds

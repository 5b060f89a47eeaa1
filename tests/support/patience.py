"""How long a test waits for what must come, and waiting for facts that nothing announces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LAST_RESORT_SECONDS = 60.0
"""Then it is given up. No claim about speed: a busy machine may hold up anything for seconds."""


async def until(condition: Callable[[], bool], what: str, seconds: float = LAST_RESORT_SECONDS) -> None:
    """AssertionError that names `what` when it does not come about in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.005)


async def standstill(value: Callable[[], T], rounds: int = 10) -> T:
    """The value, once it has been the same for a while: `rounds` of 20 ms."""
    seen = value()
    same = 0
    while same < rounds:
        await asyncio.sleep(0.02)
        now = value()
        same = same + 1 if now == seen else 0
        seen = now
    return seen

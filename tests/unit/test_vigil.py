"""Noticing that the machine slept: with a clock that the test turns, and the event loop's own timers."""

from __future__ import annotations

import asyncio

import pytest

from kproxy.upstream import vigil
from kproxy.upstream.vigil import Vigil
from tests.support.clock import Clock
from tests.support.patience import until


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "LOOK_SECONDS", 0.02)


class Looks:
    """What a Vigil has told, and how many more looks are asked for."""

    def __init__(self, left: int) -> None:
        self.slept: list[float] = []
        self.left = left

    def __call__(self, slept_seconds: float) -> bool:
        self.slept.append(slept_seconds)
        self.left -= 1
        return self.left > 0


async def test_a_sleep_is_noticed_once() -> None:
    """The look after it is told how long it was; the others that there was none."""
    clock, looks = Clock(), Looks(3)
    watch = Vigil(asyncio.get_running_loop(), looks, clock=clock)
    watch.start()
    clock.pass_seconds(3600)
    await until(lambda: len(looks.slept) == 3, "three looks")
    assert looks.slept == [pytest.approx(3600, abs=1), 0, 0]


async def test_a_busy_moment_is_no_sleep() -> None:
    """A look that is late by a second may be so on any machine."""
    clock, looks = Clock(), Looks(1)
    Vigil(asyncio.get_running_loop(), looks, clock=clock).start()
    clock.pass_seconds(1)
    await until(lambda: len(looks.slept) == 1, "a look")
    assert looks.slept == [0]


async def test_nothing_to_look_after_needs_no_timer() -> None:
    """Who has no connections is not woken up; with the next one it begins anew."""
    looks = Looks(1)
    watch = Vigil(asyncio.get_running_loop(), looks)
    watch.start()
    watch.start()
    await until(lambda: len(looks.slept) == 1, "a look")
    await asyncio.sleep(0.1)
    assert looks.slept == [0]
    looks.left = 1
    watch.start()
    await until(lambda: len(looks.slept) == 2, "a look")
    watch.stop()

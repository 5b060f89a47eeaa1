"""Whether a connection still lives: a peer that is silent is asked for a PING (RFC 9113, 6.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kproxy.errors import KproxyError, UpstreamTimeout
from kproxy.upstream.health import Health
from kproxy.upstream.vigil import now


class Pulse:
    """Owns the timer of one connection, which notes in `heard_at` (`vigil.now`) that something came.

    In its own time it asks after a long silence and waits patiently. When somebody is waiting, or after a
    sleep, it is pressed: then a peer is doubted that says nothing for a moment, and soon given up.
    """

    __slots__ = (
        "_asked_at",
        "_doubt",
        "_give_up",
        "_health",
        "_is_pressed",
        "_loop",
        "_patience_seconds",
        "_ping",
        "_timer",
        "_waiters",
        "doubted_at",
        "heard_at",
        "rest_seconds",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        health: Health,
        ping: Callable[[], None],
        doubt: Callable[[], None],
        give_up: Callable[[KproxyError], None],
    ) -> None:
        """`ping` asks the peer for a sign of life; `doubt` and `give_up` are told that none came."""
        self._loop = loop
        self._health = health
        self._ping = ping
        self._doubt = doubt
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None
        self._is_pressed = False
        self._patience_seconds = health.patience_seconds
        self._waiters: list[asyncio.Future[None]] = []
        self.heard_at = now()
        self.doubted_at = self.heard_at
        """When it was doubted last: it still is, unless something came since."""
        self.rest_seconds = health.rest_seconds

    def start(self) -> None:
        """Look after the connection, unless that is turned off."""
        if self._health.read_idle_seconds:
            self._timer = self._loop.call_later(self._health.read_idle_seconds, self._check_up)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell_waiters()

    @property
    def is_rested(self) -> bool:
        """Whether it was silent for so long that nobody should count on it unasked."""
        return now() - self.heard_at > self.rest_seconds

    def press(self) -> None:
        """Find out soon whether the peer is there: somebody waits for it, or the machine has slept."""
        if self._timer is not None and not (self._is_pressed and self._is_unanswered):
            self._timer.cancel()
            self._is_pressed = True
            self._ask(self._patience_seconds, self._lose_patience)

    async def verify(self) -> None:
        """`press`, and wait until the peer has answered, is doubted, or is gone."""
        self.press()
        if self._timer is not None and self.doubted_at <= self.heard_at:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def note_answer(self) -> None:
        """The answer to PING came; who is further away gets more time for the next."""
        if self._asked_at is not None:
            round_trip_seconds = now() - self._asked_at
            longest = self._health.give_up_seconds / 2
            self._patience_seconds = max(self._health.patience_seconds, min(4 * round_trip_seconds, longest))
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    @property
    def _is_unanswered(self) -> bool:
        return self._asked_at is not None and self.heard_at < self._asked_at

    def _ask(self, seconds: float, and_then: Callable[[], None]) -> None:
        self._asked_at = now()
        self._ping()
        self._timer = self._loop.call_later(seconds, and_then)

    def _lose_patience(self) -> None:
        """Let nobody wait for a peer that was pressed in vain; it has some more time to save its streams."""
        if not self._is_unanswered:
            self._check_up()
        else:
            left_seconds = max(self._health.give_up_seconds - self._patience_seconds, 0)
            self._timer = self._loop.call_later(left_seconds, self._check_up)
            self.doubted_at = now()
            self._doubt()
        self._tell_waiters()

    def _check_up(self) -> None:
        """Ask a peer that is silent, and give up on one that does not answer."""
        self._timer = None
        self._is_pressed = False
        silent_seconds = now() - self.heard_at
        left_seconds = self._health.read_idle_seconds - silent_seconds
        if self._is_unanswered:
            self._give_up(
                UpstreamTimeout(
                    f"the API server sent nothing for {silent_seconds:.0f} s and answers no PING; "
                    "is the network up, and the VPN?"
                )
            )
        elif left_seconds > 0.001:
            self._timer = self._loop.call_later(left_seconds, self._check_up)
        else:
            self._ask(self._health.ping_seconds, self._check_up)

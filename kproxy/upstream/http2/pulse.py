"""Whether a connection still lives: a peer that is silent is asked for a PING (RFC 9113, 6.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kproxy.errors import KproxyError, UpstreamTimeout
from kproxy.upstream.health import Health


class Pulse:
    """Owns the timer of one connection, which notes in `heard_at` (the loop's time) that something came."""

    __slots__ = ("_asked_at", "_give_up", "_health", "_loop", "_ping", "_timer", "heard_at", "rest_seconds")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        health: Health,
        ping: Callable[[], None],
        give_up: Callable[[KproxyError], None],
    ) -> None:
        """`ping` asks the peer for a sign of life, `give_up` is told that none came."""
        self._loop = loop
        self._health = health
        self._ping = ping
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None
        self.heard_at = loop.time()
        self.rest_seconds = health.rest_seconds

    def start(self) -> None:
        """Look after the connection, unless that is turned off."""
        if self._health.read_idle_seconds:
            self._timer = self._loop.call_later(self._health.read_idle_seconds, self._check_up)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ask_after_rest(self) -> None:
        """Ask with the first request after a while: a laptop may have slept meanwhile."""
        if self._timer is not None and not self._is_unanswered:
            self._timer.cancel()
            self._ask()

    @property
    def _is_unanswered(self) -> bool:
        return self._asked_at is not None and self.heard_at < self._asked_at

    def _ask(self) -> None:
        self._asked_at = self._loop.time()
        self._ping()
        self._timer = self._loop.call_later(self._health.ping_seconds, self._check_up)

    def _check_up(self) -> None:
        """Ask a peer that is silent, and give up on one that does not answer."""
        self._timer = None
        silent_seconds = self._loop.time() - self.heard_at
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
            self._ask()

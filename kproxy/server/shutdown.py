"""The orderly end: signals that ask for it, and connections that end by themselves while there is time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from kproxy.gateway.client import Downstream
from kproxy.gateway.relay import Relay
from kproxy.listeners.listener import Listener


class Stopping:
    """Signals as events: the first asks to drain, the second to end at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.ask)

    async def wait_for_second(self, seconds: float) -> None:
        """Let that time pass, unless somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.second.wait()

    def ask(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    @staticmethod
    def close() -> None:
        # The end of the process is all that is left: nobody in a hurry is to make a crash of it, not even
        # between a handler of the loop that is removed and another one.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


async def drain(
    listeners: Sequence[Listener], relay: Relay, stopping: Stopping, grace_seconds: float
) -> None:
    """End all connections of the listeners: tidily what ends by itself in time, the rest at once."""
    for listener in listeners:
        listener.stop_accepting()
    relay.is_draining = True
    for downstream in _connections(listeners):
        downstream.close_when_idle()
    deadline = asyncio.get_running_loop().time() + grace_seconds
    while relay.has_short_requests() or _answering(listeners):
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0 or stopping.second.is_set():
            break
        relay.ended.clear()
        waits = [asyncio.ensure_future(relay.ended.wait()), asyncio.ensure_future(stopping.second.wait())]
        either = [*waits, *_answering(listeners)]
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    relay.abort()
    for downstream in _connections(listeners):
        downstream.abort()
    # Aborted transports tell their protocols in the next rounds of the loop.
    for _ in range(3):
        await asyncio.sleep(0)


def _connections(listeners: Sequence[Listener]) -> list[Downstream]:
    return [downstream for listener in listeners for downstream in listener.connections]


def _answering(listeners: Sequence[Listener]) -> list[asyncio.Task[None]]:
    """The tasks that answer with pages of ours."""
    return [each.answering for each in _connections(listeners) if each.answering is not None]

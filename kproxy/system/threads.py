"""Calls that block, beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_daemon_thread(call: Callable[[], _Result]) -> _Result:
    """The result of a call that may hang for ever: on a FIFO, or in a network home.

    It holds up neither the event loop nor, as the threads of `asyncio.to_thread` do, the end of the process.
    """
    return await begin_in_daemon_thread(call)


def begin_in_daemon_thread(call: Callable[[], _Result]) -> asyncio.Future[_Result]:
    """`in_daemon_thread` for several who wait."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Result] = loop.create_future()

    def deliver(outcome: Callable[[], None]) -> None:
        if not answer.done():
            outcome()

    def run() -> None:
        try:
            outcome = partial(answer.set_result, call())
        except Exception as error:
            outcome = partial(answer.set_exception, error)
        # The event loop may be closed by the time that a call which hung comes back.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=run, name="reader", daemon=True).start()
    return answer

"""The event loops of tests: those that kproxy runs on, guarded; and a test that is run on each."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kproxy.system.eventloop import AsyncioLoop, new_loop

NEW_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": lambda: guarded(AsyncioLoop()),
    "uvloop": lambda: guarded(new_loop()),
}
TEST_SECONDS = 60.0
"""No test takes longer; none should take a tenth of it."""


COLLECT_SECONDS = 0.5


def guarded(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """The loop, kept from what uvloop does not survive where a test leaves a connection open.

    Garbage is collected by the thread that runs the loop alone: another one would close a connection that is
    garbage beside the running loop, whose list of what to close then holds freed memory (uvloop issue 706).

    The close warns of open connections when all are closed. uvloop warns of each before it closes it: where
    warnings are errors that one stays open, and the loop waits for it for ever, or fails with EBUSY.
    """
    run, close = loop.run_until_complete, loop.close

    def run_and_collect(future: Awaitable[Any]) -> Any:
        def collect() -> None:
            nonlocal timer
            gc.collect(1)
            timer = loop.call_later(COLLECT_SECONDS, collect)

        was_enabled = gc.isenabled()
        gc.disable()
        timer = loop.call_later(COLLECT_SECONDS, collect)
        try:
            return run(future)
        finally:
            timer.cancel()
            if was_enabled:
                gc.enable()

    def close_and_warn() -> None:
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always")
            close()
        for each in left_open:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)

    loop.run_until_complete = run_and_collect  # type: ignore[method-assign]
    loop.close = close_and_warn  # type: ignore[method-assign]
    return loop


# asyncio reports this when TLS inside TLS fails, and goes on (CPython gh-113214).
STUMBLES = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)


def _is_stumble(context: dict[str, Any]) -> bool:
    return STUMBLES and "SSLProtocol._abort() takes" in str(context.get("exception"))


def chosen_loop() -> asyncio.AbstractEventLoop:
    """One of the kind that tests run on."""
    return NEW_LOOPS[os.environ.get("KPROXY_TEST_LOOP", "uvloop")]()


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on each event loop; it fails if it leaves tasks, or errors nobody asked for."""

    @functools.wraps(test)
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        async def watched() -> None:
            errors: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            await asyncio.wait_for(test(**fixtures), TEST_SECONDS)
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                _, left = await asyncio.wait(left, timeout=TEST_SECONDS)
            # One more turn for what closing a transport has scheduled.
            await asyncio.sleep(0.01)
            assert not left
            assert not [error for error in errors if not _is_stumble(error)]

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(watched())

    parameters = [*inspect.signature(test).parameters.values()]
    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*parameters, loop])  # type: ignore[attr-defined]
    parametrized: Callable[..., None] = pytest.mark.parametrize(
        "new_loop", NEW_LOOPS.values(), ids=NEW_LOOPS
    )(run)
    return parametrized

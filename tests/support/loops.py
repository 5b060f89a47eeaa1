"""Run a test on each event loop that kproxy runs on."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kproxy.eventloop import AsyncioLoop, new_loop

NEW_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": AsyncioLoop,
    "uvloop": new_loop,
}
TEST_SECONDS = 60.0
"""No test takes longer; none should take a tenth of it."""

# asyncio reports this when TLS inside TLS fails, and goes on (CPython gh-113214).
STUMBLES = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)


def _is_stumble(context: dict[str, Any]) -> bool:
    return STUMBLES and "SSLProtocol._abort() takes" in str(context.get("exception"))


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

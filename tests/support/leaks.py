"""What may not be left behind: sockets, tasks, and errors that nobody retrieved."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

SETTLE_SECONDS = 20.0


def open_sockets() -> set[str]:
    """Those of this process, by what /proc calls them; none where there is no /proc."""
    found: set[str] = set()
    if not os.path.isdir("/proc/self/fd"):
        return found
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("socket:"):
                found.add(target)
    return found


@contextlib.asynccontextmanager
async def clean_loop() -> AsyncIterator[None]:
    """Fails the test if the block leaves tasks or sockets on the running loop, or errors nobody asked for."""
    loop = asyncio.get_running_loop()
    errors: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    loop.set_exception_handler(note)
    before = asyncio.all_tasks()
    # Counted, since uvloop opens its pair of sockets for signals anew for each run of the loop.
    sockets = len(open_sockets())
    yield
    deadline = loop.time() + SETTLE_SECONDS
    own = {asyncio.current_task()}
    while left := asyncio.all_tasks() - before - own:
        # A task that is being cancelled, or waits for a peer's last bytes, gets its moment.
        if loop.time() > deadline:
            break
        await asyncio.wait(left, timeout=0.01)
    while len(open_sockets()) > sockets and loop.time() < deadline:
        await asyncio.sleep(0.005)
    gc.collect()
    await asyncio.sleep(0)
    problems = [f"leftover task: {task!r}" for task in left] + errors
    for task in left:
        task.cancel()
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)

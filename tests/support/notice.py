"""Changes that a running kproxy takes notice of, by itself or at a SIGHUP, and tells of in its log."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from tests.support.program import Program

NOTICED_SECONDS = 2.0
"""Within that a change is noticed, if the machine is not too busy for it."""
RELOADED = "kubeconfig.reloaded"
RELOAD_FAILED = "kubeconfig.reload_failed"


async def noticed(program: Program, change: Callable[[], object], event: str = RELOADED) -> dict[str, Any]:
    """Make a change; the line of the log that tells of it."""
    seen = len(program.log_events(event))
    change()
    return await program.event(event, seen + 1)


async def hung_up(program: Program, change: Callable[[], object], event: str = RELOADED) -> dict[str, Any]:
    """The same with a SIGHUP, which takes less time than a look at the files."""
    seen = len(program.log_events(event))
    change()
    program.send_signal(signal.SIGHUP)
    return await program.event(event, seen + 1)

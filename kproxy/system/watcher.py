"""Notice changed files, and nothing else: what they hold and what a change means is for others to know.

Files are looked at by `stat` (snapshot.py), which works where notifications do not (network homes, container
mounts) and costs a few microseconds a second.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from kproxy.system.snapshot import Snapshot, take_snapshot

SETTLE_FRACTION = 0.25
"""Of the period: how long a file must have kept still before its change is told."""


class FileWatcher:
    """Calls `on_change` in the event loop after files changed, once they keep still.

    From a change to the call it takes up to 1.25 periods; up to 2 while a file goes on changing. `paths` is
    asked anew for each look; files need not exist, and one that is new among them counts as changed. Owns
    one task and one thread. The thread is a daemon: a network home that hangs blocks neither the event loop
    nor the end of the process.
    """

    def __init__(
        self,
        paths: Callable[[], Iterable[Path]],
        on_change: Callable[[], None],
        *,
        period_seconds: float = 1.0,
        since: Snapshot | None = None,
    ) -> None:
        """`since` is a snapshot from before the files were read, so that no change after that is missed;
        without it the files are compared with how `start` finds them. What `on_change` raises goes to the
        event loop's exception handler, and the watch goes on.
        """
        self._paths = paths
        self._on_change = on_change
        self._period_seconds = period_seconds
        self._since = since
        self._task: asyncio.Task[None] | None = None
        self._looks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to watch: every change after this returns is noticed. Idempotent."""
        if self._task is not None:
            return
        self._looks = SimpleQueue()
        threading.Thread(target=_run_all, args=(self._looks,), name="file-watcher", daemon=True).start()
        try:
            known = self._since if self._since is not None else await self._look()
        except BaseException:
            self._looks.put(None)
            raise
        self._task = asyncio.create_task(self._watch(known), name="file-watcher")

    async def close(self) -> None:
        """Stop; `on_change` is not called any more after this returns. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        self._looks.put(None)
        task.cancel()
        await asyncio.wait([task])

    async def _watch(self, known: Snapshot) -> None:
        while True:
            await asyncio.sleep(self._period_seconds)
            seen = await self._look()
            if _is_changed(known, seen):
                seen = await self._settled(seen)
                if _is_changed(known, seen):
                    asyncio.get_running_loop().call_soon(self._on_change)
            known = seen

    async def _settled(self, seen: Snapshot) -> Snapshot:
        """Look until nothing moves, so that no half-written file is read; one period long at most."""
        for _ in range(round(1 / SETTLE_FRACTION)):
            await asyncio.sleep(self._period_seconds * SETTLE_FRACTION)
            before, seen = seen, await self._look()
            if seen == before:
                break
        return seen

    async def _look(self) -> Snapshot:
        loop = asyncio.get_running_loop()
        paths = tuple(self._paths())
        answer: asyncio.Future[Snapshot] = loop.create_future()

        def deliver(snapshot: Snapshot) -> None:
            if not answer.done():
                answer.set_result(snapshot)

        def look() -> None:
            snapshot = take_snapshot(paths)
            # The event loop may be closed by the time that a file system which hung comes back.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, snapshot)

        self._looks.put(look)
        return await answer


def _run_all(looks: SimpleQueue[Callable[[], None] | None]) -> None:
    while (look := looks.get()) is not None:
        look()


def _is_changed(known: Snapshot, seen: Snapshot) -> bool:
    """Whether a file of `seen` is new or different; one that is not asked for any more does not count."""
    return any(path not in known or known[path] != state for path, state in seen.items())

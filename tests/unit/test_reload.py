"""The file watcher, on real files and both event loops. Periods are short; one test keeps the real one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from kproxy.system.snapshot import take_snapshot
from kproxy.system.watcher import FileWatcher
from tests.support.loops import on_both_loops
from tests.support.patience import LAST_RESORT_SECONDS

PERIOD_SECONDS = 0.02


class Watched:
    """A watcher on some paths that counts its looks and its calls; waits are for these, not for times."""

    def __init__(self, *paths: Path, period_seconds: float = PERIOD_SECONDS, **options: object) -> None:
        self.paths: list[Path] = list(paths)
        self.looks = 0
        self.calls = 0
        self.watcher = FileWatcher(
            self._ask,
            self._note,
            period_seconds=period_seconds,
            **options,  # type: ignore[arg-type]
        )

    def _ask(self) -> Iterable[Path]:
        self.looks += 1
        self.on_look()
        return self.paths

    def on_look(self) -> None:
        """For tests that act between looks."""

    def _note(self) -> None:
        self.calls += 1

    async def more_looks(self, count: int = 12) -> None:
        """Wait for enough looks that a change before this call would have been told."""
        wanted = self.looks + count
        while self.looks < wanted:
            await asyncio.sleep(PERIOD_SECONDS / 4)

    async def called(self, times: int = 1) -> None:
        while self.calls < times:
            await asyncio.sleep(PERIOD_SECONDS / 4)

    async def called_once(self) -> None:
        await self.called()
        await self.more_looks()
        assert self.calls == 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text("one")
    return path


@on_both_loops
async def test_edit(file: Path) -> None:
    """A file written in place is told once."""
    watched = Watched(file)
    async with watched.watcher:
        file.write_text("another")
        await watched.called_once()


@on_both_loops
async def test_edit_of_same_size_and_time(file: Path) -> None:
    """An edit is noticed even if size and modification time are as before (cp -p, rsync -t)."""
    before = file.stat()
    watched = Watched(file)
    async with watched.watcher:
        file.write_text("two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        await watched.called_once()


@on_both_loops
async def test_rename(file: Path) -> None:
    """A file replaced by an atomic rename is told once."""
    new = file.with_name("new")
    new.write_text("two")
    watched = Watched(file)
    async with watched.watcher:
        new.replace(file)
        await watched.called_once()


@on_both_loops
async def test_symlink_swap(tmp_path: Path) -> None:
    """The way Kubernetes updates a mounted volume: a directory link in the middle is swapped."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config").write_text("same")
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "config").symlink_to("..data/config")
    watched = Watched(tmp_path / "config")
    async with watched.watcher:
        (tmp_path / "..tmp").symlink_to("second")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        await watched.called_once()


@on_both_loops
async def test_symlink_to_the_same_file(file: Path) -> None:
    """A link that leads to the same content by another name has changed: relative paths may differ."""
    os.link(file, file.with_name("twin"))
    link = file.with_name("link")
    link.symlink_to(file)
    watched = Watched(link)
    async with watched.watcher:
        link.unlink()
        link.symlink_to(file.with_name("twin"))
        await watched.called_once()


@on_both_loops
async def test_appears_and_vanishes(tmp_path: Path) -> None:
    """A file, or its directory, that comes or goes is told each time; an absent one is no error."""
    path = tmp_path / "home" / "config"
    watched = Watched(path, tmp_path / "never", Path("nul\0byte"))
    async with watched.watcher:
        path.parent.mkdir()
        path.write_text("one")
        await watched.called_once()
        path.unlink()
        await watched.called(2)


@on_both_loops
async def test_chmod(file: Path) -> None:
    """A change of mode is told: a file that could not be read may be readable now."""
    watched = Watched(file)
    async with watched.watcher:
        file.chmod(0o640)
        await watched.called_once()


@on_both_loops
async def test_quiet(file: Path) -> None:
    """Nothing is told when nothing changes, nor when a file is only read."""
    watched = Watched(file, file.with_name("absent"))
    async with watched.watcher:
        file.read_text()
        await watched.more_looks()
        assert watched.calls == 0


@on_both_loops
async def test_several_files_at_once(file: Path) -> None:
    """Changes of several files together are told once."""
    others = [file.with_name(f"other{number}") for number in range(5)]
    watched = Watched(file, *others)
    async with watched.watcher:
        for path in (file, *others):
            path.write_text("new content")
        await watched.called_once()


@on_both_loops
async def test_half_written(file: Path) -> None:
    """While a file still moves nothing is told; then once."""
    pieces = ["a", "ab", "abc"]
    told_at: list[str] = []

    class Writer(Watched):
        def on_look(self) -> None:
            if self.looks > 1 and pieces:
                file.write_text(pieces.pop(0))

        def _note(self) -> None:
            super()._note()
            told_at.append(file.read_text())

    watched = Writer(file)
    async with watched.watcher:
        await watched.called_once()
        assert told_at == ["abc"]


@on_both_loops
async def test_never_still(file: Path) -> None:
    """A file that goes on moving is told all the same, after one period more."""

    class Writer(Watched):
        def on_look(self) -> None:
            file.write_text("x" * self.looks)

    watched = Writer(file)
    async with watched.watcher:
        await watched.called(2)
        assert watched.looks >= 10


@on_both_loops
async def test_since(file: Path) -> None:
    """With a snapshot from before the files were read, a change before the start is told."""
    before = take_snapshot([file])
    file.write_text("changed in between")
    watched = Watched(file, since=before)
    async with watched.watcher:
        await watched.called_once()


@on_both_loops
async def test_paths_come_and_go(file: Path) -> None:
    """A path new in the set counts as changed, one that left it does not."""
    other = file.with_name("other")
    watched = Watched(file)
    async with watched.watcher:
        watched.paths = [file, other]
        await watched.called_once()
        watched.paths = [other]
        file.write_text("nobody asks any more")
        await watched.more_looks()
        assert watched.calls == 1


@on_both_loops
async def test_failing_listener(file: Path) -> None:
    """What the listener raises goes to the event loop's handler, and the next change is told again."""
    raised: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))

    class Failing(Watched):
        def _note(self) -> None:
            super()._note()
            raise ZeroDivisionError

    watched = Failing(file)
    async with watched.watcher:
        file.write_text("two")
        await watched.called()
        await watched.more_looks()
        file.write_text("three")
        await watched.called(2)
    assert [type(error) for error in raised] == [ZeroDivisionError] * 2


def watcher_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "file-watcher"]


@on_both_loops
async def test_close(file: Path) -> None:
    """Closing ends task and thread; starting or closing twice is once; it can be started again."""
    watched = Watched(file)
    await watched.watcher.start()
    await watched.watcher.start()
    assert len(watcher_threads()) == 1
    (thread,) = watcher_threads()
    await watched.watcher.close()
    await watched.watcher.close()
    await asyncio.to_thread(thread.join)
    file.write_text("two")
    looks = watched.looks
    await asyncio.sleep(3 * PERIOD_SECONDS)
    assert (watched.looks, watched.calls) == (looks, 0)
    async with watched.watcher:
        file.write_text("three!")
        await watched.called_once()


class HangingPath(type(Path())):  # type: ignore[misc]
    """On a file system that does not answer until `released`: whoever asks for it waits."""

    hanging = threading.Event()
    released = threading.Event()

    def __fspath__(self) -> str:
        self.hanging.set()
        self.released.wait()
        return str(super().__fspath__())


@on_both_loops
async def test_hanging_file_system(file: Path) -> None:
    """A stat that hangs blocks neither the event loop nor closing, and hurts nobody when it ends."""
    HangingPath.hanging.clear()
    HangingPath.released.clear()
    watched = Watched(file)
    await watched.watcher.start()
    (thread,) = watcher_threads()
    watched.paths = [HangingPath(file)]
    await asyncio.to_thread(HangingPath.hanging.wait)
    await asyncio.sleep(0)
    await watched.watcher.close()
    assert thread.is_alive()
    HangingPath.released.set()
    await asyncio.to_thread(thread.join)
    assert watched.calls == 0


def test_hanging_file_system_outlives_the_loop(file: Path) -> None:
    """Nor does it matter that the event loop is closed when the stat comes back."""
    HangingPath.hanging.clear()
    HangingPath.released.clear()
    paths = [file]

    async def watch() -> None:
        async with FileWatcher(lambda: paths, lambda: None, period_seconds=PERIOD_SECONDS):
            paths[:] = [HangingPath(file)]
            await asyncio.to_thread(HangingPath.hanging.wait)

    asyncio.run(watch())
    (thread,) = watcher_threads()
    HangingPath.released.set()
    # An exception in the thread would be a warning, and so a failure.
    thread.join()


def test_hanging_file_system_at_exit(file: Path) -> None:
    """Nor does it keep the process from ending."""
    program = f"""
import asyncio, threading
from pathlib import Path
from kproxy.system.watcher import FileWatcher

hanging, never = threading.Event(), threading.Event()

class HangingPath(type(Path())):
    def __fspath__(self):
        hanging.set()
        never.wait()

paths = [Path({str(file)!r})]

async def main():
    async with FileWatcher(lambda: paths, lambda: None, period_seconds=0.01):
        paths[:] = [HangingPath("x")]
        await asyncio.to_thread(hanging.wait)

asyncio.run(main())
print("ended")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")


@on_both_loops
async def test_within_two_seconds(file: Path) -> None:
    """With the period as it is by default, a change is told within two of them, which are two seconds."""
    assert FileWatcher.__init__.__kwdefaults__["period_seconds"] == 1
    told = asyncio.Event()
    async with FileWatcher(lambda: [file], told.set):
        file.write_text("two")
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await told.wait()

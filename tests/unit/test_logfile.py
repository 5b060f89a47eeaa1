"""The log of an instance in the background: exchanged when it has grown, and followed through that."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kproxy.instances.logtail import log_lines
from kproxy.telemetry.logfile import LogFile, LogFileError
from tests.support.patience import LAST_RESORT_SECONDS

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def log(folder: int) -> Iterator[Callable[[bytes], None]]:
    """Writes to a log of at most 1000 bytes, in place of stderr."""
    own = os.open(os.devnull, os.O_WRONLY)
    file = LogFile(folder, "a.log", 1000, own)
    file.take_over()

    def write(data: bytes) -> None:
        file.make_room(len(data))
        os.write(own, data)

    yield write
    os.close(own)


def test_a_full_log_becomes_the_older_one(log: Callable[[bytes], None], tmp_path: Path) -> None:
    """One older file is kept, both are private, no line is cut."""
    for _ in range(35):
        log(LINE)
    assert (tmp_path / "a.log").read_bytes() == LINE * 5
    assert (tmp_path / "a.log.1").read_bytes() == LINE * 10
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}


def test_a_log_is_gone_on_with(folder: int, tmp_path: Path) -> None:
    """A restart does not lose why the last one ended."""
    (tmp_path / "a.log").write_bytes(LINE)
    own = os.open(os.devnull, os.O_WRONLY)
    LogFile(folder, "a.log", 1000, own).take_over()
    os.write(own, LINE)
    os.close(own)
    assert (tmp_path / "a.log").read_bytes() == LINE * 2


def test_a_log_that_was_removed_is_made_again(log: Callable[[bytes], None], tmp_path: Path) -> None:
    """Once the lost one is full."""
    log(LINE)
    (tmp_path / "a.log").unlink()
    for _ in range(10):
        log(LINE)
    assert (tmp_path / "a.log").read_bytes() == LINE


def test_where_no_new_log_can_be_made_the_old_goes_on(log: Callable[[bytes], None], tmp_path: Path) -> None:
    """What stands in the way is no reason to lose lines."""
    (tmp_path / "a.log.1").mkdir()
    for _ in range(12):
        log(LINE)
    assert (tmp_path / "a.log").read_bytes() == LINE * 12


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_log_that_is_no_file_is_refused(folder: int, tmp_path: Path, kind: str) -> None:
    """It neither writes to where a link leads nor waits for somebody to read a pipe."""
    path = tmp_path / "a.log"
    if kind == "link":
        path.symlink_to(tmp_path / "precious")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(LogFileError, match=r"cannot write the log a\.log"):
        LogFile(folder, "a.log", 1000, 99).take_over()
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (3, 3), (8, 8), (None, 15)])
def test_the_last_lines_are_those_of_both_files(
    log: Callable[[bytes], None], tmp_path: Path, count: int | None, expected: int
) -> None:
    """Just after an exchange there is little in the new one."""
    for number in range(15):
        log(b"%099d\n" % number)
    files = (tmp_path / "a.log.1", tmp_path / "a.log")
    lines = [int(line) for line in log_lines(files, count, follow=False)]
    assert lines == list(range(15 - expected, 15))


def test_two_exchanges_at_once_lose_no_line(log: Callable[[bytes], None], tmp_path: Path) -> None:
    """Whoever follows looks only now and then."""
    pieces = log_lines((tmp_path / "a.log.1", tmp_path / "a.log"), None, follow=True)
    log(b"%099d\n" % 0)
    heard = bytearray(next(pieces))
    for number in range(1, 25):
        log(b"%099d\n" % number)
    while not heard.endswith(b"24\n"):
        heard += next(pieces)
    assert [int(line) for line in heard.splitlines()] == list(range(25))


def test_a_log_is_followed_through_exchanges(log: Callable[[bytes], None], tmp_path: Path) -> None:
    """Also one that is not there yet; every line once and in order."""
    (tmp_path / "a.log").unlink()
    files = (tmp_path / "a.log.1", tmp_path / "a.log")
    heard = bytearray()
    arrived = threading.Condition()

    def follow() -> None:
        for piece in log_lines(files, 10, follow=True):
            with arrived:
                heard.extend(piece)
                arrived.notify_all()
                if heard.endswith(b"24\n"):
                    return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    for number in range(25):
        log(b"%099d\n" % number)
        if number >= 10:  # the first file was the removed one
            with arrived:
                assert arrived.wait_for(lambda: heard.endswith(b"%099d\n" % number), 10)  # noqa: B023
    reader.join(LAST_RESORT_SECONDS)
    assert [int(line) for line in heard.splitlines()] == list(range(10, 25))


def test_a_log_that_never_was_is_an_error(tmp_path: Path) -> None:
    """Unless it is waited for."""
    with pytest.raises(FileNotFoundError):
        list(log_lines((tmp_path / "a.log.1", tmp_path / "a.log"), 1, follow=False))

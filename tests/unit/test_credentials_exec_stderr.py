"""What exec plugins say on stderr: plain text in a log, whatever they write; the last lines for who asks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.credentials.exec_stderr import LAST_CHARS, LAST_LINES, PASSED_CHARS, PluginErrors, plain
from kproxy.telemetry.log import Output, hide_secrets
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.secrets import leaked, plant


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[1;31mError:\x1b[0m no login", "Error: no login"),
        ("\x1b]8;;https://a.test\x1b\\link\x1b]8;;\x1b\\ end", "link end"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]0;a title that does not end\nnext line", "\nnext line"),
        ("\x1b[?25l\x1b[2K\x1b(Bok\x1bc\x1b7", "ok"),
        ("\x1bP1$r0m\x1b\\dcs \x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\", "dcs "),
        ("\x9b31mC1\x9d0;t\x9c \x85\x90q\x9c", "C1 "),
        ("a\x00b\x08c\x7fd\x1b", "abcd"),
        (" 10%\r 50%\r100%\r\ndone\r\n", "100%\ndone\n"),
        ("tab\there\u3000wide\xa0blank", "tab here wide blank"),
        ("\u202eright to left\u2066 \ufeffmark", "right to left mark"),
        ("Zürich 東京 🔑", "Zürich 東京 🔑"),
    ],
)
def test_text_is_what_would_stand_on_paper(written: str, shown: str) -> None:
    """No escape sequence, no control character, no progress bar; letters of all languages."""
    assert plain(written) == shown


@given(st.text(alphabet=st.one_of(st.sampled_from("\x1b\x9b\x9d[]P;m\x07\\\r\n 0"), st.characters())))
def test_nothing_can_steer_a_terminal(text: str) -> None:
    """Whatever is written."""
    assert all(char == "\n" or char.isprintable() for char in plain(text))


def test_text_takes_linear_time() -> None:
    """Plugins may write anything: half a megabyte of beginnings of sequences is nothing."""
    started_at = time.process_time()
    for piece in ("\x1b", "\x1b[", "\x1b]", "\x1b]\x1b", "\r", "\ra", "a\r\n", "\x1b[0;"):
        plain(piece * (500_000 // len(piece)))
    assert time.process_time() - started_at < 10


class Heard:
    """A `PluginErrors` that writes to a file, as in an instance in the background."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.output = Output(self._descriptor)
        self.errors = PluginErrors(asyncio.get_running_loop(), self.output, hide_secrets)

    def says(self, *pieces: bytes, ends: bool = True) -> None:
        for piece in pieces:
            self.errors.data_received(piece)
        if ends:
            self.errors.connection_lost(None)

    @property
    def log(self) -> str:
        return self._path.read_text()

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
async def heard(tmp_path: Path) -> Iterator[Heard]:
    heard = Heard(tmp_path / "log")
    yield heard
    heard.close()


async def test_lines_stand_in_the_log_as_they_come(heard: Heard) -> None:
    """However they are cut into pieces, letters of several bytes too."""
    heard.says(b"fir", b"st\n\x1b[3", b"1msecond\x1b[0m Z\xc3", ends=False)
    assert heard.log == "first\n"
    heard.says(b"\xbcrich\nrest")
    assert heard.log == "first\nsecond Zürich\nrest\n"
    assert heard.errors.last() == ("first\nsecond Zürich\nrest", True)


async def test_part_of_a_line_does_not_wait_for_the_rest(heard: Heard) -> None:
    """`Waiting for the login ...` may be all that comes for a minute."""
    heard.says(b"Waiting for the login ...", ends=False)
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        while not heard.log:
            await asyncio.sleep(0.01)
    heard.says(b" done\n")
    assert heard.log == "Waiting for the login ...\n done\n"


async def test_the_last_lines_are_few_and_short(heard: Heard) -> None:
    """Blank ones do not count; it is told that there is more."""
    lines = [f"line {number}" for number in range(30)]
    heard.says("\n\n".join(lines).encode())
    assert heard.errors.last() == ("\n".join(lines[-LAST_LINES:]), False)
    assert heard.log.split() == " ".join(lines).split()


async def test_a_line_without_an_end_is_not_kept(heard: Heard) -> None:
    """What its beginning was cut off from could be a secret; the log has it whole, without that."""
    secret = plant("plugin-token")
    heard.says(f"Authorization: Bearer {secret * 200}\n".encode())
    assert heard.errors.last() == ("", False)
    assert heard.log == "Authorization: Bearer [hidden]\n"
    assert leaked(heard.log) == []


async def test_long_lines_are_shortened_after_secrets_are_out(heard: Heard) -> None:
    """From their beginning: the end of a message is where the cause stands."""
    secret = plant("plugin-token")
    heard.says(f"token={secret}\n{'x' * LAST_CHARS}the cause".encode())
    text, is_all = heard.errors.last()
    assert (len(text), text[0], is_all) == (LAST_CHARS, "…", False)
    assert text.endswith("xthe cause")
    assert leaked(text) == []


async def test_a_flood_is_cut_off(heard: Heard) -> None:
    """A plugin in a loop neither fills the log nor the memory; its last words are still there."""
    for _ in range(200):
        heard.says(b"y\n" * 32768, ends=False)
    heard.says(b"the end\n")
    assert len(heard.log) < PASSED_CHARS + 1000
    assert heard.log.endswith("[the exec plugin says more than 64 KiB; the rest is dropped]\n")
    text, is_all = heard.errors.last()
    assert (text.splitlines()[-2:], is_all) == (["y", "the end"], False)

"""The commands and the prompt that `kubectl exec` finds in the demo cluster."""

from __future__ import annotations

import asyncio

import pytest

from kproxy.demo.shell import INTERRUPTED, Container, Input, Shell, Terminal
from tests.support.patience import LAST_RESORT_SECONDS

POD = {
    "metadata": {"name": "clock", "namespace": "default", "uid": "1"},
    "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "COLOR", "value": "teal"}]}]},
}


class Console:
    def __init__(self, stdin: bytes = b"", *, tty: bool = False) -> None:
        self.is_terminal = tty
        self.stdin = Input(is_terminal=tty)
        self.shell = Shell(Container(POD, "c"), self.stdin, self.write_out, self.write_err, tty)
        self.out = bytearray()
        self.err = bytearray()
        self.written = asyncio.Event()
        self._given = stdin

    async def write_out(self, data: bytes) -> None:
        self.out += data
        self.written.set()

    async def write_err(self, data: bytes) -> None:
        self.err += data

    async def run(self, *command: str) -> int:
        if self._given:
            await self.stdin.feed(self._given)
        if not self.is_terminal:
            await self.stdin.feed(b"")
        return await self.shell.run(list(command))

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while text not in self.out:
                self.written.clear()
                await self.written.wait()


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["echo", "hi", "there"], "hi there\n"),
        (["sh", "-c", "echo 'a  b' \"c  d\" e\\ f"], "a  b c  d e f\n"),
        (["sh", "-c", "sh -c 'echo deep'"], "deep\n"),
        (["cat", "/etc/hostname", "app/README"], "clock\nThis container is pretended by kproxy demo"),
        (["ls"], "app\netc\n"),
        (["ls", "-l", "/etc"], "hostname\nhosts\n"),
        (["/bin/ls", "/etc/hosts"], "/etc/hosts\n"),
        (["hostname"], "clock\n"),
        (["whoami"], "root\n"),
        (["id"], "uid=0(root)"),
        (["sleep", "0"], ""),
        (["sh"], ""),
    ],
)
async def test_commands(command: list[str], out: str) -> None:
    """What people try in a container."""
    console = Console()
    assert await console.run(*command) == 0
    assert console.out.decode().startswith(out)
    assert bool(console.out) == bool(out)


async def test_the_environment_is_that_of_the_container() -> None:
    """With what the pod's spec adds to it."""
    console = Console()
    await console.run("env")
    assert {"COLOR=teal", "HOSTNAME=clock"} <= set(console.out.decode().splitlines())


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        (["true"], 0, ""),
        (["false"], 1, ""),
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "exit"], 0, ""),
        (["/bin/cat", "/nope"], 1, "cat: /nope: No such file or directory\n"),
        (["ls", "/nope"], 1, "ls: /nope: No such file or directory\n"),
        (["cat", "/etc"], 1, "cat: /etc: Is a directory\n"),
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH (this is kproxy demo)\n'),
        (["sh", "-c", "nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["sh", "-c", "echo 'a"], 2, "sh: No closing quotation\n"),
        (["sh", "-c", "echo a; echo b"], 2, "sh: kproxy demo has no shell language"),
        (["sh", "-c", "echo a && echo b"], 2, "sh: kproxy demo has no shell language"),
        (["sh", "-c", "echo a | cat"], 2, "sh: kproxy demo has no shell language"),
        (["sh", "-c", "echo a >&2"], 2, "sh: kproxy demo has no shell language"),
        (["sleep", "x"], 2, "sleep: could not convert string to float: 'x'\n"),
    ],
)
async def test_exit_codes_and_complaints(command: list[str], code: int, err: str) -> None:
    """Commands fail with the code and in the words of the real ones; what is no command says so."""
    console = Console()
    assert await console.run(*command) == code
    assert console.err.decode().startswith(err)
    assert bool(console.err) == bool(err)


async def test_standard_input_goes_through_cat() -> None:
    """All bytes come out as they went in, up to the end of input."""
    data = bytes(range(256)) * 100
    console = Console(data)
    assert await console.run("cat") == 0
    assert bytes(console.out) == data


async def test_a_shell_reads_its_lines_from_standard_input() -> None:
    """`kubectl exec -i pod -- sh` runs line by line, without a prompt, and ends with the last code."""
    console = Console(b"echo one\n\nfalse\n")
    assert await console.run("sh") == 1
    assert bytes(console.out) == b"one\n"


async def test_the_end_of_input_is_there_for_the_shell_too() -> None:
    """What `cat` in a shell has read to its end, the shell reads no further: it does not hang."""
    console = Console(b"cat\nmore")
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        assert await console.run("sh") == 0
    assert bytes(console.out) == b"more"


async def test_a_terminal_echoes_erases_and_prompts() -> None:
    """Typing and erasing at a prompt; Ctrl-D ends a command, and at the prompt the shell."""
    console = Console(tty=True)
    terminal = Terminal(console.stdin, console.write_out, console.shell.interrupt)
    running = asyncio.ensure_future(console.run("sh"))
    await console.until(b"clock:/# ")
    await terminal.feed("echo hü".encode() + b"\x7fi\r")
    await console.until(b"echo h\xc3\xbc\b \bi\r\nhi\nclock:/# ")
    await terminal.feed(b"cat\rdog\r\x04")
    await console.until(b"dog\r\ndog\nclock:/# ")
    await terminal.feed(b"\x04")
    assert await running == 0


async def test_interrupting_ends_the_command_and_not_the_shell() -> None:
    """After Ctrl-C the prompt is back."""
    console = Console(tty=True)
    terminal = Terminal(console.stdin, console.write_out, console.shell.interrupt)
    running = asyncio.ensure_future(console.run("sh"))
    await console.until(b"clock:/# ")
    await terminal.feed(b"cat\rwoof\r")
    await console.until(b"woof\n")
    await terminal.feed(b"\x03")
    await console.until(b"^C\r\nclock:/# ")
    await terminal.feed(b"\x04")
    assert await running == INTERRUPTED


async def test_cancelling_ends_a_running_command() -> None:
    """When the client goes, nothing of its command is left behind."""
    console = Console(b"echo start\nsleep 60\n")
    running = asyncio.ensure_future(console.run("sh"))
    await console.until(b"start\n")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

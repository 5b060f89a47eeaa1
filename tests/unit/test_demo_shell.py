"""The toy shell of the demo cluster and its terminal."""

from __future__ import annotations

import asyncio

import pytest

from kproxy.demo.commands import COMMANDS
from kproxy.demo.container import Container
from kproxy.demo.shell import INTERRUPTED, NoSuchCommand, Screen, Shell, Streams
from kproxy.demo.terminal import Input, Terminal
from tests.support.patience import LAST_RESORT_SECONDS

POD = {
    "metadata": {"name": "clock", "namespace": "default", "uid": "1"},
    "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "COLOR", "value": "teal"}]}]},
}


class Console:
    def __init__(self, stdin: bytes = b"", *, tty: bool = False) -> None:
        self.container = Container(POD, "c")
        self.shell = Shell(self.container, COMMANDS, Screen(is_terminal=tty))
        self.stdin = Input()
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
        if not self.shell.screen.is_terminal:
            await self.stdin.end()
        return await self.shell.start(list(command), Streams(self.stdin, self.write_out, self.write_err))

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while text not in self.out:
                self.written.clear()
                await self.written.wait()


@pytest.mark.parametrize(
    ("script", "out"),
    [
        ("echo hi", "hi\n"),
        ("echo -n hi; echo '  '", "hi  \n"),
        (r"echo -e 'a\tb\\n'", "a\tb\\n\n"),
        ("echo 'a  b' \"c  d\" e\\ f", "a  b c  d e f\n"),
        ("A=1; echo \"$A ${A}2 $B.\" '$A' \\$A", "1 12 . $A $A\n"),
        ("echo $COLOR $HOSTNAME", "teal clock\n"),
        ("false; echo $?; true; echo $?", "1\n0\n"),
        ("true && echo yes || echo no", "yes\n"),
        ("false && echo yes || echo no", "no\n"),
        ("echo a | cat | wc -c", "2\n"),
        (r"echo -e '1\n2\n3' | head -n 2", "1\n2\n"),
        (r"echo -e '1\n2\n3' | head -1", "1\n"),
        ("echo a > /tmp/f; echo b >> /tmp/f; cat < /tmp/f", "a\nb\n"),
        ("cd /etc; pwd; cat hostname", "/etc\nclock\n"),
        ("sh -c 'exit 4'; echo $?", "4\n"),
        ("echo a # comment\necho b", "a\nb\n"),
        ("test ! -e /tmp/x && touch /tmp/x; [ -f /tmp/x ] && [ -z $X ] && echo both", "both\n"),
        ("mkdir -p /x/y && echo z > /x/y/z && ls /x && rm -r /x; ls /x || echo gone", "y\ngone\n"),
        ("export V=1; env | wc -l; printenv V", "8\n1\n"),
        ("[ a = a ] && test -d /etc && echo ok", "ok\n"),
        ("echo err >&2 | cat", ""),
        ("nosuch 2>&1", "sh: nosuch: not found (this is the toy shell of kproxy demo)\n"),
        ("nosuch 2>/dev/null; echo $?", "127\n"),
    ],
)
async def test_scripts(script: str, out: str) -> None:
    """The part of the shell language that people try in a container."""
    console = Console()
    await console.run("sh", "-c", script)
    assert console.out.decode() == out


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        (["true"], 0, ""),
        (["false"], 1, ""),
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "exit"], 0, ""),
        (["/bin/cat", "/nope"], 1, "cat: /nope: No such file or directory\n"),
        (["cat", "/etc"], 1, "cat: /etc: Is a directory\n"),
        (["sh", "-c", "echo 'a"], 2, "sh: syntax error: unterminated quoted string\n"),
        (["sh", "-c", "if true; then echo; fi"], 2, "sh: syntax error: this toy shell has no 'if'\n"),
        (["sh", "-c", "echo a &"], 2, "sh: syntax error: this toy shell runs nothing in the background\n"),
        (["sh", "-c", "echo a | | b"], 2, "sh: syntax error: unexpected '|'\n"),
        (["sleep", "x"], 1, "sleep: invalid time interval\n"),
        (["stty", "size"], 1, "stty: standard input: Inappropriate ioctl for device\n"),
        (["sh", "-c", "true &&"], 2, "sh: syntax error: unexpected '\\n'\n"),
        (["sh", "-c", "cat <"], 2, "sh: syntax error: expected a file name\n"),
    ],
)
async def test_exit_codes_and_complaints(command: list[str], code: int, err: str) -> None:
    """Commands fail with the code and in the words of the real ones."""
    console = Console()
    assert await console.run(*command) == code
    assert console.err.decode() == err


async def test_a_command_that_is_not_there_cannot_be_started() -> None:
    """exec of an unknown program is an error of its own, not an exit code."""
    with pytest.raises(NoSuchCommand):
        await Console().run("nosuch")


async def test_standard_input_goes_through_cat() -> None:
    """All bytes come out as they went in, up to the end of input."""
    data = bytes(range(256)) * 100
    console = Console(data)
    assert await console.run("cat") == 0
    assert bytes(console.out) == data


async def test_a_shell_reads_its_script_from_standard_input() -> None:
    """`kubectl exec -i pod -- sh` runs line by line, without a prompt, and ends with the last code."""
    console = Console(b"cd /tmp\npwd\nfalse\n")
    assert await console.run("sh") == 1
    assert bytes(console.out) == b"/tmp\n"


async def test_tar_carries_files_both_ways() -> None:
    """What `kubectl cp` asks for: an archive made in one container unpacks in another."""
    first = Console()
    assert await first.run("sh", "-c", "mkdir /d; echo one > /d/1; echo two > /d/2; tar cf - /d") == 0
    second = Console(bytes(first.out))
    assert await second.run("tar", "-xmf", "-", "-C", "/tmp") == 0
    assert second.container.files.read("/tmp/d/2") == b"two\n"


async def test_a_terminal_echoes_edits_and_prompts() -> None:
    """Typing, erasing and cursor keys at a prompt, the size of the window, Ctrl-D at the end."""
    console = Console(tty=True)
    console.shell.screen.rows, console.shell.screen.columns = 24, 80
    terminal = Terminal(console.stdin, console.write_out, console.shell.interrupt)
    running = asyncio.ensure_future(console.run("sh"))
    await console.until(b"clock:/# ")
    await terminal.feed("echo hü".encode() + b"\x7fi\x1b[A\r")
    await console.until(b"\nhi\n")
    await terminal.feed(b"nonsense\x15stty size\r")
    await console.until(b"24 80\n")
    await terminal.feed(b"\x04")
    assert await running == 0
    assert bytes(console.out).endswith(b"exit\n")


async def test_interrupting_ends_the_command_and_not_the_shell() -> None:
    """After Ctrl-C the prompt is back and the code is that of SIGINT."""
    console = Console(tty=True)
    terminal = Terminal(console.stdin, console.write_out, console.shell.interrupt)
    running = asyncio.ensure_future(console.run("sh"))
    await console.until(b"clock:/# ")
    await terminal.feed(b"echo start; sleep 60\r")
    await console.until(b"\r\nstart\n")
    await terminal.feed(b"\x03")
    await console.until(b"^C\r\nclock:/# ")
    await terminal.feed(b"echo $?; exit 7\r")
    assert await running == 7
    assert f"\n{INTERRUPTED}\n".encode() in console.out


async def test_cancelling_ends_a_running_command() -> None:
    """When the client goes, nothing of its command is left behind."""
    console = Console()
    running = asyncio.ensure_future(console.run("sh", "-c", "echo start; sleep 60"))
    await console.until(b"start\n")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_container_has_only_so_much_room() -> None:
    """What somebody copies in again and again fails some day, as on a real disk."""
    console = Console(b"x" * (40 << 20))
    assert await console.run("sh", "-c", "cat > /tmp/a; cat < /tmp/a > /tmp/b") == 1
    assert console.err == b"cat: /tmp/b: No space left on device\n"

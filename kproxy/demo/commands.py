"""The commands of the toy shell: enough to look around, to stream, and for `kubectl cp` (tar)."""

from __future__ import annotations

import asyncio
import io
import platform
import posixpath
import re
import tarfile
from collections.abc import AsyncIterator, Callable

from kproxy.demo import clock
from kproxy.demo.shell import Call, Command, Exit

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "a": "\a", "e": "\x1b"}


def _line(text: Callable[[Call], str]) -> Command:
    """A command that prints one line."""

    async def command(call: Call) -> int:
        return await call.say(text(call) + "\n")

    return command


def _code(code: int) -> Command:
    async def command(call: Call) -> int:
        return code

    return command


async def _echo(call: Call) -> int:
    words = list(call.arguments)
    flags = ""
    while words and words[0] in ("-n", "-e", "-ne", "-en"):
        flags += words.pop(0)
    text = " ".join(words)
    if "e" in flags:
        text = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), text)
    return await call.say(text if "n" in flags else text + "\n")


async def _cat(call: Call) -> int:
    async for piece in _content(call, call.words):
        await call.streams.out(piece)
    return 0


async def _head(call: Call) -> int:
    """`-n 3`, `-n3` or `-3` lines."""
    words, left = list(call.arguments), 10
    if words and (option := re.fullmatch(r"-n?(\d*)", words[0])):
        words.pop(0)
        count = option[1] or (words.pop(0) if words else "")
        left = int(count) if count.isdecimal() else left
    async for piece in _content(call, words):
        lines = piece.splitlines(keepends=True)
        await call.streams.out(b"".join(lines[:left]))
        left -= len(lines)
        if left <= 0:
            break
    return 0


async def _wc(call: Call) -> int:
    content = b"".join([piece async for piece in _content(call, call.words)])
    counts = {"l": content.count(b"\n"), "w": len(content.split()), "c": len(content)}
    shown = [str(counts[flag]) for flag in call.flags or "lwc" if flag in counts]
    return await call.say(" ".join(shown) + "\n")


async def _ls(call: Call) -> int:
    files = call.shell.container.files
    for word in call.words or ["."]:
        path = call.path(word)
        paths = [path] if files.is_file(path) else [call.path(f"{path}/{name}") for name in files.names(path)]
        for each in paths:
            name = posixpath.basename(each)
            if "l" in call.flags:
                head = "drwxr-xr-x" if files.is_directory(each) else "-rw-r--r--"
                size = len(files.read(each)) if files.is_file(each) else 0
                name = f"{head} 1 root root {size:>8} {name}"
            if "a" in call.flags or not posixpath.basename(each).startswith("."):
                await call.say(name + "\n")
    return 0


async def _cd(call: Call) -> int:
    path = call.path((*call.words, "/root")[0])
    call.shell.container.files.names(path)
    call.shell.directory = path
    return 0


async def _env(call: Call) -> int:
    variables = call.shell.variables
    if call.words:
        values = [variables[name] for name in call.words if name in variables]
        await call.say("".join(f"{value}\n" for value in values))
        return int(len(values) < len(call.words))
    return await call.say("".join(f"{name}={text}\n" for name, text in variables.items() if name != "?"))


async def _export(call: Call) -> int:
    for word in call.words:
        name, equals, value = word.partition("=")
        if equals:
            call.shell.variables[name] = value
    return 0


def _date(call: Call) -> str:
    moment = clock.utc(clock.now())
    style = next((word[1:] for word in call.words if word.startswith("+")), "%a %b %e %H:%M:%S UTC %Y")
    return moment.strftime(style.replace("%N", f"{moment.microsecond:06}000"))


def _uname(call: Call) -> str:
    hostname = call.shell.container.hostname
    return f"Linux {hostname} kproxy-demo pretend {platform.machine()}" if "a" in call.flags else "Linux"


async def _sleep(call: Call) -> int:
    try:
        seconds = float((*call.words, "")[0].removesuffix("s"))
    except ValueError:
        return await call.complain("sleep: invalid time interval")
    await asyncio.sleep(seconds)
    return 0


async def _exit(call: Call) -> int:
    text = (*call.arguments, call.shell.variables.get("?", "0"))[0]
    raise Exit(int(text) & 255 if text.isdecimal() else 2)


async def _test(call: Call) -> int:
    words = [word for word in call.arguments if word != "]"]
    negated = words[:1] == ["!"]
    return int(_holds(call, words[1:] if negated else words) == negated)


def _holds(call: Call, words: list[str]) -> bool:
    files = call.shell.container.files
    match words:
        case ["-d", word]:
            return files.is_directory(call.path(word))
        case ["-f", word]:
            return files.is_file(call.path(word))
        case ["-e", word]:
            return files.is_file(call.path(word)) or files.is_directory(call.path(word))
        case ["-n" | "-z" as operator, text]:
            return bool(text) == (operator == "-n")
        case [left, "=" | "==" | "!=" as operator, right]:
            return (left == right) == (operator != "!=")
    return bool(words and words[0])


async def _touch(call: Call) -> int:
    for word in call.words:
        call.shell.container.files.append(call.path(word), b"")
    return 0


async def _rm(call: Call) -> int:
    files = call.shell.container.files
    for path in map(call.path, call.words):
        if "r" in call.flags:
            files.remove_tree(path)
        elif files.is_file(path) or "f" not in call.flags:
            files.remove(path)
    return 0


async def _mkdir(call: Call) -> int:
    files = call.shell.container.files
    for path in map(call.path, call.words):
        if "p" in call.flags:
            files.make_directories(path)
        else:
            files.make_directory(path)
    return 0


async def _stty(call: Call) -> int:
    screen = call.shell.screen
    if not screen.is_terminal:
        return await call.complain("stty: standard input: Inappropriate ioctl for device")
    return await call.say(f"{screen.rows} {screen.columns}\n")


async def _tar(call: Call) -> int:
    """`tar cf - PATH...` and `tar xf - [-C DIRECTORY]`: the two that `kubectl cp` asks for."""
    words = [word for word in call.arguments if not word.startswith("--")]
    mode, words = words[0].lstrip("-") if words else "", words[1:]
    directory = call.shell.directory
    if "-C" in words[:-1]:
        place = words.index("-C")
        directory = call.path(words[place + 1])
        del words[place : place + 2]
    if "f" not in mode or words[:1] != ["-"] or ("c" in mode) == ("x" in mode):
        return await call.complain(
            "tar: this toy knows only 'tar cf - PATH...' and 'tar xf - [-C DIRECTORY]'", 2
        )
    if "c" in mode:
        await call.streams.out(_packed(call, directory, words[1:]))
        return 0
    try:
        _unpack(call, directory, b"".join([piece async for piece in _content(call, ["-"])]))
    except tarfile.TarError as error:
        return await call.complain(f"tar: {error}", 2)
    return 0


def _packed(call: Call, directory: str, words: list[str]) -> bytes:
    container = call.shell.container
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for word in words:
            start = container.path(directory, word)
            for path in container.files.files_below(start):
                content = container.files.read(path)
                entry = tarfile.TarInfo((word.rstrip("/") + path.removeprefix(start)).lstrip("/"))
                entry.size, entry.mtime = len(content), int(clock.now())
                archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _unpack(call: Call, directory: str, packed: bytes) -> None:
    container = call.shell.container
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        for entry in archive:
            path = container.path(directory, entry.name)
            content = archive.extractfile(entry) if entry.isfile() else None
            if entry.isdir():
                container.files.make_directories(path)
            elif content is not None:
                container.files.make_directories(posixpath.dirname(path))
                container.files.write(path, content.read())


async def _content(call: Call, words: list[str]) -> AsyncIterator[bytes]:
    """The files one after the other; standard input for `-` or for none."""
    for word in words or ["-"]:
        if word == "-":
            while piece := await call.streams.stdin.read():
                yield piece
        else:
            yield call.shell.container.files.read(call.path(word))


COMMANDS: dict[str, Command] = {
    ":": _code(0),
    "[": _test,
    "cat": _cat,
    "cd": _cd,
    "date": _line(_date),
    "echo": _echo,
    "env": _env,
    "exit": _exit,
    "export": _export,
    "false": _code(1),
    "head": _head,
    "help": _line(
        lambda call: f"The toy shell of kproxy demo. Nothing here is real. Commands: {' '.join(COMMANDS)}"
    ),
    "hostname": _line(lambda call: call.shell.container.hostname),
    "id": _line(lambda call: "uid=0(root) gid=0(root) groups=0(root)"),
    "ls": _ls,
    "mkdir": _mkdir,
    "printenv": _env,
    "pwd": _line(lambda call: call.shell.directory),
    "rm": _rm,
    "sleep": _sleep,
    "stty": _stty,
    "tar": _tar,
    "test": _test,
    "touch": _touch,
    "true": _code(0),
    "uname": _line(_uname),
    "wc": _wc,
    "whoami": _line(lambda call: "root"),
}

"""The commands of the toy shell: enough to look around, to stream, and for `kubectl cp` (tar)."""

from __future__ import annotations

import asyncio
import io
import platform
import posixpath
import re
import tarfile
from collections.abc import AsyncIterator

from kproxy.demo import clock
from kproxy.demo.container import FileError
from kproxy.demo.shell import Command, Exit, Shell, Streams

_PIECE_BYTES = 32 * 1024
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "a": "\a", "e": "\x1b"}
_ENDLESS = {"/dev/zero": b"\0" * _PIECE_BYTES}


async def _echo(shell: Shell, arguments: list[str], streams: Streams) -> int:
    words = arguments[1:]
    end, escapes = "\n", False
    while words and words[0] in ("-n", "-e", "-ne", "-en"):
        end = "" if "n" in words[0] else end
        escapes = escapes or "e" in words[0]
        words = words[1:]
    text = " ".join(words)
    if escapes:
        text = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), text)
    await streams.out((text + end).encode())
    return 0


async def _cat(shell: Shell, arguments: list[str], streams: Streams) -> int:
    async for piece in _content(shell, arguments[1:], streams):
        await streams.out(piece)
    return 0


async def _head(shell: Shell, arguments: list[str], streams: Streams) -> int:
    unit, count, paths = _counted(arguments[1:], "-n", 10)
    async for piece in _content(shell, paths, streams):
        if unit == "-c":
            part = piece[:count]
            count -= len(part)
        else:
            lines = piece.split(b"\n")
            part = b"\n".join(lines[:count]) + (b"\n" if len(lines) > count else b"")
            count -= len(lines) - 1
        await streams.out(part)
        if count <= 0:
            break
    return 0


async def _wc(shell: Shell, arguments: list[str], streams: Streams) -> int:
    flags = [word for word in arguments[1:] if word.startswith("-")] or ["-l", "-w", "-c"]
    content = bytearray()
    async for piece in _content(shell, [word for word in arguments[1:] if not word.startswith("-")], streams):
        content += piece
    counts = {"-l": content.count(b"\n"), "-w": len(content.split()), "-c": len(content)}
    await streams.out((" ".join(str(counts[flag]) for flag in flags if flag in counts) + "\n").encode())
    return 0


async def _ls(shell: Shell, arguments: list[str], streams: Streams) -> int:
    flags = "".join(word[1:] for word in arguments[1:] if word.startswith("-"))
    files = shell.container.files
    for word in [word for word in arguments[1:] if not word.startswith("-")] or ["."]:
        path = shell.container.path(shell.directory, word)
        directory = path if files.is_directory(path) else posixpath.dirname(path)
        names = files.names(path) if files.is_directory(path) else [posixpath.basename(path)]
        if path != directory and not files.is_file(path):
            raise FileError(2, word)
        if "a" not in flags:
            names = [name for name in names if not name.startswith(".")]
        for name in names:
            await streams.out((_listed(shell, posixpath.join(directory, name), long="l" in flags)).encode())
    return 0


def _listed(shell: Shell, path: str, *, long: bool) -> str:
    name, files = posixpath.basename(path), shell.container.files
    if not long:
        return f"{name}\n"
    if files.is_directory(path):
        return f"drwxr-xr-x 1 root root {0:>8} {name}\n"
    return f"-rw-r--r-- 1 root root {len(files.read(path)):>8} {name}\n"


async def _pwd(shell: Shell, arguments: list[str], streams: Streams) -> int:
    await streams.out(f"{shell.directory}\n".encode())
    return 0


async def _cd(shell: Shell, arguments: list[str], streams: Streams) -> int:
    path = shell.container.path(shell.directory, (*arguments[1:], "/root")[0])
    shell.container.files.names(path)
    shell.directory = path
    return 0


async def _env(shell: Shell, arguments: list[str], streams: Streams) -> int:
    if arguments[1:]:
        values = [shell.variables[name] for name in arguments[1:] if name in shell.variables]
        await streams.out("".join(f"{value}\n" for value in values).encode())
        return 0 if len(values) == len(arguments) - 1 else 1
    shown = "".join(f"{name}={value}\n" for name, value in shell.variables.items() if name != "?")
    await streams.out(shown.encode())
    return 0


async def _export(shell: Shell, arguments: list[str], streams: Streams) -> int:
    for word in arguments[1:]:
        name, equals, value = word.partition("=")
        if equals:
            shell.variables[name] = value
    return 0


async def _date(shell: Shell, arguments: list[str], streams: Streams) -> int:
    moment = clock.utc(clock.now())
    style = next((word[1:] for word in arguments[1:] if word.startswith("+")), "%a %b %e %H:%M:%S UTC %Y")
    await streams.out((moment.strftime(style.replace("%N", f"{moment.microsecond:06}000")) + "\n").encode())
    return 0


async def _whoami(shell: Shell, arguments: list[str], streams: Streams) -> int:
    await streams.out(b"root\n")
    return 0


async def _id(shell: Shell, arguments: list[str], streams: Streams) -> int:
    await streams.out(b"uid=0(root) gid=0(root) groups=0(root)\n")
    return 0


async def _hostname(shell: Shell, arguments: list[str], streams: Streams) -> int:
    await streams.out(f"{shell.container.hostname}\n".encode())
    return 0


async def _uname(shell: Shell, arguments: list[str], streams: Streams) -> int:
    text = f"Linux {shell.container.hostname} kproxy-demo pretend {platform.machine()}"
    await streams.out((text if "-a" in arguments else "Linux").encode() + b"\n")
    return 0


async def _sleep(shell: Shell, arguments: list[str], streams: Streams) -> int:
    try:
        seconds = float((*arguments[1:], "")[0].removesuffix("s"))
    except ValueError:
        await streams.err(b"sleep: invalid time interval\n")
        return 1
    await asyncio.sleep(seconds)
    return 0


async def _seq(shell: Shell, arguments: list[str], streams: Streams) -> int:
    try:
        numbers = [int(word) for word in arguments[1:4]]
    except ValueError:
        numbers = []
    if not numbers:
        await streams.err(b"seq: expected whole numbers: [FIRST [STEP]] LAST\n")
        return 1
    first, step, last = {1: (1, 1, numbers[0]), 2: (numbers[0], 1, numbers[-1])}.get(
        len(numbers), (numbers[0], numbers[len(numbers) // 2], numbers[-1])
    )
    if step == 0:
        return 1
    text = bytearray()
    for number in range(first, last + (1 if step > 0 else -1), step):
        text += b"%d\n" % number
        if len(text) >= _PIECE_BYTES:
            await streams.out(bytes(text))
            text.clear()
    await streams.out(bytes(text))
    return 0


async def _true(shell: Shell, arguments: list[str], streams: Streams) -> int:
    return 0


async def _false(shell: Shell, arguments: list[str], streams: Streams) -> int:
    return 1


async def _exit(shell: Shell, arguments: list[str], streams: Streams) -> int:
    text = (*arguments[1:], shell.variables.get("?", "0"))[0]
    raise Exit(int(text) & 255 if text.lstrip("-").isdecimal() else 2)


async def _test(shell: Shell, arguments: list[str], streams: Streams) -> int:
    words = [word for word in arguments[1:] if word != "]"]
    negated = words[:1] == ["!"]
    return int(_holds(shell, words[1:] if negated else words) == negated)


def _holds(shell: Shell, words: list[str]) -> bool:
    files = shell.container.files
    if len(words) == 2 and words[0] in ("-d", "-e", "-f"):
        path = shell.container.path(shell.directory, words[1])
        return (words[0] != "-f" and files.is_directory(path)) or (words[0] != "-d" and files.is_file(path))
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return bool(words[1]) == (words[0] == "-n")
    if len(words) == 3 and words[1] in ("=", "==", "!="):
        return (words[0] == words[2]) == (words[1] != "!=")
    return bool(words and words[0])


async def _touch(shell: Shell, arguments: list[str], streams: Streams) -> int:
    for word in arguments[1:]:
        shell.container.files.append(shell.container.path(shell.directory, word), b"")
    return 0


async def _rm(shell: Shell, arguments: list[str], streams: Streams) -> int:
    flags = "".join(word[1:] for word in arguments[1:] if word.startswith("-"))
    files = shell.container.files
    for word in [word for word in arguments[1:] if not word.startswith("-")]:
        path = shell.container.path(shell.directory, word)
        if "r" in flags:
            files.remove_tree(path)
        elif files.is_file(path) or "f" not in flags:
            files.remove(path)
    return 0


async def _mkdir(shell: Shell, arguments: list[str], streams: Streams) -> int:
    for word in [word for word in arguments[1:] if not word.startswith("-")]:
        path = shell.container.path(shell.directory, word)
        if "-p" in arguments:
            shell.container.files.make_directories(path)
        else:
            shell.container.files.make_directory(path)
    return 0


async def _stty(shell: Shell, arguments: list[str], streams: Streams) -> int:
    screen = shell.screen
    if not screen.is_terminal:
        await streams.err(b"stty: standard input: Inappropriate ioctl for device\n")
        return 1
    await streams.out(f"{screen.rows or 0} {screen.columns or 0}\n".encode())
    return 0


async def _tar(shell: Shell, arguments: list[str], streams: Streams) -> int:
    """`tar cf - PATH...` and `tar xf - [-C DIRECTORY]`: the two that `kubectl cp` asks for."""
    words = [word for word in arguments[1:] if not word.startswith("--")]
    mode, words = words[0].lstrip("-") if words else "", words[1:]
    directory = shell.directory
    if "-C" in words[:-1]:
        place = words.index("-C")
        directory = shell.container.path(directory, words[place + 1])
        del words[place : place + 2]
    if "f" not in mode or words[:1] != ["-"] or ("c" in mode) == ("x" in mode):
        await streams.err(b"tar: this toy knows only 'tar cf - PATH...' and 'tar xf - [-C DIRECTORY]'\n")
        return 2
    if "c" in mode:
        await streams.out(_packed(shell, directory, words[1:]))
        return 0
    archive = bytearray()
    while piece := await streams.stdin.read():
        archive += piece
    try:
        _unpack(shell, directory, bytes(archive))
    except tarfile.TarError as error:
        await streams.err(f"tar: {error}\n".encode())
        return 2
    return 0


def _packed(shell: Shell, directory: str, words: list[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for word in words:
            start = shell.container.path(directory, word)
            for path in shell.container.files.below(start):
                content = shell.container.files.read(path)
                entry = tarfile.TarInfo((word.rstrip("/") + path.removeprefix(start)).lstrip("/"))
                entry.size, entry.mtime = len(content), int(clock.now())
                archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _unpack(shell: Shell, directory: str, packed: bytes) -> None:
    files = shell.container.files
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        for entry in archive:
            path = shell.container.path(directory, entry.name)
            content = archive.extractfile(entry) if entry.isfile() else None
            if entry.isdir():
                files.make_directories(path)
            elif content is not None:
                files.make_directories(posixpath.dirname(path))
                files.write(path, content.read())


async def _help(shell: Shell, arguments: list[str], streams: Streams) -> int:
    text = f"The toy shell of kproxy demo. Nothing here is real. Commands: {' '.join(sorted(COMMANDS))}\n"
    await streams.out(text.encode())
    return 0


async def _content(shell: Shell, paths: list[str], streams: Streams) -> AsyncIterator[bytes]:
    """The files one after the other; standard input for `-` or for none."""
    for word in paths or ["-"]:
        path = shell.container.path(shell.directory, word)
        if word == "-":
            while piece := await streams.stdin.read():
                yield piece
        elif path in _ENDLESS:
            while True:
                yield _ENDLESS[path]
                await asyncio.sleep(0)
        else:
            yield shell.container.files.read(path)


def _counted(words: list[str], unit: str, count: int) -> tuple[str, int, list[str]]:
    """`-n 3`, `-n3`, `-c 100` or `-3`, and the words that are left."""
    left = []
    rest = iter(words)
    for word in rest:
        if word[:2] in ("-n", "-c"):
            unit, text = word[:2], word[2:] or next(rest, "")
            count = int(text) if text.isdecimal() else count
        elif word.startswith("-") and word[1:].isdecimal():
            count = int(word[1:])
        else:
            left.append(word)
    return unit, count, left


COMMANDS: dict[str, Command] = {
    ":": _true, "[": _test, "cat": _cat, "cd": _cd, "date": _date, "echo": _echo, "env": _env, "exit": _exit,
    "export": _export, "false": _false, "head": _head, "help": _help, "hostname": _hostname, "id": _id,
    "ls": _ls, "mkdir": _mkdir, "printenv": _env, "pwd": _pwd, "rm": _rm, "seq": _seq, "sleep": _sleep,
    "stty": _stty, "tar": _tar, "test": _test, "touch": _touch, "true": _true, "uname": _uname, "wc": _wc,
    "whoami": _whoami,
}  # fmt: skip

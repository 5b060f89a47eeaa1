"""What `kproxy --help` and `kproxy COMMAND --help` say, made from the tables of commands and settings."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from kproxy.cli.arguments import IGNORED_FLAGS, WISHES
from kproxy.cli.commands import COMMANDS, Command, Flag
from kproxy.config.kinds import Option
from kproxy.config.schema import OPTIONS

_COLUMNS = 100
_FLAG_COLUMNS, _COMMAND_COLUMNS = 32, 21
"""How wide the left side is."""


def help_text(command: Command = COMMANDS[""]) -> str:
    """The help of a command; that of `kproxy` and `kproxy proxy` has all commands and all settings."""
    return "\n".join(_of_all() if command.name in ("", "proxy") else _of_one(command))


def _of_all() -> Iterable[str]:
    yield "kproxy: a local gateway to the Kubernetes API, in place of kubectl proxy."
    yield ""
    yield "Usage: kproxy [COMMAND] [FLAGS]"
    for group in dict.fromkeys(each.group for each in COMMANDS.values()):
        yield from _heading(f"{group}:")
        for each in COMMANDS.values():
            if each.group == group:
                yield from _entry(f"  {each.title}", each.meaning, _COMMAND_COLUMNS)
    yield ""
    yield "`kproxy COMMAND --help` tells more of one of them."
    yield from _examples(COMMANDS[""])
    for group in dict.fromkeys(option.group for option in OPTIONS):
        yield from _heading(f"{group}:")
        for option in OPTIONS:
            if option.group == group:
                yield from _entry(_spelling(option), option.help + _default(option))
    yield from _heading("Every command:")
    for name, meaning in WISHES.items():
        yield from _entry(f"  -h, {name}" if name == "--help" else f"      {name}", meaning)
    yield ""
    yield from _wrapped(
        "Accepted because kubectl has them, without effect: "
        + ", ".join(IGNORED_FLAGS)
        + ". Booleans are turned off with =false. Each setting can also come from a variable such as "
        "KPROXY_PORT or from the config file as `port: 8001`; flags win, then variables, then the file.",
        "",
    )


def _of_one(command: Command) -> Iterable[str]:
    yield from _wrapped(f"{command.title}: {command.meaning[0].lower()}{command.meaning[1:]}", "")
    yield ""
    flags = "[FLAGS]" if command.flags or command.takes_settings else ""
    yield " ".join(filter(None, ["Usage:", command.title, flags, command.words.shown]))
    if command.details:
        yield ""
        yield from _wrapped(command.details, "")
    yield from _examples(command)
    if command.flags:
        yield from _heading("Flags:")
        for flag in command.flags:
            yield from _entry(_spelling(flag), flag.meaning)
    if command.takes_settings:
        yield ""
        yield "It takes all settings: `kproxy --help` lists them."


def _examples(command: Command) -> Iterable[str]:
    if command.examples:
        yield from _heading("Examples:")
        width = min(max(len(example) for example, _ in command.examples) + 5, _COLUMNS // 2)
        for example, meaning in command.examples:
            yield from _entry(f"  {example}", meaning, width)


def _heading(title: str) -> Iterable[str]:
    yield ""
    yield title


def _spelling(flag: Option | Flag) -> str:
    short = f"  -{flag.short}, " if flag.short else "      "
    return f"{short}{flag.flag} {flag.kind.metavar}".rstrip()


def _default(option: Option) -> str:
    if option.negation:
        return f" On unless {option.negation}."
    shown = option.kind.show(option.default)
    return f" Default: {shown}" if shown and option.default is not False else ""


def _entry(left: str, right: str, left_columns: int = _FLAG_COLUMNS) -> Iterable[str]:
    lines = _wrapped(right, " " * left_columns)
    if len(left) >= left_columns:
        yield left
        yield from lines
    else:
        first, *rest = lines
        yield left.ljust(left_columns) + first.lstrip()
        yield from rest


def _wrapped(text: str, indent: str) -> list[str]:
    return wrap(text, _COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)

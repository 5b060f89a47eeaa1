"""argv -> what was asked: the command, the settings given as flags, and every problem in them.

The rules are those of kubectl's flag library (spf13/pflag, flag.go): `--flag value`, `--flag=value`,
`-p 8001`, `-p8001`, `-p=8001`, flags and words in any order, `--` before the last words, `_` for `-` in
names, and a boolean takes a value only with `=`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kproxy.config import OPTIONS, Given, nearest
from kproxy.options import SWITCH, Option

IGNORED_FLAGS: Mapping[str, bool] = {
    "--cache-dir": True,
    "--log-flush-frequency": True,
    "--match-server-version": False,
    "--profile": True,
    "--profile-output": True,
    "--vmodule": True,
    "--warnings-as-errors": False,
}
"""Global flags of kubectl that a proxy has no use for, and whether they take a value.

They are accepted, so that scripts go on working.
"""

WISHES = {
    "--help": ("help", "Show this text."),
    "-h": ("help", ""),
    "--version": ("version", "Show the version."),
    "--json": ("json", "Answer of `kproxy version` as JSON."),
}
"""Flags that ask something of the program itself rather than set something."""


@dataclass(kw_only=True, slots=True)
class CommandLine:
    """What was asked. Parsing goes on after a problem, so that all are found."""

    words: list[str] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    wishes: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Flag:
    option: Option | None
    takes_value: bool
    alone: str = "true"
    """The value that the flag alone stands for."""
    wish: str = ""


def _flags() -> dict[str, _Flag]:
    flags = {flag: _Flag(None, takes_value) for flag, takes_value in IGNORED_FLAGS.items()}
    flags |= {name: _Flag(None, False, wish=wish) for name, (wish, _) in WISHES.items()}
    for option in OPTIONS:
        flags[option.flag] = flag = _Flag(option, option.kind is not SWITCH)
        if option.short:
            flags["-" + option.short] = flag
        if option.negation:
            flags[option.negation] = _Flag(option, False, alone="false")
    return flags


def parse(argv: Sequence[str]) -> CommandLine:
    """What `argv` (without the program's name) asks for."""
    return _Parser(argv).parse()


class _Parser:
    def __init__(self, argv: Sequence[str]) -> None:
        self._rest = list(argv)
        self._flags = _flags()
        self._line = CommandLine()

    def parse(self) -> CommandLine:
        while self._rest:
            word = self._rest.pop(0)
            if word == "--":
                self._line.words += self._rest
                break
            if word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and word != "-":
                self._short(word)
            else:
                self._line.words.append(word)
        return self._line

    def _long(self, word: str) -> None:
        name, equals, text = word.partition("=")
        name = name.replace("_", "-")
        flag = self._flags.get(name)
        if flag is None:
            near = nearest(name[2:], (each[2:] for each in self._flags if each.startswith("--")))
            hint = f", did you mean --{near}?" if near else ""
            self._line.problems.append(f"unknown flag: {name}{hint}")
            self._skip_value(bool(equals))
        elif equals:
            self._take(name, flag, text)
        elif not flag.takes_value:
            self._take(name, flag, None)
        elif self._rest:
            self._take(name, flag, self._rest.pop(0))
        else:
            self._line.problems.append(f"flag needs an argument: {name}")

    def _short(self, word: str) -> None:
        letters = word[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            flag = self._flags.get(name)
            if flag is None:
                self._line.problems.append(f"unknown shorthand flag: '{name[1]}' in {word}")
                self._skip_value(bool(letters))
                return
            if not flag.takes_value and not letters.startswith("="):
                self._take(name, flag, None)
                continue
            if letters:
                self._take(name, flag, letters.removeprefix("="))
            elif self._rest:
                self._take(name, flag, self._rest.pop(0))
            else:
                self._line.problems.append(f"flag needs an argument: '{name[1]}' in {word}")
            return

    def _take(self, name: str, flag: _Flag, text: str | None) -> None:
        """Note one flag; `text` is None where it stands alone."""
        if flag.wish:
            self._line.wishes.add(flag.wish)
        elif flag.option is None:
            return
        elif text is not None and flag.alone == "false":
            self._line.problems.append(f"{name} takes no value; write {flag.option.flag}={text}")
        else:
            origin = name if flag.alone == "false" else flag.option.flag
            self._line.given.append(
                Given(option=flag.option, text=flag.alone if text is None else text, origin=origin)
            )

    def _skip_value(self, has_value: bool) -> None:
        # What follows an unknown flag is most likely its value: it would only be one more, false, problem.
        if not has_value and self._rest and not self._rest[0].startswith("-"):
            self._rest.pop(0)

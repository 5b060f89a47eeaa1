"""argv -> what was asked: the command, its flags and words, the settings, and every problem in them.

The rules are those of kubectl's flag library (spf13/pflag, flag.go): `--flag value`, `--flag=value`,
`-p 8001`, `-p8001`, `-p=8001`, flags and words in any order, `--` before the last words, `_` for `-` in
names, and a boolean takes a value only with `=`. As in kubectl, flags may stand before the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kproxy.cli.commands import COMMANDS, Command, Flag, own_flags
from kproxy.config.kinds import SWITCH, Option, Unusable, nearest
from kproxy.config.schema import OPTIONS
from kproxy.config.sources import Given

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

WISHES: Mapping[str, str] = {
    "--help": "Show the help of kproxy, or of the command it stands beside.",
    "--version": "Show the version.",
}
"""Flags that every command has; each stands for the command of its name."""


@dataclass(kw_only=True, slots=True)
class CommandLine:
    """What was asked. Parsing goes on after a problem, so that all are found."""

    command: Command = COMMANDS[""]
    words: list[str] = field(default_factory=list)
    """What stands behind the command."""
    flags: dict[str, Any] = field(default_factory=dict)
    """The command's own flags that were given, by `Flag.name`; a switch is there only when it is on."""
    given: list[Given] = field(default_factory=list)
    """The settings, for `settings.read`."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a flag's name stands for."""

    takes_value: bool
    option: Option | None = None
    alone: str = "true"
    """The value that the flag alone stands for."""
    is_own: bool = False
    """Whether it is a command's own flag."""
    wish: str = ""
    """The command that the flag stands for."""


@dataclass(frozen=True, slots=True)
class _Written:
    """One flag on the command line."""

    name: str
    """As it is called."""
    word: str
    """As it was written."""
    text: str | None = None
    """Its value; None where it stands alone."""
    lacks_value: bool = False


def _known_flags() -> dict[str, _Known]:
    known = {flag: _Known(takes_value) for flag, takes_value in IGNORED_FLAGS.items()}
    known |= {name: _Known(False, wish=name[2:]) for name in WISHES}
    known["-h"] = known["--help"]
    known |= {name: _Known(flag.takes_value, is_own=True) for name, flag in own_flags().items()}
    for option in OPTIONS:
        known[option.flag] = each = _Known(option.kind is not SWITCH, option)
        if option.short:
            known["-" + option.short] = each
        if option.negation:
            known[option.negation] = _Known(False, option, "false")
    return known


_UNKNOWN = Command(name="", group="", meaning="")


def unknown_command(name: str) -> str:
    """What to say of a command that is none."""
    near = nearest(name, COMMANDS)
    return f'unknown command "{name}"' + (f", did you mean {near}?" if near else "")


def parse(argv: Sequence[str]) -> CommandLine:
    """What `argv` (without the program's name) asks for."""
    return _Parser(argv).parse()


class _Parser:
    """Reads all of argv first: which flags there are is known once the command is."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._rest = list(argv)
        self._known = _known_flags()
        self._words: list[str] = []
        self._flags: list[_Written] = []

    def parse(self) -> CommandLine:
        while self._rest:
            word = self._rest.pop(0)
            if word == "--":
                self._words += self._rest
                break
            if word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and word != "-":
                self._short(word)
            elif self._are_anothers():
                self._words += [word, *self._rest]
                break
            else:
                self._words.append(word)
        return self._judged()

    def _are_anothers(self) -> bool:
        command = COMMANDS.get(self._words[0]) if self._words else None
        return command is not None and command.words.are_anothers

    def _long(self, word: str) -> None:
        name, equals, text = word.partition("=")
        name = name.replace("_", "-")
        known = self._known.get(name)
        if known is None:
            self._flags.append(_Written(name, word))
            self._skip_value(bool(equals))
        elif equals:
            self._flags.append(_Written(name, word, text))
        elif not known.takes_value:
            self._flags.append(_Written(name, word))
        else:
            self._take_next(name, word)

    def _short(self, word: str) -> None:
        letters = word[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            known = self._known.get(name)
            if known is None:
                self._flags.append(_Written(name, word))
                self._skip_value(bool(letters))
                return
            if not known.takes_value and not letters.startswith("="):
                self._flags.append(_Written(name, word))
                continue
            if letters:
                self._flags.append(_Written(name, word, letters.removeprefix("=")))
            else:
                self._take_next(name, word)
            return

    def _take_next(self, name: str, word: str) -> None:
        text = self._rest.pop(0) if self._rest else None
        self._flags.append(_Written(name, word, text, lacks_value=text is None))

    def _skip_value(self, has_value: bool) -> None:
        # What follows an unknown flag is most likely its value: it would only be one more, false, problem.
        if not has_value and self._rest and not self._rest[0].startswith("-"):
            self._rest.pop(0)

    # -- with all of it read --

    def _judged(self) -> CommandLine:
        line = CommandLine()
        self._choose(line)
        if line.command is _UNKNOWN:
            # Which flags it would have, nobody can say.
            return line
        own = own_flags([line.command])
        for flag in self._flags:
            known = self._known.get(flag.name)
            if known is None or not (known.wish or flag.name in own or self._is_setting(line.command, known)):
                line.problems.append(self._unknown(line.command, flag))
            elif flag.lacks_value:
                line.problems.append(
                    f"flag needs an argument: {flag.name}"
                    if flag.name.startswith("--")
                    else f"flag needs an argument: '{flag.name[1]}' in {flag.word}"
                )
            elif flag.name in own:
                _take_own(line, own[flag.name], flag.text)
            elif known.option is not None:
                _take_setting(line, flag, known, known.option)
        return line

    def _choose(self, line: CommandLine) -> None:
        """The command; `--help` and `--version` beside another one are commands themselves."""
        wishes = {self._known[flag.name].wish for flag in self._flags if flag.name in self._known}
        name, *words = self._words or [""]
        command = COMMANDS.get(name)
        if "help" in wishes:
            line.command = COMMANDS["help"]
            line.words = words if words and name == "help" else [command.name] if command else []
        elif command is None:
            line.command = _UNKNOWN
            line.problems.append(unknown_command(name))
        else:
            line.command = COMMANDS["version"] if "version" in wishes else command
            line.words = words
            line.problems += _wrong_words(command, words)

    @staticmethod
    def _is_setting(command: Command, known: _Known) -> bool:
        return command.takes_settings and not known.is_own

    def _unknown(self, command: Command, flag: _Written) -> str:
        # Another command has it: then it says more that this one has not.
        of = f" of {command.title}" if flag.name in self._known else ""
        if not flag.name.startswith("--"):
            return f"unknown shorthand flag{of}: '{flag.name[1]}' in {flag.word}"
        near = nearest(flag.name[2:], self._names(command))
        return f"unknown flag{of}: {flag.name}" + (f", did you mean --{near}?" if near else "")

    def _names(self, command: Command) -> Iterable[str]:
        """The long flags that the command has, without dashes."""
        own = own_flags([command])
        for name, known in self._known.items():
            if name.startswith("--") and (known.wish or name in own or self._is_setting(command, known)):
                yield name[2:]


def _take_own(line: CommandLine, flag: Flag, text: str | None) -> None:
    try:
        value = flag.kind.parse("true" if text is None else text)
    except Unusable as unusable:
        line.problems.append(f"{flag.flag}: {unusable}")
        return
    line.flags.pop(flag.name, None)
    if value is not False:
        line.flags[flag.name] = value


def _take_setting(line: CommandLine, flag: _Written, known: _Known, option: Option) -> None:
    is_negation = known.alone == "false"
    if flag.text is not None and is_negation:
        line.problems.append(f"{flag.name} takes no value; write {option.flag}={flag.text}")
        return
    text = known.alone if flag.text is None else flag.text
    line.given.append(Given(option=option, text=text, origin=flag.name if is_negation else option.flag))


def _wrong_words(command: Command, words: Sequence[str]) -> Iterable[str]:
    expected = command.words
    if expected.most == 0 and words:
        yield f'{command.title} takes no further words, got "{words[0]}"'
    elif len(words) < expected.least:
        yield f"{command.title} needs {expected.shown}"
    elif expected.most is not None and len(words) > expected.most:
        yield f'{command.title} takes only {expected.shown}, got "{words[expected.most]}" too'
    elif expected.choices:
        for word in words:
            if word not in expected.choices:
                near = nearest(word, expected.choices)
                hint = f", did you mean {near}?" if near else f"; expected {expected.shown}"
                yield f'{command.title}: unknown word "{word}"{hint}'

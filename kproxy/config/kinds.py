"""What a setting may be: how its text is read, its YAML value taken, and its value shown.

`config.py` declares each setting once with one of these kinds; flags, variables and the config file
share them, so that a value means the same wherever it is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from kproxy.kube.duration import LONGEST_SECONDS, duration_seconds

Problem = tuple[tuple[int | str, ...], str]
"""Where within a setting's value something is wrong, as `(0, "port")` for `[0].port`, and what."""


class Unusable(ValueError):
    """A value that is none of its setting; the text of a problem reads on after `port: `.

    A value that is made of others may have several, each with its place.
    """

    def __init__(self, text: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(text)
        self.problems: tuple[Problem, ...] = tuple(problems) or (((), text),)


class Kind:
    """Text, the kind most settings have. An empty text is "not given", as kubectl's flags take it."""

    expected: str = "text"
    repeats: bool = False

    def __init__(self, metavar: str = "") -> None:
        self.metavar = metavar

    def parse(self, text: str) -> Any:
        """The value that a flag or variable spells; raises `Unusable`."""
        return text or None

    def take(self, value: object, folder: Path) -> Any:
        """The value that a config file in `folder` holds; raises `Unusable`."""
        # No flag and no variable can have a NUL, and no path.
        if isinstance(value, str) and "\0" not in value:
            return self.parse(value)
        raise self.unusable(value)

    def show(self, value: Any) -> str:
        """The value as a flag would spell it."""
        return "" if value is None else str(value)

    def plain(self, value: Any) -> object:
        """The value as JSON, and so YAML, has it."""
        return value if value is None or isinstance(value, bool | int | tuple) else self.show(value)

    def join(self, first: Any, second: Any) -> Any:
        """What a flag means that was given twice, where `repeats` is set."""
        return (*first, *second)

    def absolute(self, text: str, folder: Path) -> str:
        """The text of a flag given in `folder`, as it has to be in any other."""
        return text

    def unusable(self, value: object) -> Unusable:
        shown = repr(value)
        return Unusable(f"expected {self.expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}")


class Name(Kind):
    """Text that must be there."""

    def __init__(self, metavar: str, expected: str) -> None:
        super().__init__(metavar)
        self.expected = expected

    def parse(self, text: str) -> str:
        if not text:
            raise self.unusable(text)
        return text


class InstanceName(Kind):
    """What an instance may be called: a part of file names and unit names, never a path or a flag."""

    expected = "letters, digits, dots, dashes and underscores, a letter or digit first, at most 63 in all"

    def parse(self, text: str) -> str:
        if not is_instance_name(text):
            raise self.unusable(text)
        return text


def is_instance_name(text: str) -> bool:
    """Whether an instance may be called that."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text) is not None


class FilePath(Kind):
    """A path: relative to the working directory in a flag, to the file's own folder in the config file."""

    expected = "a path"

    def take(self, value: object, folder: Path) -> str | None:
        path: str | None = super().take(value, folder)
        return path and os.path.join(folder, os.path.expanduser(path))

    def absolute(self, text: str, folder: Path) -> str:
        return text and os.path.join(folder, text)


class OptionalFile(FilePath):
    """A file that is looked for when it is not named; `off`, as in KUBERC=off, is none at all."""

    def parse(self, text: str) -> str | None:
        return None if text == "off" else super().parse(text)

    def absolute(self, text: str, folder: Path) -> str:
        return text if text == "off" else super().absolute(text, folder)


class SearchPath(FilePath):
    """Folders in the form of $PATH, relative ones as in `FilePath`."""

    expected = "folders with a colon between"

    def take(self, value: object, folder: Path) -> str | None:
        parts = value.split(os.pathsep) if isinstance(value, str) else [value]
        return (
            os.pathsep.join(filter(None, (super(SearchPath, self).take(part, folder) for part in parts)))
            or None
        )

    def absolute(self, text: str, folder: Path) -> str:
        return os.pathsep.join(os.path.join(folder, part) for part in text.split(os.pathsep) if part)


class UrlPrefix(Kind):
    """A path prefix of URLs; gets the slash at its end that kubectl also adds."""

    expected = "a path that starts with /"

    def parse(self, text: str) -> str:
        if text and not text.startswith("/"):
            raise self.unusable(text)
        return text if text.endswith("/") else text + "/"


class Switch(Kind):
    """On or off, in the words of Go's strconv.ParseBool."""

    expected = "true or false"

    def parse(self, text: str) -> bool:
        if text in ("1", "t", "T", "true", "TRUE", "True"):
            return True
        if text in ("0", "f", "F", "false", "FALSE", "False"):
            return False
        raise self.unusable(text)

    def take(self, value: object, folder: Path) -> bool:
        if isinstance(value, bool):
            return value
        raise self.unusable(value)

    def show(self, value: Any) -> str:
        return "" if value is None else str(value).lower()


class Number(Kind):
    """A whole number within bounds."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__("N")
        self.low = low
        self.high = high
        self.expected = f"{low}-{high}" if low >= 0 else f"a whole number from {low} to {high}"

    def parse(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.low <= int(text) <= self.high:
            raise self.unusable(text)
        return int(text)

    def take(self, value: object, folder: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise self.unusable(value)
        return value


class Duration(Kind):
    """A span of time as Go's time.ParseDuration reads it (`90s`, `1m30s`, `0`), kept in seconds."""

    def __init__(self, low_seconds: float, expected: str) -> None:
        super().__init__("DURATION")
        self.low_seconds = low_seconds
        self.expected = expected

    def parse(self, text: str) -> float:
        try:
            seconds = duration_seconds(text)
        except ValueError:
            raise self.unusable(text) from None
        return self._bounded(seconds, text)

    def take(self, value: object, folder: Path) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.unusable(value)
        return self.parse(value) if isinstance(value, str) else self._bounded(value, value)

    def show(self, value: Any) -> str:
        return f"{value:.9f}".rstrip("0").rstrip(".") + "s"

    def _bounded(self, seconds: float, written: object) -> float:
        if not self.low_seconds <= seconds <= LONGEST_SECONDS:
            raise self.unusable(written)
        return float(seconds)


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        super().__init__("|".join(words))
        self.words = words
        self.expected = ", ".join(words[:-1]) + f" or {words[-1]}"

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise self.unusable(text)
        return text


class Texts(Kind):
    """Several texts."""

    def show(self, value: Any) -> str:
        return ",".join(value)

    def _list(self, value: object) -> list[str]:
        """What a config file holds, if it is a list of texts; raises `Unusable`."""
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.unusable(value)
        return value


class Patterns(Texts):
    """Regular expressions: a flag is split at every comma, as kubectl does; a YAML list is not."""

    expected = "regular expressions: a list, or text with commas between"

    def __init__(self, check: Callable[[str], object]) -> None:
        super().__init__("REGEX,...")
        self.check = check
        """Raises ValueError for what is no regular expression."""

    def parse(self, text: str) -> tuple[str, ...]:
        # kubectl's MakeRegexpArray: an empty text is no expression at all, not one that matches all.
        return self._checked(text.split(",") if text else [])

    def take(self, value: object, folder: Path) -> tuple[str, ...]:
        return self.parse(value) if isinstance(value, str) else self._checked(self._list(value))

    def _checked(self, patterns: list[str]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                self.check(pattern)
            except ValueError as error:
                raise Unusable(f"{pattern!r} is not a regular expression: {error}") from None
        return tuple(patterns)


class Items(Texts):
    """A flag that is given once per value and never split; a variable holds one value per line."""

    repeats = True

    def __init__(self, metavar: str, expected: str, separator: str = "") -> None:
        super().__init__(metavar)
        self.expected = expected
        self.separator = separator
        """What each value must contain, as the `=` of key=value."""

    def parse(self, text: str) -> tuple[str, ...]:
        # An empty group is one, which takes the place of the kubeconfig's: --as=joe --as-group=
        return self._checked(text.splitlines() or [""])

    def take(self, value: object, folder: Path) -> tuple[str, ...]:
        return self._checked(self._list(value))

    def _checked(self, items: list[str]) -> tuple[str, ...]:
        for item in items:
            if self.separator not in item:
                raise self.unusable(item)
        return tuple(items)


class Names(Texts):
    """A list of names: text has commas between them, and a flag may come several times; a YAML list is not
    split, so that a name with a comma has its place there.
    """

    expected = "names: a list, or text with commas between"
    repeats = True

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))

    def take(self, value: object, folder: Path) -> tuple[str, ...]:
        if isinstance(value, str):
            return self.parse(value)
        names = self._list(value)
        if "" in names:
            raise self.unusable(value)
        return tuple(dict.fromkeys(names))


NAME = Kind("NAME")
TEXT = Kind("TEXT")
FILE = FilePath("FILE")
FOLDER = FilePath("FOLDER")
FOLDERS = SearchPath("FOLDER:...")
PREFIX = UrlPrefix("PREFIX")
SWITCH = Switch()


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One setting: its field in `Config`, and how people write it."""

    field: str
    name: str
    """The key in the config file; the flag has dashes instead, the variable is upper case."""
    kind: Kind
    default: Any
    help: str
    group: str
    short: str = ""
    secret: bool = False
    in_file: bool = True
    flag_name: str = ""
    """Where the flag is not called as the key is: a flag names one of what the file lists."""
    live: str = ""
    """What of a running kproxy takes up a change of it (config.py, LIVE); empty: it needs a restart."""

    @property
    def flag(self) -> str:
        return "--" + (self.flag_name or self.name).replace("_", "-")

    @property
    def variable(self) -> str:
        return "KPROXY_" + self.name.upper()

    @property
    def negation(self) -> str:
        """`--no-x` for what is on unless told otherwise, else empty."""
        return "--no-" + self.flag[2:] if self.default is True else ""


def option(default: Any, help: str, group: str, kind: Kind, **more: Any) -> Any:  # noqa: A002 -- as --help
    """A dataclass field that carries an `Option`; `more` are fields of it that are not as usual."""
    about = {"kind": kind, "help": help, "group": group, **more}
    return field(default=default, repr=not more.get("secret", False), metadata=about)


def options_of(config: type[Any], live: Mapping[str, Iterable[str]]) -> tuple[Option, ...]:
    """The settings that a dataclass declares with `option`, in their order; `live` names some of them."""
    part_of = {name: part for part, names in live.items() for name in names}

    def declared(each: Field[Any]) -> Option:
        about = {"field": each.name, "name": each.name, "default": each.default, **each.metadata}
        return Option(**about, live=part_of.get(about["name"], ""))

    return tuple(map(declared, fields(config)))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may have been meant to be."""
    # Imported here: needed only when something is misspelt.
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, n=1, cutoff=0.8)), None)

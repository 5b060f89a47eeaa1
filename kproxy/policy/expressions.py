"""Go's regular expressions (RE2 syntax), made into automata.

The filter flags of kubectl take Go regexes, and Python's differ where a filter must not: Go's `$` does not
match before a final newline, its `\\d`, `\\w` and `\\b` are ASCII, `^*` is legal, `a++` is not, and `\\z`,
`\\pL`, `[[:alpha:]]`, `\\Q..\\E`, `(?i)` in the middle of an expression mean something else there or nothing.
So an expression is parsed as Go's `regexp/syntax` does under its Perl flags; `re` judges single characters
only. Whether a text matches is all that is kept: greediness is dropped and no group captures.

Not supported: Unicode scripts (`\\p{Greek}`), for which Python carries no table.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import NamedTuple

from kproxy.policy.automaton import (
    Assertion,
    Automaton,
    Instruction,
    alternatives,
    at_line_end,
    at_line_start,
    at_text_end,
    at_text_start,
    at_word_edge,
    repeated,
    within,
)

_MAX_RUNE = 0x10FFFF
_MAX_CASED = 0x1FFFF
_MAX_REPEAT = 1000  # regexp/syntax: maxRepeat, of nested ones together
_MAX_DEPTH = 1000  # regexp/syntax: maxHeight
_MAX_SIZE = 10_000

Ranges = list[tuple[int, int]]


class GoRegexpError(ValueError):
    """The expression is not one Go would compile, or one that is too much for us."""


def compile_go(source: str, *, ignore_case: bool = False) -> Automaton:
    """Its `search` tells what Go's `MatchString` does, as fast for any text. Raises GoRegexpError."""
    try:
        source.encode()
    except UnicodeEncodeError:
        raise GoRegexpError("invalid UTF-8") from None
    return Automaton(_Translation(source, ignore_case).run())


class _Flags(NamedTuple):
    ignore_case: bool
    multi_line: bool = False
    dot_all: bool = False

    def changed(self, on: str, off: str) -> _Flags:
        return _Flags(
            *(letter not in off and (letter in on or now) for letter, now in zip("ims", self, strict=True))
        )


class _Atom(NamedTuple):
    """What a repetition operator applies to."""

    program: list[Instruction]
    repeats: int = 1
    """How often nested counts repeat a part of it."""


class _Group:
    """An open parenthesis, or the whole expression: finished branches and the atoms of the current one."""

    def __init__(self, outer_flags: _Flags) -> None:
        self.outer_flags = outer_flags
        self.branches: list[list[_Atom]] = []
        self.atoms: list[_Atom] = []

    def close(self) -> _Atom:
        branches = [*self.branches, self.atoms]
        if sum(len(atom.program) for branch in branches for atom in branch) > _MAX_SIZE:
            raise GoRegexpError("expression too large")
        program = alternatives([[step for atom in branch for step in atom.program] for branch in branches])
        return _Atom(program, max((atom.repeats for branch in branches for atom in branch), default=1))


_PERL_CLASSES: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "s": [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
}
_POSIX_CLASSES: dict[str, Ranges] = {
    "alnum": [(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)],
    "alpha": [(0x41, 0x5A), (0x61, 0x7A)],
    "ascii": [(0x00, 0x7F)],
    "blank": [(0x09, 0x09), (0x20, 0x20)],
    "cntrl": [(0x00, 0x1F), (0x7F, 0x7F)],
    "digit": [(0x30, 0x39)],
    "graph": [(0x21, 0x7E)],
    "lower": [(0x61, 0x7A)],
    "print": [(0x20, 0x7E)],
    "punct": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "space": [(0x09, 0x0D), (0x20, 0x20)],
    "upper": [(0x41, 0x5A)],
    "word": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "xdigit": [(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
}
# The Kelvin sign is a K, too, and the long s an s.
_ASCII_CASES = {
    rune: [rune ^ 0x20, *{"k": [0x212A], "s": [0x017F]}.get(chr(rune | 0x20), [])]
    for rune in (*range(0x41, 0x5B), *range(0x61, 0x7B))
}
_CONTROL_ESCAPES = {"a": 0x07, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B}
_ASSERTIONS: dict[str, Assertion] = {"A": at_text_start, "z": at_text_end, "b": at_word_edge, "B": within}

# Left uncompiled, as most filters never need them and compiling them is time lost at the start.
_CATEGORY = r"C[cfos]?|L[lmotu]?|M[cen]?|N[dlo]?|P[cdefios]?|S[ckmo]?|Z[lps]?"
_NAMED_GROUP = r"\(\?P?<(?![=!])([^>]*)(>?)"
_FLAG_GROUP = r"\(\?([imsU]*)(?:-([imsU]+))?([:)])"
_REPEAT = r"\{(0|[1-9][0-9]*)(?:(,)(0|[1-9][0-9]*)?)?\}"
_UNICODE_CLASS = r"\\([pP])(?:\{(\^?)([^}]*)\}|([^{]))"
_POSIX_CLASS = r"(?s)\[:(\^?)(.*?):\]"
_NUMERIC_ESCAPE = r"\\(?:x\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{2})|(0[0-7]{0,2}|[1-7][0-7]{1,2}))"


class _Translation:
    """One pass over one expression; `at` is the next character to read."""

    def __init__(self, source: str, ignore_case: bool) -> None:
        self.source = source
        self.at = 0
        self.flags = _Flags(ignore_case=ignore_case)
        self.groups = [_Group(self.flags)]

    def run(self) -> list[Instruction]:
        repeat_at: int | None = None  # where the operator began that ended just before `at`
        while self.at < len(self.source):
            start = self.at
            if self.step_repeat(repeat_at):
                repeat_at = start
                continue
            repeat_at = None
            self.step()
        if len(self.groups) > 1:
            raise GoRegexpError(f"missing closing ): `{self.source}`")
        return self.groups[0].close().program

    def step(self) -> None:
        char = self.source[self.at]
        if char == "(":
            self.open_group()
        elif char == ")":
            self.close_group()
        elif char == "|":
            group = self.groups[-1]
            group.branches.append(group.atoms)
            group.atoms = []
            self.at += 1
        elif char == "[":
            self.add_class(*self.bracket_class())
        elif char == ".":
            self.add(r"[\s\S]" if self.flags.dot_all else r"[^\n]")
            self.at += 1
        elif char == "^":
            self.add(at_line_start if self.flags.multi_line else at_text_start)
            self.at += 1
        elif char == "$":
            self.add(at_line_end if self.flags.multi_line else at_text_end)
            self.at += 1
        elif char == "\\":
            self.step_escape()
        else:
            self.add_literal(char)
            self.at += 1

    def step_escape(self) -> None:
        letter = self.source[self.at + 1 : self.at + 2]
        if letter in _ASSERTIONS:
            self.add(_ASSERTIONS[letter])
            self.at += 2
        elif letter == "Q":
            quoted, _, _ = self.source[self.at + 2 :].partition(r"\E")
            for char in quoted:
                self.add_literal(char)
            self.at = min(self.at + len(quoted) + 4, len(self.source))
        elif (named := self.named_class()) is not None:
            self.add_class(named, negated=False)
        else:
            self.add_literal(chr(self.single_escape()))

    def step_repeat(self, repeat_at: int | None) -> bool:
        """Apply `*`, `+`, `?` or `{n,m}` at the current place to the atom before it, if there is one."""
        start = self.at
        char = self.source[start]
        high: int | None
        if char in "*+?":
            low, high = int(char == "+"), 1 if char == "?" else None
            self.at += 1
        elif char == "{" and (counted := self.token(_REPEAT)):
            if max(len(counted[1]), len(counted[3] or "")) > 4:
                raise GoRegexpError(f"invalid repeat count: `{counted[0]}`")
            low = int(counted[1])
            high = int(counted[3]) if counted[3] else None if counted[2] else low
            self.at = counted.end()
        else:
            return False
        if self.at < len(self.source) and self.source[self.at] == "?":
            self.at += 1
        if repeat_at is not None:
            raise GoRegexpError(f"invalid nested repetition operator: `{self.source[repeat_at : self.at]}`")
        atoms = self.groups[-1].atoms
        operator = self.source[start : self.at]
        if not atoms:
            raise GoRegexpError(f"missing argument to repetition operator: `{operator}`")
        atoms[-1] = _repeat(atoms[-1], low, high, operator)
        return True

    def open_group(self) -> None:
        inner = self.flags
        if not self.source.startswith("(?", self.at):
            self.at += 1
        elif named := self.token(_NAMED_GROUP):
            if not named[2] or not re.fullmatch(r"[0-9A-Za-z_]+", named[1]):
                raise GoRegexpError(f"invalid named capture: `{named[0]}`")
            self.at = named.end()
        elif flagged := self.token(_FLAG_GROUP):
            inner = self.flags.changed(flagged[1], flagged[2] or "")
            self.at = flagged.end()
            if flagged[3] == ")":
                self.flags = inner  # until the end of the group around it
                return
        else:
            raise GoRegexpError(f"invalid or unsupported Perl syntax: `{self.source[self.at : self.at + 3]}`")
        if len(self.groups) > _MAX_DEPTH:
            raise GoRegexpError(f"expression nests too deeply: `{self.source}`")
        self.groups.append(_Group(self.flags))
        self.flags = inner

    def close_group(self) -> None:
        if len(self.groups) == 1:
            raise GoRegexpError(f"unexpected ): `{self.source}`")
        group = self.groups.pop()
        self.flags = group.outer_flags
        self.groups[-1].atoms.append(group.close())
        self.at += 1

    def token(self, pattern: str) -> re.Match[str] | None:
        return re.compile(pattern).match(self.source, self.at)

    def add(self, step: Instruction) -> None:
        self.groups[-1].atoms.append(_Atom([step]))

    def add_literal(self, char: str) -> None:
        ranges = self.folded([(ord(char), ord(char))])
        if len(ranges) == 1:
            self.add(char)
        else:
            self.add_class(ranges, negated=False)

    def add_class(self, ranges: Ranges, negated: bool) -> None:
        if not ranges:  # \P{Any}: `re` has no empty set
            self.add(r"[\s\S]" if negated else r"(?!)")
            return
        members = "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in ranges)
        self.add(f"[^{members}]" if negated else f"[{members}]")

    def folded(self, ranges: Ranges) -> Ranges:
        return _folded(ranges) if self.flags.ignore_case else ranges

    def bracket_class(self) -> tuple[Ranges, bool]:
        """The bracket expression at the current place: its ranges, and whether `^` negates it."""
        start = self.at
        negated = self.source.startswith("^", start + 1)
        self.at += 2 if negated else 1
        first = self.at
        ranges: Ranges = []
        while self.at == first or not self.source.startswith("]", self.at):
            if self.at >= len(self.source):
                raise GoRegexpError(f"missing closing ]: `{self.source[start:]}`")
            if posix := self.token(_POSIX_CLASS):
                if posix[2] not in _POSIX_CLASSES:
                    raise GoRegexpError(f"invalid character class range: `{posix[0]}`")
                ranges += _signed(self.folded(_POSIX_CLASSES[posix[2]]), bool(posix[1]))
                self.at = posix.end()
            elif (named := self.named_class()) is not None:
                ranges += named
            else:
                ranges += self.folded([self.class_range(start)])
        self.at += 1
        return ranges, negated

    def class_range(self, class_start: int) -> tuple[int, int]:
        start = self.at
        low = high = self.class_char(class_start)
        if self.source.startswith("-", self.at) and not self.source.startswith("-]", self.at):
            self.at += 1
            high = self.class_char(class_start)
        if high < low:
            raise GoRegexpError(f"invalid character class range: `{self.source[start : self.at]}`")
        return low, high

    def class_char(self, class_start: int) -> int:
        if self.at >= len(self.source):
            raise GoRegexpError(f"missing closing ]: `{self.source[class_start:]}`")
        if self.source[self.at] == "\\":
            return self.single_escape()
        self.at += 1
        return ord(self.source[self.at - 1])

    def named_class(self) -> Ranges | None:
        r"""The class escape at the current place (`\d`, `\pL`, `\P{^Lu}`), None when it is none."""
        letter = self.source[self.at + 1 : self.at + 2]
        if self.source[self.at] != "\\" or not letter or letter not in "dDsSwWpP":
            return None
        if letter not in "pP":
            self.at += 2
            return _signed(self.folded(_PERL_CLASSES[letter.lower()]), letter.isupper())
        unicode = self.token(_UNICODE_CLASS)
        if unicode is None:
            raise GoRegexpError(f"invalid character class range: `{self.source[self.at :]}`")
        name = unicode[4] or unicode[3]
        if name == "Any":
            ranges = [(0, _MAX_RUNE)]
        elif re.fullmatch(_CATEGORY, name):
            ranges = _category_ranges(name)
        else:
            raise GoRegexpError(
                f"invalid character class range: `{unicode[0]}` (of Unicode classes kproxy knows the general "
                "categories, as \\p{L} or \\p{Nd}, but no scripts)"
            )
        self.at = unicode.end()
        return _signed(self.folded(ranges), (unicode[1] == "P") != bool(unicode[2]))

    def single_escape(self) -> int:
        """The code point of the escape at the current place, which stands for one character."""
        char = self.source[self.at + 1 : self.at + 2]
        if not char:
            raise GoRegexpError("trailing backslash at end of expression")
        if char in "01234567x" and (numeric := self.token(_NUMERIC_ESCAPE)):
            rune = int(numeric[3], 8) if numeric[3] else int(numeric[1] or numeric[2], 16)
            if rune <= _MAX_RUNE:
                self.at = numeric.end()
                return rune
        elif char in _CONTROL_ESCAPES:
            self.at += 2
            return _CONTROL_ESCAPES[char]
        elif char.isascii() and not char.isalnum():
            self.at += 2
            return ord(char)
        raise GoRegexpError(f"invalid escape sequence: `\\{char}`")


def _repeat(atom: _Atom, low: int, high: int | None, operator: str) -> _Atom:
    count = low if high is None else high
    repeats = atom.repeats * max(1, count) if high != 0 else 1
    if low > count or (count >= 2 and repeats > _MAX_REPEAT):
        raise GoRegexpError(f"invalid repeat count: `{operator}`")
    if len(atom.program) * max(1, count) > _MAX_SIZE:
        raise GoRegexpError("expression too large")
    return _Atom(repeated(atom.program, low, high), repeats)


def _escaped(rune: int) -> str:
    return f"\\U{rune:08x}"


def _signed(ranges: Ranges, negated: bool) -> Ranges:
    if not negated:
        return ranges
    gaps: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if start < low:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _MAX_RUNE:
        gaps.append((start, _MAX_RUNE))
    return gaps


def _folded(ranges: Ranges) -> Ranges:
    """With the other cases of all their characters, before a class is negated, as in Go."""
    variants = _ASCII_CASES if all(high < 0x80 for _, high in ranges) else _other_cases()
    runes = list(variants)
    found = [
        (other, other)
        for low, high in ranges
        for rune in runes[bisect_left(runes, low) : bisect_right(runes, high)]
        for other in variants[rune]
    ]
    return ranges + found


@lru_cache
def _other_cases() -> dict[int, list[int]]:
    """Characters that are one in Unicode's simple case folding, by each of them, in order.

    Not what `re` takes for one: there `i` is also the Turkish dotless one, and that with a dot.
    """
    orbits: dict[str, list[int]] = {}
    for rune in range(_MAX_CASED + 1):
        char = chr(rune)
        # What folds to several characters, as the German sharp s does, has at most a lower case.
        folded = next((one for one in (char.casefold(), char.lower()) if len(one) == 1), char)
        if folded != char:
            orbits.setdefault(folded, [ord(folded)]).append(rune)
    cases = {rune: [each for each in orbit if each != rune] for orbit in orbits.values() for rune in orbit}
    return dict(sorted(cases.items()))


@lru_cache
def _category_ranges(name: str) -> Ranges:
    # Imported here: a megabyte of tables, for an escape that few expressions hold.
    from unicodedata import category

    ranges: Ranges = []
    for rune in range(_MAX_RUNE + 1):
        if category(chr(rune)).startswith(name):
            if ranges and ranges[-1][1] == rune - 1:
                ranges[-1] = (ranges[-1][0], rune)
            else:
                ranges.append((rune, rune))
    return ranges

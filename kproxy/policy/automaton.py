"""Regular expressions as automata, which take the same few steps for each character of a text. Pure.

`re` backtracks: `^/api/.*/pods/.*/exec.*` takes seconds for a path of 64 KB and `([a-z0-9-]+)+$` for ever for
one of 40 characters, while every other client waits. Here, as in Go's engine, all ways through an expression
are followed at once (Thompson's construction), and each set of places that was reached is remembered as one
state of a deterministic automaton, which is made as far as texts lead into it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

Assertion = Callable[[str, str], bool]
"""Whether something holds between two characters; "" stands for the ends of the text."""

Instruction = str | tuple[int, ...] | Assertion
"""A character, or an expression for `re` that matches one; ways to go on, relative; or an assertion."""

_MAX_REMEMBERED_BYTES = 4 * 1024 * 1024
"""States and transitions of one expression; beyond them all are found out anew."""

_ENTRY_BYTES = 200


def at_text_start(before: str, after: str) -> bool:
    return not before


def at_text_end(before: str, after: str) -> bool:
    return not after


def at_line_start(before: str, after: str) -> bool:
    return before in ("", "\n")


def at_line_end(before: str, after: str) -> bool:
    return after in ("", "\n")


def at_word_edge(before: str, after: str) -> bool:
    return _is_word(before) != _is_word(after)


def within(before: str, after: str) -> bool:
    """No edge of a word, as `\\B` has it."""
    return not at_word_edge(before, after)


def _is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())


def alternatives(programs: Sequence[list[Instruction]]) -> list[Instruction]:
    """One of several programs."""
    if len(programs) == 1:
        return programs[0]
    size = sum(len(program) + 1 for program in programs)
    starts: list[int] = []
    body: list[Instruction] = []
    for program in programs:
        starts.append(len(body) + 1)
        body += program
        body.append((size - len(body),))
    return [tuple(starts), *body]


def repeated(program: list[Instruction], low: int, high: int | None) -> list[Instruction]:
    """`low` to `high` times the program; None is without end."""
    size = len(program)
    if high is None:
        return [*program * low, (1, size + 2), *program, (-size - 1,)]
    return [*program * low, *[(1, size + 1), *program] * (high - low)]


class TooManySteps(Exception):
    """A search takes longer than others can wait."""


class Steps:
    """What searches may still take together; a character takes one where it is known where it leads."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        """Raises TooManySteps when there are no more."""
        self.left -= count
        if self.left < 0:
            raise TooManySteps


class Automaton:
    """Finds out whether a text has a part that the program matches.

    A set of places is an int, with a bit for each: what a step does to all of them is a few operations.
    """

    def __init__(self, program: list[Instruction]) -> None:
        self._program = program
        self._reached: dict[int, int] = {}
        """The places that one with ways to go on leads to, itself too, but for the ways back."""
        self._ways = 0
        self._ways_back = 0
        self._assertions = 0
        self._readers: dict[str, int] = {}
        """The places of each instruction that reads a character."""
        for place in reversed(range(len(program))):
            step = program[place]
            bit = 1 << place
            if isinstance(step, str):
                self._readers[step] = self._readers.get(step, 0) | bit
            elif not isinstance(step, tuple):
                self._assertions |= bit
            elif step[0] < 0:
                self._ways |= bit
                self._ways_back |= bit
            else:
                self._ways |= bit
                for offset in step:
                    bit |= self._reached.get(place + offset, 1 << (place + offset))
                self._reached[place] = bit
        self._classes: dict[re.Pattern[str], int] | None = None
        self._end = 1 << len(program)
        self._work = 10 + len(program) // 500
        """What it takes to look at one place, in steps; long ints take longer."""
        self._first = self._with_reached(0, 1, Steps(sys.maxsize))
        self._readers_of: dict[str, int] = {}
        self._states: dict[tuple[int, str], _State] = {}
        self._remembered_bytes = 0
        self._start = self._state(self._first, "")

    def search(self, text: str, steps: Steps | None = None) -> bool:
        """Raises TooManySteps. A text takes its length in steps where nothing is found."""
        steps = steps or Steps(sys.maxsize)
        steps.take(len(text) + 1)
        state = self._start
        for char in text:
            try:
                state = state[char]
            except KeyError:
                state = self._follow(state, char, steps)
            if state is _MATCHED:
                steps.left += len(text)
                return True
        end = state.get("")
        # A state is a mapping, and one that has not been followed yet is empty.
        return (self._follow(state, "", steps) if end is None else end) is _MATCHED

    def _follow(self, state: _State, char: str, steps: Steps) -> _State:
        """Where a character leads, or with "" the end of the text."""
        if self._remembered_bytes > _MAX_REMEMBERED_BYTES:
            self._remembered_bytes = 0
            self._states.clear()
            self._readers_of.clear()
            self._start = self._state(self._first, "")
        self._remembered_bytes += _ENTRY_BYTES
        found = state[char] = self._find(state, char, steps)
        return found

    def _find(self, state: _State, char: str, steps: Steps) -> _State:
        steps.take(3 * self._work)
        places = state.places
        failed = 0
        while asserting := places & self._assertions & ~failed:
            bit = asserting & -asserting
            place = bit.bit_length() - 1
            holds = self._program[place]
            assert not isinstance(holds, (str, tuple))
            failed |= bit
            if holds(state.before, char):
                places = self._with_reached(places, bit << 1, steps)
        if places & self._end:
            return _MATCHED
        readers = self._readers_of.get(char)
        if readers is None:
            readers = self._readers_of[char] = self._find_readers(char, steps)
        # What is searched for may begin behind any character.
        return self._state(
            self._with_reached(self._first, (places & readers) << 1, steps),
            _kind(char) if self._assertions else "",
        )

    def _with_reached(self, places: int, more: int, steps: Steps) -> int:
        """`places` with `more` and all that these lead to."""
        places |= more & ~self._ways
        more &= self._ways & ~places
        while more:
            steps.take(self._work)
            bit = more & -more
            reached = self._reached.get(bit.bit_length() - 1, bit)
            back = reached & self._ways_back & ~places
            places |= reached
            while back:
                bit = back & -back
                back ^= bit
                way = self._program[bit.bit_length() - 1]
                assert isinstance(way, tuple)
                more |= bit >> -way[0]
            more &= ~places
        return places

    def _find_readers(self, char: str, steps: Steps) -> int:
        """The places whose instructions match a character."""
        if self._classes is None:
            # Not at the start, as most filters never need them.
            self._classes = {re.compile(each): at for each, at in self._readers.items() if len(each) > 1}
        self._remembered_bytes += _ENTRY_BYTES + len(self._program) // 8
        steps.take(self._work * len(self._classes))
        readers = self._readers.get(char, 0)
        for each, places in self._classes.items():
            if each.fullmatch(char):
                readers |= places
        return readers

    def _state(self, places: int, before: str) -> _State:
        """The state of being at these places, behind a character such as `before`."""
        key = places, before
        state = self._states.get(key)
        if state is None:
            self._remembered_bytes += _ENTRY_BYTES + len(self._program) // 8
            state = self._states[key] = _State(places, before)
        return state


class _State(dict[str, "_State"]):
    """What was found out of where each character leads."""

    __slots__ = ("before", "places")

    def __init__(self, places: int, before: str) -> None:
        self.places = places
        self.before = before


def _kind(char: str) -> str:
    """A character of which assertions tell the same."""
    return "a" if _is_word(char) else "\n" if char == "\n" else " "


_MATCHED = _State(0, "")

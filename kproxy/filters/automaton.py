"""Regular expressions as automata, which take the same few steps for each character of a text. Pure.

`re` backtracks: `^/api/.*/pods/.*/exec.*` takes seconds for a path of 64 KB and `([a-z0-9-]+)+$` for ever for
one of 40 characters, while every other client waits. Here, as in Go's engine, all ways through an expression
are followed at once (Thompson's construction), and each set of places that was reached is remembered as one
state of a deterministic automaton, which is made as far as texts lead into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Assertion = Callable[[str, str], bool]
"""Whether something holds between two characters; "" stands for the ends of the text."""

Instruction = str | tuple[int, ...] | Assertion
"""A character, or an expression for `re` that matches one; ways to go on, relative; or an assertion."""

_MAX_REMEMBERED = 50_000
"""Transitions, and places in states; beyond them all are found out anew."""


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


class Automaton:
    """Finds out whether a text has a part that the program matches."""

    def __init__(self, program: list[Instruction]) -> None:
        self._program = program
        self._states: dict[tuple[frozenset[int], str], _State] = {}
        self._remembered = 0
        self._start = self._state(frozenset((0,)), "")

    def search(self, text: str) -> bool:
        state = self._start
        for char in text:
            state = state[char]
            if state is _MATCHED:
                return True
        return state[""] is _MATCHED

    def _state(self, places: frozenset[int], before: str) -> _State:
        """The state of being at these places, behind a character such as `before`."""
        key = places, before
        state = self._states.get(key)
        if state is None:
            self._remembered += len(places)
            state = self._states[key] = _State(self, places, before)
        return state

    def follow(self, state: _State, char: str) -> _State:
        """Where a character leads, or with "" the end of the text."""
        if self._remembered > _MAX_REMEMBERED:
            self._remembered = 0
            self._states.clear()
            self._start = self._state(frozenset((0,)), "")
        self._remembered += 1
        found = state[char] = self._follow(state, char)
        return found

    def _follow(self, state: _State, char: str) -> _State:
        program = self._program
        ahead = {0}  # what is searched for may begin behind any character
        waiting = list(state.places)
        seen: set[int] = set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            if place == len(program):
                return _MATCHED
            step = program[place]
            if isinstance(step, tuple):
                waiting += [place + offset for offset in step]
            elif isinstance(step, str):
                if char and (step == char or (len(step) > 1 and re.fullmatch(step, char))):
                    ahead.add(place + 1)
            elif step(state.before, char):
                waiting.append(place + 1)
        # Assertions tell no more of it than this.
        before = "a" if _is_word(char) else "\n" if char == "\n" else " "
        return self._state(frozenset(ahead), before)


class _State(dict[str, "_State"]):
    """What was found out of where each character leads."""

    __slots__ = ("automaton", "before", "places")

    def __init__(self, automaton: Automaton, places: frozenset[int], before: str) -> None:
        self.automaton = automaton
        self.places = places
        self.before = before

    def __missing__(self, char: str) -> _State:
        return self.automaton.follow(self, char)


_MATCHED = _State(Automaton([]), frozenset(), "")

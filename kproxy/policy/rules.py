"""The list of regular expressions behind one filter flag: compiled, matched, put into words. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kproxy.errors import Denied
from kproxy.policy.automaton import Steps, TooManySteps
from kproxy.policy.expressions import GoRegexpError, compile_go

MAX_STEPS = 300_000
"""What all expressions of a flag may take for one request: some 20 ms, in which everybody waits."""


class Rule(NamedTuple):
    """One expression of a flag and what it matches; the call raises TooManySteps."""

    source: str
    matches: Callable[[str, Steps], bool]


class Rules(NamedTuple):
    """What one flag lists; `flag` is its name without dashes."""

    flag: str
    rules: tuple[Rule, ...]

    def first(self, texts: Iterable[str], steps: Steps | None = None) -> tuple[Rule, str] | None:
        """The first rule that matches one of `texts`, and the text it matches. Raises Denied as `match`."""
        steps = steps or Steps(MAX_STEPS)
        return next(
            ((rule, text) for rule in self.rules for text in texts if self._matches(rule, text, steps)), None
        )

    def match(self, text: str, steps: Steps | None = None) -> bool:
        """Whether any rule matches. Raises Denied where more steps are needed to know, or than MAX_STEPS."""
        steps = steps or Steps(MAX_STEPS)
        return any(self._matches(rule, text, steps) for rule in self.rules)

    def _matches(self, rule: Rule, text: str, steps: Steps) -> bool:
        try:
            return rule.matches(text, steps)
        except TooManySteps:
            raise Denied(
                self.flag,
                f"to match this request takes too long, at last with --{self.flag} {quoted(rule.source)}; "
                "write them without large counts as in '.{0,200}', or send a shorter request",
            ) from None

    def map(self, change: Callable[[Rule], Rule]) -> Rules:
        return self._replace(rules=tuple(map(change, self.rules)))

    def shown(self) -> str:
        """The flag as it would be typed."""
        return as_flag(self.flag, [rule.source for rule in self.rules])

    def widened(self, *sources: str) -> str:
        """The flag with more expressions."""
        return as_flag(self.flag, [*(rule.source for rule in self.rules), *sources])

    def narrowed(self, texts: Sequence[str], steps: Steps | None = None) -> str:
        """The flag without the rules that match one of `texts`. Raises Denied as `match`."""
        steps = steps or Steps(MAX_STEPS)
        return as_flag(
            self.flag,
            [
                rule.source
                for rule in self.rules
                if not any(self._matches(rule, text, steps) for text in texts)
            ],
        )

    def doubts(self) -> list[str]:
        """What is odd about expressions that compile, one sentence each."""
        return [f"--{self.flag}: {doubt}" for rule in self.rules if (doubt := _doubt(rule.source))]

    def open_ends(self) -> list[str]:
        """Expressions for names that anybody can go on behind: `app.example` is in `app.example.evil.net`."""
        return [
            f"--{self.flag}: {quoted(rule.source)} also matches names that go on behind it, which others may "
            "own; end it with $"
            for rule in self.rules
            if rule.source and not rule.source.endswith(("$", "$)", r"\z", ".*"))
        ]


def compile_rules(
    flag: str, listed: str | Sequence[str], problems: list[str], *, ignore_case: bool = False
) -> Rules:
    """A list as a sequence, or as kubectl's flags have it: split at every comma, nothing when empty.

    What Go would not compile is added to `problems`, one sentence each.
    """
    sources = (listed.split(",") if listed else []) if isinstance(listed, str) else listed
    rules: list[Rule] = []
    for source in sources:
        try:
            pattern = compile_go(source, ignore_case=ignore_case)
        except GoRegexpError as error:
            problems.append(
                f"--{flag}: Error compiling re {quoted(source)}: error parsing regexp: {error}{_hint(source)}"
            )
        else:
            rules.append(Rule(source, pattern.search))
    return Rules(flag, tuple(rules))


def as_flag(name: str, sources: Sequence[str]) -> str:
    return f"--{name}={quoted(','.join(sources))}"


def quoted(text: str) -> str:
    """`text` as a shell takes it."""
    return "'" + text.replace("'", "'\\''") + "'"


def exactly(text: str) -> str:
    """The expression that matches `text` and nothing else."""
    return "^" + re.sub(r"([.\[\]+*?(){}|^$\\])", r"\\\1", text) + "$"


def _hint(source: str) -> str:
    if source.startswith("*"):
        return f" (for any text write '.*', as in {quoted('.' + source)})"
    if re.search(r"[({\[][^)}\]]*\Z", source):
        return " (the list is split at every comma)"
    return ""


def _doubt(source: str) -> str | None:
    if source == "":
        return "an empty expression matches everything; is there a comma too many?"
    if source.startswith(("^*", "^?")):
        return f"in {quoted(source)} the `{source[1]}` repeats the `^`; for any text write '^.*'"
    if re.search(r"\{[0-9]+\Z", source):
        return f"{quoted(source)} is half an expression: the list is split at every comma"
    return None

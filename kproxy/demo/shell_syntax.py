"""The grammar of the toy shell: words, quotes, variables, `;` `&&` `||` `|`, redirections, `for`, `while`.

Words stay as they are written; `expand` looks up their variables when the command runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<skip>[ \t]+|\\\n|\#[^\n]*)
  | (?P<operator>[12]?>&[12]|[12]?>>|[12]?>|<|&&|\|\||[;|&\n])
  | (?P<word>(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s;|&<>'"\\])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPERATOR = re.compile(r"[12]?>.*|[<;|&\n].*", re.DOTALL)
_PIECE = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^'"\\]+""", re.DOTALL)
_VARIABLE = re.compile(r"\$(\?|\$|[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_SEPARATORS = (";", "\n")
_UNKNOWN_WORDS = ("if", "case", "until", "function", "{", "(", "select", "do", "done", "then", "fi")


class ShellSyntaxError(Exception):
    """The text is not what this shell understands."""


@dataclass(frozen=True, slots=True)
class Redirect:
    operator: str
    target: str | None
    """The word of a file; None for another stream, as in `2>&1`."""


@dataclass(frozen=True, slots=True)
class Simple:
    words: tuple[str, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class For:
    variable: str
    words: tuple[str, ...]
    body: Sequence


@dataclass(frozen=True, slots=True)
class While:
    condition: Sequence
    body: Sequence


Pipeline = tuple[Simple | For | While, ...]
Sequence = tuple[tuple[str, Pipeline], ...]
"""Pipelines, each with what must have come before it: `;` anything, `&&` success, `||` failure."""


def parse(text: str) -> Sequence:
    """Raises ShellSyntaxError."""
    parser = _Parser(_tokens(text))
    sequence = parser.sequence(end=None)
    if parser.next is not None:
        raise ShellSyntaxError(f"syntax error: unexpected {parser.next!r}")
    return sequence


def expand(word: str, variables: Mapping[str, str]) -> str:
    """Without its quotes, and with the values of its variables."""
    return "".join(_expanded(piece, variables) for piece in _PIECE.findall(word))


def assignment(word: str) -> tuple[str, str] | None:
    """Name and value of `NAME=value`, the value as written."""
    found = _ASSIGNMENT.fullmatch(word)
    return (found[1], found[2]) if found else None


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    @property
    def _next_word(self) -> str | None:
        return None if self.next is None or _OPERATOR.fullmatch(self.next) else self.next

    def sequence(self, *, end: str | None) -> Sequence:
        steps: list[tuple[str, Pipeline]] = []
        connector = ";"
        while self.next is not None and self.next != end:
            if self._take(*_SEPARATORS):
                continue
            steps.append((connector, self._pipeline()))
            connector = self._take("&&", "||") or ";"
        return tuple(steps)

    def _take(self, *tokens: str) -> str | None:
        """The next token if it is one of these."""
        token = self.next
        if token not in tokens:
            return None
        self._place += 1
        return token

    def _word(self, what: str, *only: str) -> str:
        word = self._next_word
        if word is None or (only and word not in only):
            raise ShellSyntaxError(f"syntax error: expected {what}")
        self._place += 1
        return word

    def _pipeline(self) -> Pipeline:
        parts = [self._command()]
        while self._take("|"):
            parts.append(self._command())
        return tuple(parts)

    def _command(self) -> Simple | For | While:
        if self._take("for"):
            variable = self._word("a name after 'for'")
            self._word("'in'", "in")
            words = []
            while word := self._next_word:
                words.append(word)
                self._place += 1
            while self._take(*_SEPARATORS):
                pass
            return For(variable, tuple(words), self._body())
        if self._take("while"):
            return While(self.sequence(end="do"), self._body())
        if self.next in _UNKNOWN_WORDS:
            raise ShellSyntaxError(f"syntax error: this toy shell has no {self.next!r}")
        return self._simple()

    def _body(self) -> Sequence:
        self._word("'do'", "do")
        body = self.sequence(end="done")
        self._word("'done'", "done")
        return body

    def _simple(self) -> Simple:
        words, redirects = [], []
        while (part := self.next) is not None:
            if part == self._next_word:
                words.append(part)
                self._place += 1
            elif ">" in part or part == "<":
                self._place += 1
                redirects.append(Redirect(part, None if "&" in part else self._word("a file name")))
            elif part == "&":
                raise ShellSyntaxError("syntax error: this toy shell runs nothing in the background")
            else:
                break
        if not words and not redirects:
            raise ShellSyntaxError(f"syntax error: unexpected {self.next or 'end of input'!r}")
        return Simple(tuple(words), tuple(redirects))


def _tokens(text: str) -> list[str]:
    tokens = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found:
            raise ShellSyntaxError("syntax error: unterminated quoted string")
        place = found.end()
        if found.lastgroup != "skip":
            tokens.append(found[0])
    return tokens


def _expanded(piece: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        return variables.get(found[1].strip("{}"), "")

    if piece.startswith("'"):
        return piece[1:-1]
    if piece.startswith('"'):
        parts = re.split(r'\\([\\"$`])', piece[1:-1])
        return "".join(part if index % 2 else _VARIABLE.sub(value, part) for index, part in enumerate(parts))
    if piece.startswith("\\"):
        return piece[1:].replace("\n", "")
    return _VARIABLE.sub(value, piece)

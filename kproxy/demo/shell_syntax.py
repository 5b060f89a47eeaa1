"""The grammar of the toy shell: words, quotes, variables, `;` `&&` `||` `|` and redirections.

Words stay as they are written; `expand` looks up their variables when the command runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
    (?P<skip>[ \t]+|\\\n|\#[^\n]*)
  | (?P<redirect>[12]?>&[12]|[12]?>>|[12]?>|<)
  | (?P<operator>&&|\|\||[;|&\n])
  | (?P<word>(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s;|&<>'"\\])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^'"\\]+""", re.DOTALL)
_VARIABLE = re.compile(r"\$(\?|\$|[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_UNKNOWN_WORDS = ("if", "for", "while", "until", "case", "function", "select", "{", "(")


class ShellSyntaxError(Exception):
    """The text is not what this shell understands."""


@dataclass(slots=True)
class Simple:
    """One command: its words, and its redirections, each with the word of a file or, as in `2>&1`, None."""

    words: list[str] = field(default_factory=list)
    redirects: list[tuple[str, str | None]] = field(default_factory=list)


Pipeline = list[Simple]


def parse(text: str) -> list[tuple[str, Pipeline]]:
    """Pipelines, each with what must have come before it: `;` anything, `&&` success, `||` failure.

    Raises ShellSyntaxError.
    """
    steps: list[tuple[str, Pipeline]] = []
    connector, pipeline, simple = ";", list[Simple](), Simple()
    tokens = _tokens(text)
    for kind, token in tokens:
        if kind == "word":
            if not simple.words and token in _UNKNOWN_WORDS:
                raise ShellSyntaxError(f"this toy shell has no {token!r}")
            simple.words.append(token)
        elif kind == "redirect":
            target = None if "&" in token else next(tokens, ("", ""))
            if target is not None and target[0] != "word":
                raise ShellSyntaxError("expected a file name")
            simple.redirects.append((token, target[1] if target else None))
        elif token == "&":  # noqa: S105 -- a token of the grammar
            raise ShellSyntaxError("this toy shell runs nothing in the background")
        elif simple.words or simple.redirects:
            pipeline.append(simple)
            simple = Simple()
            if token != "|":  # noqa: S105 -- a token of the grammar
                steps.append((connector, pipeline))
                connector, pipeline = token, []
        elif pipeline or connector in ("&&", "||") or token not in (";", "\n"):
            raise ShellSyntaxError(f"unexpected {token!r}")
    return steps


def expand(word: str, variables: Mapping[str, str]) -> str:
    """Without its quotes, and with the values of its variables."""
    return "".join(_expanded(piece, variables) for piece in _PIECE.findall(word))


def assignment(word: str) -> tuple[str, str] | None:
    """Name and value of `NAME=value`, the value as written."""
    found = _ASSIGNMENT.fullmatch(word)
    return (found[1], found[2]) if found else None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token; a line break ends the last command."""
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found:
            raise ShellSyntaxError("unterminated quoted string")
        place = found.end()
        if found.lastgroup and found.lastgroup != "skip":
            yield found.lastgroup, found[0]
    yield "operator", "\n"


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

"""The grammar of the toy shell: words, quotes, variables, `;` `&&` `||` `|`, redirections, `for`, `while`."""

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
_PIECE = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^'"\\]+""", re.DOTALL)
_VARIABLE = re.compile(r"\$(\?|\$|[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_UNKNOWN_WORDS = ("if", "case", "until", "function", "{", "(", "select", "do", "done", "then", "fi")


class ShellSyntaxError(Exception):
    """The text is not what this shell understands."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as written; its variables are looked up when the command runs."""

    raw: str

    def expand(self, variables: Mapping[str, str]) -> str:
        return "".join(_expand(piece, variables) for piece in _PIECE.findall(self.raw))

    @property
    def assignment(self) -> tuple[str, Word] | None:
        found = _ASSIGNMENT.fullmatch(self.raw)
        return (found[1], Word(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Redirect:
    operator: str
    target: Word | None


@dataclass(frozen=True, slots=True)
class Simple:
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class For:
    variable: str
    words: tuple[Word, ...]
    body: Sequence


@dataclass(frozen=True, slots=True)
class While:
    condition: Sequence
    body: Sequence


@dataclass(frozen=True, slots=True)
class Pipeline:
    parts: tuple[Simple | For | While, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """Pipelines, each with what must have come before it: `;` anything, `&&` success, `||` failure."""

    steps: tuple[tuple[str, Pipeline], ...]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def parse(text: str) -> Sequence:
    """Raises ShellSyntaxError."""
    parser = _Parser(_tokens(text))
    sequence = parser.sequence(())
    if parser.next is not None:
        raise ShellSyntaxError(f"syntax error: unexpected {parser.next.text!r}")
    return sequence


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def next(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def sequence(self, ends: tuple[str, ...]) -> Sequence:
        steps: list[tuple[str, Pipeline]] = []
        connector = ";"
        while (token := self.next) is not None:
            if token.kind == "word" and token.text in ends:
                break
            if token.text in (";", "\n") and token.kind == "operator":
                self._place += 1
                continue
            steps.append((connector, self._pipeline()))
            connector = ";"
            if (after := self.next) is not None and after.text in ("&&", "||"):
                connector = after.text
                self._place += 1
        return Sequence(tuple(steps))

    def _pipeline(self) -> Pipeline:
        parts = [self._command()]
        while (token := self.next) is not None and token.text == "|":
            self._place += 1
            parts.append(self._command())
        return Pipeline(tuple(parts))

    def _command(self) -> Simple | For | While:
        token = self.next
        if token is not None and token.kind == "word":
            if token.text == "for":
                return self._for()
            if token.text == "while":
                self._place += 1
                condition = self.sequence(("do",))
                return While(condition, self._body())
            if token.text in _UNKNOWN_WORDS:
                raise ShellSyntaxError(f"syntax error: this toy shell has no {token.text!r}")
        return self._simple()

    def _for(self) -> For:
        self._place += 1
        variable = self._word("a name after 'for'")
        if self._word("'in'") != "in":
            raise ShellSyntaxError("syntax error: expected 'in'")
        words = []
        while (token := self.next) is not None and token.kind == "word":
            words.append(Word(token.text))
            self._place += 1
        self._skip_separators()
        return For(variable, tuple(words), self._body())

    def _body(self) -> Sequence:
        if self._word("'do'") != "do":
            raise ShellSyntaxError("syntax error: expected 'do'")
        body = self.sequence(("done",))
        self._word("'done'")
        return body

    def _simple(self) -> Simple:
        words, redirects = [], []
        while (token := self.next) is not None:
            if token.kind == "word":
                words.append(Word(token.text))
                self._place += 1
            elif ">" in token.text or token.text == "<":
                self._place += 1
                target = None if "&" in token.text else Word(self._word("a file name"))
                redirects.append(Redirect(token.text, target))
            elif token.text == "&":
                raise ShellSyntaxError("syntax error: this toy shell runs nothing in the background")
            else:
                break
        if not words and not redirects:
            shown = repr(self.next.text) if self.next else "end of input"
            raise ShellSyntaxError(f"syntax error: unexpected {shown}")
        return Simple(tuple(words), tuple(redirects))

    def _word(self, what: str) -> str:
        token = self.next
        if token is None or token.kind != "word":
            raise ShellSyntaxError(f"syntax error: expected {what}")
        self._place += 1
        return token.text

    def _skip_separators(self) -> None:
        while (token := self.next) is not None and token.kind == "operator" and token.text in (";", "\n"):
            self._place += 1


def _tokens(text: str) -> list[_Token]:
    tokens = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found:
            raise ShellSyntaxError("syntax error: unterminated quoted string")
        place = found.end()
        if found.lastgroup != "skip":
            tokens.append(_Token(found.lastgroup or "", found[0]))
    return tokens


def _expand(piece: str, variables: Mapping[str, str]) -> str:
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

"""Lists of regular expressions: how flags give them, and how messages put them."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.policy.expressions import compile_go
from kproxy.policy.rules import Rules, as_flag, compile_rules, exactly, quoted

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def compiled(listed: str | tuple[str, ...], *, ignore_case: bool = False) -> Rules:
    problems: list[str] = []
    rules = compile_rules("reject-paths", listed, problems, ignore_case=ignore_case)
    assert problems == []
    return rules


@pytest.mark.parametrize(
    ("listed", "sources"),
    [
        ("", []),
        ("^/a$", ["^/a$"]),
        ("^/a,b", ["^/a", "b"]),
        ("^/a,", ["^/a", ""]),
        (",", ["", ""]),
        ("a{1,3}", ["a{1", "3}"]),
        ((), []),
        (("a{1,3}", "b"), ["a{1,3}", "b"]),
    ],
)
def test_text_is_split_at_every_comma_and_a_sequence_is_not(
    listed: str | tuple[str, ...], sources: list[str]
) -> None:
    """As kubectl splits its flags; empty text is no expression at all."""
    assert [rule.source for rule in compiled(listed).rules] == sources


@pytest.mark.parametrize(
    ("listed", "text", "matches"),
    [
        ("", "", False),
        ("^/a,", "anything", True),
        ("/b", "/a/b/c", True),
        ("^/b", "/a/b/c", False),
        ("/a$", "/a\n", False),
        ("^A$", "a", False),
    ],
)
def test_expressions_are_searched_unanchored(listed: str, text: str, matches: bool) -> None:
    """An expression matches anywhere unless it says otherwise, and in its own case."""
    assert compiled(listed).match(text) is matches


def test_case_is_ignored_where_it_is_asked_for() -> None:
    """Host names are the same in any case."""
    assert compiled("^Example$", ignore_case=True).match("eXAMPLE")


def test_every_broken_expression_is_a_problem_of_its_own() -> None:
    """Each names the flag, the expression and Go's words for what is wrong; the others are compiled."""
    problems: list[str] = []

    rules = compile_rules("accept-hosts", r"(,ok,\Z,*.x,a{1,[b", problems)

    assert [rule.source for rule in rules.rules] == ["ok", "a{1"]
    assert problems == [
        (
            "--accept-hosts: Error compiling re '(': error parsing regexp: missing closing ): `(` "
            "(the list is split at every comma)"
        ),
        r"--accept-hosts: Error compiling re '\Z': error parsing regexp: invalid escape sequence: `\Z`",
        (
            "--accept-hosts: Error compiling re '*.x': error parsing regexp: missing argument to repetition "
            "operator: `*` (for any text write '.*', as in '.*.x')"
        ),
        (
            "--accept-hosts: Error compiling re '[b': error parsing regexp: missing closing ]: `[b` "
            "(the list is split at every comma)"
        ),
    ]


def test_the_first_rule_that_matches_any_text_is_named_with_that_text() -> None:
    """Rules are tried in their order, each on all texts."""
    found = compiled("c,b,a").first(["xa", "xb"])

    assert found is not None
    assert (found[0].source, found[1]) == ("b", "xb")
    assert compiled("c").first(["xa", "xb"]) is None


def test_flags_are_put_as_they_would_be_typed() -> None:
    """Messages offer the whole flag: as it is, with an expression more, without those that match."""
    rules = compiled("^/a,^/b,c")

    assert rules.shown() == "--reject-paths='^/a,^/b,c'"
    assert rules.widened("^d$") == "--reject-paths='^/a,^/b,c,^d$'"
    assert rules.narrowed(["/a", "/c"]) == "--reject-paths='^/b'"
    assert rules.narrowed(["/a", "/b", "/c"]) == "--reject-paths=''"


@pytest.mark.parametrize(
    ("listed", "doubts"),
    [
        (r"^localhost$,^.*$,^\*,a{2}", []),
        ("^*$", ["--reject-paths: in '^*$' the `*` repeats the `^`; for any text write '^.*'"]),
        ("^?a", ["--reject-paths: in '^?a' the `?` repeats the `^`; for any text write '^.*'"]),
        ("a,", ["--reject-paths: an empty expression matches everything; is there a comma too many?"]),
        ("a{1,3}", ["--reject-paths: 'a{1' is half an expression: the list is split at every comma"]),
    ],
)
def test_odd_expressions_are_pointed_out(listed: str, doubts: list[str]) -> None:
    """Legal, but hardly what was meant."""
    assert compiled(listed).doubts() == doubts


@given(TEXT)
def test_what_is_quoted_comes_through_a_shell(text: str) -> None:
    """A suggested flag can be pasted, whatever is in it."""
    assert shlex.split(quoted(text)) == [text]
    assert shlex.split(as_flag("a", [text])) == [f"--a={text}"]


@given(TEXT, TEXT)
def test_an_exact_expression_matches_its_text_only(text: str, other: str) -> None:
    """What a message suggests for a host or an origin lets nothing else through."""
    pattern = compile_go(exactly(text))

    assert pattern.search(text)
    assert bool(pattern.search(other)) is (text == other)

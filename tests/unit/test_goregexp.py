"""Go's regular expressions: the verdicts recorded from kubectl, what is refused, and what they cost."""

from __future__ import annotations

import contextlib
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.policy import rules
from kproxy.policy.automaton import Steps, TooManySteps
from kproxy.policy.expressions import GoRegexpError, compile_go

CASES = json.loads((Path(__file__).parents[1] / "conformance" / "filter_cases.json").read_text())
SYNTAX = [
    *"ab/^$.*+?|()[]{}-\\,09 é\n",
    *(
        "(?:",
        "(?i)",
        "(?-s:",
        "(?P<n>",
        "(?<n>",
        "(?=",
        "[^",
        "[[:alpha:]]",
        "[:^word:]",
        "{2}",
        "{2,}",
        "{,3}",
    ),
    *(
        r"\d",
        r"\W",
        r"\pL",
        r"\p{Lu}",
        r"\P{^Nd}",
        r"\Q",
        r"\E",
        r"\z",
        r"\B",
        r"\x41",
        r"\x{e9}",
        r"\07",
        r"\8",
    ),
]


@pytest.mark.parametrize("source", [source for source, verdict in CASES["regexps"].items() if verdict])
def test_matches_what_kubectl_matches(source: str) -> None:
    """Every expression passes exactly the paths that kubectl passed under --accept-paths."""
    pattern = compile_go(source)

    verdict = "".join("Y" if pattern.search(text) else "." for text in CASES["texts"])

    assert verdict == CASES["regexps"][source]


@pytest.mark.parametrize(
    "source", [source for source, verdict in CASES["regexps"].items() if verdict is None]
)
def test_refuses_what_kubectl_refuses(source: str) -> None:
    """An expression that kubectl did not start with is an error here too."""
    with pytest.raises(GoRegexpError):
        compile_go(source)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("(", "missing closing ): `(`"),
        ("a)", "unexpected ): `a)`"),
        ("[a", "missing closing ]: `[a`"),
        ("*.example.com", "missing argument to repetition operator: `*`"),
        ("a|+", "missing argument to repetition operator: `+`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{3,2}", "invalid repeat count: `{3,2}`"),
        ("a{99999999999999999999}", "invalid repeat count"),
        ("(a{100}){11}", "invalid repeat count: `{11}`"),
        ("(a|(b{501})*){2}", "invalid repeat count: `{2}`"),
        (r"\Z", r"invalid escape sequence: `\Z`"),
        (r"(a)\1", r"invalid escape sequence: `\1`"),
        ("a\\", "trailing backslash"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(" * 1001 + ")" * 1001, "expression nests too deeply"),
        ("(abcdefghijk){1000}", "expression too large"),
        ("(abcde){1000}" * 3, "expression too large"),
        ("(?P<a-b>c)", "invalid named capture: `(?P<a-b>`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        ("[[:a]b[[:alpha:]]", "invalid character class range: `[:a]b[[:alpha:]`"),
        (r"\p{Greek}", "no scripts"),
        ("\udcff", "invalid UTF-8"),
    ],
)
def test_errors_say_what_go_says(source: str, says: str) -> None:
    """The message is Go's, so that what is found about it in a search applies."""
    with pytest.raises(GoRegexpError, match=re.escape(says)):
        compile_go(source)


@pytest.mark.parametrize(
    ("source", "text", "matches"),
    [
        ("^a{2,3}$", "aaa", True),
        ("^a{2,3}$", "aaaa", False),
        ("^a{2,}$", "aaaa", True),
        ("^a{,2}$", "a{,2}", True),
        ("^[,a]$", ",", True),
        (r"\B", "", True),
    ],
)
def test_what_a_list_split_at_commas_cannot_hold(source: str, text: str, matches: bool) -> None:
    """Lists from a config file are not split: counted repetition works there as in Go."""
    assert bool(compile_go(source).search(text)) is matches


@pytest.mark.parametrize(
    ("source", "text", "matches"),
    [
        ("^((?i)a)b$", "Ab", True),
        ("^((?i)a)b$", "AB", False),
        ("^(?i:a)b$", "AB", False),
        ("^(a(?i)b|c)d$", "Cd", True),
        ("^(a(?i)b|c)d$", "CD", False),
        ("^(?i)(a(?-i)b|c)d$", "cD", True),
        ("^(?i)(a(?-i)b|c)d$", "CD", False),
    ],
)
def test_flags_last_to_the_end_of_their_group(source: str, text: str, matches: bool) -> None:
    """Also past a `|`, and no further than the parenthesis they stand in."""
    assert bool(compile_go(source).search(text)) is matches


@pytest.mark.parametrize(
    ("source", "text"), [("^LocalHost$", "localhost"), ("^[A-Z]+$", "abc"), (r"\x4b", "k"), ("(?-i)a", "a")]
)
def test_case_can_be_ignored_from_outside(source: str, text: str) -> None:
    """`ignore_case` is as if the expression began with `(?i)`."""
    assert compile_go(source, ignore_case=True).search(text)


@pytest.mark.parametrize(
    ("source", "text", "matches"),
    [
        (r"(?i)^\W$", "k", False),
        (r"(?i)^\W$", "\u212a", False),
        (r"(?i)^\w$", "\u017f", True),
        ("(?i)^[[:^alpha:]]$", "S", False),
        (r"(?i)^\P{Ll}$", "A", False),
        (r"(?i)^[^\PL]$", "k", True),
        ("(?i)^[^k]$", "\u212a", False),
        ("(?i)^i$", "\u0131", False),
        ("(?i)^[h-j]$", "\u0130", False),
        ("(?i)^\u0131$", "I", False),
        ("(?i)^\u03c3$", "\u03c2", True),
        ("(?i)^\u00df$", "\u1e9e", True),
    ],
)
def test_case_is_folded_as_in_go(source: str, text: str, matches: bool) -> None:
    """By Unicode's simple folding, and before a class is negated; `re` does neither."""
    assert bool(compile_go(source).search(text)) is matches


PARTS = st.recursive(
    st.sampled_from(["a", "b", "[^a]", ".", "^", r"\b", r"\B", "(?m:^)", "(?i:A)", "(?s:.)", ""]),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3).map("".join),
        st.lists(parts, max_size=3).map(lambda each: f"(?:{'|'.join(each)})"),
        st.builds(
            lambda part, operator: f"(?:{part}){operator}",
            parts,
            st.sampled_from(["*", "+", "?", "{2}", "{0}", "{1,}", "{0,2}", "{2,3}", "*?"]),
        ),
    ),
)


@given(PARTS, st.text("abA\n_-", min_size=1, max_size=12))
def test_where_both_languages_agree_so_do_the_engines(source: str, text: str) -> None:
    """Python's own engine finds a match exactly where ours does."""
    assert compile_go(source).search(text) == (re.search(source, text, re.ASCII) is not None)


@pytest.mark.parametrize(
    "source",
    ["^([a-z0-9-]+)+$", "^(a|a)*$", "^(a*)*$", "^/?.*a.*a.*a.*$.", "(a?){50}$.", "(.*)(.*)(.*)!"],
)
def test_no_expression_makes_others_wait(source: str) -> None:
    """Expressions that Python would search for days in this text are done with as quickly as others."""
    assert not compile_go(source).search("/" + "a" * 10_000 + "\n")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (".*a.{0,200}b.{0,200}secrets", "/" + "ab c" * 2000),
        ("a[ab]{500}c", "ab" * 4000),
        ("(a?){500}(a){500}b", "a" * 8000),
        ("|".join(f"x{number}y*z" for number in range(1000)), "x1y" * 2600),
    ],
)
def test_counts_and_alternatives_are_read_in_a_few_steps(source: str, text: str) -> None:
    """What took 42 seconds for a path of 8 KB: hundreds of places at once are as quick as one."""
    compile_go(source).search(text, Steps(rules.MAX_STEPS))


def test_a_search_has_an_end_before_others_wait() -> None:
    """Where it takes more steps than are left, nothing is said of the text."""
    pattern = compile_go("a(a|b){500}c")
    text = "".join(random.Random(1).choices("ab", k=2000))

    with pytest.raises(TooManySteps):
        pattern.search(text, Steps(rules.MAX_STEPS))
    with pytest.raises(TooManySteps):
        compile_go("a").search("b" * 1001, Steps(1000))
    assert not pattern.search(text)
    assert pattern.search("a" + "b" * 500 + "c", Steps(rules.MAX_STEPS))


def test_what_is_remembered_of_texts_is_bounded() -> None:
    """An expression with thousands of states goes on finding the right matches when it has forgotten some."""
    choose = random.Random(1)
    text = "".join(choose.choices("ab", k=10_000))
    pattern = compile_go("a[ab]{12}c")

    assert not pattern.search(text)
    assert pattern.search(text + "a" + "b" * 12 + "c")
    assert not pattern.search(text + "b" * 13 + "c")


@given(st.lists(st.sampled_from(SYNTAX), max_size=12).map("".join) | st.text(max_size=20))
def test_any_text_compiles_or_is_one_kind_of_error(source: str) -> None:
    """No expression, however broken, makes anything but a pattern or a GoRegexpError."""
    with contextlib.suppress(GoRegexpError):
        compile_go(source).search("/api/v1/pods\n")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\"), max_size=20))
def test_quoted_text_matches_itself_only(text: str) -> None:
    r"""What stands between \Q and \E is literal."""
    pattern = compile_go(r"\A\Q" + text + r"\E\z")

    assert pattern.search(text)
    assert not pattern.search(text + "x")
    assert not pattern.search("x" + text)

"""kubeyaml: YAML as kubectl reads it, and fields that must have the right type."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy.kube.yaml import Section, YamlError, parse


def scalar(text: str) -> object:
    document = parse(f"key: {text}\n".encode())
    assert isinstance(document, dict)
    return document["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", True),
        ("Yes", True),
        ("on", True),
        ("TRUE", True),
        ("n", False),
        ("no", False),
        ("OFF", False),
        ("False", False),
        ("yEs", "yEs"),
        ("~", None),
        ("null", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 15),
        ("0b11", 3),
        ("1_000", 1000),
        ("089", 89.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("2020-01-02", "2020-01-02"),
        ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z"),
        ("12:30:45", "12:30:45"),
        ("1e999", "1e999"),
        ("0b12", "0b12"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("._5", "._5"),
        ("<<", "<<"),
        ("abc", "abc"),
    ],
)
def test_plain_scalars_resolve_as_in_go_yaml(text: str, value: object) -> None:
    """A plain scalar has the type and value that go-yaml v2 gives it, not the one of PyYAML."""
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_mapping_keys_become_strings() -> None:
    """Boolean and numeric keys become the text they have in JSON."""
    assert parse(b"{n: 1, y: 2, 3: 4, text: 5}") == {"false": 1, "true": 2, "3": 4, "text": 5}
    assert parse(b"{1: a, y: b, 0: c, n: d}") == {"1": "a", "true": "b", "0": "c", "false": "d"}


@pytest.mark.parametrize("text", [b"? [a]\n: b\n", b"~: b\n"])
def test_other_mapping_keys_are_refused(text: bytes) -> None:
    """A key that is neither text nor number is an error, as there is none in JSON."""
    with pytest.raises(YamlError, match="line 1"):
        parse(text)


def test_last_of_equal_keys_wins() -> None:
    """A key given twice is no error and the last value stays."""
    assert parse(b"a: 1\na: 2\n") == {"a": 2}


def test_anchors_and_merges_work() -> None:
    """Aliases and `<<` merges are resolved, own keys behind them beating merged ones."""
    document = parse(b"base: &b {x: 1, y1: 2}\nother:\n  <<: *b\n  x: 3\nsame: *b\n")
    assert document == {"base": {"x": 1, "y1": 2}, "other": {"x": 3, "y1": 2}, "same": {"x": 1, "y1": 2}}


def test_a_merge_overrides_what_stands_before_it() -> None:
    """As in kubectl, whatever YAML says: it must not be another server that is talked to."""
    document = parse(b"server: one\n<<: [{server: two, name: a}, {server: three, name: b}]\nname: c\n")
    assert document == {"server": "two", "name": "c"}


@pytest.mark.parametrize(
    ("data", "document"),
    [
        (b"", None),
        (b"# only words\n\n", None),
        (b"---\n", None),
        (b"---\na: b\n---\n: [not even YAML\n", {"a": "b"}),
        (b"\xef\xbb\xbfa: b\n", {"a": "b"}),
        (b"a: b\r\nc: d\r\n", {"a": "b", "c": "d"}),
        pytest.param(
            b'{\n\t"a": "b\\/c"\n}',
            {"a": "b/c"},
            marks=pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML alone takes no tabs in JSON"),
        ),
    ],
)
def test_only_the_first_document_is_read(data: bytes, document: object) -> None:
    """None if there is none; byte order mark, CRLF and JSON with tabs are fine; the rest is not looked at."""
    assert parse(data) == document


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"a:\n\t- b\n", 2), (b"a: [s3cret\n", 2), (b"a: *s3cret-not-there\n", 1), (b"token: !s3cret x\n", 1)],
)
def test_syntax_errors_name_the_line(data: bytes, line: int) -> None:
    """What cannot be parsed is reported with its line."""
    with pytest.raises(YamlError, match=rf"line {line}: "):
        parse(data)


def test_syntax_errors_quote_nothing() -> None:
    """The line that cannot be parsed is not shown, for it may hold a token."""
    with pytest.raises(YamlError) as caught:
        parse(b'user:\n  token: "s3cret"x\n')
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", ["!!bool x", "!!timestamp x", "!!map x", "!!map", "!!float x"])
def test_a_value_that_its_tag_does_not_fit_is_an_error(value: str) -> None:
    """PyYAML raises KeyError and AttributeError for some, which would be a traceback at the start."""
    with pytest.raises(YamlError):
        parse(f"token: {value}\n".encode())


def test_an_anchor_defined_twice_is_named_as_such() -> None:
    """All that PyYAML says of it is that it is the second occurrence."""
    with pytest.raises(YamlError, match="line 2: an anchor is defined twice"):
        parse(b"a: &x 1\nb: &x 2\n")


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_yaml_error(data: bytes) -> None:
    """No input whatsoever makes `parse` raise anything but YamlError."""
    try:
        parse(data)
    except YamlError:
        return


def section(text: str) -> Section:
    return Section.of(parse(text.encode()), "", [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("f: 12", "f: expected a string, found a number; put it in quotes"),
        ("f: 1.5", "f: expected a string, found a number; put it in quotes"),
        ("f: y", "f: expected a string, found true or false"),
        ("f: [a]", "f: expected a string, found a list"),
        ("f: {a: b}", "f: expected a string, found a mapping"),
    ],
)
def test_a_string_is_not_made_of_other_types(text: str, problem: str) -> None:
    """A field that must be text is never coerced, and the hint says to quote what looks like text."""
    fields = section(text)
    assert fields.string("f") == ""
    assert [found[: len(problem)] for found in fields.problems] == [problem]


def test_a_boolean_is_not_made_of_text() -> None:
    """`"true"` in quotes is no boolean."""
    fields = section("f: 'true'")
    assert fields.boolean("f") is False
    assert fields.problems == ["f: expected true or false, found a string"]


def test_null_is_absent() -> None:
    """A null field reads as if it were not there, whatever its type."""
    fields = section("f: null")
    assert not fields.has("f")
    assert (fields.string("f"), fields.boolean("f"), fields.data("f")) == ("", False, b"")
    assert (fields.strings("f"), fields.strings_map("f"), fields.string_map("f")) == ((), {}, {})
    assert list(fields.sections("f")) == []
    assert fields.section("f").fields == {}
    assert fields.problems == []


@pytest.mark.parametrize(
    ("text", "data", "problem"),
    [
        ("'YWJj'", b"abc", None),
        ("'YWI='", b"ab", None),
        ('"YW\\nJj\\r\\n"', b"abc", None),
        ("'YW Jj'", b"", "f: illegal base64 character at byte 2"),
        ("'YWI'", b"", "f: not base64: wrong length or padding"),
        ("'YWJj='", b"", "f: not base64: wrong length or padding"),
        ("'YWJj===='", b"", "f: not base64: wrong length or padding"),
        ("'YWI=YWI='", b"", "f: not base64: wrong length or padding"),
        ("'YW-_'", b"", "f: illegal base64 character at byte 2"),
        ("'Ü'", b"", "f: illegal base64 character at byte 0"),
    ],
)
def test_base64_is_strict_but_for_line_ends(text: str, data: bytes, problem: str | None) -> None:
    """Base64 is the standard alphabet with padding; only CR and LF may stand between."""
    fields = section(f"f: {text}")
    assert fields.data("f") == data
    assert fields.problems == ([problem] if problem else [])


def test_names_within_lists_are_unique() -> None:
    """A name used twice in a list is a problem that shows the name and not the entry."""
    fields = section("users: [{name: a, user: {token: s3cret}}, {name: a}, {name: b}]")
    assert [name for name, _ in fields.named("users", "user")] == ["a", "a", "b"]
    assert fields.problems == ['users: duplicate name "a"; rename or remove one']


def test_problems_name_the_path() -> None:
    """A problem deep inside names every step of the way."""
    fields = section("a: [{b: {c: [x, 1]}}, z]")
    for item in fields.sections("a"):
        item.section("b").strings("c")
    assert fields.problems == [
        "a[0].b.c[1]: expected a string, found a number; put it in quotes",
        "a[1]: expected a mapping, found a string",
    ]


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"? "])
def test_a_document_of_endless_depth_is_an_error(opening: bytes) -> None:
    """libyaml would run out of stack and take the process along."""
    with pytest.raises(YamlError, match="line 1: nested deeper than"):
        parse(opening * 100_000)

"""Label and field selectors: parse once, then ask of each object whether it matches."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.status import bad_request

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_IN_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_FIELD = re.compile(r"([^=!]+)(==|=|!=)(.*)", re.DOTALL)

Test = Callable[[Json], bool]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a list or a watch are meant; no tests mean all of them."""

    tests: tuple[Test, ...] = ()

    @property
    def is_everything(self) -> bool:
        return not self.tests

    def matches(self, value: Json) -> bool:
        return all(test(value) for test in self.tests)


def parse_selection(kind: Kind, label_selector: str, field_selector: str) -> Selection:
    """Raises ApiError 400 for what cannot be parsed or, with fields, is not selectable."""
    # Commas inside the parentheses of a set do not separate requirements.
    parts = re.split(r",(?![^(]*\))", label_selector) if label_selector.strip() else []
    labels = [_label_test(part.strip()) for part in parts]
    fields = [_field_test(kind, part, field_selector) for part in field_selector.split(",") if part.strip()]
    return Selection((*labels, *fields))


def field_at(value: Json, path: str) -> Any:
    """The value at a dotted path, None where the path leads nowhere."""
    found: Any = value
    for part in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _label_test(part: str) -> Test:
    if found := _EQUALS.fullmatch(part):
        key, is_out, values = found[1], found[3] == "!=", {found[4]}
    elif found := _IN_SET.fullmatch(part):
        key, is_out, values = found[1], found[3] == "notin", {each.strip() for each in found[4].split(",")}
    elif found := _EXISTS.fullmatch(part):
        negated, name = bool(found[1]), found[2]
        return lambda value: (name in _labels(value)) != negated
    else:
        raise bad_request(f"unable to parse requirement: found '{part}', expected a label requirement")
    return lambda value: (_labels(value).get(key) in values) != is_out


def _labels(value: Json) -> Json:
    return value["metadata"].get("labels") or {}


def _field_test(kind: Kind, part: str, whole: str) -> Test:
    found = _FIELD.fullmatch(part.strip())
    if not found:
        raise bad_request(f"invalid selector: '{whole}'; can't understand '{part}'")
    path, negated, wanted = found[1], found[2] == "!=", found[3]
    if path not in ("metadata.name", "metadata.namespace", *kind.selectable):
        raise bad_request(
            f'Unable to find "{kind.api_version}, Resource={kind.plural}" that match label selector "", '
            f'field selector "{whole}": field label not supported: {path}'
        )

    def test(value: Json) -> bool:
        actual = field_at(value, path)
        # Of the fields that can be selected by, this is the one that is no text.
        text = str(bool(actual)).lower() if path == "spec.unschedulable" else str(actual or "")
        return (text == wanted) != negated

    return test

"""What a query asks for: which objects (selectors), from which version on, how many at a time.

A page of a list shows what is there by now, under the version of the first page: who watches from there
misses nothing.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from kproxy.demo.kinds import Kind
from kproxy.demo.status import ApiError, bad_request
from kproxy.demo.store import Json, Store, Stored, encode

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_IN_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_FIELD = re.compile(r"([^=!]+)(==|=|!=)(.*)", re.DOTALL)

Test = Callable[[Json], bool]


def parse_selection(kind: Kind, query: Mapping[str, str]) -> Test:
    """Which objects the selectors mean. Raises ApiError 400 for what cannot be parsed or selected by."""
    label_selector, field_selector = query.get("labelSelector", ""), query.get("fieldSelector", "")
    # Commas inside the parentheses of a set do not separate requirements.
    parts = re.split(r",(?![^(]*\))", label_selector) if label_selector.strip() else []
    tests = [_label_test(part.strip()) for part in parts]
    tests += [_field_test(kind, part, field_selector) for part in field_selector.split(",") if part.strip()]
    return lambda value: all(test(value) for test in tests)


def list_page(
    store: Store, kind: Kind, namespace: str | None, query: Mapping[str, str]
) -> tuple[list[Stored], Json]:
    """One page of a list as the query asks for it, and its metadata. Raises ApiError 400 or 504."""
    matches, limit = parse_selection(kind, query), parse_count(query, "limit")
    asked, version = parse_count(query, "resourceVersion"), store.version
    if asked > version:
        raise ApiError(504, "Timeout", f"Too large resource version: {asked}, current: {version}")
    chosen = [stored for stored in store.objects(kind.resource, namespace) if matches(stored.value)]
    if token := query.get("continue"):
        try:
            version, *after = json.loads(base64.urlsafe_b64decode(token + "=="))
            chosen = [stored for stored in chosen if stored.key > tuple(after)]
        except (ValueError, TypeError):
            raise bad_request("continue key is not valid: it is not a token of this server") from None
    metadata: Json = {"resourceVersion": str(version)}
    if limit and len(chosen) > limit:
        key = encode([version, *chosen[limit - 1].key])
        metadata["continue"] = base64.urlsafe_b64encode(key).rstrip(b"=").decode()
        metadata["remainingItemCount"] = len(chosen) - limit
        chosen = chosen[:limit]
    return chosen, metadata


def parse_count(query: Mapping[str, str], name: str) -> int:
    """A whole number of the query, 0 where it is not given. Raises ApiError 400."""
    text = query.get(name) or "0"
    if not text.isdecimal():
        raise bad_request(f'invalid query parameter {name}="{text}": not a whole number')
    return int(text)


def is_true(text: str | None) -> bool:
    """A boolean of a query string, as Go's strconv.ParseBool."""
    return text in ("1", "t", "T", "true", "True", "TRUE")


def field_at(value: Any, path: str) -> Any:
    """The value at a dotted path, those of all items where it leads through an array; None for nowhere."""
    field, _, rest = path.partition(".")
    if isinstance(value, list):
        return [field_at(each, path) for each in value]
    found = value.get(field) if isinstance(value, dict) else None
    return field_at(found, rest) if rest else found


def _label_test(part: str) -> Test:
    if found := _EQUALS.fullmatch(part):
        key, is_out, values = found[1], found[3] == "!=", {found[4]}
    elif found := _IN_SET.fullmatch(part):
        key, is_out, values = found[1], found[3] == "notin", {each.strip() for each in found[4].split(",")}
    elif found := _EXISTS.fullmatch(part):
        negated, name = bool(found[1]), found[2]
        return lambda value: (name in (field_at(value, "metadata.labels") or {})) != negated
    else:
        raise bad_request(f"unable to parse requirement: found '{part}', expected a label requirement")
    return lambda value: ((field_at(value, "metadata.labels") or {}).get(key) in values) != is_out


def _field_test(kind: Kind, part: str, whole: str) -> Test:
    found = _FIELD.fullmatch(part.strip())
    if not found:
        raise bad_request(f"invalid selector: '{whole}'; can't understand '{part}'")
    path, negated, wanted = found[1], found[2] == "!=", found[3]
    if path not in ("metadata.name", "metadata.namespace", *kind.selectable):
        raise bad_request(f'Unable to find {kind.plural} by "{whole}": field label not supported: {path}')

    def test(value: Json) -> bool:
        actual = field_at(value, path)
        # Of the fields that can be selected by, this is the one that is no text.
        text = str(bool(actual)).lower() if path == "spec.unschedulable" else str(actual or "")
        return (text == wanted) != negated

    return test

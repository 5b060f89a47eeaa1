"""Lists: what they show and how they go on (`limit`, `continue`).

A page shows what is there by now, under the version of the first page: a watch from that version tells
every change since, so who lists and then watches misses nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.selectors import Selection
from kproxy.demo.status import bad_request, future_version
from kproxy.demo.store import Key, Store, Stored, encode


def list_page(
    store: Store, kind: Kind, namespace: str | None, selection: Selection, query: Mapping[str, str]
) -> tuple[list[Stored], Json]:
    """One page of a list as the query asks for it, and its metadata. Raises ApiError 400 or 504."""
    limit = parse_count(query, "limit")
    asked, version = parse_version(query.get("resourceVersion", "")), store.version
    if asked > version:
        raise future_version(asked, version)
    found = store.objects(kind.resource, namespace)
    chosen = [stored for stored in found if selection.matches(stored.value)]
    if token := query.get("continue"):
        version, after = _parse_token(token)
        chosen = [stored for stored in chosen if stored.key > after]
    metadata: Json = {"resourceVersion": str(version)}
    if limit and len(chosen) > limit:
        metadata["continue"] = _token(version, chosen[limit - 1].key)
        if selection.is_everything:
            metadata["remainingItemCount"] = len(chosen) - limit
        chosen = chosen[:limit]
    return chosen, metadata


def parse_version(text: str) -> int:
    """A resourceVersion; "" and "0", that is any, are 0. Raises ApiError 400."""
    if not (text or "0").isdecimal():
        raise bad_request(f'invalid resource version "{text}": not a number')
    return int(text or "0")


def parse_count(query: Mapping[str, str], name: str) -> int:
    """A whole number of the query, 0 where it is not given. Raises ApiError 400."""
    text = query.get(name) or "0"
    if not text.isdecimal():
        raise bad_request(f'invalid query parameter {name}="{text}": not a whole number')
    return int(text)


def is_true(text: str | None) -> bool:
    """A boolean of a query string, as Go's strconv.ParseBool."""
    return text in ("1", "t", "T", "true", "True", "TRUE")


def _token(version: int, after: Key) -> str:
    return base64.urlsafe_b64encode(encode([version, *after])).rstrip(b"=").decode()


def _parse_token(token: str) -> tuple[int, Key]:
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token + "=="))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError):
        raise bad_request("continue key is not valid: it is not a token of this server") from None

"""Lists: which version of the world they show, and how they go on (`limit`, `continue`)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.selectors import Selection
from kproxy.demo.status import bad_request, expired, future_version
from kproxy.demo.store import Expired, Key, Store, Stored, encode

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new "
    "list without the continue parameter, or use the continue token in this response to retrieve the "
    "remainder of the results. Continuing with the provided token results in an inconsistent list - objects "
    "that were created, modified, or deleted between the time the first chunk was returned and now may show "
    "up in the list."
)
# In a token: "go on with the world as it is by now".
_ANY_VERSION = -1


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Stored]
    metadata: Json


def list_page(
    store: Store, kind: Kind, namespace: str | None, selection: Selection, query: Mapping[str, str]
) -> Page:
    """One page of a list as the query asks for it. Raises ApiError 400, 410 or 504."""
    limit = parse_count(query, "limit")
    asked = parse_version(query.get("resourceVersion", ""))
    after: Key | None = None
    version = store.version
    if token := query.get("continue", ""):
        if asked:
            raise bad_request("specifying resource version is not allowed when using continue")
        version, after = _parse_token(token)
    elif asked > version:
        raise future_version(asked, version)
    elif query.get("resourceVersionMatch") == "Exact":
        version = asked
    if version == _ANY_VERSION:
        version = store.version
    try:
        everything = store.objects_at(kind.resource, namespace, version)
    except Expired as error:
        next_token = _token(_ANY_VERSION, after) if after else ""
        raise expired(_TOO_OLD if after else str(error), next_token=next_token) from None
    if after is not None:
        everything = [stored for stored in everything if stored.key > after]
    chosen = [stored for stored in everything if selection.matches(stored.value)]
    metadata: Json = {"resourceVersion": str(version)}
    if limit and len(chosen) > limit:
        metadata["continue"] = _token(version, chosen[limit - 1].key)
        if selection.is_everything:
            metadata["remainingItemCount"] = len(chosen) - limit
        chosen = chosen[:limit]
    return Page(chosen, metadata)


def parse_version(text: str) -> int:
    """A resourceVersion; "" and "0", that is any, are 0. Raises ApiError 400."""
    if not text:
        return 0
    if not text.isascii() or not text.isdecimal():
        raise bad_request(f'invalid resource version "{text}": not a number')
    return int(text)


def parse_count(query: Mapping[str, str], name: str) -> int:
    """A whole number of the query, 0 where it is not given. Raises ApiError 400."""
    text = query.get(name) or "0"
    if not text.isascii() or not text.isdecimal():
        raise bad_request(f'invalid query parameter {name}="{text}": not a whole number')
    return int(text)


def _token(version: int, after: Key) -> str:
    content = encode({"v": "meta.k8s.io/v1", "rv": version, "start": list(after)})
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _parse_token(token: str) -> tuple[int, Key]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = content["start"]
        return int(content["rv"]), (str(namespace), str(name))
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise bad_request("continue key is not valid: it is not a token of this server") from None

"""The patches of the Kubernetes API as functions from a document and a patch to a new document.

JSON Patch is RFC 6902, merge patch is RFC 7386. Strategic merge merges lists of objects by a key that the
real server takes from the API types (`patchMergeKey`); here one table by field name stands for them, which is
right for the kinds the demo cluster serves. Server-side apply is a strategic merge, too: ownership of fields
is not tracked, so nothing ever conflicts and nothing left out is removed.
"""

from __future__ import annotations

import copy
from typing import Any

from kproxy.demo.kinds import Json

_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "containerStatuses": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_REMOVALS = "$deleteFromPrimitiveList/"


class PatchError(Exception):
    """The patch itself is malformed (400)."""


class PatchMismatch(Exception):
    """The patch is well formed but the document has no such place, or a `test` failed (422)."""


def merge_patch(document: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def strategic_merge(document: Json, patch: Json) -> Json:
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise PatchError(f"unrecognized $patch directive {directive!r}")
    result = dict(document)
    for name, value in patch.items():
        if name.startswith(_REMOVALS):
            field = name.removeprefix(_REMOVALS)
            result[field] = [each for each in result.get(field, ()) if each not in value]
        elif name.startswith("$"):
            # $retainKeys follows below; the order of elements ($setElementOrder) is of no account here.
            continue
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(name, result.get(name), value)
    kept = patch.get("$retainKeys", result)
    return {name: value for name, value in result.items() if name in kept}


def json_patch(document: Json, operations: Any) -> Json:
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise PatchError("a JSON patch is a list of operations")
    result: Any = copy.deepcopy(document)
    for operation in operations:
        result = _operate(result, operation)
    if not isinstance(result, dict):
        raise PatchMismatch("the patch leaves no object")
    return result


def _merged(name: str, old: Any, new: Any) -> Any:
    if isinstance(new, dict):
        return strategic_merge(old if isinstance(old, dict) else {}, new)
    if not isinstance(new, list):
        return new
    old = old if isinstance(old, list) else []
    if name == "finalizers":
        return old + [each for each in new if each not in old]
    if any(isinstance(each, dict) and each.get("$patch") == "replace" for each in new):
        return [each for each in new if "$patch" not in each]
    key = _merge_key(name, [*old, *new])
    if key is None:
        return new
    items: dict[Any, Json] = {item[key]: item for item in old}
    for item in new:
        if item.get("$patch") == "delete":
            items.pop(item[key], None)
        else:
            items[item[key]] = strategic_merge(items.get(item[key], {}), item)
    return list(items.values())


def _merge_key(name: str, items: list[Any]) -> str | None:
    for key in _MERGE_KEYS.get(name, ()):
        if all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def _operate(document: Any, operation: Json) -> Any:
    try:
        kind, path = operation["op"], _pointer(operation["path"])
        source = _pointer(operation["from"]) if kind in ("move", "copy") else path
        value = operation["value"] if kind in ("add", "replace", "test") else None
    except (KeyError, AttributeError) as error:
        raise PatchError(f"operation {operation.get('op')!r} lacks {error}") from None
    if kind not in ("add", "remove", "replace", "move", "copy", "test"):
        raise PatchError(f"unknown operation {kind!r}")
    if kind != "add":
        found = _look_up(document, source)
        if kind == "test" and found != value:
            raise PatchMismatch(f"test of {operation['path']} failed")
        value = found if kind in ("move", "copy") else value
    if kind in ("remove", "replace", "move"):
        document = _remove(document, source)
    if kind in ("add", "replace", "move", "copy"):
        document = _add(document, path, copy.deepcopy(value))
    return document


def _pointer(text: str) -> list[str]:
    """RFC 6901."""
    if text == "":
        return []
    if not text.startswith("/"):
        raise PatchError(f"{text!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _look_up(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, list):
            document = document[_index(part, len(document) - 1)]
        elif isinstance(document, dict) and part in document:
            document = document[part]
        else:
            raise PatchMismatch(f"there is no {part!r}")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _look_up(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent)), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise PatchMismatch(f"{last!r} has no place in a {type(parent).__name__}")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    """Without what is at the path, where something is."""
    if not path:
        return None
    parent, last = _look_up(document, path[:-1]), path[-1]
    del parent[int(last) if isinstance(parent, list) else last]
    return document


def _index(part: str, highest: int) -> int:
    if not part.isdecimal() or int(part) > highest:
        raise PatchMismatch(f"there is no index {part!r}")
    return int(part)

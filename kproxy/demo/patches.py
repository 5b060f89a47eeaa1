"""The patches of the Kubernetes API as functions from a document and a patch to a new document.

JSON Patch is RFC 6902, merge patch is RFC 7386. Strategic merge merges lists of objects by a key, here by one
table for all kinds (`patchMergeKey` of the API types). Server-side apply is a strategic merge, too: ownership
is not tracked, so nothing ever conflicts and nothing left out is removed.
"""

from __future__ import annotations

import copy
from typing import Any

from kproxy.demo.store import Json

_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "volumeMounts": ("mountPath",),
    **dict.fromkeys(("addresses", "conditions"), ("type",)),
    **dict.fromkeys(("containers", "initContainers", "env", "volumes", "imagePullSecrets"), ("name",)),
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
    directive = patch.get("$patch", "merge")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if directive != "merge":
        raise PatchError(f"unrecognized $patch directive {directive!r}")
    result = dict(document)
    for name, value in patch.items():
        if name.startswith(_REMOVALS):
            field = name.removeprefix(_REMOVALS)
            result[field] = [each for each in result.get(field, ()) if each not in value]
        elif value is None:
            result.pop(name, None)
        elif not name.startswith("$"):
            # $retainKeys follows below; the order of elements ($setElementOrder) is of no account here.
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
    both = [*old, *new]
    fitting = (
        key for key in _MERGE_KEYS.get(name, ()) if all(isinstance(x, dict) and key in x for x in both)
    )
    key = next(fitting, None)
    if key is None:
        return new
    items: dict[Any, Json] = {item[key]: item for item in old}
    for item in new:
        if item.get("$patch") == "delete":
            items.pop(item[key], None)
        else:
            items[item[key]] = strategic_merge(items.get(item[key], {}), item)
    return list(items.values())


def _operate(document: Any, operation: Json) -> Any:
    try:
        kind, path = operation["op"], _pointer(operation["path"])
        source = _pointer(operation["from"]) if kind in ("move", "copy") else path
        value = operation["value"] if kind in ("add", "replace", "test") else None
    except (KeyError, AttributeError) as error:
        raise PatchError(f"operation {operation.get('op')!r} lacks {error}") from None
    if kind not in ("add", "remove", "replace", "move", "copy", "test"):
        raise PatchError(f"unknown operation {kind!r}")
    # A document may be replaced as a whole, so it is looked at as the field of another.
    root = {"": document}
    if kind != "add":
        parent, last = _find(root, source)
        found = parent[last]
        if kind == "test" and found != value:
            raise PatchMismatch(f"test of {operation['path']} failed")
        value = copy.deepcopy(found) if kind in ("move", "copy") else value
        if kind in ("remove", "replace", "move"):
            del parent[last]
    if kind in ("add", "replace", "move", "copy"):
        parent, last = _find(root, path, is_new=True)
        if isinstance(parent, list):
            parent.insert(last, value)
        else:
            parent[last] = value
    return root.get("")


def _pointer(text: str) -> list[str]:
    """RFC 6901."""
    if text and not text.startswith("/"):
        raise PatchError(f"{text!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")]


def _find(document: Any, path: list[str], *, is_new: bool = False) -> tuple[Any, Any]:
    """The object or array that a place is in, and its key there; a new one need not be there yet."""
    for depth, part in enumerate(path):
        is_last = depth == len(path) - 1
        key: Any = part
        if isinstance(document, list):
            end = len(document) if is_new and is_last else len(document) - 1
            key = end if is_new and is_last and part == "-" else int(part) if part.isdecimal() else -1
            if not 0 <= key <= end:
                raise PatchMismatch(f"there is no index {part!r}")
        elif not isinstance(document, dict) or (part not in document and not (is_new and is_last)):
            raise PatchMismatch(f"there is no {part!r}")
        if is_last:
            break
        document = document[key]
    return document, key

"""Types of the fields the demo cluster itself reads: what passes here can be stored without harm.

A real API server decodes into Go structs and refuses what does not fit; these shapes stand for those. A shape
is a type, `{field: shape}`, `{"*": shape}` for every field, or `[shape]` for the items of an array.
"""

from __future__ import annotations

from typing import Any

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.status import bad_request

Shape = Any
_GO_NAMES: dict[type, str] = {
    dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"
}  # fmt: skip
_TEXTS = {"*": str}
_METADATA: Shape = {
    "name": str,
    "namespace": str,
    "generateName": str,
    "resourceVersion": str,
    "uid": str,
    "labels": _TEXTS,
    "annotations": _TEXTS,
    "finalizers": [str],
    "ownerReferences": [dict],
}
_CONTAINER: Shape = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str}],
    "ports": [dict],
    "stdin": bool,
    "tty": bool,
}
_POD_SPEC: Shape = {"containers": [_CONTAINER], "nodeName": str}
_CONTAINER_STATUS: Shape = {
    "restartCount": int,
    "state": {"waiting": dict, "running": dict, "terminated": dict},
}
_DEFINITION_SPEC: Shape = {
    "group": str,
    "scope": str,
    "names": {
        "kind": str,
        "plural": str,
        "singular": str,
        "listKind": str,
        "shortNames": [str],
        "categories": [str],
    },
    "versions": [
        {
            "name": str,
            "subresources": dict,
            "additionalPrinterColumns": [{"name": str, "type": str, "jsonPath": str}],
        }
    ],
}
_BY_RESOURCE: dict[str, Shape] = {
    "pods": {
        "spec": _POD_SPEC,
        "status": {"containerStatuses": [_CONTAINER_STATUS], "conditions": [dict], "startTime": str},
    },
    "deployments.apps": {
        "spec": {
            "replicas": int,
            "selector": {"matchLabels": _TEXTS},
            "template": {"metadata": {"labels": _TEXTS, "annotations": _TEXTS}, "spec": _POD_SPEC},
        },
        "status": {"conditions": [dict]},
    },
    "services": {
        "spec": {"ports": [{"port": int}], "selector": _TEXTS},
        "status": {"loadBalancer": {"ingress": [dict]}},
    },
    "nodes": {
        "spec": dict,
        "status": {
            "conditions": [{"type": str, "status": str}],
            "addresses": [{"type": str, "address": str}],
        },
    },
    "namespaces": {"spec": dict, "status": dict},
    "configmaps": {"data": _TEXTS, "binaryData": _TEXTS},
    "secrets": {"data": _TEXTS, "stringData": _TEXTS, "type": str},
    "serviceaccounts": {"secrets": [dict]},
    "events": {"involvedObject": {"kind": str}, "source": dict, "reason": str, "count": int},
    "customresourcedefinitions.apiextensions.k8s.io": {"spec": _DEFINITION_SPEC, "status": dict},
}


def check_types(kind: Kind, value: Json) -> None:
    """Raises ApiError 400 that names the first field whose type does not fit."""
    more = {} if kind.custom else _BY_RESOURCE.get(kind.resource, {"spec": dict})
    _check(kind, "", value, {"metadata": _METADATA, **more})


def without_nulls(value: Any) -> Any:
    """JSON null means "not set" everywhere in a Kubernetes object."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value


def _check(kind: Kind, path: str, value: Any, shape: Shape) -> None:
    wanted = shape if isinstance(shape, type) else type(shape)
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if not fits:
        given = _GO_NAMES.get(type(value), "null")
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"json: cannot unmarshal {given} into Go struct field "
            f"{kind.kind}{path} of type {_GO_NAMES[wanted]}"
        )
    if isinstance(shape, list):
        for each in value:
            _check(kind, f"{path}[]", each, shape[0])
    elif isinstance(shape, dict):
        for field, inner in shape.items():
            for each in value.values() if field == "*" else [value[field]] if field in value else []:
                _check(kind, f"{path}.{field}", each, inner)

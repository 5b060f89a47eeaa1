"""Types of the fields the demo cluster itself reads: what passes here can be stored without harm.

A real API server decodes into Go structs and refuses what does not fit; this table stands for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.status import bad_request

_GO_NAMES: dict[type, str] = {
    dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"
}  # fmt: skip
_METADATA: dict[str, type] = {
    "metadata": dict,
    "metadata.name": str,
    "metadata.namespace": str,
    "metadata.generateName": str,
    "metadata.resourceVersion": str,
    "metadata.uid": str,
    "metadata.labels": dict,
    "metadata.labels.*": str,
    "metadata.annotations": dict,
    "metadata.annotations.*": str,
    "metadata.finalizers": list,
    "metadata.finalizers[]": str,
    "metadata.ownerReferences": list,
    "metadata.ownerReferences[]": dict,
}
_POD_SPEC: dict[str, type] = {
    "containers": list,
    "containers[]": dict,
    "containers[].name": str,
    "containers[].image": str,
    "containers[].command": list,
    "containers[].command[]": str,
    "containers[].args": list,
    "containers[].args[]": str,
    "containers[].env": list,
    "containers[].env[]": dict,
    "containers[].env[].name": str,
    "containers[].ports": list,
    "containers[].ports[]": dict,
    "containers[].stdin": bool,
    "containers[].tty": bool,
    "nodeName": str,
}
_BY_RESOURCE: dict[str, dict[str, type]] = {
    "pods": {
        "spec": dict,
        **{f"spec.{path}": wanted for path, wanted in _POD_SPEC.items()},
        "status": dict,
        "status.containerStatuses": list,
        "status.containerStatuses[]": dict,
        "status.containerStatuses[].restartCount": int,
        "status.containerStatuses[].state": dict,
        "status.containerStatuses[].state.waiting": dict,
        "status.containerStatuses[].state.running": dict,
        "status.containerStatuses[].state.terminated": dict,
        "status.conditions": list,
        "status.conditions[]": dict,
        "status.startTime": str,
    },
    "deployments.apps": {
        "spec": dict,
        "spec.replicas": int,
        "spec.selector": dict,
        "spec.selector.matchLabels": dict,
        "spec.selector.matchLabels.*": str,
        "spec.template": dict,
        "spec.template.metadata": dict,
        "spec.template.metadata.labels": dict,
        "spec.template.metadata.labels.*": str,
        "spec.template.metadata.annotations": dict,
        "spec.template.metadata.annotations.*": str,
        "spec.template.spec": dict,
        **{f"spec.template.spec.{path}": wanted for path, wanted in _POD_SPEC.items()},
        "status": dict,
        "status.conditions": list,
        "status.conditions[]": dict,
    },
    "services": {
        "spec": dict,
        "spec.ports": list,
        "spec.ports[]": dict,
        "spec.ports[].port": int,
        "spec.selector": dict,
        "spec.selector.*": str,
        "status": dict,
        "status.loadBalancer": dict,
        "status.loadBalancer.ingress": list,
        "status.loadBalancer.ingress[]": dict,
    },
    "nodes": {
        "spec": dict,
        "status": dict,
        "status.conditions": list,
        "status.conditions[]": dict,
        "status.conditions[].type": str,
        "status.conditions[].status": str,
        "status.addresses": list,
        "status.addresses[]": dict,
        "status.addresses[].type": str,
        "status.addresses[].address": str,
    },
    "namespaces": {"spec": dict, "status": dict},
    "configmaps": {"data": dict, "data.*": str, "binaryData": dict, "binaryData.*": str},
    "secrets": {"data": dict, "data.*": str, "stringData": dict, "stringData.*": str, "type": str},
    "serviceaccounts": {"secrets": list, "secrets[]": dict},
    "events": {
        "involvedObject": dict,
        "involvedObject.kind": str,
        "source": dict,
        "reason": str,
        "count": int,
    },
    "customresourcedefinitions.apiextensions.k8s.io": {
        "spec": dict,
        "spec.group": str,
        "spec.scope": str,
        "spec.names": dict,
        "spec.names.kind": str,
        "spec.names.plural": str,
        "spec.names.shortNames": list,
        "spec.names.shortNames[]": str,
        "spec.names.categories": list,
        "spec.names.categories[]": str,
        "spec.versions": list,
        "spec.versions[]": dict,
        "spec.versions[].name": str,
        "spec.versions[].subresources": dict,
        "spec.versions[].additionalPrinterColumns": list,
        "spec.versions[].additionalPrinterColumns[]": dict,
        "spec.versions[].additionalPrinterColumns[].name": str,
        "spec.versions[].additionalPrinterColumns[].type": str,
        "spec.versions[].additionalPrinterColumns[].jsonPath": str,
        "status": dict,
    },
}
_SPEC_ALONE: dict[str, type] = {"spec": dict}


def check_types(kind: Kind, value: Json) -> None:
    """Raises ApiError 400 that names the first field whose type does not fit."""
    more = {} if kind.custom else _BY_RESOURCE.get(kind.resource, _SPEC_ALONE)
    for path, wanted in (*_METADATA.items(), *more.items()):
        for found in _at(value, path.replace("[]", ".[]").split(".")):
            if not isinstance(found, wanted) or (wanted is int and isinstance(found, bool)):
                given = _GO_NAMES.get(type(found), "null")
                raise bad_request(
                    f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
                    f"json: cannot unmarshal {given} into Go struct field "
                    f"{kind.kind}.{path} of type {_GO_NAMES[wanted]}"
                )


def without_nulls(value: Any) -> Any:
    """JSON null means "not set" everywhere in a Kubernetes object."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    """Every value a path leads to: `[]` stands for each item of an array, `*` for each of an object."""
    if not path:
        yield value
        return
    first, *rest = path
    if first == "[]":
        inner = value if isinstance(value, list) else ()
    elif not isinstance(value, dict):
        return
    elif first == "*":
        inner = list(value.values())
    else:
        inner = [value[first]] if first in value else ()
    for each in inner:
        yield from _at(each, rest)

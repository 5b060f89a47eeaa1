"""From what a client sent to what may be stored: shape, names, defaults, validation, kept fields.

Built-in kinds are checked where a client would notice: names, label types, required fields, immutable
fields, unknown top-level fields. Schemas of CustomResourceDefinitions are not enforced.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Iterator
from typing import Any

from kproxy.demo import clock
from kproxy.demo.defaults import with_defaults
from kproxy.demo.kinds import CRDS, DEPLOYMENTS, NAMESPACES, PODS, SERVICES, Json, Kind
from kproxy.demo.shapes import check_types, without_nulls
from kproxy.demo.status import (
    Cause,
    bad_request,
    forbidden_field,
    invalid,
    required,
    wrong,
)

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_SERVICE = r"[a-z]([-a-z0-9]*[a-z0-9])?"
NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""They form no words, after apimachinery's `utilrand`."""
_GENERATED_BYTES = 58
_CONTAINERS = ("containers[].name", "containers[].image")
_REQUIRED: dict[Kind, tuple[str, ...]] = {
    PODS: _CONTAINERS,
    DEPLOYMENTS: ("selector.matchLabels", *(f"template.spec.{path}" for path in _CONTAINERS)),
    SERVICES: ("ports[].port",),
    CRDS: ("names.plural", "names.kind", "group", "scope", "versions[].name"),
}
"""Fields of the spec that must be there; `[]` stands for each item of an array."""


def conform(kind: Kind, body: Any, *, namespace: str, name: str | None, validation: str) -> tuple[Json, str]:
    """The body as an object of `kind` under the URL's namespace and name, and a warning or "".

    `validation` is the request's `fieldValidation`. Raises ApiError 400 for what does not fit.
    """
    if not isinstance(body, dict):
        raise bad_request(f"the body of the request is not an object but a {type(body).__name__}")
    # Of a built-in kind the path tells which it is; the Python client counts on that.
    sent = (body.get("kind") or "", body.get("apiVersion") or "")
    if kind.custom and not all(sent):
        raise bad_request("Object 'Kind' and 'apiVersion' must be set in the body of the request")
    if sent not in ((kind.kind, kind.api_version), ("", ""), (kind.kind, ""), ("", kind.api_version)):
        raise bad_request(
            f'{sent[0]} in version "{sent[1]}" cannot be handled as a {kind.kind}: '
            f"this path serves {kind.kind} of {kind.api_version}"
        )
    value: Json = without_nulls(body)
    check_types(kind, value)
    metadata = value.get("metadata", {})
    if name is not None and metadata.get("name", name) != name:
        raise bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
        )
    if metadata.get("namespace", namespace) != namespace:
        raise bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request: "
            f"{metadata['namespace']!r}, {namespace!r}"
        )
    metadata = {
        **{field: found for field, found in metadata.items() if found not in ({}, [])},
        **({"namespace": namespace} if namespace else {}),
        **({"name": name} if name else {}),
    }
    known = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
    unknown = [] if kind.custom else [field for field in value if field not in (*known, *kind.fields)]
    if unknown and validation == "Strict":
        errors = ", ".join(f'unknown field "{field}"' for field in unknown)
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"strict decoding error: {errors}"
        )
    rest = {field: found for field, found in value.items() if field not in known and field not in unknown}
    warning = ", ".join(f'unknown field "{field}"' for field in unknown) if validation != "Ignore" else ""
    return {**known, **rest}, warning


def created(kind: Kind, value: Json) -> Json:
    """The new object with what the server alone may say of it. Raises ApiError 422."""
    metadata = dict(value["metadata"])
    prefix = metadata.get("generateName")
    if not metadata.get("name") and prefix:
        suffix = "".join(random.choices(NAME_LETTERS, k=5))  # noqa: S311 -- a name, not a secret
        metadata["name"] = prefix[:_GENERATED_BYTES] + suffix
    for field in ("resourceVersion", "selfLink", "deletionTimestamp", "managedFields"):
        metadata.pop(field, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = clock.rfc3339(clock.now())
    if _counts_generations(kind):
        metadata["generation"] = 1
    result = {**value, "metadata": metadata}
    if kind.has_status:
        result.pop("status", None)
    _check(kind, result)
    return with_defaults(kind, result)


def updated(kind: Kind, old: Json, new: Json) -> Json:
    """`new` with what an update cannot change taken from `old`. Raises ApiError 422."""
    kept = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
    metadata = {**new["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
    for field in (*kept, "managedFields"):
        metadata.pop(field, None)
    metadata |= {field: old["metadata"][field] for field in kept if field in old["metadata"]}
    result = {**new, "metadata": metadata}
    _check(kind, result)
    result = with_defaults(kind, result)
    if kind.has_status:
        result.pop("status", None)
        if "status" in old:
            result["status"] = old["status"]
    _check_immutable(kind, old, result)
    if _counts_generations(kind) and result.get("spec") != old.get("spec"):
        metadata["generation"] = old["metadata"].get("generation", 1) + 1
    return result


def _check(kind: Kind, value: Json) -> None:
    causes = _wrong_name(kind, value["metadata"])
    spec = value.get("spec") or {}
    paths = _REQUIRED.get(kind, ())
    if kind is SERVICES and spec.get("type") == "ExternalName" and not spec.get("ports"):
        paths = ()
    # A dictionary, since several fields may be missing together with the object they are in.
    missing = dict.fromkeys(each for path in paths for each in _missing(spec, path, "spec"))
    causes += map(required, missing)
    if kind is DEPLOYMENTS and not missing:
        wanted = spec["selector"]["matchLabels"]
        labels = spec["template"].get("metadata", {}).get("labels", {})
        if any(labels.get(key) != text for key, text in wanted.items()):
            text = "`selector` does not match template `labels`"
            causes.append(wrong("spec.template.metadata.labels", labels, text))
        if spec.get("replicas", 0) < 0:
            causes.append(wrong("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    elif kind is CRDS and not missing:
        name = value["metadata"].get("name")
        if name != f"{spec['names']['plural']}.{spec['group']}":
            causes.append(wrong("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
        if sum(1 for each in spec["versions"] if each.get("storage")) != 1:
            text = "must have exactly one version marked as storage version"
            causes.append(wrong("spec.versions", len(spec["versions"]), text))
    _refuse(kind, value, causes)


def _counts_generations(kind: Kind) -> bool:
    return kind.custom or kind in (DEPLOYMENTS, CRDS)


def _refuse(kind: Kind, value: Json, causes: list[Cause]) -> None:
    if causes:
        raise invalid(kind.kind, kind.group, value["metadata"].get("name", ""), causes)


def _wrong_name(kind: Kind, metadata: Json) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    pattern, longest = {NAMESPACES: (_LABEL, 63), SERVICES: (_SERVICE, 63)}.get(kind, (_SUBDOMAIN, 253))
    if len(name) <= longest and re.fullmatch(pattern, name):
        return []
    text = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
        f"must start and end with an alphanumeric character (regex used for validation is '{pattern}')"
    )
    return [wrong("metadata.name", name, text)]


def _missing(value: Json, path: str, at: str) -> Iterator[str]:
    """Where a field of that path is absent or empty; `[]` stands for each item of an array."""
    first, _, rest = path.partition(".")
    at = f"{at}.{first.removesuffix('[]')}"
    found = value.get(first.removesuffix("[]"))
    if not found:
        yield at
    elif first.endswith("[]"):
        for index, item in enumerate(found):
            yield from _missing(item, rest, f"{at}[{index}]")
    elif rest:
        yield from _missing(found, rest, at)


def _check_immutable(kind: Kind, old: Json, new: Json) -> None:
    if kind is PODS and _fixed_pod_spec(old["spec"]) != _fixed_pod_spec(new["spec"]):
        text = (
            "pod updates may not change fields other than `spec.containers[*].image` and `spec.tolerations`"
        )
        _refuse(kind, new, [forbidden_field("spec", text)])
    if kind is DEPLOYMENTS and old["spec"]["selector"] != new["spec"]["selector"]:
        _refuse(kind, new, [wrong("spec.selector", new["spec"]["selector"], "field is immutable")])


def _fixed_pod_spec(spec: Json) -> Json:
    containers = [{**container, "image": ""} for container in spec["containers"]]
    return {**spec, "containers": containers, "tolerations": []}

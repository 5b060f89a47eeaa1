"""From what a client sent to what may be stored: shape, names, defaults, validation, kept fields.

Built-in kinds are checked where a client would notice: names, label types, required fields, immutable
fields, unknown top-level fields. Schemas of CustomResourceDefinitions are not enforced.
"""

from __future__ import annotations

import random
import re
import uuid
from typing import Any

from kproxy.demo import clock
from kproxy.demo.defaults import with_defaults
from kproxy.demo.kinds import Json, Kind
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
# Letters that form no words, after apimachinery's `utilrand`.
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_BYTES = 58


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
        suffix = "".join(random.choices(_SUFFIX_LETTERS, k=5))  # noqa: S311 -- a name, not a secret
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
    _refuse(kind, result, validate(kind, result))
    return with_defaults(kind, result)


def updated(kind: Kind, old: Json, new: Json) -> Json:
    """`new` with what an update cannot change taken from `old`. Raises ApiError 422."""
    kept = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
    metadata = {**new["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
    for field in (*kept, "managedFields"):
        metadata.pop(field, None)
    metadata |= {field: old["metadata"][field] for field in kept if field in old["metadata"]}
    result = {**new, "metadata": metadata}
    _refuse(kind, result, validate(kind, result))
    result = with_defaults(kind, result)
    if kind.has_status:
        result.pop("status", None)
        if "status" in old:
            result["status"] = old["status"]
    _refuse(kind, result, _immutable(kind, old, result))
    if _counts_generations(kind) and result.get("spec") != old.get("spec"):
        metadata["generation"] = old["metadata"].get("generation", 1) + 1
    return result


def status_updated(old: Json, new: Json) -> Json:
    """`old` with the status of `new`, which is all the status subresource may write."""
    return {**old, "status": new.get("status", {})}


def validate(kind: Kind, value: Json) -> list[Cause]:
    causes = _name_causes(kind, value["metadata"])
    spec = value.get("spec") or {}
    if kind.resource == "pods":
        causes += _container_causes("spec", spec)
    elif kind.resource == "deployments.apps":
        causes += _deployment_causes(spec)
    elif kind.resource == "services" and spec.get("type") != "ExternalName" and not spec.get("ports"):
        causes.append(required("spec.ports"))
    elif kind.resource == "customresourcedefinitions.apiextensions.k8s.io":
        causes += _definition_causes(value["metadata"].get("name"), spec)
    return causes


def _counts_generations(kind: Kind) -> bool:
    return kind.custom or kind.group in ("apps", "apiextensions.k8s.io")


def _refuse(kind: Kind, value: Json, causes: list[Cause]) -> None:
    if causes:
        raise invalid(kind.kind, kind.group, value["metadata"].get("name", ""), causes)


def _name_causes(kind: Kind, metadata: Json) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    pattern = {"namespaces": _LABEL, "services": _SERVICE}.get(kind.resource, _SUBDOMAIN)
    if len(name) <= (253 if pattern is _SUBDOMAIN else 63) and re.fullmatch(pattern, name):
        return []
    text = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
        f"must start and end with an alphanumeric character (regex used for validation is '{pattern}')"
    )
    return [wrong("metadata.name", name, text)]


def _container_causes(path: str, spec: Json) -> list[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        return [required(f"{path}.containers")]
    causes = []
    for index, container in enumerate(containers):
        causes += [
            required(f"{path}.containers[{index}].{field}")
            for field in ("name", "image")
            if not container.get(field)
        ]
    return causes


def _deployment_causes(spec: Json) -> list[Cause]:
    template = spec.get("template") or {}
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    causes = [] if wanted else [required("spec.selector")]
    if any(labels.get(key) != text for key, text in wanted.items()):
        text = "`selector` does not match template `labels`"
        causes.append(wrong("spec.template.metadata.labels", labels, text))
    if spec.get("replicas", 0) < 0:
        causes.append(wrong("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    return causes + _container_causes("spec.template.spec", template.get("spec") or {})


def _definition_causes(name: str | None, spec: Json) -> list[Cause]:
    names = spec.get("names") or {}
    causes = [required(f"spec.names.{field}") for field in ("plural", "kind") if not names.get(field)]
    causes += [required(f"spec.{field}") for field in ("group", "scope", "versions") if not spec.get(field)]
    if causes:
        return causes
    for index, version in enumerate(spec["versions"]):
        path = f"spec.versions[{index}]"
        causes += [required(f"{path}.name")] if not version.get("name") else []
        for place, column in enumerate(version.get("additionalPrinterColumns", ())):
            at = f"{path}.additionalPrinterColumns[{place}]"
            causes += [
                required(f"{at}.{field}") for field in ("name", "type", "jsonPath") if field not in column
            ]
    if name != f"{names['plural']}.{spec['group']}":
        causes.append(wrong("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if sum(1 for each in spec["versions"] if each.get("storage")) != 1:
        text = "must have exactly one version marked as storage version"
        causes.append(wrong("spec.versions", len(spec["versions"]), text))
    return causes


def _immutable(kind: Kind, old: Json, new: Json) -> list[Cause]:
    if kind.custom or "spec" not in old:
        return []
    if kind.resource == "pods" and _fixed_pod_spec(old["spec"]) != _fixed_pod_spec(new["spec"]):
        text = (
            "pod updates may not change fields other than `spec.containers[*].image` and `spec.tolerations`"
        )
        return [forbidden_field("spec", text)]
    if kind.resource == "deployments.apps" and old["spec"]["selector"] != new["spec"].get("selector"):
        return [wrong("spec.selector", new["spec"].get("selector"), "field is immutable")]
    return []


def _fixed_pod_spec(spec: Json) -> Json:
    containers = [{**container, "image": ""} for container in spec.get("containers", ())]
    return {**spec, "containers": containers, "tolerations": []}

"""From what a client sent to what may be stored: names, defaults, validation, kept fields.

Built-in kinds are checked where a client would notice; schemas of CustomResourceDefinitions are not enforced.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from kproxy.demo import clock, kinds
from kproxy.demo.kinds import CRDS, DEPLOYMENTS, SECRETS, SERVICES, Kind
from kproxy.demo.status import Cause, bad_request, invalid, required, wrong
from kproxy.demo.store import Json

_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # they form no words, after apimachinery's `utilrand`
_GENERATED_BYTES = 58
# Private ranges that clusters commonly use; nothing listens there.
POD_NETWORK, SERVICE_NETWORK = "10.244", "10.96"
_SERVERS_OWN = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def conform(kind: Kind, body: Any, *, namespace: str, name: str | None) -> Json:
    """The body as an object of `kind` under the URL's namespace and name.

    Raises ApiError 400 for what does not fit.
    """
    if not isinstance(body, dict):
        raise bad_request(f"the body of the request is not an object but a {type(body).__name__}")
    # Of a built-in kind the path tells which it is; the Python client counts on that.
    sent = (body.get("kind") or "", body.get("apiVersion") or "")
    if kind.custom and not all(sent):
        raise bad_request("Object 'Kind' and 'apiVersion' must be set in the body of the request")
    if sent[0] not in (kind.kind, "") or sent[1] not in (kind.api_version, ""):
        given_kind = f'{sent[0]} in version "{sent[1]}"'
        raise bad_request(f"{given_kind} cannot be handled as a {kind.kind} of {kind.api_version}")
    value: Json = _without_nulls(body)
    with _decoding(kind):
        given = value.get("metadata", {}).items()
        metadata = {field: found for field, found in given if found not in ({}, [])}
        for field in ("labels", "annotations"):
            _check_texts(kind, f"metadata.{field}", metadata.get(field, {}))
        if kind is kinds.CONFIGMAPS:
            _check_texts(kind, "data", value.get("data", {}))
        if owners := metadata.get("ownerReferences"):
            metadata["ownerReferences"] = list(map(dict, owners))
    for field, wanted in (("name", name), ("namespace", namespace)):
        if wanted is not None and metadata.get(field, wanted) != wanted:
            raise bad_request(f"the {field} of the object does not match that of the URL ({wanted})")
        if wanted:
            metadata[field] = wanted
    return {**value, "kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}


def created(kind: Kind, value: Json) -> Json:
    """The new object with what the server alone may say of it. Raises ApiError 400 or 422."""
    with _decoding(kind):
        metadata = dict(value["metadata"])
        if not metadata.get("name") and (prefix := metadata.get("generateName")):
            suffix = "".join(random.choices(NAME_LETTERS, k=5))  # noqa: S311 -- a name, not a secret
            metadata["name"] = prefix[:_GENERATED_BYTES] + suffix
        for field in ("resourceVersion", "deletionTimestamp", "managedFields"):
            metadata.pop(field, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": clock.rfc3339(clock.now())}
        if kind.custom or kind in (DEPLOYMENTS, CRDS):
            metadata["generation"] = 1
        result = {**value, "metadata": metadata}
        if "status" in kind.subresources:
            result.pop("status", None)
        return _checked(kind, result)


def updated(kind: Kind, old: Json, new: Json) -> Json:
    """`new` with what an update cannot change taken from `old`. Raises ApiError 400 or 422."""
    with _decoding(kind):
        metadata = {**new["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
        for field in (*_SERVERS_OWN, "managedFields"):
            metadata.pop(field, None)
        metadata |= {field: old["metadata"][field] for field in _SERVERS_OWN if field in old["metadata"]}
        result = _checked(kind, {**new, "metadata": metadata})
        if "status" in kind.subresources:
            result = {**result, "status": old.get("status", result.get("status", {}))}
        if "generation" in metadata and result.get("spec") != old.get("spec"):
            result["metadata"] = {**result["metadata"], "generation": metadata["generation"] + 1}
        return result


@contextlib.contextmanager
def _decoding(kind: Kind) -> Iterator[None]:
    """What trips whoever reads an object is what a real API server cannot decode."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
        text = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {error}'
        raise bad_request(text) from None


def _check_texts(kind: Kind, path: str, found: Any) -> None:
    for text in found.values():
        if not isinstance(text, str):
            name = {bool: "bool", dict: "object", list: "array"}.get(type(text), "number")
            field = f"Go struct field {kind.kind}.{path} of type string"
            raise TypeError(f"json: cannot unmarshal {name} into {field}")


def _checked(kind: Kind, value: Json) -> Json:
    """With its defaults. Raises ApiError 422."""
    causes: list[Cause] = []
    name = value["metadata"].get("name")
    if not name:
        causes.append(required("metadata.name", "name or generateName is required"))
    elif len(name) > 253 or not re.fullmatch(_NAME, name):
        text = (
            f"a lowercase RFC 1123 subdomain must match the regex '{_NAME}' and have 253 characters at most"
        )
        causes.append(wrong("metadata.name", name, text))
    spec = {} if kind.custom else value.get("spec") or {}
    paths = () if spec.get("type") == "ExternalName" else kind.required
    # A dictionary, since several fields may be missing together with the object they are in.
    missing = dict.fromkeys(each for path in paths for each in _missing({**value, "spec": spec}, path, ""))
    causes += map(required, missing)
    if kind is DEPLOYMENTS and not missing:
        wanted = spec["selector"]["matchLabels"].items()
        labels = spec["template"].get("metadata", {}).get("labels", {})
        if not wanted <= labels.items():
            text = "`selector` does not match template `labels`"
            causes.append(wrong("spec.template.metadata.labels", labels, text))
        replicas = spec.get("replicas", 0)
        if type(replicas) is not int or replicas < 0:
            causes.append(wrong("spec.replicas", replicas, "must be greater than or equal to 0"))
    if causes:
        raise invalid(kind.kind, kind.group, name or "", causes)
    value = _filled(kind.defaults, value)
    return _ADDED[kind](value) if kind in _ADDED else value


def _missing(value: Json, path: str, at: str) -> Iterator[str]:
    """Where a field of that path is absent or empty, in each item of an array."""
    field, _, rest = path.partition(".")
    at, found = f"{at}.{field}".lstrip("."), value.get(field)
    if not found and at != "spec":
        yield at
    elif isinstance(found, list):
        for index, item in enumerate(found):
            yield from _missing(item, rest, f"{at}[{index}]")
    elif rest:
        yield from _missing(found or {}, rest, at)


def _without_nulls(value: Any) -> Any:
    """JSON null means "not set" everywhere in a Kubernetes object."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _filled(defaults: Any, value: Any) -> Any:
    if isinstance(defaults, dict):
        given = {key: _filled(defaults.get(key), each) for key, each in value.items()}
        # What is said of an array is said of its items.
        missing = {key: each for key, each in defaults.items() if key not in ("containers", "ports", *value)}
        return {**missing, **given}
    if isinstance(defaults, list) and isinstance(value, list):
        return [_filled(defaults[0], each) for each in value]
    return value


def address(network: str, uid: str) -> str:
    """A made-up address, the same for the same object."""
    digest = hashlib.sha256(uid.encode()).digest()
    return f"{network}.{digest[0]}.{digest[1] or 1}"


def _service(value: Json) -> Json:
    spec = value["spec"]
    ports = [{"targetPort": port["port"], **port} for port in spec.get("ports") or ()]
    if spec["type"] != "ExternalName":
        ip = spec.get("clusterIP") or address(SERVICE_NETWORK, value["metadata"]["uid"])
        spec = {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], **spec}
    return {**value, "spec": {**spec, "ports": ports}}


def _secret(value: Json) -> Json:
    """`stringData` is write-only: it ends up in `data`."""
    texts = value.pop("stringData", {})
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
    return {**value, "data": {**value.get("data", {}), **encoded}}


def _definition(value: Json) -> Json:
    spec = value["spec"]
    kind = spec["names"]["kind"]
    names = {"singular": kind.lower(), "listKind": f"{kind}List", **spec["names"]}
    time = {"status": "True", "lastTransitionTime": value["metadata"]["creationTimestamp"]}
    conditions = [{"type": each, "reason": "Accepted", **time} for each in ("NamesAccepted", "Established")]
    value = {**value, "spec": {**spec, "names": names}}
    stored = [kinds.custom_kind(value).version]
    return {**value, "status": {"conditions": conditions, "acceptedNames": names, "storedVersions": stored}}


_ADDED: dict[Kind, Callable[[Json], Json]] = {SERVICES: _service, SECRETS: _secret, CRDS: _definition}

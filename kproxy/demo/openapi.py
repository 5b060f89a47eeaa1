"""Just enough OpenAPI for clients to go on: which kinds exist and that writes take `fieldValidation`.

kubectl reads the v3 documents before `create` and `apply` (`QueryParamVerifierV3` of cli-runtime) and older
ones the v2 document, in protobuf. Schemas say nothing of an object's fields, and say so.
"""

from __future__ import annotations

from kproxy.demo.discovery import GIT_VERSION
from kproxy.demo.kinds import Json, Kind, Registry
from kproxy.demo.objects import APPLY_PATCH, JSON_PATCH, MERGE_PATCH

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
# How clients ask for it; Go's mime package chokes on an answer with that "@" (kube-openapi issue 354).
V2_PROTOBUF_ASKED = (V2_PROTOBUF, V2_PROTOBUF.replace("v2.v1", "v2@v1"))
_INFO = {"title": "kproxy demo cluster", "version": GIT_VERSION}
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]


def v2() -> Json:
    return {"swagger": "2.0", "info": _INFO, "paths": {}, "definitions": {}}


def v2_protobuf() -> bytes:
    """The same as an `openapi.v2.Document` of gnostic: swagger is field 1, info 2, paths 8."""
    info = _field(1, _INFO["title"].encode()) + _field(2, _INFO["version"].encode())
    return _field(1, b"2.0") + _field(2, info) + _field(8, b"")


def v3_index(registry: Registry) -> Json:
    names = [f"apis/{group}/{name}" if group else f"api/{name}" for group, name in registry.group_versions()]
    return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in names}}


def v3(registry: Registry, group: str, version: str) -> Json | None:
    kinds = registry.of(group, version)
    if not kinds:
        return None
    paths = {path: entry for kind in kinds for path, entry in _paths(kind).items()}
    schemas = {_schema_name(kind): _schema(kind) for kind in kinds}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": schemas}}


def _paths(kind: Kind) -> Json:
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    base += "/namespaces/{namespace}" if kind.namespaced else ""
    content = {"schema": {"$ref": f"#/components/schemas/{_schema_name(kind)}"}}
    write = {
        "x-kubernetes-group-version-kind": _group_version_kind(kind),
        "parameters": _PARAMETERS,
        "responses": {"200": {"description": "OK", "content": {"application/json": content}}},
    }
    shown: Json = {f"{base}/{kind.plural}": {"post": write}}
    if "patch" in kind.verbs:
        # Strategic patches are taken, too, but named here kubectl would look for merge keys in the schemas.
        types = (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)
        body = {"required": True, "content": {each: {"schema": {"type": "object"}} for each in types}}
        shown[f"{base}/{kind.plural}/{{name}}"] = {"patch": {**write, "requestBody": body}}
    return shown


def _schema(kind: Kind) -> Json:
    return {
        "description": f"{kind.kind} as the demo cluster of kproxy keeps it; its fields are not described.",
        "type": "object",
        "x-kubernetes-group-version-kind": [_group_version_kind(kind)],
        "x-kubernetes-preserve-unknown-fields": True,
    }


def _schema_name(kind: Kind) -> str:
    return f"dev.kproxy.demo.{kind.version}.{kind.kind}"


def _group_version_kind(kind: Kind) -> Json:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field of less than 128 bytes."""
    return bytes((number << 3 | 2, len(content))) + content

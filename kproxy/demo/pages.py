"""The pages of the server itself: health, version, discovery, and just enough OpenAPI for clients to go on.

kubectl reads OpenAPI v3 before `create` and `apply`, to see that writes take `fieldValidation`
(`QueryParamVerifierV3` of cli-runtime), and for `explain`. Schemas say nothing of an object's fields, and
say so.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator

from aiohttp import web

from kproxy.demo.answers import Call, write
from kproxy.demo.kinds import Kind, Registry
from kproxy.demo.objects import APPLY_PATCH, JSON_PATCH, MERGE_PATCH
from kproxy.demo.status import method_not_allowed
from kproxy.demo.store import Json

GIT_VERSION = "v1.32.0+kproxy-demo"
_STREAM, _OBJECT = ["create", "get"], ["get", "patch", "update"]
_SUBRESOURCES: dict[str, Json] = {
    "status": {"verbs": _OBJECT},
    "scale": {"verbs": _OBJECT, "group": "autoscaling", "version": "v1", "kind": "Scale"},
    "log": {"verbs": ["get"]},
    "exec": {"verbs": _STREAM, "kind": "PodExecOptions"},
    "attach": {"verbs": _STREAM, "kind": "PodAttachOptions"},
    "portforward": {"verbs": _STREAM, "kind": "PodPortForwardOptions"},
    "proxy": {"verbs": ["create", "delete", *_OBJECT]},
}
_INFO = {"title": "kproxy demo cluster", "version": GIT_VERSION}
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]


async def answer_page(call: Call, registry: Registry, segments: list[str]) -> web.StreamResponse:
    """Whatever is no resource; 404 in plain text, as Go's, for what is not there at all."""
    if segments in (["healthz"], ["livez"], ["readyz"]):
        return await write(call, b"ok", content_type="text/plain")
    page = _page(call, registry, segments)
    if page is None:
        return await write(call, b"404 page not found\n", content_type="text/plain", code=404)
    if call.request.method != "GET":
        raise method_not_allowed()
    return await write(call, call.view.write_value(page))


def _page(call: Call, registry: Registry, segments: list[str]) -> Json | None:
    match segments:
        case [""]:
            return {"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}
        case ["version"]:
            return _version()
        case ["api"]:
            addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.request.host}]
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups(registry)}
        case ["apis", name]:
            found = (group for group in _groups(registry) if group["name"] == name)
            return next(({"kind": "APIGroup", "apiVersion": "v1", **group} for group in found), None)
        case ["api", version]:
            return _resources(registry.of("", version))
        case ["apis", group, version]:
            return _resources(registry.of(group, version))
        case ["openapi", "v2"]:
            return {"swagger": "2.0", "info": _INFO, "paths": {}, "definitions": {}}
        case ["openapi", "v3"]:
            bases = [_base(*each) for each in registry.group_versions()]
            return {"paths": {base[1:]: {"serverRelativeURL": f"/openapi/v3{base}"} for base in bases}}
        case ["openapi", "v3", "api", version]:
            return _openapi(registry.of("", version))
        case ["openapi", "v3", "apis", group, version]:
            return _openapi(registry.of(group, version))
    return None


def _version() -> Json:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    built = {"gitVersion": GIT_VERSION, "buildDate": "1970-01-01T00:00:00Z", "goVersion": f"none: {python}"}
    unknown = dict.fromkeys(("gitCommit", "gitTreeState", "compiler"), "pretended")
    where = f"{platform.system().lower()}/{platform.machine()}"
    return {"major": "1", "minor": "32", **built, **unknown, "platform": where}


def _groups(registry: Registry) -> list[Json]:
    groups: dict[str, Json] = {}
    for name, version in registry.group_versions():
        entry = {"groupVersion": f"{name}/{version}", "version": version}
        group = groups.setdefault(name, {"name": name, "versions": [], "preferredVersion": entry})
        group["versions"].append(entry)
    return [group for name, group in groups.items() if name]


def _resources(kinds: list[Kind]) -> Json | None:
    head = {"kind": "APIResourceList", "apiVersion": "v1"}
    resources = [entry for kind in kinds for entry in _entries(kind)]
    return {**head, "groupVersion": kinds[0].api_version, "resources": resources} if kinds else None


def _entries(kind: Kind) -> Iterator[Json]:
    """The kind and its subresources."""
    about = {"namespaced": kind.namespaced, "kind": kind.kind}
    more = {"shortNames": list(kind.short_names), "categories": list(kind.categories)}
    given = {field: found for field, found in more.items() if found}
    yield {"name": kind.plural, "singularName": kind.singular, **about, "verbs": list(kind.verbs), **given}
    for name in kind.subresources:
        yield {"name": f"{kind.plural}/{name}", "singularName": "", **about, **_SUBRESOURCES[name]}


def _openapi(kinds: list[Kind]) -> Json | None:
    paths: Json = {}
    schemas: Json = {}
    for kind in kinds:
        path = _base(kind.group, kind.version) + ("/namespaces/{namespace}" if kind.namespaced else "")
        name = f"dev.kproxy.demo.{kind.version}.{kind.kind}"
        names = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        schemas[name] = {
            "description": "The demo cluster of kproxy does not describe the fields of its kinds.",
            "type": "object",
            "x-kubernetes-group-version-kind": [names],
        }
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        answers = {"200": {"description": "OK", "content": content}}
        change = {"x-kubernetes-group-version-kind": names, "parameters": _PARAMETERS, "responses": answers}
        # Strategic patches are taken, too, but named here kubectl would look for merge keys in the schemas.
        types = {each: {"schema": {"type": "object"}} for each in (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)}
        paths[f"{path}/{kind.plural}"] = {"post": change}
        paths[f"{path}/{kind.plural}/{{name}}"] = {"patch": {**change, "requestBody": {"content": types}}}
    components = {"schemas": schemas}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": components} if kinds else None


def _base(group: str, version: str) -> str:
    return f"/apis/{group}/{version}" if group else f"/api/{version}"

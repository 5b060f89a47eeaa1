"""What the server can do: /api, /apis, the groups, their resources, /version."""

from __future__ import annotations

import platform

from kproxy.demo.kinds import Json, Kind, Registry

GIT_VERSION = "v1.32.0+kproxy-demo"
_READ_AND_WRITE = ("get", "patch", "update")
_STREAM = ("create", "get")
_SUBRESOURCES: dict[str, tuple[tuple[str, ...], Json]] = {
    "status": (_READ_AND_WRITE, {}),
    "scale": (_READ_AND_WRITE, {"group": "autoscaling", "version": "v1", "kind": "Scale"}),
    "log": (("get",), {}),
    "exec": (_STREAM, {"kind": "PodExecOptions"}),
    "attach": (_STREAM, {"kind": "PodAttachOptions"}),
    "portforward": (_STREAM, {"kind": "PodPortForwardOptions"}),
    "proxy": (("create", "delete", "get", "patch", "update"), {}),
}
"""Their verbs, and what they answer if it is not the kind itself."""


def version() -> Json:
    return {
        "major": "1",
        "minor": "32",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "in-memory pretend cluster of kproxy",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"none, this is Python {platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }


def paths(registry: Registry) -> Json:
    groups = [f"/apis/{group}" for group in registry.groups()]
    versions = [f"/apis/{group}/{version}" for group, version in registry.group_versions() if group]
    health = ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
    return {"paths": ["/api", "/api/v1", "/apis", *sorted(groups + versions), *health]}


def core_versions(address: str) -> Json:
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(registry: Registry) -> Json:
    groups = [_group(registry, name) for name in registry.groups()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Json | None:
    if name not in registry.groups():
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(registry, name)}


def resource_list(registry: Registry, group_name: str, version_name: str) -> Json | None:
    kinds = registry.of(group_name, version_name)
    if not kinds:
        return None
    resources = [entry for kind in kinds for entry in (_resource(kind), *_subresources(kind))]
    head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": kinds[0].api_version}
    return {**head, "resources": resources}


def _group(registry: Registry, name: str) -> Json:
    versions = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for group, version in registry.group_versions()
        if group == name
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resource(kind: Kind) -> Json:
    names = {"shortNames": list(kind.short_names), "categories": list(kind.categories)}
    return {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
        **{field: found for field, found in names.items() if found},
    }


def _subresources(kind: Kind) -> list[Json]:
    entries = []
    for name in kind.subresources:
        verbs, answer = _SUBRESOURCES[name]
        entry = {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
        entries.append({**entry, "kind": kind.kind, "verbs": list(verbs), **answer})
    return entries

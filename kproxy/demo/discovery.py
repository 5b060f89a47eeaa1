"""What the server can do: /api, /apis, the groups, their resources, /version and the health pages."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from kproxy.demo.kinds import Json, Kind, Registry

GIT_VERSION = "v1.32.0+kproxy-demo"
_RESPONSE_KINDS = {
    "scale": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
    "exec": {"group": "", "version": "v1", "kind": "PodExecOptions"},
    "attach": {"group": "", "version": "v1", "kind": "PodAttachOptions"},
    "portforward": {"group": "", "version": "v1", "kind": "PodPortForwardOptions"},
}
_SUBRESOURCE_VERBS = {
    "status": ("get", "patch", "update"),
    "scale": ("get", "patch", "update"),
    "log": ("get",),
    "exec": ("create", "get"),
    "attach": ("create", "get"),
    "portforward": ("create", "get"),
    "proxy": ("create", "delete", "get", "patch", "update"),
}
AGGREGATED_VERSIONS = ("v2", "v2beta1")


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
    groups = _groups(registry)
    below = [f"/apis/{group}" for group in groups]
    below += [f"/apis/{group}/{version}" for group, version in registry.group_versions() if group]
    health = ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
    return {"paths": ["/api", "/api/v1", "/apis", *sorted(below), *health]}


def core_versions(address: str) -> Json:
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(registry: Registry) -> Json:
    groups = [_group(registry, name) for name in _groups(registry)]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Json | None:
    if name not in _groups(registry):
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(registry, name)}


def resource_list(registry: Registry, group_name: str, version_name: str) -> Json | None:
    kinds = [kind for kind in registry if (kind.group, kind.version) == (group_name, version_name)]
    if not kinds:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": [entry for kind in kinds for entry in _entries(kind)],
    }


def aggregated(registry: Registry, version_name: str, *, core: bool) -> Json:
    """All of /api or of /apis at once (KEP-3352), which spares a client one request a group."""
    items = []
    names = [""] if core else _groups(registry)
    for name in names:
        versions = [each for group, each in registry.group_versions() if group == name]
        items.append(
            {
                "metadata": {"name": name, "creationTimestamp": None},
                "versions": [
                    {
                        "version": each,
                        "resources": [
                            _aggregated_entry(kind)
                            for kind in registry
                            if (kind.group, kind.version) == (name, each)
                        ],
                        "freshness": "Current",
                    }
                    for each in versions
                ],
            }
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version_name}",
        "metadata": {},
        "items": items,
    }


def health(path: str, *, verbose: bool) -> str:
    """The text of /healthz, /livez or /readyz."""
    if not verbose:
        return "ok"
    return f"[+]ping ok\n[+]demo ok\n{path.strip('/')} check passed\n"


def _groups(registry: Registry) -> list[str]:
    return list(dict.fromkeys(group for group, _ in registry.group_versions() if group))


def _group(registry: Registry, name: str) -> Json:
    versions = [
        {"groupVersion": f"{name}/{each}", "version": each}
        for group, each in registry.group_versions()
        if group == name
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _entries(kind: Kind) -> Iterable[Json]:
    entry: Json = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    yield entry
    for subresource in kind.subresources:
        shown = {
            "name": f"{kind.plural}/{subresource}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(_SUBRESOURCE_VERBS[subresource]),
        }
        yield {**shown, **{name: text for name, text in _RESPONSE_KINDS.get(subresource, {}).items() if text}}


def _aggregated_entry(kind: Kind) -> Json:
    own = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    entry: Json = {
        "resource": kind.plural,
        "responseKind": own,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [
            {
                "subresource": each,
                "responseKind": _RESPONSE_KINDS.get(each, own),
                "verbs": list(_SUBRESOURCE_VERBS[each]),
            }
            for each in kind.subresources
        ]
    return entry

"""Paths: which target a resource path means, and what a request to it wants to do (its verb)."""

from __future__ import annotations

from urllib.parse import unquote

from kproxy.demo.kinds import Kind, Registry
from kproxy.demo.objects import Target

_BY_NAME = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_BY_KIND = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
# Subresources that stand for an action of their own, whatever the method.
ACTIONS = ("exec", "attach", "portforward", "proxy", "log")


def segments_of(raw_path: str) -> list[str]:
    """`/api/v1/pods/` as `api`, `v1`, `pods`; a `%2F` in a segment is part of its name."""
    return [unquote(part) for part in raw_path.strip("/").split("/")]


def resolve(registry: Registry, segments: list[str]) -> Target | None:
    """The target of a path below /api/v1 or /apis/GROUP/VERSION; None when there is no such resource."""
    if segments[:1] == ["api"]:
        group, version, rest = "", segments[1:2], segments[2:]
    elif segments[:1] == ["apis"] and len(segments) > 2:
        group, version, rest = segments[1], segments[2:3], segments[3:]
    else:
        return None
    if not version or not rest or "" in rest[:2]:
        return None

    def find(plural: str) -> Kind | None:
        return registry.find(group, version[0], plural)

    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        kind = find(rest[2])
        if kind is None or not kind.namespaced:
            return None
        return _below(kind, rest[1], rest[3:])
    kind = find(rest[0])
    if kind is None or (kind.namespaced and len(rest) > 1):
        return None
    return _below(kind, None, rest[1:])


def verb_of(method: str, target: Target, *, watch: bool) -> str | None:
    """The Kubernetes verb, None for a method that has no meaning there."""
    if target.subresource in ACTIONS:
        return "create" if method == "POST" else _BY_NAME.get(method)
    verb = _BY_NAME.get(method) if target.name else _BY_KIND.get(method)
    if verb == "create" and target.kind.namespaced and target.namespace is None:
        return None
    if verb == "list" and watch:
        verb = "watch"
    if target.subresource and verb not in ("get", "update", "patch"):
        return None
    return verb if verb in target.kind.verbs else None


def _below(kind: Kind, namespace: str | None, rest: list[str]) -> Target | None:
    name, subresource, *more = (*rest, "", "")[: max(len(rest), 2)]
    if not subresource and len(rest) > 1:
        return None
    known = (*kind.subresources, *(("finalize",) if kind.plural == "namespaces" else ()))
    if (subresource and subresource not in known) or (more and subresource != "proxy"):
        return None
    return Target(kind=kind, namespace=namespace, name=name, subresource=subresource, rest="/".join(more))

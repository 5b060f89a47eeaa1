"""The verbs on stored objects: get, create, update, patch, delete, as transactions on the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kproxy.demo import clock, patches, status
from kproxy.demo.admission import conform, created, updated
from kproxy.demo.kinds import CRDS, NAMESPACES, PODS, Kind, custom_kind
from kproxy.demo.store import Json, Store, Stored

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_PATCHES: dict[str, Callable[[Json, Any], Json]] = {
    JSON_PATCH: patches.json_patch,
    MERGE_PATCH: patches.merge_patch,
    APPLY_PATCH: patches.strategic_merge,
    STRATEGIC_PATCH: patches.strategic_merge,
}
_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a path means: a kind, maybe in one namespace, maybe one object of it, maybe one aspect of that."""

    kind: Kind
    namespace: str | None = None
    name: str = ""
    subresource: str = ""
    rest: str = ""
    """What follows `proxy/`."""


class Objects:
    """Reads and writes by name. Every method raises ApiError with the refusal to send.

    What writes answers the object and the HTTP status.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, target: Target) -> Stored:
        stored = self._store.get(target.kind.resource, target.namespace, target.name)
        if stored is None:
            raise status.not_found(target.kind, target.name)
        return stored

    def create(self, target: Target, body: Any, dry_run: bool) -> tuple[Stored, int]:
        kind = target.kind
        value = conform(kind, body, namespace=target.namespace or "", name=target.name or None)
        if target.namespace and self._store.get(NAMESPACES.resource, "", target.namespace) is None:
            raise status.not_found(NAMESPACES, target.namespace)
        value = created(kind, value)
        name = value["metadata"]["name"]
        if self._store.get(kind.resource, target.namespace, name) is not None:
            message = f'{kind.resource} "{name}" already exists'
            raise status.ApiError(409, "AlreadyExists", message, status.details_of(kind, name))
        return self._commit(dataclasses.replace(target, name=name), value, dry_run), 201

    def update(self, target: Target, body: Any, dry_run: bool) -> tuple[Stored, int]:
        return self._replace(target, self.get(target), body, dry_run)

    def patch(self, target: Target, media_type: str, body: Any, dry_run: bool) -> tuple[Stored, int]:
        kind = target.kind
        known = [each for each in _PATCHES if each != STRATEGIC_PATCH or not kind.custom]
        if media_type not in known:
            raise status.unsupported_media_type(known)
        is_there = self._store.get(kind.resource, target.namespace, target.name) is not None
        if media_type == APPLY_PATCH and not is_there and not target.subresource:
            return self.create(target, body, dry_run)
        old = self.get(target)
        try:
            new = _PATCHES[media_type](shown(target, old).value, body)
        except patches.PatchMismatch:
            # The real server names no cause either.
            message = "the server rejected our request due to an error in our request"
            raise status.ApiError(422, "Invalid", message, {}) from None
        except (patches.PatchError, AttributeError, TypeError, KeyError) as error:
            raise status.bad_request(f"error decoding patch of {kind.kind}: {error}") from None
        return self._replace(target, old, new, dry_run)

    def delete(self, target: Target, body: Any, dry_run: bool) -> Stored | None:
        """The object that is going to be deleted, or None when it is gone already."""
        stored, kind = self.get(target), target.kind
        grace = body.get("gracePeriodSeconds") if isinstance(body, dict) else None
        if not isinstance(grace, int):
            grace = 30 if kind is PODS else 0
        metadata = stored.value["metadata"]
        if kind is NAMESPACES and target.name in ("default", "kube-system"):
            message = f'namespaces "{target.name}" is forbidden: this namespace may not be deleted'
            raise status.forbidden(message, status.details_of(kind, target.name))
        if not (metadata.get("finalizers") or kind is NAMESPACES or (kind is PODS and grace)):
            return self._remove(target, stored, dry_run)
        if metadata.get("deletionTimestamp"):
            return stored
        time = clock.rfc3339(clock.now() + grace)
        metadata = {**metadata, "deletionTimestamp": time, "deletionGracePeriodSeconds": grace}
        value = {**stored.value, "metadata": metadata}
        if kind is NAMESPACES:
            value["status"] = {"phase": "Terminating"}
        return self._commit(target, value, dry_run)

    def _replace(self, target: Target, old: Stored, body: Any, dry_run: bool) -> tuple[Stored, int]:
        kind = target.kind
        if target.subresource == "scale":
            body = _scaled(target, old.value, body)
        value = conform(kind, body, namespace=target.namespace or "", name=target.name)
        version, uid = (value["metadata"].get(field) for field in ("resourceVersion", "uid"))
        if not version and kind.custom:
            cause = status.wrong("metadata.resourceVersion", 0, "must be specified for an update")
            raise status.invalid(kind.kind, kind.group, target.name, [cause])
        if (version or str(old.version)) != str(old.version) or (uid or old.uid) != old.uid:
            text = f'Operation cannot be fulfilled on {kind.resource} "{target.name}": {_MODIFIED}'
            raise status.ApiError(409, "Conflict", text, status.details_of(kind, target.name))
        if target.subresource == "status":
            new = {**old.value, "status": value.get("status", {})}
        else:
            new = updated(kind, old.value, value)
        if new == old.value:
            return old, 200
        metadata = new["metadata"]
        ends_by_itself = kind in (PODS, NAMESPACES)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and not ends_by_itself:
            self._remove(target, old, dry_run)
            return Stored(old.key, new, old.version), 200
        return self._commit(target, new, dry_run), 200

    def _commit(self, target: Target, value: Json, dry_run: bool) -> Stored:
        if dry_run:
            version = int(value["metadata"].get("resourceVersion", "0"))
            return Stored((target.namespace or "", target.name), value, version)
        return self._store.put(target.kind.resource, value)

    def _remove(self, target: Target, stored: Stored, dry_run: bool) -> Stored | None:
        if not dry_run:
            if target.kind is CRDS:
                custom = custom_kind(stored.value).resource
                for each in self._store.objects(custom):
                    self._store.remove(custom, *each.key)
            stored = self._store.remove(target.kind.resource, *stored.key)
        return stored if target.kind is PODS else None


def shown(target: Target, stored: Stored) -> Stored:
    """What a get or a write of the target answers: the object, but for its `scale` (autoscaling/v1)."""
    if target.subresource != "scale":
        return stored
    metadata, spec = stored.value["metadata"], stored.value["spec"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = ",".join(f"{key}={text}" for key, text in sorted(spec["selector"]["matchLabels"].items()))
    replicas = stored.value.get("status", {}).get("replicas", 0)
    scale = {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in names},
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {"replicas": replicas, "selector": selector},
    }
    return Stored(stored.key, scale, stored.version)


def _scaled(target: Target, deployment: Json, scale: Any) -> Json:
    """The deployment as its changed `scale` wants it."""
    try:
        version = scale.get("metadata", {}).get("resourceVersion")
        replicas = scale.get("spec", {}).get("replicas", 0)
    except AttributeError:
        raise status.bad_request("the body of a scale request must be a Scale of autoscaling/v1") from None
    if not isinstance(replicas, int) or replicas < 0:
        cause = status.wrong("spec.replicas", replicas, "must be greater than or equal to 0")
        raise status.invalid("Scale", "autoscaling", target.name, [cause])
    metadata = {**deployment["metadata"], **({"resourceVersion": version} if version else {})}
    return {**deployment, "metadata": metadata, "spec": {**deployment["spec"], "replicas": replicas}}

"""The verbs on stored objects: get, create, update, patch, delete, as transactions on the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kproxy.demo import clock, patches
from kproxy.demo.admission import conform, created, updated
from kproxy.demo.kinds import CRDS, NAMESPACES, PODS, Json, Kind, custom_kind
from kproxy.demo.selectors import Selection
from kproxy.demo.status import (
    already_exists,
    bad_request,
    conflict,
    details_of,
    forbidden,
    invalid,
    not_found,
    required,
    unprocessable,
    unsupported_media_type,
    wrong,
)
from kproxy.demo.store import Store, Stored

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
_KEPT_NAMESPACES = ("default", "kube-system")
_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a write request asks for beside its body."""

    dry_run: bool = False
    validation: str = "Warn"
    manager: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a path means: a kind, maybe one object of it, maybe one aspect of that."""

    kind: Kind
    namespace: str | None = None
    """None: all namespaces."""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    """What follows `proxy/`."""

    @property
    def scope(self) -> str:
        return self.namespace or ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    stored: Stored
    code: int = 200
    warning: str = ""


class Objects:
    """Reads and writes by name. Every method raises ApiError with the refusal to send."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, target: Target) -> Stored:
        stored = self._find(target)
        if stored is None:
            raise not_found(target.kind, target.name)
        return stored

    def create(self, target: Target, body: Any, options: Options) -> Written:
        value, warning = conform(
            target.kind, body, namespace=target.scope, name=target.name or None, validation=options.validation
        )
        if target.scope and self._store.get(NAMESPACES.resource, "", target.scope) is None:
            raise not_found(NAMESPACES, target.scope)
        value = created(target.kind, value)
        target = dataclasses.replace(target, name=value["metadata"]["name"])
        if self._find(target) is not None:
            raise already_exists(target.kind, target.name)
        return Written(stored=self._commit(target, value, options), code=201, warning=warning)

    def update(self, target: Target, body: Any, options: Options) -> Written:
        return self._replace(target, self.get(target), body, options)

    def patch(self, target: Target, media_type: str, body: Any, options: Options) -> Written:
        """`media_type` has passed `check_patch_type`."""
        old = self._find(target)
        if media_type == APPLY_PATCH:
            if not options.manager:
                cause = required("fieldManager", "is required for apply patch")
                raise invalid("PatchOptions", "meta.k8s.io", "", [cause])
            if old is None and not target.subresource:
                return self.create(target, body, options)
        if old is None:
            raise not_found(target.kind, target.name)
        try:
            new = _PATCHES[media_type](shown(target, old).value, body)
        except patches.PatchError as error:
            raise bad_request(f"error decoding patch: {error}") from None
        except patches.PatchMismatch:
            raise unprocessable() from None
        except (AttributeError, TypeError, KeyError) as error:
            raise bad_request(f"the patch does not fit {target.kind.kind}: {error}") from None
        return self._replace(target, old, new, options)

    def delete(self, target: Target, body: Any, options: Options) -> Stored | None:
        """The object that is going to be deleted, or None when it is gone already."""
        stored = self.get(target)
        wanted = body if isinstance(body, dict) else {}
        _check_preconditions(target, stored, _part(wanted, "preconditions"))
        metadata = stored.value["metadata"]
        if target.kind is NAMESPACES and target.name in _KEPT_NAMESPACES:
            message = f'namespaces "{target.name}" is forbidden: this namespace may not be deleted'
            raise forbidden(message, details_of(target.kind, target.name))
        grace = wanted.get("gracePeriodSeconds")
        if target.kind is PODS and grace is None:
            grace = stored.value["spec"].get("terminationGracePeriodSeconds", 30)
        waits = metadata.get("finalizers") or target.kind is NAMESPACES or (target.kind is PODS and grace)
        if not waits:
            return self._remove(target, stored, options)
        if metadata.get("deletionTimestamp"):
            return stored
        seconds = grace if isinstance(grace, int) else 0
        metadata = {
            **metadata,
            "deletionTimestamp": clock.rfc3339(clock.now() + seconds),
            "deletionGracePeriodSeconds": seconds,
        }
        value = {**stored.value, "metadata": metadata}
        if target.kind is NAMESPACES:
            value["status"] = {"phase": "Terminating"}
        return self._commit(target, value, options)

    def delete_collection(
        self, target: Target, selection: Selection, body: Any, options: Options
    ) -> list[Stored]:
        """What was there and is deleted now, or is about to be."""
        found = self._store.objects(target.kind.resource, target.namespace)
        chosen = [stored for stored in found if selection.matches(stored.value)]
        for stored in chosen:
            namespace, name = stored.key
            one = dataclasses.replace(target, namespace=namespace or None, name=name)
            self.delete(one, body, options)
        return chosen

    def _find(self, target: Target) -> Stored | None:
        return self._store.get(target.kind.resource, target.scope, target.name)

    def _replace(self, target: Target, old: Stored, body: Any, options: Options) -> Written:
        if target.subresource == "scale":
            body = _scaled(target, old.value, body)
        value, warning = conform(
            target.kind, body, namespace=target.scope, name=target.name, validation=options.validation
        )
        _check_version(target, old, value["metadata"])
        if target.subresource in ("status", "finalize"):
            new = {**old.value, "status": value.get("status", {})}
        else:
            new = updated(target.kind, old.value, value)
        if new == old.value:
            return Written(stored=old, warning=warning)
        metadata = new["metadata"]
        ends_by_itself = target.kind in (PODS, NAMESPACES)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and not ends_by_itself:
            self._remove(target, old, options)
            return Written(stored=Stored(old.key, new, old.version), warning=warning)
        return Written(stored=self._commit(target, new, options), warning=warning)

    def _commit(self, target: Target, value: Json, options: Options) -> Stored:
        if options.dry_run:
            version = int(value["metadata"].get("resourceVersion", "0"))
            return Stored((target.scope, target.name), value, version)
        return self._store.put(target.kind.resource, value)

    def _remove(self, target: Target, stored: Stored, options: Options) -> Stored | None:
        if not options.dry_run:
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
    deployment = stored.value
    metadata, labels = deployment["metadata"], deployment["spec"]["selector"]["matchLabels"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    scale = {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in names},
        "spec": {"replicas": deployment["spec"].get("replicas", 1)},
        "status": {
            "replicas": deployment.get("status", {}).get("replicas", 0),
            "selector": ",".join(f"{key}={text}" for key, text in sorted(labels.items())),
        },
    }
    return Stored(stored.key, scale, stored.version)


def _scaled(target: Target, deployment: Json, scale: Any) -> Json:
    """The deployment as its changed `scale` wants it."""
    if not isinstance(scale, dict) or scale.get("kind", "Scale") != "Scale":
        raise bad_request("the body of a scale request must be a Scale of autoscaling/v1")
    metadata = deployment["metadata"]
    version = _part(scale, "metadata").get("resourceVersion") or metadata["resourceVersion"]
    replicas = _part(scale, "spec").get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        cause = wrong("spec.replicas", replicas, "must be greater than or equal to 0")
        raise invalid("Scale", "autoscaling", target.name, [cause])
    metadata = {**metadata, "resourceVersion": version}
    return {**deployment, "metadata": metadata, "spec": {**deployment["spec"], "replicas": replicas}}


def check_patch_type(kind: Kind, media_type: str) -> None:
    """Raises ApiError 415 for a patch that the kind does not take."""
    known = [each for each in _PATCHES if each != STRATEGIC_PATCH or not kind.custom]
    if media_type not in known:
        raise unsupported_media_type(known)


def _part(body: Json, field: str) -> Json:
    found = body.get(field) or {}
    if not isinstance(found, dict):
        raise bad_request(f"json: cannot unmarshal {field} into an object")
    return found


def _check_version(target: Target, old: Stored, metadata: Json) -> None:
    version = metadata.get("resourceVersion")
    if not version and target.kind.custom:
        cause = wrong("metadata.resourceVersion", 0, "must be specified for an update")
        raise invalid(target.kind.kind, target.kind.group, target.name, [cause])
    if version and version != str(old.version):
        raise conflict(target.kind, target.name, _MODIFIED)
    _check_preconditions(target, old, {"uid": metadata.get("uid")})


def _check_preconditions(target: Target, stored: Stored, wanted: Json) -> None:
    for field, title in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        found = stored.value["metadata"][field]
        if wanted.get(field) and wanted[field] != found:
            why = (
                f"Precondition failed: {title} in precondition: {wanted[field]}, "
                f"{title} in object meta: {found}"
            )
            raise conflict(target.kind, target.name, why)

"""Which kinds the demo cluster serves, and under which names.

The built-in table is fixed; kinds defined by a CustomResourceDefinition come and go with its object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kproxy.demo.store import Store

Json = dict[str, Any]

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"

_PODS = ("log", "exec", "attach", "portforward", "proxy", "status")
_POD_FIELDS = (
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
    "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName",
)  # fmt: skip
_EVENT_FIELDS = (
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
    "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
    "reason", "reportingComponent", "source", "type",
)  # fmt: skip
_EVENT_BODY = (
    "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type",
    "eventTime", "series", "action", "related", "reportingComponent", "reportingInstance",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One served kind: its names, its scope and what may be done with it."""

    group: str = ""
    version: str = "v1"
    kind: str
    plural: str
    singular: str
    list_kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("spec", "status")
    """Top-level fields beside apiVersion, kind and metadata; a built-in kind has no others."""
    selectable: tuple[str, ...] = ()
    """Fields a fieldSelector may name beside metadata.name and metadata.namespace."""
    custom: bool = False
    columns: tuple[Json, ...] = ()
    """`additionalPrinterColumns` of the definition of a custom kind."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """`pods` or `deployments.apps`: how messages name it and the key of its shelf in the store."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def merges_strategically(self) -> bool:
        return not self.custom


def _kind(kind: str, plural: str, **more: Any) -> Kind:
    return Kind(kind=kind, plural=plural, singular=kind.lower(), list_kind=f"{kind}List", **more)


NAMESPACES = _kind(
    "Namespace", "namespaces", namespaced=False, short_names=("ns",), subresources=("status",),
    selectable=("status.phase",),
)  # fmt: skip
NODES = _kind(
    "Node", "nodes", namespaced=False, short_names=("no",), subresources=("status",),
    selectable=("spec.unschedulable",),
)  # fmt: skip
PODS = _kind(
    "Pod", "pods", short_names=("po",), categories=("all",), subresources=_PODS, selectable=_POD_FIELDS
)
SERVICES = _kind(
    "Service", "services", short_names=("svc",), categories=("all",), subresources=("proxy", "status"),
    selectable=("spec.clusterIP", "spec.type"),
)  # fmt: skip
CONFIGMAPS = _kind("ConfigMap", "configmaps", short_names=("cm",), fields=("data", "binaryData", "immutable"))
SECRETS = _kind("Secret", "secrets", fields=("data", "stringData", "type", "immutable"), selectable=("type",))
SERVICEACCOUNTS = _kind(
    "ServiceAccount", "serviceaccounts", short_names=("sa",),
    fields=("secrets", "imagePullSecrets", "automountServiceAccountToken"),
)  # fmt: skip
EVENTS = _kind("Event", "events", short_names=("ev",), fields=_EVENT_BODY, selectable=_EVENT_FIELDS)
DEPLOYMENTS = _kind(
    "Deployment", "deployments", group="apps", short_names=("deploy",), categories=("all",),
    subresources=("scale", "status"),
)  # fmt: skip
CRDS = _kind(
    "CustomResourceDefinition", "customresourcedefinitions", group="apiextensions.k8s.io", namespaced=False,
    short_names=("crd", "crds"), categories=("api-extensions",), subresources=("status",),
)  # fmt: skip
ACCESS_REVIEWS = _kind(
    "SelfSubjectAccessReview", "selfsubjectaccessreviews", group="authorization.k8s.io", namespaced=False,
    verbs=("create",),
)  # fmt: skip
RULES_REVIEWS = _kind(
    "SelfSubjectRulesReview", "selfsubjectrulesreviews", group="authorization.k8s.io", namespaced=False,
    verbs=("create",),
)  # fmt: skip
SUBJECT_REVIEWS = _kind(
    "SelfSubjectReview", "selfsubjectreviews", group="authentication.k8s.io", namespaced=False,
    verbs=("create",), fields=("status",),
)  # fmt: skip

BUILT_IN = (
    NAMESPACES, NODES, PODS, SERVICES, CONFIGMAPS, SECRETS, SERVICEACCOUNTS, EVENTS, DEPLOYMENTS, CRDS,
    ACCESS_REVIEWS, RULES_REVIEWS, SUBJECT_REVIEWS,
)  # fmt: skip
_BY_NAME = {(kind.group, kind.version, kind.plural): kind for kind in BUILT_IN}


class Registry:
    """The kinds served right now: the built-in ones, and those the stored definitions ask for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Kind]:
        yield from BUILT_IN
        for definition in self._store.objects(DEFINITIONS):
            if not definition.value["metadata"].get("deletionTimestamp"):
                yield custom_kind(definition.value)

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        if found := _BY_NAME.get((group, version, plural)):
            return found
        definition = self._store.get(DEFINITIONS, "", f"{plural}.{group}")
        if definition is None:
            return None
        kind = custom_kind(definition.value)
        return kind if kind.version == version else None

    def group_versions(self) -> list[tuple[str, str]]:
        """Every (group, version) once, the core group first."""
        return list(dict.fromkeys((kind.group, kind.version) for kind in self))


def custom_kind(definition: Json) -> Kind:
    """The kind a valid CustomResourceDefinition defines; of its versions only the stored one is served."""
    spec = definition["spec"]
    names = spec["names"]
    version = next(each for each in spec["versions"] if each.get("storage"))
    return Kind(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or names["kind"] + "List",
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        subresources=("status",) if "status" in version.get("subresources", {}) else (),
        custom=True,
        columns=tuple(version.get("additionalPrinterColumns", ())),
    )

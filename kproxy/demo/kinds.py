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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
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


def _kind(
    kind: str,
    short_names: str = "",
    *,
    subresources: str = "",
    fields: str = "spec status",
    selectable: str = "",
    **more: Any,
) -> Kind:
    return Kind(
        kind=kind,
        plural=f"{kind.lower()}s",
        singular=kind.lower(),
        list_kind=f"{kind}List",
        short_names=tuple(short_names.split()),
        subresources=tuple(subresources.split()),
        fields=tuple(fields.split()),
        selectable=tuple(selectable.split()),
        **more,
    )


def _review(kind: str, group: str) -> Kind:
    return _kind(kind, group=group, namespaced=False, verbs=("create",))


_ALL = ("all",)
NAMESPACES = _kind("Namespace", "ns", namespaced=False, subresources="status", selectable="status.phase")
NODES = _kind("Node", "no", namespaced=False, subresources="status", selectable="spec.unschedulable")
PODS = _kind(
    "Pod",
    "po",
    categories=_ALL,
    subresources="log exec attach portforward proxy status",
    selectable="spec.nodeName spec.restartPolicy spec.serviceAccountName status.phase status.podIP",
)
SERVICES = _kind(
    "Service", "svc", categories=_ALL, subresources="proxy status", selectable="spec.clusterIP spec.type"
)
CONFIGMAPS = _kind("ConfigMap", "cm", fields="data binaryData immutable")
SECRETS = _kind("Secret", fields="data stringData type immutable", selectable="type")
SERVICEACCOUNTS = _kind(
    "ServiceAccount", "sa", fields="secrets imagePullSecrets automountServiceAccountToken"
)
EVENTS = _kind(
    "Event",
    "ev",
    fields="involvedObject reason message source firstTimestamp lastTimestamp count type eventTime series "
    "action related reportingComponent reportingInstance",
    selectable="involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid "
    "involvedObject.apiVersion reason type",
)
DEPLOYMENTS = _kind("Deployment", "deploy", group="apps", categories=_ALL, subresources="scale status")
CRDS = _kind(
    "CustomResourceDefinition",
    "crd crds",
    group="apiextensions.k8s.io",
    namespaced=False,
    categories=("api-extensions",),
    subresources="status",
)
ACCESS_REVIEWS = _review("SelfSubjectAccessReview", "authorization.k8s.io")
RULES_REVIEWS = _review("SelfSubjectRulesReview", "authorization.k8s.io")
SUBJECT_REVIEWS = _review("SelfSubjectReview", "authentication.k8s.io")

BUILT_IN = (
    NAMESPACES, NODES, PODS, SERVICES, CONFIGMAPS, SECRETS, SERVICEACCOUNTS, EVENTS, DEPLOYMENTS, CRDS,
    ACCESS_REVIEWS, RULES_REVIEWS, SUBJECT_REVIEWS,
)  # fmt: skip


class Registry:
    """The kinds served right now: the built-in ones, and those the stored definitions ask for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Kind]:
        yield from BUILT_IN
        for definition in self._store.objects(CRDS.resource):
            if not definition.value["metadata"].get("deletionTimestamp"):
                yield custom_kind(definition.value)

    def of(self, group: str, version: str) -> list[Kind]:
        return [kind for kind in self if (kind.group, kind.version) == (group, version)]

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return next((kind for kind in self.of(group, version) if kind.plural == plural), None)

    def group_versions(self) -> list[tuple[str, str]]:
        """Every (group, version) once, the core group first."""
        return list(dict.fromkeys((kind.group, kind.version) for kind in self))

    def groups(self) -> list[str]:
        """All but the core group."""
        return list(dict.fromkeys(group for group, _ in self.group_versions() if group))


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
        singular=names["singular"],
        list_kind=names["listKind"],
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        subresources=("status",) if "status" in version.get("subresources", {}) else (),
        custom=True,
        columns=tuple(version.get("additionalPrinterColumns", ())),
    )

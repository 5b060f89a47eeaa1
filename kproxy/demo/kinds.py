"""Which kinds the demo cluster serves, and under which names.

The built-in ones are in kinds.yaml; those defined by a CustomResourceDefinition come and go with its object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kproxy.demo.store import Json, Store

_ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kind:
    """One served kind: its names, its scope and what may be done with it (see kinds.yaml)."""

    group: str = ""
    version: str = "v1"
    kind: str
    plural: str
    singular: str
    list_kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = _ALL_VERBS
    subresources: tuple[str, ...] = ()
    selectable: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    defaults: Json = field(default_factory=dict)
    columns: tuple[Json, ...] = ()
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """`pods` or `deployments.apps`: how messages name it and the key of its shelf in the store."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _read_built_in() -> dict[str, Kind]:
    found = yaml.load(Path(__file__).with_suffix(".yaml").read_bytes(), Loader=YamlLoader)  # noqa: S506
    kinds = {}
    for name, entry in found.items():
        lower = name.lower()
        given: Any = {key: tuple(each) if type(each) is list else each for key, each in entry.items()}
        given["short_names"] = given.pop("shortNames", ())
        kinds[name] = Kind(kind=name, plural=f"{lower}s", singular=lower, list_kind=f"{name}List", **given)
    return kinds


BUILT_IN = _read_built_in()
NAMESPACES, NODES, PODS = BUILT_IN["Namespace"], BUILT_IN["Node"], BUILT_IN["Pod"]
SERVICES, ENDPOINT_SLICES = BUILT_IN["Service"], BUILT_IN["EndpointSlice"]
CONFIGMAPS, SECRETS, EVENTS = BUILT_IN["ConfigMap"], BUILT_IN["Secret"], BUILT_IN["Event"]
DEPLOYMENTS, CRDS = BUILT_IN["Deployment"], BUILT_IN["CustomResourceDefinition"]


class Registry:
    """The kinds served right now: the built-in ones, and those the stored definitions ask for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Kind]:
        yield from BUILT_IN.values()
        for definition in self._store.objects(CRDS.resource):
            if not definition.value["metadata"].get("deletionTimestamp"):
                yield custom_kind(definition.value)

    def of(self, group: str, version: str) -> list[Kind]:
        return [kind for kind in self if (kind.group, kind.version) == (group, version)]

    def group_versions(self) -> list[tuple[str, str]]:
        """Every (group, version) once, the core group first."""
        return list(dict.fromkeys((kind.group, kind.version) for kind in self))


def custom_kind(definition: Json) -> Kind:
    """The kind a valid CustomResourceDefinition defines; of its versions only the stored one is served."""
    spec, names = definition["spec"], definition["spec"]["names"]
    version = next(each for each in spec["versions"] if each.get("storage"))
    columns = version.get("additionalPrinterColumns") or [{"name": "Age"}]
    return Kind(
        group=spec["group"],
        version=version["name"],
        namespaced=spec["scope"] == "Namespaced",
        kind=names["kind"],
        plural=names["plural"],
        singular=names["singular"],
        list_kind=names["listKind"],
        short_names=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        subresources=("status",) if "status" in version.get("subresources", {}) else (),
        custom=True,
        columns=({"name": "Name"}, *map(dict, columns)),
    )

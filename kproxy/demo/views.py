"""How objects are shown: as they are, or as the rows of a `Table` (kubectl get), as `Accept` asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kproxy.demo import clock
from kproxy.demo.kinds import Kind
from kproxy.demo.queries import field_at
from kproxy.demo.status import ApiError
from kproxy.demo.store import Event, Json, Stored, encode

JSON = "application/json"
_META = "meta.k8s.io/v1"
# Python indents some 5 MB a second, and all else in the process waits for it.
_PRETTY_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One way of showing objects, chosen by a request."""

    is_table: bool = False
    has_objects: bool = False
    """A table's rows carry whole objects beside the cells, not their metadata alone."""
    pretty: bool = False

    def show(self, kind: Kind, stored: Stored) -> bytes:
        if self.is_table:
            return self.write_value(self._table(kind, (stored,), stored.version, headers=True))
        return self._write(stored.text)

    def show_list(self, kind: Kind, stored: Sequence[Stored], metadata: Json) -> bytes:
        if self.is_table:
            return self.write_value({**self._table(kind, stored, 0, headers=True), "metadata": metadata})
        head = {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": metadata}
        # Items of built-in kinds do not repeat the kind that the list has named, custom ones do.
        repeated = 1 if kind.custom else len(encode({"kind": kind.kind, "apiVersion": kind.api_version}))
        items = b",".join([b"{" + each.text[repeated:] for each in stored])
        return self._write(encode(head)[:-1] + b',"items":[' + items + b"]}")

    def event(self, kind: Kind, event: Event, *, first: bool) -> bytes:
        """One line of a watch. Only the first table of a watch has column definitions."""
        stored, text = event.stored, event.stored.text
        if self.is_table:
            text = encode(self._table(kind, (stored,), stored.version, headers=first))
        return b'{"type":"' + event.change.encode() + b'","object":' + text + b"}\n"

    def bookmark(self, kind: Kind, version: int, *, initial_events_end: bool) -> bytes:
        metadata: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        shown: Json = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        if self.is_table:
            rows = [{"cells": [], "object": _partial(metadata)}]
            shown = {**self._table(kind, (), version, headers=False), "rows": rows}
        return b'{"type":"BOOKMARK","object":' + encode(shown) + b"}\n"

    def write_value(self, value: Json) -> bytes:
        return self._write(encode(value))

    def _write(self, text: bytes) -> bytes:
        if self.pretty and len(text) < _PRETTY_BYTES:
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False).encode()
        return text + b"\n"

    def _table(self, kind: Kind, stored: Sequence[Stored], version: int, *, headers: bool) -> Json:
        columns = columns_of(kind)
        rows = []
        for value in (each.value for each in stored):
            about = value if self.has_objects else _partial(value["metadata"])
            rows.append({"cells": [column.show(value) for column in columns], "object": about})
        head = {"kind": "Table", "apiVersion": _META, "metadata": {"resourceVersion": str(version)}}
        definitions = [column.definition for column in columns] if headers else None
        return {**head, "columnDefinitions": definitions, "rows": rows}


def choose_view(accept: str, query: dict[str, str], user_agent: str) -> View:
    """What the Accept header asks for first (RFC 9110, 12.5.1). Raises ApiError 406 when there is nothing."""
    # A real API server also indents for people: curl, wget and browsers.
    default = "true" if user_agent.startswith(("curl", "Wget", "Mozilla/5.0")) else "false"
    pretty = query.get("pretty", default).lower() in ("1", "t", "true", "")
    for part in (accept or JSON).split(","):
        name, *rest = (each.strip() for each in part.lower().split(";"))
        parameters = dict(each.split("=", 1) for each in rest if "=" in each)
        if name not in (JSON, "application/*", "*/*") or parameters.get("q") in ("0", "0.0"):
            continue
        shape = [parameters.get(each, "") for each in ("as", "g", "v")]
        if not shape[0] or shape == ["table", "meta.k8s.io", "v1"]:
            has_objects = query.get("includeObject") == "Object"
            return View(is_table=bool(shape[0]), has_objects=has_objects, pretty=pretty)
    raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {JSON}")


def _partial(metadata: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": metadata}


class Column(NamedTuple):
    definition: Json
    cell: Callable[[Json], Any]

    def show(self, value: Json) -> Any:
        """The cell; one odd object must not keep the others from being listed."""
        try:
            return self.cell(value)
        except (AttributeError, KeyError, TypeError, ValueError):
            return "<unknown>"


def columns_of(kind: Kind) -> list[Column]:
    return [_column(kind, each) for each in kind.columns or ({"name": "Name"}, {"name": "Age"})]


def _column(kind: Kind, column: Json) -> Column:
    name = column.get("name", "")
    column = {**_KNOWN.get(name, {}), **column}
    about = {"format": "name" if name == "Name" else "", "description": f"{name} of the object"}
    shape = {"type": column.get("type", "string"), "priority": column.get("priority", 0)}
    definition = {"name": name, **shape, **about}
    if "cell" in column and not kind.custom:
        return Column(definition, _CELLS[column["cell"]])
    path = re.sub(r"\['?([^'\]]+)'?\]", r".\1", str(column.get("jsonPath"))).lstrip(".")

    def cell(value: Json) -> Any:
        found = field_at(value, path)
        if definition["type"] == "date":
            return clock.age(clock.now() - clock.parse_time(found))
        if isinstance(found, dict):
            found = ",".join(f"{key}={text}" for key, text in sorted(found.items()))
        if isinstance(found, list):
            found = ",".join(map(str, found))
        return found if found or kind.custom else 0 if definition["type"] == "integer" else "<none>"

    return Column(definition, cell)


def _statuses(value: Json) -> list[Json]:
    return list(field_at(value, "status.containerStatuses") or ())


def _pod_ready(value: Json) -> str:
    return f"{sum(bool(each.get('ready')) for each in _statuses(value))}/{len(value['spec']['containers'])}"


def _pod_status(value: Json) -> str:
    if value["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for each in _statuses(value):
        state = each.get("state", {})
        if passing := state.get("waiting") or state.get("terminated"):
            return str(passing.get("reason", "Unknown"))
    status = value.get("status", {})
    return str(status.get("reason") or status.get("phase", "Unknown"))


def _node_status(value: Json) -> str:
    conditions = field_at(value, "status.conditions") or ()
    ready = next((each.get("status") for each in conditions if each.get("type") == "Ready"), None)
    text = {"True": "Ready", "False": "NotReady"}.get(ready or "", "Unknown")
    return text + (",SchedulingDisabled" if field_at(value, "spec.unschedulable") else "")


def _node_ip(value: Json) -> str:
    addresses = field_at(value, "status.addresses") or ()
    return next((each.get("address", "") for each in addresses if each.get("type") == "InternalIP"), "<none>")


def _service_ports(value: Json) -> str:
    ports = value["spec"].get("ports", ())
    return ",".join(f"{each['port']}/{each.get('protocol', 'TCP')}" for each in ports) or "<none>"


def _slice_endpoints(value: Json) -> str:
    addresses = [address for each in value.get("endpoints") or () for address in each["addresses"]]
    more = f" + {len(addresses) - 3} more..." if len(addresses) > 3 else ""
    return (",".join(addresses[:3]) or "<unset>") + more


def _replicas(value: Json) -> str:
    return f"{field_at(value, 'status.readyReplicas') or 0}/{value['spec'].get('replicas', 1)}"


_KNOWN: dict[str, Json] = {
    "Name": {"jsonPath": ".metadata.name"},
    "Age": {"jsonPath": ".metadata.creationTimestamp", "type": "date"},
}
"""What a column of that name is, unless it says otherwise."""
_CELLS: dict[str, Callable[[Json], Any]] = {
    "about": lambda value: f"{value['involvedObject']['kind'].lower()}/{value['involvedObject']['name']}",
    "data": lambda value: len(value.get("data") or ()) + len(value.get("binaryData") or ()),
    "external_ip": lambda value: "<pending>" if value["spec"].get("type") == "LoadBalancer" else "<none>",
    "node_ip": _node_ip,
    "node_status": _node_status,
    "pod_ready": _pod_ready,
    "pod_status": _pod_status,
    "replicas": _replicas,
    "restarts": lambda value: sum(each.get("restartCount", 0) for each in _statuses(value)),
    "secrets": lambda value: len(value.get("secrets") or ()),
    "service_ports": _service_ports,
    "slice_endpoints": _slice_endpoints,
}

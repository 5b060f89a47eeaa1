"""What `kubectl get` shows: the columns of each kind and how a cell is made from an object.

After kubernetes' pkg/printers/internalversion: same names, order and priority (1 is `-o wide`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kproxy.demo import clock
from kproxy.demo.kinds import Json, Kind
from kproxy.demo.selectors import field_at

_NONE = "<none>"
Cell = Callable[[Json], Any]


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    cell: Cell
    type: str = "string"
    priority: int = 0

    @property
    def definition(self) -> Json:
        return {
            "name": self.name,
            "type": self.type,
            "format": "name" if self.name == "Name" else "",
            "description": f"{self.name} of the object",
            "priority": self.priority,
        }


def columns_of(kind: Kind) -> tuple[Column, ...]:
    if kind.custom:
        return (_NAME, *(_custom_column(each) for each in kind.columns)) if kind.columns else (_NAME, _AGE)
    return _COLUMNS.get(kind.resource, (_NAME, _field("Created At", "metadata.creationTimestamp")))


def _field(name: str, path: str, *, empty: Any = _NONE, priority: int = 0, kind: str = "string") -> Column:
    def cell(value: Json) -> Any:
        found = field_at(value, path)
        return empty if found in (None, "") else found

    return Column(name, cell, kind, priority)


def _since(text: Any) -> str:
    try:
        return clock.age(clock.now() - clock.parse_time(text))
    except (TypeError, ValueError):
        return "<unknown>"


def _age(value: Json) -> str:
    return _since(value["metadata"].get("creationTimestamp"))


def _container_statuses(value: Json) -> list[Json]:
    return list(value.get("status", {}).get("containerStatuses", ()))


def _ready(value: Json) -> str:
    ready = sum(1 for status in _container_statuses(value) if status.get("ready"))
    return f"{ready}/{len(value['spec']['containers'])}"


def _pod_status(value: Json) -> str:
    if value["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for each in _container_statuses(value):
        state = each.get("state", {})
        if passing := state.get("waiting") or state.get("terminated"):
            return str(passing.get("reason", "Unknown"))
    status = value.get("status", {})
    return str(status.get("reason") or status.get("phase", "Unknown"))


def _restarts(value: Json) -> int:
    return sum(each.get("restartCount", 0) for each in _container_statuses(value))


def _node_status(value: Json) -> str:
    conditions = value.get("status", {}).get("conditions", ())
    ready = next((each.get("status") for each in conditions if each.get("type") == "Ready"), None)
    text = {"True": "Ready", "False": "NotReady"}.get(ready or "", "Unknown")
    return text + (",SchedulingDisabled" if value.get("spec", {}).get("unschedulable") else "")


def _roles(value: Json) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = value["metadata"].get("labels") or {}
    roles = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    return ",".join(roles) or _NONE


def _internal_ip(value: Json) -> str:
    addresses = value.get("status", {}).get("addresses", ())
    return next((each.get("address", "") for each in addresses if each.get("type") == "InternalIP"), _NONE)


def _ports(value: Json) -> str:
    shown = []
    for port in value["spec"].get("ports", ()):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or _NONE


def _pairs(path: str) -> Cell:
    def cell(value: Json) -> str:
        found = field_at(value, path) or {}
        return ",".join(f"{key}={text}" for key, text in sorted(found.items())) or _NONE

    return cell


def _count(*names: str) -> Cell:
    return lambda value: sum(len(value.get(name) or ()) for name in names)


def _external_ip(value: Json) -> str:
    ingress = value.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    waiting = "<pending>" if value["spec"].get("type") == "LoadBalancer" else _NONE
    return ",".join(each.get("ip", each.get("hostname", "")) for each in ingress) or waiting


def _replicas(value: Json) -> str:
    return f"{value.get('status', {}).get('readyReplicas', 0)}/{value['spec'].get('replicas', 1)}"


def _of_containers(name: str) -> Cell:
    return lambda value: ",".join(each[name] for each in value["spec"]["template"]["spec"]["containers"])


def _event_object(value: Json) -> str:
    involved = value.get("involvedObject", {})
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


def _last_seen(value: Json) -> str:
    return _since(value.get("lastTimestamp") or value["metadata"].get("creationTimestamp"))


def _custom_column(column: Json) -> Column:
    path = re.sub(r"\['?([^'\]]+)'?\]", r".\1", column.get("jsonPath", "")).lstrip(".")
    kind = column.get("type", "string")

    def cell(value: Json) -> Any:
        found = field_at(value, path)
        return _since(found) if kind == "date" else found

    return Column(column.get("name", ""), cell, kind, column.get("priority", 0))


_NAME = _field("Name", "metadata.name")
_AGE = Column("Age", _age)

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "namespaces": (_NAME, _field("Status", "status.phase"), _AGE),
    "nodes": (
        _NAME,
        Column("Status", _node_status),
        Column("Roles", _roles),
        _AGE,
        _field("Version", "status.nodeInfo.kubeletVersion"),
        Column("Internal-IP", _internal_ip, priority=1),
        _field("OS-Image", "status.nodeInfo.osImage", priority=1),
        _field("Kernel-Version", "status.nodeInfo.kernelVersion", priority=1),
        _field("Container-Runtime", "status.nodeInfo.containerRuntimeVersion", priority=1),
    ),
    "pods": (
        _NAME,
        Column("Ready", _ready),
        Column("Status", _pod_status),
        Column("Restarts", _restarts, "integer"),
        _AGE,
        _field("IP", "status.podIP", priority=1),
        _field("Node", "spec.nodeName", priority=1),
    ),
    "services": (
        _NAME,
        _field("Type", "spec.type"),
        _field("Cluster-IP", "spec.clusterIP"),
        Column("External-IP", _external_ip),
        Column("Port(s)", _ports),
        _AGE,
        Column("Selector", _pairs("spec.selector"), priority=1),
    ),
    "configmaps": (_NAME, Column("Data", _count("data", "binaryData"), "integer"), _AGE),
    "secrets": (_NAME, _field("Type", "type"), Column("Data", _count("data"), "integer"), _AGE),
    "serviceaccounts": (_NAME, Column("Secrets", _count("secrets"), "integer"), _AGE),
    "events": (
        Column("Last Seen", _last_seen),
        _field("Type", "type"),
        _field("Reason", "reason"),
        Column("Object", _event_object),
        _field("Message", "message", empty=""),
        _field("Name", "metadata.name", priority=1),
    ),
    "deployments.apps": (
        _NAME,
        Column("Ready", _replicas),
        _field("Up-to-date", "status.updatedReplicas", kind="integer", empty=0),
        _field("Available", "status.availableReplicas", kind="integer", empty=0),
        _AGE,
        Column("Containers", _of_containers("name"), priority=1),
        Column("Images", _of_containers("image"), priority=1),
        Column("Selector", _pairs("spec.selector.matchLabels"), priority=1),
    ),
}

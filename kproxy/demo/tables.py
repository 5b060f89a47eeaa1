"""What `kubectl get` shows: the columns of each kind and how a cell is made from an object.

After kubernetes' pkg/printers/internalversion: same columns, same order, same priority (1 is `-o wide`).
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


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    cell: Callable[[Json, float], Any]
    """From the object and the time now, in epoch seconds."""
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""

    @property
    def definition(self) -> Json:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description or f"{self.name} of the object",
            "priority": self.priority,
        }


def columns_of(kind: Kind) -> tuple[Column, ...]:
    if kind.custom:
        return (_NAME, *(_custom_column(each) for each in kind.columns)) if kind.columns else (_NAME, _AGE)
    return _COLUMNS.get(kind.resource, (_NAME, _CREATED))


def _field(name: str, path: str, *, empty: Any = _NONE, priority: int = 0, kind: str = "string") -> Column:
    def cell(value: Json, now: float) -> Any:
        found = field_at(value, path)
        return empty if found in (None, "") else found

    return Column(name, cell, kind, priority=priority)


def _since(text: Any, now: float) -> str:
    try:
        return clock.age(now - clock.parse_time(text))
    except (TypeError, ValueError):
        return "<unknown>"


def _age(value: Json, now: float) -> str:
    return _since(value["metadata"].get("creationTimestamp"), now)


def _ready(value: Json, now: float) -> str:
    statuses = value.get("status", {}).get("containerStatuses", ())
    ready = sum(1 for status in statuses if status.get("ready"))
    return f"{ready}/{len(value['spec']['containers'])}"


def pod_phase(value: Json) -> str:
    """What the STATUS column says of a pod."""
    if value["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = value.get("status", {})
    for each in status.get("containerStatuses", ()):
        state = each.get("state", {})
        if passing := state.get("waiting") or state.get("terminated"):
            return str(passing.get("reason", "Unknown"))
    return str(status.get("reason") or status.get("phase", "Unknown"))


def _restarts(value: Json, now: float) -> int:
    return sum(each.get("restartCount", 0) for each in value.get("status", {}).get("containerStatuses", ()))


def _node_status(value: Json, now: float) -> str:
    conditions = value.get("status", {}).get("conditions", ())
    ready = next((each["status"] for each in conditions if each["type"] == "Ready"), "Unknown")
    text = {"True": "Ready", "False": "NotReady"}.get(ready, "Unknown")
    return text + (",SchedulingDisabled" if value.get("spec", {}).get("unschedulable") else "")


def _roles(value: Json, now: float) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = value["metadata"].get("labels") or {}
    roles = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    return ",".join(roles) or _NONE


def _address(kind: str) -> Callable[[Json, float], str]:
    def cell(value: Json, now: float) -> str:
        addresses = value.get("status", {}).get("addresses", ())
        return next((each["address"] for each in addresses if each["type"] == kind), _NONE)

    return cell


def _ports(value: Json, now: float) -> str:
    shown = []
    for port in value["spec"].get("ports", ()):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or _NONE


def _pairs(path: str) -> Callable[[Json, float], str]:
    def cell(value: Json, now: float) -> str:
        found = field_at(value, path) or {}
        return ",".join(f"{key}={text}" for key, text in sorted(found.items())) or _NONE

    return cell


def _count(*names: str) -> Callable[[Json, float], int]:
    return lambda value, now: sum(len(value.get(name) or ()) for name in names)


def _external_ip(value: Json, now: float) -> str:
    ingress = value.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    waiting = "<pending>" if value["spec"].get("type") == "LoadBalancer" else _NONE
    return ",".join(each.get("ip", each.get("hostname", "")) for each in ingress) or waiting


def _replicas(value: Json, now: float) -> str:
    return f"{value.get('status', {}).get('readyReplicas', 0)}/{value['spec'].get('replicas', 1)}"


def _of_containers(name: str) -> Callable[[Json, float], str]:
    def cell(value: Json, now: float) -> str:
        containers = field_at(value, "spec.template.spec.containers") or ()
        return ",".join(str(container.get(name, "")) for container in containers)

    return cell


def _event_object(value: Json, now: float) -> str:
    involved = value.get("involvedObject", {})
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


def _seen(name: str) -> Callable[[Json, float], str]:
    return lambda value, now: _since(value.get(name) or value["metadata"].get("creationTimestamp"), now)


def _custom_column(column: Json) -> Column:
    path = re.sub(r"\['?([^'\]]+)'?\]", r".\1", column["jsonPath"]).lstrip(".")

    def cell(value: Json, now: float) -> Any:
        found = field_at(value, path)
        if column["type"] == "date":
            return _since(found, now)
        return found

    return Column(
        column["name"], cell, column["type"], column.get("format", ""), column.get("priority", 0),
        column.get("description", ""),
    )  # fmt: skip


_NAME = Column("Name", lambda value, now: value["metadata"]["name"], format="name")
_AGE = Column("Age", _age)
_CREATED = Column("Created At", lambda value, now: value["metadata"].get("creationTimestamp"))

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "namespaces": (_NAME, _field("Status", "status.phase"), _AGE),
    "nodes": (
        _NAME,
        Column("Status", _node_status),
        Column("Roles", _roles),
        _AGE,
        _field("Version", "status.nodeInfo.kubeletVersion"),
        Column("Internal-IP", _address("InternalIP"), priority=1),
        Column("External-IP", _address("ExternalIP"), priority=1),
        _field("OS-Image", "status.nodeInfo.osImage", priority=1),
        _field("Kernel-Version", "status.nodeInfo.kernelVersion", priority=1),
        _field("Container-Runtime", "status.nodeInfo.containerRuntimeVersion", priority=1),
    ),
    "pods": (
        _NAME,
        Column("Ready", _ready),
        Column("Status", lambda value, now: pod_phase(value)),
        Column("Restarts", _restarts, "integer"),
        _AGE,
        _field("IP", "status.podIP", priority=1),
        _field("Node", "spec.nodeName", priority=1),
        _field("Nominated Node", "status.nominatedNodeName", priority=1),
        Column("Readiness Gates", lambda value, now: _NONE, priority=1),
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
    "secrets": (
        _NAME,
        _field("Type", "type"),
        Column("Data", _count("data"), "integer"),
        _AGE,
    ),
    "serviceaccounts": (_NAME, Column("Secrets", _count("secrets"), "integer"), _AGE),
    "events": (
        Column("Last Seen", _seen("lastTimestamp")),
        _field("Type", "type"),
        _field("Reason", "reason"),
        Column("Object", _event_object),
        _field("Subobject", "involvedObject.fieldPath", empty="", priority=1),
        _field("Source", "source.component", empty="", priority=1),
        _field("Message", "message", empty=""),
        Column("First Seen", _seen("firstTimestamp"), priority=1),
        _field("Count", "count", kind="integer", empty=1, priority=1),
        Column("Name", lambda value, now: value["metadata"]["name"], format="name", priority=1),
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

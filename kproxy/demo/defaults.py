"""What the API server adds to an object of a built-in kind at a write, as far as clients look at it.

The status is that of a new object; an update keeps the old one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from kproxy.demo import clock
from kproxy.demo.kinds import Json, Kind

# Private ranges that clusters commonly use; nothing listens there.
POD_NETWORK = "10.244"
_SERVICE_NETWORK = "10.96"


def with_defaults(kind: Kind, value: Json) -> Json:
    """`value` with what its kind's defaults add; its metadata is complete (uid, creationTimestamp)."""
    add = _DEFAULTS.get(kind.resource)
    return add(value) if add else value


def address(network: str, uid: str) -> str:
    """A made-up address, the same for the same object."""
    digest = hashlib.sha256(uid.encode()).digest()
    return f"{network}.{digest[0]}.{digest[1] or 1}"


def pod_spec(spec: Json) -> Json:
    containers = [_container(container) for container in spec.get("containers") or ()]
    defaults: Json = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
    }
    return {**defaults, **spec, "containers": containers}


def _container(container: Json) -> Json:
    image = str(container.get("image", ""))
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    defaults: Json = {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
    }
    result = {**defaults, **container}
    if result.get("ports"):
        result["ports"] = [{"protocol": "TCP", **port} for port in result["ports"]]
    return result


def _pod(value: Json) -> Json:
    status = {"phase": "Pending", "qosClass": "BestEffort"}
    return {**value, "spec": pod_spec(value["spec"]), "status": status}


def _deployment(value: Json) -> Json:
    template = value["spec"]["template"]
    spec: Json = {
        "replicas": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        **value["spec"],
        "template": {**template, "spec": pod_spec(template["spec"])},
    }
    return {**value, "spec": spec, "status": value.get("status", {})}


def _service(value: Json) -> Json:
    given = value["spec"]
    ports = [{"protocol": "TCP", "targetPort": port["port"], **port} for port in given.get("ports") or ()]
    spec: Json = {"type": "ClusterIP", "sessionAffinity": "None", **given, "ports": ports}
    if spec["type"] != "ExternalName":
        ip = spec.get("clusterIP") or address(_SERVICE_NETWORK, value["metadata"]["uid"])
        families: Json = {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
        defaults: Json = {"clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Cluster", **families}
        spec = {**defaults, **spec}
    return {**value, "spec": spec, "status": {"loadBalancer": {}}}


def _secret(value: Json) -> Json:
    # `stringData` is write-only: it ends up in `data`.
    result = {"type": "Opaque", **value}
    texts = result.pop("stringData", None) or {}
    if texts:
        encoded = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
        result["data"] = {**(result.get("data") or {}), **encoded}
    return result


def _namespace(value: Json) -> Json:
    metadata = value["metadata"]
    labels = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata["name"]}
    metadata = {**metadata, "labels": labels}
    return {
        **value,
        "metadata": metadata,
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _definition(value: Json) -> Json:
    spec = value["spec"]
    kind = spec["names"]["kind"]
    names = {"singular": kind.lower(), "listKind": f"{kind}List", **spec["names"]}
    time = {"status": "True", "lastTransitionTime": value["metadata"]["creationTimestamp"]}
    status = {
        "conditions": [
            {"type": "NamesAccepted", "reason": "NoConflicts", "message": "no conflicts found", **time},
            {"type": "Established", "reason": "InitialNamesAccepted", "message": "it is served", **time},
        ],
        "acceptedNames": names,
        "storedVersions": [each["name"] for each in spec["versions"] if each.get("storage")],
    }
    return {**value, "spec": {"conversion": {"strategy": "None"}, **spec, "names": names}, "status": status}


def _event(value: Json) -> Json:
    now = clock.rfc3339(clock.now())
    return {"firstTimestamp": now, "lastTimestamp": now, "count": 1, "type": "Normal", "source": {}, **value}


_DEFAULTS: dict[str, Callable[[Json], Json]] = {
    "pods": _pod,
    "deployments.apps": _deployment,
    "services": _service,
    "secrets": _secret,
    "namespaces": _namespace,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
    "events": _event,
}

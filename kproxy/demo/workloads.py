"""What controllers and kubelets would write: pods of a deployment, their states, who serves a service."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kproxy.demo import clock
from kproxy.demo.admission import NAME_LETTERS, POD_NETWORK, address, created
from kproxy.demo.kinds import DEPLOYMENTS, ENDPOINT_SLICES, PODS, SERVICES, Kind
from kproxy.demo.queries import field_at
from kproxy.demo.store import Json, encode

_HASH_LABEL = "pod-template-hash"
SERVICE_LABEL = "kubernetes.io/service-name"
NODE_ADDRESSES = {"demo-node-1": "192.0.2.1", "demo-node-2": "192.0.2.2"}


def template_hash(deployment: Json) -> str:
    """Ten letters that change with the pod template, as in the names of real pods."""
    return _letters(encode(deployment["spec"]["template"]), 10)


def new_pod(deployment: Json) -> Json:
    """A pod of the deployment under a new name. It belongs to the deployment itself: no ReplicaSets here."""
    template = deployment["spec"]["template"]
    given, digest = template.get("metadata") or {}, template_hash(deployment)
    metadata = {
        "generateName": f"{deployment['metadata']['name']}-{digest}-",
        "namespace": deployment["metadata"]["namespace"],
        "labels": {**(given.get("labels") or {}), _HASH_LABEL: digest},
        "annotations": given.get("annotations") or {},
        "ownerReferences": [_reference(DEPLOYMENTS, deployment)],
    }
    head = {"kind": PODS.kind, "apiVersion": PODS.api_version}
    return created(PODS, {**head, "metadata": metadata, "spec": template["spec"]})


def owner_uid(value: Json, kind: Kind) -> str | None:
    """The uid of the object of that kind that controls this one."""
    for reference in value["metadata"].get("ownerReferences", ()):
        if reference.get("kind") == kind.kind and reference.get("controller"):
            return str(reference.get("uid"))
    return None


def is_of_template(pod: Json, digest: str) -> bool:
    """Whether the pod was made from the template of that hash."""
    return bool(pod["metadata"].get("labels", {}).get(_HASH_LABEL) == digest)


def is_ready(pod: Json) -> bool:
    conditions = field_at(pod, "status.conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def scheduled(pod: Json, nodes: Sequence[str], at: float) -> Json:
    """The pod on one of these nodes, or the one it asks for, waiting for its containers."""
    node = nodes[hashlib.sha256(pod["metadata"]["uid"].encode()).digest()[0] % len(nodes)]
    pod = {**pod, "spec": {"nodeName": node, **pod["spec"]}}
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    return _in_phase(pod, "Pending", waiting, at, startTime=clock.rfc3339(at))


def running(pod: Json, at: float) -> Json:
    """The pod with all its containers started at `at`."""
    ip, host = address(POD_NETWORK, pod["metadata"]["uid"]), NODE_ADDRESSES.get(pod["spec"]["nodeName"], "")
    state = {"running": {"startedAt": clock.rfc3339(at)}}
    return _in_phase(pod, "Running", state, at, hostIP=host, podIP=ip, podIPs=[{"ip": ip}])


def finished(pod: Json, code: int, at: float) -> Json:
    """The pod after its containers ended by themselves with that exit code, not to be started again."""
    times = {"startedAt": pod["status"].get("startTime"), "finishedAt": clock.rfc3339(at)}
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", **times}
    return _in_phase(pod, "Failed" if code else "Succeeded", {"terminated": ended}, at)


def deployment_status(deployment: Json, pods: Sequence[Json], at: float) -> Json:
    """The status that fits these pods, which are those of the deployment that are not about to go."""
    wanted = deployment["spec"].get("replicas", 1)
    digest = template_hash(deployment)
    current = sum(is_of_template(pod, digest) for pod in pods)
    ready = sum(map(is_ready, pods))
    counts = {
        "replicas": len(pods),
        "updatedReplicas": current,
        "readyReplicas": ready,
        "availableReplicas": ready,
    }
    condition = {"type": "Available", "status": str(ready >= wanted - wanted // 4)}
    before = (field_at(deployment, "status.conditions") or [{}])[0]
    if before.get("status") != condition["status"]:
        before = {"lastUpdateTime": clock.rfc3339(at), "lastTransitionTime": clock.rfc3339(at)}
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{name: count for name, count in counts.items() if count},
        "conditions": [{**before, **condition}],
    }


def endpoint_slice(service: Json, pods: Sequence[Json]) -> Json:
    """Which of these pods serve the service, and on which ports: a name is looked up in the first of them."""
    metadata, spec = service["metadata"], service["spec"]
    selector = spec["selector"].items()
    chosen = [pod for pod in pods if selector <= (pod["metadata"].get("labels") or {}).items()]
    chosen = [pod for pod in chosen if field_at(pod, "status.podIP") and pod["status"]["phase"] == "Running"]
    ports = [_target_port(port, chosen[0]) for port in spec.get("ports") or () if chosen]
    labels = {SERVICE_LABEL: metadata["name"], "endpointslice.kubernetes.io/managed-by": "kproxy-demo"}
    return {
        "kind": ENDPOINT_SLICES.kind,
        "apiVersion": ENDPOINT_SLICES.api_version,
        "metadata": {
            "name": f"{metadata['name']}-{_letters(metadata['uid'].encode(), 5)}",
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), **labels},
            "ownerReferences": [_reference(SERVICES, service)],
        },
        "addressType": "IPv4",
        "endpoints": [_endpoint(pod) for pod in chosen],
        "ports": [port for port in ports if port["port"]],
    }


def _endpoint(pod: Json) -> Json:
    ends, ready = bool(pod["metadata"].get("deletionTimestamp")), is_ready(pod)
    reference = {field: pod["metadata"][field] for field in ("name", "namespace", "uid")}
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not ends, "serving": ready, "terminating": ends},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": PODS.kind, **reference},
    }


def _target_port(port: Json, pod: Json) -> Json:
    target = port.get("targetPort", port["port"])
    if isinstance(target, str):
        named = (each for container in pod["spec"]["containers"] for each in container.get("ports") or ())
        target = next((each["containerPort"] for each in named if each.get("name") == target), None)
    return {"name": port.get("name", ""), "port": target, "protocol": port.get("protocol", "TCP")}


def _letters(content: bytes, count: int) -> str:
    digest = hashlib.sha256(content).digest()
    return "".join(NAME_LETTERS[byte % len(NAME_LETTERS)] for byte in digest[:count])


def _reference(kind: Kind, owner: Json) -> Json:
    about = {"apiVersion": kind.api_version, "kind": kind.kind}
    names = {field: owner["metadata"][field] for field in ("name", "uid")}
    return {**about, **names, "controller": True, "blockOwnerDeletion": True}


def _in_phase(pod: Json, phase: str, state: Json, at: float, **more: object) -> Json:
    """The pod with every container in that state since `at`."""
    is_up = phase == "Running"
    about = {"imageID": "none", "ready": is_up, "started": is_up, "restartCount": 0, "state": state}
    containers = pod["spec"]["containers"]
    statuses = [{"name": each["name"], "image": each["image"], **about} for each in containers]
    held = {"Initialized": True, "Ready": is_up, "ContainersReady": is_up, "PodScheduled": True}
    time = clock.rfc3339(at)
    conditions = [
        {"type": kind, "status": str(holds), "lastTransitionTime": time} for kind, holds in held.items()
    ]
    status = {"phase": phase, "conditions": conditions, "containerStatuses": statuses}
    return {**pod, "status": {**pod.get("status", {}), **more, **status}}

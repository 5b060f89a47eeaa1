"""What controllers and kubelets would write: pods of a deployment, their states, the deployment's status."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kproxy.demo import clock
from kproxy.demo.admission import NAME_LETTERS, created
from kproxy.demo.defaults import POD_NETWORK, address
from kproxy.demo.kinds import PODS, Json
from kproxy.demo.store import encode

_HASH_LABEL = "pod-template-hash"
NODE_ADDRESSES = {"demo-node-1": "192.0.2.1", "demo-node-2": "192.0.2.2"}


def template_hash(deployment: Json) -> str:
    """Ten letters that change with the pod template, as in the names of real pods."""
    digest = hashlib.sha256(encode(deployment["spec"]["template"])).digest()
    return "".join(NAME_LETTERS[byte % len(NAME_LETTERS)] for byte in digest[:10])


def new_pod(deployment: Json) -> Json:
    """A pod of the deployment under a new name. It belongs to the deployment itself: no ReplicaSets here."""
    owner, template = deployment["metadata"], deployment["spec"]["template"]
    given = template.get("metadata") or {}
    digest = template_hash(deployment)
    reference = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": owner["name"],
        "uid": owner["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "generateName": f"{owner['name']}-{digest}-",
        "namespace": owner["namespace"],
        "labels": {**(given.get("labels") or {}), _HASH_LABEL: digest},
        "ownerReferences": [reference],
    }
    if given.get("annotations"):
        metadata["annotations"] = given["annotations"]
    head = {"kind": PODS.kind, "apiVersion": PODS.api_version}
    return created(PODS, {**head, "metadata": metadata, "spec": template["spec"]})


def owner_uid(pod: Json) -> str | None:
    """The uid of the deployment that a pod belongs to."""
    for reference in pod["metadata"].get("ownerReferences", ()):
        if reference.get("kind") == "Deployment" and reference.get("controller"):
            return str(reference.get("uid"))
    return None


def is_of_template(pod: Json, digest: str) -> bool:
    """Whether the pod was made from the template of that hash."""
    return bool(pod["metadata"].get("labels", {}).get(_HASH_LABEL) == digest)


def is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def scheduled(pod: Json, nodes: Sequence[str], at: float) -> Json:
    """The pod on one of these nodes, or the one it asks for, waiting for its containers."""
    node = nodes[hashlib.sha256(pod["metadata"]["uid"].encode()).digest()[0] % len(nodes)]
    pod = {**pod, "spec": {"nodeName": node, **pod["spec"]}}
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    return _in_phase(pod, "Pending", waiting, at, startTime=clock.rfc3339(at))


def running(pod: Json, at: float) -> Json:
    """The pod with all its containers started at `at`."""
    ip = address(POD_NETWORK, pod["metadata"]["uid"])
    addresses = {
        "hostIP": NODE_ADDRESSES.get(pod["spec"]["nodeName"], ""),
        "podIP": ip,
        "podIPs": [{"ip": ip}],
    }
    return _in_phase(pod, "Running", {"running": {"startedAt": clock.rfc3339(at)}}, at, **addresses)


def finished(pod: Json, code: int, at: float) -> Json:
    """The pod after its containers ended by themselves with that exit code, not to be started again."""
    ended = {
        "exitCode": code,
        "reason": "Error" if code else "Completed",
        "startedAt": pod["status"].get("startTime"),
        "finishedAt": clock.rfc3339(at),
    }
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
        "unavailableReplicas": max(0, wanted - ready),
    }
    available = ready >= wanted - wanted // 4
    complete = current == len(pods) == ready == wanted
    conditions = (
        {
            "type": "Available",
            "status": str(available),
            "reason": f"MinimumReplicas{'Available' if available else 'Unavailable'}",
            "message": f"Deployment {'has' if available else 'does not have'} minimum availability.",
        },
        {
            "type": "Progressing",
            "status": "True",
            "reason": "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            "message": f"{current} of {wanted} pods are of the current template, {ready} are ready.",
        },
    )
    before = {each.get("type"): each for each in deployment.get("status", {}).get("conditions", ())}
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{name: count for name, count in counts.items() if count},
        "conditions": [_timed(each, before.get(each["type"], {}), at) for each in conditions],
    }


def _timed(condition: Json, before: Json, at: float) -> Json:
    """The condition with its times: `before` as it is if it says the same."""
    if condition.items() <= before.items():
        return before
    now = clock.rfc3339(at)
    kept = before.get("lastTransitionTime") if before.get("status") == condition["status"] else None
    return {**condition, "lastUpdateTime": now, "lastTransitionTime": kept or now}


def _in_phase(pod: Json, phase: str, state: Json, at: float, **more: object) -> Json:
    """The pod with every container in that state since `at`."""
    is_up = phase == "Running"
    statuses = [
        {
            "name": each["name"],
            "image": each["image"],
            "imageID": f"demo://{each['image']}",
            "containerID": f"demo://{pod['metadata']['uid']}/{each['name']}",
            "ready": is_up,
            "started": is_up,
            "restartCount": 0,
            "state": state,
            "lastState": {},
        }
        for each in pod["spec"]["containers"]
    ]
    held = {"Initialized": True, "Ready": is_up, "ContainersReady": is_up, "PodScheduled": True}
    conditions = [
        {"type": kind, "status": str(state), "lastProbeTime": None, "lastTransitionTime": clock.rfc3339(at)}
        for kind, state in held.items()
    ]
    status = {"phase": phase, "conditions": conditions, "containerStatuses": statuses}
    return {**pod, "status": {**pod.get("status", {}), **more, **status}}

"""What controllers and kubelets would write: pods of a deployment, their states, the deployment's status."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from kproxy.demo import clock
from kproxy.demo.admission import created
from kproxy.demo.defaults import POD_NETWORK, address
from kproxy.demo.kinds import PODS, Json
from kproxy.demo.store import encode

HASH_LABEL = "pod-template-hash"
NODE_NAMES = ("demo-node-1", "demo-node-2")
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(deployment: Json) -> str:
    """Ten letters that change with the pod template, as in the names of real pods."""
    digest = hashlib.sha256(encode(deployment["spec"]["template"])).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:10])


def new_pod(deployment: Json) -> Json:
    """A pod of the deployment under a new name. It belongs to the deployment itself: no ReplicaSets here."""
    metadata = deployment["metadata"]
    template = deployment["spec"]["template"]
    given = template.get("metadata") or {}
    digest = template_hash(deployment)
    suffix = "".join(random.choices(_LETTERS, k=5))  # noqa: S311 -- a name, not a secret
    pod: Json = {
        "kind": PODS.kind,
        "apiVersion": PODS.api_version,
        "metadata": {
            "name": f"{metadata['name'][:200]}-{digest}-{suffix}",
            "namespace": metadata["namespace"],
            "labels": {**(given.get("labels") or {}), HASH_LABEL: digest},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": template["spec"],
    }
    if given.get("annotations"):
        pod["metadata"]["annotations"] = given["annotations"]
    return created(PODS, pod)


def owner_uid(pod: Json) -> str | None:
    """The uid of the deployment that a pod belongs to."""
    for reference in pod["metadata"].get("ownerReferences", ()):
        if reference.get("kind") == "Deployment" and reference.get("controller"):
            return str(reference.get("uid"))
    return None


def is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def scheduled(pod: Json, at: float) -> Json:
    """The pod with a node, waiting for its containers."""
    name = pod["metadata"]["name"]
    node = NODE_NAMES[hashlib.sha256(name.encode()).digest()[0] % len(NODE_NAMES)]
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    statuses = [
        {"name": each["name"], "image": each["image"], "imageID": "", "ready": False, "started": False,
         "restartCount": 0, "state": waiting, "lastState": {}}
        for each in pod["spec"]["containers"]
    ]  # fmt: skip
    status = {
        "phase": "Pending",
        "qosClass": "BestEffort",
        "startTime": clock.rfc3339(at),
        "conditions": _conditions(at, ready=False),
        "containerStatuses": statuses,
    }
    return {**pod, "spec": {"nodeName": node, **pod["spec"]}, "status": status}


def running(pod: Json, at: float) -> Json:
    """The pod with all its containers started at `at`."""
    ip = address(POD_NETWORK, pod["metadata"]["uid"])
    started = {"running": {"startedAt": clock.rfc3339(at)}}
    statuses = [
        {"name": each["name"], "image": each["image"], "imageID": f"demo://{each['image']}", "ready": True,
         "containerID": f"demo://{pod['metadata']['uid']}/{each['name']}", "started": True,
         "restartCount": 0, "state": started, "lastState": {}}
        for each in pod["spec"]["containers"]
    ]  # fmt: skip
    status = {
        "startTime": clock.rfc3339(at),
        **pod.get("status", {}),
        "phase": "Running",
        "hostIP": "192.0.2.1",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": _conditions(at, ready=True),
        "containerStatuses": statuses,
    }
    return {**pod, "status": status}


def finished(pod: Json, code: int, at: float) -> Json:
    """The pod after its only container ended by itself with that exit code, not to be started again."""
    reason, phase = ("Error", "Failed") if code else ("Completed", "Succeeded")
    statuses = []
    for each in pod["status"]["containerStatuses"]:
        started = each.get("state", {}).get("running", {}).get("startedAt", clock.rfc3339(at))
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": clock.rfc3339(at)}
        statuses.append({**each, "ready": False, "started": False, "state": {"terminated": ended}})
    conditions = _conditions(at, ready=False)
    return {
        **pod,
        "status": {**pod["status"], "phase": phase, "conditions": conditions, "containerStatuses": statuses},
    }


def deployment_status(deployment: Json, pods: Sequence[Json], at: float) -> Json:
    """The status that fits these pods, which are those of the deployment that are not about to go."""
    wanted = deployment["spec"].get("replicas", 1)
    digest = template_hash(deployment)
    current = [pod for pod in pods if pod["metadata"].get("labels", {}).get(HASH_LABEL) == digest]
    ready = sum(1 for pod in pods if is_ready(pod))
    complete = len(current) == len(pods) == ready == wanted
    counts = {
        "replicas": len(pods),
        "updatedReplicas": len(current),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, wanted - ready),
    }
    available = ready >= wanted - wanted // 4
    old = {each.get("type"): each for each in deployment.get("status", {}).get("conditions", ())}
    conditions = [
        _condition(
            old,
            "Available",
            "True" if available else "False",
            "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            f"Deployment {'has' if available else 'does not have'} minimum availability.",
            at,
        ),
        _condition(
            old,
            "Progressing",
            "True",
            "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            f"{len(current)} of {wanted} pods are of the current template, {ready} are ready.",
            at,
        ),
    ]
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{name: count for name, count in counts.items() if count},
        "conditions": conditions,
    }


def _condition(old: Json, kind: str, status: str, reason: str, message: str, at: float) -> Json:
    before = old.get(kind, {})
    kept = before.get("status") == status
    transition = before.get("lastTransitionTime") if kept else None
    same = kept and before.get("reason") == reason and before.get("message") == message
    return {
        "type": kind,
        "status": status,
        "lastUpdateTime": before["lastUpdateTime"] if same else clock.rfc3339(at),
        "lastTransitionTime": transition or clock.rfc3339(at),
        "reason": reason,
        "message": message,
    }


def _conditions(at: float, *, ready: bool) -> list[Json]:
    states = {"Initialized": True, "Ready": ready, "ContainersReady": ready, "PodScheduled": True}
    return [
        {"type": kind, "status": str(state), "lastProbeTime": None, "lastTransitionTime": clock.rfc3339(at)}
        for kind, state in states.items()
    ]

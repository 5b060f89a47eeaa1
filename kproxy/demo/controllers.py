"""The part of a cluster that reacts: deployments get their pods, pods start and end, namespaces are emptied.

Each pass looks at everything and writes what differs; a pass that finds nothing to do writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from kproxy.demo import clock
from kproxy.demo.kinds import DEPLOYMENTS, NAMESPACES, NODES, PODS, Json, Registry
from kproxy.demo.objects import Objects, Options, Target
from kproxy.demo.recorder import Recorder
from kproxy.demo.store import Store, Stored
from kproxy.demo.workloads import (
    deployment_status,
    is_of_template,
    is_ready,
    new_pod,
    owner_uid,
    running,
    scheduled,
    template_hash,
)

_LOGGER = logging.getLogger(__name__)
# Somebody may scale to 100000: the others get their turn in between.
_CREATED_A_PASS = 50


class Controllers:
    """Runs until cancelled. `settle_seconds` is how long a pod takes to start, and to end."""

    def __init__(self, store: Store, *, settle_seconds: float) -> None:
        self._store = store
        self._registry = Registry(store)
        self._objects = Objects(store)
        self._recorder = Recorder(store)
        self._settle = settle_seconds
        self._since: dict[tuple[str, str], float] = {}
        """When an object (by uid) was first seen in a state that passes, in the loop's time."""
        self._seen = self._since
        """The same of the pass that is under way."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        seen = 0
        due: float | None = None
        while True:
            anything = self._store.anything()
            now = loop.time()
            if self._store.version != seen or (due is not None and now >= due):
                # Our own writes are changes, too: look again until a pass writes nothing.
                seen = self._store.version
                due = self.reconcile(now)
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await anything.wait()

    def reconcile(self, now: float) -> float | None:
        """One pass at the loop's time `now`; answers when to look again even if nothing changes."""
        self._since, self._seen = {}, self._since
        for stored in self._store.objects(NAMESPACES.resource):
            with _alone(stored):
                self._namespace(stored, now)
        pods: dict[str, list[Stored]] = {}
        for stored in self._store.objects(PODS.resource):
            with _alone(stored):
                self._pod(stored, now)
                if owner := owner_uid(stored.value):
                    pods.setdefault(owner, []).append(stored)
        for stored in self._store.objects(DEPLOYMENTS.resource):
            with _alone(stored):
                self._deployment(stored, pods.pop(stored.value["metadata"]["uid"], []))
        for orphans in pods.values():
            for pod in orphans:
                self._delete_pod(pod)
        dues = (since + self._settle for since in self._since.values())
        return min((due for due in dues if due > now), default=None)

    def _has_lasted(self, stored: Stored, state: str, now: float) -> bool:
        """Whether the object has been in that state for long enough; else the pass is to be repeated then."""
        key = (stored.value["metadata"]["uid"], state)
        self._since[key] = self._seen.get(key, now)
        return now >= self._since[key] + self._settle

    def _namespace(self, stored: Stored, now: float) -> None:
        if not stored.value["metadata"].get("deletionTimestamp"):
            return
        if self._has_lasted(stored, "Terminating", now):
            name = stored.key[1]
            for kind in self._registry:
                if kind.namespaced:
                    for each in self._store.objects(kind.resource, name):
                        self._store.remove(kind.resource, *each.key)
            self._store.remove(NAMESPACES.resource, "", name)

    def _pod(self, stored: Stored, now: float) -> None:
        pod = stored.value
        status = pod.get("status", {})
        if pod["metadata"].get("deletionTimestamp"):
            if self._has_lasted(stored, "Terminating", now):
                self._store.remove(PODS.resource, *stored.key)
        elif status.get("phase") not in (None, "Pending"):
            return
        elif not status.get("startTime"):
            if nodes := self._schedulable_nodes():
                self._has_lasted(stored, "Starting", now)
                pod = self._store.put(PODS.resource, scheduled(pod, nodes, clock.now())).value
                shown = f"{'/'.join(stored.key)} to {pod['spec']['nodeName']}"
                self._recorder.record(pod, "Scheduled", f"Pretended to assign {shown}")
        elif self._has_lasted(stored, "Starting", now):
            pod = self._store.put(PODS.resource, running(pod, clock.now())).value
            for container in pod["spec"]["containers"]:
                self._recorder.record(pod, "Pulled", f'Pretended to pull image "{container["image"]}"')
                self._recorder.record(pod, "Started", f"Pretended to start container {container['name']}")

    def _schedulable_nodes(self) -> list[str]:
        nodes = [node.value for node in self._store.objects(NODES.resource)]
        return [node["metadata"]["name"] for node in nodes if not node.get("spec", {}).get("unschedulable")]

    def _deployment(self, stored: Stored, pods: list[Stored]) -> None:
        deployment = stored.value
        if deployment["metadata"].get("deletionTimestamp"):
            return
        alive = [pod for pod in pods if not pod.value["metadata"].get("deletionTimestamp")]
        digest = template_hash(deployment)
        current = [pod for pod in alive if is_of_template(pod.value, digest)]
        outdated = [pod for pod in alive if pod not in current]
        wanted = deployment["spec"].get("replicas", 1)
        for _ in range(min(wanted - len(current), _CREATED_A_PASS)):
            current.append(self._store.put(PODS.resource, new_pod(deployment)))
            self._tell(deployment, "up", current[-1])
        # The young and unready go first, as with a real ReplicaSet.
        current.sort(key=lambda pod: (not is_ready(pod.value), pod.version))
        surplus, current = current[wanted:], current[:wanted]
        if sum(is_ready(pod.value) for pod in current) >= wanted:
            surplus, outdated = surplus + outdated, []
        for pod in surplus:
            self._delete_pod(pod)
            self._tell(deployment, "down", pod)
        left = [pod.value for pod in (*current, *outdated)]
        status = deployment_status(deployment, left, clock.now())
        if status != deployment.get("status"):
            self._store.put(DEPLOYMENTS.resource, {**deployment, "status": status})

    def _tell(self, deployment: Json, direction: str, pod: Stored) -> None:
        self._recorder.record(deployment, "Scaling", f"Scaled {direction}: pod {pod.key[1]}")

    def _delete_pod(self, pod: Stored) -> None:
        namespace, name = pod.key
        if not pod.value["metadata"].get("deletionTimestamp"):
            self._recorder.record(pod.value, "Killing", "Pretended to stop the containers")
            target = Target(kind=PODS, namespace=namespace, name=name)
            self._objects.delete(target, {"gracePeriodSeconds": 30}, Options())


@contextlib.contextmanager
def _alone(stored: Stored) -> Iterator[None]:
    """One odd object must not keep the others from being looked after."""
    try:
        yield
    except Exception:
        _LOGGER.exception("demo cluster cannot look after %s", "/".join(stored.key))

"""The part of a cluster that reacts: deployments get pods, services endpoints, pods start and end.

Each pass looks at everything and writes what differs; a pass that finds nothing to do writes nothing.
Life is what happens without anybody's doing, for who watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Iterator

from kproxy.demo import clock, kinds, workloads
from kproxy.demo.admission import created, updated
from kproxy.demo.kinds import DEPLOYMENTS, ENDPOINT_SLICES, NAMESPACES, NODES, PODS, SERVICES, Kind
from kproxy.demo.objects import Objects, Target
from kproxy.demo.queries import field_at
from kproxy.demo.store import Json, Key, Store, Stored

HEARTBEAT = "kproxy.dev/heartbeat"
TIDE = "kproxy.dev/demo-tide"
"""On a deployment: "LOW-HIGH", the replicas between which it goes up and down."""
_TICKS_A_TIDE = 6
# A real cluster forgets events after an hour; this one after so many.
_KEPT_EVENTS = 200
# Somebody may scale to 100000: the others get their turn in between.
_CREATED_A_PASS = 50
_LOGGER = logging.getLogger(__name__)


class Recorder:
    """Writes events and removes its own oldest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: deque[Key] = deque()

    def record(self, involved: Json, reason: str, message: str, *, at: float | None = None) -> None:
        """An event about `involved`; `at` is in epoch seconds, now by default."""
        about = involved["metadata"]
        time = clock.rfc3339(clock.now() if at is None else at)
        same = {field: about.get(field, "") for field in ("name", "namespace", "uid", "resourceVersion")}
        event = {
            "kind": kinds.EVENTS.kind,
            "apiVersion": kinds.EVENTS.api_version,
            "metadata": {"generateName": f"{about['name']}.", "namespace": about.get("namespace", "default")},
            "involvedObject": {"kind": involved["kind"], "apiVersion": involved["apiVersion"], **same},
            "reason": reason,
            "message": message,
            "source": {"component": "kproxy-demo"},
            "firstTimestamp": time,
            "lastTimestamp": time,
        }
        self._written.append(self._store.put(kinds.EVENTS.resource, created(kinds.EVENTS, event)).key)
        if len(self._written) > _KEPT_EVENTS:
            oldest = self._written.popleft()
            if self._store.get(kinds.EVENTS.resource, *oldest) is not None:
                self._store.remove(kinds.EVENTS.resource, *oldest)


class Life:
    """Every tick the heartbeat annotation of some pods moves on; now and then an event, or a tide."""

    def __init__(self, store: Store, *, tick_seconds: float) -> None:
        self._store = store
        self._recorder = Recorder(store)
        self._tick_seconds = tick_seconds
        self._ticks = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            self.tick()

    def tick(self) -> None:
        self._ticks += 1
        for pod in self._store.objects(PODS.resource):
            annotations = pod.value["metadata"].get("annotations") or {}
            if HEARTBEAT in annotations:
                beat = {**annotations, HEARTBEAT: clock.rfc3339(clock.now())}
                metadata = {**pod.value["metadata"], "annotations": beat}
                self._store.put(PODS.resource, {**pod.value, "metadata": metadata})
                if self._ticks % 2 == 0:
                    self._recorder.record(pod.value, "Heartbeat", f"Tick {self._ticks} of the demo cluster")
        for stored in self._store.objects(DEPLOYMENTS.resource) if self._ticks % _TICKS_A_TIDE == 0 else ():
            tide = (stored.value["metadata"].get("annotations") or {}).get(TIDE, "").split("-")
            if len(tide) == 2 and all(map(str.isdecimal, tide)):
                spec = stored.value["spec"]
                replicas = int(tide[spec.get("replicas") == int(tide[0])])
                value = {**stored.value, "spec": {**spec, "replicas": replicas}}
                self._store.put(DEPLOYMENTS.resource, updated(DEPLOYMENTS, stored.value, value))


class Controllers:
    """Runs until cancelled. `settle_seconds` is how long a pod takes to start, and to end."""

    def __init__(self, store: Store, *, settle_seconds: float) -> None:
        self._store = store
        self._registry = kinds.Registry(store)
        self._objects = Objects(store)
        self._recorder = Recorder(store)
        self._settle = settle_seconds
        # When an object (by uid) was first seen in a state that passes: in this pass, and up to the last one.
        self._since: dict[tuple[str, str], float] = {}
        self._seen = self._since

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        seen = 0
        due: float | None = None
        while True:
            changed = self._store.changed
            now = loop.time()
            if self._store.version != seen or (due is not None and now >= due):
                # Our own writes are changes, too: look again until a pass writes nothing.
                seen = self._store.version
                due = self.reconcile(now)
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await changed.wait()

    def reconcile(self, now: float) -> float | None:
        """One pass at the loop's time `now`; answers when to look again even if nothing changes."""
        self._since, self._seen = {}, self._since
        for stored in self._store.objects(NAMESPACES.resource):
            with _alone(stored):
                self._namespace(stored, now)
        for stored in self._store.objects(PODS.resource):
            with _alone(stored):
                self._pod(stored, now)
        pods = self._by_owner(PODS, DEPLOYMENTS)
        for stored in self._store.objects(DEPLOYMENTS.resource):
            with _alone(stored):
                self._deployment(stored.value, pods.pop(stored.uid, []))
        for orphan in itertools.chain(*pods.values()):
            self._delete_pod(orphan)
        slices = self._by_owner(ENDPOINT_SLICES, SERVICES)
        for stored in self._store.objects(SERVICES.resource):
            with _alone(stored):
                if stored.value["spec"].get("selector"):
                    self._service(stored, slices.pop(stored.uid, []))
        for orphan in itertools.chain(*slices.values()):
            self._store.remove(ENDPOINT_SLICES.resource, *orphan.key)
        dues = (since + self._settle for since in self._since.values())
        return min((due for due in dues if due > now), default=None)

    def _by_owner(self, kind: Kind, owner: Kind) -> dict[str, list[Stored]]:
        """The objects of a kind that one of another kind controls, by its uid."""
        found: dict[str, list[Stored]] = {}
        for each in self._store.objects(kind.resource):
            if uid := workloads.owner_uid(each.value, owner):
                found.setdefault(uid, []).append(each)
        return found

    def _has_lasted(self, stored: Stored, state: str, now: float) -> bool:
        """Whether the object has been in that state for long enough; else the pass is to be repeated then."""
        key = (stored.uid, state)
        self._since[key] = self._seen.get(key, now)
        return now >= self._since[key] + self._settle

    def _namespace(self, stored: Stored, now: float) -> None:
        if stored.value["metadata"].get("deletionTimestamp") and self._has_lasted(stored, "Terminating", now):
            name = stored.key[1]
            for kind in [kind for kind in self._registry if kind.namespaced]:
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
            nodes = self._store.objects(NODES.resource)
            names = [node.key[1] for node in nodes if not field_at(node.value, "spec.unschedulable")]
            if names:
                self._has_lasted(stored, "Starting", now)
                pod = self._store.put(PODS.resource, workloads.scheduled(pod, names, clock.now())).value
                where = f"{'/'.join(stored.key)} to {pod['spec']['nodeName']}"
                self._recorder.record(pod, "Scheduled", f"Pretended to assign {where}")
        elif self._has_lasted(stored, "Starting", now):
            pod = self._store.put(PODS.resource, workloads.running(pod, clock.now())).value
            for container in pod["spec"]["containers"]:
                self._recorder.record(pod, "Pulled", f'Pretended to pull image "{container["image"]}"')
                self._recorder.record(pod, "Started", f"Pretended to start container {container['name']}")

    def _deployment(self, deployment: Json, pods: list[Stored]) -> None:
        if deployment["metadata"].get("deletionTimestamp"):
            return
        alive = [pod for pod in pods if not pod.value["metadata"].get("deletionTimestamp")]
        digest = workloads.template_hash(deployment)
        current = [pod for pod in alive if workloads.is_of_template(pod.value, digest)]
        outdated = [pod for pod in alive if pod not in current]
        wanted = deployment["spec"].get("replicas", 1)
        for _ in range(min(wanted - len(current), _CREATED_A_PASS)):
            current.append(self._store.put(PODS.resource, workloads.new_pod(deployment)))
            self._recorder.record(deployment, "Scaling", f"Scaled up: pod {current[-1].key[1]}")
        # The young and unready go first, as with a real ReplicaSet.
        current.sort(key=lambda pod: (not workloads.is_ready(pod.value), pod.version))
        surplus, current = current[wanted:], current[:wanted]
        if sum(workloads.is_ready(pod.value) for pod in current) >= wanted:
            surplus, outdated = surplus + outdated, []
        for pod in surplus:
            self._delete_pod(pod)
            self._recorder.record(deployment, "Scaling", f"Scaled down: pod {pod.key[1]}")
        left = [pod.value for pod in (*current, *outdated)]
        status = workloads.deployment_status(deployment, left, clock.now())
        if status != deployment.get("status"):
            self._store.put(DEPLOYMENTS.resource, {**deployment, "status": status})

    def _service(self, service: Stored, slices: list[Stored]) -> None:
        """Its endpoints as one EndpointSlice, which goes with the service or its selector."""
        pods = [pod.value for pod in self._store.objects(PODS.resource, service.key[0])]
        new = workloads.endpoint_slice(service.value, pods)
        if not slices:
            self._store.put(ENDPOINT_SLICES.resource, created(ENDPOINT_SLICES, new))
        elif any(new[field] != slices[0].value.get(field) for field in ("endpoints", "ports")):
            self._store.put(ENDPOINT_SLICES.resource, updated(ENDPOINT_SLICES, slices[0].value, new))

    def _delete_pod(self, pod: Stored) -> None:
        if not pod.value["metadata"].get("deletionTimestamp"):
            self._recorder.record(pod.value, "Killing", "Pretended to stop the containers")
            target = Target(kind=PODS, namespace=pod.key[0], name=pod.key[1])
            self._objects.delete(target, {"gracePeriodSeconds": 30}, dry_run=False)


@contextlib.contextmanager
def _alone(stored: Stored) -> Iterator[None]:
    """One odd object must not keep the others from being looked after."""
    try:
        yield
    except Exception:
        _LOGGER.exception("demo cluster cannot look after %s", "/".join(stored.key))

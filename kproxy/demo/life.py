"""Life without anybody's doing, so that a watch has something to show.

Only objects that carry the demo's annotations are touched, and only while they are there.
"""

from __future__ import annotations

import asyncio

from kproxy.demo import clock
from kproxy.demo.admission import updated
from kproxy.demo.kinds import DEPLOYMENTS, PODS, Json
from kproxy.demo.recorder import Recorder
from kproxy.demo.store import Store, Stored

HEARTBEAT = "kproxy.dev/heartbeat"
TIDE = "kproxy.dev/demo-tide"
"""On a deployment: "LOW-HIGH", the replicas between which it goes up and down."""
_TICKS_A_TIDE = 6


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
            annotations = _annotations(pod)
            if HEARTBEAT in annotations:
                beat = {**annotations, HEARTBEAT: clock.rfc3339(clock.now())}
                metadata = {**pod.value["metadata"], "annotations": beat}
                self._store.put(PODS.resource, {**pod.value, "metadata": metadata})
                if self._ticks % 2 == 0:
                    self._recorder.record(pod.value, "Heartbeat", f"Tick {self._ticks} of the demo cluster")
        if self._ticks % _TICKS_A_TIDE == 0:
            for deployment in self._store.objects(DEPLOYMENTS.resource):
                self._turn_tide(deployment)

    def _turn_tide(self, deployment: Stored) -> None:
        low, dash, high = _annotations(deployment).get(TIDE, "").partition("-")
        if not (dash and low.isdecimal() and high.isdecimal()):
            return
        spec = deployment.value["spec"]
        replicas = int(high) if spec.get("replicas") == int(low) else int(low)
        value = {**deployment.value, "spec": {**spec, "replicas": replicas}}
        self._store.put(DEPLOYMENTS.resource, updated(DEPLOYMENTS, deployment.value, value))


def _annotations(stored: Stored) -> Json:
    return stored.value["metadata"].get("annotations") or {}

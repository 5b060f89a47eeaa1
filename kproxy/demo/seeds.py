"""What the demo cluster holds at its start: seeds.yaml, and what controllers make of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from kproxy.demo import clock, workloads
from kproxy.demo.admission import created
from kproxy.demo.controllers import Recorder
from kproxy.demo.kinds import DEPLOYMENTS, ENDPOINT_SLICES, NODES, PODS, SERVICES, Kind, Registry, YamlLoader
from kproxy.demo.store import Json, Store

# The cluster looks as if it had run for an hour, so that logs and ages show something.
_AGE_SECONDS = 3600.0
_LABELS = {"kproxy.dev/demo": "true"}


def seed(store: Store) -> None:
    """Fill an empty store."""
    planter = _Planter(store)
    registry = Registry(store)
    for manifest in yaml.load_all(Path(__file__).with_suffix(".yaml").read_bytes(), Loader=YamlLoader):
        names = (manifest["kind"], manifest["apiVersion"])
        kind = next(kind for kind in registry if (kind.kind, kind.api_version) == names)
        planter.plant(kind, manifest)
    for stored in store.objects(SERVICES.resource):
        if stored.value["spec"].get("selector"):
            pods = [pod.value for pod in store.objects(PODS.resource, stored.key[0])]
            planter.plant(ENDPOINT_SLICES, workloads.endpoint_slice(stored.value, pods))


class _Planter:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._at = clock.now() - _AGE_SECONDS
        self._recorder = Recorder(store)

    def plant(self, kind: Kind, manifest: Json) -> None:
        metadata = manifest["metadata"]
        labels = {**metadata.get("labels", {}), **_LABELS}
        value = self._aged(created(kind, {**manifest, "metadata": {**metadata, "labels": labels}}))
        if kind is NODES:
            value = {**value, "status": manifest["status"]}
        elif kind is PODS:
            value = self._started(value)
        elif kind is DEPLOYMENTS:
            pods = [
                self._started(self._aged(workloads.new_pod(value))) for _ in range(value["spec"]["replicas"])
            ]
            for pod in pods:
                self._store.put(PODS.resource, pod)
            value = {**value, "status": workloads.deployment_status(value, pods, self._at)}
        self._store.put(kind.resource, value)

    def _aged(self, value: Json) -> Json:
        return {**value, "metadata": {**value["metadata"], "creationTimestamp": clock.rfc3339(self._at)}}

    def _started(self, pod: Json) -> Json:
        self._recorder.record(pod, "Started", "Pretended to start the containers", at=self._at)
        return workloads.running(
            workloads.scheduled(pod, tuple(workloads.NODE_ADDRESSES), self._at), self._at
        )

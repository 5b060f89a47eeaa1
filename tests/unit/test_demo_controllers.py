"""The demo cluster's controllers, pass by pass, with a clock of the test's own."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kproxy.demo.admission import created
from kproxy.demo.controllers import HEARTBEAT, TIDE, Controllers, Life
from kproxy.demo.kinds import DEPLOYMENTS, ENDPOINT_SLICES, NAMESPACES, NODES, PODS, SERVICES
from kproxy.demo.seeds import seed
from kproxy.demo.store import Store

SETTLE = 10.0


def plant_node(store: Store, name: str, *, unschedulable: bool = False) -> None:
    spec = {"unschedulable": unschedulable}
    store.put(NODES.resource, {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})


def plant(store: Store, replicas: int = 2, port: int = 80, **annotations: str) -> None:
    plant_node(store, "node")
    labels = {"app": "a"}
    container = {"name": "a", "image": "a", "ports": [{"name": "web", "containerPort": port}]}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    metadata = {"name": "a", "namespace": "default", "annotations": annotations}
    head = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata}
    store.put(DEPLOYMENTS.resource, created(DEPLOYMENTS, {**head, "spec": spec}))


def settle(controllers: Controllers, store: Store, now: float) -> float | None:
    """Passes at one moment until one writes nothing."""
    while True:
        version = store.version
        due = controllers.reconcile(now)
        if store.version == version:
            return due


def phases(store: Store) -> list[str]:
    return [pod.value["status"]["phase"] for pod in store.objects(PODS.resource)]


def deployment(store: Store) -> dict[str, Any]:
    stored = store.get(DEPLOYMENTS.resource, "default", "a")
    assert stored is not None
    return stored.value


def test_pods_start_and_end_after_their_time() -> None:
    """They are pending until the settling time is over, then running, and gone as long after a scale to 0."""
    store = Store()
    controllers = Controllers(store, settle_seconds=SETTLE)
    plant(store)
    assert settle(controllers, store, 100.0) == 100.0 + SETTLE
    assert phases(store) == ["Pending", "Pending"]
    assert settle(controllers, store, 109.9) == 100.0 + SETTLE
    assert settle(controllers, store, 110.0) is None
    assert phases(store) == ["Running", "Running"]
    assert deployment(store)["status"]["readyReplicas"] == 2
    store.put(
        DEPLOYMENTS.resource, {**deployment(store), "spec": {**deployment(store)["spec"], "replicas": 0}}
    )
    assert settle(controllers, store, 200.0) == 200.0 + SETTLE
    assert "replicas" not in deployment(store)["status"]
    assert settle(controllers, store, 210.0) is None
    assert phases(store) == []


def test_many_pods_are_made_bit_by_bit() -> None:
    """One pass makes fifty at most, so that a big number does not hold up the process."""
    store = Store()
    controllers = Controllers(store, settle_seconds=SETTLE)
    plant(store, replicas=120)
    counts = []
    for _ in range(4):
        controllers.reconcile(0.0)
        counts.append(len(phases(store)))
    assert counts == [50, 100, 120, 120]


def test_a_pod_that_somebody_deletes_comes_back() -> None:
    """The number of replicas is kept."""
    store = Store()
    controllers = Controllers(store, settle_seconds=0.0)
    plant(store)
    settle(controllers, store, 0.0)
    victim = store.objects(PODS.resource)[0]
    store.remove(PODS.resource, *victim.key)
    settle(controllers, store, 1.0)
    names = {pod.key for pod in store.objects(PODS.resource)}
    assert len(names) == 2
    assert victim.key not in names


def test_a_cordoned_node_gets_no_pods() -> None:
    """New pods go to the other nodes, and wait where there is none."""
    store = Store()
    controllers = Controllers(store, settle_seconds=0.0)
    for name in ("first", "node"):
        plant_node(store, name, unschedulable=True)
    plant(store, replicas=8)
    settle(controllers, store, 0.0)
    assert {pod.value["spec"]["nodeName"] for pod in store.objects(PODS.resource)} == {"node"}
    plant_node(store, "node", unschedulable=True)
    store.remove(PODS.resource, *store.objects(PODS.resource)[0].key)
    settle(controllers, store, 1.0)
    assert sorted(phases(store)) == ["Pending", *["Running"] * 7]
    plant_node(store, "first")
    settle(controllers, store, 2.0)
    assert phases(store) == ["Running"] * 8


def test_an_odd_object_does_not_keep_the_others_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """What a controller cannot make sense of is logged and left; the rest goes on."""
    store = Store()
    controllers = Controllers(store, settle_seconds=0.0)
    metadata = {"name": "0-odd", "namespace": "default", "uid": "odd"}
    store.put(
        PODS.resource, {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {}}
    )
    plant(store, replicas=1)
    with caplog.at_level(logging.ERROR):
        settle(controllers, store, 0.0)
    assert "demo cluster cannot look after default/0-odd" in caplog.text
    assert [pod.value["status"].get("phase") for pod in store.objects(PODS.resource)] == [None, "Running"]


def test_the_seeds_are_at_rest() -> None:
    """Nothing is to be done about the first state: a quiet cluster stays as it is."""
    store = Store()
    seed(store)
    version = store.version
    assert Controllers(store, settle_seconds=SETTLE).reconcile(0.0) is None
    assert store.version == version
    assert all(
        each.value["metadata"]["labels"]["kproxy.dev/demo"] == "true"
        for kind in (NAMESPACES, PODS, DEPLOYMENTS)
        for each in store.objects(kind.resource)
    )


def plant_service(store: Store, **spec: Any) -> None:
    spec = {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec}
    head = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"}}
    store.put(SERVICES.resource, created(SERVICES, {**head, "spec": spec}))


def endpoints(store: Store) -> list[tuple[str, bool, bool]]:
    """Pod, ready and terminating of each endpoint of the one slice."""
    (found,) = store.objects(ENDPOINT_SLICES.resource)
    assert found.value["metadata"]["labels"]["kubernetes.io/service-name"] == "a"
    return [
        (each["targetRef"]["name"], each["conditions"]["ready"], each["conditions"]["terminating"])
        for each in found.value["endpoints"]
    ]


def test_a_service_has_the_pods_that_match() -> None:
    """Its EndpointSlice follows them: as they become ready, are about to go, and are gone."""
    store = Store()
    controllers = Controllers(store, settle_seconds=SETTLE)
    plant(store, port=8080)
    plant_service(store)
    settle(controllers, store, 100.0)
    assert endpoints(store) == []
    settle(controllers, store, 100.0 + SETTLE)
    pods = store.objects(PODS.resource)
    assert endpoints(store) == [(pod.key[1], True, False) for pod in pods]
    (found,) = store.objects(ENDPOINT_SLICES.resource)
    assert found.value["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert [each["addresses"][0] for each in found.value["endpoints"]] == [
        pod.value["status"]["podIP"] for pod in pods
    ]
    value = deployment(store)
    store.put(DEPLOYMENTS.resource, {**value, "spec": {**value["spec"], "replicas": 1}})
    settle(controllers, store, 200.0)
    assert sorted(each[1:] for each in endpoints(store)) == [(False, True), (True, False)]
    settle(controllers, store, 200.0 + SETTLE)
    assert [each[1:] for each in endpoints(store)] == [(True, False)]


def test_a_slice_goes_with_its_service_or_the_selector() -> None:
    """What nobody asks for any more is taken away; what others made stays."""
    store = Store()
    controllers = Controllers(store, settle_seconds=0.0)
    plant(store, port=8080)
    plant_service(store)
    mine = {"name": "mine", "namespace": "default"}
    head = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": mine}
    store.put(ENDPOINT_SLICES.resource, created(ENDPOINT_SLICES, {**head, "addressType": "IPv4"}))
    settle(controllers, store, 0.0)
    assert len(store.objects(ENDPOINT_SLICES.resource)) == 2
    store.remove(SERVICES.resource, "default", "a")
    settle(controllers, store, 0.0)
    assert [each.key[1] for each in store.objects(ENDPOINT_SLICES.resource)] == ["mine"]


def test_life_touches_only_what_asks_for_it() -> None:
    """Heartbeats go to annotated pods, tides to annotated deployments, nothing to others."""
    store = Store()
    plant(store, replicas=2, **{TIDE: "2-3"})
    life = Life(store, tick_seconds=1.0)
    seen = []
    for _ in range(12):
        life.tick()
        seen.append(deployment(store)["spec"]["replicas"])
    assert seen == [2] * 5 + [3] * 6 + [2]
    store = Store()
    seed(store)
    version = store.version
    Life(store, tick_seconds=1.0).tick()
    beaten = {event.stored.key[1] for event in store.since(PODS.resource, version)}
    assert beaten == {
        pod.key[1]
        for pod in store.objects(PODS.resource)
        if HEARTBEAT in pod.value["metadata"].get("annotations", {})
    }
    assert beaten == {"clock", "db-0"}

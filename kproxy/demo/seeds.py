"""What the demo cluster holds at its start. Everything says that it is a demo, and no secret is one."""

from __future__ import annotations

from kproxy.demo import clock
from kproxy.demo.admission import created
from kproxy.demo.discovery import GIT_VERSION
from kproxy.demo.kinds import (
    CONFIGMAPS,
    CRDS,
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    Json,
    Kind,
    custom_kind,
)
from kproxy.demo.life import HEARTBEAT, TIDE
from kproxy.demo.recorder import Recorder
from kproxy.demo.store import Store
from kproxy.demo.workloads import NODE_ADDRESSES, deployment_status, new_pod, running, scheduled

# The cluster looks as if it had run for an hour, so that logs and ages show something.
_AGE_SECONDS = 3600.0
_LABELS = {"kproxy.dev/demo": "true"}


def seed(store: Store) -> None:
    """Fill an empty store."""
    at = clock.now() - _AGE_SECONDS
    planter = _Planter(store, at)
    for namespace in ("default", "kube-system", "shop"):
        planter.plant(NAMESPACES, "", namespace)
        planter.plant(SERVICEACCOUNTS, namespace, "default")
        planter.plant(CONFIGMAPS, namespace, "about-this-demo", data={"about": _ABOUT})
    for number, (name, address) in enumerate(NODE_ADDRESSES.items(), 1):
        spec: Json = {"podCIDR": f"10.244.{number}.0/24", "providerID": f"kproxy-demo://{name}"}
        planter.plant(NODES, "", name, spec=spec, status=_node_status(name, address, at))
    for namespace, name, image, replicas, port in _DEPLOYMENTS:
        planter.plant_deployment(namespace, name, _deployment_spec(name, image, replicas, port))
    for namespace, name, image in _LONE_PODS:
        spec = {"containers": [{"name": name.partition("-")[0], "image": image}]}
        annotations = {HEARTBEAT: clock.rfc3339(at)}
        planter.plant_pod(planter.value(PODS, namespace, name, annotations, spec=spec))
    for namespace, name, app, port in _SERVICES:
        spec = {"selector": {"app": app} if app else {}, "ports": [{"name": "http", "port": port}]}
        planter.plant(SERVICES, namespace, name, spec=spec)
    planter.plant(CONFIGMAPS, "shop", "web-config", data={"color": "teal", "page.size": "20"})
    for namespace, name, texts in _SECRETS:
        planter.plant(SECRETS, namespace, name, stringData=texts)
    definition = planter.plant(CRDS, "", "crontabs.stable.example.com", spec=_CRONTABS)
    for namespace, name, cron in (("default", "my-crontab", "*/5 * * * *"), ("shop", "nightly", "0 3 * * *")):
        spec = {"cronSpec": cron, "image": "demo/cron:1"}
        planter.plant(custom_kind(definition), namespace, name, spec=spec)
    store.compact()


class _Planter:
    def __init__(self, store: Store, at: float) -> None:
        self._store = store
        self._at = at
        self._recorder = Recorder(store)

    def value(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        annotations: dict[str, str] | None = None,
        *,
        status: Json | None = None,
        **body: Json,
    ) -> Json:
        given = {"namespace": namespace, "annotations": annotations}
        metadata = {
            "name": name,
            "labels": dict(_LABELS),
            **{field: found for field, found in given.items() if found},
        }
        head = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        value = self._aged(created(kind, {**head, **body}))
        return {**value, "status": status} if status else value

    def plant(self, kind: Kind, namespace: str, name: str, **body: Json) -> Json:
        return self._store.put(kind.resource, self.value(kind, namespace, name, **body)).value

    def plant_pod(self, pod: Json) -> Json:
        pod = running(scheduled(self._aged(pod), tuple(NODE_ADDRESSES), self._at), self._at)
        pod = self._store.put(PODS.resource, pod).value
        self._recorder.record(pod, "Started", "Pretended to start the containers", at=self._at)
        return pod

    def plant_deployment(self, namespace: str, name: str, spec: Json) -> None:
        annotations = {TIDE: "2-3"} if name == "worker" else None
        value = self.value(DEPLOYMENTS, namespace, name, annotations, spec=spec)
        pods = [self.plant_pod(new_pod(value)) for _ in range(spec["replicas"])]
        status = deployment_status(value, pods, self._at)
        self._store.put(DEPLOYMENTS.resource, {**value, "status": status})

    def _aged(self, value: Json) -> Json:
        return {**value, "metadata": {**value["metadata"], "creationTimestamp": clock.rfc3339(self._at)}}


def _deployment_spec(name: str, image: str, replicas: int, port: int) -> Json:
    labels = {"app": name}
    container = {"name": name, "image": image, "ports": [{"containerPort": port}]}
    template = {"metadata": {"labels": {**labels, **_LABELS}}, "spec": {"containers": [container]}}
    return {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}


def _node_status(name: str, address: str, at: float) -> Json:
    time = clock.rfc3339(at)
    pretended = "pretended by kproxy demo"
    capacity = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": pretended,
                "lastHeartbeatTime": time,
                "lastTransitionTime": time,
            }
            for kind, status, reason in (
                ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                ("Ready", "True", "KubeletReady"),
            )
        ],
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ],
        "nodeInfo": {
            **dict.fromkeys(("kubeProxyVersion", "machineID", "systemUUID", "bootID"), ""),
            "kubeletVersion": GIT_VERSION,
            "osImage": pretended,
            "kernelVersion": "none",
            "containerRuntimeVersion": "demo://0",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    }


_ABOUT = "This cluster is pretended by `kproxy demo`: an in-memory API, no containers, nothing that lasts.\n"
# Namespace, name, image, replicas, container port.
_DEPLOYMENTS = (
    ("default", "hello", "demo/hello:1.0", 2, 8080),
    ("kube-system", "demo-dns", "demo/dns:1.0", 2, 53),
    ("shop", "web", "demo/web:2.3", 3, 8080),
    ("shop", "cart", "demo/cart:1.7", 2, 8080),
    ("shop", "worker", "demo/worker:0.9", 2, 9000),
)
_LONE_PODS = (("default", "clock", "demo/clock:1"), ("shop", "db-0", "demo/db:15"))
# Namespace, name, the app it selects, port.
_SERVICES = (
    ("default", "kubernetes", "", 443),
    ("default", "hello", "hello", 80),
    ("kube-system", "demo-dns", "demo-dns", 53),
    ("shop", "web", "web", 80),
    ("shop", "cart", "cart", 80),
)
# Namespace, name, what is in it.
_SECRETS = (
    ("shop", "db-credentials", {"username": "demo", "password": "this-is-not-a-real-password"}),
    ("default", "demo-token", {"token": "this-is-not-a-real-token"}),
)
_CRONTABS: Json = {
    "group": "stable.example.com",
    "scope": "Namespaced",
    "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"]},
    "versions": [
        {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            "additionalPrinterColumns": [
                {"name": "Schedule", "type": "string", "jsonPath": ".spec.cronSpec"},
                {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ],
        }
    ],
}

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
    Registry,
)
from kproxy.demo.life import HEARTBEAT, TIDE
from kproxy.demo.recorder import Recorder
from kproxy.demo.store import Store
from kproxy.demo.workloads import NODE_NAMES, deployment_status, new_pod, running, scheduled

DEMO_LABEL = "kproxy.dev/demo"
BULK_NAMESPACE = "bulk"
# The cluster looks as if it had run for an hour, so that logs and ages show something.
_AGE_SECONDS = 3600.0
_LABELS = {DEMO_LABEL: "true"}
_NOT_A_SECRET = "this-is-not-a-real-password"  # noqa: S105 -- says so


def seed(store: Store, *, extra_pods: int, extra_pod_bytes: int) -> None:
    """Fill an empty store; `extra_pods` pods of about `extra_pod_bytes` each come on top, for big lists."""
    at = clock.now() - _AGE_SECONDS
    planter = _Planter(store, at)
    for namespace in ("default", "kube-system", "shop", *([BULK_NAMESPACE] if extra_pods else ())):
        planter.plant(NAMESPACES, "", namespace, {})
        planter.plant(SERVICEACCOUNTS, namespace, "default", {})
        planter.plant(CONFIGMAPS, namespace, "about-this-demo", {"data": {"about": _ABOUT}})
    for number, name in enumerate(NODE_NAMES, 1):
        planter.plant(NODES, "", name, _node(number, at))
    for namespace, name, image, replicas, port in _DEPLOYMENTS:
        annotations = {TIDE: "2-3"} if name == "worker" else {}
        planter.plant_deployment(namespace, name, _deployment(name, image, replicas, port), annotations)
    for namespace, name, image in _LONE_PODS:
        spec: Json = {"containers": [{"name": name.partition("-")[0], "image": image}]}
        planter.plant_pod(
            planter.value(PODS, namespace, name, {"spec": spec}, {HEARTBEAT: clock.rfc3339(at)})
        )
    for namespace, name, app, port in _SERVICES:
        spec = {"selector": {"app": app} if app else {}, "ports": [{"name": "http", "port": port}]}
        planter.plant(SERVICES, namespace, name, {"spec": spec})
    planter.plant(CONFIGMAPS, "shop", "web-config", {"data": {"color": "teal", "page.size": "20"}})
    secret = {"stringData": {"username": "demo", "password": _NOT_A_SECRET}}
    planter.plant(SECRETS, "shop", "db-credentials", secret)
    planter.plant(SECRETS, "default", "demo-token", {"stringData": {"token": "this-is-not-a-real-token"}})
    planter.plant(CRDS, "", "crontabs.stable.example.com", {"spec": _CRONTABS})
    crontabs = Registry(store).find("stable.example.com", "v1", "crontabs")
    assert crontabs is not None
    for namespace, name, cron in (("default", "my-crontab", "*/5 * * * *"), ("shop", "nightly", "0 3 * * *")):
        planter.plant(crontabs, namespace, name, {"spec": {"cronSpec": cron, "image": "demo/cron:1"}})
    planter.plant_bulk(extra_pods, extra_pod_bytes)
    store.compact()


class _Planter:
    def __init__(self, store: Store, at: float) -> None:
        self._store = store
        self._at = at
        self._recorder = Recorder(store)

    def value(
        self, kind: Kind, namespace: str, name: str, body: Json, annotations: dict[str, str] | None = None
    ) -> Json:
        metadata: Json = {"name": name, "labels": dict(_LABELS)}
        if namespace:
            metadata["namespace"] = namespace
        if annotations:
            metadata["annotations"] = annotations
        head = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        status = body.get("status")
        value = self._aged(created(kind, {**head, **body}))
        return {**value, "status": status} if status else value

    def plant(self, kind: Kind, namespace: str, name: str, body: Json) -> None:
        self._store.put(kind.resource, self.value(kind, namespace, name, body))

    def plant_pod(self, pod: Json) -> Json:
        pod = running(scheduled(self._aged(pod), self._at), self._at)
        pod = self._store.put(PODS.resource, pod).value
        self._recorder.record(pod, "Started", "Pretended to start the containers", at=self._at)
        return pod

    def plant_deployment(self, namespace: str, name: str, body: Json, annotations: dict[str, str]) -> None:
        value = self.value(DEPLOYMENTS, namespace, name, body, annotations)
        pods = [self.plant_pod(new_pod(value)) for _ in range(value["spec"]["replicas"])]
        status = deployment_status(value, pods, self._at)
        self._store.put(DEPLOYMENTS.resource, {**value, "status": status})

    def plant_bulk(self, pods: int, bytes_each: int) -> None:
        spec = {"containers": [{"name": "bulk", "image": "demo/bulk:1"}]}
        for number in range(pods):
            pod = self.value(PODS, BULK_NAMESPACE, f"bulk-{number:06}", {"spec": spec}, {"padding": ""})
            pod = running(scheduled(pod, self._at), self._at)
            pod["metadata"]["annotations"]["padding"] = "x" * max(0, bytes_each - len(str(pod)))
            self._store.put(PODS.resource, pod)

    def _aged(self, value: Json) -> Json:
        return {**value, "metadata": {**value["metadata"], "creationTimestamp": clock.rfc3339(self._at)}}


def _deployment(name: str, image: str, replicas: int, port: int) -> Json:
    labels = {"app": name}
    container: Json = {"name": name, "image": image, "ports": [{"containerPort": port}]}
    template = {"metadata": {"labels": {**labels, **_LABELS}}, "spec": {"containers": [container]}}
    return {"spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}}


def _node(number: int, at: float) -> Json:
    name = NODE_NAMES[number - 1]
    time = clock.rfc3339(at)
    conditions = [
        {"type": kind, "status": status, "reason": reason, "message": "pretended by kproxy demo",
         "lastHeartbeatTime": time, "lastTransitionTime": time}
        for kind, status, reason in (
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            ("Ready", "True", "KubeletReady"),
        )
    ]  # fmt: skip
    capacity = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    return {
        "spec": {"podCIDR": f"10.244.{number}.0/24", "providerID": f"kproxy-demo://{name}"},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": f"192.0.2.{number}"},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "kubeletVersion": GIT_VERSION,
                "kubeProxyVersion": "",
                "osImage": "pretended by kproxy demo",
                "kernelVersion": "none",
                "containerRuntimeVersion": "demo://0",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
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

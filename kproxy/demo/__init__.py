"""A pretend Kubernetes cluster: a small in-memory API over mutual TLS, for trying kproxy and for its tests.

cluster      start, stop, certificates, kubeconfig (http2: in front of aiohttp)
api          one request: who, what, which answer  (answers, views, pages, watches, pods and their shell)
objects      the verbs, as transactions            (admission, patches, protobuf, queries)
store        objects, versions, recent changes     (kinds and kinds.yaml: of which kinds)
controllers  what reacts, and life by itself       (workloads, seeds and seeds.yaml)
"""

from kproxy.demo.cluster import DemoCluster

__all__ = ["DemoCluster"]

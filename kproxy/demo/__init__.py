"""A pretend Kubernetes cluster: a small in-memory API over mutual TLS, for trying kproxy and for its tests.

cluster      start, stop, certificates, kubeconfig
api          one request: who, what, which answer   (answers, bodies, routes, users, views, front, actions)
objects      the verbs, as transactions             (admission, defaults, shapes, patches, paging, selectors)
store        objects, versions, recent changes      (watches read them)
controllers  deployments, pods, namespaces react    (workloads, recorder; life moves by itself)
channels     exec and attach                        (shell, commands, container, terminal: a toy shell)
"""

from kproxy.demo.cluster import DemoCluster

__all__ = ["DemoCluster"]

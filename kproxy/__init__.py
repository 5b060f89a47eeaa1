"""kproxy: a local gateway to Kubernetes. A program, not a library."""

__version__ = "0.1.0"

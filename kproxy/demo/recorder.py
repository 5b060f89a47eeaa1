"""Events: what the controllers tell a reader of `kubectl describe`."""

from __future__ import annotations

from collections import deque

from kproxy.demo import clock
from kproxy.demo.admission import created
from kproxy.demo.kinds import EVENTS, Json
from kproxy.demo.store import Key, Store

# A real cluster forgets events after an hour; this one after so many.
_KEPT = 200


class Recorder:
    """Writes events and removes its own oldest."""

    def __init__(self, store: Store, component: str = "kproxy-demo") -> None:
        self._store = store
        self._component = component
        self._written: deque[Key] = deque()

    def record(self, involved: Json, reason: str, message: str, *, at: float | None = None) -> None:
        """An event about `involved`; `at` is in epoch seconds, now by default."""
        metadata = involved["metadata"]
        time = clock.rfc3339(clock.now() if at is None else at)
        event: Json = {
            "kind": EVENTS.kind,
            "apiVersion": EVENTS.api_version,
            "metadata": {
                "generateName": f"{metadata['name'][:200]}.",
                "namespace": metadata.get("namespace", "default"),
            },
            "involvedObject": {
                "kind": involved["kind"],
                "apiVersion": involved["apiVersion"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "reason": reason,
            "message": message,
            "type": "Normal",
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "firstTimestamp": time,
            "lastTimestamp": time,
        }
        stored = self._store.put(EVENTS.resource, created(EVENTS, event))
        self._written.append(stored.key)
        while len(self._written) > _KEPT:
            oldest = self._written.popleft()
            if self._store.get(EVENTS.resource, *oldest) is not None:
                self._store.remove(EVENTS.resource, *oldest)

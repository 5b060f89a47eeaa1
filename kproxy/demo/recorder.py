"""Events: what the controllers tell a reader of `kubectl describe`."""

from __future__ import annotations

from collections import deque

from kproxy.demo import clock
from kproxy.demo.admission import created
from kproxy.demo.kinds import EVENTS, Json
from kproxy.demo.store import Key, Store

# A real cluster forgets events after an hour; this one after so many.
_KEPT = 200
_COMPONENT = "kproxy-demo"


class Recorder:
    """Writes events and removes its own oldest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: deque[Key] = deque()

    def record(self, involved: Json, reason: str, message: str, *, at: float | None = None) -> None:
        """An event about `involved`; `at` is in epoch seconds, now by default."""
        about = involved["metadata"]
        time = clock.rfc3339(clock.now() if at is None else at)
        metadata = {"generateName": f"{about['name']}.", "namespace": about.get("namespace", "default")}
        same = {field: about.get(field, "") for field in ("name", "namespace", "uid", "resourceVersion")}
        event = {
            "kind": EVENTS.kind,
            "apiVersion": EVENTS.api_version,
            "metadata": metadata,
            "involvedObject": {"kind": involved["kind"], "apiVersion": involved["apiVersion"], **same},
            "reason": reason,
            "message": message,
            "type": "Normal",
            "source": {"component": _COMPONENT},
            "reportingComponent": _COMPONENT,
            "firstTimestamp": time,
            "lastTimestamp": time,
        }
        self._written.append(self._store.put(EVENTS.resource, created(EVENTS, event)).key)
        while len(self._written) > _KEPT:
            oldest = self._written.popleft()
            if self._store.get(EVENTS.resource, *oldest) is not None:
                self._store.remove(EVENTS.resource, *oldest)

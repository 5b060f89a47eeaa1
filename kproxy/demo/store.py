"""The demo cluster's memory: objects, one version counter, and what changed lately.

The last changes of each kind are kept, as the watch cache of a real API server does; who asks for a version
from before those gets `Expired` and must list anew. Stored values are never changed in place: whoever wants a
change puts a new value.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from bisect import bisect_right
from collections import defaultdict, deque
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" for what is cluster-wide) and name."""
Change = Literal["ADDED", "MODIFIED", "DELETED"]


class Expired(Exception):
    """The version lies before what is remembered."""


class Stored:
    """One version of one object. Its JSON text is made once, when first asked for."""

    __slots__ = ("_text", "key", "value", "version")

    def __init__(self, key: Key, value: Json, version: int) -> None:
        self.key, self.value, self.version = key, value, version
        self._text: bytes | None = None

    @property
    def text(self) -> bytes:
        if self._text is None:
            self._text = encode(self.value)
        return self._text

    @property
    def uid(self) -> str:
        return str(self.value["metadata"]["uid"])


class Event(NamedTuple):
    """One change. `stored` is the object after it, or its last state under the version of its removal."""

    change: Change
    stored: Stored
    previous: Stored | None


class Store:
    """All objects of the cluster. Synchronous, so that each call is one transaction of the event loop.

    `history` is how many changes of each kind are remembered. Versions begin with the time (in µs), which no
    cluster outruns: a client of an earlier one is told that its version is gone, and lists anew.
    """

    def __init__(self, *, history: int = 1000) -> None:
        self.version = first = int(time.time() * 1_000_000)
        """The version of the latest change of all."""
        self._history = history
        self._objects: defaultdict[str, dict[Key, Stored]] = defaultdict(dict)
        self._events: defaultdict[str, deque[Event]] = defaultdict(deque)
        self._oldest: defaultdict[str, int] = defaultdict(lambda: first)
        self.changed = asyncio.Event()
        """Set at the next change; another one takes its place then."""

    def get(self, resource: str, namespace: str | None, name: str) -> Stored | None:
        return self._objects[resource].get((namespace or "", name))

    def objects(self, resource: str, namespace: str | None = None) -> list[Stored]:
        """Objects of a kind by namespace and name, of all namespaces or of one."""
        objects = self._objects[resource]
        return [objects[key] for key in sorted(objects) if namespace is None or key[0] == namespace]

    def put(self, resource: str, value: Json) -> Stored:
        """Create or replace; the value is stored under a new version, which it also carries."""
        stored = self._next(value)
        previous = self._objects[resource].get(stored.key)
        self._objects[resource][stored.key] = stored
        change: Change = "MODIFIED" if previous else "ADDED"
        self._note(resource, Event(change=change, stored=stored, previous=previous))
        return stored

    def remove(self, resource: str, namespace: str, name: str) -> Stored:
        """Remove what is there (KeyError if nothing is); answers its last state."""
        previous = self._objects[resource].pop((namespace, name))
        stored = self._next(previous.value)
        self._note(resource, Event(change="DELETED", stored=stored, previous=previous))
        return stored

    def since(self, resource: str, version: int) -> list[Event]:
        """Changes of a kind after `version`, oldest first. Raises Expired."""
        if version < self._oldest[resource]:
            raise Expired(f"too old resource version: {version} ({self._oldest[resource]})")
        events = self._events[resource]
        if not events or events[-1].stored.version <= version:
            return []
        start = bisect_right(events, version, key=lambda event: event.stored.version)
        return list(itertools.islice(events, start, None))

    def _next(self, value: Json) -> Stored:
        self.version += 1
        metadata = {**value["metadata"], "resourceVersion": str(self.version)}
        key = (metadata.get("namespace", ""), metadata["name"])
        # Kind first, always: lists of built-in kinds leave it out by cutting off the text's beginning.
        head = {"kind": value["kind"], "apiVersion": value["apiVersion"]}
        return Stored(key, {**head, **value, "metadata": metadata}, self.version)

    def _note(self, resource: str, event: Event) -> None:
        self._events[resource].append(event)
        if len(self._events[resource]) > self._history:
            self._oldest[resource] = self._events[resource].popleft().stored.version
        waiting, self.changed = self.changed, asyncio.Event()
        waiting.set()


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

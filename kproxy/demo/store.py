"""The demo cluster's memory: objects, one version counter, and what changed lately.

Every kind has a shelf. A shelf keeps its objects and the last changes to them, as the watch cache of a
real API server does; who asks for a version from before those changes gets `Expired` and must list anew.
Stored values are never changed in place: whoever wants a change puts a new value.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" for what is cluster-wide) and name."""
Change = Literal["ADDED", "MODIFIED", "DELETED"]


class Expired(Exception):
    """The version lies before what the shelf remembers."""

    def __init__(self, asked: int, oldest: int) -> None:
        self.asked, self.oldest = asked, oldest
        super().__init__(f"too old resource version: {asked} ({oldest})")


class Stored:
    """One version of one object. Its JSON text is made once, when first asked for."""

    __slots__ = ("_text", "key", "value", "version")

    def __init__(self, key: Key, value: Json, version: int) -> None:
        self.key = key
        self.value = value
        self.version = version
        self._text: bytes | None = None

    @property
    def text(self) -> bytes:
        if self._text is None:
            self._text = encode(self.value)
        return self._text


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One change. `stored` is the object after it, or its last state under the version of its removal."""

    change: Change
    stored: Stored
    previous: Stored | None


@dataclass(slots=True, eq=False)
class _Shelf:
    oldest: int
    objects: dict[Key, Stored] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Store:
    """All objects of the cluster. Synchronous, so that each call is one transaction of the event loop.

    `history` is how many changes each shelf remembers. Versions begin with the time (in ms), so that a client
    of an earlier demo cluster is told that its version is gone, and lists anew.
    """

    def __init__(self, *, history: int = 1000) -> None:
        self._history = history
        self._version = self._first = int(time.time() * 1000)
        self._shelves: dict[str, _Shelf] = {}
        self._anything = asyncio.Event()

    @property
    def version(self) -> int:
        """The version of the latest change of all."""
        return self._version

    def get(self, resource: str, namespace: str, name: str) -> Stored | None:
        return self._shelf(resource).objects.get((namespace, name))

    def objects(self, resource: str, namespace: str | None = None) -> list[Stored]:
        """Objects of a kind by namespace and name, of all namespaces or of one."""
        objects = self._shelf(resource).objects
        keys = (key for key in objects if namespace is None or key[0] == namespace)
        return [objects[key] for key in sorted(keys)]

    def put(self, resource: str, value: Json) -> Stored:
        """Create or replace; the value is stored under a new version, which it also carries."""
        shelf = self._shelf(resource)
        stored = self._next(value)
        previous = shelf.objects.get(stored.key)
        shelf.objects[stored.key] = stored
        self._note(shelf, Event(change="MODIFIED" if previous else "ADDED", stored=stored, previous=previous))
        return stored

    def remove(self, resource: str, namespace: str, name: str) -> Stored:
        """Remove what is there (KeyError if nothing is); answers its last state."""
        shelf = self._shelf(resource)
        previous = shelf.objects.pop((namespace, name))
        stored = self._next(previous.value)
        self._note(shelf, Event(change="DELETED", stored=stored, previous=previous))
        return stored

    def since(self, resource: str, version: int) -> list[Event]:
        """Changes of a kind after `version`, oldest first. Raises Expired."""
        shelf = self._shelf(resource)
        if version < shelf.oldest:
            raise Expired(version, shelf.oldest)
        events = shelf.events
        if not events or events[-1].stored.version <= version:
            return []
        start = bisect_right(events, version, key=lambda event: event.stored.version)
        return list(itertools.islice(events, start, None))

    def compact(self) -> None:
        """Forget all changes so far, as etcd does every few minutes: older versions are `Expired` now."""
        self._first = self._version
        for shelf in self._shelves.values():
            shelf.events.clear()
            shelf.oldest = self._version

    def changed(self, resource: str) -> asyncio.Event:
        """Set at the next change of the kind; ask again after that."""
        return self._shelf(resource).changed

    def anything(self) -> asyncio.Event:
        """Set at the next change of whatever kind; ask again after that."""
        return self._anything

    def _shelf(self, resource: str) -> _Shelf:
        if resource not in self._shelves:
            self._shelves[resource] = _Shelf(self._first)
        return self._shelves[resource]

    def _next(self, value: Json) -> Stored:
        self._version += 1
        metadata = {**value["metadata"], "resourceVersion": str(self._version)}
        key = (metadata.get("namespace", ""), metadata["name"])
        # Kind first, always: lists of built-in kinds leave it out by cutting off the text's beginning.
        head = {"kind": value["kind"], "apiVersion": value["apiVersion"]}
        return Stored(key, {**head, **value, "metadata": metadata}, self._version)

    def _note(self, shelf: _Shelf, event: Event) -> None:
        shelf.events.append(event)
        if len(shelf.events) > self._history:
            shelf.oldest = shelf.events.popleft().stored.version
        waiting, shelf.changed = shelf.changed, asyncio.Event()
        waiting.set()
        waiting, self._anything = self._anything, asyncio.Event()
        waiting.set()


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

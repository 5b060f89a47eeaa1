"""Watches: changes of a kind as they happen, one JSON line (or WebSocket message) each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.paging import is_true, parse_count, parse_version
from kproxy.demo.selectors import Selection
from kproxy.demo.status import expired, forbidden_field, invalid
from kproxy.demo.store import Change, Event, Expired, Store, Stored, encode
from kproxy.demo.views import View

# As the real server's --min-request-timeout: between this and twice this.
_DEFAULT_SECONDS = 1800.0


class Sink(Protocol):
    """Where the lines of a watch go: a chunked response or a WebSocket."""

    async def send(self, lines: bytes) -> None: ...


class Watch:
    """One watch of a kind. Raises ApiError at construction for a query that makes no sense."""

    def __init__(
        self,
        store: Store,
        kind: Kind,
        namespace: str | None,
        selection: Selection,
        view: View,
        query: Mapping[str, str],
        bookmark_seconds: float,
    ) -> None:
        self._store = store
        self._kind = kind
        self._namespace = namespace
        self._selection = selection
        self._view = view
        self._asked = parse_version(query.get("resourceVersion", ""))
        self._bookmarks = is_true(query.get("allowWatchBookmarks"))
        self._bookmark_seconds = bookmark_seconds
        self._initial = "sendInitialEvents" in query
        self._sends_initial = is_true(query.get("sendInitialEvents")) if self._initial else not self._asked
        if self._initial and query.get("resourceVersionMatch") != "NotOlderThan":
            text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            cause = forbidden_field("resourceVersionMatch", text)
            raise invalid("ListOptions", "meta.k8s.io", "", [cause])
        seconds = parse_count(query, "timeoutSeconds")
        self._seconds = seconds or _DEFAULT_SECONDS * random.uniform(1, 2)  # noqa: S311 -- spreads clients

    async def run(self, sink: Sink) -> None:
        """Until the watch's time is over; ends at once after an ERROR event."""
        first = True
        async for batch in self._batches():
            lines = []
            for each in batch:
                if isinstance(each, bytes):
                    lines.append(each)
                else:
                    lines.append(self._view.event(self._kind, each, first=first))
                    first = False
            await sink.send(b"".join(lines))

    async def _batches(self) -> AsyncIterator[list[Event | bytes]]:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._seconds
        version = self._asked or self._store.version
        if self._sends_initial:
            version = self._store.version
            batch: list[Event | bytes] = list(self._present())
            if self._initial and self._bookmarks:
                batch.append(self._view.bookmark(self._kind, version, initial_events_end=True))
            if batch:
                yield batch
        bookmark_at = loop.time() + self._bookmark_seconds
        while True:
            changed = self._store.changed(self._kind.resource)
            try:
                events = self._store.since(self._kind.resource, version)
            except Expired as error:
                yield [b'{"type":"ERROR","object":' + encode(expired(str(error)).status) + b"}\n"]
                return
            version = max(version, self._store.version)
            if seen := [event for event in map(self._seen, events) if event]:
                yield [*seen]
                continue
            now = loop.time()
            if now >= ends_at:
                return
            if self._bookmarks and now >= bookmark_at:
                yield [self._view.bookmark(self._kind, version, initial_events_end=False)]
                bookmark_at = loop.time() + self._bookmark_seconds
                continue
            try:
                async with asyncio.timeout_at(min(ends_at, bookmark_at) if self._bookmarks else ends_at):
                    await changed.wait()
            except TimeoutError:
                continue

    def _present(self) -> list[Event]:
        found = self._store.objects(self._kind.resource, self._namespace)
        return [
            Event(change="ADDED", stored=stored, previous=None)
            for stored in found
            if self._selection.matches(stored.value)
        ]

    def _seen(self, event: Event) -> Event | None:
        """The change as this watch sees it: what enters its selection is added, what leaves it deleted."""
        if self._namespace is not None and event.stored.key[0] != self._namespace:
            return None
        if self._selection.is_everything:
            return event
        before = event.previous is not None and self._selection.matches(event.previous.value)
        after = event.change != "DELETED" and self._selection.matches(event.stored.value)
        if after:
            change: Change = "MODIFIED" if before else "ADDED"
            return (
                event if event.change == change else Event(change=change, stored=event.stored, previous=None)
            )
        if not before or event.previous is None:
            return None
        value: Json = {
            **event.previous.value,
            "metadata": {**event.previous.value["metadata"], "resourceVersion": str(event.stored.version)},
        }
        stored = Stored(event.stored.key, value, event.stored.version)
        return Event(change="DELETED", stored=stored, previous=event.previous)

"""Watches: changes of a kind as they happen, one JSON line (or WebSocket message) each."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Mapping

from kproxy.demo.objects import Target
from kproxy.demo.queries import is_true, parse_count, parse_selection
from kproxy.demo.status import ApiError
from kproxy.demo.store import Event, Expired, Store, Stored, encode
from kproxy.demo.views import View

# As the real server's --min-request-timeout: between this and twice this.
_DEFAULT_SECONDS = 1800.0


class Watch:
    """One watch of a kind. Raises ApiError at construction for a query that makes no sense."""

    def __init__(
        self, store: Store, target: Target, view: View, query: Mapping[str, str], bookmark_seconds: float
    ) -> None:
        self._store, self._view = store, view
        self._kind, self._namespace = target.kind, target.namespace
        self._matches = parse_selection(target.kind, query)
        self._asked = parse_count(query, "resourceVersion")
        self._bookmark_seconds = bookmark_seconds if is_true(query.get("allowWatchBookmarks")) else None
        list_asked = query.get("sendInitialEvents")
        self._is_list = is_true(list_asked)
        """A streaming list (KEP-3157): what is there comes first, and a bookmark tells its end."""
        self._begins_with_present = not self._asked if list_asked is None else self._is_list
        seconds = parse_count(query, "timeoutSeconds")
        self._seconds = seconds or _DEFAULT_SECONDS * random.uniform(1, 2)  # noqa: S311 -- spreads clients
        self._shown_any = False

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """One or more lines at a time, until the watch's time is over; ends at once after an ERROR event."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._seconds
        bookmark_at = loop.time() + (self._bookmark_seconds or self._seconds)
        version = self._asked or self._store.version
        if self._begins_with_present:
            version = self._store.version
            present = self._store.objects(self._kind.resource, self._namespace)
            yield self._shown([Event(change="ADDED", stored=stored, previous=None) for stored in present])
            if self._is_list and self._bookmark_seconds:
                yield self._view.bookmark(self._kind, version, initial_events_end=True)
        while True:
            changed = self._store.changed
            try:
                events = self._store.since(self._kind.resource, version)
            except Expired as error:
                status = ApiError(410, "Expired", str(error)).status
                yield b'{"type":"ERROR","object":' + encode(status) + b"}\n"
                return
            version = max(version, self._store.version)
            now = loop.time()
            if shown := self._shown(events):
                yield shown
            elif now >= ends_at:
                return
            elif self._bookmark_seconds and now >= bookmark_at:
                yield self._view.bookmark(self._kind, version, initial_events_end=False)
                bookmark_at = loop.time() + self._bookmark_seconds
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(ends_at, bookmark_at)):
                        await changed.wait()

    def _shown(self, events: list[Event]) -> bytes:
        lines = []
        for event in filter(None, map(self._seen, events)):
            lines.append(self._view.event(self._kind, event, first=not self._shown_any))
            self._shown_any = True
        return b"".join(lines)

    def _seen(self, event: Event) -> Event | None:
        """The change as this watch sees it: what enters its selection is added, what leaves it deleted."""
        stored, previous = event.stored, event.previous
        if self._namespace is not None and stored.key[0] != self._namespace:
            return None
        before = previous is not None and self._matches(previous.value)
        if event.change != "DELETED" and self._matches(stored.value):
            return Event(change="MODIFIED" if before else "ADDED", stored=stored, previous=None)
        if not before or previous is None:
            return None
        if event.change == "DELETED":
            return event
        metadata = {**previous.value["metadata"], "resourceVersion": str(stored.version)}
        last = Stored(stored.key, {**previous.value, "metadata": metadata}, stored.version)
        return Event(change="DELETED", stored=last, previous=previous)

"""Container logs: made up, one line every so often since the container started, the same at every read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import zlib
from collections.abc import AsyncGenerator, Mapping

from kproxy.demo import clock
from kproxy.demo.kinds import PODS, Json
from kproxy.demo.paging import is_true, parse_count
from kproxy.demo.selectors import field_at
from kproxy.demo.status import bad_request
from kproxy.demo.store import Store, Stored

# As if older lines had been rotated away.
_KEPT_LINES = 200
_PATHS = ("/", "/cart", "/checkout", "/health", "/items/17", "/search?q=tea")


class Log:
    """The log of one container as the query asks for it. Raises ApiError for what has no log."""

    def __init__(self, store: Store, pod: Stored, query: Mapping[str, str], every_seconds: float) -> None:
        self._store = store
        self._pod = pod
        self._every = every_seconds
        self._container = container_of(pod.value, query.get("container", ""))
        if is_true(query.get("previous")):
            raise bad_request(
                f'previous terminated container "{self._container}" in pod "{pod.key[1]}" not found'
            )
        started = started_at(pod.value, self._container)
        if started is None:
            raise bad_request(
                f'container "{self._container}" in pod "{pod.key[1]}" is waiting to start: ContainerCreating'
            )
        self._started = started
        self._follows = is_true(query.get("follow"))
        self._timestamps = is_true(query.get("timestamps"))
        self._tail = parse_count(query, "tailLines") if "tailLines" in query else None
        self._limit = parse_count(query, "limitBytes") or None
        self._since = self._parse_since(query)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The lines so far at once, then, if followed, each as it comes until the pod is gone."""
        count = max(0, int((clock.now() - self._started) / self._every) + 1)
        first = max(0, count - _KEPT_LINES)
        numbers = [number for number in range(first, count) if self._at(number) >= self._since]
        if self._tail is not None:
            numbers = numbers[max(0, len(numbers) - self._tail) :]
        yield b"".join(map(self._line, numbers))[: self._limit]
        while self._follows and await self._waits_for(count):
            yield self._line(count)
            count += 1

    async def _waits_for(self, number: int) -> bool:
        """True once that line is due, False as soon as the pod is gone."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._at(number) - clock.now()
        while True:
            changed = self._store.changed(PODS.resource)
            found = self._store.get(PODS.resource, *self._pod.key)
            if found is None or found.value["metadata"]["uid"] != self._pod.value["metadata"]["uid"]:
                return False
            try:
                async with asyncio.timeout_at(due):
                    await changed.wait()
            except TimeoutError:
                return True

    def _at(self, number: int) -> float:
        return self._started + number * self._every

    def _line(self, number: int) -> bytes:
        at = self._at(number)
        seed = zlib.crc32(f"{self._pod.value['metadata']['uid']}/{number}".encode())
        chance = random.Random(seed)  # noqa: S311 -- the same line at every read
        content = (
            f"made-up line {number} of {self._container}: GET {chance.choice(_PATHS)} 200 "
            f"in {chance.randint(1, 90)} ms\n"
        )
        return (f"{clock.rfc3339_nano(at)} " if self._timestamps else "").encode() + content.encode()

    def _parse_since(self, query: Mapping[str, str]) -> float:
        if seconds := parse_count(query, "sinceSeconds"):
            return clock.now() - seconds
        try:
            return clock.parse_time(query["sinceTime"]) if query.get("sinceTime") else 0.0
        except ValueError:
            raise bad_request(f"invalid sinceTime {json.dumps(query['sinceTime'])}") from None


def container_of(pod: Json, asked: str) -> str:
    """The container that is meant; one must be named where there are several."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    name = pod["metadata"]["name"]
    if asked and asked not in names:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    if not asked and len(names) > 1:
        shown = f"choose one of: [{' '.join(names)}]"
        raise bad_request(f"a container name must be specified for pod {name}, {shown}")
    return asked or names[0]


def started_at(pod: Json, container: str) -> float | None:
    """When the container started, in epoch seconds; None while it does not run."""
    for status in field_at(pod, "status.containerStatuses") or ():
        if status.get("name") == container:
            with contextlib.suppress(TypeError, ValueError):
                return clock.parse_time(field_at(status, "state.running.startedAt"))
    return None

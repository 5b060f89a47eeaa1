"""Whether a context can be used: its credential is valid, and its API server answers.

Asked the way clients ask, through the relay and the same upstream, so that what is found out is what clients
would find: a stale connection is dialled anew, a refused credential renewed once.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal
from weakref import WeakKeyDictionary

import structlog

from kproxy.errors import KproxyError
from kproxy.gateway.client import Downstream, Turns
from kproxy.gateway.relay import Relay
from kproxy.http.forwarding import map_target
from kproxy.http.heads import RequestHead
from kproxy.kube.requestinfo import parse
from kproxy.telemetry.exchange import Exchange
from kproxy.upstream.upstream import Upstream

KEPT_SECONDS = 5.0
"""How long a verdict stands: however many ask, the API server is asked no more often."""
PATIENCE_SECONDS = 5.0
"""How long the API server and the credential may take together."""

_HEAD = b"GET %b HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
_KEPT_BYTES = 16 * 1024

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found out about a context, and why it is not ready."""

    problem: str | None
    status: int | None = None
    """What the API server answered, None when it did not."""

    @property
    def is_ready(self) -> bool:
        return self.problem is None


class _Check:
    """The last verdict on one upstream, or the task that finds the next."""

    __slots__ = ("found_at", "task", "verdict")

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self.found_at = float("-inf")
        self.task: asyncio.Task[None] | None = None


class Readiness:
    """Owns the verdicts and the checks that run: one for each upstream at a time, whoever asks."""

    def __init__(self, relay: Relay, loop: asyncio.AbstractEventLoop) -> None:
        self._relay = relay
        self._loop = loop
        # A verdict goes with its upstream, and nothing here keeps one that is closed.
        self._checks: WeakKeyDictionary[Upstream, _Check] = WeakKeyDictionary()

    async def check(self, upstream: Upstream) -> Verdict:
        """The verdict on that upstream, at most KEPT_SECONDS old. It takes PATIENCE_SECONDS at most."""
        check = self._checks.setdefault(upstream, _Check())
        if check.verdict is None or monotonic() - check.found_at >= KEPT_SECONDS:
            if check.task is None:
                check.task = self._loop.create_task(self._run(check, upstream))
            # Not awaited itself: a caller that goes away must not end it for the others.
            await asyncio.wait([check.task])
        return check.verdict or Verdict(problem="kproxy is shutting down")

    async def _run(self, check: _Check, upstream: Upstream) -> None:
        try:
            check.verdict = await self._ask(upstream)
        except Exception:
            _log.exception("internal.failed", context=upstream.name)
            check.verdict = Verdict(problem="kproxy failed on this check; its log says more")
        finally:
            check.found_at = monotonic()
            check.task = None

    async def _ask(self, upstream: Upstream) -> Verdict:
        for target in ("/readyz", "/version"):
            probe = _Probe(self._relay, upstream, target, self._loop)
            verdict = await probe.verdict()
            # Some that stand before an API server, and old ones, have no /readyz.
            if verdict.status not in (404, 405):
                break
        return verdict

    def stop(self) -> None:
        """End the checks that run; who waits for them learns that kproxy is ending. Idempotent."""
        for check in self._checks.values():
            if check.task is not None:
                check.task.cancel()

    async def close(self) -> None:
        """`stop`, and wait until they have ended."""
        self.stop()
        tasks = [check.task for check in self._checks.values() if check.task is not None]
        if tasks:
            await asyncio.wait(tasks)


class _Probe:
    """One GET, as the listener and client of a downstream connection that is in memory only."""

    name = "readyz"
    kind: Literal["tcp", "unix"] = "unix"
    url = ""
    is_local = True
    is_tls = False

    def __init__(
        self, relay: Relay, upstream: Upstream, target: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.connections: set[Downstream] = set()
        self.turns = Turns(loop)
        self._relay = relay
        self._upstream = upstream
        self._target = target
        self._loop = loop
        self._ended: asyncio.Future[Exchange] = loop.create_future()

    async def verdict(self) -> Verdict:
        client = _Client()
        downstream = Downstream(self, self._loop)
        downstream.connection_made(client)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                downstream.data_received(_HEAD % self._target.encode())
                exchange = await self._ended
        except TimeoutError:
            problem = f"no answer within {PATIENCE_SECONDS:g} s"
            if waiting := self._upstream.renewal().waiting:
                problem += f", {waiting}"
            self._upstream.tally.fail(f'context "{self._upstream.name}": {problem}')
            return Verdict(problem=problem)
        finally:
            # Ends the request, if it still runs, and what the connection keeps.
            downstream.abort()
            downstream.connection_lost(None)
        if exchange.upstream_status is None or exchange.proxy_error is not None:
            return Verdict(problem=client.message().removeprefix(f'context "{self._upstream.name}": '))
        return _judge(self._target, exchange.upstream_status)

    def dispatch(self, downstream: Downstream, head: RequestHead) -> None:
        downstream.exchange.info = parse(head.method, head.target)
        base_path = self._upstream.base_path
        target = map_target(head.target, base_path) if base_path else head.target
        try:
            self._relay.relay(downstream, self._upstream, target)
        except KproxyError as error:
            downstream.refuse(error)
        else:
            # To ask is not to use: what nobody else uses is closed after its time.
            self._upstream.entered -= 1

    def finished(self, exchange: Exchange) -> None:
        if not self._ended.done():
            self._ended.set_result(exchange)


def _judge(target: str, status: int) -> Verdict:
    """401 is a verdict on our credential; 403, 404 and 429 are answers of an API server that is well."""
    problem = None
    if status == 401:
        problem = "the API server does not accept the credential (401)"
    elif status >= 500 or 300 <= status < 400:
        problem = f"the API server answers {status} to {target}"
    return Verdict(problem=problem, status=status)


class _Client(asyncio.Transport):
    """Takes what is written and keeps the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._received = b""
        self._is_closing = False

    def message(self) -> str:
        """What an error of ours says of itself."""
        with suppress(ValueError, KeyError, TypeError):
            status = json.loads(self._received.partition(b"\r\n\r\n")[2])
            return str(status["message"]).removeprefix("kproxy: ")
        return "the answer broke off"

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if len(self._received) < _KEPT_BYTES:
            self._received += bytes(data[:_KEPT_BYTES])

    def close(self) -> None:
        self._is_closing = True

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

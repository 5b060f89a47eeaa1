"""The `request.finished` lines: noted at once, formatted many at a time, off the path of requests."""

from __future__ import annotations

import time
from collections import deque
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING

import structlog

from kproxy.telemetry.exchange import Exchange
from kproxy.telemetry.log import Output

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

LIMIT_REQUESTS = 4096
FLUSH_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
"""Between two tries when nobody reads: whoever read the log may have gone for good."""
BATCH = 100
"""Requests formatted at a stretch: half a millisecond, so that a burst delays nobody."""
_MAX_REMEMBERED, _MAX_REMEMBERED_PATH = 512, 256

_log = structlog.get_logger()


class AccessLog:
    """One `request.finished` line per exchange, formatted many at a time, off the path of the request."""

    def __init__(self, output: Output, loop: AbstractEventLoop) -> None:
        self._output = output
        self._loop = loop
        self._queue: deque[Exchange] = deque()
        self._timer: TimerHandle | None = None
        self._pause_seconds = FLUSH_SECONDS
        self._lost = 0
        self.dropped = 0
        """How many lines were lost, as far as that was told."""

    def write(self, exchange: Exchange) -> None:
        """Note a finished exchange; it must not change any more."""
        if self._output.is_quiet:
            return
        if len(self._queue) >= LIMIT_REQUESTS:
            self._lost += 1
            return
        self._queue.append(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def close(self, timeout_seconds: float = 0.5) -> None:
        """Write what is left and wait so long for stderr to take it."""
        if self._timer is not None:
            self._timer.cancel()
        while self._queue:
            self._write_batch()
        self._output.drain(timeout_seconds)
        self._report_lost()

    def _flush(self) -> None:
        self._write_batch()
        self._output.flush()
        self._report_lost()
        self._timer = None
        if self._queue:
            self._timer = self._loop.call_later(0, self._flush)
        elif self._output.is_waiting:
            self._timer = self._loop.call_later(self._pause_seconds, self._flush)
            self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
        else:
            self._pause_seconds = FLUSH_SECONDS

    def _write_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        if self._output.is_json:
            clock_offset = time.time() - time.monotonic()
            self._output.write("".join([json_line(exchange, clock_offset) for exchange in batch]))
        else:
            for exchange in batch:
                _log.info("request.finished", **facts(exchange))

    def _report_lost(self) -> None:
        if not self._output.is_waiting and (count := self._output.take_lost() + self._lost):
            self._lost = 0
            self.dropped += count
            _log.warning("log.dropped", count=count)


def facts(exchange: Exchange) -> dict[str, object]:
    """The keys of `request.finished`; what is unknown or empty is left out."""
    info = exchange.info
    finished_at = exchange.finished_at or exchange.started_at
    known: dict[str, object] = {
        "exchange_id": exchange.exchange_id,
        "context": exchange.context,
        "listener": exchange.listener,
        "client": exchange.client,
        "method": exchange.method,
        "path": exchange.path,
        "verb": info and info.verb,
        "group": info and info.api_group,
        "resource": info and info.resource,
        "subresource": info and info.subresource,
        "namespace": info and info.namespace,
        "name": info and info.name,
        "status": exchange.status,
        "upstream_status": exchange.upstream_status,
        "proxy_error": exchange.proxy_error,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "duration_seconds": round(finished_at - exchange.started_at, 6),
        "audit_id": exchange.audit_id,
    }
    return {key: value for key, value in known.items() if value is not None and value != ""}


def json_line(exchange: Exchange, clock_offset: float) -> str:
    """`facts` in JSON, as structlog's JSONRenderer writes them; `clock_offset` is wall minus monotonic time.

    Every request pays for this: a dict, processors and json.dumps cost 20 µs, this costs 5. Hence text
    pasted together, numbers formatted once, and parts that repeat from line to line kept.
    """
    x = exchange
    finished_at = x.finished_at or x.started_at
    seconds, milliseconds = divmod(int((finished_at + clock_offset) * 1000), 1000)
    known = _asked.get((x.client, x.path))
    if known is None or known.info is not x.info or known.rest != (x.method, x.context, x.listener):
        known = _note_asked(x)
    return (
        f'{{"timestamp": "{_second(seconds)}.{milliseconds:03d}Z", "level": "info", '
        f'"event": "request.finished", "exchange_id": {x.exchange_id}{known.text}'
        f', "status": {x.status}{_status(x.upstream_status)}'
        f"{_field('proxy_error', x.proxy_error) if x.proxy_error else ''}"
        f', "bytes_in": {x.bytes_in}, "bytes_out": {x.bytes_out}'
        f', "duration_seconds": {finished_at - x.started_at:.6f}'
        f"{_field('audit_id', x.audit_id) if x.audit_id else ''}}}\n"
    )


class _Asked:
    """The part of a line that says who asked for what: clients that poll ask for the same again."""

    __slots__ = ("info", "rest", "text")

    def __init__(self, x: Exchange) -> None:
        info = x.info
        self.info = info
        self.rest = (x.method, x.context, x.listener)
        self.text = (
            f"{_place(x.context, x.listener)}{_field('client', x.client) if x.client else ''}"
            f', "method": {_quoted(x.method)}, "path": {_quoted(x.path)}'
            f"{'' if info is None else _object(info.verb, info.api_group, info.resource, info.subresource)}"
            f"{_field('namespace', info.namespace) if info and info.namespace else ''}"
            f"{_field('name', info.name) if info and info.name else ''}"
        )


_asked: dict[tuple[str, str], _Asked] = {}


def _note_asked(x: Exchange) -> _Asked:
    asked = _Asked(x)
    if len(x.path) <= _MAX_REMEMBERED_PATH:
        if len(_asked) >= _MAX_REMEMBERED:
            _asked.clear()
        _asked[x.client, x.path] = asked
    return asked


def _field(key: str, value: str) -> str:
    return f', "{key}": {_quoted(value)}'


@lru_cache(maxsize=64)
def _place(context: str | None, listener: str) -> str:
    known = {"context": context, "listener": listener}
    return "".join(_field(key, value) for key, value in known.items() if value)


@lru_cache(maxsize=64)
def _status(upstream_status: int | None) -> str:
    return "" if upstream_status is None else f', "upstream_status": {upstream_status}'


@lru_cache(maxsize=1024)
def _object(verb: str, group: str, resource: str, subresource: str) -> str:
    known = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
    return "".join(_field(key, value) for key, value in known.items() if value)


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))

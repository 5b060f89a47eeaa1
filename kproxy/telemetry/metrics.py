"""The counters, in one place: each finished request costs one dict look-up and a few additions.

Plain numbers here; `exposition` writes them out when somebody scrapes. Labels are named as the API server
names its own (k8s.io/apiserver, pkg/endpoints/metrics), with the verbs of the log.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from kproxy.telemetry.exchange import Exchange

CONTEXT = ("context",)
OBJECT = (*CONTEXT, "verb", "group", "resource", "subresource")


@dataclass(frozen=True, slots=True)
class About:
    """One metric: what README.md and the scrape say of it."""

    kind: str
    help: str
    labels: tuple[str, ...] = CONTEXT


METRICS: Mapping[str, About] = {
    "kproxy_requests_total": About(
        "counter", "Finished requests; code 0: the client got no answer.", (*OBJECT, "code")
    ),
    "kproxy_request_duration_seconds": About(
        "histogram", "From the request's head to the end of its answer, without streams.", OBJECT
    ),
    "kproxy_requests_in_flight": About(
        "gauge", "Requests to the API server that run now and will end by themselves."
    ),
    "kproxy_watches": About("gauge", "Watches and followed logs that run now."),
    "kproxy_tunnels": About(
        "gauge", "Upgraded connections that run now: exec, attach, port-forward, WebSocket."
    ),
    "kproxy_received_bytes_total": About(
        "counter", "Bytes of bodies and tunnels from clients, running streams included."
    ),
    "kproxy_sent_bytes_total": About(
        "counter", "Bytes of answers and tunnels to clients, running streams included."
    ),
    "kproxy_errors_total": About(
        "counter",
        "Requests that kproxy refused, that failed or that the client left, by RFC 9209 type.",
        (*CONTEXT, "kind"),
    ),
    "kproxy_upstream_connections": About(
        "gauge", "Open connections to the API server, idle ones included, tunnels not."
    ),
    "kproxy_upstream_idle_connections": About(
        "gauge", "Open connections to the API server that wait for a request."
    ),
    "kproxy_upstream_dials_total": About("counter", "Connections to the API server that were tried."),
    "kproxy_upstream_failing": About(
        "gauge", "1 when the last request failed before the API server answered, else 0."
    ),
    "kproxy_credential_expiry_timestamp_seconds": About(
        "gauge", "When the credential in use ends; none for one without an end."
    ),
    "kproxy_credential_renewals_total": About(
        "counter", "Credentials that took the place of an earlier one."
    ),
    "kproxy_reloads_total": About(
        "counter", "Changed files that were taken up (applied) or not (failed).", ("result",)
    ),
    "kproxy_log_lines_dropped_total": About(
        "counter", "Log lines lost because whoever reads stderr did not keep up.", ()
    ),
    "kproxy_build_info": About("gauge", "Always 1; the labels say what is running.", ("version", "python")),
    "process_start_time_seconds": About("gauge", "When kproxy started, in seconds since the epoch.", ()),
}
"""Every metric of ours. On Linux prometheus_client adds what the kernel tells of the process."""

MAX_LABEL_SETS = 2000
"""Rows of `kproxy_requests_total`; what is new beyond them is counted as `other`."""
BOUNDS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OTHER = "other"

_MAX_REMEMBERED = 4096
_API_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy")
_VERBS = frozenset((*_API_VERBS, "post", "put", "head", "options", "connect", "trace"))
_CODES = frozenset((0, *HTTPStatus))
# What groups, resources and subresources are called (RFC 1123).
_is_name = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?").fullmatch

_Asked = tuple[str, str, str, str, int, str | None]
Labels = tuple[str, str, str, str, str, str]
"""Context, verb, group, resource, subresource, code."""

# A row: how many, bytes in, bytes out, seconds, and one number for each bucket.
COUNT, BYTES_IN, BYTES_OUT, SECONDS, BUCKETS = range(5)
EMPTY_ROW = (0, 0, 0, 0.0, *[0] * (len(BOUNDS_SECONDS) + 1))


class Tally:
    """What happened to the upstreams of one context, one after the other."""

    __slots__ = ("dials", "is_failing", "last_error", "last_error_at", "renewals")

    def __init__(self) -> None:
        self.dials = 0
        self.renewals = 0
        self.is_failing = False
        """Whether the last request failed before the API server answered it."""
        self.last_error: str | None = None
        self.last_error_at = 0.0
        """Seconds since the epoch."""

    def fail(self, message: str) -> None:
        self.is_failing = True
        self.last_error = message
        self.last_error_at = time.time()


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
    """What one context does at this moment; it is counted when asked for."""

    context: str
    in_flight: int = 0
    watches: int = 0
    tunnels: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    """Of requests that are running; they join the totals at their end."""
    connections: int = 0
    idle_connections: int = 0
    expires_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums since the start."""

    requests: int
    errors: int
    received_bytes: int
    sent_bytes: int
    dials: int
    renewals: int
    reloads: int


class Metrics:
    """Owns all counters. Everything here runs on the event loop's thread."""

    def __init__(self, pass_on: Callable[[Exchange], None]) -> None:
        """`pass_on` is told of each finished exchange, too: a function that calls both would cost more."""
        self._pass_on = pass_on
        self._rows: dict[_Asked, list[Any]] = {}
        self._by_labels: dict[Labels, list[Any]] = {}
        self._known: set[tuple[str, str, str]] = set()
        self._errors: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._tallies: dict[str, Tally] = {}
        self.reloads = {"applied": 0, "failed": 0}
        self.started_at = time.time()

    def __repr__(self) -> str:
        return f"<Metrics {len(self._by_labels)} label sets>"

    def note(self, exchange: Exchange) -> None:
        """Count an exchange that has ended."""
        info = exchange.info
        if info is None:
            asked = (exchange.method, "", "", "", exchange.status, exchange.context)
        else:
            asked = (
                info.verb,
                info.api_group,
                info.resource,
                info.subresource,
                exchange.status,
                exchange.context,
            )
        row = self._rows.get(asked)
        if row is None:
            row = self._find_row(asked)
        row[COUNT] += 1
        row[BYTES_IN] += exchange.bytes_in
        row[BYTES_OUT] += exchange.bytes_out
        if info is None or not info.is_long_running:
            seconds = (exchange.finished_at or exchange.started_at) - exchange.started_at
            row[SECONDS] += seconds
            row[BUCKETS + bisect_left(BOUNDS_SECONDS, seconds)] += 1
        if exchange.proxy_error is not None:
            self._errors[exchange.context or "", exchange.proxy_error] += 1
        self._pass_on(exchange)

    def _find_row(self, asked: _Asked) -> list[Any]:
        """The row to count in: anybody may ask for anything, so not every label set gets its own."""
        verb, group, resource, subresource, status, context = asked
        verb = verb.lower()
        name = context or ""
        verb = verb if verb in _VERBS else OTHER
        code = str(int(status)) if status in _CODES else OTHER
        what = (group, resource, subresource)
        is_odd = not all(not each or _is_name(each) for each in what)
        # What the API server does not know is no resource; once it was found, a missing object is one of it.
        if is_odd or (resource and status == HTTPStatus.NOT_FOUND and what not in self._known):
            return self._row((name, verb, OTHER, OTHER, OTHER, code))
        labels = (name, verb, *what, code)
        if labels not in self._by_labels and len(self._by_labels) >= MAX_LABEL_SETS:
            labels = (name, OTHER, OTHER, OTHER, OTHER, code)
        else:
            self._known.add(what)
        row = self._row(labels)
        if len(self._rows) >= _MAX_REMEMBERED:
            self._rows.clear()
        self._rows[asked] = row
        return row

    def _row(self, labels: Labels) -> list[Any]:
        row = self._by_labels.get(labels)
        if row is None:
            row = self._by_labels[labels] = list(EMPTY_ROW)
        return row

    def tally(self, context: str) -> Tally:
        """The tally of that context, which outlives its upstreams."""
        return self._tallies.setdefault(context, Tally())

    def totals(self, contexts: Iterable[Now], only: str | None = None) -> Totals:
        """All that was counted so far, with what `contexts` do now; of one context with `only`."""
        running = tuple(contexts)
        rows = [row for labels, row in self._by_labels.items() if only in (None, labels[0])]
        tallies = [tally for name, tally in self._tallies.items() if only in (None, name)]
        return Totals(
            requests=sum(row[COUNT] for row in rows),
            errors=sum(count for labels, count in self._errors.items() if only in (None, labels[0])),
            received_bytes=sum(row[BYTES_IN] for row in rows) + sum(each.received_bytes for each in running),
            sent_bytes=sum(row[BYTES_OUT] for row in rows) + sum(each.sent_bytes for each in running),
            dials=sum(tally.dials for tally in tallies),
            renewals=sum(tally.renewals for tally in tallies),
            reloads=sum(self.reloads.values()),
        )

    def scrape(self, contexts: Iterable[Now], *, log_lines_dropped: int) -> Scrape:
        """A copy of all numbers, which another thread may write out."""
        return Scrape(
            rows=tuple((labels, tuple(row)) for labels, row in self._by_labels.items()),
            errors=tuple(self._errors.items()),
            tallies=tuple(
                (name, each.dials, each.renewals, each.is_failing) for name, each in self._tallies.items()
            ),
            contexts=tuple(contexts),
            reloads=tuple(self.reloads.items()),
            log_lines_dropped=log_lines_dropped,
            started_at=self.started_at,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scrape:
    """The numbers of one moment; nothing of it changes any more, so that a thread may read it."""

    rows: tuple[tuple[Labels, tuple[Any, ...]], ...]
    errors: tuple[tuple[tuple[str, str], int], ...]
    tallies: tuple[tuple[str, int, int, bool], ...]
    contexts: tuple[Now, ...]
    reloads: tuple[tuple[str, int], ...]
    log_lines_dropped: int
    started_at: float

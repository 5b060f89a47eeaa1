"""What runs here at the moment, gathered from those who know. Looking opens nothing and renews nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from kproxy import __version__
from kproxy.gateway.client import Listener
from kproxy.gateway.relay import Relay, RelayedRequest
from kproxy.kube.contexts import Served
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.telemetry.log import hide_secrets
from kproxy.telemetry.metrics import Metrics, Now, Scrape
from kproxy.tls.lifetime import format_timestamp
from kproxy.upstream.table import Upstreams
from kproxy.upstream.upstream import Upstream

MAX_STREAMS = 200
"""Watches and tunnels that are told one by one, the oldest first."""

_MAX_ERROR = 4000


class Overview:
    """Reads counters, relay and upstreams; owns nothing."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        upstreams: Upstreams,
        relay: Relay,
        listeners: Callable[[], Sequence[Listener]],
        log_lines_dropped: Callable[[], int],
        name: str | None = None,
    ) -> None:
        """`name` is that of this instance, if it has one."""
        self._metrics = metrics
        self._upstreams = upstreams
        self._relay = relay
        self._listeners = listeners
        self._log_lines_dropped = log_lines_dropped
        self._name = name
        self._started = monotonic()

    def scrape(self) -> Scrape:
        """All numbers."""
        return self._metrics.scrape(self._now().values(), log_lines_dropped=self._log_lines_dropped())

    def status(self, listener: Listener, only: str | None, *, is_draining: bool) -> dict[str, Any]:
        """All of `/-/status`, for who is connected to `listener`; of one context with `only`."""
        now = {name: each for name, each in self._now().items() if only in (None, name)}
        totals = self._metrics.totals(now.values(), only)
        opened = {upstream.name: upstream for upstream in self._upstreams.opened()}
        contexts = zip(self._served(only), self.contexts(listener, only), strict=True)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "name": self._name,
            "started_at": format_timestamp(self._metrics.started_at),
            "uptime_seconds": round(monotonic() - self._started, 3),
            "is_draining": is_draining,
            "listeners": [
                {"address": each.name, "url": each.url, "tls": each.is_tls} for each in self._listeners()
            ],
            "contexts": [
                {**told, **self._state(served, opened.get(served.name), now[served.name])}
                for served, told in contexts
            ],
            "totals": {
                "requests": totals.requests,
                "errors": totals.errors,
                "received_bytes": totals.received_bytes,
                "sent_bytes": totals.sent_bytes,
                "in_flight": sum(each.in_flight for each in now.values()),
                "watches": sum(each.watches for each in now.values()),
                "tunnels": sum(each.tunnels for each in now.values()),
                "dials": totals.dials,
                "renewals": totals.renewals,
                "reloads": totals.reloads,
                "log_lines_dropped": self._log_lines_dropped(),
            },
        }

    def contexts(self, listener: Listener, only: str | None) -> list[dict[str, Any]]:
        """All of `/-/contexts`; the URLs are those of `listener`, or of the first that has a port."""
        has_paths = self._upstreams.table.has_paths
        ports = [each for each in (listener, *self._listeners()) if each.kind == "tcp"]
        return [
            {
                "name": served.name,
                "slug": served.slug,
                "default": served.is_default,
                "server": self._server(served),
                "url": _url(served, ports[0]) if ports else None,
                "path": served.path if has_paths else "/",
            }
            for served in self._served(only)
        ]

    def streams(self, only: str | None) -> list[dict[str, Any]]:
        """The watches, followed logs and tunnels that run; no queries: they may hold commands."""
        running = sorted(
            (
                request
                for request in self._relay.running
                if _is_stream(request) and only in (None, request.upstream.name)
            ),
            key=lambda request: request.downstream.exchange.started_at,
        )
        now = monotonic()
        return [
            {
                "context": request.upstream.name,
                "method": exchange.method,
                "path": exchange.path,
                "client": exchange.client,
                "seconds": now - exchange.started_at,
            }
            for request in running[:MAX_STREAMS]
            for exchange in (request.downstream.exchange,)
        ]

    # -- parts of it --

    def _served(self, only: str | None) -> list[Served]:
        return [served for served in self._upstreams.served if only in (None, served.name)]

    def _server(self, served: Served) -> str | None:
        source = self._upstreams.table.seats[served.name].source
        return hide_secrets(source.cluster.server) if isinstance(source, ResolvedContext) else None

    def _state(self, served: Served, upstream: Upstream | None, now: Now) -> dict[str, Any]:
        tally = self._metrics.tally(served.name)
        failure = self._upstreams.table.seats[served.name].failure
        last_error = None
        if upstream is None and failure:
            state, last_error = "unusable", {"at": None, "message": _told("; ".join(failure))}
        else:
            if upstream is None:
                state = "not opened"
            else:
                state = _waiting(upstream) or ("failing" if tally.is_failing else "open")
            if tally.last_error is not None:
                at = format_timestamp(tally.last_error_at)
                last_error = {"at": at, "message": _told(tally.last_error)}
        return {
            "credential": _credential(upstream),
            "state": state,
            "last_error": last_error,
            "connections": now.connections,
            "idle_connections": now.idle_connections,
            "in_flight": now.in_flight,
            "watches": now.watches,
            "tunnels": now.tunnels,
        }

    def _now(self) -> dict[str, Now]:
        """Context -> what it does; those that are served, and those that only end their last requests."""
        opened = {upstream.name: upstream for upstream in self._upstreams.opened()}
        names = [served.name for served in self._upstreams.served]
        doing = {name: Counter[str]() for name in names}
        for request in self._relay.running:
            counts = doing.setdefault(request.upstream.name, Counter())
            exchange = request.downstream.exchange
            is_tunnel = request.downstream.head.is_upgrade
            counts["tunnels" if is_tunnel else "watches" if _is_stream(request) else "in_flight"] += 1
            bytes_in, bytes_out = request.tunnelled_bytes
            counts["received_bytes"] += exchange.bytes_in + bytes_in
            counts["sent_bytes"] += exchange.bytes_out + bytes_out
        return {name: _now_of(name, opened.get(name), counts) for name, counts in doing.items()}


def _now_of(name: str, upstream: Upstream | None, counts: Mapping[str, int]) -> Now:
    credential = upstream.known_credential if upstream is not None else None
    return Now(
        context=name,
        **counts,
        connections=upstream.connector.open_connections if upstream is not None else 0,
        idle_connections=upstream.connector.idle_connections if upstream is not None else 0,
        expires_at=credential.expires_at if credential is not None else None,
    )


def _waiting(upstream: Upstream) -> str | None:
    """What its requests wait for, if they do for a credential."""
    return None if upstream.has_valid_credential else upstream.renewal().waiting


def _credential(upstream: Upstream | None) -> dict[str, Any]:
    """What is known of the credential: `state` is None before the first one."""
    if upstream is None:
        return {"kind": None, "expires_at": None, "state": None, "last_words": None, "problem": None}
    known, renewal = upstream.known_credential, upstream.renewal()
    state = None if known is None else "valid" if upstream.has_valid_credential else "ended"
    return {
        "kind": upstream.credential_kind(known),
        "expires_at": format_timestamp(known.expires_at) if known is not None else None,
        "state": renewal.waiting or state,
        "last_words": renewal.last_words or None if renewal.waiting else None,
        "problem": _told(renewal.problem) if renewal.problem else None,
    }


def _is_stream(request: RelayedRequest) -> bool:
    """Whether it ends when its user ends it."""
    info = request.downstream.exchange.info
    return request.downstream.head.is_upgrade or (info is not None and info.is_long_running)


def _url(served: Served, listener: Listener) -> str:
    return served.url("https" if listener.is_tls else "http", int(listener.name.rpartition(":")[2]))


def _told(message: str) -> str:
    """Errors name no secret; what others put into them may look like one all the same."""
    shown = hide_secrets(message)
    return shown if len(shown) <= _MAX_ERROR else shown[: _MAX_ERROR - 1] + "…"

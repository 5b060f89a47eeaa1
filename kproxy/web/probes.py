"""kproxy's own endpoints, below `/-/` on every listener: health for probes, status for people and programs.

What tells of clusters is answered where `--admin` says: on loopback and unix sockets, on unix sockets only,
or nowhere. Looking changes nothing: no context is opened, no credential renewed; only `readyz` asks the API
servers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qs

import structlog

from kproxy.errors import BadRequest, KproxyError, NotServed, spelt_out
from kproxy.gateway.client import Downstream, Waiting
from kproxy.gateway.origin import Route
from kproxy.gateway.router import PREFIX
from kproxy.telemetry.log import hide_secrets
from kproxy.upstream.table import Upstreams
from kproxy.web.overview import Overview
from kproxy.web.readiness import Readiness

PROBES: Mapping[str, str] = {
    "healthz": "200 while kproxy runs, also while it shuts down.",
    "readyz": "200 when the API servers in use answer and take the credentials, else 503; `?verbose` says "
    "which, `?exclude=CONTEXT` leaves one out.",
}
ADMIN: Mapping[str, str] = {
    "status": "What runs here, as JSON: contexts, credentials and their ends, last errors, streams, totals.",
    "metrics": "The same in numbers, for Prometheus.",
    "contexts": "The contexts that are served, and their URLs.",
}
ENDPOINTS: Mapping[str, str] = {**PROBES, **ADMIN}
"""All that there is, and what each says; `/-/` itself lists them."""

_DRAIN_SECONDS = 1.0

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_NOT_KEPT = (("Cache-Control", "no-store"),)
_COMMON = (
    *_NOT_KEPT,
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Proxy-Status", "kproxy"),
)

_log = structlog.get_logger()


_Fields = tuple[tuple[str, str], ...]
_Answer = tuple[int, str, bytes, _Fields]
"""Status, media type, body, more fields."""


class Endpoints:
    """Answers what is below `/-/`."""

    def __init__(
        self,
        *,
        admin: str,
        overview: Overview,
        upstreams: Upstreams,
        readiness: Readiness,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`admin`: off, loopback or socket."""
        self._admin = admin
        self._overview = overview
        self._upstreams = upstreams
        self._readiness = readiness
        self._loop = loop
        self._running: set[asyncio.Task[None]] = set()
        self.is_draining = False

    def begin(self, downstream: Downstream, route: Route) -> None:
        """Answer a request whose path begins with PREFIX."""
        head, only = downstream.head, route.only
        path, _, query = head.target.partition("?")
        name = path.removeprefix(PREFIX)
        is_admin = self._answers_admin(downstream)
        known: Mapping[str, str] = {}
        if self._admin != "off":
            known = {**PROBES, **(ADMIN if is_admin else {})}
            if only is not None:
                known.pop("metrics", None)
        if self._admin == "off" or (name and name not in known):
            downstream.refuse(NotServed(self._refusal(name, known, only)), _NOT_KEPT)
        elif head.method not in ("GET", "HEAD"):
            error = BadRequest(f"{PREFIX}{name} is for GET and HEAD, not {head.method}", 405)
            downstream.refuse(error, (("Allow", "GET, HEAD"), *_NOT_KEPT))
        elif name == "healthz":
            self._send(downstream, 200, _TEXT, b"ok\n")
        elif name == "readyz":
            self._run(downstream, self._check_readiness(query, only))
        elif name == "metrics":
            self._run(downstream, self._write_metrics(head.text(b"accept") or ""))
        elif name == "status":
            self._send_json(downstream, self._status(downstream, only))
        elif name == "contexts":
            self._send_json(downstream, {"contexts": self._overview.contexts(downstream.listener, only)})
        elif is_admin and "text/html" in (head.text(b"accept") or ""):
            self._send_page(downstream, known, only)
        else:
            self._send_json(
                downstream, {"endpoints": {PREFIX + each: about for each, about in known.items()}}
            )

    def _answers_admin(self, downstream: Downstream) -> bool:
        listener = downstream.listener
        return listener.kind == "unix" if self._admin == "socket" else listener.is_local

    def _status(self, downstream: Downstream, only: str | None) -> dict[str, Any]:
        return self._overview.status(downstream.listener, only, is_draining=self.is_draining)

    def _refusal(self, name: str, known: Mapping[str, str], only: str | None) -> str:
        if self._admin == "off":
            return f"nothing is served below {PREFIX}; --admin=off turned it off"
        shown = ", ".join(PREFIX + each for each in known)
        if name == "metrics" and only is not None:
            return (
                f"{PREFIX}{name} tells of all contexts and is not served at the origin of one; use localhost"
            )
        if name in ADMIN:
            where = "unix sockets" if self._admin == "socket" else "loopback addresses and unix sockets"
            return f"{PREFIX}{name} is served on {where} only (--admin={self._admin}); here are {shown}"
        return f"there is no such endpoint below {PREFIX}; there are {shown}"

    # -- answers --

    def _send(
        self,
        downstream: Downstream,
        status: int,
        media_type: str,
        body: bytes,
        fields: _Fields = (),
    ) -> None:
        reason = {200: "OK", 503: "Service Unavailable"}[status]
        is_head = downstream.head.method == "HEAD"
        all_fields = (("Content-Type", media_type), *_COMMON, *fields)
        downstream.answer(status, reason, all_fields, body, sends_body=not is_head)

    def _send_json(self, downstream: Downstream, document: object) -> None:
        self._send(downstream, 200, _JSON, json.dumps(document, indent=2).encode() + b"\n")

    def _send_page(self, downstream: Downstream, known: Mapping[str, str], only: str | None) -> None:
        # Imported here: most instances are never looked at in a browser.
        from kproxy.web.statuspage import CONTENT_SECURITY_POLICY, render

        endpoints = {PREFIX + each: about.replace("`", "") for each, about in known.items()}
        page = render(self._status(downstream, only), self._overview.streams(only), endpoints)
        fields = (
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
            ("Referrer-Policy", "no-referrer"),
            ("Vary", "Accept"),
        )
        self._send(downstream, 200, "text/html; charset=utf-8", page.encode("utf-8", "replace"), fields)

    def _run(self, downstream: Downstream, making: Coroutine[Any, Any, _Answer]) -> None:
        """Send what `making` makes when it is ready; nobody else waits for it meanwhile."""
        waiting = Waiting(downstream)
        downstream.run(self._respond(downstream, making, waiting), waiting)

    async def _respond(
        self, downstream: Downstream, making: Coroutine[Any, Any, _Answer], waiting: Waiting
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            answer = await making
        except Exception:
            _log.exception("internal.failed", exchange_id=downstream.exchange.exchange_id)
            if not waiting.is_gone:
                downstream.refuse(KproxyError("kproxy failed on this request; its log says more"))
        else:
            if not waiting.is_gone:
                self._send(downstream, *answer)
        finally:
            self._running.discard(task)

    async def _write_metrics(self, accept: str) -> _Answer:
        # Imported here, and in the thread: with prometheus_client it takes as long as all the rest of kproxy.
        def render() -> tuple[bytes, str]:
            from kproxy.web import exposition

            return exposition.render(scrape, accept)

        scrape = self._overview.scrape()
        body, media_type = await self._loop.run_in_executor(None, render)
        return 200, media_type, body, (("Vary", "Accept"),)

    async def _check_readiness(self, query: str, only: str | None) -> _Answer:
        asked = parse_qs(query, keep_blank_values=True)
        excluded = set(asked.get("exclude", ()))
        wanted = [served.name for served in self._upstreams.served if only in (None, served.name)]
        upstreams = {
            each.name: each
            for each in self._upstreams.opened()
            if each.name in wanted and each.name not in excluded
        }
        verdicts = dict(
            zip(upstreams, await asyncio.gather(*map(self._readiness.check, upstreams.values())), strict=True)
        )
        is_ready = not self.is_draining and all(verdict.is_ready for verdict in verdicts.values())
        lines = ["[-]kproxy failed: it is shutting down" if self.is_draining else "[+]kproxy ok"]
        for name in wanted:
            verdict = verdicts.get(name)
            shown = f"context {json.dumps(name)}"
            if name in excluded:
                lines.append(f"[ ]{shown} excluded")
            elif verdict is None:
                lines.append(f"[ ]{shown} not opened")
            else:
                lines.append(
                    f"[+]{shown} ok" if verdict.is_ready else f"[-]{shown} failed: {_told(verdict.problem)}"
                )
        lines.append(f"readyz check {'passed' if is_ready else 'failed'}")
        body = "\n".join(lines) if "verbose" in asked or not is_ready else "ok"
        return 200 if is_ready else 503, _TEXT, body.encode() + b"\n", ()

    # -- its end --

    async def drain(self) -> None:
        """Not ready from now on, without another look; returns when those who wait have their answers."""
        self.is_draining = True
        self._readiness.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=_DRAIN_SECONDS)

    async def close(self) -> None:
        """End what is being waited for. Idempotent."""
        self._readiness.stop()
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self._readiness.close()


def _told(problem: str | None) -> str:
    """One line of plain text."""
    return spelt_out(" ".join(hide_secrets(problem or "").split()))

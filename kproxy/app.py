"""Who answers a request: the guards, then the prefix table (static pages, the API), then the path filters.

Everything that only depends on method and target is decided once and remembered in a `Route`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from kproxy.downstream import Downstream
from kproxy.errors import BadRequest, KproxyError, NotServed
from kproxy.headers import map_target, quote_target
from kproxy.policy import Policy
from kproxy.relay import Relay
from kproxy.requestinfo import RequestInfo, cleaned_target, parse
from kproxy.upstream.upstreams import Upstreams
from kproxy.wire import Field, RequestHead

if TYPE_CHECKING:
    from kproxy.pages import LocalConnection, StaticFiles

_MAX_ROUTES = 1024
_MAX_REMEMBERED_TARGET = 512

_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """What was decided for a method and target: refused, or its path behind the API prefix and what it is."""

    refusal: KproxyError | None
    target: str = ""
    info: RequestInfo | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefixes:
    """Where things are mounted; both begin and end with a slash. A prefix in /api stays in the target."""

    api: str
    www: str | None


class App:
    """The middle of the house: every request of every listener passes `dispatch`."""

    def __init__(
        self,
        *,
        policy: Policy,
        prefixes: Prefixes,
        relay: Relay,
        upstreams: Upstreams,
        static_root: str | None,
        follows_symlinks: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._policy = policy
        self._prefixes = prefixes
        self._relay = relay
        self._upstreams = upstreams
        self._static_root = static_root
        self._follows_symlinks = follows_symlinks
        self._static_files: StaticFiles | None = None
        self._loop = loop
        self._routes: dict[tuple[str, str, bool], Route] = {}
        self._accepted_hosts: set[str] = set()

    def dispatch(self, downstream: Downstream, head: RequestHead) -> None:
        """Answer, relay or refuse the request at hand."""
        try:
            self._dispatch(downstream, head)
        except KproxyError as error:
            downstream.refuse(error)
        except Exception:
            _log.exception("internal.failed", exchange_id=downstream.exchange.exchange_id)
            if downstream.exchange.status:
                downstream.abort()
            else:
                downstream.refuse(KproxyError("kproxy failed on this request; its log says more"))

    def _dispatch(self, downstream: Downstream, head: RequestHead) -> None:
        if head.host not in self._accepted_hosts:
            self._check_host(head.host)
        extra_fields = b""
        names = head.names
        if b"origin" in names or b"sec-fetch-site" in names:
            extra = self._check_browser(downstream, head)
            if extra is None:
                return
            extra_fields = extra
        key = (head.method, head.target, head.is_upgrade)
        route = self._routes.get(key)
        if route is None:
            if self._answer_page(downstream, head):
                return
            route = self._decide(head)
            self._remember(key, route)
        upstream = self._upstreams.default
        exchange = downstream.exchange
        exchange.context = upstream.name
        exchange.info = route.info
        if route.refusal is not None:
            raise route.refusal
        base_path = upstream.base_path
        target = map_target(route.target, base_path) if base_path else route.target
        self._relay.begin(downstream, upstream, target, extra_fields)

    def _remember(self, key: tuple[str, str, bool], route: Route) -> None:
        if len(key[1]) > _MAX_REMEMBERED_TARGET:
            return
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[key] = route

    # -- guards --

    def _check_host(self, host: str | None) -> None:
        denied = self._policy.check_host(host)
        if denied is not None:
            raise denied
        if host is not None and len(self._accepted_hosts) < _MAX_ROUTES:
            self._accepted_hosts.add(host)

    def _check_browser(self, downstream: Downstream, head: RequestHead) -> bytes | None:
        """The CORS lines for the answer; None when it was a preflight, which is answered here."""
        origin = head.text(b"origin")
        denied = self._policy.check_browser(
            method=head.method,
            host=head.host,
            origin=origin,
            fetch_site=head.text(b"sec-fetch-site"),
            fetch_mode=head.text(b"sec-fetch-mode"),
            fetch_dest=head.text(b"sec-fetch-dest"),
            is_upgrade=head.is_upgrade,
        )
        if denied is not None:
            raise denied
        if origin is None or not self._policy.allows_origin(origin):
            return b""
        if head.method == "OPTIONS" and b"access-control-request-method" in head.names:
            self._answer_preflight(downstream, head, origin)
            return None
        return f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n".encode("latin-1")

    def _answer_preflight(self, downstream: Downstream, head: RequestHead, origin: str) -> None:
        """Fetch standard, CORS-preflight: what was asked for is allowed, without credentials mode."""
        fields = [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Methods", head.text(b"access-control-request-method") or "GET"),
            ("Access-Control-Max-Age", "600"),
            ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
            ("Proxy-Status", "kproxy"),
        ]
        wanted = head.text(b"access-control-request-headers")
        if wanted:
            fields.append(("Access-Control-Allow-Headers", wanted))
        if head.text(b"access-control-request-private-network") == "true":
            fields.append(("Access-Control-Allow-Private-Network", "true"))
        downstream.answer(204, "No Content", tuple(fields), b"")

    # -- routes --

    def _decide(self, head: RequestHead) -> Route:
        if head.method in ("CONNECT", "TRACE"):
            return Route(BadRequest(f"{head.method} is not relayed", 405))
        target = self._strip(head.target)
        if target is None:
            api = self._prefixes.api
            return Route(NotServed(f"nothing is served at {_shown(head.target)}; the API is at {api}"))
        path = target.partition("?")[0]
        info = parse(head.method, target, is_upgrade=head.is_upgrade)
        return Route(self._policy.check_request(head.method, path), target, info)

    def _strip(self, target: str) -> str | None:
        """The target as the API server knows it, None when it is outside the API prefix."""
        prefix = self._prefixes.api
        if prefix == "/":
            return target
        if not target.startswith(prefix):
            return None
        # kubectl's rule: a prefix that begins with /api is part of the path, any other only marks it.
        return target if prefix.startswith("/api") else target[len(prefix) - 1 :]

    def _answer_page(self, downstream: Downstream, head: RequestHead) -> bool:
        """Answer redirects and static pages. False when the request is for the API."""
        target = head.target
        path, question, query = target.partition("?")
        if "%" in path and _bad_escape(path):
            raise BadRequest("the path has a '%' that two hexadecimal digits do not follow")
        location = cleaned_target(target)
        if location is None and path + "/" in (self._prefixes.api, self._prefixes.www):
            location = path + "/" + question + query
        if location is not None and head.method != "CONNECT":
            self._redirect(downstream, head, location)
            return True
        www = self._prefixes.www
        if www is None or not path.startswith(www) or (www == "/" and path.startswith(self._prefixes.api)):
            return False
        self._serve_static(downstream, head)
        return True

    def _redirect(self, downstream: Downstream, head: RequestHead, location: str) -> None:
        """To the cleaned path. A 301 would let a client turn its POST into a GET (RFC 9110, 15.4.2)."""
        status, reason = (
            (301, "Moved Permanently") if head.method in ("GET", "HEAD") else (308, "Permanent Redirect")
        )
        fields = (("Location", quote_target(location)), ("Proxy-Status", "kproxy"))
        downstream.answer(status, reason, fields, b"")

    # -- static pages --

    def _serve_static(self, downstream: Downstream, head: RequestHead) -> None:
        # Imported here: aiohttp takes longer to import than kproxy takes to start.
        from kproxy.pages import LocalConnection

        assert downstream.transport is not None
        connection = LocalConnection(self._loop, downstream.transport)
        if downstream.is_write_paused:
            connection.pause_writing()
        downstream.run(self._respond(downstream, head, connection), _PageHandler(downstream, connection))

    async def _respond(self, downstream: Downstream, head: RequestHead, connection: LocalConnection) -> None:
        from pathlib import Path

        from kproxy.pages import StaticFiles, respond

        if self._static_files is None:
            assert self._static_root is not None
            assert self._prefixes.www is not None
            self._static_files = StaticFiles(
                Path(self._static_root), self._prefixes.www, follow_symlinks=self._follows_symlinks
            )
        exchange = downstream.exchange
        try:
            answered = await respond(self._static_files, head, connection, keep_alive=downstream.keeps_alive)
        except ConnectionError:
            downstream.abort()
            return
        except Exception:
            _log.exception("internal.failed", exchange_id=exchange.exchange_id)
            downstream.abort()
            return
        exchange.status = answered.status
        exchange.proxy_error = answered.proxy_error
        exchange.bytes_out = answered.body_bytes
        downstream.finish(keep_alive=answered.keep_alive)


class _PageHandler:
    """Passes on to aiohttp what the transport says while a page is being written."""

    def __init__(self, downstream: Downstream, connection: LocalConnection) -> None:
        self._downstream = downstream
        self._connection = connection

    def on_request_body(self, data: bytes) -> None:
        """No page takes a body."""

    def on_request_end(self, trailers: list[Field]) -> None: ...

    def on_request_broken(self, error: BadRequest) -> None:
        self._downstream.abort()

    def on_downstream_lost(self) -> None:
        self._connection.connection_lost(None)
        self._downstream.exchange.proxy_error = "connection_terminated"
        self._downstream.finish(keep_alive=False)

    def on_downstream_paused(self) -> None:
        self._connection.pause_writing()

    def on_downstream_resumed(self) -> None:
        self._connection.resume_writing()


def _shown(target: str) -> str:
    return repr(target.partition("?")[0][:200])

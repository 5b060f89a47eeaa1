"""Who answers a request: the guards, our own endpoints, the context by host or path, then the prefix table
(static pages, the API), then the path filters.

Everything that only depends on host, method and target is decided once and remembered in a `Site` and a
`Route`, until the table of contexts changes.
"""

from __future__ import annotations

import asyncio
import re
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kproxy.errors import BadRequest, KproxyError, NavigationDenied, NotServed, proxy_status
from kproxy.gateway.client import Downstream, Waiting
from kproxy.gateway.relay import Relay
from kproxy.http.forwarding import map_target, quote_target
from kproxy.http.heads import RequestHead
from kproxy.kube.contexts import label_of, split_path, unknown
from kproxy.kube.requestinfo import RequestInfo, cleaned_target, parse
from kproxy.policy.policy import Policy
from kproxy.upstream.table import Seat, Upstreams
from kproxy.web.probes import PREFIX, Endpoints

if TYPE_CHECKING:
    from kproxy.web.static import LocalConnection, StaticFiles

_MAX_ROUTES = 1024
_MAX_REMEMBERED_TARGET = 512

_OF_BROWSERS = (
    b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user", b"sec-purpose",
)  # fmt: skip

_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """What was decided for a host, method and target: refused, or whose it is, its path behind the prefixes
    and what it is about.
    """

    seat: Seat | None
    """None when no context was found."""
    refusal: KproxyError | None
    target: str = ""
    info: RequestInfo | None = None
    prefix: bytes = b""
    """What the path had before it, which redirects of the API server need again."""
    base_path: str = ""
    """The path of the server URL, as far as it was known; the decision counts for no other."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """What a Host stands for; requests of one site share routes. `origin_of` is the context that it is an
    origin of, None for the names of this machine: they stand for the default context and /clusters/.
    """

    origin_of: Seat | None


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
        endpoints: Endpoints,
        static_root: str | None,
        follows_symlinks: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._policy = policy
        self._prefixes = prefixes
        self._relay = relay
        self._upstreams = upstreams
        self._endpoints = endpoints
        self._static_root = static_root
        self._follows_symlinks = follows_symlinks
        self._static_files: StaticFiles | None = None
        self._loop = loop
        self._table = upstreams.table
        self._sites: dict[str | None, Site] = {}
        self._names_of_machine = Site(None)
        self._routes: dict[tuple[Site, str, str, bool], Route] = {}

    def apply(self, policy: Policy) -> None:
        """Judge every request that begins from now on by `policy`, whatever was decided before."""
        self._policy = policy
        self._sites.clear()
        self._routes.clear()

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
        table = self._upstreams.table
        if table is not self._table:
            self._table = table
            self._sites.clear()
            self._routes.clear()
        site = self._sites.get(head.host)
        if site is None:
            site = self._find_site(head.host)
        names = head.names
        if b"origin" in names or b"sec-fetch-site" in names:
            extra = self._check_browser(downstream, head, site)
            if extra is None:
                return
            downstream.extra_fields = extra
        key = (site, head.method, head.target, head.is_upgrade)
        route = self._routes.get(key)
        if route is None:
            found = self._find_route(downstream, head, site)
            if found is None:
                return
            route = found
            self._remember(key, route)
        exchange = downstream.exchange
        seat = route.seat
        if seat is not None:
            exchange.context = seat.served.name
        exchange.info = route.info
        if seat is None or route.refusal is not None:
            assert route.refusal is not None
            # Not raised: an exception that is kept would keep every frame it was raised through.
            downstream.refuse(route.refusal)
            return
        upstream = seat.upstream or self._upstreams.open(seat)
        base_path = upstream.base_path
        if base_path != route.base_path:
            self._routes.pop(key, None)
            self._dispatch(downstream, head)
            return
        target = map_target(route.target, base_path) if base_path else route.target
        self._relay.begin(downstream, upstream, target, route.prefix)

    def _remember(self, key: tuple[Site, str, str, bool], route: Route) -> None:
        if len(key[2]) > _MAX_REMEMBERED_TARGET:
            return
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[key] = route

    # -- guards --

    def _find_site(self, host: str | None) -> Site:
        """Whose origin a Host is. Raises Denied and UnknownContext."""
        table = self._table
        label = label_of(host) if host is not None else None
        seat = table.by_slug.get(label) if label is not None else None
        if seat is not None:
            # Not a matter of --accept-hosts: nobody can rebind a name below localhost (RFC 6761, 6.3).
            site = next((each for each in self._sites.values() if each.origin_of is seat), Site(seat))
        else:
            if label is not None and label in table.gone:
                raise unknown(f'context "{table.gone[label]}" is not served any more', table.served)
            if label is not None and table.has_paths:
                # Also with --disable-filter: what was meant for one cluster must not reach another.
                raise unknown(
                    f"Host {_shown(f'{label}.localhost')} is the origin of no context", table.served
                )
            denied = self._policy.check_host(host)
            if denied is not None:
                raise denied
            site = self._names_of_machine
        if len(self._sites) < _MAX_ROUTES:
            self._sites[host] = site
        return site

    def _check_browser(self, downstream: Downstream, head: RequestHead, site: Site) -> bytes | None:
        """The CORS lines for the answer; None when the answer was given here: to a preflight, or a page with
        a link. Raises Denied and BadRequest.
        """
        for name in _OF_BROWSERS if len(head.names) < len(head.fields) else ():
            if len(head.all_of(name)) > 1:
                # Whoever looks at the first would judge another request than who looks at the last.
                raise BadRequest(f"there is more than one {name.decode().title()} header")
        origin = head.text(b"origin")
        denied = self._policy.check_browser(
            method=head.method,
            path=head.path,
            host=head.host,
            origin=origin,
            fetch_site=head.text(b"sec-fetch-site"),
            fetch_mode=head.text(b"sec-fetch-mode"),
            fetch_dest=head.text(b"sec-fetch-dest"),
            fetch_user=head.text(b"sec-fetch-user"),
            purpose=head.text(b"sec-purpose"),
            is_upgrade=head.is_upgrade,
            is_tls=downstream.listener.is_tls,
            own_pages_only=site.origin_of is not None or self._is_of_context(origin),
        )
        if isinstance(denied, NavigationDenied):
            self._offer_link(downstream, head, denied)
            return None
        if denied is not None:
            raise denied
        if origin is None or not self._policy.allows_origin(origin):
            return b""
        if head.method == "OPTIONS" and b"access-control-request-method" in head.names:
            self._answer_preflight(downstream, head, origin)
            return None
        return f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n".encode("latin-1")

    def _is_of_context(self, origin: str | None) -> bool:
        """Whether a page belongs to the origin of a context: it may not use what other contexts have."""
        label = label_of(origin.partition("://")[2]) if origin is not None else None
        table = self._table
        return label is not None and (table.has_paths or label in table.by_slug or label in table.gone)

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

    def _offer_link(self, downstream: Downstream, head: RequestHead, denied: NavigationDenied) -> None:
        # Imported here: most instances are never looked at in a browser.
        from kproxy.web.linkpage import FIELDS, render

        page = render(denied.message, head.target).encode()
        downstream.exchange.proxy_error = denied.proxy_error
        fields = (*FIELDS, ("Proxy-Status", proxy_status(denied)))
        downstream.answer(denied.status, "Forbidden", fields, page)

    # -- routes --

    def _find_route(self, downstream: Downstream, head: RequestHead, site: Site) -> Route | None:
        """Where the request goes; None when a redirect or a page was the answer. Raises BadRequest."""
        path = head.target.partition("?")[0]
        if path == "*":
            # About this server itself (RFC 9110, 9.3.7); Go's answers it, too.
            downstream.answer(200, "OK", (("Proxy-Status", "kproxy"),), b"")
            return None
        if "%" in path and _bad_escape(path):
            raise BadRequest("the path has a '%' that two hexadecimal digits do not follow")
        location = cleaned_target(head.target)
        if location is not None and head.method != "CONNECT":
            self._redirect(downstream, head, location)
            return None
        if path + "/" == PREFIX:
            self._redirect(downstream, head, PREFIX + head.target[len(path) :])
            return None
        if path.startswith(PREFIX):
            # At a context's own origin they tell of that context, too, and of no other.
            self._endpoints.answer(downstream, head, site.origin_of.served.name if site.origin_of else None)
            return None
        table = self._table
        seat, prefix, target = site.origin_of or table.default, "", head.target
        # At a context's own origin every path is that context's: a page there asks for no other one.
        if site.origin_of is None and table.has_paths and (place := split_path(target)) is not None:
            found = table.at_path(place.name)
            if found is None:
                return Route(None, unknown(f"no context is served at {_shown(head.target)}", table.served))
            seat, prefix, target = found, place.prefix, place.rest
            if not place.is_complete:
                self._redirect(downstream, head, prefix + target)
                return None
        if self._answer_page(downstream, head, prefix, target):
            return None
        return self._decide(head, seat, prefix, target)

    def _decide(self, head: RequestHead, seat: Seat, prefix: str, target: str) -> Route:
        """Judge what is behind the prefix of the context: it leads to no API server but that one's."""
        if head.method in ("CONNECT", "TRACE"):
            return Route(seat, BadRequest(f"{head.method} is not relayed", 405))
        stripped = self._strip(target)
        if stripped is None:
            api = self._prefixes.api
            return Route(seat, NotServed(f"nothing is served at {_shown(head.target)}; the API is at {api}"))
        path = stripped.partition("?")[0]
        info = parse(head.method, stripped, is_upgrade=head.is_upgrade)
        # An --api-prefix stands in nobody's redirects, as in kubectl, but for those below /clusters/.
        mount = prefix + target[: len(target) - len(stripped)] if prefix else ""
        base_path = seat.upstream.base_path if seat.upstream is not None else ""
        refusal = self._policy.check_request(head.method, path, base_path)
        if refusal is None and self._prefixes.api.startswith("/api"):
            refusal = self._policy.check_prefix(path, self._prefixes.api)
        return Route(seat, refusal, stripped, info, mount.encode("latin-1"), base_path)

    def _strip(self, target: str) -> str | None:
        """The target as the API server knows it, None when it is outside the API prefix."""
        prefix = self._prefixes.api
        if prefix == "/":
            return target
        if not target.startswith(prefix):
            return None
        # kubectl's rule: a prefix that begins with /api is part of the path, any other only marks it.
        return target if prefix.startswith("/api") else target[len(prefix) - 1 :]

    def _answer_page(self, downstream: Downstream, head: RequestHead, prefix: str, target: str) -> bool:
        """Answer redirects and static pages. False when the request is for the API."""
        path, question, query = target.partition("?")
        if path + "/" in (self._prefixes.api, self._prefixes.www) and head.method != "CONNECT":
            self._redirect(downstream, head, f"{prefix}{path}/{question}{query}")
            return True
        www = self._prefixes.www
        if www is None or not path.startswith(www) or (www == "/" and path.startswith(self._prefixes.api)):
            return False
        if prefix:
            head = copy(head)
            head.target = target
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
        from kproxy.web.static import LocalConnection

        assert downstream.transport is not None
        connection = LocalConnection(self._loop, downstream.transport)
        if downstream.is_write_paused:
            connection.pause_writing()
        downstream.run(self._respond(downstream, head, connection), _PageHandler(downstream, connection))

    async def _respond(self, downstream: Downstream, head: RequestHead, connection: LocalConnection) -> None:
        from kproxy.web.static import StaticFiles, respond

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


class _PageHandler(Waiting):
    """Passes on to aiohttp what the transport says while a page is being written. No page takes a body."""

    def __init__(self, downstream: Downstream, connection: LocalConnection) -> None:
        super().__init__(downstream)
        self._connection = connection

    def on_downstream_lost(self) -> None:
        self._connection.connection_lost(None)
        super().on_downstream_lost()

    def on_downstream_paused(self) -> None:
        self._connection.pause_writing()

    def on_downstream_resumed(self) -> None:
        self._connection.resume_writing()


def _shown(target: str) -> str:
    return repr(target.partition("?")[0][:200])

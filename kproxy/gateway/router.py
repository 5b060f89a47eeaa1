"""Who answers a request: the guards, our own endpoints, the context by host or path, then the prefix table
(static pages, the API), then the path filters.

Everything that only depends on host, method and target is decided once and remembered in a `Site` and a
`Route`, until the table of contexts changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import structlog

from kproxy.errors import BadRequest, KproxyError, NavigationDenied, NotServed
from kproxy.gateway.client import Downstream
from kproxy.gateway.origin import Origin, Route
from kproxy.gateway.replies import Preflights, Redirects, Refusals, Server
from kproxy.http.heads import RequestHead
from kproxy.kube.contexts import label_of, split_path, unknown
from kproxy.kube.requestinfo import RequestInfo, cleaned_target, parse
from kproxy.policy.policy import Policy
from kproxy.upstream.table import Seat, Upstreams

PREFIX = "/-/"
"""Of what kproxy answers itself, on every listener."""

_MAX_ROUTES = 1024
_MAX_REMEMBERED_TARGET = 512

_OF_BROWSERS = (
    b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user", b"sec-purpose",
)  # fmt: skip

_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search

_log = structlog.get_logger()


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


class Router:
    """The middle of the house: every request of every listener passes `dispatch`."""

    def __init__(
        self,
        *,
        policy: Policy,
        prefixes: Prefixes,
        upstreams: Upstreams,
        api: Origin,
        own: Origin,
        www: Origin | None,
        links: Origin,
    ) -> None:
        """`api` answers what is for a context, `own` what is below PREFIX, `www` what is below the prefix of
        static files, and `links` windows that another site has sent here.
        """
        self._policy = policy
        self._prefixes = prefixes
        self._upstreams = upstreams
        self._api = api
        self._own = own
        self._www = www
        self._links = links
        self._refusals = Refusals()
        self._redirects = Redirects()
        self._server = Route(Server())
        self._preflight = Route(Preflights())
        self._table = upstreams.table
        self._sites: dict[str | None, Site] = {}
        self._names_of_machine = Site(None)
        self._routes: dict[tuple[Site, str, str, bool], Route] = {}

    def apply(self, policy: Policy) -> None:
        """Judge every request that begins from now on by `policy`, whatever was decided before."""
        self._policy = policy
        self._sites.clear()
        self._routes.clear()

    def dispatch(self, call: Downstream, head: RequestHead) -> None:
        """Find out who answers the request at hand, and have it answered."""
        try:
            if self._upstreams.table is not self._table:
                self._forget()
            site = self._sites.get(head.host) or self._find_site(head.host)
            names = head.names
            route = None
            if b"origin" in names or b"sec-fetch-site" in names:
                route = self._check_browser(call, head, site)
            if route is None:
                key = (site, head.method, head.target, head.is_upgrade)
                route = self._routes.get(key) or self._remember(key, self._decide(head, site))
                seat = route.seat
                if seat is not None and route.refusal is None:
                    upstream = seat.upstream or self._upstreams.open(seat)
                    if upstream.base_path != route.base_path:
                        # It was not open when this was decided, or is open with other settings.
                        route = self._remember(key, self._decide(head, site))
            exchange = call.exchange
            if route.seat is not None:
                exchange.context = route.seat.served.name
            exchange.info = route.info
            route.origin.begin(call, route)
        except KproxyError as error:
            call.refuse(error)
        except Exception:
            _log.exception("internal.failed", exchange_id=call.exchange.exchange_id)
            if call.exchange.status:
                call.abort()
            else:
                call.refuse(KproxyError("kproxy failed on this request; its log says more"))

    def _forget(self) -> None:
        """The table of contexts has changed."""
        self._table = self._upstreams.table
        self._sites.clear()
        self._routes.clear()

    def _remember(self, key: tuple[Site, str, str, bool], route: Route) -> Route:
        if len(key[2]) <= _MAX_REMEMBERED_TARGET:
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[key] = route
        return route

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

    def _check_browser(self, call: Downstream, head: RequestHead, site: Site) -> Route | None:
        """The route of a preflight, or of a window that another site has sent here; None to go on with the
        request, whose answer has CORS lines then. Raises Denied and BadRequest.
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
            is_tls=call.listener.is_tls,
            own_pages_only=site.origin_of is not None or self._is_of_context(origin),
        )
        if isinstance(denied, NavigationDenied):
            return Route(self._links, refusal=denied)
        if denied is not None:
            raise denied
        if origin is None or not self._policy.allows_origin(origin):
            return None
        if head.method == "OPTIONS" and b"access-control-request-method" in head.names:
            return self._preflight
        call.extra_fields = f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n".encode("latin-1")
        return None

    def _is_of_context(self, origin: str | None) -> bool:
        """Whether a page belongs to the origin of a context: it may not use what other contexts have."""
        label = label_of(origin.partition("://")[2]) if origin is not None else None
        table = self._table
        return label is not None and (table.has_paths or label in table.by_slug or label in table.gone)

    # -- routes --

    def _decide(self, head: RequestHead, site: Site) -> Route:
        """Where the request goes. Raises BadRequest."""
        path = head.target.partition("?")[0]
        if path == "*":
            return self._server
        if "%" in path and _bad_escape(path):
            raise BadRequest("the path has a '%' that two hexadecimal digits do not follow")
        location = cleaned_target(head.target)
        if location is not None and head.method != "CONNECT":
            return Route(self._redirects, target=location)
        if path + "/" == PREFIX:
            return Route(self._redirects, target=PREFIX + head.target[len(path) :])
        if path.startswith(PREFIX):
            # At a context's own origin they tell of that context, too, and of no other.
            return Route(self._own, only=site.origin_of.served.name if site.origin_of else None)
        table = self._table
        seat, prefix, target = site.origin_of or table.default, "", head.target
        # At a context's own origin every path is that context's: a page there asks for no other one.
        if site.origin_of is None and table.has_paths and (place := split_path(target)) is not None:
            found = table.at_path(place.name)
            if found is None:
                error = unknown(f"no context is served at {_shown(head.target)}", table.served)
                return Route(self._refusals, refusal=error)
            seat, prefix, target = found, place.prefix, place.rest
            if not place.is_complete:
                return Route(self._redirects, target=prefix + target)
        return self._find_page(head, prefix, target) or self._judge(head, seat, prefix, target)

    def _find_page(self, head: RequestHead, prefix: str, target: str) -> Route | None:
        """Static files, and what lacks the slash of a prefix; None when the request is for the API."""
        path, question, query = target.partition("?")
        if path + "/" in (self._prefixes.api, self._prefixes.www) and head.method != "CONNECT":
            return Route(self._redirects, target=f"{prefix}{path}/{question}{query}")
        www = self._prefixes.www
        if www is None or not path.startswith(www) or (www == "/" and path.startswith(self._prefixes.api)):
            return None
        assert self._www is not None
        return Route(self._www, target=target)

    def _judge(self, head: RequestHead, seat: Seat, prefix: str, target: str) -> Route:
        """Judge what is behind the prefix of the context: it leads to no API server but that one's."""
        refusal: KproxyError | None
        if head.method in ("CONNECT", "TRACE"):
            return self._refused(seat, BadRequest(f"{head.method} is not relayed", 405))
        stripped = self._strip(target)
        if stripped is None:
            api = self._prefixes.api
            error = NotServed(f"nothing is served at {_shown(head.target)}; the API is at {api}")
            return self._refused(seat, error)
        path = stripped.partition("?")[0]
        info = parse(head.method, stripped, is_upgrade=head.is_upgrade)
        # An --api-prefix stands in nobody's redirects, as in kubectl, but for those below /clusters/.
        mount = prefix + target[: len(target) - len(stripped)] if prefix else ""
        base_path = seat.upstream.base_path if seat.upstream is not None else ""
        refusal = self._policy.check_request(head.method, path, base_path)
        if refusal is None and self._prefixes.api.startswith("/api"):
            refusal = self._policy.check_prefix(path, self._prefixes.api)
        if refusal is not None:
            return self._refused(seat, refusal, info)
        return Route(self._api, seat, stripped, info, mount.encode("latin-1"), base_path)

    def _refused(self, seat: Seat, refusal: KproxyError, info: RequestInfo | None = None) -> Route:
        return Route(self._refusals, seat, info=info, refusal=refusal)

    def _strip(self, target: str) -> str | None:
        """The target as the API server knows it, None when it is outside the API prefix."""
        prefix = self._prefixes.api
        if prefix == "/":
            return target
        if not target.startswith(prefix):
            return None
        # kubectl's rule: a prefix that begins with /api is part of the path, any other only marks it.
        return target if prefix.startswith("/api") else target[len(prefix) - 1 :]


def _shown(target: str) -> str:
    return repr(target.partition("?")[0][:200])

"""Short answers of our own: refusals, redirects and what browsers ask before they ask."""

from __future__ import annotations

from kproxy.gateway.client import Downstream
from kproxy.gateway.origin import Route
from kproxy.http.forwarding import quote_target

_COMMON = (("Proxy-Status", "kproxy"),)


class Refusals:
    """The origin of what is refused: its route says why."""

    def begin(self, call: Downstream, route: Route) -> None:
        assert route.refusal is not None
        # Not raised: an exception that is kept would keep every frame it was raised through.
        call.refuse(route.refusal)


class Redirects:
    """The origin of paths that are spelt in another way: the route's target is the one that counts."""

    def begin(self, call: Downstream, route: Route) -> None:
        # A 301 would let a client turn its POST into a GET (RFC 9110, 15.4.2).
        status, reason = (
            (301, "Moved Permanently") if call.head.method in ("GET", "HEAD") else (308, "Permanent Redirect")
        )
        call.answer(status, reason, (("Location", quote_target(route.target)), *_COMMON), b"")


class Server:
    """The origin of `OPTIONS *`, which is about this server (RFC 9110, 9.3.7); Go's answers it, too."""

    def begin(self, call: Downstream, route: Route) -> None:
        call.answer(200, "OK", _COMMON, b"")


class Preflights:
    """Fetch standard, CORS-preflight: what was asked for is allowed, without credentials mode."""

    def begin(self, call: Downstream, route: Route) -> None:
        head = call.head
        fields = [
            ("Access-Control-Allow-Origin", head.text(b"origin") or ""),
            ("Access-Control-Allow-Methods", head.text(b"access-control-request-method") or "GET"),
            ("Access-Control-Max-Age", "600"),
            ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
            *_COMMON,
        ]
        wanted = head.text(b"access-control-request-headers")
        if wanted:
            fields.append(("Access-Control-Allow-Headers", wanted))
        if head.text(b"access-control-request-private-network") == "true":
            fields.append(("Access-Control-Allow-Private-Network", "true"))
        call.answer(204, "No Content", tuple(fields), b"")

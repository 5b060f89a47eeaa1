"""The origin of windows that another site has sent here: a page with a link, to go on by hand."""

from __future__ import annotations

from kproxy.errors import proxy_status
from kproxy.gateway.client import Downstream
from kproxy.gateway.origin import Route


class Links:
    """Answers with the page; the route's refusal says why the window was not opened."""

    def begin(self, call: Downstream, route: Route) -> None:
        # Imported here: most instances are never looked at in a browser.
        from kproxy.web.linkpage import FIELDS, render

        denied = route.refusal
        assert denied is not None
        call.exchange.proxy_error = denied.proxy_error
        fields = (*FIELDS, ("Proxy-Status", proxy_status(denied)))
        call.answer(denied.status, "Forbidden", fields, render(denied.message, call.head.target).encode())

"""Who answers a call, and what was decided of it before."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kproxy.errors import KproxyError
from kproxy.gateway.client import Downstream
from kproxy.kube.requestinfo import RequestInfo
from kproxy.upstream.table import Seat


class Origin(Protocol):
    """Answers calls. Each call it has begun ends with `finish` or `abort`."""

    def begin(self, call: Downstream, route: Route) -> None:
        """Answer the request at hand. Raises KproxyError to have the call refused."""


class Route(NamedTuple):
    """What was decided for a request, and not done yet: who answers it, and what that origin has to know."""

    origin: Origin
    seat: Seat | None = None
    """The context that the request is for, None when it is for none."""
    target: str = ""
    """The path behind the prefixes, and the query; of a redirect, where it leads."""
    info: RequestInfo | None = None
    mount: bytes = b""
    """What the path had before `target`, which redirects of the API server need again."""
    base_path: str = ""
    """The path of the server's URL that was counted in; the decision holds for no other."""
    refusal: KproxyError | None = None
    only: str | None = None
    """The context that our own endpoints tell of; None for all."""

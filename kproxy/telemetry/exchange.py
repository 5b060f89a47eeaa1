"""The one mutable record of a request and what became of it: logs, metrics and audit read it at the end."""

from __future__ import annotations

from itertools import count
from time import monotonic

from kproxy.kube.requestinfo import RequestInfo

_ids = count(1)


class Exchange:
    """Filled in while the request passes; `finished_at` is set once, by whoever ends it."""

    __slots__ = (
        "audit_id",
        "bytes_in",
        "bytes_out",
        "client",
        "context",
        "exchange_id",
        "finished_at",
        "info",
        "listener",
        "method",
        "path",
        "proxy_error",
        "started_at",
        "status",
        "upstream_status",
    )

    def __init__(self, method: str, path: str, client: str, listener: str) -> None:
        self.exchange_id = next(_ids)
        self.method = method
        self.path = path
        """Without the query: exec commands and tokens live there."""
        self.client = client
        self.listener = listener
        self.started_at = monotonic()
        self.finished_at: float | None = None
        self.context: str | None = None
        self.info: RequestInfo | None = None
        self.status = 0
        """What the client was answered; 0 when nothing was."""
        self.upstream_status: int | None = None
        self.proxy_error: str | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.audit_id: str | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.exchange_id} {self.method} {self.path} {self.status}>"

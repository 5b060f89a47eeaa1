"""The table of upstreams: which context is served, and how it is exchanged while requests are running."""

from __future__ import annotations

from collections.abc import Callable

from kproxy.kubeconfig import ResolvedContext
from kproxy.upstream.upstream import Upstream


class Upstreams:
    """Owns every upstream, the retired ones until their last answer has ended too."""

    def __init__(
        self, open_upstream: Callable[[ResolvedContext], Upstream], context: ResolvedContext
    ) -> None:
        """Raises KubeconfigError, as `open_upstream` does."""
        self._open = open_upstream
        self._retired: set[Upstream] = set()
        self.default = open_upstream(context)

    def __repr__(self) -> str:
        return f"<Upstreams {self.default!r}, {len(self._retired)} retired>"

    def apply(self, context: ResolvedContext) -> bool:
        """Serve `context` from now on; False when that changes nothing.

        New requests go to the new upstream, running ones stay with the old one until they end. Equal settings
        keep connections, tunnels and credentials; the file of authorities is looked at all the same. Raises
        KubeconfigError and then changes nothing.
        """
        if context == self.default.context:
            return self.default.renew_trust()
        fresh = self._open(context)
        retired, self.default = self.default, fresh
        self._retired.add(retired)
        retired.retire(self._retired.discard)
        return True

    async def close(self) -> None:
        """End every connection and credential source. Idempotent."""
        for upstream in (self.default, *self._retired):
            await upstream.close()
        self._retired.clear()

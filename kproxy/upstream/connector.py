"""How an upstream gets connections: dialled with the TLS of the moment, kept while they can be used again."""

from __future__ import annotations

import asyncio
import ssl

import structlog

from kproxy.errors import KproxyError, KubeconfigError, UpstreamTLSError, UpstreamUnreachable
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.resolve import ServerAddress
from kproxy.telemetry.metrics import Tally
from kproxy.tls.client import client_context
from kproxy.tls.pair import ClientCertificate
from kproxy.upstream.carrier import Carrier
from kproxy.upstream.dial import Dialer
from kproxy.upstream.health import Health
from kproxy.upstream.http1 import UpstreamConnection
from kproxy.upstream.http2.connection import Http2Connection
from kproxy.upstream.pool import Opening, Pool
from kproxy.upstream.vigil import Vigil

_log = structlog.get_logger()

MAX_VAIN_DIALS = 3
"""How many connections in a row may end before they are asked, as those of a server that is restarted do."""


class Connector:
    """Owns the pool, and what its connections are dialled with: `present` says so first, and anew."""

    def __init__(
        self,
        context: ResolvedContext,
        address: ServerAddress,
        dialer: Dialer,
        loop: asyncio.AbstractEventLoop,
        *,
        offers_http2: bool,
        health: Health,
        tally: Tally,
    ) -> None:
        self._context = context
        self._dialer = dialer
        self._loop = loop
        self._tally = tally
        self._pool = Pool(loop, self._explain, health)
        self._vigil = Vigil(loop, self._look_after)
        self._server_hostname = context.cluster.tls_server_name or address.host
        self._is_tls = address.scheme == "https"
        self._offers_http2 = offers_http2
        # What the API server chose last; None before the first connection.
        self._speaks_http2: bool | None = None if self._is_tls and offers_http2 else False
        self._opening: asyncio.Task[Http2Connection | None] | None = None
        self._certificate: ClientCertificate | None = None
        self._ssl_context: ssl.SSLContext | None = None
        self._http1_ssl_context: ssl.SSLContext | None = None
        # Read before the context is made of it: a change in between is then taken for one, not missed.
        self._authority = self._read_authority()

    def __repr__(self) -> str:
        return repr(self._pool)

    @property
    def open_connections(self) -> int:
        """Tunnels not counted."""
        return len(self._pool)

    @property
    def idle_connections(self) -> int:
        return self._pool.idle

    # -- what connections are dialled with --

    def present(self, certificate: ClientCertificate | None) -> bool:
        """Show this certificate, known by identity, on new connections; whether they showed another before.

        Raises KubeconfigError when it or the file of authorities cannot be used.
        """
        if not self._is_tls or (self._ssl_context is not None and certificate is self._certificate):
            return False
        is_renewed = self._ssl_context is not None
        self._renew_ssl_context(certificate)
        return is_renewed

    def renew_trust(self) -> bool:
        """Verify new connections by what certificate-authority holds now; False when that is nothing new.

        Running streams go on. Raises KubeconfigError when the file is of no use, as while it is written;
        what was read before then stays in force (client-go transport/ca_rotation.go).
        """
        authority = self._read_authority()
        if authority is None or authority == self._authority:
            return False
        if not authority:
            cluster = self._context.cluster
            raise KubeconfigError(
                f"{cluster.label}: certificate-authority {cluster.certificate_authority} is empty; "
                "write the authority's certificate to it"
            )
        self._renew_ssl_context(self._certificate)
        self._authority = authority
        return True

    def _renew_ssl_context(self, certificate: ClientCertificate | None) -> None:
        cluster, user = self._context.cluster, self._context.user
        fresh = client_context(cluster, certificate, user, offers_http2=self._offers_http2)
        # Both trust the file of authorities as it is now. The system's authorities take 80 ms to load and do
        # not change: they wait for the first upgrade.
        http1 = None if self._offers_http2 else fresh
        if http1 is None and cluster.certificate_authority is not None:
            http1 = client_context(cluster, certificate, user)
        self._ssl_context = fresh
        self._http1_ssl_context = http1
        self._certificate = certificate
        self._pool.renew(fresh)

    def _read_authority(self) -> bytes | None:
        """The file of authorities, None where it does not count or cannot be read."""
        cluster = self._context.cluster
        if not self._is_tls or cluster.insecure_skip_tls_verify or cluster.certificate_authority is None:
            return None
        try:
            return cluster.certificate_authority.read_bytes()
        except OSError:
            return None

    # -- connections: at once, or None when there is none --

    def idle_carrier(self, *, must_live: bool = False) -> Carrier | None:
        """`must_live`: none that may have died in silence, for a request that cannot be sent twice."""
        return self._pool.take(must_live=must_live)

    # -- those that must be waited for --

    async def living_carrier(self, *, may_ask: bool = True) -> Carrier:
        """One that has not died in silence; `may_ask`: a PING may be waited for to find that out.

        Raises as `open_carrier`.
        """
        if may_ask:
            await self._pool.verify()
        return self._pool.take(must_live=True) or await self.open_carrier(must_live=True)

    async def open_carrier(self, *, must_live: bool = False) -> Carrier:
        """A fresh connection, or a place on one.

        Raises UpstreamUnreachable, UpstreamTLSError or UpstreamTimeout.
        Requests that come together share the first connection, if it turns out to be HTTP/2.
        """
        vain = 0
        while self._speaks_http2 is not False and self._pool.shares:
            if self._opening is None:
                self._opening = self._loop.create_task(self._open_for_all())
                self._opening.add_done_callback(_look_at_error)
            shared = await asyncio.shield(self._opening)
            carrier = self._pool.take(must_live=must_live)
            if carrier is not None:
                return carrier
            if shared is not None and shared.is_idle and shared.opened_with is self._ssl_context:
                vain += 1
                if vain == MAX_VAIN_DIALS:
                    raise self._closed_unasked()
        connection = await self._dial(offers_http2=not self._pool.wants_http1)
        if isinstance(connection, UpstreamConnection):
            return connection
        self._speaks_http2 = True
        stream = connection.open_stream()
        self._pool.share(connection)
        if stream is None:
            raise self._closed_unasked()
        return stream

    async def _open_for_all(self) -> Http2Connection | None:
        """The connection, if it is one that is shared."""
        try:
            connection = await self._dial(offers_http2=True)
        finally:
            # Here, not when the task is done: to await one that is done gives way to nobody.
            self._opening = None
        self._speaks_http2 = isinstance(connection, Http2Connection)
        if isinstance(connection, Http2Connection):
            self._pool.share(connection)
            return connection
        self._pool.put(connection)
        return None

    async def open_connection(self) -> UpstreamConnection:
        """A fresh HTTP/1.1 connection. Raises as `open_carrier`.

        HTTP/2 has no upgrades, and its windows let an upload go on by some 64 KB at a time.
        """
        connection = await self._dial(offers_http2=False)
        if isinstance(connection, Http2Connection):
            connection.retire()
            raise UpstreamTLSError(f'context "{self._context.name}": the API server does not speak HTTP/1.1')
        return connection

    async def open_for_upload(self) -> Carrier:
        """`open_connection` for one upload alone, but HTTP/2 will do where nothing else is spoken.

        An upload that is too long to be sent twice may not meet a connection that ends while it is idle. One
        that is kept afterwards would be no use to the next.
        """
        try:
            connection = await self.open_connection()
        except UpstreamTLSError:
            return await self.living_carrier()
        connection.is_for_one = True
        return connection

    async def _dial(self, *, offers_http2: bool) -> UpstreamConnection | Http2Connection:
        vain = 0
        ended = self._closed_unasked()
        while vain < MAX_VAIN_DIALS:
            ssl_context = self._ssl_context
            try:
                connection = await self._dial_once(
                    self._pool.opening(ssl_context),
                    ssl_context if offers_http2 else self._context_for_http1(),
                )
            except UpstreamTLSError:
                if ssl_context is self._ssl_context:
                    raise
                # Our certificate or the authority was renewed in the meantime, perhaps for this reason.
            except UpstreamUnreachable as error:
                if error.proxy_error != "connection_terminated":
                    raise
                # Nothing was asked yet: a server that stops to listen ends what it has not accepted.
                ended = error
                vain += 1
            else:
                if connection.is_usable:
                    return connection
                vain += 1
        raise ended

    async def _dial_once(
        self, opening: Opening, ssl_context: ssl.SSLContext | None
    ) -> UpstreamConnection | Http2Connection:
        self._tally.dials += 1
        hostname = self._server_hostname if self._is_tls else None
        await self._dialer.dial(lambda: opening, ssl_context, hostname)
        connection = opening.connection
        assert connection is not None
        self._vigil.start()
        return connection

    def _closed_unasked(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f'context "{self._context.name}": the API server closed the connection before it was asked'
        )

    def _context_for_http1(self) -> ssl.SSLContext | None:
        if self._http1_ssl_context is None and self._is_tls:
            cluster, user = self._context.cluster, self._context.user
            self._http1_ssl_context = client_context(cluster, self._certificate, user)
        return self._http1_ssl_context

    def _explain(self, error: Exception) -> KproxyError:
        return self._dialer.explain(error, is_tls=self._is_tls)

    def note_death(self) -> None:
        """A connection was silent when a second one answered."""
        self._pool.probe()

    def _look_after(self, slept_seconds: float) -> bool:
        is_needed = self._pool.look_after(has_slept=slept_seconds > 0)
        if is_needed and slept_seconds:
            _log.info("context.resumed", context=self._context.name, slept_seconds=round(slept_seconds))
        return is_needed

    # -- its end --

    def retire(self) -> None:
        """Keep no connection for later any more; those that carry a request go on."""
        self._pool.retire()

    async def close(self) -> None:
        """End every connection. Idempotent."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._vigil.stop()
        self._pool.close()


def _look_at_error(task: asyncio.Task[Http2Connection | None]) -> None:
    """Who waited for it has it already; perhaps nobody did to the end."""
    if not task.cancelled():
        task.exception()

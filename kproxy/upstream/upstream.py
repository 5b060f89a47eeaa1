"""One context at run time: its credential, its connections, and the fixed parts of every request to it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from kproxy.credentials import ClientCertificate, Credential, CredentialSource
from kproxy.credentials.expiry import format_timestamp
from kproxy.errors import (
    ConfigError,
    CredentialError,
    KproxyError,
    KubeconfigError,
    UpstreamTLSError,
    UpstreamUnreachable,
)
from kproxy.headers import Impersonation, authorization_block
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.kubecontext import ServerAddress
from kproxy.metrics import Tally
from kproxy.tls import client_context
from kproxy.upstream.carrier import Carrier
from kproxy.upstream.connection import UpstreamConnection
from kproxy.upstream.dial import Dialer
from kproxy.upstream.health import Health
from kproxy.upstream.http2.connection import Http2Connection
from kproxy.upstream.pool import Opening, Pool

MAX_VAIN_DIALS = 3
"""How many connections in a row may end before they are asked, as those of a server that is restarted do."""

_log = structlog.get_logger()


class Running(Protocol):
    """A request that uses an upstream, until its answer or its tunnel has ended."""

    def cut_stream(self) -> None:
        """If it would not end by itself, end it now, so that what was answered cannot look complete."""


class Upstream:
    """Owns the pool and the credential source; both end with `close()`."""

    def __init__(
        self,
        context: ResolvedContext,
        address: ServerAddress,
        source: CredentialSource,
        dialer: Dialer,
        loop: asyncio.AbstractEventLoop,
        *,
        appends_server_path: bool,
        cuts_on_rotation: bool,
        offers_http2: bool,
        health: Health,
        tally: Tally | None = None,
    ) -> None:
        """Raises KubeconfigError when the CA or the client certificate at hand cannot be used."""
        self.context = context
        self.name = context.name
        self.tally = tally or Tally()
        self.authority = address.authority.encode("latin-1")
        self.base_path = address.path_prefix if appends_server_path else ""
        self.asks_for_gzip = not context.cluster.disable_compression
        user = context.user
        self.impersonation = (
            Impersonation(
                user.impersonate, user.impersonate_uid, user.impersonate_groups, user.impersonate_extra
            )
            if user.impersonate
            else None
        )
        self._source = source
        self._dialer = dialer
        self._loop = loop
        self._pool = Pool(loop, self._explain, health)
        self._running: set[Running] = set()
        self.entered = 0
        """How many requests have begun here: who sees it stand still knows of nobody's use."""
        self._on_retired: Callable[[Upstream], None] | None = None
        self._retirement: asyncio.Task[None] | None = None
        self._cuts_on_rotation = cuts_on_rotation
        self._server_hostname = context.cluster.tls_server_name or address.host
        self._is_tls = address.scheme == "https"
        self._credential: Credential | None = None
        self._warned_of: Credential | None = None
        self._warning: asyncio.TimerHandle | None = None
        self._credential_block = b""
        self._offers_http2 = offers_http2
        # What the API server chose last; None before the first connection.
        self._speaks_http2: bool | None = None if self._is_tls and offers_http2 else False
        self._opening: asyncio.Task[Http2Connection | None] | None = None
        self._ssl_context: ssl.SSLContext | None = None
        self._http1_ssl_context: ssl.SSLContext | None = None
        # Read before the context is made of it: a change in between is then taken for one, not missed.
        self._authority = self._read_authority()
        self._adopt(source.current())

    def __repr__(self) -> str:
        return f"<Upstream {self.name!r} {self._pool!r}>"

    def _adopt(self, credential: Credential | None) -> None:
        """Make what depends on the credential; new connections use its certificate, streams keep theirs."""
        certificate = credential.certificate if credential is not None else None
        known = self._credential.certificate if self._credential is not None else None
        if self._is_tls and (self._ssl_context is None or certificate is not known):
            self._renew_ssl_context(certificate)
        if self._credential is not None and credential is not self._credential:
            self.tally.renewals += 1
        self._credential = credential
        self._credential_block = authorization_block(credential.authorization if credential else None)

    def _renew_ssl_context(self, certificate: ClientCertificate | None) -> None:
        cluster, user = self.context.cluster, self.context.user
        fresh = client_context(cluster, certificate, user, offers_http2=self._offers_http2)
        # Both trust the file of authorities as it is now. The system's authorities take 80 ms to load and do
        # not change: they wait for the first upgrade.
        http1 = None if self._offers_http2 else fresh
        if http1 is None and cluster.certificate_authority is not None:
            http1 = client_context(cluster, certificate, user)
        is_renewed = self._ssl_context is not None
        self._ssl_context = fresh
        self._http1_ssl_context = http1
        self._pool.renew(fresh)
        if is_renewed and self._cuts_on_rotation:
            for request in list(self._running):
                request.cut_stream()

    def _read_authority(self) -> bytes | None:
        """The file of authorities, None where it does not count or cannot be read."""
        cluster = self.context.cluster
        if not self._is_tls or cluster.insecure_skip_tls_verify or cluster.certificate_authority is None:
            return None
        try:
            return cluster.certificate_authority.read_bytes()
        except OSError:
            return None

    def take_up(self, context: ResolvedContext) -> bool:
        """Go on with equal settings that were read anew; False when nothing of them is new.

        Two things do not count when settings are compared: what certificate-authority holds, and OIDC tokens.
        These are as often as not our own, written back; others are a login, and beat those in use. Raises
        KubeconfigError as `_renew_trust`.
        """
        is_changed = self._renew_trust()
        credential, login = self._source.current(), _id_token(context)
        is_news = login != _id_token(self.context)
        if is_news and credential is not None and credential.authorization != f"Bearer {login}":
            self._source.invalidate(credential)
            is_changed = True
        self.context = context
        return is_changed

    def _renew_trust(self) -> bool:
        """Verify new connections by what certificate-authority holds now; False when that is nothing new.

        Running streams go on. Raises KubeconfigError when the file is of no use, as while it is written;
        what was read before then stays in force (client-go transport/ca_rotation.go).
        """
        authority = self._read_authority()
        if authority is None or authority == self._authority:
            return False
        if not authority:
            cluster = self.context.cluster
            raise KubeconfigError(
                f"{cluster.label}: certificate-authority {cluster.certificate_authority} is empty; "
                "write the authority's certificate to it"
            )
        self._renew_ssl_context(self._credential.certificate if self._credential is not None else None)
        self._authority = authority
        return True

    # -- the hot path: synchronous, None when something must be waited for --

    def current_credential(self) -> Credential | None:
        return self._source.current()

    def credential_block(self, credential: Credential) -> bytes:
        """The Authorization line of that credential, or nothing.

        Raises CredentialError when its certificate or key turns out to be of no use.
        """
        if credential is not self._credential:
            try:
                self._adopt(credential)
            except ConfigError as error:
                raise CredentialError(str(error)) from error
            self.warn_if_ending()
        return self._credential_block

    def idle_carrier(self) -> Carrier | None:
        return self._pool.take()

    def idle_connection(self) -> Carrier | None:
        """An idle one of HTTP/1.1, for a long upload."""
        return self._pool.take_connection()

    # -- what may wait --

    async def credential(self) -> Credential:
        """A credential that is good now. Raises CredentialError."""
        return await self._source.get()

    def invalidate(self, credential: Credential) -> None:
        """The API server answered 401 to it. Known by identity, so that a newer one is not thrown away."""
        self._source.invalidate(credential)

    async def open_carrier(self) -> Carrier:
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
            carrier = self._pool.take()
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

    async def open_connection(self) -> Carrier:
        """A fresh HTTP/1.1 connection. Raises as `open_carrier`.

        HTTP/2 has no upgrades, and its windows let an upload go on by some 64 KB at a time.
        """
        connection = await self._dial(offers_http2=False)
        if isinstance(connection, Http2Connection):
            connection.retire()
            raise UpstreamTLSError(f'context "{self.name}": the API server does not speak HTTP/1.1')
        return connection

    async def open_for_upload(self) -> Carrier:
        """`open_connection`, but HTTP/2 will do where the API server speaks nothing else."""
        try:
            return await self.open_connection()
        except UpstreamTLSError:
            return self._pool.take() or await self.open_carrier()

    async def _dial(self, *, offers_http2: bool) -> UpstreamConnection | Http2Connection:
        vain = 0
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
            else:
                if connection.is_usable:
                    return connection
                vain += 1
        raise self._closed_unasked()

    async def _dial_once(
        self, opening: Opening, ssl_context: ssl.SSLContext | None
    ) -> UpstreamConnection | Http2Connection:
        self.tally.dials += 1
        hostname = self._server_hostname if self._is_tls else None
        await self._dialer.dial(lambda: opening, ssl_context, hostname)
        connection = opening.connection
        assert connection is not None
        return connection

    def _closed_unasked(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f'context "{self.name}": the API server closed the connection before it was asked'
        )

    def _context_for_http1(self) -> ssl.SSLContext | None:
        if self._http1_ssl_context is None and self._is_tls:
            certificate = self._credential.certificate if self._credential is not None else None
            self._http1_ssl_context = client_context(self.context.cluster, certificate, self.context.user)
        return self._http1_ssl_context

    def _explain(self, error: Exception) -> KproxyError:
        return self._dialer.explain(error, is_tls=self._is_tls)

    # -- its life --

    @property
    def known_credential(self) -> Credential | None:
        """The one last used, for who wants to tell of it: unlike `current_credential` this renews nothing."""
        return self._credential

    def credential_kind(self, credential: Credential | None) -> str:
        """What `credential` is; without one, where the first will come from."""
        user = self.context.user
        if credential is not None:
            return credential.kind
        return "exec" if user.exec else "oidc" if user.auth_provider else "unreadable"

    @property
    def open_connections(self) -> int:
        return len(self._pool)

    @property
    def idle_connections(self) -> int:
        return self._pool.idle

    @property
    def is_in_use(self) -> bool:
        """Whether a request runs here, be it a watch or a tunnel."""
        return bool(self._running)

    def warn_if_ending(self) -> None:
        """Tell once of a credential that has less than a tenth of its life left and was not renewed.

        Now or, of one that no plugin or issuer renews with the next request, when it has come to that: one
        connection may serve for days.
        """
        self._stop_warning()
        credential = self._credential
        if credential is None or credential.ending_at is None or credential is self._warned_of:
            return
        left_seconds = credential.ending_at - time.time()
        if left_seconds <= 0:
            self._warned_of = credential
            _log.warning(
                "credential.ending",
                context=self.name,
                credential=credential.kind,
                expires_at=format_timestamp(credential.expires_at),
            )
        elif not credential.kind.startswith(("exec", "oidc")):
            self._warning = self._loop.call_later(left_seconds, self._look_at_end)

    def _look_at_end(self) -> None:
        # What is in a file may have been renewed, and nobody has asked for it yet.
        credential = self._source.current()
        with suppress(CredentialError):
            if credential is not None:
                self.credential_block(credential)
        self.warn_if_ending()

    def _stop_warning(self) -> None:
        if self._warning is not None:
            self._warning.cancel()
            self._warning = None

    def enter(self, request: Running) -> None:
        """A request begins that may use this upstream until it leaves."""
        self._running.add(request)
        self.entered += 1

    def leave(self, request: Running) -> None:
        """Idempotent."""
        self._running.discard(request)
        if self._on_retired is not None:
            self._close_if_unused()

    def retire(self, on_retired: Callable[[Upstream], None]) -> None:
        """Take no new requests; close when the last one has ended, and say so."""
        self._stop_warning()
        self._on_retired = on_retired
        self._pool.retire()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._on_retired is not None and not self._running and self._retirement is None:
            self._retirement = self._loop.create_task(self._finish_retirement(self._on_retired))

    async def _finish_retirement(self, on_retired: Callable[[Upstream], None]) -> None:
        await self._end()
        on_retired(self)

    async def close(self) -> None:
        """End every connection and the credential source. Idempotent."""
        await self._end()
        if self._retirement is not None:
            await self._retirement

    async def _end(self) -> None:
        self._stop_warning()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._pool.close()
        await self._source.close()


def _look_at_error(task: asyncio.Task[Http2Connection | None]) -> None:
    """Who waited for it has it already; perhaps nobody did to the end."""
    if not task.cancelled():
        task.exception()


def _id_token(context: ResolvedContext) -> str | None:
    provider = context.user.auth_provider
    return provider.config.get("id-token") if provider is not None else None

"""One context at run time: its credential, its connections, and the fixed parts of every request to it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from kproxy.credentials import ClientCertificate, Credential, CredentialSource
from kproxy.credentials.expiry import format_timestamp
from kproxy.errors import ConfigError, CredentialError, KproxyError, KubeconfigError, UpstreamTLSError
from kproxy.headers import Impersonation, authorization_block
from kproxy.kubeconfig import ResolvedContext
from kproxy.kubecontext import ServerAddress
from kproxy.metrics import Tally
from kproxy.tls import client_context
from kproxy.upstream.connection import UpstreamConnection
from kproxy.upstream.dial import Dialer
from kproxy.upstream.pool import Pool

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
        self._pool = Pool(loop, self._explain)
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
        self._credential_block = b""
        self._ssl_context: ssl.SSLContext | None = None
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
        fresh = client_context(self.context.cluster, certificate, self.context.user)
        if self._ssl_context is not None:
            self._pool.close_idle()
            if self._cuts_on_rotation:
                for request in list(self._running):
                    request.cut_stream()
        self._ssl_context = fresh

    def _read_authority(self) -> bytes | None:
        """The file of authorities, None where it does not count or cannot be read."""
        cluster = self.context.cluster
        if not self._is_tls or cluster.insecure_skip_tls_verify or cluster.certificate_authority is None:
            return None
        try:
            return cluster.certificate_authority.read_bytes()
        except OSError:
            return None

    def renew_trust(self) -> bool:
        """Verify new connections by what certificate-authority holds now; False when that is nothing new.

        Running streams go on. Raises KubeconfigError when the file is of no use, as while it is written;
        what was read before then stays in force (client-go transport/ca_rotation.go).
        """
        authority = self._read_authority()
        if authority is None or authority == self._authority:
            return False
        if not authority:
            cluster = self.context.cluster
            file = f" ({cluster.source_path})" if cluster.source_path else ""
            raise KubeconfigError(
                f'cluster "{cluster.name}"{file}: certificate-authority {cluster.certificate_authority} is '
                "empty; write the authority's certificate to it"
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
        return self._credential_block

    def idle_connection(self) -> UpstreamConnection | None:
        return self._pool.take()

    # -- what may wait --

    async def credential(self) -> Credential:
        """A credential that is good now. Raises CredentialError."""
        return await self._source.get()

    def invalidate(self, credential: Credential) -> None:
        """The API server answered 401 to it. Known by identity, so that a newer one is not thrown away."""
        self._source.invalidate(credential)

    async def dial(self) -> UpstreamConnection:
        """A fresh connection. Raises UpstreamUnreachable, UpstreamTLSError or UpstreamTimeout."""
        self.warn_if_ending()
        while True:
            ssl_context = self._ssl_context
            try:
                return await self._dial(ssl_context)
            except UpstreamTLSError:
                if ssl_context is self._ssl_context:
                    raise
                # Our certificate or the authority was renewed in the meantime, perhaps for this reason.

    async def _dial(self, ssl_context: ssl.SSLContext | None) -> UpstreamConnection:
        self.tally.dials += 1
        connection = self._pool.connection()
        connection.opened_with = ssl_context
        try:
            await self._dialer.dial(
                lambda: connection, ssl_context, self._server_hostname if self._is_tls else None
            )
        except BaseException:
            self._pool.forget(connection)
            raise
        return connection

    def _explain(self, error: Exception) -> KproxyError:
        return self._dialer.explain(error, is_tls=self._is_tls)

    def release(self, connection: UpstreamConnection) -> None:
        """Give back a connection whose answer is complete; an earlier certificate's is of no more use."""
        if self._on_retired is None and connection.opened_with is self._ssl_context:
            self._pool.put(connection)
        else:
            connection.close()

    # -- its life --

    @property
    def known_credential(self) -> Credential | None:
        """The one last used, for who wants to tell of it: unlike `current_credential` this renews nothing."""
        return self._credential

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
        """Tell once of a credential that has less than a tenth of its life left and was not renewed."""
        credential = self._credential
        if credential is not None and credential is not self._warned_of and credential.is_ending(time.time()):
            self._warned_of = credential
            _log.warning(
                "credential.ending",
                context=self.name,
                credential=credential.kind,
                expires_at=format_timestamp(credential.expires_at),
            )

    def enter(self, request: Running) -> None:
        """A request begins that may use this upstream until it leaves."""
        self._running.add(request)
        self.entered += 1

    def leave(self, request: Running) -> None:
        """Idempotent."""
        self._running.discard(request)
        self._close_if_unused()

    def retire(self, on_retired: Callable[[Upstream], None]) -> None:
        """Take no new requests; close when the last one has ended, and say so."""
        self._on_retired = on_retired
        self._pool.close_idle()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._on_retired is not None and not self._running and self._retirement is None:
            self._retirement = self._loop.create_task(self._finish_retirement(self._on_retired))

    async def _finish_retirement(self, on_retired: Callable[[Upstream], None]) -> None:
        self._pool.close()
        await self._source.close()
        on_retired(self)

    async def close(self) -> None:
        """End every connection and the credential source. Idempotent."""
        self._pool.close()
        await self._source.close()
        if self._retirement is not None:
            await self._retirement

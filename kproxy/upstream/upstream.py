"""One context at run time: its credential, the requests that use it, and the fixed parts of each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from kproxy.credentials import Credential, CredentialSource, Renewal
from kproxy.errors import ConfigError, CredentialError
from kproxy.http.forwarding import Impersonation, authorization_block
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.resolve import ServerAddress
from kproxy.telemetry.metrics import Tally
from kproxy.tls.lifetime import format_timestamp
from kproxy.upstream.connector import Connector

_log = structlog.get_logger()


class Running(Protocol):
    """A request that uses an upstream, until its answer or its tunnel has ended."""

    def cut_stream(self) -> None:
        """If it would not end by itself, end it now, so that what was answered cannot look complete."""


class Upstream:
    """Owns the connector and the credential source; both end with `close()`."""

    def __init__(
        self,
        context: ResolvedContext,
        address: ServerAddress,
        source: CredentialSource,
        connector: Connector,
        loop: asyncio.AbstractEventLoop,
        *,
        appends_server_path: bool,
        cuts_on_rotation: bool,
        tally: Tally,
    ) -> None:
        """Raises KubeconfigError when the CA or the client certificate at hand cannot be used."""
        self.context = context
        self.name = context.name
        self.connector = connector
        self.tally = tally
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
        self._loop = loop
        self._running: set[Running] = set()
        self.entered = 0
        """How many requests have begun here: who sees it stand still knows of nobody's use."""
        self._on_retired: Callable[[Upstream], None] | None = None
        self._retirement: asyncio.Task[None] | None = None
        self._cuts_on_rotation = cuts_on_rotation
        self._credential: Credential | None = None
        self._warned_of: Credential | None = None
        self._warning: asyncio.TimerHandle | None = None
        self._credential_block = b""
        self._adopt(source.current())

    def __repr__(self) -> str:
        return f"<Upstream {self.name!r} {self.connector!r}>"

    def _adopt(self, credential: Credential | None) -> None:
        """Make what depends on the credential; new connections use its certificate, streams keep theirs."""
        if self.connector.present(credential.certificate if credential is not None else None):
            self._cut_on_rotation()
        if self._credential is not None and credential is not self._credential:
            self.tally.renewals += 1
        self._credential = credential
        self._credential_block = authorization_block(credential.authorization if credential else None)

    def _cut_on_rotation(self) -> None:
        if self._cuts_on_rotation:
            for request in list(self._running):
                request.cut_stream()

    def take_up(self, context: ResolvedContext) -> bool:
        """Go on with equal settings that were read anew; False when nothing of them is new.

        Two things do not count when settings are compared: what certificate-authority holds, and OIDC tokens.
        These are as often as not our own, written back; others are a login, and beat those in use. Raises
        KubeconfigError as `Connector.renew_trust`.
        """
        is_changed = self.connector.renew_trust()
        if is_changed:
            self._cut_on_rotation()
        credential, login = self._source.current(), _id_token(context)
        is_news = login != _id_token(self.context)
        if is_news and credential is not None and credential.authorization != f"Bearer {login}":
            self._source.discard(credential)
            is_changed = True
        self.context = context
        return is_changed

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

    # -- what may wait --

    async def credential(self, refused: Credential | None = None) -> Credential:
        """A credential that is good now, or what comes for one that was `refused`. Raises CredentialError."""
        return await self._source.get(refused)

    def invalidate(self, credential: Credential) -> bool:
        """There was a 401 to it; tell whether another one is at hand or on its way."""
        return self._source.invalidate(credential)

    def confirm(self, credential: Credential) -> None:
        """A request that had got 401 before was accepted with it."""
        self._source.confirm(credential)

    async def present_certificate(self) -> None:
        """Show on new connections what there is to go beside a client's own Authorization.

        As in kubectl our certificate stays; but whatever is wrong with it, such a client does not need it.
        """
        certificate = await self._source.certificate()
        with suppress(ConfigError):
            if self.connector.present(certificate):
                self._cut_on_rotation()

    # -- its life --

    @property
    def known_credential(self) -> Credential | None:
        """The one last used, for who wants to tell of it: unlike `current_credential` this renews nothing."""
        return self._credential

    @property
    def has_valid_credential(self) -> bool:
        """Whether the one last used has not ended, as far as can be told."""
        known = self._credential
        return known is not None and (known.expires_at is None or time.time() < known.expires_at)

    def renewal(self) -> Renewal:
        """How the renewal of the credential stands. Asking changes nothing."""
        return self._source.renewal()

    def credential_kind(self, credential: Credential | None) -> str:
        """What `credential` is; without one, where the first will come from."""
        user = self.context.user
        if credential is not None:
            return credential.kind
        return "exec" if user.exec else "oidc" if user.auth_provider else "unreadable"

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
        self.connector.retire()
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
        await self.connector.close()
        await self._source.close()


def _id_token(context: ResolvedContext) -> str | None:
    provider = context.user.auth_provider
    return provider.config.get("id-token") if provider is not None else None

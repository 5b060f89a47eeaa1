"""Credentials: what a request to the API server carries to say who is asking, and where that comes from.

A `CredentialSource` belongs to one context. `open_source` chooses it with kubectl's rules (client-go
rest/transport.go, transport/round_trippers.go, plugin/pkg/client/auth/exec):

    token or tokenFile, else username/password   Authorization header, beats exec and auth-provider
    client certificate and key                   TLS; beside any header, but an exec plugin is then not run
    exec                                         header, certificate or both, from a program
    auth-provider oidc                           header; a client certificate goes beside it

Only the modules that a user's fields ask for are imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kproxy.kubeconfig import ResolvedContext
from kproxy.kuberc import ALLOW_ALL, PluginPolicy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClientCertificate:
    """A certificate chain and its private key, both PEM. Compared by identity: a new one is a new object."""

    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Credential:
    """What one request needs. Compared by identity, so that a 401 is held against the right one.

    `authorization` is the whole header value. `issued_at` and `expires_at` are seconds since the
    epoch, None where nobody tells. `kind` names the kubeconfig fields it comes from, joined by "+".
    """

    authorization: str | None = field(default=None, repr=False)
    certificate: ClientCertificate | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    kind: str = "none"

    def is_ending(self, now: float) -> bool:
        """Whether less than a tenth of its life is left at `now` (seconds since the epoch)."""
        if self.expires_at is None:
            return False
        issued_at = self.issued_at if self.issued_at is not None else now
        return now >= self.expires_at - 0.1 * (self.expires_at - issued_at)


class CredentialSource(Protocol):
    """Hands out one context's credential and renews it. Everything runs on the event loop's thread."""

    def current(self) -> Credential | None:
        """A credential that is good now, else None: then ask `get`. Called for every request."""

    async def get(self) -> Credential:
        """A credential that is good now, renewed once for all who wait. Raises CredentialError.

        A caller that is cancelled leaves the renewal running for the others.
        """

    def invalidate(self, credential: Credential) -> None:
        """The API server answered 401 to `credential`: renew it, unless a newer one is at hand already.

        If `get` then returns the same object, or another one with the same content, nothing newer is to
        be had and the API server's 401 is the answer.
        """

    async def close(self) -> None:
        """End the renewal that may be running. The source is of no use afterwards."""


def open_source(
    context: ResolvedContext,
    *,
    exec_timeout_seconds: float = 60.0,
    exec_path: tuple[str, ...] = (),
    plugin_policy: PluginPolicy = ALLOW_ALL,
    oidc_write_back: bool = True,
    kubeconfig_paths: tuple[Path, ...] = (),
    proxy_for_url: Callable[[str], str | None] = lambda url: None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> CredentialSource:
    """Return the source for the user of `context`. Nothing is run or fetched before the first `get`.

    `exec_path` lists directories searched after PATH; `kubeconfig_paths` all files of the list, which
    are locked for a write-back; `proxy_for_url` tells the proxy of the environment for the issuer.
    `clock` counts seconds since the epoch (expiry), `monotonic` is for intervals.

    Takes the context to be checked (kproxy.kubecontext); raises KubeconfigError for a token that cannot
    stand in a header. What is wrong with files, plugins and issuers is for `get` to raise: it may heal.
    """
    # Imported here: what these import imports this package for its types.
    from kproxy.credentials.local import CombinedSource, has_certificate, open_local

    user = context.user
    local = open_local(context, monotonic=monotonic)
    if user.token or user.token_file or user.username:
        return local
    if user.exec is not None and not has_certificate(user):
        from kproxy.credentials.exec_plugin import ExecPlugin
        from kproxy.credentials.renewal import RenewingSource

        plugin = ExecPlugin(
            context,
            timeout_seconds=exec_timeout_seconds,
            extra_path=exec_path,
            policy=plugin_policy,
            environ=environ,
            clock=clock,
        )
        return RenewingSource(plugin, context.name, clock=clock, monotonic=monotonic)
    if user.auth_provider is not None:
        from kproxy.credentials.oidc import open_issuer
        from kproxy.credentials.renewal import RenewingSource

        issuer = open_issuer(
            context,
            write_back=oidc_write_back,
            kubeconfig_paths=kubeconfig_paths,
            proxy_for_url=proxy_for_url,
            clock=clock,
        )
        renewing = RenewingSource(issuer, context.name, clock=clock, monotonic=monotonic)
        return CombinedSource(renewing, local) if has_certificate(user) else renewing
    return local


def place(context: ResolvedContext) -> str:
    """Where a person finds what a message is about."""
    user = context.user
    file = f" in {user.source_path}" if user.source_path is not None else ""
    return f'context "{context.name}": user "{user.name}"{file}'


def bearer(token: str) -> str:
    """The Authorization value for `token`. Raises ValueError if a header cannot hold it (RFC 9110, 5.5)."""
    if not token.isascii() or not token.isprintable():
        raise ValueError(
            'the token is no valid header field value for "Authorization": '
            "it holds a line break, a control character or a letter outside ASCII"
        )
    return f"Bearer {token}"

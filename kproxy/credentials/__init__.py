"""Credentials: what a request to the API server carries to say who is asking, and where that comes from.

A `CredentialSource` belongs to one context. `open_source` chooses it with kubectl's rules (client-go
rest/transport.go, transport/round_trippers.go, plugin/pkg/client/auth/exec):

    token or tokenFile, else username/password   Authorization header, beats exec and auth-provider
    client certificate and key                   TLS; beside any header, but an exec plugin is then not run
    exec                                         header, certificate or both, from a program
    auth-provider oidc                           header; a client certificate goes beside it

The modules for exec and oidc are imported where a user's fields ask for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kproxy.credentials.credential import Credential, CredentialSource, Renewal
from kproxy.credentials.local import CombinedSource, has_certificate, open_local
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.kuberc import ALLOW_ALL, PluginPolicy

__all__ = ["Credential", "CredentialSource", "Renewal", "open_source"]


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
    user = context.user
    local = open_local(context, monotonic=monotonic)
    if user.token or user.token_file or user.username:
        return local
    if user.exec is not None and not has_certificate(user):
        from kproxy.credentials.exec_sharing import open_plugin
        from kproxy.credentials.renewal import RenewingSource

        plugin = open_plugin(
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

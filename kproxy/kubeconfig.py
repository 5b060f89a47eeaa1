"""Kubeconfig files: found, read, merged and resolved to one context, with client-go's rules.

Pure apart from reading the files it is told to read, each exactly once (so that FIFOs work).
Rules: client-go tools/clientcmd (loader.go, client_config.go, validation.go, api/v1/conversion.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Where an API server is and how it is trusted; paths are absolute, empty fields are None."""

    name: str
    server: str
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool = False
    certificate_authority: Path | None = None
    certificate_authority_data: bytes | None = None
    proxy_url: str | None = field(default=None, repr=False)
    disable_compression: bool = False
    exec_config: object = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecConfig:
    """An exec plugin; `command` is absolute if it was written with a path separator, else looked up in PATH."""

    command: str
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"
    directory: Path = Path()


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthProvider:
    """The old `auth-provider` stanza, of which only `oidc` is still alive."""

    name: str
    config: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """Who we are to the API server; paths are absolute, empty fields are None."""

    name: str
    client_certificate: Path | None = None
    client_certificate_data: bytes | None = None
    client_key: Path | None = None
    client_key_data: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    impersonate: str | None = None
    impersonate_uid: str | None = None
    impersonate_groups: tuple[str, ...] = ()
    impersonate_extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    exec: ExecConfig | None = None
    auth_provider: AuthProvider | None = None
    source_path: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """A named pair of cluster and user."""

    name: str
    cluster: str = ""
    user: str = ""
    namespace: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KubeConfig:
    """All files merged. `paths` holds every candidate, existing or not, so that they can be watched."""

    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)
    contexts: Mapping[str, Context] = field(default_factory=dict)
    current_context: str = ""
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """The kubectl global flags that override kubeconfig fields; None (or an empty tuple) is "not given"."""

    kubeconfig: str | None = None
    context: str | None = None
    cluster: str | None = None
    user: str | None = None
    server: str | None = None
    tls_server_name: str | None = None
    certificate_authority: str | None = None
    insecure_skip_tls_verify: bool | None = None
    disable_compression: bool | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    token: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    impersonate: str | None = None
    impersonate_uid: str | None = None
    impersonate_groups: tuple[str, ...] = ()
    impersonate_extra: tuple[str, ...] = ()
    request_timeout: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedContext:
    """A context with its cluster and user looked up. Equal values mean the same connection settings."""

    name: str
    cluster: Cluster
    user: User


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAddress:
    """The parts of `Cluster.server` that a connection needs; `authority` is the Host header to send."""

    scheme: str
    host: str
    port: int
    authority: str
    path_prefix: str = ""

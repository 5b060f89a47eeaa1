"""Kubeconfig files: found, read and merged by client-go's rules; and the values they hold.

Each file is read exactly once, so that FIFOs and /dev/fd work. What a context comes to, with flags
applied and checked, is kubecontext.py. Rules: client-go tools/clientcmd (loader.go, api/v1/conversion.go).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kproxy.errors import KubeconfigError
from kproxy.kube.yaml import Section, YamlError, parse

_Entry = TypeVar("_Entry")
_IMPLICITLY_INTERACTIVE = ("client.authentication.k8s.io/v1beta1", "client.authentication.k8s.io/v1alpha1")


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
    source_path: Path | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """What messages call it."""
        return _label("cluster", self.name, self.source_path)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecConfig:
    """An exec plugin. `command` is absolute if it was written with a path separator, else sought in PATH."""

    command: str
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AuthProvider:
    """The old `auth-provider` stanza, of which only `oidc` is still alive.

    Tokens do not count when two are compared: each renewal writes them anew, and changes nothing else.
    """

    name: str
    config: Mapping[str, str] = field(default_factory=dict, repr=False)

    def _settings(self) -> tuple[str, frozenset[tuple[str, str]]]:
        kept = (item for item in self.config.items() if item[0] not in ("id-token", "refresh-token"))
        return self.name, frozenset(kept)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AuthProvider) and self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash(self._settings())


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

    @property
    def label(self) -> str:
        """What messages call it."""
        return _label("user", self.name, self.source_path)


def _label(kind: str, name: str, source_path: Path | None) -> str:
    label = f'{kind} "{name}"' if name else f"unnamed {kind}"
    return f"{label} ({source_path})" if source_path else label


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """A named pair of cluster and user."""

    name: str
    cluster: str = ""
    user: str = ""
    namespace: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KubeConfig:
    """All files merged. `paths` are the candidates, `missing` those that did not exist: all to be watched."""

    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)
    contexts: Mapping[str, Context] = field(default_factory=dict)
    current_context: str = ""
    paths: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()


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
class Sources:
    """The files to read: all of `paths`, merged, or `legacy` when the only path does not exist.

    `required`: a missing file is an error (it was named by --kubeconfig).
    """

    paths: tuple[Path, ...]
    required: bool = False
    legacy: Path | None = None


def locate(explicit: str | None, environ: Mapping[str, str]) -> Sources:
    """Which files make the kubeconfig (loader.go): --kubeconfig alone, else $KUBECONFIG, else $HOME.

    A ~/.kube/.kubeconfig of old is read where it is; kubectl would copy it.
    """
    here = Path.cwd()
    if explicit:
        return Sources(paths=(here / explicit,), required=True)
    if listed := environ.get("KUBECONFIG"):
        return Sources(paths=tuple(here / name for name in dict.fromkeys(listed.split(os.pathsep)) if name))
    directory = here / environ.get("HOME", "") / ".kube"
    return Sources(paths=(directory / "config",), legacy=directory / ".kubeconfig")


def load(sources: Sources) -> KubeConfig:
    """Read each file once and merge: the first file's entry of a name, the first non-empty current-context.

    Raises KubeconfigError with the problems of all files.
    """
    files: list[KubeConfig] = []
    missing: list[Path] = []
    problems: list[str] = []
    paths = (*sources.paths, sources.legacy) if sources.legacy else sources.paths
    for path in paths:
        if path == sources.legacy and (files or problems):
            break
        try:
            files.append(_load_file(path))
        except FileNotFoundError:
            missing.append(path)
            if sources.required:
                problems.append(f"--kubeconfig {path}: no such file")
        except KubeconfigError as error:
            problems += error.problems
    if problems:
        raise KubeconfigError(problems)
    return KubeConfig(
        clusters=_first_of_each(file.clusters for file in files),
        users=_first_of_each(file.users for file in files),
        contexts=_first_of_each(file.contexts for file in files),
        current_context=next((file.current_context for file in files if file.current_context), ""),
        paths=paths,
        missing=tuple(missing),
    )


def _first_of_each(mappings: Iterable[Mapping[str, _Entry]]) -> dict[str, _Entry]:
    merged: dict[str, _Entry] = {}
    for mapping in mappings:
        for name, entry in mapping.items():
            merged.setdefault(name, entry)
    return merged


def _load_file(path: Path) -> KubeConfig:
    try:
        document = parse(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KubeconfigError(f"kubeconfig {path}: cannot be read: {error.strerror}") from None
    except YamlError as error:
        raise KubeconfigError(f"kubeconfig {path}: {error}") from None
    problems: list[str] = []
    config = _decode(Section.of(document, "", problems), path)
    if problems:
        raise KubeconfigError([f"kubeconfig {path}: {problem}" for problem in problems])
    return config


def _decode(document: Section, path: Path) -> KubeConfig:
    """Every known field is decoded, used or not: a wrong type anywhere makes kubectl refuse the file."""
    kind, version = document.string("kind"), document.string("apiVersion")
    if kind not in ("", "Config") or version not in ("", "v1"):
        document.problems.append(
            f'no kubeconfig: kind "{kind or "Config"}" of apiVersion "{version or "v1"}" '
            "where kind Config of v1 is expected"
        )
        return KubeConfig()
    preferences = document.section("preferences")
    preferences.boolean("colors")
    _extensions(preferences)
    _extensions(document)
    return KubeConfig(
        clusters={name: _cluster(name, entry, path) for name, entry in document.named("clusters", "cluster")},
        users={name: _user(name, entry, path) for name, entry in document.named("users", "user")},
        contexts={name: _context(name, entry) for name, entry in document.named("contexts", "context")},
        current_context=document.string("current-context"),
    )


def _cluster(name: str, fields: Section, path: Path) -> Cluster:
    return Cluster(
        name=name,
        server=fields.string("server"),
        tls_server_name=fields.string("tls-server-name") or None,
        insecure_skip_tls_verify=fields.boolean("insecure-skip-tls-verify"),
        certificate_authority=_beside(path, fields.string("certificate-authority")),
        certificate_authority_data=fields.data("certificate-authority-data") or None,
        proxy_url=fields.string("proxy-url") or None,
        disable_compression=fields.boolean("disable-compression"),
        exec_config=_extensions(fields).get("client.authentication.k8s.io/exec"),
        source_path=path,
    )


def _user(name: str, fields: Section, path: Path) -> User:
    _extensions(fields)
    provider = fields.section("auth-provider")
    return User(
        name=name,
        client_certificate=_beside(path, fields.string("client-certificate")),
        client_certificate_data=fields.data("client-certificate-data") or None,
        client_key=_beside(path, fields.string("client-key")),
        client_key_data=fields.data("client-key-data") or None,
        token=fields.string("token") or None,
        token_file=_beside(path, fields.string("tokenFile")),
        username=fields.string("username") or None,
        password=fields.string("password") or None,
        impersonate=fields.string("as") or None,
        impersonate_uid=fields.string("as-uid") or None,
        impersonate_groups=fields.strings("as-groups"),
        impersonate_extra=tuple(fields.strings_map("as-user-extra").items()),
        exec=_exec(fields.section("exec"), path) if fields.has("exec") else None,
        auth_provider=(
            AuthProvider(name=provider.string("name"), config=provider.string_map("config"))
            if fields.has("auth-provider")
            else None
        ),
        source_path=path,
    )


def _exec(fields: Section, path: Path) -> ExecConfig:
    command = fields.string("command")
    version = fields.string("apiVersion")
    # apis/clientauthentication defaults: only v1 asks for an explicit mode.
    mode = "IfAvailable" if version in _IMPLICITLY_INTERACTIVE else ""
    return ExecConfig(
        command=str(_beside(path, command)) if os.sep in command else command,
        args=fields.strings("args"),
        env=tuple((entry.string("name"), entry.string("value")) for entry in fields.sections("env")),
        api_version=version,
        install_hint=fields.string("installHint"),
        provide_cluster_info=fields.boolean("provideClusterInfo"),
        interactive_mode=fields.string("interactiveMode") or mode,
    )


def _context(name: str, fields: Section) -> Context:
    _extensions(fields)
    return Context(
        name=name,
        cluster=fields.string("cluster"),
        user=fields.string("user"),
        namespace=fields.string("namespace") or None,
    )


def _extensions(fields: Section) -> dict[str, object]:
    return {name: entry.fields.get("extension") for name, entry in fields.named("extensions")}


def _beside(path: Path, value: str) -> Path | None:
    """`value` against the directory of the kubeconfig that names it, tidied as Go's filepath.Join does."""
    return Path(os.path.normpath(path.parent / value)) if value else None

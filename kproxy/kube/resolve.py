"""From a kubeconfig and flags to one context that can be connected to, with everything wrong said at once.

Rules: client-go tools/clientcmd (client_config.go, merged_client_builder.go) and rest/config.go.
On purpose unlike kubectl: what is missing is an error instead of http://localhost:8080, a user without
credentials is anonymous instead of asked for a password, and --token beats a tokenFile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from kproxy.errors import KubeconfigError
from kproxy.kube.kubeconfig import Cluster, Context, KubeConfig, Overrides, ResolvedContext, User
from kproxy.kube.validation import (
    cluster_problems,
    flag_problems,
    read_problems,
    tls_cluster_problems,
    tls_user_problems,
    user_problems,
    without_password,
)

SERVICE_ACCOUNT_PATH = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAddress:
    """The parts of a `server` URL. `authority` is the Host header to send, as written in the URL.

    `path_prefix` has no trailing slash and is percent-encoded.
    """

    scheme: str
    host: str
    port: int
    authority: str
    path_prefix: str = ""


def server_address(server: str) -> ServerAddress:
    """Take a cluster's `server` apart; user info, query and fragment are ignored as kubectl does.

    Raises KubeconfigError, also for a missing scheme: kubectl guesses, and not in every command the same.
    """
    shown = without_password(server)
    scheme, separator, rest = server.partition("://")
    scheme = scheme.lower()
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise KubeconfigError(f'server "{shown}" has no scheme; write https://{shown} or http://{shown}')
    if scheme not in ("http", "https"):
        raise KubeconfigError(f'server "{shown}" has the unsupported scheme "{scheme}"; use https or http')
    location = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = location.partition("/")
    authority = authority.rpartition("@")[2]
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|[A-Za-z0-9._~-]+)(?::(\d{0,5}))?", authority)
    if not match or int(match[2] or 0) > 65535:
        raise KubeconfigError(f'server "{shown}" has no usable host and port; write {scheme}://HOST:PORT')
    host, port = match.groups()
    return ServerAddress(
        scheme=scheme,
        host=host.strip("[]").replace("%25", "%"),
        port=int(port or (443 if scheme == "https" else 80)),
        # A zone names an interface of this machine and means nothing to the peer (RFC 6874, section 4).
        authority=re.sub(r"%25[^\]]*", "", authority).removesuffix(":"),
        path_prefix=quote((slash + path).rstrip("/"), safe="%/:@!$&'()*+,;=~"),
    )


def resolve(
    kubeconfig: KubeConfig,
    overrides: Overrides,
    environ: Mapping[str, str],
    service_account_path: Path = SERVICE_ACCOUNT_PATH,
) -> ResolvedContext:
    """The chosen context with flags applied and checked; a user of a plain HTTP server has no credentials.

    Certificates and keys are checked to be readable, not to be sound: tls.client_context does that.
    Raises KubeconfigError with every problem found.
    """
    context, cluster, user = _choose(kubeconfig, overrides)
    if not overrides.server and _is_default(context, cluster, user):
        pod = in_cluster(overrides, environ, service_account_path)
        if pod is not None:
            return pod
    cluster = _override_cluster(cluster, overrides)
    user = _override_user(user, overrides)
    if not cluster.server:
        cluster = replace(cluster, server=environ.get("KUBERNETES_MASTER") or "")
    if not cluster.server:
        raise KubeconfigError([*flag_problems(overrides), _no_server(kubeconfig, context, cluster)])
    return _checked(context, cluster, user, overrides)


def in_cluster(
    overrides: Overrides, environ: Mapping[str, str], service_account_path: Path = SERVICE_ACCOUNT_PATH
) -> ResolvedContext | None:
    """The context of the pod we run in (rest.InClusterConfig), None outside.

    As in kubectl the flags for a client certificate, for basic authentication and for skipping TLS
    verification do not count here. Raises KubeconfigError.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    token_path, authority_path = service_account_path / "token", service_account_path / "ca.crt"
    if not host or not port or not token_path.exists() or token_path.is_dir():
        return None
    cluster = Cluster(
        name="in-cluster",
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        # An unusable ca.crt is only logged by client-go, which then trusts the system's authorities.
        certificate_authority=authority_path if _holds_certificate(authority_path) else None,
    )
    user = User(name="in-cluster", token_file=token_path)
    overrides = replace(
        overrides,
        tls_server_name=None,
        insecure_skip_tls_verify=None,
        client_certificate=None,
        client_key=None,
        username=None,
        password=None,
    )
    user = _override_user(user, overrides)
    if user.token_file and not [*read_problems("token", token_path)] and not token_path.read_bytes().strip():
        raise KubeconfigError(f'in-cluster configuration: read empty token from file "{token_path}"')
    return _checked(Context(name="in-cluster"), _override_cluster(cluster, overrides), user, overrides)


def warnings_for(context: ResolvedContext, *, append_server_path: bool = False) -> tuple[str, ...]:
    """What works but is probably not meant, each a sentence to log."""
    cluster, user, address = context.cluster, context.user, server_address(context.cluster.server)
    label = f'context "{context.name}"'
    warnings = []
    if address.scheme == "https" and not _has_credential(user):
        warnings.append(
            f"{label}: {user.label} has no credential, so requests to {address.authority} are anonymous"
        )
    if cluster.insecure_skip_tls_verify and address.scheme == "https":
        warnings.append(
            f"{label}: insecure-skip-tls-verify is on, so anyone on the way to {address.authority} "
            "can read and change the traffic and take the credentials"
        )
    if address.path_prefix and not append_server_path:
        warnings.append(
            f"{label}: the server has the path {address.path_prefix}, which is left out of requests; "
            "--append-server-path puts it in front of each"
        )
    if (path := cluster.certificate_authority) and _is_empty(path):
        warnings.append(f"{label}: certificate-authority {path} is empty, so no server is trusted")
    if cluster.name == "in-cluster" and not cluster.certificate_authority:
        warnings.append(
            f"{label}: no certificate in ca.crt of the service account: system authorities are trusted"
        )
    return tuple(warnings)


def _choose(kubeconfig: KubeConfig, overrides: Overrides) -> tuple[Context | None, Cluster, User]:
    """Look up the names that flags and kubeconfig give; unnamed ones are empty. Raises KubeconfigError."""
    name = overrides.context or kubeconfig.current_context
    context = kubeconfig.contexts.get(name)
    cluster_name = overrides.cluster or (context.cluster if context else "")
    user_name = overrides.user or (context.user if context else "")
    # An entry may be named "", but only a context can choose it.
    cluster = kubeconfig.clusters.get(cluster_name) if context or cluster_name else None
    user = kubeconfig.users.get(user_name) if context or user_name else None
    lookups: tuple[tuple[str, str, str | None, object, Mapping[str, object]], ...] = (
        ("context", name, overrides.context, context, kubeconfig.contexts),
        ("cluster", cluster_name, overrides.cluster, cluster, kubeconfig.clusters),
        ("user", user_name, overrides.user, user, kubeconfig.users),
    )
    problems = []
    for kind, wanted, flag, found, entries in lookups:
        if wanted and found is None:
            origin = f"--{kind}" if flag else "current-context" if kind == "context" else f'context "{name}"'
            problems.append(
                f'{origin} names the {kind} "{wanted}", which does not exist in {_found(kubeconfig)}'
                + _choice(kind, entries)
            )
    if problems:
        raise KubeconfigError([*flag_problems(overrides), *problems])
    return context, cluster or Cluster(name="", server=""), user or User(name="")


def _is_default(context: Context | None, cluster: Cluster, user: User) -> bool:
    """Whether the kubeconfig says no more than client-go's defaults, so that a pod's own identity counts.

    One that spells out http://localhost:8080 says no more (loader.go, IsDefaultConfig).
    """
    if not cluster.name and not cluster.server:
        return context is None
    plain = not (cluster.proxy_url or cluster.disable_compression or user.impersonate)
    return cluster.server == "http://localhost:8080" and plain


def _override_cluster(cluster: Cluster, overrides: Overrides) -> Cluster:
    """Flags over the cluster's fields, and over those that would contradict them (getCluster)."""
    changed = replace(
        cluster,
        server=overrides.server or cluster.server,
        disable_compression=overrides.disable_compression or cluster.disable_compression,
    )
    if overrides.server or overrides.tls_server_name:
        changed = replace(changed, tls_server_name=overrides.tls_server_name or None)
    if overrides.insecure_skip_tls_verify or overrides.certificate_authority:
        changed = replace(
            changed,
            insecure_skip_tls_verify=bool(overrides.insecure_skip_tls_verify),
            certificate_authority=_flag_path(overrides.certificate_authority),
            certificate_authority_data=None,
        )
    return changed


def _override_user(user: User, overrides: Overrides) -> User:
    """Flags over the user's fields; a certificate or key given by flag also drops the `-data` one."""
    changed = replace(
        user,
        username=overrides.username or user.username,
        password=overrides.password or user.password,
        impersonate=overrides.impersonate or user.impersonate,
        impersonate_uid=overrides.impersonate_uid or user.impersonate_uid,
        impersonate_groups=overrides.impersonate_groups or user.impersonate_groups,
    )
    if overrides.token:
        changed = replace(changed, token=overrides.token, token_file=None)
    if overrides.client_certificate:
        path = _flag_path(overrides.client_certificate)
        changed = replace(changed, client_certificate=path, client_certificate_data=None)
    if overrides.client_key:
        changed = replace(changed, client_key=_flag_path(overrides.client_key), client_key_data=None)
    extra: dict[str, tuple[str, ...]] = {}
    for item in overrides.impersonate_extra:
        key, _, value = item.partition("=")
        extra[key] = (*extra.get(key, ()), value)
    return replace(changed, impersonate_extra=tuple((dict(user.impersonate_extra) | extra).items()))


def _flag_path(value: str | None) -> Path | None:
    return Path.cwd() / value if value else None


def _checked(context: Context | None, cluster: Cluster, user: User, overrides: Overrides) -> ResolvedContext:
    problems = [f"{user.label}: {problem}" for problem in user_problems(user)]
    problems += [f"{cluster.label}: {problem}" for problem in cluster_problems(cluster)]
    address = None
    try:
        address = server_address(cluster.server)
    except KubeconfigError as error:
        problems += [f"{cluster.label}: {problem}" for problem in error.problems]
    secure = address is not None and address.scheme == "https"
    if secure:
        problems += [f"{user.label}: {problem}" for problem in tls_user_problems(user)]
        problems += [f"{cluster.label}: {problem}" for problem in tls_cluster_problems(cluster)]
        if context and user == User(name=""):
            problems.append("it names no user; name one, which may be empty ({}) for anonymous access")
    name = (context.name if context else cluster.name) or (address.authority if address else "")
    where = f'context "{name}": ' if name else ""
    if problems := [*flag_problems(overrides), *(where + problem for problem in problems)]:
        raise KubeconfigError(problems)
    return ResolvedContext(name=name, cluster=cluster, user=user if secure else _without_credentials(user))


def _without_credentials(user: User) -> User:
    """Nothing secret travels over plain HTTP; impersonation does (client_config.go, ClientConfig)."""
    return User(
        name=user.name,
        impersonate=user.impersonate,
        impersonate_uid=user.impersonate_uid,
        impersonate_groups=user.impersonate_groups,
        impersonate_extra=user.impersonate_extra,
        source_path=user.source_path,
    )


def _no_server(kubeconfig: KubeConfig, context: Context | None, cluster: Cluster) -> str:
    """Why there is nothing to connect to, and what to do; kubectl would start and try localhost:8080."""
    if cluster.name:
        return f"{cluster.label} has no server; add one or give --server"
    if context:
        return f'context "{context.name}" in {_found(kubeconfig)} names no cluster; name one or give --server'
    demo = "`kproxy demo` starts a pretend cluster to try things with"
    if kubeconfig.contexts:
        return (
            f"no context is chosen: {_found(kubeconfig)} sets no current-context"
            f"{_choice('context', kubeconfig.contexts)}. Choose one with --context; {demo}"
        )
    marks = dict.fromkeys(kubeconfig.missing, " (no such file)")
    looked = ", ".join(f"{path}{marks.get(path, ' (no context)')}" for path in kubeconfig.paths)
    return (
        f"no cluster to connect to: looked for a kubeconfig in {looked or 'an empty KUBECONFIG list'} "
        f"and for the service account of a pod. Give --kubeconfig or --server, or set KUBECONFIG; {demo}"
    )


def _found(kubeconfig: KubeConfig) -> str:
    found = [str(path) for path in kubeconfig.paths if path not in kubeconfig.missing]
    return ", ".join(found) or f"any of {', '.join(map(str, kubeconfig.paths)) or 'no files'} (none exists)"


def _choice(kind: str, entries: Mapping[str, object]) -> str:
    names = ", ".join(f'"{name}"' for name in entries)
    return f"; the {kind}s are {names}" if names else f"; it holds no {kind} at all"


def _has_credential(user: User) -> bool:
    given = (user.token, user.token_file, user.username, user.exec, user.auth_provider)
    return any(given) or bool(user.client_certificate or user.client_certificate_data)


def _holds_certificate(path: Path) -> bool:
    try:
        return b"-----BEGIN CERTIFICATE-----" in path.read_bytes()
    except OSError:
        return False


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and not path.stat().st_size
    except OSError:
        return False

"""What is wrong with a chosen cluster, user or flag: checks that return sentences, never secrets.

Which combinations are wrong is client-go's judgement: tools/clientcmd/validation.go, and for what only
shows once a TLS transport is built transport/transport.go, plugin/pkg/client/auth and rest/plugin.go.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from kproxy.errors import KubeconfigError
from kproxy.kube.duration import duration_seconds
from kproxy.kube.kubeconfig import Cluster, ExecConfig, Overrides, User

_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_REMOVED_PROVIDERS = {
    "gcp": (
        'the gcp auth plugin has been removed; use the "gke-gcloud-auth-plugin" kubectl/client-go credential '
        "plugin, see https://cloud.google.com/blog/products/containers-kubernetes/"
        "kubectl-auth-changes-in-gke"
    ),
    "azure": (
        "the azure auth plugin has been removed; use the https://github.com/Azure/kubelogin "
        "kubectl/client-go credential plugin, see https://kubernetes.io/docs/reference/access-authn-authz/authentication/"
        "#client-go-credential-plugins"
    ),
}


def timeout_seconds(text: str) -> float:
    """Read --request-timeout: whole seconds, or a Go duration as `1m30s`. 0 or less means no limit.

    Raises KubeconfigError.
    """
    try:
        return float(text) if re.fullmatch(r"[0-9]+", text) else duration_seconds(text)
    except ValueError:
        raise KubeconfigError(
            f"--request-timeout={text}: invalid timeout value; give whole seconds or a number with a unit, "
            "as in 1s, 2m or 3h"
        ) from None


def flag_problems(overrides: Overrides) -> Iterator[str]:
    """Flags that cannot be read, whatever the kubeconfig says."""
    if overrides.request_timeout:
        try:
            timeout_seconds(overrides.request_timeout)
        except KubeconfigError as error:
            yield from error.problems
    for item in overrides.impersonate_extra:
        if "=" not in item:
            # kubectl drops it without a word.
            yield f"--as-user-extra={item}: expected KEY=VALUE"


def user_problems(user: User) -> Iterator[str]:
    """What makes a user unusable with any server."""
    if user.client_certificate or user.client_certificate_data:
        if user.client_certificate and user.client_certificate_data:
            yield "client-certificate and client-certificate-data are both given; keep one"
        if user.client_key and user.client_key_data:
            yield "client-key and client-key-data are both given; keep one"
        if not (user.client_key or user.client_key_data):
            yield "a client certificate is given without its key; add client-key or client-key-data"
        yield from read_problems("client-certificate", user.client_certificate)
        yield from read_problems("client-key", user.client_key)
    if user.exec:
        yield from _exec_problems(user.exec)
        if user.auth_provider:
            yield "exec and auth-provider cannot be combined; keep one"
    if user.token and (user.username or user.password):
        yield "token and username/password are two authentication methods, only one is allowed; keep one"
    demands = {
        "as-uid": user.impersonate_uid,
        "as-groups": user.impersonate_groups,
        "as-user-extra": user.impersonate_extra,
    }
    given = [field for field, value in demands.items() if value]
    if given and not user.impersonate:
        yield f"{', '.join(given)} asked for without impersonating a user; add `as` or --as"


def _exec_problems(plugin: ExecConfig) -> Iterator[str]:
    if not plugin.command:
        yield "exec.command is missing"
    if not plugin.api_version:
        yield f"exec.apiVersion is missing; use {_EXEC_VERSIONS[0]}"
    for index, (name, _) in enumerate(plugin.env):
        if not name:
            yield f"exec.env[{index}].name is missing"
    if not plugin.interactive_mode:
        yield f"exec.interactiveMode is missing; use one of {', '.join(_INTERACTIVE_MODES)}"
    elif plugin.interactive_mode not in _INTERACTIVE_MODES:
        yield (
            f'exec.interactiveMode: invalid value "{plugin.interactive_mode}"; '
            f"use one of {', '.join(_INTERACTIVE_MODES)}"
        )


def cluster_problems(cluster: Cluster) -> Iterator[str]:
    """What makes a cluster unusable whatever its scheme."""
    if cluster.proxy_url:
        yield from _proxy_problems(cluster.proxy_url)
    if cluster.certificate_authority and cluster.certificate_authority_data:
        yield "certificate-authority and certificate-authority-data are both given; keep one"
    yield from read_problems("certificate-authority", cluster.certificate_authority)


def _proxy_problems(proxy_url: str) -> Iterator[str]:
    shown = without_password(proxy_url)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", proxy_url)
    if not match:
        yield f'proxy-url "{shown}" has no scheme; write http://{shown}'
    elif match[1].lower() not in _PROXY_SCHEMES:
        yield f'proxy-url "{shown}": unsupported scheme "{match[1]}", must be http, https, socks5 or socks5h'
    elif not re.match(r"[^:]*://[^/?#\s]+(?:[/?#]|$)", proxy_url):
        yield f'proxy-url "{shown}" names no host'


def tls_cluster_problems(cluster: Cluster) -> Iterator[str]:
    """What is wrong with a cluster only if its server speaks https."""
    if cluster.insecure_skip_tls_verify and (
        cluster.certificate_authority or cluster.certificate_authority_data
    ):
        yield "insecure-skip-tls-verify and a certificate-authority exclude each other; remove one"


def tls_user_problems(user: User) -> Iterator[str]:
    """What is wrong with a user only if the server speaks https: over http no credential is looked at."""
    if user.token_file and user.username:
        yield "tokenFile and username/password are two authentication methods, only one is allowed; keep one"
    if user.token_file and not user.token:
        # With a token besides, the file may come later (transport/token_source.go).
        yield from read_problems("tokenFile", user.token_file)
    if user.exec and user.exec.api_version and user.exec.api_version not in _EXEC_VERSIONS:
        yield f'exec.apiVersion: invalid version "{user.exec.api_version}"; use {" or ".join(_EXEC_VERSIONS)}'
    provider = user.auth_provider
    if not provider or user.exec:
        return
    if provider.name == "oidc":
        for key in ("idp-issuer-url", "client-id"):
            if not provider.config.get(key):
                yield f"auth-provider oidc: {key} is missing"
    else:
        unknown = f'no auth provider is known by the name "{provider.name}"; only oidc is'
        yield f"auth-provider: {_REMOVED_PROVIDERS.get(provider.name, unknown)}"


def read_problems(field: str, path: Path | None) -> Iterator[str]:
    """Why the file cannot be read, if so. A pipe is left alone: opening it could block or empty it."""
    if path is None:
        return
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            yield f"{field} {path} is a directory"
        elif stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        yield f"{field} {path} cannot be read: {error.strerror}"
    except ValueError:
        yield f"{field} holds a path with a NUL character"


def without_password(url: str) -> str:
    """The URL with its user info masked, to be shown."""
    return re.sub(r"^([^/]*//)?.*@", r"\1***@", url, flags=re.DOTALL)

"""What kproxy and an exec plugin say to each other: the ExecCredential object. Pure.

Rules: client-go pkg/apis/clientauthentication, plugin/pkg/client/auth/exec/exec.go, rest/exec.go.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

from kproxy.kube.kubeconfig import Cluster
from kproxy.kube.yaml import Section, YamlError, parse
from kproxy.tls.lifetime import parse_timestamp

# encoding/json writes these so wherever they stand in a string.
_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecStatus:
    """What a plugin hands out: a token, a certificate with its key (PEM), or both."""

    token: str | None = field(default=None, repr=False)
    certificate_pem: bytes | None = None
    key_pem: bytes | None = field(default=None, repr=False)
    expires_at: float | None = None


def exec_info(
    api_version: str, *, interactive: bool, cluster: Cluster | None = None, authority_pem: bytes | None = None
) -> str:
    """The value of KUBERNETES_EXEC_INFO, byte for byte as client-go writes it.

    `cluster` is given when the plugin asks for it (provideClusterInfo), `authority_pem` is the content
    of its CA, from wherever it is.
    """
    spec: dict[str, object] = {}
    if cluster is not None:
        fields = {
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            "certificate-authority-data": base64.b64encode(authority_pem or b"").decode(),
            "proxy-url": cluster.proxy_url,
            "disable-compression": cluster.disable_compression,
        }
        spec["cluster"] = {
            **{name: value for name, value in fields.items() if value},
            "config": _sorted(cluster.exec_config),
        }
    spec["interactive"] = interactive
    document = {"kind": "ExecCredential", "apiVersion": api_version, "spec": spec}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES) + "\n"


def parse_output(output: bytes, api_version: str) -> ExecStatus:
    """What the plugin answered, in JSON or YAML. Raises ValueError with a text that shows nothing of it."""
    try:
        # JSON first: it is what nearly all plugins print, and not quite a part of YAML (tabs, for one).
        document = json.loads(output)
    except (ValueError, RecursionError):
        try:
            document = parse(output)
        except YamlError as error:
            raise ValueError(f"decoding stdout: {error}") from None
    if document is not None and not isinstance(document, dict):
        raise ValueError("decoding stdout: couldn't get version/kind: it is neither a JSON nor a YAML object")
    problems: list[str] = []
    fields = Section.of(document, "", problems)
    version, kind = fields.string("apiVersion"), fields.string("kind")
    if not problems and version != api_version:
        raise ValueError(
            f"exec plugin is configured to use API version {api_version}, "
            f"plugin returned version {version or 'client.authentication.k8s.io/__internal'}"
            + ("" if version else " (its output names no apiVersion)")
        )
    if not problems and kind not in ("ExecCredential", ""):
        raise ValueError(
            f'decoding stdout: no kind "{kind}" is registered for version "{version}"; '
            "expected kind ExecCredential"
        )
    has_status = fields.has("status")
    status = fields.section("status")
    token = status.string("token")
    certificate, key = status.string("clientCertificateData"), status.string("clientKeyData")
    timestamp = status.string("expirationTimestamp")
    expires_at = None
    if timestamp:
        try:
            expires_at = parse_timestamp(timestamp)
        except ValueError as error:
            problems.append(f"status.expirationTimestamp: {error}")
    if problems:
        raise ValueError(f"decoding stdout: {'; '.join(problems)}")
    if not has_status:
        raise ValueError("exec plugin didn't return a status field")
    if not (token or certificate or key):
        raise ValueError("exec plugin didn't return a token or cert/key pair")
    if bool(certificate) != bool(key):
        raise ValueError("exec plugin returned only certificate or key, not both")
    return ExecStatus(
        token=token or None,
        certificate_pem=certificate.encode() or None,
        key_pem=key.encode() or None,
        expires_at=expires_at,
    )


def _sorted(value: object) -> object:
    """Keys in the order that the step from YAML to JSON gives them in client-go."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value

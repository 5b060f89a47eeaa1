"""TLS towards API servers, with Go's idea of trust and without private keys left on a disk.

Go's crypto/x509 is laxer than OpenSSL's defaults in what an authority file may hold (an intermediate, the
server's own self-signed certificate, authorities without key identifiers) and stricter in names (only
subjectAltName counts). Rules: client-go transport/transport.go, TLSConfigFor and rootCertPool.
"""

from __future__ import annotations

import re
import ssl
from typing import NoReturn

from kproxy.errors import KubeconfigError
from kproxy.kube.kubeconfig import Cluster, User
from kproxy.tls.pair import ClientCertificate, UnusablePairError, load_into

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def client_context(
    cluster: Cluster,
    certificate: ClientCertificate | None,
    user: User | None = None,
    *,
    offers_http2: bool = False,
) -> ssl.SSLContext:
    """A context for connections to the API server of `cluster`, with `certificate` if there is one.

    `user` is the one the certificate is of, to be named in messages. Callers pass `tls_server_name` or the
    host as server_hostname. The system's authorities are loaded only if the cluster names none: it takes
    some 80 ms. Raises KubeconfigError naming the file or field that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["h2", "http/1.1"] if offers_http2 else ["http/1.1"])
    if cluster.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, cluster)
    if certificate is not None:
        _identify(context, certificate, _fields(user))
    return context


def check_pair(certificate: ClientCertificate, user: User | None = None) -> None:
    """Raises KubeconfigError when certificate and key cannot be used, as `client_context` would."""
    _identify(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, _fields(user))


def _trust(context: ssl.SSLContext, cluster: Cluster) -> None:
    if cluster.certificate_authority is not None:
        place = f"certificate-authority {cluster.certificate_authority}"
        try:
            bundle = cluster.certificate_authority.read_bytes()
        except OSError as error:
            _refuse(cluster, f"{place} cannot be read: {error.strerror}")
        if not bundle:
            # As kubectl since 1.36: an empty file trusts nobody, it is not taken for "none named".
            return
    elif cluster.certificate_authority_data is not None:
        place, bundle = "certificate-authority-data", cluster.certificate_authority_data
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    loaded = 0
    # One by one, as Go does: a certificate that cannot be parsed does not spoil its neighbours.
    for pem in _CERTIFICATE.findall(bundle):
        try:
            context.load_verify_locations(cadata=pem.decode("ascii"))
        except (ssl.SSLError, ValueError):
            continue
        loaded += 1
    if not loaded:
        _refuse(cluster, f"{place} holds no valid certificate in PEM form (-----BEGIN CERTIFICATE-----)")


def _refuse(cluster: Cluster, problem: str) -> NoReturn:
    raise KubeconfigError(f"{cluster.label}: {problem}") from None


def _fields(user: User | None) -> tuple[str, str]:
    """What the certificate and the key are called in messages."""
    if user is None:
        return "client certificate", "client key"
    if user.client_certificate_data or user.client_certificate:
        names = (
            f"client-certificate {user.client_certificate}"
            if user.client_certificate
            else "client-certificate-data",
            f"client-key {user.client_key}" if user.client_key else "client-key-data",
        )
    else:
        names = ("certificate of the exec plugin", "key of the exec plugin")
    return f"{user.label}: {names[0]}", f"{user.label}: {names[1]}"


def _identify(context: ssl.SSLContext, certificate: ClientCertificate, fields: tuple[str, str]) -> None:
    try:
        load_into(context, certificate.certificate_pem, certificate.key_pem)
    except UnusablePairError as error:
        raise KubeconfigError(f"{fields[error.part == 'key']} {error}") from None

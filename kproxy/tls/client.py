"""TLS towards API servers, with Go's idea of trust and without private keys left on a disk.

Go's crypto/x509 is laxer than OpenSSL's defaults in what an authority file may hold (an intermediate, the
server's own self-signed certificate, authorities without key identifiers) and stricter in names (only
subjectAltName counts). Rules: client-go transport/transport.go, TLSConfigFor and rootCertPool.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from kproxy.errors import KubeconfigError

if TYPE_CHECKING:
    from kproxy.credentials.credential import ClientCertificate
    from kproxy.kube.kubeconfig import Cluster, User

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


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
    """Present `certificate`; the ssl module takes certificate and key from files only."""
    certificate_field, key_field = fields

    def ask() -> NoReturn:
        # Without this OpenSSL asks on the terminal.
        raise KubeconfigError(
            f"{key_field} is protected by a password; use an unencrypted key or an exec plugin"
        )

    if not _CERTIFICATE.search(certificate.certificate_pem):
        raise KubeconfigError(f"{certificate_field}: failed to find a certificate in PEM form")
    if not _PRIVATE_KEY.search(certificate.key_pem):
        raise KubeconfigError(f"{key_field}: failed to find a private key in PEM form")
    try:
        with (
            memory_file(certificate.certificate_pem) as certificate_path,
            memory_file(certificate.key_pem) as key_path,
        ):
            context.load_cert_chain(certificate_path, key_path, password=ask)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            problem = f"{key_field}: the private key does not match the certificate"
        else:
            problem = f"{certificate_field}, or its key, cannot be parsed ({error.reason or error.strerror})"
        raise KubeconfigError(problem) from None


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """A path at which OpenSSL can read `content`; no other user can, and afterwards it is gone."""
    descriptor = _anonymous_file(content)
    if descriptor is not None:
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    # Imported here: needed only without memfd or /proc, as on macOS. The directory is 0700, the file 0600.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kproxy-") as directory:
        path = os.path.join(directory, "pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        yield path


def _anonymous_file(content: bytes) -> int | None:
    """A file descriptor of memory that has a path in /proc, where the system has both."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("kproxy", os.MFD_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    if os.path.exists(f"/proc/self/fd/{descriptor}"):
        return descriptor
    os.close(descriptor)
    return None

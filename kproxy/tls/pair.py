"""A certificate and its key as a TLS listener shows them: taken whole, or not at all."""

from __future__ import annotations

import hashlib
import re
import ssl
from typing import NoReturn

from kproxy.tls.client import memory_file

_BLOCK = re.compile(rb"-----(BEGIN|END) [A-Z0-9 ]+-----")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class UnusablePairError(ValueError):
    """A certificate and key that cannot be shown; the text says which of them, and why."""


def load_pair(certificate_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """A context that shows this certificate (and the chain behind it); raises UnusablePairError."""
    if not _CERTIFICATE.search(certificate_pem):
        raise UnusablePairError("the certificate file holds no certificate in PEM form")
    for name, pem in (("certificate", certificate_pem), ("key", key_pem)):
        edges = [found[1] for found in _BLOCK.finditer(pem)]
        # OpenSSL takes a chain that breaks off in its second certificate for one that has ended.
        is_cut = any(line.startswith(b"-") for line in _BLOCK.sub(b"", pem).splitlines())
        if is_cut or edges != [b"BEGIN", b"END"] * (len(edges) // 2):
            raise UnusablePairError(f"the {name} file is not complete")
    if b" PRIVATE KEY-----" not in key_pem:
        raise UnusablePairError("the key file holds no private key in PEM form")

    def ask() -> NoReturn:
        # Without this OpenSSL asks on the terminal.
        raise UnusablePairError("the key is protected by a password; give one that is not")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        with memory_file(certificate_pem) as certificate, memory_file(key_pem) as key:
            context.load_cert_chain(certificate, key, password=ask)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise UnusablePairError("the key is not that of the certificate") from None
        raise UnusablePairError(f"they cannot be parsed ({error.reason or error.strerror})") from None
    return context


def der_of(certificate_pem: bytes) -> bytes:
    """The first certificate of what `load_pair` took."""
    found = _CERTIFICATE.search(certificate_pem)
    assert found, "load_pair looks before"
    return ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))


def fingerprint_of(certificate_pem: bytes) -> str:
    """SHA-256 of the first certificate, as `openssl x509 -fingerprint -sha256` writes it."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der_of(certificate_pem)).digest())

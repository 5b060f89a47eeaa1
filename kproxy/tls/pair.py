"""One certificate chain and its private key, of a client or of a listener: loaded whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NoReturn

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_BLOCK = re.compile(rb"-----(BEGIN|END) [A-Z0-9 ]+-----")

Part = Literal["certificate", "key"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClientCertificate:
    """A certificate chain and its private key, both PEM. Compared by identity: a new one is a new object."""

    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


class UnusablePairError(ValueError):
    """A certificate and key that cannot be used; the text reads on after the name of the `part`."""

    def __init__(self, part: Part, text: str) -> None:
        super().__init__(text)
        self.part: Part = part


def load_into(context: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes) -> None:
    """Have `context` show this chain. Raises UnusablePairError.

    The ssl module takes certificate and key from files only.
    """

    def ask() -> NoReturn:
        # Without this OpenSSL asks on the terminal.
        raise UnusablePairError("key", "is protected by a password; use a key without one")

    if not _CERTIFICATE.search(certificate_pem):
        raise UnusablePairError("certificate", "holds no certificate in PEM form")
    if not _PRIVATE_KEY.search(key_pem):
        raise UnusablePairError("key", "holds no private key in PEM form")
    try:
        with memory_file(certificate_pem) as certificate, memory_file(key_pem) as key:
            context.load_cert_chain(certificate, key, password=ask)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise UnusablePairError("key", "is not the key of the certificate") from None
        reason = error.reason or error.strerror
        raise UnusablePairError("certificate", f"or its key cannot be parsed ({reason})") from None


def server_context(certificate_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """What a listener shows with this pair; raises UnusablePairError, also for files that are cut short."""
    parts: tuple[tuple[Part, bytes], ...] = (("certificate", certificate_pem), ("key", key_pem))
    for part, pem in parts:
        edges = [found[1] for found in _BLOCK.finditer(pem)]
        # OpenSSL takes a chain that breaks off in its second certificate for one that has ended.
        is_cut = any(line.startswith(b"-") for line in _BLOCK.sub(b"", pem).splitlines())
        if is_cut or edges != [b"BEGIN", b"END"] * (len(edges) // 2):
            raise UnusablePairError(part, "is not complete")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_into(context, certificate_pem, key_pem)
    return context


def der_of(certificate_pem: bytes) -> bytes:
    """The first certificate of what was loaded."""
    found = _CERTIFICATE.search(certificate_pem)
    assert found, "load_into has looked"
    return ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))


def fingerprint_of(certificate_pem: bytes) -> str:
    """SHA-256 of the first certificate, as `openssl x509 -fingerprint -sha256` writes it."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der_of(certificate_pem)).digest())


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

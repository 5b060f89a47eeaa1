"""The certificate of `--tls-self-signed`: one for each user, made once, kept, and renewed before its end.

It stays the same from start to start, so that whoever trusts it needs to look at its fingerprint once.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from kproxy.errors import KproxyError
from kproxy.system.privatefile import make_folder, write_private
from kproxy.tls.lifetime import certificate_life
from kproxy.tls.pair import UnusablePairError, der_of, server_context

NAMES = ("localhost", "*.localhost", "127.0.0.1", "::1")
"""What every certificate is for, besides the addresses that are listened on."""

_DAY_SECONDS = 86_400.0
RENEW_SECONDS = 30 * _DAY_SECONDS
LIFE_SECONDS = 820 * _DAY_SECONDS
"""macOS and iOS take a server's certificate for 825 days at most (support.apple.com/103769)."""
_SKEW_SECONDS = 300.0

_NAME = re.compile(r"[0-9A-Za-z._:-]{1,253}")


def folder_of(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/kproxy/tls`, else `~/.local/state/kproxy/tls` (XDG Base Directory Specification)."""
    state = environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path is to be ignored.
    base = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~/.local/state"))
    return base / "kproxy" / "tls"


class SelfSigned:
    """The pair in a folder that only its owner can enter."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now
        self.paths = (folder / "tls.crt", folder / "tls.key")

    def ensure(self, names: Iterable[str]) -> bool:
        """Have a pair that is good for `names` and for a month; whether it had to be made.

        Of several that do this at once one makes it. Raises KproxyError when the folder cannot be used.
        """
        wanted = sorted({*NAMES, *_certifiable(names)})
        try:
            with self._locked():
                if self._is_good(wanted):
                    return False
                self._make(wanted)
                return True
        except OSError as error:
            raise KproxyError(
                f"--tls-self-signed: cannot keep a certificate in {self._folder}: {error.strerror}; "
                "point XDG_STATE_HOME to a folder of yours, or give --tls-certificate and --tls-key"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self._folder.parent)
        _check_owner(self._folder.parent, {os.geteuid(), 0})
        make_folder(self._folder)
        _check_owner(self._folder, {os.geteuid()})
        if os.stat(self._folder).st_mode & 0o077:
            os.chmod(self._folder, 0o700)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The kernel lets go of it when its holder dies.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _is_good(self, names: Iterable[str]) -> bool:
        certificate_path, key_path = self.paths
        try:
            found = os.stat(key_path)
            pems = certificate_path.read_bytes(), key_path.read_bytes()
            server_context(*pems)
        except (FileNotFoundError, UnusablePairError):
            return False
        is_private = found.st_uid == os.geteuid() and not found.st_mode & 0o077
        ends_at = certificate_life(pems[0]).expires_at or 0.0
        return is_private and ends_at - self._now() > RENEW_SECONDS and _covers(pems[0], names)

    def _make(self, names: Iterable[str]) -> None:
        certificate_path, key_path = self.paths
        with suppress(OSError, ValueError):
            # What another kproxy listens on stays in: two that run would undo each other's certificate.
            names = {*names, *_names_in(certificate_path.read_bytes())}
        certificate_pem, key_pem = new_pair(sorted(names), self._now())
        # The key first. Between the two the pair does not match, and those who watch it wait for the second.
        write_private(key_path, key_pem)
        write_private(certificate_path, certificate_pem)


def _check_owner(folder: Path, allowed: set[int]) -> None:
    """Raises KproxyError for a folder of another user, or a link of theirs.

    Whoever owns a folder can put a key there that they know; whoever makes a link can have a key replaced.
    """
    if not {os.stat(folder).st_uid, os.lstat(folder).st_uid} <= allowed:
        raise KproxyError(
            f"--tls-self-signed: {folder} belongs to another user; point XDG_STATE_HOME to a folder of yours"
        )


def _certifiable(names: Iterable[str]) -> Iterator[str]:
    """Names that clients can ask for: for all interfaces of this machine its host name stands."""
    for name in names:
        try:
            is_any = ip_address(name).is_unspecified
        except ValueError:
            is_any = False
        name = socket.gethostname() if is_any else name.partition("%")[0].lower()
        if _NAME.fullmatch(name):
            yield name


def _covers(certificate_pem: bytes, names: Iterable[str]) -> bool:
    """Whether each name stands in the certificate, as a GeneralName has it (RFC 5280, 4.2.1.6).

    Looked for in the bytes: ssl takes no certificate apart but a peer's, and a library for it takes 0.1 s.
    """
    der = der_of(certificate_pem)
    return all(_general_name(name) in der for name in names)


def _general_name(name: str) -> bytes:
    try:
        tag, value = 0x87, ip_address(name).packed
    except ValueError:
        tag, value = 0x82, name.encode("ascii")
    # The length in DER (X.690, 8.1.3): from 128 on a byte that says how long it is goes before it.
    length = (len(value),) if len(value) < 0x80 else (0x81, len(value))
    return bytes((tag, *length)) + value


def _names_in(certificate_pem: bytes) -> list[str]:
    # Imported here, as below.
    from cryptography import x509

    extensions = x509.load_pem_x509_certificate(certificate_pem).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def new_pair(names: Iterable[str], now: float) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM: EC P-256, its own issuer and no authority for others."""
    # Imported here: it takes 0.1 s, and most starts make no certificate.
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "kproxy")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=False, crl_sign=False, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(now - _SKEW_SECONDS, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(now + LIFE_SECONDS, datetime.UTC))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

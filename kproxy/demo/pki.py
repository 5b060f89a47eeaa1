"""A certificate authority that lives as long as the demo cluster: P-256, for speed, and all in memory."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=30)
# A virtual machine's clock may lag behind its host's.
_SKEW = datetime.timedelta(minutes=5)
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


class Authority:
    """Issues certificates that also pass `ssl.VERIFY_X509_STRICT`, Python 3.13's default."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name((NameOID.COMMON_NAME, name))
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate_pem = self._sign(self._name, self._key, constraints, "key_cert_sign", "crl_sign")

    def issue_server(self, hosts: tuple[str, ...]) -> KeyPair:
        """A certificate for these host names and IP addresses."""
        names = x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)])
        subject = _name((NameOID.COMMON_NAME, "kproxy-demo"))
        return self._issue(subject, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), names)

    def issue_client(self, user: str, groups: tuple[str, ...]) -> KeyPair:
        """A certificate that names a user (CN) and its groups (O), as Kubernetes reads them."""
        organizations = [(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = _name(*organizations, (NameOID.COMMON_NAME, user))
        return self._issue(subject, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))

    def _issue(self, subject: x509.Name, *extensions: x509.ExtensionType) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        return KeyPair(
            certificate_pem=self._sign(subject, key, constraints, "digital_signature", more=extensions),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        *uses: str,
        more: tuple[x509.ExtensionType, ...] = (),
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(constraints, critical=True)
            .add_extension(x509.KeyUsage(**{use: use in uses for use in _USES}), critical=True)
        )
        for extension in (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            *more,
        ):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

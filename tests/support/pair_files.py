"""A certificate and its key in files, where others replace them."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.support.api_server import replace_file


class PairFiles:
    """`folder`/`name`.crt and .key; there is nothing in them until `write`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate = folder / f"{name}.crt"
        self.key = folder / f"{name}.key"

    def write(self, certificate: bytes, key: bytes) -> None:
        """In this order, as most tools write them: for a moment they do not match."""
        replace_file(self.certificate, certificate)
        replace_file(self.key, key)

    @property
    def user(self) -> dict[str, str]:
        """The fields of a kubeconfig's user entry."""
        return {"client-certificate": str(self.certificate), "client-key": str(self.key)}

    @property
    def der(self) -> bytes:
        """The certificate as a TLS connection shows it."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())

"""What a credential is, and what hands one out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from kproxy.kube.kubeconfig import ResolvedContext


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClientCertificate:
    """A certificate chain and its private key, both PEM. Compared by identity: a new one is a new object."""

    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


Content = tuple[str | None, bytes | None]
"""What an API server sees of a credential: the Authorization value, and the certificate."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Credential:
    """What one request needs. Compared by identity, so that a 401 is held against the right one.

    `authorization` is the whole header value. `issued_at` and `expires_at` are seconds since the
    epoch, None where nobody tells. `kind` names the kubeconfig fields it comes from, joined by "+".
    """

    authorization: str | None = field(default=None, repr=False)
    certificate: ClientCertificate | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    kind: str = "none"

    @property
    def content(self) -> Content:
        return self.authorization, self.certificate.certificate_pem if self.certificate is not None else None

    @property
    def ending_at(self) -> float | None:
        """From when on less than a tenth of its life is left (seconds since the epoch)."""
        if self.expires_at is None or self.issued_at is None:
            return self.expires_at
        return self.expires_at - 0.1 * (self.expires_at - self.issued_at)


class CredentialSource(Protocol):
    """Hands out one context's credential and renews it. Everything runs on the event loop's thread."""

    def current(self) -> Credential | None:
        """A credential that is good now, else None: then ask `get`. Called for every request."""

    async def get(self) -> Credential:
        """A credential that is good now, renewed once for all who wait. Raises CredentialError.

        A caller that is cancelled leaves the renewal running for the others.
        """

    def invalidate(self, credential: Credential) -> None:
        """The API server answered 401 to `credential`: renew it, unless a newer one is at hand already.

        If `get` then returns the same object, or another one with the same content, nothing newer is to
        be had and the API server's 401 is the answer.
        """

    async def close(self) -> None:
        """End the renewal that may be running. The source is of no use afterwards."""


def place(context: ResolvedContext) -> str:
    """Where a person finds what a message is about."""
    user = context.user
    file = f" in {user.source_path}" if user.source_path is not None else ""
    return f'context "{context.name}": user "{user.name}"{file}'


def bearer(token: str) -> str:
    """The Authorization value for `token`. Raises ValueError if a header cannot hold it (RFC 9110, 5.5)."""
    if not token.isascii() or not token.isprintable():
        raise ValueError(
            'the token is no valid header field value for "Authorization": '
            "it holds a line break, a control character or a letter outside ASCII"
        )
    return f"Bearer {token}"

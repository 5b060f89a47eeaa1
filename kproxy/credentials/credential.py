"""What a credential is, and what hands one out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.tls.pair import ClientCertificate

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """How the renewal of a credential stands, for people."""

    waiting_for: str | None = None
    """The program or host that is being asked for a credential."""
    waiting_seconds: float = 0.0
    last_words: str = ""
    """What that program said last, in lines; perhaps where to log in."""
    problem: str | None = None
    """Why the last one failed."""

    @property
    def waiting(self) -> str | None:
        """The state of one that is under way."""
        return f"waiting for {self.waiting_for}, {self.waiting_seconds:.0f} s" if self.waiting_for else None


NO_RENEWAL = Renewal()


class CredentialSource(Protocol):
    """Hands out one context's credential and renews it. Everything runs on the event loop's thread."""

    def current(self) -> Credential | None:
        """A credential that is good now, else None: then ask `get`. Called for every request."""

    async def get(self, refused: Credential | None = None) -> Credential:
        """A credential that is good now, renewed once for all who wait. Raises CredentialError.

        For one that was `refused`, after `invalidate`: what comes of its renewal. The same object, or another
        one with the same content, says that the API server's 401 is the answer.
        A caller that is cancelled leaves the renewal running for the others.
        """

    async def certificate(self) -> ClientCertificate | None:
        """What is to be had to go beside a client's own Authorization, without much waiting and errors."""

    def invalidate(self, credential: Credential) -> bool:
        """There was a 401 to `credential`; tell whether a newer one is at hand or on its way.

        It stays in force until there is one, or it ends: the 401 may come from behind the API server, as
        from a service or a webhook, and say nothing about it.
        """

    def confirm(self, credential: Credential) -> None:
        """A request that had got 401 before was accepted with this one."""

    def discard(self, credential: Credential) -> None:
        """Never hand it out again: the kubeconfig has somebody else's login now."""

    def renewal(self) -> Renewal:
        """How the renewal stands. Asking changes nothing."""

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

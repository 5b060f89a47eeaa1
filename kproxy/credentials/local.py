"""Credentials that are at hand: token, token file, basic authentication, client certificate.

Files are read again when they change, while there is traffic: looked at once a second, a token file also
after 50 s and after a 401 whatever its times say (client-go transport/token_source.go reads it every 50 s,
transport/cert_rotation.go looks every 5 min).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from kproxy.credentials.credential import (
    NO_RENEWAL,
    Credential,
    CredentialSource,
    Renewal,
    bearer,
    place,
)
from kproxy.credentials.expiry import token_life
from kproxy.errors import CredentialFileError, KubeconfigError
from kproxy.http.forwarding import basic_authorization
from kproxy.kube.kubeconfig import ResolvedContext, User
from kproxy.tls.client import check_pair
from kproxy.tls.lifetime import Life, certificate_life, earliest
from kproxy.tls.pair import ClientCertificate

LOOK_SECONDS = 1.0
TOKEN_FILE_SECONDS = 50.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def open_local(context: ResolvedContext, *, monotonic: Callable[[], float]) -> CredentialSource:
    """The source of what the user's own fields hold; it is anonymous when they hold nothing.

    Raises KubeconfigError for a token that cannot stand in a header.
    """
    user = context.user
    fixed = _fixed(context)
    token = TokenFile(user.token_file, place(context)) if user.token_file is not None else None
    pair = KeyPair(context) if has_certificate(user) else None
    if token is None and (pair is None or pair.is_fixed):
        return StaticSource(_joined(fixed, pair.certificate if pair is not None else None))
    return FileSource(fixed, token, pair, context.name, monotonic=monotonic)


def has_certificate(user: User) -> bool:
    """A key without a certificate counts for nothing, as in kubectl."""
    certificate = user.client_certificate or user.client_certificate_data
    key = user.client_key or user.client_key_data
    return certificate is not None and key is not None


class StaticSource:
    """One credential for good. After a 401 it is still the same one: nothing newer is to be had."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def current(self) -> Credential | None:
        return self._credential

    async def get(self, refused: Credential | None = None) -> Credential:
        return self._credential

    async def certificate(self) -> ClientCertificate | None:
        return self._credential.certificate

    def invalidate(self, credential: Credential) -> bool:
        return False

    def confirm(self, credential: Credential) -> None:
        return

    def discard(self, credential: Credential) -> None:
        return

    def renewal(self) -> Renewal:
        return NO_RENEWAL

    async def close(self) -> None:
        return


class FileSource:
    """A credential of which a part is in files. A new credential object tells that a file has changed."""

    def __init__(
        self,
        fixed: Credential,
        token: TokenFile | None,
        pair: KeyPair | None,
        context_name: str,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        """`fixed` is what stands in for a token file that cannot be read, or goes beside the certificate."""
        self._context_name = context_name
        self._fixed = fixed
        self._token = token
        self._pair = pair
        self._monotonic = monotonic
        self._credential: Credential | None = None
        self._look_at = float("-inf")
        self._look(insist=False)

    def current(self) -> Credential | None:
        if self._monotonic() >= self._look_at:
            self._look(insist=False)
        return self._credential

    async def get(self, refused: Credential | None = None) -> Credential:
        credential = self.current()
        if credential is None:
            raise CredentialFileError(self._problem())
        return credential

    async def certificate(self) -> ClientCertificate | None:
        return self._pair.certificate if self._pair is not None else None

    def invalidate(self, credential: Credential) -> bool:
        if credential is self._credential:
            self._look(insist=True)
        return credential is not self._credential

    def confirm(self, credential: Credential) -> None:
        return

    def discard(self, credential: Credential) -> None:
        return

    def renewal(self) -> Renewal:
        return Renewal(problem=self._problem() or None)

    def _problem(self) -> str:
        return "; ".join(part.problem for part in (self._token, self._pair) if part and part.problem)

    async def close(self) -> None:
        return

    def _look(self, *, insist: bool) -> None:
        now = self._monotonic()
        token, pair = self._token, self._pair
        changed = token.look(now, insist=insist) if token is not None else False
        if pair is not None:
            changed |= pair.look()
        is_complete = (token is None or token.credential is not None) and (
            pair is None or pair.certificate is not None
        )
        # What is missing may come at any moment, and a request that fails for it is worth the look.
        self._look_at = now + LOOK_SECONDS if is_complete else float("-inf")
        if not changed and self._credential is not None:
            return
        header = (token.credential if token is not None else None) or self._fixed
        lacks_token = token is not None and header.authorization is None
        lacks_certificate = pair is not None and pair.certificate is None
        if lacks_token or lacks_certificate:
            return
        if self._credential is not None:
            log.info("credential.reloaded", context=self._context_name, credential=self._credential.kind)
        self._credential = _joined(header, pair.certificate if pair is not None else None)


class _Watched:
    """Something in files, and what is wrong with them at the moment."""

    def __init__(self, where: str) -> None:
        self.problem: str | None = None
        self._where = where

    def _note(self, cause: str) -> None:
        """Tell of a problem once, until a read succeeds."""
        if self.problem is None:
            self.problem = f"{self._where}: {cause}; kproxy reads it again by itself"
            log.warning("credential.reload_failed", error=self.problem)


class TokenFile(_Watched):
    """A bearer token in a file. A read that fails leaves the last good one in force."""

    def __init__(self, path: Path, where: str) -> None:
        super().__init__(f"{where}: tokenFile {path}")
        self.credential: Credential | None = None
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._is_read = False
        self._read_at = float("-inf")

    def look(self, now: float, *, insist: bool) -> bool:
        """Read the file if it may have changed (`insist`: in any case); tell whether the token has.

        `now` is monotonic.
        """
        seen = _signature(self._path)
        is_due = insist or self.credential is None or now >= self._read_at + TOKEN_FILE_SECONDS
        if seen == self._seen and not is_due:
            return False
        if seen is None and self._is_read and self._path.exists():
            # A pipe, as in tokenFile: /dev/fd/63. It is empty by now, and opening it could block.
            return False
        try:
            data = self._path.read_bytes()
            self._seen, self._is_read, self._read_at = seen, True, now
            token = data.decode().strip()
            authorization = bearer(token) if token else None
        except OSError as error:
            self._note(error.strerror or str(error))
            return False
        except UnicodeDecodeError:
            self._note("it holds no text")
            return False
        except ValueError as error:
            self._note(str(error))
            return False
        if authorization is None:
            self._note("read empty token from file")
            return False
        self.problem = None
        if self.credential is not None and self.credential.authorization == authorization:
            return False
        life = token_life(token)
        self.credential = Credential(
            authorization=authorization,
            issued_at=life.issued_at,
            expires_at=life.expires_at,
            kind="tokenFile",
        )
        return True


class KeyPair(_Watched):
    """The client certificate and its key, each from a file or from the kubeconfig itself.

    A pair that cannot be used leaves the last good one in force: certificate and key are written one
    after the other, so for a moment they need not match.
    """

    def __init__(self, context: ResolvedContext) -> None:
        super().__init__(place(context))
        user = context.user
        self.certificate: ClientCertificate | None = None
        self.is_fixed = user.client_certificate is None and user.client_key is None
        self._user = user
        self._certificate_path, self._key_path = user.client_certificate, user.client_key
        self._certificate_pem = user.client_certificate_data or b""
        self._key_pem = user.client_key_data or b""
        self._seen: tuple[object, ...] | None = None
        if self.is_fixed:
            # Not tried here: the upstream does at once, and what it raises then names the -data fields.
            self.certificate = ClientCertificate(certificate_pem=self._certificate_pem, key_pem=self._key_pem)

    def look(self) -> bool:
        """Read the files if they have changed; tell whether there is a new certificate."""
        if self.is_fixed:
            return False
        seen = (_signature(self._certificate_path), _signature(self._key_path))
        if seen == self._seen and self.problem is None:
            return False
        try:
            certificate_pem, key_pem = self._certificate_pem, self._key_pem
            if self._certificate_path is not None:
                certificate_pem = self._certificate_path.read_bytes()
            if self._key_path is not None:
                key_pem = self._key_path.read_bytes()
        except OSError as error:
            self._note(f"{error.filename}: {error.strerror}")
            return False
        self._seen = seen
        used = self.certificate
        if used is not None and (used.certificate_pem, used.key_pem) == (certificate_pem, key_pem):
            self.problem = None
            return False
        fresh = ClientCertificate(certificate_pem=certificate_pem, key_pem=key_pem)
        try:
            check_pair(fresh, self._user)
        except KubeconfigError as error:
            self._note(str(error))
            return False
        self.certificate = fresh
        self.problem = None
        return True


class CombinedSource:
    """The header of one source with the client certificate of another, as OIDC with a certificate needs."""

    def __init__(self, header: CredentialSource, certificate: CredentialSource) -> None:
        self._header = header
        self._certificate = certificate
        self._parts: tuple[Credential, Credential] | None = None
        self._credential: Credential | None = None

    def current(self) -> Credential | None:
        header, certificate = self._header.current(), self._certificate.current()
        if header is None or certificate is None:
            return None
        return self._join(header, certificate)

    async def get(self, refused: Credential | None = None) -> Credential:
        header = self._parts[0] if self._parts is not None and refused is self._credential else None
        return self._join(await self._header.get(header), await self._certificate.get())

    async def certificate(self) -> ClientCertificate | None:
        return await self._certificate.certificate()

    def invalidate(self, credential: Credential) -> bool:
        if credential is not self._credential or self._parts is None:
            return True
        header, certificate = self._parts
        is_other = self._certificate.invalidate(certificate)
        return self._header.invalidate(header) or is_other

    def confirm(self, credential: Credential) -> None:
        if credential is self._credential and self._parts is not None:
            self._header.confirm(self._parts[0])

    def discard(self, credential: Credential) -> None:
        if credential is self._credential and self._parts is not None:
            self._header.discard(self._parts[0])

    def renewal(self) -> Renewal:
        return self._header.renewal()

    async def close(self) -> None:
        await self._header.close()
        await self._certificate.close()

    def _join(self, header: Credential, certificate: Credential) -> Credential:
        if self._credential is None or self._parts is None or self._parts != (header, certificate):
            self._parts = (header, certificate)
            self._credential = _joined(header, certificate.certificate)
        return self._credential


def _fixed(context: ResolvedContext) -> Credential:
    """What the user's own fields put into the Authorization header."""
    user = context.user
    if user.token:
        try:
            authorization = bearer(user.token)
        except ValueError as error:
            raise KubeconfigError(f"{place(context)}: token: {error}; correct it, or use tokenFile") from None
        life = token_life(user.token)
        return Credential(
            authorization=authorization, issued_at=life.issued_at, expires_at=life.expires_at, kind="token"
        )
    if user.username:
        authorization = basic_authorization(user.username, user.password or "")
        return Credential(authorization=authorization, kind="basic")
    return Credential()


def _joined(header: Credential, certificate: ClientCertificate | None) -> Credential:
    """One credential of both; it ends when the first of them ends."""
    if certificate is None:
        return header
    life = earliest(
        Life(issued_at=header.issued_at, expires_at=header.expires_at),
        certificate_life(certificate.certificate_pem),
    )
    return Credential(
        authorization=header.authorization,
        certificate=certificate,
        issued_at=life.issued_at,
        expires_at=life.expires_at,
        kind="clientCertificate" if header.authorization is None else f"{header.kind}+clientCertificate",
    )


def _signature(path: Path | None) -> tuple[int, ...] | None:
    """What changes with a file's content: written in place, renamed over, or a symbolic link turned."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev

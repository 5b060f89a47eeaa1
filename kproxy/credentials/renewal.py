"""The life of a credential that is issued and expires: kept, renewed ahead of its end and after a 401.

What is in use stays in use until another one comes or it ends, whatever becomes of its renewals.

Works on demand only: without requests nothing runs, and a laptop that wakes up renews at its first request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import structlog

from kproxy.credentials.credential import Content, Credential, Renewal
from kproxy.credentials.expiry import schedule
from kproxy.errors import CredentialError
from kproxy.tls.lifetime import format_timestamp
from kproxy.tls.pair import ClientCertificate

# A broken plugin or issuer is asked at most once in this time.
RETRY_SECONDS = 1.0
# A streak of failures is told once in this time.
WARNING_SECONDS = 60.0
# A 401 renews the credential, but may be about something else: a service behind the API server, say. Until a
# renewal has helped, the pauses between those that a 401 starts double up to this.
LONGEST_PAUSE_SECONDS = 60.0
# How long requests that nobody has refused are held up by the first such renewal, in the hope of a better
# credential; and those with an Authorization of their own by a plugin that may have a certificate for them.
PATIENCE_SECONDS = 5.0
REMEMBERED_REJECTIONS = 4

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Issuer(Protocol):
    """Where fresh credentials come from."""

    name: str
    """Who is asked, in a word."""
    gives_certificates: bool

    @property
    def last_words(self) -> str:
        """What it said last, in lines."""

    async def issue(self, avoid: Collection[Content]) -> Credential:
        """A credential, not with one of the contents to `avoid` if that can be helped.

        Raises CredentialError. Cancelled, it leaves nothing running.
        """


class RenewingSource:
    """A CredentialSource over an `Issuer`. Owns the cached credential and the one task that renews it."""

    def __init__(
        self,
        issuer: Issuer,
        context_name: str,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`clock` counts seconds since the epoch, `monotonic` is for intervals."""
        self._issuer: Issuer | None = issuer
        self._context_name = context_name
        self._clock = clock
        self._monotonic = monotonic
        self._closed = False
        # The credential in use, None before the first one.
        self._credential: Credential | None = None
        # Up to this time (clock) `current` has nothing to decide; never later than `_unusable_at`.
        self._refresh_at = float("-inf")
        self._unusable_at = float("-inf")
        # When the renewal ahead of its end is due.
        self._due_at = float("-inf")
        self._certificate: ClientCertificate | None = None
        # The renewal under way, and what the last one came to. Until `_settled_until` (monotonic) that
        # is also the answer to those who come without a credential at hand.
        self._renewal: asyncio.Task[None] | None = None
        self._renewing_since = float("-inf")
        self._outcome: Credential | CredentialError | None = None
        self._settled_until = float("-inf")
        # Whether a 401 is a reason for that renewal, and up to when all requests wait for it (monotonic).
        self._is_doubted = False
        self._held_up_until = float("-inf")
        # How many renewals after a 401 were in vain, one after the other, and from when on (monotonic) the
        # next one may begin.
        self._vain = 0
        self._next_doubt_at = float("-inf")
        self._rejected: deque[Content] = deque(maxlen=REMEMBERED_REJECTIONS)
        self._rejections = 0
        self._warned_at = float("-inf")

    def current(self) -> Credential | None:
        if self._clock() < self._refresh_at:
            return self._credential
        return self._ageing()

    async def get(self, refused: Credential | None = None) -> Credential:
        while True:
            credential = self.current()
            if credential is not None and credential is not refused:
                return credential
            if self._closed:
                raise CredentialError(
                    f'context "{self._context_name}": its credentials are closed, as the kubeconfig changed '
                    "or kproxy ends; send the request again"
                )
            renewal = self._renewal
            if renewal is None:
                if credential is not None:
                    return credential  # refused, and nothing newer is to be had
                if self._monotonic() < self._settled_until:
                    return self._last()
                renewal = self._begin()
            # Not awaited itself: a caller that is cancelled must not cancel it for the others.
            await asyncio.wait((renewal,), timeout=self._patience_seconds() if refused is None else None)
            if renewal.done() and not renewal.cancelled():
                renewal.result()
                if refused is not None or self.current() is None:
                    return self._last()

    async def certificate(self) -> ClientCertificate | None:
        issuer, outcome = self._issuer, self._outcome
        # One that failed is not asked once more for somebody who may not need it.
        has_none = isinstance(outcome, CredentialError) or (
            outcome is not None and outcome.certificate is None
        )
        if issuer is not None and issuer.gives_certificates and not has_none:
            with suppress(CredentialError, TimeoutError):
                async with asyncio.timeout(self._patience_left()):
                    return (await self.get()).certificate
        return self._certificate

    def invalidate(self, credential: Credential) -> bool:
        if credential is not self._credential or self._is_doubted:
            return True
        now = self._monotonic()
        if self._closed or now < self._next_doubt_at:
            return False
        self._reject(credential)
        self._is_doubted = True
        # `current` has something to decide until that is settled.
        self._refresh_at = float("-inf")
        self._held_up_until = float("-inf") if self._vain else now + PATIENCE_SECONDS
        if self._renewal is None:
            self._begin()
        return True

    def confirm(self, credential: Credential) -> None:
        if credential is self._credential:
            self._vain = 0
            self._next_doubt_at = float("-inf")

    def discard(self, credential: Credential) -> None:
        if credential is self._credential:
            self._reject(credential)
            self._credential = None
            self._refresh_at = self._unusable_at = float("-inf")

    def renewal(self) -> Renewal:
        problem = str(self._outcome) if isinstance(self._outcome, CredentialError) else None
        if self._renewal is None or self._issuer is None:
            return Renewal(problem=problem)
        return Renewal(
            waiting_for=self._issuer.name,
            waiting_seconds=self._monotonic() - self._renewing_since,
            last_words=self._issuer.last_words,
            problem=problem,
        )

    async def close(self) -> None:
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait((self._renewal,))
        # What is behind it may be shared; it is forgotten with the last who let go.
        self._issuer = None

    def _ageing(self) -> Credential | None:
        """The credential if it can still be sent, with its renewal under way."""
        credential = self._credential
        if credential is None or self._clock() >= self._unusable_at:
            return None
        if self._renewal is None and not self._closed:
            self._begin()
        elif self._is_doubted and self._monotonic() < self._held_up_until:
            return None
        return credential

    def _patience_seconds(self) -> float | None:
        """How long to wait for the renewal under way; None where there is nothing else to be had."""
        if self._credential is None or self._clock() >= self._unusable_at:
            return None
        return max(0.0, self._held_up_until - self._monotonic())

    def _patience_left(self) -> float:
        """The same for those who can do without a credential."""
        since = self._renewing_since if self._renewal is not None else self._monotonic()
        return max(0.0, since + PATIENCE_SECONDS - self._monotonic())

    def _reject(self, credential: Credential) -> None:
        self._rejected.append(credential.content)
        self._rejections += 1

    def _last(self) -> Credential:
        if isinstance(self._outcome, CredentialError):
            # One object is raised to many callers: without this each would add its frames to it.
            raise self._outcome.with_traceback(None)
        assert self._outcome is not None
        return self._outcome

    def _begin(self) -> asyncio.Task[None]:
        self._renewing_since = self._monotonic()
        self._renewal = asyncio.get_running_loop().create_task(self._renew())
        return self._renewal

    async def _renew(self) -> None:
        assert self._issuer is not None
        try:
            while True:
                started_at = self._monotonic()
                rejections = self._rejections
                fresh = await self._issuer.issue(self._to_avoid())
                if self._rejections == rejections or fresh.content not in self._rejected:
                    break
                # It was asked for before the API server refused just this one: once more.
        except CredentialError as error:
            self._fail(error, started_at)
        else:
            self._succeed(fresh, started_at)
        finally:
            self._renewal = None
            if self._is_doubted:
                self._is_doubted = False
                pause = min(RETRY_SECONDS * 2 ** min(self._vain, 10), LONGEST_PAUSE_SECONDS)
                self._next_doubt_at = self._monotonic() + pause
                self._vain += 1

    def _to_avoid(self) -> Collection[Content]:
        return {*self._rejected, *([self._credential.content] if self._credential is not None else [])}

    def _succeed(self, fresh: Credential, started_at: float) -> None:
        now = self._clock()
        plan = schedule(now, fresh.expires_at)
        used = self._credential
        if now >= plan.unusable_at:
            # Given to those who wait, as kubectl does: if it is our clock that is wrong, it works.
            self._outcome = fresh
            self._settled_until = started_at + RETRY_SECONDS
            self._put_off(now)
            self._warn("credential.expired", expires_at=format_timestamp(fresh.expires_at))
            return
        self._settled_until = self._warned_at = float("-inf")
        if used is not None and fresh.content == used.content and fresh.expires_at == used.expires_at:
            # Plugins have caches too, and many hand out a token up to its end.
            self._outcome = used
            self._put_off(now)
            return
        self._outcome = self._credential = self._with_known_certificate(fresh)
        self._refresh_at = self._due_at = plan.refresh_at
        self._unusable_at = plan.unusable_at
        log.info(
            "credential.refreshed",
            context=self._context_name,
            credential=fresh.kind,
            expires_at=format_timestamp(fresh.expires_at),
        )

    def _fail(self, error: CredentialError, started_at: float) -> None:
        self._outcome = error
        self._settled_until = started_at + RETRY_SECONDS
        now = self._clock()
        self._put_off(now)
        used = self._credential
        self._warn(
            "credential.refresh_failed",
            error=str(error),
            expires_at=format_timestamp(used.expires_at) if used is not None else None,
        )

    def _put_off(self, now: float) -> None:
        """The credential in use stays; the next try is when it is due, or else halfway to its end."""
        if self._credential is not None:
            wait = max((self._unusable_at - now) / 2, RETRY_SECONDS)
            self._refresh_at = self._due_at if now < self._due_at else min(now + wait, self._unusable_at)

    def _with_known_certificate(self, fresh: Credential) -> Credential:
        """`fresh`, with the known certificate object if it is the same: its connections stay good then."""
        known, new = self._certificate, fresh.certificate
        if (
            known is not None
            and new is not None
            and (known.certificate_pem, known.key_pem) == (new.certificate_pem, new.key_pem)
        ):
            return replace(fresh, certificate=known)
        self._certificate = new
        return fresh

    def _warn(self, event: str, **facts: object) -> None:
        now = self._monotonic()
        if now >= self._warned_at + WARNING_SECONDS:
            self._warned_at = now
            log.warning(event, context=self._context_name, **facts)

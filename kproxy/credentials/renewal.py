"""The life of a credential that is issued and expires: kept, renewed ahead of its end, replaced after a 401.

Works on demand only: without requests nothing runs, and a laptop that wakes up renews at its first request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

import structlog

from kproxy.credentials.credential import ClientCertificate, Content, Credential
from kproxy.credentials.expiry import format_timestamp, schedule
from kproxy.errors import CredentialError

# A broken plugin or issuer is asked at most once in this time.
RETRY_SECONDS = 1.0
# A streak of failures is told once in this time.
WARNING_SECONDS = 60.0
# What was issued because of a 401 may be refused as well, and the next one too. So many are issued at
# once; after that with pauses that double, until there was no 401 for a while.
PROMPT_ANSWERS = 3
LONGEST_PAUSE_SECONDS = 10.0
STREAK_SECONDS = 60.0
REMEMBERED_REJECTIONS = 4

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Issuer(Protocol):
    """Where fresh credentials come from."""

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
        # The credential in use, None before the first and after a rejection.
        self._credential: Credential | None = None
        # Up to this time (clock) `current` has nothing to decide; never later than `_unusable_at`.
        self._refresh_at = float("-inf")
        self._unusable_at = float("-inf")
        self._certificate: ClientCertificate | None = None
        # The renewal under way, and what the last one came to. Until `_settled_until` (monotonic) that
        # is also the answer to those who come without a credential at hand.
        self._renewal: asyncio.Task[None] | None = None
        self._outcome: Credential | CredentialError | None = None
        self._settled_until = float("-inf")
        self._rejected: deque[Content] = deque(maxlen=REMEMBERED_REJECTIONS)
        self._rejections = 0
        self._rejected_at = float("-inf")
        self._streak = 0
        self._adopted_at = float("-inf")
        # Up to when the answer to the last rejection stands even if it is rejected, too.
        self._answered_until = float("-inf")
        self._warned_at = float("-inf")

    def current(self) -> Credential | None:
        if self._clock() < self._refresh_at:
            return self._credential
        return self._ageing()

    async def get(self) -> Credential:
        while (credential := self.current()) is None:
            if self._closed:
                raise CredentialError(
                    f'context "{self._context_name}": its credentials are closed, as the kubeconfig changed '
                    "or kproxy ends; send the request again"
                )
            renewal = self._renewal
            if renewal is None:
                if self._monotonic() < self._settled_until:
                    return self._last()
                renewal = self._begin()
            # Not awaited itself: a caller that is cancelled must not cancel it for the others.
            await asyncio.wait((renewal,))
            if not renewal.cancelled():
                renewal.result()
                return self._last()
        return credential

    def invalidate(self, credential: Credential) -> None:
        if credential is not self._credential:
            return
        self._credential = None
        self._refresh_at = self._unusable_at = float("-inf")
        self._rejected.append(credential.content)
        self._rejections += 1
        now = self._monotonic()
        # One that was good for a while was not refused from the start: it is no part of a streak.
        is_next = now < self._rejected_at + STREAK_SECONDS and now < self._adopted_at + RETRY_SECONDS
        self._streak = self._streak + 1 if is_next else 1
        self._rejected_at = now
        self._settled_until = max(self._settled_until, self._answered_until)

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
        return credential

    def _last(self) -> Credential:
        if isinstance(self._outcome, CredentialError):
            # One object is raised to many callers: without this each would add its frames to it.
            raise self._outcome.with_traceback(None)
        assert self._outcome is not None
        return self._outcome

    def _begin(self) -> asyncio.Task[None]:
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

    def _to_avoid(self) -> Collection[Content]:
        return {*self._rejected, *([self._credential.content] if self._credential is not None else [])}

    def _succeed(self, fresh: Credential, started_at: float) -> None:
        now = self._clock()
        self._answered_until = started_at + self._pause(fresh, started_at)
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
        self._refresh_at, self._unusable_at = plan.refresh_at, plan.unusable_at
        self._adopted_at = self._monotonic()
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

    def _pause(self, fresh: Credential, started_at: float) -> float:
        """How long nothing newer is asked for should the API server refuse `fresh`."""
        pause = RETRY_SECONDS if fresh.content in self._rejected else 0.0
        if self._streak >= PROMPT_ANSWERS and started_at < self._rejected_at + STREAK_SECONDS:
            doubled = RETRY_SECONDS * 2 ** min(self._streak - PROMPT_ANSWERS, 10)
            pause = max(pause, min(doubled, LONGEST_PAUSE_SECONDS))
        return pause

    def _put_off(self, now: float) -> None:
        """The credential in use stays; the next try is halfway to its end."""
        if self._credential is not None:
            wait = max((self._unusable_at - now) / 2, RETRY_SECONDS)
            self._refresh_at = min(now + wait, self._unusable_at)

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

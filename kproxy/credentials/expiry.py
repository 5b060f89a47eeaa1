"""When credentials end, and when to renew them. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from kproxy.tls.lifetime import Life


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What to do when with a credential: renew it from `refresh_at`, don't send it from `unusable_at`."""

    refresh_at: float
    unusable_at: float


def schedule(now: float, expires_at: float | None) -> Schedule:
    """The schedule of a credential that came at `now`.

    The renewal starts within the last tenth of its life, at least 10 s and at most 5 min before the
    end, but never in the first half. It is not sent in the last twentieth (5 s at most): the API
    server's clock and the way there count too.
    """
    if expires_at is None:
        return Schedule(refresh_at=float("inf"), unusable_at=float("inf"))
    life = max(expires_at - now, 0.0)
    window = min(max(0.1 * life, 10.0), 300.0, 0.5 * life)
    return Schedule(refresh_at=expires_at - window, unusable_at=expires_at - min(0.05 * life, 5.0))


def jwt_claims(token: str) -> Mapping[str, object] | None:
    """The claims of a JWT, unverified (RFC 7519, 7.2); None if `token` is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        # The standard decoder skips bytes outside the alphabet unless told otherwise.
        payload = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
        claims = json.loads(payload)
    except (binascii.Error, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def token_life(token: str) -> Life:
    """`iat` and `exp` if the token is a JWT that has them."""
    claims = jwt_claims(token) or {}
    return Life(issued_at=_number(claims.get("iat")), expires_at=_number(claims.get("exp")))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        # Python reads NaN and Infinity in JSON, too.
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None

"""Times as Kubernetes writes them, and ages as its tables show them."""

from __future__ import annotations

import datetime
import time

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEAR = 365 * DAY


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def rfc3339(at: float) -> str:
    """With seconds, as in `metadata.creationTimestamp`."""
    return utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_nano(at: float) -> str:
    """With nanoseconds, as before each line of `log?timestamps=true`."""
    return utc(at).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def parse_time(text: str) -> float:
    """Raises ValueError."""
    return datetime.datetime.fromisoformat(text).timestamp()


def age(seconds: float) -> str:
    """Two units at most and the coarser the older, after apimachinery's `duration.HumanDuration`."""
    left = int(seconds)
    if left < -1:
        return "<invalid>"
    left = max(left, 0)
    if left < 2 * MINUTE:
        return f"{left}s"
    if left < 10 * MINUTE:
        return _two(left, MINUTE, "m", 1, "s")
    if left < 3 * HOUR:
        return f"{left // MINUTE}m"
    if left < 8 * HOUR:
        return _two(left, HOUR, "h", MINUTE, "m")
    if left < 2 * DAY:
        return f"{left // HOUR}h"
    if left < 8 * DAY:
        return _two(left, DAY, "d", HOUR, "h")
    if left < 2 * YEAR:
        return f"{left // DAY}d"
    if left < 8 * YEAR:
        return _two(left, YEAR, "y", DAY, "d")
    return f"{left // YEAR}y"


def _two(left: int, coarse: int, coarse_unit: str, fine: int, fine_unit: str) -> str:
    rest = left % coarse // fine
    return f"{left // coarse}{coarse_unit}" + (f"{rest}{fine_unit}" if rest else "")


def utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)

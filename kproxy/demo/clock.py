"""Times as Kubernetes writes them, and ages as its tables show them."""

from __future__ import annotations

import datetime
import time

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
# From how many seconds on which units are shown.
_STYLES = (
    (8 * _UNITS["d"], "d"),
    (2 * _UNITS["d"], "dh"),
    (8 * _UNITS["h"], "h"),
    (3 * _UNITS["h"], "hm"),
    (10 * _UNITS["m"], "m"),
    (2 * _UNITS["m"], "ms"),
    (0, "s"),
)


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
    shown = ""
    for unit in next(units for least, units in _STYLES if left >= least):
        count, left = divmod(left, _UNITS[unit])
        shown += f"{count}{unit}" if count or not shown else ""
    return shown


def utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)

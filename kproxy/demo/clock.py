"""Times as Kubernetes writes them, and ages as its tables show them."""

from __future__ import annotations

import datetime
import time

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
# From how many seconds on which units are shown: 8 days, 2 days, 8 hours, 3 hours, 10 minutes, 2 minutes.
_STYLES = ((691_200, "d"), (172_800, "dh"), (28_800, "h"), (10_800, "hm"), (600, "m"), (120, "ms"), (0, "s"))


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def rfc3339(at: float) -> str:
    """With seconds, as in `metadata.creationTimestamp`."""
    return utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float:
    """Raises ValueError."""
    return datetime.datetime.fromisoformat(text).timestamp()


def age(seconds: float) -> str:
    """Two units at most and the coarser the older, after apimachinery's `duration.HumanDuration`."""
    if seconds < -1:
        return "<invalid>"
    left, shown = max(int(seconds), 0), ""
    for unit in next(units for least, units in _STYLES if left >= least):
        count, left = divmod(left, _UNITS[unit])
        shown += f"{count}{unit}" if count or not shown else ""
    return shown

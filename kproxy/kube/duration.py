"""Durations as Go's time.ParseDuration reads them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_SECONDS = 9e9
"""About what Go's time.Duration holds: 290 years."""


def duration_seconds(text: str) -> float:
    """The seconds of a Go duration (`90s`, `-1m30s`, `0`). Raises ValueError."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    parts = _DURATION.findall(digits)
    if digits != "0" and (not parts or "".join(number + unit for number, unit in parts) != digits):
        raise ValueError("not a duration")
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    return -seconds if text[:1] == "-" else seconds

"""How much is tried where more would be better: rounds of a soak, examples of a fuzzer.

KPROXY_TEST_EFFORT=4 tries four times as much as a plain run, as before a release.
"""

from __future__ import annotations

import os

EFFORT = float(os.environ.get("KPROXY_TEST_EFFORT", "1"))


def effort(count: int) -> int:
    """So many in a plain run."""
    return max(1, round(count * EFFORT))

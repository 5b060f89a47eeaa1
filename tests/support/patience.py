"""How long a test waits for what must come."""

from __future__ import annotations

LAST_RESORT_SECONDS = 60.0
"""Then it is given up. No claim about speed: a busy machine may hold up anything for seconds."""

"""kubectl's variables for HTTP/2 towards API servers (k8s.io/apimachinery pkg/util/net/http.go)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

REST_SECONDS = 5.0
"""An HTTP/1.1 connection that was silent for longer may be dead; for HTTP/2 see `Health.rest_seconds`."""
PATIENCE_SECONDS = 0.5
"""How long a request waits for a first sign of life on one, before another connection is asked."""
GIVE_UP_SECONDS = 5.0
"""How long one is kept for its streams that does not say a word when somebody waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """When a silent connection is asked for a sign of life (0: never), and how long that may take.

    It is how a laptop that slept finds out which of its connections are dead.
    """

    read_idle_seconds: float = 30.0
    ping_seconds: float = 15.0
    patience_seconds: float = PATIENCE_SECONDS

    @property
    def rest_seconds(self) -> float:
        """A connection that was silent for longer is asked with its next request, so that who waits for the
        answer waits for one PING at most.
        """
        return self.read_idle_seconds / 6 or math.inf

    @property
    def give_up_seconds(self) -> float:
        """How long a PING may take when somebody waits for it, or the machine has slept."""
        return min(GIVE_UP_SECONDS, self.ping_seconds)


_VARIABLES = {
    "HTTP2_READ_IDLE_TIMEOUT_SECONDS": "read_idle_seconds",
    "HTTP2_PING_TIMEOUT_SECONDS": "ping_seconds",
}


def is_http2_disabled(environ: Mapping[str, str]) -> bool:
    """Any value will do, as in kubectl."""
    return bool(environ.get("DISABLE_HTTP2"))


def health_of(environ: Mapping[str, str]) -> tuple[Health, tuple[str, ...]]:
    """What the variables say, and a warning for each that is not a number of seconds."""
    seconds: dict[str, float] = {}
    warnings = []
    for variable, field in _VARIABLES.items():
        text = environ.get(variable, "")
        if text.isdecimal() and len(text) < 10:
            seconds[field] = float(text)
        elif text:
            default = getattr(Health(), field)
            warnings.append(
                f"{variable}: expected a number of seconds, got {text[:40]!r}; {default:g} is used"
            )
    if not seconds.get("ping_seconds", True):
        # Go takes it for no setting.
        del seconds["ping_seconds"]
    return Health(**seconds), tuple(warnings)

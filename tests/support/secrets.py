"""Planted secrets: values no log, page or message may ever show. conftest.py looks for them."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets as random_secrets
from itertools import count

MARK = "S3CR3T"

# The same in all processes of one run: the names of parametrized tests may hold a value, and the workers of
# pytest-xdist must agree on them.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or random_secrets.token_hex(8)
_numbers = count()

_planted: dict[str, tuple[str, ...]] = {}


def plant(name: str) -> str:
    """Return a new unique value to use as the secret `name` (a token, a password, a header value).

    From now on a test fails when its captured output, or that of a `Program` it ran, holds the value
    as it is or inside base64 (basic authentication, kubeconfig `*-data`).
    """
    unique = hashlib.sha256(f"{_RUN} {name} {next(_numbers)}".encode()).hexdigest()[:16]
    value = f"{MARK}-{name}-{unique}"
    _planted[name + " " + value[-6:]] = (value, *_base64_cores(value.encode()))
    return value


def leaked(text: str) -> list[str]:
    """Names of the planted secrets that `text` shows; never the values."""
    return [name.split(" ")[0] for name, forms in _planted.items() if any(form in text for form in forms)]


def _base64_cores(value: bytes) -> list[str]:
    # Base64 maps three bytes to four letters, so a value inside a longer text has one of three
    # spellings; the letters that also depend on its neighbours are left out.
    cores = []
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value)
        first = (shift * 8 + 5) // 6
        last = (shift + len(value)) * 8 // 6
        cores.append(encoded[first:last].decode())
    return cores

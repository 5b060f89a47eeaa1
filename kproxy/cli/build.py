"""What this kproxy is made of and runs on, for `kproxy version --json` and reports of bugs."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from kproxy import __version__

_PACKAGES = (
    "aiohttp", "cryptography", "prometheus-client", "python-socks", "pyyaml", "structlog", "uvloop",
)  # fmt: skip


def facts() -> Mapping[str, object]:
    """JSON; a package that is not installed is null. No event loop is loaded for it."""
    system = os.uname()
    return {
        "version": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "platform": sys.platform,
        "system": f"{system.sysname} {system.release}",
        "machine": system.machine,
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _installed(name) for name in _PACKAGES},
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

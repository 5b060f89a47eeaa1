"""A program that finds a service account where a pod has it, in a private mount namespace (Linux, root)."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

# /run is replaced in the new namespace alone: nothing outside of it changes, and it ends with the program.
_SCRIPT = """\
set -e
mount --make-rprivate /
mount -t tmpfs none /run
[ -e /var/run/. ] || mount -t tmpfs none /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$0" /var/run/secrets/kubernetes.io/serviceaccount
exec "$@"
"""


def in_pod(service_account: Path, command: Sequence[str]) -> list[str]:
    """`command` with that directory as its service account. Skips the test where that is not allowed."""
    if not _is_possible():
        pytest.skip("needs root and mount namespaces (unshare -m)")
    return ["unshare", "-m", "sh", "-c", _SCRIPT, str(service_account), *command]


@functools.cache
def _is_possible() -> bool:
    try:
        tried = subprocess.run(
            ["unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /run"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return tried.returncode == 0

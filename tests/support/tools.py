"""Programs of others that tests drive, and that a machine may not have."""

from __future__ import annotations

import shutil

import pytest


def needs(program: str) -> pytest.MarkDecorator:
    """Skips tests where it is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")

"""Files for nobody else, put in their place at one stroke, and folders for them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 there, in the place of another. Raises OSError; nothing has changed then."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def make_folder(path: Path) -> None:
    """Make a folder, and what is missing above it as private as the XDG Base Directory Specification wants.

    Raises OSError.
    """
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        with contextlib.suppress(FileExistsError):
            missing.mkdir(mode=0o700)

"""What files look like, so that a change can be told without reading them.

`stat` sees through symlinks: the `..data` swap of Kubernetes volumes is a change of what stands behind it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_State = tuple[str, int, int, int, int, int] | int
Snapshot = Mapping[Path, _State]
"""What the files looked like at one time; an absent or unreadable one is looked at as such."""


def take_snapshot(paths: Iterable[Path]) -> Snapshot:
    """Look at files now. Blocks as long as their file systems do."""
    return {path: _state(path) for path in paths}


def _state(path: Path) -> _State:
    try:
        found = os.stat(path)
        # The change time catches what the others cannot: a chmod, and an edit that puts the old time back.
        times = found.st_mtime_ns, found.st_ctime_ns
        return os.path.realpath(path), found.st_dev, found.st_ino, found.st_size, *times
    except OSError as error:
        return error.errno or -1
    except ValueError:
        # A path with a NUL byte names no file.
        return -1

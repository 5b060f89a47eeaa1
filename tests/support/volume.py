"""A volume as the kubelet mounts it: a projected service account, a ConfigMap, a Secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


class Volume:
    """Files are links into `..data`, itself a link to the folder that has them all in their latest version.

    Everything is of `mode`, and of `group` where that may be set.
    """

    def __init__(
        self, path: Path, files: Mapping[str, bytes], *, mode: int = 0o644, group: int | None = None
    ) -> None:
        self.path = path
        self._mode = mode
        self._group = group
        self._versions = 0
        path.mkdir(parents=True)
        self.project(files)
        for name in files:
            (path / name).symlink_to(f"..data/{name}")

    def project(self, files: Mapping[str, bytes]) -> None:
        """Turn `..data` to these: all of them change at once."""
        self._versions += 1
        folder = self.path / f"..{self._versions}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(self._mode)
            if self._group is not None and os.geteuid() == 0:
                os.chown(folder / name, 0, self._group)
        (self.path / "..tmp").symlink_to(folder.name)
        (self.path / "..tmp").replace(self.path / "..data")

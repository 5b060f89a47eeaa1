"""An exec credential plugin: a real program whose behaviour a test sets between its runs."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"

# In this order: count the run, note what it was given, wait if held, do what the test wants, answer.
_SCRIPT = """\
#!/bin/sh
here={directory}
echo "$$" >> "$here/runs"
printf '%s' "$KUBERNETES_EXEC_INFO" > "$here/info"
if [ -p "$here/hold" ]; then read -r _ < "$here/hold"; fi
if [ -f "$here/behaviour" ]; then . "$here/behaviour"; fi
cat "$here/answer"
"""


class Plugin:
    """The program is `path`; what it prints and does is set by methods, each run reads it anew."""

    def __init__(self, directory: Path, name: str = "plugin") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path = directory / name
        self.path.write_text(_SCRIPT.format(directory=f"'{directory}'"))
        self.path.chmod(0o755)
        self.says("")

    @property
    def runs(self) -> int:
        return len(self.process_ids)

    @property
    def process_ids(self) -> list[int]:
        path = self.directory / "runs"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def info(self) -> str:
        """KUBERNETES_EXEC_INFO of the last run."""
        return (self.directory / "info").read_text()

    def says(self, text: str) -> None:
        """Print `text` from the next run on."""
        new = self.directory / "answer.new"
        new.write_text(text)
        new.replace(self.directory / "answer")

    def issues(
        self, status: Mapping[str, object] | None = None, *, version: str = V1, **fields: object
    ) -> None:
        """Print an ExecCredential with that status."""
        full = {**(status or {}), **fields}
        self.says(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": full}))

    def does(self, shell: str) -> None:
        """Run these shell commands before the answer; they may exit."""
        (self.directory / "behaviour").write_text(shell + "\n")

    def hold(self) -> Hold:
        """Let the next runs wait until they are released."""
        return Hold(self.directory / "hold")


class Hold:
    """A gate that the plugin stands at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.mkfifo(path)

    async def reached(self) -> None:
        """Return when a run has come to the gate. It passes at `release`."""
        # Opening a FIFO for writing takes until somebody reads it.
        self._end = await asyncio.to_thread(os.open, self._path, os.O_WRONLY)

    def release(self) -> None:
        """Let the run at the gate pass, and all later ones."""
        self._path.unlink()
        os.write(self._end, b"\n")
        os.close(self._end)


def timestamp(at: float) -> str:
    """RFC 3339, to the microsecond."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat().replace("+00:00", "Z")

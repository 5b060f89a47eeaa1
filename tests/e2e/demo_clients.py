"""Real clients of the demo cluster as a test starts them: kubectl and curl, each with its own home."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

WEBSOCKET_MINOR = 30
"""From this version on kubectl runs exec and attach over WebSocket, before it only over SPDY (KEP-4006)."""
OPENAPI_V3_MINOR = 27
"""From this version on kubectl reads OpenAPI v3, and leaves the checking of fields to the server."""
SECONDS = 60.0


class Client:
    """A program that is run to its end or killed with the test."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.command = list(command)
        self.environment = environment

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=SECONDS,
            check=False,
        )

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Standard output of a run that must succeed and complain of nothing."""
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), f"{arguments}: {done}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Still running: read its lines, and leave it through `with stopped(...)`."""
        return subprocess.Popen(
            [*self.command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )


class Kubectl(Client):
    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def fails(self, *arguments: str, stdin: str = "") -> str:
        """Standard error of a run that must fail."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 1, f"{arguments}: {done}"
        return done.stderr


def find_kubectl(kubeconfig: Path, home: Path) -> Kubectl:
    """kubectl for that kubeconfig; skips the test where there is none."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed (Debian: apt install kubernetes-client)")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(kubeconfig)}
    return Kubectl([program], environment)


def find_curl(kubeconfig: Path, folder: Path) -> tuple[Client, str]:
    """curl with the kubeconfig's certificates, and the server's URL; skips the test where there is none."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    files = {
        "--cacert": cluster["certificate-authority-data"],
        "--cert": user["client-certificate-data"],
        "--key": user["client-key-data"],
    }
    flags = ["--silent", "--show-error", "--no-buffer"]
    for flag, data in files.items():
        path = folder / flag.strip("-")
        path.write_bytes(base64.b64decode(data))
        flags += [flag, str(path)]
    return Client([program, *flags], dict(os.environ)), cluster["server"]


def need_minor(kubectl: Kubectl, minor: int, reason: str) -> None:
    """Skips the test with an older kubectl than 1.`minor`."""
    done = kubectl.run("version", "--client", "-o", "json")
    found = re.search(r'"minor": "(\d+)', done.stdout)
    assert found, done
    if int(found[1]) < minor:
        pytest.skip(f"kubectl 1.{found[1]} is too old, this needs 1.{minor}: {reason}")

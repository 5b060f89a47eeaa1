"""The manifests of README.md and the health check of the Dockerfile, as a cluster or engine reads them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
Manifest = dict[str, Any]

SIDECAR, DEPLOYMENT = "Beside an app", "For many"
"""The headings of README.md that each have one block of manifests."""


@cache
def text(heading: str) -> str:
    """The YAML below a heading of the third level."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(rf"^### {heading}\n.*?^~~~yaml\n(.*?)^~~~$", readme, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no manifests below {heading}"
    return found[1]


def manifests(heading: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text(heading)) if each is not None]


def manifest(heading: str, kind: str) -> Manifest:
    """The only one of its kind."""
    (found,) = (each for each in manifests(heading) if each["kind"] == kind)
    return found


def pod_of(heading: str) -> Manifest:
    """The pod that the Deployment below a heading makes."""
    found: Manifest = manifest(heading, "Deployment")["spec"]["template"]["spec"]
    return found


def kproxy_of(heading: str) -> Manifest:
    """The container that is kproxy."""
    pod = pod_of(heading)
    (found,) = (
        each for each in (*pod.get("initContainers", ()), *pod["containers"]) if each["name"] == "kproxy"
    )
    container: Manifest = found
    return container


def health_check() -> list[str]:
    """The command of the Dockerfile's HEALTHCHECK."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    found = re.search(r"^HEALTHCHECK .*? CMD (\[.*\])$", lines, re.MULTILINE)
    assert found
    command: list[str] = json.loads(found[1])
    return command

"""`kproxy kubeconfig`: a file that leads clients through a kproxy that runs."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.clusters import Cluster
from tests.support import secrets
from tests.support.program import Program, ended, kubeconfig
from tests.support.tools import needs

ODD = "arn:aws:eks/ä b%2F🙂"

needs_kubectl = needs("kubectl")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with instances and certificates of their own."""
    return {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def contexts(demo: Cluster, tmp_path: Path) -> Path:
    """A kubeconfig with the demo cluster under two names, each with a namespace of its own."""
    content = yaml.safe_load(demo.kubeconfig.read_text())
    (entry,) = content["contexts"]
    content["contexts"] = [
        {"name": name, "context": {**entry["context"], "namespace": namespace}}
        for name, namespace in (("first", "default"), (ODD, "shop"))
    ]
    content["current-context"] = "first"
    path = tmp_path / "contexts"
    path.write_text(yaml.safe_dump(content))
    return path


def kubectl(path: Path, *args: str) -> str:
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={path}", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    # Not a word of warning either.
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def serving(contexts: Path, home: dict[str, str]) -> Iterator[Program]:
    with Program("--all-contexts", kubeconfig=contexts, env=home) as program:
        yield program


@needs_kubectl
def test_each_context_leads_to_its_cluster(
    serving: Program, contexts: Path, home: dict[str, str], tmp_path: Path
) -> None:
    """All that are served, under their names and with their namespaces, but without their credentials."""
    text = ended("kubeconfig", f"--port={serving.port}", f"--kubeconfig={contexts}", env=home).stdout
    found = yaml.safe_load(text)
    assert [each["name"] for each in found["contexts"]] == ["first", ODD]
    assert found["users"] == [{"name": "kproxy", "user": {}}]
    path = tmp_path / "made"
    path.write_text(text)
    assert "pod/clock" in kubectl(path, "get", "pods", "-o", "name")
    assert "pod/db-0" in kubectl(path, "--context", ODD, "get", "pods", "-o", "name")


def test_the_file_is_private_and_replaces_only_its_like(
    serving: Program, home: dict[str, str], tmp_path: Path
) -> None:
    """A kubeconfig with credentials is not lost by a slip."""
    made, precious = tmp_path / "made", tmp_path / "precious"
    assert ended("kubeconfig", f"--port={serving.port}", f"--output={made}", env=home).stdout == ""
    first = made.read_text()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    ended("kubeconfig", f"--port={serving.port}", f"--output={made}", env=home)
    assert made.read_text() == first
    precious.write_text("apiVersion: v1\n")
    told = ended("kubeconfig", f"--port={serving.port}", f"--output={precious}", env=home, code=1).stderr
    assert "kproxy has not written it" in told
    assert precious.read_text() == "apiVersion: v1\n"
    assert sorted(each.name for each in tmp_path.iterdir() if "made" in each.name) == ["made"]


@needs_kubectl
def test_an_instance_is_known_by_its_name(contexts: Path, home: dict[str, str], tmp_path: Path) -> None:
    """With the settings it was started with: its port, its prefix, the namespaces of its kubeconfig."""
    flags = ["--port=0", f"--kubeconfig={contexts}", f"--context={ODD}", "--api-prefix=/k8s/"]
    made = tmp_path / "made"
    ended("start", "--name=here", *flags, env=home)
    try:
        ended("kubeconfig", "--name=here", f"--output={made}", env=home)
        assert "pod/db-0" in kubectl(made, "get", "pods", "-o", "name")
    finally:
        ended("stop", "--name=here", env=home)
    told = ended("kubeconfig", "--name=here", env=home, code=1).stderr
    assert told == 'error: instance "here" is not running; `kproxy start --name=here` starts it\n'


@needs_kubectl
def test_a_certificate_of_its_own_is_trusted(contexts: Path, home: dict[str, str], tmp_path: Path) -> None:
    """kubectl neither doubts the server nor asks for a user name, as it would without any identity."""
    made = tmp_path / "made"
    with Program("--tls-self-signed", kubeconfig=contexts, env=home) as program:
        ended("kubeconfig", f"--port={program.port}", "--tls-self-signed", f"--output={made}", env=home)
        assert "pod/clock" in kubectl(made, "get", "pods", "-o", "name")
    assert "insecure" not in made.read_text()


def test_where_nothing_runs(home: dict[str, str], reserved_port: int) -> None:
    """Exit code 1, the place, and what to do."""
    told = ended("kubeconfig", f"--port={reserved_port}", env=home, code=1).stderr
    assert told.startswith(f"error: no kproxy tells of its contexts at http://127.0.0.1:{reserved_port}; ")
    assert "kproxy start" in told


def test_a_unix_socket_alone_leads_nobody(tmp_path: Path, home: dict[str, str], reserved_port: int) -> None:
    """kubectl knows none; a port beside it is what the file names."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:1", token=secrets.plant("handout-token"))
    path = tmp_path / "s"
    with Program(f"--unix-socket={path}", kubeconfig=config, env=home):
        told = ended("kubeconfig", f"--unix-socket={path}", env=home, code=1).stderr
        assert "kubectl knows no unix sockets" in told
        both = [f"--unix-socket={path}", f"--listen=127.0.0.1:{reserved_port}"]
        found = yaml.safe_load(ended("kubeconfig", *both, env=home).stdout)
    server = f"http://127.0.0.1:{reserved_port}"
    assert found["clusters"] == [
        {"name": "test", "cluster": {"server": server, "insecure-skip-tls-verify": True}}
    ]

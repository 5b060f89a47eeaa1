"""The clusters that kproxy stands in front of, and a plain client for what a test does on the side."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.pki import CA
from tests.support.ports import reserved_port
from tests.support.program import DemoProgram, Process, Program, kubeconfig

START_SECONDS = 60.0
QUICK_DEMO = ("--no-life", "--settle-seconds=0.05", "--log-seconds=0.2")
"""Nothing changes but by the test, and what does so is quick."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    name: str
    kubeconfig: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    status: int
    value: Any
    """Parsed JSON, or the text of what is none."""


class Api:
    """Requests through a proxy, one connection each."""

    def __init__(self, program: Program) -> None:
        self._port = program.port

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": content_type} if content else {})
            response = connection.getresponse()
            text = response.read().decode()
        try:
            return Answer(status=response.status, value=json.loads(text))
        except ValueError:
            return Answer(status=response.status, value=text)

    def ask(self, method: str, path: str, body: Any = None, **more: str) -> Any:
        """The value of an answer that must be a success."""
        answer = self.request(method, path, body, **more)
        assert answer.status < 300, f"{method} {path}: {answer}"
        return answer.value

    def merge(self, path: str, patch: Any) -> Any:
        return self.ask("PATCH", path, patch, content_type="application/merge-patch+json")


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@contextlib.contextmanager
def demo_cluster() -> Iterator[Cluster]:
    with DemoProgram(*QUICK_DEMO) as demo:
        yield Cluster(name="demo", kubeconfig=demo.kubeconfig)


@contextlib.contextmanager
def control_plane(assets: Path, folder: Path) -> Iterator[Cluster]:
    """etcd and kube-apiserver from `assets`, laid out as by envtest: an API without controllers."""
    owned = contextlib.ExitStack()
    etcd_port, peer_port, port = (owned.enter_context(reserved_port()) for _ in range(3))
    ca = CA("control-plane-ca")
    certificate, key = ca.issue("kube-apiserver", ("127.0.0.1", "localhost"))
    files = {"ca.pem": ca.pem, "server.pem": certificate, "server.key": key}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    client, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    etcd = Process(
        [
            str(assets / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]
    )
    server = Process(
        [
            str(assets / "kube-apiserver"),
            f"--etcd-servers={client}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={folder / 'server.pem'}",
            f"--tls-private-key-file={folder / 'server.key'}",
            f"--client-ca-file={folder / 'ca.pem'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'server.pem'}",
            f"--service-account-signing-key-file={folder / 'server.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            # Nobody makes service accounts without a controller manager, so pods must do without.
            "--disable-admission-plugins=ServiceAccount",
        ]
    )
    admin = ca.issue("admin", client=True, organizations=["system:masters"])
    with owned, etcd, server:
        _wait_until_ready(port, ca)
        yield Cluster(
            name="control-plane",
            kubeconfig=kubeconfig(
                folder, f"https://127.0.0.1:{port}", ca_pem=ca.pem, client_certificate=admin
            ),
        )


def _wait_until_ready(port: int, ca: CA) -> None:
    context = ssl.create_default_context(cadata=ca.pem.decode())
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        assert time.monotonic() < deadline, f"the API server was not ready within {START_SECONDS:g} s"
        time.sleep(0.1)  # nothing announces it

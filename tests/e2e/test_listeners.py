"""curl, kubectl and Python at every kind of listener: https, IPv6, a unix socket with a mode and an owner."""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e.clusters import Cluster
from tests.support.pki import CA
from tests.support.program import Program
from tests.support.tools import needs

needs_kubectl, needs_curl = needs("kubectl"), needs("curl")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one, for the paths of unix sockets, that other users may enter."""
    with TemporaryDirectory(prefix="kp-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def curl(*args: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-q", "-sS", "--max-time", "20", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def secure(demo: Cluster, folder: Path, *flags: str) -> Program:
    env = {"XDG_STATE_HOME": str(folder)}
    return Program("--tls-self-signed", *flags, kubeconfig=demo.kubeconfig, env=env)


def certificate(folder: Path) -> str:
    return str(folder / "kproxy" / "tls" / "tls.crt")


@needs_curl
def test_curl_trusts_the_certificate_and_nothing_else_does(demo: Cluster, folder: Path) -> None:
    """By each of the names of this machine; without --cacert it is told that nobody vouches for it."""
    with secure(demo, folder) as program:
        trust = ("--cacert", certificate(folder))
        for host in ("localhost", "127.0.0.1"):
            done = curl(*trust, f"https://{host}:{program.port}/version")
            assert done.returncode == 0, done.stderr
            assert "gitVersion" in json.loads(done.stdout)
        assert curl(f"https://localhost:{program.port}/version").returncode == 60


@needs_curl
def test_ipv6_with_and_without_tls(demo: Cluster, folder: Path) -> None:
    """curl -g 'https://[::1]:PORT/': the address is one of the certificate's names."""
    with secure(demo, folder, "--listen=localhost:0") as program:
        program.wait_for_output("server.started")
        if len(program.addresses) == 1:
            pytest.skip("this machine has no IPv6")
        url = f"https://[::1]:{program.port}/version"
        done = curl("-g", "--cacert", certificate(folder), url)
        assert "gitVersion" in done.stdout, done.stderr
    with Program("--address=::1", kubeconfig=demo.kubeconfig) as program:
        assert "gitVersion" in curl("-g", f"http://[::1]:{program.port}/version").stdout


@needs_kubectl
def test_kubectl_speaks_https_to_it(demo: Cluster, folder: Path) -> None:
    """With the certificate as the authority: Go accepts it, too.

    Over https kubectl wants to show some credential: a certificate, which nobody asks for here. A token would
    take the place of kproxy's.
    """
    with secure(demo, folder) as program:
        kubeconfig = folder / "client"
        for name, content in zip(("crt", "key"), CA().issue("nobody", client=True), strict=True):
            (folder / name).write_bytes(content)
        user = {"client-certificate": str(folder / "crt"), "client-key": str(folder / "key")}
        server = {"server": f"https://localhost:{program.port}", "certificate-authority": certificate(folder)}
        entry = {"clusters": [{"name": "a", "cluster": server}], "users": [{"name": "a", "user": user}]}
        contexts = {"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}
        kubeconfig.write_text(json.dumps({**entry, **contexts, "current-context": "a"}))
        command = ["kubectl", f"--kubeconfig={kubeconfig}"]
        done = subprocess.run(
            [*command, "get", "pods", "--all-namespaces"],
            capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Running" in done.stdout


def test_python_speaks_https_to_it(demo: Cluster, folder: Path) -> None:
    """With the strict checks that Python 3.13 makes by default."""
    with secure(demo, folder) as program:
        context = ssl.create_default_context(cafile=certificate(folder))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        url = f"https://localhost:{program.port}/version"
        with urllib.request.urlopen(url, context=context, timeout=60) as reply:
            assert "gitVersion" in json.load(reply)


@needs_curl
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
def test_a_socket_for_another_user(demo: Cluster, folder: Path) -> None:
    """The owner and the group come in by its mode; whoever is neither does not."""
    path = folder / "s"
    flags = (f"--unix-socket={path}", "--unix-socket-mode=0660", "--unix-socket-owner=65533:65532")
    with Program(*flags, kubeconfig=demo.kubeconfig):
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65533, 65532, 0o660)
        command = ["curl", "-q", "-sS", "--unix-socket", str(path), "http://localhost/version"]
        results = [
            subprocess.run(
                command, capture_output=True, user=user, group=group, extra_groups=[], check=False
            ).returncode
            for user, group in ((65533, 65533), (65531, 65532), (65531, 65531))
        ]
    assert results[:2] == [0, 0]
    assert results[2] == 7


@needs_curl
def test_three_at_once(demo: Cluster, folder: Path) -> None:
    """http, https and a socket, of one program, by its config file."""
    settings = folder / "config.yaml"
    settings.write_text(
        f"kubeconfig: {demo.kubeconfig}\n"
        "listeners:\n- port: 0\n- port: 0\n  tls_self_signed: true\n- unix:s\n"
    )
    with Program(f"--config={settings}", env={"XDG_STATE_HOME": str(folder)}) as program:
        program.wait_for_output("server.started")
        plain, tls, socket_path = program.serving_on_all
        trust = ("--cacert", certificate(folder))
        assert "gitVersion" in curl(f"http://{plain}/version").stdout
        assert "gitVersion" in curl(*trust, f"https://{tls}/version").stdout
        assert "gitVersion" in curl("--unix-socket", socket_path, "http://localhost/version").stdout
        assert program.stop() == 0
    assert not Path(socket_path).exists()

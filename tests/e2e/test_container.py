"""kproxy as README.md's manifests and the Dockerfile run it: locked in, with a pod's account, probed.

There is no engine here. A mount namespace with a read-only root, no capability and the image's user stands
in for it, which takes root; elsewhere those tests are skipped. kubectl asks a cluster about the manifests.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.clusters import Api
from tests.support.api_server import ApiServer, ask, seen_by
from tests.support.client import RawClient, Response
from tests.support.manifests import (
    DEPLOYMENT,
    SIDECAR,
    health_check,
    kproxy_of,
    manifest,
    manifests,
    pod_of,
    text,
)
from tests.support.notice import noticed
from tests.support.pki import CA
from tests.support.pod import ACCOUNT, USER_ID, in_container
from tests.support.program import Program, kubeconfig
from tests.support.secrets import plant
from tests.support.tools import needs
from tests.support.volume import Volume

PODS = "/api/v1/namespaces/shop/pods"


def mounted(folder: Path, mode: int, files: Mapping[str, bytes]) -> Volume:
    """Root's, readable by the group that fsGroup gives it."""
    return Volume(folder, files, mode=mode, group=USER_ID)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer("c", CA()) as server:
        yield server


@pytest.fixture
def account(tmp_path: Path, server: ApiServer) -> Volume:
    files = {"token": plant("token").encode(), "ca.crt": server.ca.pem, "namespace": b"shop"}
    return mounted(tmp_path / "account", 0o640, files)


def container(heading: str, server: ApiServer, mounts: Mapping[str, Volume], **variables: str) -> Program:
    """What the manifest runs, on a free port."""
    program = Program(
        *kproxy_of(heading)["args"],
        "--port=0",
        env={
            "HOME": "/home",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        },
    )
    program.command = in_container(program.command, {place: each.path for place, each in mounts.items()})
    return program


# -- beside an app --


def ask_by(probe: Mapping[str, Any], port: int) -> int:
    """The exit code of an exec probe's command."""
    _, *arguments = probe["exec"]["command"]
    own = [each.replace("8001", str(port)) for each in arguments]
    return subprocess.run([sys.executable, *own], capture_output=True, timeout=60, check=False).returncode


async def test_the_sidecar_serves_and_its_probes_pass(account: Volume, server: ApiServer) -> None:
    """With the pod's account, and no more than its filters allow."""
    async with container(SIDECAR, server, {ACCOUNT: account}) as program:
        assert program.serving_on.startswith("127.0.0.1:")
        seen = await seen_by(program, PODS)
        assert seen["authorization"] == f"Bearer {(account.path / 'token').read_text()}"
        assert (await ask(program, PODS, "POST", b"{}")).status == 403
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert await asyncio.to_thread(ask_by, kproxy_of(SIDECAR)[name], program.port) == 0
        (line,) = program.log_events("server.started")
        assert (line["context"], line["credential"]) == ("in-cluster", "tokenFile")
        assert program.log_events("config.questioned") == []
        port = program.port
        assert await program.stopped() == 0
    assert ask_by(kproxy_of(SIDECAR)["livenessProbe"], port) != 0


async def test_the_sidecar_is_not_ready_without_the_cluster(account: Volume, server: ApiServer) -> None:
    """But alive: to start it again would not help."""
    server.accepts = ()
    async with container(SIDECAR, server, {ACCOUNT: account}) as program:
        probes = kproxy_of(SIDECAR)
        assert await asyncio.to_thread(ask_by, probes["readinessProbe"], program.port) != 0
        assert await asyncio.to_thread(ask_by, probes["livenessProbe"], program.port) == 0


# -- for many --


@pytest.fixture
def certificate() -> CA:
    return CA("kproxy-ca")


@pytest.fixture
def volumes(tmp_path: Path, account: Volume, certificate: CA) -> dict[str, Volume]:
    """By the paths that the manifest mounts them at."""
    own, key = certificate.issue("kproxy.kproxy.svc", ("kproxy.kproxy.svc", "localhost"))
    secret = next(each["secret"] for each in pod_of(DEPLOYMENT)["volumes"] if "secret" in each)
    config = manifest(DEPLOYMENT, "ConfigMap")["data"]
    folders = {
        "config": mounted(
            tmp_path / "config", 0o644, {name: content.encode() for name, content in config.items()}
        ),
        "tls": mounted(tmp_path / "tls", secret["defaultMode"], {"tls.crt": own, "tls.key": key}),
    }
    paths = {each["mountPath"]: folders[each["name"]] for each in kproxy_of(DEPLOYMENT)["volumeMounts"]}
    return {ACCOUNT: account, **paths}


async def asked(program: Program, ca: CA, target: str, host: str, method: str = "GET") -> Response:
    """One request over https, as a client that trusts that authority."""
    context = ssl.create_default_context(cadata=ca.pem.decode())
    # The name of the Service leads here in a cluster; here the address does.
    context.check_hostname = False
    client = await RawClient.connect(("127.0.0.1", program.port), context)
    try:
        return await client.request(method, target, host=host)
    finally:
        client.reset()


async def test_the_deployment_serves_and_its_probes_pass(
    volumes: dict[str, Volume], server: ApiServer, certificate: CA
) -> None:
    """By the names of its Service, over TLS; nothing else is let in or through."""
    async with container(DEPLOYMENT, server, volumes, KPROXY_SHUTDOWN_DELAY="0s") as program:
        answer = await asked(program, certificate, PODS, "kproxy.kproxy.svc")
        assert answer.json()["authorization"].startswith("Bearer ")
        assert (await asked(program, certificate, PODS, "evil.example")).status == 403
        assert (await asked(program, certificate, PODS, "kproxy.kproxy.svc", "DELETE")).status == 403
        assert (await asked(program, certificate, "/-/status", "kproxy.kproxy.svc")).status == 404
        for name in ("livenessProbe", "readinessProbe"):
            probe = kproxy_of(DEPLOYMENT)[name]["httpGet"]
            (field,) = probe["httpHeaders"]
            assert (await asked(program, certificate, probe["path"], field["value"])).status == 200
        assert await program.stopped() == 0


async def test_a_changed_config_map_is_taken_up(
    volumes: dict[str, Volume], server: ApiServer, certificate: CA
) -> None:
    """The filters count at once; what needs a restart is named."""
    async with container(DEPLOYMENT, server, volumes, KPROXY_SHUTDOWN_DELAY="0s") as program:
        assert (await asked(program, certificate, PODS, "localhost")).status == 200
        config = manifest(DEPLOYMENT, "ConfigMap")["data"]["config.yaml"]
        changed = f"{config}\nreject_paths: ['/pods']\nwww_prefix: /pages/\n"
        files = {"config.yaml": changed.encode()}
        await noticed(program, lambda: volumes["/etc/kproxy"].project(files), "config.reloaded")
        assert (await asked(program, certificate, PODS, "localhost")).status == 403
        (line,) = program.log_events("config.restart_needed")
        assert line["keys"] == ["www_prefix"]


async def test_a_renewed_certificate_is_taken_up(
    volumes: dict[str, Volume], server: ApiServer, certificate: CA
) -> None:
    """As cert-manager renews it, by the same volume."""
    renewed = CA("renewed-ca")
    async with container(DEPLOYMENT, server, volumes, KPROXY_SHUTDOWN_DELAY="0s") as program:
        assert (await asked(program, certificate, "/-/healthz", "localhost")).status == 200
        own, key = renewed.issue("kproxy.kproxy.svc", ("kproxy.kproxy.svc",))
        files = {"tls.crt": own, "tls.key": key}
        await noticed(program, lambda: volumes["/etc/kproxy-tls"].project(files), "certificate.reloaded")
        assert (await asked(program, renewed, "/-/healthz", "localhost")).status == 200


def test_the_container_is_locked() -> None:
    """What stands in for the engine keeps its promise: nothing can be written, and nobody is root."""
    program = """
import os
folders = ["/", "/tmp", "/home", "/run", "/dev/shm", os.path.dirname(os.__file__)]
for folder in folders:
    try:
        open(folder + "/x", "w")
    except OSError:
        continue
    raise SystemExit(folder)
lines = [line.split() for line in open("/proc/self/status")]
status = {words[0]: words[1] for words in lines if len(words) == 2}
assert os.getuid() and not int(status["CapEff:"], 16) and not int(status["CapBnd:"], 16), status
assert status["NoNewPrivs:"] == "1"
"""
    done = subprocess.run(in_container([sys.executable, "-c", program], {}), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# -- the Dockerfile --


def test_the_health_check_tells_how_it_is(tmp_path: Path) -> None:
    """0 while kproxy serves, another code when it does not, or is not what answers."""
    _, *command = health_check()

    def check(port: int) -> int:
        environment = {**os.environ, "KPROXY_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, timeout=60, check=False
        )
        return done.returncode

    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    with Program(kubeconfig=path) as program:
        assert check(program.port) == 0
        port = program.port
    assert check(port) != 0
    with Program("--admin=off", kubeconfig=path) as program:
        assert check(program.port) != 0


# -- a cluster's opinion --


@needs("kubectl")
@pytest.mark.parametrize("heading", [SIDECAR, DEPLOYMENT])
def test_the_api_server_takes_the_manifests(heading: str, proxy: Program, tmp_path: Path) -> None:
    """Each of a kind that the cluster serves, which are not all in the demo; kubectl checks the fields."""
    namespace = manifest(heading, "ServiceAccount")["metadata"]["namespace"]
    Api(proxy).request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    kubectl = ["kubectl", f"--server={proxy.url}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*kubectl, *arguments], input=stdin, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        return done.stdout

    served = {line.split()[-1] for line in run("api-resources", "--no-headers").splitlines()}
    documents = [
        each
        for each in re.split(r"^---$", text(heading), flags=re.MULTILINE)
        if (kind := yaml.safe_load(each)["kind"]) in served and kind != "Namespace"
    ]
    assert len(documents) >= 2
    said = run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin="---".join(documents))
    assert len(said.splitlines()) == len(documents)
    assert {each["kind"] for each in manifests(heading)} >= {"Deployment", "ServiceAccount"}

"""In a pod: the service account is found where the kubelet puts it, and followed when it is renewed.

Each program runs in a mount namespace of its own, which takes root; elsewhere these tests are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, seen_by
from tests.support.notice import noticed
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.pod import in_pod
from tests.support.program import Program
from tests.support.secrets import plant
from tests.support.volume import Volume


def account_files(token: str, ca_pem: bytes) -> dict[str, bytes]:
    return {"token": token.encode(), "ca.crt": ca_pem, "namespace": b"default"}


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer("c", CA()) as server:
        yield server


@pytest.fixture
def account(tmp_path: Path, server: ApiServer) -> Volume:
    return Volume(tmp_path / "sa", account_files(plant("token"), server.ca.pem))


@pytest.fixture
async def program(account: Volume, server: ApiServer) -> AsyncIterator[Program]:
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    program = Program(env=env)
    program.command = in_pod(account.path, program.command)
    async with program:
        await program.output("server.started")
        yield program


async def test_the_service_account_is_used(program: Program, account: Volume) -> None:
    """Without any kubeconfig; the first line of the log says so."""
    seen = await seen_by(program)
    assert seen["authorization"] == f"Bearer {(account.path / 'token').read_text()}"
    (line,) = program.log_events("server.started")
    assert (line["context"], line["credential"]) == ("in-cluster", "tokenFile")


async def test_a_renewed_token_is_picked_up(program: Program, account: Volume, server: ApiServer) -> None:
    """Within two seconds, before the old one ends; a running watch goes on."""
    async with Stream(program) as watch:
        await watch.first_event()
        token = plant("token")
        account.project(account_files(token, server.ca.pem))
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while (await seen_by(program))["authorization"] != f"Bearer {token}":
                await asyncio.sleep(0.02)
        await server.tick("going on")
        await watch.expects("going on")
    assert server.refused == 0


async def test_a_refused_token_is_read_again_at_once(
    program: Program, account: Volume, server: ApiServer
) -> None:
    """The 401 is not the client's business when there is a newer token."""
    await seen_by(program)
    token = plant("token")
    account.project(account_files(token, server.ca.pem))
    server.accepts = {f"Bearer {token}"}
    assert (await ask(program)).status == 200


async def test_a_renewed_authority_is_trusted(program: Program, account: Volume, server: ApiServer) -> None:
    """The cluster's authority comes by the same volume."""
    await seen_by(program)
    new = CA("new-ca")
    await noticed(program, lambda: account.project(account_files(plant("token"), new.pem)))
    server.use_certificate_of(new)
    server.close_connections()
    assert (await ask(program)).status == 200


async def test_a_kubeconfig_that_appears_takes_over(program: Program, server: ApiServer) -> None:
    """~/.kube/config is looked for as long as the program runs; without it the pod's identity is back."""
    await seen_by(program)
    home = Path(dict(part.split("=", 1) for part in _environment(program.pid))["HOME"])
    (home / ".kube").mkdir()
    config = Kubeconfig(home / ".kube" / "config")
    config.add(server, token="from-the-file")
    assert (await noticed(program, config.write))["context"] == server.name
    assert (await seen_by(program))["authorization"] == "Bearer from-the-file"
    assert (await noticed(program, config.path.unlink))["context"] == "in-cluster"
    assert (await seen_by(program))["authorization"] != "Bearer from-the-file"


def _environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")

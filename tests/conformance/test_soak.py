"""Load with tokens that live two seconds: nobody waits for a renewal and nobody sees a 401.

KPROXY_SOAK_SECONDS says how long.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiServer, Kubeconfig, exec_user
from tests.support.client import RawClient
from tests.support.effort import effort
from tests.support.exec_plugin import V1, Plugin
from tests.support.oidc_issuer import OidcIssuer
from tests.support.pki import CA
from tests.support.program import Program
from tests.support.secrets import plant

pytestmark = [pytest.mark.slow, pytest.mark.numbers]

SOAK_SECONDS = float(os.environ.get("KPROXY_SOAK_SECONDS") or effort(16))
LIFE_SECONDS = 2.0
CLIENTS = 10
REQUESTS_PER_SECOND = 200

# The token is its own end, to the nanosecond; nothing else about it matters to the API server here.
ISSUE = f"""\
date +%s.%N >> "$here/times"
end=$(date -u -d '+{LIFE_SECONDS:g} seconds' +%Y-%m-%dT%H:%M:%S.%NZ)
printf '{{"apiVersion": "{V1}", "kind": "ExecCredential",
  "status": {{"token": "%s", "expirationTimestamp": "%s"}}}}' "$end" "$end"
exit 0
"""


@dataclass(frozen=True, slots=True)
class Run:
    """How long each request took, counted from when it was due; and what came back."""

    seconds: Sequence[float]
    statuses: Sequence[int]

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]

    def __str__(self) -> str:
        shown = " ".join(
            f"p{share:g}={self.percentile(share / 100) * 1000:.2f}" for share in (50, 90, 99, 99.9)
        )
        return f"{len(self.seconds)} requests, ms: {shown} max={max(self.seconds) * 1000:.2f}"


async def load(program: Program, seconds: float) -> Run:
    """A fixed rate on kept connections. Who falls behind does not send less: the wait is counted."""
    took: list[float] = []
    statuses: list[int] = []
    interval = CLIENTS / REQUESTS_PER_SECOND
    begins_at = time.monotonic() + 0.1

    async def work(number: int) -> None:
        client = await RawClient.connect(program.address)
        try:
            due_at = begins_at + interval * number / CLIENTS
            while due_at < begins_at + seconds:
                await asyncio.sleep(max(0.0, due_at - time.monotonic()))
                response = await client.request("GET", "/api/v1/pods")
                took.append(time.monotonic() - due_at)
                statuses.append(response.status)
                due_at += interval
        finally:
            client.reset()

    async with asyncio.TaskGroup() as workers:
        for number in range(CLIENTS):
            workers.create_task(work(number))
    return Run(took, statuses)


class Unexpired:
    """Authorization values whose end has not come; a token that was never issued has none."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}

    def __contains__(self, authorization: object) -> bool:
        assert isinstance(authorization, str)
        end = self.ends.get(authorization)
        if end is None:
            end = self.ends[authorization] = self.end_of(authorization.removeprefix("Bearer "))
        return time.time() < end

    def end_of(self, token: str) -> float:
        return datetime.fromisoformat(token[:26] + "+00:00").timestamp()


class UnexpiredJwt(Unexpired):
    def end_of(self, token: str) -> float:
        claims = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])


async def soak(server: ApiServer, directory: Path, **user: Any) -> tuple[Run, Program]:
    """The load with `user`, in a program of its own."""
    config = Kubeconfig(directory / "config")
    config.add(server, **user)
    config.write()
    async with Program("-v=-1", kubeconfig=config.path) as program:
        # The first requests of a process dial; they are no part of it.
        await load(program, 1.0)
        return await load(program, SOAK_SECONDS), program


def judge(server: ApiServer, static: Run, renewed: Run, issued_at: Sequence[float], name: str) -> None:
    """No 401 to anyone, each token renewed once, and nobody held up by it."""
    gaps = [after - before for before, after in pairwise(issued_at)]
    lives = SOAK_SECONDS / LIFE_SECONDS
    used = len(server.accepts.ends) if isinstance(server.accepts, Unexpired) else 0
    print(
        f"  {name}: {len(issued_at)} tokens issued and {used} used in {lives:g} lives; "
        f"{min(gaps):.2f} to {max(gaps):.2f} s apart; {server.refused} refused; "
        f"p99 {renewed.percentile(0.99) / static.percentile(0.99):.2f}x of static"
    )
    assert set(static.statuses) == set(renewed.statuses) == {200}
    assert server.refused == 0
    # Renewed in the second half of its life, once: no run is for nothing, and none comes earlier.
    assert len(issued_at) <= used + 1
    assert min(gaps) >= LIFE_SECONDS / 2 - 0.1
    assert renewed.percentile(0.99) <= 3 * static.percentile(0.99)


async def test_tokens_of_two_seconds(tmp_path: Path) -> None:
    """An exec plugin's and an OIDC issuer's tokens, beside a static one: renewed once, unseen.

    All three run at the same time, so that a busy machine holds up all of them.
    """
    directories = [tmp_path / name for name in ("static", "exec", "oidc")]
    for directory in directories:
        directory.mkdir()
    plugin = Plugin(tmp_path / "plugin")
    plugin.does(ISSUE)
    authority = CA()
    async with (
        ApiServer("static", authority) as static_server,
        ApiServer("exec", authority) as exec_server,
        ApiServer("oidc", authority) as oidc_server,
        OidcIssuer("id", plant("client-secret"), plant("refresh-token")) as issuer,
    ):
        issuer.life_seconds = LIFE_SECONDS
        provider = {"name": "oidc", "config": issuer.provider_config}
        exec_server.accepts = Unexpired()
        oidc_server.accepts = expiring = UnexpiredJwt()
        (static, _), (with_plugin, _), (with_issuer, program) = await asyncio.gather(
            soak(static_server, directories[0], token=plant("static")),
            soak(exec_server, directories[1], exec=exec_user(plugin)),
            soak(oidc_server, directories[2], auth_provider=provider),
        )
        print(f"soak {SOAK_SECONDS:g} s, {REQUESTS_PER_SECOND} requests/s each, at the same time")
        print(f"static token: {static}")
        print(f"exec plugin: {with_plugin}")
        print(f"OIDC issuer: {with_issuer}")
        times = [float(line) for line in (plugin.directory / "times").read_text().split()]
        judge(exec_server, static, with_plugin, times, "exec plugin")
        issued_at = [expiring.end_of(token) - LIFE_SECONDS for token in issuer.issued]
        judge(oidc_server, static, with_issuer, issued_at, "OIDC issuer")
        assert not program.log_events("kubeconfig.reload_failed")
        assert issuer.issued[-1] in (directories[2] / "config").read_text()

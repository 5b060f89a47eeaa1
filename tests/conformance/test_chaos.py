"""Random steps under load, with twenty open watches: no request fails that need not, none is cut.

KPROXY_CHAOS_SEED repeats a run (each prints its seed), KPROXY_CHAOS_STEPS says how many.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import proc
from tests.support.api_server import ApiServer, Kubeconfig, Stream, exec_user, replace_file
from tests.support.client import RawClient
from tests.support.effort import effort
from tests.support.exec_plugin import Plugin
from tests.support.notice import hung_up
from tests.support.pair_files import PairFiles
from tests.support.patience import until
from tests.support.pki import CA
from tests.support.program import Program
from tests.support.secrets import plant

pytestmark = [pytest.mark.slow, pytest.mark.numbers]

STEPS = int(os.environ.get("KPROXY_CHAOS_STEPS") or effort(50))
SEED = int(os.environ.get("KPROXY_CHAOS_SEED", "0")) or random.randrange(1, 1_000_000)
WATCHES = 20
LOADS = 4
LONGEST_DOWN_STEPS = 3
LAST_WORD = b"the last word"


@dataclass(eq=False, slots=True)
class Span:
    """From when until when (`time.monotonic`); `ended_at` is infinity while it lasts."""

    name: str
    began_at: float
    ended_at: float = float("inf")

    def overlaps(self, began_at: float, ended_at: float) -> bool:
        return self.began_at <= ended_at and began_at <= self.ended_at


class World:
    """Two clusters, the kubeconfig that names them, and the record of what could be reached when.

    Context a has a client certificate and an authority in files, b a token from an exec plugin.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client_ca = CA("client-ca")
        self.authorities = {"a": [CA("a1")], "b": [CA("b1")]}
        self.servers = {
            name: ApiServer(name, self.authorities[name][0], client_ca=self.client_ca) for name in "ab"
        }
        self.pair = PairFiles(directory, "client")
        self.plugin = Plugin(directory / "plugin")
        self.config = Kubeconfig(directory / "config")
        self.program = Program(kubeconfig=self.config.path)
        self.down: list[Span] = []
        self.targets: list[Span] = []
        self.is_broken = False
        self.answered = 0
        self.excused = 0
        self.requests = 0
        self.under_way: set[float] = set()
        """When the requests began that wait for their answer."""

    def prepare(self) -> None:
        self.new_certificate()
        self.new_token()
        for name, server in self.servers.items():
            self._write_authorities(name)
            user = self.pair.user if name == "a" else {"exec": exec_user(self.plugin)}
            self.config.add(server, {"certificate-authority": str(self._authorities(name))}, **user)
        self.config.write()

    def _authorities(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def _write_authorities(self, name: str) -> None:
        replace_file(self._authorities(name), b"".join(ca.pem for ca in self.authorities[name]))

    # -- the steps --

    def new_certificate(self) -> None:
        self.pair.write(*self.client_ca.issue(f"alice-{random.randrange(1000)}", client=True))

    def new_token(self) -> None:
        """The API server takes no other from now on: requests under way with the old one get 401."""
        self.token_at = time.monotonic()
        token = plant("plugin-token")
        self.plugin.issues(token=token)
        self.servers["b"].accepts = {f"Bearer {token}"}

    async def switch(self) -> None:
        """To the other context; until that is in force either of the two may be meant."""
        other = "b" if self.config.current == "a" else "a"
        self.config.current = other
        now = time.monotonic()
        old = self.targets[-1]
        self.targets.append(Span(other, now))
        await self.reload("kubeconfig.reloaded", self.config.text())
        self.is_broken = False
        old.ended_at = time.monotonic()

    async def break_config(self, rng: random.Random) -> None:
        text = rng.choice(["[", "kind: Pod\n", self.config.text().replace('"current-context": "', "%s"), ""])
        if not self.is_broken:
            self.is_broken = True
            await self.reload("kubeconfig.reload_failed", text)

    async def mend_config(self) -> None:
        if self.is_broken:
            self.is_broken = False
            await self.reload("kubeconfig.reloaded", self.config.text())

    async def new_authority(self, name: str) -> None:
        """First both are trusted, then the server changes over, then the old one is dropped."""
        await self.mend_config()
        # No request that began with another context is still on its way to a cluster that changes now.
        last = self.targets[-1].began_at
        await until(lambda: min(self.under_way, default=last) >= last, "earlier requests have ended", 15)
        fresh = CA(f"{name}-{random.randrange(1000)}")
        for trusted in ([*self.authorities[name], fresh], [fresh]):
            self.authorities[name] = trusted
            self._write_authorities(name)
            if name == self.config.current:
                await self.reload("kubeconfig.reloaded")
            self.servers[name].use_certificate_of(fresh)

    async def kill(self, name: str) -> None:
        if not self.is_down(name):
            self.down.append(Span(name, time.monotonic()))
            await self.servers[name].stop_listening()
            self.servers[name].close_connections(reset=True)

    def restart(self, name: str) -> None:
        for span in self.down:
            if span.name == name and span.ended_at == float("inf"):
                self.servers[name].start_listening()
                # What came just before may still be on its way to the client.
                span.ended_at = time.monotonic()

    async def reload(self, event: str, text: str | None = None) -> None:
        """Put the text in place, send SIGHUP, and wait for what the log says."""
        await hung_up(self.program, lambda: text is None or self.config.write(text), event)

    def is_down(self, name: str) -> bool:
        return any(span.name == name and span.ended_at == float("inf") for span in self.down)

    # -- what may fail --

    def is_excused(self, began_at: float, ended_at: float) -> bool:
        """Whether a cluster was down that was the current one at some time of this request."""
        meant = {span.name for span in self.targets if span.overlaps(began_at, ended_at)}
        return any(span.name in meant and span.overlaps(began_at, ended_at) for span in self.down)

    def was_killed(self, name: str, began_at: float, ended_at: float) -> bool:
        return any(span.name == name and span.overlaps(began_at, ended_at) for span in self.down)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with AsyncExitStack() as owned:
        for server in world.servers.values():
            await owned.enter_async_context(server)
        world.prepare()
        await owned.enter_async_context(world.program)
        world.targets.append(Span("a", time.monotonic()))
        yield world


async def load(world: World, stop: asyncio.Event) -> None:
    """Requests one after the other, some with a body; a new connection for every tenth."""
    number = 0
    while not stop.is_set():
        client = await RawClient.connect(world.program.address)
        try:
            for _ in range(10):
                number += 1
                began_at = time.monotonic()
                body = b"x" * 1000 if number % 3 == 0 else None
                world.under_way.add(began_at)
                response = await client.request("PUT" if body else "GET", f"/api/{number}", body=body)
                world.under_way.discard(began_at)
                world.requests += 1
                if response.status == 200:
                    assert response.json()["body"] == ("x" * 1000 if body else "")
                    world.answered += 1
                else:
                    ended_at = time.monotonic()
                    assert world.is_excused(began_at, ended_at), (response.status, response.text)
                    assert response.status == 502
                    world.excused += 1
                await asyncio.sleep(0.02)
        finally:
            client.reset()


async def watch(world: World, stop: asyncio.Event) -> None:
    """One watch, opened again when its cluster was killed; any other end of it is an error."""
    while not stop.is_set():
        began_at = time.monotonic()
        world.under_way.add(began_at)
        async with Stream(world.program) as stream:
            world.under_way.discard(began_at)
            world.requests += 1
            if stream.response.status != 200:
                assert world.is_excused(began_at, time.monotonic()), stream.response.status
                await asyncio.sleep(0.05)
                continue
            name = (await stream.first_event())["server"]
            stream.client.timeout = 600
            while LAST_WORD not in stream.response.body.data and await stream.client.read_piece(
                stream.response
            ):
                pass
            if LAST_WORD not in stream.response.body.data:
                assert world.was_killed(name, began_at, time.monotonic()), f"a watch on {name} was cut"
                assert not stream.response.body.is_complete


async def settled(world: World) -> tuple[int, int]:
    """Descriptors and threads, once nothing is idle between us and the clusters."""
    for server in world.servers.values():
        server.close_connections()
    seen, calm = (-1, -1), 0
    while calm < 20:
        await asyncio.sleep(0.02)
        pid = world.program.pid
        now = proc.descriptors(pid), len(os.listdir(f"/proc/{pid}/task"))
        seen, calm = now, calm + 1 if now == seen else 0
    return seen


async def test_chaos(world: World) -> None:
    """Contexts, kubeconfig, certificates, tokens and clusters come and go; all counts are as before."""
    print(f"\nchaos: seed {SEED}, {STEPS} steps")
    rng = random.Random(SEED)
    # Both contexts and the plugin have been used once, and everything is imported.
    for _ in range(2):
        async with Stream(world.program) as stream:
            await stream.first_event()
        world.requests += 1
        await world.switch()
    before = await settled(world)
    stop = asyncio.Event()
    done: list[str] = []
    async with asyncio.TaskGroup() as running:
        for _ in range(LOADS):
            running.create_task(load(world, stop))
        for _ in range(WATCHES):
            running.create_task(watch(world, stop))
        down_for = 0
        for _ in range(STEPS):
            done.append(await step(world, rng))
            await asyncio.sleep(rng.uniform(0, 0.15))
            down_for = down_for + 1 if world.is_down("a") or world.is_down("b") else 0
            if down_for >= LONGEST_DOWN_STEPS:
                world.restart("a")
                world.restart("b")
        world.restart("a")
        world.restart("b")
        await world.mend_config()
        # Every watch is open again.
        open_watches = [server.watches for server in world.servers.values()]
        await until(lambda: sum(map(len, open_watches)) == WATCHES, "all watches are open", 10)
        stop.set()
        for server in world.servers.values():
            await server.tick(LAST_WORD.decode())
    after = await settled(world)
    counts = {name: done.count(name) for name in sorted(set(done))}
    print(f"  {counts}\n  {world.answered} answers, {world.excused} failures while a cluster was down")
    print(
        f"  descriptors and threads: {before} before, {after} after; {world.plugin.runs} runs of the plugin"
    )
    assert after == before
    # Each request has its line in the log: none is still running.
    await until(
        lambda: len(world.program.log_events("request.finished")) == world.requests, "every request has ended"
    )
    assert world.answered > STEPS


async def step(world: World, rng: random.Random) -> str:
    name = rng.choice("ab")
    done = rng.choice(
        ["switch", "switch", "break", "mend", "certificate", "authority", "token", "kill", "restart"]
    )
    match done:
        case "switch":
            await world.switch()
        case "break":
            await world.break_config(rng)
        case "mend":
            await world.mend_config()
        case "certificate":
            world.new_certificate()
        case "authority":
            await world.new_authority(name)
        case "token" if time.monotonic() > world.token_at + 1:
            # A plugin whose tokens are refused faster than that is given pauses.
            world.new_token()
        case "kill":
            await world.kill(name)
        case "restart":
            world.restart(name)
    return done

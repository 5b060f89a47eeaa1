"""The end of the program: what may finish finishes, what would not is cut, nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conformance.conftest import Pki
from tests.support.answers import Step, answer, chunk, head, never_answer, script, tunnel
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import Program, kubeconfig
from tests.support.upstream import ByteUpstream

WATCH = script(head(200, [("Transfer-Encoding", "chunked")]), chunk(b"{}\n"), Step.WAIT_FOR_END)
EXEC = "/api/v1/namespaces/ns/pods/p/exec?command=sh"
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
FOR_EVER = "1h"
"""A grace period that no test waits for."""


class House:
    """A program of its own, since its end is the subject."""

    def __init__(self, program: Program, upstream: ByteUpstream, owned: AsyncExitStack, folder: Path) -> None:
        self.program = program
        self.upstream = upstream
        self.folder = folder
        self._owned = owned

    async def connect(self) -> RawClient:
        return await self._owned.enter_async_context(await RawClient.connect(self.program.address))

    async def start(
        self, target: str, headers: list[tuple[str, str]] | None = None, method: str = "GET"
    ) -> RawClient:
        seen = len(self.upstream.requests)
        client = await self.connect()
        await client.send(request_bytes(method, target, headers or []))
        await self.upstream.wait_for_requests(seen + 1)
        return client


@pytest.fixture
def grace_period() -> str:
    return FOR_EVER


@pytest.fixture
async def house(tmp_path: Path, pki: Pki, grace_period: str) -> AsyncIterator[House]:
    async with AsyncExitStack() as owned:
        upstream = await owned.enter_async_context(ByteUpstream(tls=pki.server_context))
        config = kubeconfig(
            tmp_path, upstream, ca_pem=pki.ca.pem, token="abc", client_certificate=pki.client_certificate
        )
        folder = tmp_path / "tmp"
        folder.mkdir()
        program = await owned.enter_async_context(
            Program(
                "--reject-paths=",
                f"--grace-period={grace_period}",
                kubeconfig=config,
                env={"TMPDIR": str(folder)},
            )
        )
        yield House(program, upstream, owned, folder)


@pytest.mark.numbers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_watches_and_a_tunnel_do_not_hold_up_the_end(house: House, number: int) -> None:
    """Fifty watches and an exec: exit code 0 within the grace period, every stream cut on both sides."""
    house.upstream.routes.update({"/api/v1/pods": WATCH, EXEC.partition("?")[0]: tunnel()})
    watches = [await house.start("/api/v1/pods?watch=true") for _ in range(50)]
    for watch in watches:
        await watch.read_until(await watch.read_head(), b"{}\n")
    shell = await house.start(EXEC, UPGRADE, "POST")
    assert (await shell.read_head()).status == 101
    await shell.send(b"ls")
    assert await shell.read_exactly(2) == b"ls"
    started_at = time.monotonic()
    assert await house.program.stopped(number) == 0
    took = time.monotonic() - started_at
    print(f"50 watches and an exec: ended in {took:.2f} s")
    for client in (*watches, shell):
        # No last chunk: a watch that was cut must not look ended by the API server.
        assert b"0\r\n\r\n" not in await client.read_to_end()
        assert client.end in ("eof", "reset")
    for connection in house.upstream.connections:
        await asyncio.wait_for(connection.ended.wait(), LAST_RESORT_SECONDS)
    assert os.listdir(house.folder) == []


async def test_a_request_that_ends_by_itself_may_finish(house: House) -> None:
    """A list that is on its way arrives whole, and says that it was the last."""
    go_on = asyncio.Event()
    reply = head(200, [("Content-Length", "4")])
    house.upstream.responder = script(reply + b"ab", go_on, b"cd")
    client = await house.start("/api")
    response = await client.read_head()
    house.program.send_signal(signal.SIGTERM)
    await house.program.output("server.draining")
    go_on.set()
    await client.read_rest(response)
    assert (response.text, response.body.is_complete) == ("abcd", True)
    assert await client.read_to_end() == b""
    assert await asyncio.to_thread(house.program.wait) == 0


async def test_an_upload_may_finish(house: House) -> None:
    """`kubectl apply` in its middle is not cut in half."""
    house.upstream.responder = answer(b"{}", 201)
    client = await house.start("/api", [("Content-Length", "4")], "POST")
    house.program.send_signal(signal.SIGTERM)
    await house.program.output("server.draining")
    await client.send(b"abcd")
    assert (await client.read_response()).status == 201
    assert await asyncio.to_thread(house.program.wait) == 0


async def refuses_connections(house: House) -> None:
    """The log line comes a moment before the listening socket is closed."""

    async def connect_again_and_again() -> None:
        while True:
            (await RawClient.connect(house.program.address)).reset()

    with pytest.raises(ConnectionRefusedError):
        await asyncio.wait_for(connect_again_and_again(), LAST_RESORT_SECONDS)


async def test_nothing_new_is_taken_while_draining(house: House) -> None:
    """New connections are refused, and no second request is taken on an open one."""
    go_on = asyncio.Event()
    house.upstream.responder = script(go_on, head(200, [("Content-Length", "0")]))
    client = await house.start("/1")
    await client.send(request_bytes("GET", "/2"))
    house.program.send_signal(signal.SIGTERM)
    await house.program.output("server.draining")
    await refuses_connections(house)
    go_on.set()
    assert (await client.read_response()).status == 200
    assert await client.read_to_end() == b""
    assert [request.target for request in house.upstream.requests] == ["/1"]
    assert await asyncio.to_thread(house.program.wait) == 0


async def test_idle_connections_end_at_once(house: House) -> None:
    """Keep-alive connections of browsers must not cost the grace period."""
    house.upstream.responder = answer(b"{}")
    client = await house.connect()
    assert (await client.request("GET", "/api")).status == 200
    assert await house.program.stopped() == 0
    assert await client.read_to_end() == b""
    assert client.end == "eof"


async def test_a_second_signal_ends_at_once(house: House) -> None:
    """Who presses Ctrl-C twice means it; the exit is still orderly."""
    house.upstream.responder = never_answer()
    client = await house.start("/api")
    house.program.send_signal(signal.SIGINT)
    await house.program.output("server.draining")
    assert await house.program.stopped(signal.SIGINT) == 0
    assert await client.read_to_end() == b""
    assert os.listdir(house.folder) == []


@pytest.mark.parametrize("grace_period", ["1s"])
async def test_the_grace_period_ends(house: House) -> None:
    """A request that never ends gets so long and no longer; the exit code is still 0."""
    house.upstream.responder = never_answer()
    client = await house.start("/api")
    started_at = time.monotonic()
    assert await house.program.stopped() == 0
    assert time.monotonic() - started_at > 0.9
    assert await client.read_to_end() == b""


async def test_what_was_cut_is_logged(house: House) -> None:
    """The last lines say what ended and how."""
    house.upstream.responder = WATCH
    watch = await house.start("/api/v1/pods?watch=true")
    await watch.read_head()
    assert await house.program.stopped() == 0
    [line] = house.program.log_events("request.finished")
    assert (line["path"], line["verb"], line["status"]) == ("/api/v1/pods", "watch", 200)
    assert house.program.log_events()[-1]["event"] == "server.stopped"


async def test_an_end_during_a_dial_leaves_nothing(house: House, pki: Pki) -> None:
    """A handshake that stalls is dropped at the second signal."""
    port = house.upstream.port
    await house.upstream.stop_listening()
    async with ByteUpstream(port=port) as silent:
        client = await house.connect()
        await client.send(request_bytes("GET", "/api"))
        await silent.wait_for(lambda: len(silent.connections) == 1, "a connection")
        house.program.send_signal(signal.SIGTERM)
        await house.program.output("server.draining")
        assert await house.program.stopped() == 0
        await asyncio.wait_for(silent.connections[0].ended.wait(), LAST_RESORT_SECONDS)

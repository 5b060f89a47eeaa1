"""The end of the program: what may finish finishes, what would not is cut, nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conformance.conftest import Gateway, Pki, serving
from tests.support.answers import Step, answer, chunk, head, never_answer, script, tunnel
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pod import with_resolver
from tests.support.program import Program, kubeconfig

WATCH = script(head(200, [("Transfer-Encoding", "chunked")]), chunk(b"{}\n"), Step.WAIT_FOR_END)
EXEC = "/api/v1/namespaces/ns/pods/p/exec?command=sh"
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
FOR_EVER = "1h"
"""A grace period that no test waits for."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The program's temporary folder."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture
def grace_period() -> str:
    return FOR_EVER


@pytest.fixture
async def own(
    tmp_path: Path, folder: Path, pki: Pki, upstream_port: int, grace_period: str
) -> AsyncIterator[Gateway]:
    """A gateway whose program is this test's own, since its end is the subject."""
    flags = ("--reject-paths=", f"--grace-period={grace_period}")
    async with AsyncExitStack() as owned:
        served = owned.enter_context(serving(tmp_path, pki, upstream_port, *flags, TMPDIR=str(folder)))
        gateway = Gateway(served, pki, owned)
        await gateway.open()
        yield gateway


@pytest.mark.numbers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_watches_and_a_tunnel_do_not_hold_up_the_end(own: Gateway, folder: Path, number: int) -> None:
    """Fifty watches and an exec: exit code 0 within the grace period, every stream cut on both sides."""
    own.upstream.routes.update({"/api/v1/pods": WATCH, EXEC.partition("?")[0]: tunnel()})
    watches = [(await own.start(target="/api/v1/pods?watch=true"))[0] for _ in range(50)]
    for watch in watches:
        await watch.read_until(await watch.read_head(), b"{}\n")
    shell, _ = await own.start("POST", EXEC, UPGRADE)
    assert (await shell.read_head()).status == 101
    await shell.send(b"ls")
    assert await shell.read_exactly(2) == b"ls"
    started_at = time.monotonic()
    assert await own.program.stopped(number) == 0
    took = time.monotonic() - started_at
    print(f"50 watches and an exec: ended in {took:.2f} s")
    for client in (*watches, shell):
        # No last chunk: a watch that was cut must not look ended by the API server.
        assert b"0\r\n\r\n" not in await client.read_to_end()
    for connection in own.upstream.connections:
        await asyncio.wait_for(connection.ended.wait(), LAST_RESORT_SECONDS)
    assert os.listdir(folder) == []


async def test_a_request_that_ends_by_itself_may_finish(own: Gateway) -> None:
    """A list that is on its way arrives whole, and says that it was the last."""
    go_on = asyncio.Event()
    reply = head(200, [("Content-Length", "4")])
    own.upstream.responder = script(reply + b"ab", go_on, b"cd")
    client, _ = await own.start(target="/api")
    response = await client.read_head()
    own.program.send_signal(signal.SIGTERM)
    await own.program.output("server.draining")
    go_on.set()
    await client.read_rest(response)
    assert (response.text, response.body.is_complete) == ("abcd", True)
    assert await client.read_to_end() == b""
    assert await asyncio.to_thread(own.program.wait) == 0


async def test_an_upload_may_finish(own: Gateway) -> None:
    """`kubectl apply` in its middle is not cut in half."""
    own.upstream.responder = answer(b"{}", 201)
    client, _ = await own.start("POST", headers=[("Content-Length", "4")])
    own.program.send_signal(signal.SIGTERM)
    await own.program.output("server.draining")
    await client.send(b"abcd")
    assert (await client.read_response()).status == 201
    assert await asyncio.to_thread(own.program.wait) == 0


async def refuses_connections(own: Gateway) -> None:
    """The log line comes a moment before the listening socket is closed."""

    async def connect_again_and_again() -> None:
        while True:
            (await RawClient.connect(own.program.address)).reset()

    with pytest.raises(ConnectionRefusedError):
        await asyncio.wait_for(connect_again_and_again(), LAST_RESORT_SECONDS)


async def test_nothing_new_is_taken_while_draining(own: Gateway) -> None:
    """New connections are refused, and no second request is taken on an open one."""
    go_on = asyncio.Event()
    own.upstream.responder = script(go_on, head(200, [("Content-Length", "0")]))
    client, _ = await own.start(target="/1")
    await client.send(request_bytes("GET", "/2"))
    own.program.send_signal(signal.SIGTERM)
    await own.program.output("server.draining")
    await refuses_connections(own)
    go_on.set()
    assert (await client.read_response()).status == 200
    assert await client.read_to_end() == b""
    assert [request.target for request in own.upstream.requests] == ["/1"]
    assert await asyncio.to_thread(own.program.wait) == 0


async def test_idle_connections_end_at_once(own: Gateway) -> None:
    """Keep-alive connections of browsers must not cost the grace period."""
    own.upstream.responder = answer(b"{}")
    client = await own.connect()
    assert (await client.request("GET", "/api")).status == 200
    assert await own.program.stopped() == 0
    assert await client.read_to_end() == b""
    assert client.end == "eof"


async def test_a_second_signal_ends_at_once(own: Gateway, folder: Path) -> None:
    """Who presses Ctrl-C twice means it; the exit is still orderly."""
    own.upstream.responder = never_answer()
    client, _ = await own.start(target="/api")
    own.program.send_signal(signal.SIGINT)
    await own.program.output("server.draining")
    assert await own.program.stopped(signal.SIGINT) == 0
    assert await client.read_to_end() == b""
    assert os.listdir(folder) == []


@pytest.mark.parametrize("grace_period", ["1s"])
async def test_the_grace_period_ends(own: Gateway) -> None:
    """A request that never ends gets so long and no longer; the exit code is still 0."""
    own.upstream.responder = never_answer()
    client, _ = await own.start(target="/api")
    started_at = time.monotonic()
    assert await own.program.stopped() == 0
    assert time.monotonic() - started_at > 0.9
    assert await client.read_to_end() == b""


async def test_what_was_cut_is_logged(own: Gateway) -> None:
    """The last lines say what ended and how."""
    own.upstream.responder = WATCH
    watch, _ = await own.start(target="/api/v1/pods?watch=true")
    await watch.read_head()
    assert await own.program.stopped() == 0
    [line] = own.program.log_events("request.finished")
    assert (line["path"], line["verb"], line["status"]) == ("/api/v1/pods", "watch", 200)
    assert own.program.log_events()[-1]["event"] == "server.stopped"


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_signals_until_the_very_end(own: Gateway, first: signal.Signals) -> None:
    """Ctrl-C that is held down, and a terminal that is closed meanwhile: still an orderly end."""
    program = own.program

    def press_on() -> None:
        for number in itertools.cycle((first, first, signal.SIGHUP)):
            program.send_signal(number)
            with contextlib.suppress(TimeoutError):
                program.wait(0.002)
                return

    program.send_signal(first)
    await program.output("server.draining")
    await asyncio.to_thread(press_on)
    assert program.exit_code == 0, program.stderr
    assert program.log_events()[-1]["event"] == "server.stopped"


async def test_an_end_during_a_dial_leaves_nothing(own: Gateway) -> None:
    """A handshake that stalls is dropped at the second signal."""
    silent = await own.replace_upstream(tls=None)
    client = await own.connect()
    await client.send(request_bytes("GET", "/api"))
    await silent.wait_for(lambda: len(silent.connections) == 1, "a connection")
    own.program.send_signal(signal.SIGTERM)
    await own.program.output("server.draining")
    assert await own.program.stopped() == 0
    await asyncio.wait_for(silent.connections[0].ended.wait(), LAST_RESORT_SECONDS)


async def test_a_name_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Without the VPN a name server may be silent for minutes: nobody waits for it who goes home."""
    # Of our own: tests may run side by side.
    address = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 127 | 128}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        try:
            silent.bind((address, 53))
        except OSError as error:
            pytest.skip(f"needs port 53: {error}")
        silent.setblocking(False)
        program = Program("--grace-period=0s", kubeconfig=kubeconfig(tmp_path, "https://hangs.test:6443"))
        program.command = with_resolver(address, tmp_path, program.command)
        async with program, await RawClient.connect(program.address) as client:
            await client.send(request_bytes("GET", "/api"))
            async with asyncio.timeout(LAST_RESORT_SECONDS):
                while b"hangs" not in await asyncio.get_running_loop().sock_recv(silent, 512):
                    pass
            assert await program.stopped() == 0

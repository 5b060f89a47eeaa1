"""A unix socket as the listener: for its owner alone, without traces, the same path of data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kproxy.listeners.binding import ListenError, bind_unix
from tests.support.answers import big, big_sha256, never_answer, tunnel
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import Program, ended
from tests.support.upstream import ByteUpstream


@pytest.fixture
async def program(folder: Path, config: Path) -> AsyncIterator[Program]:
    async with Program(f"--unix-socket={folder / 's'}", kubeconfig=config) as program:
        yield program


async def test_the_path_is_printed_and_only_its_owner_may_connect(program: Program, folder: Path) -> None:
    """Whoever connects acts with the owner's credentials: on a port any local user could."""
    assert program.serving_on == str(folder / "s")
    mode = (folder / "s").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) & 0o077 == 0


async def test_requests_pass_without_x_forwarded_for(program: Program, upstream: ByteUpstream) -> None:
    """A unix socket has no address to tell; what the client says of itself stays as it is."""
    async with await RawClient.connect(program.address) as client:
        assert (await client.request("GET", "/api")).status == 200
        assert (await client.request("GET", "/api", [("X-Forwarded-For", "1.2.3.4")])).status == 200
    first, second = upstream.requests
    assert first.values("X-Forwarded-For") == []
    assert second.values("X-Forwarded-For") == ["1.2.3.4"]


async def test_the_host_is_judged_all_the_same(program: Program, upstream: ByteUpstream) -> None:
    """curl --unix-socket takes any URL; the rule is one for all listeners, as in kubectl."""
    async with await RawClient.connect(program.address) as client:
        assert (await client.request("GET", "/api", host="evil.example")).status == 403
    assert upstream.requests == []


async def test_streams_and_tunnels_pass(program: Program, upstream: ByteUpstream) -> None:
    """5 MB, and a tunnel with a half-close by the client."""
    upstream.routes["/big"] = big(5_000_000)
    upstream.routes["/api/v1/namespaces/ns/pods/p/portforward"] = tunnel()
    async with await RawClient.connect(program.address) as client:
        await client.send(request_bytes("GET", "/big"))
        assert await client.digest(await client.read_head()) == big_sha256(5_000_000)
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
        await client.send(
            request_bytes("POST", "/api/v1/namespaces/ns/pods/p/portforward", upgrade) + b"ping"
        )
        assert (await client.read_head()).status == 101
        assert await client.read_exactly(4) == b"ping"


async def test_a_client_that_leaves_ends_its_request(program: Program, upstream: ByteUpstream) -> None:
    """As over TCP."""
    upstream.responder = never_answer()
    async with await RawClient.connect(program.address) as client:
        await client.send(request_bytes("GET", "/api"))
        [request] = await upstream.wait_for_requests(1)
    await asyncio.wait_for(request.connection.ended.wait(), LAST_RESORT_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_socket_is_removed_at_the_end(program: Program, folder: Path, number: int) -> None:
    """The next start needs no clean-up by hand."""
    assert await program.stopped(number) == 0
    assert os.listdir(folder) == []


async def test_a_socket_left_by_a_crash_is_replaced(folder: Path, config: Path) -> None:
    """After `kill -9` the same command works again."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "s"))
    async with (
        Program(f"-u={folder / 's'}", kubeconfig=config) as program,
        await RawClient.connect(program.address) as client,
    ):
        assert (await client.request("GET", "/api")).status == 200


async def test_a_socket_in_use_is_not_taken_over(program: Program, folder: Path, config: Path) -> None:
    """Two programs on one path: the second says so and leaves the first alone."""
    second = await asyncio.to_thread(ended, f"-u={folder / 's'}", f"--kubeconfig={config}", code=1)
    assert "in use" in second.stderr
    async with await RawClient.connect(program.address) as client:
        assert (await client.request("GET", "/api")).status == 200


@pytest.mark.parametrize("kind", ["datagram", "busy"])
async def test_a_socket_that_is_not_answered_is_not_taken_over(folder: Path, kind: str) -> None:
    """One for datagrams, as of a logger, or of a program with a full backlog: somebody listens there."""
    path = str(folder / "s")
    is_busy = kind == "busy"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if is_busy else socket.SOCK_DGRAM) as other,
        contextlib.ExitStack() as clients,
    ):
        other.bind(path)
        if is_busy:
            other.listen(0)
            code = 0
            while code == 0:
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                code = client.connect_ex(path)
        inode = os.stat(path).st_ino
        with pytest.raises(ListenError, match="in use by a running program"):
            bind_unix(path)
        assert os.stat(path).st_ino == inode

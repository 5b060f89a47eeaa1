"""Clients that take all they can get: requests and chunks without end, and connections that only wait."""

from __future__ import annotations

import asyncio
import resource
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conformance.conftest import Pki
from tests.support.answers import answer, never_answer
from tests.support.client import RawClient, Response, request_bytes
from tests.support.patience import until
from tests.support.pki import CA
from tests.support.program import ROOT, Program
from tests.support.upstream import ByteUpstream, Connection, Request

STARTS_ANEW = True  # a shell sets the limit of open files, and then becomes the program

LIMIT = 256
CLIENTS = 300
REQUESTS = 150
WARMING_REQUESTS = 20
# Nearly all take less while another client floods kproxy; what a busy machine adds is not ours.
SECONDS, PART = 0.1, 0.95
FLOODS = {
    "refused-host": request_bytes("GET", "/api", host="evil.example"),
    "healthz": request_bytes("GET", "/-/healthz"),
    "refused-path": request_bytes("GET", "/api/v1/namespaces/ns/pods/p/exec"),
    "one-byte-chunks": b"1\r\nx\r\n",
}
FLOOD = """
import select, socket, ssl, sys
host, port, tls = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "tls"
begin, piece = sys.stdin.buffer.read().split(b"|")
flood, at = memoryview(piece * (65536 // len(piece))), 0
client = socket.create_connection((host, port))
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_socket(client)
client.sendall(begin)
client.setblocking(False)
print("begun", flush=True)
while True:
    try:
        at = (at + client.send(flood[at:])) % len(flood)
    except (BlockingIOError, ssl.SSLWantWriteError):
        select.select([client], [client], [])
    try:
        while client.recv(65536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
"""


@pytest.fixture(params=["uvloop", "asyncio"])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What a program needs to run on that event loop."""
    if request.param == "uvloop":
        return {}
    (tmp_path / "uvloop.py").write_text("raise ImportError\n")
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.fixture(params=["plain", "tls"])
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Those of a listener that speaks http, or https."""
    if request.param == "plain":
        return []
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    for file, pem in zip(files, CA("listener").issue("localhost", ("127.0.0.1",)), strict=True):
        file.write_bytes(pem)
    return [f"--tls-certificate={files[0]}", f"--tls-key={files[1]}"]


@pytest.fixture
async def upstream(pki: Pki) -> AsyncIterator[ByteUpstream]:
    async def respond(connection: Connection, request: Request) -> None:
        while await connection.read_body_piece(request):
            pass
        await answer(b"{}")(connection, request)

    async with ByteUpstream(respond, tls=pki.server_context) as upstream:
        yield upstream


def tls_of(arguments: list[str]) -> ssl.SSLContext | None:
    if not any(each.startswith("--tls") for each in arguments):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextmanager
def flooding(program: Program, kind: str, *, is_tls: bool) -> Iterator[None]:
    """A client that sends without end, and reads."""
    assert isinstance(program.address, tuple)
    head = request_bytes("POST", "/api", [("Transfer-Encoding", "chunked")]) if "chunks" in kind else b""
    host, port = program.address
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD, host, str(port), "tls" if is_tls else "plain"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as flood:
        try:
            assert flood.stdin is not None
            assert flood.stdout is not None
            flood.stdin.write(head + b"|" + FLOODS[kind])
            flood.stdin.close()
            assert flood.stdout.readline() == b"begun\n"
            yield
        finally:
            flood.kill()


@pytest.mark.numbers
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_holds_up_nobody_else(
    kind: str, arguments: list[str], variables: dict[str, str], config: Path
) -> None:
    """Requests that are answered at once, and chunks, have their turn: others need not wait for the last."""
    tls = tls_of(arguments)
    took = []
    async with (
        Program(*arguments, kubeconfig=config, env=variables) as program,
        await RawClient.connect(program.address, tls) as client,
    ):
        with flooding(program, kind, is_tls=tls is not None):
            for _ in range(WARMING_REQUESTS + REQUESTS):
                began_at = time.monotonic()
                assert (await client.request("GET", "/api/v1/pods")).status == 200
                took.append(time.monotonic() - began_at)
    took = sorted(took[WARMING_REQUESTS:])
    print(
        f"median {took[REQUESTS // 2] * 1e3:.1f} ms, "
        f"99% {took[REQUESTS * 99 // 100] * 1e3:.1f} ms, max {took[-1] * 1e3:.0f} ms"
    )
    assert took[int(REQUESTS * PART)] < SECONDS


# -- descriptors --


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs that are started may have LIMIT open files, and the test enough for its clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * CLIENTS:
        pytest.skip(f"only {hard} open files are allowed (ulimit -Hn)")
    monkeypatch.setattr(
        "tests.support.program.KPROXY",
        ("/bin/sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh", sys.executable, "-m", "kproxy"),
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * CLIENTS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask(address: tuple[str, int] | str, tls: ssl.SSLContext | None) -> Response:
    async with await RawClient.connect(address, tls) as client:
        return await client.request("GET", "/api")


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_idle_clients_leave_room_for_new_ones(
    where: str, limited: None, variables: dict[str, str], config: Path, upstream: ByteUpstream, folder: Path
) -> None:
    """Those that wait longest are closed, which the log says once; also for connections to the API server."""
    arguments = [f"--unix-socket={folder / 'socket'}"] if where == "unix" else []
    async with AsyncExitStack() as owned, Program(*arguments, kubeconfig=config, env=variables) as program:
        clients = []
        for number in range(CLIENTS):
            clients.append(await RawClient.connect(program.address))
            owned.callback(clients[-1].reset)
            if number % 2:
                # Some have been served before; the others never say a word.
                assert (await clients[-1].request("GET", "/-/healthz")).status == 200
        for _ in range(3):
            upstream.close_connections()
            assert (await ask(program.address, None)).status == 200
        assert await clients[0].read_to_end() == b""
        assert await clients[1].read_to_end() == b""
        assert (await clients[-1].request("GET", "/api")).status == 200
        [line] = program.log_events("listener.crowded")
        assert line["limit"] == LIMIT


async def test_clients_without_a_handshake_leave_room_for_new_ones(
    limited: None, variables: dict[str, str], config: Path, tmp_path: Path
) -> None:
    """Silent ones on a port of https, and those that begin a handshake and do not end it."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    for file, pem in zip(files, CA("listener").issue("localhost", ("127.0.0.1",)), strict=True):
        file.write_bytes(pem)
    arguments = [f"--tls-certificate={files[0]}", f"--tls-key={files[1]}"]
    async with AsyncExitStack() as owned, Program(*arguments, kubeconfig=config, env=variables) as program:
        for number in range(CLIENTS):
            client = await RawClient.connect(program.address)
            owned.callback(client.reset)
            if number % 2:
                await client.send(b"\x16\x03\x01")
        for _ in range(3):
            assert (await ask(program.address, tls_of(arguments))).status == 200
        assert len(program.log_events("listener.crowded")) == 1


async def test_a_dial_has_a_descriptor_in_spite_of_idle_clients(
    limited: None, variables: dict[str, str], config: Path, upstream: ByteUpstream
) -> None:
    """Clients that were let in when there was room give way when others take theirs for watches."""
    upstream.routes["/api/v1/pods"] = never_answer()
    async with AsyncExitStack() as owned, Program(kubeconfig=config, env=variables) as program:

        async def connected() -> RawClient:
            client = await RawClient.connect(program.address)
            owned.callback(client.reset)
            return client

        idle = [await connected() for _ in range(100)]
        watching = [await connected() for _ in range(80)]
        for number, client in enumerate(watching, 1):
            await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
            await upstream.wait_for_requests(number)
        assert await idle[0].read_to_end() == b""
        assert (await ask(program.address, None)).status == 200


async def test_busy_clients_are_not_closed_for_new_ones(
    limited: None, variables: dict[str, str], config: Path, upstream: ByteUpstream
) -> None:
    """Who finds no room is told so, or waits until there is some."""
    upstream.routes["/api/v1/pods"] = never_answer()
    async with AsyncExitStack() as owned, Program(kubeconfig=config, env=variables) as program:
        watching = []
        for _ in range(LIMIT // 2):
            client = await RawClient.connect(program.address)
            owned.callback(client.reset)
            watching.append(client)
            await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
        waiting = asyncio.create_task(ask(program.address, None))
        await until(lambda: len(upstream.requests) >= LIMIT // 4, "most watches run")
        for client in watching[: LIMIT // 4]:
            client.reset()
        assert (await waiting).status in (200, 502)
        assert (await ask(program.address, None)).status == 200

"""Much at once, and much in a row: no errors, and descriptors and memory are back soon after."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import BLOCK, answer, chunk, head, tunnel
from tests.support.client import RawClient, request_bytes
from tests.support.effort import effort
from tests.support.patience import until
from tests.support.upstream import Connection, Request

pytestmark = [pytest.mark.slow, pytest.mark.numbers]
STARTS_ANEW = True  # memory that a fork shares is not its own
PROGRAM_ARGS = ("--reject-paths=",)

WATCHES = 1_000
WATCH_SECONDS = effort(8)
UPLOADS = 200
UPLOAD_BYTES = 1_000_000
CONNECTIONS = 5_000
TUNNELS = 100
BACK_SECONDS = 10.0
# What the allocator keeps in its arenas of what it once had; a leak would show as a multiple of the load.
KEPT_BYTES = 25_000_000
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]


DESCRIPTORS = 5_000
_grown: dict[str, int] = {}
"""What each of the tests below left behind in memory."""


@pytest.fixture(scope="module", autouse=True)
def _enough_descriptors() -> Iterator[None]:
    """1,000 watches are 2,000 sockets here and 2,000 in the program, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"only {hard} open files are allowed (ulimit -Hn); {DESCRIPTORS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def measured(gateway: Gateway, what: str, load: Callable[[], Awaitable[None]]) -> None:
    """Run `load`; descriptors must then return to where they were. Notes the memory, prints what it took."""
    gateway.answers(answer(b"{}"), "/warm")
    await gateway.request(target="/warm")
    descriptors, memory = gateway.program.descriptors(), gateway.program.rss_bytes()
    cpu, started_at = gateway.program.cpu_seconds(), time.monotonic()
    await load()
    took, cpu = time.monotonic() - started_at, gateway.program.cpu_seconds() - cpu
    ended_at = time.monotonic()
    gateway.upstream.close_connections()
    await until(
        lambda: gateway.program.descriptors() <= descriptors,
        f"back at {descriptors} descriptors",
        BACK_SECONDS,
    )
    back = time.monotonic() - ended_at
    while (grown := gateway.program.rss_bytes() - memory) > KEPT_BYTES and (
        time.monotonic() < ended_at + BACK_SECONDS
    ):
        await asyncio.sleep(0.05)
    _grown[what] = grown
    print(
        f"{what}: {took:.1f} s, CPU of kproxy {cpu:.2f} s, "
        f"peak {gateway.program.peak_rss_bytes() / 1e6:.0f} MB, "
        f"{descriptors} descriptors again after {back:.2f} s, memory {grown / 1e6:+.1f} MB"
    )


async def in_groups(size: int, count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """`work(0)` to `work(count - 1)`, at most `size` at a time."""
    left = iter(range(count))

    async def worker() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(size):
            tasks.create_task(worker())


async def test_a_thousand_watches_with_an_event_a_second(gateway: Gateway) -> None:
    """Every event of every watch arrives; most within a second on two busy cores."""
    events = [b'{"type":"MODIFIED","object":{"n":%06d}}\n' % number for number in range(WATCH_SECONDS)]
    delays: list[float] = []
    sent_at: dict[bytes, float] = {}
    may_send = [asyncio.Event() for _ in events]

    async def follow(connection: Connection, request: Request) -> None:
        await connection.send(head(200, [("Transfer-Encoding", "chunked")]))
        # Spread over the second, as the events of a real cluster are.
        offset = len(gateway.upstream.requests) % WATCHES / WATCHES
        for event, may in zip(events, may_send, strict=True):
            await may.wait()
            await asyncio.sleep(offset)
            key = b"%s %d" % (event, id(connection))
            sent_at[key] = time.monotonic()
            await connection.send(chunk(b"%d " % id(connection) + event))
        await connection.send(b"0\r\n\r\n")

    async def read(client: RawClient) -> None:
        response = await client.read_head()
        assert response.status == 200
        lines = 0
        rest = b""
        while piece := await client.read_piece(response):
            now = time.monotonic()
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                number, _, event = line.partition(b" ")
                delays.append(now - sent_at[b"%s\n %s" % (event, number)])
                lines += 1
        assert response.body.is_complete
        assert lines == WATCH_SECONDS
        client.reset()

    async def load() -> None:
        gateway.answers(follow)
        readers: list[asyncio.Task[None]] = []

        async def begin(_: int) -> None:
            client = await gateway.connect()
            await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
            readers.append(asyncio.create_task(read(client)))

        await in_groups(20, WATCHES, begin)
        await gateway.upstream.wait_for_requests(WATCHES, 60)
        for may in may_send:
            may.set()
            await asyncio.sleep(1)
        await asyncio.gather(*readers)

    await measured(gateway, f"{WATCHES} watches, one event/s for {WATCH_SECONDS} s", load)
    delays.sort()
    median, late = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    print(
        f"{len(delays)} events, delay: median {median * 1e3:.1f} ms, "
        f"99% {late * 1e3:.1f} ms, max {delays[-1] * 1e3:.0f} ms"
    )
    assert len(delays) == WATCHES * WATCH_SECONDS
    assert median < 1


async def test_two_hundred_uploads_of_a_megabyte_at_once(gateway: Gateway) -> None:
    """All arrive whole; the memory of the program stays far below what is under way."""
    body = BLOCK * (UPLOAD_BYTES // len(BLOCK))
    sizes: list[int] = []

    async def read(connection: Connection, request: Request) -> None:
        while await connection.read_body_piece(request):
            pass
        sizes.append(request.body.size)
        await connection.send(head(201, [("Content-Length", "0")]))

    async def upload() -> None:
        client = await gateway.connect()
        await client.send(request_bytes("POST", "/api", body=body))
        assert (await client.read_response()).status == 201
        client.reset()

    async def load() -> None:
        gateway.answers(read)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(UPLOADS):
                tasks.create_task(upload())

    await measured(gateway, f"{UPLOADS} uploads of 1 MB at once", load)
    assert sizes == [len(body)] * UPLOADS


async def test_five_thousand_connections_one_after_the_other(gateway: Gateway) -> None:
    """Scripts with a curl per object: nothing piles up per connection."""

    async def load() -> None:
        gateway.answers(answer(b"{}"))
        for _ in range(CONNECTIONS):
            async with await RawClient.connect(gateway.program.address) as client:
                response = await client.request("GET", "/api")
                assert (response.status, response.text) == (200, "{}")
        assert len(gateway.upstream.connections) <= 3

    await measured(gateway, f"{CONNECTIONS} connections in a row", load)


async def test_a_hundred_tunnels_at_once(gateway: Gateway) -> None:
    """Shells and port-forwards of a whole team: each gets its own bytes back, 100 KB in pieces."""
    piece = BLOCK[:4096]

    async def talk(number: int) -> None:
        client = await gateway.connect()
        await client.send(request_bytes("POST", f"/api/v1/namespaces/ns/pods/p{number}/exec", UPGRADE))
        assert (await client.read_head("POST")).status == 101
        mine = b"%04d" % number + piece
        for _ in range(25):
            await client.send(mine)
            assert await client.read_exactly(len(mine)) == mine
        await client.shut_write()
        assert await client.read_to_end() == b""

    async def load() -> None:
        gateway.answers(tunnel())
        await in_groups(TUNNELS, TUNNELS, talk)

    await measured(gateway, f"{TUNNELS} tunnels at once", load)


def test_memory_is_back_after_each_load() -> None:
    """What a thousand watches took must not stay for good: a laptop's proxy runs for weeks."""
    if not _grown:
        pytest.skip("none of the loads was run")
    assert {what: grown for what, grown in _grown.items() if grown > KEPT_BYTES} == {}

"""What a request costs in memory, whatever its size: VmHWM and VmRSS of the real process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest

from tests.conformance.conftest import Gateway, big_answer
from tests.support import proc
from tests.support.answers import Step, answer, big_sha256, chunk, head, script
from tests.support.client import RawClient, request_bytes
from tests.support.patience import until
from tests.support.uploads import Upload
from tests.support.upstream import Connection, Request

ANSWER_BYTES = 20_000_000
UPLOAD_BYTES = 10_000_000
STALL_SECONDS = 2.0
PEAK_BYTES = 15_000_000
WATCHES = 500
WATCH_BYTES = 70_000
REFUSALS = 3000
REFUSALS_BYTES = 1_000_000
SLOW = pytest.mark.slow
pytestmark = pytest.mark.numbers
STARTS_ANEW = True  # memory that a fork shares is not its own


async def peak_above_idle(gateway: Gateway, transfer: Callable[[], Awaitable[None]]) -> int:
    """Bytes that `transfer` took at its peak, beyond what an idle program has that has served before."""
    gateway.answers(answer(b"{}"), "/warm")
    for _ in range(3):
        await gateway.request(target="/warm")
    idle = gateway.program.rss_bytes()
    proc.reset_peak(gateway.program.pid)
    await transfer()
    return gateway.program.peak_rss_bytes() - idle


@pytest.mark.parametrize(
    "framing", ["length", pytest.param("chunked", marks=SLOW), pytest.param("close", marks=SLOW)]
)
async def test_a_20_mb_answer_takes_little_memory(gateway: Gateway, framing: str) -> None:
    """With a reader that stalls in the middle: below 15 MB, so that four lists at once don't end a laptop."""

    async def transfer() -> None:
        client, _ = await gateway.start()
        response = await client.read_head()
        found = hashlib.sha256()
        has_stalled = False
        while piece := await client.read_piece(response):
            found.update(piece)
            if not has_stalled and response.body.size > ANSWER_BYTES // 2:
                has_stalled = True
                await asyncio.sleep(STALL_SECONDS)
        assert response.body.is_complete
        assert found.hexdigest() == big_sha256(ANSWER_BYTES)

    gateway.answers(big_answer(ANSWER_BYTES, framing))
    peak = await peak_above_idle(gateway, transfer)
    print(f"20 MB answer ({framing}), reader stalls 2 s: peak {peak / 1e6:.1f} MB above idle")
    assert peak < PEAK_BYTES


@pytest.mark.parametrize("framing", [pytest.param("length", marks=SLOW), "chunked"])
async def test_a_10_mb_upload_takes_little_memory(gateway: Gateway, framing: str) -> None:
    """With an API server that stops reading in the middle."""
    found = hashlib.sha256()

    async def read(connection: Connection, request: Request) -> None:
        has_stalled = False
        while piece := await connection.read_body_piece(request):
            found.update(piece)
            if not has_stalled and request.body.size > UPLOAD_BYTES // 4:
                has_stalled = True
                connection.pause_reading()
                await asyncio.sleep(STALL_SECONDS)
                connection.resume_reading()
        await connection.send(head(201, [("Content-Length", "0")]))

    async def transfer() -> None:
        client = await gateway.connect()
        upload = Upload(client, UPLOAD_BYTES, framing)
        await client.send(request_bytes("POST", "/api", upload.fields))
        await upload.send()
        assert (await client.read_response()).status == 201
        assert found.hexdigest() == big_sha256(UPLOAD_BYTES)

    await gateway.replace_upstream(receive_buffer_bytes=64 * 1024)
    gateway.answers(read)
    peak = await peak_above_idle(gateway, transfer)
    print(f"10 MB upload ({framing}), API server stalls 2 s: peak {peak / 1e6:.1f} MB above idle")
    assert peak < PEAK_BYTES


async def quiet_watch(gateway: Gateway) -> RawClient:
    """One event has come, and none will."""
    gateway.answers(script(head(200, [("Transfer-Encoding", "chunked")]), chunk(b"{}\n"), Step.WAIT_FOR_END))
    client = await gateway.connect()
    await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
    await client.read_until(await client.read_head(), b"{}\n")
    return client


@SLOW
async def test_an_idle_watch_takes_less_than_70_kb(gateway: Gateway) -> None:
    """A dashboard opens hundreds; TLS to the API server is most of the cost."""
    pytest.importorskip("uvloop", reason="asyncio's own TLS buffers 256 KB per connection")
    # The first ones pay for what stays: modules, caches, arenas.
    warm = [await quiet_watch(gateway) for _ in range(20)]
    before = gateway.program.rss_bytes()
    clients: list[RawClient] = []
    while len(clients) < WATCHES:
        clients += await asyncio.gather(*(quiet_watch(gateway) for _ in range(50)))
    cost = (gateway.program.rss_bytes() - before) / WATCHES
    print(f"{WATCHES} idle watches: {cost / 1000:.1f} KB each")
    assert cost < WATCH_BYTES
    for client in (*warm, *clients):
        client.reset()


@SLOW
async def test_watches_that_come_and_go_take_no_more_than_the_first(gateway: Gateway) -> None:
    """Dashboards reconnect all day: after six rounds a watch must still cost what it did in the first."""
    costs = []
    idle = gateway.sockets()
    for _ in range(6):
        clients: list[RawClient] = []
        while len(clients) < 150:
            clients += await asyncio.gather(*(quiet_watch(gateway) for _ in range(50)))
        costs.append(gateway.program.rss_bytes())
        for client in clients:
            client.reset()
        # One connection to the API server may be kept.
        await until(lambda: gateway.sockets() <= idle + 1, "no connection")
    print("MB with 150 watches, round by round:", ", ".join(f"{cost / 1e6:.0f}" for cost in costs))
    # The C library returns what it can a second after a burst; without that it was 25 MB more by now.
    assert costs[-1] - costs[0] < 10_000_000


async def test_refused_requests_leave_nothing_behind(gateway: Gateway) -> None:
    """A refusal that is remembered for its path does not remember who was refused."""
    client = await gateway.connect()

    async def ask(count: int) -> None:
        for _ in range(count):
            response = await client.request("GET", "/api/v1/namespaces/n/pods/p/exec")
            assert response.status == 403

    await ask(300)
    before = gateway.program.rss_bytes()
    await ask(REFUSALS)
    grown = gateway.program.rss_bytes() - before
    print(f"{REFUSALS} refused requests: {grown / 1e6:.1f} MB more")
    assert grown < REFUSALS_BYTES

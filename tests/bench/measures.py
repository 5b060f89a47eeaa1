"""What is measured: one function per kind of load, each giving one or several rows of the table."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import drivers, layout
from tests.bench.proxies import Contender, Running
from tests.bench.upstreams import Upstream
from tests.support import proc
from tests.support.client import RawClient

MB = 1_000_000
GB = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much of everything; `--quick` is too little for claims and enough to see that it works.

    Many short rounds rather than a few long ones: the speed of a shared machine drifts within seconds.
    """

    rounds: int = 5
    load_seconds: float = 1.0
    latency_seconds: float = 2.0
    lists: int = 5
    events_seconds: float = 1.0
    idle_watches: tuple[int, int] = (500, 1000)
    upload_bytes: int = 100 * MB
    tunnel_bytes: int = 64 * MB
    round_trips: int = 1000
    reconnects: int = 5


QUICK = Scale(
    rounds=1,
    latency_seconds=1.0,
    lists=2,
    idle_watches=(100, 200),
    upload_bytes=30 * MB,
    tunnel_bytes=16 * MB,
    round_trips=200,
    reconnects=2,
)


class Bench:
    """Owner of the upstream and of the proxies that run through the whole benchmark."""

    def __init__(self, upstream: Upstream, directory: Path, scale: Scale) -> None:
        self.upstream = upstream
        self.scale = scale
        self._directory = directory
        self._running: dict[str, Running] = {}

    def running(self, contender: Contender) -> Running:
        """The one that runs all the time, warmed up by the rows before."""
        if contender.name not in self._running:
            self._running[contender.name] = contender.start(self.upstream, self._new_directory())
        return self._running[contender.name]

    @contextlib.asynccontextmanager
    async def fresh(self, contender: Contender) -> AsyncIterator[Running]:
        """One of its own, for rows that an earlier load would spoil (memory, start-up)."""
        running = contender.start(self.upstream, self._new_directory())
        try:
            yield running
        finally:
            running.process.kill()

    def close(self) -> list[str]:
        """End all of them; what is wrong with kproxy's log (a traceback spoils its numbers)."""
        problems = []
        for name, running in self._running.items():
            running.process.kill()
            if name == "kproxy" and (complaint := running.process.complaint()):
                problems.append(f"{name}: ...{complaint.strip()[-300:]}")
        return problems

    def _new_directory(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._directory))


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """`limit` times the value of `against`, or `limit` itself when there is nobody to compare with."""

    limit: float
    against: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table. Smaller is better unless `more_is_better`."""

    key: str
    title: str
    unit: str
    budgets: tuple[Budget, ...] = ()
    more_is_better: bool = False


Values = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One load and its rows; `run` gives a value for each row's key. `needs` says what is missing.

    `most_rounds` spares time where values hardly vary.
    """

    key: str
    rows: tuple[Row, ...]
    run: Callable[[Bench, Contender], Awaitable[Values]]
    needs: Callable[[], str | None] = lambda: None
    contenders: tuple[str, ...] = ("kproxy", "kubectl", "nginx", "aiohttp")
    most_rounds: int = 100


def _requests(
    key: str, target: str, connections: int, title: str, budgets: tuple[Budget, ...] = ()
) -> Measure:
    async def run(bench: Bench, contender: Contender) -> Values:
        running = bench.running(contender)
        await drivers.get(running.port, target)
        pid = running.process.pid
        before = proc.cpu_seconds(pid)
        count = drivers.wrk(running.port, target, connections=connections, seconds=bench.scale.load_seconds)
        return {key: (proc.cpu_seconds(pid) - before) / count * 1e6}

    row = Row(key=key, title=title, unit="CPU µs/request", budgets=budgets)
    return Measure(key=key, rows=(row,), run=run, needs=drivers.wrk_missing)


async def _latency(bench: Bench, contender: Contender) -> Values:
    running = bench.running(contender)
    await drivers.get(running.port, layout.SMALL)
    seconds = bench.scale.latency_seconds
    latencies = await drivers.fixed_rate(running.port, layout.SMALL, rate=1000, seconds=seconds)
    # The first tenth opens connections upstream.
    cuts = statistics.quantiles(latencies[len(latencies) // 10 :], n=100)
    return {"latency_p50": cuts[49] * 1e3, "latency_p99": cuts[98] * 1e3}


async def _lists(bench: Bench, contender: Contender) -> Values:
    async with bench.fresh(contender) as running:
        await drivers.get(running.port, layout.SMALL)
        pid = running.process.pid
        proc.reset_peak(pid)
        before = proc.cpu_seconds(pid)
        total = 0
        for _ in range(bench.scale.lists):
            total += await drivers.download(running.port, layout.LIST)
        if total < bench.scale.lists * layout.LIST_BYTES:
            raise drivers.LoadError(f"only {total} bytes came")
        used = proc.cpu_seconds(pid) - before
        return {"list_cpu": used / total * GB, "list_peak": proc.peak_rss_bytes(pid) / MB}


def _events(key: str, watch_count: int, rate: float) -> Measure:
    async def run(bench: Bench, contender: Contender) -> Values:
        running = bench.running(contender)
        count = int(rate * bench.scale.events_seconds)
        watches = drivers.Watches(running.port)
        try:
            await watches.open(watch_count)
            await _watches_at_upstream(bench, watch_count)
            pid = running.process.pid
            before = proc.cpu_seconds(pid)
            await drivers.get(bench.upstream.streams.port, f"{layout.CONTROL_EMIT}?count={count}&rate={rate}")
            await watches.wait_for_events(count, timeout=30)
            used = proc.cpu_seconds(pid) - before
        finally:
            await _end(bench, watches)
        return {key: used / count * 1e6}

    plural = "watch" if watch_count == 1 else "watches"
    title = f"1 KB event, {watch_count} {plural}"
    budgets = (Budget(limit=0.7, against="kubectl"),)
    return Measure(key=key, rows=(Row(key=key, title=title, unit="CPU µs/event", budgets=budgets),), run=run)


async def _end(bench: Bench, watches: drivers.Watches) -> None:
    watches.close()
    await drivers.get(bench.upstream.streams.port, layout.CONTROL_END)
    await _watches_at_upstream(bench, 0)


async def _watches_at_upstream(bench: Bench, count: int) -> None:
    """Wait until the upstream has exactly `count` watches."""
    deadline = time.monotonic() + 15
    seen = -1
    async with await RawClient.connect(("127.0.0.1", bench.upstream.streams.port)) as client:
        while seen != count:
            if time.monotonic() > deadline:
                raise drivers.LoadError(f"the upstream has {seen} watches instead of {count}")
            response = await client.request("GET", layout.CONTROL_WATCHES)
            seen = response.json()["watches"]
            if seen != count:
                await asyncio.sleep(0.01)


async def _idle_watches(bench: Bench, contender: Contender) -> Values:
    few, many = bench.scale.idle_watches
    async with bench.fresh(contender) as running:
        port, pid = running.port, running.process.pid
        for _ in range(20):
            await drivers.get(port, layout.SMALL)
        await asyncio.sleep(0.5)
        idle = proc.rss_bytes(pid)
        values = {"idle_memory": idle / MB}
        watches = drivers.Watches(port)
        try:
            for key, count in (("idle_watch_few", few), ("idle_watch_many", many)):
                await watches.open(count)
                await asyncio.sleep(0.5)
                values[key] = (proc.rss_bytes(pid) - idle) / count / 1000
        finally:
            await _end(bench, watches)
        return values


async def _upload(bench: Bench, contender: Contender) -> Values:
    running = bench.running(contender)
    await drivers.get(running.port, layout.SMALL)
    pid = running.process.pid
    before = proc.cpu_seconds(pid)
    await drivers.upload(running.port, bench.scale.upload_bytes)
    return {"upload_cpu": (proc.cpu_seconds(pid) - before) / bench.scale.upload_bytes * GB}


async def _start(bench: Bench, contender: Contender) -> Values:
    async with bench.fresh(contender) as running:
        await drivers.until_answered(running.port, layout.VERSION)
        return {"start": time.monotonic() - running.process.started_at}


async def _import(bench: Bench, contender: Contender) -> Values:
    module = {"kproxy": "kproxy.cli.main", "aiohttp": "tests.bench.yardstick"}[contender.name]

    def timed(code: str) -> float:
        started_at = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started_at

    times = [(timed(f"import {module}"), timed("pass")) for _ in range(3)]
    return {"import": (min(full for full, _ in times) - min(bare for _, bare in times)) * 1e3}


async def _tunnel(bench: Bench, contender: Contender) -> Values:
    running = bench.running(contender)
    tunnel = await drivers.open_tunnel(running.port)
    try:
        trips = await drivers.round_trips(tunnel, bench.scale.round_trips)
        pid = running.process.pid
        before = proc.cpu_seconds(pid)
        seconds = await drivers.stream_through(tunnel, bench.scale.tunnel_bytes)
        used = proc.cpu_seconds(pid) - before
    finally:
        tunnel.transport.close()
    both_ways = 2 * bench.scale.tunnel_bytes
    return {
        "tunnel_rate": both_ways / seconds / MB,
        "tunnel_cpu": used / both_ways * GB,
        "tunnel_round_trip": statistics.median(trips) * 1e6,
    }


async def _reconnect(bench: Bench, contender: Contender) -> Values:
    running = bench.running(contender)
    pid = running.process.pid
    warm, cold, used = [], [], []
    async with await RawClient.connect(("127.0.0.1", running.port)) as client:
        for _ in range(bench.scale.reconnects):
            await drivers.get_with(client, layout.SMALL)
            started_at = time.perf_counter()
            await drivers.get_with(client, layout.SMALL)
            warm.append(time.perf_counter() - started_at)
            await asyncio.to_thread(bench.upstream.close_idle_connections)
            before = proc.cpu_seconds(pid)
            started_at = time.perf_counter()
            await drivers.get_with(client, layout.SMALL)
            cold.append(time.perf_counter() - started_at)
            used.append(proc.cpu_seconds(pid) - before)
    return {
        "reconnect_time": (statistics.median(cold) - statistics.median(warm)) * 1e3,
        "reconnect_cpu": statistics.median(used) * 1e3,
    }


def measures(scale: Scale) -> list[Measure]:
    """In the order of the table."""
    few, many = scale.idle_watches
    kubectl, nginx = "kubectl", "nginx"
    upload_mb = scale.upload_bytes // MB
    return [
        _requests(
            "cpu_1k_c32",
            layout.SMALL,
            32,
            "1 KB answer, 32 connections",
            (Budget(limit=0.55, against=kubectl), Budget(limit=2.0, against=nginx)),
        ),
        _requests(
            "cpu_1k_c1",
            layout.SMALL,
            1,
            "1 KB answer, 1 connection",
            (Budget(limit=0.65, against=kubectl),),
        ),
        _requests("cpu_20k_c32", layout.MEDIUM, 32, "20 KB answer, 32 connections"),
        _requests("cpu_20k_c1", layout.MEDIUM, 1, "20 KB answer, 1 connection"),
        Measure(
            key="latency",
            rows=(
                Row(key="latency_p50", title="1,000 requests/s, median", unit="ms"),
                Row(
                    key="latency_p99",
                    title="1,000 requests/s, 99th percentile",
                    unit="ms",
                    budgets=(Budget(limit=1.0, against=kubectl),),
                ),
            ),
            run=_latency,
        ),
        Measure(
            key="lists",
            rows=(
                Row(
                    key="list_cpu",
                    title="20 MB list",
                    unit="CPU s/GB",
                    budgets=(Budget(limit=1.0, against=kubectl),),
                ),
                Row(key="list_peak", title="20 MB list, peak memory", unit="MB"),
            ),
            run=_lists,
        ),
        _events("event_1", 1, 400.0),
        _events("event_100", 100, 2000.0),
        _events("event_500", 500, 2500.0),
        Measure(
            key="idle",
            rows=(
                Row(
                    key="idle_memory",
                    title="idle, after 20 requests",
                    unit="MB",
                    budgets=(Budget(limit=45.0),),
                ),
                Row(key="idle_watch_few", title=f"idle watch, of {few}", unit="KB"),
                Row(
                    key="idle_watch_many",
                    title=f"idle watch, of {many:,}",
                    unit="KB",
                    budgets=(Budget(limit=70.0), Budget(limit=0.7, against=kubectl)),
                ),
            ),
            run=_idle_watches,
            most_rounds=3,
        ),
        Measure(
            key="upload",
            rows=(
                Row(
                    key="upload_cpu",
                    title=f"upload of {upload_mb} MB",
                    unit="CPU s/GB",
                    budgets=(Budget(limit=1.0, against=kubectl),),
                ),
            ),
            run=_upload,
        ),
        Measure(
            key="tunnel",
            rows=(
                Row(
                    key="tunnel_rate",
                    title="WebSocket tunnel, echo",
                    unit="MB/s",
                    budgets=(Budget(limit=1.0, against=kubectl),),
                    more_is_better=True,
                ),
                Row(key="tunnel_cpu", title="WebSocket tunnel", unit="CPU s/GB"),
                Row(key="tunnel_round_trip", title="WebSocket round trip, 64 bytes", unit="µs"),
            ),
            run=_tunnel,
        ),
        Measure(
            key="reconnect",
            rows=(
                Row(key="reconnect_time", title="request after idle close, extra", unit="ms"),
                Row(key="reconnect_cpu", title="request after idle close", unit="CPU ms"),
            ),
            run=_reconnect,
        ),
        Measure(
            key="start",
            rows=(Row(key="start", title="start to first answer", unit="s", budgets=(Budget(limit=0.35),)),),
            run=_start,
        ),
        Measure(
            key="import",
            rows=(Row(key="import", title="import", unit="ms"),),
            run=_import,
            contenders=("kproxy", "aiohttp"),
        ),
    ]

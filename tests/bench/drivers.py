"""The load: wrk for requests as fast as they go, asyncio protocols for everything that has a shape."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from tests.bench import layout
from tests.support.client import RawClient, request_bytes

TIMEOUT_SECONDS = 30.0
BUFFER_BYTES = 256 * 1024
OPEN_AT_ONCE = 50
FRAMES_IN_FLIGHT = 16


class LoadError(Exception):
    """A proxy answered otherwise than it should: its numbers would mean nothing."""


def wrk_missing() -> str | None:
    return None if shutil.which("wrk") else "wrk is not installed"


def wrk(port: int, target: str, *, connections: int, seconds: float) -> int:
    """Load for whole `seconds` and return the number of good answers; raises LoadError on any other."""
    url = f"http://127.0.0.1:{port}{target}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout=10s", url]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    if bad := re.search(r"Non-2xx.*|Socket errors.*", told):
        raise LoadError(bad[0])
    counted = re.search(r"(\d+) requests in", told)
    if counted is None or not int(counted[1]):
        raise LoadError("no answers")
    return int(counted[1])


async def get(port: int, target: str) -> int:
    """One request on a connection of its own; the number of bytes of its body."""
    async with await RawClient.connect(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as client:
        return await get_with(client, target)


async def get_with(client: RawClient, target: str) -> int:
    response = await client.request("GET", target, host="127.0.0.1")
    if response.status != 200 or not response.body.is_complete:
        raise LoadError(f"GET {target}: {response.status} {response.text[:200]}")
    return response.body.size


async def until_answered(port: int, target: str) -> None:
    """Ask until the first good answer: a server that listens may not be ready yet."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            await get(port, target)
        except (OSError, LoadError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.005)
        else:
            return


class _Client(asyncio.Protocol):
    """A connection whose end before its work is done is a LoadError."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the proxy closed the connection ({exc})")

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(why))

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _connect(port: int, factory: Callable[[], _Client]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port)


@dataclass(slots=True)
class _Schedule:
    """What is due, who is free, and how long each answer took."""

    idle: deque[_Asker] = field(default_factory=deque)
    waiting: deque[float] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)


class _Asker(_Client):
    """One connection of the fixed-rate driver."""

    def __init__(self, schedule: _Schedule, request: bytes) -> None:
        super().__init__()
        self._schedule = schedule
        self._request = request
        self._issued_at = 0.0
        self._left = -1
        self._buffer = b""

    def ask(self, issued_at: float) -> None:
        self._issued_at = issued_at
        self._left = -1
        self._buffer = b""
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._buffer += data
            head, separator, body = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                self.fail(f"unexpected answer {head[:100]!r}")
                return
            self._left = int(length[1])
            data = body
        self._left -= len(data)
        if self._left == 0:
            schedule = self._schedule
            schedule.latencies.append(time.perf_counter() - self._issued_at)
            if schedule.waiting:
                self.ask(schedule.waiting.popleft())
            else:
                schedule.idle.append(self)


async def fixed_rate(
    port: int, target: str, *, rate: int, seconds: float, connections: int = 16
) -> list[float]:
    """Seconds from the moment each request was due to the end of its answer, in an open loop.

    A request that finds no free connection waits for one, and its waiting counts. What counts as due
    is the tick of this driver's own timer (1 ms): its lateness is not the proxy's.
    """
    schedule = _Schedule()
    request = request_bytes("GET", target, host="127.0.0.1")
    askers: list[_Asker] = []

    def new_asker() -> _Asker:
        askers.append(_Asker(schedule, request))
        return askers[-1]

    for _ in range(connections):
        await _connect(port, new_asker)
    schedule.idle.extend(askers)
    count = int(rate * seconds)
    issued = 0
    started_at = time.perf_counter()
    while issued < count:
        now = time.perf_counter()
        for _ in range(min(count, int((now - started_at) * rate) + 1) - issued):
            issued += 1
            if schedule.idle:
                schedule.idle.popleft().ask(now)
            else:
                schedule.waiting.append(now)
        await asyncio.sleep(0.001)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(schedule.latencies) < count:
        for asker in askers:
            if asker.done.done():
                asker.done.result()
        if time.monotonic() > deadline:
            raise LoadError(f"{count - len(schedule.latencies)} of {count} answers are missing")
        await asyncio.sleep(0.01)
    for asker in askers:
        asker.done.cancel()
        asker.transport.close()
    return schedule.latencies


class _Download(asyncio.BufferedProtocol):
    """Counts a body without keeping it."""

    def __init__(self, request: bytes) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self._request = request
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._head = b""
        self._body_bytes = -1
        self._length: int | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._body_bytes < 0:
            self._head += self._buffer[:nbytes]
            head, separator, body = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.connection_lost(LoadError(f"unexpected answer {head[:100]!r}"))
                return
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self._length = int(length[1]) if length else None
            self._body_bytes = nbytes = len(body)
            self._tail = body[-5:]
        else:
            self._body_bytes += nbytes
            self._tail = (self._tail + bytes(self._buffer[max(0, nbytes - 5) : nbytes]))[-5:]
        ended = self._tail == b"0\r\n\r\n" if self._length is None else self._body_bytes == self._length
        if ended and not self.done.done():
            self.done.set_result(self._body_bytes)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or LoadError(f"cut after {self._body_bytes} bytes"))


async def download(port: int, target: str) -> int:
    """Read one answer as fast as it comes; the number of its bytes (chunk framing included)."""
    loop = asyncio.get_running_loop()
    request = request_bytes("GET", target, host="127.0.0.1")
    _, protocol = await loop.create_connection(lambda: _Download(request), "127.0.0.1", port)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        size = await protocol.done
    protocol.transport.close()
    return size


class Watches:
    """Open watches through one proxy, and the number of events that came on all of them."""

    def __init__(self, port: int) -> None:
        self.events = 0
        self._port = port
        self._open: list[_Watch] = []

    async def open(self, count: int) -> None:
        """Open until `count` are open; returns when each has its first event, which does not count."""
        while len(self._open) < count:
            batch = [_Watch(self) for _ in range(min(OPEN_AT_ONCE, count - len(self._open)))]
            self._open += batch
            await asyncio.gather(*(_connect(self._port, lambda watch=watch: watch) for watch in batch))  # type: ignore[misc]
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await asyncio.gather(*(watch.done for watch in batch))

    async def wait_for_events(self, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.events < count:
            if time.monotonic() > deadline:
                raise LoadError(f"{self.events} of {count} events came")
            await asyncio.sleep(0.005)

    def close(self) -> None:
        for watch in self._open:
            watch.transport.close()


class _Watch(_Client):
    def __init__(self, watches: Watches) -> None:
        super().__init__()
        self._watches = watches
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(request_bytes("GET", layout.WATCH + "?watch=true", host="127.0.0.1"))

    def data_received(self, data: bytes) -> None:
        # An event is the only thing with a bare newline: framing and head end in CRLF.
        events = data.count(b"}\n")
        if not self.done.done():
            if not (self._seen + data).startswith(b"HTTP/1.1 200"[: len(self._seen + data)]):
                self.fail(f"unexpected answer {data[:100]!r}")
            elif not events:
                self._seen += data
                return
            else:
                self.finish()
                events -= 1
        self._watches.events += events


class _Upload(_Client):
    def __init__(self) -> None:
        super().__init__()
        self.may_write = asyncio.Event()
        self.may_write.set()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 200"):
            self.finish()
        else:
            self.fail(f"unexpected answer {data[:200]!r}")


async def upload(port: int, size: int) -> None:
    """PUT `size` bytes with Content-Length, as fast as they are taken."""
    clients: list[_Upload] = []

    def new_client() -> _Upload:
        clients.append(_Upload())
        return clients[-1]

    await _connect(port, new_client)
    [client] = clients
    fields = [("Content-Length", str(size)), ("Content-Type", "application/octet-stream")]
    client.transport.write(request_bytes("PUT", layout.UPLOAD, fields, host="127.0.0.1"))
    block = bytes(BUFFER_BYTES)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for start in range(0, size, len(block)):
            await client.may_write.wait()
            if client.done.done():
                break
            client.transport.write(block[: size - start])
        await client.done
    client.transport.close()


class Tunnel(_Client):
    """A WebSocket through the proxy whose far end answers each message with one of its length."""

    def __init__(self) -> None:
        super().__init__()
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received_bytes = 0
        self._wanted_bytes = 0
        self._arrived: asyncio.Future[None] | None = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        self.transport.write(request_bytes("GET", layout.TUNNEL, fields, host="127.0.0.1"))

    def data_received(self, data: bytes) -> None:
        if not self.upgraded.done():
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            if head.startswith(b"HTTP/1.1 101"):
                self.upgraded.set_result(None)
            else:
                self.upgraded.set_exception(LoadError(f"no upgrade: {head[:100]!r}"))
        self.received_bytes += len(data)
        if self._arrived is not None and self.received_bytes >= self._wanted_bytes:
            self._arrived.set_result(None)
            self._arrived = None

    def connection_lost(self, exc: Exception | None) -> None:
        error = LoadError(f"the tunnel ended ({exc})")
        for future in (self.upgraded, self._arrived):
            if future is not None and not future.done():
                future.set_exception(error)

    async def until(self, wanted_bytes: int) -> None:
        if self.received_bytes < wanted_bytes:
            self._wanted_bytes = wanted_bytes
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived


def client_frame(length: int) -> bytes:
    """A binary message of `length` bytes, masked with zeroes (RFC 6455 section 5.2)."""
    size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 127]) + length.to_bytes(8, "big")
    return b"\x82" + size + bytes(4) + bytes(length)


async def open_tunnel(port: int) -> Tunnel:
    tunnels: list[Tunnel] = []

    def new_tunnel() -> Tunnel:
        tunnels.append(Tunnel())
        return tunnels[-1]

    await _connect(port, new_tunnel)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await tunnels[0].upgraded
    return tunnels[0]


async def round_trips(tunnel: Tunnel, count: int) -> list[float]:
    """Seconds of `count` messages of 64 bytes, one after the other."""
    message = client_frame(64)
    answer_bytes = len(message) - 4
    times = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for _ in range(count):
            wanted = tunnel.received_bytes + answer_bytes
            sent_at = time.perf_counter()
            tunnel.transport.write(message)
            await tunnel.until(wanted)
            times.append(time.perf_counter() - sent_at)
    return times


async def stream_through(tunnel: Tunnel, size: int) -> float:
    """Send `size` bytes in 64 KB messages and get as many back; the seconds it took."""
    message = client_frame(layout.FRAME_BYTES)
    answer_bytes = len(message) - 4
    count = size // layout.FRAME_BYTES
    first_byte = tunnel.received_bytes
    started_at = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for number in range(count):
            tunnel.transport.write(message)
            await tunnel.until(first_byte + max(0, number + 1 - FRAMES_IN_FLIGHT) * answer_bytes)
        await tunnel.until(first_byte + count * answer_bytes)
    return time.perf_counter() - started_at

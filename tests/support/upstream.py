"""`ByteUpstream`: an API server that records exact bytes and answers by a script, over TLS or TCP.

It runs in the test's own event loop, so nothing in the test may block that loop (start programs with
`asyncio.create_subprocess_exec`, or `async with Program(...)`).

    async with ByteUpstream(json_answer({"kind": "PodList"}), tls=ca.server_context()) as upstream:
        ...
        [request] = await upstream.wait_for_requests(1)
        assert request.target == "/api/v1/pods?limit=1"

What to answer is a `Responder`, see answers.py for ready ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support import http1
from tests.support.channel import Channel
from tests.support.outage import find_packets, lose_packets
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.ports import reserved_port

READ_AHEAD_BYTES = 256 * 1024


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request as it came. `body` fills while a responder reads it."""

    connection: Connection
    head: http1.Head
    received_at: float
    reader: http1.BodyReader

    @property
    def body(self) -> http1.Body:
        return self.reader.body

    @property
    def method(self) -> str:
        return self.head.start_line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.head.start_line.split(" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        return self.head.headers

    @property
    def framing(self) -> str:
        """ "chunked", "length" or "none"."""
        return http1.framing_of(self.head)

    def values(self, name: str) -> list[str]:
        return self.head.values(name)

    def value(self, name: str) -> str | None:
        return self.head.value(name)

    def json(self) -> Any:
        return json.loads(self.body.data)


Responder = Callable[["Connection", Request], Awaitable[None]]


class Connection:
    """One accepted connection. It reads ahead, at most READ_AHEAD_BYTES, so that it notices the end.

    `ended` is set when the peer closes or resets; `end` is then "eof", "cut" (TCP closed without TLS
    close_notify) or "reset", `ended_at` the time (`time.monotonic`). After that sends may still work,
    as on any half-closed stream.
    """

    def __init__(self, channel: Channel, number: int, upstream: ByteUpstream) -> None:
        self.channel = channel
        self.number = number
        self.opened_at = time.monotonic()
        self.requests: list[Request] = []
        self.buffer = bytearray()
        self.ended = asyncio.Event()
        self.end: str | None = None
        self.ended_at: float | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self._upstream = upstream
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._may_read = asyncio.Event()
        self._may_read.set()

    @property
    def client_certificate_cn(self) -> str | None:
        """Common name in the client's certificate, None without one."""
        certificate: Any = (self.channel.tls.getpeercert() if self.channel.tls else None) or {}
        pairs = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
        return dict(pairs).get("commonName")

    async def fill(self) -> bool:
        """Wait for more bytes in `buffer`; False when the peer has ended."""
        before = self.received_bytes
        self._arrived.clear()
        self._room.set()
        if not self.ended.is_set():
            await self._arrived.wait()
        return self.received_bytes > before

    async def read_some(self) -> bytes:
        """Bytes of a tunnel as they come; b"" at the end."""
        if not self.buffer:
            await self.fill()
        data = bytes(self.buffer)
        self.buffer.clear()
        self._room.set()
        return data

    async def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size and await self.fill():
            pass
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def read_body(self, request: Request) -> http1.Body:
        """Read the whole body; raises http1.Truncated when it breaks off."""
        while await self.read_body_piece(request):
            pass
        return request.body

    async def read_body_piece(self, request: Request) -> bytes:
        """The next bytes of the body as they come, b"" after the last: to answer in the middle of it."""
        while not (reader := request.reader).is_done:
            if piece := reader.take(self.buffer):
                self._room.set()
                self._upstream.changed()
                return piece
            if not reader.is_done and not await self.fill():
                reader.end()
        self._upstream.changed()
        return b""

    def pause_reading(self) -> None:
        """Take no more from the socket (beyond one read under way): the peer feels back-pressure."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    async def send(self, data: bytes) -> None:
        await self.channel.send(data)
        self.sent_bytes += len(data)

    async def pump(self) -> None:
        """Read ahead until the peer ends (run by ByteUpstream)."""
        end = "eof"
        try:
            while True:
                await self._may_read.wait()
                while len(self.buffer) >= READ_AHEAD_BYTES:
                    self._room.clear()
                    await self._room.wait()
                data = await self.channel.recv()
                if not data:
                    end = "cut" if self.channel.cut else "eof"
                    return
                self.received_bytes += len(data)
                self.buffer += data
                self._arrived.set()
        except (OSError, ssl.SSLError, ValueError):
            # ValueError: what uvloop says of a socket that was closed on this side.
            end = "reset"
        finally:
            self.end = end
            self.ended_at = time.monotonic()
            self.ended.set()
            self._arrived.set()
            self._upstream.changed()


class ByteUpstream:
    """Listens on 127.0.0.1 from `async with` on; `responder` answers every request.

    `routes` (exact target without query -> Responder) go before it. `connections` and `requests` are
    what came so far, in order. A bug in a responder is raised when the block is left.

    `before_handshake(channel)` runs on each accepted connection first: stall, reset or speak garbage.
    `receive_buffer_bytes` keeps the kernel's buffer small, for tests of back-pressure.
    """

    def __init__(
        self,
        responder: Responder | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        before_handshake: Callable[[Channel], Awaitable[None]] | None = None,
        receive_buffer_bytes: int | None = None,
        port: int = 0,
    ) -> None:
        self.responder = responder
        self.routes: dict[str, Responder] = {}
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self.handshake_errors: list[str] = []
        self.port = port
        self.is_tls = tls is not None
        self._tls = tls
        self._before_handshake = before_handshake
        self._receive_buffer_bytes = receive_buffer_bytes
        self._errors: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: set[Channel] = set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._waiters: set[asyncio.Event] = set()
        self._owned = contextlib.ExitStack()

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self.start_listening()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_listening()
        self.close_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._owned.close()
        if self._errors and error is None:
            raise self._errors[0]

    def start_listening(self) -> None:
        """Listen (again, on the same port)."""
        if self.port == 0:
            # Ours also while it does not listen: a test that stops it wants to be refused, or to come back.
            self.port = self._owned.enter_context(reserved_port())
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1024)
        listener.setblocking(False)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
            self._listener.close()
            self._accepting = self._listener = None

    def close_connections(self, *, reset: bool = False) -> None:
        """Close (or reset) every open connection, busy or idle."""
        for channel in list(self._channels):
            if reset:
                channel.reset()
            else:
                channel.close()
        for task in self._tasks:
            task.cancel()

    async def lose_network(self) -> None:
        """What comes for this server gets lost, on open connections for ever: nobody is told of their end."""
        await self.lose_connections()
        assert self._listener is not None
        lose_packets(self._listener)

    async def lose_connections(self) -> None:
        """As `lose_network`, but new connections are taken: the network is back already."""
        for channel in self._channels:
            await channel.lose_packets()

    def find_network(self) -> None:
        """New connections are taken again."""
        assert self._listener is not None
        find_packets(self._listener)

    async def wait_for_requests(self, count: int, timeout: float = LAST_RESORT_SECONDS) -> list[Request]:
        """All requests, once there are `count` whose heads came."""
        await self.wait_for(lambda: len(self.requests) >= count, f"{count} request(s)", timeout)
        return self.requests

    async def wait_for(
        self, condition: Callable[[], bool], what: str = "", timeout: float = LAST_RESORT_SECONDS
    ) -> None:
        """Wait until `condition()` holds; it is looked at after each recorded event."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            seen = [request.head.start_line for request in self.requests]
            raise TimeoutError(f"upstream waited for {what or condition}; it saw {seen}") from None
        finally:
            self._waiters.discard(event)

    def changed(self) -> None:
        for event in self._waiters:
            event.set()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        channel = Channel(sock, self._tls)
        self._channels.add(channel)
        try:
            if self._before_handshake is not None:
                await self._before_handshake(channel)
            await self._shake(channel)
            await self._talk(channel)
        except (OSError, ssl.SSLError) as error:
            self.handshake_errors.append(repr(error))
        except Exception as error:
            self._errors.append(error)
        finally:
            channel.close()
            self._channels.discard(channel)
            self.changed()

    async def _shake(self, channel: Channel) -> None:
        await channel.handshake()

    async def _talk(self, channel: Channel) -> None:
        """What goes on after the handshake, to the end of the connection."""
        connection = Connection(channel, len(self.connections), self)
        self.connections.append(connection)
        self.changed()
        pump = asyncio.create_task(connection.pump())
        try:
            await self._converse(connection)
        finally:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump

    async def _converse(self, connection: Connection) -> None:
        with contextlib.suppress(OSError, http1.Truncated):
            while connection.channel.is_open:
                head = await http1.read_head(connection)
                if head is None:
                    return
                request = Request(
                    connection=connection,
                    head=head,
                    received_at=time.monotonic(),
                    reader=http1.body_reader(head),
                )
                connection.requests.append(request)
                self.requests.append(request)
                self.changed()
                responder = self.routes.get(request.target.partition("?")[0], self.responder)
                if responder is None:
                    raise AssertionError(f"no answer is scripted for {head.start_line!r}")
                await responder(connection, request)

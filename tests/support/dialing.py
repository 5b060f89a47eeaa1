"""Servers to dial, good and bad, the proxies in front of them, and a client that tells what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, cast

import pytest

from kproxy.errors import KproxyError
from kproxy.kube.resolve import server_address
from kproxy.upstream.dial import Dialer
from kproxy.upstream.proxies import Proxy, proxy_for
from tests.support import secrets
from tests.support.channel import Channel
from tests.support.pki import CA
from tests.support.proxies import ConnectProxy, RecordingProxy, SocksProxy

ca = CA()
proxy_ca = CA("proxy-ca")
NAMES = "cluster.test:6443"


class Client(asyncio.Protocol):
    """Collects what arrives, and in which order the transport called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.error: Exception | None = None
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports for TLS are none of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.calls.append("data")
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc
        self._news.set()

    async def read(self, size: int) -> bytes:
        """`size` bytes, or fewer if the connection ends before."""
        while len(self.received) < size and "lost" not in self.calls:
            self._news.clear()
            await self._news.wait()
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    async def closed(self) -> None:
        while "lost" not in self.calls:
            self._news.clear()
            await self._news.wait()


class Server:
    """Echoes, after an optional greeting; knows who came, by which name, and whether they went away."""

    def __init__(self, tls: ssl.SSLContext | None, greeting: bytes) -> None:
        self._greeting = greeting
        self.names: list[str | None] = []
        self.gone = asyncio.Event()
        self.came = asyncio.Event()
        if tls is not None:
            tls.sni_callback = lambda _sock, name, _context: self.names.append(name)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.set()
        try:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.write(self._greeting)
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
            self.gone.set()

    host: str
    port: int
    listener: socket.socket


@contextlib.asynccontextmanager
async def a_server(
    tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", greeting: bytes = b""
) -> AsyncIterator[Server]:
    server = Server(tls, greeting)
    listener = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    server.listener = listener.sockets[0]
    server.host, server.port = listener.sockets[0].getsockname()[:2]
    async with listener:
        yield server


@contextlib.asynccontextmanager
async def a_peer(answer: bytes = b"", *, hangs_up: bool = False) -> AsyncIterator[Server]:
    """A peer that speaks no TLS: says `answer` to the first bytes, then waits, or hangs up."""
    server = Server(None, b"")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await reader.read(65536)
                server.came.set()
                writer.write(answer)
                while not hangs_up and await reader.read(65536):
                    pass
        finally:
            writer.close()
            server.gone.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.host, server.port = listener.sockets[0].getsockname()[:2]
    async with listener:
        yield server


@contextlib.asynccontextmanager
async def a_server_with_alerts(tls: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a server that sends its alert when a handshake fails; those of event loops do not."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def serve() -> None:
            channel = Channel((await loop.sock_accept(listener))[0], tls)
            with contextlib.suppress(ssl.SSLError):
                await channel.handshake()
            channel.abandon()

        serving = asyncio.ensure_future(serve())
        yield listener.getsockname()[1]
        await serving


@contextlib.contextmanager
def a_black_hole() -> Iterator[tuple[str, int]]:
    """An address that neither takes a connection nor refuses it: its queue is full (Linux)."""
    if sys.platform != "linux":
        pytest.skip("other systems refuse connections when the queue is full")
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen(0)
        address = listener.getsockname()[:2]
        with socket.create_connection(address):
            yield address


@contextlib.contextmanager
def a_resetting_port() -> Iterator[int]:
    """A port whose connections a thread resets as soon as they stand, often before their first bytes."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def serve() -> None:
            # The end comes when the listener is shut down.
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def a_closed_port() -> Iterator[int]:
    """A port that nothing listens on, kept from being given to others."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def a_dialer(host: str, port: int, proxy: Proxy | None = None, **options: Any) -> Dialer:
    options.setdefault("proxy_ssl_context", proxy_ca.client_context)
    return Dialer("x", host, port, proxy, cluster="c", **options)


async def echo(client: Client, data: bytes = b"ping") -> None:
    client.transport.write(data)
    assert await client.read(len(data)) == data


async def failure(dialing: Awaitable[object]) -> KproxyError:
    with pytest.raises(KproxyError) as caught:
        await dialing
    return caught.value


def via(proxy: RecordingProxy, url: str | None = None) -> Proxy:
    made = proxy_for(server_address("https://unused"), url or proxy.url, {}, cluster="c")
    assert made is not None
    return made


@contextlib.asynccontextmanager
async def a_proxy(kind: str, target: Server | tuple[str, int]) -> AsyncIterator[tuple[RecordingProxy, Proxy]]:
    """A proxy that alone knows where cluster.test:6443 is; `kind` is a scheme, "+auth" asks a password."""
    scheme, _, auth = kind.partition("+")
    password = secrets.plant("proxy-password") if auth else None
    options: dict[str, Any] = {"username": "me" if auth else None, "password": password}
    options["names"] = {NAMES: target.address if isinstance(target, Server) else target}
    proxy: RecordingProxy
    if scheme.startswith("socks5"):
        proxy = SocksProxy(**options)
    else:
        tls = proxy_ca.server_context("127.0.0.1") if scheme == "https" else None
        proxy = ConnectProxy(**options, ssl_context=tls)
    async with proxy:
        url = proxy.url_with_password if auth else proxy.url
        yield proxy, via(proxy, url.replace("socks5:", scheme + ":"))


async def cancel_when(ready: asyncio.Event, dialing: Awaitable[object]) -> None:
    task = asyncio.ensure_future(dialing)
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

"""Real proxies on 127.0.0.1: HTTP CONNECT (plain or under TLS) and SOCKS5, each with optional passwords.

They write down what they were asked and answer byte for byte what a test wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self

Address = tuple[str, int]


class RecordingProxy:
    """What both kinds share: an async context manager that owns its listener and its tunnels.

    `names` are hosts that only the proxy can resolve: "host:port" as asked to the address to connect to
    (default: what was asked). Setting `stalls` makes it read a request and then only wait for the end.
    """

    scheme: ClassVar[str]

    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        names: Mapping[str, Address] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.username = username
        self.password = password
        self.names = dict(names or {})
        self.ssl_context = ssl_context
        self.stalls = False
        self.asked = asyncio.Event()
        """Set once the first request has been read."""
        self.left = asyncio.Event()
        """Set once a client has gone whom it made wait."""
        self.port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Without user info."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def url_with_password(self) -> str:
        return f"{self.scheme}://{self.username}:{self.password}@127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.ssl_context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _note(self, reader: asyncio.StreamReader) -> None:
        self.asked.set()
        if self.stalls:
            try:
                await reader.read()
            finally:
                self.left.set()
            raise ConnectionResetError

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.names.get(f"{host}:{port}", (host, port)))


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """A request head as it came, without the empty line at its end."""

    head: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case."""
        pairs = (line.decode("latin-1").partition(":") for line in self.head.split(b"\r\n")[1:])
        return {name.lower(): value.strip() for name, _, value in pairs}


class ConnectProxy(RecordingProxy):
    """An HTTP proxy that knows CONNECT, in clear or (with `ssl_context`) under TLS.

    `answer`, if set, is sent in these pieces instead of connecting anywhere; the connection is closed
    after it unless the answer is a 200.
    """

    scheme = "http"

    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        names: Mapping[str, Address] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(
            username=username, password=password, names=names, ssl_context=ssl_context, port=port
        )
        self.requests: list[ConnectRequest] = []
        self.success: Sequence[bytes] = (b"HTTP/1.1 200 Connection established\r\n\r\n",)
        """What is sent when the tunnel stands, each piece in a packet of its own."""
        self.answer: Sequence[bytes] | None = None

    @property
    def url(self) -> str:
        return super().url if self.ssl_context is None else super().url.replace("http:", "https:", 1)

    @property
    def url_with_password(self) -> str:
        plain = super().url_with_password
        return plain if self.ssl_context is None else plain.replace("http:", "https:", 1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = ConnectRequest((await reader.readuntil(b"\r\n\r\n"))[:-4])
        self.requests.append(request)
        await self._note(reader)
        if self.answer is not None:
            await _send(writer, self.answer)
            return
        if self.username is not None:
            wanted = b64encode(f"{self.username}:{self.password or ''}".encode()).decode()
            if request.headers.get("proxy-authorization") != f"Basic {wanted}":
                challenge = b'Proxy-Authenticate: Basic realm="proxy"\r\nContent-Length: 0\r\n\r\n'
                await _send(writer, [b"HTTP/1.1 407 Proxy Authentication Required\r\n" + challenge])
                return
        method, target, _ = request.line.split(" ")
        if method != "CONNECT":
            await _send(writer, [b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"])
            return
        host, _, port = target.rpartition(":")
        try:
            upstream = await self._connect(host.strip("[]"), int(port))
        except OSError:
            await _send(writer, [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"])
            return
        await _send(writer, self.success)
        await _relay((reader, writer), upstream)


class Balancer(RecordingProxy):
    """One address in front of API servers, which take turns: every connection goes to one of `ports`."""

    scheme = "https"

    def __init__(self, ports: Sequence[int], *, port: int = 0) -> None:
        super().__init__(port=port)
        self.ports = list(ports)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ports.append(port := self.ports.pop(0))
        await _relay((reader, writer), await self._connect("127.0.0.1", port))


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """`kind` is "ipv4", "name" or "ipv6"; `username` is None when no password was asked for."""

    kind: str
    host: str
    port: int
    username: str | None


class SocksProxy(RecordingProxy):
    """RFC 1928 CONNECT, with the passwords of RFC 1929. `reply`, if set, is the reply code to send."""

    scheme = "socks5"

    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        names: Mapping[str, Address] | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(username=username, password=password, names=names, port=port)
        self.requests: list[SocksRequest] = []
        self.reply: int | None = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        offered = await reader.readexactly(count)
        wanted = 0 if self.username is None else 2
        if version != 5 or wanted not in offered:
            await _send(writer, [b"\x05\xff"])
            return
        await _send(writer, [bytes((5, wanted))])
        username = None
        if wanted == 2:
            username, password = await self._read_password(reader)
            is_right = (username, password) == (self.username, self.password)
            await _send(writer, [b"\x01\x00" if is_right else b"\x01\x01"])
            if not is_right:
                return
        _, command, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode("ascii")
        else:
            family, length = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await reader.readexactly(length))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.requests.append(SocksRequest({1: "ipv4", 3: "name", 4: "ipv6"}[kind], host, port, username))
        await self._note(reader)
        upstream = None
        reply = (0 if command == 1 else 7) if self.reply is None else self.reply
        if reply == 0:
            try:
                upstream = await self._connect(host, port)
            except OSError:
                reply = 5
        await _send(writer, [bytes((5, reply, 0, 1, 0, 0, 0, 0, 0, 0))])
        if upstream is not None:
            await _relay((reader, writer), upstream)

    async def _read_password(self, reader: asyncio.StreamReader) -> tuple[str, str]:
        _, length = await reader.readexactly(2)
        username = await reader.readexactly(length)
        password = await reader.readexactly((await reader.readexactly(1))[0])
        return username.decode("ascii"), password.decode("ascii")


async def _send(writer: asyncio.StreamWriter, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        if len(pieces) > 1:
            # So that the other side reads them one by one; nothing is waited for here.
            await asyncio.sleep(0.02)


async def _relay(
    downstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    try:
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(_pump(downstream[0], upstream[1]))
            pumps.create_task(_pump(upstream[0], downstream[1]))
    finally:
        upstream[1].close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Bytes one way; an end is passed on as a half-close where the transport can (TLS cannot)."""
    # OSError: shutting down a connection that the peer has reset is ENOTCONN.
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.is_closing() or not sink.can_write_eof():
            sink.close()
        else:
            sink.write_eof()
        return
    sink.transport.abort()

"""A stream socket whose every byte, close and reset is the test's to decide, over TCP, unix or TLS.

asyncio's own TLS transports cannot half-close, cut a stream without close_notify, or stop reading to
the byte; so the TLS here runs in memory (`ssl.MemoryBIO`) on top of plain non-blocking socket calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable

from tests.support.outage import lose_packets, unacknowledged
from tests.support.patience import until

READ_BYTES = 64 * 1024


class Channel:
    """One connected stream; owner of its socket. At most one task reads and one writes at a time.

    `cut` tells, after the end of a TLS stream, that the peer closed TCP without close_notify.
    """

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLContext | None = None, *, server_hostname: str | None = None
    ) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._decrypted = bytearray()
        self._sending = asyncio.Lock()
        self.tls: ssl.SSLObject | None = None
        if tls is not None:
            self.tls = tls.wrap_bio(
                self._incoming,
                self._outgoing,
                server_side=server_hostname is None,
                server_hostname=server_hostname,
            )
        self.cut = False
        self.is_open = True

    async def handshake(self, first_words: Callable[[str | None], bytes] | None = None) -> None:
        """Run the TLS handshake, if any; raises ssl.SSLError or ConnectionError.

        `first_words` says what is sent together with the end of the handshake, given what ALPN chose.
        """
        while self.tls is not None:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise ConnectionResetError("the peer closed during the TLS handshake") from None
            except ssl.SSLError:
                await self._flush()
                raise
            else:
                if first_words is not None and (words := first_words(self.tls.selected_alpn_protocol())):
                    self.tls.write(words)
                await self._flush()
                return

    async def peek(self) -> bytes:
        """What the peer has sent first, before the handshake, which reads it again."""
        self._incoming.write(data := await self._loop.sock_recv(self._socket, READ_BYTES))
        return data

    async def recv(self, limit_bytes: int = READ_BYTES) -> bytes:
        """Return what is there (at least a byte), b"" at the end; raises ConnectionResetError on RST."""
        if self.tls is None:
            return await self._loop.sock_recv(self._socket, limit_bytes)
        while True:
            if self._decrypted:
                data = bytes(self._decrypted[:limit_bytes])
                del self._decrypted[:limit_bytes]
                return data
            try:
                return self.tls.read(limit_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    self.cut = True
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    async def send(self, data: bytes) -> None:
        """Return when the kernel has taken all of `data`."""
        if self.tls is None:
            await self._loop.sock_sendall(self._socket, data)
            return
        for start in range(0, len(data), READ_BYTES):
            self.tls.write(data[start : start + READ_BYTES])
            await self._flush()

    async def shut_write(self) -> None:
        """End our direction only: FIN, or close_notify under TLS (as Go's `CloseWrite`)."""
        if self.tls is None:
            self._socket.shutdown(socket.SHUT_WR)
            return
        with contextlib.suppress(ssl.SSLError):
            # Python's unwrap() also looks for the peer's close_notify, and gives the connection up for
            # lost when it finds data in its place.
            while data := self.tls.read(READ_BYTES):
                self._decrypted += data
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        await self._flush()

    def close(self) -> None:
        """Close tidily: close_notify (if the kernel takes it at once) and FIN."""
        if not self.is_open:
            return
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.tls.unwrap()
            with contextlib.suppress(OSError):
                self._socket.send(self._outgoing.read())
        self.abandon()

    def abandon(self) -> None:
        """FIN without close_notify: what a cut TLS stream looks like."""
        self.is_open = False
        self._socket.close()

    def reset(self) -> None:
        """Close with RST, dropping what the kernel has not sent yet."""
        if self.is_open:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abandon()

    async def lose_packets(self) -> None:
        """From now on the peer gets no answer at all, not even from our kernel: see outage.py."""
        # What we have sent must not be sent again: a dead network is silent.
        await until(lambda: not unacknowledged(self._socket), "everything is acknowledged")
        lose_packets(self._socket)

    async def _fill(self) -> bool:
        data = await self._loop.sock_recv(self._socket, READ_BYTES)
        self._incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._outgoing.read():
                await self._loop.sock_sendall(self._socket, data)


async def connect(
    address: tuple[str, int] | str,
    tls: ssl.SSLContext | None = None,
    *,
    server_hostname: str = "localhost",
    receive_buffer_bytes: int | None = None,
) -> Channel:
    """Open a channel to (host, port) or to a unix socket's path, handshake included.

    A small `receive_buffer_bytes` makes a client that stops reading felt soon.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if not isinstance(address, str) and ":" in address[0]:
        family = socket.AF_INET6
    sock = socket.socket(family)
    sock.setblocking(False)
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    channel: Channel | None = None
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
        channel = Channel(sock, tls, server_hostname=server_hostname if tls else None)
        await channel.handshake()
    except BaseException:
        sock.close()
        raise
    return channel

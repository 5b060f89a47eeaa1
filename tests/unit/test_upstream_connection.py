"""An HTTP/1.1 connection to an API server, by itself: what its socket is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from kproxy.errors import KproxyError, UpstreamUnreachable
from kproxy.http.heads import ResponseHead
from kproxy.system.sockets import Keepalive
from kproxy.upstream.carrier import Outgoing
from kproxy.upstream.health import Health
from kproxy.upstream.http1 import UpstreamConnection
from kproxy.upstream.pool import Pool
from tests.support.patience import LAST_RESORT_SECONDS


class Upgraded:
    """The receiver of a 101."""

    method = "GET"

    def __init__(self) -> None:
        self.transport: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def on_upgrade(self, head: ResponseHead, early: bytes, detach: Callable[[], asyncio.Transport]) -> None:
        self.transport.set_result(detach())

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nothing but a 101 was sent, and {name} was called")


def _explain(error: Exception) -> KproxyError:
    return UpstreamUnreachable(str(error))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
async def test_a_tunnel_is_no_longer_probed() -> None:
    """What is handed over has its usual settings: who gets it sets its own, and nobody undoes that later."""
    loop = asyncio.get_running_loop()
    pool = Pool(loop, _explain, Health())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        sock = socket.socket()
        sock.setblocking(False)
        Keepalive().apply(sock)
        await loop.sock_connect(sock, listener.getsockname())
        peer, _ = await loop.sock_accept(listener)
    options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_KEEPIDLE)

    def settings() -> list[int]:
        owned = transport.get_extra_info("socket")
        return [owned.getsockopt(socket.IPPROTO_TCP, option) for option in options]

    with peer:
        transport, opening = await loop.create_connection(lambda: pool.opening(None), sock=sock)
        usual = settings()
        connection = opening.connection
        assert isinstance(connection, UpstreamConnection)
        receiver = Upgraded()
        connection.send(receiver, Outgoing(b"GET /exec HTTP/1.1\r\n\r\n", is_chunked=False), b"", [])
        connection.look_after(has_slept=True)
        assert settings() != usual
        await loop.sock_sendall(peer, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            assert await receiver.transport is transport
        assert settings() == usual
        transport.abort()

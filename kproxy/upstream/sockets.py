"""TCP sockets towards a name: resolved, raced over its addresses (RFC 8305, simplified), kept alive."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from errno import EADDRNOTAVAIL, EHOSTUNREACH, ENETUNREACH
from itertools import chain, zip_longest

from kproxy.sockopts import Keepalive

UNROUTABLE = (ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL)
"""What an address of a family says that this machine has no route for."""

_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


async def open_socket(
    host: str, port: int, keepalive: Keepalive, next_address_seconds: float
) -> socket.socket:
    """A connected non-blocking socket to the first address that answers. Raises OSError.

    The next address gets its chance when the one before fails, or after `next_address_seconds`.
    """
    loop = asyncio.get_running_loop()
    addresses = await _resolve(loop, host, port)
    if len(addresses) == 1:
        return await _connect(loop, addresses[0], keepalive)
    return await _race(loop, addresses, keepalive, next_address_seconds)


async def _resolve(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[_Address]:
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return _interleaved([(family, address) for family, _, _, _, address in found])


def _interleaved(addresses: Sequence[_Address]) -> list[_Address]:
    """The resolver's order (RFC 6724) with the families taking turns (RFC 8305, section 4)."""
    first = [entry for entry in addresses if entry[0] == addresses[0][0]]
    other = [entry for entry in addresses if entry[0] != addresses[0][0]]
    return [entry for entry in chain(*zip_longest(first, other)) if entry is not None]


async def _connect(loop: asyncio.AbstractEventLoop, address: _Address, keepalive: Keepalive) -> socket.socket:
    family, socket_address = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keepalive.apply(sock)
        await loop.sock_connect(sock, socket_address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(
    loop: asyncio.AbstractEventLoop,
    addresses: Sequence[_Address],
    keepalive: Keepalive,
    next_address_seconds: float,
) -> socket.socket:
    waiting = deque(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failures: list[BaseException] = []
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(loop.create_task(_connect(loop, waiting.popleft(), keepalive)))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=next_address_seconds if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    attempts |= done - {attempt}
                    return attempt.result()
                failures.append(error)
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_discard)
            attempt.cancel()
    # An address of a family that this machine cannot reach says nothing about the server.
    raise next((error for error in failures if getattr(error, "errno", None) not in UNROUTABLE), failures[0])


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()

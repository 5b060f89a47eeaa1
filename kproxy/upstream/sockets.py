"""TCP sockets towards a name: resolved, raced over its addresses (RFC 8305, simplified), kept alive."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from errno import EADDRNOTAVAIL, EHOSTUNREACH, ENETUNREACH
from itertools import chain, zip_longest

from kproxy.system.sockets import Keepalive

UNROUTABLE = (ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL)
"""What an address of a family says that this machine has no route for."""

_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


async def open_socket(
    host: str, port: int, keepalive: Keepalive, next_address_seconds: float, again_seconds: float
) -> socket.socket:
    """A connected non-blocking socket to the first address that answers. Raises OSError.

    The next address gets its chance when the one before fails, or after `next_address_seconds`. When all have
    had it, those that are silent are tried again every `again_seconds`, beside the first try: the kernel
    sends a lost SYN again after 1, 3, 7 s and so on, and would find out as late that the network is back.
    """
    loop = asyncio.get_running_loop()
    return await _race(loop, await _resolve(loop, host, port), keepalive, next_address_seconds, again_seconds)


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


class _Contestant:
    """An address, its first try and, when that takes long, the last one of those beside it."""

    __slots__ = ("address", "again", "first")

    def __init__(self, address: _Address, first: asyncio.Task[socket.socket]) -> None:
        self.address = address
        self.first = first
        self.again: asyncio.Task[socket.socket] | None = None

    @property
    def tries(self) -> tuple[asyncio.Task[socket.socket], ...]:
        return (self.first,) if self.again is None else (self.first, self.again)


async def _race(
    loop: asyncio.AbstractEventLoop,
    addresses: Sequence[_Address],
    keepalive: Keepalive,
    next_address_seconds: float,
    again_seconds: float,
) -> socket.socket:
    waiting = deque(addresses)
    running: list[_Contestant] = []
    done: set[asyncio.Task[socket.socket]] = set()
    failures: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                address = waiting.popleft()
                running.append(_Contestant(address, loop.create_task(_connect(loop, address, keepalive))))
            elif not done:
                for each in running:
                    _drop(each.tries[1:])
                    each.again = loop.create_task(_connect(loop, each.address, keepalive))
            done, _ = await asyncio.wait(
                [attempt for each in running for attempt in each.tries],
                timeout=next_address_seconds if waiting else again_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for each in list(running):
                for attempt in done.intersection(each.tries):
                    error = attempt.exception()
                    if error is None:
                        _drop(other for other in each.tries if other is not attempt)
                        running.remove(each)
                        return attempt.result()
                    failures.append(error)
                if not done.isdisjoint(each.tries):
                    _drop(each.tries)
                    running.remove(each)
    finally:
        for each in running:
            _drop(each.tries)
    # An address of a family that this machine cannot reach says nothing about the server.
    raise next((error for error in failures if getattr(error, "errno", None) not in UNROUTABLE), failures[0])


def _drop(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    for attempt in attempts:
        attempt.add_done_callback(_discard)
        attempt.cancel()


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()

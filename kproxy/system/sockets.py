"""What the kernel is told of a connection: when to give it up, and how to end it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Keepalive:
    """When the kernel gives up a peer that does not answer, such as after a laptop's sleep."""

    idle_seconds: int = 30
    interval_seconds: int = 15
    probes: int = 3

    def apply(self, sock: socket.socket, *, may_stall: bool = False) -> None:
        """Set what this system knows of it; macOS calls the idle time TCP_KEEPALIVE.

        With `may_stall` a peer that lives may stop reading for as long as it likes.
        """
        silence_seconds = self.idle_seconds + self.interval_seconds * self.probes
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", self.idle_seconds),
            ("TCP_KEEPALIVE", self.idle_seconds),
            ("TCP_KEEPINTVL", self.interval_seconds),
            ("TCP_KEEPCNT", self.probes),
            # Probes are for idle connections: a request sent before the sleep and never acknowledged would
            # be repeated for a quarter of an hour (tcp_retries2 in Linux's ip-sysctl).
            ("TCP_USER_TIMEOUT", silence_seconds * 1000),
        ):
            if hasattr(socket, name) and not (may_stall and name == "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


PROBING_SECONDS = 5
_PROBING = {
    # It counts from when the peer was heard last, and would end a long silence at the first probe.
    "TCP_USER_TIMEOUT": 0,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": PROBING_SECONDS,
    # Last: the first probe leaves with it.
    "TCP_KEEPIDLE": 1,
    "TCP_KEEPALIVE": 1,
}


def allow_stalls(transport: asyncio.Transport) -> None:
    """Let the peer stop reading for as long as it likes: for tunnels, with a program at a breakpoint.

    Linux counts TCP_USER_TIMEOUT also while a living peer keeps its receive window shut (tcp(7)), and
    would cut such a connection after the 75 s that `Keepalive` comes to.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def probe(transport: asyncio.Transport) -> Callable[[], None] | None:
    """Have the kernel ask the peer for a sign of life now, and end the connection in some 5 s without one.

    Returns what puts its usual settings back, None for what cannot be probed. What was sent and is not
    acknowledged is waited for as ever.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX or transport.is_closing():
        return None
    hasty = {getattr(socket, name): value for name, value in _PROBING.items() if hasattr(socket, name)}
    usual = {option: sock.getsockopt(socket.IPPROTO_TCP, option) for option in hasty}

    def restore() -> None:
        if not transport.is_closing():
            _set(sock, usual)

    _set(sock, hasty)
    return restore


def _set(sock: socket.socket, options: Mapping[int, int]) -> None:
    for option, value in options.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def end_by_reset(transport: asyncio.Transport) -> None:
    """Make the end of the connection a RST: a FIN, as of `abort`, says that all has been sent."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

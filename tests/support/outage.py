"""A network that loses every packet: no FIN, no RST, no acknowledgement, as after a sleep or without the VPN.

The kernel throws away what comes for a socket (a socket filter, Linux's networking/filter.rst), so that its
peer sees what it would see of a machine that cannot be reached any more: SYNs, bytes and keep-alive probes
get no answer.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

import pytest

# <asm-generic/socket.h>; the socket module does not name them.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep 0 bytes


def lose_packets(sock: socket.socket) -> None:
    """Nothing that comes for this socket arrives any more; what it sends still leaves. Skips but on Linux."""
    if sys.platform != "linux":
        pytest.skip("only Linux can lose what comes for one socket")
    program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def unacknowledged(sock: socket.socket) -> int:
    """Packets that the peer has yet to acknowledge (Linux's struct tcp_info): they are sent again."""
    information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int(struct.unpack_from("I", information, 24)[0])


def find_packets(sock: socket.socket) -> None:
    """Undo `lose_packets`."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

"""Sockets that local clients connect to: bound with clear errors, accepted from, and removed again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable

from kproxy.downstream import Downstream
from kproxy.errors import KproxyError
from kproxy.exchange import Exchange
from kproxy.wire import RequestHead

_BACKLOG = 1024
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_PROBES = 30, 15, 3


class ListenError(KproxyError):
    """The address or socket to listen on cannot be had."""


class Listener:
    """One bound socket and the connections that it accepted."""

    def __init__(
        self,
        bound: socket.socket,
        dispatch: Callable[[Downstream, RequestHead], None],
        finished: Callable[[Exchange], None],
    ) -> None:
        """`dispatch` finds who answers a request; `finished` is told of each that has ended."""
        self.name = address_of(bound)
        self.connections: set[Downstream] = set()
        self.dispatch = dispatch
        self.finished = finished
        self._socket = bound
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.name} {len(self.connections)} connections>"

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept connections from now on."""
        self._server = await loop.create_server(
            lambda: Downstream(self, loop), sock=self._socket, backlog=_BACKLOG
        )

    def stop_accepting(self) -> None:
        """Close the bound socket and remove its file; what it accepted goes on. Idempotent."""
        if self._socket.fileno() >= 0 and self._socket.family == socket.AF_UNIX:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name)
        if self._server is not None:
            self._server.close()
        self._socket.close()


def bind_tcp(address: str, port: int) -> socket.socket:
    """A bound TCP socket; port 0 is any free one. Raises ListenError."""
    try:
        found = socket.getaddrinfo(
            address.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(
            f"cannot listen on --address={address}: {error.strerror}; give an IP address of this machine"
        ) from None
    # Go listens on the IPv4 address of a name that has both.
    family, kind, protocol, _, sockaddr = min(found, key=lambda each: each[0] != socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _keep_alive(bound)
        bound.bind(sockaddr)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ListenError(_bind_problem(error, address, port)) from None
    bound.setblocking(False)
    return bound


def _keep_alive(bound: socket.socket) -> None:
    """Accepted sockets inherit these: a client that vanished is found out within 75 s.

    No TCP_USER_TIMEOUT as towards the API server: a client may stop reading for as long as it likes.
    """
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def _bind_problem(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {address} is already in use; "
            "stop the program that has it, or choose another with --port (0 for any)"
        )
    if error.errno == errno.EACCES:
        return f"no permission to listen on port {port}; choose one above 1023 with --port"
    return f"cannot listen on {address}:{port}: {error.strerror}"


def bind_unix(path: str) -> socket.socket:
    """A bound unix socket that only its owner can use; a stale one is replaced. Raises ListenError."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o077)
        try:
            bound.bind(path)
        finally:
            os.umask(mask)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ListenError(f"cannot listen on --unix-socket={path}: {error.strerror or error}") from None
    except ListenError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _remove_stale(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(
            f"--unix-socket={path} exists and is not a socket; choose another path or remove it"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
        else:
            raise ListenError(f"--unix-socket={path} is in use by a running program; choose another path")


def address_of(bound: socket.socket) -> str:
    """As kubectl prints it: `127.0.0.1:8001`, `[::1]:8001`, or the path of a unix socket."""
    if bound.family == socket.AF_UNIX:
        return str(bound.getsockname())
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

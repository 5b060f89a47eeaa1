"""A bound socket and the connections that it accepted."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Literal

from kproxy.downstream import Downstream, Turns
from kproxy.exchange import Exchange
from kproxy.listeners.binding import BACKLOG, SocketFile
from kproxy.listening import is_loopback, joined
from kproxy.wire import RequestHead

# A client that begins a handshake must end it, as with a head; one that does not answer our goodbye is cut.
_HANDSHAKE_SECONDS, _GOODBYE_SECONDS = 30.0, 3.0


class Listener:
    """One bound socket and the connections that it accepted."""

    def __init__(
        self,
        bound: socket.socket,
        dispatch: Callable[[Downstream, RequestHead], None],
        finished: Callable[[Exchange], None],
        *,
        file: SocketFile | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`dispatch` finds who answers a request; `finished` is told of each that has ended.

        `file` is removed at the end. With `tls` clients must speak https.
        """
        self.name = address_of(bound)
        """As kubectl prints it: `127.0.0.1:8001`, `[::1]:8001`, or the path of a unix socket."""
        self.kind: Literal["tcp", "unix"] = "unix" if bound.family == socket.AF_UNIX else "tcp"
        self.is_local = self.kind == "unix" or is_loopback(bound.getsockname()[0]) is True
        self.is_tls = tls is not None
        self.url = _url(self.name, is_tls=self.is_tls) if self.kind == "tcp" else f"unix:{self.name}"
        """Where to reach it from this machine: `https://127.0.0.1:8443`, `unix:/run/kproxy.sock`."""
        self.connections: set[Downstream] = set()
        self.turns: Turns
        self.dispatch = dispatch
        self.finished = finished
        self._socket = bound
        self._file = file
        self._tls = tls
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.name} {len(self.connections)} connections>"

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept connections from now on."""
        self.turns = Turns(loop)
        is_tls = self._tls is not None
        self._server = await loop.create_server(
            lambda: Downstream(self, loop),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS if is_tls else None,
            ssl_shutdown_timeout=_GOODBYE_SECONDS if is_tls else None,
        )

    def stop_accepting(self) -> None:
        """Close the bound socket and remove the file that is ours; what it accepted goes on. Idempotent."""
        if self._file is not None:
            self._file.remove()
            self._file = None
        if self._server is not None:
            self._server.close()
        self._socket.close()


def address_of(bound: socket.socket) -> str:
    """As kubectl prints it: `127.0.0.1:8001`, `[::1]:8001`, or the path of a unix socket."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        # An abstract socket of Linux has a NUL in front, and is written with an @ (unix(7), ss).
        return "@" + os.fsdecode(name[1:]) if isinstance(name, bytes) else str(name)
    host, port = name[:2]
    return joined(host, port)


def _url(name: str, *, is_tls: bool) -> str:
    host, _, port = name.rpartition(":")
    # The addresses that mean all of them are none to connect to.
    reachable = "localhost" if host in ("0.0.0.0", "[::]") else host
    return f"{'https' if is_tls else 'http'}://{reachable}:{port}"

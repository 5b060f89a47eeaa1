"""A bound socket and the connections that it accepted."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from time import monotonic
from typing import Literal

from kproxy.errors import BadRequest
from kproxy.gateway.client import Downstream, Turns
from kproxy.http.heads import RequestHead
from kproxy.listeners.binding import BACKLOG, SocketFile
from kproxy.listeners.descriptors import Descriptors, Waiting
from kproxy.system.addresses import is_loopback, joined
from kproxy.telemetry.exchange import Exchange

# A client must begin and end its handshake, as with a head; one that does not answer our goodbye is cut.
_HANDSHAKE_SECONDS, _GOODBYE_SECONDS = 30.0, 3.0
# How long nobody is accepted when there are no descriptors.
_EXHAUSTED_SECONDS = 0.1


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
        descriptors: Descriptors | None = None,
    ) -> None:
        """`dispatch` finds who answers a request; `finished` is told of each that has ended.

        `file` is removed at the end. With `tls` clients must speak https. `descriptors` are those that all
        listeners share.
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
        self._arrivals: set[_Arrival] = set()
        self._connecting: set[asyncio.Task[object]] = set()
        self._descriptors = descriptors or Descriptors()
        self._descriptors.places.append(self)
        self._loop: asyncio.AbstractEventLoop
        self._server: asyncio.Server | None = None
        self._is_accepting = self._is_stopped = False
        self._pause: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.name} {len(self.connections)} connections>"

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept connections from now on."""
        self._loop = loop
        self.turns = Turns(loop)
        if self._tls is None and getattr(loop, "accepts_one_by_one", False):
            # For a third less CPU per connection, until descriptors are few.
            self._server = await loop.create_server(
                self._connection_of_server, sock=self._socket.dup(), backlog=BACKLOG
            )
        else:
            self._accept_again()

    def _connection_of_server(self) -> Downstream:
        self._descriptors.make_room()
        return self.connection()

    def accept_carefully(self) -> None:
        """From now on. uvloop's server closes clients, unanswered, when there are no descriptors."""
        if self._server is not None:
            # It may be at work on a client at this moment.
            self._loop.call_soon(self._take_over, self._server)
            self._server = None

    def _take_over(self, server: asyncio.Server) -> None:
        server.close()
        if not self._is_stopped:
            self._accept_again()

    def _accept_again(self) -> None:
        self._pause = None
        if self._descriptors.accepts_again():
            self._loop.add_reader(self._socket, self._accept)
            self._is_accepting = True
        else:
            self._pause_accepting()

    def _pause_accepting(self) -> None:
        """Clients wait in the kernel's queue: what is accepted must be served."""
        self._stop()
        self._pause = self._loop.call_later(_EXHAUSTED_SECONDS, self._accept_again)

    def _stop(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._socket)

    def _accept(self) -> None:
        """One client in each round of the loop: those that are ended for it are gone before the next."""
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            # No descriptors, or no memory.
            self._pause_accepting()
            return
        if not self._descriptors.accepts(accepted.fileno()):
            self._pause_accepting()
        accepted.setblocking(False)
        if self._tls is None:
            self.connect(accepted)
        else:
            _Arrival(self, self._tls, accepted, self._loop, self._arrivals)

    def connect(self, accepted: socket.socket) -> None:
        """Serve a client that speaks http."""
        task = self._loop.create_task(self._loop.connect_accepted_socket(self.connection, accepted))
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def connection(self) -> Downstream:
        return Downstream(self, self._loop)

    def _connected(self, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        if not task.cancelled():
            # A client that has gone already is no matter of ours.
            task.exception()

    def waiting(self) -> Iterator[Waiting]:
        """The clients that have no request at hand."""
        for downstream in self.connections:
            since = downstream.idle_since
            if since is not None:
                yield Waiting(downstream.has_begun, since, downstream.abort)
        for arrival in self._arrivals:
            yield Waiting(has_begun=False, since=arrival.since, end=arrival.end)

    def for_plain_http(self) -> Listener:
        """The same, to clients that have not noticed the s in https."""
        plain = copy(self)
        plain.is_tls = False
        plain.dispatch = self._turn_away
        return plain

    def _turn_away(self, downstream: Downstream, head: RequestHead) -> None:
        downstream.turn_away(BadRequest(f"plain http was spoken to a port of https; use {self.url}"))

    def stop_accepting(self) -> None:
        """Close the bound socket and remove the file that is ours; connections go on. Idempotent."""
        if self._file is not None:
            self._file.remove()
            self._file = None
        self._is_stopped = True
        if self._server is not None:
            self._server.close()
        if self._pause is not None:
            self._pause.cancel()
        self._stop()
        self._socket.close()
        for arrival in list(self._arrivals):
            arrival.end()


class _Arrival:
    """A client of a TLS listener, until it has ended its handshake. Is among `arrivals` for so long."""

    def __init__(
        self,
        listener: Listener,
        tls: ssl.SSLContext,
        accepted: socket.socket,
        loop: asyncio.AbstractEventLoop,
        arrivals: set[_Arrival],
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._socket = accepted
        self._loop = loop
        self._arrivals = arrivals
        self._timer: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._has_begun = False
        self.since = monotonic()
        arrivals.add(self)
        self._look()

    def end(self) -> None:
        """Give it up."""
        if self._handshake is not None:
            self._handshake.cancel()
        else:
            self._stop_looking()
            self._socket.close()

    def _look(self) -> None:
        """Who speaks http to a port of https would not learn of it from a broken handshake."""
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            if self._timer is None:
                self._timer = self._loop.call_later(_HANDSHAKE_SECONDS, self.end)
                self._loop.add_reader(self._socket, self._look)
            return
        except OSError:
            first = b""
        self._stop_looking()
        if not first:
            self._socket.close()
        elif first.isalpha():
            self._listener.for_plain_http().connect(self._socket)
        else:
            self._arrivals.add(self)
            self._handshake = self._loop.create_task(self._shake_hands())
            self._handshake.add_done_callback(self._done)

    def _stop_looking(self) -> None:
        self._arrivals.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.remove_reader(self._socket)

    async def _shake_hands(self) -> None:
        self._has_begun = True
        # One that fails is no matter of ours.
        with suppress(OSError):
            await self._loop.connect_accepted_socket(
                self._listener.connection,
                self._socket,
                ssl=self._tls,
                ssl_handshake_timeout=max(_HANDSHAKE_SECONDS - (monotonic() - self.since), 0.1),
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )

    def _done(self, _: asyncio.Task[None]) -> None:
        self._arrivals.discard(self)
        if not self._has_begun:
            # Ended before the loop took the socket.
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

"""The event loop: uvloop's, which takes less CPU per request and much less memory per TLS connection.

Both loops look up names in a few threads that all the process shares, and wait for those at its end: four
clusters whose names hang, as without the VPN, would hold up the connections to all others. uvloop takes a
thread even for an address.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kproxy.system.threads import begin_in_daemon_thread

AGAIN_SECONDS = 1.0
"""After how long a name that hangs is looked up once more, beside the first time."""
MAX_LOOKUPS = 10
"""Of one name: resolvers give up after some 10 s."""


class AsyncioLoop(asyncio.SelectorEventLoop):
    """asyncio's own, where there is no uvloop."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups = _Lookups()

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> Any:
        return await self._lookups.addresses(host, port, **options)


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's if it is there."""
    try:
        import uvloop
    except ImportError:
        return AsyncioLoop()

    class UvLoop(uvloop.Loop):
        """Nobody but uvloop closes the descriptors that it was given: a second time they are somebody else's.

        uvloop tells the socket or pipe that it has closed them, but not always: not of a connection that is
        reset before the first bytes of TLS, nor of a pipe that is given up before it is read.
        """

        accepts_one_by_one = True
        """Whether a server of it accepts one client in each round; asyncio's accepts a thousand."""

        def __init__(self) -> None:
            super().__init__()
            self._lookups = _Lookups()

        async def getaddrinfo(self, host: Any, port: Any, **options: int) -> Any:
            return await self._lookups.addresses(host, port, **options)

        async def create_connection(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().create_connection(*args, **options)
            finally:
                if (given := options.get("sock")) is not None:
                    given.detach()

        async def connect_accepted_socket(
            self, protocol_factory: Any, sock: socket.socket, **options: Any
        ) -> Any:
            try:
                return await super().connect_accepted_socket(protocol_factory, sock, **options)
            finally:
                sock.detach()

        async def connect_read_pipe(self, protocol_factory: Any, pipe: Any) -> Any:
            with pipe:
                own = os.fdopen(os.dup(pipe.fileno()), "rb", 0, closefd=False)
            return await super().connect_read_pipe(protocol_factory, own)

    return UvLoop()


class _Lookups:
    """The names that are looked up: each has a thread of its own, and everybody who asks waits for that.

    While somebody waits another begins every AGAIN_SECONDS: a query that got lost is sent again after 5 s
    (resolv.conf(5)), which would be as long after a VPN is back.
    """

    def __init__(self) -> None:
        self._running: dict[object, list[asyncio.Future[Any]]] = {}
        self._begun_at: dict[object, float] = {}

    async def addresses(self, host: Any, port: Any, **options: int) -> Any:
        """`socket.getaddrinfo`, which raises socket.gaierror, and UnicodeError for what can be no name."""
        look_up = partial(socket.getaddrinfo, host, port, **options)
        try:
            # An address needs no thread.
            return look_up(flags=options.get("flags", 0) | socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            asked = (host, port, *sorted(options.items()))
        lookups = self._running.setdefault(asked, [])
        while True:
            self._begin(asked, lookups, look_up)
            # Shared: one who leaves does not end it for the others.
            done, _ = await asyncio.wait(lookups, timeout=AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return done.pop().result()

    def _begin(self, asked: object, lookups: list[asyncio.Future[Any]], look_up: Callable[[], Any]) -> None:
        """Begin a lookup, if there is none yet or the last one takes long."""
        now = time.monotonic()
        is_long = now - self._begun_at.get(asked, now) >= AGAIN_SECONDS
        if lookups and not (is_long and len(lookups) < MAX_LOOKUPS):
            return

        def end(lookup: asyncio.Future[Any]) -> None:
            # Its error is for those who wait, if there are any. Who asks from now on asks anew.
            lookup.cancelled() or lookup.exception()
            if self._running.get(asked) is lookups:
                del self._running[asked], self._begun_at[asked]

        lookup = begin_in_daemon_thread(look_up)
        lookup.add_done_callback(end)
        lookups.append(lookup)
        self._begun_at[asked] = now

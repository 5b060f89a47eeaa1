"""The event loop: uvloop's, which takes less CPU per request and much less memory per TLS connection.

Both loops look up names in a few threads that all the process shares, and wait for those at its end: four
clusters whose names hang, as without the VPN, would hold up the connections to all others. uvloop takes a
thread even for an address.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from typing import Any

from kproxy.threads import begin_in_daemon_thread


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

        async def connect_read_pipe(self, protocol_factory: Any, pipe: Any) -> Any:
            with pipe:
                own = os.fdopen(os.dup(pipe.fileno()), "rb", 0, closefd=False)
            return await super().connect_read_pipe(protocol_factory, own)

    return UvLoop()


class _Lookups:
    """The names that are looked up: each has a thread of its own, and everybody who asks waits for that."""

    def __init__(self) -> None:
        self._running: dict[object, asyncio.Future[Any]] = {}

    async def addresses(self, host: Any, port: Any, **options: int) -> Any:
        """`socket.getaddrinfo`, which raises socket.gaierror, and UnicodeError for what can be no name."""
        look_up = partial(socket.getaddrinfo, host, port, **options)
        try:
            # An address needs no thread.
            return look_up(flags=options.get("flags", 0) | socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            asked = (host, port, *sorted(options.items()))
        lookup = self._running.get(asked)
        if lookup is None:
            lookup = self._running[asked] = begin_in_daemon_thread(look_up)
            lookup.add_done_callback(lambda _: self._running.pop(asked))
        # Shared: one who leaves does not end it for the others.
        return await asyncio.shield(lookup)

"""Ports that are chosen before something listens on them, or while nothing does for a while."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that, within the block, is given to nobody who asks for any port.

    It refuses connections until somebody listens on it, with SO_REUSEADDR as all servers here.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        if sys.platform != "linux":
            # Elsewhere a second socket cannot be bound to it, so the port is only likely to stay free.
            held.close()
            yield held.getsockname()[1]
            return
        yield held.getsockname()[1]

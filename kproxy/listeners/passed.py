"""What sockets serve that a service manager passed to the process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from kproxy.config.listeners import ListenerConfig
from kproxy.errors import ConfigError
from kproxy.system.addresses import joined


def listeners_of(
    descriptors: Iterable[int], configured: Sequence[ListenerConfig]
) -> tuple[ListenerConfig, ...]:
    """What the passed sockets serve: each what is `configured` for its address.

    Raises ConfigError for one that is not, if TLS depends on it: who expects https must not get http.
    """
    return tuple(_listener_of(each, configured) for each in descriptors)


def _listener_of(descriptor: int, configured: Sequence[ListenerConfig]) -> ListenerConfig:
    passed = ListenerConfig(fd=descriptor, label="LISTEN_FDS")
    try:
        bound = socket.socket(fileno=descriptor)
    except OSError:
        return passed  # whoever binds tells what is wrong with it
    try:
        name = bound.getsockname()
    finally:
        bound.detach()
    for each in configured:
        if _is_at(each, name):
            return replace(each, fd=descriptor, unix_socket=None, mode=None, owner=None, label=passed.label)
    if any(each.tls_certificate or each.tls_self_signed is not None for each in configured):
        place = joined(*name[:2]) if isinstance(name, tuple) else os.fsdecode(name)
        raise ConfigError(
            f"LISTEN_FDS: {place} was passed, but is none of `listeners`, some of which have TLS settings of "
            "their own; add it there, or take it out of the socket unit"
        )
    return passed


def _is_at(listener: ListenerConfig, name: Any) -> bool:
    """Whether it is for a socket of this name, as getsockname(2) has it."""
    if not isinstance(name, tuple):
        return listener.unix_socket is not None and os.path.abspath(listener.unix_socket) == name
    if not listener.is_tcp or listener.port != name[1]:
        return False
    if listener.address == "localhost":
        return name[0] in ("127.0.0.1", "::1")
    with contextlib.suppress(ValueError):
        return ip_address(listener.address.strip("[]")) == ip_address(name[0])
    return False

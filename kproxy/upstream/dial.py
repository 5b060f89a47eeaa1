"""Open connections to an API server, straight or through a proxy, with TLS on top.

Upgrades and ordinary requests are dialled alike; kubectl goes round every proxy for upgrades. Through an
HTTP proxy everything is tunnelled by CONNECT, plain http servers too (kubectl sends those requests in
absolute form): a connection then means the same with and without a proxy.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from kproxy.errors import KproxyError, UpstreamTimeout
from kproxy.http.heads import MalformedHeadError
from kproxy.kube.kubeconfig import Cluster
from kproxy.system.sockets import Keepalive
from kproxy.tls.client import client_context
from kproxy.upstream.failures import FOREIGN, Hop, explain
from kproxy.upstream.proxies import Proxy
from kproxy.upstream.proxytalk import Gate, connect_request, http_refusal, proxy_hop, socks_refusal
from kproxy.upstream.sockets import open_socket

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """kubectl's (client-go transport/cache.go). Each step of a dial has its own: connecting by name (or
    through a SOCKS proxy) and a proxy's answer to CONNECT take `dial_seconds` at most.
    """

    dial_seconds: float = 30.0
    tls_handshake_seconds: float = 10.0
    tls_shutdown_seconds: float = 0.5
    """How long a peer may take to say goodbye before its connection is cut; asyncio would wait 30 s."""
    next_address_seconds: float = 0.25
    again_seconds: float = 0.5
    """How often an address that is silent is tried once more, beside the first try."""


def _trust_the_system() -> ssl.SSLContext:
    return client_context(Cluster(name="proxy", server=""), None)


class Dialer:
    """Dials one server for one context. Holds no connection: who calls `dial` owns what it returns."""

    def __init__(
        self,
        context: str,
        host: str,
        port: int,
        proxy: Proxy | None = None,
        *,
        cluster: str = "",
        timeouts: Timeouts | None = None,
        keepalive: Keepalive | None = None,
        proxy_ssl_context: Callable[[], ssl.SSLContext] = _trust_the_system,
    ) -> None:
        """`context` and `cluster` are the names that messages show.

        `proxy_ssl_context` makes the context for TLS with an https proxy when there is the first use of it;
        that takes some 80 ms for the system's authorities.
        """
        self._context = context
        self._cluster = f'cluster "{cluster}"' if cluster else "its cluster"
        self._host = host
        self._port = port
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._proxy = proxy
        self._timeouts = timeouts or Timeouts()
        self._keepalive = keepalive or Keepalive()
        self._make_proxy_ssl_context = proxy_ssl_context
        self._proxy_ssl_context: ssl.SSLContext | None = None
        self._usable_hostname: str | None = None

    async def dial(
        self,
        protocol_factory: Callable[[], _Protocol],
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None = None,
    ) -> tuple[asyncio.Transport, _Protocol]:
        """Connect, and return transport and protocol after its `connection_made`.

        With an `ssl_context` TLS is spoken with the server, whose certificate must be for
        `server_hostname` (default: the host). Raises UpstreamUnreachable, UpstreamTLSError or
        UpstreamTimeout. When it raises or is cancelled, no socket stays open.
        """
        server = self._server_hop("no connection to ", is_tls=ssl_context is not None)
        hostname = server_hostname or self._host
        if ssl_context is not None and hostname != self._usable_hostname:
            _check_hostname(ssl_context, hostname, server)
            self._usable_hostname = hostname
        proxy = self._proxy
        if proxy is None:
            sock = await self._connect(self._host, self._port, server)
        elif proxy.scheme in ("socks5", "socks5h"):
            sock = await self._connect_by_socks(proxy, proxy_hop(server, proxy))
        else:
            tunnel, gate = await self._open_tunnel(proxy, proxy_hop(server, proxy))
            return await self._pass_through(tunnel, gate, protocol_factory, ssl_context, hostname, server)
        return await self._adopt(sock, protocol_factory, ssl_context, hostname, server)

    def explain(self, error: Exception, *, is_tls: bool) -> KproxyError:
        """What broke a connection later on: a TLS 1.3 server judges our certificate after the handshake."""
        return explain(error, self._server_hop("", is_tls=is_tls))

    def _server_hop(self, trouble: str, *, is_tls: bool) -> Hop:
        url = f"{'https' if is_tls else 'http'}://{self._authority}"
        return Hop(
            prefix=f'context "{self._context}": {trouble}{url}',
            peer="cluster",
            host=self._host,
            trust=f"certificate-authority of {self._cluster}",
            name=f"server and tls-server-name of {self._cluster}",
            identity=f'the client certificate of context "{self._context}"',
        )

    # -- sockets and transports --

    async def _connect(self, host: str, port: int, hop: Hop) -> socket.socket:
        timeouts = self._timeouts
        step = open_socket(host, port, self._keepalive, timeouts.next_address_seconds, timeouts.again_seconds)
        return await _within(timeouts.dial_seconds, "connecting", step, hop)

    async def _adopt(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], _Protocol],
        ssl_context: ssl.SSLContext | None,
        hostname: str,
        hop: Hop,
    ) -> tuple[asyncio.Transport, _Protocol]:
        """From here on the event loop owns the socket, also if this fails."""
        step = asyncio.get_running_loop().create_connection(
            protocol_factory,
            sock=sock,
            ssl=ssl_context,
            server_hostname=hostname if ssl_context else None,
            ssl_shutdown_timeout=self._timeouts.tls_shutdown_seconds if ssl_context else None,
        )
        return await _within(self._timeouts.tls_handshake_seconds, "the TLS handshake", step, hop)

    # -- HTTP proxies --

    async def _open_tunnel(self, proxy: Proxy, hop: Hop) -> tuple[asyncio.Transport, Gate]:
        """A transport through which the server is reached, once the proxy has agreed (RFC 9110, 9.3.6)."""
        if proxy.scheme == "https" and self._proxy_ssl_context is None:
            self._proxy_ssl_context = self._make_proxy_ssl_context()
        sock = await self._connect(proxy.host, proxy.port, hop)
        transport, gate = await self._adopt(sock, Gate, self._proxy_ssl_context, proxy.host, hop)
        with _aborted_on_failure(transport):
            transport.write(connect_request(self._authority, proxy))
            answer = gate.read_answer()
            status = await _within(self._timeouts.dial_seconds, "its answer to CONNECT", answer, hop)
            if not 200 <= status < 300:
                raise http_refusal(status, self._authority, proxy, hop)
            if gate.received:
                raise explain(MalformedHeadError("bytes behind its answer to CONNECT"), hop)
        return transport, gate

    async def _pass_through(
        self,
        tunnel: asyncio.Transport,
        gate: Gate,
        protocol_factory: Callable[[], _Protocol],
        ssl_context: ssl.SSLContext | None,
        hostname: str,
        hop: Hop,
    ) -> tuple[asyncio.Transport, _Protocol]:
        """The second half of a dial through `tunnel`, which is closed if this fails."""
        transport: asyncio.Transport | None = tunnel
        with _aborted_on_failure(tunnel):
            if ssl_context is not None:
                gate = Gate()
                transport = await self._start_tls(tunnel, gate, ssl_context, hostname, hop)
            if transport is None or gate.is_lost:
                raise explain(gate.error or ConnectionResetError(), hop)
            protocol = protocol_factory()
            gate.hand_over(transport, protocol)
        return transport, protocol

    async def _start_tls(
        self, tunnel: asyncio.Transport, gate: Gate, ssl_context: ssl.SSLContext, hostname: str, hop: Hop
    ) -> asyncio.Transport | None:
        """With an https proxy this is TLS inside TLS: asyncio (since 3.11) and uvloop both can."""
        step = asyncio.get_running_loop().start_tls(
            tunnel,
            gate,
            ssl_context,
            server_hostname=hostname,
            ssl_shutdown_timeout=self._timeouts.tls_shutdown_seconds,
        )
        try:
            return await _within(self._timeouts.tls_handshake_seconds, "the TLS handshake", step, hop)
        except TypeError as error:
            # asyncio of Python up to 3.11.7 and 3.12.1 stumbles over such a failure (CPython gh-113214).
            cause = error.__context__
            if not isinstance(cause, FOREIGN):
                raise
            raise explain(cause, hop) from error

    # -- SOCKS proxies --

    async def _connect_by_socks(self, proxy: Proxy, hop: Hop) -> socket.socket:
        # Imported here: only who has a SOCKS proxy needs it.
        from python_socks import ProxyError, ProxyType
        from python_socks.async_.asyncio import Proxy as SocksProxy

        socks = SocksProxy(
            ProxyType.SOCKS5,
            proxy.host,
            proxy.port,
            proxy.username,
            proxy.password,
            rdns=True,
            forward=cast(Any, _Connector(partial(self._connect, hop=hop))),
        )
        seconds = self._timeouts.dial_seconds
        step = socks.connect(self._host, self._port, timeout=2 * seconds)
        try:
            return await _within(seconds, "connecting", step, hop)
        except ProxyError as error:
            raise socks_refusal(error.error_code, str(error), self._authority, hop) from None


def _check_hostname(ssl_context: ssl.SSLContext, hostname: str, hop: Hop) -> None:
    """Both event loops leave the socket open when the ssl module refuses the name later on."""
    try:
        ssl_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=hostname)
    except (ValueError, TypeError) as error:
        raise explain(ValueError(str(error)), hop) from None


@contextmanager
def _aborted_on_failure(transport: asyncio.Transport) -> Iterator[None]:
    try:
        yield
    except BaseException:
        transport.abort()
        raise


async def _within(seconds: float, doing: str, step: Awaitable[_Result], hop: Hop) -> _Result:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await step
    except FOREIGN as error:
        if limit.expired():
            raise UpstreamTimeout(
                f"{hop.prefix}: {doing} took longer than {seconds:g} s; is the {hop.peer} up, and the VPN?"
            ) from None
        raise explain(error, hop) from error


class _Connector:
    """Stands where python-socks has a proxy before the proxy, to connect with our sockets, not its own."""

    def __init__(self, connect: Callable[[str, int], Awaitable[socket.socket]]) -> None:
        self._connect = connect

    async def connect(self, dest_host: str, dest_port: int, **_: object) -> socket.socket:
        return await self._connect(dest_host, dest_port)

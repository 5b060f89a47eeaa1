"""Open connections to an API server, straight or through a proxy, with TLS on top.

Upgrades and ordinary requests are dialled alike; kubectl goes round every proxy for upgrades. Through an
HTTP proxy everything is tunnelled by CONNECT, plain http servers too (kubectl sends those requests in
absolute form): a connection then means the same with and without a proxy.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from kproxy import __version__
from kproxy.errors import KproxyError, UpstreamTimeout, UpstreamUnreachable
from kproxy.kubeconfig import Cluster
from kproxy.tls import client_context
from kproxy.upstream.failures import FOREIGN, Hop, explain
from kproxy.upstream.proxies import Proxy
from kproxy.upstream.sockets import Keepalive, open_socket
from kproxy.wire import MalformedHeadError, find_head

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
            sock = await self._connect_by_socks(proxy, _proxy_hop(server, proxy))
        else:
            tunnel, gate = await self._open_tunnel(proxy, _proxy_hop(server, proxy))
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
        step = open_socket(host, port, self._keepalive, self._timeouts.next_address_seconds)
        return await _within(self._timeouts.dial_seconds, "connecting", step, hop)

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

    async def _open_tunnel(self, proxy: Proxy, hop: Hop) -> tuple[asyncio.Transport, _Gate]:
        """A transport through which the server is reached, once the proxy has agreed (RFC 9110, 9.3.6)."""
        if proxy.scheme == "https" and self._proxy_ssl_context is None:
            self._proxy_ssl_context = self._make_proxy_ssl_context()
        sock = await self._connect(proxy.host, proxy.port, hop)
        transport, gate = await self._adopt(sock, _Gate, self._proxy_ssl_context, proxy.host, hop)
        with _aborted_on_failure(transport):
            transport.write(_connect_request(self._authority, proxy))
            answer = gate.read_answer()
            status = await _within(self._timeouts.dial_seconds, "its answer to CONNECT", answer, hop)
            if not 200 <= status < 300:
                raise _http_refusal(status, self._authority, proxy, hop)
            if gate.received:
                raise explain(MalformedHeadError("bytes behind its answer to CONNECT"), hop)
        return transport, gate

    async def _pass_through(
        self,
        tunnel: asyncio.Transport,
        gate: _Gate,
        protocol_factory: Callable[[], _Protocol],
        ssl_context: ssl.SSLContext | None,
        hostname: str,
        hop: Hop,
    ) -> tuple[asyncio.Transport, _Protocol]:
        """The second half of a dial through `tunnel`, which is closed if this fails."""
        transport: asyncio.Transport | None = tunnel
        with _aborted_on_failure(tunnel):
            if ssl_context is not None:
                gate = _Gate()
                transport = await self._start_tls(tunnel, gate, ssl_context, hostname, hop)
            if transport is None or gate.is_lost:
                raise explain(gate.error or ConnectionResetError(), hop)
            if gate.received:
                raise explain(MalformedHeadError("bytes before the first request"), hop)
            protocol = protocol_factory()
            gate.hand_over(transport, protocol)
        return transport, protocol

    async def _start_tls(
        self, tunnel: asyncio.Transport, gate: _Gate, ssl_context: ssl.SSLContext, hostname: str, hop: Hop
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
            raise _socks_refusal(error.error_code, str(error), self._authority, hop) from None


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


class _Gate(asyncio.Protocol):
    """Keeps what a peer says until the protocol that it is meant for takes over."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._news = asyncio.Event()
        self.is_lost = False
        self.error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.error = exc
        self._news.set()

    async def read_answer(self) -> int:
        """The status of the final answer to CONNECT. Raises OSError, or ValueError if it is not HTTP."""
        while True:
            while (end := find_head(self.received)) < 0:
                if self.is_lost:
                    raise self.error or ConnectionResetError()
                self._news.clear()
                await self._news.wait()
            status_line = re.match(rb"HTTP/1\.[01] ([1-9]\d\d)(?: |$)", self.received[:end].split(b"\r\n")[0])
            if status_line is None:
                raise MalformedHeadError("no status line")
            del self.received[: end + 4]
            if (status := int(status_line[1])) >= 200:
                return status

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


# -- what proxies are told, and how they say no --


def _connect_request(authority: str, proxy: Proxy) -> bytes:
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", f"User-Agent: kproxy/{__version__}"]
    if proxy.username is not None:
        credentials = b64encode(f"{proxy.username}:{proxy.password or ''}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {credentials}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _proxy_hop(server: Hop, proxy: Proxy) -> Hop:
    where = f"{proxy} ({proxy.source})"
    return Hop(
        prefix=f"{server.prefix} through proxy {where}",
        peer="proxy",
        host=proxy.host,
        trust="that this machine's certificate store has the proxy's authority (SSL_CERT_FILE names another)",
        name=f"the host in {proxy.source}",
        identity="what the proxy asks of its clients",
    )


def _http_refusal(status: int, authority: str, proxy: Proxy, hop: Hop) -> KproxyError:
    if status == 407 and proxy.username is None:
        text = f"it asks for a user name and password (407); write them into {proxy.source}"
    elif status == 407:
        text = f"it does not take the user name and password in {proxy.source} (407; Basic is all we speak)"
    elif status == 504:
        return UpstreamTimeout(f"{hop.prefix}: it got no answer from {authority} (504)")
    elif status in (502, 503):
        text = f"it cannot reach {authority} ({status}); is the cluster up?"
    else:
        text = f"it refuses to connect to {authority} ({status}); its rules may forbid this host or port"
    proxy_error = "proxy_configuration_error" if status == 407 else "destination_unavailable"
    return UpstreamUnreachable(f"{hop.prefix}: {text}", proxy_error)


# The replies of RFC 1928, section 6.
_SOCKS_REPLIES = {
    2: "destination_ip_prohibited",
    3: "destination_ip_unroutable",
    4: "destination_ip_unroutable",
    5: "connection_refused",
    6: "connection_timeout",
}


def _socks_refusal(reply: int | None, text: str, authority: str, hop: Hop) -> KproxyError:
    if reply is None:
        return UpstreamUnreachable(
            f"{hop.prefix}: {text.lower()}; check its user name and password", "proxy_configuration_error"
        )
    proxy_error = _SOCKS_REPLIES.get(reply, "destination_unavailable")
    return UpstreamUnreachable(f"{hop.prefix}: it cannot reach {authority}: {text.lower()}", proxy_error)

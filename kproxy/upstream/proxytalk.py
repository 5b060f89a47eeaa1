"""What proxies are told, and how they say no."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from kproxy import __version__
from kproxy.errors import KproxyError, UpstreamTimeout, UpstreamUnreachable
from kproxy.http.forwarding import basic_authorization
from kproxy.http.heads import MalformedHeadError, find_head
from kproxy.upstream.failures import Hop
from kproxy.upstream.proxies import Proxy


class Gate(asyncio.Protocol):
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
        """The status of the final answer to CONNECT. Raises OSError, or MalformedHeadError."""
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
        """From now on the peer speaks to `protocol`, or whom that names; what it has said is told first."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self.received:
            cast("asyncio.Protocol", transport.get_protocol()).data_received(bytes(self.received))


def connect_request(authority: str, proxy: Proxy) -> bytes:
    """RFC 9110, 9.3.6. The User-Agent is there because some proxies' rules want one."""
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", f"User-Agent: kproxy/{__version__}"]
    if proxy.username is not None:
        lines.append(f"Proxy-Authorization: {basic_authorization(proxy.username, proxy.password or '')}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def proxy_hop(server: Hop, proxy: Proxy) -> Hop:
    """The proxy as the peer of a step on the way to `server`."""
    where = f"{proxy} ({proxy.source})"
    return Hop(
        prefix=f"{server.prefix} through proxy {where}",
        peer="proxy",
        host=proxy.host,
        trust="that this machine's certificate store has the proxy's authority (SSL_CERT_FILE names another)",
        name=f"the host in {proxy.source}",
        identity="what the proxy asks of its clients",
    )


def http_refusal(status: int, authority: str, proxy: Proxy, hop: Hop) -> KproxyError:
    """What an answer to CONNECT other than 2xx means."""
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


def socks_refusal(reply: int | None, text: str, authority: str, hop: Hop) -> KproxyError:
    """What a reply code means; without one (`None`) the proxy did not get as far as our request."""
    if reply is None:
        return UpstreamUnreachable(
            f"{hop.prefix}: {text.lower()}; check its user name and password", "proxy_configuration_error"
        )
    proxy_error = _SOCKS_REPLIES.get(reply, "destination_unavailable")
    return UpstreamUnreachable(f"{hop.prefix}: it cannot reach {authority}: {text.lower()}", proxy_error)

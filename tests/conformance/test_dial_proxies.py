"""Dialling through real proxies; every claim on asyncio's event loop and on uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from kproxy.errors import KproxyError, UpstreamTimeout, UpstreamTLSError, UpstreamUnreachable
from kproxy.upstream.dial import Dialer, Timeouts
from kproxy.upstream.health import Health
from kproxy.upstream.pool import Pool
from kproxy.upstream.proxies import Proxy
from tests.support import secrets
from tests.support.dialing import (
    NAMES,
    Client,
    a_closed_port,
    a_dialer,
    a_peer,
    a_proxy,
    a_server,
    a_server_with_alerts,
    ca,
    cancel_when,
    echo,
    failure,
    proxy_ca,
    via,
)
from tests.support.http2_frames import SETTINGS, settings_frame
from tests.support.http2_server import H2, Http2Server
from tests.support.loops import on_both_loops
from tests.support.pki import CA
from tests.support.proxies import ConnectProxy, SocksProxy

KINDS = ["http", "http+auth", "https", "https+auth", "socks5", "socks5+auth", "socks5h"]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@on_both_loops
async def test_tls_through(kind: str) -> None:
    """TLS with the server works through each kind of proxy; only the proxy resolves the server's name."""
    async with a_server(ca.server_context("cluster.test")) as server, a_proxy(kind, server) as (_, proxy):
        transport, client = await a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context())
        await echo(client)
        assert client.calls[:2] == ["made", "data"]
        assert server.names == ["cluster.test"]
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await echo(client, bytes(range(256)) * 8192)
        transport.close()
        await client.closed()
        await server.gone.wait()


@every_kind
@on_both_loops
async def test_plain_through(kind: str) -> None:
    """An http server is reached through a tunnel of each kind of proxy as well."""
    async with a_server() as server, a_proxy(kind, server) as (_, proxy):
        transport, client = await a_dialer("cluster.test", 6443, proxy).dial(Client, None)
        await echo(client)
        assert client.calls[:2] == ["made", "data"]
        transport.close()
        await client.closed()


def quick_context() -> ssl.SSLContext:
    """TLS 1.2, where a server may have more to say together with its last word of the handshake."""
    context = ca.server_context("cluster.test")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@every_kind
@on_both_loops
async def test_server_speaks_first_through(kind: str) -> None:
    """What a server says unasked, as in HTTP/2, is told after connection_made: none of it gets lost."""
    greeting = b"hello " * 10_000
    async with a_server(quick_context(), greeting=greeting) as server, a_proxy(kind, server) as (_, proxy):
        transport, client = await a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context())
        assert await client.read(len(greeting)) == greeting
        assert client.calls[0] == "made"
        transport.close()
        await client.closed()


@on_both_loops
async def test_http2_through() -> None:
    """The first SETTINGS of an API server may come together with its last word of a TLS 1.2 handshake."""
    tls = ca.server_context("cluster.test", alpn=H2)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    loop = asyncio.get_running_loop()
    async with Http2Server(tls=tls) as server, a_proxy("http", ("127.0.0.1", server.port)) as (_, proxy):
        server.says_with_handshake = settings_frame()
        context = ca.client_context(alpn=H2)
        pool = Pool(loop, lambda error: KproxyError(str(error)), Health())
        opening = pool.opening(context)
        await a_dialer("cluster.test", 6443, proxy).dial(lambda: opening, context)
        acknowledged = settings_frame(ack=True)
        await server.wait_for(
            lambda: [each.raw for each in server.h2_connections[0].seen(SETTINGS)].count(acknowledged) == 2,
            "two acknowledgements",
        )
        pool.close()


@every_kind
@on_both_loops
async def test_server_leaves_first_through(kind: str) -> None:
    """A server that closes right after the handshake: the dial fails, or its protocol is told."""
    async with (
        a_server_with_alerts(quick_context()) as port,
        a_proxy(kind, ("127.0.0.1", port)) as (_, proxy),
    ):
        try:
            _, client = await a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context())
        except UpstreamUnreachable as error:
            proxy_error = error.proxy_error
        else:
            await client.closed()
            proxy_error = "connection_terminated"
    assert proxy_error == "connection_terminated"


@every_kind
@on_both_loops
async def test_untrusted_server_through(kind: str) -> None:
    """Behind a proxy the server's certificate is verified all the same, and blamed on the cluster."""
    async with (
        a_server(CA("evil").server_context("cluster.test")) as server,
        a_proxy(kind, server) as (_, proxy),
    ):
        dialing = a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context())
        error = await failure(dialing)
        assert error.proxy_error == "tls_certificate_error"
        assert 'certificate-authority of cluster "c"' in error.message


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@on_both_loops
async def test_handshake_through_takes_too_long(kind: str) -> None:
    """The handshake with the server has its time limit behind a proxy too, and frees the tunnel."""
    async with a_peer() as peer, a_proxy(kind, peer) as (_, proxy):
        dialer = a_dialer("cluster.test", 6443, proxy, timeouts=Timeouts(tls_handshake_seconds=0.1))
        error = await failure(dialer.dial(Client, ca.client_context()))
        assert isinstance(error, UpstreamTimeout)
        assert "the TLS handshake" in error.message
        await peer.gone.wait()


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@on_both_loops
async def test_hang_up_through(kind: str) -> None:
    """A server that hangs up in the handshake behind a proxy is noticed at once."""
    async with a_peer(hangs_up=True) as peer, a_proxy(kind, peer) as (_, proxy):
        error = await failure(a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context()))
        assert error.proxy_error == "connection_terminated"


@on_both_loops
async def test_connect_request() -> None:
    """The CONNECT has host and port in both places and the password in Basic form, and no more."""
    async with (
        a_server() as server,
        ConnectProxy(username="me", password="s@e", names={NAMES: server.address}) as proxy,
    ):
        by = via(proxy, f"http://me:s%40e@127.0.0.1:{proxy.port}")
        transport, client = await a_dialer("cluster.test", 6443, by).dial(Client, None)
        transport.close()
        await client.closed()
        lines = proxy.requests[0].head.split(b"\r\n")
        assert lines[:2] == [b"CONNECT cluster.test:6443 HTTP/1.1", b"Host: cluster.test:6443"]
        assert lines[2].startswith(b"User-Agent: kproxy/")
        assert lines[3:] == [b"Proxy-Authorization: Basic bWU6c0Bl"]


@on_both_loops
async def test_ipv6_through() -> None:
    """IPv6 addresses are bracketed in CONNECT, and sent to SOCKS as addresses."""
    async with (
        a_server(ca.server_context("::1"), host="::1") as server,
        ConnectProxy() as http,
        SocksProxy() as socks,
    ):
        for proxy in (http, socks):
            dialer = a_dialer("::1", server.port, via(proxy))
            transport, client = await dialer.dial(Client, ca.client_context())
            await echo(client)
            transport.close()
            await client.closed()
        assert http.requests[0].line == f"CONNECT [::1]:{server.port} HTTP/1.1"
        assert (socks.requests[0].kind, socks.requests[0].host) == ("ipv6", "::1")


@on_both_loops
async def test_socks_request() -> None:
    """A SOCKS proxy is asked for the name, with the user name that it wanted."""
    async with (
        a_server() as server,
        SocksProxy(username="me", password="pw", names={NAMES: server.address}) as proxy,
    ):
        dialer = a_dialer("cluster.test", 6443, via(proxy, proxy.url_with_password))
        transport, client = await dialer.dial(Client, None)
        transport.close()
        await client.closed()
        request = proxy.requests[0]
        assert (request.kind, request.host, request.port) == ("name", "cluster.test", 6443)
        assert request.username == "me"


@pytest.mark.parametrize(
    "success",
    [
        [b"HTTP/1.1 2", b"00 OK\r", b"\nX: y\r\n\r", b"\n"],
        [b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"],
        [b"HTTP/1.0 201 \r\nContent-Length: 0\r\n\r\n"],
    ],
    ids=["pieces", "interim", "other-2xx"],
)
@on_both_loops
async def test_connect_answers(success: list[bytes]) -> None:
    """Any 2xx opens the tunnel, in however many packets and behind whatever 1xx it comes."""
    async with (
        a_server(ca.server_context("cluster.test")) as server,
        ConnectProxy(names={NAMES: server.address}) as proxy,
    ):
        proxy.success = success
        dialer = a_dialer("cluster.test", 6443, via(proxy))
        transport, client = await dialer.dial(Client, ca.client_context())
        await echo(client)
        transport.close()
        await client.closed()


@pytest.mark.parametrize(
    ("answer", "proxy_error", "text"),
    [
        (b"HTTP/1.1 403 No\r\n\r\n", "destination_unavailable", "refuses to connect to cluster.test:"),
        (b"HTTP/1.1 502 No\r\n\r\n", "destination_unavailable", "cannot reach cluster.test:6443 (502)"),
        (b"HTTP/1.1 504 Timeout\r\n\r\n", "connection_timeout", "no answer from cluster.test:6443 (504)"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "http_protocol_error", "the proxy does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "http_protocol_error", "bytes behind its answer"),
        (b"x" * 300_000, "http_protocol_error", "longer than"),
        (b"HTTP/1.1 200 O", "connection_terminated", "the proxy closed the connection"),
        (b"", "connection_terminated", "the proxy closed the connection"),
    ],
)  # fmt: skip
@on_both_loops
async def test_connect_refusals(answer: bytes, proxy_error: str, text: str) -> None:
    """Whatever else a proxy answers ends the dial with an error that names the proxy and its source."""
    async with ConnectProxy() as proxy:
        proxy.answer = [answer]
        error = await failure(a_dialer("cluster.test", 6443, via(proxy)).dial(Client, ca.client_context()))
        assert error.proxy_error == proxy_error
        assert text in error.message
        assert f'through proxy http://127.0.0.1:{proxy.port} (proxy-url of cluster "c"): ' in error.message


@on_both_loops
async def test_refusing_proxy_is_left() -> None:
    """The connection to a proxy that said no is closed, even if the proxy keeps it open."""
    async with a_peer(b"HTTP/1.1 403 No\r\n\r\n") as peer:
        proxy = Proxy(scheme="http", host=peer.host, port=peer.port)
        await failure(a_dialer("cluster.test", 6443, proxy).dial(Client, None))
        await peer.gone.wait()


@on_both_loops
async def test_proxy_passwords() -> None:
    """A missing and a wrong password are told apart, without showing it."""
    secret = secrets.plant("proxy-password")
    async with ConnectProxy(username="me", password="right") as proxy:
        error = await failure(a_dialer("cluster.test", 6443, via(proxy)).dial(Client, None))
        assert error.proxy_error == "proxy_configuration_error"
        assert (
            'asks for a user name and password (407); write them into proxy-url of cluster "c"'
            in error.message
        )
        by = via(proxy, f"http://me:{secret}@127.0.0.1:{proxy.port}")
        error = await failure(a_dialer("cluster.test", 6443, by).dial(Client, None))
        assert "does not take the user name and password in proxy-url" in error.message
        assert secret not in error.message


@on_both_loops
async def test_socks_passwords() -> None:
    """A SOCKS proxy's refusal of our password, or of having none, says where to look."""
    secret = secrets.plant("proxy-password")
    async with SocksProxy(username="me", password="right") as proxy:
        for url in (proxy.url, f"socks5://me:{secret}@127.0.0.1:{proxy.port}"):
            error = await failure(a_dialer("cluster.test", 6443, via(proxy, url)).dial(Client, None))
            assert error.proxy_error == "proxy_configuration_error"
            assert "check its user name and password" in error.message
            assert secret not in error.message


@pytest.mark.parametrize(
    ("reply", "proxy_error"),
    [
        (1, "destination_unavailable"),
        (2, "destination_ip_prohibited"),
        (4, "destination_ip_unroutable"),
        (5, "connection_refused"),
    ],
)
@on_both_loops
async def test_socks_replies(reply: int, proxy_error: str) -> None:
    """Each refusal of RFC 1928 has its error."""
    async with SocksProxy() as proxy:
        proxy.reply = reply
        error = await failure(a_dialer("cluster.test", 6443, via(proxy)).dial(Client, None))
        assert error.proxy_error == proxy_error
        assert "cannot reach cluster.test:6443" in error.message


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@on_both_loops
async def test_proxy_down(scheme: str) -> None:
    """A proxy that is not there is told from a cluster that is not there."""
    with a_closed_port() as port:
        proxy = Proxy(scheme=scheme, host="127.0.0.1", port=port, source="HTTPS_PROXY")
        error = await failure(a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context()))
    assert error.proxy_error == "connection_refused"
    assert error.message == (
        'context "x": no connection to https://cluster.test:6443 through proxy '
        f"{scheme}://127.0.0.1:{port} (HTTPS_PROXY): connection refused; is the proxy up?"
    )


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@on_both_loops
async def test_proxy_takes_too_long(kind: str) -> None:
    """A proxy that does not answer is given up after the dial's time, and its connection closed."""
    async with a_server() as server, a_proxy(kind, server) as (real, proxy):
        real.stalls = True
        dialer = a_dialer("cluster.test", 6443, proxy, timeouts=Timeouts(dial_seconds=0.1))
        error = await failure(dialer.dial(Client, None))
        assert isinstance(error, UpstreamTimeout)
        assert "is the proxy up" in error.message
        await real.left.wait()


@on_both_loops
async def test_not_a_socks_proxy() -> None:
    """An HTTP server taken for a SOCKS proxy is an error of ours."""
    async with a_peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as peer:
        proxy = Proxy(scheme="socks5", host=peer.host, port=peer.port, source="HTTPS_PROXY")
        error = await failure(a_dialer("cluster.test", 6443, proxy).dial(Client, None))
        assert isinstance(error, UpstreamUnreachable)
        assert "HTTPS_PROXY" in error.message


@on_both_loops
async def test_untrusted_proxy() -> None:
    """An https proxy's certificate is verified before it is told anything."""
    async with ConnectProxy(ssl_context=CA("evil").server_context("127.0.0.1")) as proxy:
        error = await failure(a_dialer("cluster.test", 6443, via(proxy)).dial(Client, None))
        assert isinstance(error, UpstreamTLSError)
        assert error.proxy_error == "tls_certificate_error"
        assert "through proxy https://" in error.message
        assert "SSL_CERT_FILE" in error.message
        assert proxy.requests == []


@on_both_loops
async def test_proxy_trusted_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default an https proxy is trusted through the system's authorities, not the cluster's."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(proxy_ca.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    async with a_server() as server:
        tls = proxy_ca.server_context("127.0.0.1")
        async with ConnectProxy(ssl_context=tls, names={NAMES: server.address}) as proxy:
            transport, client = await Dialer("x", "cluster.test", 6443, via(proxy)).dial(Client, None)
            await echo(client)
            transport.close()
            await client.closed()


# -- cancellation: no socket stays open, whatever was being waited for --


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@on_both_loops
async def test_cancel_proxy_answer(kind: str) -> None:
    """Cancelled while a proxy thinks: its connection is closed."""
    async with a_server() as server, a_proxy(kind, server) as (real, proxy):
        real.stalls = True
        await cancel_when(real.asked, a_dialer("cluster.test", 6443, proxy).dial(Client, None))
        await real.left.wait()


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@on_both_loops
async def test_cancel_handshake_through(kind: str) -> None:
    """Cancelled in the handshake behind a proxy: proxy and server see the connection go."""
    async with a_peer() as peer, a_proxy(kind, peer) as (_, proxy):
        dialing = a_dialer("cluster.test", 6443, proxy).dial(Client, ca.client_context())
        await cancel_when(peer.came, dialing)
        await peer.gone.wait()


@pytest.mark.parametrize("kind", ["straight", *KINDS])
@on_both_loops
async def test_cancel_anywhere(kind: str) -> None:
    """Cancelled at any turn of the event loop, a dial either succeeds or leaves no socket open."""
    async with (
        a_server(ca.server_context("cluster.test")) as server,
        a_proxy("http" if kind == "straight" else kind, server) as (_, proxy),
    ):
        by = None if kind == "straight" else proxy
        host, port = server.address if by is None else ("cluster.test", 6443)
        dialer = a_dialer(host, port, by)
        context = ca.client_context()
        for turns in range(1000):
            dialing = asyncio.ensure_future(dialer.dial(Client, context, "cluster.test"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if dialing.done():
                break
            dialing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                transport, _ = await dialing
                transport.abort()
        transport, client = await dialing
        transport.close()
        await client.closed()

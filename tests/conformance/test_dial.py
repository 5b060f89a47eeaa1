"""Dialling straight: real sockets and real TLS; every claim on asyncio's event loop and on uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from kproxy.errors import UpstreamTimeout, UpstreamTLSError, UpstreamUnreachable
from kproxy.system import eventloop
from kproxy.system import sockets as sockopts
from kproxy.system.sockets import Keepalive, allow_stalls
from kproxy.upstream.dial import Timeouts
from tests.support.dialing import (
    Client,
    a_black_hole,
    a_closed_port,
    a_dialer,
    a_peer,
    a_resetting_port,
    a_server,
    a_server_with_alerts,
    ca,
    cancel_when,
    echo,
    failure,
)
from tests.support.loops import TEST_SECONDS, on_both_loops
from tests.support.outage import find_packets, lose_packets
from tests.support.pki import CA, load_cert_chain

# -- straight --


@on_both_loops
async def test_tls() -> None:
    """Dialling gives a verified TLS connection with http/1.1 agreed upon, its protocol told in order."""
    async with a_server(ca.server_context()) as server:
        transport, client = await a_dialer("localhost", server.port).dial(Client, ca.client_context())
        assert transport is client.transport
        await echo(client)
        assert client.calls[:2] == ["made", "data"]
        tls = transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert server.names == ["localhost"]
        transport.close()
        await client.closed()


@on_both_loops
async def test_a_connection_that_is_reset_at_once() -> None:
    """Its descriptor is closed once: by the second time it would be another connection's."""
    with a_resetting_port() as port:
        dialer = a_dialer("localhost", port)

        async def dial() -> None:
            for _ in range(40):
                error = await failure(dialer.dial(Client, ca.client_context()))
                assert "the cluster closed the connection" in str(error)

        await asyncio.gather(*(dial() for _ in range(20)))
    # A socket that nobody has closed is an error of the test here.
    gc.collect()


@on_both_loops
async def test_plain() -> None:
    """Without an SSL context the connection is in clear."""
    async with a_server() as server:
        transport, client = await a_dialer(*server.address).dial(Client, None)
        await echo(client)
        assert transport.get_extra_info("ssl_object") is None
        transport.close()
        await client.closed()


@on_both_loops
async def test_ipv6() -> None:
    """An IPv6 address is dialled as it is, and verified by its IP name."""
    async with a_server(ca.server_context("::1"), host="::1") as server:
        transport, client = await a_dialer(*server.address).dial(Client, ca.client_context())
        await echo(client)
        transport.close()
        await client.closed()


@on_both_loops
async def test_server_hostname() -> None:
    """tls-server-name is what is asked for (SNI) and verified, whatever the host is."""
    async with a_server(ca.server_context("sni.test")) as server:
        dialer = a_dialer(*server.address)
        transport, client = await dialer.dial(Client, ca.client_context(), "sni.test")
        await echo(client)
        assert server.names == ["sni.test"]
        transport.close()
        await client.closed()


@on_both_loops
async def test_socket_options() -> None:
    """Every connection has Nagle off and keepalive as configured, so that a lost peer is noticed."""
    async with a_server(ca.server_context()) as server:
        keepalive = Keepalive(idle_seconds=31, interval_seconds=16, probes=4)
        dialer = a_dialer(*server.address, keepalive=keepalive)
        transport, client = await dialer.dial(Client, ca.client_context())
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        wanted = {"TCP_KEEPIDLE": 31, "TCP_KEEPINTVL": 16, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 95_000}
        for name, value in wanted.items():
            if hasattr(socket, name):
                assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
        allow_stalls(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        transport.close()
        await client.closed()


@on_both_loops
async def test_a_probe() -> None:
    """The kernel asks at once and often, until all is put back as it was."""
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    async with a_server(ca.server_context()) as server:
        transport, client = await a_dialer(*server.address).dial(Client, ca.client_context())
        sock = transport.get_extra_info("socket")

        def settings() -> list[int]:
            return [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]

        before = settings()
        restore = sockopts.probe(transport)
        assert settings() == [1, 1, 5, 0]
        assert restore is not None
        restore()
        assert settings() == before
        transport.close()
        await client.closed()


# -- several addresses --


def resolve_to(*addresses: tuple[str, int]) -> None:
    """Make the running loop's resolver answer with these, in this order, to the name many.test."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> list[Any]:
        if host != "many.test":
            return await real(host, port, **options)
        return [info for address in addresses for info in await real(*address, type=socket.SOCK_STREAM)]

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]


@on_both_loops
async def test_names_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of them holds up nobody else, and takes a thread for each name however often it is asked."""
    answered = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, flags: int = 0, **options: Any) -> Any:
        if str(host).startswith("hangs") and not flags & socket.AI_NUMERICHOST:
            assert answered.wait(TEST_SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    before = threading.active_count()
    async with a_server() as server:
        dialers = [a_dialer(f"hangs{number}.test", 1) for number in range(20)]
        dials = [asyncio.ensure_future(failure(each.dial(Client, None))) for each in dialers * 3]
        await asyncio.sleep(0)
        for host in ("127.0.0.1", "localhost"):
            transport, client = await a_dialer(host, server.port).dial(Client, None)
            await echo(client)
            transport.close()
            await client.closed()
        assert not any(each.done() for each in dials)
        assert threading.active_count() - before <= len(dialers) + 1
        dials[0].cancel()
        answered.set()
        assert {type(error) for error in await asyncio.gather(*dials[1:])} == {UpstreamUnreachable}


@on_both_loops
async def test_a_name_that_hangs_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver would send a lost query again after 5 s, as long after the network is back."""
    monkeypatch.setattr(eventloop, "AGAIN_SECONDS", 0.05)
    hangs = threading.Event()
    asked: list[object] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, flags: int = 0, **options: Any) -> Any:
        if host != "many.test" or flags & socket.AI_NUMERICHOST:
            return real(host, *args, flags=flags, **options)
        asked.append(host)
        if len(asked) < 4:
            assert hangs.wait(TEST_SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real("127.0.0.1", *args, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with a_server() as server:
        dialers = [a_dialer("many.test", server.port) for _ in range(3)]
        dials = await asyncio.gather(*(each.dial(Client, None) for each in dialers))
        assert len(asked) == 4
        hangs.set()
        for transport, client in dials:
            transport.close()
            await client.closed()


@on_both_loops
async def test_next_address_after_refusal() -> None:
    """An address that refuses is followed by the next one at once, not after the stagger."""
    async with a_server(ca.server_context("many.test")) as server:
        with a_closed_port() as closed:
            resolve_to(("127.0.0.1", closed), server.address)
            dialer = a_dialer("many.test", 1, timeouts=Timeouts(next_address_seconds=TEST_SECONDS))
            transport, client = await dialer.dial(Client, ca.client_context())
        await echo(client)
        transport.close()
        await client.closed()


@on_both_loops
async def test_next_address_after_silence() -> None:
    """An address that does not answer is raced by the next one, and its attempt leaves nothing open."""
    async with a_server() as server:
        with a_black_hole() as hole:
            resolve_to(hole, server.address)
            timeouts = Timeouts(next_address_seconds=0.05)
            before = asyncio.all_tasks()
            transport, client = await a_dialer("many.test", 1, timeouts=timeouts).dial(Client, None)
            assert transport.get_extra_info("peername")[:2] == server.address
            await echo(client)
            # The server's own task is left; the attempt ends before the hole does.
            while len(asyncio.all_tasks() - before) > 1:
                await asyncio.sleep(0)
            transport.close()
            await client.closed()


@on_both_loops
async def test_families_take_turns() -> None:
    """With two silent IPv6 addresses first, IPv4 is the second to be tried, not the third (RFC 8305, 4)."""
    async with a_server() as server:
        with a_black_hole() as hole:
            resolve_to(hole, hole, server.address)
            # A third attempt would come only after both staggers.
            timeouts = Timeouts(next_address_seconds=0.5, dial_seconds=0.9)
            transport, client = await a_dialer("many.test", 1, timeouts=timeouts).dial(Client, None)
            transport.close()
            await client.closed()


@on_both_loops
async def test_all_addresses_fail() -> None:
    """When all fail, the failure told is one that says something about the server."""
    with a_closed_port() as closed:
        resolve_to(("224.0.0.1", closed), ("127.0.0.1", closed))
        error = await failure(a_dialer("many.test", 1).dial(Client, None))
    assert error.proxy_error == "connection_refused"


@on_both_loops
async def test_unroutable() -> None:
    """No route to any address is its own error, and asks about network and VPN."""
    resolve_to(("224.0.0.1", 1), ("224.0.0.2", 1))
    error = await failure(a_dialer("many.test", 1).dial(Client, None))
    assert error.proxy_error == "destination_ip_unroutable"
    assert "VPN" in error.message


def tried_from(port: int) -> set[int]:
    """The ports from which connections to this one are being tried."""
    sockets = (line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {
        int(local.rpartition(":")[2], 16)
        for local, remote, state in sockets
        if state == "02" and int(remote.rpartition(":")[2], 16) == port
    }


@on_both_loops
async def test_a_silent_address_is_tried_again() -> None:
    """The kernel waits longer with each SYN that is lost; the first try goes on, for slow networks."""
    async with a_server() as server:
        lose_packets(server.listener)
        timeouts = Timeouts(again_seconds=0.1)
        dialing = asyncio.ensure_future(a_dialer(*server.address, timeouts=timeouts).dial(Client, None))
        looks = []
        while len(set().union(*looks)) < 5:
            await asyncio.sleep(0.01)
            looks.append(tried_from(server.port))
        [first] = next(filter(None, looks))
        assert all(first in look and len(look) <= 2 for look in looks if look)
        find_packets(server.listener)
        transport, client = await dialing
        await echo(client)
        transport.close()
        await client.closed()


# -- failures of a straight connection --


@on_both_loops
async def test_refused() -> None:
    """A refused connection names context, URL, cause and what to look at."""
    with a_closed_port() as port:
        error = await failure(a_dialer("127.0.0.1", port).dial(Client, ca.client_context()))
    assert isinstance(error, UpstreamUnreachable)
    assert error.proxy_error == "connection_refused"
    assert error.message == (
        f'context "x": no connection to https://127.0.0.1:{port}: connection refused; is the cluster up?'
    )


@on_both_loops
async def test_unknown_name() -> None:
    """A name that does not resolve is a dns_error that shows the name."""
    error = await failure(a_dialer("cluster.invalid", 443).dial(Client, ca.client_context()))
    assert isinstance(error, UpstreamUnreachable)
    assert error.proxy_error == "dns_error"
    assert "name cluster.invalid not found" in error.message


@on_both_loops
async def test_impossible_name() -> None:
    """A label beyond 63 characters is a dns_error, not a UnicodeError."""
    error = await failure(a_dialer("a" * 64 + ".test", 443).dial(Client, None))
    assert error.proxy_error == "dns_error"


@on_both_loops
async def test_connecting_takes_too_long() -> None:
    """A server that does not answer is given up after the dial's time."""
    with a_black_hole() as hole:
        dialer = a_dialer(*hole, timeouts=Timeouts(dial_seconds=0.05))
        error = await failure(dialer.dial(Client, None))
    assert isinstance(error, UpstreamTimeout)
    assert f"no connection to http://[::1]:{hole[1]}: connecting took longer than 0.05 s" in error.message


@on_both_loops
async def test_unknown_authority() -> None:
    """A certificate of another authority is refused; the message points to certificate-authority."""
    async with a_server(ca.server_context()) as server:
        error = await failure(a_dialer(*server.address).dial(Client, CA("other").client_context()))
        assert isinstance(error, UpstreamTLSError)
        assert error.proxy_error == "tls_certificate_error"
        assert "certificate verify failed: unable to get local issuer certificate" in error.message
        assert error.message.endswith('; check certificate-authority of cluster "c"')


@on_both_loops
async def test_wrong_name() -> None:
    """A certificate for another name is refused; the message points to tls-server-name."""
    async with a_server(ca.server_context("other.test")) as server:
        error = await failure(a_dialer("localhost", server.port).dial(Client, ca.client_context()))
        assert error.proxy_error == "tls_certificate_error"
        assert "tls-server-name of cluster" in error.message
        error = await failure(a_dialer(*server.address).dial(Client, ca.client_context()))
        assert "tls-server-name of cluster" in error.message


@on_both_loops
async def test_expired() -> None:
    """An expired certificate is refused; the message asks for a new one, or a right clock."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    certificate = ca.issue(
        "localhost", ["localhost"], not_before=past, not_after=past + datetime.timedelta(days=1)
    )
    load_cert_chain(context, *certificate)
    async with a_server(context) as server:
        error = await failure(a_dialer("localhost", server.port).dial(Client, ca.client_context()))
    assert error.proxy_error == "tls_certificate_error"
    assert "certificate has expired; renew" in error.message
    assert "clock" in error.message


@on_both_loops
async def test_no_tls_there() -> None:
    """A server that speaks plain HTTP on that port is found out."""
    async with a_peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as peer:
        error = await failure(a_dialer(*peer.address).dial(Client, ca.client_context()))
        assert isinstance(error, UpstreamTLSError)
        assert error.proxy_error == "tls_protocol_error"
        assert "does not speak TLS" in error.message
        await peer.gone.wait()


@on_both_loops
async def test_hang_up_in_handshake() -> None:
    """A server that closes during the handshake is unreachable, not a TLS mystery."""
    async with a_peer(hangs_up=True) as peer:
        error = await failure(a_dialer(*peer.address).dial(Client, ca.client_context()))
    assert isinstance(error, UpstreamUnreachable)
    assert error.proxy_error == "connection_terminated"


@on_both_loops
async def test_handshake_takes_too_long() -> None:
    """A handshake that gets no answer ends after its own time limit, and with it the connection."""
    async with a_peer() as peer:
        timeouts = Timeouts(tls_handshake_seconds=0.05)
        error = await failure(a_dialer(*peer.address, timeouts=timeouts).dial(Client, ca.client_context()))
        assert isinstance(error, UpstreamTimeout)
        assert "the TLS handshake took longer than 0.05 s" in error.message
        await peer.gone.wait()


@on_both_loops
async def test_client_certificate_wanted_tls12() -> None:
    """TLS 1.2 refuses a missing client certificate in the handshake; the message points to ours."""
    context = ca.server_context(client_ca=CA("clients"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with a_server_with_alerts(context) as port:
        error = await failure(a_dialer("127.0.0.1", port).dial(Client, ca.client_context()))
    assert isinstance(error, UpstreamTLSError)
    assert error.proxy_error == "tls_alert_received"
    assert error.message.endswith('; check the client certificate of context "x"')


@on_both_loops
async def test_client_certificate_wanted_tls13() -> None:
    """TLS 1.3 refuses it after the handshake: what then ends the connection is explained the same way."""
    async with a_server_with_alerts(ca.server_context(client_ca=CA("clients"))) as port:
        dialer = a_dialer("127.0.0.1", port)
        _, client = await dialer.dial(Client, ca.client_context())
        await client.closed()
        assert client.error is not None
        error = dialer.explain(client.error, is_tls=True)
    assert isinstance(error, UpstreamTLSError)
    assert error.proxy_error == "tls_alert_received"
    assert error.message == (
        f'context "x": https://127.0.0.1:{port}: the cluster refused the TLS handshake: '
        'certificate required; check the client certificate of context "x"'
    )


@on_both_loops
async def test_impossible_server_name() -> None:
    """A tls-server-name that the ssl module refuses is a TLS error that names the field."""
    async with a_server(ca.server_context()) as server:
        error = await failure(a_dialer(*server.address).dial(Client, ca.client_context(), ".x"))
    assert isinstance(error, UpstreamTLSError)
    assert "tls-server-name" in error.message


# -- cancellation: no socket stays open, whatever was being waited for --


@on_both_loops
async def test_cancel_connecting() -> None:
    """Cancelled while connecting, to one address or several: the fixture around every test counts sockets."""
    with a_black_hole() as hole:
        task = asyncio.ensure_future(a_dialer(*hole).dial(Client, None))
        resolve_to(hole, hole)
        race = asyncio.ensure_future(
            a_dialer("many.test", 1, timeouts=Timeouts(next_address_seconds=0.0)).dial(Client, None)
        )
        _, pending = await asyncio.wait({task, race}, timeout=0.05)
        for each in pending:
            each.cancel()
        results = await asyncio.gather(task, race, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2


@on_both_loops
async def test_cancel_handshake() -> None:
    """Cancelled in the TLS handshake: the server sees the connection go."""
    async with a_peer() as peer:
        await cancel_when(peer.came, a_dialer(*peer.address).dial(Client, ca.client_context()))
        await peer.gone.wait()


@on_both_loops
async def test_cancel_race_anywhere() -> None:
    """Cancelled at any turn of the event loop, a race that both sides win leaves no socket open."""
    async with a_server() as one, a_server() as other:
        resolve_to(one.address, other.address)
        dialer = a_dialer("many.test", 1, timeouts=Timeouts(next_address_seconds=0.0))
        for turns in range(200):
            dialing = asyncio.ensure_future(dialer.dial(Client, None))
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

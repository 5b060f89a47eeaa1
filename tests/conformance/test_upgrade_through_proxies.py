"""exec, attach and port-forward through proxies, with real sockets on both sides; kubectl goes round them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.answers import BLOCK, head
from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, seen_by
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.pki import CA
from tests.support.program import Program
from tests.support.proxies import ConnectProxy, SocksProxy, SocksRequest
from tests.support.secrets import plant
from tests.support.upstream import Connection, Request

NAME = "api.cluster.test"
"""Only the proxies know where that is."""
POD = "/api/v1/namespaces/default/pods/web-0"
# RFC 6455: a final binary frame of five bytes, masked as a client's must be: channel 0 (stdin) and "ls\r\n".
STDIN_FRAME = b"\x82\x85\x01\x02\x03\x04" + bytes(
    a ^ b for a, b in zip(b"\0ls\r\n", b"\1\2\3\4\1", strict=True)
)
# SPDY/3.1: SYN_STREAM (version 3, type 1) of stream 1 with an empty header block, as kubectl opens one.
SYN_STREAM = b"\x80\x03\x00\x01\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"

UPGRADES = {
    "exec over WebSocket": ("exec?command=ls&stdin=true", "websocket", STDIN_FRAME),
    "attach over WebSocket": ("attach?stdin=true", "websocket", STDIN_FRAME),
    "exec over SPDY": ("exec?command=ls", "SPDY/3.1", SYN_STREAM),
    "port-forward over SPDY": ("portforward", "SPDY/3.1", SYN_STREAM),
}


class Route:
    """A program whose cluster is behind a proxy, and that proxy."""

    def __init__(self, proxy: ConnectProxy | SocksProxy, server: ApiServer, program: Program) -> None:
        self.proxy = proxy
        self.server = server
        self.program = program

    def used(self) -> int:
        """How many tunnels the proxy was asked for, all of them with the right name and password."""
        port = self.server.port
        for asked in self.proxy.requests:
            if isinstance(asked, SocksRequest):
                assert (asked.kind, asked.host, asked.port, asked.username) == ("name", NAME, port, "me")
            else:
                assert asked.line == f"CONNECT {NAME}:{port} HTTP/1.1"
                assert asked.headers["proxy-authorization"].startswith("Basic ")
        return len(self.proxy.requests)


@pytest.fixture(params=["http", "https", "socks5"])
async def proxy(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[ConnectProxy | SocksProxy, dict[str, str]]]:
    """A proxy that wants a password, and the environment in which a program trusts it."""
    password = plant("proxy-password")
    env: dict[str, str] = {}
    made: ConnectProxy | SocksProxy
    if request.param == "socks5":
        made = SocksProxy(username="me", password=password)
    elif request.param == "http":
        made = ConnectProxy(username="me", password=password)
    else:
        ca = CA("proxy-ca")
        (tmp_path / "proxy-ca.crt").write_bytes(ca.pem)
        env["SSL_CERT_FILE"] = str(tmp_path / "proxy-ca.crt")
        made = ConnectProxy(username="me", password=password, ssl_context=ca.server_context())
    async with made:
        yield made, env


@pytest.fixture(params=["proxy-url", "environment"])
async def route(
    request: pytest.FixtureRequest,
    proxy: tuple[ConnectProxy | SocksProxy, dict[str, str]],
    tmp_path: Path,
) -> AsyncIterator[Route]:
    made, env = proxy
    async with AsyncExitStack() as owned:
        server = await owned.enter_async_context(ApiServer("c", CA()))
        made.names[f"{NAME}:{server.port}"] = ("127.0.0.1", server.port)
        cluster = {"server": f"https://{NAME}:{server.port}", "tls-server-name": "localhost"}
        if request.param == "proxy-url":
            cluster["proxy-url"] = made.url_with_password
        else:
            env["HTTPS_PROXY"] = made.url_with_password
        config = Kubeconfig(tmp_path / "config")
        config.add(server, cluster, token=plant("token"))
        config.write()
        # kubectl proxy and we refuse exec and attach unless told otherwise.
        program = Program("--reject-paths=^$", kubeconfig=config.path, env=env)
        await owned.enter_async_context(program)
        yield Route(made, server, program)
        assert server.tokens() == [f"Bearer {config.users['c']['token']}"] * len(server.requests)


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
async def test_an_upgrade_goes_through_the_proxy(route: Route, upgrade: tuple[str, str, bytes]) -> None:
    """Bytes of the protocol come through unchanged, both ways and also many, and the end is passed on."""
    target, protocol, frame = upgrade
    async with Stream(route.program, f"{POD}/{target}", upgrade=protocol) as tunnel:
        assert (tunnel.response.status, tunnel.response.value("upgrade")) == (101, protocol)
        assert route.used() == 1
        for _ in range(3):
            await tunnel.echoes(frame)
        data = BLOCK * 16
        sending = asyncio.create_task(tunnel.client.send(data))
        assert await tunnel.client.read_exactly(len(data)) == data
        await sending
        (connection,) = route.server.connections
        assert connection.received_bytes > len(data)
    await asyncio.wait_for(connection.ended.wait(), LAST_RESORT_SECONDS)
    await until(lambda: route.proxy.open_connections == 0, "the tunnel through the proxy is closed")


async def test_the_api_servers_end_is_passed_on(route: Route) -> None:
    """A shell that exits ends the client's stream, with every byte before it."""

    async def say_goodbye(connection: Connection, request: Request) -> None:
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        await connection.send(head(101, fields) + b"glued to the head")
        assert await connection.read_exactly(4) == b"exit"
        await connection.send(BLOCK + b"last words")
        connection.channel.close()

    route.server.routes[f"{POD}/exec"] = say_goodbye
    async with Stream(route.program, f"{POD}/exec?command=sh", upgrade="websocket") as tunnel:
        assert await tunnel.client.read_exactly(17) == b"glued to the head"
        await tunnel.client.send(b"exit")
        assert await tunnel.client.read_to_end() == BLOCK + b"last words"
    await until(lambda: route.proxy.open_connections == 0, "the tunnel through the proxy is closed")


async def test_requests_and_upgrades_take_the_same_way(route: Route) -> None:
    """Side by side: an upgrade has a tunnel of its own, requests share one."""
    await seen_by(route.program)
    async with Stream(route.program, f"{POD}/portforward", upgrade="SPDY/3.1") as tunnel:
        await tunnel.echoes(SYN_STREAM)
        await seen_by(route.program)
        await tunnel.echoes(SYN_STREAM)
    assert route.used() == 2


async def test_bytes_sent_right_behind_the_request_are_not_lost(route: Route) -> None:
    """A client need not wait for the 101 to send its first frame."""
    client = await RawClient.connect(route.program.address)
    try:
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        await client.send(request_bytes("GET", f"{POD}/attach", fields) + STDIN_FRAME)
        assert (await client.read_head()).status == 101
        assert await client.read_exactly(len(STDIN_FRAME)) == STDIN_FRAME
    finally:
        client.reset()


async def test_a_wrong_password_is_told_and_not_shown(
    proxy: tuple[ConnectProxy | SocksProxy, dict[str, str]], tmp_path: Path
) -> None:
    """502 with the proxy's name and what to mend; for an upgrade as for any request."""
    made, env = proxy
    async with ApiServer("c", CA()) as server:
        config = Kubeconfig(tmp_path / "config")
        url = made.url_with_password
        config.add(server, {"proxy-url": url}, token=plant("token"))
        made.password = plant("changed-password")
        config.write()
        async with Program("--reject-paths=^$", kubeconfig=config.path, env=env) as program:
            for response in (
                await ask(program, f"{POD}/log"),
                await ask(program, f"{POD}/exec", Connection="Upgrade", Upgrade="websocket"),
            ):
                message = response.json()["message"]
                assert response.status == 502
                assert f"127.0.0.1:{made.port}" in message
                assert 'proxy-url of cluster "c"' in message
                assert url.split(":")[2].partition("@")[0] not in message
        assert not server.connections

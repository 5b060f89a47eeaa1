"""exec, attach and port-forward through proxies, with real sockets on both sides; kubectl goes round them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.answers import BLOCK, head
from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, seen_by
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.pki import CA
from tests.support.ports import reserved_port
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


class Place:
    """Where a proxy and the API server behind it are, and a program that knows both: for many tests."""

    def __init__(self, kind: str, way: str, folder: Path, ports: tuple[int, int]) -> None:
        proxy_port, self.server_port = ports
        self.ca = CA()
        password = plant("proxy-password")
        env: dict[str, str] = {}
        tls = None
        if kind == "https":
            proxy_ca = CA("proxy-ca")
            tls = proxy_ca.server_context()
            (folder / "proxy-ca.crt").write_bytes(proxy_ca.pem)
            env["SSL_CERT_FILE"] = str(folder / "proxy-ca.crt")

        def proxy() -> ConnectProxy | SocksProxy:
            names = {f"{NAME}:{self.server_port}": ("127.0.0.1", self.server_port)}
            if kind == "socks5":
                return SocksProxy(username="me", password=password, names=names, port=proxy_port)
            return ConnectProxy(
                username="me", password=password, names=names, ssl_context=tls, port=proxy_port
            )

        self.proxy = proxy
        self.proxy_url = proxy().url_with_password
        cluster = {"server": f"https://{NAME}:{self.server_port}", "tls-server-name": "localhost"}
        if way == "proxy-url":
            cluster["proxy-url"] = self.proxy_url
        else:
            env["HTTPS_PROXY"] = self.proxy_url
        config = Kubeconfig(folder / "config")
        self.token = plant("token")
        config.add(self.server(), cluster, token=self.token)
        config.write()
        # kubectl proxy and we refuse exec and attach unless told otherwise.
        self.program = Program("--reject-paths=^$", kubeconfig=config.path, env=env)

    def server(self) -> ApiServer:
        return ApiServer("c", self.ca, port=self.server_port)


@pytest.fixture(scope="module", params=["http", "https", "socks5"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of the proxy, which wants a password."""
    return str(request.param)


@pytest.fixture(scope="module", params=["proxy-url", "environment"])
def way(request: pytest.FixtureRequest) -> str:
    """How kproxy knows of the proxy."""
    return str(request.param)


@pytest.fixture(scope="module")
def place(kind: str, way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with reserved_port() as proxy_port, reserved_port() as server_port:
        place = Place(kind, way, tmp_path_factory.mktemp("place"), (proxy_port, server_port))
        with place.program as program:
            program.wait_for_output("server.started")
            yield place


@pytest.fixture
async def route(place: Place) -> AsyncIterator[Route]:
    idle = place.program.sockets()
    async with place.proxy() as proxy, place.server() as server:
        yield Route(proxy, server, place.program)
        assert server.tokens() == [f"Bearer {place.token}"] * len(server.requests)
    await until(lambda: place.program.sockets() <= idle, "all connections are given up")


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


@pytest.mark.parametrize("way", ["proxy-url"], scope="module")
async def test_a_wrong_password_is_told_and_not_shown(place: Place) -> None:
    """502 with the proxy's name and what to mend; for an upgrade as for any request."""
    async with place.proxy() as proxy, place.server() as server:
        proxy.password = plant("changed-password")
        for response in (
            await ask(place.program, f"{POD}/log"),
            await ask(place.program, f"{POD}/exec", Connection="Upgrade", Upgrade="websocket"),
        ):
            message = response.json()["message"]
            assert response.status == 502
            assert f"127.0.0.1:{proxy.port}" in message
            assert 'proxy-url of cluster "c"' in message
            assert place.proxy_url.split(":")[2].partition("@")[0] not in message
        assert not server.connections

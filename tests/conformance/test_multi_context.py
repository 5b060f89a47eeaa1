"""Several contexts in one kproxy: each at its own origin and below /clusters/, and nothing crosses over."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.answers import head, json_answer
from tests.support.api_server import ApiServer, Kubeconfig, Stream
from tests.support.client import RawClient, Response, request_bytes
from tests.support.http2_answers import echo
from tests.support.http2_server import Http2Server
from tests.support.patience import until
from tests.support.pki import CA
from tests.support.ports import reserved_port
from tests.support.program import Program
from tests.support.secrets import plant
from tests.support.upstream import Connection, Request, Responder

NAMES = ("dev", "prod/eu", "stage")
SLUGS = {"dev": "dev", "prod/eu": "prod-eu", "stage": "stage"}
PORT = 8001
"""What clients say in Host; kproxy does not mind which port that is."""

WEBSOCKET = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]
POD = "/api/v1/namespaces/n/pods/p"


def origin_of(name: str) -> str:
    return f"{SLUGS[name]}.localhost:{PORT}"


def path_of(name: str) -> str:
    return f"/clusters/{quote(name, safe='')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """An authority, a token and a client certificate that no other cluster has."""

    ca: CA
    port: int
    token: str
    client_certificate: tuple[bytes, bytes]

    def server(self, name: str) -> ApiServer:
        return ApiServer(name, self.ca, client_ca=self.ca, port=self.port)


@dataclass(frozen=True, kw_only=True, slots=True)
class Landscape:
    """The clusters, and the kubeconfig that has them all."""

    clusters: dict[str, Cluster]
    kubeconfig: Kubeconfig


class World:
    """A running kproxy and its API servers, for one test."""

    def __init__(self, program: Program, servers: dict[str, ApiServer]) -> None:
        self.program = program
        self.servers = servers

    async def request(
        self,
        target: str,
        *,
        host: str = "localhost",
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Response:
        client = await RawClient.connect(self.program.address)
        try:
            if ("Upgrade", "websocket") not in headers:
                return await client.request(method, target, headers, body, host=host)
            await client.send(request_bytes(method, target, headers, host=host))
            return await client.read_head()
        finally:
            client.reset()

    def seen(self) -> dict[str, list[str]]:
        """The targets that reached each API server."""
        return {
            name: [each.target for each in server.requests]
            for name, server in self.servers.items()
            if server.requests
        }

    async def line(self, path: str) -> dict[str, Any]:
        """The log line of a request for `path`."""

        def lines() -> list[dict[str, Any]]:
            return [each for each in self.program.log_events("request.finished") if each["path"] == path]

        await until(lambda: bool(lines()), f"a log line for {path}")
        return lines()[-1]


def landscape(directory: Path, owned: ExitStack) -> Landscape:
    clusters = {}
    config = Kubeconfig(directory / "config")
    for name in NAMES:
        ca = CA(f"ca-of-{name}")
        cluster = Cluster(
            ca=ca,
            port=owned.enter_context(reserved_port()),
            token=plant(f"token-{SLUGS[name]}"),
            client_certificate=ca.issue(f"me-in-{name}", client=True),
        )
        clusters[name] = cluster
        certificate, key = cluster.client_certificate
        config.add(
            cluster.server(name),
            token=cluster.token,
            client_certificate_data=base64.b64encode(certificate).decode(),
            client_key_data=base64.b64encode(key).decode(),
        )
        config.clusters[name]["server"] = f"https://127.0.0.1:{cluster.port}"
    config.write()
    return Landscape(clusters=clusters, kubeconfig=config)


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landscape]:
    with ExitStack() as owned:
        yield landscape(tmp_path_factory.mktemp("clusters"), owned)


@pytest.fixture(scope="module")
def program(clusters: Landscape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """kproxy with all contexts, and a static page; `dev` is the default one."""
    www = tmp_path_factory.mktemp("www")
    (www / "page.html").write_text("a page of mine")
    (www / "folder").mkdir()
    with Program("--all-contexts", f"--www={www}", kubeconfig=clusters.kubeconfig.path) as program:
        yield program


@pytest.fixture
async def servers(clusters: Landscape) -> AsyncIterator[dict[str, ApiServer]]:
    async with AsyncExitStack() as owned:
        yield {
            name: await owned.enter_async_context(cluster.server(name))
            for name, cluster in clusters.clusters.items()
        }


@pytest.fixture
def world(program: Program, servers: dict[str, ApiServer]) -> World:
    return World(program, servers)


# -- where each context is --


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["origin", "path"])
async def test_each_context_has_its_place(world: World, clusters: Landscape, name: str, way: str) -> None:
    """Its own origin and its path lead to its API server, with its credential and nothing else."""
    host, prefix = (origin_of(name), "") if way == "origin" else ("localhost", path_of(name))
    response = await world.request(f"{prefix}/api/v1/pods?limit=1", host=host)
    assert response.status == 200, response.text
    seen = response.json()
    assert (seen["server"], seen["cn"]) == (name, f"me-in-{name}")
    assert seen["authorization"] == f"Bearer {clusters.clusters[name].token}"
    assert world.seen() == {name: ["/api/v1/pods?limit=1"]}


async def test_a_slug_stands_for_its_context_in_a_path(world: World) -> None:
    """For client-go, which makes two segments of `prod%2Feu`."""
    assert (await world.request("/clusters/prod-eu/api")).json()["server"] == "prod/eu"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8001", "[::1]:8001", "LOCALHOST:1"])
async def test_the_default_context_is_at_the_root(world: World, host: str) -> None:
    """The names of this machine stand for the current context, as with kubectl proxy."""
    assert (await world.request("/api", host=host)).json()["server"] == "dev"


@pytest.mark.parametrize("host", ["prod-eu.localhost", "Prod-EU.LocalHost:1", "prod-eu.localhost:65535"])
async def test_an_origin_is_known_in_any_case_and_with_any_port(world: World, host: str) -> None:
    """A tunnel or a port-forward may stand before kproxy."""
    assert (await world.request("/api", host=host)).json()["server"] == "prod/eu"


async def test_an_absolute_target_is_judged_by_its_own_host(world: World) -> None:
    """RFC 9112, 3.2.2: the Host field does not count beside it."""
    response = await world.request(f"http://{origin_of('stage')}/api", host="localhost")
    assert response.json()["server"] == "stage"


async def test_the_log_names_the_context(world: World) -> None:
    """With the path that was asked for, and what it came to."""
    path = f"{path_of('prod/eu')}/apis/apps/v1/namespaces/n/deployments/d"
    await world.request(path)
    line = await world.line(path)
    assert line["context"] == "prod/eu"
    assert (line["verb"], line["group"], line["resource"], line["name"]) == (
        "get",
        "apps",
        "deployments",
        "d",
    )


async def test_one_client_connection_reaches_all(world: World, clusters: Landscape) -> None:
    """Requests of many hosts and paths in turn: each API server sees its own credential only."""
    ways = [(origin_of(name), "") for name in NAMES] + [("localhost", path_of(name)) for name in NAMES]
    ways.append(("localhost", ""))
    client = await RawClient.connect(world.program.address)
    for _ in range(5):
        for host, prefix in ways:
            assert (await client.request("GET", f"{prefix}/api/v1/pods", host=host)).status == 200
    client.reset()
    for name, server in world.servers.items():
        assert len(server.requests) == (15 if name == "dev" else 10)
        assert set(server.tokens()) == {f"Bearer {clusters.clusters[name].token}"}
        assert {each.client_certificate_cn for each in server.connections} == {f"me-in-{name}"}
        assert server.handshake_errors == []


async def test_watches_and_tunnels_of_all_contexts_at_once(world: World) -> None:
    """Streams by path, and WebSockets by origin, run side by side."""
    async with AsyncExitStack() as owned:
        for name in NAMES:
            target = f"{path_of(name)}/api/v1/pods?watch=1"
            stream = await owned.enter_async_context(Stream(world.program, target))
            assert (await stream.first_event())["server"] == name
            tunnel = await owned.enter_async_context(
                Stream(world.program, f"{path_of(name)}/api/v1/pods?watch=1", upgrade="websocket")
            )
            assert tunnel.response.status == 101
            await tunnel.echoes(name.encode())
        for name, server in world.servers.items():
            assert {each.target for each in server.requests} == {"/api/v1/pods?watch=1"}, name


# -- what leads nowhere --


async def test_an_unknown_path_is_told_what_is_served(world: World) -> None:
    """404 with a Status; nothing is asked of the default context's API server."""
    for target in ("/clusters/production/api", "/clusters/production", "/clusters/", "/clusters"):
        response = await world.request(target)
        assert response.status == 404, target
        status = response.json()
        assert (status["kind"], status["reason"]) == ("Status", "NotFound")
        assert 'served are "dev", "prod/eu" (prod-eu.localhost), "stage"' in status["message"]
        assert response.value("Proxy-Status") == "kproxy; error=destination_not_found"
    assert world.seen() == {}


@pytest.mark.parametrize("host", ["prod.localhost", "api.dev.localhost:8001", "xn--prod-eu.localhost"])
async def test_an_unknown_origin_is_told_what_is_served(world: World, host: str) -> None:
    """404: what was meant for one cluster must not reach another."""
    response = await world.request("/api", host=host)
    assert response.status == 404
    message = response.json()["message"]
    assert f"'{host.removesuffix(':8001')}'" in message
    assert 'served are "dev", "prod/eu" (prod-eu.localhost), "stage"' in message
    assert "--all-contexts" in message
    assert world.seen() == {}


async def test_other_hosts_are_refused_as_ever(world: World) -> None:
    """A rebound name does not become good by looking like a context's."""
    for host in ("evil.example", "dev.localhost.evil.example", "dev.localhos", "dev", "localhost.dev"):
        response = await world.request("/api", host=host)
        assert response.status == 403, host
        assert response.value("Proxy-Status") == 'kproxy; error=http_request_denied; details="accept-hosts"'
    assert world.seen() == {}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_context_without_its_slash_is_redirected(world: World, method: str) -> None:
    """Relative links of a page need the slash; the query stays, and so does the method."""
    response = await world.request("/clusters/prod%2Feu?x=1", method=method)
    assert response.status == (301 if method == "GET" else 308)
    assert response.value("Location") == "/clusters/prod%2Feu/?x=1"


# -- what is judged is behind the prefix, and the prefix leads nowhere else --


@pytest.mark.parametrize(
    "tail",
    [
        f"{POD}/exec",
        f"{POD}/attach?stdin=1",
        "/%61pi/v1/namespaces/n/pods/p/exec",
        "/api/v1/namespaces/n/pods/p%2Fexec",
        "/api%2Fv1/namespaces/n/pods/p/exec",
        "/x/..%2Fapi/v1/namespaces/n/pods/p/exec",
        "/api;v=1/v1/namespaces/n/pods/p/exec",
        "/api/v1%5Cnamespaces/n/pods/p/exec",
        "/%2561pi/v1/namespaces/n/pods/p/exec",
        "/k8s/clusters/c-1/api/v1/namespaces/n/pods/p/exec",
        "/clusters/stage/api/v1/namespaces/n/pods/p/exec",
        "/api/v1/nodes/n/proxy/run/n/p/c?cmd=id",
    ],
)
@pytest.mark.parametrize("name", ["dev", "prod/eu"])
async def test_exec_is_refused_behind_the_prefix(world: World, name: str, tail: str) -> None:
    """By path and by origin, encoded or not, as a plain request or a WebSocket."""
    for host, target in (("localhost", path_of(name) + tail), (origin_of(name), tail)):
        for headers in ((), WEBSOCKET):
            response = await world.request(target, host=host, headers=headers)
            assert response.status == 403, (host, target)
            assert "reject-paths" in str(response.value("Proxy-Status"))
    assert world.seen() == {}


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/clusters/dev/../stage/api", "/clusters/stage/api"),
        ("/clusters/dev/../../api", "/api"),
        ("/clusters/dev/..", "/clusters"),
        ("/clusters//stage/api", "/clusters/stage/api"),
        ("//clusters/stage/api", "/clusters/stage/api"),
        ("/clusters/./stage/api", "/clusters/stage/api"),
        ("/clusters/dev/%2e%2e/../api", "/api"),
        ("/x/../clusters/stage/api", "/clusters/stage/api"),
    ],
)
async def test_dots_are_resolved_before_a_context_is_looked_for(
    world: World, target: str, location: str
) -> None:
    """By a redirect, as anywhere: nothing is forwarded that means two contexts."""
    response = await world.request(target)
    assert (response.status, response.value("Location")) == (301, location)
    assert world.seen() == {}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/clusters/dev%2f..%2fstage/api", 404),
        ("/clusters/dev%2F..%2Fclusters%2Fstage/api", 404),
        ("/clusters/%2e%2e/stage/api", 404),
        ("/clusters/prod%252Feu/api", 404),
        ("/clusters/dev;x/api", 404),
        ("/clusters/dev%00/api", 404),
        ("/clusters/DEV/api", 404),
        ("/clusters/%ff/api", 404),
        ("/clusters/dev/%2e%2e/stage/api", 403),
        ("/clusters/dev/..%2fstage/api", 403),
        ("/clusters/dev/%2e%2e/%2e%2e/api", 403),
        ("/clusters/dev/%252e%252e/stage/api", 403),
        ("/clusters/dev/..;/stage/api", 403),
        ("/clusters/dev/..%5cstage/api", 403),
        ("/clusters/dev%zz/api", 400),
    ],
)
async def test_no_reading_of_a_path_leads_to_another_context(world: World, target: str, status: int) -> None:
    """The name is one segment, decoded once; what climbs out of it again is refused."""
    assert (await world.request(target)).status == status
    assert world.seen() == {}


async def test_a_path_of_another_context_is_nothing_special_at_an_origin(world: World) -> None:
    """A page at the origin of one context has no way to another: its own API server is asked."""
    await world.request("/clusters/stage/api", host=origin_of("prod/eu"))
    assert world.seen() == {"prod/eu": ["/clusters/stage/api"]}


async def test_paths_look_like_contexts_only_in_their_own_spelling(world: World) -> None:
    """Any other spelling of the prefix is a path of the default context, which its API server judges."""
    for target in ("/%63lusters/stage/api", "/Clusters/stage/api", "/api/clusters/stage/"):
        await world.request(target)
    assert world.seen() == {"dev": ["/%63lusters/stage/api", "/Clusters/stage/api", "/api/clusters/stage/"]}


# -- whose pages may do what --

SELF = f"http://localhost:{PORT}"
DEV, PROD = f"http://{origin_of('dev')}", f"http://{origin_of('prod/eu')}"


@pytest.mark.parametrize("headers", [[], WEBSOCKET], ids=["fetch", "websocket"])
@pytest.mark.parametrize(
    ("origin", "host", "target", "is_allowed"),
    [
        # The own page of an origin.
        (PROD, origin_of("prod/eu"), "/api", True),
        (PROD.upper(), origin_of("prod/eu"), "/api", True),
        (DEV, origin_of("dev"), "/api", True),
        (SELF, f"localhost:{PORT}", "/api", True),
        (SELF, f"localhost:{PORT}", "/clusters/stage/api", True),
        ("http://127.0.0.1:8001", "127.0.0.1:8001", "/api", True),
        # A page on another port of this machine, as ever: a development server.
        ("http://localhost:3000", f"localhost:{PORT}", "/api", True),
        # One context's page and another's origin.
        (DEV, origin_of("prod/eu"), "/api", False),
        (PROD, origin_of("dev"), "/api", False),
        (PROD, origin_of("stage"), "/api", False),
        # A context's page and the names of this machine, where all contexts are.
        (PROD, f"localhost:{PORT}", "/api", False),
        (DEV, f"localhost:{PORT}", "/api", False),
        (DEV, "127.0.0.1:8001", "/api", False),
        (PROD, f"localhost:{PORT}", "/clusters/stage/api", False),
        (PROD, f"localhost:{PORT}", "/clusters/prod%2Feu/api", False),
        # Pages of this machine, and a context's origin.
        (SELF, origin_of("prod/eu"), "/api", False),
        (SELF, origin_of("dev"), "/api", False),
        ("http://127.0.0.1:8001", origin_of("dev"), "/api", False),
        ("http://localhost:3000", origin_of("dev"), "/api", False),
        # The same name on another port is another origin.
        ("http://prod-eu.localhost:3000", origin_of("prod/eu"), "/api", False),
        ("http://prod-eu.localhost", origin_of("prod/eu"), "/api", False),
        # Below localhost, and nobody's: perhaps a context's that is served no more.
        ("http://gone.localhost:8001", f"localhost:{PORT}", "/api", False),
        ("http://gone.localhost:8001", origin_of("dev"), "/api", False),
        # As ever.
        ("null", origin_of("dev"), "/api", False),
        ("http://evil.example", origin_of("dev"), "/api", False),
        ("http://dev.localhost.evil.example:8001", origin_of("dev"), "/api", False),
    ],
)
async def test_pages_keep_to_their_own_origin(
    world: World, origin: str, host: str, target: str, is_allowed: bool, headers: list[tuple[str, str]]
) -> None:
    """Origin and Host must be one; only pages of this machine's names may use all that is there."""
    response = await world.request(target, host=host, headers=[*headers, ("Origin", origin)])
    if is_allowed:
        assert response.status == (101 if headers else 200), response.text
    else:
        assert response.status == 403
        assert "accept-origins" in str(response.value("Proxy-Status"))
        assert response.values("Access-Control-Allow-Origin") == []
        assert world.seen() == {}


@pytest.mark.parametrize(
    ("site", "host", "status"),
    [
        ("same-origin", origin_of("prod/eu"), 200),
        ("none", origin_of("prod/eu"), 200),
        ("same-site", origin_of("prod/eu"), 403),
        ("cross-site", origin_of("prod/eu"), 403),
        ("same-site", f"localhost:{PORT}", 200),
        ("cross-site", f"localhost:{PORT}", 403),
    ],
)
async def test_what_pages_embed_keeps_to_its_origin(world: World, site: str, host: str, status: int) -> None:
    """Images and scripts carry no Origin: the page must be of the very origin, not of a neighbour's port."""
    fields = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")]
    assert (await world.request("/api", host=host, headers=fields)).status == status


async def test_a_link_to_an_origin_opens(world: World) -> None:
    """From the list of contexts, or a chat: a GET for the whole window, by a click."""
    for site in ("cross-site", "same-site"):
        fields = [
            ("Sec-Fetch-Site", site),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
        ]
        clicked = [*fields, ("Sec-Fetch-User", "?1")]
        assert (await world.request("/api", host=origin_of("prod/eu"), headers=clicked)).status == 200
        assert (await world.request("/api", host=origin_of("prod/eu"), headers=fields)).status == 403


@pytest.mark.parametrize("prefix", ["", "/clusters/prod%2Feu"])
async def test_no_link_opens_an_app(world: World, prefix: str) -> None:
    """Of no context, at its origin or below /clusters/: the page instead has a link to the same address."""
    target = f"{prefix}/api/v1/nodes/n/proxy/"
    host = f"localhost:{PORT}" if prefix else origin_of("prod/eu")
    fields = [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-User", "?1"),
    ]
    response = await world.request(target, host=host, headers=fields)
    assert response.status == 403
    assert f'<a href="{target}">' in response.text
    assert world.seen() == {}


async def test_accept_origins_opens_a_context_to_a_page(clusters: Landscape, servers: dict[str, Any]) -> None:
    """Named on purpose, one context's page may use another's origin."""
    args = ("--contexts=dev,prod/eu", rf"--accept-origins=^{DEV}$")
    async with Program(*args, kubeconfig=clusters.kubeconfig.path) as program:
        world = World(program, servers)
        response = await world.request("/api", host=origin_of("prod/eu"), headers=[("Origin", DEV)])
        assert response.status == 200
        assert response.value("Access-Control-Allow-Origin") == DEV
        assert (await world.request("/api", host=origin_of("dev"), headers=[("Origin", PROD)])).status == 403


# -- one context, as kubectl proxy --


async def test_with_one_context_clusters_is_a_path(clusters: Landscape, servers: dict[str, Any]) -> None:
    """As kubectl forwards it: some API servers have such paths. The context has its origin all the same."""
    async with Program(kubeconfig=clusters.kubeconfig.path) as program:
        world = World(program, servers)
        for target in ("/clusters/stage/api", "/clusters/stage", "/clusters/root:org/apis"):
            assert (await world.request(target)).json()["server"] == "dev"
        assert (await world.request("/api", host=origin_of("dev"))).json()["server"] == "dev"
        assert world.seen() == {
            "dev": ["/clusters/stage/api", "/clusters/stage", "/clusters/root:org/apis", "/api"]
        }
        for host in (origin_of("stage"), "other.localhost"):
            response = await world.request("/api", host=host)
            assert response.status == 403
            assert "--accept-hosts" in response.json()["message"]


# -- with other settings --


async def test_contexts_that_are_listed(clusters: Landscape, servers: dict[str, Any]) -> None:
    """--contexts serves these and no other; without the current one the first is the default."""
    async with Program("--contexts=stage,prod/eu", kubeconfig=clusters.kubeconfig.path) as program:
        world = World(program, servers)
        assert (await world.request("/api")).json()["server"] == "stage"
        assert (await world.request(f"{path_of('prod/eu')}/api")).json()["server"] == "prod/eu"
        assert (await world.request("/api", host=origin_of("dev"))).status == 404
        assert (await world.request("/clusters/dev/api")).status == 404
        (line,) = program.log_events("server.started")
        assert (line["context"], line["contexts"]) == ("stage", ["stage", "prod/eu"])


async def test_disable_filter_opens_no_way_to_another_context(
    clusters: Landscape, servers: dict[str, Any]
) -> None:
    """Every host passes, but a name below localhost that is no context's is not taken for the default one."""
    args = ("--all-contexts", "--disable-filter")
    async with Program(*args, kubeconfig=clusters.kubeconfig.path) as program:
        world = World(program, servers)
        assert (await world.request("/api", host="prd.localhost")).status == 404
        assert (await world.request("/api", host="any.example")).json()["server"] == "dev"
        response = await world.request(f"{path_of('stage')}/%2e%2e/prod%2Feu/api")
        assert response.json()["server"] == "stage"
        assert (await world.request(f"{path_of('stage')}{POD}/exec")).json()["server"] == "stage"
        refused = await world.request("/api", host=origin_of("stage"), headers=[("Origin", DEV)])
        assert refused.status == 403


@pytest.mark.parametrize(("prefix", "target"), [("/k8s/", "/v1/pods"), ("/api/", "/api/v1/pods")])
async def test_an_api_prefix_is_behind_the_context(
    clusters: Landscape, servers: dict[str, Any], prefix: str, target: str
) -> None:
    """Origin and path lead to what `/` is for one context: with its prefix, and 404 outside of it."""
    args = ("--all-contexts", f"--api-prefix={prefix}")
    async with Program(*args, kubeconfig=clusters.kubeconfig.path) as program:
        world = World(program, servers)
        assert (await world.request(f"{path_of('prod/eu')}{prefix}v1/pods")).json()["server"] == "prod/eu"
        assert (await world.request(f"{prefix}v1/pods", host=origin_of("stage"))).json()["server"] == "stage"
        assert world.seen() == {"prod/eu": [target], "stage": [target]}
        assert (await world.request(f"{path_of('prod/eu')}/version")).status == 404
        missing_slash = await world.request(f"{path_of('prod/eu')}{prefix[:-1]}?a=b")
        assert missing_slash.value("Location") == f"{path_of('prod/eu')}{prefix}?a=b"


async def test_static_pages_are_at_every_context(world: World) -> None:
    """One dashboard for all clusters: at each origin, and below each path for pages with relative links."""
    for host, prefix in ((origin_of("stage"), ""), ("localhost", path_of("stage")), ("localhost", "")):
        response = await world.request(f"{prefix}/static/page.html", host=host)
        assert (response.status, response.text) == (200, "a page of mine")
        moved = await world.request(f"{prefix}/static/folder", host=host)
        assert (moved.status, moved.value("Location")) == (301, "folder/")
        moved = await world.request(f"{prefix}/static?x=1", host=host)
        assert (moved.status, moved.value("Location")) == (301, f"{prefix}/static/?x=1")
    assert world.seen() == {}


async def test_each_context_has_the_path_of_its_own_server(tmp_path: Path) -> None:
    """append-server-path is for the context that is asked, behind its prefix."""
    config = Kubeconfig(tmp_path / "config")
    async with ApiServer("a", CA()) as a, ApiServer("b", CA()) as b:
        config.add(a, token=plant("token"))
        config.add(b, token=plant("token"))
        config.clusters["b"]["server"] += "/k8s/clusters/c-1"
        config.write()
        async with Program("--all-contexts", kubeconfig=config.path) as program:
            world = World(program, {"a": a, "b": b})
            await world.request("/api")
            await world.request("/clusters/b/api")
            await world.request("/k8s/clusters/c-1/api", host="b.localhost")
        assert world.seen() == {"a": ["/api"], "b": ["/k8s/clusters/c-1/api"] * 2}


async def test_the_path_of_a_server_is_no_way_around_the_filters(tmp_path: Path) -> None:
    """The first request for a context, which opens it, is judged with its server's path and without, too."""
    config = Kubeconfig(tmp_path / "config")
    base = "/k8s/clusters/c-1"
    async with ApiServer("a", CA()) as a, ApiServer("b", CA()) as b:
        config.add(a, token=plant("token"))
        config.add(b, token=plant("token"))
        config.clusters["b"]["server"] += base
        config.write()
        flags = ("--all-contexts", "--reject-paths=^/api/v1/secrets")
        async with Program(*flags, kubeconfig=config.path) as program:
            world = World(program, {"a": a, "b": b})
            for target in (f"{base}/api/v1/secrets", "/api/v1/secrets", f"{base}/%2e%2e/c-2/api"):
                for _ in range(2):
                    assert (await world.request(f"/clusters/b{target}")).status == 403
            assert (await world.request(f"/clusters/b{base}/api/v1/pods")).status == 200
            # It is nothing special at a server without it.
            assert (await world.request(f"{base}/api/v1/secrets")).status == 200
        assert world.seen() == {"a": [f"{base}/api/v1/secrets"], "b": [f"{base}/api/v1/pods"]}


# -- two contexts of one cluster --


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_two_users_of_one_cluster_share_no_connection(tmp_path: Path, protocol: str) -> None:
    """Same address, same authority: what differs is who asks, and each connection is one user's."""
    ca = CA()
    tls = ca.server_context(client_ca=ca, alpn=[protocol])
    config = Kubeconfig(tmp_path / "config")
    tokens = {name: plant(f"token-of-{name}") for name in ("admin", "viewer")}
    async with Http2Server(echo(), responder=seen_answer, tls=tls) as server:
        for name, token in tokens.items():
            certificate, key = ca.issue(name, client=True)
            authority = base64.b64encode(ca.pem).decode()
            config.clusters[name] = {"server": server.url, "certificate-authority-data": authority}
            config.users[name] = {
                "token": token,
                "client-certificate-data": base64.b64encode(certificate).decode(),
                "client-key-data": base64.b64encode(key).decode(),
            }
        config.current = "admin"
        config.write()
        connections: dict[str, set[int]] = {name: set() for name in tokens}
        async with Program("--all-contexts", kubeconfig=config.path) as program:
            clients = [await RawClient.connect(program.address) for _ in range(2)]
            for number in range(20):
                name = ("admin", "viewer")[number // 3 % 2]
                answer = await clients[number % 2].request("GET", f"/clusters/{name}/api")
                seen = answer.json()
                authorization = [value for field, value in seen["fields"] if field.lower() == "authorization"]
                assert (seen["cn"], authorization) == (name, [f"Bearer {tokens[name]}"])
                connections[name].add(seen["connection"])
            for client in clients:
                client.reset()
        assert all(connections.values())
        assert not connections["admin"] & connections["viewer"]


async def seen_answer(connection: Connection, request: Request) -> None:
    """What `echo` tells of a request, for HTTP/1.1."""
    seen = {
        "fields": request.headers,
        "connection": connection.number,
        "cn": connection.client_certificate_cn,
    }
    await json_answer(seen)(connection, request)


# -- redirects --


def redirect_to(location: str) -> Responder:
    async def respond(connection: Connection, request: Request) -> None:
        fields = [("X-Before", "1"), ("LOCATION", location), ("Content-Length", "2")]
        await connection.send(head(302, fields) + b"no")

    return respond


@pytest.mark.parametrize(
    ("location", "below"),
    [
        ("/api/v1/namespaces/n/services/s/proxy/?x=1", True),
        ("/", True),
        ("proxy/", False),
        ("?x", False),
        ("", False),
        ("//other.example/api", False),
        ("https://other.example/api", False),
    ],
)
async def test_a_redirect_stays_with_its_context(world: World, location: str, below: bool) -> None:
    """A path that the API server leads to is below the prefix for the client; all else is as it came."""
    world.servers["prod/eu"].responder = redirect_to(location)
    for host, prefix in (("localhost", path_of("prod/eu")), (origin_of("prod/eu"), "")):
        response = await world.request(f"{prefix}/api/v1/namespaces/n/services/s/proxy", host=host)
        assert (response.status, response.text) == (302, "no")
        assert response.values("Location") == [prefix + location if below else location]
        names = [name for name, _ in response.headers]
        assert names[:3] == ["X-Before", "LOCATION", "Content-Length"]


async def test_a_redirect_has_the_api_prefix_again(clusters: Landscape, servers: dict[str, Any]) -> None:
    """What was taken off on the way in is put back, so that following it leads to the same place."""
    servers["stage"].responder = redirect_to("/version/")
    args = ("--all-contexts", "--api-prefix=/k8s/")
    async with Program(*args, kubeconfig=clusters.kubeconfig.path) as program:
        response = await World(program, servers).request("/clusters/stage/k8s/version")
        assert response.value("Location") == "/clusters/stage/k8s/version/"

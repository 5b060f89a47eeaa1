"""`gateway`: the real program between a raw client and a byte-exact API server, over mutual TLS and a token.

The program is started once per module, with its PROGRAM_ARGS and PROGRAM_ENV; the API server anew for each
test, on the port that the kubeconfig names. After each test the program must be back at its idle descriptors.
`http2_gateway` is the same with an API server that speaks HTTP/2, `either` one and then the other.

KPROXY_TEST_SUBJECT=kubectl puts kubectl proxy in the place of kproxy, to compare: what fails then is what
differs.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support import answers, http2_answers, proc, program, secrets, zygote
from tests.support.answers import BLOCK, Step, answer, big, chunked, head
from tests.support.api_server import ApiServer, Kubeconfig
from tests.support.client import RawClient, Response, request_bytes
from tests.support.http2_server import H2, Http2Connection, Http2Responder, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.pki import CA
from tests.support.ports import reserved_port
from tests.support.program import KubectlProxy, Program, ProxyProcess, kubeconfig
from tests.support.upstream import ByteUpstream, Connection, Request, Responder
from tests.support.watches import Http2Watch, Watch

COMPARES = os.environ.get("KPROXY_TEST_SUBJECT") == "kubectl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pki:
    """The cluster's authority and the certificate in the kubeconfig."""

    ca: CA
    client_certificate: tuple[bytes, bytes]
    server_context: ssl.SSLContext
    """Mutual TLS, as a cluster's API server speaks it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A running program, and where it expects its API server."""

    program: ProxyProcess
    upstream_port: int
    token: str
    kubeconfig: Path
    idle_descriptors: int
    host: str = "localhost"
    """What clients say in Host; a context's own one leads to that context."""


class Gateway:
    """What a test of the data path holds: the program, its API server, and clients that are closed for it."""

    def __init__(self, served: Served, pki: Pki, owned: AsyncExitStack) -> None:
        self.program = served.program
        self.token = served.token
        self.host = served.host
        self._served = served
        self._pki = pki
        self._owned = owned
        self.upstream = self._upstream()

    def _upstream(self, **options: Any) -> ByteUpstream:
        options.setdefault("tls", self._pki.server_context)
        return ByteUpstream(port=self._served.upstream_port, **options)

    async def open(self) -> None:
        await self._owned.enter_async_context(self.upstream)

    async def replace_upstream(self, **options: Any) -> ByteUpstream:
        """Another API server in the place of this one; `options` as of ByteUpstream."""
        await self.upstream.__aexit__(None, None, None)
        self.upstream = await self._owned.enter_async_context(self._upstream(**options))
        return self.upstream

    def answers(self, responder: Responder, target: str | None = None) -> None:
        """Answer with `responder`, all requests or those for `target`."""
        if target is None:
            self.upstream.responder = responder
        else:
            self.upstream.routes[target] = responder

    async def connect(
        self, *, receive_buffer_bytes: int | None = None, timeout: float = LAST_RESORT_SECONDS
    ) -> RawClient:
        """A new client connection, closed at the end of the test."""
        client = await RawClient.connect(
            self.program.address, receive_buffer_bytes=receive_buffer_bytes, timeout=timeout
        )
        # A close would be a half-close at first, which the program waits out.
        self._owned.callback(client.reset)
        return client

    async def request(
        self,
        method: str = "GET",
        target: str = "/api",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        host: str | None = None,
    ) -> Response:
        """One request on a connection of its own."""
        client = await self.connect()
        return await client.request(method, target, headers, body, host=self.host if host is None else host)

    async def start(
        self, method: str = "GET", target: str = "/api", headers: Sequence[tuple[str, str]] = ()
    ) -> tuple[RawClient, Request]:
        """Send a request without a body and wait until the API server has its head; no answer is read."""
        seen = len(self.upstream.requests)
        client = await self.connect()
        await client.send(request_bytes(method, target, headers, host=self.host))
        requests = await self.upstream.wait_for_requests(seen + 1)
        return client, requests[seen]

    async def raw(self, data: bytes) -> tuple[RawClient, Response]:
        """Send bytes as they are and read one response."""
        client = await self.connect()
        await client.send(data)
        return client, await client.read_response("HEAD" if data.startswith(b"HEAD ") else "GET")

    async def watch(self, target: str = "/watched") -> Watch:
        """A client's watch of `target`, whose events the test sends."""
        events: asyncio.Queue[bytes | Step] = asyncio.Queue()
        self.answers(answers.watch(events), target)
        client, response = await self._opened(f"{target}?watch=true")
        return Watch(client, response, events, Step.LAST_CHUNK)

    async def _opened(self, target: str) -> tuple[RawClient, Response]:
        client = await self.connect()
        await client.send(request_bytes("GET", target, host=self.host))
        return client, await client.read_head()

    def replies(self, body: bytes, headers: Sequence[tuple[str, str]] = (), *, length: bool = True) -> None:
        """Answer all requests with that body, with its Content-Length or in chunks."""
        self.answers(answer(body, headers=headers) if length else chunked([body], headers))

    def reads(self, take: Callable[[bytes], object]) -> None:
        """Hand each piece of request bodies to `take`, and answer 201 at the end."""

        async def respond(connection: Connection, request: Request) -> None:
            while piece := await connection.read_body_piece(request):
                take(piece)
            await connection.send(head(201, [("Content-Length", "0")]))

        self.answers(respond)

    def sockets(self) -> int:
        return proc.sockets(self.program.pid)

    async def finished(self, path: str, *, seconds: float = LAST_RESORT_SECONDS) -> list[dict[str, Any]]:
        """The `request.finished` log lines for `path`, once there is one."""

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.program.log_events("request.finished") if line.get("path") == path]

        await until(lambda: bool(lines()), f"a log line for {path}", seconds)
        return lines()


class Http2Gateway(Gateway):
    """A gateway to an API server that speaks HTTP/2; `gateway.server.answers` answers every stream."""

    upstream: Http2Server

    def _upstream(self, **options: Any) -> Http2Server:
        ca = self._pki.ca
        options.setdefault("tls", ca.server_context(client_ca=ca, alpn=H2))
        return Http2Server(port=self._served.upstream_port, **options)

    @property
    def server(self) -> Http2Server:
        return self.upstream

    @property
    def ca(self) -> CA:
        return self._pki.ca

    async def replace_upstream(self, **options: Any) -> Http2Server:
        await super().replace_upstream(**options)
        return self.upstream

    @property
    def connections(self) -> list[Http2Connection]:
        return self.upstream.h2_connections

    def streams_for(self, responder: Http2Responder, target: str | None = None) -> None:
        """Answer with `responder`, all streams or those for `target`."""
        if target is None:
            self.upstream.answers = responder
        else:
            self.upstream.paths[target] = responder

    async def watch(self, target: str = "/watched") -> Http2Watch:
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.streams_for(http2_answers.watch(events), target)
        asked = f"{target}?watch=true"
        client, response = await self._opened(asked)
        stream = next(each for each in reversed(self.upstream.streams) if each.target == asked)
        return Http2Watch(client, response, events, stream)

    def replies(self, body: bytes, headers: Sequence[tuple[str, str]] = (), *, length: bool = True) -> None:
        fields = [(name.lower(), value) for name, value in headers]
        self.streams_for(http2_answers.answer(body, headers=fields, length=length))

    def reads(self, take: Callable[[bytes], object]) -> None:
        """Over either protocol: that of a long upload may be HTTP/1.1."""

        async def respond(stream: Stream) -> None:
            while piece := await stream.read_piece():
                take(piece)
            await stream.send_head(201, [("content-length", "0")], end=True)

        super().reads(take)
        self.streams_for(respond)

    async def begin(
        self,
        method: str = "GET",
        target: str = "/api",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        receive_buffer_bytes: int | None = None,
    ) -> tuple[RawClient, Stream]:
        """Send a request, and wait until the API server has its head; no answer is read."""
        seen = len(self.upstream.streams)
        client = await self.connect(receive_buffer_bytes=receive_buffer_bytes)
        await client.send(request_bytes(method, target, headers, host=self.host) + body)
        streams = await self.upstream.wait_for_streams(seen + 1)
        return client, streams[seen]


def big_answer(size: int, framing: str) -> Responder:
    """`big`, whose close without a length waits for its turn: a close_notify that finds the kernel's
    buffer full would be left out, and the answer be one that was cut.
    """
    if framing != "close":
        return big(size, framing=framing)

    async def respond(connection: Connection, request: Request) -> None:
        await connection.send(head(200, [("Connection", "close")]))
        for start in range(0, size, len(BLOCK)):
            await connection.send(BLOCK[: size - start])
        await connection.channel.shut_write()
        await connection.ended.wait()

    return respond


@pytest.fixture(scope="module", autouse=True)
def _forked_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs are forked from one that has imported all, but for modules that say STARTS_ANEW."""
    program.forks = not getattr(request.module, "STARTS_ANEW", False) and zygote.begin()
    yield
    program.forks = False


@pytest.fixture(scope="session")
def pki() -> Pki:
    ca = CA("cluster-ca")
    return Pki(
        ca=ca,
        client_certificate=ca.issue("alice", client=True, organizations=["dev"]),
        server_context=ca.server_context(client_ca=ca),
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the path of a unix socket has 108 bytes at most, pytest's own are long."""
    with TemporaryDirectory(prefix="kp-") as name:
        yield Path(name)


@pytest.fixture
async def upstream(pki: Pki) -> AsyncIterator[ByteUpstream]:
    """An API server for programs that a test starts with `config`."""
    async with ByteUpstream(answer(b"{}"), tls=pki.server_context) as upstream:
        yield upstream


@pytest.fixture
def config(tmp_path: Path, upstream: ByteUpstream, pki: Pki) -> Path:
    return kubeconfig(tmp_path, upstream, ca_pem=pki.ca.pem, client_certificate=pki.client_certificate)


@pytest.fixture
async def a(pki: Pki) -> AsyncIterator[ApiServer]:
    """An API server that knows who asks; `b` and `c` are those of other clusters."""
    async with ApiServer("a", pki.ca) as server:
        yield server


@pytest.fixture
async def b(pki: Pki) -> AsyncIterator[ApiServer]:
    async with ApiServer("b", pki.ca) as server:
        yield server


@pytest.fixture
async def c(pki: Pki) -> AsyncIterator[ApiServer]:
    async with ApiServer("c", pki.ca) as server:
        yield server


@pytest.fixture(scope="module")
def upstream_port() -> Iterator[int]:
    """Where the kubeconfig says that the API server is."""
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pki: Pki,
    upstream_port: int,
) -> Iterator[Served]:
    arguments = getattr(request.module, "PROGRAM_ARGS", ())
    variables = getattr(request.module, "PROGRAM_ENV", {})
    with serving(tmp_path_factory.mktemp("served"), pki, upstream_port, *arguments, **variables) as served:
        yield served


@contextmanager
def serving(
    folder: Path, pki: Pki, upstream_port: int, *arguments: str, **variables: str
) -> Iterator[Served]:
    """A program with these arguments and variables, with a token and a certificate."""
    token = secrets.plant("token")
    path = kubeconfig(
        folder,
        f"https://127.0.0.1:{upstream_port}",
        ca_pem=pki.ca.pem,
        token=token,
        client_certificate=pki.client_certificate,
    )
    kind = KubectlProxy if COMPARES else Program
    with kind(*arguments, kubeconfig=path, env=variables) as started:
        if not COMPARES:
            # The line on stdout comes before the last steps of the start.
            started.wait_for_output("server.started")
        yield Served(
            program=started,
            upstream_port=upstream_port,
            token=token,
            kubeconfig=path,
            idle_descriptors=started.descriptors(),
        )


@contextmanager
def serving_contexts(folder: Path, pki: Pki, count: int) -> Iterator[list[Served]]:
    """A program with so many contexts, and a Served for each: NAME.localhost has its token in NAME.token."""
    certificate, key = (base64.b64encode(pem).decode() for pem in pki.client_certificate)
    config = Kubeconfig(folder / "config")
    with ExitStack() as owned:
        servers = []
        for number in range(count):
            server = ApiServer(f"c{number}", pki.ca, port=owned.enter_context(reserved_port()))
            token = secrets.plant(f"token-{number}")
            token_file = folder / f"{server.name}.token"
            token_file.write_text(token)
            config.add(
                server,
                tokenFile=str(token_file),
                client_certificate_data=certificate,
                client_key_data=key,
            )
            servers.append((server, token))
        config.write()
        started = owned.enter_context(Program("--all-contexts", kubeconfig=config.path))
        started.wait_for_output("server.started")
        descriptors = started.descriptors()
        yield [
            Served(
                program=started,
                upstream_port=server.port,
                token=token,
                kubeconfig=config.path,
                idle_descriptors=descriptors,
                host=f"{server.name}.localhost",
            )
            for server, token in servers
        ]


@pytest.fixture
async def gateway(served: Served, pki: Pki) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as owned:
        gateway = Gateway(served, pki, owned)
        await gateway.open()
        yield gateway
    await is_idle(served)


@pytest.fixture
async def http2_gateway(served: Served, pki: Pki) -> AsyncIterator[Http2Gateway]:
    async with AsyncExitStack() as owned:
        gateway = Http2Gateway(served, pki, owned)
        await gateway.open()
        yield gateway
    await is_idle(served)


@pytest.fixture(params=["gateway", "http2_gateway"], ids=["http1", "http2"])
def either(request: pytest.FixtureRequest, served: Served) -> Gateway:
    """What holds whichever protocol the API server speaks: a gateway to one of each."""
    found: Gateway = request.getfixturevalue(request.param)
    return found


async def is_idle(served: Served) -> None:
    """Every connection of the test has ended in the program, too."""
    if COMPARES:
        return
    await until(
        lambda: served.program.descriptors() <= served.idle_descriptors,
        f"{served.idle_descriptors} descriptors; there are {served.program.descriptors()}",
    )

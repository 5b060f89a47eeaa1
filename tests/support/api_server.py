"""`ApiServer`: a cluster that knows which callers are good, with watches and tunnels; and its kubeconfig.

async with ApiServer("a", ca) as a, ApiServer("b", ca) as b:
    config = Kubeconfig.of(tmp_path / "config", a, b)
    config.add(b, exec=exec_user(plugin))
    config.write()
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.answers import chunk, head, status_answer
from tests.support.channel import Channel
from tests.support.client import RawClient, Response, request_bytes
from tests.support.exec_plugin import V1, Plugin
from tests.support.pki import CA, load_cert_chain
from tests.support.program import Program
from tests.support.secrets import plant
from tests.support.upstream import ByteUpstream, Connection, Request


class ApiServer(ByteUpstream):
    """Answers with what it saw, as JSON, and 401 to an Authorization that is not in `accepts` (None: any).

    A target with `watch=` gets a stream that begins with one event and goes on at `tick`; an upgrade gets a
    tunnel that sends everything back. Client certificates of `client_ca` are taken but not needed.
    """

    def __init__(self, name: str, ca: CA, *, client_ca: CA | None = None, port: int = 0) -> None:
        self._context = ca.server_context(client_ca=client_ca, client_certificate_required=False)
        super().__init__(self._answer, tls=self._context, before_handshake=self._greet, port=port)
        self.name = name
        self.ca = ca
        self.accepts: Container[str | None] | None = None
        self.refused = 0
        self.gate: asyncio.Event | None = None
        """Holds every answer back until it is set."""
        self.handshakes: asyncio.Event | None = None
        """Holds every TLS handshake back until it is set."""
        self.dialled = asyncio.Event()
        self.watches: set[Connection] = set()
        self.on_request: Callable[[Request], None] | None = None

    def use_certificate_of(self, ca: CA) -> None:
        """New connections see a certificate that this authority has issued."""
        load_cert_chain(self._context, *ca.issue("localhost", ("localhost", "127.0.0.1", "::1")))

    async def tick(self, text: str) -> None:
        """An event on every open watch."""
        for connection in list(self.watches):
            await connection.send(chunk(json.dumps({"type": "MODIFIED", "text": text}).encode() + b"\n"))

    def tokens(self) -> list[str | None]:
        """The Authorization of every request so far."""
        return [request.value("authorization") for request in self.requests]

    async def _greet(self, channel: Channel) -> None:
        self.dialled.set()
        if self.handshakes is not None:
            await self.handshakes.wait()

    async def _answer(self, connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        if self.on_request is not None:
            self.on_request(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.accepts is not None and request.value("authorization") not in self.accepts:
            self.refused += 1
            await status_answer(401, "Unauthorized", "Unauthorized")(connection, request)
        elif protocol := request.value("upgrade"):
            await connection.send(head(101, [("Connection", "Upgrade"), ("Upgrade", protocol)]))
            while data := await connection.read_some():
                await connection.send(data)
            connection.channel.close()
        elif "watch=" in request.target:
            await self._watch(connection)
        else:
            await self._echo(connection, request)

    async def _watch(self, connection: Connection) -> None:
        await connection.send(
            head(200, [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")])
        )
        event = {"type": "ADDED", "server": self.name, "cn": connection.client_certificate_cn}
        await connection.send(chunk(json.dumps(event).encode() + b"\n"))
        self.watches.add(connection)
        try:
            await connection.ended.wait()
        finally:
            self.watches.discard(connection)

    async def _echo(self, connection: Connection, request: Request) -> None:
        seen = {
            "server": self.name,
            "authorization": request.value("authorization"),
            "cn": connection.client_certificate_cn,
            "method": request.method,
            "body": request.body.data.decode("latin-1"),
        }
        body = json.dumps(seen).encode()
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        await connection.send(head(200, fields) + (b"" if request.method == "HEAD" else body))


class Kubeconfig:
    """A kubeconfig with a context per cluster, of its name; `current` is the first unless it is changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current = ""
        self.clusters: dict[str, dict[str, Any]] = {}
        self.users: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, path: Path, *servers: ApiServer) -> Self:
        """Written for these clusters, with a token for each."""
        config = cls(path)
        for server in servers:
            config.add(server, token=plant(f"token-of-{server.name}"))
        config.write()
        return config

    def add(self, server: ApiServer, cluster: Mapping[str, Any] | None = None, **user: Any) -> None:
        """`cluster` and `user` are fields of the two entries; an underscore in a name stands for a dash."""
        entry = {"certificate-authority-data": base64.b64encode(server.ca.pem).decode(), **(cluster or {})}
        if "certificate-authority" in entry:
            del entry["certificate-authority-data"]
        self.clusters[server.name] = {"server": server.url, **entry}
        # The fields of a kubeconfig are in kebab case but for a few in camel case.
        self.users[server.name] = {name.replace("_", "-"): value for name, value in user.items()}
        self.current = self.current or server.name

    def text(self, *, indent: int | None = 1) -> str:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.current,
            "clusters": [{"name": name, "cluster": cluster} for name, cluster in self.clusters.items()],
            "users": [{"name": name, "user": user} for name, user in self.users.items()],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in self.users],
        }
        return json.dumps(document, indent=indent)

    def write(self, text: str | None = None) -> None:
        """Replace the file by a rename, as careful writers do."""
        replace_file(self.path, (self.text() if text is None else text).encode())


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a new file in the place of `path`; nobody sees half of it."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    new.replace(path)


def exec_user(plugin: Plugin, **fields: Any) -> dict[str, Any]:
    """The user entry of an exec plugin, for `Kubeconfig.add(server, exec=...)`."""
    return {"apiVersion": V1, "command": str(plugin.path), "interactiveMode": "Never", **fields}


async def ask(
    program: Program, target: str = "/api", method: str = "GET", body: bytes | None = None, **headers: str
) -> Response:
    """One request on a connection of its own, which is closed then."""
    client = await RawClient.connect(program.address)
    try:
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await client.request(method, target, pairs, body)
    finally:
        # A close would be a half-close at first, which the program waits out.
        client.reset()


async def seen_by(program: Program, target: str = "/api") -> dict[str, Any]:
    """What the API server saw of a request that must succeed."""
    response = await ask(program, target)
    assert response.status == 200, response.text
    found: dict[str, Any] = response.json()
    return found


class Stream:
    """A client's running watch, or with `upgrade` its tunnel. Leaving the block resets the connection."""

    def __init__(self, program: Program, target: str = "/api/v1/pods?watch=1", *, upgrade: str = "") -> None:
        self._program = program
        self._target = target
        self._upgrade = upgrade
        self.client: RawClient
        self.response: Response

    async def __aenter__(self) -> Stream:
        self.client = await RawClient.connect(self._program.address)
        fields = [("Connection", "Upgrade"), ("Upgrade", self._upgrade)] if self._upgrade else []
        await self.client.send(request_bytes("GET", self._target, fields))
        self.response = await self.client.read_head()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.reset()

    async def first_event(self) -> dict[str, Any]:
        await self.client.read_until(self.response, b"}\n")
        event: dict[str, Any] = json.loads(bytes(self.response.body.data).partition(b"\n")[0])
        return event

    async def expects(self, text: str) -> None:
        """Read the watch until an event holds `text`."""
        await self.client.read_until(self.response, text.encode())

    async def ends(self) -> None:
        """Read it to its end, which is one."""
        await self.client.read_rest(self.response)
        assert self.response.body.is_complete

    async def is_cut(self) -> None:
        """Read it to an end that cannot be taken for one."""
        await self.client.read_rest(self.response)
        assert not self.response.body.is_complete

    async def echoes(self, data: bytes) -> None:
        """Send through the tunnel and get the same back."""
        await self.client.send(data)
        assert await self.client.read_exactly(len(data)) == data

"""Runs rows against a program: one process for rows of the same flags, one API server per row."""

from __future__ import annotations

import asyncio
import base64
import functools
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.conftest import Pki
from tests.conformance.parity.model import (
    Answer,
    Arrived,
    Body,
    CliRow,
    Do,
    Fields,
    Forwarded,
    Gate,
    Row,
    Sees,
    Step,
    Tunnel,
    request,
)
from tests.support import http1, proc, secrets
from tests.support.answers import answer, sequence
from tests.support.client import RawClient, Response
from tests.support.pki import CA
from tests.support.program import KubectlProxy, Program, ProxyProcess, kubeconfig
from tests.support.upstream import ByteUpstream, Request

SECONDS = 5.0
LAST_MODIFIED_AT = 1_000_000_000
MARKER = "/still-there"


class World:
    """What every process of the table shares: certificates, kubeconfigs, a folder of static files, a port."""

    def __init__(self, directory: Path, pki: Pki, port: int) -> None:
        self.directory = directory
        self.port = port
        self.token = secrets.plant("token")
        self.token_file_token = secrets.plant("file-token")
        self.password = secrets.plant("password")
        self.basic = "Basic " + base64.b64encode(f"joe:{self.password}".encode()).decode()
        self.ca = pki.ca
        self.tls = pki.ca.server_context(client_ca=pki.ca, client_certificate_required=False)
        self.www = directory / "www"
        self._certificate = pki.client_certificate
        _fill(self.www)
        (directory / "token").write_text(self.token_file_token + "\n")
        (directory / "file").write_text("precious")

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @functools.cache  # noqa: B019  # one per run, and as long as it
    def kubeconfig(self, cluster: str) -> Path:
        """The kubeconfig that rows name by `cluster`."""
        options: dict[str, Any] = {"token": self.token, "ca_pem": self.ca.pem}
        url = f"https://{self.authority}"
        match cluster:
            case "token":
                pass
            case "path":
                url += "/base/path"
            case "impersonation":
                options["user"] = {
                    "as": "jane",
                    "as-uid": "42",
                    "as-groups": ["g1", "g2"],
                    "as-user-extra": {"scopes": ["view"]},
                }
            case "certificate":
                options |= {"token": None, "client_certificate": self._certificate}
            case "certificate-and-token":
                options["client_certificate"] = self._certificate
            case "basic-uncompressed":
                options |= {"token": None, "user": {"username": "joe", "password": self.password}}
                options["cluster"] = {"disable-compression": True}
            case "token-file":
                options |= {"token": None, "user": {"tokenFile": str(self.directory / "token")}}
            case "other-ca":
                options["ca_pem"] = CA("other").pem
            case "other-name":
                options["cluster"] = {"tls-server-name": "somewhere.else"}
            case _:
                raise AssertionError(f"no such kubeconfig: {cluster}")
        return kubeconfig(self.directory, url, name=cluster, **options)

    def fill_in(self, text: str) -> str:
        """Replace the marks that rows use for what is only known at run time."""
        return (
            text.replace("@WWW@", str(self.www))
            .replace("@DIR@", str(self.directory))
            .replace("@UPSTREAM@", self.authority)
            .replace("@TOKEN@", self.token)
            .replace("@FILE-TOKEN@", self.token_file_token)
            .replace("@BASIC@", self.basic)
        )


def _fill(www: Path) -> None:
    import os

    files = {
        "index.html": b"<!doctype html><title>i</title>\n",
        "hello.txt": b"hello, static world\n",
        "app.js": b"console.log('hi');\n" * 50,
        "style.css": b"body{}\n",
        "pic.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>\n',
        "data.json": b"{}\n",
        "blob": bytes(range(256)),
        "empty.txt": b"",
        "100%.txt": b"percent\n",
        "sub/index.html": b"<p>sub</p>\n",
        "list/a.txt": b"a",
        "list/<b>.txt": b"b",
    }
    for name, content in files.items():
        path = www / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (LAST_MODIFIED_AT, LAST_MODIFIED_AT))
    (www.parent / "outside.txt").write_text("outside")
    (www / "link.txt").symlink_to(www.parent / "outside.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A running program. `idle_sockets` are those it has when nothing goes on."""

    side: str
    program: ProxyProcess
    world: World
    idle_sockets: int

    def fill_in(self, text: str) -> str:
        text = self.world.fill_in(text)
        return text if self.is_unix else text.replace("@PORT@", str(self.program.port))

    @property
    def is_unix(self) -> bool:
        return isinstance(self.program.address, str)


class Pool:
    """Keeps one program per side running, for as long as rows ask for the same flags and kubeconfig."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._running: dict[str, tuple[object, Served, ExitStack]] = {}

    def served(self, side: str, row: Row) -> Served:
        key = (row.flags, row.cluster)
        running = self._running.get(side)
        if running is not None and running[0] == key:
            return running[1]
        self._stop(side)
        stack = ExitStack()
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-")))
        flags = [self.world.fill_in(flag).replace("@SOCK@", str(home / "s")) for flag in row.flags]
        program = start(side, flags, self.world.kubeconfig(row.cluster))
        stack.enter_context(program)
        if side == "kproxy":
            program.wait_for_output("server.started")
        served = Served(side=side, program=program, world=self.world, idle_sockets=proc.sockets(program.pid))
        self._running[side] = (key, served, stack)
        return served

    def close(self) -> None:
        for side in list(self._running):
            self._stop(side)

    def _stop(self, side: str) -> None:
        running = self._running.pop(side, None)
        if running is not None:
            _, served, stack = running
            with stack:
                if side == "kproxy":
                    complaints = [
                        line
                        for line in served.program.log_events()
                        if line["event"] in ("internal.failed", "library.reported")
                    ]
                    assert not complaints, complaints


def start(side: str, flags: Sequence[str], path: Path) -> ProxyProcess:
    if side == "kproxy":
        return Program(*flags, kubeconfig=path)
    return KubectlProxy(*flags, kubeconfig=path)


@dataclass(slots=True)
class Conversation:
    """One run of a row."""

    client: RawClient
    upstream: ByteUpstream
    expected: Iterator[Answer]
    responses: list[Response] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    early: list[http1.Head] = field(default_factory=list)
    """Interim heads that were read by themselves; they belong to the next answer."""

    def method(self) -> str:
        wanted = next(self.expected, None)
        return "GET" if wanted is None else wanted.to

    async def do(self, step: Step) -> None:
        client = self.client
        match step:
            case bytes():
                await client.send(step)
            case Do.READ:
                self.responses.append(await client.read_response(self.method()))
            case Do.READ_100:
                async with asyncio.timeout(SECONDS):
                    interim = await http1.read_head(client)
                assert interim is not None, f"the connection ended ({client.end}) without a 100"
                self.early.append(interim)
            case Do.READ_HEAD | Do.READ_101:
                self.responses.append(await client.read_head(self.method()))
            case Do.HALF_CLOSE:
                await client.shut_write()
            case Do.RESET:
                client.reset()
            case Do.UPSTREAM_ENDED:
                async with asyncio.timeout(SECONDS):
                    await self.upstream.requests[0].connection.ended.wait()
            case Do.CLOSE_IDLE:
                self.upstream.close_connections()
            case Body(data):
                await client.read_until(self.responses[-1], data)
            case Tunnel(data):
                found = await client.read_exactly(len(data))
                if found != data:
                    self.problems.append(f"the tunnel gave {found[:200]!r}, not {data[:200]!r}")
            case Arrived(requests, body_bytes):
                await self.upstream.wait_for_requests(requests, SECONDS)
                await self.upstream.wait_for(
                    lambda: self.upstream.requests[requests - 1].body.size >= body_bytes, "the body", SECONDS
                )
            case Gate():
                step.open()


async def run(row: Row, served: Served) -> None:
    """Play one row. Raises AssertionError with everything that is not as it must be."""
    sees = row.kproxy if served.side == "kproxy" and row.kproxy is not None else row.sees
    for step in _steps(row):
        if isinstance(step, Gate):
            step.close()
    async with ByteUpstream(
        sequence(*row.upstream), tls=served.world.tls, port=served.world.port
    ) as upstream:
        upstream.routes[MARKER] = answer(b"")
        client = await RawClient.connect(served.program.address, timeout=SECONDS)
        try:
            problems = await _converse(row, sees, served, upstream, client)
        finally:
            client.reset()
        problems += await _judge_requests(sees, served, upstream)
    await _settled(served)
    assert not problems, f"{row.id} on {served.side}: " + "\n  ".join(problems)


def _steps(row: Row) -> tuple[Step, ...]:
    return (row.send,) if isinstance(row.send, bytes) else row.send


async def _converse(
    row: Row, sees: Sees, served: Served, upstream: ByteUpstream, client: RawClient
) -> list[str]:
    conversation = Conversation(client, upstream, iter(sees.answers))
    try:
        for step in _steps(row):
            if isinstance(step, bytes):
                step = served.fill_in(step.decode("latin-1")).encode("latin-1")
            await conversation.do(step)
        if conversation.responses and client.channel.is_open:
            while await client.read_piece(conversation.responses[-1]):
                pass
        if sees.tunnel:
            await conversation.do(Tunnel(sees.tunnel))
        for wanted in sees.answers[len(conversation.responses) :]:
            conversation.responses.append(await client.read_response(wanted.to))
    except (ConnectionError, TimeoutError, AssertionError, http1.Truncated) as error:
        conversation.problems.append(f"{type(error).__name__}: {error}")
    problems = conversation.problems
    if conversation.early and conversation.responses:
        conversation.responses[0].interim[:0] = conversation.early
    problems += _judge_answers(sees.answers, conversation.responses, served)
    if not problems:
        problems += await _judge_end(sees, served, client)
    return problems


async def _judge_end(sees: Sees, served: Served, client: RawClient) -> list[str]:
    problems = []
    if sees.end == "closed":
        try:
            rest = await client.read_to_end()
        except TimeoutError:
            return ["the connection was not closed"]
        if rest:
            problems.append(f"behind the last answer came {rest[:200]!r}")
    elif sees.end == "open":
        try:
            await client.send(_marker(served))
            await client.read_response()
        except (ConnectionError, TimeoutError, http1.Truncated) as error:
            return [f"the connection was not kept: {error}"]
        return problems
    # By the time that another client has its answer, whatever was forwarded is there.
    other = await RawClient.connect(served.program.address, timeout=SECONDS)
    try:
        await other.send(_marker(served))
        await other.read_response()
    finally:
        other.reset()
    return problems


def _marker(served: Served) -> bytes:
    return request("GET", MARKER)


def _judge_answers(wanted: Sequence[Answer], found: Sequence[Response], served: Served) -> list[str]:
    problems = []
    if len(wanted) != len(found):
        problems.append(f"{len(found)} answer(s), not {len(wanted)}: {[each.status for each in found]}")
    for number, (want, have) in enumerate(zip(wanted, found, strict=False), 1):
        problems += [f"answer {number}: {text}" for text in _judge_answer(want, have, served)]
    return problems


def _judge_answer(want: Answer, have: Response, served: Served) -> Iterator[str]:
    statuses = (want.status,) if isinstance(want.status, int) else want.status
    if have.status not in statuses:
        yield f"status {have.status}, not {want.status}: {have.text[:200]!r}"
    if want.reason is not None and have.reason != want.reason:
        yield f"reason {have.reason!r}, not {want.reason!r}"
    data = bytes(have.body.data)
    if want.body is not None and data != want.body:
        yield f"body {data[:200]!r} ({len(data)} bytes), not {want.body[:200]!r}"
    if want.contains not in data:
        yield f"no {want.contains!r} in {data[:400]!r}"
    if want.framing is not None and have.framing != want.framing:
        yield f"framing {have.framing}, not {want.framing}"
    if have.framing != "tunnel" and have.body.is_complete != want.is_complete:
        yield f"complete: {have.body.is_complete}, not {want.is_complete}"
    if tuple(have.body.trailers) != want.trailers:
        yield f"trailers {have.body.trailers}, not {want.trailers}"
    interim = tuple(int(head.start_line.split(" ")[1]) for head in have.interim)
    if interim != want.interim:
        yield f"interim answers {interim}, not {want.interim}"
    yield from _judge_fields(want.has, want.spelled, have.head, served)
    yield from http1.oddities(have.head)


def _judge_fields(wanted: Fields, spelled: Sequence[str], head: http1.Head, served: Served) -> Iterator[str]:
    for name, value in wanted.items():
        values = () if value is None else (value,) if isinstance(value, str) else value
        expected = [served.fill_in(each) for each in values]
        if head.values(name) != expected:
            yield f"{name}: {head.values(name)}, not {expected}"
    names = [name for name, _ in head.headers]
    yield from (f"no {name!r} in that spelling among {names}" for name in spelled if name not in names)


async def _judge_requests(sees: Sees, served: Served, upstream: ByteUpstream) -> list[str]:
    requests = [each for each in upstream.requests if not each.target.endswith(MARKER)]
    problems = []
    lines = [each.head.start_line for each in requests]
    if len(requests) != len(sees.requests):
        problems.append(f"forwarded {len(requests)} request(s), not {len(sees.requests)}: {lines}")
    for want, have in zip(sees.requests, requests, strict=False):
        try:
            async with asyncio.timeout(SECONDS):
                if want.is_cut:
                    await have.connection.ended.wait()
        except TimeoutError:
            problems.append(f"{have.target}: the upstream request goes on")
        problems += [f"{have.target}: {text}" for text in _judge_request(want, have, served)]
        if sees.certificate is not None and have.connection.client_certificate_cn != sees.certificate:
            problems.append(f"client certificate of {have.connection.client_certificate_cn}")
    return problems


def _judge_request(want: Forwarded, have: Request, served: Served) -> Iterator[str]:
    line = served.fill_in(f"{want.method} {want.target} HTTP/1.1")
    if have.head.start_line != line:
        yield f"request line {have.head.start_line[:300]!r}, not {line[:300]!r}"
    defaults: Fields = {
        "Authorization": "Bearer @TOKEN@",
        "Host": "@UPSTREAM@",
        "X-Forwarded-For": None if served.is_unix else "127.0.0.1",
    }
    named = {name.lower() for name in want.has}
    fields = {name: value for name, value in defaults.items() if name.lower() not in named} | dict(want.has)
    yield from _judge_fields(fields, want.spelled, have.head, served)
    if want.framing is not None and have.framing != want.framing:
        yield f"body framed by {have.framing}, not {want.framing}"
    data = bytes(have.body.data)
    if want.body is not None and data != want.body:
        yield f"body {data[:200]!r} ({len(data)} bytes), not {want.body[:200]!r}"
    if have.body.is_complete == want.is_cut:
        yield f"body complete: {have.body.is_complete}"
    if tuple(have.body.trailers) != want.trailers:
        yield f"trailers {have.body.trailers}, not {want.trailers}"
    yield from http1.oddities(have.head)


async def _settled(served: Served) -> None:
    """A connection that lingers from this row could be taken, dead, for the next."""
    # Go leaves some to its garbage collector.
    deadline = time.monotonic() + (SECONDS if served.side == "kproxy" else 0.5)
    while proc.sockets(served.program.pid) > served.idle_sockets:
        if time.monotonic() > deadline:
            assert served.side == "kubectl", "kproxy holds more sockets than when it was idle"
            return
        await asyncio.sleep(0.002)


# -- command lines --


def run_cli(row: CliRow, side: str, world: World) -> None:
    """Start the program as `row` says, and end it."""
    with tempfile.TemporaryDirectory(prefix="parity-") as home, ExitStack() as stack:
        place = Path(home) / "s"
        if row.prepare == "stale-socket":
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(str(place))
            stale.close()
        elif row.prepare == "file":
            place.write_text("precious")
        used = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        args = [
            world.fill_in(arg).replace("@SOCK@", str(place)).replace("@USED@", str(used.getsockname()[1]))
            for arg in row.args
        ]
        path = world.kubeconfig(row.cluster)
        program = start(side, args, path)
        if any(arg.startswith("--kubeconfig") for arg in args):
            program.command = [arg for arg in program.command if arg != f"--kubeconfig={path}"]
        serves, stderr = row.serves, row.stderr
        if side == "kproxy":
            serves = row.serves if row.kproxy_serves is None else row.kproxy_serves
            stderr = row.stderr if row.kproxy_stderr is None else row.kproxy_stderr
        if serves:
            stack.enter_context(program)
            if row.stdout:
                program.wait_for_output(row.stdout.replace("@SOCK@", str(place)), "stdout")
            if stderr:
                program.wait_for_output(stderr, "stderr")
        else:
            try:
                program.start()
            except AssertionError:
                assert program.exit_code not in (0, None), "it failed, and says that it did not"
                import re

                assert re.search(stderr, program.stderr), program.stderr
                assert "Traceback" not in program.stderr
            else:
                program.kill()
                raise AssertionError(f"{side} serves with {row.args}")
        if row.prepare == "file":
            assert place.read_text() == "precious"

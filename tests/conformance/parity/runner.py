"""Runs rows against a program: one process for rows of the same flags, one API server per row."""

from __future__ import annotations

import asyncio
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.parity.judge import MARKER, SECONDS, judge_answers, judge_requests
from tests.conformance.parity.model import (
    Answer,
    Arrived,
    Body,
    CliRow,
    Do,
    Gate,
    Row,
    Sees,
    Step,
    Tunnel,
    request,
)
from tests.conformance.parity.world import Served, World
from tests.support import http1, proc
from tests.support.answers import answer, sequence
from tests.support.client import RawClient, Response
from tests.support.program import KubectlProxy, Program, ProxyProcess
from tests.support.upstream import ByteUpstream


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
            case Do.UPSTREAM_ENDED | Do.KUBECTL_GAVE_UP:
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
        problems += await judge_requests(sees, served, upstream)
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
            if step is Do.KUBECTL_GAVE_UP and served.side == "kproxy":
                continue
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
    problems += judge_answers(sees.answers, conversation.responses, served)
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

                assert re.search(stderr, program.stderr), program.stderr
                assert "Traceback" not in program.stderr
            else:
                program.kill()
                raise AssertionError(f"{side} serves with {row.args}")
        if row.prepare == "file":
            assert place.read_text() == "precious"

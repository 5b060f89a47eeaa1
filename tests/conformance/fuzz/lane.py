"""A proxy in this process between a client and an API server that read strictly what comes to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import cast

from kproxy.config.schema import Config
from kproxy.gateway.relay import Relay
from kproxy.gateway.router import Prefixes, Router
from kproxy.kube.contexts import Contexts, Served
from kproxy.kube.kubeconfig import Cluster, ResolvedContext, User
from kproxy.listeners.binding import bind_tcp
from kproxy.listeners.listener import Listener
from kproxy.policy.policy import Policy
from kproxy.server.server import open_endpoints, open_upstream
from kproxy.telemetry.metrics import Metrics
from kproxy.upstream.table import Upstreams
from kproxy.web.links import Links
from tests.conformance.fuzz import strict
from tests.conformance.fuzz.mutate import SWITCH, Plan, pieces

HANG_SECONDS = 30.0
_IDEMPOTENT = (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE")


@dataclass(slots=True, kw_only=True)
class Seen:
    """A request that reached the API server, and what it answered."""

    message: strict.Message
    sent: bytes = b""
    ended: str = ""
    """How the answer ended the connection: "", "fin" or "rst"."""


@dataclass(slots=True)
class Outcome:
    """What both ends saw of one plan."""

    seen: list[Seen] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    """What the API server could not read."""
    received: bytes = b""
    end: str = "open"


class Upstream(asyncio.Protocol):
    """One connection of the API server. It answers by the plan of its lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._data = b""
        self._answered: Seen | None = None
        self._is_tunnel = False
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._lane.connections.add(self)

    @property
    def is_busy(self) -> bool:
        """Whether it holds a part of a request, or is a tunnel."""
        return bool(self._data) or self._is_tunnel or self._is_over

    def data_received(self, data: bytes) -> None:
        if self._is_tunnel:
            self.transport.write(data)
            return
        self._data += data
        if self._is_over:
            return
        while self._data and not self._is_tunnel and not self._is_over and self._take():
            pass

    def _take(self) -> bool:
        """Read one request, if it is there or an early answer is due."""
        lane = self._lane
        stream = strict.read_requests(self._data)
        if stream.problem is not None and not stream.messages:
            lane.outcome.garbage.append(f"{stream.problem}: {self._data[:300]!r}")
            self._is_over = True
            self.transport.abort()
            return False
        if not stream.messages:
            return False
        message = stream.messages[0]
        if not message.is_complete:
            if lane.plan.answers_early and self._answered is None:
                self._answered = self._answer(message)
            return False
        self._data = self._rest_behind(message)
        if self._answered is not None:
            self._answered.message = message
            self._answered = None
        else:
            self._answer(message)
        return True

    def _rest_behind(self, message: strict.Message) -> bytes:
        low = self._data.find(b"\r\n\r\n") + 4
        if message.framing == "none":
            return self._data[low:]
        if message.framing == "length":
            return self._data[low + len(message.body) :]
        return self._data[strict.chunks_end(self._data, low) :]

    def _answer(self, message: strict.Message) -> Seen:
        lane = self._lane
        seen = Seen(message=message)
        lane.outcome.seen.append(seen)
        number = len(lane.outcome.seen) - 1
        answer = lane.plan.answers[number % len(lane.plan.answers)]
        cuts = lane.plan.answer_cuts[number % len(lane.plan.answers)]
        wants_tunnel = b"upgrade" in message.options
        if wants_tunnel and number % 2 == 0:
            answer, cuts = SWITCH, ()
        if message.start[0] == b"HEAD" and answer in lane.untouched:
            answer, cuts = answer[: answer.rfind(b"\r\n\r\n") + 4], ()
        seen.sent = answer
        sent = strict.read_responses(answer, [message.start[0]], ended=False)
        finals = [each for each in sent.messages if each.start[0] == b"101" or each.start[0] >= b"200"]
        is_whole = sent.problem is None and len(finals) == 1 and finals[0].is_complete
        if is_whole and finals[0].framing == "tunnel" and wants_tunnel:
            self._is_tunnel = True
        elif not is_whole or sent.rest:
            self._is_over = True
            seen.ended = "rst" if lane.plan.resets else "fin"
        lane.spawn(self._send(pieces(answer, cuts), seen.ended))
        return seen

    async def _send(self, parts: list[bytes], end: str) -> None:
        for part in parts:
            if self.transport.is_closing():
                return
            self.transport.write(part)
            await asyncio.sleep(0)
        if end == "fin":
            self.transport.close()
        elif end == "rst":
            await asyncio.sleep(0)
            _reset(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        lane = self._lane
        lane.connections.discard(self)
        if self._data and not self._is_over and self._answered is None:
            stream = strict.read_requests(self._data)
            if stream.problem is not None:
                lane.outcome.garbage.append(f"{stream.problem}: {self._data[:300]!r}")
            lane.outcome.seen += [Seen(message=message) for message in stream.messages]


def _reset(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Client(asyncio.Protocol):
    """Collects what comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.end = ""
        self.news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.news.set()

    def eof_received(self) -> bool:
        self.end = "fin"
        self.news.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.end = self.end or ("rst" if exc is not None else "closed")
        self.news.set()


class Lane:
    """One proxy with its API server. Plans are played one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, untouched: frozenset[bytes]) -> None:
        self.loop = loop
        self.untouched = untouched
        self.plan: Plan
        self.outcome = Outcome()
        self.connections: set[Upstream] = set()
        self.finished = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: Listener
        self._relay: Relay
        self._address: tuple[str, int]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Lane]:
        server = await self.loop.create_server(lambda: Upstream(self), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        context = ResolvedContext(
            name="fuzz",
            cluster=Cluster(name="fuzz", server=f"http://127.0.0.1:{port}"),
            user=User(name="fuzz"),
        )
        upstreams = Upstreams(
            lambda wanted: open_upstream(wanted, Config(), self.loop),
            Contexts(
                default=context, served=(Served(name=context.name, slug=context.name, is_default=True),)
            ),
            self.loop,
        )
        self._relay = Relay(self.loop)
        router = Router(
            policy=Policy.compile(),
            prefixes=Prefixes(api="/", www=None),
            upstreams=upstreams,
            api=self._relay,
            own=open_endpoints(Config(), Metrics(lambda exchange: None), upstreams, self._relay, self.loop),
            www=None,
            links=Links(),
        )
        self._listener = Listener(bind_tcp("127.0.0.1", 0), router.dispatch, lambda exchange: self._count())
        await self._listener.start(self.loop)
        host, _, listening = self._listener.name.rpartition(":")
        self._address = (host, int(listening))
        try:
            yield self
        finally:
            self._listener.stop_accepting()
            for downstream in list(self._listener.connections):
                downstream.abort()
            await upstreams.close()
            server.close()
            for connection in list(self.connections):
                connection.transport.abort()
            await asyncio.gather(*self._tasks)

    def _count(self) -> None:
        self.finished += 1

    def spawn(self, sending: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def play(self, plan: Plan) -> list[str]:
        """What is wrong with what came of it; empty when all is well."""
        self.plan = plan
        self.outcome = outcome = Outcome()
        asked = strict.read_requests(plan.sent)
        whole = [each for each in asked.messages if each.is_complete]
        _, client = await self.loop.create_connection(Client, *self._address)
        try:
            for part in pieces(plan.sent, plan.cuts):
                if client.end:
                    break
                client.transport.write(part)
                await asyncio.sleep(0)
            methods = [each.start[0] for each in asked.messages]
            async with asyncio.timeout(HANG_SECONDS):
                while not client.end and not _is_answered(bytes(client.data), methods, len(whole)):
                    client.news.clear()
                    await client.news.wait()
                if not client.end and client.transport.can_write_eof():
                    client.transport.write_eof()
                while not client.end:
                    client.news.clear()
                    await client.news.wait()
        except TimeoutError:
            return [f"it hangs: {len(whole)} whole requests, answered {bytes(client.data)[:300]!r}"]
        finally:
            client.transport.abort()
        outcome.received = bytes(client.data)
        outcome.end = client.end
        await self._settled()
        return list(_judge(asked, outcome))

    async def _settled(self) -> None:
        """Wait until nothing of the plan goes on: the next one must not be blamed for it."""
        for _ in range(2000):
            is_quiet = not self._relay.running and not self._listener.connections and not self._tasks
            if is_quiet and not any(connection.is_busy for connection in self.connections):
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"still running: {self._relay.running}, {self._listener.connections}")


def _is_answered(data: bytes, methods: list[bytes], wanted: int) -> bool:
    stream = strict.read_responses(data, methods, ended=False)
    finals = 0
    for message in stream.messages:
        if message.framing == "tunnel":
            return True
        finals += message.is_complete and message.start[0] >= b"200"
    return finals >= wanted


def _judge(asked: strict.Stream, outcome: Outcome) -> Iterator[str]:
    yield from (f"garbage to the API server: {text}" for text in outcome.garbage)
    yield from _judge_forwarded(asked, outcome)
    yield from _judge_answers(asked, outcome)


def _judge_forwarded(asked: strict.Stream, outcome: Outcome) -> Iterator[str]:
    """Every forwarded request is one that was sent, in order and once, or again where that is allowed."""
    # Where in the list of sent requests the last forwarded one may stand: twins make it more than one place.
    places = {0}
    for seen in outcome.seen:
        message = seen.message
        same = [number for number, each in enumerate(asked.messages, 1) if _is_same(each, message)]
        is_repeatable = message.start[0] in _IDEMPOTENT
        places = {
            number
            for number in same
            if any(number > place or (is_repeatable and number == place) for place in places)
        }
        if not places:
            yield f"forwarded what was not sent: {message.start} {message.fields} {message.body[:100]!r}"
            return


def _is_same(sent: strict.Message, seen: strict.Message) -> bool:
    if seen.start[0] != sent.start[0] or seen.start[1] != _origin_form(sent.start[1]):
        return False
    if seen.is_complete:
        return sent.is_complete and seen.body == sent.body
    return sent.body.startswith(seen.body)


def _origin_form(target: bytes) -> bytes:
    scheme, separator, rest = target.partition(b"://")
    if target.startswith(b"/") or not separator or scheme.lower() not in (b"http", b"https"):
        return target
    for place, byte in enumerate(rest):
        if byte in b"/?#":
            return rest[place:] if byte == ord("/") else b"/" + rest[place:]
    return b"/"


def _judge_answers(asked: strict.Stream, outcome: Outcome) -> Iterator[str]:
    """What the client reads is HTTP, no more answers than requests, and none looks whole that was cut."""
    methods = [message.start[0] for message in asked.messages]
    ended = outcome.end == "fin"
    stream = strict.read_responses(outcome.received, methods, ended=ended)
    if stream.problem is not None:
        yield f"garbage to the client: {stream.problem} in {outcome.received[:500]!r}"
        return
    finals = [each for each in stream.messages if each.start[0] == b"101" or each.start[0] >= b"200"]
    # One more than what could be read: the verdict on what could not.
    if len(finals) > len(methods) + 1:
        yield f"{len(finals)} answers to {len(methods)} requests"
    last = finals[-1] if finals else None
    # What could not be read may have been a HEAD for the strict reader: the verdict has a body all the same.
    is_verdict = last is not None and last.framing == "none" and last.values(b"proxy-status")
    if stream.rest and not (last and (last.framing == "tunnel" or not last.is_complete or is_verdict)):
        yield f"{len(stream.rest)} bytes behind the last answer: {stream.rest[:200]!r}"
    for number, message in enumerate(finals):
        if message.framing == "close" and message.is_complete:
            request = asked.messages[number] if number < len(asked.messages) else None
            if request is not None and request.minor:
                yield "an answer to HTTP/1.1 that only the end of the connection ends"
        if (
            message.values(b"proxy-status")
            or not message.is_complete
            or message.framing in ("none", "tunnel")
        ):
            continue
        if not any(message.body == body for body in _bodies(outcome)):
            yield f"an answer that nobody gave: {message.start} {message.body[:200]!r}"


def _bodies(outcome: Outcome) -> Iterator[bytes]:
    """The whole bodies that the API server sent, packed and unpacked."""
    for seen in outcome.seen:
        stream = strict.read_responses(seen.sent, [seen.message.start[0]], ended=seen.ended != "rst")
        for message in stream.messages:
            if message.is_complete and message.start[0] >= b"200":
                yield message.body
                if b"gzip" in [value.lower() for value in message.values(b"content-encoding")]:
                    unpacker = zlib.decompressobj(wbits=31)
                    with contextlib.suppress(zlib.error):
                        plain = unpacker.decompress(message.body)
                        if unpacker.eof:
                            yield plain

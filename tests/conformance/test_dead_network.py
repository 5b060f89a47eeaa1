"""Connections that died in silence, as in a laptop's sleep or without its VPN: nobody waits for their end.

No packet passes on such a connection any more, and no FIN or RST ever tells of it. The limits allow for a
busy machine; each test prints what it took.

Nearly all of the time is waited. So each case has an API server and a context of its own, and those that are
asked for run at the same time, in one program that stays awake and one that sleeps; then each is judged.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conformance.conftest import Gateway, Http2Gateway, Pki, Served, is_idle, serving_contexts
from tests.support import answers, http2_answers, secrets
from tests.support.client import request_bytes
from tests.support.http2_server import Stream
from tests.support.leaks import clean_loop
from tests.support.loops import chosen_loop
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.program import ProxyProcess
from tests.support.upstream import Connection, Request, Responder

pytestmark = [pytest.mark.slow, pytest.mark.numbers]

REST_SECONDS = 5.3
"""Silence after which a connection is doubted (5 s), and a little more."""
SOON_SECONDS = 4.0
"""Aimed at is 1 s, which a busy machine may stretch; without doubts it is 15 s and more."""
RESUMED_SECONDS = 12.0
"""Within that a resume is noticed and dead watches end; aimed at is 7 s. Without it: 45 s and more."""
STOPPED_SECONDS = 5.0
"""How long a program must stand still to believe that the machine slept: 2 s more than between two looks."""
APART_SECONDS = 0.1
"""Between the beginnings of two cases: what is urgent in one is not to meet what is urgent in all others."""

Scenario = Callable[..., Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A scenario with one choice of its arguments, and which protocol its API server speaks."""

    scenario: Scenario
    kind: type[Gateway]
    choice: Mapping[str, object]

    def __str__(self) -> str:
        protocol = "http2" if self.kind is Http2Gateway else "http1"
        return "-".join((self.scenario.__name__, protocol, *map(str, self.choice.values())))

    @property
    def parameters(self) -> set[str]:
        return {*inspect.signature(self.scenario).parameters}

    @property
    def sleeps(self) -> bool:
        return "laptop" in self.parameters


CASES: list[Case] = []


def over(*kinds: type[Gateway], **choices: Sequence[object]) -> Callable[[Scenario], Scenario]:
    """A scenario is a case over each of these protocols, with each choice of its arguments."""

    def add(scenario: Scenario) -> Scenario:
        CASES.extend(
            Case(scenario=scenario, kind=kind, choice=dict(zip(choices, values, strict=True)))
            for kind, values in itertools.product(kinds, itertools.product(*choices.values()))
        )
        return scenario

    return add


http1, http2 = Gateway, Http2Gateway

_told: ContextVar[list[str]] = ContextVar("told")
"""What the case at hand has measured."""


@asynccontextmanager
async def soon(what: str, seconds: float = SOON_SECONDS) -> AsyncIterator[None]:
    began = time.monotonic()
    yield
    passed = time.monotonic() - began
    _told.get().append(f"{what}: {passed:.2f} s")
    assert passed < seconds


async def rested(gateway: Gateway) -> None:
    """A connection to the API server that has carried a request, and was silent since for a while."""
    gateway.answers(answers.echo())
    if isinstance(gateway, Http2Gateway):
        gateway.streams_for(http2_answers.echo())
    assert (await gateway.request("GET", "/first")).status == 200
    await asyncio.sleep(REST_SECONDS)


def received(gateway: Gateway, method: str, target: str) -> int:
    """How often the API server has seen such a request."""
    if isinstance(gateway, Http2Gateway):
        return sum((each.method, each.target) == (method, target) for each in gateway.server.streams)
    return sum((each.method, each.target) == (method, target) for each in gateway.upstream.requests)


@dataclass(kw_only=True, slots=True)
class Laptop:
    """A machine that sleeps once, as far as its program can tell, when all cases on it are ready for that."""

    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    has_slept: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleeps(self) -> None:
        self.is_ready.set()
        await self.has_slept.wait()


async def resumed(gateway: Gateway) -> dict[str, Any]:
    """The line in the log that tells of a sleep."""

    def lines() -> list[dict[str, Any]]:
        events = gateway.program.log_events("context.resumed")
        return [event for event in events if f"{event['context']}.localhost" == gateway.host]

    await until(lambda: bool(lines()), "the log tells of a sleep")
    [line] = lines()
    return line


@over(http1, http2, method=("GET", "POST", "PUT"))
async def the_first_request_after_silence(gateway: Gateway, method: str) -> None:
    """Its connection is dead and the network is back: it is answered soon, and reaches the server once."""
    await rested(gateway)
    await gateway.upstream.lose_connections()
    async with soon(method):
        response = await gateway.request(method, "/next", body=None if method == "GET" else b"x")
    assert response.status == 200
    assert received(gateway, method, "/next") == 1


@over(http1, http2, down_seconds=(2.0, 9.0))
async def the_first_get_after_an_outage(gateway: Gateway, down_seconds: float) -> None:
    """It was sent while nothing arrived, and is answered soon after the network is back."""
    await rested(gateway)
    await gateway.upstream.lose_network()
    asked = asyncio.ensure_future(gateway.request("GET", "/next"))
    await asyncio.sleep(down_seconds)
    assert not asked.done()
    gateway.upstream.find_network()
    async with soon("GET"):
        assert (await asked).status == 200


@over(http1, http2)
async def a_watch_ends_after_a_sleep(gateway: Gateway, laptop: Laptop) -> None:
    """Its connection died while the machine slept: it ends within seconds, and its client comes back."""
    running = await gateway.watch()
    await gateway.upstream.lose_connections()
    await laptop.sleeps()
    async with soon("watch", RESUMED_SECONDS):
        await running.is_cut()
    async with soon("watch again"):
        await gateway.watch()


@over(http1, http2)
async def a_watch_that_lives_outlasts_a_sleep(gateway: Gateway, laptop: Laptop) -> None:
    """The server answers for its connection, and the watch goes on."""
    running = await gateway.watch()
    await laptop.sleeps()
    await asyncio.sleep(RESUMED_SECONDS - 2)
    await running.goes_on()


# -- in doubt: the first answer counts --


def paused(seconds: float) -> Responder:
    """Answer after a while, with the number of the connection."""

    async def respond(connection: Connection, request: Request) -> None:
        await asyncio.sleep(seconds)
        await answers.json_answer({"connection": connection.number})(connection, request)

    return respond


@over(http1)
async def a_slow_answer_on_a_connection_that_lives(gateway: Gateway) -> None:
    """HTTP/1.1 cannot tell that it lives: a second one is asked, and dropped when the first answers."""
    await rested(gateway)

    async def answer_late(connection: Connection, request: Request) -> None:
        await gateway.upstream.wait_for(lambda: received(gateway, "GET", "/slow") == 2)
        await paused(0.5)(connection, request)

    gateway.answers(answers.sequence(answer_late, answers.never_answer()), "/slow")
    response = await gateway.request("GET", "/slow")
    assert response.json() == {"connection": 0}
    assert received(gateway, "GET", "/slow") == 2
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await gateway.upstream.connections[1].ended.wait()
    assert not gateway.upstream.connections[0].ended.is_set()


@over(http2)
async def a_slow_answer_over_http2(gateway: Http2Gateway) -> None:
    """PING is answered: nothing is sent twice, however long the answer takes."""
    await rested(gateway)

    async def respond(stream: Stream) -> None:
        await asyncio.sleep(1.5)
        await http2_answers.answer(b"{}")(stream)

    gateway.streams_for(respond, "/slow")
    assert (await gateway.request("GET", "/slow")).status == 200
    assert received(gateway, "GET", "/slow") == 1
    assert len(gateway.connections) == 1


@over(http1)
async def there_is_no_second_connection(gateway: Gateway) -> None:
    """A dial that fails is no failure of a request whose first connection answers after all."""
    await rested(gateway)
    gateway.answers(paused(1.5), "/slow")
    await gateway.upstream.stop_listening()
    response = await gateway.request("GET", "/slow")
    assert (response.status, response.json()) == (200, {"connection": 0})


@over(http1, method=("GET", "HEAD"))
async def the_first_is_lost_in_the_end(gateway: Gateway, method: str) -> None:
    """The second one, which has been asked already, answers."""
    await rested(gateway)
    is_lost = asyncio.Event()

    async def lose(connection: Connection, request: Request) -> None:
        await gateway.upstream.wait_for(lambda: received(gateway, method, "/slow") == 2)
        connection.channel.reset()
        is_lost.set()

    async def answer_later(connection: Connection, request: Request) -> None:
        await is_lost.wait()
        await paused(0.2)(connection, request)

    gateway.answers(answers.sequence(lose, answer_later), "/slow")
    client = await gateway.connect()
    await client.send(request_bytes(method, "/slow", host=gateway.host))
    response = await client.read_response(method)
    assert response.status == 200
    assert received(gateway, method, "/slow") == 2


@over(http1, http2)
async def no_way_to_the_server_at_first(gateway: Gateway) -> None:
    """A dial that fails says nothing of the next: a network that comes back may have no route as yet."""
    await rested(gateway)
    await gateway.upstream.lose_connections()
    await gateway.upstream.stop_listening()
    asked = asyncio.ensure_future(gateway.request("GET", "/next"))
    await asyncio.sleep(2.0)
    gateway.upstream.start_listening()
    async with soon("GET"):
        assert (await asked).status == 200


@over(http2)
async def the_second_dies_too(gateway: Http2Gateway) -> None:
    """Once it is the only one it is doubted as any other, and a third is asked."""
    await rested(gateway)
    await gateway.upstream.lose_connections()
    gateway.streams_for(http2_answers.sequence(http2_answers.never_answer(), http2_answers.echo()), "/next")
    asked = asyncio.ensure_future(gateway.request("GET", "/next"))
    await gateway.server.wait_for(lambda: received(gateway, "GET", "/next") == 1)
    await gateway.upstream.lose_connections()
    async with soon("GET", RESUMED_SECONDS):
        assert (await asked).status == 200


@over(http1)
async def the_second_gets_a_401(gateway: Gateway, served: Served) -> None:
    """The credential is renewed and the request sent once more, as after a 401 on any connection."""
    await rested(gateway)
    await gateway.upstream.lose_connections()
    token = secrets.plant("renewed-token")

    async def respond(connection: Connection, request: Request) -> None:
        if request.value("authorization") == f"Bearer {token}":
            await answers.echo()(connection, request)
        else:
            served.kubeconfig.with_name(gateway.host.replace(".localhost", ".token")).write_text(token)
            await answers.status_answer(401, "Unauthorized", "Unauthorized")(connection, request)

    gateway.answers(respond)
    async with soon("GET"):
        assert (await gateway.request("GET", "/next")).status == 200
    assert received(gateway, "GET", "/next") == 2


@over(http1)
async def the_client_leaves_while_two_are_asked(gateway: Gateway) -> None:
    """Both API servers are told that nobody listens any more."""
    await rested(gateway)
    gateway.answers(answers.never_answer(), "/slow")
    client = await gateway.connect()
    await client.send(request_bytes("GET", "/slow", host=gateway.host))
    await gateway.upstream.wait_for(lambda: received(gateway, "GET", "/slow") == 2)
    client.reset()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        for connection in gateway.upstream.connections:
            await connection.ended.wait()


# -- on their way --


@over(http2)
async def a_request_on_its_way_when_http2_dies(gateway: Http2Gateway) -> None:
    """It was sent on a connection that lived: who waits for 5 s without a sign of life asks elsewhere."""
    gateway.streams_for(
        http2_answers.sequence(http2_answers.script(http2_answers.wait_until_over), http2_answers.echo())
    )
    client, _ = await gateway.begin("GET", "/slow")
    await gateway.upstream.lose_connections()
    async with soon("GET on its way", RESUMED_SECONDS):
        response = await client.read_response()
    assert (response.status, response.json()["connection"]) == (200, 1)


@over(http1)
async def a_request_on_its_way_when_the_machine_sleeps(gateway: Gateway, laptop: Laptop) -> None:
    """Over HTTP/1.1 only the sleep gives rise to a doubt: any answer may take as long as it likes."""
    gateway.answers(answers.sequence(answers.never_answer(), answers.echo()), "/slow")
    client, _ = await gateway.start("GET", "/slow")
    await gateway.upstream.lose_connections()
    await laptop.sleeps()
    async with soon("GET on its way"):
        assert (await client.read_response()).status == 200


@over(http1)
async def a_post_on_its_way_when_the_machine_sleeps(gateway: Gateway, laptop: Laptop) -> None:
    """It cannot be sent twice, but its client is soon told that nobody will answer."""
    gateway.answers(answers.never_answer())
    client, _ = await gateway.start("POST", "/slow")
    await gateway.upstream.lose_connections()
    await laptop.sleeps()
    async with soon("POST on its way", RESUMED_SECONDS):
        assert (await client.read_response()).status == 504
    assert received(gateway, "POST", "/slow") == 1


@over(http1)
async def an_upgrade_on_its_way_when_the_machine_sleeps(gateway: Gateway, laptop: Laptop) -> None:
    """It is asked for once: a second exec would be a second command."""
    gateway.answers(answers.never_answer(), "/exec")
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    await gateway.start("GET", "/exec", fields)
    await laptop.sleeps()
    await resumed(gateway)
    await asyncio.sleep(1.5)
    assert received(gateway, "GET", "/exec") == 1


@over(http1)
async def other_watches_end_when_one_connection_is_found_dead(gateway: Gateway) -> None:
    """No machine slept, a VPN went down and up: a second connection's answer casts a doubt on all others."""
    running = await gateway.watch()
    await rested(gateway)
    await gateway.upstream.lose_connections()
    async with soon("watch", RESUMED_SECONDS):
        assert (await gateway.request("GET", "/next")).status == 200
        await running.is_cut()


@over(http1, http2)
async def a_sleep_is_told(gateway: Gateway, laptop: Laptop) -> None:
    """The log has one line for each context with connections, and says how long."""
    running = await gateway.watch()
    await laptop.sleeps()
    line = await resumed(gateway)
    assert 1 <= line["slept_seconds"] <= STOPPED_SECONDS + 60
    await running.goes_on()


# -- all at the same time, and each a test --


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """`error`: what the case has raised."""

    error: BaseException | None
    told: Sequence[str]


async def run(case: Case, served: Served, pki: Pki, laptop: Laptop) -> Outcome:
    told: list[str] = []
    _told.set(told)
    try:
        async with AsyncExitStack() as owned:
            gateway = case.kind(served, pki, owned)
            await gateway.open()
            stage = {"laptop": laptop, "served": served}
            asked = {name: stage[name] for name in case.parameters & stage.keys()}
            await case.scenario(gateway, **case.choice, **asked)
    except (Exception, pytest.skip.Exception) as error:
        return Outcome(error=error, told=told)
    finally:
        laptop.is_ready.set()
    return Outcome(error=None, told=told)


async def sleep_once(program: ProxyProcess, laptops: Sequence[Laptop]) -> None:
    for laptop in laptops:
        await laptop.is_ready.wait()
    program.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        program.send_signal(signal.SIGCONT)
    for laptop in laptops:
        laptop.has_slept.set()


async def run_all(scenes: Mapping[Case, Served], pki: Pki) -> dict[Case, Outcome]:
    laptops = {case: Laptop() for case in scenes}
    async with clean_loop():
        async with asyncio.TaskGroup() as group:
            running = {}
            for case, served in scenes.items():
                running[case] = group.create_task(run(case, served, pki, laptops[case]))
                await asyncio.sleep(APART_SECONDS)
            sleepers = [case for case in scenes if case.sleeps]
            if sleepers:
                await sleep_once(scenes[sleepers[0]].program, [laptops[case] for case in sleepers])
        for served in scenes.values():
            await is_idle(served)
    return {case: task.result() for case, task in running.items()}


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Outcome]:
    """Of the cases that are asked for: they are over."""
    items = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params["case"] for item in items if isinstance(item, pytest.Function)}
    scenes: dict[Case, Served] = {}
    with ExitStack() as owned:
        for sleeps in (True, False):
            cases = [case for case in CASES if case in asked and case.sleeps == sleeps]
            folder = tmp_path_factory.mktemp("sleeps" if sleeps else "awake")
            if cases:
                contexts = owned.enter_context(serving_contexts(folder, pki, len(cases)))
                scenes.update(zip(cases, contexts, strict=True))
        runner = owned.enter_context(asyncio.Runner(loop_factory=chosen_loop))
        return runner.run(run_all(scenes, pki))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dead_network(case: Case, outcomes: Mapping[Case, Outcome]) -> None:
    """What the case's scenario says of itself."""
    outcome = outcomes[case]
    print(*outcome.told, sep="\n")
    if outcome.error is not None:
        raise outcome.error

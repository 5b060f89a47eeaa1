"""An HTTP/2 API server at its worst, under load: an answer is right, or it is an error, or it is cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import Counter

import pytest

from tests.conformance.conftest import Http2Gateway
from tests.support import http2_frames, secrets
from tests.support.answers import Step, chunk
from tests.support.client import RawClient, Response, request_bytes
from tests.support.http2_answers import JSON, answer
from tests.support.http2_frames import INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS
from tests.support.http2_server import Http2Connection, Stream
from tests.support.patience import LAST_RESORT_SECONDS

SEEDS = [1, 2]
CLIENTS = 12
REQUESTS = 40


def body_for(target: str) -> bytes:
    """Of some length between nothing and 200 KB, and like no other."""
    number = int(hashlib.sha256(target.encode()).hexdigest()[:6], 16)
    size = number % 200_000 if number % 3 else number % 300
    return (target.encode() + b"|") * (size // (len(target) + 1))


class Server:
    """Answers rightly, mostly; now and then it does something to a stream or to its connection."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.done: Counter[str] = Counter()
        """Uploads that were taken in to their end, by target."""

    async def __call__(self, stream: Stream) -> None:
        mood = self.chance.random()
        if mood < 0.03:
            await stream.reset(http2_frames.REFUSED_STREAM)
            return
        is_newest = stream.id == max(stream.connection.streams)
        if mood < 0.05 and is_newest and stream.connection.last_stream_id is None:
            # Left out by GOAWAY: what is above the last stream may be sent again.
            await stream.connection.go_away(max(stream.id - 2, 0))
            return
        body = await stream.read_body()
        if stream.method == "POST":
            self.done[stream.target] += 1
            assert bytes(body.data) == body_for(stream.target)
        if mood < 0.07:
            await stream.reset(self.chance.choice([0, 2, 8, 11]))
        elif mood < 0.08:
            stream.connection.close(self.chance.choice(list(ENDS)))
        elif mood < 0.10 and stream.connection.last_stream_id is None:
            await stream.connection.go_away(max(stream.connection.streams))
            await self.respond(stream)
        else:
            if mood < 0.15:
                await self.disturb(stream.connection)
            await self.respond(stream)

    async def disturb(self, connection: Http2Connection) -> None:
        """What a sound client lives with."""
        match self.chance.randrange(4):
            case 0:
                await connection.send_raw(http2_frames.frame(0xEE, b"?" * 100, stream_id=7))
            case 1:
                await connection.send_raw(http2_frames.frame(http2_frames.PING, bytes(8)))
            case 2:
                await connection.change_settings({INITIAL_WINDOW_SIZE: self.chance.choice([100, 65535])})
            case _:
                await connection.change_settings({MAX_CONCURRENT_STREAMS: self.chance.choice([2, 250])})

    async def respond(self, stream: Stream) -> None:
        body = body_for(stream.target)
        has_length = self.chance.random() < 0.5
        await stream.send_head(200, [JSON, *([("content-length", str(len(body)))] if has_length else [])])
        cut_at = self.chance.randrange(len(body) + 1) if self.chance.random() < 0.03 else None
        if cut_at is not None and cut_at < len(body):
            await stream.send_data(body[:cut_at])
            await stream.reset(self.chance.choice([0, 2, 8]))
            return
        while body:
            size = self.chance.randrange(1, 60_000)
            await stream.send_data(body[:size], padding=self.chance.choice([None, None, 0, 100]))
            body = body[size:]
        await stream.send_data(b"", end=True)


ENDS = (Step.CLOSE, Step.CUT, Step.RESET)


class Load:
    """One client that asks on and on."""

    def __init__(self, gateway: Http2Gateway, number: int, chance: random.Random) -> None:
        self.gateway = gateway
        self.number = number
        self.chance = chance
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        client = await self.gateway.connect()
        for step in range(REQUESTS):
            target = f"/api/{self.number}/{step}"
            method = "POST" if self.chance.random() < 0.4 else "GET"
            response = None
            with contextlib.suppress(ConnectionError):
                response = await self.ask(client, method, target)
            self.outcomes[self.judge(response, target)] += 1
            if (
                client.end is not None
                or response is None
                or not response.body.is_complete
                or response.value("Connection") == "close"
            ):
                client = await self.gateway.connect()

    async def ask(self, client: RawClient, method: str, target: str) -> Response | None:
        body = body_for(target)
        if method == "GET":
            await client.send(request_bytes("GET", target))
        elif self.chance.random() < 0.5:
            await client.send(request_bytes("POST", target, body=body))
        else:
            last = chunk(body) + b"0\r\n\r\n" if body else b"0\r\n\r\n"
            await client.send(request_bytes("POST", target, [("Transfer-Encoding", "chunked")]) + last)
        if self.chance.random() < 0.05:
            client.reset()
            return None
        return await client.read_response(method)

    def judge(self, response: Response | None, target: str) -> str:
        if response is None:
            return "left"
        if not response.body.is_complete:
            assert body_for(target).startswith(bytes(response.body.data))
            return "cut"
        if response.status == 200:
            assert bytes(response.body.data) == body_for(target)
            return "right"
        assert response.status in (502, 503, 504)
        assert response.json()["kind"] == "Status"
        assert not secrets.leaked(response.text)
        return "error"


@pytest.mark.slow
@pytest.mark.numbers
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_server_at_its_worst(http2_gateway: Http2Gateway, seed: int) -> None:
    """Nothing is mixed up, nothing looks whole that is not, no upload is done twice, nothing is left."""
    chance = random.Random(seed)
    worst = Server(chance)
    server = await http2_gateway.replace_upstream(allows_errors=True)
    http2_gateway.streams_for(worst)
    loads = [Load(http2_gateway, number, random.Random(seed * 100 + number)) for number in range(CLIENTS)]
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await asyncio.gather(*(load.run() for load in loads))
    outcomes = sum((load.outcomes for load in loads), Counter[str]())
    twice = [target for target, times in worst.done.items() if times > 1]
    print(f"seed {seed}: {dict(outcomes)}, {len(server.h2_connections)} connections")
    assert not twice
    assert outcomes["right"] > CLIENTS * REQUESTS * 0.7
    assert not server.objections
    assert not http2_gateway.program.log_events("internal.failed")
    await http2_gateway.replace_upstream()
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).text == "{}"

"""Connections that many requests share: how many there are, when another is dialled, and how they end."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kproxy.errors import KproxyError
from kproxy.kube import kubeconfig as kube
from kproxy.kube.resolve import server_address
from kproxy.telemetry.metrics import Tally
from kproxy.upstream.carrier import Carrier
from kproxy.upstream.connector import Connector
from kproxy.upstream.dial import Dialer
from kproxy.upstream.health import Health
from kproxy.upstream.http2.connection import Http2Connection
from kproxy.upstream.pool import Pool
from tests.conformance.conftest import Http2Gateway
from tests.support import http2_frames, secrets
from tests.support.answers import BLOCK, Step, chunk, tunnel
from tests.support.answers import echo as http1_echo
from tests.support.api_server import Stream as WatchingClient
from tests.support.api_server import ask, exec_user
from tests.support.channel import Channel
from tests.support.client import RawClient, request_bytes
from tests.support.exec_plugin import Plugin
from tests.support.http2_answers import (
    JSON,
    answer,
    cut,
    echo,
    end,
    head,
    reset,
    script,
    sequence,
    watch,
)
from tests.support.http2_frames import MAX_CONCURRENT_STREAMS, REFUSED_STREAM
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.pair_files import PairFiles
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.program import Program, kubeconfig
from tests.support.proxies import ConnectProxy, SocksProxy

WATCH = "/api/v1/pods?watch=true"
COLD = 40
ANY_STREAM = 2**31 - 1
NO_APPLICATION_PROTOCOL = 120
"""The alert of RFC 7301, 3.2."""
HTTP1 = ("http/1.1",)


async def is_over(stream: Stream, seconds: float = 2) -> None:
    async with asyncio.timeout(seconds):
        await stream.over.wait()


# -- how many --


async def test_forty_requests_of_a_cold_proxy_dial_once(http2_gateway: Http2Gateway) -> None:
    """A page that opens sends them all at once; each handshake costs both sides milliseconds."""
    accepted: list[Channel] = []
    shake = asyncio.Event()

    async def hold(channel: Channel) -> None:
        accepted.append(channel)
        server.changed()
        await shake.wait()

    server = await http2_gateway.replace_upstream(before_handshake=hold)
    http2_gateway.streams_for(echo())
    asking = [asyncio.create_task(http2_gateway.request(target=f"/api/{n}")) for n in range(COLD)]
    await server.wait_for(lambda: bool(accepted), "a dial")
    shake.set()
    responses = await asyncio.gather(*asking)
    assert [each.status for each in responses] == [200] * COLD
    assert len(accepted) == 1


async def test_an_error_of_the_shared_dial_reaches_all(http2_gateway: Http2Gateway) -> None:
    """Each of them is told, none is left waiting, and the next request finds a server that has come back."""
    accepted: list[Channel] = []
    fail = asyncio.Event()

    async def refuse(channel: Channel) -> None:
        accepted.append(channel)
        server.changed()
        await fail.wait()
        channel.reset()
        raise ConnectionResetError

    server = await http2_gateway.replace_upstream(before_handshake=refuse)
    asking = [asyncio.create_task(http2_gateway.request(target=f"/api/{n}")) for n in range(COLD)]
    await server.wait_for(lambda: bool(accepted), "a dial")
    fail.set()
    for response in await asyncio.gather(*asking):
        assert response.status == 502
        assert response.json()["kind"] == "Status"
        assert not secrets.leaked(response.text)
    await http2_gateway.replace_upstream()
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200


async def test_a_client_that_leaves_does_not_stop_the_shared_dial(http2_gateway: Http2Gateway) -> None:
    """Others wait for it, too."""
    shake, dialled = asyncio.Event(), asyncio.Event()

    async def hold(channel: Channel) -> None:
        dialled.set()
        await shake.wait()

    await http2_gateway.replace_upstream(before_handshake=hold)
    http2_gateway.streams_for(answer(b"{}"))
    leaver = await http2_gateway.connect()
    await leaver.send(request_bytes("GET", "/api/leaver"))
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await dialled.wait()
    staying = asyncio.create_task(http2_gateway.request(target="/api/stayer"))
    leaver.reset()
    await http2_gateway.finished("/api/leaver")
    shake.set()
    assert (await staying).status == 200


async def test_forty_requests_find_that_http2_is_not_spoken(
    http2_gateway: Http2Gateway, pki_context: ssl.SSLContext
) -> None:
    """Who shared the dial gets a connection of HTTP/1.1 each, and all are answered."""
    server = await http2_gateway.replace_upstream(tls=pki_context)
    http2_gateway.answers(http1_echo())
    responses = await asyncio.gather(*(http2_gateway.request(target=f"/api/{n}") for n in range(COLD)))
    assert [each.json()["target"] for each in responses] == [f"/api/{n}" for n in range(COLD)]
    assert not server.streams


@pytest.fixture
def pki_context(http2_gateway: Http2Gateway) -> ssl.SSLContext:
    ca = http2_gateway.ca
    return ca.server_context(client_ca=ca, alpn=HTTP1)


async def test_a_server_that_has_lost_http2_is_served(
    http2_gateway: Http2Gateway, pki_context: ssl.SSLContext
) -> None:
    """And one that has it again: each connection decides anew."""
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    server = await http2_gateway.replace_upstream(tls=pki_context)
    http2_gateway.answers(http1_echo())
    assert (await http2_gateway.request()).json()["target"] == "/api"
    assert len(server.requests) == 1
    server = await http2_gateway.replace_upstream()
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    assert len(server.streams) == 1


async def test_a_connection_that_is_full_gets_a_second(http2_gateway: Http2Gateway) -> None:
    """Nobody waits for a watch to end; the server never sees more streams than it allows."""
    http2_gateway.server.settings[MAX_CONCURRENT_STREAMS] = 3
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    watches = [await http2_gateway.watch(f"/w{number}") for number in range(7)]
    assert (await http2_gateway.request()).status == 200
    assert sorted(each.stream.connection.number for each in watches) == [0, 0, 0, 1, 1, 1, 2]
    for each in watches:
        await each.goes_on()
    assert not http2_gateway.server.refused


async def test_a_limit_of_one(http2_gateway: Http2Gateway) -> None:
    """Every request has its connection, as over HTTP/1.1; one that is idle is used again."""
    http2_gateway.server.settings[MAX_CONCURRENT_STREAMS] = 1
    http2_gateway.streams_for(answer(b"{}"))
    for _ in range(5):
        assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1
    watches = [await http2_gateway.watch(f"/w{number}") for number in range(3)]
    assert len({each.stream.connection for each in watches}) == 3


async def test_forty_cold_requests_and_a_limit_of_one(http2_gateway: Http2Gateway) -> None:
    """They are sent before the limit is known, or wait for it: either way each is answered, none twice."""
    http2_gateway.server.settings[MAX_CONCURRENT_STREAMS] = 1
    http2_gateway.streams_for(echo())
    responses = await asyncio.gather(
        *(http2_gateway.request("POST", f"/api/{n}", body=b"x") for n in range(COLD))
    )
    assert [each.status for each in responses] == [200] * COLD
    targets = sorted(stream.target for stream in http2_gateway.server.streams)
    assert targets == sorted(f"/api/{n}" for n in range(COLD))


async def test_a_limit_of_zero_for_a_while(http2_gateway: Http2Gateway) -> None:
    """A server may close its doors in mid-connection: what runs goes on, what is new goes elsewhere."""
    running = await http2_gateway.watch()
    connection = running.stream.connection
    await connection.change_settings({MAX_CONCURRENT_STREAMS: 0})
    http2_gateway.streams_for(echo())
    response = await http2_gateway.request()
    assert (response.status, response.json()["connection"]) == (200, 1)
    await running.goes_on()


async def test_a_limit_that_grows(http2_gateway: Http2Gateway) -> None:
    """Room that appears on a connection is used before another is dialled."""
    http2_gateway.server.settings[MAX_CONCURRENT_STREAMS] = 1
    first = await http2_gateway.watch("/w0")
    await first.stream.connection.change_settings({MAX_CONCURRENT_STREAMS: 100})
    second = await http2_gateway.watch("/w1")
    assert second.stream.connection is first.stream.connection


async def test_every_end_of_a_stream_makes_room(http2_gateway: Http2Gateway) -> None:
    """However requests end, their places are free again: a connection for five goes on to take five."""
    http2_gateway.server.settings[MAX_CONCURRENT_STREAMS] = 5

    async def break_off(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        await stream.send_data(b"half")
        await stream.reset(http2_frames.INTERNAL_ERROR)

    async def refuse_early(stream: Stream) -> None:
        await stream.send_head(413, [("content-length", "0")], end=True)

    http2_gateway.streams_for(answer(b"{}"))
    http2_gateway.streams_for(reset(http2_frames.CANCEL), "/reset")
    http2_gateway.streams_for(break_off, "/half")
    http2_gateway.streams_for(refuse_early, "/early")
    http2_gateway.streams_for(script([(":status", "abc")], lambda stream: stream.over.wait()), "/malformed")
    http2_gateway.streams_for(script(lambda stream: stream.over.wait(), early=True), "/left")
    for _ in range(4):
        for target in ("/api", "/reset", "/half", "/malformed"):
            await http2_gateway.request(target=target)
        client, _ = await http2_gateway.begin("POST", "/early", [("Content-Length", "100")], b"half")
        assert (await client.read_response("POST")).status == 413
        client, stream = await http2_gateway.begin("POST", "/left", [("Content-Length", "100")], b"half")
        client.reset()
        await is_over(stream)
    watches = [await http2_gateway.watch(f"/w{number}") for number in range(5)]
    assert len(http2_gateway.connections) == 1
    await http2_gateway.watch("/w5")
    assert len(http2_gateway.connections) == 2
    for each in watches:
        await each.goes_on()


@pytest.mark.slow
async def test_three_hundred_watches(http2_gateway: Http2Gateway) -> None:
    """On two connections of the 250 that an API server allows; every one gets its events."""
    watches = await asyncio.gather(*(http2_gateway.watch(f"/w{n}") for n in range(300)))
    assert len(http2_gateway.connections) == 2
    for number in range(3):
        await asyncio.gather(*(each.goes_on(b"event %d\n" % number) for each in watches))
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    await asyncio.gather(*(each.ends() for each in watches))


async def test_streams_beyond_a_thousand(http2_gateway: Http2Gateway) -> None:
    """One connection serves on and on: ids grow, nothing else does."""
    http2_gateway.streams_for(answer(b"{}"))
    clients = [await http2_gateway.connect() for _ in range(4)]

    async def load(client: RawClient) -> None:
        for _ in range(300):
            assert (await client.request("GET", "/api")).status == 200

    await asyncio.gather(*(load(client) for client in clients))
    assert len(http2_gateway.connections) == 1
    assert max(http2_gateway.connections[0].streams) >= 2 * 1200 - 1


# -- upgrades --


async def test_an_upgrade_has_an_http1_connection_of_its_own(http2_gateway: Http2Gateway) -> None:
    """HTTP/2 has no upgrades; the watch beside it goes on over HTTP/2."""
    running = await http2_gateway.watch()
    http2_gateway.answers(tunnel())
    client = await http2_gateway.connect()
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
    target = "/api/v1/namespaces/ns/pods/p/portforward"
    await client.send(request_bytes("POST", target, upgrade))
    assert (await client.read_head()).status == 101
    await client.send(b"both ways")
    assert await client.read_exactly(9) == b"both ways"
    [connection] = http2_gateway.server.connections
    assert connection.channel.tls is not None
    assert connection.channel.tls.selected_alpn_protocol() in ("http/1.1", None)
    await running.goes_on()
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1
    client.reset()


# -- refused streams and GOAWAY --


async def refuse(stream: Stream) -> None:
    await stream.reset(REFUSED_STREAM)


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b""), ("POST", b"x" * 60_000)])
async def test_a_refused_stream_is_sent_once_more(
    http2_gateway: Http2Gateway, method: str, body: bytes | None
) -> None:
    """REFUSED_STREAM says that nothing was done (RFC 9113, 8.7), so any method may be repeated."""
    http2_gateway.streams_for(sequence(refuse, echo()))
    response = await http2_gateway.request(method, "/api", body=body)
    assert response.status == 200
    assert response.json()["size"] == len(body or b"")
    assert len(http2_gateway.server.streams) == 2
    assert len(http2_gateway.connections) == 1


async def test_a_refused_upload_that_is_under_way_is_sent_once_more_if_it_is_small(
    http2_gateway: Http2Gateway,
) -> None:
    """What came so far is kept; what comes later follows."""
    http2_gateway.streams_for(sequence(refuse, echo()))
    client, _ = await http2_gateway.begin("POST", headers=[("Transfer-Encoding", "chunked")])
    await client.send(chunk(b"one"))
    await http2_gateway.server.wait_for_streams(2)
    await client.send(chunk(b"two") + b"0\r\n\r\n")
    response = await client.read_response("POST")
    assert (response.status, response.json()["body"]) == (200, "onetwo")


async def test_a_stream_that_is_always_refused_ends_in_an_error(http2_gateway: Http2Gateway) -> None:
    """After some tries the client is told; the proxy does not hammer on."""
    http2_gateway.streams_for(refuse)
    response = await http2_gateway.request()
    assert response.status in (502, 503)
    assert response.json()["kind"] == "Status"
    tries = [stream.received_at for stream in http2_gateway.server.streams]
    assert len(tries) <= 10
    assert tries[-1] - tries[0] > 1


async def test_a_server_that_takes_no_streams_ends_in_an_error(http2_gateway: Http2Gateway) -> None:
    """A limit of zero from the greeting on: the client is told, and the proxy does not dial for ever."""
    http2_gateway.server.settings[MAX_CONCURRENT_STREAMS] = 0
    # One is tried all the same: its refusal is what ends the matter.
    http2_gateway.server.allows_errors = True
    http2_gateway.streams_for(answer(b"{}"))
    response = await http2_gateway.request()
    assert response.status in (502, 503)
    assert response.json()["kind"] == "Status"
    assert len(http2_gateway.connections) <= 10


async def test_goaway_lets_streams_finish(http2_gateway: Http2Gateway) -> None:
    """An API server that restarts says so first: watches end when it ends them, new requests go elsewhere."""
    running = await http2_gateway.watch()
    old = running.stream.connection
    http2_gateway.streams_for(echo())
    await old.go_away(ANY_STREAM)
    await old.ping()
    assert (await http2_gateway.request()).json()["connection"] == 1
    await old.go_away(running.stream.id)
    await running.goes_on()
    assert (await http2_gateway.request()).json()["connection"] == 1
    await running.ends()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await old.ended.wait()


async def test_an_idle_connection_that_goes_away_is_closed(http2_gateway: Http2Gateway) -> None:
    """Nothing runs on it: it is of no more use."""
    http2_gateway.streams_for(echo())
    assert (await http2_gateway.request()).json()["connection"] == 0
    [connection] = http2_gateway.connections
    await connection.go_away(1)
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await connection.ended.wait()
    assert (await http2_gateway.request("POST", "/api", body=b"x")).json()["connection"] == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("then", ["stays", "closes"])
async def test_a_request_that_goaway_leaves_out_is_sent_once_more(
    http2_gateway: Http2Gateway, method: str, then: str
) -> None:
    """Streams above the last were not processed (RFC 9113, 6.8): even a POST may go to another connection."""
    running = await http2_gateway.watch()

    async def leave_out(stream: Stream) -> None:
        await stream.connection.go_away(running.stream.id)
        if then == "closes":
            stream.connection.close()
        await stream.over.wait()

    http2_gateway.streams_for(sequence(leave_out, echo()))
    response = await http2_gateway.request(method, "/api", body=b"once" if method == "POST" else None)
    assert response.status == 200
    assert response.json()["connection"] == 1
    assert response.json()["body"] == ("once" if method == "POST" else "")
    assert len(http2_gateway.server.streams) == 3
    if then == "stays":
        await running.goes_on()
    else:
        await running.is_cut()


@pytest.mark.parametrize("code", [http2_frames.NO_ERROR, http2_frames.ENHANCE_YOUR_CALM])
async def test_a_post_that_was_perhaps_processed_is_not_sent_again(
    http2_gateway: Http2Gateway, code: int
) -> None:
    """It is not above the last stream, and then the connection ends: the client must decide."""

    async def take_in(stream: Stream) -> None:
        await stream.read_body()
        await stream.connection.go_away(stream.id, code)
        stream.connection.close()

    http2_gateway.streams_for(take_in)
    response = await http2_gateway.request("POST", "/api", body=b"once")
    assert response.status == 502
    assert response.json()["kind"] == "Status"
    assert len(http2_gateway.server.streams) == 1


async def test_a_post_on_a_connection_that_is_cut_is_not_sent_again(http2_gateway: Http2Gateway) -> None:
    """Nobody knows what was done."""
    http2_gateway.streams_for(sequence(answer(b"{}"), cut(Step.CUT)))
    assert (await http2_gateway.request()).status == 200
    response = await http2_gateway.request("POST", "/api", body=b"once")
    assert response.status == 502
    assert len(http2_gateway.server.streams) == 2


async def test_a_get_on_a_reused_connection_that_is_cut_is_sent_once_more(
    http2_gateway: Http2Gateway,
) -> None:
    """As over HTTP/1.1: the end may have crossed the request."""
    http2_gateway.streams_for(sequence(answer(b"{}"), cut(Step.CUT), echo()))
    assert (await http2_gateway.request()).status == 200
    response = await http2_gateway.request()
    assert (response.status, response.json()["connection"]) == (200, 1)


async def test_a_server_that_greets_with_goaway_ends_in_an_error(http2_gateway: Http2Gateway) -> None:
    """It accepts and takes nothing, as one that is about to end: it is not dialled for ever."""

    tls = http2_gateway.ca.server_context(client_ca=http2_gateway.ca, alpn=H2)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await http2_gateway.replace_upstream(tls=tls)
    server.says_with_handshake = http2_frames.settings_frame() + http2_frames.goaway_frame(0)
    http2_gateway.streams_for(echo())
    response = await http2_gateway.request()
    assert response.status == 502
    assert len(server.h2_connections) <= 10


async def test_a_connection_that_ends_before_it_is_asked_is_no_matter(http2_gateway: Http2Gateway) -> None:
    """A server that is restarted may have accepted it: nothing was asked, even a POST goes elsewhere."""

    async def last(channel: Channel) -> None:
        server.says_with_handshake = b"" if accepted else bye
        accepted.append(channel)

    accepted: list[Channel] = []
    bye = http2_frames.settings_frame() + http2_frames.goaway_frame(0)
    tls = http2_gateway.ca.server_context(client_ca=http2_gateway.ca, alpn=H2)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await http2_gateway.replace_upstream(tls=tls, before_handshake=last)
    http2_gateway.streams_for(echo())
    response = await http2_gateway.request("POST", "/api", body=b"once")
    assert (response.status, response.json()["body"]) == (200, "once")
    assert len(accepted) == 2


async def test_goaway_again_and_again_ends_in_an_error(http2_gateway: Http2Gateway) -> None:
    """A server that takes nothing is not dialled for ever."""

    async def go_away(stream: Stream) -> None:
        await stream.connection.go_away(0)
        stream.connection.close()

    http2_gateway.streams_for(go_away)
    response = await http2_gateway.request()
    assert response.status in (502, 503)
    assert len(http2_gateway.connections) <= 10


async def test_goaway_under_load_loses_nothing(http2_gateway: Http2Gateway) -> None:
    """Connections go away in order while eight clients write: each request is answered, none done twice."""
    done: list[str] = []

    async def count(stream: Stream) -> None:
        await stream.read_body()
        done.append(stream.target)
        connection = stream.connection
        if len(done) % 50 == 0 and connection.last_stream_id is None:
            await connection.go_away(max(connection.streams))
        await answer(b"{}")(stream)

    http2_gateway.streams_for(count)

    async def write(number: int) -> None:
        client = await http2_gateway.connect()
        for step in range(60):
            response = await client.request("POST", f"/api/{number}/{step}", body=b"x")
            assert response.status == 200, response.text

    await asyncio.gather(*(write(number) for number in range(8)))
    assert sorted(done) == sorted(f"/api/{number}/{step}" for number in range(8) for step in range(60))
    assert len(http2_gateway.connections) >= 5


@pytest.mark.parametrize("how", [Step.CLOSE, Step.CUT, Step.RESET])
async def test_a_connection_that_ends_cuts_all_its_answers(http2_gateway: Http2Gateway, how: Step) -> None:
    """None of them may look complete; with a length, chunked or to the end for HTTP/1.0."""
    http2_gateway.streams_for(script(head(200, JSON, ("content-length", "10")), b"12345"), "/length")
    http2_gateway.streams_for(script(head(200, JSON), b"12345"))
    clients = []
    for line in (b"GET /length HTTP/1.1", b"GET /api HTTP/1.1", b"GET /api HTTP/1.0"):
        client = await http2_gateway.connect()
        await client.send(line + b"\r\nHost: localhost\r\n\r\n")
        response = await client.read_head()
        await client.read_until(response, b"12345")
        clients.append((client, response))
    stream = http2_gateway.server.streams[0]
    assert len(http2_gateway.connections) == 1
    await cut(how)(stream)
    for client, response in clients:
        assert await client.read_piece(response) == b""
        assert not response.body.is_complete
    assert clients[2][0].end == "reset"


@pytest.mark.parametrize("code", range(14))
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_that_is_reset_cannot_look_complete(
    http2_gateway: Http2Gateway, version: str, code: int
) -> None:
    """Whatever the code, NO_ERROR too: without END_STREAM there is more. Other streams go on."""
    other = await http2_gateway.watch()
    go = asyncio.Event()
    http2_gateway.streams_for(script(head(200, JSON), b"12345", go, reset(code)))
    client = await http2_gateway.connect()
    await client.send(f"GET /api HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    response = await client.read_head()
    await client.read_until(response, b"12345")
    go.set()
    assert await client.read_piece(response) == b""
    assert not response.body.is_complete
    if version == "1.0":
        assert client.end == "reset"
    await other.goes_on()


async def test_a_get_that_is_reset_is_not_sent_again(http2_gateway: Http2Gateway) -> None:
    """The API server has seen it, and on a connection that is alive: no reason to try another."""
    http2_gateway.streams_for(sequence(answer(b"{}"), reset(http2_frames.INTERNAL_ERROR), answer(b"{}")))
    assert [(await http2_gateway.request()).status for _ in range(3)] == [200, 502, 200]
    assert len(http2_gateway.server.streams) == 3
    assert len(http2_gateway.connections) == 1


@pytest.mark.parametrize("code", [http2_frames.NO_ERROR, http2_frames.INTERNAL_ERROR, http2_frames.CANCEL])
async def test_a_stream_that_is_reset_before_its_answer_is_an_error(
    http2_gateway: Http2Gateway, code: int
) -> None:
    """502 with a Status; the client's connection goes on, and so does the one to the API server."""
    http2_gateway.streams_for(sequence(reset(code), answer(b"{}")))
    client = await http2_gateway.connect()
    response = await client.request("POST", "/api", body=b"x")
    assert response.status == 502
    assert response.json()["kind"] == "Status"
    assert response.values("Proxy-Status")
    assert not secrets.leaked(response.text)
    assert (await client.request("GET", "/api")).status == 200
    assert len(http2_gateway.connections) == 1


# -- with a program of its own --


class Cluster:
    """An API server with HTTP/2, and a kubeconfig that names it."""

    def __init__(self, server: Http2Server, ca: CA, directory: Path) -> None:
        self.server = server
        self.ca = ca
        self.directory = directory

    def kubeconfig(self, cluster: Mapping[str, str] | None = None, **user: object) -> Path:
        return kubeconfig(self.directory, self.server, ca_pem=self.ca.pem, user=user, cluster=cluster)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    ca = CA()
    tls = ca.server_context(client_ca=ca, client_certificate_required=False, alpn=H2)
    async with Http2Server(echo(), tls=tls, responder=http1_echo()) as server:
        yield Cluster(server, ca, tmp_path)


@pytest.mark.parametrize("how", ["flag", "key", "variable"])
async def test_http2_can_be_turned_off(cluster: Cluster, how: str) -> None:
    """`DISABLE_HTTP2` counts as in kubectl: whatever it says, if it says anything."""
    config = cluster.directory / "config.yaml"
    config.write_text("http2: false\n")
    args = {"flag": ["--no-http2"], "key": [f"--config={config}", "--port=0"], "variable": []}[how]
    env = {"DISABLE_HTTP2": "0"} if how == "variable" else {}
    async with Program(
        *args, kubeconfig=cluster.kubeconfig(token=secrets.plant("token")), env=env
    ) as program:
        assert (await ask(program)).json()["target"] == "/api"
    assert not cluster.server.h2_connections
    assert len(cluster.server.requests) == 1


async def test_an_empty_disable_http2_says_nothing(cluster: Cluster) -> None:
    """As in kubectl."""
    path = cluster.kubeconfig(token=secrets.plant("token"))
    async with Program(kubeconfig=path, env={"DISABLE_HTTP2": ""}) as program:
        assert (await ask(program)).status == 200
    assert len(cluster.server.streams) == 1


async def test_a_401_renews_the_credential(cluster: Cluster) -> None:
    """Thirty streams of one connection get it; the plugin runs once, and each is sent once more."""
    plugin = Plugin(cluster.directory / "plugin")
    plugin.issues(token=secrets.plant("old"))
    new = secrets.plant("new")
    gate = asyncio.Event()

    async def judge(stream: Stream) -> None:
        await stream.read_body()
        if stream.value("authorization") == f"Bearer {new}":
            await echo()(stream)
        else:
            await gate.wait()
            await answer(b"no", 401)(stream)

    async with Program(kubeconfig=cluster.kubeconfig(exec=exec_user(plugin))) as program:
        assert (await ask(program)).status == 200
        cluster.server.answers = judge
        asking = [
            asyncio.create_task(ask(program, f"/api/{number}", "POST", b"body")) for number in range(30)
        ]
        await cluster.server.wait_for_streams(31)
        plugin.issues(token=new)
        gate.set()
        responses = await asyncio.gather(*asking)
        assert [(each.status, each.json()["body"]) for each in responses] == [(200, "body")] * 30
    assert plugin.runs == 2
    assert len(cluster.server.streams) == 61
    assert len(cluster.server.h2_connections) <= 2


async def test_a_renewed_client_certificate_gets_a_new_connection(cluster: Cluster) -> None:
    """Streams keep the old one, which is closed after the last of them."""
    pair = PairFiles(cluster.directory, "client")
    pair.write(*cluster.ca.issue("alice", client=True))
    path = cluster.kubeconfig(None, **pair.user)
    events: asyncio.Queue[bytes | None] = asyncio.Queue()
    cluster.server.paths["/api/v1/pods"] = watch(events)
    async with Program(kubeconfig=path) as program, WatchingClient(program) as watching:
        old = cluster.server.h2_connections[0]
        assert (await ask(program)).json()["cn"] == "alice"
        pair.write(*cluster.ca.issue("bob", client=True))
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while (await ask(program)).json()["cn"] != "bob":
                await asyncio.sleep(0.02)
        events.put_nowait(b"still alice's\n")
        await watching.expects("still alice's")
        assert not old.ended.is_set()
        assert len(cluster.server.h2_connections) == 2
        events.put_nowait(None)
        await watching.ends()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await old.ended.wait()
        assert (await ask(program)).json()["connection"] == 1


async def test_a_changed_kubeconfig_gets_a_new_connection(cluster: Cluster) -> None:
    """The watch of the old one goes on where it is; its connection is closed behind it."""
    old, new = secrets.plant("old"), secrets.plant("new")
    path = cluster.kubeconfig(token=old)
    events: asyncio.Queue[bytes | None] = asyncio.Queue()
    cluster.server.paths["/api/v1/pods"] = watch(events)
    async with Program(kubeconfig=path) as program, WatchingClient(program) as watching:
        cluster.kubeconfig(token=new)
        program.send_signal(signal.SIGHUP)
        await program.output("kubeconfig.reloaded")
        response = await ask(program)
        assert response.json()["connection"] == 1
        assert cluster.server.streams[-1].value("authorization") == f"Bearer {new}"
        events.put_nowait(b"going on\n")
        await watching.expects("going on")
        assert not cluster.server.h2_connections[0].ended.is_set()
        events.put_nowait(None)
        await watching.ends()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await cluster.server.h2_connections[0].ended.wait()
        assert (await ask(program)).json()["connection"] == 1


async def test_a_refused_request_of_an_old_kubeconfig_is_sent_once_more(cluster: Cluster) -> None:
    """It keeps its credential, and has a connection of its own, which ends with it."""
    old, go = secrets.plant("old"), asyncio.Event()

    async def refuse_late(stream: Stream) -> None:
        await go.wait()
        await refuse(stream)

    cluster.server.answers = sequence(refuse_late, echo())
    async with Program(kubeconfig=cluster.kubeconfig(token=old)) as program:
        asking = asyncio.create_task(ask(program))
        await cluster.server.wait_for_streams(1)
        cluster.kubeconfig(token=secrets.plant("new"))
        program.send_signal(signal.SIGHUP)
        await program.output("kubeconfig.reloaded")
        go.set()
        response = await asking
        assert (response.status, response.json()["connection"]) == (200, 1)
        assert cluster.server.streams[1].value("authorization") == f"Bearer {old}"
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await cluster.server.h2_connections[1].ended.wait()


async def test_rotate_close_cuts_streams_alone(cluster: Cluster) -> None:
    """The streams of the old certificate are cut; a request that will end gets its answer."""
    pair = PairFiles(cluster.directory, "client")
    pair.write(*cluster.ca.issue("alice", client=True))
    path = cluster.kubeconfig(None, **pair.user)
    go = asyncio.Event()
    events: asyncio.Queue[bytes | None] = asyncio.Queue()
    cluster.server.paths["/api/v1/pods"] = watch(events)
    cluster.server.paths["/slow"] = script(go, head(200, JSON), b"late", end)
    async with Program("--rotate-close", kubeconfig=path) as program, WatchingClient(program) as watching:
        slow = asyncio.create_task(ask(program, "/slow"))
        await cluster.server.wait_for_streams(2)
        pair.write(*cluster.ca.issue("bob", client=True))
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while (await ask(program)).json()["cn"] != "bob":
                await asyncio.sleep(0.02)
        await watching.is_cut()
        go.set()
        assert (await slow).text == "late"
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await cluster.server.h2_connections[0].ended.wait()


@pytest.mark.parametrize("running", [True, False])
async def test_sigterm_with_streams(cluster: Cluster, running: bool) -> None:
    """A request in its grace gets its answer; a watch is cut, not ended; the connection is closed."""
    go = asyncio.Event()
    cluster.server.paths["/api/v1/pods"] = script(head(200, JSON), b"{}\n", lambda stream: stream.over.wait())
    cluster.server.paths["/slow"] = script(go, head(200, JSON), b"late", end)
    path = cluster.kubeconfig(token=secrets.plant("token"))
    async with Program("--grace-period=5s", kubeconfig=path) as program, WatchingClient(program) as watching:
        await watching.first_event()
        slow = asyncio.create_task(ask(program, "/slow")) if running else None
        if slow is not None:
            await cluster.server.wait_for_streams(2)
        stopping = asyncio.create_task(program.stopped(signal.SIGTERM))
        if slow is not None:
            await program.output("server.draining")
            go.set()
            response = await slow
            assert (response.text, response.body.is_complete) == ("late", True)
        await watching.is_cut()
        assert await stopping == 0
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await cluster.server.h2_connections[0].ended.wait()


async def test_a_token_is_in_no_message_about_http2(cluster: Cluster) -> None:
    """Debug data of GOAWAY may hold anything, also what we have sent; answers and log stay clean."""
    token = secrets.plant("token")

    async def tell_all(stream: Stream) -> None:
        debug = json.dumps(stream.fields).encode()
        await stream.connection.go_away(stream.id, http2_frames.ENHANCE_YOUR_CALM, debug)
        stream.connection.close()

    cluster.server.answers = tell_all
    async with Program("-v=9", kubeconfig=cluster.kubeconfig(token=token)) as program:
        response = await ask(program, method="POST", body=b"x")
        assert response.status == 502
        assert not secrets.leaked(response.text)
        assert await program.stopped() == 0


async def test_a_big_answer_is_no_burden_for_the_others(http2_gateway: Http2Gateway) -> None:
    """Small requests beside a download on the same connection are answered at once."""

    async def without_end(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        while True:
            await stream.send_data(BLOCK)

    http2_gateway.streams_for(without_end, "/big")
    http2_gateway.streams_for(answer(b"{}"))
    client, _ = await http2_gateway.begin(target="/big")
    response = await client.read_head()

    async def read_on() -> None:
        while await client.read_piece(response):
            response.body.data.clear()

    reading = asyncio.create_task(read_on())
    try:
        other = await http2_gateway.connect()
        took = []
        for _ in range(20):
            asked_at = time.monotonic()
            assert (await other.request("GET", "/api")).status == 200
            took.append(time.monotonic() - asked_at)
        assert statistics.median(took) < 1
    finally:
        reading.cancel()
    assert len(http2_gateway.connections) == 1


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
async def test_http2_is_spoken_through_a_proxy(cluster: Cluster, kind: str) -> None:
    """One tunnel carries many requests; an upgrade has its own."""
    password = secrets.plant("proxy-password")
    env: dict[str, str] = {}
    proxy: ConnectProxy | SocksProxy
    if kind == "socks5":
        proxy = SocksProxy(username="me", password=password)
    elif kind == "http":
        proxy = ConnectProxy(username="me", password=password)
    else:
        ca = CA("proxy-ca")
        (cluster.directory / "proxy-ca.crt").write_bytes(ca.pem)
        env["SSL_CERT_FILE"] = str(cluster.directory / "proxy-ca.crt")
        proxy = ConnectProxy(username="me", password=password, ssl_context=ca.server_context())
    cluster.server.responder = tunnel()
    async with proxy:
        path = cluster.kubeconfig({"proxy-url": proxy.url_with_password}, token=secrets.plant("token"))
        async with Program(kubeconfig=path, env=env) as program:
            responses = await asyncio.gather(
                *(ask(program, f"/api/{number}", "POST", b"x" * 30_000) for number in range(10))
            )
            assert [each.json()["size"] for each in responses] == [30_000] * 10
            assert len(proxy.requests) == len(cluster.server.h2_connections) == 1
            async with WatchingClient(program, "/api/tunnel", upgrade="websocket") as upgraded:
                await upgraded.echoes(b"both ways")
            assert len(proxy.requests) == 2
            assert (await ask(program)).json()["connection"] == 0


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
async def test_a_long_upload_beside_http2(cluster: Cluster, size: int) -> None:
    """Whichever way it takes, it arrives, and what shares the other connection goes on."""
    async with Program(kubeconfig=cluster.kubeconfig(token=secrets.plant("token"))) as program:
        assert (await ask(program)).json()["connection"] == 0
        response = await ask(program, method="PUT", body=b"x" * size)
        assert response.json()["size"] == size
        assert (await ask(program)).json()["connection"] == 0


@pytest.mark.parametrize("how", ["RST_STREAM", "GOAWAY"])
@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"once")])
async def test_http1_that_is_required_is_spoken(
    cluster: Cluster, how: str, method: str, body: bytes | None
) -> None:
    """HTTP_1_1_REQUIRED: the request goes there, and so do the next ones; what runs over HTTP/2 goes on."""
    server = cluster.server
    events: asyncio.Queue[bytes | None] = asyncio.Queue()
    server.paths["/api/v1/pods"] = watch(events)

    async def require(stream: Stream) -> None:
        if how == "GOAWAY":
            await stream.connection.go_away(1, http2_frames.HTTP_1_1_REQUIRED)
        else:
            await stream.reset(http2_frames.HTTP_1_1_REQUIRED)

    server.answers = require
    path = cluster.kubeconfig(token=secrets.plant("token"))
    async with Program(kubeconfig=path) as program, WatchingClient(program) as watching:
        response = await ask(program, "/api", method, body)
        assert (response.status, response.json()["body"]) == (200, (body or b"").decode())
        assert (await ask(program)).status == 200
        assert (len(server.streams), len(server.requests), len(server.connections)) == (2, 2, 1)
        events.put_nowait(b"going on\n")
        await watching.expects("going on")
        events.put_nowait(None)
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await server.h2_connections[0].ended.wait()


@pytest.mark.parametrize("status", ["103", "200"])
async def test_http1_that_is_required_too_late_is_not_spoken(cluster: Cluster, status: str) -> None:
    """Whoever has begun to answer, be it by an interim answer, has done something: it is not asked twice."""
    too_late = reset(http2_frames.HTTP_1_1_REQUIRED)
    cluster.server.answers = sequence(script([(":status", status), ("link", "</x>")], too_late), echo())
    path = cluster.kubeconfig(token=secrets.plant("token"))
    async with Program(kubeconfig=path) as program:
        response = await ask(program)
        assert response.status == 502 or not response.body.is_complete
        assert (await ask(program)).json()["connection"] == 0
    assert not cluster.server.requests


async def test_a_long_upload_where_http1_is_refused(cluster: Cluster) -> None:
    """no_application_protocol for http/1.1 alone (RFC 7301, 3.2): it goes over HTTP/2."""
    hellos: list[bytes] = []

    def judge(*_: object) -> int | None:
        return None if b"\x02h2" in hellos[-1] else NO_APPLICATION_PROTOCOL

    async def overhear(channel: Channel) -> None:
        hellos.append(await channel.peek())

    ca = cluster.ca
    tls = ca.server_context(alpn=H2)
    tls.sni_callback = judge  # type: ignore[assignment]
    async with Http2Server(echo(), tls=tls, before_handshake=overhear) as server:
        path = kubeconfig(cluster.directory, server, ca_pem=ca.pem, token=secrets.plant("token"))
        async with Program(kubeconfig=path) as program:
            for _ in range(2):
                response = await ask(program, method="POST", body=b"x" * 3_000_000)
                assert (response.status, response.json()["size"]) == (200, 3_000_000)
                assert response.json()["connection"] == 0
            response = await ask(program, Connection="Upgrade", Upgrade="websocket")
            assert response.status == 502
            assert "no application protocol" in response.text


# -- what nobody uses --


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    """With GOAWAY, and not before its time; one that carries a stream stays however old it is."""
    ca = CA()
    loop = asyncio.get_running_loop()
    idle_seconds = 0.3
    async with Http2Server(answer(b"{}"), tls=ca.server_context(alpn=H2)) as server:
        context = ca.client_context(alpn=H2)
        pool = Pool(loop, lambda error: KproxyError(str(error)), Health(), idle_seconds)
        pool.renew(context)
        for _ in range(2):
            opening = pool.opening(context)
            await loop.create_connection(
                lambda opening=opening: opening,  # type: ignore[misc]
                "127.0.0.1",
                server.port,
                ssl=context,
                server_hostname="localhost",
            )
            assert isinstance(opening.connection, Http2Connection)
            pool.share(opening.connection)
        began = time.monotonic()
        used = pool.take()
        assert used is not None
        await server.wait_for(lambda: any(each.ended.is_set() for each in server.h2_connections), "an end")
        assert time.monotonic() - began >= idle_seconds - 0.05
        first, second = server.h2_connections
        idle, busy = (first, second) if first.ended.is_set() else (second, first)
        assert idle.goaway == (0, http2_frames.NO_ERROR, b"")
        await asyncio.sleep(2 * idle_seconds)
        assert not busy.ended.is_set()
        used.abort()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await busy.ended.wait()
        pool.close()


class EagerDialer(Dialer):
    """Calls `dialled` when a connection has just been made."""

    def __init__(self, port: int, dialled: Callable[[], None]) -> None:
        super().__init__("c", "127.0.0.1", port)
        self._dialled = dialled

    async def dial(self, *args: Any) -> Any:
        made = await super().dial(*args)
        self._dialled()
        return made


async def test_requests_that_come_just_as_a_dial_ends() -> None:
    """They find its connection full already, and wait for another; nothing else stands still meanwhile."""
    loop = asyncio.get_running_loop()
    ca = CA()
    dials: list[None] = []
    late: list[asyncio.Task[Carrier]] = []
    async with Http2Server(tls=ca.server_context(alpn=H2)) as server:
        server.settings[MAX_CONCURRENT_STREAMS] = 1
        cluster = kube.Cluster(name="c", server=server.url, certificate_authority_data=ca.pem)
        context = kube.ResolvedContext(name="c", cluster=cluster, user=kube.User(name="u"))

        def dialled() -> None:
            if len(dials) == 1:
                late.extend(loop.create_task(connector.open_carrier()) for _ in range(2))
            dials.append(None)

        connector = Connector(
            context,
            server_address(server.url),
            EagerDialer(server.port, dialled),
            loop,
            offers_http2=True,
            health=Health(),
            tally=Tally(),
        )
        connector.present(None)
        await connector.open_carrier()
        await server.wait_for(lambda: connector.idle_carrier() is None, "the limit")
        late.append(loop.create_task(connector.open_carrier()))
        first = await late[0]
        assert len({first, *await asyncio.gather(*late)}) == 3
        await connector.close()

"""Ends before the end: a client that leaves, an API server that cuts, and what the other side then sees."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import (
    BLOCK,
    Step,
    answer,
    big,
    chunk,
    head,
    never_answer,
    script,
    sequence,
    tunnel,
)
from tests.support.client import RawClient, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS, standstill
from tests.support.upstream import Connection, Request

CHUNKED = [("Transfer-Encoding", "chunked")]
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
EXEC_LIKE = "/api/v1/namespaces/ns/pods/p/portforward"
ENDS = ["close", "reset"]


async def ends_upstream(connection: Connection, since: float) -> None:
    """The API server must learn that nobody listens any more: within a second, or ten of a busy machine."""
    await asyncio.wait_for(connection.ended.wait(), LAST_RESORT_SECONDS)
    assert connection.ended_at is not None
    passed = connection.ended_at - since
    assert passed < 10, f"the API server learned of it after {passed:.2f} s"


def leave(client: RawClient, how: str) -> float:
    """End the client's connection by FIN or by RST; returns the time."""
    client.close() if how == "close" else client.reset()
    return time.monotonic()


# -- the client goes away --


@pytest.mark.parametrize("how", ENDS)
async def test_a_client_that_leaves_while_waiting_for_the_head(gateway: Gateway, how: str) -> None:
    """A slow list that nobody waits for any more still costs the API server its work."""
    gateway.answers(never_answer())
    client, request = await gateway.start()
    await ends_upstream(request.connection, leave(client, how))


@pytest.mark.parametrize("how", ENDS)
async def test_a_client_that_leaves_a_watch(gateway: Gateway, how: str) -> None:
    """Watches that nobody reads add up until the API server throttles the user."""
    gateway.answers(script(head(200, CHUNKED), chunk(b"{}\n"), Step.WAIT_FOR_END))
    client, request = await gateway.start(target="/api/v1/pods?watch=true")
    response = await client.read_head()
    await client.read_until(response, b"{}\n")
    await ends_upstream(request.connection, leave(client, how))


@pytest.mark.parametrize("how", ENDS)
async def test_a_client_that_leaves_a_big_answer(gateway: Gateway, how: str) -> None:
    """A list that was closed in the browser is not read to its end."""
    gateway.answers(big(200_000_000))
    client, request = await gateway.start()
    await client.read_head()
    await ends_upstream(request.connection, leave(client, how))


@pytest.mark.parametrize("how", ENDS)
async def test_a_client_that_leaves_while_it_does_not_read(gateway: Gateway, how: str) -> None:
    """The same when the answer has filled every buffer on the way: no read is there to notice the end."""
    gateway.answers(big(200_000_000))
    client = await gateway.connect(receive_buffer_bytes=32 * 1024)
    await client.send(request_bytes("GET", "/api"))
    await client.read_head()
    connection = gateway.upstream.connections[0]
    await standstill(lambda: connection.sent_bytes)
    await ends_upstream(connection, leave(client, how))


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_that_leaves_an_upload(gateway: Gateway, framing: str, how: str) -> None:
    """Half an object must not look whole: the API server sees the connection end inside the body."""
    gateway.answers(answer(b"{}"))
    client, request = await gateway.start(
        "POST", headers=CHUNKED if framing == "chunked" else [("Content-Length", "100")]
    )
    await client.send(chunk(b"half") if framing == "chunked" else b"half")
    await gateway.upstream.wait_for(lambda: request.body.size == 4, "the first half")
    await ends_upstream(request.connection, leave(client, how))
    assert not request.body.is_complete


async def test_a_client_that_resets_an_upload_that_is_not_read(gateway: Gateway) -> None:
    """While the API server does not read, neither do we; a reset must be noticed all the same.

    A FIN cannot: it waits in the client's kernel behind the bytes that nobody takes.
    """
    await gateway.replace_upstream(receive_buffer_bytes=32 * 1024)
    gateway.answers(stall_reading)
    target = "/api/v1/namespaces/ns/stalled"
    client, _ = await gateway.start("POST", target, [("Content-Length", "200000000")])
    client.timeout = 0.3

    async def send_on() -> None:
        while True:
            await client.send(BLOCK)

    with pytest.raises(TimeoutError):
        await send_on()
    leave(client, "reset")
    [line] = await gateway.finished(target)
    assert line["status"] == 0


async def stall_reading(connection: Connection, request: Request) -> None:
    connection.pause_reading()
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_leaves_during_the_tls_handshake(gateway: Gateway, method: str, how: str) -> None:
    """A dial into a dead VPN takes 10 s; nobody waits for it who has gone."""
    # A listener that takes bytes and never answers: for the program the handshake stalls.
    upstream = await gateway.replace_upstream(tls=None)
    client = await gateway.connect()
    await client.send(request_bytes(method, "/api", [("Content-Length", "10")] if method == "POST" else []))
    await upstream.wait_for(lambda: len(upstream.connections) == 1, "a connection")
    await ends_upstream(upstream.connections[0], leave(client, how))


@pytest.mark.parametrize("how", ENDS)
async def test_a_client_that_leaves_a_tunnel(gateway: Gateway, how: str) -> None:
    """A closed terminal must end its shell in the pod."""
    gateway.answers(tunnel())
    client, request = await gateway.start(target=EXEC_LIKE, headers=UPGRADE)
    assert (await client.read_head()).status == 101
    await client.send(b"ping")
    assert await client.read_exactly(4) == b"ping"
    await ends_upstream(request.connection, leave(client, how))


async def test_a_half_closing_client_gets_an_answer_that_is_ready(gateway: Gateway) -> None:
    """`nc -N` and old scripts end their direction after the request and then read."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    await client.send(request_bytes("GET", "/api"))
    await client.shut_write()
    response = await client.read_response()
    assert (response.status, response.text) == (200, "{}")
    assert await client.read_to_end() == b""
    assert client.end == "eof"


async def test_a_half_closed_watch_ends(gateway: Gateway) -> None:
    """A FIN may be all that is seen of a client that has gone."""
    gateway.answers(script(head(200, CHUNKED), chunk(b"{}\n"), Step.WAIT_FOR_END))
    client, request = await gateway.start(target="/api/v1/pods?watch=true")
    await client.read_head()
    await client.shut_write()
    await ends_upstream(request.connection, time.monotonic())


async def test_a_hundred_clients_that_leave_at_once(gateway: Gateway) -> None:
    """A closed browser window drops all its watches; all of them end, and nothing is left (see `gateway`)."""
    gateway.answers(script(head(200, CHUNKED), Step.WAIT_FOR_END))
    clients = [await gateway.connect() for _ in range(100)]
    for client in clients:
        await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
        await client.read_head()
    for client in clients:
        client.reset()
    left_at = time.monotonic()
    for connection in gateway.upstream.connections:
        await ends_upstream(connection, left_at)


# -- the API server cuts --


@pytest.mark.parametrize("cut", [Step.CLOSE, Step.CUT, Step.RESET])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_that_is_cut_cannot_look_complete(gateway: Gateway, framing: str, cut: Step) -> None:
    """Half a list taken for all of it makes controllers delete things: no last chunk, missing bytes."""
    if framing == "length":
        sent = head(200, [("Content-Length", "10")]) + b"12345"
    else:
        sent = head(200, CHUNKED) + chunk(b"12345")
    seen = asyncio.Event()
    gateway.answers(script(sent, seen, cut))
    client, _ = await gateway.start()
    response = await client.read_head()
    await client.read_until(response, b"12345")
    seen.set()
    assert await client.read_piece(response) == b""
    assert (response.body.is_complete, response.text) == (False, "12345")


@pytest.mark.parametrize("cut", [Step.CUT, Step.RESET])
async def test_a_close_delimited_answer_that_is_cut_cannot_look_complete(gateway: Gateway, cut: Step) -> None:
    """Without a length only TLS's close_notify tells the end from a cut (RFC 9112, 9.8)."""
    seen = asyncio.Event()
    gateway.answers(script(head(200), b"12345", seen, cut))
    client, _ = await gateway.start()
    response = await client.read_head()
    assert response.framing == "chunked"
    await client.read_until(response, b"12345")
    seen.set()
    assert await client.read_piece(response) == b""
    assert not response.body.is_complete


async def test_a_cut_answer_to_an_http_1_0_client_ends_by_reset(gateway: Gateway) -> None:
    """HTTP/1.0 bodies end with the connection: only a reset says that bytes are missing."""
    seen = asyncio.Event()
    gateway.answers(script(head(200, CHUNKED), chunk(b"12345"), seen, Step.CLOSE))
    client = await gateway.connect()
    await client.send(b"GET /api HTTP/1.0\r\nHost: localhost\r\n\r\n")
    response = await client.read_head()
    await client.read_until(response, b"12345")
    seen.set()
    await client.read_piece(response)
    assert client.end == "reset"


@pytest.mark.parametrize("cut", [Step.CLOSE, Step.CUT, Step.RESET])
async def test_a_tunnel_that_the_api_server_ends_is_ended(gateway: Gateway, cut: Step) -> None:
    """The shell in the pod has exited: so must kubectl."""
    gateway.answers(script(head(101, UPGRADE), b"bye", cut))
    client, _ = await gateway.start(target=EXEC_LIKE, headers=UPGRADE)
    assert (await client.read_head()).status == 101
    await client.read_to_end()
    assert client.end == ("reset" if cut is Step.RESET else "eof")


async def test_a_broken_chunk_in_an_answer_cuts_it(gateway: Gateway) -> None:
    """What was sound before it passes, nothing of what follows."""
    gateway.answers(
        script(head(200, CHUNKED) + chunk(b"good") + b"zz\r\nbad\r\n0\r\n\r\n", Step.WAIT_FOR_END)
    )
    client, request = await gateway.start()
    response = await client.read_response()
    assert (response.text, response.body.is_complete) == ("good", False)
    await ends_upstream(request.connection, time.monotonic())


# -- the client breaks its own request --


@pytest.mark.parametrize(
    "broken",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"5 5\r\n",
        b"0x5\r\n",
        b"5\nhello",
        b"2\r\nabc\r\n",
        b"5;" + b"a" * 5000 + b"\r\n",
    ],
)
async def test_a_broken_chunk_in_an_upload_aborts_it_upstream(gateway: Gateway, broken: bytes) -> None:
    """The request was begun upstream: it must end there unfinished, the client be told, both closed."""
    gateway.answers(script(Step.READ_BODY, head(200, [("Content-Length", "0")])))
    client, request = await gateway.start("POST", headers=CHUNKED)
    await client.send(chunk(b"good") + broken)
    response = await client.read_response()
    assert response.status == 400
    assert response.json()["kind"] == "Status"
    await client.read_to_end()
    await ends_upstream(request.connection, time.monotonic())
    assert not request.body.is_complete
    assert bytes(request.body.data).startswith(b"good") or not request.body.data


# -- nothing remains --


async def test_a_connection_whose_answer_was_left_is_not_used_again(gateway: Gateway) -> None:
    """The rest of the old answer would be taken for the next one."""
    seen = asyncio.Event()
    gateway.answers(
        sequence(script(head(200, [("Content-Length", "9")]), b"old", seen, b"answer"), answer(b"new"))
    )
    client, _ = await gateway.start()
    response = await client.read_head()
    await client.read_until(response, b"old")
    client.reset()
    assert (await gateway.request()).text == "new"
    assert gateway.upstream.requests[0].connection is not gateway.upstream.requests[1].connection
    seen.set()

"""The life of a connection: reuse, order, old clients, interim answers, early answers, retries."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import (
    BLOCK,
    Step,
    answer,
    chunk,
    chunked,
    echo,
    head,
    never_answer,
    script,
    sequence,
)
from tests.support.client import RawClient, Response, request_bytes
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.upstream import Connection, Request

CHUNKED = [("Transfer-Encoding", "chunked")]
OLD = b"GET /api HTTP/1.0\r\nHost: localhost\r\n"


async def target_echo(connection: Connection, request: Request) -> None:
    """The target as the body."""
    await connection.read_body(request)
    body = request.target.encode()
    await connection.send(head(200, [("Content-Length", str(len(body)))]) + body)


# -- keep-alive and order --


async def test_connections_are_kept_on_both_sides(gateway: Gateway) -> None:
    """A TLS handshake with the cluster costs more than the request."""
    gateway.answers(target_echo)
    client = await gateway.connect()
    for number in range(10):
        assert (await client.request("GET", f"/{number}")).text == f"/{number}"
    assert len(gateway.upstream.connections) == 1


async def test_clients_share_idle_connections(gateway: Gateway) -> None:
    """Scripts open a connection per call; the cluster should not have to."""
    gateway.answers(target_echo)
    for number in range(10):
        assert (await gateway.request(target=f"/{number}")).text == f"/{number}"
    assert len(gateway.upstream.connections) == 1


async def test_a_wish_to_close_is_honoured_and_echoed(gateway: Gateway) -> None:
    """The answer comes first; the connection to the API server is kept for others."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    response = await client.request("GET", "/api", [("Connection", "close")])
    assert (response.status, response.values("Connection")) == (200, ["close"])
    assert await client.read_to_end() == b""
    assert client.end == "eof"
    assert gateway.upstream.requests[0].values("Connection") == []


async def test_an_api_server_that_closes_does_not_close_the_client(gateway: Gateway) -> None:
    """Connection: close belongs to its hop."""
    gateway.answers(script(head(200, [("Connection", "close"), ("Content-Length", "2")]) + b"{}", Step.CLOSE))
    client = await gateway.connect()
    for _ in range(3):
        response = await client.request("GET", "/api")
        assert (response.text, response.values("Connection")) == ("{}", [])
    assert len(gateway.upstream.connections) == 3


async def test_twenty_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    """Whatever their bodies and methods; each is answered before the next is begun."""
    gateway.answers(target_echo)
    client = await gateway.connect()
    sent = b""
    for number in range(20):
        method = ("GET", "POST", "DELETE")[number % 3]
        sent += request_bytes(method, f"/{number}", body=b"x" * number if method == "POST" else None)
    await client.send(sent)
    assert [(await client.read_response()).text for _ in range(20)] == [f"/{number}" for number in range(20)]


async def test_a_refused_request_in_the_middle_of_a_pipeline_is_one_answer(gateway: Gateway) -> None:
    """Refusals, also of requests with bodies, keep the connection and its order."""
    gateway.answers(target_echo)
    client = await gateway.connect()
    refused = "/api/v1/namespaces/ns/pods/p/exec"
    await client.send(
        request_bytes("GET", "/1")
        + request_bytes("POST", refused, body=b"y" * 1000)
        + request_bytes("POST", refused, CHUNKED)
        + chunk(b"y" * 1000)
        + b"0\r\n\r\n"
        + request_bytes("GET", "/2")
    )
    statuses = [(await client.read_response()).status for _ in range(4)]
    assert statuses == [200, 403, 403, 200]
    assert [request.target for request in gateway.upstream.requests] == ["/1", "/2"]


async def test_a_request_sent_during_an_upload_waits_for_its_turn(gateway: Gateway) -> None:
    """The bytes behind an upload are the next request, wherever packets end."""
    gateway.answers(target_echo)
    client = await gateway.connect()
    first = request_bytes("POST", "/1", CHUNKED) + chunk(b"a" * 100)
    await client.send(first)
    await gateway.upstream.wait_for_requests(1)
    await client.send(chunk(b"b") + b"0\r\n\r\n" + request_bytes("GET", "/2")[:20])
    assert (await client.read_response()).text == "/1"
    await client.send(request_bytes("GET", "/2")[20:])
    assert (await client.read_response()).text == "/2"


async def test_a_pipeline_of_megabytes_is_answered(gateway: Gateway) -> None:
    """More requests than the buffer for them holds: reading stops and goes on."""
    gateway.answers(target_echo)
    client = await gateway.connect()
    count = 40
    sending = asyncio.create_task(
        client.send(b"".join(request_bytes("PUT", f"/{number}", body=BLOCK) for number in range(count)))
    )
    for number in range(count):
        assert (await client.read_response()).text == f"/{number}"
    await sending


# -- HTTP/1.0 --


async def test_an_http_1_0_client_gets_an_answer_and_a_close(gateway: Gateway) -> None:
    """ab, old health checks and `curl -0`."""
    gateway.answers(answer(b"{}"))
    client, response = await gateway.raw(OLD + b"\r\n")
    assert (response.text, response.framing, response.values("Connection")) == ("{}", "length", ["close"])
    assert await client.read_to_end() == b""


async def test_an_http_1_0_client_gets_no_chunks(gateway: Gateway) -> None:
    """It does not know them: the body ends with the connection."""
    gateway.answers(chunked([b"abc", b"def"]))
    client, response = await gateway.raw(OLD + b"Connection: keep-alive\r\n\r\n")
    assert (response.text, response.framing) == ("abcdef", "close")
    assert response.values("Transfer-Encoding") == []
    assert client.end == "eof"


async def test_an_http_1_0_client_may_keep_its_connection(gateway: Gateway) -> None:
    """Where the length is known and it asks for it."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    for _ in range(3):
        await client.send(OLD + b"Connection: keep-alive\r\n\r\n")
        response = await client.read_response()
        assert (response.text, response.values("Connection")) == ("{}", ["keep-alive"])


async def test_an_http_1_0_client_without_host_is_refused(gateway: Gateway) -> None:
    """No name, no way to know that it was meant: the guard against rebound names covers HTTP/1.0 too."""
    _, response = await gateway.raw(b"GET /api HTTP/1.0\r\n\r\n")
    assert response.status == 403
    assert gateway.upstream.requests == []


# -- interim answers --


async def test_expect_100_continue_is_answered_once_by_the_api_server(gateway: Gateway) -> None:
    """Its 100 passes, and no second one of ours; the expectation travels with the request."""
    gateway.answers(script(head(100), Step.READ_BODY, head(200, [("Content-Length", "0")]), early=True))
    client, request = await gateway.start(
        "POST", headers=[("Content-Length", "2"), ("Expect", "100-continue")]
    )
    assert request.value("Expect") == "100-continue"
    await client.fill()
    assert bytes(client.buffer) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"ab")
    response = await client.read_response()
    assert (response.status, len(response.interim)) == (200, 1)


async def test_a_silent_api_server_does_not_hold_up_a_client_that_expects_100(gateway: Gateway) -> None:
    """After a second we say it ourselves; the API server's own, coming later, is not a second one."""
    gateway.answers(script(Step.READ_BODY, head(100), head(200, [("Content-Length", "0")]), early=True))
    client, request = await gateway.start(
        "POST", headers=[("Content-Length", "2"), ("Expect", "100-continue")]
    )
    await client.fill()
    assert bytes(client.buffer) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"ab")
    response = await client.read_response()
    assert (response.status, len(response.interim)) == (200, 1)
    assert bytes(request.body.data) == b"ab"


async def test_a_client_that_expects_100_is_refused_without_it(gateway: Gateway) -> None:
    """413 or 401 at once. The connection ends, since nobody knows whether the body will come."""
    gateway.answers(script(head(413, [("Content-Length", "0")]), Step.WAIT_FOR_END, early=True))
    client, _ = await gateway.start(
        "POST", headers=[("Content-Length", "20000000"), ("Expect", "100-continue")]
    )
    response = await client.read_response()
    assert (response.status, response.interim) == (413, [])
    assert await client.read_to_end() == b""


async def test_early_hints_pass(gateway: Gateway) -> None:
    """103 with its fields, as often as it comes."""
    hints = head(103, [("Link", "</a>")], reason="Early Hints") + head(
        103, [("Link", "</b>")], reason="Early Hints"
    )
    gateway.answers(script(hints, head(200, [("Content-Length", "0")])))
    response = await gateway.request()
    assert [interim.value("Link") for interim in response.interim] == ["</a>", "</b>"]


@pytest.mark.parametrize(("count", "status"), [(100, 200), (101, 502)])
async def test_interim_answers_come_to_an_end(gateway: Gateway, count: int, status: int) -> None:
    """An API server that sends them for ever would keep kproxy at work for ever."""
    early = head(103, [("Link", "</a>")]) * count
    gateway.answers(script(early + head(200, [("Content-Length", "0")])))
    response = await gateway.request()
    assert (response.status, len(response.interim)) == (status, 100)


async def test_interim_answers_do_not_reach_http_1_0_clients(gateway: Gateway) -> None:
    """They would take the first head for the answer (RFC 9110, 15.2)."""
    gateway.answers(script(head(103), head(200, [("Content-Length", "2")]) + b"{}"))
    _, response = await gateway.raw(OLD + b"\r\n")
    assert (response.status, response.text) == (200, "{}")


async def test_a_100_that_nobody_expects_is_dropped(gateway: Gateway) -> None:
    """Some servers send it always; clients that did not ask may stumble."""
    gateway.answers(script(head(100), head(200, [("Content-Length", "2")]) + b"{}"))
    response = await gateway.request("POST", body=b"x")
    assert (response.status, response.interim) == (200, [])


# -- answers without a body --


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_by_its_status(gateway: Gateway, status: int) -> None:
    """The next answer begins right behind the head."""
    gateway.answers(sequence(script(head(status, [("ETag", '"1"')])), target_echo))
    client = await gateway.connect()
    response = await client.request("GET", "/api")
    assert (response.status, response.value("ETag"), response.values("Transfer-Encoding")) == (
        status,
        '"1"',
        [],
    )
    assert (await client.request("GET", "/next")).text == "/next"


@pytest.mark.parametrize(
    "framing", [[("Content-Length", "1000")], CHUNKED, []], ids=["length", "chunked", "none"]
)
async def test_head_keeps_the_length_and_has_no_body(
    gateway: Gateway, framing: list[tuple[str, str]]
) -> None:
    """As GET would have, and nothing behind it."""
    gateway.answers(sequence(script(head(200, framing)), target_echo))
    client = await gateway.connect()
    response = await client.request("HEAD", "/api")
    assert response.status == 200
    assert response.values("Content-Length") == [value for name, value in framing if name == "Content-Length"]
    assert (await client.request("GET", "/next")).text == "/next"


async def test_a_refusal_of_head_has_no_body(gateway: Gateway) -> None:
    """Our own answers too."""
    gateway.answers(target_echo)
    client = await gateway.connect()
    assert (await client.request("HEAD", "/api/v1/namespaces/ns/pods/p/exec")).status == 403
    assert (await client.request("GET", "/next")).text == "/next"


# -- answers before the request is complete --


@pytest.mark.parametrize("status", [401, 413, 200])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_early_answer_to_an_upload_arrives(gateway: Gateway, framing: str, status: int) -> None:
    """A client that is still sending must read why it was refused, not a reset; then both ends close."""
    body = b'{"kind":"Status"}'
    reply = head(status, [("Content-Length", str(len(body)))]) + body
    gateway.answers(script(reply, Step.WAIT_FOR_END, early=True))
    client, request = await gateway.start(
        "POST", headers=CHUNKED if framing == "chunked" else [("Content-Length", "100000")]
    )
    response = await client.read_response()
    assert (response.status, bytes(response.body.data)) == (status, body)
    assert response.value("Connection") == "close"
    await client.send(chunk(b"more") if framing == "chunked" else b"more")
    await asyncio.wait_for(request.connection.ended.wait(), LAST_RESORT_SECONDS)
    assert await client.read_to_end() == b""
    assert client.end == "eof"


async def test_an_early_answer_survives_a_client_that_goes_on_sending(gateway: Gateway) -> None:
    """Closing with unread bytes would reset the connection and take the answer with it (RFC 9112, 9.6)."""
    gateway.answers(script(head(413, [("Content-Length", "2")]) + b"no", Step.WAIT_FOR_END, early=True))
    client = await gateway.connect()
    await client.send(request_bytes("POST", "/api", [("Content-Length", "8000000")]))
    for _ in range(8_000_000 // len(BLOCK)):
        try:
            await client.send(BLOCK)
        except ConnectionError:
            break
    response = await client.read_response()
    assert (response.status, response.text) == (413, "no")


async def test_an_api_server_that_answers_and_closes_during_an_upload(gateway: Gateway) -> None:
    """Go's server does so after 413: the answer still counts."""
    gateway.answers(
        script(head(413, [("Connection", "close"), ("Content-Length", "2")]) + b"no", Step.CLOSE, early=True)
    )
    client, _ = await gateway.start("POST", headers=[("Content-Length", "1000000")])
    await client.send(b"a" * 1000)
    response = await client.read_response()
    assert (response.status, response.text) == (413, "no")


# -- connections of the API server that are not what they seem --


async def stale(gateway: Gateway) -> None:
    """Leave one idle connection that the API server ends when the next request comes."""
    gateway.answers(sequence(answer(b"{}"), script(Step.CLOSE, early=True), target_echo))
    assert (await gateway.request(target="/warm")).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_a_request_that_met_a_dying_connection_is_sent_again(gateway: Gateway, method: str) -> None:
    """The end of an idle connection may cross a request on the way (RFC 9112, 9.3.1)."""
    await stale(gateway)
    response = await gateway.request(method, "/again")
    assert response.status == 200
    assert [request.target for request in gateway.upstream.requests] == ["/warm", "/again", "/again"]


async def test_a_put_with_its_body_is_sent_again(gateway: Gateway) -> None:
    """PUT is idempotent and small bodies are kept until the answer comes."""
    await stale(gateway)
    response = await gateway.request("PUT", "/again", body=b"abc")
    assert response.status == 200
    assert bytes(gateway.upstream.requests[2].body.data) == b"abc"


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_request_that_may_have_had_an_effect_is_not_sent_again(gateway: Gateway, method: str) -> None:
    """Two Pods where one was asked for are worse than an error."""
    await stale(gateway)
    response = await gateway.request(method, "/once", body=b"{}")
    assert response.status == 502
    assert [request.target for request in gateway.upstream.requests] == ["/warm", "/once"]


async def test_a_request_on_a_fresh_connection_is_not_sent_again(gateway: Gateway) -> None:
    """An API server that drops a request on a new connection means it."""
    gateway.answers(script(Step.CLOSE, early=True))
    response = await gateway.request()
    assert response.status == 502
    assert len(gateway.upstream.requests) == 1


async def test_a_request_whose_answer_has_begun_is_not_sent_again(gateway: Gateway) -> None:
    """Half a head is an answer."""
    gateway.answers(sequence(answer(b"{}"), script(b"HTTP/1.1 200", Step.CLOSE, early=True), target_echo))
    await gateway.request()
    response = await gateway.request()
    assert response.status == 502


async def test_idle_connections_that_close_at_random_cost_no_request(gateway: Gateway) -> None:
    """Load balancers and restarted API servers do: 200 requests, every other connection dies while idle."""
    random.seed(1)
    gateway.answers(target_echo)
    client = await gateway.connect()
    for number in range(200):
        response = await client.request("GET", f"/{number}")
        assert (response.status, response.text) == (200, f"/{number}")
        if random.random() < 0.5:
            gateway.upstream.close_connections(reset=random.random() < 0.5)
    assert len(gateway.upstream.connections) > 50


@pytest.mark.parametrize("extra", [b"garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
@pytest.mark.parametrize("glued", [True, False], ids=["glued", "later"])
async def test_bytes_behind_an_answer_never_become_the_next_one(
    gateway: Gateway, extra: bytes, glued: bool
) -> None:
    """Response splitting: more than Content-Length, or an answer that nobody asked for."""
    reply = head(200, [("Content-Length", "2")]) + b"{}"

    async def respond(connection: Connection, request: Request) -> None:
        if glued:
            await connection.send(reply + extra)
        else:
            await connection.send(reply)
            await connection.send(extra)

    gateway.answers(respond)
    client = await gateway.connect()
    assert (await client.request("GET", "/1")).text == "{}"
    first = gateway.upstream.connections[0]
    await asyncio.wait_for(first.ended.wait(), LAST_RESORT_SECONDS)
    gateway.answers(target_echo)
    assert (await client.request("GET", "/2")).text == "/2"


async def test_bytes_behind_a_last_chunk_never_become_the_next_answer(gateway: Gateway) -> None:
    """The same for chunked answers."""
    gateway.answers(script(head(200, CHUNKED) + b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
    client = await gateway.connect()
    assert (await client.request("GET", "/1")).body.size == 0
    gateway.answers(target_echo)
    assert (await client.request("GET", "/2")).text == "/2"


async def test_a_watch_does_not_hold_up_a_get(gateway: Gateway) -> None:
    """There is no limit on connections to the API server for watches to use up."""
    gateway.answers(never_answer(), "/watch")
    gateway.answers(target_echo)
    for _ in range(50):
        client = await gateway.connect()
        await client.send(request_bytes("GET", "/watch?watch=true"))
    await gateway.upstream.wait_for_requests(50)
    assert (await gateway.request(target="/quick")).text == "/quick"


async def test_an_upload_is_echoed_whatever_its_packets(gateway: Gateway) -> None:
    """Head, body and next request cut at every kind of place."""
    gateway.answers(echo())
    whole = (
        request_bytes("POST", "/a", CHUNKED)
        + chunk(b"hello")
        + b"0\r\nX-T: 1\r\n\r\n"
        + request_bytes("PUT", "/b", body=b"world")
    )
    for size in (1, 2, 3, 7, 31, 64):
        client: RawClient = await gateway.connect()
        for start in range(0, len(whole), size):
            await client.send(whole[start : start + size])
        answers: list[Response] = [await client.read_response() for _ in range(2)]
        assert [response.json()["body"] for response in answers] == ["hello", "world"]

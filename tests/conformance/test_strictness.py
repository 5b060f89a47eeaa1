"""What two parsers could read in two ways is refused, with nothing of it forwarded (RFC 9112, 11)."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import Step, answer, script
from tests.support.client import request_bytes

HOST = b"Host: localhost\r\n"
TAIL = b"\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"

REFUSED = {
    "two lengths": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2"),
    "the same length twice": (
        400,
        b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1",
    ),
    "a list of lengths": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1"),
    "a length with a sign": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: +1"),
    "a negative length": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: -1"),
    "a length in hexadecimal": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1"),
    "a length with a blank": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: 1 1"),
    "an empty length": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length:"),
    "a huge length": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 30),
    "length and chunked": (
        400,
        b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked",
    ),
    "gzip, chunked": (501, b"POST /api HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": (
        501,
        b"POST /api HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    "identity": (501, b"POST /api HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity"),
    "xchunked": (501, b"POST /api HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked"),
    "chunked in HTTP/1.0": (400, b"POST /api HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked"),
    "a blank before the colon": (400, b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length : 1"),
    "a folded line": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n Content-Length: 1"),
    "a fold as the first line": (400, b"GET /api HTTP/1.1\r\n X: 1\r\n" + HOST[:-2]),
    "a tab before a name": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"\tX: 1"),
    "an empty name": (400, b"GET /api HTTP/1.1\r\n" + HOST + b": 1"),
    "a name that is no token": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X(1): 1"),
    "a name beyond ASCII": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X\xe4: 1"),
    "a line without a colon": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X"),
    "NUL in a value": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X: a\0b"),
    "a control character in a value": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X: a\x1bb"),
    "a bare CR in a value": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X: a\rTransfer-Encoding: chunked"),
    "a bare LF in a value": (400, b"GET /api HTTP/1.1\r\n" + HOST + b"X: a\nTransfer-Encoding: chunked"),
    "lines that end in LF": (400, b"GET /api HTTP/1.1\nHost: localhost\n\n"),
    "no Host": (400, b"GET /api HTTP/1.1\r\nX: 1"),
    "two Hosts": (400, b"GET /api HTTP/1.1\r\n" + HOST + HOST[:-2]),
    "a blank in the target": (400, b"GET /a b HTTP/1.1\r\n" + HOST[:-2]),
    "a tab in the request line": (400, b"GET\t/api HTTP/1.1\r\n" + HOST[:-2]),
    "a control character in the target": (400, b"GET /a\x01 HTTP/1.1\r\n" + HOST[:-2]),
    "no target": (400, b"GET HTTP/1.1\r\n" + HOST[:-2]),
    "a target without a slash": (400, b"GET api HTTP/1.1\r\n" + HOST[:-2]),
    "an asterisk": (400, b"GET * HTTP/1.1\r\n" + HOST[:-2]),
    "a method that is no token": (400, b"G(T /api HTTP/1.1\r\n" + HOST[:-2]),
    "no version": (400, b"GET /api\r\n" + HOST[:-2]),
    "HTTP/0.9": (505, b"GET /api HTTP/0.9\r\n" + HOST[:-2]),
    "HTTP/2.0": (505, b"GET /api HTTP/2.0\r\n" + HOST[:-2]),
    "HTTP/11": (400, b"GET /api HTTP/11\r\n" + HOST[:-2]),
    "http/1.1": (400, b"GET /api http/1.1\r\n" + HOST[:-2]),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    "a bad escape": (400, b"GET /%zz HTTP/1.1\r\n" + HOST[:-2]),
    "too long a field": (431, b"GET /api HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 66_000),
    "too long a name": (431, b"GET /api HTTP/1.1\r\n" + HOST + b"a" * 66_000 + b": 1"),
    "too long a head": (431, b"GET /api HTTP/1.1\r\n" + HOST + b"\r\n".join([b"X: " + b"a" * 9_000] * 30)),
    "too long a target": (414, b"GET /" + b"a" * 66_000 + b" HTTP/1.1\r\n" + HOST[:-2]),
}
KEPT = ("a bad escape",)
"""A sound message with an odd path: it is refused, but what follows it can be told apart."""


@pytest.mark.parametrize("name", REFUSED)
async def test_a_head_that_is_not_http_is_refused(gateway: Gateway, name: str) -> None:
    """The answer is a `Status`, the connection ends, and what hides behind the head goes nowhere."""
    status, request = REFUSED[name]
    client, response = await gateway.raw(request + TAIL if name not in KEPT else request + b"\r\n\r\n")
    assert response.status == status, response.text
    body = response.json()
    assert (body["kind"], body["code"]) == ("Status", status)
    assert body["message"].startswith("kproxy: ")
    assert response.value("Proxy-Status") == "kproxy; error=http_request_error"
    if name not in KEPT:
        assert response.value("Connection") == "close"
        assert await client.read_to_end() == b""
    assert gateway.upstream.requests == []


@pytest.mark.parametrize("name", ["two lengths", "length and chunked", "a bare LF in a value"])
async def test_a_bad_request_behind_good_ones_is_answered_in_its_turn(gateway: Gateway, name: str) -> None:
    """The good ones are served, then the refusal, then the end: in that order."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    good = request_bytes("GET", "/api")
    await client.send(good + good + REFUSED[name][1] + TAIL)
    statuses = [(await client.read_response()).status for _ in range(3)]
    assert statuses == [200, 200, 400]
    assert await client.read_to_end() == b""
    assert [request.target for request in gateway.upstream.requests] == ["/api", "/api"]


async def test_one_empty_line_before_a_request_is_ignored(gateway: Gateway) -> None:
    """Old clients send one behind a POST body (RFC 9112, 2.2)."""
    gateway.answers(answer(b"{}"))
    _, response = await gateway.raw(b"\r\n" + request_bytes("GET", "/api"))
    assert response.status == 200


async def test_a_higher_minor_version_is_taken_for_1_1(gateway: Gateway) -> None:
    """RFC 9110, 2.5."""
    gateway.answers(answer(b"{}"))
    _, response = await gateway.raw(request_bytes("GET", "/api").replace(b"HTTP/1.1", b"HTTP/1.2"))
    assert (response.version, response.status) == ("HTTP/1.1", 200)


async def test_generous_heads_pass(gateway: Gateway) -> None:
    """64 KB in a field, 256 KB in all: tokens with many groups, cookies, selectors."""
    fields = [(f"X-{number}", "a" * 50_000) for number in range(4)] + [
        (f"Y-{number}", "b") for number in range(800)
    ]
    gateway.answers(answer(b"{}"))
    response = await gateway.request(headers=fields)
    assert response.status == 200
    seen = [field for field in gateway.upstream.requests[0].headers if field[0][:2] in ("X-", "Y-")]
    assert [field for field in seen if field[0] != "X-Forwarded-For"] == fields


async def test_a_head_in_single_bytes_is_read(gateway: Gateway) -> None:
    """Packets may end anywhere."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    for byte in request_bytes("POST", "/api", body=b"ab"):
        await client.send(bytes([byte]))
    assert (await client.read_response()).status == 200


BAD_ANSWERS = {
    "no status line": b"hello\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
    "too long a head": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X: %b\r\n" % (b"a" * 9_000) for _ in range(40)),
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_an_answer_that_is_not_http_is_a_502(gateway: Gateway, name: str) -> None:
    """A broken head is never passed on; the client's connection stays good."""
    gateway.answers(script(BAD_ANSWERS[name], Step.WAIT_FOR_END))
    client = await gateway.connect()
    response = await client.request("GET", "/api")
    assert response.status == 502, response.text
    assert response.json()["kind"] == "Status"
    assert response.value("Proxy-Status") == "kproxy; error=http_protocol_error"
    gateway.answers(answer(b"next"))
    assert (await client.request("GET", "/api")).text == "next"


async def test_an_answer_with_length_and_chunked_is_read_by_its_chunks(gateway: Gateway) -> None:
    """RFC 9112, 6.3: and the length must not reach a client that would believe it."""
    gateway.answers(
        script(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
    )
    response = await gateway.request()
    assert (response.framing, response.text) == ("chunked", "abc")
    assert response.values("Content-Length") == []


async def test_only_one_empty_line_before_a_request_is_ignored(gateway: Gateway) -> None:
    """RFC 9112 2.2 speaks of one; how the bytes were cut on their way must not make a difference."""
    client = await gateway.connect()
    await client.send(b"\r\n")
    await client.send(b"\r\nGET /api HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert (await client.read_response()).status == 400

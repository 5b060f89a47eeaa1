"""HTTP/2 towards the API server: what it is asked, and what the client of HTTP/1.1 sees of its answers.

What is the same over HTTP/1.1 is in test_streaming.py.
"""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.conformance.conftest import COMPARES, Http2Gateway
from tests.support import http2_frames, secrets
from tests.support.answers import big_sha256, chunk
from tests.support.client import request_bytes
from tests.support.http2_answers import (
    JSON,
    answer,
    big,
    echo,
    end,
    head,
    reset,
    script,
    sequence,
    watch,
)
from tests.support.http2_server import Stream
from tests.support.patience import LAST_RESORT_SECONDS

WATCH = "/api/v1/pods?watch=true"
CHUNKED = ("Transfer-Encoding", "chunked")
SIZE = 5_000_000


async def seen(
    gateway: Http2Gateway,
    *headers: tuple[str, str],
    method: str = "GET",
    target: str = "/api",
    body: bytes | None = None,
) -> Stream:
    """What the API server sees of a request that it answers with 200."""
    gateway.streams_for(answer(b"{}"))
    response = await gateway.request(method, target, headers, body)
    assert response.status == 200, response.text
    return gateway.server.streams[-1]


# -- what is asked --


async def test_http2_is_spoken(http2_gateway: Http2Gateway) -> None:
    """With an API server that offers it, and on one connection for requests one after the other."""
    http2_gateway.streams_for(echo())
    client = await http2_gateway.connect()
    for _ in range(3):
        assert (await client.request("GET", "/api")).status == 200
    assert (await http2_gateway.request("POST", "/api", body=b"x")).status == 200
    assert [each.connection.number for each in http2_gateway.server.streams] == [0] * 4
    assert not http2_gateway.server.connections


async def test_the_pseudo_fields_stand_for_the_request_line(http2_gateway: Http2Gateway) -> None:
    """Method, target to the byte, scheme, and the API server's own authority; there is no Host field."""
    target = "/api/v1/x%2Fy;z/%C3%A9?a=b%20c&watch=0&d='"
    stream = await seen(http2_gateway, method="PATCH", target=target, body=b"{}")
    assert dict(stream.fields[:4]) == {
        ":method": "PATCH",
        ":path": target,
        ":scheme": "https",
        ":authority": f"127.0.0.1:{http2_gateway.server.port}",
    }
    assert not stream.values("host")


async def test_names_are_lower_case_and_values_as_sent(http2_gateway: Http2Gateway) -> None:
    """Fields stay in order and apart; what only has meaning for one connection goes."""
    sent = [
        ("X-One", "1"),
        ("ACCEPT", "a/b, c/d"),
        ("x-TWO", ""),
        ("X-One", "  2  "),
        ("Cookie", "a=b; c=d"),
        ("Cookie", "e=f"),
        ("Forwarded", "for=x"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Connection", "keep-alive, X-Mine"),
        ("X-Mine", "here"),
    ]
    stream = await seen(http2_gateway, *sent)
    fields = stream.headers
    assert [pair for pair in fields if pair[0].startswith("x-") and "forwarded" not in pair[0]] == [
        ("x-one", "1"),
        ("x-two", ""),
        ("x-one", "2"),
    ]
    assert stream.value("accept") == "a/b, c/d"
    assert "; ".join(stream.values("cookie")) == "a=b; c=d; e=f"
    assert stream.value("forwarded") == "for=x"
    assert not {"connection", "keep-alive", "proxy-connection", "x-mine"} & {name for name, _ in fields}


async def test_bytes_beyond_ascii_pass_in_values(http2_gateway: Http2Gateway) -> None:
    """Both ways, as obs-text of RFC 9110."""
    text = "h\u00e9llo \u00ff\u0080".encode().decode("latin-1")
    stream = await seen(http2_gateway, ("X-Text", text))
    assert stream.value("x-text") == text
    http2_gateway.streams_for(answer(b"{}", headers=[("x-text", text)]))
    assert (await http2_gateway.request()).value("X-Text") == text


async def test_te_is_passed_for_trailers_alone(http2_gateway: Http2Gateway) -> None:
    """RFC 9113, 8.2.2: nothing else may be said in it."""
    assert (await seen(http2_gateway, ("TE", "trailers"), ("Connection", "TE"))).value("te") == "trailers"
    assert not (await seen(http2_gateway, ("TE", "gzip"), ("Connection", "TE"))).values("te")


async def test_the_credential_and_the_client_are_told(http2_gateway: Http2Gateway) -> None:
    """As over HTTP/1.1: our Authorization, X-Forwarded-For, gzip asked for, our name for who has none."""
    stream = await seen(http2_gateway, ("X-Forwarded-For", "1.2.3.4"))
    assert stream.value("authorization") == f"Bearer {http2_gateway.token}"
    assert stream.value("x-forwarded-for") == "1.2.3.4, 127.0.0.1"
    assert stream.value("accept-encoding") == "gzip"
    assert re.match("kproxy/|Go-http-client|kubectl", stream.value("user-agent") or "")
    assert stream.connection.client_certificate_cn == "alice"


async def test_a_clients_own_authorization_replaces_ours(http2_gateway: Http2Gateway) -> None:
    """And nothing of ours stands beside it."""
    own = f"Bearer {secrets.plant('own')}"
    assert (await seen(http2_gateway, ("Authorization", own))).value("authorization") == own
    named = await seen(http2_gateway, ("Connection", "authorization"), ("Authorization", own))
    assert named.value("authorization") != own


@pytest.mark.parametrize("size", [10_000, 20_000, 60_000])
async def test_long_fields_pass(http2_gateway: Http2Gateway, size: int) -> None:
    """A head of more than 16 KB takes more than one frame, both ways."""
    value = "".join(f"{number:x}." for number in range(size))[:size]
    stream = await seen(http2_gateway, ("X-Long", value), ("X-Last", "1"))
    assert (stream.value("x-long"), stream.value("x-last")) == (value, "1")
    if size > 40_000:
        assert stream.connection.seen(http2_frames.CONTINUATION, stream.id)
    http2_gateway.streams_for(answer(b"{}", headers=[("x-long", value), ("x-last", "1")]))
    response = await http2_gateway.request()
    assert (response.value("X-Long"), response.value("X-Last")) == (value, "1")


async def test_many_fields_pass(http2_gateway: Http2Gateway) -> None:
    """A thousand each way, and the tables of both ends stay in step for the next request."""
    many = [(f"X-{number}", f"{number}") for number in range(1000)]
    stream = await seen(http2_gateway, *many)
    assert len([name for name, _ in stream.headers if re.fullmatch(r"x-\d+", name)]) == 1000
    http2_gateway.streams_for(answer(b"{}", headers=[(name.lower(), value) for name, value in many]))
    for _ in range(2):
        response = await http2_gateway.request()
        assert [pair for pair in response.headers if re.fullmatch(r"X-\d+", pair[0])] == many


# -- bodies that are sent --


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_arrives_with_its_length_if_it_has_one(
    http2_gateway: Http2Gateway, framing: str
) -> None:
    """Chunks are no part of HTTP/2; a Content-Length stays."""
    http2_gateway.streams_for(echo())
    client = await http2_gateway.connect()
    if framing == "length":
        response = await client.request("POST", "/api", body=b"hello")
    else:
        await client.send(
            request_bytes("POST", "/api", [CHUNKED]) + chunk(b"he") + chunk(b"llo") + b"0\r\n\r\n"
        )
        response = await client.read_response()
    assert response.json()["body"] == "hello"
    [stream] = http2_gateway.server.streams
    assert stream.values("content-length") == (["5"] if framing == "length" else [])


@pytest.mark.parametrize(("method", "length"), [("GET", []), ("POST", ["0"]), ("DELETE", [])])
async def test_a_request_without_a_body_ends_with_its_head(
    http2_gateway: Http2Gateway, method: str, length: list[str]
) -> None:
    """No empty DATA frame follows; an empty POST says its length as it does over HTTP/1.1."""
    stream = await seen(http2_gateway, method=method, body=b"" if method == "POST" else None)
    assert stream.values("content-length") == length
    [first] = stream.connection.seen(http2_frames.HEADERS, stream.id)
    assert first.flags & http2_frames.END_STREAM
    assert not stream.connection.seen(http2_frames.DATA, stream.id)


async def test_the_trailers_of_an_upload_pass(http2_gateway: Http2Gateway) -> None:
    """In lower case, behind the body; announced or not."""
    http2_gateway.streams_for(echo())
    client = await http2_gateway.connect()
    await client.send(
        request_bytes("POST", "/api", [CHUNKED, ("Trailer", "X-Sum")])
        + b"1\r\nx\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"
    )
    seen = (await client.read_response()).json()
    assert (seen["body"], seen["trailers"]) == ("x", [["x-sum", "1"], ["x-more", "2"]])


async def test_a_client_waits_for_the_servers_100(http2_gateway: Http2Gateway) -> None:
    """It gets one 100, when the API server says so, and then its body is taken."""
    may = asyncio.Event()

    async def respond(stream: Stream) -> None:
        assert stream.value("expect") == "100-continue"
        await may.wait()
        await stream.send_interim(100)
        body = await stream.read_body()
        await answer(bytes(body.data))(stream)

    http2_gateway.streams_for(respond)
    client, _ = await http2_gateway.begin(
        "PUT", headers=[("Expect", "100-continue"), ("Content-Length", "4")]
    )
    may.set()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        while b"100 Continue\r\n\r\n" not in client.buffer:
            assert await client.fill()
    await client.send(b"body")
    response = await client.read_response("PUT")
    assert (response.status, response.text) == (200, "body")
    assert [each.start_line.split()[1] for each in response.interim] == ["100"]


async def test_a_request_that_is_sent_again_gets_one_100(http2_gateway: Http2Gateway) -> None:
    """From us, after a second in which the API server has not said so; not one for each time it was sent."""
    http2_gateway.streams_for(sequence(script(reset(http2_frames.REFUSED_STREAM), early=True), echo()))
    client, _ = await http2_gateway.begin(
        "PUT", headers=[("Expect", "100-continue"), ("Content-Length", "4")]
    )
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        while b"100 Continue\r\n\r\n" not in client.buffer:
            assert await client.fill()
    await asyncio.sleep(0.3)  # in which a second one would come
    await client.send(b"body")
    response = await client.read_response("PUT")
    assert [each.start_line.split()[1] for each in response.interim] == ["100"]
    assert response.json()["body"] == "body"


async def test_a_refusal_comes_instead_of_the_100(http2_gateway: Http2Gateway) -> None:
    """The body is never asked for."""
    http2_gateway.streams_for(script(head(413, ("content-length", "2")), b"no", end, early=True))
    client, _ = await http2_gateway.begin(
        "PUT", headers=[("Expect", "100-continue"), ("Content-Length", "4")]
    )
    response = await client.read_response("PUT")
    assert (response.status, response.text, response.interim) == (413, "no", [])


async def test_an_early_answer_is_delivered_while_the_body_comes(http2_gateway: Http2Gateway) -> None:
    """A whole answer, then RST_STREAM with NO_ERROR, says to stop sending: no failure (RFC 9113, 8.1)."""

    async def refuse(stream: Stream) -> None:
        await stream.send_head(413, [("content-length", "2")])
        await stream.send_data(b"no", end=True)
        await stream.reset(http2_frames.NO_ERROR)

    http2_gateway.streams_for(refuse)
    client, _ = await http2_gateway.begin("POST", headers=[("Content-Length", "1000000")], body=b"half")
    response = await client.read_response("POST")
    assert (response.status, response.text, response.body.is_complete) == (413, "no", True)


# -- what is answered --


async def test_names_are_written_as_go_writes_them(http2_gateway: Http2Gateway) -> None:
    """HTTP/2 has them in lower case; HTTP/1.1 clients are used to Content-Type. Duplicates stay."""
    fields = [
        ("content-type", "application/json"),
        ("audit-id", "1"),
        ("x-kubernetes-pf-flowschema-uid", "2"),
        ("www-authenticate", "Basic"),
        ("etag", '"3"'),
        ("warning", "299 - a"),
        ("warning", "299 - b"),
        ("set-cookie", "a=b"),
        ("set-cookie", "c=d"),
        ("x_under.dot", "4"),
        ("x--dash", "5"),
        ("1-2b", "6"),
    ]
    http2_gateway.streams_for(script(head(200, *fields), b"{}", end))
    response = await http2_gateway.request()
    own = ("Date", "Transfer-Encoding", "Content-Length")
    assert [pair for pair in response.headers if pair[0] not in own] == [
        ("Content-Type", "application/json"),
        ("Audit-Id", "1"),
        ("X-Kubernetes-Pf-Flowschema-Uid", "2"),
        ("Www-Authenticate", "Basic"),
        ("Etag", '"3"'),
        ("Warning", "299 - a"),
        ("Warning", "299 - b"),
        ("Set-Cookie", "a=b"),
        ("Set-Cookie", "c=d"),
        ("X_under.dot", "4"),
        ("X--Dash", "5"),
        ("1-2b", "6"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, "HTTP/1.1 200 OK"),
        (201, "HTTP/1.1 201 Created"),
        (404, "HTTP/1.1 404 Not Found"),
        (409, "HTTP/1.1 409 Conflict"),
        (422, "HTTP/1.1 422 Unprocessable Entity"),
        (429, "HTTP/1.1 429 Too Many Requests"),
        (503, "HTTP/1.1 503 Service Unavailable"),
        (299, "HTTP/1.1 299 "),
        (599, "HTTP/1.1 599 "),
    ],
)
async def test_a_status_gets_its_phrase(http2_gateway: Http2Gateway, status: int, line: str) -> None:
    """HTTP/2 has none; for a number that has no name the space before it stays (RFC 9112, 4)."""
    http2_gateway.streams_for(answer(b"{}", status))
    response = await http2_gateway.request()
    assert response.head.start_line.startswith(line)
    assert response.text == "{}"


async def test_a_date_is_kept_or_added(http2_gateway: Http2Gateway) -> None:
    """Once, as over HTTP/1.1."""
    at = "Sat, 01 Jan 2000 00:00:00 GMT"
    http2_gateway.streams_for(answer(b"{}", headers=[("date", at)]))
    assert (await http2_gateway.request()).value("Date") == at
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).value("Date")


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_an_answer_has_its_length_or_is_chunked(
    http2_gateway: Http2Gateway, body: bytes, length: bool
) -> None:
    """Either way its end is plain and the connection goes on."""
    http2_gateway.streams_for(answer(body, length=length))
    client = await http2_gateway.connect()
    for _ in range(2):
        response = await client.request("GET", "/api")
        assert (response.text, response.body.is_complete) == (body.decode(), True)
        if length or body:
            assert response.framing == ("length" if length else "chunked")


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
async def test_an_http_1_0_client_is_answered(http2_gateway: Http2Gateway, keeps: bool, length: bool) -> None:
    """It knows no chunks: without a length the body ends with the connection."""
    http2_gateway.streams_for(answer(b'{"a":1}', length=length))
    client = await http2_gateway.connect()
    option = b"Connection: keep-alive\r\n" if keeps else b""
    for _ in range(2 if keeps and length else 1):
        await client.send(b"GET /api HTTP/1.0\r\nHost: localhost\r\n" + option + b"\r\n")
        response = await client.read_response()
        assert response.framing == ("length" if length else "close")
        assert (response.text, response.body.is_complete) == ('{"a":1}', True)
    if not (keeps and length):
        assert await client.read_to_end() == b""
        assert client.end == "eof"


@pytest.mark.parametrize("at_once", [True, False])
async def test_head_answers_have_their_length_and_no_body(http2_gateway: Http2Gateway, at_once: bool) -> None:
    """END_STREAM comes with the head or in an empty DATA frame; the length is that of a GET."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON, ("content-length", "1234")], end=at_once)
        if not at_once:
            await stream.send_data(b"", end=True)

    http2_gateway.streams_for(respond)
    client = await http2_gateway.connect()
    for _ in range(2):
        response = await client.request("HEAD", "/api")
        assert (response.status, response.value("Content-Length"), response.body.size) == (200, "1234", 0)
        assert not response.values("Transfer-Encoding")
    http2_gateway.streams_for(answer(b"{}"))
    assert (await client.request("GET", "/api")).text == "{}"


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_never_have_a_body(
    http2_gateway: Http2Gateway, status: int, at_once: bool
) -> None:
    """No chunks, and the next answer follows on the same connection."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(status, [("etag", '"1"')], end=at_once)
        if not at_once:
            await stream.send_data(b"", end=True)

    http2_gateway.streams_for(respond)
    client = await http2_gateway.connect()
    for _ in range(2):
        response = await client.request("GET", "/api")
        assert (response.status, response.framing, response.values("Transfer-Encoding")) == (
            status,
            "none",
            [],
        )
    http2_gateway.streams_for(answer(b"{}"))
    assert (await client.request("GET", "/api")).text == "{}"


async def test_trailers_pass(http2_gateway: Http2Gateway) -> None:
    """Behind the last chunk, with their names as Go writes them."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON, ("trailer", "X-Sum")])
        await stream.send_data(b"{}")
        await stream.send_trailers([("x-sum", "1"), ("x-more", "2")])

    http2_gateway.streams_for(respond)
    client = await http2_gateway.connect()
    for _ in range(2):
        response = await client.request("GET", "/api", [("TE", "trailers"), ("Connection", "TE")])
        assert (response.text, response.body.is_complete) == ("{}", True)
        assert response.body.trailers == [("X-Sum", "1"), ("X-More", "2")]


async def test_trailers_behind_a_length_do_no_harm(http2_gateway: Http2Gateway) -> None:
    """HTTP/1.1 has no place for them there; the answer is whole all the same."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON, ("content-length", "2")])
        await stream.send_data(b"{}")
        await stream.send_trailers([("x-sum", "1")])

    http2_gateway.streams_for(respond)
    client = await http2_gateway.connect()
    for _ in range(2):
        response = await client.request("GET", "/api")
        assert (response.text, response.body.is_complete) == ("{}", True)


async def test_trailers_without_a_body_end_the_answer(http2_gateway: Http2Gateway) -> None:
    """Head, then trailers at once."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        await stream.send_trailers([("x-sum", "1")])

    http2_gateway.streams_for(respond)
    client = await http2_gateway.connect()
    response = await client.request("GET", "/api")
    assert (response.text, response.body.is_complete) == ("", True)


async def test_interim_answers_pass(http2_gateway: Http2Gateway) -> None:
    """103 before the answer, with its fields."""

    async def respond(stream: Stream) -> None:
        await stream.send_interim(103, [("link", "</style.css>; rel=preload")])
        await answer(b"{}")(stream)

    http2_gateway.streams_for(respond)
    response = await http2_gateway.request()
    assert (response.status, response.text) == (200, "{}")
    [interim] = response.interim
    assert interim.start_line.split()[1] == "103"
    assert interim.value("Link") == "</style.css>; rel=preload"


@pytest.mark.parametrize("length", [True, False])
async def test_a_big_answer_arrives_whole(http2_gateway: Http2Gateway, length: bool) -> None:
    """5 MB: windows are opened as it is read."""
    http2_gateway.streams_for(big(SIZE, length=length))
    client, _ = await http2_gateway.begin()
    response = await client.read_head()
    assert await client.digest(response) == big_sha256(SIZE)
    assert response.body.is_complete


async def test_padding_is_not_passed_on(http2_gateway: Http2Gateway) -> None:
    """It counts for flow control, and for nothing else: megabytes in frames that are mostly padding."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        for _ in range(5000):
            await stream.send_data(b"x", padding=255)
        for _ in range(5000):
            await stream.send_padding(255)
        await stream.send_data(b"{}", end=True)

    http2_gateway.streams_for(respond)
    response = await http2_gateway.request()
    assert (response.text, response.body.is_complete) == ("x" * 5000 + "{}", True)


async def test_empty_data_frames_are_no_end(http2_gateway: Http2Gateway) -> None:
    """A chunk of size zero would be one."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        for piece in (b"", b"a", b"", b"b", b""):
            await stream.connection.send_raw(
                http2_frames.frame(http2_frames.DATA, piece, stream_id=stream.id)
            )
        await stream.send_data(b"", end=True)

    http2_gateway.streams_for(respond)
    response = await http2_gateway.request()
    assert (response.text, response.body.is_complete) == ("ab", True)


async def test_answers_of_one_connection_do_not_mix(http2_gateway: Http2Gateway) -> None:
    """Forty at once, in frames that take turns."""

    async def respond(stream: Stream) -> None:
        await stream.send_head(200, [JSON])
        for number in range(50):
            await stream.send_data(f"{stream.target} {number}\n".encode())
            await asyncio.sleep(0)
        await stream.send_data(b"", end=True)

    http2_gateway.streams_for(respond)
    responses = await asyncio.gather(
        *(http2_gateway.request(target=f"/api/{number}") for number in range(40))
    )
    for number, response in enumerate(responses):
        assert response.text == "".join(f"/api/{number} {line}\n" for line in range(50))


# -- watches --


@pytest.mark.parametrize("kind", ["empty", "padded"])
async def test_a_head_is_not_held_back_by_nothing(http2_gateway: Http2Gateway, kind: str) -> None:
    """DATA without data may come with the head of a watch: what is behind it may take minutes."""

    def nothing(number: int, block: bytes, end: bool) -> bytes:
        data = {
            "empty": http2_frames.frame(http2_frames.DATA, b"", stream_id=number),
            "padded": http2_frames.frame(
                http2_frames.DATA, b"\1\0", stream_id=number, flags=http2_frames.PADDED
            ),
        }[kind]
        return http2_frames.header_frames(number, block) + data

    async def respond(stream: Stream) -> None:
        await stream.send_headers(head(200, JSON), frames=nothing)
        await stream.over.wait()

    http2_gateway.streams_for(respond)
    client, _ = await http2_gateway.begin()
    assert (await client.read_head()).status == 200


async def test_a_watch_of_an_http_1_0_client_comes_as_it_is(http2_gateway: Http2Gateway) -> None:
    """Without chunks, and each event at once."""
    events: asyncio.Queue[bytes | None] = asyncio.Queue()
    http2_gateway.streams_for(watch(events))
    client = await http2_gateway.connect()
    await client.send(b"GET /api/v1/pods?watch=true HTTP/1.0\r\nHost: localhost\r\n\r\n")
    response = await client.read_head()
    assert response.framing == "close"
    for event in (b"one\n", b"two\n"):
        events.put_nowait(event)
        assert await client.read_piece(response) == event
    events.put_nowait(None)
    assert await client.read_piece(response) == b""
    assert client.end == "eof"


# -- the end of a client --


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stage", ["waiting", "watching", "uploading"])
async def test_a_client_that_leaves_ends_its_stream_alone(
    http2_gateway: Http2Gateway, stage: str, how: str
) -> None:
    """RST_STREAM, at once; the connection and the other streams stay."""
    other = await http2_gateway.watch("/other")
    if stage == "watching":
        watching = await http2_gateway.watch()
        await watching.goes_on()
        client, stream = watching.client, watching.stream
    else:
        http2_gateway.streams_for(script(lambda stream: stream.over.wait(), early=True))
        is_upload = stage == "uploading"
        client, stream = await http2_gateway.begin(
            "POST" if is_upload else "GET",
            headers=[("Content-Length", "100")] if is_upload else [],
            body=b"half" if is_upload else b"",
        )
        if is_upload:
            await http2_gateway.server.wait_for(lambda: stream.body.size == 4, "the first half")
    left_at = time.monotonic()
    client.close() if how == "close" else client.reset()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await stream.over.wait()
    assert (stream.over_at or 0) - left_at < 10
    if not COMPARES:
        assert stream.reset_code == http2_frames.CANCEL
    assert not stream.body.is_complete or stage != "uploading"
    await other.goes_on()
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1
    assert not http2_gateway.connections[0].ended.is_set()


async def test_a_hundred_clients_that_leave_at_once(http2_gateway: Http2Gateway) -> None:
    """All their streams end, and the connection serves on."""
    http2_gateway.streams_for(script(head(200, JSON), lambda stream: stream.over.wait()))
    clients = [await http2_gateway.connect() for _ in range(100)]
    for client in clients:
        await client.send(request_bytes("GET", WATCH))
        await client.read_head()
    for client in clients:
        client.reset()
    server = http2_gateway.server
    await server.wait_for(lambda: all(each.over.is_set() for each in server.streams), "their end")
    http2_gateway.streams_for(answer(b"{}"))
    assert (await http2_gateway.request()).status == 200
    assert len(http2_gateway.connections) == 1

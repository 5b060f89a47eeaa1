"""API servers that break HTTP/2: what reaches the client, what happens to the other streams, what is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from tests.conformance.conftest import COMPARES, Http2Gateway
from tests.support import http2_frames as h2
from tests.support import proc, secrets
from tests.support.client import RawClient, Response, request_bytes
from tests.support.http2_answers import JSON, answer, echo, end, head, raw, script, wait_until_over
from tests.support.http2_frames import (
    COMPRESSION_ERROR,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PADDED,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    frame,
)
from tests.support.http2_server import Fields, Http2Connection, Stream
from tests.support.patience import LAST_RESORT_SECONDS, standstill

OK: Fields = [(":status", "200"), JSON]
Bytes = Callable[[Stream], bytes]


async def ask(gateway: Http2Gateway, target: str = "/api") -> tuple[RawClient, Response | None]:
    """A request that may be answered or not; the answer is read to its end."""
    client = await gateway.connect()
    await client.send(request_bytes("GET", target))
    try:
        return client, await client.read_response()
    except ConnectionResetError:
        return client, None


async def serves_on(gateway: Http2Gateway) -> None:
    """Whatever was broken, the next request is answered."""
    gateway.streams_for(answer(b"{}"))
    response = await gateway.request()
    assert (response.status, response.text) == (200, "{}")


def is_failure(response: Response | None) -> bool:
    """An error of our own, or an answer that was cut; never one that looks complete."""
    if response is None or not response.body.is_complete:
        return True
    assert not secrets.leaked(response.text)
    if COMPARES:
        return response.status == 500
    return response.status == 502 and response.json()["kind"] == "Status"


# -- what breaks the connection --


def said(stream: Stream, *fields: tuple[str, str], end: bool = False) -> bytes:
    """A HEADERS frame."""
    block = stream.connection.encode(list(fields) or OK)
    return h2.header_frames(stream.id, block, end=end)


def data(stream: Stream, payload: bytes = b"x", flags: int = 0, number: int | None = None) -> bytes:
    return frame(h2.DATA, payload, stream_id=stream.id if number is None else number, flags=flags)


def setting(number: int, value: int) -> bytes:
    return struct.pack("!HI", number, value)


CONNECTION_ERRORS: dict[str, tuple[Bytes, set[int] | frozenset[int]]] = {
    "DATA on stream 0": (lambda s: data(s, number=0), {PROTOCOL_ERROR}),
    "DATA on a stream nobody began": (lambda s: data(s, number=s.id + 100), {PROTOCOL_ERROR, STREAM_CLOSED}),
    "HEADERS on stream 0": (lambda s: h2.header_frames(0, s.connection.encode(OK)), {PROTOCOL_ERROR}),
    "HEADERS on an even stream": (lambda s: h2.header_frames(2, s.connection.encode(OK)), {PROTOCOL_ERROR}),
    "HEADERS on a stream nobody began": (
        lambda s: h2.header_frames(s.id + 100, s.connection.encode(OK)),
        {PROTOCOL_ERROR, STREAM_CLOSED},
    ),
    "a frame that is too large": (lambda s: said(s) + data(s, bytes(16385)), {FRAME_SIZE_ERROR}),
    "a head that is too large a frame": (
        lambda s: frame(h2.HEADERS, bytes(20000), stream_id=s.id, flags=END_HEADERS),
        {FRAME_SIZE_ERROR},
    ),
    "PUSH_PROMISE": (
        lambda s: frame(
            h2.PUSH_PROMISE,
            struct.pack("!L", 2) + s.connection.encode([(":method", "GET"), (":path", "/x")]),
            stream_id=s.id,
            flags=END_HEADERS,
        ),
        {PROTOCOL_ERROR},
    ),
    "broken HPACK": (
        lambda s: frame(h2.HEADERS, b"\xff\xff\xff\xff\xff\xff", stream_id=s.id, flags=END_HEADERS),
        {COMPRESSION_ERROR},
    ),
    "an index that is not in the table": (
        lambda s: frame(h2.HEADERS, b"\x88\xfe", stream_id=s.id, flags=END_HEADERS),
        {COMPRESSION_ERROR},
    ),
    "broken huffman": (
        lambda s: frame(h2.HEADERS, b"\x88\x40\x01a\x84\xff\xff\xff\xff", stream_id=s.id, flags=END_HEADERS),
        {COMPRESSION_ERROR},
    ),
    "a table larger than was allowed": (
        lambda s: frame(h2.HEADERS, b"\x3f\xff\xff\xff\x07\x88", stream_id=s.id, flags=END_HEADERS),
        {COMPRESSION_ERROR},
    ),
    "CONTINUATION without HEADERS": (
        lambda s: frame(h2.CONTINUATION, b"", stream_id=s.id, flags=END_HEADERS),
        {PROTOCOL_ERROR},
    ),
    "CONTINUATION of another stream": (
        lambda s: (
            frame(h2.HEADERS, b"\x88", stream_id=s.id)
            + frame(h2.CONTINUATION, b"", stream_id=s.id + 2, flags=END_HEADERS)
        ),
        {PROTOCOL_ERROR},
    ),
    "a frame between HEADERS and CONTINUATION": (
        lambda s: h2.header_frames(s.id, s.connection.encode(OK), [1], between=frame(h2.PING, bytes(8))),
        {PROTOCOL_ERROR},
    ),
    "DATA with more padding than it has": (
        lambda s: said(s) + data(s, b"\x05abcd", PADDED),
        {PROTOCOL_ERROR},
    ),
    "DATA that should be padded and is empty": (
        lambda s: said(s) + data(s, b"", PADDED),
        {PROTOCOL_ERROR, FRAME_SIZE_ERROR},
    ),
    "HEADERS with more padding than it has": (
        lambda s: frame(h2.HEADERS, b"\x09\x88\0", stream_id=s.id, flags=END_HEADERS | PADDED),
        {PROTOCOL_ERROR},
    ),
    "SETTINGS on a stream": (lambda s: frame(h2.SETTINGS, stream_id=s.id), {PROTOCOL_ERROR}),
    "SETTINGS of an odd length": (lambda s: frame(h2.SETTINGS, bytes(5)), {FRAME_SIZE_ERROR}),
    "an acknowledgement with settings": (
        lambda s: frame(h2.SETTINGS, setting(4, 1000), flags=h2.ACK),
        {FRAME_SIZE_ERROR},
    ),
    "a window of more than 2 GB": (
        lambda s: frame(h2.SETTINGS, setting(h2.INITIAL_WINDOW_SIZE, 2**31)),
        {FLOW_CONTROL_ERROR},
    ),
    "a frame size below the least": (
        lambda s: frame(h2.SETTINGS, setting(h2.MAX_FRAME_SIZE, 16383)),
        {PROTOCOL_ERROR},
    ),
    "a frame size above the most": (
        lambda s: frame(h2.SETTINGS, setting(h2.MAX_FRAME_SIZE, 2**24)),
        {PROTOCOL_ERROR},
    ),
    "ENABLE_PUSH": (lambda s: frame(h2.SETTINGS, setting(h2.ENABLE_PUSH, 1)), {PROTOCOL_ERROR}),
    "ENABLE_PUSH of 2": (lambda s: frame(h2.SETTINGS, setting(h2.ENABLE_PUSH, 2)), {PROTOCOL_ERROR}),
    "PING on a stream": (lambda s: frame(h2.PING, bytes(8), stream_id=s.id), {PROTOCOL_ERROR}),
    "PING of an odd length": (lambda s: frame(h2.PING, bytes(7)), {FRAME_SIZE_ERROR}),
    "GOAWAY on a stream": (lambda s: frame(h2.GOAWAY, bytes(8), stream_id=s.id), {PROTOCOL_ERROR}),
    "GOAWAY that is too short": (lambda s: frame(h2.GOAWAY, bytes(7)), {FRAME_SIZE_ERROR}),
    "RST_STREAM on stream 0": (lambda s: h2.reset_frame(0, 8), {PROTOCOL_ERROR}),
    "RST_STREAM on a stream nobody began": (lambda s: h2.reset_frame(s.id + 100, 8), {PROTOCOL_ERROR}),
    "RST_STREAM of an odd length": (
        lambda s: frame(h2.RST_STREAM, bytes(3), stream_id=s.id),
        {FRAME_SIZE_ERROR},
    ),
    "WINDOW_UPDATE of 0 for all": (lambda s: h2.window_frame(0, 0), {PROTOCOL_ERROR}),
    "WINDOW_UPDATE of an odd length": (lambda s: frame(h2.WINDOW_UPDATE, bytes(3)), {FRAME_SIZE_ERROR}),
    "WINDOW_UPDATE on a stream nobody began": (
        lambda s: h2.window_frame(s.id + 100, 1),
        {PROTOCOL_ERROR},
    ),
    "a window for all that overflows": (lambda s: h2.window_frame(0, 2**31 - 1), {FLOW_CONTROL_ERROR}),
}


@pytest.mark.parametrize("fault", CONNECTION_ERRORS)
async def test_what_breaks_the_connection(http2_gateway: Http2Gateway, fault: str) -> None:
    """It is closed, with the code of RFC 9113; nothing looks complete, and the next request is served."""
    send, codes = CONNECTION_ERRORS[fault]
    http2_gateway.streams_for(script(raw(send), wait_until_over))
    _, response = await ask(http2_gateway)
    assert is_failure(response), f"{response.status} {response.text}" if response else ""
    first = http2_gateway.connections[0]
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await first.ended.wait()
    if not COMPARES:
        assert first.goaway is not None
        assert first.goaway[1] in codes
        # What is sent again may meet the same fault, but not for ever.
        assert len(http2_gateway.server.streams) <= 10
    await serves_on(http2_gateway)


@pytest.mark.parametrize("greeting", ["HTTP/1.1", "no SETTINGS", "garbage", "end"])
async def test_a_server_that_does_not_greet_as_it_must(http2_gateway: Http2Gateway, greeting: str) -> None:
    """ALPN promised HTTP/2: what is no SETTINGS frame is an error."""

    async def greet(connection: Http2Connection) -> None:
        match greeting:
            case "HTTP/1.1":
                await connection.send_raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            case "no SETTINGS":
                await connection.send_raw(frame(h2.PING, bytes(8)))
            case "garbage":
                await connection.send_raw(b"\xff" * 256)
            case "end":
                connection.close()

    http2_gateway.server.greets = False
    http2_gateway.server.on_connection = greet
    http2_gateway.streams_for(script(wait_until_over))
    _, response = await ask(http2_gateway)
    assert is_failure(response)
    assert len(http2_gateway.connections) <= 10
    await http2_gateway.replace_upstream()
    await serves_on(http2_gateway)


# -- what breaks one stream --

LINE = "a\r\nX-Injected: 1"
MALFORMED: dict[str, Fields] = {
    "no status": [JSON],
    "two statuses": [(":status", "200"), (":status", "204"), JSON],
    "a status that is no number": [(":status", "abc"), JSON],
    "an empty status": [(":status", ""), JSON],
    "a status of two digits": [(":status", "99"), JSON],
    "a status of four digits": [(":status", "2000"), JSON],
    "a status below 100": [(":status", "000"), JSON],
    "a status with a sign": [(":status", "+20"), JSON],
    "a status with a line": [(":status", "200\r\nX-Injected: 1"), JSON],
    "101": [(":status", "101"), ("upgrade", "websocket")],
    "another pseudo field": [(":status", "200"), (":path", "/x"), JSON],
    "an unknown pseudo field": [(":status", "200"), (":x", "y"), JSON],
    "a status behind a field": [JSON, (":status", "200")],
    "an upper-case name": [*OK, ("X-Upper", "1")],
    "an empty name": [*OK, ("", "1")],
    "a name with a space": [*OK, ("x y", "1")],
    "a name with a colon": [*OK, ("x:y", "1")],
    "a name with a line": [*OK, (LINE.lower(), "1")],
    "a name beyond ASCII": [*OK, ("x\u00e9", "1")],
    "a value with a line": [*OK, ("x-line", LINE)],
    "a value with a CR": [*OK, ("x-line", "a\rb")],
    "a value with a LF": [*OK, ("x-line", "a\nb")],
    "a value with a NUL": [*OK, ("x-line", "a\0b")],
    "a length that is no number": [*OK, ("content-length", "abc")],
    "a negative length": [*OK, ("content-length", "-1")],
    "two lengths": [*OK, ("content-length", "2"), ("content-length", "3")],
}


@contextlib.asynccontextmanager
async def bystander(gateway: Http2Gateway) -> AsyncIterator[None]:
    """A watch on the same connection, which must not notice."""
    running = await gateway.watch("/bystander")
    yield
    await running.goes_on()
    assert len(gateway.connections) == 1


@pytest.mark.parametrize("fault", MALFORMED)
async def test_a_malformed_head_is_an_error_of_its_stream(http2_gateway: Http2Gateway, fault: str) -> None:
    """RFC 9113, 8.1.1: 502 and RST_STREAM; nothing of it passes, and the other streams do not notice."""
    http2_gateway.streams_for(
        script(raw(lambda stream: said(stream, *MALFORMED[fault], end=True)), wait_until_over)
    )
    async with bystander(http2_gateway):
        _, response = await ask(http2_gateway)
        assert is_failure(response), response and response.head.raw
        assert response is None or b"injected" not in response.head.raw.lower()
    await serves_on(http2_gateway)


@pytest.mark.parametrize(
    "field",
    [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
    ],
)
async def test_fields_of_a_connection_never_pass(http2_gateway: Http2Gateway, field: tuple[str, str]) -> None:
    """HTTP/2 forbids them (RFC 9113, 8.2.2): refused or dropped, they do not frame what the client reads."""
    http2_gateway.streams_for(script(head(200, JSON, field), b"{}", end))
    async with bystander(http2_gateway):
        _, response = await ask(http2_gateway)
        if not is_failure(response):
            assert response is not None
            assert (response.status, response.text) == (200, "{}")
            assert field not in [
                (name.lower(), value) for name, value in response.headers if value != "chunked"
            ]


@pytest.mark.parametrize("name", ["content-length", "host", "authorization"])
async def test_what_may_be_no_trailer_does_not_pass(http2_gateway: Http2Gateway, name: str) -> None:
    """RFC 9110, 6.5.1, as over HTTP/1.1: it does not look complete, and the other streams do not notice."""
    http2_gateway.streams_for(
        script(head(200, JSON), b"{}", lambda stream: stream.send_trailers([(name, "1")]))
    )
    async with bystander(http2_gateway):
        _, response = await ask(http2_gateway)
        assert is_failure(response)
    await serves_on(http2_gateway)


async def test_white_space_around_a_value_means_nothing(http2_gateway: Http2Gateway) -> None:
    """Go's server sends it as handlers set it, and Go's client does not mind: kubectl passes it on."""
    fields = [*OK, ("x-warning", " careful "), ("content-length", " 2\t")]
    http2_gateway.streams_for(script(fields, b"{}", end))
    for _ in range(2):
        response = await http2_gateway.request()
        assert (response.status, response.text, response.value("X-Warning")) == (200, "{}", "careful")


@pytest.mark.parametrize(
    ("length", "sent"),
    [("10", b"12345"), ("5", b""), ("5", b"1234567890"), ("0", b"12345")],
    ids=["short", "nothing", "long", "something"],
)
async def test_a_length_that_is_not_kept_is_no_whole_answer(
    http2_gateway: Http2Gateway, length: str, sent: bytes
) -> None:
    """Too short: cut. Too long: the rest must not be taken for the next answer."""

    def frames(stream: Stream) -> bytes:
        return said(stream, *OK, ("content-length", length)) + data(stream, sent, END_STREAM)

    http2_gateway.streams_for(script(raw(frames), wait_until_over))
    async with bystander(http2_gateway):
        client, response = await ask(http2_gateway)
        if len(sent) < int(length) or response is None:
            assert is_failure(response)
        elif not is_failure(response):
            assert response.text == sent[: int(length)].decode()
            await client.read_to_end()
            assert not client.buffer
    await serves_on(http2_gateway)


STREAM_ERRORS: dict[str, Bytes] = {
    "DATA before the head": lambda s: data(s),
    "DATA before the head, and the end": lambda s: data(s, b"x", END_STREAM),
    "an interim answer that ends the stream": lambda s: said(s, (":status", "103"), end=True),
    "WINDOW_UPDATE of 0": lambda s: said(s) + h2.window_frame(s.id, 0),
    "a window that overflows": lambda s: said(s) + h2.window_frame(s.id, 2**31 - 1),
    "a second head": lambda s: said(s) + data(s) + said(s),
    "trailers with a status": lambda s: said(s) + data(s) + said(s, (":status", "200"), end=True),
    "trailers with an upper-case name": lambda s: said(s) + data(s) + said(s, ("X-Upper", "1"), end=True),
    "trailers with a line": lambda s: said(s) + data(s) + said(s, ("x-line", LINE), end=True),
}


@pytest.mark.parametrize("fault", STREAM_ERRORS)
async def test_what_breaks_one_stream(http2_gateway: Http2Gateway, fault: str) -> None:
    """It does not look complete, nothing is injected, and the other streams do not notice."""
    http2_gateway.streams_for(script(raw(STREAM_ERRORS[fault]), wait_until_over))
    async with bystander(http2_gateway):
        _, response = await ask(http2_gateway)
        assert is_failure(response), response and (response.head.raw, response.text)
        if response is not None:
            assert b"njected" not in response.head.raw
            assert not any("njected" in name for name, _ in response.body.trailers)
    await serves_on(http2_gateway)


@pytest.mark.parametrize("what", ["DATA", "HEADERS", "RST_STREAM", "WINDOW_UPDATE"])
async def test_frames_behind_the_end_of_a_stream(http2_gateway: Http2Gateway, what: str) -> None:
    """The answer was whole and stays so. RST_STREAM and WINDOW_UPDATE may come late and mean nothing."""
    late: dict[str, Bytes] = {
        "DATA": lambda s: data(s),
        "HEADERS": lambda s: said(s),
        "RST_STREAM": lambda s: h2.reset_frame(s.id, h2.NO_ERROR),
        "WINDOW_UPDATE": lambda s: h2.window_frame(s.id, 10),
    }
    http2_gateway.streams_for(script(head(200, JSON, ("content-length", "2")), b"{}", end, raw(late[what])))
    _, response = await ask(http2_gateway)
    assert response is not None
    assert (response.status, response.text, response.body.is_complete) == (200, "{}", True)
    if what in ("RST_STREAM", "WINDOW_UPDATE"):
        await http2_gateway.connections[0].ping()
        assert not http2_gateway.connections[0].ended.is_set()
    await serves_on(http2_gateway)


async def test_frames_for_a_stream_that_was_left(http2_gateway: Http2Gateway) -> None:
    """They crossed our RST_STREAM: dropped, but their table entries and windows count all the same."""
    gone, sent = asyncio.Event(), asyncio.Event()

    async def late(stream: Stream) -> None:
        await gone.wait()
        block = stream.connection.encode([*OK, ("x-late", "in the table")])
        frames = h2.header_frames(stream.id, block) + data(stream, bytes(16000)) * 2
        await stream.connection.send_raw(frames + data(stream, b"x", END_STREAM))
        sent.set()

    http2_gateway.streams_for(late, "/left")
    client, stream = await http2_gateway.begin(target="/left")
    client.reset()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        await stream.over.wait()
    gone.set()
    await sent.wait()
    http2_gateway.streams_for(answer(b"{}", headers=[("x-late", "in the table")]))
    response = await http2_gateway.request()
    assert (response.status, response.value("X-Late")) == (200, "in the table")
    assert len(http2_gateway.connections) == 1


# -- what is allowed, however odd --

ODD: dict[str, Bytes] = {
    "a frame of unknown type": lambda s: frame(0xFA, b"what?"),
    "one on the stream, with flags": lambda s: frame(0xFB, b"what?", stream_id=s.id, flags=0xFF),
    "ALTSVC": lambda s: frame(0x0A, b"\0\0h2=:1"),
    "ORIGIN": lambda s: frame(0x0C, b""),
    "PRIORITY": lambda s: frame(h2.PRIORITY, bytes(5), stream_id=s.id),
    "PRIORITY of another stream": lambda s: frame(h2.PRIORITY, bytes(5), stream_id=s.id + 100),
    "unknown settings": lambda s: frame(h2.SETTINGS, setting(0xFAFA, 1) + setting(8, 1)),
    "the same setting twice": lambda s: frame(h2.SETTINGS, setting(3, 1) + setting(3, 100)),
    "no settings at all": lambda s: frame(h2.SETTINGS),
    "ENABLE_PUSH of 0": lambda s: frame(h2.SETTINGS, setting(h2.ENABLE_PUSH, 0)),
    "the largest frames": lambda s: frame(h2.SETTINGS, setting(h2.MAX_FRAME_SIZE, 2**24 - 1)),
    "a small table": lambda s: frame(h2.SETTINGS, setting(h2.HEADER_TABLE_SIZE, 0)),
    "a large table": lambda s: frame(h2.SETTINGS, setting(h2.HEADER_TABLE_SIZE, 65536)),
    "a small list of fields": lambda s: frame(h2.SETTINGS, setting(h2.MAX_HEADER_LIST_SIZE, 100_000)),
    "flags that mean nothing": lambda s: frame(h2.PING, bytes(8), flags=0xF0),
    "an answer to no PING": lambda s: frame(h2.PING, bytes(8), flags=h2.ACK),
    "a reserved bit": lambda s: frame(h2.PING, bytes(8), stream_id=1 << 31),
    "a small WINDOW_UPDATE": lambda s: h2.window_frame(s.id, 1) + h2.window_frame(0, 1),
}


@pytest.mark.parametrize("oddity", ODD)
async def test_what_is_odd_and_allowed(http2_gateway: Http2Gateway, oddity: str) -> None:
    """Before the head, in the body, and for the requests that follow."""

    async def respond(stream: Stream) -> None:
        odd = ODD[oddity](stream)
        await stream.connection.send_raw(odd)
        await stream.send_head(200, [JSON, ("x-one", "1")])
        await stream.connection.send_raw(odd)
        await stream.send_data(b"{}")
        await stream.connection.send_raw(odd)
        await stream.send_data(b"", end=True)

    http2_gateway.streams_for(respond)
    for _ in range(3):
        response = await http2_gateway.request(headers=[("X-Two", "2")])
        assert (response.status, response.text, response.value("X-One")) == (200, "{}", "1")
    if oddity != "the same setting twice":
        assert len(http2_gateway.connections) == 1


async def test_the_reserved_bit_of_a_stream_id_means_nothing(http2_gateway: Http2Gateway) -> None:
    """RFC 9113, 4.1: it is ignored, in each frame of an answer."""

    def whole(stream: Stream) -> bytes:
        number = stream.id | 1 << 31
        return (
            h2.header_frames(number, stream.connection.encode(OK))
            + data(stream, b"{", number=number)
            + data(stream, b"}", END_STREAM, number=number)
        )

    http2_gateway.streams_for(script(raw(whole)))
    for _ in range(2):
        response = await http2_gateway.request()
        assert (response.status, response.text, response.body.is_complete) == (200, "{}", True)
    assert len(http2_gateway.connections) == 1


HEADS: dict[str, Callable[[int, bytes, bool], bytes]] = {
    "in single bytes": lambda n, block, e: h2.header_frames(n, block, range(1, len(block)), end=e),
    "with empty pieces": lambda n, block, e: h2.header_frames(n, block, [0, 0, 5, 5, len(block)], end=e),
    "padded": lambda n, block, e: h2.padded_headers(n, block, 255, end=e),
    "padded by nothing": lambda n, block, e: h2.padded_headers(n, block, 0, end=e),
    "with a priority": lambda n, block, e: h2.padded_headers(n, block, 3, end=e, priority=b"\x80\0\0\0\x10"),
}


@pytest.mark.parametrize("form", HEADS)
async def test_a_head_in_any_form(http2_gateway: Http2Gateway, form: str) -> None:
    """Cut into CONTINUATIONs anywhere, padded, with the priority of RFC 7540."""

    async def respond(stream: Stream) -> None:
        fields = [(":status", "200"), JSON, ("x-text", "some text that is new"), ("x-end", "1")]
        await stream.send_headers(fields, frames=HEADS[form])
        await stream.send_data(b"{}")
        await stream.send_headers([("x-sum", "1")], end=True, frames=HEADS[form])

    http2_gateway.streams_for(respond)
    for _ in range(2):
        response = await http2_gateway.request()
        assert (response.text, response.value("X-Text")) == ("{}", "some text that is new")
        assert response.value("X-End") == "1"
        assert response.body.trailers == [("X-Sum", "1")]


async def test_a_table_is_used_before_our_settings_are_known(http2_gateway: Http2Gateway) -> None:
    """Until the server has acknowledged our SETTINGS the table has the 4096 bytes of the RFC."""
    http2_gateway.server.holds = {h2.SETTINGS}
    fields = [(f"x-field-{number}", " ".join([f"value {number}"] * 3)) for number in range(30)]
    http2_gateway.streams_for(answer(b"{}", headers=fields))
    for _ in range(3):
        response = await http2_gateway.request()
        assert response.value("X-Field-29") == "value 29 value 29 value 29"
    await http2_gateway.connections[0].release()
    for _ in range(2):
        assert (await http2_gateway.request()).value("X-Field-29")
    assert len(http2_gateway.connections) == 1


async def test_the_table_changes_its_size(http2_gateway: Http2Gateway) -> None:
    """An encoder may shrink its table and grow it again, whenever a head begins; with the same fields."""
    http2_gateway.server.holds = {h2.SETTINGS}
    http2_gateway.streams_for(answer(b"{}", headers=[("x-one", "1"), ("x-two", "2")]))
    for size in (4096, 0, 100, 0, 4096, 0, 4096, 50, 4000):
        for _ in range(2):
            response = await http2_gateway.request()
            assert (response.value("X-One"), response.value("X-Two")) == ("1", "2")
        http2_gateway.connections[0].h2.encoder.header_table_size = size
    assert len(http2_gateway.connections) == 1


@pytest.mark.parametrize("size", [0, 100, 65536])
async def test_our_table_follows_the_servers_settings(http2_gateway: Http2Gateway, size: int) -> None:
    """What we send is read by a decoder that allows just that table, from the acknowledgement on."""
    http2_gateway.streams_for(echo())
    for _ in range(2):
        assert (await http2_gateway.request(headers=[("X-One", "1")])).status == 200
    await http2_gateway.connections[0].change_settings({h2.HEADER_TABLE_SIZE: size})
    for number in range(3):
        seen = (await http2_gateway.request(headers=[("X-One", str(number))])).json()
        assert ["x-one", str(number)] in seen["fields"]
    assert len(http2_gateway.connections) == 1


# -- without end --


LIMIT_BYTES = 40_000_000


@pytest.mark.parametrize("kind", ["indexed", "literal", "empty", "interim"])
async def test_a_head_without_end_is_cut_off(http2_gateway: Http2Gateway, kind: str) -> None:
    """No server can make the proxy keep more than some megabytes of heads."""
    sent = [0]

    async def flood(stream: Stream) -> None:
        if kind != "interim":
            await stream.connection.send_raw(frame(h2.HEADERS, b"\x88", stream_id=stream.id))
        pieces = {
            # One of the static table again and again; new ones; nothing at all.
            "indexed": frame(h2.CONTINUATION, b"\x82" * 16384, stream_id=stream.id),
            "literal": frame(h2.CONTINUATION, (b"\0\x01x\x7d" + b"y" * 125) * 127, stream_id=stream.id),
            "empty": frame(h2.CONTINUATION, b"", stream_id=stream.id) * 1000,
            "interim": h2.header_frames(stream.id, b"\x08\x03103\0\x01x\x7d" + b"y" * 125) * 100,
        }
        while sent[0] < LIMIT_BYTES and not stream.over.is_set():
            await stream.connection.send_raw(pieces[kind])
            sent[0] += len(pieces[kind])
        await stream.over.wait()

    http2_gateway.streams_for(flood)
    before = http2_gateway.program.rss_bytes()
    client = await http2_gateway.connect()
    await client.send(request_bytes("GET", "/api"))
    if kind != "interim":
        response = await client.read_response()
        assert is_failure(response)
        assert sent[0] < LIMIT_BYTES
    else:
        # The client takes none of them, or they are too many: nothing piles up in between.
        await standstill(lambda: sent[0], 25)
    client.reset()
    assert http2_gateway.program.rss_bytes() - before < 30_000_000
    await http2_gateway.replace_upstream()
    await serves_on(http2_gateway)


async def test_a_small_block_that_stands_for_a_huge_head(http2_gateway: Http2Gateway) -> None:
    """An entry of 4 KB that is referred to by 200,000 bytes would be a head of 800 MB."""
    entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000

    def bomb(stream: Stream) -> bytes:
        block = b"\x88" + entry + b"\xbe" * 200_000
        return h2.header_frames(stream.id, block, range(16_000, len(block), 16_000), end=True)

    http2_gateway.server.holds = {h2.SETTINGS}
    http2_gateway.streams_for(script(raw(bomb), wait_until_over))
    proc.reset_peak(http2_gateway.program.pid)
    before = http2_gateway.program.rss_bytes()
    _, response = await ask(http2_gateway)
    assert is_failure(response)
    assert http2_gateway.program.peak_rss_bytes() - before < 20_000_000
    await http2_gateway.replace_upstream()
    await serves_on(http2_gateway)


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_bytes_that_drip(http2_gateway: Http2Gateway, size: int) -> None:
    """Frames that are cut anywhere, by a server or a network that sends them in small pieces."""

    async def drip(stream: Stream) -> None:
        frames = said(stream, *OK, ("x-one", "1")) + data(stream, b"hello") + data(stream, b"!", END_STREAM)
        for start in range(0, len(frames), size):
            await stream.connection.send_raw(frames[start : start + size])
            await asyncio.sleep(0)

    http2_gateway.streams_for(drip)
    for _ in range(2):
        _, response = await ask(http2_gateway)
        assert response is not None
        assert (response.text, response.value("X-One"), response.body.is_complete) == ("hello!", "1", True)
    assert len(http2_gateway.connections) == 1


@pytest.mark.parametrize("seed", range(8))
async def test_damaged_answers_do_no_harm(http2_gateway: Http2Gateway, seed: int) -> None:
    """Bytes of sound answers are changed, lost and doubled, then the connection ends: nothing is upset."""
    chance = random.Random(seed)

    async def damaged(stream: Stream) -> None:
        frames = b"".join(
            (
                said(stream, (":status", "103"), ("link", "</x>")),
                said(stream, *OK, ("x-one", "1"), ("audit-id", str(stream.id))),
                data(stream, b"{" + b" " * chance.randrange(300)),
                frame(h2.SETTINGS, setting(h2.INITIAL_WINDOW_SIZE, 70_000)),
                frame(h2.PING, bytes(8)),
                h2.window_frame(0, 1000),
                data(stream, b"\x02}\0\0", PADDED),
                said(stream, ("x-sum", "1"), end=True),
            )
        )
        await stream.connection.send_raw(damage(frames, chance))
        stream.connection.close()

    http2_gateway.server.allows_errors = True
    http2_gateway.streams_for(damaged)
    for _ in range(25):
        client = await http2_gateway.connect()
        await client.send(request_bytes("POST", "/api", body=b"x"))
        with contextlib.suppress(ConnectionResetError):
            response = await client.read_response("POST")
            assert response.status in range(100, 1000)
        client.reset()
    await http2_gateway.replace_upstream()
    await serves_on(http2_gateway)
    assert not http2_gateway.program.log_events("internal.failed")


def damage(frames: bytes, chance: random.Random) -> bytes:
    """One to three changes, mostly of single bytes."""
    found = bytearray(frames)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(found))
        match chance.randrange(5):
            case 0:
                del found[place : place + chance.randrange(1, 12)]
            case 1:
                found[place:place] = found[place : place + chance.randrange(1, 40)]
            case 2:
                found[place] ^= 1 << chance.randrange(8)
            case _:
                found[place] = chance.randrange(256)
    return bytes(found)

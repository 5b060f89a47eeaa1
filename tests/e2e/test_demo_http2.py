"""The demo cluster over HTTP/2, asked by a client that is not ours: the `h2` package."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from kproxy.demo import DemoCluster
from tests.e2e.clusters import Cluster, config_map
from tests.e2e.demo_session import CONFIGMAPS, PODS, QUICK, client_context
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.program import Program

Pairs = Sequence[tuple[str, str]]


class Answer:
    """What came on one stream so far. `takes` is whether what came makes room for more."""

    def __init__(self, stream_id: int, *, takes: bool) -> None:
        self.id = stream_id
        self.takes = takes
        self.headers: dict[str, str] = {}
        self.informational: list[str] = []
        self.body = bytearray()
        self.is_over = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    @property
    def value(self) -> Any:
        return json.loads(bytes(self.body))


class Client:
    """One connection of HTTP/2 and its streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.goaway: ConnectionTerminated | None = None
        self.is_closed = False
        self._reader, self._writer = reader, writer
        self._authority = authority
        self._answers: dict[int, Answer] = {}
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def begin(self) -> None:
        """Ample room for all streams together: what stalls is to be one of them."""
        self.http.initiate_connection()
        self.http.increment_flow_control_window(1 << 24)
        await self.flush()

    async def flush(self) -> None:
        self._writer.write(self.http.data_to_send())
        await self._writer.drain()

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, more: Pairs = (), *, takes: bool = True
    ) -> Answer:
        """A request whose body, if it has one, is sent whole; the answer as it comes."""
        answer = await self.open(method, path, more, ends=body is None, takes=takes)
        for start in range(0, len(body or b""), 10_000):
            await self.send(answer, (body or b"")[start : start + 10_000])
        if body is not None:
            self.http.end_stream(answer.id)
            await self.flush()
        return answer

    async def open(self, method: str, path: str, more: Pairs, *, ends: bool, takes: bool = True) -> Answer:
        answer = Answer(self.http.get_next_available_stream_id(), takes=takes)
        self._answers[answer.id] = answer
        head = [(":method", method), (":scheme", "https"), (":authority", self._authority), (":path", path)]
        self.http.send_headers(answer.id, [*head, *more], end_stream=ends)
        await self.flush()
        return answer

    async def send(self, answer: Answer, data: bytes) -> None:
        await self.until(lambda: self.http.local_flow_control_window(answer.id) >= len(data))
        self.http.send_data(answer.id, data)
        await self.flush()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def whole(self, answer: Answer) -> Answer:
        await self.until(lambda: answer.is_over)
        return answer

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65536):
                for event in self.http.receive_data(data):
                    self._take(event)
                await self.flush()
                self._changed.set()
        finally:
            self.is_closed = True
            self._changed.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = event
        answer = self._answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, ResponseReceived):
            answer.headers = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, InformationalResponseReceived):
            answer.informational.append(str(event.headers[0][1]))
        elif isinstance(event, DataReceived):
            answer.body += event.data
            if answer.takes:
                self.http.acknowledge_received_data(event.flow_controlled_length, answer.id)
        elif isinstance(event, StreamEnded):
            answer.is_over = True
        elif isinstance(event, StreamReset):
            answer.is_over, answer.reset = True, event.error_code


@contextlib.asynccontextmanager
async def connected(cluster: DemoCluster, *, certificate: bool = True) -> AsyncIterator[Client]:
    context = client_context(cluster, certificate=certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, port = cluster.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    client = Client(reader, writer, f"{host}:{port}")
    try:
        await client.begin()
        yield client
    finally:
        await client.close()


@pytest.fixture
async def cluster() -> AsyncIterator[DemoCluster]:
    async with DemoCluster(**QUICK) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: DemoCluster) -> AsyncIterator[Client]:
    async with connected(cluster) as client:
        yield client


def handlers() -> int:
    """How many requests are being handled in this process."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return names.count("RequestHandler._handle_request")


async def create(client: Client, name: str, **data: str) -> Answer:
    body = json.dumps(config_map(name, **data)).encode()
    return await client.whole(
        await client.ask("POST", CONFIGMAPS, body, [("content-type", "application/json")])
    )


async def test_who_asks_is_known(cluster: DemoCluster) -> None:
    """The client certificate counts on every stream; without one a client is nobody."""
    review = b'{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}'
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    async with connected(cluster) as client:
        for _ in range(2):
            answer = await client.whole(await client.ask("POST", path, review))
            assert answer.value["status"]["userInfo"]["username"] == "kproxy-demo-admin"
    async with connected(cluster, certificate=False) as nobody:
        answer = await nobody.whole(await nobody.ask("GET", PODS))
        assert (answer.status, answer.value["reason"]) == (403, "Forbidden")


async def test_many_watches_share_a_connection(client: Client) -> None:
    """150 of them hear of a change, while other requests are answered beside them."""
    watches = [await client.ask("GET", f"{CONFIGMAPS}?watch=true") for _ in range(150)]
    await client.until(lambda: all(b"about-this-demo" in each.body for each in watches))
    assert (await create(client, "news")).status == 201
    await client.until(lambda: all(b'"name":"news"' in each.body for each in watches))
    assert not any(each.is_over for each in watches)


async def test_more_streams_than_allowed_are_refused(client: Client) -> None:
    """A client that does not heed the limit loses the request, not the connection."""
    await create(client, "first")
    limit = client.http.remote_settings.max_concurrent_streams
    watches = [await client.ask("GET", f"{PODS}?watch=true") for _ in range(limit)]
    client.http.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = limit + 1
    client.http.remote_settings.acknowledge()
    answer = await client.whole(await client.ask("GET", PODS))
    assert answer.reset == ErrorCodes.REFUSED_STREAM
    client.http.reset_stream(watches[0].id)
    await client.flush()
    assert (await client.whole(await client.ask("GET", "/version"))).status == 200


async def test_a_cancelled_stream_ends_its_handler(client: Client) -> None:
    """RST_STREAM ends a watch and a followed log; the others go on."""
    kept, watch = [await client.ask("GET", f"{PODS}?watch=true") for _ in range(2)]
    log = await client.ask("GET", f"{PODS}/clock/log?follow=true")
    await client.until(lambda: watch.body and log.body and kept.body)
    assert handlers() == 3
    for answer in (watch, log):
        client.http.reset_stream(answer.id, ErrorCodes.CANCEL)
    await client.flush()
    await until(lambda: handlers() == 1, "the handlers of the cancelled streams end")
    assert not kept.is_over


async def test_a_lost_connection_ends_its_handlers(cluster: DemoCluster) -> None:
    """Nobody is left who could be told anything."""
    async with connected(cluster) as client:
        watches = [await client.ask("GET", f"{PODS}?watch=true") for _ in range(5)]
        await client.until(lambda: all(each.body for each in watches))
        assert handlers() == 5
    await until(lambda: handlers() == 0, "the handlers of the lost connection end")


async def test_a_client_that_does_not_read_holds_up_only_itself(client: Client) -> None:
    """A stalled answer stops at its window, others are answered, and it goes on when there is room."""
    big = "x" * 3_000_000
    assert (await create(client, "big", data=big)).status == 201
    stalled = await client.ask("GET", f"{CONFIGMAPS}/big", takes=False)
    window = client.http.local_settings.initial_window_size
    await client.until(lambda: len(stalled.body) == window)
    assert (await client.whole(await client.ask("GET", "/version"))).status == 200
    assert (len(stalled.body), handlers()) == (window, 1)
    stalled.takes = True
    client.http.increment_flow_control_window(4_000_000, stalled.id)
    await client.flush()
    await client.whole(stalled)
    assert stalled.value["data"]["data"] == big


async def test_a_smaller_window_holds_for_streams_that_are_open(client: Client) -> None:
    """A change of INITIAL_WINDOW_SIZE may leave a stream with less than nothing (RFC 9113, 6.9.2)."""
    assert (await create(client, "big", data="x" * 100_000)).status == 201
    stalled = await client.ask("GET", f"{CONFIGMAPS}/big", takes=False)
    await client.until(lambda: len(stalled.body) == 65_535)
    client.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.http.increment_flow_control_window(65_535, stalled.id)
    await client.flush()
    held = await client.ask("GET", "/version")
    await client.until(lambda: held.headers)
    assert (len(stalled.body), bytes(held.body)) == (65_535, b"")
    for answer in (stalled, held):
        client.http.increment_flow_control_window(1 << 20, answer.id)
    await client.flush()
    assert len((await client.whole(stalled)).value["data"]["data"]) == 100_000
    assert (await client.whole(held)).value["major"] == "1"


async def test_uploads_go_up_whole(client: Client) -> None:
    """Four of 1 MB and more at a time, with and without a length told before."""

    async def upload(number: int) -> None:
        data = f"{number}" * 1_200_000
        body = json.dumps(config_map(f"up-{number}", data=data)).encode()
        length = [("content-length", str(len(body)))] if number % 2 else []
        path, kind = CONFIGMAPS, ("content-type", "application/json")
        made = await client.whole(await client.ask("POST", path, body, [kind, *length]))
        assert (made.status, made.value["data"]["data"]) == (201, data)

    await asyncio.gather(*map(upload, range(4)))


async def test_an_upload_nobody_reads_stops_at_its_window(client: Client) -> None:
    """What is refused is answered at once; the rest of it is read and forgotten, as far as it comes."""
    answer = await client.open("PUT", f"{CONFIGMAPS}/x/nonsense", [], ends=False)
    await client.until(lambda: answer.is_over)
    assert answer.status == 404
    for _ in range(5):
        await client.send(answer, b"x" * 10_000)
    client.http.end_stream(answer.id)
    await client.flush()
    assert (await client.whole(await client.ask("GET", "/version"))).status == 200


async def test_a_client_may_wait_to_be_asked_for_the_body(client: Client) -> None:
    """Expect: 100-continue is answered by an interim head (RFC 9110, 10.1.1)."""
    more = [("expect", "100-continue"), ("content-type", "application/json")]
    answer = await client.open("POST", CONFIGMAPS, more, ends=False)
    await client.until(lambda: answer.informational)
    assert answer.informational == ["100"]
    await client.send(answer, json.dumps(config_map("asked")).encode())
    client.http.end_stream(answer.id)
    await client.flush()
    assert (await client.whole(answer)).status == 201


async def test_a_long_head_goes_over_several_frames(client: Client) -> None:
    """A selector of 40 KB needs CONTINUATION; one header after the other still means what it says."""
    names = ",".join(f"name-{number}" for number in range(5000))
    path = f"{PODS}?labelSelector=app+in+(hello,{names})"
    assert len(path) > 40_000
    for _ in range(2):
        answer = await client.whole(await client.ask("GET", path))
        assert (answer.status, len(answer.value["items"])) == (200, 2)


@pytest.mark.parametrize(
    "more",
    [
        [("connection", "keep-alive")],
        [("transfer-encoding", "chunked")],
        [("Upper", "case")],
        [("a", "b\r\nc: d")],
        [(":late", "pseudo")],
    ],
)
async def test_a_malformed_head_ends_its_stream_alone(client: Client, more: Pairs) -> None:
    """PROTOCOL_ERROR for that stream (RFC 9113, 8.1.1); nothing of it is taken for HTTP/1.1."""
    client.http.config.validate_outbound_headers = False
    client.http.config.normalize_outbound_headers = False
    answer = await client.whole(await client.ask("GET", PODS, more=more))
    assert answer.reset == ErrorCodes.PROTOCOL_ERROR
    assert (await client.whole(await client.ask("GET", "/version"))).status == 200


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x03", ErrorCodes.PROTOCOL_ERROR),
        (b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", ErrorCodes.FLOW_CONTROL_ERROR),
        (b"\x00\x00\x03\x06\x00\x00\x00\x00\x00abc", ErrorCodes.FRAME_SIZE_ERROR),
        (b"\x00\x80\x00\x00\x00\x00\x00\x00\x01", ErrorCodes.FRAME_SIZE_ERROR),
        (b"\x00\x00\x01\x09\x04\x00\x00\x00\x01\x00", ErrorCodes.PROTOCOL_ERROR),
        (b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff", ErrorCodes.COMPRESSION_ERROR),
        (b"\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02", ErrorCodes.PROTOCOL_ERROR),
    ],
    ids=["data-of-no-stream", "window-of-0", "short-ping", "too-long", "continuation", "hpack", "push"],
)
async def test_a_fault_ends_the_connection_with_its_code(
    cluster: DemoCluster, frame: bytes, code: ErrorCodes
) -> None:
    """GOAWAY says why, and the connection is closed (RFC 9113, 5.4.1)."""
    async with connected(cluster) as client:
        await client.until(lambda: client.http.remote_settings.max_concurrent_streams == 250)
        client._writer.write(frame)
        await client.until(lambda: client.is_closed)
        assert client.goaway is not None
        assert client.goaway.error_code == code


async def test_stopping_says_goodbye() -> None:
    """GOAWAY names the last stream that was taken, open watches are cut, and the connection ends."""
    async with contextlib.AsyncExitStack() as stack:
        async with DemoCluster(**QUICK) as cluster:
            client = await stack.enter_async_context(connected(cluster))
            await client.whole(await client.ask("GET", "/version"))
            watch = await client.ask("GET", f"{PODS}?watch=true")
            await client.until(lambda: watch.body)
        await client.until(lambda: client.is_closed)
        assert client.goaway is not None
        assert (client.goaway.error_code, client.goaway.last_stream_id) == (ErrorCodes.NO_ERROR, watch.id)
        assert not watch.is_over
    assert handlers() == 0


def connections_to(port: int) -> int:
    """How many TCP connections to that port of 127.0.0.1 this machine has."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2] == f"0100007F:{port:04X}" and line[3] == "01" for line in lines)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux has it")
def test_kproxy_takes_it(demo: Cluster) -> None:
    """Twenty watches through kproxy share a connection to the demo; without HTTP/2 each has its own."""
    config = yaml.safe_load(demo.kubeconfig.read_text())
    port = int(config["clusters"][0]["cluster"]["server"].rpartition(":")[2])
    for flags, needed in ((("--no-http2",), 20), ((), 1)):
        with Program(*flags, kubeconfig=demo.kubeconfig) as program, contextlib.ExitStack() as stack:
            before = connections_to(port)
            for _ in range(20):
                watch = http.client.HTTPConnection("127.0.0.1", program.port, timeout=LAST_RESORT_SECONDS)
                stack.callback(watch.close)
                watch.request("GET", "/api/v1/namespaces/kube-system/configmaps?watch=true")
                assert watch.getresponse().readline().startswith(b'{"type":"ADDED"')
            assert needed - 2 <= connections_to(port) - before <= needed

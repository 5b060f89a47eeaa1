"""The test tools tell the truth: what they record is what was sent, and their faults are felt as such."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import shutil
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest

from tests.support import answers, pki, secrets
from tests.support.client import RawClient, request_bytes
from tests.support.http2_frames import (
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PREFACE,
    SETTINGS,
    settings_frame,
    take_frames,
)
from tests.support.http2_server import H2, Http2Server
from tests.support.loops import NEW_LOOPS
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import KubectlProxy, Process, Program, kubeconfig
from tests.support.upstream import ByteUpstream, Connection, Request

CA = pki.CA()


def address(upstream: ByteUpstream) -> tuple[str, int]:
    return ("127.0.0.1", upstream.port)


@pytest.fixture(params=["tcp", "tls"])
def tls(request: pytest.FixtureRequest) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """(server, client) contexts: both kinds of connection must behave alike."""
    if request.param == "tcp":
        return None, None
    return CA.server_context(client_ca=CA), CA.client_context(CA.issue("tester", client=True))


Contexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


async def test_request_is_recorded_byte_for_byte(tls: Contexts) -> None:
    """The upstream keeps the target, the order, the case and the duplicates of fields."""
    raw = request_bytes("POST", "/a%2Fb//c?x=%zz", [("X-b", "2"), ("x-A", "1"), ("X-b", "3")], b"hello")
    async with (
        ByteUpstream(answers.echo(), tls=tls[0]) as upstream,
        await RawClient.connect(address(upstream), tls[1]) as client,
    ):
        await client.send(raw)
        response = await client.read_response()
        [request] = upstream.requests
        assert request.head.raw + bytes(request.body.data) == raw
        assert request.headers == [
            ("Host", "localhost"),
            ("X-b", "2"),
            ("x-A", "1"),
            ("X-b", "3"),
            ("Content-Length", "5"),
        ]
        assert response.json()["target"] == "/a%2Fb//c?x=%zz"
        assert request.connection.client_certificate_cn == ("tester" if tls[0] else None)


async def test_chunked_body_and_trailers_pass_both_readers(tls: Contexts) -> None:
    """Chunk sizes and trailers are told on both sides."""
    async with (
        ByteUpstream(answers.chunked([b"one", b"three"], trailers=[("T", "v")]), tls=tls[0]) as upstream,
        await RawClient.connect(address(upstream), tls[1]) as client,
    ):
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n3;ext=1\r\ncde\r\n0\r\nSum: 5\r\n\r\n"
        )
        response = await client.read_response()
        body = upstream.requests[0].body
        assert (body.chunk_sizes, bytes(body.data), body.trailers) == ([2, 3], b"abcde", [("Sum", "5")])
        assert response.body.chunk_sizes == [3, 5]
        assert response.body.trailers == [("T", "v")]
        assert response.body.is_complete


@pytest.mark.parametrize(
    ("step", "end"),
    [(answers.Step.CLOSE, "eof"), (answers.Step.CUT, "cut"), (answers.Step.RESET, "reset")],
)
async def test_client_tells_the_ends_of_a_stream_apart(step: answers.Step, end: str, tls: Contexts) -> None:
    """A tidy close, a cut and a reset are three things, and each leaves the body incomplete."""
    responder = answers.script(answers.head(200, [("Content-Length", "10")]) + b"half", 0.01, step)
    async with (
        ByteUpstream(responder, tls=tls[0]) as upstream,
        await RawClient.connect(address(upstream), tls[1]) as client,
    ):
        response = await client.request("GET", "/")
        assert response.body.data == b"half"
        assert not response.body.is_complete
        assert client.end == (end if tls[0] or end != "cut" else "eof")


async def test_upstream_notices_that_the_client_left_a_watch(tls: Contexts) -> None:
    """A client's reset ends a watch that has nothing to send, and is recorded as such."""
    events: asyncio.Queue[bytes | answers.Step] = asyncio.Queue()
    async with ByteUpstream(answers.watch(events), tls=tls[0]) as upstream:
        client = await RawClient.connect(address(upstream), tls[1])
        await client.send(request_bytes("GET", "/api/v1/pods?watch=1"))
        response = await client.read_head()
        for event in (b"first\n", b"second\n"):
            events.put_nowait(event)
            assert await client.read_piece(response) == event
        client.reset()
        connection = upstream.connections[0]
        await upstream.wait_for(connection.ended.is_set, "the end")
        assert connection.end == "reset"


async def test_read_piece_goes_on_after_a_timeout() -> None:
    """That nothing comes for a while can be asserted without losing the place in the body."""
    events: asyncio.Queue[bytes | answers.Step] = asyncio.Queue()
    async with (
        ByteUpstream(answers.watch(events)) as upstream,
        await RawClient.connect(address(upstream)) as client,
    ):
        await client.send(request_bytes("GET", "/"))
        response = await client.read_head()
        client.timeout = 0.05
        with pytest.raises(TimeoutError):
            await client.read_piece(response)
        client.timeout = LAST_RESORT_SECONDS
        events.put_nowait(b"late")
        events.put_nowait(answers.Step.LAST_CHUNK)
        assert await client.read_piece(response) == b"late"
        assert await client.read_piece(response) == b""
        assert response.body.is_complete


async def test_a_client_that_does_not_read_stops_the_upstream(tls: Contexts) -> None:
    """Back-pressure is real: of 32 MB only what the kernel buffers leaves the upstream."""
    size = 32 * 1024 * 1024
    async with ByteUpstream(answers.big(size), tls=tls[0]) as upstream:
        client = await RawClient.connect(address(upstream), tls[1], receive_buffer_bytes=64 * 1024)
        await client.send(request_bytes("GET", "/"))
        response = await client.read_head()
        digest = hashlib.sha256()
        connection = upstream.connections[0]
        await asyncio.sleep(0.3)  # the claim is that nothing goes on happening
        assert connection.sent_bytes < 16 * 1024 * 1024
        while piece := await client.read_piece(response):
            digest.update(piece)
        assert digest.hexdigest() == answers.big_sha256(size)
        client.close()


async def test_an_upstream_that_does_not_read_stops_the_client() -> None:
    """An early script leaves the upload in the kernel until READ_BODY."""
    go = asyncio.Event()
    responder = answers.script(go, answers.Step.READ_BODY, answers.head(204), early=True)
    async with (
        ByteUpstream(responder, receive_buffer_bytes=64 * 1024) as upstream,
        await RawClient.connect(address(upstream)) as client,
    ):
        body = bytes(32 * 1024 * 1024)
        sending = asyncio.create_task(client.send(request_bytes("PUT", "/", [], body)))
        await upstream.wait_for_requests(1)
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done
        go.set()
        await sending
        assert (await client.read_response()).status == 204
        assert upstream.requests[0].body.size == len(body)


async def test_tunnel_echoes_with_half_close(tls: Contexts) -> None:
    """Bytes glued to the head arrive, and a half-close lets the other direction finish."""
    async with (
        ByteUpstream(answers.tunnel(first=b"glued"), tls=tls[0]) as upstream,
        await RawClient.connect(address(upstream), tls[1]) as client,
    ):
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        await client.send(request_bytes("GET", "/exec", fields) + b"early")
        response = await client.read_head()
        assert (response.status, response.framing) == (101, "tunnel")
        await client.send(b"late")
        await client.shut_write()
        assert await client.read_to_end() == b"gluedearlylate"
        assert client.end == "eof"


async def test_interim_heads_and_pipelined_answers_are_kept_apart() -> None:
    """103 is interim; HEAD has no body whatever its Content-Length; the next response follows."""
    early_hints = answers.head(103, [("Link", "</x>")])
    answered = answers.head(200, [("Content-Length", "999")])
    responder = answers.sequence(
        answers.script(early_hints + answered),
        answers.script(answers.head(200) + b"to the end", answers.Step.CLOSE),
    )
    async with (
        ByteUpstream(responder) as upstream,
        await RawClient.connect(address(upstream)) as client,
    ):
        await client.send(request_bytes("HEAD", "/1") + request_bytes("GET", "/2"))
        first = await client.read_response("HEAD")
        second = await client.read_response()
        assert [head.start_line for head in first.interim] == ["HTTP/1.1 103 Early Hints"]
        assert (first.body.size, first.body.is_complete) == (0, True)
        assert (second.framing, second.text, second.body.is_complete) == ("close", "to the end", True)


async def test_upstream_that_stopped_listening_refuses_and_comes_back() -> None:
    """Connections that are open stay while new ones are refused, and the port is kept."""
    async with ByteUpstream(answers.answer(b"x")) as upstream:
        async with await RawClient.connect(address(upstream)) as client:
            # Answered, so accepted: what still waits for that is reset with the listening socket.
            assert (await client.request("GET", "/")).text == "x"
            await upstream.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await RawClient.connect(address(upstream))
            assert (await client.request("GET", "/")).text == "x"
        upstream.start_listening()
        async with await RawClient.connect(address(upstream)) as client:
            assert (await client.request("GET", "/")).text == "x"


async def test_a_broken_script_fails_the_test() -> None:
    """An exception in a responder is not swallowed."""

    async def broken(connection: Connection, request: Request) -> None:
        raise ValueError("a bug in the test")

    async def use() -> None:
        async with ByteUpstream(broken) as upstream, await RawClient.connect(address(upstream)) as client:
            await client.send(request_bytes("GET", "/"))
            assert await client.read_to_end() == b""

    with pytest.raises(ValueError, match="a bug in the test"):
        await use()


async def test_settings_change_one_at_a_time() -> None:
    """An acknowledgement counts for the SETTINGS that it answers, not for others that are on their way."""
    async with (
        Http2Server(tls=CA.server_context(alpn=H2)) as server,
        await RawClient.connect(address(server), CA.client_context(alpn=H2)) as client,
    ):
        acknowledgement = settings_frame(ack=True)
        await client.send(PREFACE + settings_frame() + acknowledgement)
        await server.wait_for(lambda: bool(server.h2_connections), "the connection")
        [connection] = server.h2_connections
        first = asyncio.create_task(connection.change_settings({INITIAL_WINDOW_SIZE: 100}))
        second = asyncio.create_task(connection.change_settings({MAX_CONCURRENT_STREAMS: 2}))
        while (INITIAL_WINDOW_SIZE, 100) not in changes(client):
            assert await client.fill()
        await client.send(acknowledgement)
        await first
        assert not second.done()
        assert connection.h2.local_settings.max_concurrent_streams > 2
        while (MAX_CONCURRENT_STREAMS, 2) not in changes(client):
            assert await client.fill()
        await client.send(acknowledgement)
        await second


def changes(client: RawClient) -> list[tuple[int, int]]:
    """Those in all SETTINGS that have come."""
    frames = take_frames(bytearray(client.buffer))
    return [pair for each in frames if each.kind == SETTINGS for pair in each.settings().items()]


@pytest.mark.parametrize("is_reading", [True, False])
def test_a_loop_closes_what_a_test_left_open(is_reading: bool) -> None:
    """And says so behind that: an error in its midst made uvloop hang, or leak the whole loop."""
    pytest.importorskip("uvloop", reason="asyncio's loop does not know what is open")
    loop = NEW_LOOPS["uvloop"]()
    ours, theirs = socket.socketpair()

    async def leave_open() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        if not is_reading:
            transport.pause_reading()
        kept.append(transport)

    kept: list[asyncio.BaseTransport] = []
    with theirs:
        loop.run_until_complete(leave_open())
        with pytest.raises(ResourceWarning, match="unclosed resource"):
            loop.close()
        assert theirs.recv(1) == b""


async def test_no_other_thread_collects_garbage_beside_a_loop() -> None:
    """uvloop does not survive that where a test has left a connection open."""
    collected_by: set[int] = set()
    note = lambda *_: collected_by.add(threading.get_ident())  # noqa: E731

    def litter() -> None:
        for _ in range(10 * gc.get_threshold()[0]):
            cycle: list[object] = []
            cycle.append(cycle)

    gc.callbacks.append(note)
    try:
        await asyncio.to_thread(litter)
    finally:
        gc.callbacks.remove(note)
    assert collected_by <= {threading.get_ident()}


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_planted_secrets_are_seen_in_base64(shift: int) -> None:
    """A secret inside basic authentication or kubeconfig data is still a shown secret."""
    value = secrets.plant("password")
    encoded = base64.b64encode(b"x" * shift + value.encode() + b"yz").decode()
    assert secrets.leaked(f"Basic {encoded}") == ["password"]
    assert secrets.leaked("nothing here") == []


KUBECTL = shutil.which("kubectl")


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
async def test_kubectl_proxy_runs_against_the_byte_upstream(tmp_path: Path) -> None:
    """The written kubeconfig is one that kubectl takes, and the program's port is the one it prints."""
    token = secrets.plant("token")
    async with ByteUpstream(answers.echo(), tls=CA.server_context(client_ca=CA)) as upstream:
        config = kubeconfig(
            tmp_path,
            upstream,
            ca_pem=CA.pem,
            client_certificate=CA.issue("someone", client=True),
            token=token,
        )
        async with KubectlProxy(kubeconfig=config) as program:
            async with await RawClient.connect(program.address) as client:
                response = await client.request("GET", "/api/v1/pods")
            assert response.json()["target"] == "/api/v1/pods"
            request = upstream.requests[-1]
            assert request.value("authorization") == f"Bearer {token}"
            assert request.connection.client_certificate_cn == "someone"
            assert program.rss_bytes() > 1_000_000
            assert program.cpu_seconds() > 0


def python(code: str) -> Process:
    return Process([sys.executable, "-c", code])


def test_process_tells_output_and_exit_code() -> None:
    """Output can be waited for, and the exit code is the program's own."""
    code = "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('up', flush=True)"
    with python(code + "; signal.sigwait([15]); sys.exit(7)") as process:
        assert process.wait_for_output("^(u)p$", "stdout")[1] == "u"
        assert process.stop() == 7


def test_process_that_ends_early_says_why() -> None:
    """Waiting for words that never come ends with the program, and shows what it said instead."""
    with python("import sys; sys.exit('no such file')") as process:
        with pytest.raises(AssertionError, match="no such file"):
            process.wait_for_output("ready")
        assert process.wait() == 1


@pytest.mark.parametrize("code", ["1/0", "import sys; print(sys.argv[1], file=sys.stderr)"])
def test_process_output_with_traceback_or_secret_fails(code: str) -> None:
    """A subprocess can neither die of a traceback nor show a secret unnoticed."""
    process = Process([sys.executable, "-c", code, secrets.plant("token")])
    process.start()
    process.wait()
    with pytest.raises(AssertionError, match=r"complained|planted secret"):
        process.__exit__(None, None, None)


def test_cpu_and_descendants_are_counted() -> None:
    """CPU of a child counts for its parent, and children are killed with it."""
    spin = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); print('done', flush=True)"
    )
    with python(code + "; import time; time.sleep(60)") as process:
        process.wait_for_output("done", "stdout")
        assert process.cpu_seconds() >= 0.29


async def test_program_is_kproxy_as_shipped(tmp_path: Path) -> None:
    """`Program` serves on the port it tells, through the kubeconfig it was given, and exits with 0."""
    token = secrets.plant("token")
    async with ByteUpstream(answers.echo(), tls=CA.server_context()) as upstream:
        config = kubeconfig(tmp_path, upstream, ca_pem=CA.pem, token=token)
        async with Program(kubeconfig=config) as program:
            async with await RawClient.connect(program.address) as client:
                response = await client.request("GET", "/api/v1/pods?limit=1")
            assert response.json()["target"] == "/api/v1/pods?limit=1"
            assert upstream.requests[0].value("authorization") == f"Bearer {token}"
            assert await program.stopped() == 0

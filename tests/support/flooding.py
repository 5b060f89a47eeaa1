"""HTTP/2 API servers that send frames without end, and as a program of its own one with clients that ask it.

What a proxy does to others meanwhile must not be measured by a process that is busy with the flood.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.support import http2_frames as h2
from tests.support.client import RawClient, request_bytes
from tests.support.http2_answers import JSON
from tests.support.http2_frames import END_HEADERS, END_STREAM, INITIAL_WINDOW_SIZE, frame
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA

CLIENTS = 4
_FOR_EVER = 1 << 60
_SETTING = struct.pack("!HI", INITIAL_WINDOW_SIZE, 65535)

Bytes = Callable[[Stream], bytes]

FLOODS: dict[str, Bytes] = {
    "PING": lambda s: frame(h2.PING, bytes(8)),
    "answers to PING": lambda s: frame(h2.PING, bytes(8), flags=h2.ACK),
    "SETTINGS": lambda s: frame(h2.SETTINGS, _SETTING),
    "many SETTINGS": lambda s: frame(h2.SETTINGS, _SETTING * 2000),
    "PRIORITY": lambda s: frame(h2.PRIORITY, bytes(5), stream_id=s.id),
    "unknown frames": lambda s: frame(0xEE, b"?", stream_id=s.id),
    "WINDOW_UPDATE": lambda s: h2.window_frame(s.id, 1),
    "GOAWAY": lambda s: h2.goaway_frame(s.id),
    "empty DATA": lambda s: frame(h2.DATA, stream_id=s.id),
    "RST_STREAM": lambda s: h2.reset_frame(s.id, h2.CANCEL),
    "DATA behind the end": lambda s: frame(h2.DATA, b"x", stream_id=s.id, flags=END_STREAM),
    # Two thousand fields each, of the static table.
    "heads behind the end": lambda s: frame(
        h2.HEADERS, b"\x88" + b"\x82" * 2000, stream_id=s.id, flags=END_HEADERS | END_STREAM
    ),
}
"""What no client has a use for."""

ANSWERS: dict[str, Bytes] = {
    "small DATA": lambda s: frame(h2.DATA, b"x", stream_id=s.id),
    "a long head": lambda s: h2.header_frames(
        s.id, b"\x88" + b"\0\x01x\x01y" * 8000, range(1000, 40_000, 1000), end=True
    ),
}
"""What nobody may forbid."""


async def pour(stream: Stream, piece: bytes, limit_bytes: int = _FOR_EVER) -> int:
    """Send it again and again until the client ends the connection; returns how many bytes were taken."""
    connection = stream.connection
    await connection.flushed()
    block = piece * (65536 // len(piece) + 1)
    sent = 0
    with contextlib.suppress(OSError, ssl.SSLError, ValueError):
        while sent < limit_bytes and not connection.ended.is_set():
            await connection.channel.send(block)
            sent += len(block)
    return sent


class Flooding:
    """The program: an API server at `url` that is trusted by `ca_pem`."""

    def __init__(self, process: Process, url: str, ca_pem: bytes) -> None:
        self._process = process
        self.url = url
        self.ca_pem = ca_pem

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, kind: str) -> AsyncIterator[Flooding]:
        """`kind` is of FLOODS or ANSWERS."""
        root = Path(__file__).parents[2]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, kind, stdin=PIPE, stdout=PIPE, cwd=root
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(LAST_RESORT_SECONDS):
                told = json.loads(await process.stdout.readline())
            yield cls(process, told["url"], base64.b64decode(told["ca"]))
        finally:
            process.kill()
            await process.wait()

    async def suffer(self, address: tuple[str, int] | str) -> None:
        """Let clients of a proxy there ask the context "hostile"; returns when they are being flooded."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(address).encode() + b"\n")
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            assert await self._process.stdout.readline() == b"flooding\n"


async def _suffer(address: tuple[str, int] | str) -> None:
    while True:
        client = await RawClient.connect(address)
        with contextlib.suppress(ConnectionResetError):
            await client.send(request_bytes("GET", "/clusters/hostile/api"))
            response = await client.read_head()
            while await client.read_piece(response):
                response.body.data.clear()
        client.reset()


async def _main(kind: str) -> None:
    async def flood(stream: Stream) -> None:
        if kind not in ("a long head", "RST_STREAM"):
            await stream.send_head(200, [JSON])
        await pour(stream, {**FLOODS, **ANSWERS}[kind](stream))

    ca = CA()
    async with Http2Server(flood, tls=ca.server_context(alpn=H2), allows_errors=True) as server:
        print(json.dumps({"url": server.url, "ca": base64.b64encode(ca.pem).decode()}), flush=True)
        address = json.loads(await asyncio.to_thread(sys.stdin.readline))
        where = address if isinstance(address, str) else (address[0], address[1])
        suffering = [asyncio.create_task(_suffer(where)) for _ in range(CLIENTS)]
        await server.wait_for_streams(CLIENTS)
        print("flooding", flush=True)
        await asyncio.gather(*suffering)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))

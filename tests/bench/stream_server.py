"""`python -m tests.bench.stream_server`: the part of the upstream that is no file.

Plain HTTP/1.1 on 127.0.0.1 behind the upstream nginx: watches that emit 1 KB events when told to, a
sink for uploads, and a WebSocket that answers each message with one of the same length.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import urllib.parse
from typing import cast

from tests.bench import layout

TICK_SECONDS = 0.002
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def _event() -> bytes:
    filler = {"type": "MODIFIED", "object": {"kind": "Event", "metadata": {"name": ""}}}
    filler["object"]["metadata"]["name"] = "x" * (layout.EVENT_BYTES - len(json.dumps(filler)) - 1)  # type: ignore[index]
    line = json.dumps(filler).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


EVENT = _event()


class Emitter:
    """Owner of the watches: deals events out to them in turn, at a fixed rate in all."""

    def __init__(self) -> None:
        self.watches: dict[StreamConnection, None] = {}
        self._task: asyncio.Task[None] | None = None

    def emit(self, count: int, rate: float) -> None:
        self._task = asyncio.get_running_loop().create_task(self._emit(count, rate))

    def end(self) -> None:
        """Cut the watches that are left: not every proxy ends them soon after its client went."""
        for watch in list(self.watches):
            watch.close()

    async def _emit(self, count: int, rate: float) -> None:
        loop = asyncio.get_running_loop()
        watches = list(self.watches)
        started_at = loop.time()
        sent = 0
        while sent < count:
            due = min(count, int((loop.time() - started_at) * rate) + 1)
            for number in range(sent, due):
                watches[number % len(watches)].send(EVENT)
            sent = due
            await asyncio.sleep(TICK_SECONDS)


class StreamConnection(asyncio.Protocol):
    """One connection; its requests follow one another, so their state is the connection's."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._body_left = 0
        self._uploaded_bytes = 0
        self._is_tunnel = False
        self._is_watch = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._emitter.watches.pop(self, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        # Only the tunnel can run ahead of its reader: then take no more from it either.
        if self._is_tunnel and self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._is_tunnel and self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._body_left:
            taken = min(self._body_left, len(data))
            self._body_left -= taken
            data = data[taken:]
            if not self._body_left:
                self._answer({"received": self._uploaded_bytes})
        self._buffer += data
        if self._is_tunnel:
            self._answer_frames()
        while not self._is_tunnel and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).decode("latin-1")
            del self._buffer[: end + 4]
            self._request(head)

    def _request(self, head: str) -> None:
        start, *lines = head.split("\r\n")
        target = start.split(" ")[1]
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        if path == layout.WATCH:
            self.send(
                # The first event comes at once: nginx holds an HTTP/2 head back until there is a body.
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                + EVENT
            )
            self._emitter.watches[self] = None
        elif path == layout.UPLOAD:
            self._uploaded_bytes = int(fields["content-length"])
            taken = min(self._uploaded_bytes, len(self._buffer))
            del self._buffer[:taken]
            self._body_left = self._uploaded_bytes - taken
            if not self._body_left:
                self._answer({"received": self._uploaded_bytes})
        elif path == layout.TUNNEL:
            self._upgrade(fields)
        elif path == layout.CONTROL_EMIT:
            wanted = dict(urllib.parse.parse_qsl(query))
            self._emitter.emit(int(wanted["count"]), float(wanted["rate"]))
            self._answer({"watches": len(self._emitter.watches)})
        else:
            if path == layout.CONTROL_END:
                self._emitter.end()
            self._answer({"watches": len(self._emitter.watches)})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )

    def _upgrade(self, fields: dict[str, str]) -> None:
        key = fields.get("sec-websocket-key", "")
        accept = base64.b64encode(hashlib.sha1((key + WEBSOCKET_GUID).encode()).digest()).decode()
        self._is_tunnel = True
        self.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self._answer_frames()

    def _answer_frames(self) -> None:
        """RFC 6455 section 5.2, as far as a client's unfragmented frames need it."""
        buffer = self._buffer
        replies = []
        while len(buffer) >= 6:
            length, start = buffer[1] & 0x7F, 6
            if length == 126:
                length, start = int.from_bytes(buffer[2:4], "big"), 8
            elif length == 127:
                length, start = int.from_bytes(buffer[2:10], "big"), 14
            if len(buffer) < start + length:
                break
            opcode = buffer[0] & 0x0F
            del buffer[: start + length]
            if opcode == 8:
                replies.append(b"\x88\x00")
            elif opcode in (1, 2):
                replies.append(frame(length))
        if replies:
            self.send(b"".join(replies))


@functools.cache
def frame(length: int) -> bytes:
    """A server's binary frame with `length` bytes of nothing."""
    size = bytes([length]) if length < 126 else bytes([127]) + length.to_bytes(8, "big")
    return b"\x82" + size + bytes(length)


async def serve() -> None:
    emitter = Emitter()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StreamConnection(emitter), "127.0.0.1", 0, backlog=4096)
    print(f"port: {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve())

"""`RawClient`: sends the bytes it is told to and tells exactly what came back, over TCP or a unix socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support import channel, http1
from tests.support.patience import LAST_RESORT_SECONDS


@dataclass(slots=True, eq=False, kw_only=True)
class Response:
    """A response as it came; `body.is_complete` tells whether it ended as its framing says.

    `framing` is "length", "chunked", "close", "none" (no body by rule) or "tunnel" (101).
    `interim` are the 1xx heads before it. `head_at` and `body.arrivals` are `time.monotonic` seconds.
    """

    head: http1.Head
    framing: str
    reader: http1.BodyReader
    head_at: float
    interim: list[http1.Head]
    problem: str | None = None

    @property
    def body(self) -> http1.Body:
        return self.reader.body

    @property
    def version(self) -> str:
        return self.head.start_line.split(" ")[0]

    @property
    def status(self) -> int:
        return int(self.head.start_line.split(" ")[1])

    @property
    def reason(self) -> str:
        return self.head.start_line.split(" ", 2)[2]

    @property
    def headers(self) -> list[tuple[str, str]]:
        return self.head.headers

    @property
    def text(self) -> str:
        return self.body.data.decode("utf-8", "replace")

    def values(self, name: str) -> list[str]:
        return self.head.values(name)

    def value(self, name: str) -> str | None:
        return self.head.value(name)

    def json(self) -> Any:
        return json.loads(self.body.data)


class RawClient:
    """One connection; it reads only when asked, so not reading is a stall.

    `end` is None while open, then "eof", "cut" or "reset" as the peer ended it. Reading methods raise
    TimeoutError after `timeout` seconds.
    """

    def __init__(self, open_channel: channel.Channel, timeout: float = LAST_RESORT_SECONDS) -> None:
        self.channel = open_channel
        self.timeout = timeout
        self.buffer = bytearray()
        self.end: str | None = None
        self.ended_at: float | None = None

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int] | str,
        tls: ssl.SSLContext | None = None,
        *,
        receive_buffer_bytes: int | None = None,
        timeout: float = LAST_RESORT_SECONDS,
    ) -> Self:
        """`address`: (host, port) or the path of a unix socket."""
        return cls(await channel.connect(address, tls, receive_buffer_bytes=receive_buffer_bytes), timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError when the peer has gone, TimeoutError when it does not read."""
        async with asyncio.timeout(self.timeout):
            await self.channel.send(data)

    async def request(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        host: str = "localhost",
    ) -> Response:
        """Send a plain request (Content-Length when there is a body) and read its whole response."""
        await self.send(request_bytes(method, target, headers, body, host=host))
        return await self.read_response(method)

    async def read_head(self, method: str = "GET") -> Response:
        """Read 1xx heads and the final head (101 counts as final); the body is left to read."""
        interim: list[http1.Head] = []
        async with asyncio.timeout(self.timeout):
            while True:
                head = await http1.read_head(self)
                if head is None:
                    raise ConnectionResetError(f"the connection ended ({self.end}) without a response")
                status = int(head.start_line.split(" ")[1])
                if status >= 200 or status == 101:
                    break
                interim.append(head)
        kind = _response_framing(method, status, head)
        length = int(head.values("content-length")[0]) if kind == "length" else 0
        reader = http1.BodyReader("length" if kind in ("none", "tunnel") else kind, length)
        return Response(head=head, framing=kind, reader=reader, head_at=time.monotonic(), interim=interim)

    async def read_piece(self, response: Response) -> bytes:
        """The next bytes of the body as they come; b"" at its end, whether complete or cut.

        It may be called again after a TimeoutError.
        """
        reader = response.reader
        try:
            async with asyncio.timeout(self.timeout):
                while not reader.is_done and response.problem is None:
                    if piece := reader.take(self.buffer):
                        return piece
                    if not reader.is_done and not await self.fill():
                        reader.end()
                        # Without a length only a tidy end tells that nothing is missing.
                        response.body.is_complete = self.end == "eof"
        except http1.Truncated as error:
            response.problem = str(error)
        return b""

    async def read_until(self, response: Response, wanted: bytes) -> None:
        """Read the body until it contains `wanted`; AssertionError when it ends before."""
        while wanted not in response.body.data:
            assert await self.read_piece(response), f"no {wanted!r} in {bytes(response.body.data[-500:])!r}"

    async def read_rest(self, response: Response) -> None:
        """Read the body to its end, complete or not."""
        while await self.read_piece(response):
            pass

    async def digest(self, response: Response) -> str:
        """SHA-256 of the rest of the body, read to its end, of which nothing is kept."""
        found = hashlib.sha256()
        while piece := await self.read_piece(response):
            found.update(piece)
            response.body.data.clear()
            response.body.arrivals.clear()
        return found.hexdigest()

    async def read_response(self, method: str = "GET") -> Response:
        """Read one response to its end, complete or not."""
        response = await self.read_head(method)
        await self.read_rest(response)
        return response

    async def read_exactly(self, size: int) -> bytes:
        """Bytes of a tunnel; fewer than `size` only at the end."""
        async with asyncio.timeout(self.timeout):
            while len(self.buffer) < size and await self.fill():
                pass
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def read_to_end(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(self.timeout):
            while await self.fill():
                pass
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    async def fill(self) -> bool:
        if self.end is not None:
            return False
        try:
            data = await self.channel.recv()
        except (OSError, ssl.SSLError):
            self.end = "reset"
        else:
            if data:
                self.buffer += data
                return True
            self.end = "cut" if self.channel.cut else "eof"
        self.ended_at = time.monotonic()
        return False

    async def shut_write(self) -> None:
        await self.channel.shut_write()

    def close(self) -> None:
        self.channel.close()

    def reset(self) -> None:
        self.channel.reset()


def request_bytes(
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    host: str = "localhost",
) -> bytes:
    fields = [("Host", host), *headers]
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def _response_framing(method: str, status: int, head: http1.Head) -> str:
    """RFC 9112 section 6.3."""
    if status == 101:
        return "tunnel"
    if method == "HEAD" or status in (204, 304):
        return "none"
    kind = http1.framing_of(head)
    return "close" if kind == "none" else kind

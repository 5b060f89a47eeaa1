"""A long request body, sent as fast as it is taken."""

from __future__ import annotations

from tests.support.answers import BLOCK, chunk
from tests.support.client import RawClient


class Upload:
    """`size` bytes of the pattern of `answers.big`, of which `sent` are on their way."""

    def __init__(self, client: RawClient, size: int, framing: str = "chunked") -> None:
        self.client = client
        self.size = size
        self.is_chunked = framing == "chunked"
        self.sent = 0

    @property
    def fields(self) -> list[tuple[str, str]]:
        """For the request's head, which is sent before."""
        return [("Transfer-Encoding", "chunked") if self.is_chunked else ("Content-Length", str(self.size))]

    async def send(self) -> None:
        while self.sent < self.size:
            block = BLOCK[: self.size - self.sent]
            await self.client.channel.send(chunk(block) if self.is_chunked else block)
            self.sent += len(block)
        if self.is_chunked:
            await self.client.channel.send(b"0\r\n\r\n")

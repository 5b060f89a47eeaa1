"""How an API server's answer is written downstream: framing kept or made anew, our gzip unpacked."""

from __future__ import annotations

import zlib

from kproxy.gateway.client import Downstream
from kproxy.http.forwarding import is_gzip, response_block
from kproxy.http.framing import Body, ChunkedBody, CloseBody, chunk, last_chunk
from kproxy.http.heads import Field, ResponseHead

_UNPACKED_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class Answer:
    """One answer from its head on. Between two HTTP/1.1 sides its bytes pass as they are.

    They are framed anew for HTTP/1.0 clients, for an upstream that ends its body by closing, and when the
    body is unpacked. Memory stays bounded: while a client does not read, what is packed stays packed.
    """

    __slots__ = (
        "_block",
        "_downstream",
        "_is_chunked",
        "_packed",
        "_unpacker",
        "_unpacks",
        "ends_by_close",
        "wants_payload",
    )

    def __init__(
        self,
        downstream: Downstream,
        head: ResponseHead,
        body: Body,
        *,
        unpacks_gzip: bool,
        keeps_alive: bool,
        extra_fields: bytes,
    ) -> None:
        """`unpacks_gzip`: gzip was asked for by us, not by the client."""
        self._downstream = downstream
        self._unpacks = unpacks_gzip and not body.is_finished and is_gzip(head)
        self._unpacker: zlib._Decompress | None = None
        self._packed = b""
        self._is_chunked = False
        self.wants_payload = False
        """Whether `write` takes what the body's chunks hold, or its bytes as they came."""
        minor = downstream.head.minor
        framing = b""
        if self._unpacks or isinstance(body, CloseBody) or (isinstance(body, ChunkedBody) and not minor):
            self.wants_payload = True
        if self.wants_payload:
            self._is_chunked = minor > 0
            keeps_alive = keeps_alive and self._is_chunked
            framing = b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b""
        self.ends_by_close = not keeps_alive
        if keeps_alive:
            connection = b"" if minor else b"Connection: keep-alive\r\n"
        else:
            connection = b"Connection: close\r\n"
        self._block = response_block(
            head,
            framing=framing,
            keeps_framing=not self.wants_payload,
            has_body=not body.is_finished,
            is_unpacked=self._unpacks,
            connection=connection,
            extra=extra_fields,
        )

    @property
    def has_begun(self) -> bool:
        """Whether the client was sent some of it; before that another answer can take its place."""
        return not self._block

    @property
    def is_behind(self) -> bool:
        """Whether something is still packed because the client does not read."""
        return bool(self._packed)

    @property
    def has_no_frame(self) -> bool:
        """Whether only the end of the connection tells the client that the body is complete."""
        return self.wants_payload and not self._is_chunked

    def flush(self) -> None:
        """Send the head now: nothing of the body came with it."""
        self._send(b"")

    def write(self, data: bytes) -> None:
        """Pass on a piece of the body. Raises zlib.error."""
        if self._unpacks:
            self._packed += data
            self.catch_up()
        else:
            self._send(chunk(data) if self._is_chunked else data)

    def catch_up(self) -> None:
        """Unpack, in bounded pieces, as long as the client reads. Raises zlib.error."""
        unpacker = self._unpacker
        packed, self._packed = self._packed, b""
        while packed and not self._downstream.is_write_paused:
            if unpacker is None or unpacker.eof:
                # RFC 1952 section 2.2: a gzip file may have several members.
                unpacker = self._unpacker = zlib.decompressobj(_GZIP)
            plain = unpacker.decompress(packed, _UNPACKED_BYTES)
            packed = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            if plain:
                self._send(chunk(plain) if self._is_chunked else plain)
        self._packed = packed

    def end(self, trailers: list[Field]) -> None:
        """The body is complete. Raises zlib.error when what was packed is not, unless that is nothing."""
        if self._unpacker is not None and not self._unpacker.eof:
            raise zlib.error("it ends too early")
        if self._is_chunked:
            self._send(last_chunk(trailers))
        elif self._block:
            self._send(b"")

    def _send(self, data: bytes) -> None:
        """Head and body of a small answer leave in one write: each is a system call that wakes the client."""
        block = self._block
        if block:
            self._block = b""
            data = block + data
        if data:
            self._downstream.write(data)

"""`Http2Server`: an API server that speaks HTTP/2, records exact header fields and answers by a script.

It is a `ByteUpstream` whose TLS offers `h2`: a connection that agrees on it is an `Http2Connection` here, all
others (upgrades, clients without HTTP/2) are answered by the ByteUpstream as ever.

    async with Http2Server(json_answer({"kind": "PodList"}), tls=ca.server_context(alpn=H2)) as server:
        ...
        [stream] = await server.wait_for_streams(1)
        assert stream.target == "/api/v1/pods?limit=1"

What clients may send is judged by the `h2` package, strictly: what it objects to fails the test, unless
`allows_errors`. What is sent to them is not judged: `send_raw` takes any bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.support import http1
from tests.support.answers import Step
from tests.support.channel import Channel
from tests.support.http2_frames import (
    DATA,
    GOAWAY,
    PING,
    PREFACE,
    REFUSED_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    frame,
    goaway_frame,
    take_frames,
    window_frame,
)
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.upstream import ByteUpstream

H2 = ("h2", "http/1.1")
DEFAULT_SETTINGS = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 250}
"""What a Kubernetes API server says."""

Fields = list[tuple[str, str]]


class Gone(ConnectionError):
    """The client has reset the stream, or its connection has ended."""


class Stream:
    """One request as it came, and the way to answer it.

    `fields` has the pseudo fields too, in order, as sent. `over` is set when the client resets it (with
    `reset_code`) or when its connection ends, at `over_at`.
    """

    def __init__(self, connection: Http2Connection, number: int, fields: Fields) -> None:
        self.connection = connection
        self.id = number
        self.fields = fields
        self.received_at = time.monotonic()
        self.body = http1.Body()
        self.reset_code: int | None = None
        self.over = asyncio.Event()
        self.over_at: float | None = None
        self.sent_bytes = 0
        self._pieces: list[tuple[bytes, int]] = []
        self._is_answered = False
        self._arrived = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Stream {self.connection.number}/{self.id} {self.method} {self.target}>"

    @property
    def headers(self) -> Fields:
        """Without the pseudo fields."""
        return [pair for pair in self.fields if not pair[0].startswith(":")]

    @property
    def method(self) -> str:
        return dict(self.fields).get(":method", "")

    @property
    def target(self) -> str:
        return dict(self.fields).get(":path", "")

    @property
    def authority(self) -> str | None:
        return self.value(":authority")

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def value(self, name: str) -> str | None:
        values = self.values(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body.data)

    # -- the request's body --

    async def read_piece(self) -> bytes:
        """The next bytes of the body, b"" after the last; the window opens as they are taken. Raises Gone."""
        while not self._pieces:
            if self.body.is_complete:
                return b""
            if self.over.is_set():
                raise Gone(f"{self} ended in its body")
            self._arrived.clear()
            await self._arrived.wait()
        data, size = self._pieces.pop(0)
        self.connection.give_back(size, self.id)
        return data

    async def read_body(self) -> http1.Body:
        while await self.read_piece():
            pass
        return self.body

    # -- the answer --

    async def send_headers(
        self,
        fields: Fields,
        *,
        end: bool = False,
        frames: Callable[[int, bytes, bool], bytes] | None = None,
        more: bool = False,
    ) -> None:
        """Any fields, as they are. `frames(stream id, block, end)` makes other frames of the same block.

        With `more` they leave in one write with what is sent next.
        """
        self._check()
        connection = self.connection
        connection.flush()
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        connection.h2.send_headers(self.id, encoded, end_stream=end)
        if frames is not None:
            buffer = bytearray(connection.h2.data_to_send())
            block = b"".join(each.payload for each in take_frames(buffer))
            connection.queue(frames(self.id, block, end))
        if not more:
            await connection.flushed()

    async def send_interim(self, status: int, headers: Fields | None = None) -> None:
        await self.send_headers([(":status", str(status)), *(headers or [])])

    async def send_head(self, status: int = 200, headers: Fields | None = None, *, end: bool = False) -> None:
        await self.send_headers([(":status", str(status)), *(headers or [])], end=end)

    async def send_data(self, data: bytes, *, end: bool = False, padding: int | None = None) -> None:
        """Within the client's windows: this waits until they take all of it. Raises Gone."""
        connection = self.connection
        view = memoryview(data)
        overhead = 0 if padding is None else padding + 1
        while view:
            self._check()
            room = connection.h2.local_flow_control_window(self.id) - overhead
            room = min(room, connection.h2.max_outbound_frame_size - overhead)
            if room <= 0:
                await connection.window_opens()
                continue
            piece, view = view[:room], view[room:]
            connection.h2.send_data(self.id, bytes(piece), end and not view, padding)
            self.sent_bytes += len(piece)
            await connection.flushed()
        if end and not data:
            self._check()
            connection.h2.send_data(self.id, b"", True)
            await connection.flushed()

    async def send_padding(self, size: int) -> None:
        """A DATA frame that holds nothing else. Raises Gone."""
        while self.connection.h2.local_flow_control_window(self.id) <= size:
            self._check()
            await self.connection.window_opens()
        self._check()
        self.connection.h2.send_data(self.id, b"", pad_length=size)
        await self.connection.flushed()

    async def send_trailers(self, fields: Fields) -> None:
        await self.send_headers(fields, end=True)

    async def reset(self, code: int) -> None:
        """RST_STREAM."""
        if not self.over.is_set():
            self.connection.h2.reset_stream(self.id, code)
            await self.connection.flushed()

    def _check(self) -> None:
        if self.over.is_set():
            raise Gone(f"{self} is over")

    # -- called by the connection --

    def take(self, data: bytes, size: int) -> None:
        self.body.add(data, time.monotonic())
        if self._is_answered:
            self.connection.give_back(size)
        else:
            self._pieces.append((data, size))
            self._arrived.set()

    def discard(self) -> None:
        """Nobody reads the body any more: let other streams have the window that it takes."""
        self._is_answered = True
        for _, size in self._pieces:
            self.connection.give_back(size)
        self._pieces.clear()

    def complete(self) -> None:
        self.body.is_complete = True
        self._arrived.set()

    def end(self, code: int | None = None) -> None:
        if not self.over.is_set():
            self.reset_code = code
            self.over_at = time.monotonic()
            self.over.set()
            self._arrived.set()


Http2Responder = Callable[[Stream], Awaitable[None]]


class Http2Connection:
    """One connection that speaks HTTP/2.

    `frames` are all that came, without the payloads of DATA. `ended`, `end` and `ended_at` tell how it ended,
    as those of `upstream.Connection`. Frames of the types in `holds` are put aside until `release`: a client
    whose PINGs or SETTINGS get no answer.
    """

    def __init__(self, channel: Channel, number: int, server: Http2Server) -> None:
        self.channel = channel
        self.number = number
        self.server = server
        self.opened_at = time.monotonic()
        self.streams: dict[int, Stream] = {}
        self.frames: list[Frame] = []
        self.holds: set[int] = set(server.holds)
        self.pinged_at: list[float] = []
        """When the client sent PINGs of its own."""
        self.ended = asyncio.Event()
        self.end: str | None = None
        self.ended_at: float | None = None
        self.goaway: tuple[int, int, bytes] | None = None
        """What the client has said in GOAWAY: last stream, code, debug data."""
        self.last_stream_id: int | None = None
        """What we have said in ours; later streams are ignored."""
        self.ignored: list[int] = []
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            normalize_inbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(client=False)
        self.h2.decoder.max_header_list_size = 16 * 1024 * 1024
        self.h2.initiate_connection()
        # The first SETTINGS shall have ours alone, and count from when they are acknowledged.
        self.h2.clear_outbound_data_buffer()
        self._held: list[Frame] = []
        self._is_settled = False
        self._settled = asyncio.Event()
        self._changing = asyncio.Lock()
        self._pongs: set[bytes] = set()
        self._outgoing = bytearray()
        self._queued_bytes = 0
        self._to_write = asyncio.Event()
        self._written = asyncio.Event()
        self._window = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()

    def __repr__(self) -> str:
        return f"<Http2Connection {self.number}>"

    @property
    def client_certificate_cn(self) -> str | None:
        """Common name in the client's certificate, None without one."""
        certificate: Any = (self.channel.tls.getpeercert() if self.channel.tls else None) or {}
        return dict(pair for rdn in certificate.get("subject", ()) for pair in rdn).get("commonName")

    @property
    def running(self) -> list[Stream]:
        """Streams that the client has not reset and that we have not ended."""
        return [stream for stream in self.streams.values() if not stream.over.is_set()]

    def seen(self, kind: int, stream_id: int | None = None) -> list[Frame]:
        return [each for each in self.frames if each.kind == kind and stream_id in (None, each.stream_id)]

    @property
    def client_settings(self) -> dict[int, int]:
        """Of the client's first SETTINGS."""
        return self.seen(SETTINGS)[0].settings()

    # -- what a script does --

    async def send_raw(self, data: bytes) -> None:
        """Any bytes, behind what is being sent."""
        self.flush()
        self.queue(data)
        await self.flushed()

    async def go_away(self, last_stream_id: int, code: int = 0, debug: bytes = b"") -> None:
        """GOAWAY; streams that come later, and are higher than `last_stream_id`, are ignored."""
        self.last_stream_id = last_stream_id
        await self.send_raw(goaway_frame(last_stream_id, code, debug))

    async def change_settings(self, settings: Mapping[int, int]) -> None:
        """SETTINGS; returns when the client has acknowledged them, and those before.

        One frame at a time: h2 takes the first acknowledgement for one of everything that it has changed.
        """
        async with self._changing, asyncio.timeout(LAST_RESORT_SECONDS):
            if self.server.greets:
                await self._settled.wait()
            self._settled.clear()
            self.h2.update_settings(_codes(settings))
            await self.flushed()
            await self._settled.wait()

    async def ping(self, data: bytes = b"are you?") -> None:
        """PING; returns when the client has answered: then it has read all that was sent before."""
        await self.send_raw(frame(PING, data))
        await self.server.wait_for(lambda: data in self._pongs or self.ended.is_set(), "an answer to PING")
        self._pongs.discard(data)

    async def open_window(self, size: int) -> None:
        """Let the client send that much more on all streams together."""
        self.h2.increment_flow_control_window(size)
        await self.flushed()

    def give_back(self, size: int, stream_id: int | None = None) -> None:
        """Open the window for all by what was taken, and that of one stream if it is still read."""
        # KeyError: what h2 says of a stream that it has forgotten.
        with contextlib.suppress(h2.exceptions.ProtocolError, KeyError):
            if size:
                self.h2.increment_flow_control_window(size)
                if stream_id is not None:
                    self.h2.increment_flow_control_window(size, stream_id)
        self.flush()

    async def release(self) -> None:
        """Take the frames that were put aside, and put no more aside."""
        self.holds.clear()
        held, self._held = self._held, []
        for each in held:
            self._receive(each)
        await self.flushed()

    def close(self, how: Step = Step.CLOSE) -> None:
        """End the connection tidily, or by Step.CUT or RESET."""
        {Step.CLOSE: self.channel.close, Step.CUT: self.channel.abandon, Step.RESET: self.channel.reset}[
            how
        ]()
        # The event loop keeps a socket open on which it still waits.
        if self._reading is not None:
            self._reading.cancel()

    def pause_reading(self) -> None:
        """Take no more from the socket."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def encode(self, fields: Fields) -> bytes:
        """A header block for raw frames; the client's decoder must see it, since its table changes."""
        return self.h2.encoder.encode(
            [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        )

    # -- sending --

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.queue(data)

    def queue(self, data: bytes) -> None:
        self._outgoing += data
        self._queued_bytes += len(data)
        self._to_write.set()

    async def flushed(self) -> None:
        """Returns when the kernel has taken everything up to now. Raises Gone."""
        self.flush()
        until = self._queued_bytes
        while self._queued_bytes - len(self._outgoing) < until:
            if self.ended.is_set():
                raise Gone(f"{self} has ended")
            self._written.clear()
            await self._written.wait()

    async def window_opens(self) -> None:
        """Returns when a window may have opened; Gone is for the caller to find out."""
        self._window.clear()
        await self._window.wait()

    async def _write(self) -> None:
        while True:
            while not self._outgoing:
                self._to_write.clear()
                await self._to_write.wait()
            data = bytes(self._outgoing[: 256 * 1024])
            await self.channel.send(data)
            del self._outgoing[: len(data)]
            self._written.set()

    # -- its life --

    async def run(self) -> None:
        """Talk until the client ends the connection (called by Http2Server)."""
        writing = asyncio.create_task(self._writes())
        try:
            if self.server.greets:
                self.h2.update_settings(_codes(self.server.settings))
            self.flush()
            if self.server.on_connection is not None:
                self._start(self.server.on_connection(self))
            self._reading = asyncio.create_task(self._read())
            await asyncio.wait((self._reading,))
        finally:
            if self._reading is not None:
                self._reading.cancel()
            writing.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(writing, *self._tasks, return_exceptions=True)
            if self._reading is not None:
                await asyncio.gather(self._reading, return_exceptions=True)

    async def _writes(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, ValueError):
            await self._write()

    async def _read(self) -> None:
        buffer = bytearray()
        has_preface = False
        end = "eof"
        try:
            while True:
                await self._may_read.wait()
                data = await self.channel.recv()
                if not data:
                    end = "cut" if self.channel.cut else "eof"
                    return
                buffer += data
                if not has_preface and len(buffer) >= len(PREFACE):
                    preface = bytes(buffer[: len(PREFACE)])
                    del buffer[: len(PREFACE)]
                    assert preface == PREFACE, f"the client began with {preface!r}"
                    has_preface = True
                    self.h2.receive_data(preface)
                if has_preface:
                    for each in take_frames(buffer):
                        self._receive(each)
                    self.flush()
        except (OSError, ssl.SSLError, ValueError):
            # ValueError: what uvloop says of a socket that was closed on this side.
            end = "reset"
        finally:
            self.end = end
            self.ended_at = time.monotonic()
            self.ended.set()
            for stream in self.streams.values():
                stream.end()
            for event in (self._written, self._window, self._settled):
                event.set()
            self.server.changed()

    def _receive(self, each: Frame) -> None:
        self.frames.append(each if each.kind != DATA else Frame(DATA, each.flags, each.stream_id, b""))
        if len(self.frames) == 1 and each.kind != SETTINGS:
            self.server.object_to(f"{each.name} came before SETTINGS")
        if each.kind == PING and each.flags & 1:
            self._pongs.add(each.payload)
        elif each.kind == PING:
            self.pinged_at.append(time.monotonic())
        if each.kind in self.holds:
            self._held.append(each)
        elif each.kind == GOAWAY:
            last, code = each.number(), int.from_bytes(each.payload[4:8], "big")
            self.goaway = (last, code, each.payload[8:])
        elif self.last_stream_id is not None and each.stream_id > self.last_stream_id:
            self._ignore(each)
        else:
            try:
                for event in self.h2.receive_data(each.raw):
                    self._handle(event)
            except h2.exceptions.ProtocolError as error:
                if self.goaway is None:
                    self.server.object_to(f"{each.name} on stream {each.stream_id}: {error!r}")
                # It takes nothing more after that.
                self.close()
        if each.kind in (WINDOW_UPDATE, SETTINGS):
            self._window.set()
        self.server.changed()

    def _ignore(self, each: Frame) -> None:
        # Its header block has to be decoded all the same, or those behind it could not be.
        if each.kind == 1 and each.stream_id not in self.ignored:
            self.ignored.append(each.stream_id)
            offset = 5 if each.flags & 0x20 else 0
            self.h2.decoder.decode(each.payload[offset:])
        if each.kind == DATA and each.length:
            # The window of all streams is to be kept right (RFC 9113, 6.8).
            self.queue(window_frame(0, each.length))

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._begin(event)
            case h2.events.DataReceived():
                if stream := self.streams.get(event.stream_id):
                    stream.take(event.data, event.flow_controlled_length)
                else:
                    self.give_back(event.flow_controlled_length)
            case h2.events.TrailersReceived():
                if stream := self.streams.get(event.stream_id):
                    stream.body.trailers = _text(event.headers)
            case h2.events.StreamEnded():
                if event.stream_id in self.streams:
                    self.streams[event.stream_id].complete()
            case h2.events.StreamReset():
                if event.stream_id in self.streams:
                    self.streams[event.stream_id].end(int(event.error_code))
                if not event.remote_reset:
                    self.server.object_to(f"h2 has reset stream {event.stream_id}: {event.error_code}")
                self._window.set()
            case h2.events.SettingsAcknowledged():
                self._is_settled = True
                self._settled.set()

    def _begin(self, event: h2.events.RequestReceived) -> None:
        limit = self.server.settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
        if not self._is_settled and limit is not None and self.h2.open_inbound_streams > limit:
            # The client does not know yet: as Go's server does.
            self.h2.reset_stream(event.stream_id, REFUSED_STREAM)
            self.server.refused += 1
            return
        stream = Stream(self, event.stream_id, _text(event.headers))
        self.streams[stream.id] = stream
        self.server.streams.append(stream)
        self._start(self._answer(stream))

    async def _answer(self, stream: Stream) -> None:
        try:
            with contextlib.suppress(Gone):
                await self.server.responder_for(stream)(stream)
        finally:
            stream.discard()

    def _start(self, work: Awaitable[None]) -> None:
        async def watched() -> None:
            try:
                await work
            except (OSError, ssl.SSLError, ValueError):
                pass
            except h2.exceptions.ProtocolError as error:
                # The client has ended the stream, or the connection, in the meantime.
                if not self.ended.is_set() and self.goaway is None:
                    self.server.fail(error)
            except Exception as error:
                self.server.fail(error)

        task = asyncio.create_task(watched())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Http2Server(ByteUpstream):
    """`answers` is called for every stream; `paths` (exact target without query) go before it.

    `streams` are the requests over HTTP/2 of all connections in order, `h2_connections` those that speak it;
    `requests` and `connections` are those over HTTP/1.1, which `responder` and `routes` answer. `settings`
    are what new connections are greeted with (not at all when `greets` is false); `says_with_handshake` are
    bytes before that, sent together with the end of the handshake.
    """

    def __init__(self, answers: Http2Responder | None = None, **options: Any) -> None:
        """`options` are those of ByteUpstream."""
        self.allows_errors = bool(options.pop("allows_errors", False))
        super().__init__(**options)
        self.answers = answers
        self.paths: dict[str, Http2Responder] = {}
        self.streams: list[Stream] = []
        self.h2_connections: list[Http2Connection] = []
        self.settings: dict[int, int] = {int(key): value for key, value in DEFAULT_SETTINGS.items()}
        self.greets = True
        self.says_with_handshake = b""
        self.holds: set[int] = set()
        self.refused = 0
        self.objections: list[str] = []
        self.on_connection: Callable[[Http2Connection], Awaitable[None]] | None = None

    async def wait_for_streams(self, count: int, timeout: float = LAST_RESORT_SECONDS) -> list[Stream]:
        """All requests over HTTP/2, once there are `count`."""
        await self.wait_for(lambda: len(self.streams) >= count, f"{count} stream(s), {self.streams}", timeout)
        return self.streams

    def responder_for(self, stream: Stream) -> Http2Responder:
        responder = self.paths.get(stream.target.partition("?")[0], self.answers)
        if responder is None:
            raise AssertionError(f"no answer is scripted for {stream}")
        return responder

    def object_to(self, what: str) -> None:
        self.objections.append(what)
        if not self.allows_errors:
            self.fail(AssertionError(f"the client broke HTTP/2: {what}"))

    def fail(self, error: BaseException) -> None:
        """Raise it at the end of the block."""
        self._errors.append(error)

    async def _shake(self, channel: Channel) -> None:
        await channel.handshake(self._first_words)

    def _first_words(self, alpn: str | None) -> bytes:
        return self.says_with_handshake if alpn == "h2" else b""

    async def _talk(self, channel: Channel) -> None:
        if channel.tls is None or channel.tls.selected_alpn_protocol() != "h2":
            await super()._talk(channel)
            return
        connection = Http2Connection(channel, len(self.h2_connections), self)
        self.h2_connections.append(connection)
        self.changed()
        await connection.run()


def _codes(settings: Mapping[int, int]) -> dict[h2.settings.SettingCodes | int, int]:
    return {h2.settings.SettingCodes(key): value for key, value in settings.items()}


def _text(headers: Any) -> Fields:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]

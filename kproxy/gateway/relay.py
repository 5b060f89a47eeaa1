"""The way of one request to an API server and of its answer back, as callbacks of two transports.

Nothing is buffered but what back-pressure cannot hold: while the upstream is being dialled the client is not
read, a stalled reader stops the other side's reading. The common request (a credential and an idle connection
at hand) is relayed without a task or a future.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence

import structlog

from kproxy.credentials import Credential
from kproxy.errors import (
    BadRequest,
    CredentialError,
    Draining,
    KproxyError,
    UpgradeFailed,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from kproxy.gateway.answer import Answer
from kproxy.gateway.client import Downstream
from kproxy.gateway.origin import Route
from kproxy.gateway.tunnel import Tunnel
from kproxy.http.forwarding import (
    has_own_authorization,
    interim_block,
    map_target,
    may_ask_for_gzip,
    moved,
    request_block,
    upgrade_block,
)
from kproxy.http.framing import Body, body_of
from kproxy.http.heads import Field, RequestHead, ResponseHead
from kproxy.upstream.carrier import Carrier, Outgoing
from kproxy.upstream.second import Second
from kproxy.upstream.upstream import Upstream

_log = structlog.get_logger()

# Request bodies up to this size are kept until the answer begins, to be sent once more: after a 401, on a
# fresh connection when a reused one turned out to be dead, and when the API server has said that it processed
# nothing of it, as by GOAWAY (RFC 9113, 6.8). A longer one goes over HTTP/1.1, on a fresh connection. One of
# unknown length goes over HTTP/2 all the same: who does not process a stream opens no window for more of it.
MAX_REPLAYED_BYTES = 1024 * 1024
# What is kept of a body before there is a connection, or of an answer before it is known what to do with it.
MAX_HELD_BYTES = 64 * 1024
# Seconds before each time that a request is sent again, when its connection was dead and when it was refused.
# A refusal does no harm, and of the API servers behind one address each may be about to end.
RETRY_SECONDS = (0.0, 0.25, 1.0)
REFUSED_RETRY_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5)
# So many proxies before us are we: the kubeconfig leads to kproxy itself, and each round takes a connection.
MAX_HOPS = 20
# How long the API server may keep a client waiting for its 100 before we send it ourselves; Go's default.
CONTINUE_SECONDS = 1.0

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# RFC 9110 section 9.2.1: what may be asked twice at the same time.
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
# Section 9.2.2: what a proxy may repeat of its own accord.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))


class Relay:
    """Starts relayed requests and knows those that are running."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make_room: Callable[[], bool] = lambda: False
    ) -> None:
        """`make_room` sees before a dial that there are descriptors; True: the loop's next round has them."""
        self.loop = loop
        self.make_room = make_room
        self.running: set[RelayedRequest] = set()
        self.is_draining = False
        self.ended = asyncio.Event()
        """Set at the end of each request while draining."""

    def begin(self, call: Downstream, route: Route) -> None:
        """Relay the request at hand to the route's target, at the upstream of its seat, which is open."""
        assert route.seat is not None
        upstream = route.seat.upstream
        assert upstream is not None
        target = map_target(route.target, upstream.base_path) if upstream.base_path else route.target
        self.relay(call, upstream, target, route.mount)

    def relay(self, call: Downstream, upstream: Upstream, target: str, mount: bytes = b"") -> None:
        """Relay the request at hand to `target` of `upstream`.

        `mount` is what was taken off the target: redirects of the API server lead below it.
        """
        if self.is_draining:
            call.refuse(Draining("kproxy is shutting down"), (("Retry-After", "1"),))
            return
        request = RelayedRequest(self, call, upstream, target, mount)
        call.hand_to(request)
        self.running.add(request)
        upstream.enter(request)
        request.start()

    def has_short_requests(self) -> bool:
        """Whether a request is running that will end by itself, unlike watches and tunnels."""
        return any(
            not (request.downstream.exchange.info and request.downstream.exchange.info.is_long_running)
            for request in self.running
        )

    def forget(self, request: RelayedRequest) -> None:
        self.running.discard(request)
        request.upstream.leave(request)
        if self.is_draining:
            self.ended.set()

    def abort(self) -> None:
        """Cut every answer and tunnel that is still running."""
        for request in list(self.running):
            request.cut()


class _Forwarded(Outgoing):
    """A request head to send, and all that it was made of."""

    __slots__ = ("credential_block", "head", "target", "upstream")

    def __init__(
        self, head: RequestHead, target: str, upstream: Upstream, credential_block: bytes, block: bytes
    ) -> None:
        super().__init__(block, is_chunked=head.is_chunked)
        self.head = head
        self.target = target
        self.upstream = upstream
        self.credential_block = credential_block


class RelayedRequest:
    """One request and its answer: the Handler of a Downstream and the Receiver of a Carrier."""

    __slots__ = (
        "_answer",
        "_asked_for_gzip",
        "_body_is_complete",
        "_carrier",
        "_continue_timer",
        "_credential",
        "_held",
        "_pending",
        "_prefix",
        "_refusals",
        "_relay",
        "_renews_once",
        "_replay",
        "_request_trailers",
        "_retries",
        "_second",
        "_target",
        "_task",
        "_trailers",
        "_tunnel",
        "downstream",
        "method",
        "upstream",
    )

    def __init__(
        self,
        relay: Relay,
        downstream: Downstream,
        upstream: Upstream,
        target: str,
        prefix: bytes,
    ) -> None:
        self.downstream = downstream
        self.method = downstream.head.method
        self._relay = relay
        self.upstream = upstream
        self._target = target
        self._prefix = prefix
        self._carrier: Carrier | None = None
        self._credential: Credential | None = None
        self._task: asyncio.Task[None] | None = None
        self._tunnel: Tunnel | None = None
        self._continue_timer: asyncio.TimerHandle | None = None
        self._body_is_complete = not downstream.has_unread_body
        # Body bytes that came before there was a connection, and all of them while they may be sent again.
        self._pending = b""
        self._replay: bytes | bytearray | None = b""
        self._request_trailers: list[Field] = []
        self._retries = 0
        self._refusals = 0
        # The same on another connection, while that of `_carrier` may be dead.
        self._second: Second | None = None
        self._answer: Answer | None = None
        self._trailers: list[Field] = []
        # The 401 that is held back while the credential is renewed.
        self._held: ResponseHead | None = None
        self._renews_once = True
        self._asked_for_gzip = False

    # -- sending --

    def start(self) -> None:
        head = self.downstream.head
        upstream = self.upstream
        self._asked_for_gzip = upstream.asks_for_gzip and may_ask_for_gzip(head)
        credential = upstream.current_credential()
        if credential is not None and not needs_connection(head):
            self._credential = credential
            try:
                block = upstream.credential_block(credential)
            except CredentialError as error:
                self._fail(error)
                return
            carrier = upstream.connector.idle_carrier(must_live=self.method not in _SAFE)
            if carrier is not None:
                self._send(carrier, block)
                return
        self._open(credential)

    def _open(
        self, credential: Credential | None, *, is_retry: bool = False, delay_seconds: float = 0.0
    ) -> None:
        """Go on in a task: something must be waited for. Meanwhile some of the body is kept."""
        self._task = self._relay.loop.create_task(self._connect(credential, is_retry, delay_seconds))

    async def _connect(
        self, credential: Credential | None, is_retry: bool, delay_seconds: float = 0.0
    ) -> None:
        upstream = self.upstream
        try:
            _check_hops(self.downstream.head, upstream)
            if self._relay.make_room():
                await asyncio.sleep(0)
            if delay_seconds:
                await asyncio.sleep(delay_seconds)
            if credential is None and has_own_authorization(self.downstream.head):
                await upstream.present_certificate()
                block = b""
            else:
                credential = credential or await upstream.credential()
                block = upstream.credential_block(credential)
            carrier: Carrier
            if self.downstream.head.is_upgrade:
                # It may not meet a connection that died while idle: it cannot be sent twice.
                carrier = await upstream.connector.open_connection()
            elif needs_connection(self.downstream.head):
                carrier = await upstream.connector.open_for_upload()
            elif is_retry:
                carrier = await upstream.connector.open_carrier()
            elif self.method in _SAFE:
                carrier = upstream.connector.idle_carrier() or await upstream.connector.open_carrier()
            else:
                carrier = await upstream.connector.living_carrier()
        except Exception as error:
            self._task = None
            self._fail(_ours(error))
            return
        self._task = None
        self._credential = credential
        if not self._body_is_complete:
            # Before what was kept is sent: that may be too much already.
            self.downstream.resume_reading()
        self._send(carrier, block)

    def _send(self, carrier: Carrier, credential_block: bytes) -> None:
        head = self.downstream.head
        self._carrier = carrier
        pending, self._pending = self._pending, b""
        carrier.send(
            self,
            self._outgoing(head, credential_block),
            pending,
            self._request_trailers if self._body_is_complete else None,
        )
        if head.expects_continue and not self._body_is_complete and not pending:
            self._continue_timer = self._relay.loop.call_later(CONTINUE_SECONDS, self._continue)
        if self.downstream.is_write_paused:
            carrier.pause_reading()

    def _outgoing(self, head: RequestHead, credential_block: bytes) -> Outgoing:
        """The head to send, made once for a client that sends the same head again."""
        made = self.downstream.forwarded
        if (
            isinstance(made, _Forwarded)
            and made.head is head
            and made.upstream is self.upstream
            and made.target == self._target
            and made.credential_block is credential_block
        ):
            return made
        upstream = self.upstream
        block = request_block(
            head,
            target=self._target,
            authority=upstream.authority,
            credential_block=credential_block,
            impersonation=upstream.impersonation,
            client_address=self.downstream.client_address,
            asks_for_gzip=self._asked_for_gzip,
        )
        made = _Forwarded(head, self._target, upstream, credential_block, block)
        self.downstream.forwarded = made
        return made

    def _continue(self) -> None:
        self._continue_timer = None
        if self._answer is None:
            self.downstream.write(_CONTINUE)

    def _stop_continue_timer(self) -> None:
        if self._continue_timer is not None:
            self._continue_timer.cancel()
            self._continue_timer = None

    # -- Handler: what the client does --

    def on_request_body(self, data: bytes) -> None:
        self._stop_continue_timer()
        kept = self._replay
        if kept is not None:
            if len(kept) + len(data) > MAX_REPLAYED_BYTES:
                self._replay = None
            elif not kept:
                self._replay = data
            else:
                if isinstance(kept, bytes):
                    kept = self._replay = bytearray(kept)
                kept += data
        if self._carrier is not None:
            self._carrier.send_body(data)
        elif self._task is not None:
            # Reading goes on as long as it can: a client that goes away shows itself no other way.
            self._pending += data
            if len(self._pending) > MAX_HELD_BYTES:
                self.downstream.pause_reading()

    def on_request_end(self, trailers: list[Field]) -> None:
        self._body_is_complete = True
        self._request_trailers = trailers
        if self._carrier is not None:
            self._carrier.end_body(trailers)

    def on_request_broken(self, error: BadRequest) -> None:
        self._abandon_upstream()
        self._fail(error)

    def on_downstream_lost(self) -> None:
        exchange = self.downstream.exchange
        exchange.proxy_error = exchange.proxy_error or "connection_terminated"
        self._abandon_upstream()
        self._end()
        self.downstream.finish(keep_alive=False)

    def on_downstream_paused(self) -> None:
        if self._carrier is not None:
            self._carrier.pause_reading()

    def on_downstream_resumed(self) -> None:
        answer = self._answer
        if answer is not None and answer.is_behind:
            try:
                answer.catch_up()
            except zlib.error as error:
                self._break_off(error)
                return
            if self._carrier is None:
                self._end_answer()
        if self._carrier is not None and not self.downstream.is_write_paused:
            self._carrier.resume_reading()

    # -- Receiver: what the API server does --

    def on_silence(self) -> None:
        """Ask on a second connection, too, if that does no harm; the first answer counts."""
        is_complete = self._replay is not None and self._body_is_complete
        is_repeatable = is_complete and self.method in _SAFE and not needs_connection(self.downstream.head)
        outgoing = self.downstream.forwarded
        if not is_repeatable or self._second is not None or self._retries >= len(RETRY_SECONDS):
            return
        assert isinstance(outgoing, Outgoing)
        self._retries += 1
        self._second = Second(
            self,
            self._open_second,
            outgoing,
            bytes(self._replay or b""),
            self._request_trailers,
            self._relay.loop,
        )

    async def _open_second(self) -> Carrier:
        if self._relay.make_room():
            await asyncio.sleep(0)
        return await self.upstream.connector.living_carrier(may_ask=False)

    def on_second_chosen(self, carrier: Carrier) -> None:
        first, self._carrier = self._carrier, carrier
        self._second = None
        if first is not None:
            first.abort()
            self.upstream.connector.note_death()
        if self.downstream.is_write_paused:
            carrier.pause_reading()

    def on_second_failed(self, error: Exception) -> None:
        self._second = None
        if self._carrier is None:
            self._fail(self._named(_ours(error)))

    def _drop_second(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            second.drop()

    def on_upstream_paused(self) -> None:
        self.downstream.pause_reading()

    def on_upstream_resumed(self) -> None:
        self.downstream.resume_reading()

    def on_interim(self, head: ResponseHead) -> None:
        if self._second is not None:
            self._drop_second()
        if head.status == 100:
            if self._continue_timer is None:
                return
            self._stop_continue_timer()
            self.downstream.write(_CONTINUE)
        elif self.downstream.head.minor:
            self.downstream.write(interim_block(head))

    def on_head(self, head: ResponseHead, body: Body, *, is_alone: bool) -> bool:
        if self._continue_timer is not None:
            self._stop_continue_timer()
        if self._second is not None:
            self._drop_second()
        if head.status == 401:
            if self._may_renew():
                self._held = head
                self._pending = b""
                return False
        elif not self._renews_once and head.status < 500 and self._credential is not None:
            self.upstream.confirm(self._credential)
        answer = self._begin_answer(head, body)
        if answer is None:
            return False
        if is_alone:
            answer.flush()
        return answer.wants_payload

    def _may_renew(self) -> bool:
        """Whether a stale credential of ours may be why, and the request can be sent again."""
        credential = self._credential
        if credential is None or not self._renews_once or has_own_authorization(self.downstream.head):
            return False
        self._renews_once = False
        is_renewed = self.upstream.invalidate(credential)
        return is_renewed and self._replay is not None and self._body_is_complete

    def _begin_answer(self, head: ResponseHead, body: Body) -> Answer | None:
        """None when the answer is not for the client."""
        downstream = self.downstream
        exchange = downstream.exchange
        self._note_answer(head)
        is_upgrade = downstream.head.is_upgrade
        if is_upgrade and head.status < 400:
            # RFC 9110 would let a server ignore the upgrade, but no client of an API server expects that.
            self._abandon_upstream()
            self._fail(
                UpgradeFailed(
                    f'context "{self.upstream.name}": invalid upgrade response: status code {head.status}'
                )
            )
            return None
        exchange.status = head.status
        self._replay = None
        if self._prefix and b"location" in head.names:
            head = moved(head, self._prefix)
        self._answer = Answer(
            downstream,
            head,
            body,
            unpacks_gzip=self._asked_for_gzip,
            keeps_alive=downstream.keeps_alive and self._body_is_complete and not is_upgrade,
            extra_fields=self.downstream.extra_fields,
        )
        return self._answer

    def _note_answer(self, head: ResponseHead) -> None:
        exchange = self.downstream.exchange
        exchange.upstream_status = head.status
        self.upstream.tally.is_failing = False
        audit_id = head.names.get(b"audit-id")
        if audit_id is not None:
            exchange.audit_id = audit_id.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._hold(data)
            return
        try:
            answer.write(data)
        except zlib.error as error:
            self._break_off(error)

    def _break_off(self, error: zlib.error) -> None:
        self._abandon_upstream()
        self._fail(UpstreamProtocolError(f"the API server's gzip is broken: {error}"))

    def _hold(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) > MAX_HELD_BYTES:
            self._release_held()

    def _release_held(self) -> None:
        """Pass on the 401 that was held back: there is no better credential."""
        head, self._held = self._held, None
        pending, self._pending = self._pending, b""
        assert head is not None
        body = body_of(head, self.method)
        answer = self._begin_answer(head, body)
        if answer is None:
            return
        # It was held as it came, because it was not yet known how it would be passed on.
        if answer.wants_payload:
            payload: list[bytes] = []
            while pending and not body.is_finished:
                pending = pending[body.feed(pending, payload) :]
            pending = b"".join(payload)
            if self._carrier is not None:
                self._carrier.wants_payload = True
        if pending:
            self.on_body(pending)

    def on_end(self, trailers: list[Field]) -> None:
        carrier, self._carrier = self._carrier, None
        assert carrier is not None
        if self._body_is_complete:
            carrier.release()
        else:
            carrier.abort()
        self._trailers = trailers
        if self._held is not None:
            self._task = self._relay.loop.create_task(self._renew())
        else:
            self._end_answer()

    def _end_answer(self) -> None:
        """End the answer, unless the client has yet to read some of it."""
        answer = self._answer
        if answer is None or answer.is_behind:
            return
        try:
            answer.end(self._trailers)
        except zlib.error as error:
            self._break_off(error)
            return
        self._end()
        self.downstream.finish(keep_alive=not answer.ends_by_close and self._body_is_complete)

    async def _renew(self) -> None:
        """After a 401: send the request once more, if another credential can be had."""
        stale = self._credential
        assert stale is not None
        try:
            credential = await self.upstream.credential(stale)
            is_other = (
                credential.authorization != stale.authorization
                or credential.certificate is not stale.certificate
            )
            # One that turns out to be of no use is no reason to keep the API server's answer from the client.
            self.upstream.credential_block(credential)
        except Exception as error:
            _ours(error)
            is_other = False
        if not is_other:
            self._task = None
            self._release_held()
            self._end_answer()
            return
        self._held = None
        self._pending = bytes(self._replay or b"")
        await self._connect(credential, is_retry=True)

    def on_upgrade(self, head: ResponseHead, early: bytes, detach: Callable[[], asyncio.Transport]) -> None:
        self._stop_continue_timer()
        self._drop_second()
        downstream = self.downstream
        if not downstream.head.is_upgrade:
            self._abandon_upstream()
            self._fail(UpstreamProtocolError("the API server switched protocols without being asked"))
            return
        exchange = downstream.exchange
        exchange.status = 101
        self._note_answer(head)
        downstream.write(upgrade_block(head))
        client, early_in = downstream.detach()
        self._carrier = None

        def closed(bytes_in: int, bytes_out: int) -> None:
            exchange.bytes_in += bytes_in
            exchange.bytes_out += bytes_out
            self._end()
            downstream.finish(keep_alive=False)

        self._tunnel = Tunnel(self._relay.loop, client, detach(), closed)
        self._tunnel.start(early_in, early)

    def on_lost(self, error: KproxyError, *, is_unprocessed: bool = False) -> None:
        carrier, self._carrier = self._carrier, None
        assert carrier is not None
        self._stop_continue_timer()
        if self._second is not None:
            self._second.go_alone()
            return
        if self._held is not None:
            self._release_held()
            self.downstream.abort()
            return
        delay_seconds = None
        if self._answer is None:
            delay_seconds = self._before_retry(carrier, error, is_unprocessed=is_unprocessed)
        if delay_seconds is not None:
            self._pending = bytes(self._replay or b"")
            # A refusal says nothing against connections that are there; one that is dead casts doubt on them.
            self._open(self._credential, is_retry=not is_unprocessed, delay_seconds=delay_seconds)
        else:
            self._fail(self._named(error))

    def _named(self, error: KproxyError) -> KproxyError:
        """What went wrong, with the name of the context."""
        if not str(error).startswith("context "):
            error.args = (f'context "{self.upstream.name}": {error}',)
        return error

    def _before_retry(self, carrier: Carrier, error: KproxyError, *, is_unprocessed: bool) -> float | None:
        """Seconds until the request is sent again, None when it is not: it may be if the API server cannot
        have acted on it, or acting twice is the same as once.

        A connection that ended while it was idle: its end crossed our request (RFC 9112, 9.3.1), or it is
        found to be dead after a laptop's sleep.
        """
        if self._replay is None:
            return None
        if is_unprocessed:
            self._refusals += 1
            return _nth(REFUSED_RETRY_SECONDS, self._refusals)
        was_dead = carrier.is_reused and isinstance(error, UpstreamUnreachable | UpstreamTimeout)
        if was_dead and self._body_is_complete and self.method in _IDEMPOTENT:
            self._retries += 1
            return _nth(RETRY_SECONDS, self._retries)
        return None

    # -- ends --

    @property
    def tunnelled_bytes(self) -> tuple[int, int]:
        """In and out, by the tunnel that runs now; the exchange is told of them at its end."""
        return self._tunnel.count_bytes if self._tunnel is not None else (0, 0)

    def cut_stream(self) -> None:
        """Cut a watch, a followed log or a tunnel that is connected; anything else ends by itself."""
        info = self.downstream.exchange.info
        is_watch = self._carrier is not None and info is not None and info.is_long_running
        if is_watch or self._tunnel is not None:
            self.cut()

    def cut(self) -> None:
        """End it now; a truncated answer must not look complete."""
        if self._tunnel is not None:
            self._tunnel.abort()
        else:
            self._cut_answer()

    def _cut_answer(self) -> None:
        if self._answer is not None and self._answer.has_no_frame:
            self.downstream.reset()
        else:
            self.downstream.abort()

    def _fail(self, error: KproxyError) -> None:
        """Answer with the error or, when an answer has begun, cut it so that it cannot look complete."""
        self._end()
        if error.status > 500:
            self.upstream.tally.fail(str(error))
        downstream = self.downstream
        downstream.exchange.proxy_error = error.proxy_error
        if downstream.exchange.status and (self._answer is None or self._answer.has_begun):
            self._cut_answer()
        else:
            downstream.exchange.status = 0
            downstream.refuse(error)

    def _abandon_upstream(self) -> None:
        self._stop_continue_timer()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._drop_second()
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.abort()

    def _end(self) -> None:
        if self._continue_timer is not None:
            self._stop_continue_timer()
        self._relay.forget(self)


def _check_hops(head: RequestHead, upstream: Upstream) -> None:
    """Raises UpstreamUnreachable for a request that goes round in circles (RFC 9209, 2.3)."""
    hops = sum(value.count(b",") + 1 for value in head.all_of(b"x-forwarded-for"))
    if hops >= MAX_HOPS:
        raise UpstreamUnreachable(
            f'context "{upstream.name}": the request has come through {hops} proxies; '
            f"does {upstream.context.cluster.server} lead to kproxy itself?",
            "proxy_loop_detected",
        )


def needs_connection(head: RequestHead) -> bool:
    """Whether the request is better off with an HTTP/1.1 connection of its own than among others."""
    return head.is_upgrade or (head.content_length is not None and head.content_length > MAX_REPLAYED_BYTES)


def _nth(seconds: Sequence[float], number: int) -> float | None:
    return seconds[number - 1] if number <= len(seconds) else None


def _ours(error: Exception) -> KproxyError:
    """What a task of ours failed with; anything but a KproxyError is a bug, and somebody is waiting."""
    if isinstance(error, KproxyError):
        return error
    _log.error("internal.failed", exc_info=error)
    return KproxyError("kproxy failed on this request; its log says more")

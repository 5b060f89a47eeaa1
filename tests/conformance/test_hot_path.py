"""A guard on the cost of a relayed request that no busy machine can shake: function calls, not time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kproxy
from kproxy.config.schema import Config
from kproxy.gateway.relay import Relay
from kproxy.kube.contexts import Contexts, Served
from kproxy.kube.kubeconfig import Cluster, ResolvedContext, User
from kproxy.listeners.binding import bind_tcp
from kproxy.listeners.listener import Listener
from kproxy.policy.policy import Policy
from kproxy.server.server import open_endpoints, open_router, open_upstream
from kproxy.telemetry.accessline import AccessLog
from kproxy.telemetry.log import configure
from kproxy.telemetry.metrics import Metrics
from kproxy.upstream.table import Upstreams
from tests.support.http2_server import H2, Http2Server, Stream
from tests.support.pki import CA

REQUESTS = 300
LIMIT_CALLS = 70
HTTP2_LIMIT_CALLS = 71
"""Calls of our own functions per request, access line and counters included; now 69 and 70."""

ANSWER = b"HTTP/1.1 200 OK\r\nAudit-Id: 1\r\nContent-Type: x/y\r\nDate: D\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = b"GET /api/v1/namespaces/default/pods?limit=5 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"


def answer_all(listening: socket.socket) -> None:
    """An upstream on a thread of its own: what it does is not counted."""
    with contextlib.suppress(OSError):
        connection, _ = listening.accept()
        with connection:
            while connection.recv(65536):
                connection.sendall(ANSWER)


def ask(address: str, count: int) -> None:
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as client:
        for _ in range(count):
            client.sendall(REQUEST)
            received = b""
            while not received.endswith(b"{}"):
                received += client.recv(65536)


def prepare_policy(config: Config) -> Policy:
    return Policy.compile(
        accept_paths=config.accept_paths,
        reject_paths=config.reject_paths,
        accept_hosts=config.accept_hosts,
        reject_methods=config.reject_methods,
        accept_origins=config.accept_origins,
        disable_filter=config.disable_filter,
    )


@contextlib.asynccontextmanager
async def http1_cluster() -> AsyncIterator[Cluster]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        upstream_thread = threading.Thread(target=answer_all, args=(listening,))
        upstream_thread.start()
        yield Cluster(name="c", server=f"http://127.0.0.1:{listening.getsockname()[1]}")
    await asyncio.to_thread(upstream_thread.join)


@contextlib.asynccontextmanager
async def http2_cluster() -> AsyncIterator[Cluster]:
    ca = CA()
    fields = [(":status", "200"), ("audit-id", "1"), ("content-type", "x/y"), ("date", "D")]
    encoded = [(name.encode(), value.encode()) for name, value in [*fields, ("content-length", "2")]]

    async def answer_at_once(stream: Stream) -> None:
        # Head and body in one piece, as API servers send them: in two it is chance how many reads they take.
        stream.connection.h2.send_headers(stream.id, encoded)
        stream.connection.h2.send_data(stream.id, b"{}", end_stream=True)
        await stream.connection.flushed()

    async with Http2Server(answer_at_once, tls=ca.server_context(alpn=H2)) as server:
        yield Cluster(name="c", server=server.url, certificate_authority_data=ca.pem)


@pytest.mark.numbers
@pytest.mark.parametrize(
    ("cluster", "limit"), [(http1_cluster, LIMIT_CALLS), (http2_cluster, HTTP2_LIMIT_CALLS)]
)
async def test_a_relayed_request_costs_few_calls(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: Callable[[], AbstractAsyncContextManager[Cluster]],
    limit: int,
) -> None:
    """A small GET over a kept-alive connection stays under a fixed number of calls of our functions."""
    # The log is written at the end: how often a timer comes in between is a matter of the machine.
    monkeypatch.setattr("kproxy.telemetry.accessline.FLUSH_SECONDS", 3600.0)
    loop = asyncio.get_running_loop()
    home = str(Path(kproxy.__file__).parent)
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(home):
            calls[frame.f_code.co_qualname] += 1

    async with cluster() as served:
        context = ResolvedContext(name="c", cluster=served, user=User(name="u"))
        config = Config()
        with (tmp_path / "log").open("w") as log:
            upstreams = Upstreams(
                lambda each: open_upstream(each, config, loop),
                Contexts(
                    default=context, served=(Served(name=context.name, slug=context.name, is_default=True),)
                ),
                loop,
            )
            access_log = AccessLog(configure("json", 0, log), loop)
            metrics, relay = Metrics(access_log.write), Relay(loop)
            endpoints = open_endpoints(config, metrics, upstreams, relay, loop)
            app = open_router(config, prepare_policy(config), upstreams, relay, endpoints, loop)
            listener = Listener(bind_tcp("127.0.0.1", 0), app.dispatch, metrics.note)
            await listener.start(loop)
            try:
                await asyncio.to_thread(ask, listener.name, 2)
                sys.setprofile(count)
                try:
                    await asyncio.to_thread(ask, listener.name, REQUESTS)
                    access_log.close()
                finally:
                    sys.setprofile(None)
            finally:
                listener.stop_accepting()
                await upstreams.close()

    per_request = sum(calls.values()) / REQUESTS
    top = ", ".join(f"{name} {total / REQUESTS:.1f}" for name, total in calls.most_common(6))
    print(f"calls per relayed request: {per_request:.1f} (limit {limit}); most: {top}")
    assert per_request <= limit

"""The composition root: what there is, who owns it, and in which order it ends.

Shutdown: readiness off -> stop accepting -> idle connections closed -> requests that end by themselves get
the grace period -> watches, followed logs and tunnels are cut -> upstreams closed -> log flushed -> socket
file removed -> exit code 0. A second signal skips the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from kproxy import __version__
from kproxy.app import App, Prefixes
from kproxy.config import Config
from kproxy.credentials import open_source
from kproxy.downstream import Downstream
from kproxy.errors import ConfigError, KproxyError
from kproxy.exchange import Exchange
from kproxy.kubeconfig import ResolvedContext, load, locate
from kproxy.kubecontext import resolve, server_address, warnings_for
from kproxy.log import AccessLog, Output, configure
from kproxy.policy import Policy
from kproxy.relay import Relay
from kproxy.upstream.dial import Dialer
from kproxy.upstream.proxies import proxy_for
from kproxy.upstream.upstream import Upstream
from kproxy.upstream.upstreams import Upstreams
from kproxy.wire import RequestHead

_BACKLOG = 1024
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_PROBES = 30, 15, 3

_log = structlog.get_logger()


class ListenError(KproxyError):
    """The address or socket to listen on cannot be had."""


class Listener:
    """One bound socket and the connections that it accepted."""

    def __init__(self, name: str, bound: socket.socket, app: App, access_log: AccessLog) -> None:
        self.name = name
        self.connections: set[Downstream] = set()
        self.dispatch: Callable[[Downstream, RequestHead], None] = app.dispatch
        self.finished: Callable[[Exchange], None] = access_log.write
        self._socket = bound
        self._server: asyncio.Server | None = None

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._server = await loop.create_server(
            lambda: Downstream(self, loop), sock=self._socket, backlog=_BACKLOG
        )

    def stop_accepting(self) -> None:
        """Close the bound socket; what it accepted goes on. Idempotent."""
        if self._server is not None:
            self._server.close()
        _remove_socket_file(self._socket, self.name)
        self._socket.close()


def run(config: Config, *, announce: Callable[[str], None], demo: bool = False) -> int:
    """Serve until a signal ends it; returns the exit code.

    `announce` is told the bound address once connections are accepted. Raises ConfigError with every problem
    found before that, ListenError when the address cannot be had.
    """
    output = configure(config.log_format, config.verbosity)
    with contextlib.closing(_new_loop()) as loop:
        try:
            return loop.run_until_complete(_serve(config, announce, output, loop, demo))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _serve(
    config: Config,
    announce: Callable[[str], None],
    output: Output,
    loop: asyncio.AbstractEventLoop,
    demo: bool,
) -> int:
    stopping = _Stopping(loop)
    async with contextlib.AsyncExitStack() as owned:
        owned.callback(stopping.close)
        if demo:
            # Imported here: only the demo needs aiohttp and cryptography at start.
            from kproxy.demo import DemoCluster

            cluster = await owned.enter_async_context(DemoCluster())
            config = replace(config, kubeconfig=str(cluster.kubeconfig_path))
        context, policy = prepare(config)
        upstreams = Upstreams(lambda each: open_upstream(each, config, loop), context)
        owned.push_async_callback(upstreams.close)
        relay = Relay(loop)
        app = App(
            policy=policy,
            prefixes=Prefixes(api=config.api_prefix, www=config.www_prefix if config.www else None),
            relay=relay,
            upstreams=upstreams,
            static_root=config.www,
            follows_symlinks=config.www_follow_symlinks,
            loop=loop,
        )
        access_log = AccessLog(output, loop)
        owned.callback(access_log.close)
        bound = bind_unix(config.unix_socket) if config.unix_socket else bind_tcp(config.address, config.port)
        listener = Listener(address_of(bound), bound, app, access_log)
        owned.callback(listener.stop_accepting)
        await listener.start(loop)
        _warn(config, context, policy)
        announce(listener.name)
        _log.info("server.started", address=listener.name, version=__version__, **_facts(upstreams.default))
        # What exists now stays: without this every full collection would walk all modules again.
        gc.collect()
        gc.freeze()
        await stopping.first.wait()
        _log.info("server.draining", grace_period_seconds=config.grace_period_seconds)
        await drain(listener, relay, stopping, config.grace_period_seconds)
    _log.info("server.stopped")
    return 0


def prepare(config: Config) -> tuple[ResolvedContext, Policy]:
    """Read and check everything that can be wrong before serving. Raises ConfigError with all problems."""
    problems: list[str] = []
    policy = context = None
    try:
        policy = Policy.compile(
            accept_paths=config.accept_paths,
            reject_paths=config.reject_paths,
            accept_hosts=config.accept_hosts,
            reject_methods=config.reject_methods,
            accept_origins=config.accept_origins,
            disable_filter=config.disable_filter,
        )
    except ConfigError as error:
        problems += error.problems
    try:
        overrides = config.overrides()
        context = resolve(load(locate(overrides.kubeconfig, os.environ)), overrides, os.environ)
    except ConfigError as error:
        problems += error.problems
    if policy is None or context is None:
        raise ConfigError(problems)
    return context, policy


def open_upstream(context: ResolvedContext, config: Config, loop: asyncio.AbstractEventLoop) -> Upstream:
    """Raises KubeconfigError when a certificate, key or credential at hand cannot be used."""
    address = server_address(context.cluster.server)
    source = open_source(
        context,
        exec_timeout_seconds=config.exec_timeout_seconds,
        exec_path=tuple(filter(None, (config.exec_path or "").split(os.pathsep))),
        oidc_write_back=config.oidc_write_back,
    )
    dialer = Dialer(
        context.name, address.host, address.port, proxy_for(address, context.cluster.proxy_url, os.environ)
    )
    return Upstream(
        context,
        address,
        source,
        dialer,
        loop,
        appends_server_path=config.append_server_path,
        cuts_on_rotation=config.rotate_close,
    )


def _warn(config: Config, context: ResolvedContext, policy: Policy) -> None:
    for warning in (
        *policy.warnings(has_unix_socket=config.unix_socket is not None),
        *warnings_for(context, append_server_path=config.append_server_path),
        *_www_warnings(config.www),
    ):
        _log.warning("config.questioned", detail=warning)


def _www_warnings(www: str | None) -> Iterator[str]:
    if www is None:
        return
    try:
        if not stat.S_ISDIR(Path(www).stat().st_mode):
            yield f"Static file directory {www} is not a directory"
    except OSError as error:
        yield f"Failed to stat static file directory {www}: {error.strerror}"


def _facts(upstream: Upstream) -> dict[str, object]:
    credential = upstream.current_credential()
    return {
        "context": upstream.name,
        "server": upstream.context.cluster.server,
        "credential": credential.kind if credential is not None else "on first request",
        "expires_at": credential.expires_at if credential is not None else None,
    }


class _Stopping:
    """Signals as events: the first asks to drain, the second to end at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = loop
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def close(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)


async def drain(listener: Listener, relay: Relay, stopping: _Stopping, grace_seconds: float) -> None:
    """End all connections of the listener: tidily what ends by itself in time, the rest at once."""
    listener.stop_accepting()
    relay.is_draining = True
    for downstream in list(listener.connections):
        downstream.close_when_idle()
    deadline = asyncio.get_running_loop().time() + grace_seconds
    while relay.has_short_requests():
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0 or stopping.second.is_set():
            break
        relay.ended.clear()
        waits = [asyncio.ensure_future(relay.ended.wait()), asyncio.ensure_future(stopping.second.wait())]
        await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    relay.abort()
    for downstream in list(listener.connections):
        downstream.abort()
    # Aborted transports tell their protocols in the next rounds of the loop.
    for _ in range(3):
        await asyncio.sleep(0)


# -- sockets --


def bind_tcp(address: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises ListenError."""
    host = address.strip("[]")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(
            f"cannot listen on --address={address}: {error.strerror}; give an IP address of this machine"
        ) from None
    # Go listens on the IPv4 address of a name that has both.
    family, kind, protocol, _, sockaddr = min(found, key=lambda each: each[0] != socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _keep_alive(bound)
        bound.bind(sockaddr)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ListenError(_bind_problem(error, address, port)) from None
    bound.setblocking(False)
    return bound


def _keep_alive(bound: socket.socket) -> None:
    """Accepted sockets inherit these: a suspended laptop's connections are found dead within 75 s."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def _bind_problem(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {address} is already in use; stop its user, or choose another with --port (0 for any)"
    if error.errno == errno.EACCES:
        return f"no permission to listen on port {port}; choose one above 1023 with --port"
    return f"cannot listen on {address}:{port}: {error.strerror}"


def bind_unix(path: str) -> socket.socket:
    """A bound unix socket that only its owner can use; a stale one is replaced. Raises ListenError."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o077)
        try:
            bound.bind(path)
        finally:
            os.umask(mask)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ListenError(f"cannot listen on --unix-socket={path}: {error.strerror or error}") from None
    except ListenError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _remove_stale(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(f"--unix-socket={path} exists and is not a socket; choose another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
        else:
            raise ListenError(f"--unix-socket={path} is in use by a running program; choose another path")


def _remove_socket_file(bound: socket.socket, path: str) -> None:
    if bound.fileno() >= 0 and bound.family == socket.AF_UNIX:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def address_of(bound: socket.socket) -> str:
    """As kubectl prints it: `127.0.0.1:8001`, `[::1]:8001`, or the path of a unix socket."""
    if bound.family == socket.AF_UNIX:
        return str(bound.getsockname())
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

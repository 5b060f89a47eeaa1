"""The composition root: what there is, who owns it, and in which order it ends.

Shutdown: readiness off -> the shutdown delay -> stop accepting -> idle connections closed -> requests that
end by themselves get the grace period -> watches, followed logs and tunnels are cut -> upstreams closed ->
log flushed -> socket file removed -> exit code 0. A second signal skips the waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kproxy import __version__
from kproxy.config.schema import Config
from kproxy.config.sources import Settings
from kproxy.credentials import open_source
from kproxy.errors import ConfigError, KubeconfigError
from kproxy.gateway.relay import Relay
from kproxy.gateway.router import Prefixes, Router
from kproxy.kube.clientconfig import path_of
from kproxy.kube.contexts import Contexts, Served
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.kuberc import ALLOW_ALL, PluginPolicy
from kproxy.kube.resolve import server_address, warnings_for
from kproxy.listeners.binding import bind
from kproxy.listeners.descriptors import Descriptors
from kproxy.listeners.listener import Listener
from kproxy.policy.policy import Policy
from kproxy.server.preparation import Clusters, Plan, prepare, questions, questions_of_the_place
from kproxy.server.reloading import Governed, OpenUpstream, Reloading, facts_of_all
from kproxy.server.shutdown import Stopping, drain
from kproxy.system.eventloop import new_loop
from kproxy.system.sockets import Keepalive
from kproxy.system.supervisor import NOBODY, ServedContext, Serving, Supervisor
from kproxy.system.threads import in_daemon_thread
from kproxy.telemetry.accessline import AccessLog
from kproxy.telemetry.log import Output, configure, hide_secrets
from kproxy.telemetry.logfile import LogFile
from kproxy.telemetry.metrics import Metrics, Tally
from kproxy.upstream.connector import Connector
from kproxy.upstream.dial import Dialer
from kproxy.upstream.health import health_of, is_http2_disabled
from kproxy.upstream.proxies import proxy_for
from kproxy.upstream.table import Upstreams
from kproxy.upstream.upstream import Upstream
from kproxy.web.links import Links
from kproxy.web.overview import Overview
from kproxy.web.probes import Endpoints
from kproxy.web.readiness import Readiness
from kproxy.web.www import Www

if TYPE_CHECKING:
    from kproxy.tls.certificates import Certificates

_log = structlog.get_logger()


def run(
    config: Config,
    *,
    announce: Callable[[str], None],
    settings: Settings | None = None,
    demo: bool = False,
    supervisor: Supervisor = NOBODY,
    log_file: LogFile | None = None,
    until: Callable[[Serving], Awaitable[None]] | None = None,
    name: str | None = None,
) -> int:
    """Serve until a signal ends it, or `until` is done, which then has the signals; returns the exit code.

    `name` is that of the instance, if it has one.
    `announce` is told the bound address once connections are accepted, and `supervisor` after it. `settings`
    is what `config` was made from, and is read again when it changes; without it nothing is. Raises
    ConfigError with every problem found before that, ListenError when the address cannot be had, and
    KeyboardInterrupt when a signal came first.
    """
    if log_file is None:
        output = configure(config.log_format, config.verbosity)
    else:
        output = configure(
            config.log_format, config.verbosity, make_room=log_file.make_room, place=log_file.place
        )
    with _closing(new_loop()) as loop:
        try:
            return loop.run_until_complete(
                _serve(config, settings, announce, output, loop, demo, supervisor, until, name)
            )
        except _EndedBeforeServingError:
            raise KeyboardInterrupt from None
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())


@contextlib.contextmanager
def _closing(loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.AbstractEventLoop]:
    try:
        yield loop
    finally:
        # Connections in a TLS handshake are known to the loop alone, which warns before it closes each: as an
        # error the warning would leave it open, and the loop wait for it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            loop.close()


async def _serve(
    config: Config,
    settings: Settings | None,
    announce: Callable[[str], None],
    output: Output,
    loop: asyncio.AbstractEventLoop,
    demo: bool,
    supervisor: Supervisor,
    until: Callable[[Serving], Awaitable[None]] | None,
    name: str | None,
) -> int:
    stopping = Stopping(loop)
    async with contextlib.AsyncExitStack() as owned:
        owned.callback(stopping.close)
        owned.callback(supervisor.close)
        if demo:
            # Imported here: only the demo needs aiohttp and cryptography at start.
            from kproxy.demo import DemoCluster

            cluster = await owned.enter_async_context(DemoCluster())
            config = replace(config, kubeconfig=str(cluster.kubeconfig_path))
        plan = await _prepared(config, stopping)
        access_log = AccessLog(output, loop)
        metrics = Metrics(access_log.write)

        def opener(config: Config, clusters: Clusters) -> OpenUpstream:
            return lambda context: open_upstream(
                context,
                config,
                loop,
                plugin_policy=clusters.plugin_policy,
                kubeconfig_paths=clusters.kubeconfig.paths,
                tally=metrics.tally(context.name),
            )

        open_one = opener(config, plan.clusters)
        upstreams = Upstreams(open_one, plan.contexts, loop, idle_seconds=config.context_idle_seconds)
        owned.push_async_callback(upstreams.close)
        descriptors = Descriptors()
        relay = Relay(loop, descriptors.make_room)
        listeners: list[Listener] = []
        endpoints = open_endpoints(
            config, metrics, upstreams, relay, loop, lambda: listeners, lambda: access_log.dropped, name
        )
        owned.push_async_callback(endpoints.close)
        router = open_router(config, plan.policy, upstreams, relay, endpoints, loop)
        owned.callback(access_log.close)
        certificates = open_certificates(config)
        listeners += open_listeners(config, certificates, router, metrics, descriptors, owned)
        if certificates is not None:
            await owned.enter_async_context(certificates)
        governed = Governed(
            router=router, upstreams=upstreams, output=output, opener=opener, counts=metrics.reloads
        )
        reloading = Reloading(config, plan, settings, governed, loop, stopping.ask, supervisor)
        if config.reload:
            # Before we say that we serve: until it is handled, a SIGHUP ends the process.
            await owned.enter_async_context(reloading)
        for listener in listeners:
            await listener.start(loop)
        for listener in listeners:
            announce(listener.name)
        serving = _serving(listeners, config, plan)
        supervisor.serving(serving)
        _log.info("server.started", **_places(listeners), version=__version__, **facts_of_all(upstreams))
        upstreams.default.warn_if_ending()
        _warn(config, plan, settings, listeners)
        if plan.contexts.others:
            looking = loop.create_task(_look_at_others(plan.contexts, upstreams, open_one, config))
            owned.push_async_callback(_cancel, looking)
        if config.www:
            # After the start and before the first page: the import would hold up every stream for 0.2 s.
            import_module("kproxy.web.static")
        # What exists now stays: without this every full collection would walk all modules again.
        gc.collect()
        gc.freeze()
        if until is None:
            await stopping.first.wait()
        elif not stopping.first.is_set():
            await until(serving)
        config = reloading.config
        supervisor.stopping(config.shutdown_delay_seconds + config.grace_period_seconds)
        _log.info("server.draining", grace_period_seconds=config.grace_period_seconds)
        await endpoints.drain()
        if until is None:
            await stopping.wait_for_second(config.shutdown_delay_seconds)
        await drain(listeners, relay, stopping, config.grace_period_seconds)
    _log.info("server.stopped")
    return 0


async def _prepared(config: Config, stopping: Stopping) -> Plan:
    """`prepare`, which reads files that may hang, as in a network home: signals count meanwhile."""
    reading = asyncio.ensure_future(in_daemon_thread(lambda: prepare(config)))
    asked = asyncio.ensure_future(stopping.first.wait())
    try:
        await asyncio.wait((reading, asked), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise _EndedBeforeServingError
        return reading.result()
    finally:
        for each in (reading, asked):
            each.cancel()
        await asyncio.gather(reading, asked, return_exceptions=True)


def _serving(listeners: Sequence[Listener], config: Config, plan: Plan) -> Serving:
    def entry(each: Served) -> ServedContext:
        context = plan.clusters.kubeconfig.contexts.get(each.name)
        return ServedContext(
            name=each.name,
            path=path_of(each.slug, is_default=each.is_default, api_prefix=config.api_prefix),
            namespace=config.namespace or (context.namespace if context else None),
        )

    return Serving(
        addresses=tuple(listener.name for listener in listeners),
        urls=tuple(listener.url for listener in listeners),
        context=plan.context.name,
        server=hide_secrets(plan.context.cluster.server),
        contexts=tuple(entry(each) for each in plan.contexts.served),
    )


def open_upstream(
    context: ResolvedContext,
    config: Config,
    loop: asyncio.AbstractEventLoop,
    *,
    plugin_policy: PluginPolicy = ALLOW_ALL,
    kubeconfig_paths: tuple[Path, ...] = (),
    tally: Tally | None = None,
) -> Upstream:
    """`kubeconfig_paths` are locked while a renewed OIDC token is written to one of them.

    Raises KubeconfigError when a certificate, key or credential at hand cannot be used.
    """
    tally = tally or Tally()
    address = server_address(context.cluster.server)
    proxy = proxy_for(address, context.cluster.proxy_url, os.environ, cluster=context.cluster.name)
    keepalive = Keepalive()
    if config.keepalive_seconds:
        keepalive = replace(keepalive, idle_seconds=max(1, round(config.keepalive_seconds)))
    source = open_source(
        context,
        exec_timeout_seconds=config.exec_timeout_seconds,
        exec_path=tuple(filter(None, (config.exec_path or "").split(os.pathsep))),
        plugin_policy=plugin_policy,
        oidc_write_back=config.oidc_write_back,
        kubeconfig_paths=kubeconfig_paths,
        proxy_for_url=_environment_proxy,
    )
    dialer = Dialer(
        context.name, address.host, address.port, proxy, cluster=context.cluster.name, keepalive=keepalive
    )
    connector = Connector(
        context,
        address,
        dialer,
        loop,
        offers_http2=config.http2 and not is_http2_disabled(os.environ),
        health=health_of(os.environ)[0],
        tally=tally,
    )
    return Upstream(
        context,
        address,
        source,
        connector,
        loop,
        appends_server_path=config.append_server_path,
        cuts_on_rotation=config.rotate_close,
        tally=tally,
    )


def _environment_proxy(url: str) -> str | None:
    """The proxy for an OIDC issuer, which a cluster's proxy-url does not count for (client-go oidc.go)."""
    proxy = proxy_for(server_address(url), None, os.environ)
    return None if proxy is None else proxy.url()


def open_endpoints(
    config: Config,
    metrics: Metrics,
    upstreams: Upstreams,
    relay: Relay,
    loop: asyncio.AbstractEventLoop,
    listeners: Callable[[], Sequence[Listener]] = lambda: (),
    log_lines_dropped: Callable[[], int] = lambda: 0,
    name: str | None = None,
) -> Endpoints:
    """What answers below `/-/`."""
    overview = Overview(
        metrics=metrics,
        upstreams=upstreams,
        relay=relay,
        listeners=listeners,
        log_lines_dropped=log_lines_dropped,
        name=name,
    )
    return Endpoints(
        admin=config.admin,
        overview=overview,
        upstreams=upstreams,
        readiness=Readiness(relay, loop),
        loop=loop,
    )


def open_router(
    config: Config,
    policy: Policy,
    upstreams: Upstreams,
    relay: Relay,
    endpoints: Endpoints,
    loop: asyncio.AbstractEventLoop,
) -> Router:
    """What finds out who answers a request, as the settings have it."""
    www = None
    if config.www:
        www = Www(config.www, config.www_prefix, follow_symlinks=config.www_follow_symlinks, loop=loop)
    return Router(
        policy=policy,
        prefixes=Prefixes(api=config.api_prefix, www=config.www_prefix if config.www else None),
        upstreams=upstreams,
        api=relay,
        own=endpoints,
        www=www,
        links=Links(),
    )


def open_certificates(config: Config) -> Certificates | None:
    """What TLS listeners show; None where there are none."""
    if not any(each.has_tls for each in config.listener_configs()):
        return None
    # Imported here: as in plan.py.
    from kproxy.tls.certificates import Certificates
    from kproxy.tls.selfsigned import SelfSigned, folder_of

    return Certificates(SelfSigned(folder_of(os.environ)), is_watching=config.reload)


def open_listeners(
    config: Config,
    certificates: Certificates | None,
    router: Router,
    metrics: Metrics,
    descriptors: Descriptors,
    owned: contextlib.AsyncExitStack,
) -> tuple[Listener, ...]:
    """All sockets bound, or none: `owned` closes them again. Raises ConfigError or KproxyError."""
    opened = []
    for each in config.listener_configs():
        for bound in bind(each, is_exposed_allowed=config.unsafe_listen):
            owned.callback(bound.socket.close)
            tls = None
            if certificates is not None and bound.names and each.has_tls:
                tls = certificates.open(each.tls_paths, bound.names)
            listener = Listener(
                bound.socket, router.dispatch, metrics.note, file=bound.file, tls=tls, descriptors=descriptors
            )
            owned.callback(listener.stop_accepting)
            opened.append(listener)
    return tuple(opened)


def _places(listeners: Sequence[Listener]) -> dict[str, object]:
    first, *others = (listener.name for listener in listeners)
    return {"address": first, "also": others} if others else {"address": first}


def _warn(config: Config, plan: Plan, settings: Settings | None, listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        if not listener.is_local:
            _log.warning("listener.exposed", address=listener.name, tls=listener.is_tls)
    for warning in (
        *questions(config, plan, settings),
        *questions_of_the_place(config, os.environ),
    ):
        _log.warning("config.questioned", detail=warning)


async def _look_at_others(
    contexts: Contexts, upstreams: Upstreams, open_one: OpenUpstream, config: Config
) -> None:
    """Warn of what is wrong or dangerous with contexts that are not opened yet, while others are served."""
    for context in contexts.others.values():
        if isinstance(context, KubeconfigError):
            continue  # told already
        try:
            # Files may be on a network home that hangs, and the system's authorities take their time.
            upstream = await in_daemon_thread(partial(open_one, context))
        except ConfigError as error:
            upstreams.note_failure(context, error)
            continue
        await upstream.close()
        for warning in warnings_for(context, append_server_path=config.append_server_path):
            _log.warning("config.questioned", detail=warning)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class _EndedBeforeServingError(Exception):
    """A signal came while there was nothing yet to end in order."""

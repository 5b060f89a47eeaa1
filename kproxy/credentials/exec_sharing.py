"""One run of an exec plugin for all who would run it in the same way: contexts side by side, and a context
before and after a reload.

As in client-go (exec.go, globalCache), what decides is the plugin and, if it is told of the cluster, the
cluster. Unlike there a 401 is each context's own: what one API server refuses goes on to be good for another.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from weakref import WeakValueDictionary

from kproxy.credentials.credential import Content, Credential, place
from kproxy.credentials.exec_plugin import ExecPlugin, PluginError
from kproxy.credentials.expiry import schedule
from kproxy.errors import ExecPluginError, spelt_out
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.kuberc import PluginPolicy


class PluginIssuer:
    """The issuer of one context."""

    gives_certificates = True

    def __init__(self, shared: SharedPlugin, name: str, where: str) -> None:
        self.name = name
        self._shared = shared
        self._where = where

    @property
    def last_words(self) -> str:
        return self._shared.last_words

    async def issue(self, avoid: Collection[Content]) -> Credential:
        """Raises ExecPluginError. The plugin cannot be told what to `avoid`: the protocol has no field."""
        try:
            return await self._shared.credential(avoid)
        except PluginError as error:
            raise ExecPluginError(f"{self._where}: getting credentials: {error}") from None


# Who asks for a plugin gets the one in use that is run in the same way.
_plugins: WeakValueDictionary[tuple[object, ...], SharedPlugin] = WeakValueDictionary()


def open_plugin(
    context: ResolvedContext,
    *,
    timeout_seconds: float,
    extra_path: tuple[str, ...],
    policy: PluginPolicy,
    environ: Mapping[str, str],
    clock: Callable[[], float],
) -> PluginIssuer:
    """The issuer for the context's user, who has an exec plugin."""
    config = context.user.exec
    if config is None:
        raise ValueError("the user has no exec plugin")
    cluster = context.cluster if config.provide_cluster_info else None
    told = None
    if cluster is not None:
        # What a cluster is called is not told; any JSON may be in its extension.
        extension = json.dumps(cluster.exec_config, sort_keys=True)
        told = (replace(cluster, name="", exec_config=None), extension)
    key = (config, told, timeout_seconds, extra_path, policy, id(environ), clock)
    shared = _plugins.get(key)
    if shared is None:
        plugin = ExecPlugin(
            config,
            cluster,
            timeout_seconds=timeout_seconds,
            extra_path=extra_path,
            policy=policy,
            environ=environ,
            clock=clock,
        )
        shared = _plugins[key] = SharedPlugin(plugin, clock)
    where = f'{place(context)}: exec plugin "{config.command}"'
    return PluginIssuer(shared, spelt_out(os.path.basename(config.command)), where)


class SharedPlugin:
    """Owns the run under way, and what the last one gave."""

    def __init__(self, plugin: ExecPlugin, clock: Callable[[], float]) -> None:
        self._plugin = plugin
        self._clock = clock
        self._last: Credential | None = None
        self._refresh_at = float("-inf")
        self._run: _Run | None = None

    @property
    def last_words(self) -> str:
        return self._plugin.last_words

    async def credential(self, avoid: Collection[Content]) -> Credential:
        """One that is not near its end: the last, or that of a run. Raises PluginError."""
        before = self._run
        while True:
            last = self._last
            if last is not None and self._clock() < self._refresh_at and last.content not in avoid:
                return last
            run = self._run
            if run is None or run.task.done():
                run = self._run = _Run(asyncio.get_running_loop().create_task(self._run_once()))
            fresh = await run.outcome()
            # One that began before may give just what has been refused since.
            if fresh.content not in avoid or run is not before:
                return fresh

    async def _run_once(self) -> Credential:
        fresh = await self._plugin.run()
        self._last, self._refresh_at = fresh, schedule(self._clock(), fresh.expires_at).refresh_at
        return fresh


class _Run:
    """One run and those who wait for it. It goes on as long as there is one."""

    def __init__(self, task: asyncio.Task[Credential]) -> None:
        self.task = task
        self._waiting = 0

    async def outcome(self) -> Credential:
        self._waiting += 1
        try:
            # Not awaited itself: who is cancelled must not cancel it for the others.
            await asyncio.wait((self.task,))
            return self.task.result()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)

"""What changes while kproxy serves: changed files and SIGHUP, applied whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import structlog

from kproxy.config.schema import Config
from kproxy.config.sources import Settings
from kproxy.errors import ConfigError
from kproxy.gateway.router import Router
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.server.changes import Change, differences, read_change
from kproxy.server.preparation import Clusters, ClustersError, Plan, authority_paths, questions, read_clusters
from kproxy.system.supervisor import NOBODY, Supervisor
from kproxy.system.threads import in_daemon_thread
from kproxy.system.watcher import FileWatcher
from kproxy.telemetry.log import Output, adjust
from kproxy.tls.lifetime import format_timestamp
from kproxy.upstream.table import Upstreams
from kproxy.upstream.upstream import Upstream

_log = structlog.get_logger()

OpenUpstream = Callable[[ResolvedContext], Upstream]


@dataclass(frozen=True, kw_only=True, slots=True)
class Governed:
    """What of a running kproxy takes up changes. Each does so at once and between two requests."""

    router: Router
    upstreams: Upstreams
    output: Output
    opener: Callable[[Config, Clusters], OpenUpstream]
    """How upstreams are opened by these settings."""
    counts: dict[str, int]
    """The reloads that were applied and that failed, kept in metrics."""


class Reloading:
    """Applies changes of the kubeconfig and config files, and SIGHUP: all of a change or nothing of it.

    The two kinds of file do not wait for each other: a broken config file holds up no new kubeconfig, and a
    broken kubeconfig no new filters. Only settings that choose from the kubeconfig must fit it.

    A SIGHUP that comes because the terminal was closed is the end, as for every program in a terminal;
    `nohup` turns that off.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        settings: Settings | None,
        governed: Governed,
        loop: asyncio.AbstractEventLoop,
        end: Callable[[], None],
        supervisor: Supervisor = NOBODY,
    ) -> None:
        """`settings` is what `config` was made from: where these differ, `config` stays as it is."""
        self.config = config
        """What is in force."""
        self._settings = settings
        self._pinned = differences(settings.config, config) if settings is not None else {}
        self._governed = governed
        self._clusters = plan.clusters
        self._policy = plan.policy
        self._asked = tuple(questions(config, plan, settings))
        self._end = end
        self._supervisor = supervisor
        self._ends_with_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._loop = loop
        seen = {**plan.clusters.seen, **(settings.file.seen if settings and settings.file else {})}
        self._watcher = FileWatcher(self._watched_paths, self._begin, since=seen)
        self._task: asyncio.Task[None] | None = None
        self._is_due = False
        self._told: dict[str, object] = {}
        """By event: what was last told of that is still so."""
        self._awaited: dict[str, tuple[Path, ...]] = {}
        """By event: the files that may mend what was told of."""

    async def __aenter__(self) -> None:
        await self._watcher.start()
        self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    async def __aexit__(self, *_: object) -> None:
        # The end is under way: without a handler it would be a crash.
        self._loop.add_signal_handler(signal.SIGHUP, self._end)
        await self._watcher.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _watched_paths(self) -> tuple[Path, ...]:
        authorities = authority_paths(upstream.context for upstream in self._governed.upstreams.opened())
        file = self._settings.file if self._settings is not None and self._settings.read_again else None
        own = (file.path,) if file is not None else ()
        awaited = chain.from_iterable(self._awaited.values())
        return tuple(dict.fromkeys((*own, *self._clusters.paths, *authorities, *awaited)))

    def _hung_up(self) -> None:
        if self._ends_with_terminal and not _has_terminal():
            self._end()
        else:
            self._begin()

    def _begin(self) -> None:
        self._is_due = True
        if self._task is None:
            self._task = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        self._supervisor.reloading()
        try:
            while self._is_due:
                self._is_due = False
                await self._apply()
        finally:
            self._task = None
            self._supervisor.reloaded()

    async def _apply(self) -> None:
        change = await self._look_for_change()
        if change is not None and not change.touches("contexts", "connections"):
            self._take_up(change)
            change = None
        if change is None or not await self._apply_clusters(change):
            await self._apply_clusters(None)
        self._question()

    async def _look_for_change(self) -> Change | None:
        """What the config file says now; None where it says nothing, or nothing that can be used."""
        settings = self._settings
        if settings is None or settings.read_again is None:
            return None
        try:
            return await in_daemon_thread(lambda: read_change(settings, self.config, self._pinned))
        except ConfigError as error:
            self._refuse_change(error)
            return None

    async def _apply_clusters(self, change: Change | None) -> bool:
        """Serve what kubeconfig and kuberc say by now, by the changed settings if there are any.

        False when that cannot be; then nothing has changed.
        """
        governed = self._governed
        config = self.config if change is None else change.config
        # A context that is gone from the kubeconfig is one thing, a name that was never in it another.
        may_lack = config.contexts == self.config.contexts
        named: tuple[Path, ...] = ()
        try:
            # A network home may hang, and a large kubeconfig takes its time: the streams go on meanwhile.
            clusters = await in_daemon_thread(lambda: read_clusters(config, may_lack=may_lack))
            named = (*clusters.paths, *clusters.named)
            is_changed = governed.upstreams.apply(
                clusters.contexts,
                open_upstream=self._opener(config, clusters, change),
                idle_seconds=config.context_idle_seconds,
            )
        except ConfigError as error:
            awaited = error.paths if isinstance(error, ClustersError) else named
            if change is not None:
                self._refuse_change(error, awaited)
            else:
                self._refuse_clusters(error, awaited)
            return False
        self._clusters = clusters
        if change is not None:
            self._take_up(change)
        is_mended = self._is_mended("kubeconfig.reload_failed")
        self._awaited["context.unusable"] = named if governed.upstreams.is_behind else ()
        if is_changed or is_mended:
            governed.counts["applied"] += change is None
            _log.info("kubeconfig.reloaded", **facts_of_all(governed.upstreams))
            governed.upstreams.default.warn_if_ending()
        return True

    def _opener(self, config: Config, clusters: Clusters, change: Change | None) -> OpenUpstream | None:
        """Another way to open upstreams, None where the one in use will do."""
        is_known = (clusters.plugin_policy, clusters.kubeconfig.paths) == (
            self._clusters.plugin_policy,
            self._clusters.kubeconfig.paths,
        )
        if is_known and (change is None or not change.touches("connections")):
            return None
        return self._governed.opener(config, clusters)

    def _take_up(self, change: Change) -> None:
        """Without a pause, so that no request meets one half of a change."""
        self.config = change.config
        self._policy = change.policy
        self._settings = change.settings
        if change.touches("filters"):
            self._governed.router.apply(change.policy)
        if change.touches("log"):
            adjust(self._governed.output, change.config.log_format, change.config.verbosity)
        is_mended = self._is_mended("config.reload_failed")
        if change.applied or is_mended:
            self._governed.counts["applied"] += 1
            _log.info("config.reloaded", keys=[option.name for option in change.applied])
        if self._is_news("config.restart_needed", change.left) and change.left:
            _log.warning("config.restart_needed", keys=[*change.left])

    def _refuse_change(self, error: ConfigError, awaited: tuple[Path, ...] = ()) -> None:
        self._awaited["config.reload_failed"] = awaited
        if self._is_news("config.reload_failed", error.problems):
            self._governed.counts["failed"] += 1
            _log.error("config.reload_failed", problems=error.problems)

    def _refuse_clusters(self, error: ConfigError, awaited: tuple[Path, ...]) -> None:
        self._awaited["kubeconfig.reload_failed"] = awaited
        if self._is_news("kubeconfig.reload_failed", error.problems):
            self._governed.counts["failed"] += 1
            known = facts(self._governed.upstreams.default)
            _log.error("kubeconfig.reload_failed", problems=error.problems, **known)

    def _question(self) -> None:
        """Warn of what has become dangerous."""
        plan = Plan(policy=self._policy, clusters=self._clusters)
        asked = tuple(questions(self.config, plan, self._settings))
        for question in asked:
            if question not in self._asked:
                _log.warning("config.questioned", detail=question)
        self._asked = asked

    def _is_mended(self, event: str) -> bool:
        self._awaited.pop(event, None)
        return self._told.pop(event, None) is not None

    def _is_news(self, event: str, what: object) -> bool:
        if self._told.get(event) == what:
            return False
        self._told[event] = what
        return True


def facts_of_all(upstreams: Upstreams) -> dict[str, object]:
    """The facts of the default context, and which contexts are served beside it."""
    names = [served.name for served in upstreams.served]
    return {**facts(upstreams.default), **({"contexts": names} if upstreams.table.has_paths else {})}


def facts(upstream: Upstream) -> dict[str, object]:
    """Which cluster is served with which credential; one that is fetched on demand has no end yet."""
    credential = upstream.current_credential()
    facts: dict[str, object] = {
        "context": upstream.name,
        "server": upstream.context.cluster.server,
        "credential": upstream.credential_kind(credential),
    }
    if credential is not None and credential.expires_at is not None:
        facts["expires_at"] = format_timestamp(credential.expires_at)
    return facts


def _has_terminal() -> bool:
    """Whether there is a controlling terminal, and it is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True

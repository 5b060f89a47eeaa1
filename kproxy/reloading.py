"""What changes while kproxy serves: changed files and SIGHUP, applied whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import structlog

from kproxy.config import Config
from kproxy.credentials.expiry import format_timestamp
from kproxy.errors import ConfigError
from kproxy.plan import Plan, authority_paths, read_kubeconfig
from kproxy.reload import FileWatcher, in_daemon_thread
from kproxy.supervisor import NOBODY, Supervisor
from kproxy.upstream.upstream import Upstream
from kproxy.upstream.upstreams import Upstreams

_log = structlog.get_logger()


class Reloading:
    """Applies changes of the kubeconfig files, and SIGHUP: all of a change or nothing of it.

    A SIGHUP that comes because the terminal was closed is the end, as for every program in a terminal;
    `nohup` turns that off.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        upstreams: Upstreams,
        loop: asyncio.AbstractEventLoop,
        end: Callable[[], None],
        supervisor: Supervisor = NOBODY,
        counts: dict[str, int] | None = None,
    ) -> None:
        """`counts` are the reloads that were applied and that failed, kept in metrics."""
        self._config = config
        self._end = end
        self._supervisor = supervisor
        self._counts = counts if counts is not None else {"applied": 0, "failed": 0}
        self._ends_with_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._upstreams = upstreams
        self._loop = loop
        self._paths = plan.kubeconfig.paths
        self._watcher = FileWatcher(self._watched_paths, self._begin, since=plan.seen)
        self._task: asyncio.Task[None] | None = None
        self._is_due = False
        self._said: tuple[str, ...] = ()

    async def __aenter__(self) -> None:
        await self._watcher.start()
        self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    async def __aexit__(self, *_: object) -> None:
        self._loop.remove_signal_handler(signal.SIGHUP)
        await self._watcher.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _watched_paths(self) -> tuple[Path, ...]:
        opened = [authority_paths(upstream.context) for upstream in self._upstreams.opened()]
        return tuple(dict.fromkeys(chain(self._paths, *opened)))

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
        try:
            # A network home may hang, and a large kubeconfig takes its time: the streams go on meanwhile.
            kubeconfig, contexts, _ = await in_daemon_thread(
                lambda: read_kubeconfig(self._config, is_reload=True)
            )
            is_changed = self._upstreams.apply(contexts)
        except ConfigError as error:
            self._counts["failed"] += 1
            if error.problems != self._said:
                self._said = error.problems
                _log.error(
                    "kubeconfig.reload_failed", problems=error.problems, **facts(self._upstreams.default)
                )
            return
        self._paths = kubeconfig.paths
        is_mended = bool(self._said)
        self._said = ()
        if is_changed or is_mended:
            self._counts["applied"] += 1
            _log.info("kubeconfig.reloaded", **facts_of_all(self._upstreams))
            self._upstreams.default.warn_if_ending()


def facts_of_all(upstreams: Upstreams) -> dict[str, object]:
    """The facts of the default context, and which contexts are served beside it."""
    names = [served.name for served in upstreams.served]
    return {**facts(upstreams.default), **({"contexts": names} if upstreams.table.has_paths else {})}


def facts(upstream: Upstream) -> dict[str, object]:
    """Which cluster is served with which credential; one that is fetched on demand has no end yet."""
    credential = upstream.current_credential()
    user = upstream.context.user
    facts: dict[str, object] = {"context": upstream.name, "server": upstream.context.cluster.server}
    if credential is not None:
        facts["credential"] = credential.kind
        if credential.expires_at is not None:
            facts["expires_at"] = format_timestamp(credential.expires_at)
    else:
        facts["credential"] = "exec" if user.exec else "oidc" if user.auth_provider else "unreadable"
    return facts


def _has_terminal() -> bool:
    """Whether there is a controlling terminal, and it is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True

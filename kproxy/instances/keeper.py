"""What is to be started as an instance, and the record that is kept of it while it runs."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kproxy import __version__
from kproxy.config.kinds import FOLDERS, OptionalFile
from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import Settings
from kproxy.instances.instance import (
    SERVING,
    STARTING,
    STOPPING,
    InstanceError,
    InstanceFolder,
    Record,
    process_start,
)
from kproxy.system.supervisor import Serving, Supervisor
from kproxy.telemetry.logfile import LogFile

Run = Callable[[Settings, Supervisor, LogFile | None, str], int]
"""Serves as the instance of that name until it is told to end, and returns the exit code."""


_KUBECTL_VARIABLES = {"KUBECONFIG": FOLDERS, "KUBERC": OptionalFile("FILE")}


def settings_in(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """The variables that say what is served, with paths made absolute from `folder`, and without secrets."""
    known = _KUBECTL_VARIABLES | {each.variable: each.kind for each in OPTIONS if not each.secret}
    for name, kind in known.items():
        if name in environ:
            yield name, kind.absolute(environ[name], folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be started."""

    name: str
    settings: Settings
    arguments: tuple[str, ...]
    """See `Record`."""
    withheld: tuple[str, ...]
    variables: tuple[str, ...] = ()

    @property
    def config(self) -> Config:
        return self.settings.config

    def record(self, *, is_detached: bool) -> Record:
        return Record(
            name=self.name,
            state=STARTING,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=process_start(os.getpid()),
            started_at=time.time(),
            arguments=self.arguments,
            withheld=self.withheld,
            variables=self.variables,
            folder=os.getcwd(),
            version=__version__,
            ending_seconds=self.config.grace_period_seconds + self.config.shutdown_delay_seconds,
            is_detached=is_detached,
        )


class Keeper:
    """Keeps the record of the instance that this process is, as a supervisor of the server."""

    def __init__(self, folder: InstanceFolder, record: Record, report: Callable[[], None]) -> None:
        """`report` is called once the record says that it serves."""
        self._folder = folder
        self._record = record
        self._report = report

    def serving(self, what: Serving) -> None:
        self._record = replace(
            self._record,
            state=SERVING,
            addresses=what.addresses,
            urls=what.urls,
            context=what.context,
            server=what.server,
        )
        self._folder.write(self._record)
        self._report()

    def reloading(self) -> None:
        """Nothing that a record tells."""

    def reloaded(self) -> None:
        """As before."""

    def stopping(self, seconds: float) -> None:
        # On a full disk it ends all the same.
        with contextlib.suppress(InstanceError):
            self._folder.write(replace(self._record, state=STOPPING, ending_seconds=seconds))

    def close(self) -> None:
        """The record goes once all has ended, which is not yet."""

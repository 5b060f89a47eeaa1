"""What the commands for instances do: start, stop, restart, status, logs, service.

`cli.py` hands in what they share with other commands; only it knows of stdout and stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kproxy.cli import arguments
from kproxy.cli.arguments import CommandLine
from kproxy.config.sources import Settings, as_flags
from kproxy.errors import ConfigError
from kproxy.instances import daemon, service
from kproxy.instances.inquiry import as_json, as_lines, look
from kproxy.instances.instance import (
    DEFAULT_NAME,
    InstanceError,
    InstanceFolder,
    Record,
    naming,
    state_folder,
)
from kproxy.instances.keeper import Launch, Run, settings_in
from kproxy.instances.logtail import log_lines
from kproxy.instances.service import LAUNCHD, SYSTEMD


@dataclass(frozen=True, kw_only=True, slots=True)
class Terminal:
    """Where the answers go."""

    announce: Callable[[str], None]
    """The line that names an address, as kubectl has it."""
    show: Callable[..., None]
    """Lines to stdout."""
    complain: Callable[..., None]
    """Lines to stderr."""
    write: Callable[[bytes], None]
    """Bytes to stdout, at once."""


class Operations:
    """Each method is the command of its name."""

    def __init__(self, terminal: Terminal, settle: Callable[[CommandLine], Settings], run: Run) -> None:
        """`settle` gives the settings of a command line, or raises ConfigError with all problems."""
        self._terminal = terminal
        self._settle = settle
        self._run = run

    def start(self, line: CommandLine) -> int | None:
        """In the foreground the exit code of what was served."""
        launch = self._launch(line)
        with open_instances(create=True) as folder:
            if "foreground" in line.flags:
                code = daemon.serve_in_foreground(launch, folder, self._run)
                if isinstance(code, int):
                    return code
                raise InstanceError(f'instance "{code.name}" is already running (pid {code.pid})')
            seconds = line.flags.get("timeout", daemon.START_SECONDS)
            record, is_new = daemon.start(launch, folder, self._run, timeout_seconds=seconds)
        self._tell(record, launch, is_new=is_new)
        return None

    def stop(self, line: CommandLine) -> None:
        name = name_of(line)
        stopped = None
        with contextlib.suppress(FileNotFoundError), open_instances(create=False) as folder:
            stopped = daemon.stop(name, folder, timeout_seconds=line.flags.get("timeout"))
        if stopped is None:
            self._terminal.complain(f'instance "{name}" is not running')
        else:
            self._terminal.complain(f'instance "{name}" is stopped (it was pid {stopped.pid})')

    def restart(self, line: CommandLine) -> None:
        # Imported here: only a restart looks before it leaps, with an event loop.
        from kproxy.cli.checking import rehearse

        with open_instances(create=True) as folder:
            name = name_of(line)
            record = folder.read(name)
            if record is not None and not record.is_detached and folder.is_locked(name):
                raise InstanceError(
                    f'instance "{name}" runs in the foreground (pid {record.pid}); restart it where it was '
                    "started, as with `systemctl --user restart`"
                )
            if record is not None and not line.given:
                line = _as_before(line, record)
            launch = self._launch(line)
            # What runs is stopped only for something that can be started.
            rehearse(launch.config)
            daemon.stop(name, folder, timeout_seconds=line.flags.get("timeout"))
            record, is_new = daemon.start(launch, folder, self._run)
        self._tell(record, launch, is_new=is_new)

    def status(self, line: CommandLine) -> bool:
        """Whether anything that was asked about runs."""
        standings, logs = [], {}
        with contextlib.suppress(FileNotFoundError), open_instances(create=False) as folder:
            names = [name_of(line)] if "name" in line.flags else folder.names()
            standings = [look(name, folder) for name in names]
            logs = {name: str(folder.log_files(name)[-1]) for name in names}
        if "json" in line.flags:
            self._terminal.show(json.dumps({"instances": [as_json(each) for each in standings]}, indent=2))
        elif not standings:
            self._terminal.show(f"no instance runs (looked in {state_folder(os.environ)})")
        else:
            for standing in standings:
                self._terminal.show(*as_lines(standing, logs[standing.name]))
        return any(each.is_running for each in standings)

    def logs(self, line: CommandLine) -> None:
        count = line.flags.get("tail", 100)
        name = name_of(line)
        try:
            with open_instances(create=False) as folder:
                files, record = folder.log_files(name), folder.read(name)
            if record is not None and not record.is_detached:
                raise InstanceError(
                    f'instance "{name}" writes its log where it was started; see '
                    "`journalctl --user --unit=kproxy*` if that was systemd"
                )
            if "follow" in line.flags and not files[-1].exists():
                self._terminal.complain(f'instance "{name}" has no log yet; this waits for one')
            for piece in log_lines(files, None if count < 0 else count, follow="follow" in line.flags):
                self._terminal.write(piece)
        except FileNotFoundError:
            raise InstanceError(f'instance "{name}" has no log in {state_folder(os.environ)}') from None

    def service(self, line: CommandLine) -> None:
        (action,) = line.words
        manager = _manager(line)
        paths = service.unit_paths(name_of(line), manager, os.environ)
        if action == "uninstall":
            self._uninstall(manager, paths)
            return
        launch = self._launch(line)
        if launch.withheld:
            raise ConfigError(
                f"{', '.join(launch.withheld)}: a secret does not belong into a unit file; "
                "put it into the kubeconfig"
            )
        wanted = service.describe(
            launch.name, launch.config, launch.arguments, os.environ, with_socket="socket" in line.flags
        )
        files = service.unit_files(wanted, manager, os.environ)
        if action == "print":
            for file in files:
                self._terminal.show(
                    *([f"# {file.path}"] if len(files) > 1 else []), file.content.rstrip("\n")
                )
            return
        service.install(files, paths)
        self._terminal.show(*(f"wrote {file.path}" for file in files))
        for variable in service.left_out(os.environ):
            self._terminal.complain(f"{variable} is not written there: it is a secret")
        if manager == LAUNCHD:
            self._terminal.show(f"start it with: launchctl bootstrap gui/{os.getuid()} {files[0].path}")
            return
        if (problem := service.tell_systemd("daemon-reload")) is not None:
            self._terminal.complain(
                f"systemd does not know of it yet ({problem}); run: systemctl --user daemon-reload"
            )
        # The socket, where there is one: it starts the service.
        self._terminal.show(
            f"start it, now and with each session: systemctl --user enable --now {files[-1].path.name}"
        )

    def _launch(self, line: CommandLine) -> Launch:
        settings = self._settle(line)
        flags, withheld = as_flags(line.given, Path.cwd())
        return Launch(
            name=name_of(line),
            settings=settings,
            arguments=flags,
            withheld=withheld,
            variables=tuple(map("=".join, settings_in(os.environ, Path.cwd()))),
        )

    def _tell(self, record: Record, launch: Launch, *, is_new: bool) -> None:
        """Where it serves. One that ran before is fine, too, if it is what was asked for."""
        which = f'instance "{record.name}" is already running (pid {record.pid})'
        options = "".join(f" {flag}" for flag in naming(record.name))
        if is_new:
            which = f"kproxy{options} runs in the background (pid {record.pid}); see `kproxy status{options}`"
        elif record.withheld or launch.withheld:
            flags = ", ".join(sorted({*record.withheld, *launch.withheld}))
            raise InstanceError(
                f"{which}; {flags} is not kept, so it may be another; use `kproxy restart` or --name"
            )
        elif (record.variables, record.arguments) != (launch.variables, launch.arguments):
            shown = shlex.join((*record.variables, *record.arguments)) or "no flags"
            raise InstanceError(
                f"{which} with other settings ({shown}); use `kproxy restart` or another --name"
            )
        for address in record.addresses:
            self._terminal.announce(address)
        self._terminal.complain(which)

    def _uninstall(self, manager: str, paths: Sequence[Path]) -> None:
        present = [path for path in paths if os.path.lexists(path)]
        if not present:
            self._terminal.show(f"nothing is installed: there is no {paths[0]}")
            return
        service.check_replaceable(present)
        problem = None
        if manager == SYSTEMD:
            # Before the files go: systemd forgets what it cannot read.
            problem = service.tell_systemd("disable", "--now", *(path.name for path in present))
        service.uninstall(present)
        self._terminal.show(*(f"removed {path}" for path in present))
        if manager == LAUNCHD:
            self._terminal.show(f"end it, if it runs: launchctl bootout gui/{os.getuid()}/{present[0].stem}")
        elif problem is None:
            problem = service.tell_systemd("daemon-reload")
        if problem is not None:
            names = " ".join(path.name for path in present)
            self._terminal.complain(
                f"systemd was not told ({problem}); if it runs: systemctl --user stop {names}"
            )


def name_of(line: CommandLine) -> str:
    """Which instance is meant."""
    return str(line.flags.get("name", DEFAULT_NAME))


def open_instances(*, create: bool) -> InstanceFolder:
    """The folder of instances. Raises InstanceError, or FileNotFoundError when there never was one."""
    return InstanceFolder(state_folder(os.environ), create=create)


def _as_before(line: CommandLine, record: Record) -> CommandLine:
    """The command line with the settings that the instance was started with, in the folder it started in."""
    if record.withheld:
        raise ConfigError(
            f'instance "{record.name}" was started with {", ".join(record.withheld)}, which is not kept; '
            "give all its flags once more"
        )
    try:
        os.chdir(record.folder)
    except OSError as error:
        raise InstanceError(
            f"{record.folder}, where it was started, cannot be entered ({error.strerror}); "
            "give its flags once more"
        ) from None
    before = arguments.parse([line.command.name, *record.arguments])
    before.flags = line.flags
    before.problems += line.problems
    return before


def _manager(line: CommandLine) -> str:
    asked = [each for each in (SYSTEMD, LAUNCHD) if each in line.flags]
    if len(asked) > 1:
        raise ConfigError("--systemd and --launchd: only one of them")
    manager = asked[0] if asked else LAUNCHD if sys.platform == "darwin" else SYSTEMD
    if manager == LAUNCHD and "socket" in line.flags:
        raise ConfigError("--socket is for systemd only")
    return manager

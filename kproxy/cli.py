"""The command line: what was asked, done or refused, and the exit code that says so.

Exit codes: 0 fine, 1 a failure while running, 2 wrong usage or configuration. Only `Starting to serve on
ADDRESS` and what a sub-command was asked to show go to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kproxy import __version__, arguments
from kproxy.arguments import CommandLine
from kproxy.commands import COMMANDS
from kproxy.config import LISTEN, Config
from kproxy.errors import ConfigError, KproxyError
from kproxy.instance import DEFAULT_NAME, InstanceError, InstanceFolder, Record, state_folder
from kproxy.listening import ListenerConfig
from kproxy.options import nearest
from kproxy.settings import Settings, read

if TYPE_CHECKING:
    from kproxy.daemon import Launch
    from kproxy.logfile import LogFile
    from kproxy.supervisor import Supervisor

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_NOT_RUNNING = 3
"""The instance that was asked about does not run, in the words of the Linux Standard Base."""
EXIT_CANNOT_RUN, EXIT_NOT_FOUND = 126, 127
"""Of the command of `kproxy run`, as shells, env(1) and nohup(1) tell it."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell tells it; once kproxy serves, Ctrl-C is an orderly end."""


class _UsageError(ConfigError):
    """Problems of the command line or the settings; the help says more."""

    def __init__(self, line: CommandLine, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.title = line.command.title


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit code."""
    try:
        return _run(arguments.parse(sys.argv[1:] if argv is None else argv))
    except _UsageError as error:
        code = _refuse(error.problems)
        _complain(f"See '{error.title} --help'.")
        return code
    except ConfigError as error:
        return _refuse(error.problems)
    except KproxyError as error:
        return _fail(error.message)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `kproxy --help | head -1`: the reader has enough. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        return _fail(str(error))


def _run(line: CommandLine) -> int:
    command = line.command
    if line.problems and not command.takes_settings and command.name != "help":
        raise _UsageError(line, line.problems)
    return _HANDLERS[command.name](line)


def _settings(line: CommandLine) -> tuple[Settings, list[str]]:
    """What is set, and the problems of that and of the command line."""
    settings = read(line.given, os.environ)
    return settings, [*line.problems, *settings.problems]


def _insist(line: CommandLine, problems: list[str], config: Config, *, rehearses: bool = True) -> None:
    """Raises with every problem there is; with those of the kubeconfig, too, if it `rehearses`."""
    if not problems:
        return
    if rehearses:
        # Imported here: as in _run_server.
        from kproxy.checking import rehearse

        # Nobody should mend one thing only to hear of the next.
        try:
            rehearse(config)
        except ConfigError as error:
            problems += error.problems
    raise _UsageError(line, problems)


def _help(line: CommandLine) -> int:
    # Imported here: serving needs no help text.
    from kproxy.usage import help_text

    name = line.words[0] if line.words else ""
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        return _refuse([f'unknown command "{name}"' + (f", did you mean {near}?" if near else "")])
    print(help_text(COMMANDS[name]))
    return EXIT_FINE


def _version(line: CommandLine) -> int:
    if "json" not in line.flags:
        print(f"kproxy {__version__}")
        return EXIT_FINE
    python = ".".join(map(str, sys.version_info[:3]))
    print(json.dumps({"version": __version__, "python": python, "platform": sys.platform}))
    return EXIT_FINE


def _serve(line: CommandLine) -> int:
    settings, problems = _settings(line)
    _insist(line, problems, settings.config)
    return _run_server(settings)


def _run_server(
    settings: Settings,
    keeper: Supervisor | None = None,
    log_file: LogFile | None = None,
    *,
    name: str | None = None,
) -> int:
    # Imported here: --help and version need no event loop, which takes a tenth of a second.
    from kproxy.server import run
    from kproxy.supervisor import Supervisors
    from kproxy.systemd import take_notifier, take_passed_sockets

    config = settings.config
    passed = take_passed_sockets(os.environ)
    if passed and all(each.fd is None for each in config.listeners):
        listeners = tuple(ListenerConfig(fd=each.descriptor, label="LISTEN_FDS") for each in passed)
        config = replace(config, listeners=listeners)
    told = (keeper, take_notifier(os.environ))
    return run(
        config,
        settings=settings,
        announce=_announce,
        supervisor=Supervisors(each for each in told if each is not None),
        log_file=log_file,
        name=name,
    )


def _demo(line: CommandLine) -> int:
    settings, problems = _settings(line)
    _insist(line, [*problems, *_demo_conflicts(settings)], settings.config, rehearses=False)
    # Imported here: as in _serve.
    from kproxy.server import run

    return run(settings.config, settings=settings, announce=_announce, demo=True)


def _demo_conflicts(settings: Settings) -> Sequence[str]:
    return [
        f"{name}: the demo brings its own; leave it out ({settings.origins[name]})"
        for name in ("kubeconfig", "context", "cluster", "user", "server")
        if name in settings.origins
    ]


def _run_command(line: CommandLine) -> int:
    # Imported here: only this command needs it, and it forks before there is an event loop.
    from kproxy.run import NotRun, OneCommand, private_config

    is_demo = "demo" in line.flags
    settings, problems = _settings(line)
    config, conflicts = private_config(settings, is_unix="unix" in line.flags)
    problems += [*conflicts, *(_demo_conflicts(settings) if is_demo else ())]
    _insist(line, problems, config, rehearses=not is_demo)
    with OneCommand(line.words) as command:
        from kproxy.server import run

        if "unix" in line.flags:
            config = replace(config, unix_socket=str(command.folder / "kproxy.sock"))
        try:
            run(config, settings=settings, announce=lambda _: None, demo=is_demo, until=command.live)
        except NotRun as error:
            _fail(error.message)
            return EXIT_NOT_FOUND if error.is_missing else EXIT_CANNOT_RUN
    return EXIT_INTERRUPTED if command.exit_code is None else command.exit_code


def _kubeconfig(line: CommandLine) -> int:
    # Imported here: only this command needs it.
    from kproxy.handout import handout, urls_of, write_private

    record = _running(line)
    if record is not None:
        # Its own settings, where the command line has none: the prefix of its API, its kubeconfig.
        line.given[:0] = arguments.parse(["kubeconfig", *record.arguments]).given
    settings, problems = _settings(line)
    _insist(line, problems, settings.config, rehearses=False)
    urls, folder = (record.urls, record.folder) if record else (urls_of(settings.config), os.curdir)
    text = handout(settings.config, urls, folder)
    if "output" in line.flags:
        write_private(Path(line.flags["output"]), text)
    else:
        print(text, end="")
    return EXIT_FINE


def _running(line: CommandLine) -> Record | None:
    """The instance that is meant; None when the settings say where to look."""
    if "name" not in line.flags and any(each.option.group == LISTEN for each in line.given):
        return None
    name = _name(line)
    with contextlib.suppress(FileNotFoundError), _instances(create=False) as folder:
        record = folder.read(name)
        if record is not None and folder.is_locked(name):
            return record
    if "name" in line.flags:
        raise InstanceError(f'instance "{name}" is not running; `kproxy start --name={name}` starts it')
    return None


def _announce(address: str) -> None:
    # Programs wait for this line (minikube, Lens, the tests of Kubernetes): nothing may come before it.
    print(f"Starting to serve on {address}", flush=True)


def _check(line: CommandLine) -> int:
    # Imported here: as in _run_server.
    from kproxy.checking import Rehearsal, document, rehearsal_lines, rehearse, settings_lines

    settings, problems = _settings(line)
    rehearsal = Rehearsal(warnings=settings.warnings)
    try:
        rehearsal = rehearse(settings.config, settings)
    except ConfigError as error:
        problems += error.problems
    if "json" in line.flags:
        print(json.dumps(document(settings, rehearsal, problems), indent=2))
    else:
        print(*settings_lines(settings), *rehearsal_lines(rehearsal), sep="\n")
    sys.stdout.flush()
    return _refuse(problems) if problems else EXIT_FINE


def _refuse(problems: Sequence[str]) -> int:
    if len(problems) == 1:
        _complain(f"error: {problems[0]}")
    else:
        _complain(f"error: {len(problems)} problems:", *(f"  {problem}" for problem in problems))
    return EXIT_USAGE


def _fail(message: str) -> int:
    _complain(f"error: {message}")
    return EXIT_FAILED


def _complain(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


# -- instances --


def _start(line: CommandLine) -> int:
    # Imported here: as in _run_server.
    from kproxy import daemon

    launch = _launch(line)
    with _instances(create=True) as folder:
        if "foreground" in line.flags:
            code = daemon.serve_in_foreground(launch, folder, partial(_run_server, name=launch.name))
            if isinstance(code, int):
                return code
            return _fail(f'instance "{code.name}" is already running (pid {code.pid})')
        timeout_seconds = line.flags.get("timeout", daemon.START_SECONDS)
        record, is_new = _start_daemon(launch, folder, timeout_seconds)
        return _tell_started(record) if is_new else _tell_of_another(record, launch)


def _start_daemon(launch: Launch, folder: InstanceFolder, timeout_seconds: float) -> tuple[Record, bool]:
    from kproxy.daemon import start

    return start(launch, folder, partial(_run_server, name=launch.name), timeout_seconds=timeout_seconds)


def _launch(line: CommandLine) -> Launch:
    from kproxy.daemon import Launch
    from kproxy.settings import as_flags

    settings, problems = _settings(line)
    _insist(line, problems, settings.config)
    arguments, withheld = as_flags(line.given, Path.cwd())
    return Launch(name=_name(line), settings=settings, arguments=arguments, withheld=withheld)


def _name(line: CommandLine) -> str:
    return str(line.flags.get("name", DEFAULT_NAME))


def _instances(*, create: bool) -> InstanceFolder:
    """The folder of instances. Raises InstanceError, or FileNotFoundError when there never was one."""
    return InstanceFolder(state_folder(os.environ), create=create)


def _tell_started(record: Record) -> int:
    for address in record.addresses:
        _announce(address)
    options = "" if record.name == DEFAULT_NAME else f" --name={record.name}"
    _complain(f"kproxy{options} runs in the background (pid {record.pid}); see `kproxy status{options}`")
    return EXIT_FINE


def _tell_of_another(record: Record, launch: Launch) -> int:
    """It runs already: fine if it is what was asked for."""
    which = f'instance "{record.name}" is already running (pid {record.pid})'
    if record.withheld or launch.withheld:
        flags = ", ".join(sorted({*record.withheld, *launch.withheld}))
        return _fail(f"{which}; {flags} is not kept, so it may be another; use `kproxy restart` or --name")
    if record.arguments != launch.arguments:
        shown = " ".join(record.arguments) or "no flags"
        return _fail(f"{which} with other settings ({shown}); use `kproxy restart` or another --name")
    for address in record.addresses:
        _announce(address)
    _complain(which)
    return EXIT_FINE


def _stop(line: CommandLine) -> int:
    from kproxy import daemon

    name = _name(line)
    stopped = None
    with contextlib.suppress(FileNotFoundError), _instances(create=False) as folder:
        stopped = daemon.stop(name, folder, timeout_seconds=line.flags.get("timeout"))
    if stopped is None:
        _complain(f'instance "{name}" is not running')
    else:
        _complain(f'instance "{name}" is stopped (it was pid {stopped.pid})')
    return EXIT_FINE


def _restart(line: CommandLine) -> int:
    from kproxy import daemon
    from kproxy.checking import rehearse

    with _instances(create=True) as folder:
        name = _name(line)
        record = folder.read(name)
        if record is not None and not record.is_detached and folder.is_locked(name):
            raise InstanceError(
                f'instance "{name}" runs in the foreground (pid {record.pid}); restart it where it was '
                "started, as with `systemctl --user restart`"
            )
        if record is not None and not line.given:
            line = _as_before(line, record)
        launch = _launch(line)
        # What runs is stopped only for something that can be started.
        rehearse(launch.config)
        daemon.stop(name, folder, timeout_seconds=line.flags.get("timeout"))
        record, is_new = _start_daemon(launch, folder, daemon.START_SECONDS)
        return _tell_started(record) if is_new else _tell_of_another(record, launch)


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


def _status(line: CommandLine) -> int:
    from kproxy.inquiry import as_json, as_lines, look

    standings, logs = [], {}
    with contextlib.suppress(FileNotFoundError), _instances(create=False) as folder:
        names = [_name(line)] if "name" in line.flags else folder.names()
        standings = [look(name, folder) for name in names]
        logs = {name: str(folder.log_files(name)[-1]) for name in names}
    if "json" in line.flags:
        print(json.dumps({"instances": [as_json(each) for each in standings]}, indent=2))
    elif not standings:
        print(f"no instance runs (looked in {state_folder(os.environ)})")
    else:
        for standing in standings:
            print(*as_lines(standing, logs[standing.name]), sep="\n")
    return EXIT_FINE if any(each.is_running for each in standings) else EXIT_NOT_RUNNING


def _logs(line: CommandLine) -> int:
    from kproxy.logtail import log_lines

    count = line.flags.get("tail", 100)
    is_followed = "follow" in line.flags
    name = _name(line)
    record = None
    try:
        with _instances(create=False) as folder:
            files, record = folder.log_files(name), folder.read(name)
        for piece in log_lines(files, None if count < 0 else count, follow=is_followed):
            sys.stdout.buffer.write(piece)
            if is_followed:
                sys.stdout.buffer.flush()
        sys.stdout.buffer.flush()
    except FileNotFoundError:
        if record is not None and not record.is_detached:
            raise InstanceError(
                f'instance "{name}" writes its log where it was started; see '
                "`journalctl --user --unit=kproxy*` if that was systemd"
            ) from None
        raise InstanceError(f'instance "{name}" has no log in {state_folder(os.environ)}') from None
    return EXIT_FINE


def _service(line: CommandLine) -> int:
    from kproxy import service

    (action,) = line.words
    manager = _manager(line)
    paths = service.unit_paths(_name(line), manager, os.environ)
    if action == "uninstall":
        return _uninstall(_name(line), manager, paths)
    launch = _launch(line)
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
            print(file.content if len(files) == 1 else f"# {file.path}\n{file.content}", end="")
        return EXIT_FINE
    service.install(files, paths)
    print(*(f"wrote {file.path}" for file in files), sep="\n")
    for variable in service.left_out(os.environ):
        _complain(f"{variable} is not written there: it is a secret")
    if manager == service.LAUNCHD:
        print(f"start it with: launchctl bootstrap gui/{os.getuid()} {files[0].path}")
        return EXIT_FINE
    if (problem := service.tell_systemd("daemon-reload")) is not None:
        _complain(f"systemd does not know of it yet ({problem}); run: systemctl --user daemon-reload")
    # The socket, where there is one: it starts the service.
    print(f"start it, now and with each session: systemctl --user enable --now {files[-1].path.name}")
    return EXIT_FINE


def _manager(line: CommandLine) -> str:
    from kproxy.service import LAUNCHD, SYSTEMD

    asked = [each for each in (SYSTEMD, LAUNCHD) if each in line.flags]
    if len(asked) > 1:
        raise _UsageError(line, ["--systemd and --launchd: only one of them"])
    manager = asked[0] if asked else LAUNCHD if sys.platform == "darwin" else SYSTEMD
    if manager == LAUNCHD and "socket" in line.flags:
        raise _UsageError(line, ["--socket is for systemd only"])
    return manager


def _uninstall(name: str, manager: str, paths: Sequence[Path]) -> int:
    from kproxy import service

    present = [path for path in paths if os.path.lexists(path)]
    if not present:
        print(f"nothing is installed: there is no {paths[0]}")
        return EXIT_FINE
    service.check_replaceable(present)
    problem = None
    if manager == service.SYSTEMD:
        # Before the files go: systemd forgets what it cannot read.
        problem = service.tell_systemd("disable", "--now", *(path.name for path in present))
    service.uninstall(present)
    print(*(f"removed {path}" for path in present), sep="\n")
    if manager == service.LAUNCHD:
        print(f"end it, if it runs: launchctl bootout gui/{os.getuid()}/{present[0].stem}")
    elif problem is None:
        problem = service.tell_systemd("daemon-reload")
    if problem is not None:
        names = " ".join(path.name for path in present)
        _complain(f"systemd was not told ({problem}); if it runs: systemctl --user stop {names}")
    return EXIT_FINE


_HANDLERS: Mapping[str, Callable[[CommandLine], int]] = {
    "": _serve,
    "proxy": _serve,
    "demo": _demo,
    "run": _run_command,
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "status": _status,
    "logs": _logs,
    "service": _service,
    "kubeconfig": _kubeconfig,
    "check": _check,
    "version": _version,
    "help": _help,
}
"""What does each of COMMANDS; returns the exit code."""

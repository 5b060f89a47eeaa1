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
from pathlib import Path
from typing import TYPE_CHECKING

from kproxy import __version__
from kproxy.cli import arguments
from kproxy.cli.arguments import CommandLine
from kproxy.cli.commands import COMMANDS, NAMES_COMMAND
from kproxy.config.schema import LISTEN, Config
from kproxy.config.sources import Settings, read
from kproxy.errors import ConfigError, KproxyError, spelt_out

if TYPE_CHECKING:
    from kproxy.cli.operations import Operations
    from kproxy.instances.instance import Record
    from kproxy.system.supervisor import Supervisor
    from kproxy.telemetry.logfile import LogFile

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
    _open_streams()
    words = sys.argv[1:] if argv is None else argv
    code = _answer(words)
    try:
        sys.stdout.flush()
    except OSError as error:
        _forget_stdout(error)
        return code or EXIT_FAILED
    return code


def _open_streams() -> None:
    """With `<&-` or `2>&-` whatever is opened next, a lock or a listening socket, would be that stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


def _forget_stdout(error: OSError) -> None:
    """What nobody takes is given up: Python would try once more at its exit, and complain by itself."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # `kproxy --help | head -1`: the reader has enough.
    if not isinstance(error, BrokenPipeError):
        _complain(f"error: cannot write to stdout: {error.strerror}")


def _answer(words: Sequence[str]) -> int:
    try:
        return _names(words[1:]) if words[:1] == [NAMES_COMMAND] else _run(arguments.parse(words))
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
    # What people set for their cluster is not meant for the demo's.
    is_demo = line.command.name == "demo" or "demo" in line.flags
    settings = read(line.given, os.environ, finds_file=not is_demo)
    return settings, [*line.problems, *settings.problems]


def _insist(line: CommandLine, problems: list[str], config: Config, *, rehearses: bool = True) -> None:
    """Raises with every problem there is; with those of the kubeconfig, too, if it `rehearses`."""
    if not problems:
        return
    if rehearses:
        # Imported here: as in _run_server.
        from kproxy.cli.checking import rehearse

        # Nobody should mend one thing only to hear of the next.
        try:
            rehearse(config)
        except ConfigError as error:
            problems += error.problems
    raise _UsageError(line, problems)


def _help(line: CommandLine) -> int:
    # Imported here: serving needs no help text.
    from kproxy.cli.help import help_text

    name = line.words[0] if line.words else ""
    if name not in COMMANDS:
        return _refuse([arguments.unknown_command(name)])
    print(help_text(COMMANDS[name]))
    return EXIT_FINE


def _completion(line: CommandLine) -> int:
    # Imported here: as in _help.
    from kproxy.cli.completion import script

    print(script(line.words[0]), end="")
    return EXIT_FINE


def _names(words: Sequence[str]) -> int:
    """What completion scripts ask for: no help has it. Nobody wants to hear of problems while typing."""
    from kproxy.cli.completion import NAME_KINDS, names

    if not words or words[0] not in NAME_KINDS:
        return EXIT_USAGE
    with contextlib.suppress(KproxyError, OSError):
        for name in names(words[0], words[1:], os.environ):
            print(name)
    return EXIT_FINE


def _version(line: CommandLine) -> int:
    if "json" in line.flags:
        # Imported here: only a report of a bug needs as much.
        from kproxy.cli.build import facts

        print(json.dumps(facts(), indent=2))
    else:
        print(f"kproxy {__version__}")
    return EXIT_FINE


def _serve(line: CommandLine) -> int:
    return _run_server(_settle(line))


def _run_server(
    settings: Settings,
    keeper: Supervisor | None = None,
    log_file: LogFile | None = None,
    name: str | None = None,
) -> int:
    # Imported here: --help and version need no event loop, which takes a tenth of a second.
    from kproxy.listeners.passed import listeners_of
    from kproxy.server.server import run
    from kproxy.system.supervisor import Supervisors
    from kproxy.system.systemd import take_notifier, take_passed_sockets

    config = settings.config
    passed = take_passed_sockets(os.environ)
    if passed and all(each.fd is None for each in config.listeners):
        config = replace(config, listeners=listeners_of(passed, config.listeners))
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
    from kproxy.server.server import run

    return run(settings.config, settings=settings, announce=_announce, demo=True)


def _demo_conflicts(settings: Settings) -> Sequence[str]:
    return [
        f"{name}: the demo brings its own; leave it out ({settings.origins[name]})"
        for name in ("kubeconfig", "context", "cluster", "user", "server")
        if name in settings.origins
    ]


def _run_command(line: CommandLine) -> int:
    # Imported here: only this command needs it, and it forks before there is an event loop.
    from kproxy.cli.run import NotRun, OneCommand, private_config

    is_demo = "demo" in line.flags
    settings, problems = _settings(line)
    config, conflicts = private_config(settings, is_unix="unix" in line.flags)
    problems += [*conflicts, *(_demo_conflicts(settings) if is_demo else ())]
    _insist(line, problems, config, rehearses=not is_demo)
    with OneCommand(line.words) as command:
        from kproxy.server.server import run

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
    from kproxy.cli.handout import handout, urls_of, write_handout

    record = _running(line)
    if record is not None:
        # Its own settings, where the command line has none: the prefix of its API, its kubeconfig.
        line.given[:0] = arguments.parse(["kubeconfig", *record.arguments]).given
    settings, problems = _settings(line)
    _insist(line, problems, settings.config, rehearses=False)
    urls, folder = (record.urls, record.folder) if record else (urls_of(settings.config), os.curdir)
    text = handout(settings.config, urls, folder)
    if "output" in line.flags:
        write_handout(Path(line.flags["output"]), text)
    else:
        print(text, end="")
    return EXIT_FINE


def _running(line: CommandLine) -> Record | None:
    """The instance that is meant; None when the settings say where to look."""
    if "name" not in line.flags and any(each.option.group == LISTEN for each in line.given):
        return None
    # Imported here: as in _operations.
    from kproxy.cli.operations import name_of, open_instances
    from kproxy.instances.instance import InstanceError

    name = name_of(line)
    with contextlib.suppress(FileNotFoundError), open_instances(create=False) as folder:
        record = folder.read(name)
        if record is not None and folder.is_locked(name):
            return record
    if "name" in line.flags:
        raise InstanceError(f'instance "{name}" is not running; `kproxy start --name={name}` starts it')
    return None


def _announce(address: str) -> None:
    # Programs wait for this line (minikube, Lens, the tests of Kubernetes): nothing may come before it.
    try:
        print(f"Starting to serve on {address}", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A full disk, as below `nohup`: kubectl serves on, too.
        _forget_stdout(error)


def _check(line: CommandLine) -> int:
    # Imported here: as in _run_server.
    from kproxy.cli.checking import Rehearsal, document, rehearsal_lines, rehearse, settings_lines

    settings, problems = _settings(line)
    rehearsal = Rehearsal(warnings=settings.warnings)
    try:
        rehearsal = rehearse(settings.config, settings)
    except ConfigError as error:
        problems += error.problems
    if "json" in line.flags:
        print(json.dumps(document(settings, rehearsal, problems), indent=2))
    else:
        _show(*settings_lines(settings), *rehearsal_lines(rehearsal))
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
        print(spelt_out(line), file=sys.stderr)


# -- instances --


def _operations() -> Operations:
    # Imported here: a proxy in the foreground needs none of it.
    from kproxy.cli.operations import Operations, Terminal

    terminal = Terminal(announce=_announce, show=_show, complain=_complain, write=_write)
    return Operations(terminal, _settle, _run_server)


def _settle(line: CommandLine) -> Settings:
    settings, problems = _settings(line)
    _insist(line, problems, settings.config)
    return settings


def _show(*lines: str) -> None:
    print(*map(spelt_out, lines), sep="\n")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _start(line: CommandLine) -> int:
    return _operations().start(line) or EXIT_FINE


def _stop(line: CommandLine) -> int:
    _operations().stop(line)
    return EXIT_FINE


def _restart(line: CommandLine) -> int:
    _operations().restart(line)
    return EXIT_FINE


def _status(line: CommandLine) -> int:
    return EXIT_FINE if _operations().status(line) else EXIT_NOT_RUNNING


def _logs(line: CommandLine) -> int:
    _operations().logs(line)
    return EXIT_FINE


def _service(line: CommandLine) -> int:
    _operations().service(line)
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
    "completion": _completion,
    "version": _version,
    "help": _help,
}
"""What does each of COMMANDS; returns the exit code."""

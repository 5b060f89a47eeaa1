"""The command line: what was asked, done or refused, and the exit code that says so.

Exit codes: 0 fine, 1 a failure while running, 2 wrong usage or configuration. Only `Starting to serve on
ADDRESS` and what a sub-command was asked to show go to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from kproxy import __version__, arguments
from kproxy.arguments import CommandLine
from kproxy.commands import COMMANDS
from kproxy.config import OPTIONS, Config
from kproxy.errors import ConfigError, KproxyError, KubeconfigError
from kproxy.kubeconfig import ResolvedContext
from kproxy.options import Option, nearest
from kproxy.settings import Settings, read

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
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


def _sound_config(line: CommandLine) -> Config:
    """The config to go on with; raises with every problem there is, those of the kubeconfig too."""
    settings, problems = _settings(line)
    if problems:
        # Nobody should mend one thing only to hear of the next.
        try:
            _rehearse(settings.config)
        except ConfigError as error:
            problems += error.problems
        raise _UsageError(line, problems)
    return settings.config


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
    config = _sound_config(line)
    # Imported here: --help and version need no event loop, which takes a tenth of a second.
    from kproxy.server import run

    return run(config, announce=_announce)


def _demo(line: CommandLine) -> int:
    # Imported here: as in _serve.
    from kproxy.server import run

    settings, problems = _settings(line)
    problems += [
        f"{name}: kproxy demo brings its own; leave it out ({settings.origins[name]})"
        for name in ("kubeconfig", "context", "cluster", "user", "server")
        if name in settings.origins
    ]
    if problems:
        raise _UsageError(line, problems)
    return run(settings.config, announce=_announce, demo=True)


def _announce(address: str) -> None:
    # Programs wait for this line (minikube, Lens, the tests of Kubernetes): nothing may come before it.
    print(f"Starting to serve on {address}", flush=True)


def _check(line: CommandLine) -> int:
    settings, problems = _settings(line)
    for option in OPTIONS:
        value = getattr(settings.config, option.field)
        print(f"{option.name}: {_yaml(option, value)}  # {settings.origins.get(option.field, 'default')}")
    try:
        print(*_rehearse(settings.config), sep="\n", flush=True)
    except ConfigError as error:
        problems += error.problems
    sys.stdout.flush()
    return _refuse(problems) if problems else EXIT_FINE


def _rehearse(config: Config) -> list[str]:
    """Do all that a start does before it serves, and describe the outcome; raises ConfigError."""
    # Imported here: as in _serve.
    import asyncio

    from kproxy.kubecontext import warnings_for
    from kproxy.plan import prepare
    from kproxy.server import open_upstream

    plan = prepare(config)
    contexts, policy = plan.contexts, plan.policy
    warnings = [*policy.warnings(has_unix_socket=config.has_only_unix_sockets)]

    async def credential_kind(context: ResolvedContext) -> str:
        loop = asyncio.get_running_loop()
        upstream = open_upstream(context, plan.kubeconfig, plan.plugin_policy, config, loop)
        try:
            credential = upstream.current_credential()
        finally:
            await upstream.close()
        return credential.kind if credential else "fetched with the first request"

    def describe(context: ResolvedContext | KubeconfigError) -> str:
        if isinstance(context, KubeconfigError):
            raise context
        kind = asyncio.run(credential_kind(context))
        warnings.extend(warnings_for(context, append_server_path=config.append_server_path))
        return f"{context.cluster.server}, credential: {kind}"

    lines = [f'# context "{contexts.default.name}": {describe(contexts.default)}']
    for served in contexts.served[1:]:
        label = f'# context "{served.name}" at {served.slug}.localhost'
        try:
            lines.append(f"{label}: {describe(contexts.others[served.name])}")
        except ConfigError as error:
            lines.append(f"{label}: cannot be used")
            warnings += error.problems
    return [*lines, *(f"# warning: {warning}" for warning in warnings)]


def _yaml(option: Option, value: object) -> str:
    """The value as the config file would hold it; JSON is YAML."""
    return json.dumps("[hidden]" if option.secret and value else option.kind.plain(value))


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


_HANDLERS: Mapping[str, Callable[[CommandLine], int]] = {
    "": _serve,
    "proxy": _serve,
    "demo": _demo,
    "check": _check,
    "version": _version,
    "help": _help,
}
"""What does each of COMMANDS; returns the exit code."""

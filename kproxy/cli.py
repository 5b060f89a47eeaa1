"""The command line: what was asked, done or refused, and the exit code that says so.

Exit codes: 0 fine, 1 a failure while running, 2 wrong usage or configuration. Only `Starting to serve on
ADDRESS` and what a sub-command was asked to show go to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from kproxy import __version__, arguments
from kproxy.arguments import IGNORED_FLAGS, WISHES, CommandLine
from kproxy.config import OPTIONS, Config, Settings, nearest, read
from kproxy.errors import ConfigError, KproxyError
from kproxy.options import Option

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell tells it; once kproxy serves, Ctrl-C is an orderly end."""

COMMANDS: Mapping[str, str] = {
    "": "serve the cluster of your kubeconfig on localhost",
    "proxy": "the same; takes the place of `kubectl proxy` in scripts",
    "demo": "serve a pretend cluster, to try kproxy without a real one",
    "check": "say what is wrong with the settings and the kubeconfig, and what is in force",
    "version": "show the version; --json for programs",
    "help": "show this text",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit code."""
    try:
        return _run(arguments.parse(sys.argv[1:] if argv is None else argv))
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
    command = _command(line)
    if command == "help":
        print(help_text())
        return EXIT_FINE
    if command == "version" and not line.problems:
        print(json.dumps(_version()) if "json" in line.wishes else f"kproxy {__version__}")
        return EXIT_FINE
    settings = read(line.given, os.environ)
    problems = [*line.problems, *settings.problems]
    if command == "check":
        return _check(settings, problems)
    if command == "version":
        return _refuse(problems)
    return _serve(settings, problems, is_demo=command == "demo")


def _command(line: CommandLine) -> str:
    """The sub-command; a word that is none is noted as a problem."""
    if "help" in line.wishes:
        return "help"
    command, *surplus = line.words or [""]
    if command not in COMMANDS:
        near = nearest(command, COMMANDS)
        line.problems.append(f'unknown command "{command}"' + (f", did you mean {near}?" if near else ""))
        command = ""
    elif surplus and command != "help":
        line.problems.append(f'kproxy {command} takes no further words, got "{surplus[0]}"')
    command = "version" if "version" in line.wishes else command
    if "json" in line.wishes and command != "version":
        line.problems.append("--json is a flag of `kproxy version` only")
    return command


def _version() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"version": __version__, "python": python, "platform": sys.platform}


def _serve(settings: Settings, problems: list[str], *, is_demo: bool) -> int:
    # Imported here: --help and version need no event loop, which takes a tenth of a second.
    from kproxy.server import run

    if is_demo:
        problems += [
            f"{name}: kproxy demo brings its own; leave it out ({settings.origins[name]})"
            for name in ("kubeconfig", "context", "cluster", "user", "server")
            if name in settings.origins
        ]
    if problems:
        if not is_demo:
            # Nobody should mend one thing only to hear of the next.
            try:
                _rehearse(settings.config)
            except ConfigError as error:
                problems += error.problems
        code = _refuse(problems)
        _complain("See 'kproxy --help'.")
        return code
    return run(settings.config, announce=_announce, demo=is_demo)


def _announce(address: str) -> None:
    # Programs wait for this line (minikube, Lens, the tests of Kubernetes): nothing may come before it.
    print(f"Starting to serve on {address}", flush=True)


def _check(settings: Settings, problems: list[str]) -> int:
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
    context, policy = plan.context, plan.policy

    async def credential_kind() -> str:
        loop = asyncio.get_running_loop()
        upstream = open_upstream(context, plan.kubeconfig, plan.plugin_policy, config, loop)
        try:
            credential = upstream.current_credential()
        finally:
            await upstream.close()
        return credential.kind if credential else "fetched with the first request"

    warnings = (
        *policy.warnings(has_unix_socket=config.unix_socket is not None),
        *warnings_for(context, append_server_path=config.append_server_path),
    )
    return [
        f'# context "{context.name}": {context.cluster.server}, credential: {asyncio.run(credential_kind())}',
        *(f"# warning: {warning}" for warning in warnings),
    ]


def _yaml(option: Option, value: object) -> str:
    """The value as the config file would hold it; JSON is YAML."""
    if value is None or isinstance(value, bool | int | tuple):
        return json.dumps(value)
    return json.dumps(option.show(value))


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


# -- help --

_LEFT_COLUMNS, _COLUMNS = 32, 100


def help_text() -> str:
    """What `kproxy --help` says: commands, then every flag under its group's heading."""
    return "\n".join(_help_lines())


def _help_lines() -> Iterable[str]:
    yield "kproxy: a local gateway to the Kubernetes API, in place of kubectl proxy."
    yield ""
    yield "Usage: kproxy [command] [flags]"
    yield ""
    yield "Commands:"
    for command, meaning in COMMANDS.items():
        yield from _entry(f"  kproxy {command}".rstrip(), meaning)
    yield ""
    yield "Examples:"
    yield from _entry("  kproxy", "then: curl http://localhost:8001/api/v1/namespaces")
    yield from _entry("  kproxy --port=0 --context=dev", "a free port, another context")
    yield from _entry("  kproxy --www=./site", "a web page of yours at /static/ that may use the API")
    for group in dict.fromkeys(option.group for option in OPTIONS):
        yield ""
        yield f"{group}:"
        for option in OPTIONS:
            if option.group == group:
                yield from _entry(_spelling(option), option.help + _default(option))
    yield ""
    yield "Other:"
    for flag, (_, meaning) in WISHES.items():
        if meaning:
            yield from _entry(f"  -h, {flag}" if flag == "--help" else f"      {flag}", meaning)
    yield ""
    yield from _wrapped(
        "Accepted because kubectl has them, without effect: "
        + ", ".join(IGNORED_FLAGS)
        + ". Booleans are turned off with =false. Each setting can also come from a variable such as "
        "KPROXY_PORT or from the config file as `port: 8001`; flags win, then variables, then the file.",
        "",
    )


def _spelling(option: Option) -> str:
    short = f"  -{option.short}, " if option.short else "      "
    return f"{short}{option.flag} {option.kind.metavar}".rstrip()


def _default(option: Option) -> str:
    if option.negation:
        return f" On unless {option.negation}."
    shown = option.kind.show(option.default)
    return f" Default: {shown}" if shown and option.default is not False else ""


def _entry(left: str, right: str) -> Iterable[str]:
    lines = _wrapped(right, " " * _LEFT_COLUMNS)
    if len(left) >= _LEFT_COLUMNS:
        yield left
        yield from lines
    else:
        first, *rest = lines
        yield left.ljust(_LEFT_COLUMNS) + first.lstrip()
        yield from rest


def _wrapped(text: str, indent: str) -> list[str]:
    # Imported here: serving needs no help text.
    from textwrap import wrap

    return wrap(text, _COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)

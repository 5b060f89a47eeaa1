"""The commands of kproxy: what each does, its own flags, and the words it takes.

One table for the parser, the help, the completions and the README. `cli.py` has the handler of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kproxy.config.kinds import FILE, SWITCH, Duration, InstanceName, Kind, Number

SERVE = "Serve"
BACKGROUND = "Serve in the background"
LOOK = "Look and learn"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A flag of one command, which is no setting: neither a variable nor the config file has it."""

    name: str
    """Without dashes, as `CommandLine.flags` has it."""
    meaning: str
    kind: Kind = SWITCH
    short: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def takes_value(self) -> bool:
        return self.kind is not SWITCH


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What may stand behind the command's name."""

    shown: str = ""
    """As the usage line has it: `[COMMAND]`."""
    least: int = 0
    most: int | None = 0
    """None: any number."""
    choices: tuple[str, ...] = ()
    """The words that may stand there; empty: any."""
    are_anothers: bool = False
    """They are the command line of another program: flags among them are that program's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command, as people are told of it."""

    name: str
    """Empty for `kproxy` alone."""
    group: str
    meaning: str
    flags: tuple[Flag, ...] = ()
    takes_settings: bool = False
    """Whether it reads the settings: their flags, the variables, the config file."""
    words: Words = Words()
    details: str = ""
    """What else its help says."""
    examples: tuple[tuple[str, str], ...] = ()
    """Command line, and what it does."""

    @property
    def title(self) -> str:
        return f"kproxy {self.name}".rstrip()


NAMES_COMMAND = "__names"
"""What completion scripts run, and no help tells of."""

JSON = Flag(name="json", meaning="Answer as JSON.")
NAME = Flag(name="name", meaning='Which instance; "default" unless given.', kind=InstanceName("NAME"))
_PERIOD = Duration(0.0, "a duration of zero or more, such as 30s or 1m30s")
START_TIMEOUT = Flag(name="timeout", meaning="How long the start may take; 60s unless given.", kind=_PERIOD)
STOP_TIMEOUT = Flag(
    name="timeout",
    meaning="How long to wait for the end; the grace period and 5s unless given.",
    kind=_PERIOD,
)

_TABLE = (
    Command(
        name="",
        group=SERVE,
        meaning="Serve the cluster of your kubeconfig on localhost.",
        takes_settings=True,
        examples=(
            ("kproxy", "then: curl http://localhost:8001/api/v1/namespaces"),
            ("kproxy --port=0 --context=dev", "a free port, another context"),
            ("kproxy --www=./site", "a web page of yours at /static/ that may use the API"),
        ),
    ),
    Command(
        name="proxy",
        group=SERVE,
        meaning="The same; takes the place of `kubectl proxy` in scripts.",
        takes_settings=True,
    ),
    Command(
        name="demo",
        group=SERVE,
        meaning="Serve a pretend cluster, to try kproxy without a real one.",
        takes_settings=True,
    ),
    Command(
        name="run",
        group=SERVE,
        meaning="Run one command with a proxy of its own, which lives as long as it does.",
        details=(
            "The command finds the proxy by KUBECONFIG, a kubeconfig without credentials, and by KPROXY_URL "
            "and KUBERNETES_MASTER; {} in its arguments becomes the URL. The port is a free one. Where to "
            "listen and how much to log is taken from flags only, not from variables or the config file."
        ),
        flags=(
            Flag(
                name="unix",
                meaning="Listen on a unix socket that only you can open; KPROXY_SOCKET and {} are its path.",
            ),
            Flag(name="demo", meaning="Serve the pretend cluster of kproxy demo."),
        ),
        takes_settings=True,
        words=Words(shown="-- COMMAND [ARGUMENT...]", least=1, most=None, are_anothers=True),
        examples=(
            ("kproxy run -- kubectl get pods", "kubectl without a credential in sight"),
            ("kproxy run --reject-methods=POST,PUT,PATCH,DELETE -- ./report.py", "look, don't touch"),
            ("kproxy run -- curl {}/api/v1/nodes", "{} is the URL"),
        ),
    ),
    Command(
        name="start",
        group=BACKGROUND,
        meaning="Serve in the background; returns once it serves, or says why it does not.",
        takes_settings=True,
        flags=(
            NAME,
            START_TIMEOUT,
            Flag(name="foreground", meaning="Stay in the foreground, for service managers."),
        ),
        examples=(
            ("kproxy start", "serve the current context on port 8001"),
            ("kproxy start --name=dev --context=dev --port=8002", "another one beside it"),
        ),
    ),
    Command(
        name="stop",
        group=BACKGROUND,
        meaning="End it in order: open requests may end, for as long as its --grace-period says.",
        flags=(NAME, STOP_TIMEOUT),
    ),
    Command(
        name="restart",
        group=BACKGROUND,
        meaning="Stop and start it, with the settings given here or, without any, those it was started with.",
        takes_settings=True,
        flags=(NAME, STOP_TIMEOUT),
    ),
    Command(
        name="status",
        group=BACKGROUND,
        meaning="Show what runs; the exit code is 0 when it does and 3 when not.",
        flags=(NAME, JSON),
    ),
    Command(
        name="logs",
        group=BACKGROUND,
        meaning="Show its log.",
        flags=(
            NAME,
            Flag(name="follow", meaning="Go on with what is added.", short="f"),
            Flag(
                name="tail",
                meaning="How many lines to begin with; 100 unless given, -1 for all.",
                kind=Number(-1, 10**9),
            ),
        ),
    ),
    Command(
        name="service",
        group=BACKGROUND,
        meaning="Have systemd or launchd start it with your session: write the unit, remove it, or print it.",
        takes_settings=True,
        flags=(
            NAME,
            Flag(name="socket", meaning="systemd binds the socket and starts kproxy with the first client."),
            Flag(name="systemd", meaning="A unit for systemd; the default but on macOS."),
            Flag(name="launchd", meaning="A property list for launchd; the default on macOS."),
        ),
        words=Words(
            shown="install|uninstall|print", least=1, most=1, choices=("install", "uninstall", "print")
        ),
        examples=(
            ("kproxy service install --context=dev", "then: systemctl --user enable --now kproxy.service"),
            ("kproxy service print --socket", "only show what it would write"),
        ),
    ),
    Command(
        name="kubeconfig",
        group=LOOK,
        meaning="Print a kubeconfig that leads clients through a kproxy that runs, with all its contexts.",
        details=(
            "Which kproxy is meant: the instance of --name, or what flags such as --port say. Without any it "
            "is the default instance if that runs, else what listens where the settings say. There is no "
            "credential in it. Do not let kproxy itself start with it: it would lead kproxy to itself."
        ),
        flags=(
            NAME,
            Flag(
                name="output",
                meaning="Write it to this file, which nobody else can read, instead of printing it.",
                kind=FILE,
            ),
        ),
        takes_settings=True,
        examples=(
            ("kproxy kubeconfig --output=$HOME/.kube/kproxy", "a file for KUBECONFIG or --kubeconfig"),
            ("kubectl --kubeconfig=$HOME/.kube/kproxy get pods", "kubectl goes through kproxy"),
        ),
    ),
    Command(
        name="check",
        group=LOOK,
        meaning="Say what is wrong with the settings and the kubeconfig, and what is in force.",
        flags=(JSON,),
        takes_settings=True,
    ),
    Command(
        name="completion",
        group=LOOK,
        meaning="Print the script that makes a shell complete kproxy's commands, flags and contexts.",
        words=Words(shown="bash|zsh|fish", least=1, most=1, choices=("bash", "zsh", "fish")),
        examples=(
            ("source <(kproxy completion bash)", "for ~/.bashrc; zsh for ~/.zshrc"),
            ("kproxy completion fish | source", "for ~/.config/fish/config.fish"),
        ),
    ),
    Command(name="version", group=LOOK, meaning="Show the version.", flags=(JSON,)),
    Command(
        name="help",
        group=LOOK,
        meaning="Show this text, or that of one command.",
        words=Words(shown="[COMMAND]", most=None),
    ),
)

COMMANDS: Mapping[str, Command] = {command.name: command for command in _TABLE}


def own_flags(commands: Iterable[Command] = _TABLE) -> Mapping[str, Flag]:
    """`--name` and `-n` -> the flag, of all commands: a name takes a value in all of them or in none."""
    found: dict[str, Flag] = {}
    for command in commands:
        for flag in command.flags:
            found[flag.flag] = flag
            if flag.short:
                found["-" + flag.short] = flag
    return found

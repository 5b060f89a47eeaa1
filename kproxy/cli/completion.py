"""Completion scripts for bash, zsh and fish: frames beside this file, with @marks@ for what the tables of
commands and settings have.

The scripts know commands, flags and fixed words by themselves, so that a Tab is quick. Only for names that
may change, such as contexts, they run `kproxy __names KIND WORDS...`, where WORDS is what was typed so far.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kproxy.cli.arguments import IGNORED_FLAGS, WISHES, parse
from kproxy.cli.commands import COMMANDS, NAMES_COMMAND, Command, Flag
from kproxy.config.kinds import FOLDER, SWITCH, Choice, FilePath, Names, Option, SearchPath
from kproxy.config.schema import OPTIONS
from kproxy.config.sources import read
from kproxy.kube.kubeconfig import load, locate

CONTEXTS, CLUSTERS, USERS, INSTANCES = "contexts", "clusters", "users", "instances"
NAME_KINDS = (CONTEXTS, CLUSTERS, USERS, INSTANCES)

_NAMED = {"context": CONTEXTS, "contexts": CONTEXTS, "cluster": CLUSTERS, "user": USERS}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A flag as a shell completes it."""

    flag: str
    short: str = ""
    meaning: str
    metavar: str = ""
    """Empty for what takes no value."""
    words: tuple[str, ...] = ()
    """The values there are."""
    names: str = ""
    """What kind of name the value is, one of NAME_KINDS."""
    is_list: bool = False
    """Whether values stand in one word, with commas between."""
    is_file: bool = False
    is_folder: bool = False
    repeats: bool = False


def script(shell: str) -> str:
    """The completion script for `bash`, `zsh` or `fish`."""
    parts = {"names": NAMES_COMMAND, **{"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()}
    frame = Path(__file__).with_suffix(f".{shell}").read_text()
    # What has several lines is indented as its mark is.
    return re.sub(
        "( *)@([a-z]+)@", lambda mark: mark[1] + parts[mark[2]].replace("\n", "\n" + mark[1]), frame
    )


def _settings() -> list[_Entry]:
    entries = []
    for option in OPTIONS:
        entries.append(_entry(option))
        if option.negation:
            entries.append(_Entry(flag=option.negation, meaning=f"Turn {option.flag} off."))
    return entries


def _common() -> list[_Entry]:
    return [
        _Entry(flag=flag, short="h" if flag == "--help" else "", meaning=meaning)
        for flag, meaning in WISHES.items()
    ]


def _own(command: Command) -> list[_Entry]:
    return [_entry(flag) for flag in command.flags]


def _entry(each: Option | Flag) -> _Entry:
    kind = each.kind
    return _Entry(
        flag=each.flag,
        short=each.short,
        # The first sentence: there is one line for it.
        meaning=re.split(r"(?<=\.) ", each.help if isinstance(each, Option) else each.meaning)[0],
        metavar="" if kind is SWITCH else kind.metavar or "VALUE",
        words=kind.words if isinstance(kind, Choice) else (),
        names=_NAMED.get(each.name, "") if isinstance(each, Option) else INSTANCES * (each.name == "name"),
        is_list=isinstance(kind, Names),
        is_file=isinstance(kind, FilePath) and not isinstance(kind, SearchPath) and kind is not FOLDER,
        is_folder=kind is FOLDER or isinstance(kind, SearchPath),
        repeats=kind.repeats,
    )


def _all_entries() -> list[_Entry]:
    """Each flag once: it takes a value in all commands or in none."""
    entries = [*_settings(), *_common(), *(each for command in COMMANDS.values() for each in _own(command))]
    return list({each.flag: each for each in entries}.values())


def _spellings(entries: Iterable[_Entry]) -> Iterator[str]:
    for each in entries:
        yield each.flag
        if each.short:
            yield f"-{each.short}"


def _valued() -> list[str]:
    """Every spelling of a flag whose value may be the next word."""
    with_value = (each for each in _all_entries() if each.metavar)
    return [*_spellings(with_value), *(flag for flag, takes_value in IGNORED_FLAGS.items() if takes_value)]


def _named_commands() -> list[Command]:
    return [command for command in COMMANDS.values() if command.name]


def _choices(command: Command) -> tuple[str, ...]:
    if command.name == "help":
        return tuple(each.name for each in _named_commands())
    return command.words.choices


def _runners() -> list[str]:
    """Commands whose words are another program's command line."""
    return [command.name for command in _named_commands() if command.words.are_anothers]


# -- bash --


def _bash() -> dict[str, str]:
    entries = _all_entries()
    return {
        "settings": " ".join(each.flag for each in _settings()),
        "words": "\n".join(map(_bash_words, COMMANDS.values())),
        "values": "\n".join(filter(None, map(_bash_values, entries))),
        "files": "|".join(_spellings(each for each in entries if each.is_file or each.is_folder)),
        "lists": "|".join(_spellings(each for each in entries if each.is_list)),
        "valued": "|".join(_valued()),
        "runners": "|".join(_runners()),
    }


def _bash_words(command: Command) -> str:
    words = [each.flag for each in _own(command)]
    words += ["$settings"] if command.takes_settings else []
    words += [*(each.flag for each in _common()), *_choices(command)]
    if not command.name:
        words += [each.name for each in _named_commands()]
    pattern = command.name or "''"
    return f'{pattern}) echo "{" ".join(words)}" ;;'


def _bash_values(entry: _Entry) -> str:
    pattern = "|".join(_spellings([entry]))
    if entry.words:
        return f"{pattern}) printf '%s\\n' {' '.join(entry.words)} ;;"
    if entry.names:
        return f"{pattern}) _kproxy_names {entry.names} ;;"
    if entry.is_folder:
        return f'{pattern}) compgen -d -- "$2" ;;'
    return f'{pattern}) compgen -f -- "$2" ;;' if entry.is_file else ""


# -- zsh --


def _zsh() -> dict[str, str]:
    commands = _named_commands()
    return {
        "common": "\n".join(_zsh_specs(_common())),
        "settings": "\n".join(_zsh_specs(_settings())),
        "subcommands": "\n".join(
            shlex.quote(f"{command.name}:{_zsh_escaped(_brief(command))}") for command in commands
        ),
        "words": "\n".join(map(_zsh_words, commands)),
    }


def _zsh_words(command: Command) -> str:
    settings = " $settings" if command.takes_settings else ""
    words = ""
    if command.words.are_anothers:
        words = "'(-)1:command: _command_names -e' '*::argument: _normal'"
    elif choices := _choices(command):
        words = shlex.quote(f"1:{command.words.shown}:({' '.join(choices)})")
    specs = [f"        {spec} \\" for spec in _zsh_specs(_own(command))]
    first = [f"{command.name})", f"    _arguments -S $common{settings} \\"]
    return "\n".join([*first, *specs, f"        {words} ;;"])


def _zsh_specs(entries: Iterable[_Entry]) -> Iterator[str]:
    for entry in entries:
        text = f"[{_zsh_escaped(entry.meaning)}]"
        if entry.metavar:
            text += f":{_zsh_escaped(entry.metavar)}:{_zsh_action(entry)}"
        star = "*" if entry.repeats else ""
        others = f"(-{entry.short} {entry.flag})" if entry.short and not star else ""
        if entry.short:
            yield shlex.quote(f"{others}{star}-{entry.short}{'+' if entry.metavar else ''}{text}")
        yield shlex.quote(f"{others}{star}{entry.flag}{'=' if entry.metavar else ''}{text}")


def _zsh_action(entry: _Entry) -> str:
    if entry.words:
        return f"({' '.join(entry.words)})"
    if entry.names:
        return f"{{_kproxy_names {entry.names}{' list' if entry.is_list else ''}}}"
    return "_files -/" if entry.is_folder else "_files" if entry.is_file else " "


def _zsh_escaped(text: str) -> str:
    return re.sub(r"([\\:\[\]])", r"\\\1", text)


# -- fish --


def _fish() -> dict[str, str]:
    return {
        "valued": " ".join(_valued()),
        "runners": " ".join(_runners()),
        "completions": "\n".join(_fish_lines()),
    }


def _fish_lines() -> Iterator[str]:
    for command in _named_commands():
        yield f"complete -c kproxy -n '__kproxy_is \"\"' -a {command.name} -d {_fish_quoted(_brief(command))}"
    for entry in _common():
        yield _fish_line("not __kproxy_is_anothers", entry)
    names = " ".join(command.name or '""' for command in COMMANDS.values() if command.takes_settings)
    for entry in _settings():
        yield _fish_line(f"__kproxy_is {names}", entry)
    for command in _named_commands():
        yield from (_fish_line(f"__kproxy_is {command.name}", entry) for entry in _own(command))
        if choices := _choices(command):
            yield f"complete -c kproxy -n '__kproxy_is {command.name}' -a {_fish_quoted(' '.join(choices))}"
        if command.words.are_anothers:
            yield (
                f"complete -c kproxy -n 'contains -- (__kproxy_words)[1] {command.name}' -x "
                f"-a '(__fish_complete_subcommand --fcs-skip=2 {' '.join(_valued())})'"
            )


def _fish_line(condition: str, entry: _Entry) -> str:
    parts = ["complete -c kproxy", f"-n {_fish_quoted(condition)}", f"-l {entry.flag[2:]}"]
    if entry.short:
        parts.append(f"-s {entry.short}")
    if entry.words:
        parts.append(f"-x -a {_fish_quoted(' '.join(entry.words))}")
    elif entry.names:
        names = f"(__kproxy_names {entry.names})"
        parts.append(f"-x -a {_fish_quoted(f'(__fish_append , {names})' if entry.is_list else names)}")
    elif entry.is_folder:
        parts.append("-x -a '(__fish_complete_directories)'")
    elif entry.is_file:
        parts.append("-r -F")
    elif entry.metavar:
        parts.append("-x")
    return " ".join([*parts, f"-d {_fish_quoted(entry.meaning)}"])


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _brief(command: Command) -> str:
    return re.split(r"[;:.] |\.$", command.meaning)[0]


# -- names that may change --


def names(kind: str, words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The names of one of NAME_KINDS, where the command line so far (`words`) looks for them.

    Raises KproxyError where there are none to be had.
    """
    # Imported here: a script is made without a look at any file.
    from kproxy.instances.instance import InstanceFolder, state_folder

    if kind == INSTANCES:
        try:
            with InstanceFolder(state_folder(environ), create=False) as folder:
                return list(folder.names())
        except FileNotFoundError:
            return []
    found = load(locate(read(parse(words).given, environ).config.kubeconfig, environ))
    entries: Mapping[str, Mapping[str, object]] = {
        CONTEXTS: found.contexts, CLUSTERS: found.clusters, USERS: found.users,
    }  # fmt: skip
    # One line each: a name with a line break cannot be completed.
    return [name for name in entries[kind] if "\n" not in name]

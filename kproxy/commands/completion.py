"""Completion scripts for bash, zsh and fish, made from the tables of commands and settings.

The scripts know commands, flags and fixed words by themselves, so that a Tab is quick. Only for names that
may change, such as contexts, they run `kproxy __names KIND WORDS...`, where WORDS is what was typed so far.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kproxy.commands.arguments import IGNORED_FLAGS, WISHES, parse
from kproxy.commands.table import COMMANDS, NAMES_COMMAND, Command, Flag
from kproxy.config import OPTIONS
from kproxy.kube.kubeconfig import load, locate
from kproxy.options import FOLDER, SWITCH, Choice, FilePath, Names, Option, SearchPath
from kproxy.settings import read

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
    lines: Mapping[str, Callable[[], Iterable[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return "\n".join(lines[shell]()) + "\n"


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


def _with_settings() -> list[str]:
    return [command.name for command in COMMANDS.values() if command.takes_settings]


def _choices(command: Command) -> tuple[str, ...]:
    if command.name == "help":
        return tuple(each.name for each in _named_commands())
    return command.words.choices


def _runners() -> list[str]:
    """Commands whose words are another program's command line."""
    return [command.name for command in _named_commands() if command.words.are_anothers]


# -- bash --


def _bash() -> Iterator[str]:
    yield "# bash completion for kproxy. Load it with: source <(kproxy completion bash)"
    yield ""
    yield "_kproxy_words() {"
    yield '    case "$1" in'
    settings, common = " ".join(each.flag for each in _settings()), " ".join(each.flag for each in _common())
    for command in COMMANDS.values():
        words = [each.flag for each in _own(command)]
        words += ["$settings"] if command.takes_settings else []
        words += [*common.split(), *_choices(command)]
        if not command.name:
            words += [each.name for each in _named_commands()]
        pattern = command.name or "''"
        yield f'        {pattern}) echo "{" ".join(words)}" ;;'
    yield "    esac"
    yield "}"
    yield ""
    yield "_kproxy_names() {"
    yield "    # Quoted: whoever wrote the kubeconfig is not to write what this shell runs."
    yield "    local name"
    yield f'    "$program" {NAMES_COMMAND} "$1" "${{typed[@]}}" |'
    yield "        while IFS= read -r name; do printf '%q\\n' \"$name\"; done"
    yield "}"
    yield ""
    yield "_kproxy_values() {"
    yield '    case "$1" in'
    for entry in _all_entries():
        pattern = "|".join(_spellings([entry]))
        if entry.words:
            yield f"        {pattern}) printf '%s\\n' {' '.join(entry.words)} ;;"
        elif entry.names:
            yield f"        {pattern}) _kproxy_names {entry.names} ;;"
        elif entry.is_folder:
            yield f'        {pattern}) compgen -d -- "$2" ;;'
        elif entry.is_file:
            yield f'        {pattern}) compgen -f -- "$2" ;;'
    yield "    esac 2>/dev/null"
    yield "}"
    yield ""
    files = "|".join(_spellings(each for each in _all_entries() if each.is_file or each.is_folder))
    lists = "|".join(_spellings(each for each in _all_entries() if each.is_list))
    yield from _BASH.format(
        settings=settings,
        valued="|".join(_valued()),
        runners="|".join(_runners()),
        files=files,
        lists=lists,
    ).splitlines()


_BASH = r"""_kproxy() {{
    local settings="{settings}"
    local words=() origins=() typed=() line=${{COMP_LINE:0:COMP_POINT}} word i
    # Words as the shell has them: bash has split them at = and : as well.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $i == 0 || $line == [[:blank:]]* ]]; then
            line=${{line#"${{line%%[![:blank:]]*}}"}}
            words+=("$word") origins+=("$i")
        else
            words[${{#words[@]}}-1]+=$word
        fi
        line=${{line#"$word"}}
    done
    local last=$((${{#words[@]}} - 1))
    local current=${{words[last]}} command='' flag='' is_over=''
    local program=${{words[0]/#\~/$HOME}}
    typed=("${{words[@]:1:last-1}}")
    for ((i = 1; i < last; i++)); do
        word=${{words[i]}}
        if [[ $flag ]]; then
            flag=''
            continue
        fi
        case $is_over$word in
            --) is_over=1 ;;
            {valued}) flag=$word ;;
            -?*) ;;
            *)
                if [[ -z $command ]]; then
                    command=$word
                    continue
                fi
                case $command in {runners}) break ;; esac
                ;;
        esac
    done
    case $command in
        {runners})
            # What stands there is the command line of another program.
            if [[ $i -lt $last || $is_over || ($current != -* && -z $flag) ]]; then
                [[ $i -gt $last ]] && i=$last
                if [[ $i == "$last" ]]; then
                    COMPREPLY=($(compgen -c -- "$current"))
                elif declare -F _comp_command_offset >/dev/null; then
                    _comp_command_offset "${{origins[i]}}"
                elif declare -F _command_offset >/dev/null; then
                    _command_offset "${{origins[i]}}"
                else
                    compopt -o filenames 2>/dev/null
                    COMPREPLY=($(compgen -f -- "$current"))
                fi
                return
            fi
            ;;
    esac
    local prefix='' value=$current
    if [[ -z $flag && -z $is_over && $current == --*=* ]]; then
        flag=${{current%%=*}} value=${{current#*=}} prefix=${{current%%=*}}=
    fi
    COMPREPLY=()
    if [[ $flag ]]; then
        case $flag in
            {files}) compopt -o filenames 2>/dev/null ;;
            {lists}) prefix+=${{value%"${{value##*,}}"}} value=${{value##*,}} ;;
        esac
        while IFS= read -r word; do
            [[ $word == "$value"* ]] && COMPREPLY+=("$prefix$word")
        done < <(_kproxy_values "$flag" "$value")
    elif [[ -z $is_over ]]; then
        for word in $(_kproxy_words "$command"); do
            # Flags only for who has begun one: what is most likely meant is a word.
            [[ $word == "$value"* && ($word != -* || $value == -*) ]] && COMPREPLY+=("$word")
        done
    fi
    # Readline replaces what stands behind the last = or :, and from the last @ on.
    local breaks='' rest
    for word in = :; do
        [[ $COMP_WORDBREAKS == *"$word"* ]] && breaks+=$word
    done
    prefix=''
    [[ $breaks ]] && prefix=${{current%"${{current##*[$breaks]}}"}}
    rest=${{current#"$prefix"}}
    [[ $COMP_WORDBREAKS == *@* && $rest == *@* ]] && prefix+=${{rest%@*}}
    COMPREPLY=("${{COMPREPLY[@]#"$prefix"}}")
}}

complete -F _kproxy kproxy"""


# -- zsh --


def _zsh() -> Iterator[str]:
    yield "#compdef kproxy"
    yield "# zsh completion for kproxy. Load it with: source <(kproxy completion zsh)"
    yield ""
    yield "_kproxy_names() {"
    yield "    local -a names"
    yield f'    local asked="$("$_kproxy_program" {NAMES_COMMAND} $1 "${{_kproxy_typed[@]}}" 2>/dev/null)"'
    yield '    names=("${(@f)asked}")'
    yield '    if [[ $2 == list ]]; then _values -s , "$1" "${(@)names//:/\\\\:}"'
    yield '    else compadd "${@:2}" -a names; fi'
    yield "}"
    yield ""
    yield "_kproxy() {"
    yield '    local _kproxy_program="${(Q)words[1]/#\\~/$HOME}"'
    yield '    local -a _kproxy_typed=("${(@Q)words[2,CURRENT-1]}") common settings subcommands'
    yield "    local curcontext=$curcontext state line"
    yield "    typeset -A opt_args"
    for name, entries in (("common", _common()), ("settings", _settings())):
        yield f"    {name}=("
        yield from (f"        {spec}" for entry in entries for spec in _zsh_specs(entry))
        yield "    )"
    yield "    subcommands=("
    for command in _named_commands():
        yield "        " + shlex.quote(f"{command.name}:{_zsh_escaped(_brief(command))}")
    yield "    )"
    yield "    _arguments -C -S $common $settings '1:command:->command' '*::word:->word' && return"
    yield "    case $state in"
    yield "        command) _describe -t commands command subcommands ;;"
    yield "        word)"
    yield "            case $line[1] in"
    for command in _named_commands():
        specs = [spec for entry in _own(command) for spec in _zsh_specs(entry)]
        settings = " $settings" if command.takes_settings else ""
        if command.words.are_anothers:
            words = ["'(-)1:command: _command_names -e'", "'*::argument: _normal'"]
        elif choices := _choices(command):
            words = [shlex.quote(f"1:{command.words.shown}:({' '.join(choices)})")]
        else:
            words = []
        yield f"                {command.name})"
        yield f"                    _arguments -S $common{settings} \\"
        yield from (f"                        {spec} \\" for spec in specs)
        yield f"                        {' '.join(words)} ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"
    yield "}"
    yield ""
    # Sourced, it registers itself; as a file of $fpath it is called by its name.
    yield 'if [[ $funcstack[1] == _kproxy ]]; then _kproxy "$@"; else compdef _kproxy kproxy; fi'


def _zsh_specs(entry: _Entry) -> Iterator[str]:
    text = f"[{_zsh_escaped(entry.meaning)}]"
    if entry.metavar:
        text += f":{_zsh_escaped(entry.metavar)}:{_zsh_action(entry)}"
    star = "*" if entry.repeats else ""
    equals = "=" if entry.metavar else ""
    if not entry.short:
        yield shlex.quote(f"{star}{entry.flag}{equals}{text}")
        return
    others = "" if star else f"(-{entry.short} {entry.flag})"
    yield shlex.quote(f"{others}{star}-{entry.short}{'+' if entry.metavar else ''}{text}")
    yield shlex.quote(f"{others}{star}{entry.flag}{equals}{text}")


def _zsh_action(entry: _Entry) -> str:
    if entry.words:
        return f"({' '.join(entry.words)})"
    if entry.names:
        return (
            f"{{_kproxy_names {entry.names} list}}" if entry.is_list else f"{{_kproxy_names {entry.names}}}"
        )
    return "_files -/" if entry.is_folder else "_files" if entry.is_file else " "


def _zsh_escaped(text: str) -> str:
    return re.sub(r"([\\:\[\]])", r"\\\1", text)


# -- fish --


def _fish() -> Iterator[str]:
    yield "# fish completion for kproxy. Load it with: kproxy completion fish | source"
    yield ""
    yield from _FISH.format(
        names=NAMES_COMMAND,
        valued=" ".join(_valued()),
        runners=" ".join(_runners()),
    ).splitlines()
    yield ""
    yield "complete -c kproxy -f"
    for command in _named_commands():
        yield f"complete -c kproxy -n '__kproxy_is \"\"' -a {command.name} -d {_fish_quoted(_brief(command))}"
    for entry in _common():
        yield _fish_line("not __kproxy_is_anothers", entry)
    for entry in _settings():
        names = " ".join(name or '""' for name in _with_settings())
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


_FISH = """\
function __kproxy_names
    set -l typed (commandline -opc)
    $typed[1] {names} $argv[1] $typed[2..-1] 2>/dev/null
end

function __kproxy_words
    # The words that are neither flags nor their values: the command, and what is behind it.
    set -l is_value
    for word in (commandline -opc)[2..-1]
        if test -n "$is_value"
            set is_value
        else if contains -- $word {valued}
            set is_value yes
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

function __kproxy_is
    set -l command (__kproxy_words)[1]
    not __kproxy_is_anothers; and contains -- "$command" $argv
end

function __kproxy_is_anothers
    # Whether what is typed is the command line of another program.
    set -l words (__kproxy_words)
    contains -- "$words[1]" {runners}; and begin
        test (count $words) -gt 1; or contains -- -- (commandline -opc)
    end
end"""


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

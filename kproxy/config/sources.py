"""How flags, variables and the config file fill the settings.

Precedence: flag, then `KPROXY_*` variable, then config file, then the default on the field.
All problems are found in one go; each reads `port: expected 0-65535, got 'abc' (config.yaml line 3)`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kproxy.config.kinds import Option, Unusable, nearest
from kproxy.config.listeners import problems_among, tls_clashes
from kproxy.config.schema import OPTIONS, Config
from kproxy.errors import ConfigError
from kproxy.kube.contexts import CLUSTERS
from kproxy.kube.yaml import NOT_CONSTRUCTED, SafeLoader
from kproxy.system.snapshot import Snapshot, take_snapshot

TOLD = ("KPROXY_URL", "KPROXY_SOCKET")
"""Variables that `kproxy run` sets for its command, which may be a kproxy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A setting as somebody wrote it, and where."""

    option: Option
    text: str = field(repr=False)
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What could be understood, and what could not: a setting with a problem has its default here."""

    config: Config
    origins: Mapping[str, str]
    """Where each value comes from, by field name; a field that is not here has its default."""
    problems: tuple[str, ...]
    file: ConfigFile | None = None
    """The config file that is read, or is looked for; None when there is to be none."""
    warnings: tuple[str, ...] = ()
    read_again: Callable[[], Settings] | None = field(default=None, repr=False, compare=False)
    """The settings as they are by then; None where the file cannot be read twice, or there is to be none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """Where the config file is, and how it was found when it was read."""

    path: Path
    shown: str
    """As its lines are named in messages."""
    origin: str
    """The flag or variable that names it; empty when it is looked for where config files usually are."""
    seen: Snapshot
    """From before it was read."""
    is_there: bool
    is_lasting: bool = True
    """False for pipes, such as `--config=<(...)` of bash: what they held is gone."""


def load(flags: Sequence[Given], environ: Mapping[str, str]) -> Config:
    """The config to run with; raises `ConfigError` with every problem there is."""
    settings = read(flags, environ)
    if settings.problems:
        raise ConfigError(settings.problems)
    return settings.config


def read(flags: Sequence[Given], environ: Mapping[str, str], *, finds_file: bool = True) -> Settings:
    """The config as far as it can be understood, with the problems beside it.

    Without `finds_file` there is no config file but one that is named.
    """
    problems: list[str] = []
    warnings: list[str] = []
    layers = [_parse(_variables(environ, problems), problems), _parse(flags, problems)]
    found = _merge(layers)
    named = found.pop("config", None)
    file = _locate(named, environ) if finds_file or named is not None else None
    if file is not None and file.is_there:
        found = _merge([_read_file(file, problems, warnings), *layers])
        found["config"] = (str(file.path), file.origin or "found")
    config = Config(**{name: value for name, (value, _) in found.items()})
    if config.listeners and not _ONE_LISTENER.isdisjoint(found):
        config = replace(config, listeners=(config.first_listener(), *config.listeners))
    origins = {name: origin for name, (_, origin) in found.items()}
    problems += _conflicts(config, origins)
    again = partial(read, flags, environ, finds_file=finds_file)
    return Settings(
        config=config,
        origins=origins,
        problems=tuple(problems),
        file=file,
        warnings=tuple(warnings),
        read_again=again if file is not None and file.is_lasting else None,
    )


def as_flags(given: Sequence[Given], folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same settings as words that mean the same everywhere, and the flags of secrets, without these.

    Paths are made absolute from `folder`, and the order is that of the names: equal settings are equal here.
    """
    kept = sorted((each for each in given if not each.option.secret), key=lambda each: each.option.name)
    flags = (f"{each.option.flag}={each.option.kind.absolute(each.text, folder)}" for each in kept)
    secret = {each.option.flag for each in given if each.option.secret}
    return tuple(flags), tuple(sorted(secret))


_Found = dict[str, tuple[Any, str]]
"""Field name -> its value and where that comes from."""


_ONE_LISTENER = {"port", "address", "unix_socket"}


def _merge(layers: Iterable[_Found]) -> _Found:
    """The layers as one, the last wins. Where to listen is one question, which one layer answers:
    `--port` takes the place of the file's `listeners`, and `--listen` that of its `port`.
    """
    merged: _Found = {}
    for layer in layers:
        if "listeners" in layer:
            merged = {name: found for name, found in merged.items() if name not in _ONE_LISTENER}
        elif not _ONE_LISTENER.isdisjoint(layer):
            merged.pop("listeners", None)
        merged |= layer
    return merged


def _parse(givens: Iterable[Given], problems: list[str]) -> _Found:
    found: _Found = {}
    for given in givens:
        option = given.option
        try:
            # An empty variable of several values has none; an empty flag is one of them.
            is_none = option.kind.repeats and not given.text and given.origin == option.variable
            value = () if is_none else option.kind.parse(given.text)
        except Unusable as unusable:
            problems += (f"{option.name}: {text} ({given.origin})" for _, text in unusable.problems)
            continue
        before = found.get(option.field)
        if option.kind.repeats and before and before[1] == given.origin:
            value = option.kind.join(before[0], value)
        found[option.field] = (value, given.origin)
    return found


def _variables(environ: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    known = {option.variable: option for option in OPTIONS}
    for name in sorted(environ):
        # Kubernetes gives pods KPROXY_PORT=tcp://10.0.0.1:8001 when a Service is named kproxy (service
        # links), and KPROXY_SERVICE_HOST and more besides.
        if (
            not name.startswith("KPROXY_")
            or name in TOLD
            or (name == "KPROXY_PORT" and "://" in environ[name])
        ):
            continue
        if name in known:
            yield Given(option=known[name], text=environ[name], origin=name)
        elif near := nearest(name.removeprefix("KPROXY_").lower(), (option.name for option in OPTIONS)):
            problems.append(f"{name}: unknown variable, did you mean KPROXY_{near.upper()}?")


def _locate(given: tuple[str | None, str] | None, environ: Mapping[str, str]) -> ConfigFile | None:
    """The file of --config or $KPROXY_CONFIG, else the one in the user's folder for such files."""
    if given is not None:
        named, origin = given
        if named is None:
            return None
        path = Path(named)
        # Whoever named it knows its folder.
        return _look_at(path, shown=path.name, origin=origin, is_needed=True)
    folder, home = environ.get("XDG_CONFIG_HOME", ""), environ.get("HOME", "")
    # XDG Base Directory Specification: a relative path there is invalid and to be ignored.
    if not os.path.isabs(folder):
        if not home:
            return None
        folder = os.path.join(home, ".config")
    path = Path(folder, "kproxy", "config.yaml")
    below_home = home and path.is_relative_to(home)
    shown = f"~/{path.relative_to(home)}" if below_home else str(path)
    return _look_at(path, shown=shown, origin="", is_needed=False)


def _look_at(path: Path, *, shown: str, origin: str, is_needed: bool) -> ConfigFile:
    # Before it is read, so that whoever watches it misses no change.
    seen = take_snapshot((path,))
    is_there, is_lasting = is_needed, True
    with suppress(OSError, ValueError):
        is_lasting = stat.S_ISREG(path.stat().st_mode)
        is_there = True
    return ConfigFile(
        path=path, shown=shown, origin=origin, seen=seen, is_there=is_there, is_lasting=is_lasting
    )


def _read_file(file: ConfigFile, problems: list[str], warnings: list[str]) -> _Found:
    where = f" ({file.origin})" if file.origin else ""
    try:
        with file.path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read()
    except OSError as error:
        problems.append(f"config: cannot read {file.path}: {error.strerror}{where}")
        return {}
    except ValueError:
        problems.append(f"config: {str(file.path)!r} is no path{where}")
        return {}
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        warnings.append(
            f"everybody on this machine can write to {file.path}, and so let kproxy run programs as you "
            f"(through `kubeconfig`); do: chmod o-w {file.path}"
        )
    loader = SafeLoader(text)
    try:
        return _take(loader, file, problems)
    except yaml.MarkedYAMLError as error:
        # The mark alone, not the error's text: that quotes the line, which may hold a token.
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problems.append(f"config: not YAML: {error.problem} ({file.shown}{line})")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.append(f"config: not YAML: {type(error).__name__} ({file.shown})")
    finally:
        loader.dispose()
    return {}


def _take(loader: Any, file: ConfigFile, problems: list[str]) -> _Found:
    known = {option.name: option for option in OPTIONS if option.in_file}
    found: _Found = {}
    node = loader.get_single_node()
    if node is None or (node.id == "scalar" and not node.value):
        return found
    if node.id != "mapping":
        problems.append(f"config: expected settings such as `port: 8001` ({file.shown})")
        return found
    for key_node, value_node in node.value:
        key = str(key_node.value)
        origin = f"{file.shown} line {key_node.start_mark.line + 1}"
        option = known.get(key)
        if option is None:
            near = nearest(key, known)
            hint = f", did you mean {near}?" if near else ""
            problems.append(f"{key}: unknown setting{hint} ({origin})")
            continue
        if option.field in found:
            problems.append(f"{key}: given twice ({found[option.field][1]} and {origin})")
        try:
            value = loader.construct_object(value_node, deep=True)
        except NOT_CONSTRUCTED:
            problems.append(f"{key}: not YAML: a value with a tag or form that is not known ({origin})")
            continue
        if value is None:
            continue
        try:
            found[option.field] = (option.kind.take(value, file.path.parent), origin)
        except Unusable as unusable:
            for place, text in unusable.problems:
                what = f"expected {option.kind.expected}" if option.secret else text
                line = _line_of(value_node, place, key_node)
                problems.append(f"{key}{_spelt(place)}: {what} ({file.shown} line {line})")
    return found


def _line_of(node: Any, place: Sequence[int | str], last: Any) -> int:
    """The line of the key or entry at `place` below a YAML node; as deep as it goes."""
    for step in place:
        if isinstance(step, int):
            node = last = node.value[step]
        else:
            last, node = next((pair for pair in node.value if pair[0].value == step), (last, node))
    line: int = last.start_mark.line + 1
    return line


def _spelt(place: Iterable[int | str]) -> str:
    """`[0].port`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


def _conflicts(config: Config, origins: Mapping[str, str]) -> Iterator[str]:
    # kubectl compares with the default, so that an explicit --port=8001 passes.
    if config.unix_socket is not None and config.port != 8001:
        yield (
            "unix_socket: cannot set --unix-socket and --port at the same time, leave one out "
            f"({origins['unix_socket']}, {origins['port']})"
        )
    yield from _context_conflicts(config, origins)
    tls = {name: getattr(config, name) for name in ("tls_certificate", "tls_key", "tls_self_signed")}
    for (name,), problem in tls_clashes(tls, is_unix=False):
        yield f"{name}: {problem} ({origins[str(name)]})"
    for label, problem in problems_among(config.listener_configs(), is_exposed_allowed=config.unsafe_listen):
        origin = origins.get(label.partition("[")[0])
        yield f"{label}: {problem}" + (f" ({origin})" if origin else "")
    for name, flag in (("api_prefix", "--api-prefix"), ("www_prefix", "--www-prefix")):
        if getattr(config, name).startswith("/-/"):
            yield (
                f"{name}: below /-/ are kproxy's own endpoints, such as /-/healthz; set another {flag} "
                f"({origins[name]})"
            )
    if config.www is not None and config.www_prefix == config.api_prefix:
        yield (
            f"www_prefix: {config.www_prefix!r} is the path of the API already; "
            "set another --www-prefix or --api-prefix"
        )


_OF_ONE_CLUSTER = (
    "cluster", "user", "server", "tls_server_name", "certificate_authority", "insecure_skip_tls_verify",
    "client_certificate", "client_key", "token", "username", "password",
)  # fmt: skip


def _context_conflicts(config: Config, origins: Mapping[str, str]) -> Iterator[str]:
    if not config.contexts and not config.all_contexts:
        return
    if config.contexts and config.all_contexts:
        yield (
            "contexts: --all-contexts serves these and all others; leave one of the two out "
            f"({origins['contexts']}, {origins['all_contexts']})"
        )
    for name in _OF_ONE_CLUSTER:
        if getattr(config, name):
            # A token for one cluster would be shown to all of them.
            yield (
                f"{name}: it is for one cluster and would count for each of several contexts; "
                f"write it into the kubeconfig ({origins[name]})"
            )
    prefixes = {"api_prefix": config.api_prefix, "www_prefix": config.www_prefix if config.www else "/"}
    for name, prefix in prefixes.items():
        if prefix.startswith(CLUSTERS):
            yield f"{name}: the contexts are below {CLUSTERS}; set another prefix ({origins[name]})"

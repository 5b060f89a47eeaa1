"""`kproxy check`: all that a start does before it serves, and what came of it, for people and programs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kproxy.config.kinds import Option
from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import Settings
from kproxy.errors import ConfigError, KubeconfigError
from kproxy.kube.contexts import Served
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.kube.resolve import warnings_for
from kproxy.server.preparation import Plan, prepare, questions, questions_of_the_place
from kproxy.server.server import open_upstream
from kproxy.telemetry.log import HIDDEN, hide_secrets

_FETCHED = "fetched with the first request"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A context that would be served. Without a server it cannot be used."""

    served: Served
    server: str | None = None
    credential: str | None = None
    """What kind it is; None until the first request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a start would find, the default context first."""

    contexts: tuple[Found, ...] = ()
    warnings: tuple[str, ...] = ()


def rehearse(config: Config, settings: Settings | None = None) -> Rehearsal:
    """Do all that a start does before it serves. Raises ConfigError with every problem that would stop it."""
    plan = prepare(config)
    contexts = plan.contexts
    warnings = [*questions(config, plan, settings), *questions_of_the_place(config, os.environ)]
    found = [_look_at(contexts.served[0], contexts.default, plan, config)]
    for served in contexts.served[1:]:
        context = contexts.others[served.name]
        try:
            found.append(_look_at(served, context, plan, config))
        except ConfigError as error:
            found.append(Found(served=served))
            warnings += error.problems
        else:
            assert not isinstance(context, KubeconfigError)
            warnings += warnings_for(context, append_server_path=config.append_server_path)
    return Rehearsal(contexts=tuple(found), warnings=tuple(warnings))


def _look_at(served: Served, context: ResolvedContext | KubeconfigError, plan: Plan, config: Config) -> Found:
    if isinstance(context, KubeconfigError):
        raise context
    kind = asyncio.run(_credential_kind(context, plan, config))
    return Found(served=served, server=hide_secrets(context.cluster.server), credential=kind)


async def _credential_kind(context: ResolvedContext, plan: Plan, config: Config) -> str | None:
    loop = asyncio.get_running_loop()
    upstream = open_upstream(
        context,
        config,
        loop,
        plugin_policy=plan.clusters.plugin_policy,
        kubeconfig_paths=plan.clusters.kubeconfig.paths,
    )
    try:
        credential = upstream.current_credential()
    finally:
        await upstream.close()
    return credential.kind if credential else None


# -- for people --


def settings_lines(settings: Settings) -> Iterator[str]:
    """What is in force and where it comes from; YAML, so that it can be a config file itself."""
    yield f"# config file: {_file(settings)}"
    for option in OPTIONS:
        if option.in_file:
            restart = "" if option.live else "; a change needs a restart"
            value = json.dumps(_value(option, settings))
            yield f"{option.name}: {value}  # {settings.origins.get(option.field, 'default')}{restart}"


def rehearsal_lines(rehearsal: Rehearsal) -> Iterator[str]:
    """The contexts, and what is dangerous or probably not meant."""
    for each in rehearsal.contexts:
        place = "" if each.served.is_default else f" at {each.served.slug}.localhost"
        state = (
            f"{each.server}, credential: {each.credential or _FETCHED}" if each.server else "cannot be used"
        )
        yield f'# context "{each.served.name}"{place}: {state}'
    for warning in rehearsal.warnings:
        yield f"# warning: {warning}"


def _file(settings: Settings) -> str:
    if settings.file is None:
        return "none"
    if not settings.file.is_there:
        return f"none; there would be room for one at {settings.file.path}"
    return f"{settings.file.path} ({settings.file.origin or 'found where such files are'})"


def _value(option: Option, settings: Settings) -> object:
    value = getattr(settings.config, option.field)
    if option.secret and value:
        return HIDDEN
    plain = option.kind.plain(value)
    # A server's URL may have a password in it.
    return hide_secrets(plain) if isinstance(plain, str) else plain


# -- for programs --


def document(settings: Settings, rehearsal: Rehearsal, problems: Sequence[str]) -> dict[str, object]:
    """The same for JSON; `live` are the settings that are applied while kproxy runs."""
    file = settings.file
    return {
        "config_file": str(file.path) if file is not None and file.is_there else None,
        "settings": {
            option.name: {
                "value": _value(option, settings),
                "origin": settings.origins.get(option.field, "default"),
                "live": bool(option.live),
            }
            for option in OPTIONS
            if option.in_file
        },
        "contexts": [
            {
                "name": each.served.name,
                "slug": each.served.slug,
                "default": each.served.is_default,
                "server": each.server,
                "credential": each.credential,
            }
            for each in rehearsal.contexts
        ],
        "warnings": list(rehearsal.warnings),
        "problems": list(problems),
    }

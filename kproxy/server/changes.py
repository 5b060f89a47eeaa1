"""What a changed config file changes: what can be put in force at once, and what waits for a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kproxy.config.kinds import Option
from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import Settings
from kproxy.errors import ConfigError
from kproxy.policy.policy import Policy
from kproxy.server.preparation import compile_policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The settings as they are now, beside those in force."""

    settings: Settings
    config: Config
    """What is in force, but for the settings that can be applied."""
    policy: Policy
    applied: tuple[Option, ...]
    left: Mapping[str, object]
    """Key -> value of the settings that only a restart brings."""

    def touches(self, *parts: str) -> bool:
        """Whether it is one for these parts of a running kproxy (config.LIVE)."""
        return any(option.live in parts for option in self.applied)


def read_change(settings: Settings, config: Config, pinned: Mapping[str, Any]) -> Change:
    """Read again what `settings` was read from; `config` is in force, `pinned` goes before all that is read.

    Raises ConfigError with every problem.
    """
    assert settings.read_again is not None
    fresh = settings.read_again()
    problems = [*fresh.problems]
    if settings.file and fresh.file and settings.file.is_there and not fresh.file.is_there:
        # As with a kubeconfig: what protected until now must not end because a disk is not mounted.
        problems.append(
            f"config: {fresh.file.path} is gone; what it said stays in force until kproxy is restarted"
        )
    wanted = replace(fresh.config, **pinned)
    live: dict[str, Any] = {each.field: getattr(wanted, each.field) for each in OPTIONS if each.live}
    possible = replace(config, **live)
    policy = None
    try:
        policy = compile_policy(possible)
    except ConfigError as error:
        problems += error.problems
    if problems or policy is None:
        raise ConfigError(problems)
    changed, left = differences(config, possible), differences(possible, wanted)
    return Change(
        settings=fresh,
        config=possible,
        policy=policy,
        applied=tuple(option for option in OPTIONS if option.field in changed),
        left={each.name: left[each.field] for each in OPTIONS if each.in_file and each.field in left},
    )


def differences(old: Config, new: Config) -> dict[str, Any]:
    """Field name -> what `new` has, where `old` has something else."""
    pairs = ((each.name, getattr(old, each.name), getattr(new, each.name)) for each in fields(Config))
    return {name: after for name, before, after in pairs if before != after}

"""Before serving: everything that can be wrong is read and checked, so that it is told at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kproxy.config import Config
from kproxy.contexts import Contexts, select
from kproxy.errors import ConfigError
from kproxy.kubeconfig import KubeConfig, ResolvedContext, load, locate
from kproxy.kuberc import PluginPolicy, load_plugin_policy
from kproxy.policy import Policy
from kproxy.servertls import certificate_problems
from kproxy.snapshot import Snapshot, take_snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that was read and checked before serving. `seen` is how the kubeconfig files looked before."""

    policy: Policy
    contexts: Contexts
    kubeconfig: KubeConfig
    plugin_policy: PluginPolicy
    seen: Snapshot

    @property
    def context(self) -> ResolvedContext:
        """The default one, which is at `/`."""
        return self.contexts.default


def prepare(config: Config) -> Plan:
    """Read and check everything that can be wrong before serving. Raises ConfigError with all problems."""
    problems: list[str] = []
    policy = plugin_policy = found = None
    try:
        policy = Policy.compile(
            accept_paths=config.accept_paths,
            reject_paths=config.reject_paths,
            accept_hosts=config.accept_hosts,
            reject_methods=config.reject_methods,
            accept_origins=config.accept_origins,
            disable_filter=config.disable_filter,
        )
    except ConfigError as error:
        problems += error.problems
    problems += certificate_problems(config.listener_configs())
    try:
        plugin_policy = load_plugin_policy(os.environ, config.kuberc)
    except ConfigError as error:
        problems += error.problems
    try:
        found = read_kubeconfig(config)
    except ConfigError as error:
        problems += error.problems
    if problems or policy is None or plugin_policy is None or found is None:
        raise ConfigError(problems)
    kubeconfig, contexts, seen = found
    return Plan(
        policy=policy, contexts=contexts, kubeconfig=kubeconfig, plugin_policy=plugin_policy, seen=seen
    )


def read_kubeconfig(config: Config, *, is_reload: bool = False) -> tuple[KubeConfig, Contexts, Snapshot]:
    """Raises KubeconfigError. On a reload, contexts that --contexts names may be gone."""
    overrides = config.overrides()
    sources = locate(overrides.kubeconfig, os.environ)
    seen = take_snapshot(sources.paths)
    kubeconfig = load(sources)
    contexts = select(
        kubeconfig,
        overrides,
        os.environ,
        names=config.contexts,
        takes_all=config.all_contexts,
        may_lack=is_reload,
    )
    return kubeconfig, contexts, {**seen, **take_snapshot(authority_paths(contexts.default))}


def authority_paths(context: ResolvedContext) -> tuple[Path, ...]:
    """The file of authorities, which is watched beside the kubeconfig; credentials watch their own files."""
    path = context.cluster.certificate_authority
    return (path,) if path is not None else ()

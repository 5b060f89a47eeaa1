"""Before serving: everything that can be wrong is read and checked, so that it is told at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kproxy.config.schema import Config
from kproxy.config.sources import Settings
from kproxy.errors import ConfigError
from kproxy.kube.contexts import Contexts, select
from kproxy.kube.kubeconfig import KubeConfig, Overrides, ResolvedContext, load, locate
from kproxy.kube.kuberc import PluginPolicy, load_plugin_policy, policy_path
from kproxy.kube.resolve import warnings_for
from kproxy.policy.policy import Policy
from kproxy.system.snapshot import Snapshot, take_snapshot
from kproxy.upstream.health import health_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Clusters:
    """What kubeconfig and kuberc say: which contexts there are, and how their upstreams are opened."""

    contexts: Contexts
    kubeconfig: KubeConfig
    plugin_policy: PluginPolicy
    paths: tuple[Path, ...]
    """The files that say so, existing or not."""
    named: tuple[Path, ...]
    """The files that these name: what is of no use may be mended there."""
    seen: Snapshot
    """How they, and the default context's authorities, looked before they were read."""


class ClustersError(ConfigError):
    """What kubeconfig and kuberc say cannot be used; a change of `paths` may mend that."""

    def __init__(self, problems: Sequence[str], paths: tuple[Path, ...]) -> None:
        super().__init__(problems)
        self.paths = paths


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that was read and checked before serving."""

    policy: Policy
    clusters: Clusters

    @property
    def contexts(self) -> Contexts:
        return self.clusters.contexts

    @property
    def context(self) -> ResolvedContext:
        """The default one, which is at `/`."""
        return self.clusters.contexts.default


def prepare(config: Config) -> Plan:
    """Read and check everything that can be wrong before serving. Raises ConfigError with all problems."""
    problems: list[str] = []
    policy = clusters = None
    try:
        policy = compile_policy(config)
    except ConfigError as error:
        problems += error.problems
    if any(each.has_tls for each in config.listener_configs()):
        # Imported here: most starts serve plain http.
        from kproxy.tls.certificates import certificate_problems

        problems += certificate_problems(filter(None, (each.tls_paths for each in config.listener_configs())))
    try:
        clusters = read_clusters(config)
    except ConfigError as error:
        problems += error.problems
    if problems or policy is None or clusters is None:
        raise ConfigError(problems)
    return Plan(policy=policy, clusters=clusters)


def compile_policy(config: Config) -> Policy:
    """The filters as the settings have them. Raises ConfigError."""
    return Policy.compile(
        accept_paths=config.accept_paths,
        reject_paths=config.reject_paths,
        accept_hosts=config.accept_hosts,
        reject_methods=config.reject_methods,
        accept_origins=config.accept_origins,
        disable_filter=config.disable_filter,
    )


def read_clusters(config: Config, *, may_lack: bool = False) -> Clusters:
    """Raises ClustersError with all problems. What --contexts names may be gone when it `may_lack` it."""
    problems: list[str] = []
    plugin_policy = kubeconfig = contexts = None
    named: tuple[Path, ...] = ()
    overrides = config.overrides()
    sources = locate(overrides.kubeconfig, os.environ)
    paths = tuple(filter(None, (*sources.paths, policy_path(os.environ, config.kuberc))))
    seen = take_snapshot(paths)
    try:
        plugin_policy = load_plugin_policy(os.environ, config.kuberc)
    except ConfigError as error:
        problems += error.problems
    try:
        kubeconfig = load(sources)
        named = tuple(_named_files(kubeconfig, overrides))
        contexts = select(
            kubeconfig,
            overrides,
            os.environ,
            names=config.contexts,
            takes_all=config.all_contexts,
            may_lack=may_lack,
        )
    except ConfigError as error:
        problems += error.problems
    if plugin_policy is None or kubeconfig is None or contexts is None:
        raise ClustersError(problems, (*paths, *named))
    return Clusters(
        contexts=contexts,
        kubeconfig=kubeconfig,
        plugin_policy=plugin_policy,
        paths=paths,
        named=named,
        seen={**seen, **take_snapshot(authority_paths((contexts.default,)))},
    )


def _named_files(kubeconfig: KubeConfig, overrides: Overrides) -> Iterator[Path]:
    """All files of authorities and credentials, whoever's they are."""
    flags = (overrides.certificate_authority, overrides.client_certificate, overrides.client_key)
    files = [Path(each) if each else None for each in flags]
    files += (cluster.certificate_authority for cluster in kubeconfig.clusters.values())
    for user in kubeconfig.users.values():
        files += (user.client_certificate, user.client_key, user.token_file)
    yield from filter(None, files)


def authority_paths(contexts: Iterable[ResolvedContext]) -> tuple[Path, ...]:
    """The files of authorities, watched beside the kubeconfig; credentials watch their own files."""
    paths = (context.cluster.certificate_authority for context in contexts)
    return tuple(path for path in paths if path is not None)


def questions_of_the_place(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """The same about this machine, for a start: they change only with another one."""
    if config.www is not None:
        try:
            if not stat.S_ISDIR(Path(config.www).stat().st_mode):
                yield f"Static file directory {config.www} is not a directory"
        except OSError as error:
            yield f"Failed to stat static file directory {config.www}: {error.strerror}"
    yield from health_of(environ)[1]


def questions(config: Config, plan: Plan, settings: Settings | None = None) -> Iterator[str]:
    """What works, but is dangerous or probably not meant."""
    yield from plan.policy.warnings(has_unix_socket=config.has_only_unix_sockets)
    yield from warnings_for(plan.context, append_server_path=config.append_server_path)
    yield from settings.warnings if settings is not None else ()

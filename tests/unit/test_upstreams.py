"""The table of upstreams, by values alone: nothing is dialled."""

from __future__ import annotations

import asyncio

from kproxy.config.schema import Config
from kproxy.errors import ConfigError
from kproxy.kube.contexts import Contexts, select
from kproxy.kube.kubeconfig import Cluster, Context, KubeConfig, Overrides, ResolvedContext, User
from kproxy.server.server import open_upstream
from kproxy.upstream.table import Upstreams
from kproxy.upstream.upstream import Upstream


def contexts_at(**servers: str) -> Contexts:
    """A context for each server; the first is the default one."""
    kubeconfig = KubeConfig(
        clusters={name: Cluster(name=name, server=server) for name, server in servers.items()},
        users={"u": User(name="u")},
        contexts={name: Context(name=name, cluster=name, user="u") for name in servers},
        current_context=next(iter(servers)),
    )
    return select(kubeconfig, Overrides(), {}, takes_all=True)


async def test_what_was_wrong_with_old_settings_says_nothing_of_new_ones() -> None:
    """The look at the contexts takes its time after the start; the kubeconfig may change meanwhile."""
    loop = asyncio.get_running_loop()

    def opened(context: ResolvedContext) -> Upstream:
        return open_upstream(context, Config(), loop)

    before, after = (contexts_at(a="http://a.test", b=f"http://{server}.test") for server in ("b", "new-b"))
    upstreams = Upstreams(opened, before, loop)
    upstreams.apply(after)
    old, new = before.others["b"], after.others["b"]
    assert isinstance(old, ResolvedContext)
    assert isinstance(new, ResolvedContext)
    seat = upstreams.table.seats["b"]
    upstreams.note_failure(old, ConfigError("what was wrong"))
    assert seat.failure == ()
    upstreams.note_failure(new, ConfigError("what is wrong"))
    assert seat.failure == ("what is wrong",)
    await upstreams.close()

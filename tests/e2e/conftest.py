"""kproxy, the real program, between real clients and a cluster: `proxy`, `open_proxy`, `demo_proxy`.

Every test with `cluster` below it runs against the demo cluster, and against a real control plane as well
where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd. What needs running pods takes the demo
ones. Programs live as long as the session, so each test works in a namespace of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Chromium, Page, new_page
from tests.e2e.clusters import Api, Cluster, control_plane, demo_cluster
from tests.support.program import Program

ASSETS = "KUBEBUILDER_ASSETS"
CLUSTERS = ("demo", "real_cluster") if os.environ.get(ASSETS) else ("demo",)

Serve = Callable[..., Program]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def demo() -> Iterator[Cluster]:
    with demo_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with control_plane(Path(os.environ[ASSETS]), tmp_path_factory.mktemp("control-plane")) as cluster:
        yield cluster


@pytest.fixture(scope="session", params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed")
    with Chromium(path, tmp_path_factory.mktemp("chromium")) as program:
        yield program


@pytest.fixture
async def page(chromium: Chromium) -> AsyncIterator[Page]:
    async with new_page(chromium) as page:
        yield page


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """serve(cluster, *flags): kproxy with these flags, one program for all who ask for the same."""
    programs: dict[tuple[str, ...], Program] = {}
    with contextlib.ExitStack() as stack:

        def opened(cluster: Cluster, *flags: str) -> Program:
            key = (cluster.name, *flags)
            if key not in programs:
                programs[key] = stack.enter_context(Program(*flags, kubeconfig=cluster.kubeconfig))
            return programs[key]

        yield opened


@pytest.fixture
def proxy(serve: Serve, cluster: Cluster) -> Program:
    """kproxy as it is by default."""
    return serve(cluster)


@pytest.fixture
def demo_proxy(serve: Serve, demo: Cluster) -> Program:
    """kproxy as it is by default, in front of pods that run."""
    return serve(demo)


@pytest.fixture
def open_proxy(serve: Serve, demo: Cluster) -> Program:
    """kproxy that lets exec and attach through."""
    return serve(demo, "--reject-paths=")


@pytest.fixture
def api(proxy: Program) -> Api:
    return Api(proxy)


@pytest.fixture
def demo_api(demo_proxy: Program) -> Api:
    return Api(demo_proxy)


@pytest.fixture
def namespace(api: Api) -> str:
    """A new one in the cluster."""
    return _new_namespace(api)


@pytest.fixture
def demo_namespace(demo_api: Api) -> str:
    """A new one in the demo cluster."""
    return _new_namespace(demo_api)


def _new_namespace(api: Api) -> str:
    name = f"test-{next(_numbers)}-{os.getpid()}"
    api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name

"""kproxy.kube.contexts: slugs, which contexts are served, and which one a host or a path means."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import KubeconfigError
from kproxy.kube.contexts import CLUSTERS, Contexts, Served, label_of, select, slugs_of, split_path, unknown
from kproxy.kube.kubeconfig import Cluster, Context, KubeConfig, Overrides, ResolvedContext, User
from tests.support import secrets

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAMES = st.lists(st.text(max_size=70), unique=True, max_size=12)


def kubeconfig(*names: str, current: str = "", broken: tuple[str, ...] = ()) -> KubeConfig:
    """A context with a cluster and a user of its name for each; those of `broken` ones do not exist."""
    sound = [name for name in names if name not in broken]
    return KubeConfig(
        clusters={
            name: Cluster(name=name, server=f"https://{index}.test") for index, name in enumerate(sound)
        },
        users={name: User(name=name, token=secrets.plant(f"token-{name}")) for name in sound},
        contexts={name: Context(name=name, cluster=name, user=name) for name in names},
        current_context=current,
    )


def chosen(config: KubeConfig, environ: dict[str, str] | None = None, **options: Any) -> Contexts:
    wishes = {name: options.pop(name) for name in ("names", "takes_all", "may_lack") if name in options}
    return select(config, Overrides(**options), environ or {}, **wishes)


def names(contexts: Contexts) -> list[str]:
    return [served.name for served in contexts.served]


# -- slugs --


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("prod", "prod"),
        ("Prod", "prod"),
        ("kind-dev", "kind-dev"),
        ("kubernetes-admin@kubernetes", "kubernetes-admin-kubernetes"),
        ("gke_my-project_europe-west1_main", "gke-my-project-europe-west1-main"),
        (
            "arn:aws:eks:eu-west-1:123456789012:cluster/prod",
            "arn-aws-eks-eu-west-1-123456789012-cluster-prod",
        ),
        ("default/api-crc-testing:6443/kubeadmin", "default-api-crc-testing-6443-kubeadmin"),
        ("xn--bcher-kva", "xn-bcher-kva"),
        ("--dev--", "dev"),
        ("127.0.0.1:6443", "127-0-0-1-6443"),
    ],
)
def test_slugs_are_readable(name: str, slug: str) -> None:
    """The names that tools give contexts stay recognizable."""
    assert slugs_of([name]) == {name: slug}


@pytest.mark.parametrize("name", ["", "@", "日本語", "a" * 64, "a" * 200])
def test_names_without_a_label_get_their_hash(name: str) -> None:
    """Nothing left of a name, or too much of it."""
    (slug,) = slugs_of([name]).values()
    assert LABEL.fullmatch(slug)
    assert re.search(r"-[0-9a-f]{6}$", slug)


@given(NAMES)
def test_slugs_are_unique_labels(names: list[str]) -> None:
    """RFC 1035 labels, one for each name, no two alike."""
    slugs = slugs_of(names)
    assert list(slugs) == names or set(slugs) == set(names)
    assert len(set(slugs.values())) == len(names)
    assert all(LABEL.fullmatch(slug) and "--" not in slug for slug in slugs.values())


@given(NAMES, st.randoms())
def test_slugs_do_not_depend_on_order(names: list[str], random: Any) -> None:
    """A kubeconfig that was sorted means the same origins."""
    shuffled = names.copy()
    random.shuffle(shuffled)
    assert slugs_of(shuffled) == slugs_of(names)


def test_a_new_name_takes_no_slug_over() -> None:
    """An open page of "Prod" must not find itself before "prod": both get a hash, the old origin is none."""
    before, after = slugs_of(["Prod"]), slugs_of(["Prod", "prod"])
    assert before["Prod"] not in after.values()


def test_a_name_that_looks_like_a_hashed_slug_keeps_its_own() -> None:
    """A collision of collisions ends in a longer hash."""
    hashed = slugs_of(["a.b", "a_b"])["a.b"]
    slugs = slugs_of(["a.b", "a_b", hashed])
    assert slugs[hashed] == hashed
    assert slugs["a.b"].startswith(hashed)
    assert len(set(slugs.values())) == 3


# -- which are served --


def test_without_a_wish_one_context_is_served() -> None:
    """As kubectl proxy; its slug is there, its path is not."""
    contexts = chosen(kubeconfig("a", "b", current="b"))
    assert names(contexts) == ["b"]
    assert contexts.served[0] == Served(name="b", slug="b", is_default=True)
    assert not contexts.has_paths


@pytest.mark.parametrize(
    ("current", "wish", "served"),
    [
        ("a", {"names": ("b", "c")}, ["b", "c"]),
        ("c", {"names": ("b", "c")}, ["c", "b"]),
        ("a", {"names": ("b",), "context": "c"}, ["c", "b"]),
        ("b", {"takes_all": True}, ["b", "a", "c"]),
        ("b", {"takes_all": True, "context": "c"}, ["c", "a", "b"]),
        ("", {"names": ("b", "a")}, ["b", "a"]),
    ],
)
def test_the_default_and_the_others(current: str, wish: dict[str, Any], served: list[str]) -> None:
    """--context, else the current one if it is listed, else the first listed: nobody else's is served."""
    contexts = chosen(kubeconfig("a", "b", "c", current=current), **wish)
    assert names(contexts) == served
    assert [each.is_default for each in contexts.served] == [True] + [False] * (len(served) - 1)
    assert contexts.default.name == served[0]
    assert set(contexts.others) == set(served[1:])
    assert contexts.has_paths


def test_slugs_do_not_depend_on_what_is_served() -> None:
    """--contexts=a.b names the same origin as --all-contexts does."""
    config = kubeconfig("a.b", "a_b", current="a.b")
    some, every = chosen(config, names=("a.b",)), chosen(config, takes_all=True)
    assert some.served[0].slug == every.served[0].slug


def test_a_name_that_does_not_exist() -> None:
    """A typo ends the start and names what there is; on a reload it is a context that has gone."""
    config = kubeconfig("a", "b", current="a")
    with pytest.raises(KubeconfigError, match='no context "c"; the kubeconfig has: "a", "b"'):
        chosen(config, names=("a", "c"))
    assert names(chosen(config, names=("a", "c"), may_lack=True)) == ["a"]


def test_the_default_of_a_list_never_moves_on() -> None:
    """When the first of --contexts has gone, `/` does not come to mean the second."""
    with pytest.raises(KubeconfigError):
        chosen(kubeconfig("b", current="x"), names=("a", "b"), may_lack=True)


def test_a_broken_context_spoils_no_other() -> None:
    """It is served, with its error in the place of its settings."""
    contexts = chosen(kubeconfig("a", "b", "c", current="a", broken=("b",)), takes_all=True)
    assert names(contexts) == ["a", "b", "c"]
    error = contexts.others["b"]
    assert isinstance(error, KubeconfigError)
    assert 'context "b"' in str(error)
    assert isinstance(contexts.others["c"], ResolvedContext)


def test_a_broken_default_is_an_error() -> None:
    """As with one context."""
    with pytest.raises(KubeconfigError):
        chosen(kubeconfig("a", "b", current="b", broken=("b",)), takes_all=True)


def test_impersonation_is_for_every_context() -> None:
    """Whoever starts with --as to be less than themselves is less everywhere."""
    contexts = chosen(kubeconfig("a", "b", current="a"), takes_all=True, impersonate="viewer")
    other = contexts.others["b"]
    assert isinstance(other, ResolvedContext)
    assert contexts.default.user.impersonate == other.user.impersonate == "viewer"


def test_the_environment_is_for_the_default_context() -> None:
    """KUBERNETES_MASTER stands in for no other context's server."""
    config = kubeconfig("a", "b", current="a")
    for name in ("a", "b"):
        config.clusters[name] = Cluster(name=name, server="")  # type: ignore[index]
    contexts = chosen(config, {"KUBERNETES_MASTER": "http://h"}, takes_all=True)
    assert contexts.default.cluster.server == "http://h"
    assert isinstance(contexts.others["b"], KubeconfigError)


def test_a_context_without_a_name_is_itself() -> None:
    """And not the current one, which an empty --context would mean; its path is by its slug."""
    contexts = chosen(kubeconfig("a", "", current="a"), takes_all=True)
    other = contexts.others[""]
    assert isinstance(other, ResolvedContext)
    assert (other.cluster, other.user) != (contexts.default.cluster, contexts.default.user)
    (served,) = [each for each in contexts.served if each.name == ""]
    assert served.path == f"/clusters/{served.slug}/"


# -- hosts, URLs and paths --


@pytest.mark.parametrize(
    ("host", "label"),
    [
        ("a.localhost", "a"),
        ("a.localhost:8001", "a"),
        ("A.LocalHost:8001", "a"),
        ("a.localhost.:8001", "a"),
        ("a.b.localhost", "a.b"),
        ("localhost", None),
        ("localhost:8001", None),
        (".localhost", None),
        ("a.localhost.example", None),
        ("alocalhost", None),
        ("a.localhost:80:80", None),
        ("a/.localhost", None),
        ("", None),
    ],
)
def test_the_label_of_a_host(host: str, label: str | None) -> None:
    """Whole names below localhost, in any case, with any port."""
    assert label_of(host) == label


def test_where_a_context_is() -> None:
    """Its own origin, and its path with everything but unreserved characters escaped."""
    served = Served(name="arn:aws:eks/prod", slug="prod", is_default=False)
    assert served.path == "/clusters/arn%3Aaws%3Aeks%2Fprod/"
    assert served.url("http", 8001) == "http://prod.localhost:8001/"
    assert served.url("https", 443) == "https://prod.localhost/"


@pytest.mark.parametrize(
    ("target", "name", "rest", "is_complete"),
    [
        ("/clusters/a/", "a", "/", True),
        ("/clusters/a", "a", "/", False),
        ("/clusters/a?x=1", "a", "/?x=1", False),
        ("/clusters/a/api/v1/pods?watch=1", "a", "/api/v1/pods?watch=1", True),
        ("/clusters/a%2Fb/api", "a/b", "/api", True),
        ("/clusters/a%252Fb/api", "a%2Fb", "/api", True),
        ("/clusters/a%2f..%2fb/api", "a/../b", "/api", True),
        ("/clusters/%2e%2e/b/api", "..", "/b/api", True),
        ("/clusters/a;b/api", "a;b", "/api", True),
        ("/clusters/gr%C3%B6n/", "grön", "/", True),
        ("/clusters/a/clusters/b/", "a", "/clusters/b/", True),
        ("/clusters/", "", "/", False),
        ("/clusters?x", "", "/?x", False),
        ("/clusters//a", "", "/a", True),
    ],
)
def test_a_path_taken_apart(target: str, name: str, rest: str, is_complete: bool) -> None:
    """One raw segment is the name, decoded once; the rest stays as it is."""
    found = split_path(target)
    assert found is not None
    assert (found.name, found.rest, found.is_complete) == (name, rest, is_complete)
    assert f"{target.partition('?')[0]}/".startswith(found.prefix)


@pytest.mark.parametrize(
    "target", ["/", "/clusters2", "/Clusters/a/", "/x/clusters/a/", "/%63lusters/a/", "*"]
)
def test_other_paths_name_no_context(target: str) -> None:
    """The prefix is matched byte for byte."""
    assert split_path(target) is None


@given(
    st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30),
    st.sampled_from(["", "/", "?", "x"]),
)
def test_a_context_is_found_at_its_path(name: str, tail: str) -> None:
    """Whatever its name is; by its slug if clients would take the name for no segment."""
    served = Served(name=name, slug="s", is_default=False)
    found = split_path(served.path + "api" + tail)
    assert found is not None
    written = name if name.strip(".") else "s"
    assert (found.name, found.rest) == (written, "/api" + tail)
    assert found.prefix + "/" == served.path == f"{CLUSTERS}{quote(written, safe='')}/"


def test_bytes_that_are_no_text_name_nobody() -> None:
    """They come to no name that a kubeconfig can have."""
    found = split_path("/clusters/%ff/")
    assert found is not None
    with pytest.raises(UnicodeEncodeError):
        found.name.encode()


def test_an_unknown_context_is_told_what_there_is() -> None:
    """404, with names and flags; a long list is cut."""
    served = [Served(name=f"c{number}", slug=f"c{number}", is_default=not number) for number in range(25)]
    error = unknown("Host 'x' is nobody's", served)
    assert (error.status, error.reason) == (404, "NotFound")
    assert str(error).startswith('Host \'x\' is nobody\'s; served are "c0", "c1"')
    assert '"c19" and 5 more' in str(error)
    assert "--contexts" in str(error)

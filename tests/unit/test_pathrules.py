"""The ways a path may be read, and which of them lead into a pod."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.kube.requestinfo import decoded_path, resolved
from kproxy.policy.paths import (
    MAX_JUDGED_BYTES,
    MAX_ODD_BYTES,
    TooManyReadings,
    leaves_root,
    opens_stream,
    readings,
)

ANY_PATH = st.text(st.characters(max_codepoint=0xFF, exclude_characters="?"), max_size=30).map("/".__add__)


@pytest.mark.parametrize("path", ["/", "/api/v1/pods", "/api/v1/namespaces/a.b/pods/p:1@~x"])
def test_a_plain_path_has_one_reading(path: str) -> None:
    """Nothing in it can be read in two ways."""
    assert readings(path) == ((path,), (path,))


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        ("/a%2Fb", "/a/b"),
        ("/a%252Fb", "/a/b"),
        ("/a/..%2Fb", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a//b", "/a/b"),
        ("/a;v=1/b", "/a/b"),
        ("/a/..;/b", "/b"),
        ("/a/..;x=/..%3B/b", "/b"),
        ("/a\\b", "/a/b"),
        ("/a%5C..%5cb", "/b"),
        ("/a%0A/b", "/a/b"),
        ("/a/.%09./b", "/b"),
        ("/a%00/b%7f", "/a/b"),
        ("/a%5C..;x%5Cb", "/b"),
        ("/a%5C%5Cb", "/a/b"),
        ("/a/.;x/b", "/a/b"),
        ("/a/%09/b", "/a/b"),
        ("/a/", "/a"),
        ("/a%2F", "/a"),
        ("/a#/b", "/a"),
        ("/a%23b", "/a"),
        ("/a%3Fb", "/a"),
        ("/a/%253Fb", "/a"),
        ("/%3F", "/"),
        # parameters are taken off before anything is decoded, after it, and both
        ("/a;%2Fb%2F/c", "/a/c"),
        ("/a%3B%2Fb/c", "/a/b/c"),
        ("/a;x%2Fy/b;%2F/%2e%2e/c", "/a/c"),
        ("/a%253B%2Fb/c", "/a/c"),
        ("/a;x/..;jsessionid=1%2F../b", "/a;x/../b"),
        ("/a;%2Fb/c;%2Fd", "/a;/b/c"),
        # dots go while an encoded slash, or all but plain characters, are still part of a name
        ("/a%2Fb/%2e%2e/c", "/c"),
        ("/a%5Cb/%2e%2e/c", "/c"),
        ("/a;%2Fb/%2e%2e/c", "/c"),
        # cleaned before it is decoded
        ("/a%2Fb/../c", "/c"),
        # an empty segment is one to RFC 3986, and none to Go
        ("/a/b/%2F../c", "/a/b/c"),
        ("/a/b/%2F../c", "/a/c"),
        # each layer of encoding, however many
        ("/a%2525252525252Fb", "/a/b"),
        # some drop tabs alone, or NUL alone
        ("/a/.%00./.%09./b", "/a/b"),
        ("/a/.%09./.%00./b", "/a/b"),
        ("/a%00/b", "/a"),
        ("/a;/b", "/a"),
        # what UTF-8 does not allow, and what Windows makes of full-width forms
        ("/a%C0%AFb", "/a/b"),
        ("/a/%c0%ae%c0%ae/b", "/b"),
        ("/a%E0%80%AFb", "/a/b"),
        ("/a%f0%80%80%afb", "/a/b"),
        ("/a%fc%80%80%80%80%afb", "/a/b"),
        ("/a%C1%9C..%25C0%25AFb", "/b"),
        ("/a\xc0\xafb", "/a/b"),
        ("/a%EF%BC%8F%EF%BC%8E%EF%BC%8E/b", "/b"),
        ("/a%E2%88%95b", "/a/b"),
    ],
)
def test_odd_paths_are_also_read_as_lax_servers_do(path: str, reading: str) -> None:
    """Each trick ends in the path that some server makes of it."""
    assert reading in readings(path)[1]


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("/a/", {"/a/"}),
        ("/a#b", {"/a#b", "/a"}),
        ("/a;v=1", {"/a;v=1", "/a"}),
        ("/a%0A", {"/a\n"}),
        ("/a%20%62", {"/a b"}),
        ("/caf%C3%A9%EF%BC%81", {"/caf\xe9\uff01"}),
        ("/a%2520b", {"/a%20b", "/a b"}),
        ("/a%5Cb", {"/a\\b", "/a/b"}),
        ("/a;%2Fb", {"/a;/b", "/a/b", "/a"}),
        ("/a/./b", {"/a/./b", "/a/b"}),
        ("/a/../b", {"/a/../b", "/b"}),
        ("/a/..%5Cb", {"/a/..\\b", "/a/../b", "/b"}),
        ("/a/..;/b", {"/a/..;/b", "/a/../b", "/b", "/"}),
        ("/a/%252e%252e/b", {"/a/%2e%2e/b", "/a/../b", "/b"}),
        ("/a/.%09./b", {"/a/.\t./b", "/b"}),
    ],
)
def test_what_an_accept_list_must_have(path: str, accepted: set[str]) -> None:
    """What is decoded once at least, and where dot segments lead; not without the space of a name."""
    assert set(readings(path)[0]) == accepted


@given(ANY_PATH)
def test_the_plain_and_the_canonical_reading_are_always_there(path: str) -> None:
    """What kubectl would match comes first, and whatever must be accepted may also be rejected."""
    accepted, possible = readings(path)

    assert accepted[0] == decoded_path(path)
    assert resolved(decoded_path(path)) in accepted
    assert set(accepted) <= set(possible)
    assert len(set(possible)) == len(possible)


@pytest.mark.parametrize(
    "path",
    [
        "/x" + "/%2e%2e;\\x%09/a%252f" * 300,
        "/" + "%" + "25" * 1000,
        "/;x" + "%255c..;%2F#%00\\.%2e/%2509.%23%c0%af%3f" * 3,
        "/" + "%20" * 3000,
    ],
)
def test_there_is_an_end_to_readings(path: str) -> None:
    """A path that has more than can be judged in a time others can wait is none that anything is said of."""
    with pytest.raises(TooManyReadings):
        readings(path)


ODD = st.sampled_from("%25|%2F|;|..|/|\\|%5C|%00|%3F|#|.|a|%C0%AF|%EF%BC%8F".split("|"))  # noqa: SIM905


@given(st.lists(ODD, max_size=60))
def test_what_is_judged_is_bounded(pieces: list[str]) -> None:
    """All readings have no more bytes than they may, twice for those without the slash at the end."""
    path = "/" + "".join(pieces)
    assert len(path) < MAX_ODD_BYTES
    with contextlib.suppress(TooManyReadings):
        assert sum(map(len, readings(path)[1])) <= 2 * MAX_JUDGED_BYTES


@pytest.mark.parametrize(
    ("path", "exec_", "attach"),
    [
        ("/api/v1/namespaces/n/pods/p/exec", True, False),
        ("/api/v1/namespaces/n/pods/p/attach", False, True),
        ("/api/v1/namespaces/n/pods/p/executable", True, False),
        ("/k8s/clusters/c-1/api/v1/namespaces/n/pods/p/exec", True, False),
        ("/apis/cluster.karmada.io/v1alpha1/clusters/m/proxy/api/v1/namespaces/n/pods/p/exec", True, False),
        ("/api/v1/namespaces/n/pods/execfoo", False, False),
        ("/api/v1/namespaces/n/pods/p/log", False, False),
        ("/api/v1/namespaces/n/pods/p/portforward", False, False),
        ("/api/pods/p/exec", False, False),
        ("/apis/example.org/v1/namespaces/n/pods/p/exec", False, False),
        # a node's proxy is the kubelet
        ("/api/v1/nodes/n/proxy/exec/ns/pod/ctr", True, False),
        ("/api/v1/nodes/n/proxy/run/ns/pod/ctr", True, False),
        ("/api/v1/nodes/n/proxy/cri/exec/token", True, False),
        ("/api/v1/nodes/https:n:10250/proxy/attach/ns/pod/ctr", False, True),
        ("/api/v1/nodes/n/proxy/cri/attach/token", False, True),
        ("/api/v1/proxy/nodes/n/exec/ns/pod/ctr", True, False),
        ("/k8s/clusters/c-1/api/v1/nodes/n/proxy/exec", True, False),
        ("/api/v1/nodes/n/proxy/logs/exec", False, False),
        ("/api/v1/nodes/n/proxy/running", False, False),
        ("/api/v1/nodes/n/proxy/a/pods/p/exec", True, False),
        # an app's own URLs are not
        ("/api/v1/namespaces/n/services/s/proxy/pods/x/exec", False, False),
        ("/api/v1/namespaces/n/services/https:s:443/proxy/api/v1/namespaces/n/pods/p/attach", False, False),
        ("/api/v1/namespaces/n/pods/p:8080/proxy/exec", False, False),
        ("/k8s/clusters/c-1/api/v1/namespaces/n/services/s/proxy/pods/x/exec", False, False),
        ("/api/v1/namespaces/n/pods/p/exec/api/v1/namespaces/n/services/s/proxy/", True, False),
        ("/api/v1/namespaces/n/configmaps/s/proxy/pods/x/exec", True, False),
    ],
)
def test_which_readings_open_a_stream(path: str, exec_: bool, attach: bool) -> None:
    """Exec and attach in pods and through the kubelet, wherever the API is; nothing of an app's own."""
    assert opens_stream(path, "exec") is exec_
    assert opens_stream(path, "attach") is attach


@pytest.mark.parametrize(
    ("path", "leaves"),
    [
        ("/", False),
        ("/..", True),
        ("/../api", True),
        ("/a/../b", False),
        ("/a/../../b", True),
        ("/a//../../b", True),
        ("/a/./../..", True),
        ("/a/b/../../c/..", False),
        ("/a/../../b/c/d", True),
        ("/...", False),
        ("/..a", False),
    ],
)
def test_which_readings_leave_the_root(path: str, leaves: bool) -> None:
    """Those whose dots take off more than was there before them, wherever they end."""
    assert leaves_root(path) is leaves


WORDS = ["api", "v1", "pods", "exec", "nodes", "x", "proxy", "executor", "namespaces", "services"]


@given(st.lists(st.sampled_from(WORDS), max_size=12).map(lambda words: "/" + "/".join(words)))
def test_outside_of_apps_nothing_passes_that_kubectl_refuses(path: str) -> None:
    """Where no app's tail begins, whatever the default expression matches opens a stream."""
    app = re.search(r"/api/v1/namespaces/[^/]+/(pods|services)/[^/]+/proxy/", path)

    if app is None and re.search(r"^/api/.*/pods/.*/exec", path):
        assert opens_stream(path, "exec")

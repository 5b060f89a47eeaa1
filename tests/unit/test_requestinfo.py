"""Request attributes as the API server reads them, canonical paths, and the redirects of kubectl."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.kube.requestinfo import RequestInfo, app_tail_at, cleaned_target, decoded_path, parse, resolved

REDIRECTS = json.loads((Path(__file__).parents[1] / "conformance" / "filter_cases.json").read_text())[
    "redirects"
]

WIRE = st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f?")
SEGMENTS = st.one_of(
    st.sampled_from(
        ["", ".", "..", "%2e", "%2E%2e", ".%2E", "a", "..a", "api", "v1", "proxy", "\\", "%2F", "%5C"]
    ),
    st.text(WIRE, max_size=4),
)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=8).map(lambda segments: "/" + "/".join(segments))
QUERIES = st.sampled_from(["", "?", "?a=1", "?a=//../b", "?watch=true", "?a=\\\xff"])
APP = "/api/v1/namespaces/n/services/s/proxy/"


def info(**fields: object) -> dict[str, object]:
    """What a RequestInfo holds besides its defaults and its path."""
    return fields


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        # requestinfo_test.go, TestGetAPIRequestInfo
        ("GET", "/api/v1/namespaces", info(verb="list", resource="namespaces")),
        (
            "GET",
            "/api/v1/namespaces/other",
            info(verb="get", resource="namespaces", namespace="other", name="other"),
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods",
            info(verb="list", resource="pods", namespace="other"),
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo",
            info(verb="get", resource="pods", namespace="other", name="foo"),
        ),
        (
            "HEAD",
            "/api/v1/namespaces/other/pods/foo",
            info(verb="get", resource="pods", namespace="other", name="foo"),
        ),
        ("GET", "/api/v1/pods", info(verb="list", resource="pods")),
        ("HEAD", "/api/v1/pods", info(verb="list", resource="pods")),
        (
            "GET",
            "/api/v1/proxy/namespaces/other/pods/foo",
            info(verb="proxy", resource="pods", namespace="other", name="foo"),
        ),
        (
            "GET",
            "/api/v1/proxy/namespaces/other/pods/foo/subpath/not/a/subresource",
            info(verb="proxy", resource="pods", namespace="other", name="foo"),
        ),
        ("GET", "/api/v1/watch/pods", info(verb="watch", resource="pods", is_long_running=True)),
        ("GET", "/api/v1/pods?watch=true", info(verb="watch", resource="pods", is_long_running=True)),
        ("GET", "/api/v1/pods?watch=1", info(verb="watch", resource="pods", is_long_running=True)),
        ("GET", "/api/v1/pods?watch", info(verb="watch", resource="pods", is_long_running=True)),
        ("GET", "/api/v1/pods?w%61tch=t", info(verb="watch", resource="pods", is_long_running=True)),
        ("GET", "/api/v1/pods?watch=false", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?watch=0", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?watch=False&watch=true", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?watch=true;x", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?x=1;watch=true", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?labelSelector=watch%3Dtrue", info(verb="list", resource="pods")),
        (
            "GET",
            "/api/v1/watch/namespaces/other/pods",
            info(verb="watch", resource="pods", namespace="other", is_long_running=True),
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo/status",
            info(verb="get", resource="pods", namespace="other", name="foo", subresource="status"),
        ),
        (
            "PUT",
            "/api/v1/namespaces/other/finalize",
            info(
                verb="update", resource="namespaces", namespace="other", name="other", subresource="finalize"
            ),
        ),
        (
            "PATCH",
            "/api/v1/namespaces/other/status",
            info(verb="patch", resource="namespaces", namespace="other", name="other", subresource="status"),
        ),
        ("POST", "/api/v1/namespaces/other/pods", info(verb="create", resource="pods", namespace="other")),
        ("DELETE", "/api/v1/nodes", info(verb="deletecollection", resource="nodes")),
        ("DELETE", "/api/v1/nodes/n", info(verb="delete", resource="nodes", name="n")),
        ("OPTIONS", "/api/v1/nodes", info(verb="", resource="nodes")),
        (
            "GET",
            "/apis/apps/v1/namespaces/n/deployments/d/scale",
            info(
                verb="get",
                api_group="apps",
                resource="deployments",
                namespace="n",
                name="d",
                subresource="scale",
            ),
        ),
        ("GET", "/apis/batch/v1/jobs/", info(verb="list", api_group="batch", resource="jobs")),
        # a list narrowed to one name is authorized by that name
        (
            "GET",
            "/api/v1/namespaces/n/secrets?fieldSelector=metadata.name%3Dtop&watch=1",
            info(verb="watch", resource="secrets", namespace="n", name="top", is_long_running=True),
        ),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.x%3D1,metadata.name==a",
            info(verb="list", resource="pods", name="a"),
        ),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name!=a", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=a%2Fb", info(verb="list", resource="pods")),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=..", info(verb="list", resource="pods")),
        # long-running by what they are
        (
            "GET",
            "/api/v1/namespaces/n/pods/p/log?follow=true",
            info(
                verb="get", resource="pods", namespace="n", name="p", subresource="log", is_long_running=True
            ),
        ),
        (
            "GET",
            "/api/v1/namespaces/n/pods/p/log?follow=false",
            info(verb="get", resource="pods", namespace="n", name="p", subresource="log"),
        ),
        (
            "POST",
            "/api/v1/namespaces/n/pods/p/exec?command=sh",
            info(
                verb="create",
                resource="pods",
                namespace="n",
                name="p",
                subresource="exec",
                is_long_running=True,
            ),
        ),
        (
            "GET",
            "/api/v1/namespaces/n/services/s/proxy/a/b",
            info(verb="get", resource="services", namespace="n", name="s", subresource="proxy"),
        ),
        # escapes are undone before the path is taken apart, as in URL.Path
        ("GET", "/api/v1/namespaces/a%20b/p%6fds", info(verb="list", resource="pods", namespace="a b")),
        ("GET", "/api/v1/namespaces%2Fn%2Fpods", info(verb="list", resource="pods", namespace="n")),
    ],
)
def test_resource_requests(method: str, target: str, expected: dict[str, object]) -> None:
    """Verb, resource, namespace and name are those the API server authorizes by."""
    found = parse(method, target)

    group = "/apis/" in target
    assert found == RequestInfo(
        path=resolved(decoded_path(target.partition("?")[0])),
        is_resource_request=True,
        api_version="v1",
        **({"api_group": ""} | expected if not group else expected),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "",
        "*",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/version",
        "/healthz/ping/x/y",
        "/API/v1/pods",
    ],
)
def test_other_paths_are_no_resources(target: str) -> None:
    """Discovery, health and whatever else has the method for a verb and no resource."""
    assert parse("GET", target) == RequestInfo(verb="get", path=resolved(decoded_path(target)))


def test_an_old_watch_path_without_resource_is_not_misread() -> None:
    """`/api/v1/watch`, which the API server answers with an error, names no resource."""
    found = parse("GET", "/api/v1/watch")

    assert (found.verb, found.resource, found.name) == ("get", "", "")


@pytest.mark.parametrize("target", ["/", "/api/v1/namespaces/n/services/s/proxy/ws", "/apis/x/v1/y"])
def test_any_upgrade_is_long_running(target: str) -> None:
    """A tunnel lasts until one side leaves it, whatever it is for."""
    assert parse("GET", target, is_upgrade=True).is_long_running
    assert not parse("GET", target).is_long_running


@given(st.text(WIRE, max_size=3), PATHS, QUERIES)
def test_every_target_can_be_parsed(method: str, path: str, query: str) -> None:
    """No target raises, and its path is always the canonical one."""
    assert parse(method, path + query).path == resolved(decoded_path(path))


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/api/v1/pods", "/api/v1/pods"),
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/a/", "/a/"),
        ("/a//b///c", "/a/b/c"),
        ("/a/./b/../c/", "/a/c/"),
        ("/..", "/"),
        ("/a/..", "/"),
        ("/a/.", "/a"),
        ("/x/..%2Fapi", "/api"),
        ("/x/%2e%2E/api", "/api"),
        ("/%252e%252e/api", "/%2e%2e/api"),
        ("/caf%C3%a9", "/café"),
        ("/caf\xc3\xa9", "/café"),
        ("/%ff", "/\ufffd"),
        ("/%e2%82A", "/\ufffd\ufffdA"),
        ("/%ed%a0%80", "/\ufffd\ufffd\ufffd"),
        ("/a%zz%", "/a%zz%"),
        ("/a;v=1/b\\c", "/a;v=1/b\\c"),
        ("/a%00%0A", "/a\x00\n"),
    ],
)
def test_canonical_paths(path: str, canonical: str) -> None:
    """Decoded once, slashes merged, dot segments resolved; `;`, `\\` and control characters stay."""
    assert resolved(decoded_path(path)) == canonical


@given(PATHS)
def test_a_canonical_path_is_decoded_and_clean(path: str) -> None:
    """It equals an independent decoding and normalisation, and resolving it again changes nothing."""
    canonical = resolved(decoded_path(path))

    escaped = unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "surrogateescape")
    decoded = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in escaped)
    expected = "/" + posixpath.normpath(decoded).strip("/")
    assert canonical == expected + ("/" if decoded.endswith("/") and expected != "/" else "")
    assert resolved(canonical) == canonical


@pytest.mark.parametrize("target", REDIRECTS)
def test_redirects_where_kubectl_does(target: str) -> None:
    """Targets lead where kubectl's 301 led, and nowhere when it forwarded them."""
    assert cleaned_target(target) == REDIRECTS[target]


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//evil.com/%2e%2e", "/"),
        ("//evil.com", "/evil.com"),
        ("/.//evil.com", "/evil.com"),
        ("//\\evil.com", "/%5Cevil.com"),
        ("/..//\\/evil.com", "/%5C/evil.com"),
        ("//a\xff\x01", "/a%FF%01"),
        ("//a?q=\xff&b=\\", "/a?q=%FF&b=\\"),
        ("//a?", "/a"),
        ("/a/%2e/b", None),
        ("/a/..%2Fb", None),
        ("*", None),
        ("http://localhost//a", None),
        # the URL of somebody else's app, of a pod, a service or a node
        (APP + "/x", None),
        (APP + "a//b/../c?d=//e", None),
        (APP + "..", None),
        ("/api/v1/namespaces/n/pods/https:p:443/proxy//x/./", None),
        ("/api/v1/nodes/n/proxy//x", None),
        ("/custom" + APP + "/x//y", None),
        # its own part of the path is cleaned, the app's is not
        ("/" + APP + "a//b/../c?d", APP + "a//b/../c?d"),
        ("/x/.." + APP + "/b", APP + "/b"),
        ("/api/v1//nodes/n/proxy//x", "/api/v1/nodes/n/proxy//x"),
        ("/" + APP[:-1], APP[:-1]),
        # not a proxy of these
        ("/apis/x/v1/namespaces/n/services/s/proxy//x", "/apis/x/v1/namespaces/n/services/s/proxy/x"),
        ("/api/v1/namespaces/n/configmaps/c/proxy//x", "/api/v1/namespaces/n/configmaps/c/proxy/x"),
    ],
)
def test_cleaned_targets(target: str, location: str | None) -> None:
    """A redirect keeps to this host, leaves the app's part of a path alone, and is written as a URL."""
    assert cleaned_target(target) == location


@given(PATHS, QUERIES)
def test_a_redirect_never_leaves_this_host_nor_loops(path: str, query: str) -> None:
    """Its location begins with one slash, is plain ASCII, keeps the query, and is redirected no further."""
    location = cleaned_target(path + query)

    if location is not None:
        assert re.match(r"/(?![/\\])[!-~]*\Z", location)
        assert cleaned_target(location) is None
        assert location.partition("?")[2].isascii()
        assert ("?" in location) == (len(query) > 1)


@given(st.lists(SEGMENTS, max_size=6).map("/".join), QUERIES)
def test_the_tail_of_an_app_is_never_touched(tail: str, query: str) -> None:
    """Whatever follows `.../proxy/` comes through byte for byte, also when the path before it is cleaned."""
    assert cleaned_target(APP + tail + query) is None
    if re.fullmatch(r"[!-~]*", tail) and not re.search(r'["<>\\^`{|}]', tail):
        assert (cleaned_target("/" + APP + tail) or "") == APP + tail


@pytest.mark.parametrize(
    ("path", "tail"),
    [
        (APP, ""),
        (APP + "a/b", "a/b"),
        ("/k8s/clusters/c-1" + APP + "a", "a"),
        ("/api/v1/namespaces/n/pods/p:80/proxy/x", "x"),
        (APP[:-1], None),
        ("/api/v1/nodes/n/proxy/x", None),
        ("/api/v1/namespaces/n/configmaps/c/proxy/x", None),
    ],
)
def test_where_an_apps_own_path_begins(path: str, tail: str | None) -> None:
    """Behind the proxy of a pod or a service, not of a node, whose paths are the kubelet's."""
    at = app_tail_at(path)

    assert (None if at is None else path[at:]) == tail

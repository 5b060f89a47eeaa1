"""What passes and what does not: kubectl's filters, every known way around them, and the browser guard."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kproxy.errors import ConfigError, Denied, NavigationDenied
from kproxy.policy.policy import DEFAULT_ACCEPT_HOSTS, DEFAULT_REJECT_PATHS, Policy

DEFAULT = Policy.compile()
DISABLED = Policy.compile(disable_filter=True)
EXEC = "/api/v1/namespaces/default/pods/web-0/exec"
ATTACH = "/api/v1/namespaces/default/pods/web-0/attach"
APP = "/api/v1/namespaces/n/services/s/proxy"


def browser(
    policy: Policy = DEFAULT,
    *,
    method: str = "GET",
    path: str = "/api",
    host: str = "localhost:8001",
    origin: str | None = None,
    site: str | None = None,
    mode: str | None = None,
    dest: str | None = None,
    user: str | None = None,
    purpose: str | None = None,
    is_upgrade: bool = False,
    own_pages_only: bool = False,
) -> Denied | None:
    return policy.check_browser(
        method=method,
        path=path,
        host=host,
        origin=origin,
        fetch_site=site,
        fetch_mode=mode,
        fetch_dest=dest,
        fetch_user=user,
        purpose=purpose,
        is_upgrade=is_upgrade,
        own_pages_only=own_pages_only,
    )


# -- paths and methods --


@pytest.mark.parametrize(
    ("accept_paths", "reject_paths", "host", "path", "method", "passes"),
    [
        # kubectl's proxy_server_test.go, TestAccept
        ("", "", "127.0.0.1", "", "GET", False),
        ("^.*", "", "127.0.0.1", "", "GET", True),
        ("^.*", None, "127.0.0.1", "/api/v1/namespaces/default/pods/foo/exec", "GET", False),
        ("^.*", None, "127.0.0.1", "/api/v1/namespaces/default/pods/foo/attach", "GET", False),
        ("^.*", None, "127.0.0.1", "/api/v1/namespaces/default/pods/execfoo", "GET", True),
        ("^.*", None, "127.0.0.1", "/api/v1/namespaces/default/pods/attachfoo", "GET", True),
        ("^.*", None, "localhost", "/ui", "GET", True),
        ("^.*", None, "localhost", "/api/v1/pods", "POST", True),
        ("^.*", None, "evil.com", "/api/v1/pods", "GET", False),
        ("^.*", None, "localhost.evil.com", "/api/v1/pods", "GET", False),
        ("^.*", None, "127a0b0c1", "/api/v1/pods", "GET", False),
        ("^/api/v1/pods$,^/ok", None, "localhost", "/api/v1/pods", "GET", True),
        ("^/api/v1/pods$,^/ok", None, "localhost", "/okay/then", "GET", True),
        ("^/api/v1/pods$,^/ok", None, "localhost", "/api/v1/pods/x", "GET", False),
        # Python's $ would match before a final newline
        ("^/api/v1/pods$,^/ok", None, "localhost", "/api/v1/pods%0A", "GET", False),
        ("^.*", "^/secret,/deep$", "localhost", "/secret", "GET", False),
        ("^.*", "^/secret,/deep$", "localhost", "/%73ecret", "GET", False),
        ("^.*", "^/secret,/deep$", "localhost", "/a/deep", "GET", False),
        ("^.*", "^/secret,/deep$", "localhost", "/a/secret", "GET", True),
        ("^.*", "^/secret,/deep$", "localhost", EXEC, "GET", True),
        ("^/exec", "^/ex", "localhost", "/exec", "GET", False),
        # Lens' own filter
        ("^.*", "^[^/]", "localhost", "/api", "GET", True),
    ],
)  # fmt: skip
def test_kubectls_own_cases(
    accept_paths: str, reject_paths: str | None, host: str, path: str, method: str, passes: bool
) -> None:
    """Requests pass the filters that pass kubectl's."""
    policy = Policy.compile(
        accept_paths=accept_paths,
        reject_paths=DEFAULT_REJECT_PATHS if reject_paths is None else reject_paths,
    )

    denied = policy.check_host(host) or policy.check_request(method, path)

    assert (denied is None) is passes


@pytest.mark.parametrize(
    "path",
    [
        EXEC,
        ATTACH,
        EXEC + "/",
        EXEC + "ute",
        EXEC + ";a=b",
        "/api/v1/namespaces/default/pods/web-0/%65xec",
        "/%61pi/v1/namespaces/default/pods/web-0/exec",
        "/api/v1/namespaces/default/pods/web-0%2Fexec",
        # read otherwise by a server in between
        "/" + EXEC,
        "/./" + EXEC,
        "/x/.." + EXEC,
        "/x/..%2Fapi/v1/namespaces/default/pods/web-0/exec",
        "/x/%2e%2e" + EXEC,
        "/%2Fapi/v1/namespaces/default/pods/web-0/exec",
        "/api;v=1/v1/namespaces/default/pods/web-0/exec",
        "/api/v1/namespaces/default/pods;x/web-0/exec",
        "/x/..;" + EXEC,
        "/api/v1%0A/namespaces/default/pods/web-0/exec",
        "/api/v1/namespaces/default/pods/web-0/%0Aexec",
        "/api/v1/namespaces/default/pods/web-0/e%00xec",
        "/api/v1/namespaces/default/pods/web-0%5Cexec",
        "/api/v1/namespaces/default/pods/web-0\\exec",
        "\\api\\v1\\namespaces\\default\\pods\\web-0\\exec",
        "/api/v1/namespaces/default/pods/web-0/%2565xec",
        "/api/v1/namespaces/default/pods/web-0%252Fexec",
        # behind a prefix, through the kubelet
        "/k8s/clusters/c-1" + EXEC,
        "/apis/cluster.karmada.io/v1alpha1/clusters/m/proxy" + ATTACH,
        "/api/v1/nodes/n/proxy/exec/ns/pod/ctr",
        "/api/v1/nodes/n/proxy/run/ns/pod/ctr",
        "/api/v1/nodes/n/proxy//exec/ns/pod/ctr",
        "/api/v1/nodes/n/proxy/x/..%2Fattach/ns/pod/ctr",
        "/k8s/clusters/c-1/api/v1/nodes/n/proxy/cri/exec/t",
        # out of an app's tail
        APP + "/../../../pods/p/exec",
        APP + "/..%2F..%2F..%2Fpods/p/exec",
        APP + "/..;/..;/..;/pods/p/exec",
        APP + "/..%5C..%5C..%5Cpods%5Cp%5Cexec",
        APP + "/%252e%252e/%252e%252e/%252e%252e/pods/p/exec",
        APP + "/.%09./.%09./.%09./pods/p/exec",
        # to one that takes parameters off before it decodes
        "/api/v1/namespaces/default/pods/web;%2Fproxy%2F/exec",
        "/api/v1/namespaces/default/pods;%2Fy%2Fproxy%2F/web/attach",
        "/api/v1/namespaces/default/pods/web;x%252Fproxy%252F/exec",
        "/api/v1/namespaces/default/pods/web;%5Cproxy%5C/exec",
        "/api/v1/nodes/n;%2Fx/proxy/exec/ns/pod/ctr",
        "/api/v1/nodes/n/proxy;%2Fx/run/ns/pod/ctr",
        # what is cleaned before it is decoded, or while a slash is part of a name
        APP + "/a%2Fb/c%2Fd/%2e%2e/../../../../pods/p/exec",
        APP + "/a%2Fb/../../../../pods/p/exec",
        # overlong, full-width
        "/api/v1/namespaces/default/pods/web%C0%AFexec",
        "/api/v1/namespaces/default/pods/web-0%e0%80%afexec",
        APP + "/%c0%ae%c0%ae/%c0%ae%c0%ae/%c0%ae%c0%ae/pods/p/exec",
        "/api/v1/namespaces/default/pods/web%EF%BC%8Fexec",
        "/api/v1/namespaces/default/pods/web/%EF%BD%85xec",
    ],
)  # fmt: skip
def test_exec_and_attach_are_refused_however_they_are_spelt(path: str) -> None:
    """By default no reading of a path may lead into a pod."""
    denied = DEFAULT.check_request("GET", path)

    assert denied is not None
    assert denied.rule == "reject-paths"
    assert DISABLED.check_request("GET", path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1/pods",
        "/api/v1/namespaces/exec/pods/web-0",
        "/api/v1/namespaces/default/services/web/exec",
        "/api/v1/namespaces/default/pods/web-0/portforward",
        "/api/v1/namespaces/default/pods/web-0/log",
        "/api/v1/namespaces/default/pods/web-0%00/log",
        "/api/v1/namespaces/a%2Fb",
        "/api/%2e/v1",
        "/api/caf%c3%a9",
        "/.well-known/openid-configuration",
        "/api/v1/nodes/n/proxy/stats/summary",
        "/api/v1/nodes/n/proxy/pods",
        # an app's own URLs
        APP + "/pods/x/exec",
        APP + "/api/v1/namespaces/default/pods/x/attach?",
        APP + "//a/./../b/exec",
        "/api/v1/namespaces/n/pods/p:8080/proxy/pods/x/exec",
        "/k8s/clusters/c-1" + APP + "/pods/x/exec",
    ],
)  # fmt: skip
def test_what_passes_by_default(path: str) -> None:
    """Everything else, and what an app behind a service calls its own pages."""
    assert DEFAULT.check_request("GET", path) is None


ODD_BUT_RIGHT = [
    "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web-0",
    "/apis/custom.metrics.k8s.io/v1beta1/namespaces/default/pods/%2A/http_requests",
    "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/s0-rabbitmq-a%2Fb",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:controller:job-controller",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
    "/api/v1/namespaces/kube-system/services/https:kubernetes-dashboard:/proxy/#/login",
    "/api/v1/namespaces/kube-system/services/https:kubernetes-dashboard:/proxy/",
    "/api/v1/namespaces/default/pods/",
    "/api/v1/namespaces/default/pods/web-0:8080/proxy/",
    "/openapi/v3/apis/apps/v1",
    "/.well-known/openid-configuration",
    APP + "/",
    APP + "//static/../static/app.js",
    APP + "/login;jsessionid=0A1B2C3D.node1",
    APP + "/cars;color=red;year=2012/wheels;front",
    APP + "/a;b%2Fc;d/e%3Bf",
    APP + "/api/v4/projects/group%2Fsub%2Fproject/repository/files/src%2Fmain%2Epy/raw",
    APP + "/api/datasources/proxy/1/api/v1/query_range",
    APP + "/_search%3Fq=x",
    APP + "/index%20of%20files/100%25%20done.txt",
    APP + "/redirect/https%3A%2F%2Fhost.example%2Fa%2520b%3Fq%3D1%23frag;jsessionid=12//x",
    APP + "/caf%C3%A9/%E4%BD%A0%E5%A5%BD%EF%BC%81/%F0%9F%98%80",
    APP + "/na\u00efve".encode().decode("latin-1"),
    APP + "/%C0%E9latin-1/%B0%A1euc-kr/%c4%e3%ba%c3gbk",
    APP + "/C%3A%5CUsers%5Cme%5Cnotes.txt",
    APP + "/vhost/%2F/queue/a%2Fb",
    APP + "/api/queues/%2f/my.queue/get",
    APP + "/repos/org%2Frepo/blob/main/../../x",
    APP + "/files/a/..%2F..%2Fup/..hidden/...",
    APP + "/pods/x%2Fexec;v=1",
    APP + "/v2/library/nginx/manifests/sha256:0123456789abcdef",
    APP + "/+/@scope%2Fpackage/-/package-1.0.0.tgz",
    APP + "/matrix;a=1;b=%2F;c=%3B/%7Bid%7D/%5B0%5D",
    APP + "/" + "segment%2Fwith%20odd;v=1/" * 30,
    APP + "/" + "%E4%BD%A0" * 500,
    "/api/v1/namespaces/n/pods/p:8080/proxy/terminal/exec;s=1%2F2",
]  # fmt: skip


@pytest.mark.parametrize("path", ODD_BUT_RIGHT)
@pytest.mark.parametrize("base_path", ["", "/k8s/clusters/c-1"])
def test_odd_paths_that_are_right_pass(path: str, base_path: str) -> None:
    """What UIs behind a service, aggregated APIs and names with colons send, under the default filters."""
    assert DEFAULT.check_request("GET", path, base_path) is None


@pytest.mark.parametrize("path", [path for path in ODD_BUT_RIGHT if path.startswith(APP + "/")])
def test_odd_paths_of_an_accepted_app_pass(path: str) -> None:
    """An accept list with the app's prefix has every reading of them."""
    policy = Policy.compile(accept_paths="^/api/v1/namespaces/[^/]+/services/s/proxy/")

    assert policy.check_request("GET", path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/api;x%2Fy/v1/secrets",
        "/api/v1/x;/../secrets",
        "/x%2Fy/%2e%2e/api/v1/secrets",
        "/x%2Fy/../api/v1/secrets",
        "/api%C0%AFv1/secrets",
        "/api/v1%EF%BC%8Fsecrets",
        "/api/v1/%2F../secrets",
    ],
)
def test_a_rejected_path_is_rejected_in_every_order_of_the_steps(path: str) -> None:
    """Also by who takes parameters off, or cleans, before decoding."""
    denied = Policy.compile(reject_paths="^/api/v1/secrets").check_request("GET", path)

    assert denied is not None
    assert "(read as '/api/v1/secrets" in denied.message


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("pods", True),
        ("", True),
        ("pods/", True),
        ("services/s/proxy/a%2Fb;c=d/../e", True),
        ("services/s/proxy/..%2F..%2Fx", True),
        ("pods/%2e%2e/secrets", True),
        ("..", False),
        ("%2e%2e/prod/secrets", False),
        ("..%2Fprod/secrets", False),
        ("%2E./prod/secrets", False),
        ("..;/prod/secrets", False),
        ("..;x%2Fy/prod/secrets", False),
        ("..%5Cprod%5Csecrets", False),
        ("%252e%252e/prod/secrets", False),
        (".%09./prod/secrets", False),
        ("a%2Fb/%2e%2e/%2e%2e/prod/secrets", False),
        ("x;%2Fa/%2e%2e/%2e%2e/prod/secrets", False),
        ("%c0%ae%c0%ae/prod/secrets", False),
        ("%EF%BC%8E%EF%BC%8E%EF%BC%8Fprod/secrets", False),
        ("services/s/proxy/../../../../prod/secrets", False),
        ("pods/../..", False),
        ("%2e%2e/dev2/secrets", False),
        ("pods/" + "..;%2F\\x%09/a%252f" * 3000, False),
    ],
)
def test_no_path_leads_out_of_an_api_prefix(path: str, stays: bool) -> None:
    """Of one that is part of the path: every reading is below it. With --disable-filter, too."""
    for policy in (DEFAULT, DISABLED):
        denied = policy.check_prefix(f"/api/v1/namespaces/dev/{path}", "/api/v1/namespaces/dev/")

        assert (denied is None) is stays
        assert denied is None or denied.rule == "api-prefix"


@st.composite
def disguised(draw: st.DrawFn, path: str) -> str:
    """`path` with its bytes encoded and its segments padded at random."""
    pieces: list[str] = []
    for segment in path.removeprefix("/").split("/"):
        pad = draw(st.sampled_from(["", "", "", "/.", "/", "/x/..", "/%2e", "/x/%2E.", "/x/..;a"]))
        slash = draw(st.sampled_from(["/", "/", "/", "%2F", "%2f", "%5C", "\\", "%252f"]))
        spelt = "".join(
            draw(
                st.sampled_from([char, char, char, f"%{ord(char):02x}", f"%25{ord(char):02X}", char + "%0a"])
            )
            for char in segment
        )
        pieces.append(pad + slash + spelt + draw(st.sampled_from(["", "", "", ";v=1", "%3bx"])))
    return "".join(pieces)


@given(
    st.sampled_from([EXEC, ATTACH, "/api/v1/nodes/n/proxy/exec/ns/p/c", "/k8s/c" + EXEC]).flatmap(disguised)
)
def test_no_disguise_opens_a_stream(path: str) -> None:
    """Encodings, parameters, control characters, backslashes and dot segments do not help, in any mixture."""
    assert DEFAULT.check_request("GET", path) is not None


@given(st.lists(st.sampled_from(["api", "v1", "pods", "exec", "attach", "x", "namespaces"]), max_size=8))
def test_an_apps_own_urls_always_pass(tail: list[str]) -> None:
    """The default rules say nothing about pages behind a service's or pod's proxy."""
    assert DEFAULT.check_request("POST", "/".join([APP, *tail])) is None


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/api/v1/namespaces/dev/pods", True),
        ("/api/v1/namespaces/dev/../prod/pods", False),
        ("/api/v1/namespaces/dev/..%2Fprod/pods", False),
        ("/api/v1/namespaces/dev/..;/prod/pods", False),
        ("/api/v1/namespaces/dev/..%5Cprod/pods", False),
        ("/api/v1/namespaces/dev/%252e%252e/prod/pods", False),
        ("/x/../api/v1/namespaces/dev/pods", False),
        ("/api/v1/namespaces/dev/pods/../pods", True),
        ("/api/v1/namespaces/dev/pods;v=1", True),
        ("/api/v1/namespaces/dev/x;%2Fa/%2e%2e/%2e%2e/prod/pods", False),
    ],
)
def test_accepted_paths_must_stay_where_they_are_accepted(path: str, passes: bool) -> None:
    """A path outside of --accept-paths, or one whose dots lead out of it, is refused."""
    denied = Policy.compile(accept_paths="^/api/v1/namespaces/dev/").check_request("GET", path)

    assert (denied is None) is passes
    assert denied is None or denied.rule == "accept-paths"


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/api/v1/namespaces/x/pods/p", True),
        ("/api/v1/namespaces/x/pods/p;v=1", True),
        ("/api/v1/namespaces/x;%2Fpods/secrets", False),
        ("/api/v1/namespaces/x%3F/pods", False),
        ("/api/v1/namespaces/x%5Csecrets%5C..%2Fpods", False),
    ],
)
def test_an_accepted_pattern_cannot_be_borrowed(path: str, passes: bool) -> None:
    """What looks like a pod to Go, and like something else where parameters go first, is not accepted."""
    policy = Policy.compile(accept_paths="^/api/v1/namespaces/[^/]+/pods")

    assert (policy.check_request("GET", path) is None) is passes


@pytest.mark.parametrize(
    "end", ["", "/", "%2F", "#", "#/x", "%23", "%3Fx", "%253F/x", ";v=1", "%00", "/.", "%20/"]
)
def test_a_rejected_end_is_rejected_however_it_goes_on(end: str) -> None:
    """An expression that ends in `$` stands for a resource, which the API server also serves with a slash."""
    policy = Policy.compile(reject_paths="/secrets$")

    assert policy.check_request("GET", "/api/v1/namespaces/dev/secrets" + end) is not None
    assert policy.check_request("GET", "/api/v1/namespaces/dev/secrets/mine" + end) is None


def test_only_a_plain_path_may_be_as_long_as_it_likes() -> None:
    """To judge all readings of 60 KB would take seconds, and any web page can have them asked for."""
    odd = "/%2e%2e;\\x%09/a%252f"

    assert DEFAULT.check_request("GET", "/x/" + "p" * 60_000) is None
    assert DEFAULT.check_request("GET", "/x/" + "%20" * 2000) is None
    denied = DEFAULT.check_request("GET", "/x" + odd * 3000)
    assert denied is not None
    assert "too long to be judged" in denied.message
    assert DISABLED.check_request("GET", "/x" + odd * 3000) is None


def test_a_path_with_too_many_readings_is_refused() -> None:
    """A short one may have thousands: it is not passed unseen."""
    denied = DEFAULT.check_request("GET", "/;x" + "%255c..;%2F#%00\\.%2e/%2509.%23%c0%af%3f" * 3)

    assert denied is not None
    assert "too long to be judged in every way" in denied.message


SLOW = "a(a|b){500}c"
"""An expression for which the search takes thousands of steps at each character."""


@pytest.mark.parametrize(
    ("flag", "check"),
    [
        ("reject_paths", lambda policy, text: policy.check_request("GET", "/" + text)),
        ("accept_paths", lambda policy, text: policy.check_request("GET", "/" + text)),
        ("reject_methods", lambda policy, text: policy.check_request(text, "/api")),
        ("accept_hosts", lambda policy, text: policy.check_host(text[:250])),
        ("accept_origins", lambda policy, text: browser(policy, origin="http://" + text)),
    ],
)
def test_expressions_that_take_long_refuse(flag: str, check: Callable[[Policy, str], Denied | None]) -> None:
    """In every flag: after so many steps nobody waits any longer, and the reason names the expression."""
    text = "".join(random.Random(1).choices("ab", k=4000))
    slow = [f"{SLOW}{number}" for number in range(8)]
    denied = check(Policy.compile(**{flag: slow}), text)

    assert denied is not None
    assert denied.rule == flag.replace("_", "-")
    assert "takes too long" in denied.message
    assert SLOW in denied.message


def test_an_expression_with_large_counts_is_no_reason_to_wait() -> None:
    """The one that took 42 s for an odd path of 8 KB is judged, or refused, in a bounded number of steps."""
    policy = Policy.compile(reject_paths=[".*a.{0,200}b.{0,200}secrets"])

    assert policy.check_request("GET", "/" + "ab%20" * 500) is None
    assert policy.check_request("GET", "/" + "ab%20" * 500 + "secrets") is not None


@pytest.mark.parametrize("reject_paths", ["^/api/v1/secrets", "^/k8s/c-1/api/v1/secrets"])
@pytest.mark.parametrize(
    "path", ["/api/v1/secrets", "/k8s/c-1/api/v1/secrets", "/k8s/c-1/%2e%2e/c-1/api/v1/secrets"]
)
def test_the_servers_own_path_is_no_way_around(reject_paths: str, path: str) -> None:
    """A request with it and one without it reach the same, so both spellings are judged."""
    policy = Policy.compile(reject_paths=reject_paths)

    assert policy.check_request("GET", path, "/k8s/c-1") is not None
    assert policy.check_request("GET", "/api/v1/pods", "/k8s/c-1") is None
    assert policy.check_request("GET", "/k8s/c-1/api/v1/pods", "/k8s/c-1") is None


@pytest.mark.parametrize(
    "path",
    [
        "/k8s/c-1/%2e%2e/c-2/api",
        "/k8s/c-1/..%2Fc-2",
        "/%2e%2e/c-2/api",
        "/x;%2Fa/%2e%2e/%2e%2e/c-2/api/v1/secrets",
        "/k8s/c-1/x;%2Fa/%2e%2e/%2e%2e/c-2/api",
        "/x%2Fa/%2e%2e/%2e%2e/c-2/api",
        "/a/%c0%ae%c0%ae/%c0%ae%c0%ae/c-2/api",
        "/a/%EF%BC%8E%EF%BC%8E/%EF%BC%8E%EF%BC%8E/c-2/api",
    ],
)
def test_no_path_leads_out_of_the_servers_own(path: str) -> None:
    """What a gateway has beside this cluster is not to be reached through it."""
    denied = DEFAULT.check_request("GET", path, "/k8s/c-1")

    assert denied is not None
    assert "above the root" in denied.message


def test_a_servers_path_with_escapes_is_no_way_out() -> None:
    """A path that has it as it is written there does not lose it by being decoded."""
    assert DEFAULT.check_request("GET", "/c%3A1/%2e%2e/c2", "/c%3A1") is not None
    assert DEFAULT.check_request("GET", "/c%3A1/api", "/c%3A1") is None


@pytest.mark.parametrize(
    "path", ["/%2e%2e/c-2/api", "/..%2Fc-2", "/api/..;/../c-2", "/api/%252e%252e/..%5C", APP + "/.." * 8]
)
def test_no_path_leads_above_the_root(path: str) -> None:
    """Behind a base path, as `/k8s/clusters/c-1`, it would lead to another cluster."""
    denied = DEFAULT.check_request("GET", path)

    assert denied is not None
    assert denied.message.endswith("leads above the root of the API")


@pytest.mark.parametrize("accept_paths", ["^/$", "^$"])
def test_the_root_can_be_accepted_in_both_spellings(accept_paths: str) -> None:
    """kubectl judges the path `/` as the empty string; people write `^/$`."""
    policy = Policy.compile(accept_paths=accept_paths)

    assert policy.check_request("GET", "/") is None
    assert policy.check_request("GET", "/api") is not None


@pytest.mark.parametrize("reject_paths", ["^/$", "^$"])
def test_the_root_can_be_rejected_in_both_spellings(reject_paths: str) -> None:
    """As it can be accepted."""
    policy = Policy.compile(reject_paths=reject_paths)

    assert policy.check_request("GET", "/") is not None
    assert policy.check_request("GET", "/api") is None


@pytest.mark.parametrize(
    ("reject_methods", "method", "passes"),
    [
        ("^$", "GET", True),
        ("", "DELETE", True),
        ("POST,PUT,PATCH", "DELETE", True),
        ("POST,PUT,PATCH", "PUT", False),
        ("POST,PUT,PATCH", "XPUTY", False),
        ("POST,PUT,PATCH", "post", False),
        ("P", "PATCH", False),
        ("^(GET|HEAD)$", "HEAD", False),
        ("^(GET|HEAD)$", "GETX", True),
    ],
)
def test_methods_are_matched_unanchored_and_in_upper_case_too(
    reject_methods: str, method: str, passes: bool
) -> None:
    """As kubectl does, but a lower-case method does not slip through."""
    denied = Policy.compile(reject_methods=reject_methods).check_request(method, "/api")

    assert (denied is None) is passes
    assert denied is None or denied.rule == "reject-methods"


def test_rejecting_methods_does_not_stop_exec_over_websocket() -> None:
    """Exec by GET passes once --reject-paths is empty, and the start-up warning says so."""
    policy = Policy.compile(reject_paths="", reject_methods="POST,PUT,PATCH,DELETE")

    assert policy.check_request("GET", EXEC) is None
    assert any(
        "over WebSocket they are GET requests" in text for text in policy.warnings(has_unix_socket=False)
    )


def test_rules_are_tried_in_kubectls_order() -> None:
    """Rejected paths first, then methods, then accepted paths."""
    policy = Policy.compile(accept_paths="^/ok", reject_paths="^/no", reject_methods="^PUT$")

    assert [
        denied.rule if (denied := policy.check_request(method, path)) else None
        for method, path in [("PUT", "/no"), ("PUT", "/x"), ("GET", "/x"), ("GET", "/ok")]
    ] == ["reject-paths", "reject-methods", "accept-paths", None]


@pytest.mark.parametrize(
    ("flags", "method", "path", "message"),
    [
        (
            {},
            "GET",
            EXEC,
            (
                f"path '{EXEC}' matches --reject-paths '^/api/.*/pods/.*/exec'; start with "
                "--reject-paths='^/api/.*/pods/.*/attach' or --disable-filter to allow it"
            ),
        ),
        (
            {"reject_paths": "^/a,/b$"},
            "GET",
            "/x/..%2Fa/b",
            (
                "path '/x/..%2Fa/b' (read as '/a/b') matches --reject-paths '^/a'; start with "
                "--reject-paths='' or --disable-filter to allow it"
            ),
        ),
        (
            {"reject_methods": "^DELETE$,PUT"},
            "DELETE",
            "/a",
            (
                "method 'DELETE' matches --reject-methods '^DELETE$'; start with --reject-methods='PUT' "
                "or --disable-filter to allow it"
            ),
        ),
        (
            {"accept_paths": "^/a,^/b"},
            "GET",
            "/c",
            (
                "path '/c' is not in --accept-paths='^/a,^/b'; add an expression that matches it, "
                "or start with --disable-filter to allow it"
            ),
        ),
    ],
)
def test_refusals_name_the_rule_and_the_way_to_allow_it(
    flags: dict[str, Any], method: str, path: str, message: str
) -> None:
    """The suggested flag, applied, lets the request through."""
    denied = Policy.compile(**flags).check_request(method, path)

    assert denied is not None
    assert denied.message == message
    if suggested := re.search(r"start with --([a-z-]+)='(.*?)'", message):
        flag = suggested[1].replace("-", "_")
        assert Policy.compile(**flags | {flag: suggested[2]}).check_request(method, path) is None


# -- hosts --


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8001",
        "LocalHost:8001",
        "localhost:",
        "127.0.0.1",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:8001",
    ],
)
def test_hosts_of_this_machine_are_accepted(host: str) -> None:
    """The default list, in any case, with and without port, IPv6 too."""
    assert DEFAULT.check_host(host) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        ":8001",
        "evil.com",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "127a0b0c1",
        "localhost.",
        "web.localhost",
        "2130706433",
        "0x7f000001",
        "127.1",
        "0.0.0.0",
        "127.0.0.1:80.evil.com",
        "localhost:abc",
        "localhost:99999",
        "localhost:8001:8002",
        "localhost:-1",
        "user@localhost",
        "localhost@evil.com",
        "localhost,evil.com",
        "localhost, evil.com",
        "localhost evil.com",
        "localhost\tevil.com",
        "localhost/evil.com",
        "localhost\x00.evil.com",
        "localhost\n",
        "localh\xf6st",
        "localhost#",
        "localhost?x",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:x",
        "[localhost]",
        "[::1%25eth0]",
        "[::ffff:127.0.0.1]",
        "[::2]",
    ],
)
def test_other_hosts_are_refused(host: str | None) -> None:
    """Whatever is not exactly a name of this machine, with an optional port."""
    denied = DEFAULT.check_host(host)

    assert denied is not None
    assert denied.rule == "accept-hosts"


@pytest.mark.parametrize(
    ("accept_hosts", "host", "passes"),
    [
        (r"^my\.host$,example", "www.example.org", True),
        (r"^my\.host$,example", "MY.HOST:80", True),
        (r"^my\.host$,example", "myxhost", False),
        (r"^my\.host$,example", "localhost", False),
        ("^My-Host$", "my-host", True),
        ("^.*$", "[2001:db8::1]:8001", True),
        ("^.*$", "any_thing.~x", True),
        ("^.*$", "cluster.local.", True),
        ("^.*$", None, True),
        ("^.*$", "", False),
        ("^.*$", "a b", False),
        ("^.*$", "u@h", False),
        ("^.*$", "a" * 255, True),
        ("^.*$", "a" * 256, False),
        ("^::1$", "[::1]:8001", True),
        ("", "localhost", False),
        ("", None, False),
    ],
)
def test_other_lists_of_hosts(accept_hosts: str, host: str | None, passes: bool) -> None:
    """User lists are searched unanchored, in any case; what is no host never passes."""
    assert (Policy.compile(accept_hosts=accept_hosts).check_host(host) is None) is passes


@pytest.mark.parametrize(("host", "passes"), [("evil.com", True), (None, True), ("", False), ("a,b", False)])
def test_without_filter_every_real_host_passes(host: str | None, passes: bool) -> None:
    """--disable-filter lets every host through that is one."""
    assert (DISABLED.check_host(host) is None) is passes


@given(st.text(st.characters(max_codepoint=0xFF), max_size=20))
def test_only_the_three_names_of_this_machine_pass(host: str) -> None:
    """Nothing but the default names, with an optional port, is ever accepted."""
    passes = DEFAULT.check_host(host) is None

    assert passes == bool(re.fullmatch(r"(?i:localhost|127\.0\.0\.1|\[::1\])(:[0-9]{0,5})?", host))


def test_a_refused_host_can_be_allowed_as_the_message_says() -> None:
    """The suggestion keeps the hosts that were accepted and adds this one, and no other."""
    denied = DEFAULT.check_host("my.box:8001")

    assert denied is not None
    assert denied.message == (
        r"Host 'my.box:8001' is not in --accept-hosts; start with "
        r"--accept-hosts='^localhost$,^127\.0\.0\.1$,^\[::1\]$,^my\.box$' to allow it"
    )
    allowed = Policy.compile(accept_hosts=(*DEFAULT_ACCEPT_HOSTS, r"^my\.box$"))
    assert allowed.check_host("my.box:8001") is None
    assert allowed.check_host("my-box") is not None


# -- browsers --


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"method": "POST"},
        {"is_upgrade": True},
        {"origin": "http://localhost:8001", "method": "POST"},
        {"origin": "http://localhost:3000", "site": "same-site", "mode": "cors"},
        {"origin": "http://127.0.0.1:9", "method": "DELETE"},
        {"origin": "http://[::1]:8001", "is_upgrade": True, "site": "same-origin", "mode": "websocket"},
        {"origin": "https://localhost"},
        {"site": "none", "mode": "navigate", "dest": "document"},
        {"site": "same-origin", "mode": "no-cors", "dest": "script"},
        {"site": "same-origin", "mode": "navigate", "dest": "document", "purpose": "prefetch"},
        {"site": "cross-site", "mode": "navigate", "dest": "document", "user": "?1"},
        {"site": "cross-site", "mode": "navigate", "user": "?1"},
        {"site": "none", "mode": "navigate", "dest": "document", "path": f"{APP}/"},
        {"site": "same-origin", "mode": "navigate", "dest": "document", "path": f"{APP}/"},
        # Another port of this machine: its pages may send everything anyway.
        {"site": "same-site", "mode": "navigate", "dest": "document", "path": f"{APP}/"},
    ],
)
def test_programs_own_pages_and_links_pass(request_: dict[str, Any]) -> None:
    """No header of a browser, a page of this machine, or a window that goes here."""
    assert browser(**request_) is None


@pytest.mark.parametrize(
    "request_",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://evil.example", "is_upgrade": True, "site": "cross-site", "mode": "websocket"},
        {"origin": "https://evil.example:8001", "method": "POST"},
        {"origin": "http://evil.example", "method": "OPTIONS"},
        {"origin": "null"},
        {"origin": "null", "method": "POST", "site": "cross-site", "mode": "navigate", "dest": "document"},
        {"origin": ""},
        {"origin": "localhost"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "http://localhost:8001 http://evil.example"},
        {"origin": "http://localhost:8001, http://evil.example"},
        {"origin": "http://localhost@evil.example"},
        {"origin": "http://localhost/"},
        {"origin": "http://localhost:x"},
        {"origin": "chrome-extension://localhost"},
        {"origin": "file://localhost"},
        {"origin": "http://127.1"},
        {"site": "cross-site"},
        {"site": "cross-site", "mode": "no-cors", "dest": "script"},
        {"site": "cross-site", "mode": "navigate", "dest": "iframe", "user": "?1"},
        {"site": "cross-site", "mode": "navigate", "dest": "document", "user": "?1", "method": "POST"},
        {"site": "cross-site", "mode": "navigate", "dest": "document", "user": "?1", "is_upgrade": True},
        {"site": "cross-site", "mode": "navigate", "dest": "document", "user": "?1", "purpose": "prefetch"},
        {"site": "none", "mode": "navigate", "dest": "document", "purpose": "prefetch;prerender"},
        {"site": "Cross-Site", "mode": "cors", "dest": "empty"},
        {"site": "none, cross-site", "mode": "cors"},
        {"site": "", "mode": "cors"},
        {"origin": "http://localhost:3000", "site": "cross-site", "mode": "cors"},
    ],
)
def test_what_pages_of_other_sites_ask_for_is_refused(request_: dict[str, Any]) -> None:
    """Foreign and unreadable origins, and cross-site requests that no person made by a link."""
    for policy in (DEFAULT, DISABLED):
        denied = browser(policy, **request_)

        assert denied is not None
        assert denied.rule == "accept-origins"
        assert not isinstance(denied, NavigationDenied)


WINDOW = {"site": "cross-site", "mode": "navigate", "dest": "document"}


@pytest.mark.parametrize("policy", [DEFAULT, DISABLED, Policy.compile(accept_origins=".*")])
@pytest.mark.parametrize("user", [None, "", "?0", "1", "?1, ?1"])
def test_a_window_that_nobody_clicked_is_refused(policy: Policy, user: str | None) -> None:
    """Whatever the flags: no Origin says which page it was."""
    assert isinstance(browser(policy, **WINDOW, user=user), NavigationDenied)


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/api/v1/namespaces/n/services/proxy-x", True),
        ("/api/v1/namespaces/n/pods/p/log", True),
        (APP, False),
        (f"{APP}/", False),
        (f"{APP}/a/b", False),
        ("/api/v1/namespaces/n/pods/https:p:8443/proxy/", False),
        ("/api/v1/nodes/n/proxy/run/n/p/c", False),
        ("/api/v1/proxy/nodes/n/", False),
        ("/k8s/clusters/c-1/api/v1/namespaces/n/services/s/proxy/", False),
        ("/clusters/dev/api/v1/nodes/n/proxy/", False),
        ("/apis/cluster.karmada.io/v1alpha1/clusters/m/proxy/api", False),
        (f"/api//v1/../v1{APP.removeprefix('/api/v1')}/", False),
        ("/api/v1/nodes/n/%70roxy/", False),
        ("/api/v1/nodes/n/%2570roxy/", False),
        ("/api/v1/nodes/n%2Fproxy%2Fx", False),
        ("/api/v1/nodes/n/proxy;v=1/x", False),
        ("/api/v1/nodes/n\\proxy\\x", False),
        ("/api/v1/nodes/n/pro%0Axy/", False),
        ("/api/v1/nodes/n/proxy%3Fx", False),
        ("/a" * 5000, True),
        (f"/{'%41' * 5000}", False),
    ],
)
def test_a_click_opens_no_app(path: str, passes: bool) -> None:
    """Behind a proxy in any reading of the path; nor what is too long to be read in all ways."""
    denied = browser(**WINDOW, user="?1", path=path)
    assert denied is None if passes else isinstance(denied, NavigationDenied)


@pytest.mark.parametrize(
    ("accept_hosts", "host", "origin", "passes"),
    [
        (r"^my\.box$", "my.box:8001", "http://my.box:3000", True),
        (r"^my\.box$", "my.box:8001", "http://localhost:3000", False),
        # a list that accepts every Host does not invite every page
        ("^.*$", "my.box:8001", "http://my.box:8001", True),
        ("^.*$", "my.box", "http://my.box:80", True),
        ("^.*$", "my.box", "https://my.box", True),
        ("^.*$", "MY.box:8001", "http://my.box:8001", True),
        ("^.*$", "my.box:8001", "http://my.box:3000", False),
        ("^.*$", "my.box:8001", "http://my.box", False),
        ("^.*$", "my.box:8001", "http://evil.example", False),
        ("^.*$", "my.box:8001", "http://localhost:3000", True),
        ("^*$", "my.box:8001", "http://evil.example", False),
        (r"^\d", "10.0.0.1:8001", "http://203.0.113.5", False),
    ],
)
def test_pages_of_accepted_hosts_may_come_in(accept_hosts: str, host: str, origin: str, passes: bool) -> None:
    """Any page of a listed host; of a list that has every host, only the same origin and this machine."""
    policy = Policy.compile(accept_hosts=accept_hosts)

    assert (browser(policy, host=host, origin=origin) is None) is passes


def test_without_filter_the_guard_stays() -> None:
    """--disable-filter keeps to the same origin, accepted hosts and accepted origins."""
    policy = Policy.compile(disable_filter=True, accept_origins="^https://dash")

    assert browser(policy, host="my.box:8001", origin="http://my.box:8001") is None
    assert browser(policy, host="my.box:8001", origin="http://localhost:3000") is None
    assert browser(policy, host="my.box:8001", origin="https://dash.example", site="cross-site") is None
    assert browser(policy, host="my.box:8001", origin="http://evil.example") is not None


@pytest.mark.parametrize(
    ("accept_origins", "origin", "allowed"),
    [
        ("", "http://localhost:8001", False),
        ("^https://dash\\.example$", "https://dash.example", True),
        ("^https://dash\\.example$", "https://DASH.example", True),
        ("^https://dash\\.example$", "http://dash.example", False),
        ("^https://dash\\.example$", "https://dash.example:8443", False),
        ("^https://dash\\.example$", "https://dash.example.evil", False),
        ("^dash\\.example$", "https://dash.example:8443", True),
        ("^dash\\.example$", "https://my.dash.example", False),
        (":3000$", "http://localhost:3000", True),
        ("^vscode-webview://", "vscode-webview://0a1b", True),
        (".*", "null", False),
        (".*", "", False),
        (".*", "http://a b", False),
        ("^::1$", "http://[::1]:80", True),
    ],
)
def test_accepted_origins(accept_origins: str, origin: str, allowed: bool) -> None:
    """Expressions are searched in the whole origin and in its host alone; `null` is never allowed."""
    policy = Policy.compile(accept_origins=accept_origins)

    assert policy.allows_origin(origin) is allowed
    if allowed:
        assert browser(policy, origin=origin, site="cross-site", mode="cors", method="DELETE") is None
        assert browser(policy, origin=origin, site="cross-site", mode="websocket", is_upgrade=True) is None


@given(
    st.from_regex(r"\A[a-z]{1,8}://[a-z0-9.:@/-]{0,12}\Z")
    | st.from_regex(r"\Ahttps?://[a-z0-9.-]{1,12}(:[0-9]{1,5})?\Z")
    | st.text(st.characters(max_codepoint=0xFF), max_size=12)
)
def test_no_page_of_another_host_comes_in(origin: str) -> None:
    """By default an Origin passes only if it is http or https on a name of this machine."""
    passes = browser(origin=origin) is None

    assert passes == bool(
        re.fullmatch(r"(?i:https?://(localhost|127\.0\.0\.1|\[::1\]))(:[0-9]{1,5})?", origin)
    )


def test_a_refused_origin_can_be_allowed_as_the_message_says() -> None:
    """The suggestion names this origin and no other."""
    denied = browser(origin="http://evil.example:3000")

    assert denied is not None
    assert denied.message == (
        "pages of 'http://evil.example:3000' may not use this proxy; start with "
        r"--accept-origins='^http://evil\.example:3000$' to allow them"
    )
    allowed = Policy.compile(accept_origins=r"^http://evil\.example:3000$")
    assert browser(allowed, origin="http://evil.example:3000") is None
    assert browser(allowed, origin="http://evil-example:3000") is not None


# -- messages, start --


@given(st.text(st.characters(max_codepoint=0xFF), max_size=400))
def test_messages_carry_little_of_the_request_and_nothing_that_steers_a_terminal(text: str) -> None:
    """Hosts, origins, methods and paths are cut and escaped in every refusal."""
    nothing = Policy.compile(accept_paths="", accept_hosts="")
    refusals = [
        nothing.check_host(text),
        nothing.check_request("GET", "/" + text),
        Policy.compile(reject_methods=".|^$").check_request(text, "/"),
        browser(origin=text),
        browser(site="x" + text),
        browser(**WINDOW, user=text, path="/" + text),
    ]

    for denied in refusals:
        assume(denied is not None)
        assert denied is not None
        assert denied.message.isprintable()
        assert len(denied.message) < 500


@pytest.mark.parametrize(
    ("flags", "has_unix_socket", "begins"),
    [
        ({}, False, []),
        ({"reject_paths": "^/secret", "accept_hosts": "^.*$"}, False, []),
        ({"disable_filter": True}, False, ["Request filter disabled, your proxy is vulnerable to XSRF"]),
        ({"disable_filter": True}, True, []),
        ({"disable_filter": True, "reject_paths": ""}, True, []),
        ({"reject_paths": ""}, True, ["Request filter has been relaxed, your proxy may be vulnerable"]),
        ({"reject_methods": ""}, False, ["Request filter has been relaxed, your proxy may be vulnerable"]),
        (
            {"accept_hosts": "^*$", "accept_origins": "a$,"},
            False,
            [
                "--accept-origins='a$,' accepts pages of sites that anybody may own",
                "--accept-hosts: in '^*$' the `*`",
                "--accept-origins: an empty expression",
            ],
        ),
        (
            {"accept_hosts": r"^app\.example,^b$", "accept_origins": r"https://app\.example,.*"},
            False,
            [
                r"--accept-origins='https://app\.example,.*' accepts pages of sites",
                r"--accept-hosts: '^app\.example' also",
                r"--accept-origins: 'https://app\.example' also",
            ],
        ),
        ({"reject_methods": "POST"}, False, []),
        ({"reject_methods": "POST", "reject_paths": "^/x"}, False, ["--reject-methods does not stop exec"]),
    ],
)  # fmt: skip
def test_warnings_at_the_start(flags: dict[str, Any], has_unix_socket: bool, begins: list[str]) -> None:
    """kubectl's warnings, under its conditions, and what else hardly was meant."""
    found = Policy.compile(**flags).warnings(has_unix_socket=has_unix_socket)

    assert len(found) == len(begins)
    assert all(text.startswith(begin) for text, begin in zip(found, begins, strict=True))


@pytest.mark.parametrize(
    ("expression", "is_wide"),
    [
        (".*", True),
        ("^.*$", True),
        (".", True),
        ("", False),
        ("^https?://", True),
        ("^http://.*", True),
        ("^https://.*$", True),
        ("//", True),
        (":3000$", True),
        (r"^https?://[^/]+:8443$", True),
        (r"^http://\d", True),
        (r"^http://\[", True),
        ("[a-z]", True),
        (r"^https://app\.example$", False),
        (r"^https://[a-z]+\.app\.example(:\d+)?$", False),
        (r"^http://192\.168\.", False),
        (r"^http://localhost:3000$", False),
        ("^vscode-webview://", False),
    ],
)
@pytest.mark.parametrize("disable_filter", [False, True])
def test_a_warning_of_origins_that_anybody_may_own(
    expression: str, is_wide: bool, disable_filter: bool
) -> None:
    """Told with --disable-filter too, which does not turn the guard off."""
    policy = Policy.compile(accept_origins=expression, disable_filter=disable_filter)

    warnings = policy.warnings(has_unix_socket=False)

    assert any("sites that anybody may own" in warning for warning in warnings) is is_wide


def test_every_expression_that_cannot_be_compiled_is_told_at_once() -> None:
    """One error lists the problems of all flags, also when the filter is disabled."""
    with pytest.raises(ConfigError) as caught:
        Policy.compile(
            accept_paths="(,ok",
            reject_paths="[a",
            accept_hosts="*.example.com",
            reject_methods=r"\Z",
            accept_origins="a)",
            disable_filter=True,
        )

    assert sorted(problem.partition(": error parsing")[0] for problem in caught.value.problems) == [
        "--accept-hosts: Error compiling re '*.example.com'",
        "--accept-origins: Error compiling re 'a)'",
        "--accept-paths: Error compiling re '('",
        "--reject-methods: Error compiling re '\\Z'",
        "--reject-paths: Error compiling re '[a'",
    ]


def test_a_policy_cannot_be_changed() -> None:
    """Decisions depend on nothing but the flags, so that callers may keep them."""
    with pytest.raises(AttributeError):
        DEFAULT.disable_filter = True  # type: ignore[misc]


# -- an origin that only its own pages may use --


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://a.localhost:8001", True),
        ("HTTP://A.LOCALHOST:8001", True),
        ("http://a.localhost:8002", False),
        ("http://a.localhost", False),
        ("http://b.localhost:8001", False),
        ("http://localhost:8001", False),
        ("http://127.0.0.1:8001", False),
        ("null", False),
        ("https://dev.example", True),
    ],
)
@pytest.mark.parametrize("is_upgrade", [False, True])
@pytest.mark.parametrize("hosts", [None, "localhost", ".*"])
def test_only_own_pages(origin: str, passes: bool, is_upgrade: bool, hosts: str | None) -> None:
    """Whatever --accept-hosts has: the very host and port, or --accept-origins."""
    more = {} if hosts is None else {"accept_hosts": hosts}
    policy = Policy.compile(accept_origins="^https://dev\\.example$", **more)
    denied = browser(
        policy, host="a.localhost:8001", origin=origin, is_upgrade=is_upgrade, own_pages_only=True
    )
    assert (denied is None) is passes
    if denied is not None:
        assert denied.rule == "accept-origins"


def test_only_own_pages_may_embed() -> None:
    """Another port of the same name is the same site and another origin; a link opens all the same."""
    assert browser(site="same-site", mode="no-cors") is None
    assert browser(site="same-site", mode="no-cors", own_pages_only=True) is not None
    assert browser(site="same-origin", mode="no-cors", own_pages_only=True) is None
    assert browser(site="none", mode="navigate", own_pages_only=True) is None
    link = {"site": "same-site", "mode": "navigate"}
    assert browser(**link, dest="document", own_pages_only=True, user="?1") is None
    assert browser(**link, dest="document", own_pages_only=True) is not None
    assert browser(**link, dest="document", own_pages_only=True, user="?1", path=f"{APP}/") is not None
    assert browser(**link, dest="iframe", own_pages_only=True, user="?1") is not None
    assert browser(**link, dest="document", own_pages_only=True, user="?1", method="POST") is not None

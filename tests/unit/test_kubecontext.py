"""kubecontext and kubevalidation: what kubeconfig and flags come to, or what is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import KubeconfigError
from kproxy.kube.kubeconfig import (
    AuthProvider,
    Cluster,
    Context,
    ExecConfig,
    KubeConfig,
    Overrides,
    ResolvedContext,
    User,
)
from kproxy.kube.resolve import ServerAddress, resolve, server_address, warnings_for
from kproxy.kube.validation import timeout_seconds
from tests.support import secrets

FILE = Path("/home/me/.kube/config")
PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def a_cluster(**fields: Any) -> Cluster:
    return Cluster(**{"name": "c", "server": "https://h", **fields})


def a_user(**fields: Any) -> User:
    return User(name="u", **fields)


def kubeconfig(
    cluster: Cluster | None = None, user: User | None = None, current_context: str = "x"
) -> KubeConfig:
    cluster = cluster or a_cluster()
    user = user or a_user(token="tok")
    return KubeConfig(
        clusters={"c": replace(cluster, source_path=FILE)},
        users={"u": replace(user, source_path=FILE)},
        contexts={"x": Context(name="x", cluster="c", user="u")},
        current_context=current_context,
        paths=(FILE,),
    )


def resolved(config: KubeConfig, environ: dict[str, str] | None = None, **flags: Any) -> ResolvedContext:
    return resolve(config, Overrides(**flags), environ or {}, Path("/nonexistent"))


def problems(config: KubeConfig, **flags: Any) -> tuple[str, ...]:
    with pytest.raises(KubeconfigError) as caught:
        resolved(config, **flags)
    return caught.value.problems


# -- addresses --


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("https://h", ServerAddress(scheme="https", host="h", port=443, authority="h")),
        ("http://h/", ServerAddress(scheme="http", host="h", port=80, authority="h")),
        ("HTTPS://H:6443", ServerAddress(scheme="https", host="H", port=6443, authority="H:6443")),
        ("https://h:443", ServerAddress(scheme="https", host="h", port=443, authority="h:443")),
        ("https://h:", ServerAddress(scheme="https", host="h", port=443, authority="h")),
        (
            "https://[::1]:6443/a/b/",
            ServerAddress(scheme="https", host="::1", port=6443, authority="[::1]:6443", path_prefix="/a/b"),
        ),
        (
            "https://[fe80::1%25eth0]:1",
            ServerAddress(scheme="https", host="fe80::1%eth0", port=1, authority="[fe80::1]:1"),
        ),
        (
            "https://me:pw@h:1/k8s/clusters/c-1?a=b#c",
            ServerAddress(scheme="https", host="h", port=1, authority="h:1", path_prefix="/k8s/clusters/c-1"),
        ),
        ("https://h?a=b/c", ServerAddress(scheme="https", host="h", port=443, authority="h")),
        (
            "https://h/a b%2Fc",
            ServerAddress(scheme="https", host="h", port=443, authority="h", path_prefix="/a%20b%2Fc"),
        ),
    ],
)
def test_server_is_taken_apart(server: str, address: ServerAddress) -> None:
    """Scheme, host, port, Host header and path prefix are found, and nothing else counts."""
    assert server_address(server) == address


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("127.0.0.1:6443", "no scheme; write https://127.0.0.1:6443"),
        ("h:6443", "no scheme"),
        ("h", "no scheme"),
        ("//h", "no scheme"),
        ("ftp://h", 'unsupported scheme "ftp"'),
        ("https://", "no usable host"),
        ("https:///p", "no usable host"),
        ("https://h:x", "no usable host"),
        ("https://h:65536", "no usable host"),
        ("https://::1:6443", "no usable host"),
        ("https://a b", "no usable host"),
        ("https://h\n", "no usable host"),
        ("https://h\r\nX: y", "no usable host"),
    ],
)
def test_unusable_server_is_refused(server: str, words: str) -> None:
    """A server that no connection can be made to is refused with what to write instead."""
    with pytest.raises(KubeconfigError, match=words):
        server_address(server)


@given(st.text(max_size=40))
def test_authority_is_always_a_clean_header(rest: str) -> None:
    """Whatever the URL, the Host header and the path prefix hold no blank, control or non-ASCII character."""
    try:
        address = server_address("https://" + rest)
    except KubeconfigError:
        return
    for part in (address.authority, address.path_prefix):
        assert part.isascii()
        assert part.isprintable()
        assert " " not in part
    assert address.host
    assert 0 <= address.port <= 65535


@pytest.mark.parametrize("server", ["https://me:{}@h:x", "ftp://me:{}@h", "me:{}@h", "https://me:a/{}@h"])
def test_password_in_a_bad_server_is_not_shown(server: str) -> None:
    """The message about a server that is refused masks its user info."""
    with pytest.raises(KubeconfigError) as caught:
        server_address(server.format(secrets.plant("server")))
    assert not secrets.leaked(str(caught.value))
    assert "***" in str(caught.value)


# -- choosing --


def test_context_is_resolved() -> None:
    """The current-context's cluster and user are looked up, and equal files resolve to equal contexts."""
    context = resolved(kubeconfig())
    assert (context.name, context.cluster.server, context.user.token) == ("x", "https://h", "tok")
    assert context == resolved(kubeconfig())
    assert context != resolved(kubeconfig(user=a_user(token="other")))


def test_names_that_lead_nowhere_are_all_reported() -> None:
    """Every name that does not exist is reported with its origin, the file, and what there is."""
    assert problems(kubeconfig(), context="zz", cluster="cc", user="uu") == (
        f'--context names the context "zz", which does not exist in {FILE}; the contexts are "x"',
        f'--cluster names the cluster "cc", which does not exist in {FILE}; the clusters are "c"',
        f'--user names the user "uu", which does not exist in {FILE}; the users are "u"',
    )
    dangling = replace(kubeconfig(), contexts={"x": Context(name="x", cluster="cc", user="uu")})
    assert problems(dangling) == (
        f'context "x" names the cluster "cc", which does not exist in {FILE}; the clusters are "c"',
        f'context "x" names the user "uu", which does not exist in {FILE}; the users are "u"',
    )
    assert problems(kubeconfig(current_context="zz"), cluster="c", user="u") == (
        f'current-context names the context "zz", which does not exist in {FILE}; the contexts are "x"',
    )


def test_no_current_context_lists_the_contexts() -> None:
    """Even a single context is not taken unasked, but the message names it."""
    (problem,) = problems(kubeconfig(current_context=""))
    assert str(FILE) in problem
    assert '"x"' in problem
    assert "--context" in problem
    assert "kproxy demo" in problem


def test_no_kubeconfig_says_where_it_was_sought() -> None:
    """Without any kubeconfig the message names the files looked for and the ways out."""
    (problem,) = problems(KubeConfig(paths=(FILE,), missing=(FILE,)))
    assert f"{FILE} (no such file)" in problem
    assert "--server" in problem
    assert "kproxy demo" in problem


@pytest.mark.parametrize(
    ("environ", "flags", "server"),
    [
        ({"KUBERNETES_MASTER": "http://m:1"}, {}, "http://m:1"),
        ({}, {"server": "http://s:1"}, "http://s:1"),
        ({"KUBERNETES_MASTER": "http://m:1"}, {"server": "http://s:1"}, "http://s:1"),
    ],
)
def test_server_without_kubeconfig(environ: dict[str, str], flags: dict[str, str], server: str) -> None:
    """KUBERNETES_MASTER and --server do without a kubeconfig, and the host names the context."""
    context = resolved(KubeConfig(), environ, **flags)
    assert context.cluster.server == server
    assert context.name == server.removeprefix("http://")


def test_master_variable_is_only_a_default() -> None:
    """KUBERNETES_MASTER fills in for a cluster without server, keeping its CA, and never replaces one."""
    environ = {"KUBERNETES_MASTER": "https://m"}
    assert resolved(kubeconfig(), environ).cluster.server == "https://h"
    bare = Cluster(name="c", server="", certificate_authority_data=PEM)
    context = resolved(kubeconfig(bare), environ)
    assert (context.cluster.server, context.cluster.certificate_authority_data) == ("https://m", PEM)
    assert problems(kubeconfig(bare)) == (f'cluster "c" ({FILE}) has no server; add one or give --server',)


def test_context_without_user() -> None:
    """A context that names no user needs credentials or identity from flags, or plain HTTP."""
    config = replace(kubeconfig(), contexts={"x": Context(name="x", cluster="c")})
    (problem,) = problems(config)
    assert 'context "x": it names no user' in problem
    assert resolved(config, token="t").user.token == "t"
    assert resolved(config, server="http://h").user == User(name="")


def test_entries_named_with_nothing() -> None:
    """A context, cluster and user named "" are found when current-context is empty."""
    config = KubeConfig(
        clusters={"": Cluster(name="", server="https://h")},
        users={"": User(name="", token="t")},
        contexts={"": Context(name="")},
    )
    assert resolved(config).user.token == "t"


# -- flags --


def test_flags_replace_single_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag replaces its own field; empty and false ones clear nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("c", "k"):
        (tmp_path / name).write_text("x")
    cluster = a_cluster(insecure_skip_tls_verify=True, disable_compression=True)
    user = User(
        name="u", client_certificate_data=b"C", client_key_data=b"K", impersonate="me", impersonate_uid="1"
    )
    context = resolved(
        kubeconfig(cluster, user),
        server="",
        insecure_skip_tls_verify=False,
        disable_compression=False,
        token="",
        client_certificate="c",
        client_key="k",
        impersonate="joe",
        impersonate_groups=("g1", "g2,g3"),
    )
    assert context.cluster == cluster
    assert (context.user.client_certificate, context.user.client_certificate_data) == (tmp_path / "c", None)
    assert (context.user.client_key, context.user.client_key_data) == (tmp_path / "k", None)
    assert (context.user.impersonate, context.user.impersonate_uid) == ("joe", "1")
    assert context.user.impersonate_groups == ("g1", "g2,g3")


def test_server_flag_drops_the_tls_name() -> None:
    """--server drops a tls-server-name meant for another server; --tls-server-name gives a new one."""
    config = kubeconfig(a_cluster(tls_server_name="n", certificate_authority_data=PEM))
    assert resolved(config).cluster.tls_server_name == "n"
    changed = resolved(config, server="https://s").cluster
    assert (changed.tls_server_name, changed.certificate_authority_data) == (None, PEM)
    assert resolved(config, server="https://s", tls_server_name="t").cluster.tls_server_name == "t"
    assert resolved(config, tls_server_name="t").cluster.tls_server_name == "t"


def test_trust_flags_replace_each_other(tmp_path: Path) -> None:
    """--certificate-authority and --insecure-skip-tls-verify drop what contradicts them in the kubeconfig."""
    authority = tmp_path / "ca"
    authority.write_bytes(PEM)
    insecure = a_cluster(insecure_skip_tls_verify=True)
    trusting = a_cluster(certificate_authority_data=PEM)
    changed = resolved(kubeconfig(insecure), certificate_authority=str(authority)).cluster
    assert (changed.insecure_skip_tls_verify, changed.certificate_authority) == (False, authority)
    changed = resolved(kubeconfig(trusting), insecure_skip_tls_verify=True).cluster
    assert (changed.insecure_skip_tls_verify, changed.certificate_authority_data) == (True, None)
    (problem,) = problems(
        kubeconfig(trusting), insecure_skip_tls_verify=True, certificate_authority=str(authority)
    )
    assert "exclude each other" in problem


def test_token_flag_beats_token_file() -> None:
    """--token replaces token and tokenFile, which is then not even looked for."""
    config = kubeconfig(user=a_user(token="A", token_file=Path("/nonexistent")))
    user = resolved(config, token="F").user
    assert (user.token, user.token_file) == ("F", None)


def test_extra_flags_merge_by_key() -> None:
    """--as-user-extra replaces the values of its keys, adds up when repeated, and leaves the other keys."""
    user = a_user(token="t", impersonate="joe", impersonate_extra=(("k", ("z",)), ("m", ("q",))))
    changed = resolved(kubeconfig(user=user), impersonate_extra=("k=a", "k=b=c", "n=")).user
    assert dict(changed.impersonate_extra) == {"k": ("a", "b=c"), "m": ("q",), "n": ("",)}


def test_flag_problems_come_with_the_others() -> None:
    """Flags that cannot be read are reported together with what is wrong in the kubeconfig."""
    config = kubeconfig(user=a_user(token="t", username="me"))
    found = problems(config, request_timeout="soon", impersonate_extra=("novalue",))
    assert len(found) == 4
    assert "--request-timeout=soon" in found[0]
    assert "--as-user-extra=novalue" in found[1]
    assert len(problems(config, request_timeout="soon", context="zz")) == 2
    assert len(problems(KubeConfig(), request_timeout="soon")) == 2
    assert len(problems(kubeconfig(), request_timeout="soon")) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("30", 30.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("300ms", 0.3), (".5s", 0.5), ("-1s", -1.0),
     ("1us", 1e-6), ("1\u00b5s", 1e-6), ("1h1m1s1ms", 3661.001)],
)  # fmt: skip
def test_timeouts_are_seconds_or_durations(text: str, seconds: float) -> None:
    """A bare number is seconds, everything else a Go duration."""
    assert timeout_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["-1", "1.5", "s", "1 s", "1d", "1m30", "", "soon", "1s\n"])
def test_other_timeouts_are_refused(text: str) -> None:
    """What kubectl does not read as a timeout is an error."""
    with pytest.raises(KubeconfigError, match="invalid timeout"):
        timeout_seconds(text)


# -- plain HTTP --


def test_plain_http_gets_no_credentials() -> None:
    """The user of an http server keeps the impersonation and loses all secrets; missing files are fine."""
    user = User(
        name="u",
        token_file=Path("/nonexistent"),
        client_key_data=b"K",
        username="me",
        password="pw",
        impersonate="joe",
        impersonate_groups=("g",),
        auth_provider=AuthProvider(name="gcp"),
    )
    context = resolved(kubeconfig(Cluster(name="c", server="http://h"), user))
    assert context.user == a_user(impersonate="joe", impersonate_groups=("g",), source_path=FILE)


def test_plain_http_is_still_validated() -> None:
    """Conflicting fields and a missing CA file are errors whatever the scheme."""
    cluster = Cluster(name="c", server="http://h", certificate_authority=Path("/nonexistent"))
    assert len(problems(kubeconfig(cluster, a_user(token="t", username="me")))) == 2


# -- validation --

PLUGIN = ExecConfig(command="p", api_version="client.authentication.k8s.io/v1", interactive_mode="Never")


@pytest.mark.parametrize(
    ("user", "words"),
    [
        (a_user(client_certificate_data=b"c"), "without its key"),
        (
            a_user(client_certificate=Path("/"), client_certificate_data=b"c", client_key_data=b"k"),
            "client-certificate and client-certificate-data are both given",
        ),
        (
            a_user(client_certificate_data=b"c", client_key=Path("/"), client_key_data=b"k"),
            "client-key and client-key-data are both given",
        ),
        (a_user(client_certificate=Path("/no"), client_key_data=b"k"), "client-certificate /no cannot be"),
        (a_user(client_certificate_data=b"c", client_key=Path("/no")), "client-key /no cannot be read"),
        (a_user(client_certificate_data=b"c", client_key=Path("/")), "client-key / is a directory"),
        (a_user(client_certificate_data=b"c", client_key=Path("/\0")), "NUL"),
        (a_user(token="t", username="me"), "two authentication methods"),
        (a_user(token="t", password="pw"), "two authentication methods"),
        (a_user(token_file=Path("/dev/null"), username="me"), "tokenFile and username"),
        (a_user(token_file=Path("/no")), "tokenFile /no cannot be read"),
        (a_user(impersonate_uid="1", impersonate_groups=("g",)), "as-uid, as-groups asked for without"),
        (a_user(impersonate_extra=(("k", ("v",)),)), "as-user-extra asked for without"),
        (a_user(exec=replace(PLUGIN, command="")), "exec.command is missing"),
        (a_user(exec=replace(PLUGIN, api_version="")), "exec.apiVersion is missing"),
        (a_user(exec=replace(PLUGIN, api_version="v1alpha1")), 'exec.apiVersion: invalid version "v1alpha1"'),
        (a_user(exec=replace(PLUGIN, env=(("A", "1"), ("", "2")))), r"exec.env\[1\].name is missing"),
        (a_user(exec=replace(PLUGIN, interactive_mode="")), "exec.interactiveMode is missing"),
        (a_user(exec=replace(PLUGIN, interactive_mode="Soon")), 'invalid value "Soon"'),
        (a_user(exec=PLUGIN, auth_provider=AuthProvider(name="oidc")), "cannot be combined"),
        (a_user(auth_provider=AuthProvider(name="gcp")), "gke-gcloud-auth-plugin"),
        (a_user(auth_provider=AuthProvider(name="azure")), "Azure/kubelogin"),
        (a_user(auth_provider=AuthProvider(name="other")), '"other"'),
        (a_user(auth_provider=AuthProvider(name="oidc")), "oidc: idp-issuer-url is missing"),
        (a_user(auth_provider=AuthProvider(name="oidc")), "oidc: client-id is missing"),
    ],
)  # fmt: skip
def test_wrong_users_are_refused(user: User, words: str) -> None:
    """What a user cannot be used with is said with the context, the user and its file."""
    with pytest.raises(KubeconfigError, match=rf'(?m)^context "x": user "u" \({FILE}\): .*{words}'):
        resolved(kubeconfig(user=user))


@pytest.mark.parametrize(
    "user",
    [
        a_user(),
        a_user(client_key=Path("/nonexistent")),
        a_user(token="t", token_file=Path("/nonexistent")),
        a_user(token="t", client_certificate_data=b"c", client_key_data=b"k"),
        a_user(token="t", exec=PLUGIN),
        a_user(username="me"),
        a_user(exec=replace(PLUGIN, command="/nonexistent")),
    ],
)
def test_odd_users_are_fine(user: User) -> None:
    """No credential, a key alone, a token instead of a missing file and doubled methods are no errors."""
    assert resolved(kubeconfig(user=user)).user == replace(user, source_path=FILE)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (a_cluster(server="h:1"), "no scheme"),
        (a_cluster(proxy_url="socks4://p"), 'unsupported scheme "socks4"'),
        (a_cluster(proxy_url="localhost:3128"), 'unsupported scheme "localhost"'),
        (a_cluster(proxy_url="127.0.0.1:3128"), "no scheme; write http://127.0.0.1:3128"),
        (a_cluster(proxy_url="http:///x"), "names no host"),
        (
            a_cluster(certificate_authority=Path("/"), certificate_authority_data=b"x"),
            "both given",
        ),
        (a_cluster(certificate_authority=Path("/no")), "certificate-authority /no cannot"),
        (
            a_cluster(insecure_skip_tls_verify=True, certificate_authority_data=b"x"),
            "exclude each other",
        ),
    ],
)  # fmt: skip
def test_wrong_clusters_are_refused(cluster: Cluster, words: str) -> None:
    """What a cluster cannot be used with is said with the context, the cluster and its file."""
    with pytest.raises(KubeconfigError, match=rf'^context "x": cluster "c" \({FILE}\): .*{words}'):
        resolved(kubeconfig(cluster))


@pytest.mark.parametrize(
    "url", ["http://p:3128", "HTTPS://p", "socks5://me:pw@127.0.0.1:1080", "http://[::1]:1"]
)
def test_proxy_urls_are_accepted(url: str) -> None:
    """http, https and socks5 proxies pass as they are written."""
    assert resolved(kubeconfig(a_cluster(proxy_url=url))).cluster.proxy_url == url


def test_all_problems_are_reported_at_once() -> None:
    """Problems of user and cluster come in one error, the user's first."""
    cluster = Cluster(name="c", server="h", proxy_url="ftp://x")
    user = a_user(token="t", username="me", client_certificate_data=b"c")
    assert [problem.split(": ")[1][:4] for problem in problems(kubeconfig(cluster, user))] == [
        "user", "user", "clus", "clus",
    ]  # fmt: skip


def test_errors_show_no_secrets() -> None:
    """No problem shows a token, a password or the user info of a URL."""
    secret = secrets.plant("resolve")
    cluster = Cluster(name="c", server=f"https://me:{secret}@h:x", proxy_url=f"ftp://me:{secret}@p")
    user = User(
        name="u", token=secret, username="me", password=secret, client_certificate_data=secret.encode()
    )
    assert not secrets.leaked("\n".join(problems(kubeconfig(cluster, user))))


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    """A named pipe as client-key is left to whoever reads it: checking must neither block nor empty it."""
    os.mkfifo(tmp_path / "key")
    user = a_user(client_certificate_data=b"c", client_key=tmp_path / "key")
    assert resolved(kubeconfig(user=user)).user.client_key == tmp_path / "key"


# -- in a pod --

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("sa\n")
    (tmp_path / "ca.crt").write_bytes(PEM)
    return tmp_path


def test_pod_identity_is_the_default(account: Path) -> None:
    """In a pod without kubeconfig it is the service account's token file and CA, before KUBERNETES_MASTER."""
    context = resolve(KubeConfig(), Overrides(), {**POD, "KUBERNETES_MASTER": "http://m"}, account)
    assert context.name == "in-cluster"
    assert context.cluster.server == "https://10.0.0.1:443"
    assert context.cluster.certificate_authority == account / "ca.crt"
    assert context.user.token_file == account / "token"


@pytest.mark.parametrize(
    "config",
    [
        kubeconfig(current_context=""),
        kubeconfig(Cluster(name="c", server="http://localhost:8080")),
    ],
    ids=["no-current-context", "localhost-8080"],
)
def test_kubeconfig_that_says_nothing_leaves_the_pod_identity(config: KubeConfig, account: Path) -> None:
    """A kubeconfig that chooses nothing, or only spells out the default server, does not count in a pod."""
    assert resolve(config, Overrides(), POD, account).name == "in-cluster"


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (kubeconfig(), {}),
        (KubeConfig(), {"server": "http://s"}),
        (kubeconfig(Cluster(name="c", server="http://localhost:8080", proxy_url="http://p")), {}),
        (kubeconfig(Cluster(name="c", server="http://localhost:8080"), a_user(impersonate="j")), {}),
        (kubeconfig(current_context=""), {"cluster": "c"}),
    ],
)
def test_chosen_server_beats_the_pod_identity(
    config: KubeConfig, flags: dict[str, str], account: Path
) -> None:
    """A server chosen by kubeconfig or flags is used in a pod too."""
    assert resolve(config, Overrides(**flags), POD, account).name != "in-cluster"


@pytest.mark.parametrize(
    "environ",
    [{}, {**POD, "KUBERNETES_SERVICE_PORT": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}],
)
def test_no_service_variables_no_pod(environ: dict[str, str], account: Path) -> None:
    """Without both service variables there is no pod to speak of."""
    with pytest.raises(KubeconfigError, match="no cluster to connect to"):
        resolve(KubeConfig(), Overrides(), environ, account)


def test_no_token_file_no_pod(tmp_path: Path) -> None:
    """Without a token file, or with a directory in its place, there is no pod identity."""
    with pytest.raises(KubeconfigError, match="no cluster to connect to"):
        resolve(KubeConfig(), Overrides(), POD, tmp_path)
    (tmp_path / "token").mkdir()
    with pytest.raises(KubeconfigError, match="no cluster to connect to"):
        resolve(KubeConfig(), Overrides(), POD, tmp_path)


def test_flags_in_a_pod(account: Path) -> None:
    """Impersonation, token, CA and compression flags apply in a pod; other TLS and user flags do not."""
    own = account / "own"
    own.write_bytes(PEM)
    overrides = Overrides(
        impersonate="joe",
        token="F",
        certificate_authority=str(own),
        disable_compression=True,
        request_timeout="5s",
        insecure_skip_tls_verify=True,
        tls_server_name="n",
        client_certificate="/nonexistent",
        username="me",
    )
    context = resolve(KubeConfig(), overrides, POD, account)
    assert context.cluster == Cluster(
        name="in-cluster", server="https://10.0.0.1:443", certificate_authority=own, disable_compression=True
    )
    assert context.user == User(name="in-cluster", token="F", impersonate="joe")


def test_pod_with_odd_files(account: Path) -> None:
    """An IPv6 host is bracketed, an unusable ca.crt means the system's CAs, an empty token is an error."""
    (account / "ca.crt").write_text("junk")
    context = resolve(KubeConfig(), Overrides(), {**POD, "KUBERNETES_SERVICE_HOST": "fd00::1"}, account)
    assert context.cluster.server == "https://[fd00::1]:443"
    assert context.cluster.certificate_authority is None
    assert any("ca.crt" in warning for warning in warnings_for(context))
    (account / "token").write_text(" \n")
    with pytest.raises(KubeconfigError, match=f'empty token from file "{account}/token"'):
        resolve(KubeConfig(), Overrides(), POD, account)
    assert resolve(KubeConfig(), Overrides(token="F"), POD, account).user.token == "F"


# -- warnings --


def test_good_contexts_have_no_warnings() -> None:
    """A token over verified TLS, or plain HTTP, is nothing to warn about."""
    assert warnings_for(resolved(kubeconfig())) == ()
    assert warnings_for(resolved(kubeconfig(), server="http://h")) == ()


def test_anonymous_https_is_warned_about() -> None:
    """A user without credentials over https gets a warning that says so."""
    (warning,) = warnings_for(resolved(kubeconfig(user=a_user(impersonate="joe"))))
    assert '"u"' in warning
    assert "anonymous" in warning


def test_insecure_is_warned_about() -> None:
    """Skipping verification is warned about."""
    cluster = a_cluster(insecure_skip_tls_verify=True)
    (warning,) = warnings_for(resolved(kubeconfig(cluster)))
    assert "insecure-skip-tls-verify" in warning


def test_left_out_server_path_is_warned_about() -> None:
    """A path in the server URL is warned about unless it is appended."""
    context = resolved(kubeconfig(Cluster(name="c", server="https://h/pre")))
    (warning,) = warnings_for(context)
    assert "/pre" in warning
    assert "--append-server-path" in warning
    assert warnings_for(context, append_server_path=True) == ()


def test_empty_authority_file_is_warned_about(tmp_path: Path) -> None:
    """An empty CA file, with which no server can be trusted, is warned about by name."""
    (tmp_path / "ca").touch()
    cluster = a_cluster(certificate_authority=tmp_path / "ca")
    (warning,) = warnings_for(resolved(kubeconfig(cluster)))
    assert f"{tmp_path}/ca" in warning

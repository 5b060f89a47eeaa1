"""Which proxy serves which server: the rules of kubectl and Go's httpproxy, as a table."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import ConfigError, KubeconfigError
from kproxy.kube.resolve import server_address
from kproxy.upstream.proxies import Proxy, proxy_for

PROXY = "http://proxy.test:3128"


def chosen(server: str, environ: Mapping[str, str] | None = None, proxy_url: str | None = None) -> str | None:
    proxy = proxy_for(server_address(server), proxy_url, environ or {}, cluster="c")
    return None if proxy is None else str(proxy)


def parsed(url: str) -> Proxy:
    proxy = proxy_for(server_address("https://api.test"), url, {}, cluster="c")
    assert proxy is not None
    return proxy


# -- proxy-url --


@pytest.mark.parametrize("server", ["https://api.test:6443", "http://api.test", "https://127.0.0.1:6443"])
def test_proxy_url_always_wins(server: str) -> None:
    """proxy-url serves every server, loopback ones too, whatever the environment says."""
    environ = {"HTTPS_PROXY": "http://other:1", "HTTP_PROXY": "http://other:1", "NO_PROXY": "*"}
    assert chosen(server, {**environ, "REQUEST_METHOD": "GET"}, PROXY) == PROXY


def test_no_proxy_at_all() -> None:
    """Neither proxy-url nor environment: connect straight; an empty proxy-url is none."""
    assert chosen("https://api.test") is None
    assert chosen("https://api.test", {}, "") is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://p", "http://p:80"),
        ("https://p", "https://p:443"),
        ("socks5://p", "socks5://p:1080"),
        ("socks5h://p", "socks5h://p:1080"),
        ("HTTP://p:8080", "http://p:8080"),
        ("http://p:", "http://p:80"),
        ("http://p:8080/path?query#fragment", "http://p:8080"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("http://[fe80::1%25eth0]:1", "http://[fe80::1%eth0]:1"),
    ],
)
def test_proxy_addresses(url: str, shown: str) -> None:
    """Scheme, host and port, with each scheme's default port."""
    assert str(parsed(url)) == shown


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("http://p", None, None),
        ("http://@p", None, None),
        ("http://me@p", "me", ""),
        ("http://me:pw@p", "me", "pw"),
        ("http://me:s%40e%3a@p", "me", "s@e:"),
        ("http://:pw@p", "", "pw"),
        ("http://me:a@b:c@p", "me", "a@b:c"),
        ("http://m%C3%A9:pw@p", "mé", "pw"),
        ("socks5://me:pw@p", "me", "pw"),
    ],
)
def test_user_info(url: str, username: str | None, password: str | None) -> None:
    """User name and password are percent-decoded; an unescaped @ belongs to the password."""
    proxy = parsed(url)
    assert (proxy.host, proxy.username, proxy.password) == ("p", username, password)


def test_password_is_not_shown() -> None:
    """Neither the value's repr nor its text has the password."""
    proxy = parsed("http://me:hunter2@p")
    assert "hunter2" not in repr(proxy)
    assert "me" not in str(proxy)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("socks4://me:hunter2@p", 'unsupported scheme "socks4", must be http, https, socks5 or socks5h'),
        ("me:hunter2@p:3128", "has no scheme; write http://"),
        ("me:hunter2@p://x", "has no scheme"),
        ("127.0.0.1:3128", "has no scheme; write http://127.0.0.1:3128"),
        ("http://", "not of the form http://[USER:PASSWORD@]HOST[:PORT]"),
        ("http://me:hunter2@", "not of the form"),
        ("http://me:hun/ter2@p:3128", "percent-encoded"),
        ("http://me:hunter2@p:x", "not of the form"),
        ("http://p:0", "port 0 is not in 1-65535"),
        ("http://me:hunter2@p:65536", "port 65536 is not in 1-65535"),
        ("http://[::1", "not of the form"),
        ("http://p q", "not of the form"),
        ("http://p\r\nX-Evil: 1", "not of the form"),
        ("socks5://me@p", "takes a user name and a password, or neither"),
        ("socks5://me:hunter2%C3%A9@p", "must be ASCII of at most 255 bytes"),
        ("socks5://me:" + "hunter2" * 40 + "@p", "must be ASCII of at most 255 bytes"),
    ],
)
def test_bad_proxy_url(url: str, problem: str) -> None:
    """A bad proxy-url names cluster and field and says what is wrong, with everything secret masked."""
    with pytest.raises(KubeconfigError) as caught:
        parsed(url)
    assert caught.value.message.startswith('cluster "c": proxy-url "')
    assert problem in caught.value.message
    assert "hun" not in caught.value.message


@given(st.sampled_from(["http://", "socks5://", "http:", ""]), st.text(), st.text())
def test_any_url_is_taken_or_refused_safely(prefix: str, user: str, host: str) -> None:
    """Whatever a URL holds, it is a Proxy or a KubeconfigError that does not show what is before the @."""
    message = ""
    try:
        parsed(f"{prefix}{user}hunter2@{host}")
    except KubeconfigError as error:
        message = error.message
    assert "hunter2" not in message


# -- the environment: which variable --


@pytest.mark.parametrize(
    ("server", "environ", "expected"),
    [
        ("https://api.test", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://api.test", {"https_proxy": PROXY}, PROXY),
        ("https://api.test", {"HTTPS_PROXY": PROXY, "https_proxy": "http://lower:1"}, PROXY),
        ("https://api.test", {"HTTPS_PROXY": "", "https_proxy": PROXY}, PROXY),
        ("https://api.test", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY, "all_proxy": PROXY}, None),
        ("http://api.test", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://api.test", {"http_proxy": PROXY}, PROXY),
        ("http://api.test", {"HTTPS_PROXY": PROXY}, None),
        ("https://api.test", {"HTTPS_PROXY": "proxy.test:3128"}, PROXY),
        ("https://api.test", {"HTTPS_PROXY": "10.0.0.1"}, "http://10.0.0.1:80"),
        ("https://api.test", {"HTTPS_PROXY": "me:pw@proxy.test:3128"}, PROXY),
        ("https://api.test", {"HTTPS_PROXY": " http://proxy.test:3128\n"}, PROXY),
        ("https://api.test", {"HTTPS_PROXY": "socks5h://p"}, "socks5h://p:1080"),
    ],
)
def test_variables(server: str, environ: dict[str, str], expected: str | None) -> None:
    """The scheme's own variable, upper case first, never ALL_PROXY; no scheme means http."""
    assert chosen(server, environ) == expected


@pytest.mark.parametrize(
    "server",
    [
        "https://localhost:6443",
        "https://LOCALHOST",
        "https://127.0.0.1",
        "https://127.9.9.9",
        "https://[::1]",
    ],
)
def test_environment_never_for_loopback(server: str) -> None:
    """Loopback servers are dialled straight, even if the variable is broken."""
    assert chosen(server, {"HTTPS_PROXY": PROXY}) is None
    assert chosen(server, {"HTTPS_PROXY": "gopher://p"}) is None


def test_bad_variable() -> None:
    """A variable that cannot be used is an error that names it, not a straight connection."""
    with pytest.raises(ConfigError) as caught:
        chosen("https://api.test", {"https_proxy": "gopher://me:hunter2@p"})
    assert caught.value.message.startswith('https_proxy "gopher://***@p": unsupported scheme "gopher"')
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        chosen("https://api.test", {"HTTPS_PROXY": "http://p:99999"})


def test_cgi() -> None:
    """HTTP_PROXY is refused in a CGI script (httpoxy); HTTPS_PROXY and servers without proxy are not."""
    environ = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "REQUEST_METHOD": "GET", "NO_PROXY": "10.0.0.0/8"}
    with pytest.raises(ConfigError, match=r"refusing to use HTTP_PROXY .* REQUEST_METHOD"):
        chosen("http://api.test", environ)
    assert chosen("https://api.test", environ) == PROXY
    assert chosen("http://10.1.2.3", environ) is None
    assert chosen("http://api.test", {**environ, "REQUEST_METHOD": ""}) == PROXY


def test_source() -> None:
    """A proxy knows who named it, and two from different sources are equal when they are the same."""
    by_url = parsed(PROXY)
    by_variable = proxy_for(server_address("https://api.test"), None, {"https_proxy": PROXY})
    assert by_variable is not None
    assert (by_url.source, by_variable.source) == ('proxy-url of cluster "c"', "https_proxy")
    assert by_url == by_variable


# -- NO_PROXY --


@pytest.mark.parametrize(
    ("no_proxy", "server", "is_proxied"),
    [
        ("", "https://api.test", True),
        ("*", "https://api.test", False),
        ("other.test, *", "https://10.0.0.1", False),
        # Names: themselves and what is below them.
        ("api.test", "https://api.test", False),
        ("api.test", "https://eu.api.test:6443", False),
        ("api.test", "https://myapi.test", True),
        ("API.Test", "https://api.test", False),
        ("api.test", "https://API.TEST", False),
        (".api.test", "https://api.test", True),
        (".api.test", "https://eu.api.test", False),
        ("*.api.test", "https://api.test", True),
        ("*.api.test", "https://eu.api.test", False),
        ("a.test,  api.test ,b.test", "https://api.test", False),
        ("a.test b.test", "https://a.test", True),
        ("test", "https://api.test", False),
        ("bücher.test", "https://xn--bcher-kva.test", False),
        # Ports: those of the rule only; none means all; a server without one has its scheme's.
        ("api.test:6443", "https://api.test:6443", False),
        ("api.test:6443", "https://api.test", True),
        ("api.test:443", "https://api.test", False),
        (".api.test:6443", "https://eu.api.test:6443", False),
        ("api.test:", "https://api.test", False),
        (":6443", "https://api.test:6443", True),
        ("*:6443", "https://api.test:6443", True),
        # Addresses.
        ("10.0.0.1", "https://10.0.0.1", False),
        ("10.0.0.1", "https://10.0.0.10", True),
        ("10.0.0.1:6443", "https://10.0.0.1:6443", False),
        ("10.0.0.1:6443", "https://10.0.0.1", True),
        ("fd00::1", "https://[fd00::1]:6443", False),
        ("fd00:0::1", "https://[fd00::1]", False),
        ("[fd00::1]:6443", "https://[fd00::1]:6443", False),
        ("[fd00::1]:6443", "https://[fd00::1]", True),
        ("[fd00::1]", "https://[fd00::1]", True),
        ("::ffff:10.0.0.1", "https://10.0.0.1", False),
        ("10.0.0.1", "https://[::ffff:10.0.0.1]", False),
        ("fe80::1", "https://[fe80::1%25eth0]", False),
        ("10.0.0.1", "https://api.test", True),
        # Names never hold for addresses.
        ("1", "https://10.0.0.1", True),
        (".0.0.1", "https://10.0.0.1", True),
        # CIDRs.
        ("10.0.0.0/8", "https://10.1.2.3", False),
        ("10.9.9.9/8", "https://10.1.2.3", False),
        ("10.0.0.0/8", "https://11.1.2.3", True),
        ("10.0.0.0/8", "https://api.test", True),
        (" 10.0.0.0/8 ", "https://10.1.2.3", False),
        ("010.000.0.0/8", "https://10.1.2.3", False),
        ("10.0.0.0/255.0.0.0", "https://10.1.2.3", True),
        ("10.0.0.0/33", "https://10.1.2.3", True),
        ("10.0.0.0/", "https://10.0.0.0", True),
        ("fd00::/8", "https://[fd12::1]", False),
        ("fd00::/8", "https://[fe12::1]", True),
        ("0.0.0.0/0", "https://[fd12::1]", True),
        ("0.0.0.0/0", "https://192.0.2.1", False),
    ],
)
def test_no_proxy(no_proxy: str, server: str, is_proxied: bool) -> None:
    """httpproxy's rules, after kubectl's own for CIDRs."""
    assert (chosen(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}) is not None) == is_proxied


def test_no_proxy_upper_case_first() -> None:
    """NO_PROXY beats no_proxy unless it is empty, and neither helps without a proxy."""
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": "other.test", "no_proxy": "*"}
    assert chosen("https://api.test", environ) == PROXY
    assert chosen("https://api.test", {**environ, "NO_PROXY": ""}) is None
    assert chosen("https://api.test", {"NO_PROXY": "other.test"}) is None


@given(st.text(), st.sampled_from(["https://api.test", "https://10.0.0.1", "https://[fd00::1]:6443"]))
def test_any_no_proxy_is_readable(no_proxy: str, server: str) -> None:
    """No rule, however odd, is an error: what cannot be read matches nothing."""
    assert chosen(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}) in (PROXY, None)


def test_the_url_for_a_library_has_the_password_and_the_text_has_not() -> None:
    """A user name or password with reserved characters survives in `url`; `str` is for people."""
    proxy = Proxy(scheme="http", host="::1", port=3128, username="a@b", password="p:/w")

    assert proxy.url() == "http://a%40b:p%3A%2Fw@[::1]:3128"
    assert str(proxy) == "http://[::1]:3128"
    assert Proxy(scheme="https", host="p", port=443).url() == "https://p:443"

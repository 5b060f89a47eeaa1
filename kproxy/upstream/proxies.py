"""Which proxy, if any, stands between us and an API server.

`proxy-url` of the cluster is the last word. Without it the environment decides by the rules of Go's
golang.org/x/net/http/httpproxy, with kubectl's own look at CIDRs before it (apimachinery util/net,
NewProxierWithNoProxyCIDR). Both differ from curl's and Python's: upper case wins, ALL_PROXY is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, unquote

from kproxy.errors import ConfigError, KubeconfigError
from kproxy.kube.resolve import ServerAddress

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
# The user info ends at the last @ of the authority, so that an unescaped @ in a password is forgiven.
_PROXY_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^/?#]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|[^\s:/?#@\[\]\x00-\x1f\x7f]+)"
    r"(?::(?P<port>\d*))?(?:[/?#].*)?"
)
_MAX_SOCKS_BYTES = 255
"""What the length byte of RFC 1929, section 2 can say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """A proxy to dial through. `source` says who named it: `proxy-url of cluster "c"`, or a variable."""

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    source: str = field(default="", compare=False)

    def url(self) -> str:
        """With the password, for a client library; `str` is for people."""
        if self.username is None:
            return str(self)
        user_info = f"{quote(self.username, safe='')}:{quote(self.password or '', safe='')}"
        return str(self).replace("://", f"://{user_info}@", 1)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def proxy_for(
    address: ServerAddress, proxy_url: str | None, environ: Mapping[str, str], *, cluster: str = ""
) -> Proxy | None:
    """The proxy for connections to `address`, None to connect straight.

    `proxy_url` counts for loopback servers too and whatever NO_PROXY says; the environment never counts
    for loopback. socks5 and socks5h both leave the server's name to the proxy, as in Go. `cluster` is the
    name for messages. Raises KubeconfigError for a bad `proxy_url` and ConfigError for a bad variable,
    which kubectl would ignore: traffic that is meant for a proxy does not go out straight.
    """
    if proxy_url:
        field_name = f'cluster "{cluster}": proxy-url' if cluster else "proxy-url"
        try:
            return _parse(proxy_url, f'proxy-url of cluster "{cluster}"' if cluster else "proxy-url")
        except ValueError as error:
            raise KubeconfigError(f'{field_name} "{_masked(proxy_url)}": {error}') from None
    variable, value = _first_set(environ, address.scheme.upper() + "_PROXY")
    if not value or not _is_proxied(address, _first_set(environ, "NO_PROXY")[1]):
        return None
    if address.scheme == "http" and environ.get("REQUEST_METHOD"):
        # A CGI server sets HTTP_PROXY from the client's `Proxy:` header (CVE-2016-5385, "httpoxy").
        raise ConfigError(
            f"refusing to use {variable} because REQUEST_METHOD is set, as in a CGI script; unset one of "
            "them, or name the proxy in proxy-url of the cluster"
        )
    url = value.strip()
    try:
        return _parse(url if "://" in url else f"http://{url}", variable)
    except ValueError as error:
        raise ConfigError(f'{variable} "{_masked(url)}": {error}') from None


def _first_set(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts and its value: upper case before lower case, empty is unset."""
    for variable in (name, name.lower()):
        if value := environ.get(variable):
            return variable, value
    return name, ""


def _parse(url: str, source: str) -> Proxy:
    """Raises ValueError saying what is wrong with `url`, without repeating it: it may hold a password."""
    scheme, separator, _ = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise ValueError(f"has no scheme; write http://{_masked(url)}")
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f'unsupported scheme "{scheme}", must be http, https, socks5 or socks5h')
    match = _PROXY_URL.fullmatch(url)
    if match is None:
        raise ValueError(
            f"not of the form {scheme}://[USER:PASSWORD@]HOST[:PORT]; special characters in a user name or "
            "password are written percent-encoded"
        )
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError(f"port {port} is not in 1-65535")
    username, password = _user_info(match["user"])
    if scheme.startswith("socks5"):
        _check_socks_user(username, password)
    return Proxy(
        scheme=scheme,
        host=unquote(match["host"].strip("[]")),
        port=port,
        username=username,
        password=password,
        source=source,
    )


def _user_info(text: str | None) -> tuple[str | None, str | None]:
    if not text:
        return None, None
    username, _, password = text.partition(":")
    return unquote(username), unquote(password)


def _check_socks_user(username: str | None, password: str | None) -> None:
    """RFC 1929 knows neither an empty user name or password nor any encoding beyond ASCII."""
    if username is None or password is None:
        return
    if not username or not password:
        raise ValueError("a SOCKS proxy takes a user name and a password, or neither")
    if not (username + password).isascii() or max(len(username), len(password)) > _MAX_SOCKS_BYTES:
        raise ValueError(
            f"user name and password of a SOCKS proxy must be ASCII of at most {_MAX_SOCKS_BYTES} bytes each"
        )


def _masked(url: str) -> str:
    """The URL to be shown: everything up to the last @ is hidden, since a slip may put a password there."""
    return re.sub(r"^([^:/?#@]*://)?.*@", r"\1***@", url, flags=re.DOTALL)


# -- NO_PROXY --


def _is_proxied(address: ServerAddress, no_proxy: str) -> bool:
    """httpproxy's useProxy: whether the environment's proxy serves this host and port."""
    host = address.host.lower()
    ip = _to_ip(host.partition("%")[0])
    if host == "localhost" or (ip is not None and ip.is_loopback):
        return False
    return not any(_matches(rule, host, ip, address.port) for rule in _rules(no_proxy))


def _rules(no_proxy: str) -> Iterator[str]:
    return filter(None, (rule.strip().lower() for rule in no_proxy.split(",")))


def _matches(rule: str, host: str, ip: IPv4Address | IPv6Address | None, port: int) -> bool:
    if rule == "*":
        return True
    network, slash, bits = rule.partition("/")
    if slash and bits.isdecimal():
        base = _to_ip(_without_leading_zeros(network))
        if base is not None and int(bits) <= base.max_prefixlen:
            return ip is not None and ip in ip_network((base, int(bits)), strict=False)
    rule_host, rule_port = _split_port(rule)
    if not rule_host or rule_port not in ("", str(port)):
        return False
    rule_ip = _to_ip(rule_host)
    if rule_ip is not None or ip is not None:
        # Rules with names never hold for addresses.
        return rule_ip is not None and rule_ip == ip
    name = _to_ascii(rule_host.removeprefix("*.").removeprefix("."))
    return host.endswith("." + name) or (host == name and not rule_host.startswith(("*.", ".")))


def _split_port(rule: str) -> tuple[str, str]:
    """Go's net.SplitHostPort; what it cannot split is all host, such as a bare IPv6 address."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*):([^\[\]:]*)", rule)
    return (match[1].strip("[]"), match[2]) if match else (rule, "")


def _to_ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    # Go's net.IP does not tell ::ffff:10.0.0.1 from 10.0.0.1.
    return getattr(ip, "ipv4_mapped", None) or ip


def _without_leading_zeros(network: str) -> str:
    """kubectl reads CIDRs as Go did before 1.17: `010.0.0.0/8` is 10.0.0.0/8 (ParseCIDRSloppy)."""
    return network if ":" in network else re.sub(r"\b0+(?=\d)", "", network)


def _to_ascii(name: str) -> str:
    """A name as it stands in `server`, where only ASCII is taken."""
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name

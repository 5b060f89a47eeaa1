"""Which requests pass: kubectl's filters, and a guard against web pages. Pure decisions, no I/O.

The filters are those of kubectl's pkg/proxy/proxy_server.go, in its order: reject-paths, reject-methods,
accept-paths. Only, a path must pass in every way it may be read (pathrules.py), and the two default
expressions of --reject-paths stand for what they mean. What is forwarded stays as it came.

The guard is ours. kubectl lets any page in a browser open `ws://localhost:8001/api/v1/secrets?watch=true`,
since browsers ask no leave for WebSockets (RFC 6455 section 10.2) or simple requests (Fetch standard).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import NamedTuple, ParamSpec

from kproxy.errors import ConfigError, Denied, NavigationDenied
from kproxy.kube.requestinfo import decoded_path
from kproxy.policy.automaton import Steps
from kproxy.policy.paths import (
    MAX_JUDGED_BYTES,
    MAX_ODD_BYTES,
    TooManyReadings,
    leads_through_proxy,
    leaves_root,
    opens_stream,
    readings,
)
from kproxy.policy.rules import MAX_STEPS, Rule, Rules, as_flag, compile_rules, exactly, quoted
from kproxy.system.addresses import is_loopback

_STREAMS = {"^/api/.*/pods/.*/exec": "exec", "^/api/.*/pods/.*/attach": "attach"}

DEFAULT_ACCEPT_PATHS = ("^.*",)
DEFAULT_REJECT_PATHS = tuple(_STREAMS)
DEFAULT_ACCEPT_HOSTS = ("^localhost$", r"^127\.0\.0\.1$", r"^\[::1\]$")
DEFAULT_REJECT_METHODS = ("^$",)
DEFAULT_ACCEPT_ORIGINS: tuple[str, ...] = ()

_MAX_SHOWN = 90  # characters of client input in one message, twice at most

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[0-9a-z._~-]{1,255})(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"([a-z][0-9a-z+.-]*)://(\[[0-9a-f:.]+\]|[0-9a-z._~-]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# Names and addresses nobody owns (RFC 2606, 5737, 3849): a list that has them has everything.
_NOBODYS_HOSTS = ("kproxy.invalid", "192.0.2.1", "[2001:db8::1]")


_P = ParamSpec("_P")


def _returning_denied(check: Callable[_P, Denied | None]) -> Callable[_P, Denied | None]:
    """A check that returns what the rules raise where they take too long."""

    @wraps(check)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> Denied | None:
        try:
            return check(*args, **kwargs)
        except Denied as denied:
            return denied

    return checked


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The filters in force. Made by `Policy.compile`; every check answers None for leave."""

    accept_paths: Rules
    reject_paths: Rules
    accept_hosts: Rules
    reject_methods: Rules
    accept_origins: Rules
    origin_hosts: Rules
    """The hosts whose pages may come in."""
    disable_filter: bool

    @staticmethod
    def compile(
        *,
        accept_paths: str | Sequence[str] = DEFAULT_ACCEPT_PATHS,
        reject_paths: str | Sequence[str] = DEFAULT_REJECT_PATHS,
        accept_hosts: str | Sequence[str] = DEFAULT_ACCEPT_HOSTS,
        reject_methods: str | Sequence[str] = DEFAULT_REJECT_METHODS,
        accept_origins: str | Sequence[str] = DEFAULT_ACCEPT_ORIGINS,
        disable_filter: bool = False,
    ) -> Policy:
        """Each list as a sequence, or as kubectl's flags have it: split at every comma, nothing when empty.

        Raises ConfigError with every expression that Go would not compile.
        """
        problems: list[str] = []
        hosts = compile_rules("accept-hosts", accept_hosts, problems, ignore_case=True)
        # `--accept-hosts=.*` opens the proxy to other names of this machine, not to the pages of the world.
        is_open = any(_match_host(hosts, host, Steps(sys.maxsize)) for host in _NOBODYS_HOSTS)
        policy = Policy(
            accept_paths=compile_rules("accept-paths", accept_paths, problems).map(_path_rule),
            reject_paths=compile_rules("reject-paths", reject_paths, problems).map(_reject_rule),
            accept_hosts=hosts,
            reject_methods=compile_rules("reject-methods", reject_methods, problems),
            accept_origins=compile_rules("accept-origins", accept_origins, problems, ignore_case=True),
            origin_hosts=compile_rules("accept-hosts", DEFAULT_ACCEPT_HOSTS, []) if is_open else hosts,
            disable_filter=disable_filter,
        )
        if problems:
            raise ConfigError(problems)
        return policy

    @_returning_denied
    def check_host(self, host: str | None) -> Denied | None:
        """Judge a Host header; None is HTTP/1.0 without one. Stops names rebound to this machine."""
        if host is None:
            if self.disable_filter or self.accept_hosts.match(""):
                return None
            return _denied(self.accept_hosts, "a request without Host is not served; send 'Host: localhost'")
        authority = _authority(host)
        if authority is None:
            return _denied(
                self.accept_hosts, f"Host {_shown(host)} is not a host name or address with a port"
            )
        if self.disable_filter or _match_host(self.accept_hosts, authority.host):
            return None
        message = f"Host {_shown(host)} is not in --accept-hosts"
        if len(authority.host) <= _MAX_SHOWN:
            message += f"; start with {self.accept_hosts.widened(exactly(authority.host))} to allow it"
        return _denied(self.accept_hosts, message)

    @_returning_denied
    def check_browser(
        self,
        *,
        method: str,
        path: str,
        host: str | None,
        origin: str | None,
        fetch_site: str | None,
        fetch_mode: str | None,
        fetch_dest: str | None,
        fetch_user: str | None,
        is_upgrade: bool,
        purpose: str | None = None,
        own_pages_only: bool = False,
        is_tls: bool = False,
    ) -> Denied | None:
        """Refuse what a page of another site asks for. On also with --disable-filter.

        With `own_pages_only` pages of other accepted hosts and ports are refused, too. With `is_tls` the
        request came over TLS, and only an https page can be our own.

        Programs that are no browsers send neither Origin nor Sec-Fetch-Site, and pass. A typed address passes
        as well, and so does a link that was clicked: a GET for the whole window, whose answer the other site
        cannot read. `path` is the raw one: behind a `proxy` subresource a click is not enough, since a GET
        may change something there.

        `fetch_user` is Sec-Fetch-User, `?1` for what a person did. Without it a page may send hundreds of
        navigations and stop each of them before anybody sees it. Safari never sends it.

        `purpose` is Sec-Purpose of the Fetch standard: a request ahead of any click. A page of any site can
        have Chromium make hundreds that nobody sees (speculation rules), and their Sec-Fetch-Site is `none`.
        """
        if origin is not None and not self._accepts_origin(
            origin, host, own_pages_only=own_pages_only, is_tls=is_tls
        ):
            return _denied(
                self.accept_origins, f"pages of {_shown(origin)} may not use this proxy{self._way_in(origin)}"
            )
        if purpose is not None and fetch_site != "same-origin":
            return _denied(
                self.accept_origins,
                f"this is loaded ahead of any click (Sec-Purpose: {_shown(purpose)}); a page of another site "
                "may be behind that",
            )
        near = {"none", "same-origin"} if own_pages_only else {"none", "same-origin", "same-site"}
        if fetch_site is None or fetch_site.strip().lower() in near:
            return None
        if origin is not None and self.allows_origin(origin):
            return None
        if (
            method == "GET"
            and not is_upgrade
            and fetch_mode == "navigate"
            and fetch_dest in {None, "document"}
        ):
            return self._check_navigation(path, fetch_user)
        return _denied(
            self.accept_origins,
            f"a page of another site asks for this (Sec-Fetch-Site: {_shown(fetch_site)})"
            + (self._way_in(origin) if origin else "; open the address itself, or use it from a program"),
        )

    def _check_navigation(self, path: str, fetch_user: str | None) -> NavigationDenied | None:
        if leads_through_proxy(path):
            reason = "leads behind a /proxy/ of the API server, to an app that a GET may change"
        elif fetch_user != "?1":
            reason = "the browser does not say that you clicked (Sec-Fetch-User: ?1)"
        else:
            return None
        return NavigationDenied(
            self.accept_origins.flag, f"a page of another site sent the browser here, and {reason}"
        )

    def allows_origin(self, origin: str, steps: Steps | None = None) -> bool:
        """Whether --accept-origins has the origin: its expressions are searched in all of `https://host:port`.

        One without a scheme, as `^dev\\.example$`, is searched in the host alone too. `null`, which every
        sandboxed frame sends, is never allowed. Raises Denied where the expressions take too long.
        """
        parts = _ORIGIN.fullmatch(origin.lower())
        return parts is not None and (
            self.accept_origins.match(origin.lower(), steps)
            or _match_host(self.accept_origins, parts[2], steps)
        )

    @_returning_denied
    def check_request(self, method: str, path: str, base_path: str = "") -> Denied | None:
        """Judge method and path: raw, as on the wire (latin-1), without query and --api-prefix.

        `base_path` is that of the server's URL. With and without it a path means the same, and is rejected
        as either.
        """
        if self.disable_filter:
            return None
        begins_with_base = bool(base_path) and path.startswith(base_path + "/")
        try:
            accepted, possible = readings(path.removeprefix(base_path) if begins_with_base else path)
        except TooManyReadings:
            return _denied(self.reject_paths, f"{_unjudged(path)}. Start with --disable-filter to allow it")
        if base_path:
            base = decoded_path(base_path)
            if begins_with_base:
                accepted = tuple(base + each for each in accepted)
            possible = tuple(
                dict.fromkeys(
                    [
                        *possible,
                        *(base + each for each in possible),
                        *(each.removeprefix(base) for each in possible if each.startswith(base + "/")),
                    ]
                )
            )
        steps = Steps(MAX_STEPS)
        if found := self.reject_paths.first(possible, steps):
            rule, reading = found
            others = self.reject_paths.narrowed(possible, steps)
            return _denied(
                self.reject_paths,
                f"path {_shown(path)}{_read_as(reading, path)} matches --reject-paths "
                f"{quoted(rule.source)}; start with {others} or --disable-filter to allow it",
            )
        # The API server takes no lower-case methods, but what stands between may.
        spellings = (method, method.upper())
        if found := self.reject_methods.first(spellings, steps):
            others = self.reject_methods.narrowed(spellings, steps)
            return _denied(
                self.reject_methods,
                f"method {_shown(method)} matches --reject-methods {quoted(found[0].source)}; "
                f"start with {others} or --disable-filter to allow it",
            )
        steps = Steps(MAX_STEPS)  # so that no expression is blamed for those of another flag
        if any(map(leaves_root, possible)):
            return _denied(self.accept_paths, f"path {_shown(path)} leads above the root of the API")
        for reading in accepted:
            if not self.accept_paths.match(reading, steps):
                return _denied(
                    self.accept_paths,
                    f"path {_shown(path)}{_read_as(reading, path)} is not in "
                    f"{self.accept_paths.shown()}; "
                    "add an expression that matches it, or start with --disable-filter to allow it",
                )
        return None

    def check_prefix(self, path: str, prefix: str) -> Denied | None:
        """Judge whether a raw path below `prefix`, which ends in a slash, stays there in every reading.

        With --disable-filter, too: what is outside of an --api-prefix is not served.
        """
        try:
            prefixes = tuple({each.rstrip("/") + "/" for each in readings(prefix)[1]})
            _, possible = readings(path)
        except TooManyReadings:
            return Denied("api-prefix", _unjudged(path))
        for reading in possible:
            if not f"{reading}/".startswith(prefixes):
                return Denied(
                    "api-prefix",
                    f"path {_shown(path)}{_read_as(reading, path)} leads out of "
                    f"--api-prefix={quoted(prefix)}",
                )
        return None

    def warnings(self, *, has_unix_socket: bool) -> tuple[str, ...]:
        """What a person should know at the start about filters that let much through, or mean little."""
        found: list[str] = []
        unhurried = Steps(sys.maxsize)
        if any(self.allows_origin(each, unhurried) for each in _nobodys_origins(self.accept_origins)):
            found.append(
                f"{self.accept_origins.shown()} accepts pages of sites that anybody may own: what your "
                "browser opens can read and change all that you can; name the origins that are meant, as in "
                f"{as_flag('accept-origins', [exactly('https://app.example')])}"
            )
        if self.disable_filter:
            if not has_unix_socket:
                found.append(
                    "Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious: "
                    "every Host, path and method passes, only pages of other sites are still refused"
                )
            return tuple(found)
        relaxed = [rules.flag for rules in (self.reject_paths, self.reject_methods) if not rules.rules]
        if relaxed:
            flags = " and ".join(f"--{name}=''" for name in relaxed)
            found.append(
                "Request filter has been relaxed, your proxy may be vulnerable to attacks, please be "
                f"cautious: {flags} refuses nothing"
            )
        exec_path = "/api/v1/namespaces/default/pods/web/exec"
        if self.reject_methods.match("POST", unhurried) and self.check_request("GET", exec_path) is None:
            found.append(
                "--reject-methods does not stop exec and attach: over WebSocket they are GET requests; "
                f"keep {as_flag('reject-paths', DEFAULT_REJECT_PATHS)}"
            )
        for rules in (
            self.accept_paths,
            self.reject_paths,
            self.accept_hosts,
            self.reject_methods,
            self.accept_origins,
        ):
            found += rules.doubts()
        for rules in (self.accept_hosts, self.accept_origins):
            found += rules.open_ends()
        return tuple(found)

    def _accepts_origin(self, origin: str, host: str | None, *, own_pages_only: bool, is_tls: bool) -> bool:
        if self.allows_origin(origin):
            return True
        parts = _ORIGIN.fullmatch(origin.lower())
        if parts is None or parts[1] not in _DEFAULT_PORTS:
            return False  # null, two origins, an extension: nothing a host list could speak for
        is_listed = not own_pages_only and _match_host(self.origin_hosts, parts[2])
        if is_tls and parts[1] == "http":
            # Whoever is on the way can give plain http any page, under any name but this machine's own.
            return is_listed and is_loopback(parts[2]) is True
        if is_listed:
            return True
        authority = _authority(host) if host is not None else None
        default_port = _DEFAULT_PORTS[parts[1]]
        return authority is not None and (authority.host, authority.port or default_port) == (
            parts[2],
            parts[3] or default_port,
        )

    def _way_in(self, origin: str) -> str:
        if len(origin) > _MAX_SHOWN or not _ORIGIN.fullmatch(origin.lower()):
            return ""
        return f"; start with {self.accept_origins.widened(exactly(origin.lower()))} to allow them"


def _nobodys_origins(rules: Rules) -> Iterator[str]:
    """Origins of sites that nobody owns, on the ports that the expressions name as well."""
    ports = {port for rule in rules.rules for port in re.findall(r"[0-9]{1,5}", rule.source)}
    for host in _NOBODYS_HOSTS:
        for scheme in _DEFAULT_PORTS:
            yield f"{scheme}://{host}"
            yield from (f"{scheme}://{host}:{port}" for port in ports)


class _Authority(NamedTuple):
    host: str
    port: str


def _authority(host: str) -> _Authority | None:
    """A Host header in lower case, taken apart; None when it is no `host [":" port]` (RFC 9110, 7.2)."""
    parts = _HOST.fullmatch(host.lower())
    if parts is None or int(parts[2] or 0) > 65535:
        return None
    return _Authority(parts[1], parts[2] or "")


def _path_rule(rule: Rule) -> Rule:
    # kubectl strips its API prefix `/` off the path `/` and judges "": here both `^$` and `^/$` are the root.
    return rule._replace(
        matches=lambda path, steps: rule.matches(path, steps) or (path == "/" and rule.matches("", steps))
    )


def _reject_rule(rule: Rule) -> Rule:
    """The default expressions stand for what they mean, all others for what they say."""
    verb = _STREAMS.get(rule.source)
    if verb is None:
        return _path_rule(rule)
    return rule._replace(matches=lambda path, steps: opens_stream(path, verb))


def _match_host(rules: Rules, host: str, steps: Steps | None = None) -> bool:
    # kubectl's net.SplitHostPort takes the brackets off when a port follows: lists know both spellings.
    return rules.match(host, steps) or (host.startswith("[") and rules.match(host[1:-1], steps))


def _denied(rules: Rules, message: str) -> Denied:
    return Denied(rules.flag, message)


def _unjudged(path: str) -> str:
    return (
        f"path {_shown(path)} is too long to be judged in every way it may be read; one with escapes, ';' "
        f"and the like may have {MAX_ODD_BYTES} bytes, and all its readings {MAX_JUDGED_BYTES}"
    )


def _read_as(reading: str, path: str) -> str:
    return "" if reading == path else f" (read as {_shown(reading)})"


def _shown(text: str) -> str:
    """Client input for a message: cut to length, with no character that could steer a terminal or a log."""
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MAX_SHOWN]
    )
    return f"'{escaped[:_MAX_SHOWN]}{'...' if max(len(text), len(escaped)) > _MAX_SHOWN else ''}'"

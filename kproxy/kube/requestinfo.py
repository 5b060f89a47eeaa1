"""What a request asks of the Kubernetes API, read off its method and target. Pure.

`parse` follows RequestInfoFactory of k8s.io/apiserver (pkg/endpoints/request/requestinfo.go), on the path as
the API server sees it: percent-decoded once, not cleaned. `resolved` and `cleaned_target` follow
net/http.ServeMux and path.Clean. Targets and paths come as they stood on the wire, bytes decoded as latin-1;
what is returned as text has its escapes undone and is decoded as UTF-8 (invalid bytes become U+FFFD).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERBS = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_TUNNELS = frozenset({"exec", "attach", "portforward"})

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_DIRTY = re.compile(r"//|/\.\.?(?:/|\Z)")
_PROXIED = re.compile(r"/api/v1/(?:namespaces/[^/]+/(?:pods|services)|nodes)/[^/]+/proxy/")
_NOT_IN_LOCATION = re.compile(r"""[^!-~]|["<>\\^`{|}]""")  # net/url escapes these in a path
_NOT_IN_QUERY = re.compile(r"[^!-~]")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestInfo:
    """The attributes the API server authorizes by; "" where one does not apply, as there."""

    verb: str
    """get, list, watch, create, update, patch, delete, deletecollection, proxy; elsewhere the method."""
    path: str
    """The canonical path, without the query."""
    is_resource_request: bool = False
    api_group: str = ""
    api_version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    is_long_running: bool = False
    """A watch, a followed log, exec, attach or port-forward, or any upgrade: ends when its user ends it."""


def parse(method: str, target: str, *, is_upgrade: bool = False) -> RequestInfo:
    """The request read as the API server reads it; `target` in origin form, its query is looked at too."""
    raw_path, _, query = target.partition("?")
    decoded = decoded_path(raw_path)
    path = resolved(decoded)
    parts = decoded.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, parts = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, parts = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(verb=method.lower(), path=path, is_long_running=is_upgrade)

    verb = _VERBS.get(method, "")
    if parts[0] in {"watch", "proxy"}:  # the forms of Kubernetes 1.0: /api/v1/watch/pods
        if len(parts) < 2:
            return RequestInfo(
                verb=method.lower(), path=path, is_resource_request=True, api_group=group, api_version=version
            )
        verb, parts = parts[0], parts[1:]

    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in {"status", "finalize"}:
            parts = parts[2:]
    resource = parts[0]
    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 and verb != "proxy" else ""

    if not name and verb == "get":
        verb = "watch" if _is_set(query, "watch") else "list"
        name = _selected_name(query)
    elif not name and verb == "delete":
        verb = "deletecollection"

    return RequestInfo(
        verb=verb,
        path=path,
        is_resource_request=True,
        api_group=group,
        api_version=version,
        resource=resource,
        subresource=subresource,
        namespace=namespace,
        name=name,
        is_long_running=is_upgrade
        or verb == "watch"
        or (resource == "pods" and subresource in _TUNNELS)
        or (subresource == "log" and _is_set(query, "follow")),
    )


def decoded_path(path: str) -> str:
    """The path with its escapes undone once, as Go's `URL.Path`; a `%` that starts no escape stays."""
    if "%" not in path and path.isascii():
        return path
    return as_go_reads(unescaped(path.encode("latin-1")))


def as_go_reads(raw: bytes) -> str:
    """UTF-8 as text, with one U+FFFD for each byte that is none; Python's `replace` has one for several."""
    return _NOT_UTF8.sub("\ufffd", raw.decode("utf-8", "surrogateescape"))


def unescaped(raw: bytes) -> bytes:
    """`raw` with every `%XX` replaced by its byte, once."""
    return _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), raw)


def resolved(path: str) -> str:
    """`path` as net/http.ServeMux cleans it: exactly one leading slash, no empty, `.` or `..` segment."""
    if path.startswith("/") and "//" not in path and "/." not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def app_tail_at(path: str) -> int | None:
    """Where the URL of the proxied app begins in `.../pods|services/<name>/proxy/<tail>`; None elsewhere.

    A node's proxy is not an app's: what follows it is the kubelet's own API.
    """
    proxied = _PROXIED.search(path)
    return None if proxied is None or proxied[0].startswith("/api/v1/nodes/") else proxied.end()


def cleaned_target(target: str) -> str | None:
    """Where kubectl would redirect a target with `//`, `/./` or `/../` in its raw path; None if it would not.

    The tail of a pod's, service's or node's proxy belongs to somebody else's server and is never touched
    (kubernetes/kubernetes#14624, #52813). Where a redirect is due, `%2e` segments go too: browsers take them
    for dots. The result begins with exactly one slash, which no client can read as a host.
    """
    if "//" not in target and "/." not in target:
        return None
    path, _, query = target.partition("?")
    dirty = _DIRTY.search(path) if path.startswith("/") else None
    if dirty is None:
        return None
    proxied = _PROXIED.search(path)
    if proxied is not None and dirty.start() >= proxied.end() - 1:
        return None

    segments = path.split("/")
    kept: list[str] = []
    tail = ""
    for position, segment in enumerate(segments[:-1]):
        _append(kept, segment)
        if segment == "proxy" and _ends_in_proxy(kept):
            tail = "/" + "/".join(segments[position + 1 :])
            break
    else:
        _append(kept, segments[-1])
        if path.endswith("/") and kept:
            tail = "/"
    # `/\evil.com` is `//evil.com` to a browser; what a URL cannot hold is escaped, as Go does.
    location = _NOT_IN_LOCATION.sub(_escape, "/" + "/".join(kept) + tail)
    return f"{location}?{_NOT_IN_QUERY.sub(_escape, query)}" if query else location


def _append(kept: list[str], segment: str) -> None:
    dots = segment.lower().replace("%2e", ".")
    if dots == "..":
        del kept[-1:]
    elif dots not in {"", "."}:
        kept.append(segment)


def _ends_in_proxy(kept: list[str]) -> bool:
    return kept[-5:-2] == ["api", "v1", "nodes"] or (
        kept[-7:-4] == ["api", "v1", "namespaces"] and kept[-3] in {"pods", "services"}
    )


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _query_value(query: str, key: str) -> str | None:
    """The first value of `key`, None when it is not there; pairs that Go drops (a bare `;`) are dropped."""
    if key not in query and "%" not in query:
        return None
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if ";" not in pair and _form_decoded(name) == key:
            return _form_decoded(value)
    return None


def _form_decoded(text: str) -> str:
    return decoded_path(text.replace("+", " "))


def _is_set(query: str, key: str) -> bool:
    # apimachinery's Convert_Slice_string_To_bool: present means true, but for these two spellings of false.
    value = _query_value(query, key)
    return value is not None and value.lower() not in {"false", "0"}


def _selected_name(query: str) -> str:
    """The name that `fieldSelector=metadata.name=x` picks; authorization by name works for such lists."""
    selector = _query_value(query, "fieldSelector")
    for term in selector.split(",") if selector else ():
        field, _, value = term.partition("=")
        if field == "metadata.name":
            name = value.removeprefix("=")
            return "" if name in {".", ".."} or any(char in name for char in "/%\\=") else name
    return ""

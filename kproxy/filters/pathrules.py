"""How a path may be read by whoever stands between kproxy and the API server, and what must not pass. Pure.

kubectl's filter looks at the path decoded once. So `/x/..%2Fapi/...`, `/api;v=1/...`, `/api/v1%0A/...` or
`%5C` lead past its exec filter to any gateway, ingress or management server that reads them otherwise.
"""

from __future__ import annotations

import re

from kproxy.requestinfo import app_tail_at, as_go_reads, decoded_path, resolved, unescaped

_MAX_DECODINGS = 4
_AMBIGUOUS = re.compile(r"[%;#\\\x00-\x20\x7f-\xff]|//|/\.|./\Z")

# The kubelet's names for them (pkg/kubelet/server/server.go); `run` is an exec that answers in plain HTTP.
_KUBELET_WORDS = {"exec": "exec|run", "attach": "attach"}
_KUBELET = r"/api/v1/(?:nodes/[^/]+/proxy|proxy/nodes/[^/]+)/(?:cri/)?(?:WORDS)(?:/|\Z)"


def is_ambiguous(path: str) -> bool:
    """Whether a raw path may be read in more ways than one."""
    return _AMBIGUOUS.search(path) is not None


def readings(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How servers may read a raw path: first what an accept list must have, then what a reject list may hit.

    To be accepted, the path as Go reads it counts, and wherever its dot segments lead. To be rejected, one
    reading by the laxest server is enough: decoded again, without control characters (WHATWG URL), `\\` as
    `/`, without `;parameters` (as servlet containers read `/..;/`), up to a `#` (nginx) or a `?` that was
    encoded, with dot segments resolved, without a slash at the end (go-restful, and so the API server).
    """
    if not is_ambiguous(path):
        return (path,), (path,)
    decoded = decoded_path(path)
    forms = [decoded, _decoded_to_the_end(path)]
    for change in (_without_controls, _with_slashes, _without_parameters, _without_query):
        forms = list(dict.fromkeys([*forms, *map(change, forms)]))
    climbing = [resolved(form) for form in forms if "/../" in f"{form}/"]
    accepted = tuple(dict.fromkeys([decoded, resolved(decoded), *climbing]))
    possible = dict.fromkeys([*accepted, *forms, *map(resolved, forms)])
    return accepted, tuple(dict.fromkeys([*possible, *(form.rstrip("/") or "/" for form in possible)]))


def other_spelling(path: str, base_path: str) -> str:
    """The path without the server's own, or with it: it is put before those that do not begin with it."""
    return path.removeprefix(base_path) if path.startswith(base_path + "/") else base_path + path


def leaves_root(path: str) -> bool:
    """Whether the dot segments of a reading lead above `/`: out of an API prefix or a server's base path."""
    depth = 0
    if "/.." in path:
        for segment in path.split("/"):
            depth += -1 if segment == ".." else segment not in {"", "."}
            if depth < 0:
                return True
    return False


def opens_stream(path: str, verb: str) -> bool:
    """Whether a reading of a path leads to `verb` ("exec" or "attach") in a pod.

    What kubectl's default `^/api/.*/pods/.*/exec` is there for, in linear time: matched as it is, and behind
    any prefix (`/k8s/clusters/c-1/api/...`), and through a node's proxy to the kubelet, where a GET is enough
    (kubernetes/kubernetes#78741). But what an app behind a pod's or service's proxy calls its own pages is
    its own affair.
    """
    path = path[: app_tail_at(path)]
    if re.search(_KUBELET.replace("WORDS", _KUBELET_WORDS[verb]), path):
        return True
    api = path.find("/api/")
    pods = path.find("/pods/", api + len("/api/")) if api >= 0 else -1
    return pods >= 0 and path.find(f"/{verb}", pods + len("/pods/")) >= 0


def leads_through_proxy(path: str) -> bool:
    """Whether a reading of a raw path has a segment `proxy`.

    Behind the `proxy` subresource of a service, pod or node, or of an aggregated API (Karmada has one for
    whole clusters), is somebody's app: there a GET may do anything, and pages open at our origin.
    """
    return any("/proxy/" in f"{reading}/" for reading in readings(path)[1])


def _decoded_to_the_end(path: str) -> str:
    raw = path.encode("latin-1")
    for _ in range(_MAX_DECODINGS):
        raw = unescaped(raw)
    return as_go_reads(raw)


def _without_controls(path: str) -> str:
    return re.sub(r"[\x00-\x20\x7f]", "", path)


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _without_parameters(path: str) -> str:
    return re.sub(r";[^/]*", "", path)


def _without_query(path: str) -> str:
    return re.split("[?#]", path, maxsplit=1)[0] or "/"

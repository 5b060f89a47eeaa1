"""How a path may be read by whoever stands between kproxy and the API server, and what must not pass. Pure.

kubectl's filter looks at the path decoded once. So `/x/..%2Fapi/...`, `/api;v=1/...`, `/api/v1%0A/...` or
`%5C` lead past its exec filter to any gateway, ingress or management server that reads them otherwise; and
`/pods/web;%2Fproxy%2F/exec` to one that takes parameters off before it decodes, as Servlet 6 has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache, partial

from kproxy.kube.requestinfo import app_tail_at, as_go_reads, resolved

MAX_ODD_BYTES = 8 * 1024
"""What a path that may be read in several ways may have."""

MAX_JUDGED_BYTES = 64 * 1024
"""What all readings of a path may have together: to judge more takes time in which everybody waits."""

_READING_BYTES = 100
"""What a reading costs beside its length."""

# Compiled by their first use: most paths can be read in one way only, and the start waits for nothing.
_ESCAPE = "%[0-9A-Fa-f]{2}"
_ESCAPE_OF_NO_SLASH = "%(?!2[Ff]|5[Cc])[0-9A-Fa-f]{2}"
_ESCAPE_OF_UNRESERVED = "%(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|2[DdEe]|5[Ff]|7[Ee])"
# The WHATWG URL standard takes out the first, others take out more.
_IGNORED = (r"[\t\n\r]+", r"\0+", r"[\x00-\x1f\x7f]+", r"[\x00-\x20\x7f]+")
# With one, two or four bytes too many; old decoders took six, and any byte for the second of two.
_OVERLONG = (
    "[\xc0\xc1][\x00-\xff]|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]"
    "|\xf8\x80\x80[\x80\x81][\x80-\xbf]|\xfc\x80\x80\x80[\x80\x81][\x80-\xbf]"
)
_SLASHES = {"\u2044": "/", "\u2215": "/", "\u2216": "\\"}
_LOOKALIKE = "\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]|\xe2\x81\x84|\xe2\x88[\x95\x96]"

_AMBIGUOUS = re.compile(r"[%;#\\\x00-\x20\x7f-\xff]|//|/\.|./\Z")

# The kubelet's names for them (pkg/kubelet/server/server.go); `run` is an exec that answers in plain HTTP.
_KUBELET_WORDS = {"exec": "exec|run", "attach": "attach"}
_KUBELET = r"/api/v1/(?:nodes/[^/]+/proxy|proxy/nodes/[^/]+)/(?:cri/)?(?:WORDS)(?:/|\Z)"


class TooManyReadings(Exception):
    """A path may be read in more ways than can be judged in a time that others can wait."""


def is_ambiguous(path: str) -> bool:
    """Whether a raw path may be read in more ways than one."""
    return _AMBIGUOUS.search(path) is not None


def readings(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How servers may read a raw path: first what an accept list must have, then what a reject list may hit.

    A reading is what any steps of _STEPS and _LAX_STEPS come to, in any order, each as often as it changes
    something. To be rejected, one reading is enough, with or without the slash at its end (go-restful, and so
    the API server, takes none).

    To be accepted, those of _STEPS count that were decoded once at least, as Go does in the end; of the
    others only where their dot segments lead. So a name with a space need not be listed without it.

    Raises TooManyReadings when there are more than can be judged, by MAX_ODD_BYTES and MAX_JUDGED_BYTES.
    """
    if not is_ambiguous(path):
        return (path,), (path,)
    if len(path) > MAX_ODD_BYTES:
        raise TooManyReadings
    undecoded = {path: None}
    left = _add_all(undecoded, [path], _UNDECODING_STEPS, MAX_JUDGED_BYTES)
    strict = dict.fromkeys(map(_decoded, undecoded))
    left = _add_all(strict, list(strict), _STEPS, left)
    known = undecoded | strict
    lax = dict.fromkeys(step(form) for mark, step in _LAX_STEPS for form in known if mark in form)
    fresh = [form for form in lax if form not in known]
    known |= lax
    _add_all(known, fresh, (*_STEPS, *_LAX_STEPS), left)

    climbing = [_decoded(resolved(form)) for form in known if form not in strict and "/../" in f"{form}/"]
    accepted = tuple(dict.fromkeys(map(_text, [*strict, *climbing])))
    possible = dict.fromkeys([*accepted, *map(_text, known)])
    return accepted, tuple(dict.fromkeys([*possible, *(form.rstrip("/") or "/" for form in possible)]))


def _add_all(known: dict[str, None], fresh: list[str], steps: Iterable[_Step], left: int) -> int:
    """Add to `known` what any sequence of steps makes of `fresh`; what is left then of the bytes."""
    for form in fresh:
        left -= len(form) + _READING_BYTES
        if left < 0:
            raise TooManyReadings
        for mark, step in steps:
            if mark in form and (other := step(form)) not in known:
                known[other] = None
                fresh.append(other)
    return left


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
    if f"/{verb}" not in path and "/run" not in path:
        return False
    path = path[: app_tail_at(path)]
    if "/nodes/" in path and re.search(_KUBELET.replace("WORDS", _KUBELET_WORDS[verb]), path):
        return True
    api = path.find("/api/")
    pods = path.find("/pods/", api + len("/api/")) if api >= 0 else -1
    return pods >= 0 and path.find(f"/{verb}", pods + len("/pods/")) >= 0


def leads_through_proxy(path: str) -> bool:
    """Whether a reading of a raw path has a segment `proxy`; one with too many readings may have it.

    Behind the `proxy` subresource of a service, pod or node, or of an aggregated API (Karmada has one for
    whole clusters), is somebody's app: there a GET may do anything, and pages open at our origin.
    """
    try:
        return any("/proxy/" in f"{reading}/" for reading in readings(path)[1])
    except TooManyReadings:
        return True


def _text(form: str) -> str:
    return form if form.isascii() else as_go_reads(form.encode("latin-1"))


# -- steps: each makes one reading of another, a path with its bytes as latin-1 --


def _decoded(form: str) -> str:
    return re.sub(_ESCAPE, _unescaped, form)


def _decoded_but_slashes(form: str) -> str:
    """As Apache has it with `AllowEncodedSlashes NoDecode`: dots may go while `%2F` is part of a name."""
    return re.sub(_ESCAPE_OF_NO_SLASH, _unescaped, form)


def _decoded_where_plain(form: str) -> str:
    """RFC 3986, 6.2.2.2, as in Envoy and HAProxy: dots may go while delimiters are part of a name."""
    return re.sub(_ESCAPE_OF_UNRESERVED, _unescaped, form)


def _unescaped(escape: re.Match[str]) -> str:
    return _byte(escape[0])


@cache
def _byte(escape: str) -> str:
    return chr(int(escape[1:], 16))


def _without_parameters(form: str) -> str:
    """As servlet containers read `/..;x/`."""
    return re.sub(";[^/]*", "", form)


def _without_session(form: str) -> str:
    """As Spring does where it keeps other parameters."""
    return re.sub("(?i);jsessionid=[^;/]*", "", form)


def _without_last_parameters(form: str) -> str:
    """As RFC 1808 had it, and Python's urlparse has."""
    return re.sub(r";[^/]*\Z", "", form)


def _with_slashes(form: str) -> str:
    return form.replace("\\", "/")


def _with_single_slashes(form: str) -> str:
    return re.sub("//+", "/", form)


def _without_dots(form: str) -> str:
    """RFC 3986, 5.2.4: a segment may be empty, and `..` takes off that one. Go's way is `resolved`."""
    kept: list[str] = []
    segments = form.split("/")
    for segment in segments:
        if segment == "..":
            del kept[max(1, len(kept) - 1) :]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/".join(kept)


def _before(end: str, form: str) -> str:
    return form.partition(end)[0] or "/"


def _without(ignored: str, form: str) -> str:
    return form if form.isprintable() and " " not in form else re.sub(ignored, "", form)


def _with_overlong_ascii(form: str) -> str:
    """As decoders of UTF-8 do that leave out checks: `%C0%AF` is a slash (RFC 3629, section 10)."""
    return form if form.isascii() else re.sub(_OVERLONG, _masked, form)


def _masked(sequence: re.Match[str]) -> str:
    return chr((ord(sequence[0][-2]) & 1) << 6 | ord(sequence[0][-1]) & 0x3F)


def _with_best_fits(form: str) -> str:
    """As Windows does for old code pages: full-width forms are ASCII, and other slashes are one."""
    return form if form.isascii() else re.sub(_LOOKALIKE, _best_fit, form)


def _best_fit(character: re.Match[str]) -> str:
    char = character[0].encode("latin-1").decode()
    return _SLASHES.get(char) or chr(ord(char) - 0xFEE0)


_Step = tuple[str, Callable[[str], str]]
"""What must be in a path for a step to change it, and the step."""

_UNDECODING_STEPS: tuple[_Step, ...] = (
    ("%", _decoded_but_slashes),
    ("%", _decoded_where_plain),
    (";", _without_parameters),
    (";", _without_session),
    (";", _without_last_parameters),
    ("\\", _with_slashes),
    ("//", resolved),
    ("/.", resolved),
    ("/.", _without_dots),
    ("//", _with_single_slashes),
    ("?", partial(_before, "?")),
    ("#", partial(_before, "#")),
)
_STEPS: tuple[_Step, ...] = (("%", _decoded), *_UNDECODING_STEPS)
_LAX_STEPS: tuple[_Step, ...] = (
    *(("", partial(_without, ignored)) for ignored in _IGNORED),
    (";", partial(_before, ";")),
    ("\0", partial(_before, "\0")),
    ("", _with_overlong_ascii),
    ("", _with_best_fits),
)

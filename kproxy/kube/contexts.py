"""Several contexts at once: which are served, under which names, and which one a request means. Pure.

Each served context has an origin of its own, `http://<slug>.localhost:8001/`, so that browsers keep cookies,
storage and absolute paths apart, and a place below the default context's: `/clusters/<name>/` (the form of
Headlamp, backend/cmd/headlamp.go). Below that prefix, and at the origin, all is as for one context alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

from kproxy.errors import KubeconfigError, UnknownContext
from kproxy.kube.kubeconfig import KubeConfig, Overrides, ResolvedContext
from kproxy.kube.requestinfo import unescaped
from kproxy.kube.resolve import resolve

CLUSTERS = "/clusters/"

_MAX_LABEL = 63  # RFC 1035, 2.3.4
_HASH_DIGITS = 6
_LOCALHOST = re.compile(r"([a-z0-9._~-]+)\.localhost\.?(?::[0-9]*)?")
_MAX_NAMED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A context that is served: `slug` is its name as a DNS label."""

    name: str
    slug: str
    is_default: bool

    @property
    def path(self) -> str:
        """Where it is below the default context's origin: by its name, if that can stand in a path."""
        segment = quote(self.name, safe="") if self.name.strip(".") else self.slug
        return f"{CLUSTERS}{segment}/"

    def url(self, scheme: str, port: int) -> str:
        """Its own origin on a listener."""
        suffix = "" if port == {"http": 80, "https": 443}[scheme] else f":{port}"
        return f"{scheme}://{self.slug}.localhost{suffix}/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contexts:
    """One reading of the kubeconfig: all that is served by it.

    A context beside the default one that cannot be used is here with its error, and spoils no other.
    """

    default: ResolvedContext
    served: tuple[Served, ...]
    """The default one first, the others in the order of the kubeconfig."""
    others: Mapping[str, ResolvedContext | KubeconfigError] = field(default_factory=dict)
    has_paths: bool = False
    """Whether `/clusters/<name>/` means a context. With one context it is a path like any other."""
    resolve_again: Callable[[str], ResolvedContext] | None = field(default=None, compare=False, repr=False)
    """Another try for one of `others`: a file that could not be read may be there by now."""


def select(
    kubeconfig: KubeConfig,
    overrides: Overrides,
    environ: Mapping[str, str],
    *,
    names: Sequence[str] = (),
    takes_all: bool = False,
    may_lack: bool = False,
) -> Contexts:
    """The contexts that `--contexts` (`names`) or `--all-contexts` serve, beside the default one.

    The default is --context, else the current-context; with `names` that lack it, the first of them: what
    was not asked for is not served. Raises KubeconfigError when the default cannot be used, and for names
    that do not exist unless it `may_lack` them: contexts come and go while others are served.
    """
    missing = [name for name in names if name not in kubeconfig.contexts]
    if missing and not may_lack:
        known = ", ".join(f'"{name}"' for name in kubeconfig.contexts) or "none"
        raise KubeconfigError(
            [f'contexts: there is no context "{name}"; the kubeconfig has: {known}' for name in missing]
        )
    if names and not overrides.context and kubeconfig.current_context not in names:
        overrides = replace(overrides, context=names[0])
    default = resolve(kubeconfig, overrides, environ)
    wanted = [name for name in kubeconfig.contexts if takes_all or name in names]
    slugs = slugs_of([*kubeconfig.contexts, default.name])

    def resolve_again(name: str) -> ResolvedContext:
        # Not by --context: a name may be empty, and no flag can say that. And without the environment: it
        # stands in for what a default context lacks, and for nobody else.
        return resolve(replace(kubeconfig, current_context=name), replace(overrides, context=None), {})

    others: dict[str, ResolvedContext | KubeconfigError] = {}
    for name in wanted:
        if name == default.name:
            continue
        try:
            others[name] = resolve_again(name)
        except KubeconfigError as error:
            others[name] = error
    served = [Served(name=name, slug=slugs[name], is_default=name == default.name) for name in others]
    first = Served(name=default.name, slug=slugs[default.name], is_default=True)
    return Contexts(
        default=default,
        served=(first, *served),
        others=others,
        has_paths=takes_all or bool(names),
        resolve_again=resolve_again,
    )


def slugs_of(names: Iterable[str]) -> dict[str, str]:
    """A DNS label for each name; a name's depends on nothing but the names, never on their order.

    Names that come to the same label all get a part of their hash instead of one of them keeping it: an
    origin that a browser has open never comes to mean another context because of a new name.
    """
    plain: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        plain.setdefault(_label(name), []).append(name)
    found = {
        alike[0]: label for label, alike in plain.items() if len(alike) == 1 and 0 < len(label) <= _MAX_LABEL
    }
    taken = set(found.values())
    for label, alike in sorted(plain.items()):
        for name in sorted(alike):
            if name in found:
                continue
            digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            digits = _HASH_DIGITS
            while (slug := _with_hash(label, digest[:digits])) in taken:
                digits += 1
            taken.add(slug)
            found[name] = slug
    return found


def _label(name: str) -> str:
    # No two hyphens in a row: `xn--` would be read as punycode (RFC 5891, 4.2.3.1).
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _with_hash(label: str, digest: str) -> str:
    kept = label[: _MAX_LABEL - len(digest) - 1].strip("-") or "context"
    return f"{kept}-{digest}"


def label_of(host: str) -> str | None:
    """`a` of `a.localhost:8001`, with or without a port; None for any other Host."""
    found = _LOCALHOST.fullmatch(host.lower())
    return found[1] if found else None


class ClusterPath(NamedTuple):
    """A target below /clusters/, taken apart. `rest` begins with a slash and has the query."""

    name: str
    prefix: str
    """As it was written, with no slash at its end."""
    rest: str
    is_complete: bool
    """False without the slash behind the name."""


def split_path(target: str) -> ClusterPath | None:
    """`/clusters/a%2Fb/api/v1?watch=1` -> `a/b` and `/api/v1?watch=1`; None outside of /clusters/.

    The name is the one raw segment, with its escapes undone once: no reading of the rest leads to another.
    """
    path, question, query = target.partition("?")
    if not path.startswith(CLUSTERS):
        if path + "/" != CLUSTERS:
            return None
        path = CLUSTERS
    segment, slash, rest = path[len(CLUSTERS) :].partition("/")
    # What is no UTF-8 becomes a name that no context has.
    name = unescaped(segment.encode("latin-1")).decode("utf-8", "surrogateescape")
    return ClusterPath(name, CLUSTERS + segment, f"/{rest}{question}{query}", bool(slash))


def unknown(what: str, served: Sequence[Served]) -> UnknownContext:
    """`what` names no context that is served; the message tells which are, and how to serve more."""
    names = ", ".join(
        f'"{each.name}"' + (f" ({each.slug}.localhost)" if each.slug != each.name else "")
        for each in served[:_MAX_NAMED]
    )
    more = f" and {len(served) - _MAX_NAMED} more" if len(served) > _MAX_NAMED else ""
    return UnknownContext(
        f"{what}; served are {names}{more}. Serve others with --contexts=NAME,... or --all-contexts"
    )

"""Whatever a server between may read as forbidden is refused: models of readers against mutated paths.

`-m million` tries a million paths, in half an hour or less; the default command a few thousand.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from kproxy.errors import Denied
from kproxy.policy.policy import Policy
from tests.support.path_readers import MODELS, Model, clean

DEFAULT = Policy.compile()
NO_SECRETS = Policy.compile(reject_paths="^/api/v1/secrets")
ONLY_PODS = Policy.compile(accept_paths="^/api/v1/namespaces/[^/]+/pods(/|$)")
BASE = "/k8s/clusters/c-1"
PREFIX = "/api/v1/namespaces/dev/"
APP = "/api/v1/namespaces/n/services/s/proxy"

is_stream = re.compile(
    r"/api/v1/namespaces/[^/]+/pods/[^/]+/(exec|attach)(/.*)?"
    r"|/api/v1/nodes/[^/]+/proxy/(cri/)?(exec|run|attach)(/.*)?",
    re.DOTALL,
).fullmatch
is_pods = re.compile(r"/api/v1/namespaces/[^/]+/pods(/.*)?", re.DOTALL).fullmatch


@dataclass(frozen=True, slots=True)
class Claim:
    """What must not be read, and who refuses it."""

    name: str
    goals: tuple[str, ...]
    """What an attacker wants to be read, and to begin with."""
    judge: Callable[[str], Denied | None]
    is_forbidden: Callable[[str], object]
    start: str = ""
    """What every path begins with, as it is."""
    base: str = ""
    counts_lax: bool = True

    def broken_by(self, model: Model, path: str) -> str | None:
        """What the model reads, if that is forbidden."""
        if model.is_lax and not self.counts_lax:
            return None
        read = model.read(path if self.base and path.startswith(self.base + "/") else self.base + path)
        return read if read is not None and self.is_forbidden(read) else None


def escapes(prefix: str, read: str) -> bool:
    return not (clean(read) + "/").startswith(prefix)


def check_prefix(path: str) -> Denied | None:
    return DEFAULT.check_request("GET", path) or DEFAULT.check_prefix(path, PREFIX)


CLAIMS = (
    Claim(
        "the default filter",
        (
            "/api/v1/namespaces/default/pods/web/exec",
            "/api/v1/namespaces/default/pods/web/attach",
            "/api/v1/nodes/n/proxy/exec/ns/pod/ctr",
            "/api/v1/nodes/n/proxy/run/ns/pod/ctr",
        ),
        partial(DEFAULT.check_request, "GET"),
        is_stream,
    ),
    Claim(
        "--reject-paths",
        ("/api/v1/secrets", "/api/v1/secrets?watch"),
        partial(NO_SECRETS.check_request, "GET"),
        lambda read: read.startswith("/api/v1/secrets"),
    ),
    Claim(
        "the path of the server",
        (
            "/../c-2/api/v1/secrets",
            "/a/../../c-2/api",
            "/k8s/clusters/c-1/../c-2/api",
            APP + "/.." * 8 + "/c-2/api",
        ),
        partial(DEFAULT.check_request, "GET", base_path=BASE),
        partial(escapes, BASE + "/"),
        base=BASE,
    ),
    Claim(
        "--api-prefix",
        (
            "../prod/secrets",
            "pods/../../prod/secrets",
            "services/s/proxy/../../../../prod/secrets",
            "../../nodes",
        ),
        check_prefix,
        partial(escapes, PREFIX),
        start=PREFIX,
    ),
    Claim(
        "--accept-paths",
        ("/api/v1/namespaces/prod/secrets", "/api/v1/namespaces/prod", "/api/v1/secrets"),
        partial(ONLY_PODS.check_request, "GET"),
        lambda read: not is_pods(clean(read)),
        counts_lax=False,
    ),
)

# -- mutated paths --

JUNK = (
    "x", "x", "a=b", "jsessionid=1", "v=1", "", "%2F", "%2Fproxy%2F", "x%2Fy", "%2F..%2Fpods", "/proxy/",
    "/../", "y/..", "%2e%2e", "x%2F..", "/pods/p", "%2Fpods%2Fp", "namespaces/n/services/s/proxy", "%252F",
    "..", ".",
)  # fmt: skip
PARAMETERS = (";", ";x", ";jsessionid=1", ";a=b;c", "%3B", "%3bx", "%253Bx")
SLASHES = (
    "//",
    "/./",
    "\\",
    "%5C",
    "%2F",
    "%2f",
    "%252F",
    "/%2e/",
    "/;/",
    "/x/../",
    "/%2F",
    "\\/",
    "/;x/../",
)
SLASHES_OF_OLD = ("%C0%AF", "%e0%80%af", "%C1%9C", "%EF%BC%8F", "%E2%88%95", "%EF%BC%BC", "%F0%80%80%AF")
DOTS = ("%2e", "%2E", "%252e", ".;x", ".%09", ".%00", ".%20", ".%0d", "%C0%AE", "%EF%BC%8E", ".%3B", ".;%2F")
CONTROLS = ("%00", "%09", "%0a", "%0D", "%20", "%7f", "%1f")
ENDS = ("?", "%3F", "#", "%23", "%253F", "%2523", "%00", ";", "%3B", "/", "%2F", "/.", "//", "/..;", "/x/..")
UP = ("..", "..", "%2e%2e", ".%2e", "..;x", "..%2F..", "..%5c..", "%252e%252e", "..%09", "..;%2F", ".%00.")


def at_slash(choose: random.Random, path: str) -> int:
    return choose.choice([at for at, char in enumerate(path) if char == "/"] or [0])


def mutated(choose: random.Random, goal: str) -> str:
    """`goal` in disguise: what readers take off, decode or clean is put in, in layers."""
    path = goal
    for _ in range(choose.choice((1, 1, 2, 2, 2, 3, 3, 4))):
        kind = choose.randrange(10)
        at = at_slash(choose, path)
        if kind == 0:  # a slash is spelt otherwise
            spelt = choose.choice(SLASHES if choose.random() < 0.8 else SLASHES_OF_OLD)
            path = path[:at] + spelt + path[at + 1 :]
        elif kind <= 2:  # parameters, with something that looks like a path
            path = path[:at] + choose.choice(PARAMETERS) + choose.choice(JUNK) + path[at:]
        elif kind <= 4:  # a detour
            detour = choose.choice(
                ("/x", "/x;y", "/x%2Fy", "/x;%2Fy", "/x%3Fy", "/x%5Cy", "/%2F", "/;", "/x%09", APP)
            )
            ups = "/".join(
                choose.choice(UP) for _ in range(detour.count("/") + choose.choice((-1, 0, 0, 0, 1)))
            )
            path = f"{path[:at]}{detour}/{ups}{path[at:]}"
        elif kind == 5:  # a dot is spelt otherwise
            dots = [at for at, char in enumerate(path) if char == "."]
            if dots:
                at = choose.choice(dots)
                path = path[:at] + choose.choice(DOTS) + path[at + 1 :]
        elif kind == 6:  # any character is encoded
            at = choose.randrange(len(path))
            path = f"{path[:at]}%{ord(path[at]):02{choose.choice('xX')}}{path[at + 1 :]}"
        elif kind == 7:  # encoded once more
            path = re.sub("%(?=[0-9a-fA-F]{2})", lambda _: choose.choice(("%25", "%")), path)
        elif kind == 8:  # a character that some drop
            at = choose.randrange(1, len(path) + 1)
            path = path[:at] + choose.choice(CONTROLS) + path[at:]
        else:  # the path goes on
            path += choose.choice(ENDS) + choose.choice(JUNK)
    return path


def candidates(seed: int, count: int) -> list[tuple[Claim, str]]:
    """Paths as kproxy judges them: in origin form, without a query, and every `%` begins an escape."""
    choose = random.Random(seed)
    found: list[tuple[Claim, str]] = []
    while len(found) < count:
        claim = choose.choice(CLAIMS)
        goal = choose.choice(claim.goals)
        path = claim.start + mutated(choose, ("/" if claim.start else "") + goal)[bool(claim.start) :]
        path = path.partition("?")[0]
        if path.startswith("/") and not re.search("%(?![0-9a-fA-F]{2})", path):
            found.append((claim, path))
    return found


def holes(tried: list[tuple[Claim, str]]) -> list[str]:
    """What passes and is read as forbidden, by whom."""
    return [
        f"{claim.name}: {path!r} is {read!r} to {model.name}"
        for claim, path in tried
        if claim.judge(path) is None
        for model in MODELS
        if (read := claim.broken_by(model, path)) is not None
    ]


def test_there_are_many_different_models() -> None:
    """No two have one name, and hardly any two read all paths alike."""
    paths = [claim.base + path for claim, path in candidates(1, 600)]

    ways = {tuple(model.read(path) for path in paths) for model in MODELS}

    assert len({model.name for model in MODELS}) == len(MODELS)
    assert len(ways) >= 55


def test_every_model_reads_disguised_paths_as_forbidden() -> None:
    """The mutated paths are to the point: each claim is at stake with each model that it counts for."""
    tried = candidates(2, 1500)

    hits = Counter(
        (claim.name, model.name)
        for claim, path in tried
        for model in MODELS
        if claim.broken_by(model, path) is not None
    )

    strict = ("Spring's StrictHttpFirewall", "Tomcat 10", "nginx", "nginx, merge_slashes off")
    missing = [
        (claim.name, model.name)
        for claim in CLAIMS
        for model in MODELS
        if not hits[claim.name, model.name] and not (model.is_lax and not claim.counts_lax)
        if model.name not in strict
    ]
    assert missing == []


@pytest.mark.parametrize("seed", range(4))
def test_what_any_model_reads_as_forbidden_is_refused(seed: int) -> None:
    """Paths that pass are read as allowed by every model: a few thousand with fixed seeds."""
    assert holes(candidates(100 + seed, 800)) == []


@pytest.mark.million
@pytest.mark.numbers
@pytest.mark.parametrize("part", range(10))
def test_a_million_mutated_paths(part: int) -> None:
    """The same for ten times a hundred thousand paths."""
    started = time.process_time()
    passed = 0
    for seed in range(100):
        tried = candidates(10_000 + 100 * part + seed, 1000)
        left = [(claim, path) for claim, path in tried if claim.judge(path) is None]
        passed += len(left)
        assert holes(left) == []
    print(f"100000 paths, {passed} of which pass, in {time.process_time() - started:.0f} s of CPU")

"""The filter flags: paths, methods, and Go's regular expressions."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import EXEC, Row, get, passes, post, refused, request


def through(id: str, target: str, why: str, *flags: str) -> Row:  # noqa: A002  # as the field is called
    return Row(id=f"filter-{id}", why=why, send=get(target), sees=passes(target), flags=flags)


def stopped(id: str, target: str, why: str, *flags: str) -> Row:  # noqa: A002
    return Row(id=f"filter-{id}", why=why, send=get(target), sees=refused(), flags=flags)


POD = "/api/v1/namespaces/default/pods/web-0"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
LISTS = (
    "--accept-paths=^/api/v1/,^/pods$,^/ok,^/secret,deep",
    "--reject-paths=^/secret,/deep$,^/api/v1/namespaces/[^/]+/secrets",
    "--reject-methods=POST,PUT,PATCH,^(HEAD|OPTIONS)$",
)
OPEN = ("--accept-hosts=^.*$", "--reject-paths=")
GO = "--accept-paths=" + ",".join(
    (
        r"(?i)^/upper",
        r"^/d/\d+$",
        r"^/w/\w+$",
        r"^/(?P<v>apis?)$",
        r"^/q\.x$",
        r"^/z/a\z",
        r"^/c/[[:alpha:]]+$",
        r"^/Q/\Qa.b\E$",
    )
)

ROWS = [
    stopped("exec", EXEC, "Whoever reaches the port would have a shell."),
    stopped("exec-query", f"{EXEC}?command=ls&stdout=true", "The query changes nothing."),
    stopped("attach", f"{POD}/attach", "The same."),
    stopped("exec-longer", f"{POD}/execute", "The expression has no end."),
    stopped("exec-encoded", f"{POD}/%65xec", "Filters judge the decoded path."),
    stopped("exec-encoded-api", "/%61pi/v1/namespaces/default/pods/web-0/exec", "All of it."),
    stopped("exec-parameters", f"{EXEC};a=b", "The same."),
    stopped("exec-slash", f"{EXEC}/", "The same."),
    Row(
        id="filter-exec-head",
        why="Every method; an answer to HEAD has no body.",
        send=request("HEAD", EXEC),
        sees=refused(body=b"", to="HEAD"),
    ),
    Row(id="filter-exec-upgrade", why="As kubectl asks.", send=get(EXEC, *UPGRADE), sees=refused()),
    Row(
        id="filter-refusal",
        why="The refusal says which rule it was, as a Status that clients print.",
        send=get(EXEC),
        sees=refused(body=b"Forbidden\n", has={"Content-Type": "text/plain; charset=utf-8"}),
        kproxy=refused(contains=b"--reject-paths", has={"Content-Type": "application/json"}),
        differs=differs.REFUSAL_STATUS,
    ),
    through("portforward", f"{POD}/portforward", "Not in the default list."),
    through("log", f"{POD}/log", "Nor this."),
    through("pod-named-exec", "/api/v1/namespaces/default/pods/execfoo", "A name, no verb."),
    through("namespace-named-exec", "/api/v1/namespaces/exec/pods/web-0", "The same."),
    through("exec-in-query", f"{POD}/log?x=/api/v1/pods/a/exec", "A query is no path."),
    through("exec-of-service", "/api/v1/namespaces/default/services/web/exec", "Only pods have it."),
    through("accept", "/pods", "--accept-paths.", *LISTS),
    through("accept-prefix", "/okay/then", "Searched, not matched.", *LISTS),
    through("accept-query", "/pods?limit=1", "Without the query.", *LISTS),
    stopped("accept-miss", "/nodes", "Not in the list.", *LISTS),
    stopped("accept-line-feed", "/pods%0A", "Go's $ is the very end.", *LISTS),
    stopped("accept-no-utf-8", "/x%E2%82a", "Go counts each byte that is no UTF-8.", "--accept-paths=^/x..$"),
    stopped("accept-none", "/api", "An empty list lets nothing through.", "--accept-paths="),
    stopped("reject", "/secret", "--reject-paths.", *LISTS),
    stopped("reject-end", "/a/deep", "Any of the list.", *LISTS),
    Row(
        id="filter-reject-end-slash",
        why="The API server takes it for the same.",
        send=get("/a/deep/"),
        sees=passes("/a/deep/"),
        kproxy=refused(),
        flags=LISTS,
        differs=differs.READINGS,
    ),
    stopped("reject-class", "/api/v1/namespaces/default/secrets/x", "Character classes.", *LISTS),
    stopped("reject-encoded", "/%73ecret", "Decoded.", *LISTS),
    through("reject-miss", "/api/v1/secrets", "Not in the list.", *LISTS),
    through("reject-replaces", EXEC, "The default is gone then.", *LISTS),
    through("reject-none", EXEC, "An empty list rejects nothing.", *OPEN),
    Row(
        id="filter-both",
        why="What is rejected is not accepted.",
        send=get("/ok/deep"),
        sees=refused(),
        flags=LISTS,
    ),
    Row(
        id="filter-method",
        why="--reject-methods.",
        send=post("/ok"),
        sees=refused(),
        flags=LISTS,
    ),
    through("method-get", "/ok", "Not in the list.", *LISTS),
    Row(
        id="filter-method-delete",
        why="Nor this.",
        send=request("DELETE", "/ok"),
        sees=passes("/ok", "DELETE"),
        flags=LISTS,
    ),
    Row(
        id="filter-method-substring",
        why="Searched, not matched.",
        send=request("XPUTY", "/ok"),
        sees=refused(),
        flags=LISTS,
    ),
    Row(
        id="filter-method-lower-case",
        why="What stands between may take it for POST.",
        send=request("post", "/ok", body=b"{}"),
        sees=passes("/ok", "post", body=b"{}"),
        kproxy=refused(),
        flags=LISTS,
        differs=differs.METHOD_CASE,
    ),
    Row(
        id="filter-method-expression",
        why="Methods are expressions, too.",
        send=request("OPTIONS", "/ok"),
        sees=refused(),
        flags=LISTS,
    ),
    Row(
        id="filter-method-head",
        why="The same for HEAD, without a body.",
        send=request("HEAD", "/ok"),
        sees=refused(body=b"", to="HEAD"),
        flags=LISTS,
    ),
    through("go-case", "/UpPeR/x", "(?i)", GO),
    through("go-digits", "/d/12", r"\d", GO),
    stopped("go-digits-ascii", "/d/%D9%A3", r"\d is ASCII in Go: this is an Arabic three.", GO),
    through("go-word", "/w/cafe_1", r"\w", GO),
    stopped("go-word-ascii", "/w/caf%C3%A9", r"\w is ASCII in Go.", GO),
    through("go-named", "/apis", "(?P<name>...)", GO),
    through("go-literal-dot", "/q.x", "An escaped dot.", GO),
    stopped("go-literal-dot-miss", "/qyx", "Is a dot.", GO),
    through("go-end", "/z/a", r"\z, which Python lacks.", GO),
    through("go-posix", "/c/abc", "[[:alpha:]]", GO),
    through("go-quoted", "/Q/a.b", r"\Q...\E", GO),
    stopped("go-quoted-miss", "/Q/axb", r"\Q...\E", GO),
]

"""Header fields of requests: what passes, what is one hop's own, what is added."""

from __future__ import annotations

import re

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    Answer,
    Fields,
    Forwarded,
    Row,
    Sees,
    get,
    malformed,
    passes,
    post,
    refused,
    request,
)


def kept(id: str, why: str, *fields: tuple[str, str]) -> Row:  # noqa: A002  # as the field is called
    """The fields arrive as they were sent."""
    expected: dict[str, tuple[str, ...]] = {}
    for name, value in fields:
        expected[name] = (*expected.get(name, ()), value)
    lines = [f"{name}: {value}" for name, value in fields]
    return Row(id=f"header-{id}", why=why, send=get("/api", *lines), sees=passes(has=expected))


def becomes(id: str, why: str, line: str, has: Fields, *more: str) -> Row:  # noqa: A002
    return Row(id=f"header-{id}", why=why, send=get("/api", line, *more), sees=passes(has=has))


FLAGS = ("--as=alice", "--as-group=g1", "--as-group=g2", "--token=other")
BIG = "v" * 12_000

ROWS = [
    Row(
        id="header-nothing-else",
        why="Nothing is added but what is said here: no Via, no Connection, no Content-Length.",
        send=get("/api", "User-Agent: probe"),
        sees=passes(
            has={
                "Accept-Encoding": "gzip",
                "User-Agent": "probe",
                "Accept": None,
                "Connection": None,
                "Content-Length": None,
                "Forwarded": None,
                "Via": None,
                "X-Forwarded-Host": None,
                "X-Forwarded-Proto": None,
            },
        ),
    ),
    kept("own", "The usual.", ("X-Foo", "bar")),
    kept("repeated", "Neither joined nor sorted.", ("X-Dup", "a"), ("X-Dup", "b"), ("X-Dup", "a")),
    kept("empty", "An empty value is a value.", ("X-Empty", "")),
    kept("lists", "Commas are the client's business.", ("X-List", "a, b,c"), ("X-List", "d")),
    kept("latin-1", "Bytes beyond ASCII pass.", ("X-Latin", "caf\xe9")),
    kept("long", "Selectors and tokens are long.", ("X-Big", BIG)),
    kept("long-name", "So may names be.", ("X-" + "n" * 300, "v")),
    kept("cookie", "Service UIs need theirs.", ("Cookie", "a=b; c=d")),
    kept("accept", "kubectl asks for tables.", ("Accept", "application/json;as=Table;v=v1,application/json")),
    kept("user-agent", "Audit logs show who it was.", ("User-Agent", "kubectl/v1.32.0 (linux/amd64)")),
    kept("cache", "End to end.", ("Cache-Control", "no-cache"), ("Pragma", "no-cache")),
    kept("tracing", "Traces go on.", ("Traceparent", "00-0af7-b7ad-01"), ("Tracestate", "a=b")),
    kept("conditions", "Conditional requests.", ("If-None-Match", '"e"'), ("If-Match", "*")),
    kept(
        "proxies",
        "What other proxies wrote stays.",
        ("Forwarded", "for=10.0.0.1;proto=https"),
        ("X-Real-Ip", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "h"),
        ("Via", "1.0 fred"),
    ),
    kept("remote-user", "The API server does not believe it.", ("X-Remote-User", "root")),
    kept(
        "stream-protocols",
        "exec offers several.",
        ("X-Stream-Protocol-Version", "v4"),
        ("X-Stream-Protocol-Version", "v3"),
    ),
    Row(
        id="header-2000",
        why="Many fields pass, as long as all fit.",
        send=get("/api", *(f"X-{number}: v" for number in range(2000))),
        sees=passes(has={"X-0": "v", "X-1999": "v"}),
    ),
    Row(
        id="header-cookie-60k",
        why="Cookies of many apps on localhost add up.",
        send=get("/api", "Cookie: k=" + "v" * 60_000),
        sees=passes(has={"Cookie": "k=" + "v" * 60_000}),
    ),
    Row(
        id="header-200k",
        why="A bound on what one request may hold in memory.",
        send=get("/api", "X-Big: " + "v" * 200_000),
        sees=passes(),
        kproxy=malformed(431),
        differs=differs.HEAD_LIMIT,
    ),
    Row(
        id="header-2m",
        why="kubectl has its bound, too.",
        send=get("/api", "X-Big: " + "v" * 2_000_000),
        sees=refused(431, end="closed"),
    ),
    Row(
        id="header-spelling",
        why="What is not ours is not touched.",
        send=get("/api", "x-lower-CASE: 1"),
        sees=passes(spelled=("X-Lower-Case",)),
        kproxy=passes(spelled=("x-lower-CASE",)),
        differs=differs.SPELLING,
    ),
    becomes("padding", "White space around a value is not part of it.", "X-Pad:  \t v \t ", {"X-Pad": "v"}),
    becomes("inner-space", "Inside it is.", "X-In: a  b", {"X-In": "a  b"}),
    becomes("no-space", "And needs none before it.", "X-None:v", {"X-None": "v"}),
    *(
        becomes(f"hop-{name.lower()}", "It spoke to us (RFC 9110, 7.6.1).", f"{name}: x", {name: None})
        for name in (
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "Proxy-Authenticate",
            "TE",
            "Trailer",
        )
    ),
    becomes(
        "connection-names",
        "What Connection names goes with it.",
        "Connection: X-One, x-two",
        {"X-One": None, "X-Two": None, "X-Three": "3", "Connection": None},
        "X-One: 1",
        "X-Two: 2",
        "X-Three: 3",
    ),
    becomes(
        "upgrade-alone", "Not named in Connection, it is no upgrade.", "Upgrade: websocket", {"Upgrade": None}
    ),
    becomes("te-trailers", "Trailers may come back.", "TE: trailers", {"TE": "trailers"}),
    becomes("te-several", "Of several codings only that one.", "TE: gzip, trailers", {"TE": "trailers"}),
    becomes(
        "authorization",
        "Who brings a token of their own acts with it.",
        "Authorization: Bearer mine",
        {"Authorization": "Bearer mine"},
    ),
    becomes(
        "authorization-basic", "Of any kind.", "authorization: Basic dTpw", {"Authorization": "Basic dTpw"}
    ),
    becomes(
        "authorization-empty", "An empty one is none.", "Authorization:", {"Authorization": "Bearer @TOKEN@"}
    ),
    Row(
        id="header-authorization-empty-second",
        why="Of several the first counts: it must not be overruled by one that is none.",
        send=get("/api", "Authorization: Bearer mine", "Authorization:"),
        sees=passes(has={"Authorization": ("Bearer mine", "")}),
        kproxy=passes(has={"Authorization": "Bearer mine"}),
        differs=differs.EXTRA_FIELDS,
    ),
    becomes(
        "authorization-empty-first",
        "The same the other way around.",
        "Authorization:",
        {"Authorization": "Bearer @TOKEN@"},
        "Authorization: Bearer mine",
    ),
    becomes(
        "connection-names-authorization",
        "The client's is dropped then, ours is not.",
        "Connection: Authorization",
        {"Authorization": "Bearer @TOKEN@"},
        "Authorization: Bearer mine",
    ),
    becomes(
        "connection-names-host",
        "Otherwise a client could take what we answer for off the request.",
        "Connection: Host, X-Forwarded-For",
        {"Host": "@UPSTREAM@", "X-Forwarded-For": "127.0.0.1"},
        "X-Forwarded-For: 10.0.0.1",
    ),
    Row(
        id="header-connection-names-length",
        why="The framing stays.",
        send=post("/api", "Connection: Content-Length", body=b"hello"),
        sees=passes(method="POST", body=b"hello", has={"Content-Length": "5"}),
    ),
    becomes(
        "connection-names-impersonation",
        "Hop by hop, if the client says so.",
        "Connection: Impersonate-User",
        {"Impersonate-User": None},
        "Impersonate-User: bob",
    ),
    becomes(
        "forwarded-for", "We are one hop more.", "X-Forwarded-For: a", {"X-Forwarded-For": "a, 127.0.0.1"}
    ),
    becomes(
        "forwarded-for-several",
        "Several fields are one list.",
        "X-Forwarded-For: a",
        {"X-Forwarded-For": "a, b, 127.0.0.1"},
        "X-Forwarded-For: b",
    ),
    Row(
        id="header-forwarded-for-empty",
        why="An empty member of a list is none (RFC 9110, 5.6.1).",
        send=get("/api", "X-Forwarded-For:"),
        sees=passes(has={"X-Forwarded-For": ", 127.0.0.1"}),
        kproxy=passes(has={"X-Forwarded-For": "127.0.0.1"}),
        differs=differs.EXTRA_FIELDS,
    ),
    Row(
        id="header-user-agent-added",
        why="We say who we are for those who do not.",
        send=get("/api"),
        sees=passes(has={"User-Agent": re.compile("(kubectl|Go-http-client)/.+")}),
        kproxy=passes(has={"User-Agent": re.compile("kproxy/.+")}),
        differs=differs.OWN_NAME,
    ),
    *(
        becomes(
            f"encoding-{name}",
            "A client that names codings has chosen.",
            f"Accept-Encoding: {value}",
            {"Accept-Encoding": value},
        )
        for name, value in (
            ("identity", "identity"),
            ("list", "gzip, deflate, br"),
            ("q0", "gzip;q=0"),
            ("star", "*"),
        )
    ),
    Row(
        id="header-pragma-alone",
        why="Go makes a Cache-Control of it; nothing is added here.",
        send=get("/api", "Pragma: no-cache"),
        sees=passes(has={"Pragma": "no-cache", "Cache-Control": "no-cache"}),
        kproxy=passes(has={"Pragma": "no-cache", "Cache-Control": None}),
        differs=differs.EXTRA_FIELDS,
    ),
    Row(
        id="header-encoding-empty",
        why="An empty list is a choice, too: nothing packed (RFC 9110, 12.5.3).",
        send=get("/api", "Accept-Encoding:"),
        sees=passes(has={"Accept-Encoding": ("", "gzip")}),
        kproxy=passes(has={"Accept-Encoding": ""}),
        differs=differs.EXTRA_FIELDS,
    ),
    becomes(
        "encoding-range",
        "A range is of the bytes as stored.",
        "Range: bytes=0-9",
        {"Accept-Encoding": None, "Range": "bytes=0-9"},
    ),
    Row(
        id="header-encoding-head",
        why="There is nothing to unpack.",
        send=request("HEAD", "/api"),
        sees=passes(method="HEAD", has={"Accept-Encoding": None}),
    ),
    Row(
        id="header-encoding-off",
        why="disable-compression.",
        send=get("/api"),
        sees=passes(has={"Accept-Encoding": None, "Authorization": "@BASIC@"}),
        cluster="basic-uncompressed",
    ),
    becomes(
        "impersonation",
        "A client may impersonate, if the API server lets us.",
        "Impersonate-User: bob",
        {"Impersonate-User": "bob", "Impersonate-Group": ("devs", "ops"), "Impersonate-Uid": "7"},
        "Impersonate-Group: devs",
        "Impersonate-Group: ops",
        "Impersonate-Uid: 7",
    ),
    Row(
        id="impersonation-configured",
        why="The kubeconfig may say whom to act as.",
        send=get("/api"),
        sees=passes(
            has={
                "Impersonate-User": "jane",
                "Impersonate-Uid": "42",
                "Impersonate-Group": ("g1", "g2"),
                "Impersonate-Extra-Scopes": "view",
            },
        ),
        cluster="impersonation",
    ),
    Row(
        id="impersonation-own-user",
        why="A client that names a user of its own is left alone.",
        send=get("/api", "Impersonate-User: carol"),
        sees=passes(has={"Impersonate-User": "carol", "Impersonate-Group": None, "Impersonate-Uid": None}),
        cluster="impersonation",
    ),
    Row(
        id="impersonation-named-in-connection",
        why="A field that goes no further takes nobody's place: this would be a way out of --as.",
        send=get("/api", "Connection: Impersonate-User", "Impersonate-User: carol"),
        sees=passes(has={"Impersonate-User": "jane", "Impersonate-Group": ("g1", "g2")}),
        cluster="impersonation",
    ),
    Row(
        id="impersonation-empty-user-first",
        why="The API server reads the first one only: this would be another.",
        send=get("/api", "Impersonate-User:", "Impersonate-User: carol"),
        sees=passes(has={"Impersonate-User": "jane", "Impersonate-Group": ("g1", "g2")}),
        cluster="impersonation",
    ),
    Row(
        id="impersonation-empty-user-last",
        why="The first one counts.",
        send=get("/api", "Impersonate-User: carol", "Impersonate-User:"),
        sees=passes(has={"Impersonate-User": ("carol", ""), "Impersonate-Group": None}),
        cluster="impersonation",
    ),
    Row(
        id="impersonation-own-group",
        why="Its group alone is added to ours.",
        send=get("/api", "Impersonate-Group: more"),
        sees=passes(has={"Impersonate-User": "jane", "Impersonate-Group": ("more", "g1", "g2")}),
        cluster="impersonation",
    ),
    Row(
        id="impersonation-flags",
        why="--as and --as-group.",
        send=get("/api"),
        sees=passes(
            has={
                "Impersonate-User": "alice",
                "Impersonate-Group": ("g1", "g2"),
                "Authorization": "Bearer other",
            },
        ),
        flags=FLAGS,
    ),
    Row(
        id="impersonation-no-group",
        why="Whoever takes the kubeconfig's groups away must not act with them.",
        send=get("/api"),
        sees=passes(has={"Impersonate-User": "alice", "Impersonate-Group": "", "Impersonate-Uid": "42"}),
        flags=("--as=alice", "--as-group="),
        cluster="impersonation",
    ),
    Row(
        id="credential-certificate",
        why="A client certificate alone is enough.",
        send=get("/api"),
        sees=Sees(
            answers=(Answer(body=BODY),),
            requests=(Forwarded(has={"Authorization": None}),),
            certificate="alice",
        ),
        cluster="certificate",
    ),
    Row(
        id="credential-certificate-and-token",
        why="Both go along.",
        send=get("/api"),
        sees=Sees(answers=(Answer(body=BODY),), requests=(Forwarded(),), certificate="alice"),
        cluster="certificate-and-token",
    ),
    Row(
        id="credential-certificate-stays",
        why="A token of the client does not take it away: it belongs to the connection.",
        send=get("/api", "Authorization: Bearer mine"),
        sees=Sees(
            answers=(Answer(body=BODY),),
            requests=(Forwarded(has={"Authorization": "Bearer mine"}),),
            certificate="alice",
        ),
        cluster="certificate-and-token",
    ),
    Row(
        id="credential-basic",
        why="User name and password.",
        send=get("/api"),
        sees=passes(has={"Authorization": "@BASIC@"}),
        cluster="basic-uncompressed",
    ),
    Row(
        id="credential-token-file",
        why="Service accounts have their token in a file.",
        send=get("/api"),
        sees=passes(has={"Authorization": "Bearer @FILE-TOKEN@"}),
        cluster="token-file",
    ),
    Row(
        id="credential-flag",
        why="--token beats the kubeconfig.",
        send=get("/api"),
        sees=passes(has={"Authorization": "Bearer other"}),
        flags=FLAGS,
    ),
    Row(
        id="unix-no-address",
        why="A unix socket has no address to add.",
        send=get("/api"),
        sees=passes(has={"X-Forwarded-For": None}),
        flags=("--unix-socket=@SOCK@",),
    ),
    Row(
        id="unix-forwarded-for",
        why="What came stays.",
        send=get("/api", "X-Forwarded-For: 10.0.0.1"),
        sees=passes(has={"X-Forwarded-For": "10.0.0.1"}),
        flags=("--unix-socket=@SOCK@",),
    ),
    Row(
        id="unix-host",
        why="The host filter is for unix sockets, too.",
        send=get("/api", host="evil.com"),
        sees=refused(),
        flags=("--unix-socket=@SOCK@",),
    ),
]

"""Upgrades: WebSocket, SPDY and whatever else, from the head to both ends."""

from __future__ import annotations

from dataclasses import replace

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    EXEC,
    Answer,
    Arrived,
    Do,
    Forwarded,
    Gate,
    Row,
    Sees,
    Tunnel,
    answered,
    get,
    passes,
    request,
)
from tests.support.answers import Step, answer, head, script, tunnel

WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
FOO = ("Connection: Upgrade", "Upgrade: foo")
SWITCHED = Answer(status=101, framing="tunnel")
HEAD_101 = head(101, [("Connection", "Upgrade"), ("Upgrade", "foo")])


def opened(
    *, target: str = "/api", method: str = "GET", upgrade: str = "foo", end: str = "either", **has: str | None
) -> Sees:
    """The upgrade reaches the API server as one, and the client gets its 101."""
    fields = {name.replace("_", "-"): value for name, value in has.items()}
    return Sees(
        answers=(SWITCHED,),
        requests=(
            Forwarded(
                target=target,
                method=method,
                body=None,
                has={"Connection": "Upgrade", "Upgrade": upgrade, "Accept-Encoding": None, **fields},
            ),
        ),
        end=end,
    )


def answered_otherwise(id: str, why: str, sent: bytes) -> Row:  # noqa: A002
    """Neither 101 nor an error: no client of an API server expects that."""
    requests = (Forwarded(has={"Upgrade": "foo"}),)
    return Row(
        id=f"upgrade-{id}",
        why=why,
        send=get("/api", *FOO),
        sees=Sees(answers=(Answer(status=500),), requests=requests, end="either"),
        kproxy=Sees(answers=(Answer(status=502, contains=b'"Status"'),), requests=requests, end="either"),
        upstream=(script(sent, Step.CLOSE),),
        differs=differs.FAILURE_STATUS,
    )


gate = Gate()

ROWS = [
    Row(
        id="upgrade-websocket",
        why="What browsers and kubectl 1.31 speak.",
        send=(get("/api", *WEBSOCKET), Do.READ_101, b"\x81\x82mask##", Tunnel(b"\x81\x82mask##")),
        sees=opened(
            upgrade="websocket", Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", Sec_WebSocket_Version="13"
        ),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-spdy-post",
        why="What older kubectl and other clients speak; exec is a POST.",
        send=(
            request("POST", "/api", "Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0"),
            Do.READ_101,
            b"\x80\x03\x00\x01data",
            Tunnel(b"\x80\x03\x00\x01data"),
        ),
        sees=opened(method="POST", upgrade="SPDY/3.1"),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-anything",
        why="Any protocol that both ends agree on.",
        send=(get("/api", *FOO), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-lower-case",
        why="Names have no case.",
        send=(get("/api", "connection: upgrade", "upgrade: WebSocket"), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=Sees(
            answers=(SWITCHED,),
            requests=(Forwarded(has={"Connection": "upgrade", "Upgrade": "WebSocket"}),),
            end="either",
        ),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-exec",
        why="Let through, exec is an upgrade like others.",
        send=(get(f"{EXEC}?command=ls", *WEBSOCKET), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(target=f"{EXEC}?command=ls", upgrade="websocket"),
        upstream=(tunnel(),),
        flags=("--reject-paths=",),
    ),
    Row(
        id="upgrade-own-authorization",
        why="The client's own token counts here, too.",
        send=(get("/api", *FOO, "Authorization: Bearer mine"), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(Authorization="Bearer mine"),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-impersonation",
        why="So does whom to act as.",
        send=(get("/api", *FOO), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(Impersonate_User="jane", Impersonate_Uid="42"),
        upstream=(tunnel(),),
        cluster="impersonation",
    ),
    Row(
        id="upgrade-server-path",
        why="And the server's path.",
        send=(get("/api", *FOO), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(target="/base/path/api"),
        upstream=(tunnel(),),
        cluster="path",
        flags=("--append-server-path",),
    ),
    Row(
        id="upgrade-encoded-path",
        why="Byte for byte.",
        send=(get("/api/a%2Fb/c%20d", *FOO), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(target="/api/a%2Fb/c%20d"),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-protocols",
        why="Both ends choose one of these.",
        send=(
            get("/api", *FOO, "X-Stream-Protocol-Version: v4", "X-Stream-Protocol-Version: v3"),
            Do.READ_101,
            b"hi",
            Tunnel(b"hi"),
        ),
        sees=Sees(
            answers=(SWITCHED,),
            requests=(Forwarded(has={"X-Stream-Protocol-Version": ("v4", "v3")}),),
            end="either",
        ),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-101-fields",
        why="The head of the 101 comes through as it is.",
        send=(get("/api", *FOO), Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=Sees(
            answers=(
                Answer(
                    status=101,
                    has={"Upgrade": "foo", "Set-Cookie": ("a=1", "b=2"), "Sec-WebSocket-Accept": "abc="},
                    spelled=("X-odd-CASE",),
                ),
            ),
            requests=(Forwarded(has={"Upgrade": "foo"}),),
            end="either",
        ),
        upstream=(
            tunnel(
                [
                    ("Upgrade", "foo"),
                    ("Connection", "Upgrade"),
                    ("Set-Cookie", "a=1"),
                    ("Set-Cookie", "b=2"),
                    ("Sec-WebSocket-Accept", "abc="),
                    ("X-odd-CASE", "q"),
                ]
            ),
        ),
    ),
    Row(
        id="upgrade-greeting",
        why="Bytes glued to the head of the 101 are the tunnel's.",
        send=(get("/api", *FOO), Do.READ_101, Tunnel(b"welcome")),
        sees=opened(),
        upstream=(tunnel(first=b"welcome"),),
    ),
    Row(
        id="upgrade-early-bytes",
        why="So are those that the client sends before it.",
        send=(get("/api", *FOO) + b"early", Do.READ_101, b"late"),
        sees=replace(opened(), tunnel=b"late"),
        kproxy=replace(opened(), tunnel=b"earlylate"),
        differs=differs.EARLY_BYTES,
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-late-101",
        why="A kubelet takes its time.",
        send=(get("/api", *FOO), Arrived(1), gate, Do.READ_101, b"hi", Tunnel(b"hi")),
        sees=opened(),
        upstream=(script(gate, tunnel()),),
    ),
    Row(
        id="upgrade-1m",
        why="cp copies files this way.",
        send=(get("/api", *FOO), Do.READ_101, b"0123456789abcdef" * 4096, Tunnel(b"0123456789abcdef" * 4096)),
        sees=opened(),
        upstream=(tunnel(),),
    ),
    Row(
        id="upgrade-server-ends",
        why="What it said before comes through, then the connection ends.",
        send=(get("/api", *FOO), Do.READ_101, Tunnel(b"bye")),
        sees=opened(end="closed"),
        upstream=(script(HEAD_101 + b"bye", Step.CLOSE),),
    ),
    Row(
        id="upgrade-client-gone",
        why="The process behind exec must end.",
        send=(get("/api", *FOO), Do.READ_101, b"hi", Tunnel(b"hi"), Do.RESET, Do.UPSTREAM_ENDED),
        sees=opened(),
        upstream=(tunnel(),),
    ),
    *(
        Row(
            id=f"upgrade-refused-{status}",
            why="The reason is the API server's to tell; then the connection ends.",
            send=get("/api", *FOO),
            sees=Sees(
                answers=(Answer(status=status, body=b'{"kind":"Status"}', has={"X-Why": "no"}),),
                requests=(Forwarded(has={"Upgrade": "foo"}),),
                end="closed",
            ),
            upstream=(answer(b'{"kind":"Status"}', status, [("X-Why", "no")]),),
        )
        for status in (400, 403, 404, 500)
    ),
    answered_otherwise(
        "answered-200", "The API server took no notice.", head(200, [("Content-Length", "2")]) + b"{}"
    ),
    answered_otherwise(
        "answered-302", "Nobody follows it.", head(302, [("Location", "/x"), ("Content-Length", "0")])
    ),
    answered_otherwise("answered-garbage", "Not HTTP.", b"NONSENSE\r\n\r\n"),
    answered_otherwise("answered-nothing", "Closed without a word.", b""),
    Row(
        id="upgrade-h2c",
        why="curl --http2 asks; who asks can do without.",
        send=get(
            "/api", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
        ),
        sees=Sees(answers=(Answer(status=500),), requests=(Forwarded(has={"Upgrade": "h2c"}),), end="either"),
        kproxy=passes(has={"Upgrade": None, "HTTP2-Settings": None}),
        differs=differs.H2C,
    ),
    Row(
        id="upgrade-h2c-among-others",
        why="Requests inside of such a tunnel would pass no filter, whoever agrees to it.",
        send=get("/api", "Connection: Upgrade", "Upgrade: websocket, h2c"),
        sees=Sees(
            answers=(Answer(status=500),),
            requests=(Forwarded(has={"Upgrade": "websocket, h2c"}),),
            end="either",
        ),
        kproxy=passes(has={"Upgrade": None}),
        differs=differs.H2C,
    ),
    Row(
        id="upgrade-without-protocol",
        why="To nothing is no upgrade.",
        send=get("/api", "Connection: Upgrade"),
        sees=Sees(
            answers=(Answer(status=500),), requests=(Forwarded(has={"Connection": "Upgrade"}),), end="either"
        ),
        kproxy=passes(has={"Connection": None}),
        differs=differs.NOT_UPGRADED,
    ),
    Row(
        id="upgrade-word-inside",
        why="noupgrade is another word.",
        send=get("/api", "Connection: noupgrade", "noupgrade: 1"),
        sees=Sees(
            answers=(Answer(status=500),),
            requests=(Forwarded(has={"Connection": "noupgrade"}),),
            end="either",
        ),
        kproxy=passes(has={"Connection": None, "noupgrade": None}),
        differs=differs.NOT_UPGRADED,
    ),
    Row(
        id="upgrade-1.0",
        why="HTTP/1.0 has none (RFC 9110, 7.8).",
        send=get("/api", *FOO, version="HTTP/1.0"),
        sees=Sees(answers=(Answer(status=500),), requests=(Forwarded(has={"Upgrade": "foo"}),), end="closed"),
        kproxy=answered(Answer(body=BODY), has={"Upgrade": None}, end="closed"),
        differs=differs.NOT_UPGRADED,
    ),
]

"""Answers of the API server: status, fields, framing, streams, and those that break off."""

from __future__ import annotations

import gzip
import zlib

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    Answer,
    Arrived,
    Body,
    Do,
    Fields,
    Forwarded,
    Gate,
    Row,
    Sees,
    answered,
    get,
    post,
    request,
)
from tests.support.answers import Step, answer, big, chunk, chunked, head, script

JSON = ("Content-Type", "application/json")
TWO = ("Content-Length", "2")
CHUNKED = ("Transfer-Encoding", "chunked")
LAST = b"0\r\n\r\n"


def verbatim(id: str, why: str, *fields: tuple[str, str]) -> Row:  # noqa: A002  # as the field is called
    """Fields that the client gets as the API server sent them."""
    expected: dict[str, tuple[str, ...]] = {}
    for name, value in fields:
        expected[name] = (*expected.get(name, ()), value)
    return Row(
        id=f"answer-{id}",
        why=why,
        send=get("/api"),
        sees=answered(Answer(body=b"{}", has=expected)),
        upstream=(script(head(200, [*fields, JSON, TWO]) + b"{}"),),
    )


def status(code: int, reason: str, why: str, **has: str) -> Row:
    """A verdict of the API server passes untouched."""
    fields = [(name.replace("_", "-"), value) for name, value in has.items()]
    expected: Fields = dict(fields)
    return Row(
        id=f"answer-{code}",
        why=why,
        send=get("/api"),
        sees=answered(Answer(status=code, reason=reason, body=b'{"kind":"Status"}', has=expected)),
        upstream=(answer(b'{"kind":"Status"}', code, fields),),
    )


def broken(id: str, why: str, sent: bytes, *end: Step, request: bytes = get("/api")) -> Row:  # noqa: A002
    """No answer that could be passed on."""
    sees = Sees(
        answers=(Answer(status=500),), requests=(Forwarded(method=request.split()[0].decode(), body=None),)
    )
    ours = Sees(answers=(Answer(status=502, contains=b'"Status"'),), requests=sees.requests)
    return Row(
        id=f"broken-{id}",
        why=why,
        send=request,
        sees=sees,
        kproxy=ours,
        upstream=(script(sent, *end),),
        differs=differs.FAILURE_STATUS,
    )


def packed(*parts: bytes) -> list[bytes]:
    """One gzip stream in pieces, each of which can be unpacked when it comes, and its end."""
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in parts]
    return [*pieces, packer.flush()]


first, second, third = Gate(), Gate(), Gate()
PACKED = packed(b"a" * 50, b"b" * 50)
EVENT = b'{"type":"MODIFIED","object":{"kind":"Pod"}}\n'

ROWS = [
    *(
        status(code, reason, "The API server's word.")
        for code, reason in (
            (201, "Created"),
            (400, "Bad Request"),
            (403, "Forbidden"),
            (404, "Not Found"),
            (409, "Conflict"),
            (410, "Gone"),
            (500, "Internal Server Error"),
            (503, "Service Unavailable"),
            (504, "Gateway Timeout"),
        )
    ),
    status(
        401, "Unauthorized", "The client's own credential was refused, perhaps.", WWW_Authenticate="Basic"
    ),
    status(429, "Too Many Requests", "Client libraries wait that long.", Retry_After="1"),
    *(
        status(
            code,
            reason,
            "Redirects are the client's to follow.",
            Location="https://elsewhere.example/x?y=%2F",
        )
        for code, reason in (
            (301, "Moved Permanently"),
            (302, "Found"),
            (303, "See Other"),
            (307, "Temporary Redirect"),
            (308, "Permanent Redirect"),
        )
    ),
    verbatim("relative-location", "Neither resolved nor cleaned.", ("Location", "../x y?a=b#frag")),
    verbatim(
        "repeated-fields",
        "kubectl prints each Warning; browsers keep each cookie.",
        ("Warning", '299 - "a"'),
        ("Warning", '299 - "b, with comma"'),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
        ("Link", "</a>; rel=next"),
    ),
    verbatim(
        "audit-fields",
        "For whoever looks into it.",
        ("Audit-Id", "a-1"),
        ("X-Kubernetes-Pf-Flowschema-Uid", "f"),
        ("Cache-Control", "no-cache, private"),
    ),
    Row(
        id="answer-reason-own",
        why="A part of the answer like any other.",
        send=get("/api"),
        sees=answered(Answer(status=422, reason="Unprocessable Entity")),
        kproxy=answered(Answer(status=422, reason="Too Odd")),
        upstream=(script(head(422, [JSON, TWO], reason="Too Odd") + b"{}"),),
        differs=differs.REASON,
    ),
    verbatim("date", "The API server's own.", ("Date", "Thu, 01 Jan 1998 00:00:00 GMT")),
    verbatim(
        "service-fields",
        "Service UIs set their own.",
        ("Server", "up/1"),
        ("Via", "1.1 lb"),
        ("Age", "7"),
        ("Content-Security-Policy", "default-src 'self'"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Access-Control-Allow-Origin", "*"),
        ("Content-Disposition", 'attachment; filename="a b.tgz"'),
    ),
    verbatim("empty-field", "An empty value is a value.", ("X-Empty", "")),
    verbatim("200-fields", "Many.", *((f"X-{number}", "v") for number in range(200))),
    Row(
        id="answer-spelling",
        why="What is not ours is not touched.",
        send=get("/api"),
        sees=answered(Answer(spelled=("X-Lower",), body=b"{}")),
        kproxy=answered(Answer(spelled=("x-lower",), body=b"{}")),
        upstream=(script(head(200, [("x-lower", "1"), JSON, TWO]) + b"{}"),),
        differs=differs.SPELLING,
    ),
    Row(
        id="answer-hop-by-hop",
        why="The API server's connection is not the client's.",
        send=get("/api"),
        sees=answered(
            Answer(
                body=b"{}",
                has={"Keep-Alive": None, "X-Named": None, "X-Kept": "1", "Connection": None, "Upgrade": None},
            )
        ),
        upstream=(
            script(
                head(
                    200,
                    [
                        ("Connection", "X-Named"),
                        ("Keep-Alive", "timeout=5"),
                        ("X-Named", "1"),
                        ("X-Kept", "1"),
                        ("Upgrade", "h2"),
                        JSON,
                        TWO,
                    ],
                )
                + b"{}"
            ),
        ),
    ),
    Row(
        id="answer-reason",
        why="Standard words stay.",
        send=get("/api"),
        sees=answered(Answer(reason="OK", body=b"{}")),
        upstream=(script(head(200, [JSON, TWO]) + b"{}"),),
    ),
    Row(
        id="answer-no-type",
        why="A guess can turn data into a page that runs scripts.",
        send=get("/api"),
        sees=answered(Answer(body=b"{}", has={"Content-Type": "text/plain; charset=utf-8"})),
        kproxy=answered(Answer(body=b"{}", has={"Content-Type": None})),
        upstream=(script(head(200, [TWO]) + b"{}"),),
        differs=differs.NO_SNIFFING,
    ),
    Row(
        id="answer-length",
        why="The length stays: kubectl shows progress, browsers too.",
        send=get("/api"),
        sees=answered(Answer(body=BODY, framing="length", has={"Content-Length": str(len(BODY))})),
    ),
    Row(
        id="answer-length-0",
        why="No body is not a stream.",
        send=get("/api"),
        sees=answered(Answer(body=b"", framing="length")),
        upstream=(answer(b""),),
    ),
    Row(
        id="answer-chunked",
        why="A stream stays one.",
        send=get("/api"),
        sees=answered(Answer(body=b"onetwo", framing="chunked")),
        upstream=(chunked([b"one", b"two"]),),
    ),
    Row(
        id="answer-chunked-empty",
        why="Also an empty one.",
        send=get("/api"),
        sees=answered(Answer(body=b"", framing="chunked")),
        upstream=(chunked([]),),
    ),
    Row(
        id="answer-trailers",
        why="Announced trailers come through.",
        send=get("/api"),
        sees=answered(Answer(body=b"one", trailers=(("X-Sum", "1"),), has={"Trailer": "X-Sum"})),
        upstream=(chunked([b"one"], [("Trailer", "X-Sum")], trailers=[("X-Sum", "1")]),),
    ),
    Row(
        id="answer-trailers-unannounced",
        why="So do others: gRPC gateways send them.",
        send=get("/api"),
        sees=answered(Answer(body=b"one", trailers=(("X-Late", "1"),))),
        upstream=(chunked([b"one"], trailers=[("X-Late", "1")]),),
    ),
    Row(
        id="answer-until-close",
        why="An HTTP/1.0 style answer is chunked for the client, whose connection stays.",
        send=get("/api"),
        sees=answered(Answer(body=b"all of it", framing="chunked")),
        upstream=(script(head(200, [JSON, ("Connection", "close")]), b"all of it", Step.CLOSE),),
    ),
    Row(
        id="answer-http-1.0",
        why="Old servers behind services.",
        send=get("/api"),
        sees=answered(Answer(body=b"{}", framing="length")),
        upstream=(script(head(200, [JSON, TWO], version="HTTP/1.0") + b"{}", Step.CLOSE),),
    ),
    Row(
        id="answer-204",
        why="No body, whatever it says.",
        send=get("/api"),
        sees=answered(Answer(status=204, framing="none")),
        upstream=(script(head(204)),),
    ),
    Row(
        id="answer-204-with-length",
        why="A client that believes it waits for what never comes, or takes the next answer for it.",
        send=get("/api"),
        sees=answered(Answer(status=204, framing="none", has={"Content-Length": None})),
        upstream=(script(head(204, [("Content-Length", "5")])),),
    ),
    Row(
        id="answer-304",
        why="No body; the tag stays.",
        send=get("/api", 'If-None-Match: "e"'),
        sees=answered(Answer(status=304, framing="none", has={"ETag": '"e"'})),
        upstream=(script(head(304, [("ETag", '"e"')])),),
    ),
    Row(
        id="answer-206",
        why="Ranges are the API server's.",
        send=get("/api", "Range: bytes=0-1"),
        sees=answered(
            Answer(status=206, body=b"{}", has={"Content-Range": "bytes 0-1/9"}), has={"Range": "bytes=0-1"}
        ),
        upstream=(script(head(206, [JSON, ("Content-Range", "bytes 0-1/9"), TWO]) + b"{}"),),
    ),
    Row(
        id="answer-head",
        why="The length of what GET would bring, and no body.",
        send=request("HEAD", "/api"),
        sees=answered(Answer(to="HEAD", framing="none", has={"Content-Length": "1234"}), method="HEAD"),
        upstream=(script(head(200, [JSON, ("Content-Length", "1234")])),),
    ),
    Row(
        id="answer-head-404",
        why="Also of an error.",
        send=request("HEAD", "/api"),
        sees=answered(Answer(status=404, to="HEAD", has={"Content-Length": "99"}), method="HEAD"),
        upstream=(script(head(404, [JSON, ("Content-Length", "99")])),),
    ),
    Row(
        id="answer-head-chunked",
        why="A stream has no length.",
        send=request("HEAD", "/api"),
        sees=answered(Answer(to="HEAD", framing="none", has={"Content-Length": None}), method="HEAD"),
        upstream=(script(head(200, [JSON, CHUNKED])),),
    ),
    Row(
        id="answer-103",
        why="Early hints pass.",
        send=get("/api"),
        sees=answered(Answer(body=b"{}", interim=(103,))),
        upstream=(
            script(head(103, [("Link", "</a>")], reason="Early Hints") + head(200, [JSON, TWO]) + b"{}"),
        ),
    ),
    Row(
        id="answer-gzip-unpacked",
        why="A client that did not ask for gzip must not get it.",
        send=get("/api"),
        sees=answered(Answer(body=BODY, has={"Content-Encoding": None})),
        upstream=(answer(gzip.compress(BODY), headers=[("Content-Encoding", "gzip")]),),
    ),
    Row(
        id="answer-gzip-unpacked-post",
        why="Whatever the method.",
        send=post("/api"),
        sees=answered(Answer(body=BODY, has={"Content-Encoding": None}), method="POST", body=b"{}"),
        upstream=(answer(gzip.compress(BODY), headers=[("Content-Encoding", "gzip")]),),
    ),
    Row(
        id="answer-gzip-empty",
        why="Some servers call an empty answer packed.",
        send=get("/api"),
        sees=answered(Answer(status=409, body=b"", has={"Content-Encoding": None})),
        upstream=(script(head(409, [JSON, CHUNKED, ("Content-Encoding", "gzip")]) + LAST),),
    ),
    Row(
        id="answer-gzip-asked",
        why="One that did gets it as it is.",
        send=get("/api", "Accept-Encoding: gzip"),
        sees=answered(
            Answer(body=gzip.compress(BODY, mtime=0), has={"Content-Encoding": "gzip"}, framing="length"),
            has={"Accept-Encoding": "gzip"},
        ),
        upstream=(answer(gzip.compress(BODY, mtime=0), headers=[("Content-Encoding", "gzip")]),),
    ),
    Row(
        id="answer-deflate",
        why="We asked for gzip: what else comes was meant for the client.",
        send=get("/api"),
        sees=answered(Answer(body=zlib.compress(b"x"), has={"Content-Encoding": "deflate"})),
        upstream=(answer(zlib.compress(b"x"), headers=[("Content-Encoding", "deflate")]),),
    ),
    Row(
        id="answer-gzip-broken",
        why="What cannot be unpacked must not look complete.",
        send=(get("/api"), Do.READ_HEAD, Body(b"a" * 50), first),
        sees=answered(Answer(body=b"a" * 50, is_complete=False), end="closed"),
        upstream=(
            script(
                head(200, [JSON, CHUNKED, ("Content-Encoding", "gzip")]),
                chunk(PACKED[0]),
                first,
                chunk(b"\xff" * 40) + LAST,
            ),
        ),
    ),
    Row(
        id="answer-8m",
        why="Lists of a large cluster.",
        send=get("/api"),
        sees=answered(Answer(framing="length", has={"Content-Length": "8000000"})),
        upstream=(big(8_000_000),),
    ),
    Row(
        id="stream-head-first",
        why="Client libraries wait for the head of a watch before the first event.",
        send=(get("/api?watch=true"), Do.READ_HEAD, first, Body(EVENT), second),
        sees=answered(Answer(framing="chunked", body=EVENT), target="/api?watch=true"),
        upstream=(script(head(200, [JSON, CHUNKED]), first, chunk(EVENT), second, LAST),),
    ),
    Row(
        id="stream-piece-by-piece",
        why="An event that waits for the next one is late.",
        send=(get("/api"), Do.READ_HEAD, Body(b"a"), first, Body(b"b"), second, Body(b"c"), third),
        sees=answered(Answer(body=b"abc")),
        upstream=(
            script(
                head(200, [JSON, CHUNKED]), chunk(b"a"), first, chunk(b"b"), second, chunk(b"c"), third, LAST
            ),
        ),
    ),
    Row(
        id="stream-with-length",
        why="Followed logs may have a length.",
        send=(get("/api"), Do.READ_HEAD, Body(b"a"), first, Body(b"b")),
        sees=answered(Answer(body=b"ab", framing="length")),
        upstream=(script(head(200, [JSON, TWO]), b"a", first, b"b"),),
    ),
    Row(
        id="stream-gzip",
        why="Unpacked piece by piece, too.",
        send=(get("/api"), Do.READ_HEAD, Body(b"a" * 50), first, Body(b"b" * 50), second),
        sees=answered(Answer(body=b"a" * 50 + b"b" * 50)),
        upstream=(
            script(
                head(200, [JSON, CHUNKED, ("Content-Encoding", "gzip")]),
                chunk(PACKED[0]),
                first,
                chunk(PACKED[1]),
                second,
                chunk(PACKED[2]) + LAST,
            ),
        ),
    ),
    Row(
        id="stream-client-gone",
        why="Nobody reads on: the API server must know at once.",
        send=(get("/api?watch=true"), Do.READ_HEAD, Body(EVENT), Do.RESET, Do.UPSTREAM_ENDED),
        sees=Sees(
            answers=(Answer(is_complete=False),),
            requests=(Forwarded(target="/api?watch=true"),),
            end="either",
        ),
        upstream=(script(head(200, [JSON, CHUNKED]), chunk(EVENT), Step.WAIT_FOR_END),),
    ),
    Row(
        id="stream-client-gone-before-head",
        why="The same while the API server still thinks.",
        send=(get("/api"), Arrived(1), Do.RESET, Do.UPSTREAM_ENDED),
        sees=Sees(requests=(Forwarded(),), end="either"),
        upstream=(script(Step.WAIT_FOR_END),),
    ),
    Row(
        id="broken-length",
        why="An answer cut short must not look complete.",
        send=(get("/api"), Do.READ_HEAD, Body(b"half"), first),
        sees=answered(Answer(body=b"half", is_complete=False), end="closed"),
        upstream=(script(head(200, [JSON, ("Content-Length", "100")]) + b"half", first, Step.CLOSE),),
    ),
    Row(
        id="broken-chunks",
        why="Nor one without its last chunk.",
        send=(get("/api"), Do.READ_HEAD, Body(b"half"), first),
        sees=answered(Answer(body=b"half", is_complete=False), end="closed"),
        upstream=(script(head(200, [JSON, CHUNKED]) + chunk(b"half"), first, Step.CLOSE),),
    ),
    Row(
        id="broken-reset",
        why="Nor one that was reset.",
        send=(get("/api"), Do.READ_HEAD, Body(b"half"), first),
        sees=answered(Answer(is_complete=False), end="closed"),
        upstream=(script(head(200, [JSON, CHUNKED]) + chunk(b"half"), first, Step.RESET),),
    ),
    Row(
        id="broken-chunk-size",
        why="Nor one whose chunks make no sense.",
        send=get("/api"),
        sees=answered(Answer(body=b"first", is_complete=False), end="closed"),
        upstream=(script(head(200, [JSON, CHUNKED]) + chunk(b"first") + b"zz\r\n", Step.WAIT_FOR_END),),
    ),
    broken("status-line", "Not HTTP.", b"NONSENSE\r\n\r\n", Step.CLOSE),
    broken("nothing", "Closed without a word.", b"", Step.CLOSE),
    broken("nothing-post", "And a POST is not sent twice.", b"", Step.CLOSE, request=post("/api")),
    broken("head-cut", "Closed in the middle of the head.", b"HTTP/1.1 200 OK\r\nContent-", Step.CLOSE),
    broken(
        "coding",
        "A coding we cannot take off.",
        head(200, [("Transfer-Encoding", "gzip, chunked")]),
        Step.CLOSE,
    ),
    broken(
        "lengths",
        "Two lengths, two readings.",
        head(200, [TWO, ("Content-Length", "3")]) + b"{}x",
        Step.CLOSE,
    ),
    broken(
        "unasked-101", "Nobody asked to switch.", head(101, [("Connection", "Upgrade"), ("Upgrade", "foo")])
    ),
    Row(
        id="broken-then-well",
        why="The client's connection outlives a bad answer.",
        send=(get("/api/1"), Do.READ, get("/api/2")),
        sees=Sees(
            answers=(Answer(status=500), Answer(body=BODY)),
            requests=(Forwarded(target="/api/1"), Forwarded(target="/api/2")),
        ),
        kproxy=Sees(
            answers=(Answer(status=502), Answer(body=BODY)),
            requests=(Forwarded(target="/api/1"), Forwarded(target="/api/2")),
        ),
        upstream=(script(b"NONSENSE\r\n\r\n", Step.CLOSE), answer(BODY)),
        differs=differs.FAILURE_STATUS,
    ),
    Row(
        id="broken-length-and-chunks",
        why="The chunks count (RFC 9112, 6.3), and only they are passed on.",
        send=get("/api"),
        sees=answered(Answer(body=b"hello", framing="chunked", has={"Content-Length": None})),
        upstream=(script(head(200, [JSON, ("Content-Length", "3"), CHUNKED]) + chunk(b"hello") + LAST),),
    ),
    Row(
        id="failed-other-ca",
        why="A certificate that is not trusted.",
        send=get("/api"),
        sees=Sees(answers=(Answer(status=500, contains=b"certificate"),)),
        kproxy=Sees(answers=(Answer(status=502, contains=b"certificate"),)),
        cluster="other-ca",
        differs=differs.FAILURE_STATUS,
    ),
    Row(
        id="failed-other-name",
        why="A certificate for another name.",
        send=get("/api"),
        sees=Sees(answers=(Answer(status=500, contains=b"certificate"),)),
        kproxy=Sees(answers=(Answer(status=502, contains=b"certificate"),)),
        cluster="other-name",
        differs=differs.FAILURE_STATUS,
    ),
    Row(
        id="failed-upgrade",
        why="The same for an upgrade, which has a connection of its own.",
        send=get("/api", "Connection: Upgrade", "Upgrade: foo"),
        sees=Sees(answers=(Answer(status=500, contains=b"certificate"),)),
        kproxy=Sees(answers=(Answer(status=502, contains=b"certificate"),)),
        cluster="other-ca",
        differs=differs.FAILURE_STATUS,
    ),
    Row(
        id="failed-filter-first",
        why="A refusal needs no API server.",
        send=get("/api/v1/namespaces/default/pods/web-0/exec"),
        sees=Sees(answers=(Answer(status=403),)),
        cluster="other-ca",
    ),
]

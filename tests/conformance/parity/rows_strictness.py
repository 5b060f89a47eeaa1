"""Bytes that are no HTTP/1.1 (RFC 9112), or that two parsers may read in two ways."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    Answer,
    Arrived,
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

CHUNKED = "Transfer-Encoding: chunked"


def bad(id: str, why: str, sent: bytes, status: int | tuple[int, ...] = 400) -> Row:  # noqa: A002  # as the field is called
    """Nothing is forwarded, and the connection ends."""
    return Row(id=f"strict-{id}", why=why, send=sent, sees=malformed(status))


def stricter(id: str, why: str, sent: bytes, sees: Sees) -> Row:  # noqa: A002
    """Go repairs it."""
    return Row(
        id=f"strict-{id}", why=why, send=sent, sees=sees, kproxy=malformed(), differs=differs.AMBIGUOUS
    )


def bad_upload(id: str, why: str, sent: bytes, *, body: bytes | None = None) -> Row:  # noqa: A002
    """The request is under way already: it is aborted towards the API server."""
    forwarded = (Forwarded(method="POST", body=body, framing="chunked", is_cut=True),)
    return Row(
        id=f"strict-{id}",
        why=why,
        send=(request("POST", "/api", CHUNKED), Arrived(1), sent),
        sees=Sees(answers=(Answer(status=500),), requests=forwarded, end="closed"),
        kproxy=Sees(answers=(Answer(status=400),), requests=forwarded, end="closed"),
        differs=differs.AMBIGUOUS,
    )


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join(parts) + b"\r\n\r\n"


GET = b"GET /api HTTP/1.1"
POST = b"POST /api HTTP/1.1"
HOST = b"Host: localhost"

ROWS = [
    bad("one-word", "No target.", b"GET\r\n\r\n"),
    bad("four-words", "Too many.", lines(b"GET /api HTTP/1.1 x", HOST)),
    bad("leading-space", "A line that continues nothing.", lines(b" " + GET, HOST)),
    bad("version-lower-case", "Versions have a case.", lines(b"GET /api http/1.1", HOST)),
    bad("version-letters", "No number.", lines(b"GET /api HTTP/x.y", HOST)),
    bad("version-missing", "HTTP/0.9 has none.", b"GET /api\r\n\r\n"),
    bad("version-2", "Not over this connection.", lines(b"GET /api HTTP/2.0", HOST), 505),
    bad("version-3", "Nor this.", lines(b"GET /api HTTP/3.0", HOST), 505),
    bad(
        "http-2-preface",
        "A client that knows we speak HTTP/2.",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        (400, 505),
    ),
    bad("tls", "A client that takes us for https.", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    bad("socks", "Or for a SOCKS proxy.", b"\x05\x01\x00\r\n\r\n"),
    bad("empty-lines", "Nothing but.", b"\r\n\r\n\r\n"),
    Row(
        id="strict-empty-line-first",
        why="Old clients send one behind a body.",
        send=b"\r\n" + get("/api"),
        sees=malformed(),
        kproxy=passes(),
        differs=differs.LENIENT_START,
    ),
    bad(
        "length-different",
        "Two lengths, two readings.",
        lines(POST, HOST, b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
    ),
    bad("length-list", "The same in one field.", lines(POST, HOST, b"Content-Length: 5, 6") + b"hello!"),
    bad("length-plus", "Digits alone.", lines(POST, HOST, b"Content-Length: +5") + b"hello"),
    bad("length-minus", "Digits alone.", lines(POST, HOST, b"Content-Length: -1")),
    bad("length-hex", "Digits alone.", lines(POST, HOST, b"Content-Length: 0x5") + b"hello"),
    bad(
        "length-underscore",
        "Python's int() takes it.",
        lines(POST, HOST, b"Content-Length: 1_0") + b"0123456789",
    ),
    bad("length-space", "Digits alone.", lines(POST, HOST, b"Content-Length: 1 0") + b"0123456789"),
    bad(
        "length-huge",
        "Beyond any integer.",
        lines(POST, HOST, b"Content-Length: 99999999999999999999") + b"x",
    ),
    bad("coding-unknown", "We cannot see its end.", lines(POST, HOST, b"Transfer-Encoding: identity"), 501),
    bad(
        "coding-gzip",
        "Nor inside this.",
        lines(POST, HOST, b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        501,
    ),
    bad(
        "coding-alike", "Not chunked.", lines(POST, HOST, b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", 501
    ),
    bad(
        "coding-quoted",
        "Not chunked.",
        lines(POST, HOST, b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
        501,
    ),
    bad(
        "coding-twice",
        "Chunked in chunked.",
        lines(POST, HOST, b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
        501,
    ),
    bad(
        "coding-two-fields",
        "The same in two.",
        lines(POST, HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + b"0\r\n\r\n",
        501,
    ),
    stricter(
        "length-and-chunks",
        "The classic of request smuggling.",
        lines(POST, HOST, b"Content-Length: 6", b"Transfer-Encoding: chunked") + b"0\r\n\r\nG",
        Sees(
            answers=(Answer(body=BODY),),
            requests=(Forwarded(method="POST", framing="chunked"),),
            end="either",
        ),
    ),
    stricter(
        "length-repeated",
        "The same length, and yet two fields.",
        lines(POST, HOST, b"Content-Length: 5", b"Content-Length: 5") + b"hello",
        passes(method="POST", body=b"hello"),
    ),
    stricter(
        "coding-1.0",
        "HTTP/1.0 has no transfer codings: is this a body or the next request?",
        lines(b"POST /api HTTP/1.0", HOST, b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        passes(method="POST", end="closed"),
    ),
    stricter(
        "fold",
        "A folded line is one field or two.",
        lines(GET, HOST, b"X-A: a", b" b"),
        passes(has={"X-A": "a b"}),
    ),
    stricter(
        "fold-coding",
        "The same, in earnest.",
        lines(POST, HOST, b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n",
        passes(method="POST", framing="chunked"),
    ),
    bad("fold-first", "Continues nothing.", lines(GET, b" X: 1", HOST)),
    bad("fold-host", "No host.", lines(GET, HOST, b" .evil.com")),
    stricter("line-feeds", "Lines without CR.", b"GET /api HTTP/1.1\nHost: localhost\n\n", passes()),
    stricter(
        "line-feed-inside",
        "One field or two.",
        b"GET /api HTTP/1.1\r\nHost: localhost\nX-A: 1\r\n\r\n",
        passes(has={"X-A": "1"}),
    ),
    bad("return-inside", "A CR alone ends a line for some.", lines(GET, HOST, b"X-A: a\rb")),
    bad("nul-in-value", "C programs end there.", lines(GET, HOST, b"X-A: a\0b")),
    bad("control-in-value", "Steers terminals and logs.", lines(GET, HOST, b"X-A: a\x01b")),
    bad("delete-in-value", "The same.", lines(GET, HOST, b"X-A: a\x7fb")),
    bad("name-empty", "No name.", lines(GET, HOST, b": v")),
    bad("name-space", "No token.", lines(GET, HOST, b"X A: 1")),
    bad(
        "name-space-before-colon", "RFC 9112, 5.1: a second field of that name.", lines(GET, HOST, b"X-A : 1")
    ),
    bad("name-host-space", "Two hosts for some.", lines(GET, b"Host : evil.com", HOST)),
    bad("name-parenthesis", "No token.", lines(GET, HOST, b"X(A): 1")),
    bad("name-latin-1", "No token.", lines(GET, HOST, b"X-\xe9: 1")),
    bad("no-colon", "No field.", lines(GET, HOST, b"nonsense")),
    bad_upload("chunk-letters", "No size.", b"zz\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-plus", "Digits alone.", b"+5\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-minus", "Digits alone.", b"-1\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-0x", "Digits alone.", b"0x5\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-underscore", "Python's int() takes it.", b"0_5\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-huge", "Beyond any integer.", b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-zeros", "A size as long as a body.", b"0" * 10_000 + b"5\r\nhello\r\n0\r\n\r\n"),
    bad_upload("chunk-too-long", "More than it says.", b"5\r\nhello!\r\n0\r\n\r\n"),
    bad_upload("trailer-malformed", "No field.", b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n"),
    Row(
        id="strict-trailer-framing",
        why="A trailer that frames or authenticates could be merged into the head.",
        send=(
            request("POST", "/api", CHUNKED),
            Arrived(1),
            b"5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
        ),
        sees=Sees(
            answers=(Answer(body=BODY),),
            requests=(Forwarded(method="POST", body=b"hello", framing="chunked"),),
        ),
        kproxy=Sees(
            answers=(Answer(status=400),),
            requests=(Forwarded(method="POST", body=b"hello", framing="chunked", is_cut=True),),
            end="closed",
        ),
        differs=differs.AMBIGUOUS,
    ),
    Row(
        id="strict-status",
        why="A bad request is answered as everything else is: with a Status.",
        send=lines(GET, HOST, b"nonsense"),
        sees=refused(400, end="closed", has={"Content-Type": "text/plain; charset=utf-8"}),
        kproxy=refused(400, end="closed", has={"Content-Type": "application/json"}, contains=b'"Status"'),
        differs=differs.REFUSAL_STATUS,
    ),
    Row(
        id="strict-smuggled-body",
        why="What looks like a request inside a body is a body.",
        send=post("/api", body=b"GET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        sees=passes(method="POST", body=b"GET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ),
]

"""Static files beside the API: what Go's file server does."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    Answer,
    Do,
    Forwarded,
    Row,
    Sees,
    get,
    passes,
    refused,
    request,
)

WWW = ("-w", "@WWW@", "-P", "/static")
ROOT = ("--www=@WWW@", "--www-prefix=/", "--api-prefix=/api/")
HELLO = b"hello, static world\n"
MODIFIED = "Sun, 09 Sep 2001 01:46:40 GMT"
TEXT = "text/plain; charset=utf-8"


def static(id: str, why: str, target: str, answer: Answer, *lines: str, flags: tuple[str, ...] = WWW) -> Row:  # noqa: A002
    return Row(
        id=f"static-{id}", why=why, send=get(target, *lines), sees=Sees(answers=(answer,)), flags=flags
    )


def typed(id: str, name: str, kind: str) -> Row:  # noqa: A002
    why = "Browsers go by the type."
    return static(f"type-{id}", why, f"/static/{name}", Answer(has={"Content-Type": kind}))


ROWS = [
    static(
        "file",
        "A page and all that belongs to it.",
        "/static/hello.txt",
        Answer(
            body=HELLO,
            framing="length",
            has={"Last-Modified": MODIFIED, "Accept-Ranges": "bytes", "Content-Type": TEXT, "ETag": None},
        ),
    ),
    static("query", "Cache busters.", "/static/hello.txt?v=1", Answer(body=HELLO)),
    static("index", "index.html is the folder.", "/static/", Answer(contains=b"<title>i</title>")),
    static("index-below", "Of each folder.", "/static/sub/", Answer(body=b"<p>sub</p>\n")),
    static(
        "index-itself",
        "One address for one page.",
        "/static/index.html",
        Answer(status=301, has={"Location": "./"}),
    ),
    static(
        "folder", "A folder ends in a slash.", "/static/sub", Answer(status=301, has={"Location": "sub/"})
    ),
    static("prefix", "So does the prefix.", "/static", Answer(status=301, has={"Location": "/static/"})),
    static(
        "listing",
        "Without index.html: a list of links, names escaped.",
        "/static/list/",
        Answer(
            contains=b'<a href="%3Cb%3E.txt">&lt;b&gt;.txt</a>',
            has={"Content-Type": "text/html; charset=utf-8"},
        ),
    ),
    static("missing", "Not there.", "/static/nope.txt", Answer(status=404)),
    static(
        "empty",
        "No bytes are a file, too.",
        "/static/empty.txt",
        Answer(body=b"", has={"Content-Length": "0"}),
    ),
    static("encoded-name", "Names are decoded.", "/static/100%25.txt", Answer(body=b"percent\n")),
    static("dot-file", "Go has no opinion on these.", "/static/.hidden", Answer(status=404)),
    typed("html", "", "text/html; charset=utf-8"),
    typed("js", "app.js", "text/javascript; charset=utf-8"),
    typed("css", "style.css", "text/css; charset=utf-8"),
    typed("svg", "pic.svg", "image/svg+xml"),
    typed("json", "data.json", "application/json"),
    typed("unknown", "blob", "application/octet-stream"),
    static(
        "range",
        "Videos are read in parts.",
        "/static/hello.txt",
        Answer(status=206, body=b"llo,", has={"Content-Range": "bytes 2-5/20"}),
        "Range: bytes=2-5",
    ),
    static(
        "range-end",
        "From behind.",
        "/static/hello.txt",
        Answer(status=206, body=b"ld\n", has={"Content-Range": "bytes 17-19/20"}),
        "Range: bytes=-3",
    ),
    static(
        "range-open",
        "To the end.",
        "/static/hello.txt",
        Answer(status=206, body=HELLO, has={"Content-Range": "bytes 0-19/20"}),
        "Range: bytes=0-",
    ),
    static(
        "range-beyond",
        "As far as it goes.",
        "/static/hello.txt",
        Answer(status=206, body=HELLO[5:], has={"Content-Range": "bytes 5-19/20"}),
        "Range: bytes=5-99999",
    ),
    static(
        "range-outside",
        "There is nothing.",
        "/static/hello.txt",
        Answer(status=416, has={"Content-Range": "bytes */20"}),
        "Range: bytes=1000-",
    ),
    static(
        "range-several",
        "In one answer of several parts.",
        "/static/hello.txt",
        Answer(status=206, contains=b"Content-Range: bytes 3-4/20"),
        "Range: bytes=0-1,3-4",
    ),
    static(
        "range-if-changed",
        "Changed since: all of it.",
        "/static/hello.txt",
        Answer(body=HELLO),
        "Range: bytes=0-3",
        "If-Range: Thu, 01 Jan 1998 00:00:00 GMT",
    ),
    static(
        "range-if-unchanged",
        "Unchanged: the part.",
        "/static/hello.txt",
        Answer(status=206, body=HELLO[:4]),
        "Range: bytes=0-3",
        f"If-Range: {MODIFIED}",
    ),
    static(
        "unmodified",
        "The browser has it.",
        "/static/hello.txt",
        Answer(status=304, framing="none"),
        f"If-Modified-Since: {MODIFIED}",
    ),
    static(
        "modified",
        "It has an older one.",
        "/static/hello.txt",
        Answer(body=HELLO),
        "If-Modified-Since: Thu, 01 Jan 1998 00:00:00 GMT",
    ),
    Row(
        id="static-head",
        why="The length and no body.",
        send=request("HEAD", "/static/hello.txt"),
        sees=Sees(answers=(Answer(to="HEAD", has={"Content-Length": "20"}),)),
        flags=WWW,
    ),
    Row(
        id="static-keep-alive",
        why="A page asks for many files.",
        send=(get("/static/hello.txt"), Do.READ, get("/static/sub/")),
        sees=Sees(answers=(Answer(body=HELLO), Answer(body=b"<p>sub</p>\n"))),
        flags=WWW,
    ),
    Row(
        id="static-1.0",
        why="Old clients.",
        send=get("/static/hello.txt", version="HTTP/1.0"),
        sees=Sees(answers=(Answer(body=HELLO),), end="closed"),
        flags=WWW,
    ),
    Row(
        id="static-delete",
        why="A page is no place to write to.",
        send=request("DELETE", "/static/hello.txt"),
        sees=Sees(answers=(Answer(body=HELLO),)),
        kproxy=refused(405, has={"Allow": "GET, HEAD"}),
        flags=WWW,
        differs=differs.STATIC_METHODS,
    ),
    static(
        "dots",
        "Cleaned before anything is looked at.",
        "/static/../etc/passwd",
        Answer(status=301, has={"Location": "/etc/passwd"}),
    ),
    static("dots-encoded", "No way out of the folder.", "/static/%2e%2e/outside.txt", Answer(status=404)),
    static("dots-encoded-slash", "Nor this way.", "/static/..%2foutside.txt", Answer(status=404)),
    static("dots-twice-encoded", "Nor this.", "/static/%252e%252e/outside.txt", Answer(status=404)),
    Row(
        id="static-link",
        why="A link must not open your home to a page.",
        send=get("/static/link.txt"),
        sees=Sees(answers=(Answer(body=b"outside"),)),
        kproxy=refused(403),
        flags=WWW,
        differs=differs.STATIC_LINKS,
    ),
    Row(
        id="static-host",
        why="A page of a rebound name would be of the same origin as the API.",
        send=get("/static/hello.txt", host="evil.com"),
        sees=Sees(answers=(Answer(body=HELLO),)),
        kproxy=refused(403),
        flags=WWW,
        differs=differs.STATIC_GUARD,
    ),
    Row(
        id="static-beside-api",
        why="The API goes on as ever.",
        send=get("/api"),
        sees=passes(),
        flags=WWW,
    ),
    Row(
        id="static-alike",
        why="Only below the prefix.",
        send=get("/staticx/hello.txt"),
        sees=passes("/staticx/hello.txt"),
        flags=WWW,
    ),
    static("root", "In place of everything but the API.", "/hello.txt", Answer(body=HELLO), flags=ROOT),
    Row(
        id="static-root-api",
        why="The longer prefix wins.",
        send=get("/api/v1/pods"),
        sees=Sees(answers=(Answer(body=BODY),), requests=(Forwarded(target="/api/v1/pods"),)),
        flags=ROOT,
    ),
]

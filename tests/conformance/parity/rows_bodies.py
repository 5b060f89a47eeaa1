"""Request bodies: framing, trailers, Expect, and uploads that break off."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    EXEC,
    OK,
    Answer,
    Arrived,
    Do,
    Forwarded,
    Row,
    Sees,
    get,
    passes,
    post,
    refused,
    request,
)
from tests.support.answers import Step, answer, head, script

CHUNKED = "Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
BIG = b"z" * 1_048_576


def chunked(*lines: str, method: str = "POST", data: bytes = HELLO) -> bytes:
    return request(method, "/api", CHUNKED, *lines) + data


def cut_upload(body: bytes, framing: str) -> Sees:
    return Sees(requests=(Forwarded(method="POST", body=body, framing=framing, is_cut=True),), end="either")


ROWS = [
    Row(
        id="body-post",
        why="The usual.",
        send=post("/api", "Content-Type: application/json", body=b'{"a":1}'),
        sees=passes(
            method="POST",
            body=b'{"a":1}',
            framing="length",
            has={"Content-Type": "application/json", "Content-Length": "7"},
        ),
    ),
    Row(
        id="body-binary",
        why="Protobuf is bytes.",
        send=post("/api", body=b"k8s\x00\n\x00\xff\xfe"),
        sees=passes(method="POST", body=b"k8s\x00\n\x00\xff\xfe"),
    ),
    Row(
        id="body-packed",
        why="A coding of the client's is the API server's to undo.",
        send=post("/api", "Content-Encoding: gzip", body=b"\x1f\x8b\x08\x00no"),
        sees=passes(method="POST", body=b"\x1f\x8b\x08\x00no", has={"Content-Encoding": "gzip"}),
    ),
    Row(
        id="body-patch",
        why="The content type decides what kind of patch it is.",
        send=request("PATCH", "/api", "Content-Type: application/apply-patch+yaml", body=b"a: 1\n"),
        sees=passes(method="PATCH", body=b"a: 1\n", has={"Content-Type": "application/apply-patch+yaml"}),
    ),
    Row(
        id="body-delete",
        why="DeleteOptions.",
        send=request("DELETE", "/api", body=b'{"propagationPolicy":"Background"}'),
        sees=passes(method="DELETE", body=b'{"propagationPolicy":"Background"}', framing="length"),
    ),
    Row(
        id="body-get",
        why="Legal, and Elasticsearch behind a service wants it.",
        send=request("GET", "/api", body=b"x"),
        sees=passes(body=b"x", framing="length"),
    ),
    Row(
        id="body-head",
        why="Legal, too.",
        send=request("HEAD", "/api", body=b"x"),
        sees=passes(method="HEAD", body=b"x"),
    ),
    Row(
        id="body-empty",
        why="A length of 0 is said again: some servers wait for a body otherwise.",
        send=post("/api", body=b""),
        sees=passes(method="POST", has={"Content-Length": "0"}),
    ),
    Row(
        id="body-none",
        why="A POST without length has one of 0 (RFC 9110, 8.6).",
        send=request("POST", "/api"),
        sees=passes(method="POST", has={"Content-Length": "0"}),
    ),
    Row(
        id="body-delete-none",
        why="For other methods it goes without saying.",
        send=request("DELETE", "/api"),
        sees=passes(method="DELETE", has={"Content-Length": None}),
    ),
    Row(
        id="body-get-length-0",
        why="The same.",
        send=get("/api", "Content-Length: 0"),
        sees=passes(has={"Content-Length": None}),
    ),
    Row(
        id="body-1m",
        why="ConfigMaps and Secrets reach that.",
        send=post("/api", body=BIG),
        sees=passes(method="POST", body=BIG, framing="length"),
    ),
    Row(
        id="body-two-parts",
        why="A body comes as it comes.",
        send=(request("POST", "/api", "Content-Length: 10"), b"01234", Arrived(1, 5), b"56789"),
        sees=passes(method="POST", body=b"0123456789"),
    ),
    Row(
        id="body-chunked",
        why="Chunked stays chunked.",
        send=chunked(),
        sees=passes(method="POST", body=b"hello", framing="chunked", has={"Content-Length": None}),
    ),
    Row(
        id="body-chunked-empty",
        why="Also without a chunk.",
        send=chunked(data=b"0\r\n\r\n"),
        sees=passes(method="POST", framing="chunked"),
    ),
    Row(
        id="body-chunked-get",
        why="Whatever the method.",
        send=chunked(method="GET"),
        sees=passes(body=b"hello", framing="chunked"),
    ),
    Row(
        id="body-chunked-extension",
        why="An extension has no meaning end to end (RFC 9112, 7.1.1).",
        send=chunked(data=b"5;x=y\r\nhello\r\n0\r\n\r\n"),
        sees=passes(method="POST", body=b"hello", framing="chunked"),
    ),
    Row(
        id="body-chunked-at-once",
        why="Each chunk goes on when it comes: logs are pushed like that.",
        send=(chunked(data=b"5\r\nfirst\r\n"), Arrived(1, 5), b"6\r\nsecond\r\n0\r\n\r\n"),
        sees=passes(method="POST", body=b"firstsecond"),
    ),
    Row(
        id="body-trailers",
        why="Announced trailers go along: checksums of uploads.",
        send=chunked("Trailer: X-Sum", data=b"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"),
        sees=passes(method="POST", body=b"hello", has={"Trailer": "X-Sum"}),
        kproxy=Sees(
            answers=(Answer(body=BODY),),
            requests=(
                Forwarded(
                    method="POST", body=b"hello", trailers=(("X-Sum", "42"),), has={"Trailer": "X-Sum"}
                ),
            ),
        ),
        differs=differs.UPLOAD_TRAILERS,
    ),
    Row(
        id="expect-continue",
        why="curl -T waits for it; an API server that says nothing must not stop it.",
        send=(
            request("POST", "/api", "Expect: 100-continue", "Content-Length: 5"),
            Arrived(1),
            Do.READ_100,
            b"hello",
        ),
        sees=Sees(
            answers=(Answer(body=BODY, interim=(100,)),),
            requests=(Forwarded(method="POST", body=b"hello", has={"Expect": "100-continue"}),),
        ),
    ),
    Row(
        id="expect-without-body",
        why="Nothing to wait for.",
        send=get("/api", "Expect: 100-continue"),
        sees=passes(has={"Expect": "100-continue"}),
    ),
    Row(
        id="expect-other",
        why="Only the API server can say what it cannot meet (RFC 9110, 10.1.1).",
        send=post("/api", "Expect: tea"),
        sees=refused(417, end="closed"),
        kproxy=passes(method="POST", body=b"{}", has={"Expect": "tea"}),
        differs=differs.EXPECTATION,
    ),
    Row(
        id="upload-refused-early",
        why="The answer is delivered though the body still comes, then the connection ends.",
        send=(request("POST", "/api", f"Content-Length: {len(BIG)}"), Arrived(1), BIG),
        sees=Sees(
            answers=(Answer(status=413, body=b"too big"),),
            requests=(Forwarded(method="POST", body=None, is_cut=True),),
            end="closed",
        ),
        upstream=(
            script(
                head(413, [("Connection", "close"), ("Content-Length", "7")]) + b"too big",
                Step.SHUT_WRITE,
                Step.WAIT_FOR_END,
                early=True,
            ),
        ),
    ),
    Row(
        id="upload-client-gone",
        why="What came must not look complete to the API server.",
        send=(chunked(data=b"4\r\nhalf\r\n"), Arrived(1, 4), Do.RESET, Do.UPSTREAM_ENDED),
        sees=cut_upload(b"half", "chunked"),
    ),
    Row(
        id="upload-client-gone-length",
        why="The same with a length.",
        send=(
            request("POST", "/api", "Content-Length: 100"),
            b"half",
            Arrived(1, 4),
            Do.RESET,
            Do.UPSTREAM_ENDED,
        ),
        sees=cut_upload(b"half", "length"),
    ),
    Row(
        id="upload-refused-here",
        why="The body of a refused request is no request: it is read and thrown away.",
        send=post(EXEC, body=b"GET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        sees=refused(),
    ),
    Row(
        id="upload-refused-here-long",
        why="A long one is not read: the connection ends.",
        send=post(EXEC, body=b"x" * 400_000),
        sees=refused(end="closed"),
        upstream=(OK,),
    ),
    Row(
        id="upload-then-get",
        why="A GET's body is no request either.",
        send=(
            request("GET", "/api/1", body=b"GET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Do.READ,
            get("/api/2"),
        ),
        sees=Sees(
            answers=(Answer(body=b"1"), Answer(body=b"2")),
            requests=(Forwarded(target="/api/1", body=None), Forwarded(target="/api/2")),
        ),
        upstream=(answer(b"1"), answer(b"2")),
    ),
]

"""Connections: keep-alive, pipelining, HTTP/1.0, half-closes, connections of the API server that died."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import (
    BODY,
    EXEC,
    Answer,
    Arrived,
    Body,
    Do,
    Forwarded,
    Gate,
    Row,
    Sees,
    answered,
    get,
    post,
    request,
)
from tests.support.answers import Step, answer, chunk, chunked, head, script

JSON = ("Content-Type", "application/json")
CHUNKED = ("Transfer-Encoding", "chunked")
numbered = tuple(answer(str(number).encode()) for number in range(1, 21))


def each(*targets: str) -> tuple[Forwarded, ...]:
    return tuple(Forwarded(target=target) for target in targets)


def one_after_another(id: str, why: str, *sent: bytes, sees: Sees) -> Row:  # noqa: A002  # as the field is called
    steps = [step for data in sent for step in (data, Do.READ)]
    return Row(id=f"connection-{id}", why=why, send=tuple(steps), sees=sees, upstream=numbered)


ONE, TWO, THREE = (Answer(body=body) for body in (b"1", b"2", b"3"))
gate = Gate()

ROWS = [
    one_after_another(
        "kept",
        "Connections stay open, for more requests.",
        get("/api/1"),
        get("/api/2"),
        get("/api/3"),
        sees=Sees(answers=(ONE, TWO, THREE), requests=each("/api/1", "/api/2", "/api/3")),
    ),
    Row(
        id="connection-pipelined",
        why="Answered in order.",
        send=get("/api/1") + get("/api/2") + get("/api/3"),
        sees=Sees(answers=(ONE, TWO, THREE), requests=each("/api/1", "/api/2", "/api/3")),
        upstream=numbered,
    ),
    Row(
        id="connection-pipelined-20",
        why="Also twenty of them.",
        send=b"".join(get(f"/api/{number}") for number in range(1, 21)),
        sees=Sees(
            answers=tuple(Answer(body=str(number).encode()) for number in range(1, 21)),
            requests=each(*(f"/api/{number}" for number in range(1, 21))),
        ),
        upstream=numbered,
    ),
    Row(
        id="connection-pipelined-post",
        why="A body ends where its length says.",
        send=post("/api/1", body=b"12345") + get("/api/2"),
        sees=Sees(
            answers=(ONE, TWO),
            requests=(Forwarded(target="/api/1", method="POST", body=b"12345"), Forwarded(target="/api/2")),
        ),
        upstream=numbered,
    ),
    Row(
        id="connection-pipelined-head",
        why="An answer to HEAD has no body to wait for.",
        send=request("HEAD", "/api/1") + get("/api/2"),
        sees=Sees(
            answers=(Answer(to="HEAD", has={"Content-Length": "1"}), TWO),
            requests=(Forwarded(target="/api/1", method="HEAD"), Forwarded(target="/api/2")),
        ),
        upstream=numbered,
    ),
    Row(
        id="connection-pipelined-refusal",
        why="A refusal in the middle keeps its place.",
        send=get("/api/1") + get(EXEC) + get("/api/2"),
        sees=Sees(answers=(ONE, Answer(status=403), TWO), requests=each("/api/1", "/api/2")),
        upstream=numbered,
    ),
    Row(
        id="connection-pipelined-evil-host",
        why="So does one of the host filter.",
        send=get("/api/1") + get("/api", host="evil.com") + get("/api/2"),
        sees=Sees(answers=(ONE, Answer(status=403), TWO), requests=each("/api/1", "/api/2")),
        upstream=numbered,
    ),
    Row(
        id="connection-pipelined-garbage",
        why="What came before is answered; nothing after it can be.",
        send=get("/api/1") + b"NONSENSE\r\n\r\n" + get("/api/2"),
        sees=Sees(answers=(ONE, Answer(status=400)), requests=each("/api/1"), end="closed"),
        upstream=numbered,
    ),
    one_after_another(
        "after-refusal",
        "A refusal is no reason to start anew.",
        get(EXEC),
        get("/api/1"),
        sees=Sees(answers=(Answer(status=403), ONE), requests=each("/api/1")),
    ),
    one_after_another(
        "after-refused-upload",
        "The body of a refused request is read and thrown away.",
        post(EXEC, body=b"x" * 1000),
        get("/api/1"),
        sees=Sees(answers=(Answer(status=403), ONE), requests=each("/api/1")),
    ),
    Row(
        id="connection-after-304",
        why="An answer without a body ends with its head.",
        send=(get("/api/1"), Do.READ, get("/api/2")),
        sees=Sees(answers=(Answer(status=304), ONE), requests=each("/api/1", "/api/2")),
        upstream=(script(head(304)), answer(b"1")),
    ),
    Row(
        id="connection-after-upstream-close",
        why="The API server may close its own.",
        send=(get("/api/1"), Do.READ, get("/api/2")),
        sees=Sees(answers=(ONE, TWO), requests=each("/api/1", "/api/2")),
        upstream=(
            script(head(200, [JSON, ("Connection", "close"), ("Content-Length", "1")]) + b"1", Step.CLOSE),
            answer(b"2"),
        ),
    ),
    Row(
        id="connection-close",
        why="A client that says so is let go, and told.",
        send=get("/api", "Connection: close"),
        sees=answered(Answer(body=BODY, has={"Connection": "close"}), end="closed", has={"Connection": None}),
    ),
    Row(
        id="connection-close-pipelined",
        why="What comes after it is not answered.",
        send=get("/api/1", "Connection: close") + get("/api/2"),
        sees=Sees(answers=(ONE,), requests=each("/api/1"), end="closed"),
        upstream=numbered,
    ),
    Row(
        id="connection-keep-alive",
        why="Said, where it goes without saying.",
        send=get("/api", "Connection: keep-alive"),
        sees=answered(Answer(body=BODY), has={"Connection": None}),
    ),
    Row(
        id="connection-http-1.0",
        why="One request, one connection.",
        send=get("/api", version="HTTP/1.0"),
        sees=answered(Answer(body=BODY, framing="length"), end="closed"),
    ),
    Row(
        id="connection-http-1.0-pipelined",
        why="What comes after it is not answered.",
        send=get("/api/1", version="HTTP/1.0") + get("/api/2"),
        sees=Sees(answers=(ONE,), requests=each("/api/1"), end="closed"),
        upstream=numbered,
    ),
    Row(
        id="connection-http-1.0-kept",
        why="Unless it asks, and the length is known: ab does.",
        send=(
            get("/api/1", "Connection: keep-alive", version="HTTP/1.0"),
            Do.READ,
            get("/api/2", "Connection: keep-alive", version="HTTP/1.0"),
        ),
        sees=Sees(
            answers=(
                Answer(body=b"1", has={"Connection": "keep-alive"}),
                Answer(body=b"2", has={"Connection": "keep-alive"}),
            ),
            requests=each("/api/1", "/api/2"),
        ),
        upstream=numbered,
    ),
    Row(
        id="connection-http-1.0-stream",
        why="It knows no chunks: the end of the connection is the end.",
        send=get("/api", version="HTTP/1.0"),
        sees=answered(Answer(body=b"onetwo", framing="close", has={"Transfer-Encoding": None}), end="closed"),
        upstream=(chunked([b"one", b"two"]),),
    ),
    Row(
        id="connection-http-1.0-stream-cut",
        why="Only what came can be passed on.",
        send=(get("/api", version="HTTP/1.0"), Do.READ_HEAD, Body(b"half"), gate),
        sees=answered(Answer(body=b"half", framing="close"), end="either"),
        kproxy=answered(Answer(body=b"half", framing="close", is_complete=False), end="either"),
        upstream=(script(head(200, [JSON, CHUNKED]) + chunk(b"half"), gate, Step.CLOSE),),
        differs=differs.CUT_IS_RESET,
    ),
    Row(
        id="connection-http-1.0-stream-kept",
        why="Even if it asks.",
        send=get("/api", "Connection: keep-alive", version="HTTP/1.0"),
        sees=answered(Answer(body=b"onetwo", framing="close"), end="closed"),
        upstream=(chunked([b"one", b"two"]),),
    ),
    Row(
        id="connection-http-1.2",
        why="A higher minor version is answered as the one we know (RFC 9110, 2.5).",
        send=get("/api", version="HTTP/1.2"),
        sees=answered(Answer(body=BODY)),
    ),
    Row(
        id="connection-half-closed",
        why="nc -N and shell scripts still read.",
        send=(get("/api"), Arrived(1), Do.HALF_CLOSE, Do.KUBECTL_GAVE_UP, gate),
        sees=Sees(answers=(Answer(status=500),), requests=(Forwarded(is_cut=False),), end="closed"),
        kproxy=answered(Answer(body=BODY), end="closed"),
        upstream=(script(gate, head(200, [JSON, ("Content-Length", str(len(BODY)))]) + BODY),),
        differs=differs.HALF_CLOSE,
    ),
    Row(
        id="connection-died-idle",
        why="The API server closes idle connections; the client must not notice.",
        send=(get("/api/1"), Do.READ, Do.CLOSE_IDLE, get("/api/2")),
        sees=Sees(answers=(ONE, TWO), requests=each("/api/1", "/api/2")),
        upstream=numbered,
    ),
    Row(
        id="connection-died-on-request",
        why="Closed when our request crossed its end: a GET is sent again, on a new one.",
        send=(get("/api/1"), Do.READ, get("/api/2")),
        sees=Sees(answers=(ONE, THREE), requests=each("/api/1", "/api/2", "/api/2")),
        upstream=(numbered[0], script(Step.CLOSE), numbered[2]),
    ),
    Row(
        id="connection-died-on-post",
        why="A POST is not: it may have been carried out.",
        send=(get("/api/1"), Do.READ, post("/api/2")),
        sees=Sees(
            answers=(ONE, Answer(status=500)),
            requests=(Forwarded(target="/api/1"), Forwarded(target="/api/2", method="POST", body=b"{}")),
        ),
        kproxy=Sees(
            answers=(ONE, Answer(status=502)),
            requests=(Forwarded(target="/api/1"), Forwarded(target="/api/2", method="POST", body=b"{}")),
        ),
        upstream=(numbered[0], script(Step.CLOSE)),
        differs=differs.FAILURE_STATUS,
    ),
    Row(
        id="connection-watch-beside",
        why="A pipelined request waits for the end of a watch before it.",
        send=(get("/api/1") + get("/api/2"), Do.READ_HEAD, Body(b"event"), gate),
        sees=Sees(answers=(Answer(body=b"event"), TWO), requests=each("/api/1", "/api/2")),
        upstream=(script(head(200, [JSON, CHUNKED]), chunk(b"event"), gate, b"0\r\n\r\n"), answer(b"2")),
    ),
]

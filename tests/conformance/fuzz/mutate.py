"""Real streams of requests and answers, and what is done to them."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass

_JSON = b'{"kind":"PodList","items":[]}'
_CHUNKED = b"Transfer-Encoding: chunked"
_EXEC = b"/api/v1/namespaces/default/pods/web-0/exec"

_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def _request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((line, b"Host: localhost", *fields)) + b"\r\n\r\n" + body


REQUESTS = (
    _request(b"GET /api/v1/pods?limit=1 HTTP/1.1", b"Accept: application/json", b"Accept-Encoding: identity"),
    _request(b"GET /api HTTP/1.1", b"User-Agent: kubectl/v1.32", b"X-Dup: a", b"X-Dup: b", b"Cookie: a=b"),
    _request(b"HEAD /healthz HTTP/1.1"),
    _request(
        b"POST /api/v1/x HTTP/1.1", b"Content-Type: text/x", b"Content-Length: 14", body=b'{"kind":"Pod"}'
    ),
    _request(b"PUT /api/v1/x HTTP/1.1", _CHUNKED, body=b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"),
    _request(b"PATCH /api HTTP/1.1", b"Trailer: X-Sum", _CHUNKED, body=b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
    _request(b"DELETE /api/v1/x HTTP/1.1", b"Content-Length: 2", body=b"{}"),
    _request(b"POST /api HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
    _request(b"GET /api HTTP/1.0", b"Connection: keep-alive"),
    _request(b"GET http://localhost/api HTTP/1.1"),
    _request(b"POST " + _EXEC + b" HTTP/1.1", b"Content-Length: %d" % len(_SMUGGLED), body=_SMUGGLED),
    _request(b"POST /api HTTP/1.1", b"Content-Length: %d" % len(_SMUGGLED), body=_SMUGGLED),
    _request(b"GET /api/v1/x HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"),
    _request(b"GET //api/../x HTTP/1.1"),
    _request(b"OPTIONS /api HTTP/1.1", b"Origin: http://localhost", b"Connection: close"),
    _request(b"GET /api HTTP/1.1", b"TE: trailers", b"Connection: TE, X-One", b"X-One: 1", b"Cookie: c"),
)


def _answer(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n" + body


_PACKED = gzip.compress(_JSON, mtime=0)
_OK = b"HTTP/1.1 200 OK"
_TWO = b"Content-Length: 2"

ANSWERS = (
    _answer(_OK, b"Content-Type: application/json", b"Content-Length: %d" % len(_JSON), body=_JSON),
    _answer(_OK, b"X-A: b", _CHUNKED, body=b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
    _answer(_OK, b"Trailer: X-Sum", _CHUNKED, body=b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
    _answer(_OK, b"Connection: close", body=b"all there is"),
    _answer(b"HTTP/1.1 204 No Content"),
    _answer(b"HTTP/1.1 304 Not Modified", b'ETag: "e"'),
    _answer(b"HTTP/1.1 103 Early Hints", b"Link: </a>") + _answer(_OK, _TWO, body=b"{}"),
    _answer(b"HTTP/1.1 100 Continue") + _answer(b"HTTP/1.1 201 Created", _TWO, body=b"{}"),
    _answer(b"HTTP/1.1 401 Unauthorized", b"WWW-Authenticate: Basic", b"Content-Length: 4", body=b"sick"),
    _answer(b"HTTP/1.0 200 OK", b"Content-Length: 3", body=b"old"),
    _answer(_OK, b"Content-Encoding: gzip", b"Content-Length: %d" % len(_PACKED), body=_PACKED),
    _answer(b"HTTP/1.1 429 Too Many Requests", b"Retry-After: 1", b"Set-Cookie: a", b"Content-Length: 0"),
)

SWITCH = _answer(
    b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket", body=b"welcome"
)

_WORDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\r\n ",
    b"\r\n\r\n",
    b"\x7f",
    b"\xff",
    b"\x0b",
    b";",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length:99999\r\n",
    b"Content-Length: +1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\tchunked \r\n",
    b"transfer-encoding: chunked, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"0\r\n\r\n",
    b"1\r\nx\r\n",
    b"Host: evil.example\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Host\r\n",
    b"Connection: Content-Length, Transfer-Encoding\r\n",
    b"Connection: Upgrade\r\nUpgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Trailer: Host\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/1.1",
    b"chunked",
    b"HEAD",
    b"ffffffffffffffff",
    b"-1",
    b"0x10",
    b"%2e%2e/",
    b"%00",
    b"//",
    b"/../",
    b"%zz",
    b"http://localhost",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"Authorization: Bearer x\r\n",
    b"X-Forwarded-For: 1\r\n",
    b"Impersonate-User: x\r\n",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client sends, what the API server answers to one request after the other, and in what pieces."""

    sent: bytes
    cuts: tuple[int, ...]
    answers: tuple[bytes, ...]
    answer_cuts: tuple[tuple[int, ...], ...]
    answers_early: bool
    resets: bool
    """The API server ends with RST, not FIN, where it must end."""


def plan(seed: str) -> Plan:
    """The same for the same seed."""
    rng = random.Random(seed)
    sent = b"".join(rng.choices(REQUESTS, k=rng.choice((1, 1, 1, 2, 2, 3, 5))))
    answers = list(rng.choices(ANSWERS, k=5))
    side = rng.random()
    if side < 0.65:
        sent = mutate(rng, sent, REQUESTS)
    if side > 0.5:
        index = rng.randrange(3)
        answers[index] = mutate(rng, answers[index], (*ANSWERS, SWITCH))
    return Plan(
        sent=sent,
        cuts=_cuts(rng, len(sent)),
        answers=tuple(answers),
        answer_cuts=tuple(_cuts(rng, len(each)) for each in answers),
        answers_early=rng.random() < 0.05,
        resets=rng.random() < 0.3,
    )


def mutate(rng: random.Random, data: bytes, others: tuple[bytes, ...]) -> bytes:
    """One to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if rng.random() < 0.1:
            data = splice(rng, data, rng.choice(others))
        else:
            data = rng.choice(_CHANGES)(rng, data)
    return data


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _flip(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def _delete(rng: random.Random, data: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + data[place + rng.choice((1, 1, 2, 4, 16, 200)) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.choice(_WORDS) + data[place:]


def _insert_line(rng: random.Random, data: bytes) -> bytes:
    ends = [place + 2 for place in range(len(data)) if data.startswith(b"\r\n", place)]
    place = rng.choice(ends) if ends else 0
    return data[:place] + rng.choice(_WORDS) + data[place:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randint(0, len(data))
    part = data[start : start + rng.choice((1, 2, 8, 40))]
    return data[:start] + part * rng.choice((2, 2, 3, 10, 300)) + data[start:]


def _grow(rng: random.Random, data: bytes) -> bytes:
    if rng.random() > 0.05:
        return _repeat(rng, data)
    place = rng.randint(0, len(data))
    return (
        data[:place] + bytes([rng.choice(b"a0 \r\n:")]) * rng.choice((5_000, 70_000, 300_000)) + data[place:]
    )


def _swap_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\r\n".join(lines)


def _number(rng: random.Random, data: bytes) -> bytes:
    digits = [place for place, byte in enumerate(data) if byte in b"0123456789"]
    if not digits:
        return data
    place = rng.choice(digits)
    return data[:place] + rng.choice((b"0", b"1", b"9", b"", b"10", b"a", b"00", b"-")) + data[place + 1 :]


def _case(rng: random.Random, data: bytes) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start : start + 20].swapcase() + data[start + 20 :]


def _cut_off(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip,
    _delete,
    _insert,
    _insert,
    _insert_line,
    _insert_line,
    _repeat,
    _grow,
    _swap_lines,
    _number,
    _case,
    _cut_off,
)


def _cuts(rng: random.Random, size: int) -> tuple[int, ...]:
    """Where the stream is cut into writes."""
    if rng.random() < 0.4 or size < 2:
        return ()
    return tuple(sorted({rng.randrange(1, size) for _ in range(rng.choice((1, 2, 3, 6, 20)))}))


def pieces(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    return [data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)]

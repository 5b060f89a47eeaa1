"""Compares what was seen with what a row wants; every difference is one line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

from tests.conformance.parity.model import Answer, Fields, Forwarded, Sees
from tests.conformance.parity.world import Served
from tests.support import http1
from tests.support.client import Response
from tests.support.upstream import ByteUpstream, Request

SECONDS = 60.0
MARKER = "/still-there"


def judge_answers(wanted: Sequence[Answer], found: Sequence[Response], served: Served) -> list[str]:
    problems = []
    if len(wanted) != len(found):
        problems.append(f"{len(found)} answer(s), not {len(wanted)}: {[each.status for each in found]}")
    for number, (want, have) in enumerate(zip(wanted, found, strict=False), 1):
        problems += [f"answer {number}: {text}" for text in _judge_answer(want, have, served)]
    return problems


def _judge_answer(want: Answer, have: Response, served: Served) -> Iterator[str]:
    statuses = (want.status,) if isinstance(want.status, int) else want.status
    if have.status not in statuses:
        yield f"status {have.status}, not {want.status}: {have.text[:200]!r}"
    if want.reason is not None and have.reason != want.reason:
        yield f"reason {have.reason!r}, not {want.reason!r}"
    data = bytes(have.body.data)
    if want.body is not None and data != want.body:
        yield f"body {data[:200]!r} ({len(data)} bytes), not {want.body[:200]!r}"
    if want.contains not in data:
        yield f"no {want.contains!r} in {data[:400]!r}"
    if want.framing is not None and have.framing != want.framing:
        yield f"framing {have.framing}, not {want.framing}"
    if have.framing != "tunnel" and have.body.is_complete != want.is_complete:
        yield f"complete: {have.body.is_complete}, not {want.is_complete}"
    if tuple(have.body.trailers) != want.trailers:
        yield f"trailers {have.body.trailers}, not {want.trailers}"
    interim = tuple(int(head.start_line.split(" ")[1]) for head in have.interim)
    if interim != want.interim:
        yield f"interim answers {interim}, not {want.interim}"
    yield from _judge_fields(want.has, want.spelled, have.head, served)
    yield from http1.oddities(have.head)


def _judge_fields(wanted: Fields, spelled: Sequence[str], head: http1.Head, served: Served) -> Iterator[str]:
    for name, value in wanted.items():
        if isinstance(value, re.Pattern):
            if not value.fullmatch("\n".join(head.values(name))):
                yield f"{name}: {head.values(name)}, not {value.pattern}"
            continue
        values = () if value is None else (value,) if isinstance(value, str) else value
        expected = [served.fill_in(each) for each in values]
        if head.values(name) != expected:
            yield f"{name}: {head.values(name)}, not {expected}"
    names = [name for name, _ in head.headers]
    yield from (f"no {name!r} in that spelling among {names}" for name in spelled if name not in names)


async def judge_requests(sees: Sees, served: Served, upstream: ByteUpstream) -> list[str]:
    requests = [each for each in upstream.requests if not each.target.endswith(MARKER)]
    problems = []
    lines = [each.head.start_line for each in requests]
    if len(requests) != len(sees.requests):
        problems.append(f"forwarded {len(requests)} request(s), not {len(sees.requests)}: {lines}")
    for want, have in zip(sees.requests, requests, strict=False):
        try:
            async with asyncio.timeout(SECONDS):
                if want.is_cut:
                    await have.connection.ended.wait()
        except TimeoutError:
            problems.append(f"{have.target}: the upstream request goes on")
        problems += [f"{have.target}: {text}" for text in _judge_request(want, have, served)]
        if sees.certificate is not None and have.connection.client_certificate_cn != sees.certificate:
            problems.append(f"client certificate of {have.connection.client_certificate_cn}")
    return problems


def _judge_request(want: Forwarded, have: Request, served: Served) -> Iterator[str]:
    line = served.fill_in(f"{want.method} {want.target} HTTP/1.1")
    if have.head.start_line != line:
        yield f"request line {have.head.start_line[:300]!r}, not {line[:300]!r}"
    defaults: Fields = {
        "Authorization": "Bearer @TOKEN@",
        "Host": "@UPSTREAM@",
        "X-Forwarded-For": None if served.is_unix else "127.0.0.1",
    }
    named = {name.lower() for name in want.has}
    fields = {name: value for name, value in defaults.items() if name.lower() not in named} | dict(want.has)
    yield from _judge_fields(fields, want.spelled, have.head, served)
    if want.framing is not None and have.framing != want.framing:
        yield f"body framed by {have.framing}, not {want.framing}"
    data = bytes(have.body.data)
    if want.body is not None and data != want.body:
        yield f"body {data[:200]!r} ({len(data)} bytes), not {want.body[:200]!r}"
    if have.body.is_complete == want.is_cut:
        yield f"body complete: {have.body.is_complete}"
    if tuple(have.body.trailers) != want.trailers:
        yield f"trailers {have.body.trailers}, not {want.trailers}"
    yield from http1.oddities(have.head)

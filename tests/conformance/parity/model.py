"""What a row of the parity table says: bytes in, the API server's part, and what both sides must see."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.answers import answer
from tests.support.upstream import Connection, Request, Responder

BODY = b'{"kind":"PodList","apiVersion":"v1","items":[]}'
OK = answer(BODY)

EXEC = "/api/v1/namespaces/default/pods/web-0/exec"

Values = str | tuple[str, ...] | re.Pattern[str] | None
"""The value of a header field or a pattern for it, the values of one that is repeated, None for absent."""

Fields = Mapping[str, Values]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the client gets. None in any place: it does not matter here."""

    status: int | tuple[int, ...] = 200
    """Or any of several."""
    reason: str | None = None
    body: bytes | None = None
    contains: bytes = b""
    has: Fields = field(default_factory=dict)
    spelled: tuple[str, ...] = ()
    """Header names that must be there in this spelling."""
    framing: str | None = None
    """"length", "chunked", "close" (its end is the connection's), "none" (no body by rule), "tunnel"."""
    trailers: tuple[tuple[str, str], ...] = ()
    interim: tuple[int, ...] = ()
    is_complete: bool = True
    to: str = "GET"
    """The method of the request: an answer to HEAD has no body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarded:
    """What the API server gets; credential, Host and X-Forwarded-For are checked unless `has` names them."""

    target: str = "/api"
    method: str = "GET"
    has: Fields = field(default_factory=dict)
    spelled: tuple[str, ...] = ()
    body: bytes | None = b""
    framing: str | None = None
    """"length", "chunked" or "none"."""
    trailers: tuple[tuple[str, str], ...] = ()
    is_cut: bool = False
    """The body never ended: the connection did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sees:
    """All that can be observed of one conversation. `end` is how the client's connection is afterwards."""

    answers: tuple[Answer, ...] = ()
    requests: tuple[Forwarded, ...] = ()
    end: str = "open"
    """"open" (another request is answered), "closed", or "either"."""
    tunnel: bytes = b""
    """What comes through the tunnel at last."""
    certificate: str | None = None
    """Common name of the client certificate that the API server was shown."""


class Do(enum.Enum):
    """A step of the client besides sending bytes."""

    READ = "read one answer to its end"
    READ_HEAD = "read one head, and leave its body"
    READ_100 = "read one interim head"
    READ_101 = "read the head of the 101"
    HALF_CLOSE = "end our direction"
    RESET = "close with RST: the client is gone"
    UPSTREAM_ENDED = "wait until the API server's connection of the first request has ended"
    KUBECTL_GAVE_UP = "the same, where kubectl ends it and kproxy goes on"
    CLOSE_IDLE = "let the API server close its idle connections"


@dataclass(frozen=True, slots=True)
class Body:
    """Read on until the body of the answer at hand has these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Read exactly these bytes of a tunnel."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """Wait until the API server has this many heads, and this many bytes of the last one's body."""

    requests: int = 1
    body_bytes: int = 0


class Gate:
    """What the API server waits for and the client opens: order without pauses."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def close(self) -> None:
        """Before each run: an event belongs to the loop that first waited for it."""
        self._event = asyncio.Event()

    def open(self) -> None:
        self._event.set()

    async def __call__(self, connection: Connection, request: Request) -> None:
        """As a step of a script: wait for the client, or for the end of the connection."""
        waits = [asyncio.ensure_future(self._event.wait()), asyncio.ensure_future(connection.ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


Step = bytes | Do | Body | Tunnel | Arrived | Gate
"""A Gate is opened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One behaviour. `kproxy` is what ours does instead, for the reason that `differs` names."""

    id: str
    why: str
    send: bytes | tuple[Step, ...]
    sees: Sees
    upstream: tuple[Responder, ...] = (OK,)
    """For the first request, the second, and so on; the last one for all that follow."""
    flags: tuple[str, ...] = ()
    cluster: str = "token"
    """Which kubeconfig: see World.kubeconfig."""
    kproxy: Sees | None = None
    differs: str = ""
    """A key of differences.DIFFERENCES, which the README's table has too."""

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class CliRow:
    """A command line: whether the program then serves, or how it fails."""

    id: str
    why: str
    args: tuple[str, ...]
    serves: bool = True
    stdout: str = ""
    """Regular expressions that are searched in the output."""
    stderr: str = ""
    prepare: str = ""
    """"stale-socket" or "file" at the place of the socket."""
    kproxy_stderr: str | None = None
    kproxy_serves: bool | None = None
    cluster: str = "token"
    differs: str = ""

    def __str__(self) -> str:
        return self.id


def request(
    method: str,
    target: str,
    *lines: str,
    body: bytes | None = None,
    host: str | None = "localhost",
    version: str = "HTTP/1.1",
) -> bytes:
    """A request; `lines` are header lines as they go over the wire. A body gets its Content-Length."""
    head = [f"{method} {target} {version}", *([f"Host: {host}"] if host is not None else []), *lines]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + (body or b"")


def get(target: str, *lines: str, host: str | None = "localhost", version: str = "HTTP/1.1") -> bytes:
    return request("GET", target, *lines, host=host, version=version)


def post(target: str, *lines: str, body: bytes = b"{}", host: str | None = "localhost") -> bytes:
    return request("POST", target, *lines, body=body, host=host)


def passes(
    target: str = "/api",
    method: str = "GET",
    *,
    has: Fields | None = None,
    spelled: tuple[str, ...] = (),
    body: bytes = b"",
    framing: str | None = None,
    end: str = "open",
) -> Sees:
    """The request is forwarded as `target`, with `has` among its fields, and the answer comes back."""
    return Sees(
        answers=(Answer(body=b"" if method == "HEAD" else BODY, to=method),),
        requests=(
            Forwarded(
                target=target, method=method, has=has or {}, spelled=spelled, body=body, framing=framing
            ),
        ),
        end=end,
    )


def answered(*answers: Answer, end: str = "open", **request: object) -> Sees:
    """One plain GET of /api is forwarded and answered so; `request` are fields of Forwarded."""
    return Sees(answers=answers, requests=(Forwarded(**request),), end=end)  # type: ignore[arg-type]


def refused(
    status: int | tuple[int, ...] = 403,
    *,
    end: str = "open",
    has: Fields | None = None,
    body: bytes | None = None,
    contains: bytes = b"",
    to: str = "GET",
) -> Sees:
    """Answered without a word to the API server."""
    return Sees(answers=(Answer(status=status, has=has or {}, body=body, contains=contains, to=to),), end=end)


def malformed(status: int | tuple[int, ...] = 400) -> Sees:
    """Refused, and the connection ends: nothing behind it can be trusted."""
    return refused(status, end="closed")

"""One request: who asks and what each may do, and how bytes come and go as with a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import yaml
from aiohttp import HttpVersion11, web

from kproxy.demo import protobuf
from kproxy.demo.kinds import Kind, YamlLoader
from kproxy.demo.objects import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Target
from kproxy.demo.status import ApiError, bad_request, details_of, forbidden, unsupported_media_type
from kproxy.demo.store import Json
from kproxy.demo.views import JSON, View, choose_view

ANONYMOUS = "system:anonymous"
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version")  # as system:public-info-viewer has it
_EVERYBODY = "system:authenticated"


class User(NamedTuple):
    name: str
    groups: tuple[str, ...] = ()


def authenticate(request: web.BaseRequest) -> User:
    """Raises ApiError 401 for credentials that are none here: only client certificates are known."""
    certificate: dict[str, Any] | None = request.get_extra_info("peercert")
    if certificate:
        subject = [pair for (pair,) in certificate["subject"]]
        (name,) = (text for kind, text in subject if kind == "commonName")
        groups = tuple(text for kind, text in subject if kind == "organizationName")
        user = User(name=name, groups=(*groups, _EVERYBODY))
    elif "Authorization" in request.headers:
        raise ApiError(401, "Unauthorized", "Unauthorized")
    else:
        user = User(name=ANONYMOUS, groups=("system:unauthenticated",))
    if not any(header.lower().startswith("impersonate-") for header in request.headers):
        return user
    name = request.headers.get("Impersonate-User", "")
    if not name:
        raise bad_request("requested to impersonate without naming a user")
    if user.name == ANONYMOUS:
        message = f'users "{name}" is forbidden: User "{ANONYMOUS}" cannot impersonate resource "users"'
        raise forbidden(message, {"name": name, "kind": "users"})
    return User(name=name, groups=(*request.headers.getall("Impersonate-Group", ()), _EVERYBODY))


def may_see_path(user: User, path: str) -> None:
    """Raises ApiError 403 for a path that is no resource's and that the user may not see."""
    if user.name == ANONYMOUS and path.rstrip("/") not in PUBLIC_PATHS:
        raise forbidden(f'forbidden: User "{ANONYMOUS}" cannot get path "{path}"', {})


def may(user: User, verb: str, target: Target) -> None:
    """Raises ApiError 403. There is one rule: nobody in particular may do nothing, all others anything."""
    if user.name == ANONYMOUS:
        kind = target.kind
        named = f'{kind.resource} "{target.name}"' if target.name else kind.resource
        where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
        what = "/".join(filter(None, (kind.plural, target.subresource)))
        who = f'User "{ANONYMOUS}" cannot {verb} resource "{what}" in API group "{kind.group}"'
        raise forbidden(f"{named} is forbidden: {who} {where}", details_of(kind, target.name))


def review(kind: Kind, body: Any, user: User) -> Json:
    """The answer to a SelfSubjectAccessReview, SelfSubjectRulesReview or SelfSubjectReview."""
    if not isinstance(body, dict) or body.get("kind", kind.kind) != kind.kind:
        raise bad_request(f"the body of the request must be a {kind.kind}")
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    statuses: dict[str, Json] = {
        "SelfSubjectAccessReview": {"allowed": True, "reason": "the demo cluster lets its users do anything"},
        "SelfSubjectRulesReview": {"resourceRules": [everything], "nonResourceRules": []},
        "SelfSubjectReview": {"userInfo": {"username": user.name, "groups": list(user.groups)}},
    }
    head = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": {"creationTimestamp": None}}
    return {**head, "spec": body.get("spec", {}), "status": statuses[kind.kind]}


# From these sizes on a real API server compresses, and Go's net/http no longer knows the length ahead.
_GZIP_BYTES = 128 * 1024
_CHUNKED_BYTES = 2048
# A real API server stops at 3 MiB; the demo cluster also serves to try big bodies.
_LIMIT_BYTES = 64 * 1024 * 1024
_YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", APPLY_PATCH)
_JSON_TYPES = (JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
# YAML as Kubernetes reads it: a date without quotes is a string, as in JSON.
_Loader: Any = type("_Loader", (YamlLoader,), {})
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in _Loader.yaml_implicit_resolvers.items()
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request, who sent it, and the headers that every answer to it has."""

    request: web.BaseRequest
    user: User
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def view(self) -> View:
        accept = ",".join(self.request.headers.getall("Accept", ()))
        return choose_view(accept, self.query, self.request.headers.get("User-Agent", ""))

    @property
    def is_dry_run(self) -> bool:
        return self.query.get("dryRun") == "All"

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters; JSON where none is given."""
        return self.request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower() or JSON


async def read_body(request: web.BaseRequest) -> bytes:
    """Asks for it first where the client waits for that. Raises ApiError 413 for one that is too long."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        # RFC 9110 section 10.1.1. aiohttp's low-level server leaves it to the handler.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces = bytearray()
    async for piece in request.content.iter_any():
        pieces += piece
        if len(pieces) > _LIMIT_BYTES:
            raise ApiError(413, "RequestEntityTooLarge", f"the limit is {_LIMIT_BYTES} bytes")
    return bytes(pieces)


def decode_body(raw: bytes, media_type: str) -> Any:
    """Raises ApiError 415 for a type nobody reads here, 400 for a body that is not what its type says."""
    try:
        if media_type == protobuf.MEDIA_TYPE:
            return protobuf.decode_protobuf(raw)
        if media_type in _YAML_TYPES:
            # What JSON cannot say (binary, sets, keys that are no strings) has no place in an object.
            loaded = yaml.load(raw, Loader=_Loader)  # noqa: S506 -- derived from the safe loader
            raw = json.dumps(loaded).encode()
        elif media_type not in _JSON_TYPES:
            raise unsupported_media_type((JSON, _YAML_TYPES[0], protobuf.MEDIA_TYPE))
        value = json.loads(raw)
        if b"NaN" in raw or b"Infinity" in raw or rb"\ud" in raw.lower():
            # These, and half a surrogate pair, Python takes and RFC 8259 does not.
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise bad_request(f"the body of the request is not {media_type}: {error}") from None
    return value


async def write(call: Call, body: bytes, *, content_type: str | None = None, code: int = 200) -> web.Response:
    """`body` as an answer, JSON unless another type is named."""
    headers = {**call.headers, "Content-Type": content_type or JSON}
    accepts_gzip = "gzip" in call.request.headers.get("Accept-Encoding", "")
    if call.request.method == "GET" and len(body) > _GZIP_BYTES and accepts_gzip:
        # In a thread: 20 MB take a third of a second, and a proxy may share this event loop.
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    if len(body) <= _CHUNKED_BYTES:
        return web.Response(body=body, status=code, headers=headers)
    response = web.Response(body=io.BytesIO(body), status=code, headers=headers)
    response.enable_chunked_encoding()
    return response


async def stream(call: Call, content_type: str, pieces: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send the head at once, and each piece as it comes."""
    response = web.StreamResponse(headers={**call.headers, "Content-Type": content_type})
    await response.prepare(call.request)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            await response.write(piece)
    await response.write_eof()
    return response


async def refuse(call: Call, error: ApiError) -> web.Response:
    """The error as a Status, in JSON, as the media type may be the error."""
    view = View(pretty=call.request.headers.get("User-Agent", "").startswith("curl"))
    return await write(call, view.write_value(error.status), code=error.code)


async def until_left(receive: Awaitable[None], work: Awaitable[T]) -> T | None:
    """The result of `work`, or None when `receive`, which reads from the client, ended before it."""
    reader, worker = asyncio.ensure_future(receive), asyncio.ensure_future(work)
    try:
        await asyncio.wait((reader, worker), return_when=asyncio.FIRST_COMPLETED)
        return worker.result() if worker.done() else None
    finally:
        for task in (reader, worker):
            task.cancel()
        await asyncio.gather(reader, worker, return_exceptions=True)

"""The HTTP face of the demo cluster: who asks for what, and which answer that gets."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import uuid
from urllib.parse import unquote

from aiohttp import web

from kproxy.demo import answers
from kproxy.demo.answers import Call, read_body, review, stream, write
from kproxy.demo.kinds import Kind, Registry
from kproxy.demo.objects import Objects, Target, shown
from kproxy.demo.pages import answer_page
from kproxy.demo.pods import Log, Remote
from kproxy.demo.queries import is_true, list_page
from kproxy.demo.status import ApiError, bad_request, details_of, method_not_allowed, unsupported_media_type
from kproxy.demo.store import Store
from kproxy.demo.views import JSON
from kproxy.demo.watches import Watch

_BY_NAME = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_BY_KIND = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
# Subresources that stand for an action of their own, whatever the method.
_ACTIONS = ("exec", "attach", "portforward", "proxy", "log")


class Api:
    """Handles every request of the demo cluster (`handle` is an aiohttp low-level handler)."""

    def __init__(self, store: Store, *, bookmark_seconds: float, log_seconds: float) -> None:
        self._store = store
        self._registry = Registry(store)
        self._objects = Objects(store)
        self._bookmark_seconds = bookmark_seconds
        self._log_seconds = log_seconds

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        audit_id = request.headers.get("Audit-ID") or str(uuid.uuid4())
        headers = {"Audit-Id": audit_id, "Cache-Control": "no-cache, private", "Server": "kproxy-demo"}
        query = {name: request.query[name] for name in request.query}
        call = Call(request=request, user=answers.User(""), query=query, headers=headers)
        try:
            return await self._answer(dataclasses.replace(call, user=answers.authenticate(request)))
        except ApiError as error:
            return await answers.refuse(call, error)
        except RecursionError:
            return await answers.refuse(call, bad_request("the object is nested too deeply"))

    async def _answer(self, call: Call) -> web.StreamResponse:
        path = call.request.rel_url.raw_path
        segments = segments_of(path)
        target = resolve(self._registry, segments)
        if target is None:
            answers.may_see_path(call.user, path)
            return await answer_page(call, self._registry, segments)
        verb = verb_of(call.request.method, target, watch=is_true(call.query.get("watch")))
        if verb is None:
            raise method_not_allowed()
        answers.may(call.user, verb, target)
        if target.subresource in _ACTIONS:
            return await self._act(call, target)
        if verb == "watch":
            return await self._watch(call, target)
        if verb == "list":
            items, metadata = list_page(self._store, target.kind, target.namespace, call.query)
            return await write(call, call.view.show_list(target.kind, items, metadata))
        if verb == "get":
            return await write(call, call.view.show(target.kind, shown(target, self._objects.get(target))))
        if verb in ("delete", "deletecollection"):
            return await self._delete(call, target, await read_body(call.request))
        return await self._change(call, target, verb, await read_body(call.request))

    async def _act(self, call: Call, target: Target) -> web.StreamResponse:
        stored = self._objects.get(target)
        if target.subresource == "log":
            log = Log(self._store, stored, call.query, self._log_seconds)
            return await stream(call, "text/plain", log.pieces())
        if target.subresource == "portforward":
            message = "the demo cluster does not forward ports: nothing listens in its pods"
            raise ApiError(501, "NotImplemented", message)
        if target.subresource != "proxy":
            remote = Remote(call, target, self._store, stored, self._log_seconds)
            return await remote.serve(call.request)
        name = html.escape(f"{target.kind.singular} {target.namespace}/{target.name}")
        saw = html.escape(f"{call.request.method} /{target.rest}")
        text = (
            f"<!doctype html><title>kproxy demo</title>\n<h1>{name}</h1>\n<p>It saw <code>{saw}</code>.</p>\n"
        )
        return await write(call, text.encode(), content_type="text/html; charset=utf-8")

    async def _watch(self, call: Call, target: Target) -> web.StreamResponse:
        """As JSON lines, or, as a real API server does too, one WebSocket message an event."""
        watch = Watch(self._store, target, call.view, call.query, self._bookmark_seconds)
        if call.request.headers.get("Upgrade", "").lower() != "websocket":
            return await stream(call, JSON, watch.lines())
        socket = web.WebSocketResponse(compress=False)
        socket.headers.update(call.headers)
        await socket.prepare(call.request)

        async def send() -> None:
            async with contextlib.aclosing(watch.lines()) as pieces:
                async for piece in pieces:
                    for line in piece.splitlines(keepends=True):
                        await socket.send_str(line.decode())

        async def ignore() -> None:
            async for _ in socket:
                pass

        await answers.until_left(ignore(), send())
        await socket.close()
        return socket

    async def _change(self, call: Call, target: Target, verb: str, raw: bytes) -> web.StreamResponse:
        media_type, kind = call.media_type, target.kind
        if "patch+" in media_type and verb != "patch":
            raise unsupported_media_type((JSON, "application/yaml"))
        body = answers.decode_body(raw, media_type)
        if kind.verbs == ("create",):
            return await write(call, call.view.write_value(review(kind, body, call.user)), code=201)
        if verb == "patch":
            stored, code = self._objects.patch(target, media_type, body, call.is_dry_run)
        else:
            change = self._objects.create if verb == "create" else self._objects.update
            stored, code = change(target, body, call.is_dry_run)
        return await write(call, call.view.show(kind, shown(target, stored)), code=code)

    async def _delete(self, call: Call, target: Target, raw: bytes) -> web.StreamResponse:
        """The body is DeleteOptions, or nothing."""
        body = answers.decode_body(raw, call.media_type) if raw.strip() else {}
        if call.query.get("gracePeriodSeconds", "").isdecimal() and isinstance(body, dict):
            body = {**body, "gracePeriodSeconds": int(call.query["gracePeriodSeconds"])}
        if not target.name:
            chosen, metadata = list_page(self._store, target.kind, target.namespace, call.query)
            for namespace, name in (stored.key for stored in chosen):
                one = dataclasses.replace(target, namespace=namespace or None, name=name)
                self._objects.delete(one, body, call.is_dry_run)
            return await write(call, call.view.show_list(target.kind, chosen, metadata))
        uid = self._objects.get(target).uid
        left = self._objects.delete(target, body, call.is_dry_run)
        if left is None:
            details = {**details_of(target.kind, target.name), "uid": uid}
            answer = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
            return await write(call, call.view.write_value({**answer, "details": details}))
        return await write(call, call.view.show(target.kind, left))


def segments_of(raw_path: str) -> list[str]:
    """`/api/v1/pods/` as `api`, `v1`, `pods`; a `%2F` in a segment is part of its name."""
    return [unquote(part) for part in raw_path.strip("/").split("/")]


def resolve(registry: Registry, segments: list[str]) -> Target | None:
    """The target of a path below /api/v1 or /apis/GROUP/VERSION; None when there is no such resource."""
    match segments:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    if not rest or "" in rest[:2]:
        return None
    kinds = {kind.plural: kind for kind in registry.of(group, version)}
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
        kind = kinds.get(rest[2])
        return _below(kind, rest[1], rest[3:]) if kind is not None and kind.namespaced else None
    kind = kinds.get(rest[0])
    if kind is None or (kind.namespaced and len(rest) > 1):
        return None
    return _below(kind, None, rest[1:])


def _below(kind: Kind, namespace: str | None, rest: list[str]) -> Target | None:
    name, subresource, *more = (*rest, "", "")[: max(len(rest), 2)]
    if not subresource and len(rest) > 1:
        return None
    if (subresource and subresource not in kind.subresources) or (more and subresource != "proxy"):
        return None
    return Target(kind=kind, namespace=namespace, name=name, subresource=subresource, rest="/".join(more))


def verb_of(method: str, target: Target, *, watch: bool) -> str | None:
    """The Kubernetes verb, None for a method that has no meaning there."""
    if target.subresource in _ACTIONS:
        return "create" if method == "POST" else _BY_NAME.get(method)
    verb = _BY_NAME.get(method) if target.name else _BY_KIND.get(method)
    is_nowhere = verb == "create" and target.kind.namespaced and target.namespace is None
    if is_nowhere or (target.subresource and verb == "delete"):
        return None
    verb = "watch" if verb == "list" and watch else verb
    return verb if verb in target.kind.verbs else None

"""The HTTP face of the demo cluster: who asks for what, and which answer that gets."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from aiohttp import web

from kproxy.demo.actions import Actions, serve_watch
from kproxy.demo.answers import Call, refuse, write
from kproxy.demo.bodies import decode_body, decode_options, media_type_of, read_body
from kproxy.demo.front import answer_page
from kproxy.demo.kinds import Registry
from kproxy.demo.objects import Objects, Target, check_patch_type, shown
from kproxy.demo.paging import is_true, list_page
from kproxy.demo.routes import ACTIONS, resolve, segments_of, verb_of
from kproxy.demo.selectors import Selection, parse_selection
from kproxy.demo.status import ApiError, bad_request, method_not_allowed, success, unsupported_media_type
from kproxy.demo.store import Store
from kproxy.demo.users import User, authenticate, may, may_see_path, review
from kproxy.demo.views import JSON, YAML
from kproxy.demo.watches import Watch


class Api:
    """Handles every request of the demo cluster (`handle` is an aiohttp low-level handler)."""

    def __init__(self, store: Store, *, bookmark_seconds: float, log_seconds: float) -> None:
        self._store = store
        self._registry = Registry(store)
        self._objects = Objects(store)
        self._actions = Actions(store, log_seconds=log_seconds)
        self._bookmark_seconds = bookmark_seconds

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {
            "Audit-Id": request.headers.get("Audit-ID") or str(uuid.uuid4()),
            "Cache-Control": "no-cache, private",
            "Server": "kproxy-demo",
        }
        query = {name: request.query[name] for name in request.query}
        call = Call(request=request, user=User(name=""), query=query, headers=headers)
        try:
            return await self._answer(dataclasses.replace(call, user=authenticate(request)))
        except ApiError as error:
            return await refuse(call, error)
        except RecursionError:
            return await refuse(call, bad_request("the object is nested too deeply"))

    async def _answer(self, call: Call) -> web.StreamResponse:
        path = call.request.rel_url.raw_path
        segments = segments_of(path)
        target = resolve(self._registry, segments)
        if target is None:
            may_see_path(call.user, path)
            return await answer_page(call, self._registry, segments)
        method = call.request.method
        verb = verb_of(method, target, watch=is_true(call.query.get("watch")))
        if verb is None:
            raise method_not_allowed()
        may(call.user, verb, target)
        if target.subresource in ACTIONS:
            return await self._actions.act(call, target, self._objects.get(target))
        if verb in ("list", "watch", "deletecollection"):
            return await self._on_collection(call, target, verb)
        if verb == "get":
            return await write(call, call.view.show(target.kind, shown(target, self._objects.get(target))))
        raw = await read_body(call.request)
        if verb == "delete":
            return await self._delete(call, target, decode_options(raw, media_type_of(call.request)))
        return await self._change(call, target, verb, raw)

    async def _on_collection(self, call: Call, target: Target, verb: str) -> web.StreamResponse:
        query, kind = call.query, target.kind
        selection = parse_selection(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if verb == "watch":
            return await self._watch(call, target, selection)
        if verb == "list":
            items, metadata = list_page(self._store, kind, target.namespace, selection, query)
            return await write(call, call.view.show_list(kind, items, metadata))
        body = decode_options(await read_body(call.request), media_type_of(call.request))
        deleted = self._objects.delete_collection(target, selection, body, call.options)
        metadata = {"resourceVersion": str(self._store.version)}
        return await write(call, call.view.show_list(kind, deleted, metadata))

    async def _watch(self, call: Call, target: Target, selection: Selection) -> web.StreamResponse:
        watch = Watch(
            self._store,
            target.kind,
            target.namespace,
            selection,
            dataclasses.replace(call.view, media_type=JSON),
            call.query,
            self._bookmark_seconds,
        )
        return await serve_watch(call, watch)

    async def _change(self, call: Call, target: Target, verb: str, raw: bytes) -> web.StreamResponse:
        media_type = media_type_of(call.request)
        view, options = call.view, call.options
        if verb == "patch":
            check_patch_type(target.kind, media_type)
            written = self._objects.patch(target, media_type, decode_body(raw, media_type), options)
        else:
            if "patch+" in media_type:
                raise unsupported_media_type((JSON, YAML))
            body = decode_body(raw, media_type)
            if target.kind.verbs == ("create",):
                return await write(call, view.write_value(review(target.kind, body, call.user)), code=201)
            change = self._objects.create if verb == "create" else self._objects.update
            written = change(target, body, options)
        if written.warning:
            quoted = written.warning.replace("\\", "\\\\").replace('"', '\\"')
            call.headers["Warning"] = f'299 - "{quoted}"'
        return await write(call, view.show(target.kind, shown(target, written.stored)), code=written.code)

    async def _delete(self, call: Call, target: Target, body: Any) -> web.StreamResponse:
        if call.query.get("gracePeriodSeconds", "").isdecimal():
            given = body if isinstance(body, dict) else {}
            body = {**given, "gracePeriodSeconds": int(call.query["gracePeriodSeconds"])}
        view = call.view
        uid = self._objects.get(target).value["metadata"]["uid"]
        left = self._objects.delete(target, body, call.options)
        if left is None:
            answer = success(target.kind, target.name, uid)
            return await write(call, dataclasses.replace(view, is_table=False).write_value(answer))
        return await write(call, view.show(target.kind, left))

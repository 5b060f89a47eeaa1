"""The pages of the server itself: discovery, health, version, OpenAPI."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from kproxy.demo import discovery, openapi
from kproxy.demo.answers import Call, write
from kproxy.demo.kinds import Json, Registry
from kproxy.demo.status import method_not_allowed
from kproxy.demo.views import accepted

_TEXT = "text/plain; charset=utf-8"


async def answer_page(call: Call, registry: Registry, segments: list[str]) -> web.StreamResponse:
    """Whatever is no resource; 404 in plain text, as Go's, for what is not there at all."""
    if segments in (["healthz"], ["livez"], ["readyz"]):
        verbose = f"[+]ping ok\n[+]demo ok\n{segments[0]} check passed\n"
        text = verbose if "verbose" in call.query else "ok"
        return await write(call, text.encode(), content_type=_TEXT)
    page = _page(call, registry, segments)
    if page is None:
        return await write(call, b"404 page not found\n", content_type=_TEXT, code=404)
    if call.request.method != "GET":
        raise method_not_allowed()
    wanted = next((name for name, _ in accepted(call.request.headers.get("Accept", ""))), None)
    if segments == ["openapi", "v2"] and wanted in openapi.V2_PROTOBUF_ASKED:
        return await write(call, openapi.v2_protobuf(), content_type=openapi.V2_PROTOBUF)
    return await write(call, dataclasses.replace(call.view, is_table=False).write_value(page))


def _page(call: Call, registry: Registry, segments: list[str]) -> Json | None:
    match segments:
        case [""]:
            return discovery.paths(registry)
        case ["version"]:
            return discovery.version()
        case ["api"]:
            return discovery.core_versions(call.request.host)
        case ["apis"]:
            return discovery.group_list(registry)
        case ["apis", group]:
            return discovery.group(registry, group)
        case ["api", version]:
            return discovery.resource_list(registry, "", version)
        case ["apis", group, version]:
            return discovery.resource_list(registry, group, version)
        case ["openapi", "v2"]:
            return openapi.v2()
        case ["openapi", "v3"]:
            return openapi.v3_index(registry)
        case ["openapi", "v3", "api", version]:
            return openapi.v3(registry, "", version)
        case ["openapi", "v3", "apis", group, version]:
            return openapi.v3(registry, group, version)
    return None

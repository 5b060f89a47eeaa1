"""The pages of the server itself: discovery, health, version, OpenAPI."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from kproxy.demo import discovery, openapi
from kproxy.demo.answers import Call, write
from kproxy.demo.kinds import Json, Registry
from kproxy.demo.status import method_not_allowed
from kproxy.demo.views import JSON, View, parse_accept

_TEXT = "text/plain; charset=utf-8"
_AGGREGATED = "apidiscovery.k8s.io"


async def answer_page(call: Call, registry: Registry, segments: list[str]) -> web.StreamResponse:
    """Whatever is no resource; 404 in plain text, as Go's, for what is not there at all."""
    if segments in (["healthz"], ["livez"], ["readyz"]):
        text = discovery.health(segments[0], verbose="verbose" in call.query)
        return await write(call, text.encode(), content_type=_TEXT)
    page = _page(call, registry, segments)
    if page is None:
        return await write(call, b"404 page not found\n", content_type=_TEXT, code=404)
    if call.request.method != "GET":
        raise method_not_allowed()
    wanted = next(iter(parse_accept(call.request.headers.get("Accept", JSON))), None)
    if wanted and wanted.name in openapi.V2_PROTOBUF_ASKED and segments == ["openapi", "v2"]:
        return await write(call, openapi.v2_protobuf(), content_type=openapi.V2_PROTOBUF)
    version = wanted.parameters.get("v", "") if wanted else ""
    if (
        wanted
        and wanted.parameters.get("g") == _AGGREGATED
        and version in discovery.AGGREGATED_VERSIONS
        and segments in (["api"], ["apis"])
    ):
        whole = discovery.aggregated(registry, version, core=segments == ["api"])
        content_type = f"{JSON};g={_AGGREGATED};v={version};as=APIGroupDiscoveryList"
        return await write(call, View().write_value(whole), content_type=content_type)
    return await write(call, dataclasses.replace(call.view, shape="plain").write_value(page))


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

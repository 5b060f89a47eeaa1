"""Request bodies: read up to a limit, decoded as the Content-Type says."""

from __future__ import annotations

import json
from typing import Any

import yaml
from aiohttp import HttpVersion11, web

from kproxy.demo import protobuf
from kproxy.demo.objects import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH
from kproxy.demo.status import bad_request, too_large, unsupported_media_type
from kproxy.demo.views import JSON, YAML

# A real API server stops at 3 MiB; the demo cluster also serves to try big bodies.
LIMIT_BYTES = 64 * 1024 * 1024
_YAML_TYPES = (YAML, "application/x-yaml", "text/yaml", APPLY_PATCH)
_JSON_TYPES = (JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]  # which of the two is known at run time
    """YAML as Kubernetes reads it: a date without quotes is a string, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}


async def read_body(request: web.BaseRequest) -> bytes:
    """Asks for it first where the client waits for that. Raises ApiError 413 over LIMIT_BYTES."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        # RFC 9110 section 10.1.1. aiohttp's low-level server leaves it to the handler.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces = bytearray()
    async for piece in request.content.iter_any():
        pieces += piece
        if len(pieces) > LIMIT_BYTES:
            raise too_large(LIMIT_BYTES)
    return bytes(pieces)


def media_type_of(request: web.BaseRequest) -> str:
    """The Content-Type without parameters; JSON where none is given."""
    return request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower() or JSON


def decode_body(raw: bytes, media_type: str) -> Any:
    """Raises ApiError 415 for a type nobody reads here, 400 for a body that is not what its type says."""
    if media_type == protobuf.MEDIA_TYPE:
        return protobuf.decode_protobuf(raw)
    if media_type in _YAML_TYPES:
        return _decode_yaml(raw)
    if media_type not in _JSON_TYPES:
        raise unsupported_media_type((JSON, YAML, protobuf.MEDIA_TYPE))
    try:
        return _parse_json(raw)
    except ValueError as error:
        raise bad_request(f"the body of the request is not JSON: {error}") from None


def decode_options(raw: bytes, media_type: str) -> Any:
    """The DeleteOptions of a delete, which may be left out."""
    return decode_body(raw, media_type) if raw.strip() else None


def _decode_yaml(raw: bytes) -> Any:
    try:
        value = yaml.load(raw, Loader=_Loader)  # noqa: S506 -- derived from the safe loader
        # What JSON cannot say (binary, sets, keys that are no strings) has no place in an object.
        return _parse_json(json.dumps(value).encode())
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from None


def _parse_json(raw: bytes) -> Any:
    """Raises ValueError, also for NaN and half surrogate pairs, which Python takes and RFC 8259 does not."""
    value = json.loads(raw, parse_constant=_refuse_constant)
    if rb"\ud" in raw.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")

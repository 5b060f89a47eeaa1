"""How an answer is written: which media type the `Accept` header asks for, and the bytes of it.

Objects can be shown as they are, as a `Table` (kubectl get), or as metadata alone (informers).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from kproxy.demo import clock
from kproxy.demo.kinds import Json, Kind
from kproxy.demo.status import bad_request, not_acceptable
from kproxy.demo.store import Event, Stored, encode
from kproxy.demo.tables import columns_of

JSON = "application/json"
YAML = "application/yaml"
_META = "meta.k8s.io"
# Python indents some 5 MB a second, and all else in the process waits for it.
_PRETTY_BYTES = 256 * 1024
_SHAPES = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
_INCLUDED = ("Metadata", "Object", "None")


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaType:
    name: str
    parameters: dict[str, str]
    quality: float


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One way of showing objects, chosen by a request."""

    media_type: str = JSON
    shape: Literal["plain", "table", "metadata"] = "plain"
    version: str = "v1"
    include: str = "Metadata"
    """What a table's rows carry beside the cells: Metadata, Object or None."""
    pretty: bool = False

    def show(self, kind: Kind, stored: Stored) -> bytes:
        if self.shape == "plain":
            return self.write(stored.text, stored.value)
        return self.write_value(self._shaped(kind, stored, headers=True))

    def show_list(self, kind: Kind, stored: Sequence[Stored], metadata: Json) -> bytes:
        if self.shape == "table":
            return self.write_value(self._table(kind, stored, metadata, headers=True))
        if self.shape == "metadata":
            head: Json = {"kind": "PartialObjectMetadataList", "apiVersion": f"{_META}/{self.version}"}
            return self.write_value(
                {**head, "metadata": metadata, "items": [self._partial(each) for each in stored]}
            )
        head = {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": metadata}
        # Items of built-in kinds do not repeat the kind that the list has named, custom ones do.
        if kind.custom:
            texts = [each.text for each in stored]
        else:
            repeated = len(encode({"kind": kind.kind, "apiVersion": kind.api_version}))
            texts = [b"{" + each.text[repeated:] for each in stored]
        items = b",".join(texts)
        return self.write(encode(head)[:-1] + b',"items":[' + items + b"]}", None)

    def event(self, kind: Kind, event: Event, *, first: bool) -> bytes:
        """One line of a watch. Only the first table of a watch has column definitions."""
        if self.shape == "plain":
            text = event.stored.text
        else:
            text = encode(self._shaped(kind, event.stored, headers=first))
        return b'{"type":"' + event.change.encode() + b'","object":' + text + b"}\n"

    def bookmark(self, kind: Kind, version: int, *, initial_events_end: bool) -> bytes:
        metadata: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        bare = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        shown: Json = bare
        if self.shape == "table":
            shown = {**self._table(kind, (), {"resourceVersion": str(version)}, headers=False)}
            shown["rows"] = [{"cells": [], "object": self._partial_value(metadata)}]
        elif self.shape == "metadata":
            shown = self._partial_value(metadata)
        return b'{"type":"BOOKMARK","object":' + encode(shown) + b"}\n"

    def write_value(self, value: Json) -> bytes:
        return self.write(encode(value), value)

    def write(self, text: bytes, value: Json | None) -> bytes:
        """The JSON `text` (`value`, where it is at hand, is the same) as this view's media type."""
        if self.media_type == YAML:
            return _dump_yaml(json.loads(text) if value is None else value)
        if self.pretty and len(text) < _PRETTY_BYTES:
            parsed = json.loads(text) if value is None else value
            return json.dumps(parsed, indent=2, ensure_ascii=False).encode() + b"\n"
        return text + b"\n"

    def _shaped(self, kind: Kind, stored: Stored, *, headers: bool) -> Json:
        if self.shape == "metadata":
            return self._partial(stored)
        metadata = {"resourceVersion": str(stored.version)}
        return self._table(kind, (stored,), metadata, headers=headers)

    def _partial(self, stored: Stored) -> Json:
        return self._partial_value(stored.value["metadata"])

    def _partial_value(self, metadata: Json) -> Json:
        return {
            "kind": "PartialObjectMetadata",
            "apiVersion": f"{_META}/{self.version}",
            "metadata": metadata,
        }

    def _table(self, kind: Kind, stored: Sequence[Stored], metadata: Json, *, headers: bool) -> Json:
        columns, now = columns_of(kind), clock.now()
        rows: list[Json] = []
        for each in stored:
            row: Json = {"cells": [column.cell(each.value, now) for column in columns]}
            if self.include != "None":
                row["object"] = each.value if self.include == "Object" else self._partial(each)
            rows.append(row)
        return {
            "kind": "Table",
            "apiVersion": f"{_META}/{self.version}",
            "metadata": metadata,
            "columnDefinitions": [column.definition for column in columns] if headers else None,
            "rows": rows,
        }


def parse_accept(accept: str) -> list[MediaType]:
    """The media ranges of an Accept header (RFC 9110, 12.5.1), the most wanted first."""
    ranges = []
    for part in accept.split(","):
        name, *rest = (each.strip() for each in part.split(";"))
        parameters = dict(each.split("=", 1) for each in rest if "=" in each)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if name and quality > 0:
            ranges.append(MediaType(name=name.lower(), parameters=parameters, quality=quality))
    return sorted(ranges, key=lambda each: -each.quality)


def choose_view(accept: str, query: dict[str, str], user_agent: str) -> View:
    """Raises ApiError: 406 when nothing acceptable can be made, 400 for a wrong `includeObject`."""
    include = query.get("includeObject", "Metadata")
    if include not in _INCLUDED:
        raise bad_request(f"unrecognized includeObject value: {json.dumps(include)}")
    for wanted in parse_accept(accept or JSON):
        media_type = _writable(wanted.name)
        shape = wanted.parameters.get("as", "")
        if media_type is None or (shape and not _is_served_shape(wanted.parameters)):
            continue
        return View(
            media_type=media_type,
            shape="table" if shape == "Table" else "metadata" if shape else "plain",
            version=wanted.parameters.get("v", "v1"),
            include=include,
            pretty=_wants_pretty(query, user_agent),
        )
    raise not_acceptable((JSON, YAML))


def _writable(name: str) -> str | None:
    if name in (JSON, "application/*", "*/*"):
        return JSON
    return YAML if name == YAML else None


def _is_served_shape(parameters: dict[str, str]) -> bool:
    return (
        parameters["as"] in _SHAPES
        and parameters.get("g") == _META
        and parameters.get("v") in ("v1", "v1beta1")
    )


def _wants_pretty(query: dict[str, str], user_agent: str) -> bool:
    """A real API server also indents for people: curl, wget and browsers."""
    asked = query.get("pretty")
    if asked is not None:
        return asked.lower() in ("1", "t", "true", "")
    return user_agent.startswith(("curl", "Wget", "Mozilla/5.0"))


def _dump_yaml(value: object) -> bytes:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.encode()

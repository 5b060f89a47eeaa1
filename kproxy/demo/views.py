"""How an answer is written: which media type the `Accept` header asks for, and the bytes of it.

Objects are shown as they are, or as the rows of a `Table` (kubectl get).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from kproxy.demo.kinds import Json, Kind
from kproxy.demo.status import not_acceptable
from kproxy.demo.store import Event, Stored, encode
from kproxy.demo.tables import columns_of

JSON = "application/json"
YAML = "application/yaml"
_META = "meta.k8s.io/v1"
# Python indents some 5 MB a second, and all else in the process waits for it.
_PRETTY_BYTES = 256 * 1024
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One way of showing objects, chosen by a request."""

    media_type: str = JSON
    is_table: bool = False
    has_objects: bool = False
    """A table's rows carry whole objects beside the cells, not their metadata alone."""
    pretty: bool = False

    def show(self, kind: Kind, stored: Stored) -> bytes:
        if self.is_table:
            return self.write_value(self._table(kind, (stored,), stored.version, headers=True))
        return self._write(stored.text, stored.value)

    def show_list(self, kind: Kind, stored: Sequence[Stored], metadata: Json) -> bytes:
        if self.is_table:
            return self.write_value({**self._table(kind, stored, 0, headers=True), "metadata": metadata})
        head = {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": metadata}
        # Items of built-in kinds do not repeat the kind that the list has named, custom ones do.
        repeated = 0 if kind.custom else len(encode({"kind": kind.kind, "apiVersion": kind.api_version}))
        items = b",".join([b"{" + each.text[repeated or 1 :] for each in stored])
        return self._write(encode(head)[:-1] + b',"items":[' + items + b"]}")

    def event(self, kind: Kind, event: Event, *, first: bool) -> bytes:
        """One line of a watch. Only the first table of a watch has column definitions."""
        stored = event.stored
        if self.is_table:
            text = encode(self._table(kind, (stored,), stored.version, headers=first))
        else:
            text = stored.text
        return b'{"type":"' + event.change.encode() + b'","object":' + text + b"}\n"

    def bookmark(self, kind: Kind, version: int, *, initial_events_end: bool) -> bytes:
        metadata: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        shown: Json = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        if self.is_table:
            rows = [{"cells": [], "object": _partial(metadata)}]
            shown = {**self._table(kind, (), version, headers=False), "rows": rows}
        return b'{"type":"BOOKMARK","object":' + encode(shown) + b"}\n"

    def write_value(self, value: Json) -> bytes:
        return self._write(encode(value), value)

    def _write(self, text: bytes, value: Json | None = None) -> bytes:
        """The JSON `text` (`value`, where it is at hand, is the same) as this view's media type."""
        if self.media_type != YAML and not (self.pretty and len(text) < _PRETTY_BYTES):
            return text + b"\n"
        parsed = json.loads(text) if value is None else value
        if self.media_type == YAML:
            dumped: str = yaml.dump(parsed, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
            return dumped.encode()
        return json.dumps(parsed, indent=2, ensure_ascii=False).encode() + b"\n"

    def _table(self, kind: Kind, stored: Sequence[Stored], version: int, *, headers: bool) -> Json:
        columns = columns_of(kind)
        return {
            "kind": "Table",
            "apiVersion": _META,
            "metadata": {"resourceVersion": str(version)},
            "columnDefinitions": [column.definition for column in columns] if headers else None,
            "rows": [
                {
                    "cells": [column.cell(each.value) for column in columns],
                    "object": each.value if self.has_objects else _partial(each.value["metadata"]),
                }
                for each in stored
            ],
        }


def accepted(accept: str) -> list[tuple[str, dict[str, str]]]:
    """The media ranges of an Accept header (RFC 9110, 12.5.1) with their parameters, most wanted first."""
    ranges = []
    for part in (accept or JSON).split(","):
        name, *rest = (each.strip() for each in part.split(";"))
        parameters = dict(each.split("=", 1) for each in rest if "=" in each)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        if quality > 0:
            ranges.append((quality, name.lower(), parameters))
    ranges.sort(key=lambda each: -each[0])
    return [(name, parameters) for _, name, parameters in ranges]


def choose_view(accept: str, query: dict[str, str], user_agent: str) -> View:
    """Raises ApiError 406 when nothing acceptable can be made."""
    # A real API server also indents for people: curl, wget and browsers.
    default = "true" if user_agent.startswith(("curl", "Wget", "Mozilla/5.0")) else "false"
    pretty = query.get("pretty", default).lower() in ("1", "t", "true", "")
    for name, parameters in accepted(accept):
        shape = tuple(parameters.get(each, "") for each in ("as", "g", "v"))
        if shape == ("Table", "meta.k8s.io", "v1") or not shape[0]:
            media_type = {JSON: JSON, "application/*": JSON, "*/*": JSON, YAML: YAML}.get(name)
            if media_type is not None:
                return View(
                    media_type=media_type,
                    is_table=bool(shape[0]),
                    has_objects=query.get("includeObject") == "Object",
                    pretty=pretty,
                )
    raise not_acceptable((JSON, YAML))


def _partial(metadata: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": metadata}

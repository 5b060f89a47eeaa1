"""Reads the protobuf bodies that kubectl's typed commands send since 1.32 (`kubectl create namespace`...).

Only what those write can be read (protobuf.txt); a body with more is refused. Answers are JSON all the same.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kproxy.demo.status import bad_request
from kproxy.demo.store import Json

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_UNREAD = "the demo cluster does not read {} as protobuf: send JSON"


def _read_messages() -> dict[str, dict[int, tuple[str, str]]]:
    text = Path(__file__).with_suffix(".txt").read_text().replace("\n   ", "")
    messages = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            message, fields = line.split(": ")
            parts = (field.split() for field in fields.split(", "))
            messages[message] = {int(number): (name, kind) for number, name, kind in parts}
    return messages


_MESSAGES = _read_messages()


def decode_protobuf(raw: bytes) -> Json:
    """The object in a Kubernetes protobuf envelope, as JSON has it. Raises ApiError 400."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the body of the request does not begin as Kubernetes protobuf does")
    try:
        envelope = dict(_fields(raw[len(_MAGIC) :]))
        about = dict(_fields(envelope.get(1, b"")))
        api_version, kind = about.get(1, b"").decode(), about.get(2, b"").decode()
        if kind not in _MESSAGES:
            raise bad_request(_UNREAD.format(kind or "this kind"))
        value = _message(kind, envelope.get(2, b""))
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise bad_request(f"the body of the request is not protobuf: {error}") from None
    return {"kind": kind, "apiVersion": api_version, **value}


def _message(name: str, raw: bytes) -> Json:
    known = _MESSAGES[name]
    result: Json = {}
    for number, found in _fields(raw):
        if number not in known and found:
            raise bad_request(_UNREAD.format(f"field {number} of {name}"))
        field, kind = known.get(number, ("", "unread"))
        if kind.startswith("[]"):
            result.setdefault(field, []).append(_value(kind[2:], found))
        elif kind.startswith("{}"):
            entry = dict(_fields(found))
            result.setdefault(field, {})[entry.get(1, b"").decode()] = _value(kind[2:], entry.get(2, b""))
        elif kind.startswith("*"):
            result[field] = _value(kind[1:], found)
        elif kind != "unread" and (value := _value(kind, found)):
            result[field] = value
    return result


def _value(kind: str, found: Any) -> Any:
    match kind:
        case "text":
            return found.decode()
        case "bytes":
            return base64.b64encode(found).decode()
        case "number":
            return found - (1 << 64) if found >> 63 else found
        case "flag":
            return bool(found)
        case "either":
            either = dict(_fields(found))
            return either.get(3, b"").decode() if either.get(1) else either.get(2, 0)
    return _message(kind, found)


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers with an int for a varint, bytes for what has a length; k8s.io/api uses no others."""
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        found: int | bytes
        found, place = _varint(raw, place)
        if key & 7 == 2:
            end = place + found
            if end > len(raw):
                raise ValueError("it ends too early")
            found, place = raw[place:end], end
        elif key & 7 != 0:
            raise ValueError(f"unexpected wire type {key & 7}")
        yield key >> 3, found


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number is too long")

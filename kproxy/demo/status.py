"""Refusals in the words and shape of a real API server (`Status`, apimachinery's pkg/api/errors)."""

from __future__ import annotations

from collections.abc import Sequence

from kproxy.demo.kinds import Kind
from kproxy.demo.store import Json


class ApiError(Exception):
    """A refusal to be answered as a `Status` object with that HTTP code."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        self.code = code
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        more = {} if details is None else {"details": details}
        self.status: Json = {**head, "message": message, "reason": reason, **more, "code": code}
        super().__init__(message)


Cause = Json
"""One thing wrong with an object: a StatusCause."""


def required(field: str, text: str = "") -> Cause:
    return {"reason": "FieldValueRequired", "message": f"Required value: {text}", "field": field}


def wrong(field: str, value: object, text: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return {"reason": "FieldValueInvalid", "message": f"Invalid value: {shown}: {text}", "field": field}


def details_of(kind: Kind, name: str = "") -> Json:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {field: text for field, text in details.items() if text}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(message: str, details: Json) -> ApiError:
    return ApiError(403, "Forbidden", message, details)


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', details_of(kind, name))


def method_not_allowed() -> ApiError:
    text = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", text, {})


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    message = "the body of the request was in an unknown format - accepted media types include: "
    return ApiError(415, "UnsupportedMediaType", message + ", ".join(accepted))


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "group": group, "kind": kind, "causes": list(causes)}
    message = f'{kind}{f".{group}" if group else ""} "{name}" is invalid: {text}'
    return ApiError(422, "Invalid", message, {field: found for field, found in details.items() if found})

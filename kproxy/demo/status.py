"""Refusals in the words and shape of a real API server (`Status`, apimachinery's pkg/api/errors)."""

from __future__ import annotations

from collections.abc import Sequence

from kproxy.demo.kinds import Json, Kind


class ApiError(Exception):
    """A refusal to be answered as a `Status` object with that HTTP code."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        self.code = code
        self.status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({} if details is None else {"details": details}),
            "code": code,
        }
        super().__init__(message)


Cause = Json
"""One thing wrong with an object: a StatusCause."""


def required(field: str, text: str = "") -> Cause:
    return {"reason": "FieldValueRequired", "message": f"Required value: {text}", "field": field}


def wrong(field: str, value: object, text: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return {"reason": "FieldValueInvalid", "message": f"Invalid value: {shown}: {text}", "field": field}


def forbidden_field(field: str, text: str) -> Cause:
    return {"reason": "FieldValueForbidden", "message": f"Forbidden: {text}", "field": field}


def details_of(kind: Kind, name: str = "") -> Json:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {field: text for field, text in details.items() if text}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(message: str, details: Json) -> ApiError:
    return ApiError(403, "Forbidden", message, details)


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', details_of(kind, name))


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    message = f"only the following media types are accepted: {', '.join(accepted)}"
    return ApiError(406, "NotAcceptable", message)


def already_exists(kind: Kind, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', details_of(kind, name))


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, details_of(kind, name))


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit_bytes}")


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    message = "the body of the request was in an unknown format - accepted media types include: "
    return ApiError(415, "UnsupportedMediaType", message + ", ".join(accepted))


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "group": group, "kind": kind, "causes": list(causes)}
    return ApiError(
        422,
        "Invalid",
        f'{kind}{f".{group}" if group else ""} "{name}" is invalid: {text}',
        {field: found for field, found in details.items() if found},
    )


def unprocessable() -> ApiError:
    """A JSON patch that is well formed but does not fit; the real server names no cause either."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def not_implemented(message: str) -> ApiError:
    return ApiError(501, "NotImplemented", message)


def future_version(asked: int, current: int) -> ApiError:
    text = f"Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", text, {"causes": [cause], "retryAfterSeconds": 1})


def success(kind: Kind, name: str, uid: str) -> Json:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**status, "details": {**details_of(kind, name), "uid": uid}}

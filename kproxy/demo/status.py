"""Refusals in the words and shape of a real API server (`Status`, apimachinery's pkg/api/errors)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kproxy.demo.kinds import Json, Kind


class ApiError(Exception):
    """A refusal to be answered as a `Status` object with that HTTP code."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Json | None = None,
        metadata: Json | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata
        super().__init__(message)

    @property
    def status(self) -> Json:
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata or {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with an object: `reason` is one of `Required`, `Invalid`, `NotSupported`..."""

    field: str
    kind: str
    text: str

    @property
    def message(self) -> str:
        return f"{_TITLES[self.kind]}: {self.text}"


_TITLES = {
    "FieldValueRequired": "Required value",
    "FieldValueInvalid": "Invalid value",
    "FieldValueNotSupported": "Unsupported value",
    "FieldValueForbidden": "Forbidden",
}


def required(field: str, text: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", text)


def wrong(field: str, value: object, text: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(field, "FieldValueInvalid", f"{shown}: {text}")


def forbidden_field(field: str, text: str) -> Cause:
    return Cause(field, "FieldValueForbidden", text)


def details_of(kind: Kind, name: str = "", **more: object) -> Json:
    details: Json = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    return {**details, "kind": kind.plural, **more}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', details=details_of(kind, name))


def method_not_allowed() -> ApiError:
    return ApiError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        details={},
    )


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    return ApiError(
        406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}"
    )


def already_exists(kind: Kind, name: str) -> ApiError:
    message = f'{kind.resource} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=details_of(kind, name))


def conflict(kind: Kind, name: str, why: str | None = None) -> ApiError:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=details_of(kind, name))


def expired(message: str, *, next_token: str = "") -> ApiError:
    metadata = {"continue": next_token} if next_token else None
    return ApiError(410, "Expired", message, metadata=metadata)


def too_large(limit_bytes: int) -> ApiError:
    message = f"Request entity too large: limit is {limit_bytes}"
    return ApiError(413, "RequestEntityTooLarge", message)


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted),
    )


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> ApiError:
    return invalid_kind(kind.kind, kind.group, name, causes)


def invalid_kind(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    shown = f"{kind}.{group}" if group else kind
    details: Json = {"name": name} if name else {}
    if group:
        details["group"] = group
    details["kind"] = kind
    details["causes"] = [
        {"reason": cause.kind, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return ApiError(422, "Invalid", f'{shown} "{name}" is invalid: {text}', details=details)


def unprocessable() -> ApiError:
    """A JSON patch that is well formed but does not fit; the real server names no cause either."""
    return ApiError(
        422, "Invalid", "the server rejected our request due to an error in our request", details={}
    )


def not_implemented(message: str) -> ApiError:
    return ApiError(501, "NotImplemented", message)


def future_version(asked: int, current: int) -> ApiError:
    text = f"Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", text, details={"causes": [cause], "retryAfterSeconds": 1})


def success(kind: Kind, name: str = "", uid: str = "") -> Json:
    status: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if name:
        details = details_of(kind, name)
        status["details"] = {**details, "uid": uid} if uid else details
    return status

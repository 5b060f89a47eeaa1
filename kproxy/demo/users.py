"""Who asks: the client certificate's user, whom it impersonates, or nobody; and what each may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from kproxy.demo.kinds import ACCESS_REVIEWS, RULES_REVIEWS, Json, Kind
from kproxy.demo.objects import Target
from kproxy.demo.status import bad_request, details_of, forbidden, unauthorized

ANONYMOUS = "system:anonymous"
# What Kubernetes' own role system:public-info-viewer lets everybody see.
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version")
_EVERYBODY = "system:authenticated"
_EXTRA = "impersonate-extra-"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict)

    @property
    def info(self) -> Json:
        """As `UserInfo` of authentication.k8s.io/v1."""
        info = {"username": self.name, "groups": list(self.groups), "uid": self.uid, "extra": self.extra}
        return {field: found for field, found in info.items() if found}


def authenticate(request: web.BaseRequest) -> User:
    """Raises ApiError 401 for credentials that are none here: only client certificates are known."""
    certificate: dict[str, Any] | None = request.get_extra_info("peercert")
    if certificate:
        subject = [pair for (pair,) in certificate["subject"]]
        (name,) = (text for kind, text in subject if kind == "commonName")
        groups = tuple(text for kind, text in subject if kind == "organizationName")
        user = User(name=name, groups=(*groups, _EVERYBODY))
    elif "Authorization" in request.headers:
        raise unauthorized()
    else:
        user = User(name=ANONYMOUS, groups=("system:unauthenticated",))
    return _impersonated(request, user)


def may_see_path(user: User, path: str) -> None:
    """Raises ApiError 403 for a path that is no resource's and that the user may not see."""
    if user.name == ANONYMOUS and path.rstrip("/") not in PUBLIC_PATHS:
        message = f'forbidden: User "{ANONYMOUS}" cannot get path "{path}"'
        raise forbidden(message, {})


def may(user: User, verb: str, target: Target) -> None:
    """Raises ApiError 403. There is one rule: nobody in particular may do nothing, all others anything."""
    if user.name == ANONYMOUS:
        kind = target.kind
        subresource = f"/{target.subresource}" if target.subresource else ""
        named = f'{kind.resource} "{target.name}"' if target.name else kind.resource
        where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
        message = (
            f'{named} is forbidden: User "{ANONYMOUS}" cannot {verb} resource "{kind.plural}{subresource}" '
            f'in API group "{kind.group}" {where}'
        )
        raise forbidden(message, details_of(kind, target.name))


def review(kind: Kind, body: Any, user: User) -> Json:
    """The answer to a SelfSubjectAccessReview, SelfSubjectRulesReview or SelfSubjectReview."""
    if not isinstance(body, dict) or body.get("kind", kind.kind) != kind.kind:
        raise bad_request(f"the body of the request must be a {kind.kind}")
    if kind is ACCESS_REVIEWS:
        status: Json = {"allowed": True, "reason": "the demo cluster lets its users do anything"}
    elif kind is RULES_REVIEWS:
        status = {
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": False,
        }
    else:
        status = {"userInfo": user.info}
    head = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": {"creationTimestamp": None}}
    return {**head, "spec": body.get("spec", {}), "status": status}


def _impersonated(request: web.BaseRequest, user: User) -> User:
    headers = request.headers
    asked = [header for header in headers if header.lower().startswith("impersonate-")]
    if not asked:
        return user
    name = headers.get("Impersonate-User", "")
    if not name:
        raise bad_request(f"requested {asked} without impersonating a user")
    if user.name == ANONYMOUS:
        message = f'users "{name}" is forbidden: User "{ANONYMOUS}" cannot impersonate resource "users"'
        raise forbidden(message, {"name": name, "kind": "users"})
    extra: dict[str, list[str]] = {}
    for header, value in headers.items():
        if header.lower().startswith(_EXTRA):
            extra.setdefault(unquote(header[len(_EXTRA) :]).lower(), []).append(value)
    groups = headers.getall("Impersonate-Group", [])
    if name != ANONYMOUS and _EVERYBODY not in groups:
        groups = [*groups, _EVERYBODY]
    return User(name=name, groups=tuple(groups), uid=headers.get("Impersonate-Uid", ""), extra=extra)

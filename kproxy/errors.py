"""Everything kproxy itself can say is wrong, and how it is said.

    KproxyError                     500 InternalError        proxy_internal_error
    ├── ConfigError                 exit code 2; on reload the old state stays
    ├── KubeconfigError             the same; 502 for a context beside the default one
    ├── BadRequest                  400 (or 405, 431, 501, 505 where the RFC says so)
    ├── Denied                      403, names the rule that refused
    │   └── NavigationDenied            a browser's window was sent here; the user may go on by hand
    ├── NotServed                   404, no such route here
    │   └── UnknownContext              no such context, or none that is served
    ├── CredentialError             502, never 401/403: clients read those as a verdict on them
    │   ├── ExecPluginError
    │   ├── RefreshError
    │   └── CredentialFileError
    ├── UpstreamUnreachable         502
    ├── UpstreamTLSError            502
    ├── UpstreamTimeout             504
    ├── UpstreamProtocolError       502, the API server's answer is not HTTP/1.1
    ├── UpgradeFailed               502
    └── Draining                    503 + Retry-After

Each class carries its HTTP status, its Kubernetes `reason` and its RFC 9209 `Proxy-Status` error type.
An answer of the API server is never one of these, whatever its status: it passes untouched.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import ClassVar


class KproxyError(Exception):
    """The base: a sentence for a person, and what a client must be told."""

    status: int = 500
    reason: ClassVar[str] = "InternalError"
    proxy_error: str = "proxy_internal_error"

    @property
    def message(self) -> str:
        return str(self)


class ConfigError(KproxyError):
    """Flags, environment or config file cannot be used; carries every problem found, not just the first."""

    proxy_error = "proxy_configuration_error"

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class KubeconfigError(ConfigError):
    """A kubeconfig cannot be read or used; carries every problem found.

    A request meets it only at a context beside the default one, which is opened when it is asked for.
    """

    status = 502
    reason = "BadGateway"


class BadRequest(KproxyError):
    """The downstream request breaks HTTP (RFC 9110, RFC 9112) and is not forwarded."""

    status = 400
    reason = "BadRequest"
    proxy_error = "http_request_error"

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


class Denied(KproxyError):
    """A rule of ours refuses the request; `rule` names it, the message says how to allow it."""

    status = 403
    reason = "Forbidden"
    proxy_error = "http_request_denied"

    def __init__(self, rule: str, message: str) -> None:
        self.rule = rule
        super().__init__(message)


class NavigationDenied(Denied):
    """Another site sent the browser here. The user gets a page with a link to the same address."""


class NotServed(KproxyError):
    """No route or page of this proxy answers to that path."""

    status = 404
    reason = "NotFound"
    proxy_error = "destination_not_found"


class UnknownContext(NotServed):
    """A request is for a context that is not served; the message tells which are."""


class CredentialError(KproxyError):
    """No credential for the API server could be had."""

    status = 502
    reason = "BadGateway"
    proxy_error = "proxy_configuration_error"


class ExecPluginError(CredentialError):
    """The exec plugin could not be run, or what it returned cannot be used."""


class RefreshError(CredentialError):
    """The OIDC issuer did not renew the token."""


class CredentialFileError(CredentialError):
    """A token, certificate or key file cannot be read."""


class UpstreamUnreachable(KproxyError):
    """No connection to the API server, or it ended before an answer."""

    status = 502
    reason = "BadGateway"

    def __init__(self, message: str, proxy_error: str = "connection_terminated") -> None:
        self.proxy_error = proxy_error
        super().__init__(message)


class UpstreamTLSError(KproxyError):
    """TLS with the API server failed: its certificate, ours, or the protocol."""

    status = 502
    reason = "BadGateway"

    def __init__(self, message: str, proxy_error: str = "tls_protocol_error") -> None:
        self.proxy_error = proxy_error
        super().__init__(message)


class UpstreamTimeout(KproxyError):
    """The API server did not connect or shake hands in time."""

    status = 504
    reason = "Timeout"
    proxy_error = "connection_timeout"


class UpstreamProtocolError(KproxyError):
    """What came from the API server is not HTTP/1.1."""

    status = 502
    reason = "BadGateway"
    proxy_error = "http_protocol_error"


class UpgradeFailed(KproxyError):
    """The API server answered an upgrade with neither 101 nor a refusal."""

    status = 502
    reason = "BadGateway"
    proxy_error = "http_upgrade_failed"


class Draining(KproxyError):
    """kproxy is shutting down and takes no new work."""

    status = 503
    reason = "ServiceUnavailable"
    proxy_error = "destination_unavailable"


def status_body(error: KproxyError) -> bytes:
    """The error as a Kubernetes `Status` object, as kubectl and every client library print it."""
    body: dict[str, object] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"kproxy: {error.message}",
        "reason": error.reason if error.status == type(error).status else reason_of(error.status),
        "code": error.status,
    }
    return json.dumps(body).encode() + b"\n"


def shows_text_alone(path: str, accept: str) -> bool:
    """Whether client-go shows of its failure what text says, and no more than "unknown" of a `Status`.

    It reads the documents of discovery raw (rest/request.go: `Result.Raw`, `newUnstructuredResponseError`).
    With a cold cache they are the first that kubectl asks for.
    """
    if "g=apidiscovery.k8s.io" in accept:
        return True
    return accept == "application/json, */*" and path.endswith("/version")


def text_body(error: KproxyError) -> bytes:
    """The error for whom `shows_text_alone`."""
    return f"kproxy: {error.message}\n".encode()


def proxy_status(error: KproxyError) -> str:
    """The `Proxy-Status` value (RFC 9209) that tells our answers from the API server's."""
    value = f"kproxy; error={error.proxy_error}"
    if isinstance(error, Denied):
        value += f'; details="{error.rule}"'
    return value


def reason_of(status: int) -> str:
    """The Kubernetes reason for an HTTP status that a class shares with others, as `MethodNotAllowed`."""
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")


def start_advice(number: int) -> str:
    """What to do when a program could not be started, by the error number; goes on behind the reason."""
    advice = {
        errno.ENOENT: "; it is not there, or the interpreter in its first line is not",
        errno.EACCES: "; make it executable",
        errno.ENOEXEC: "; it is no program for this machine, and no script with #! in its first line",
    }
    return advice.get(number, "")


def spelt_out(text: str) -> str:
    """Text of others with control characters as `U+001B`, as in kubectl: it must not steer a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"U+{ord(c):04X}" for c in text)

"""What can go wrong between us and an API server, as one table from foreign exceptions to our errors.

Each row gives the error type of RFC 9209, section 2.3, and a sentence that says what to do next.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from kproxy.errors import KproxyError, UpstreamTimeout, UpstreamTLSError, UpstreamUnreachable
from kproxy.http.heads import MalformedHeadError

FOREIGN = (OSError, ValueError)
"""The classes `explain` has rows for: sockets, TLS, names, and values that these refuse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hop:
    """The peer of one step, as messages name it. `prefix` says which context wanted which server.

    `peer` is "cluster" or "proxy"; `trust`, `name` and `identity` say where to look when, in this order,
    its authority, its certificate's name or our own certificate is refused.
    """

    prefix: str
    peer: str
    host: str
    trust: str
    name: str
    identity: str


def explain(error: Exception, hop: Hop) -> KproxyError:
    """One of FOREIGN (or an error of ours, returned as it is) as an error of ours."""
    if isinstance(error, KproxyError):
        return error
    if isinstance(error, TimeoutError):
        return UpstreamTimeout(f"{hop.prefix}: connection timed out; is the {hop.peer} up?")
    if isinstance(error, ssl.SSLCertVerificationError):
        return UpstreamTLSError(f"{hop.prefix}: {_distrust(error, hop)}", "tls_certificate_error")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return UpstreamUnreachable(f"{hop.prefix}: the {hop.peer} closed the connection")
    if isinstance(error, ssl.SSLError):
        return _tls_failure(error, hop)
    if isinstance(error, socket.gaierror):
        reason = (error.strerror or str(error)).lower()
        return UpstreamUnreachable(
            f"{hop.prefix}: name {hop.host} not found: {reason}; is the network or the VPN up?", "dns_error"
        )
    if isinstance(error, MalformedHeadError):
        return UpstreamUnreachable(
            f"{hop.prefix}: the {hop.peer} does not speak HTTP/1.1: {error}", "http_protocol_error"
        )
    if isinstance(error, ValueError):
        return UpstreamTLSError(f"{hop.prefix}: no certificate can be for that name; check {hop.name}")
    if isinstance(error, OSError):
        return _no_connection(error, hop)
    return UpstreamUnreachable(f"{hop.prefix}: {error}", "destination_unavailable")


_BY_ERRNO: Mapping[int, tuple[str, str]] = {
    errno.ECONNREFUSED: ("connection_refused", "connection refused; is the {peer} up?"),
    **dict.fromkeys(
        (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL),
        ("destination_ip_unroutable", "no route to the {peer}; is the network or the VPN up?"),
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        ("destination_ip_prohibited", "this machine forbids the connection; check its firewall"),
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        ("connection_limit_reached", "too many open files; raise the limit (ulimit -n)"),
    ),
}


def _no_connection(error: OSError, hop: Hop) -> UpstreamUnreachable:
    if error.errno is not None and error.errno in _BY_ERRNO:
        proxy_error, text = _BY_ERRNO[error.errno]
    elif isinstance(error, ConnectionError):
        # Event loops raise some of these without a number.
        proxy_error, text = "connection_terminated", "the {peer} closed the connection"
    else:
        proxy_error, text = "destination_unavailable", error.strerror or str(error)
    return UpstreamUnreachable(f"{hop.prefix}: {text.format(peer=hop.peer)}", proxy_error)


# X509_V_ERR_* of OpenSSL's x509_vfy.h, which the ssl module does not name.
_NOT_YET_VALID, _EXPIRED = 9, 10
_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH = 62, 64


def _distrust(error: ssl.SSLCertVerificationError, hop: Hop) -> str:
    text = f"certificate verify failed: {error.verify_message.rstrip('.')}"
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return f"{text}; renew the certificate of the {hop.peer}, or set the clock of this machine"
    if error.verify_code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
        return f"{text}; check {hop.name}"
    return f"{text}; check {hop.trust}"


# OpenSSL's names for "these bytes are no TLS record".
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
# The last is what OpenSSL says under TLS 1.2 to a client without a certificate.
_ABOUT_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")


def _tls_failure(error: ssl.SSLError, hop: Hop) -> UpstreamTLSError:
    # Python does not know the names of all that OpenSSL has a sentence for.
    reason = error.reason or str(error).partition("] ")[2].rpartition(" (")[0] or "TLS failed"
    if reason in _NO_TLS:
        return UpstreamTLSError(f"{hop.prefix}: the {hop.peer} does not speak TLS there; is it plain http?")
    if alert := re.search(r"ALERT[ _](.+)", reason, re.IGNORECASE):
        what = alert[1].replace("_", " ").lower()
        text = f"{hop.prefix}: the {hop.peer} refused the TLS handshake: {what}"
        if any(word in reason.upper().replace(" ", "_") for word in _ABOUT_OUR_CERTIFICATE):
            text += f"; check {hop.identity}"
        return UpstreamTLSError(text, "tls_alert_received")
    return UpstreamTLSError(f"{hop.prefix}: TLS failed: {reason.replace('_', ' ').lower()}")

"""The kubeconfig that leads a client through kproxy: no credential in it, one context per served context."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kproxy.kube.contexts import CLUSTERS

_USER = "kproxy"
UNNAMED = "kproxy"
"""What a context without a name is called: one that comes from flags or a pod, not from a kubeconfig."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """One context as clients of kproxy reach it."""

    name: str
    server: str
    """The URL before which kubectl puts its paths."""
    namespace: str | None = None
    authority_pem: bytes | None = None
    """What an https server is trusted by, where the system's authorities are not enough."""


FIRST_LINE = "# Leads through kproxy. There is no credential in it."
"""By this a file is known that may be written anew."""


def client_kubeconfig(
    contexts: Sequence[Reach], current: str, *, nobody: tuple[bytes, bytes] | None = None
) -> str:
    """YAML that kubectl and all client libraries read; the contexts keep their names.

    `nobody` is a client certificate and its key, in PEM, that nobody asks for: without anything in its user
    kubectl wants a user name for an https server (client-go, clientcmd/client_config.go).
    """
    assert any(each.name == current for each in contexts)
    return "\n".join(_lines(contexts, current, nobody)) + "\n"


def _lines(contexts: Sequence[Reach], current: str, nobody: tuple[bytes, bytes] | None) -> Iterator[str]:
    yield FIRST_LINE
    yield "apiVersion: v1"
    yield "kind: Config"
    yield f"current-context: {_quoted(current)}"
    yield "clusters:"
    for each in contexts:
        yield f"- name: {_quoted(each.name)}"
        yield "  cluster:"
        yield f"    server: {_quoted(each.server)}"
        if each.server.startswith("http:"):
            # There is no TLS to skip, but Node's client refuses http without it, and all others pass over it.
            yield "    insecure-skip-tls-verify: true"
        if each.authority_pem is not None:
            yield f"    certificate-authority-data: {_encoded(each.authority_pem)}"
    yield "contexts:"
    for each in contexts:
        yield f"- name: {_quoted(each.name)}"
        yield "  context:"
        yield f"    cluster: {_quoted(each.name)}"
        yield f"    user: {_USER}"
        if each.namespace:
            yield f"    namespace: {_quoted(each.namespace)}"
    yield "users:"
    # Without any entry the Python client finds no user to load, and kubectl asks for one.
    yield f"- name: {_USER}"
    if nobody is None:
        yield "  user: {}"
    else:
        yield "  user:"
        yield "    # It says nothing to kproxy, and keeps kubectl from asking for a user name."
        yield f"    client-certificate-data: {_encoded(nobody[0])}"
        yield f"    client-key-data: {_encoded(nobody[1])}"


def _encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


def _quoted(text: str) -> str:
    # A JSON string is a YAML one; escaped surrogate pairs are the exception. The rest may not stand there as
    # it is (YAML 1.1, 5.1), or would steer the terminal that it is printed on.
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in plain)


def reaches(
    told: Mapping[str, Any],
    url: str,
    *,
    api_prefix: str,
    namespaces: Mapping[str, str | None],
    authority_pem: bytes | None = None,
) -> tuple[list[Reach], str]:
    """What `/-/contexts` has told of, as it is reached at `url`, and the name of the default context."""
    found, current = [], ""
    for each in told["contexts"]:
        name = each["name"] or UNNAMED
        if each["default"]:
            current = name
        path = path_of(each["slug"], is_default=each["default"], api_prefix=api_prefix)
        found.append(
            Reach(
                name=name,
                server=url.rstrip("/") + path.rstrip("/"),
                namespace=namespaces.get(each["name"]),
                authority_pem=authority_pem,
            )
        )
    return found, current


def path_of(slug: str, *, is_default: bool, api_prefix: str) -> str:
    """Where clients find a context on a listener.

    By its slug: client-go undoes the escapes of a name, and then `arn:aws:.../a` is two segments.
    """
    # An API prefix that begins with /api is part of the paths that clients ask for.
    prefix = "/" if api_prefix.startswith("/api") else api_prefix
    return prefix if is_default else CLUSTERS + slug + prefix

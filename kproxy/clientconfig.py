"""The kubeconfig that leads a client through kproxy: no credential in it, one context per served context."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_USER = "kproxy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """One context as clients of kproxy reach it."""

    name: str
    server: str
    """The URL before which kubectl puts its paths."""
    namespace: str | None = None
    authority_pem: bytes | None = None
    """What an https server is trusted by, where the system's authorities are not enough."""


def client_kubeconfig(contexts: Sequence[Reach], current: str) -> str:
    """YAML that kubectl and all client libraries read; the contexts keep their names."""
    assert any(each.name == current for each in contexts)
    return "\n".join(_lines(contexts, current)) + "\n"


def _lines(contexts: Sequence[Reach], current: str) -> Iterator[str]:
    yield "apiVersion: v1"
    yield "kind: Config"
    yield f"current-context: {_quoted(current)}"
    yield "clusters:"
    for each in contexts:
        yield f"- name: {_quoted(each.name)}"
        yield "  cluster:"
        yield f"    server: {_quoted(each.server)}"
        if each.authority_pem is not None:
            yield f"    certificate-authority-data: {base64.b64encode(each.authority_pem).decode()}"
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
    yield "  user: {}"


def _quoted(text: str) -> str:
    # A JSON string is a YAML one; escaped surrogate pairs are the exception.
    return json.dumps(text, ensure_ascii=False)

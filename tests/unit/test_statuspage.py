"""The page for people: nothing on it runs or is loaded, whatever the names say."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from kproxy.web.statuspage import CONTENT_SECURITY_POLICY, render

NASTY = "</td><script>alert(1)</script>\"' onload='x\x1b[2J"


def context(**facts: Any) -> dict[str, Any]:
    return {
        "name": "prod",
        "slug": "prod",
        "default": True,
        "server": "https://10.0.0.1",
        "url": "http://prod.localhost:8001/",
        "path": "/clusters/prod/",
        "credential": {"kind": "exec", "expires_at": "2026-11-21T00:00:00+00:00"},
        "state": "open",
        "last_error": None,
        "connections": 3,
        "idle_connections": 1,
        "in_flight": 1,
        "watches": 2,
        "tunnels": 0,
        **facts,
    }


def status(*contexts: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "pid": 7,
        "uptime_seconds": 93784.0,
        "is_draining": False,
        "listeners": [{"address": "127.0.0.1:8001", "url": "http://127.0.0.1:8001", "tls": False}],
        "contexts": list(contexts),
        **facts,
    }


class Reader(HTMLParser):
    """Tags, attributes and text of a page; tags that are not closed in order are an error."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        return [value for name, value in self.attributes if name == "href"]


STREAM = {
    "context": "prod",
    "method": "GET",
    "path": "/api/v1/pods",
    "client": "127.0.0.1:5",
    "seconds": 75.0,
}


def test_the_page_tells_what_a_person_wants_to_know() -> None:
    """Contexts with links and ends of credentials, what is running, what went wrong last."""
    error = {"at": "2026-11-20T10:00:00+00:00", "message": "connection refused"}
    failing = context(name="dev", url="http://dev.localhost:8001/", state="failing", last_error=error)
    page = Reader(render(status(context(), failing), [STREAM], {"/-/healthz": "200"}))
    for told in (
        "up for 1 d 2 h",
        "2026-11-21 00:00:00 UTC",
        "GET /api/v1/pods",
        "1 min 15 s",
        "connection refused",
    ):
        assert told in page.text
    assert page.links == ["http://prod.localhost:8001/", "http://dev.localhost:8001/", "/-/healthz"]


def test_the_state_of_a_credential_is_told() -> None:
    """That it has ended, why there is no other, what is waited for; that all is well is not worth a word."""
    kept = {"kind": "exec", "expires_at": "2026-11-21T00:00:00+00:00", "state": "valid"}
    problem = "context x: exit code 255; it says:\nRun: acme login"
    waiting = {"kind": "exec", "state": "waiting for acme, 6 s", "last_words": "open\nhttps://login"}
    page = render(
        status(
            context(credential=kept),
            context(credential={**kept, "state": "ended", "problem": problem}),
            context(credential={**kept, **waiting}, state="waiting for acme, 6 s"),
            context(credential={**kept, **waiting, "last_words": None}),
        ),
        [],
        {},
    )
    assert re.findall(r"<td>(exec.*?)</td>", page) == [
        "exec",
        'exec, <span class="state bad">ended</span>',
        "exec",
        'exec, <span class="state">waiting for acme, 6 s</span>',
    ]
    assert "Renewing the credential: context x: exit code 255; it says:<br>Run: acme login" in page
    assert '<span class="state">waiting for acme, 6 s</span><br>open<br>https://login</td>' in page


def test_nothing_running_and_nothing_wrong_is_said() -> None:
    """An empty table would leave one wondering."""
    text = Reader(render(status(context()), [], {})).text
    assert "None are running." in text
    assert "None since the start." in text


def test_a_context_without_an_origin_is_linked_by_its_path() -> None:
    """With unix sockets only there is no port to name."""
    assert Reader(render(status(context(url=None)), [], {})).links == ["/clusters/prod/"]


def test_the_end_is_announced() -> None:
    """While it shuts down."""
    assert "shutting down" in Reader(render(status(is_draining=True), [], {})).text


@pytest.mark.parametrize(
    "field",
    [
        "name", "slug", "server", "state", "url", "path", "client", "kind", "at", "message", "address",
        "problem", "last_words",
    ],
)  # fmt: skip
def test_no_value_becomes_markup(field: str) -> None:
    """Names come from files and requests that somebody else may have written."""
    facts = {field: NASTY} if field in context() else {}
    error = {"at": NASTY if field == "at" else None, "message": NASTY if field == "message" else "m"}
    credential = {"kind": "exec", "expires_at": None, "state": NASTY, "problem": None, "last_words": None}
    if field in credential:
        credential[field] = NASTY
    if field == "path":
        facts["url"] = None
    stream = {**STREAM, **({field: NASTY} if field in STREAM else {})}
    listener = {"address": NASTY if field == "address" else "a", "url": "u", "tls": True}
    page = render(
        status(context(**{"last_error": error, "credential": credential, **facts}), listeners=[listener]),
        [stream],
        {},
    )
    found = Reader(page)
    assert "script" not in found.tags
    assert {name for name, _ in found.attributes} <= {
        "lang", "charset", "name", "content", "href", "class", "datetime",
    }  # fmt: skip
    assert "\x1b" not in page


def test_only_the_style_of_the_page_is_allowed() -> None:
    """The policy names it by its hash, and allows nothing else."""
    page = render(status(context()), [], {})
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert not re.search(r"<script|\ssrc=|\sstyle=|\son\w+=|@import|url\(", page)

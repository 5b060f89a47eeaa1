"""The page instead of a refused navigation: a link to the same address, nothing of the target's making."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.web.linkpage import FIELDS, render

HERE = "http://localhost:8001"
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f")


class Links(HTMLParser):
    """The addresses and texts of a page's links, and all its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.hrefs += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["a"] and data.strip():
            self.texts.append(data)


@given(st.text(VISIBLE, max_size=40))
def test_the_link_leads_to_the_same_address_here(rest: str) -> None:
    """Whatever the target: no other host, no markup, and it is shown as it is."""
    page = Links(render("it is so", "/" + rest))
    (href,) = page.hrefs
    assert re.match(r"/(?:\.//|\./\\|[^/\\]|$)", href)
    assert href.isascii()
    assert page.texts == [href.removeprefix("/.") if href.startswith(("/.//", "/./\\")) else href]
    assert page.tags == ["html", "head", "meta", "meta", "title", "style", "body", "h1", "p", "p", "p", "a"]


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("/api/v1?limit=5&x=%22", f"{HERE}/api/v1?limit=5&x=%22"),
        ("//evil.example/x/proxy/", f"{HERE}//evil.example/x/proxy/"),
        ("/\xe4", f"{HERE}/%E4"),
    ],
)
def test_where_the_link_leads(target: str, address: str) -> None:
    """As RFC 3986 reads it: to this origin, also where two slashes would begin a host."""
    (href,) = Links(render("it is so", target)).hrefs
    assert urljoin(f"{HERE}/elsewhere", href) == address


def test_the_message_is_text() -> None:
    """Parts of it may be a client's."""
    assert "<b>" not in render("<b>it is so</b>", "/")


def test_the_fields_allow_its_style_and_nothing_else() -> None:
    """No script, frame or window of another site has a hold on it, and no cache keeps it."""
    (style,) = re.findall("<style>(.*)</style>", render("it is so", "/"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    fields = dict(FIELDS)
    policy = fields["Content-Security-Policy"].split("; ")
    assert policy[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "frame-ancestors 'none'" in policy
    assert fields["Cross-Origin-Opener-Policy"] == "same-origin"
    assert (fields["Cache-Control"], fields["Referrer-Policy"]) == ("no-store", "no-referrer")

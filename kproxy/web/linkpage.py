"""What a window gets that another site sent here: nothing but a link, for the user to go on by hand. Pure.

A click on it comes from our own origin, and passes. No other site can make that click: the page is in no
frame, and the link appears only after a second, so that the second half of a double click, begun on the
other site's page, does not hit it.
"""

from __future__ import annotations

from html import escape

from kproxy.http.forwarding import quote_target
from kproxy.web.statuspage import content_security_policy

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 48rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
a { animation: appear 1s step-end both; overflow-wrap: anywhere; }
@keyframes appear { from { visibility: hidden; } }
""".strip()

FIELDS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", content_security_policy(_STYLE)),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


def render(message: str, target: str) -> str:
    """The page for a refused `target`, which begins with a slash."""
    shown = escape(quote_target(target))
    # `//host` and `/\\host` would be another host's address; a dot segment is dropped.
    href = f"/.{shown}" if target.startswith(("//", "/\\")) else shown
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>kproxy: not opened</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>kproxy has not opened this address</h1>
<p>Nothing was sent to the cluster: {escape(message)}.</p>
<p>If you did not expect this, close the page. This link opens the address, with your credentials:</p>
<p><a href="{href}">{shown}</a></p>
</body>
</html>
"""

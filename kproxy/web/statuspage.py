"""`/-/` for a person: what `/-/status` says, as HTML that loads nothing and runs nothing. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.125rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .25rem .75rem .25rem 0; text-align: left; }
th { font-weight: 600; } td { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
td, p { overflow-wrap: break-word; } .state, time { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: light-dark(#b00020, #ff8a80); font-weight: 600; } .muted { opacity: .7; }
div { overflow-x: auto; }
""".strip()


def content_security_policy(style: str) -> str:
    """For a page with this style and nothing else: no script, image or frame, whatever a name on it is."""
    return (
        "default-src 'none'; "
        f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


CONTENT_SECURITY_POLICY = content_security_policy(_STYLE)

_BAD_STATES = ("failing", "unusable", "ended")


def render(
    status: Mapping[str, Any], streams: Sequence[Mapping[str, Any]], endpoints: Mapping[str, str]
) -> str:
    """The page for a `/-/status` document, the watches and tunnels that run, and what is below `/-/`."""
    contexts = status["contexts"]
    up_for = _duration(status["uptime_seconds"])
    ending = ' <span class="bad">It is shutting down.</span>' if status["is_draining"] else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>kproxy</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>kproxy</h1>
<p>Version {_text(status["version"])}, process {_text(status["pid"])}, up for {_text(up_for)}.{ending}</p>
<h2>Contexts</h2>
{_contexts(contexts)}
<h2>Watches and tunnels</h2>
{_streams(streams)}
<h2>Last errors</h2>
{_errors(contexts)}
<h2>Listeners</h2>
{_listeners(status["listeners"])}
<h2>For programs</h2>
{_table(("Path", "What"), ((_link(path, path), _text(about)) for path, about in endpoints.items()))}
</body>
</html>
"""


def _contexts(contexts: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        (
            "Context",
            "Server",
            "State",
            "Credential",
            "Ends",
            "#Requests now",
            "#Watches",
            "#Tunnels",
            "#Connections",
        ),
        (
            (
                _link(each["url"] or each["path"], each["name"]) + (" (default)" if each["default"] else ""),
                _text(each["server"]),
                _state(each["state"]) + _last_words(each["credential"]),
                _credential(each),
                _time(each["credential"]["expires_at"]),
                *(_text(each[key]) for key in ("in_flight", "watches", "tunnels", "connections")),
            )
            for each in contexts
        ),
    )


def _streams(streams: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("Context", "Path", "Client", "#For"),
        (
            (
                _text(each["context"]),
                _text(f"{each['method']} {each['path']}"),
                _text(each["client"]),
                _text(_duration(each["seconds"])),
            )
            for each in streams
        ),
        empty="None are running.",
    )


def _credential(context: Mapping[str, Any]) -> str:
    """Its kind, and its state where that is worth a word."""
    kind, state = _text(context["credential"]["kind"]), context["credential"].get("state")
    is_told = state in (None, "valid") or state == context["state"]
    return kind if is_told else f"{kind}, {_state(state)}"


def _last_words(credential: Mapping[str, Any]) -> str:
    """What the program that is waited for says, perhaps where to log in."""
    words = credential.get("last_words")
    return f"<br>{_lines(words)}" if words else ""


def _errors(contexts: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (_text(each["name"]), _time(each["last_error"]["at"]), _lines(each["last_error"]["message"]))
        for each in contexts
        if each["last_error"]
    ]
    rows += [
        (_text(each["name"]), _time(None), "Renewing the credential: " + _lines(problem))
        for each in contexts
        if (problem := each["credential"].get("problem"))
        and problem != (each["last_error"] or {}).get("message")
    ]
    return _table(("Context", "When", "What"), rows, empty="None since the start.")


def _listeners(listeners: Iterable[Mapping[str, Any]]) -> str:
    rows = ((_text(each["address"]), "https" if each["tls"] else "http") for each in listeners)
    return _table(("Address", "Protocol"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "None.") -> str:
    """`rows` are cells of HTML; a column whose head begins with # holds numbers."""
    is_number = [head.startswith("#") for head in heads]
    kinds = [' class="number"' if each else "" for each in is_number]
    body = [
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    if not body:
        return f'<p class="muted">{empty}</p>'
    head = "".join(
        f"<th{kind}>{_text(name.lstrip('#'))}</th>" for kind, name in zip(kinds, heads, strict=True)
    )
    return "<div><table>\n<tr>" + head + "</tr>\n" + "\n".join(body) + "\n</table></div>"


def _state(state: str) -> str:
    return f'<span class="{"state bad" if state in _BAD_STATES else "state"}">{_text(state)}</span>'


def _time(at: str | None) -> str:
    if not at:
        return '<span class="muted">-</span>'
    words = at.replace("T", " ").replace("+00:00", " UTC")
    return f'<time datetime="{_text(at)}">{_text(words)}</time>'


def _link(url: str, text: str) -> str:
    return f'<a href="{_text(url)}">{_text(text)}</a>'


def _text(value: object) -> str:
    """Anything as text of HTML; names come from files and requests that somebody else may have written."""
    text = "-" if value is None else str(value)
    return escape("".join(char if char.isprintable() else "\ufffd" for char in text))


def _lines(text: str) -> str:
    return "<br>".join(map(_text, text.split("\n")))


def _duration(seconds: float) -> str:
    """The two largest units: `3 d 4 h`, `12 s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])

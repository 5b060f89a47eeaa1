"""How some sixty servers read a path: models of what stands between a proxy and an API server, and of that.

Written from what these programs do, and sharing no code with kproxy.policy: what the filters leave out is to
come to light. A model takes the path on the wire, bytes as latin-1, and gives what the API server is asked
for in the end; None where the server refuses. Paths that a gateway hands on encoded are decoded once more, as
Go does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlparse

Reader = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Model:
    """One way to read a path. A `lax` one makes something else of names that others leave alone."""

    name: str
    read: Reader
    is_lax: bool = False


# -- what they are made of --


def decode(path: str) -> str:
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path


def decode_if(keep: str) -> Callable[[str], str]:
    """Decode all but the characters of `keep`."""

    def step(path: str) -> str:
        pieces = path.split("%")
        read = pieces[0]
        for piece in pieces[1:]:
            code = piece[:2]
            if re.fullmatch("[0-9a-fA-F]{2}", code) and chr(int(code, 16)) not in keep:
                read += chr(int(code, 16)) + piece[2:]
            else:
                read += "%" + piece
        return read

    return step


UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
decode_unreserved = decode_if("".join(chr(code) for code in range(256) if chr(code) not in UNRESERVED))
decode_but_slash = decode_if("/")
decode_but_slashes = decode_if("/\\")
decode_dots = decode_if("".join(chr(code) for code in range(256) if chr(code) != "."))
decode_slashes = decode_if("".join(chr(code) for code in range(256) if chr(code) not in "/\\"))


def strip(path: str) -> str:
    """Without parameters, segment by segment."""
    return "/".join(segment.split(";")[0] for segment in path.split("/"))


def strip_session(path: str) -> str:
    return re.sub(";[jJ][sS][eE][sS][sS][iI][oO][nN][iI][dD]=[^;/]*", "", path)


def merge(path: str) -> str:
    while "//" in path:
        path = path.replace("//", "/")
    return path


def backslash(path: str) -> str:
    return "/".join(path.split("\\"))


def rfc(path: str) -> str:
    """RFC 3986, 5.2.4, to the letter."""
    rest, done = path, ""
    while rest:
        if rest.startswith("/./"):
            rest = rest[2:]
        elif rest == "/.":
            rest = "/"
        elif rest.startswith("/../") or rest == "/..":
            rest = "/" + rest[4:]
            done = done[: done.rfind("/")] if "/" in done else ""
        else:
            end = rest.find("/", 1)
            end = len(rest) if end < 0 else end
            done += rest[:end]
            rest = rest[end:]
    return done


def clean(path: str) -> str:
    """path.Clean of Go, with the slash at the end that net/http puts back."""
    cleaned = posixpath.normpath("/" + path)
    cleaned = "/" + cleaned.lstrip("/")
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def before(*ends: str) -> Callable[[str], str]:
    def step(path: str) -> str:
        for end in ends:
            path = path.split(end)[0]
        return path

    return step


def drop(characters: str) -> Callable[[str], str]:
    nothing = dict.fromkeys(map(ord, characters))
    return lambda path: path.translate(nothing)


TABS = "\t\r\n"
CONTROLS = "".join(map(chr, range(0x20))) + "\x7f"


def overlong(path: str) -> str:
    """A decoder of UTF-8 that believes lead bytes."""
    if path.isascii():
        return path
    raw = path.encode("latin-1")
    read = ""
    at = 0
    while at < len(raw):
        byte = raw[at]
        size = next(
            (size for lead, size in ((0xFC, 6), (0xF8, 5), (0xF0, 4), (0xE0, 3), (0xC0, 2)) if byte >= lead),
            1,
        )
        tail = raw[at + 1 : at + size]
        if size > 1 and len(tail) == size - 1 and all(0x80 <= each < 0xC0 for each in tail):
            value = byte & (0x7F >> size)
            for each in tail:
                value = value << 6 | each & 0x3F
            read += chr(value) if value < 0x80 else raw[at : at + size].decode("latin-1")
            at += size
        else:
            read += chr(byte)
            at += 1
    return read


def best_fit(path: str) -> str:
    if path.isascii():
        return path
    text = path.encode("latin-1").decode("utf-8", "surrogateescape")
    fits = {
        0x2044: "/",
        0x2215: "/",
        0x2216: "\\",
        **{0xFF00 + code: chr(0x20 + code) for code in range(1, 0x5F)},
    }
    return text.translate(fits).encode("utf-8", "surrogateescape").decode("latin-1")


def refuse(pattern: str) -> Callable[[str], str | None]:
    return lambda path: None if re.search(pattern, path) else path


def refuse_above_root(path: str) -> str | None:
    depth = 0
    for segment in path.split("/")[1:]:
        depth += {"..": -1, ".": 0, "": 0}.get(segment, 1)
        if depth < 0:
            return None
    return path


def steps(*each: Callable[[str], str | None]) -> Reader:
    def read(path: str) -> str | None:
        current: str | None = path
        for step in each:
            if current is None:
                return None
            current = step(current)
        return current

    return read


# -- those that are more than steps --


def servlet6(path: str) -> str:
    """Servlet 6.0, 3.5.2: segments lose parameters, are decoded, dots go; a decoded slash splits nothing."""
    kept: list[str] = []
    for raw in path.split("/")[1:]:
        segment = decode(raw.split(";")[0])
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


def spring_path_pattern(path: str) -> str:
    """PathContainer: segments of the raw path, each without parameters and decoded; dots are names."""
    return "/".join(decode(segment.split(";")[0]) for segment in path.split("/"))


def undertow(path: str) -> str:
    """Decodes as it goes; parameters begin at a raw semicolon and end at a raw slash."""
    read = ""
    in_parameters = False
    at = 0
    while at < len(path):
        char = path[at]
        if char == "/":
            in_parameters = False
        elif char == ";":
            in_parameters = True
        if not in_parameters:
            if char == "%" and re.match("[0-9a-fA-F]{2}", path[at + 1 :]):
                char = chr(int(path[at + 1 : at + 3], 16))
                at += 2
            read += char
        at += 1
    return read


def rack(path: str) -> str:
    """Rack::Utils.clean_path_info, which splits at the separators of all systems."""
    kept: list[str] = []
    for segment in re.split(r"[/\\]", decode(path)):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    return "/" + "/".join(kept)


def python_urlparse(path: str) -> str:
    parsed = urlparse("http://h" + re.sub(f"[{TABS}]", "", path))
    return clean(decode(parsed.path))


def apache_2_4_49(path: str) -> str:
    """CVE-2021-41773: a second encoded dot is missed where dots are looked for; then all is decoded."""
    looked_at = re.sub(r"(?i)(?<=/)%2e", ".", path)
    return decode(rfc(merge(looked_at)))


go = steps(decode, clean)

MODELS: tuple[Model, ...] = (
    # Go
    Model("API server", decode),
    Model("API server, go-restful", steps(decode, lambda path: path.rstrip("/") or "/")),
    Model("Go's ServeMux", go),
    Model("gorilla mux with UseEncodedPath", steps(clean, go)),
    Model("Traefik", steps(clean, decode)),
    Model("Caddy with rewrite", steps(decode, merge, clean)),
    Model("Caddy behind Caddy", steps(go, go)),
    Model("a gateway that decodes twice", steps(decode, decode)),
    Model("a gateway that decodes three times", steps(decode, decode, decode)),
    Model("decodes, cleans, decodes, cleans, decodes, cleans", steps(go, go, go)),
    # C and C++
    Model("nginx", steps(before("#"), decode, refuse("\0"), merge, refuse_above_root, rfc)),
    Model("nginx, merge_slashes off", steps(before("#"), decode, refuse_above_root, rfc)),
    Model("nginx, proxy_pass with $uri", steps(decode, merge, rfc, before("?", "#"), go)),
    Model("nginx behind nginx", steps(decode, merge, rfc, decode, merge, rfc)),
    Model("Envoy", decode),
    Model("Envoy, normalize_path", steps(backslash, decode_unreserved, rfc, decode)),
    Model("Envoy, merge_slashes", steps(backslash, decode_unreserved, rfc, merge, decode)),
    Model("Envoy, UNESCAPE_AND_FORWARD", steps(decode_slashes, backslash, decode_dots, rfc, merge, go)),
    Model("Envoy, KEEP_UNCHANGED, then Go's mux", steps(backslash, decode_dots, rfc, merge, go)),
    Model("HAProxy, normalize-uri", steps(decode_unreserved, rfc, merge, rfc, decode)),
    Model("HAProxy, fragment-strip and path-strip-dotdot full", steps(before("#"), rfc, decode)),
    Model("HAProxy, path-merge-slashes, then Go's mux", steps(merge, rfc, go)),
    Model("Apache", steps(refuse("(?i)%2f"), decode, merge, rfc)),
    Model("Apache, AllowEncodedSlashes On", steps(decode, merge, rfc)),
    Model("Apache, AllowEncodedSlashes NoDecode", steps(decode_but_slash, merge, rfc, decode)),
    Model("Apache, MergeSlashes Off", steps(decode_unreserved, rfc, decode)),
    Model("Apache 2.4.49", apache_2_4_49),
    Model("Apache with mod_rewrite (CVE-2024-38475)", steps(decode, merge, rfc, before("?"), go)),
    Model("Apache, then Tomcat", steps(rfc, merge, strip, decode, merge, rfc)),
    Model("lighttpd, url-normalize", steps(decode_unreserved, decode_slashes, backslash, rfc, merge, decode)),
    Model("Kong", steps(decode_unreserved, merge, rfc, go)),
    Model("ModSecurity, normalisePathWin", steps(decode, drop("\0"), backslash, merge, rfc), is_lax=True),
    Model("Squid, uri_whitespace strip", steps(decode, drop(" " + TABS), clean), is_lax=True),
    Model("a program in C", steps(decode, before("\0"), clean), is_lax=True),
    Model("a program in C that trims", steps(decode, drop(CONTROLS + " "), clean), is_lax=True),
    Model(
        "drops control characters and decodes again",
        steps(decode, drop(CONTROLS), decode, clean),
        is_lax=True,
    ),
    # Java
    Model("Tomcat 10", steps(refuse("(?i)%2f|%5c"), strip, decode, merge, refuse_above_root, rfc)),
    Model("Tomcat 10, encodedSolidusHandling=decode", steps(strip, decode, merge, rfc)),
    Model(
        "Tomcat 10, encodedSolidusHandling=passthrough", steps(strip, decode_but_slash, merge, rfc, decode)
    ),
    Model("Tomcat 10, ALLOW_BACKSLASH", steps(strip, decode, backslash, merge, rfc)),
    Model("Tomcat behind Tomcat", steps(strip, decode, merge, rfc, strip, decode, merge, rfc)),
    Model("Tomcat, then an app that strips again", steps(strip, decode, strip, merge, rfc)),
    Model("Servlet 6", servlet6),
    Model("Servlet 6, then Go's mux", steps(servlet6, clean)),
    Model("Servlet 6, then Go's mux, which decodes", steps(servlet6, go)),
    Model("Jetty 9", steps(rfc, undertow)),
    Model("Jetty 9, then canonicalPath", steps(rfc, undertow, rfc)),
    Model("Jetty 12", steps(strip, decode_but_slashes, rfc, decode)),
    Model("Undertow", steps(undertow, clean)),
    Model("Undertow, decoding again", steps(undertow, go)),
    Model("WebLogic (CVE-2020-14882)", steps(decode, strip, clean, decode, strip, clean)),
    Model("WebSphere", steps(decode, strip, merge, rfc)),
    Model("Spring's UrlPathHelper", steps(strip, decode, merge)),
    Model("Spring's UrlPathHelper, keeping parameters", steps(strip_session, decode, merge)),
    Model("Spring's UrlPathHelper, then Go's mux", steps(strip_session, decode, merge, go)),
    Model("Spring's PathPattern", spring_path_pattern),
    Model("Spring's PathPattern, then Go's mux", steps(spring_path_pattern, clean)),
    Model(
        "Spring's StrictHttpFirewall", steps(refuse(r"(?i);|%3b|%2f|%5c|\\|%2e|%25|//|%00"), strip, decode)
    ),
    Model("java.net.URI.normalize", steps(rfc, decode)),
    Model("Shiro", steps(decode, before(";"), backslash, merge, rfc), is_lax=True),
    Model("Shiro 1.4", steps(before(";"), decode, backslash, merge, rfc), is_lax=True),
    # Windows
    Model("IIS", steps(decode, backslash, merge, rfc)),
    Model("IIS, allowDoubleEscaping", steps(decode, backslash, rfc, decode, backslash, merge, rfc)),
    Model("IIS 4, overlong UTF-8", steps(decode, overlong, backslash, merge, rfc), is_lax=True),
    Model("IIS 4, and decoded once more", steps(decode, overlong, decode, backslash, rfc), is_lax=True),
    Model("Windows, best fit", steps(decode, best_fit, backslash, merge, rfc), is_lax=True),
    Model("Kestrel", steps(decode_but_slash, rfc, decode)),
    Model("YARP", steps(decode_but_slash, rfc, go)),
    # JavaScript, Python, Ruby, PHP
    Model("Node's URL", steps(drop(TABS), before("#"), backslash, decode_dots, rfc, decode), is_lax=True),
    Model("Node's path.normalize", steps(decode, clean, before("?", "#"))),
    Model("Express behind a proxy that decodes", steps(decode, before("?"), before("#"), backslash, rfc, go)),
    Model("Python's urlparse", python_urlparse, is_lax=True),
    Model("yarl", steps(decode_unreserved, rfc, decode)),
    Model("Rack", rack),
    Model("PHP", steps(before("#"), decode, before("\0"), merge, rfc), is_lax=True),
    Model("old Java, modified UTF-8", steps(strip, decode, overlong, merge, rfc), is_lax=True),
)

"""Which Host is answered, and which pages of a browser."""

from __future__ import annotations

from tests.conformance.parity import differences as differs
from tests.conformance.parity.model import EXEC, Row, get, malformed, passes, post, refused, request


def good(id: str, host: str, why: str, *flags: str) -> Row:  # noqa: A002  # as the field is called
    return Row(id=f"host-{id}", why=why, send=get("/api", host=host), sees=passes(), flags=flags)


def bad(id: str, host: str, why: str, *flags: str) -> Row:  # noqa: A002
    return Row(id=f"host-{id}", why=why, send=get("/api", host=host), sees=refused(), flags=flags)


def stricter(id: str, host: str, why: str, *flags: str) -> Row:  # noqa: A002
    return Row(
        id=f"host-{id}",
        why=why,
        send=get("/api", host=host),
        sees=passes(),
        kproxy=refused(),
        flags=flags,
        differs=differs.HOST_SYNTAX,
    )


def looser(id: str, host: str, why: str, differs: str, *flags: str) -> Row:  # noqa: A002
    return Row(
        id=f"host-{id}",
        why=why,
        send=get("/api", host=host),
        sees=refused(),
        kproxy=passes(),
        flags=flags,
        differs=differs,
    )


def guarded(id: str, why: str, *lines: str, method: str = "GET") -> Row:  # noqa: A002
    """kubectl lets any page in."""
    send = request(method, "/api", *lines, body=b"{}" if method == "POST" else None)
    return Row(
        id=f"browser-{id}",
        why=why,
        send=send,
        sees=passes(method=method, body=b"{}" if method == "POST" else b""),
        kproxy=refused(),
        differs=differs.BROWSER_GUARD,
    )


NAVIGATION = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")

MINE = r"--accept-hosts=^my\.host$,example"
OPEN = ("--accept-hosts=^.*$", "--reject-paths=")

ROWS = [
    good("localhost", "localhost", "The default."),
    good("localhost-port", "localhost:@PORT@", "As clients write it."),
    good("other-port", "localhost:1", "A forwarded port is another one."),
    good("ip", "127.0.0.1", "The default."),
    good("ip-port", "127.0.0.1:@PORT@", "As clients write it."),
    good("ip6", "[::1]", "In kubectl's default list."),
    looser("ip6-port", "[::1]:@PORT@", "What every client sends over IPv6.", differs.IP6_HOST),
    looser("upper-case", "LOCALHOST:@PORT@", "Names have no case (RFC 9110, 4.2.3).", differs.HOST_CASE),
    bad("suffix", "localhost.evil.com", "A name rebound to this machine."),
    bad("ip-suffix", "127.0.0.1.evil.com", "The same."),
    bad("prefix", "evil-localhost", "The same."),
    bad("dot-is-literal", "127a0b0c1", "The dots of the default list are escaped."),
    bad("trailing-dot", "localhost.", "Another name to a browser."),
    bad("decimal-ip", "2130706433", "Browsers read 127.0.0.1."),
    bad("hex-ip", "0x7f000001", "The same."),
    bad("short-ip", "127.1", "The same."),
    bad("port-alone", ":8001", "No host."),
    bad("comma", "localhost,evil.com", "Two hosts in one."),
    bad("evil", "evil.com", "Not in the list."),
    stricter("two-ports", "127.0.0.1:80.evil.com", "What is behind the colon is no port."),
    stricter("port-letters", "localhost:abc", "The same."),
    Row(
        id="host-two",
        why="Each of two parsers may take another.",
        send=get("/api", "Host: localhost"),
        sees=malformed(),
    ),
    Row(
        id="host-two-different",
        why="The same, in earnest.",
        send=get("/api", "Host: evil.com"),
        sees=malformed(),
    ),
    Row(id="host-missing", why="RFC 9112, 3.2.", send=get("/api", host=None), sees=malformed()),
    Row(
        id="host-missing-1.0",
        why="HTTP/1.0 allows it; the host filter does not.",
        send=get("/api", host=None, version="HTTP/1.0"),
        sees=refused(end="closed"),
    ),
    Row(
        id="host-empty",
        why="No host is not an accepted one.",
        send=get("/api", host=""),
        sees=refused(end="either"),
    ),
    *(
        Row(
            id=f"host-{name}",
            why="Not a host, whatever the list says.",
            send=get("/api", host=host),
            sees=refused((400, 403), end="either"),
        )
        for name, host in (
            ("space", "localhost evil.com"),
            ("comma-space", "localhost, evil.com"),
            ("slash", "localhost/evil.com"),
            ("latin-1", "localh\xf6st"),
            ("userinfo", "localhost@evil.com"),
        )
    ),
    Row(
        id="host-nul",
        why="C programs end there.",
        send=get("/api", host="localhost\0.evil.com"),
        sees=malformed(),
    ),
    Row(
        id="host-forwarded",
        why="X-Forwarded-Host is what the client says.",
        send=get("/api", "X-Forwarded-Host: localhost", host="evil.com"),
        sees=refused(),
    ),
    Row(
        id="host-evil-post",
        why="The body of a refused request is read and thrown away.",
        send=post("/api", host="evil.com"),
        sees=refused(),
    ),
    Row(
        id="host-evil-unclean-path",
        why="A redirect is an answer, too.",
        send=get("//api", host="evil.com"),
        sees=refused(301),
        kproxy=refused(),
        differs=differs.GUARD_FIRST,
    ),
    good("own-list", "my.host:80", "--accept-hosts.", MINE),
    good("substring", "www.example.org", "Expressions are searched, not matched.", MINE),
    bad("own-list-dot", "myxhost", "An escaped dot is a dot.", MINE),
    bad("own-list-replaces", "localhost", "The default is gone then.", MINE),
    looser("own-list-case", "MY.HOST", "Names have no case.", differs.HOST_CASE, MINE),
    good("any-ip6", "[::1]:@PORT@", "Any host.", *OPEN),
    Row(
        id="host-any-empty",
        why="Any host is still a host.",
        send=get("/api", host=""),
        sees=passes(),
        kproxy=refused(),
        flags=OPEN,
        differs=differs.HOST_SYNTAX,
    ),
    bad("none-accepted", "localhost", "An empty list lets none in.", "--accept-hosts="),
    good("filter-off", "evil.com", "--disable-filter is for the host, too.", "--disable-filter=true"),
    Row(
        id="host-filter-off-1.0",
        why="And for a missing one.",
        send=get("/api", host=None, version="HTTP/1.0"),
        sees=passes(end="closed"),
        flags=("--disable-filter=true",),
    ),
    Row(
        id="exec-filter-off",
        why="--disable-filter lets exec through.",
        send=get(EXEC),
        sees=passes(EXEC),
        flags=("--disable-filter=true",),
    ),
    Row(
        id="browser-own-page",
        why="A page from --www uses the API.",
        send=post("/api", "Origin: http://127.0.0.1:@PORT@", host="127.0.0.1:@PORT@"),
        sees=passes(method="POST", body=b"{}"),
    ),
    Row(
        id="browser-typed-address",
        why="A person who types the address sees the answer.",
        send=get("/api", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"),
        sees=passes(),
    ),
    Row(
        id="browser-link",
        why="A link on another page may lead here; that page reads nothing.",
        send=get("/api", *NAVIGATION, "Sec-Fetch-User: ?1"),
        sees=passes(),
    ),
    Row(
        id="browser-referer",
        why="Referer says nothing about who may read.",
        send=get("/api", "Referer: http://evil.com/"),
        sees=passes(has={"Referer": "http://evil.com/"}),
    ),
    guarded("other-page", "A form of any page can do this.", "Origin: http://evil.com", method="POST"),
    guarded("null-origin", "Sandboxed frames send this.", "Origin: null", method="POST"),
    guarded("unclicked", "`location = ...` of any page, stopped at once.", *NAVIGATION),
    guarded("script", "<script> and <img>.", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
    guarded(
        "preflight",
        "A page asks for leave to delete.",
        "Origin: http://evil.com",
        "Access-Control-Request-Method: DELETE",
        method="OPTIONS",
    ),
    guarded("other-scheme", "An extension is no page of ours.", "Origin: chrome-extension://abc"),
]

"""Web pages of other sites get nothing; programs and the proxy's own pages get everything."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import BLOCK, answer, tunnel
from tests.support.client import Response, request_bytes

PROGRAM_ARGS = (r"--accept-origins=^https://dev\.example$",)
SECRETS = "/api/v1/secrets"
WINDOW = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
WEBSOCKET = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


def refused(response: Response, rule: str) -> None:
    """A `Status` that names the rule, marked as ours, and without leave for the page to read it."""
    assert response.status == 403, response.text
    status = response.json()
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "Forbidden", 403)
    assert response.value("Content-Type") == "application/json"
    assert response.value("Proxy-Status") == f'kproxy; error=http_request_denied; details="{rule}"'
    assert response.values("Access-Control-Allow-Origin") == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://localhost.evil.example", "null", "file://"]
)
async def test_a_page_of_another_origin_is_refused(gateway: Gateway, method: str, origin: str) -> None:
    """Reads, simple POSTs that need no leave, and preflights alike."""
    response = await gateway.request(method, SECRETS, [("Origin", origin)])
    refused(response, "accept-origins")
    assert gateway.upstream.requests == []


async def test_a_websocket_of_another_origin_is_refused(gateway: Gateway) -> None:
    """Browsers ask no leave for WebSockets: with kubectl proxy any page reads every Secret this way."""
    response = await gateway.request(
        "GET", f"{SECRETS}?watch=true", [*WEBSOCKET, ("Origin", "http://evil.example")]
    )
    refused(response, "accept-origins")
    assert "evil.example" in response.json()["message"]
    assert gateway.upstream.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "2130706433",
        "0x7f000001",
        "user@localhost",
        "",
        "localhost, evil.example",
    ],
)
async def test_another_host_is_refused(gateway: Gateway, host: str) -> None:
    """A name that an attacker rebound to 127.0.0.1 arrives with that name as its Host."""
    response = await gateway.request("GET", SECRETS, host=host)
    refused(response, "accept-hosts")
    assert gateway.upstream.requests == []


async def test_the_refusal_of_a_host_says_how_to_allow_it(gateway: Gateway) -> None:
    """A person who named their machine differently must not have to look for the flag."""
    response = await gateway.request("GET", "/api", host="mymachine:8001")
    refused(response, "accept-hosts")
    assert "Host 'mymachine:8001' is not in --accept-hosts" in response.json()["message"]
    assert "^mymachine$" in response.json()["message"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8001", "LocalHost", "127.0.0.1:8001", "[::1]:8001", "[::1]"]
)
async def test_names_of_this_machine_pass(gateway: Gateway, host: str) -> None:
    """Also the IPv6 loopback with a port, which kubectl's list does not match."""
    gateway.answers(answer(b"{}"))
    assert (await gateway.request("GET", "/api", host=host)).status == 200


@pytest.mark.parametrize("mode", ["no-cors", "cors", "websocket", "navigate"])
async def test_what_another_site_embeds_is_refused(gateway: Gateway, mode: str) -> None:
    """<img>, <script>, <iframe> and forms send no Origin, but browsers say Sec-Fetch-Site."""
    fields = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", mode)]
    fields.append(("Sec-Fetch-Dest", "iframe" if mode == "navigate" else "image"))
    refused(await gateway.request("GET", SECRETS, fields), "accept-origins")
    assert gateway.upstream.requests == []


async def test_a_form_of_another_site_is_refused(gateway: Gateway) -> None:
    """A top-level navigation, but a POST."""
    fields = [*WINDOW, ("Sec-Fetch-User", "?1")]
    refused(await gateway.request("POST", SECRETS, fields, b"a=b"), "accept-origins")


async def test_a_link_passes(gateway: Gateway) -> None:
    """A click in a chat opens the page for the person; the other site reads nothing of it."""
    gateway.answers(answer(b"{}"))
    assert (await gateway.request("GET", "/api", [*WINDOW, ("Sec-Fetch-User", "?1")])).status == 200


@pytest.mark.parametrize(
    ("user", "target"),
    [
        ([], "/api/v1/secrets?x=%22"),
        ([], "/-/"),
        ([], "/static/"),
        ([("Sec-Fetch-User", "?1")], "/api/v1/namespaces/n/services/s/proxy/?x"),
        ([("Sec-Fetch-User", "?1")], "/api/v1/namespaces/n/services/s/%70roxy/x"),
    ],
)
async def test_the_refusal_of_a_window_is_a_page_with_a_link(
    gateway: Gateway, user: list[tuple[str, str]], target: str
) -> None:
    """The user can go on by hand: that click comes from our own origin. In Safari it takes that always."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    response = await client.request("GET", target, [*WINDOW, *user])
    assert response.status == 403
    assert response.value("Content-Type") == "text/html; charset=utf-8"
    assert f'<a href="{target}">' in response.text
    assert response.value("Proxy-Status") == 'kproxy; error=http_request_denied; details="accept-origins"'
    assert response.value("X-Frame-Options") == "DENY"
    assert gateway.upstream.requests == []
    by_hand = [("Sec-Fetch-Site", "same-origin"), *WINDOW[1:], ("Sec-Fetch-User", "?1")]
    assert (await client.request("GET", target, by_hand)).status != 403


@pytest.mark.parametrize(
    "name", ["Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-User", "Sec-Purpose"]
)
@pytest.mark.parametrize("is_upgrade", [False, True])
async def test_a_field_of_browsers_is_given_once(gateway: Gateway, name: str, is_upgrade: bool) -> None:
    """Of two, one parser takes the first and another the last; no browser sends two."""
    values = {"Origin": "http://localhost:8001", "Sec-Fetch-Site": "same-origin"}
    value = values.get(name, "x")
    fields = [*(WEBSOCKET if is_upgrade else []), *values.items(), (name, value), (name.lower(), value)]
    response = await gateway.request("GET", SECRETS, fields, host="localhost:8001")
    assert response.status == 400
    assert f"more than one {name} header" in response.json()["message"]
    assert gateway.upstream.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("User-Agent", "curl/7.88.1"), ("Accept", "*/*")], id="curl"),
        pytest.param(
            [
                ("User-Agent", "kubectl/v1.32.5"),
                ("Accept", "application/json;as=Table"),
                ("Kubectl-Command", "get"),
            ],
            id="kubectl",
        ),
        pytest.param(
            [
                ("Origin", "http://localhost:8001"),
                ("Sec-Fetch-Site", "same-origin"),
                ("Sec-Fetch-Mode", "cors"),
            ],
            id="own page",
        ),
        pytest.param([("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")], id="typed address"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_programs_and_own_pages_pass(
    gateway: Gateway, headers: list[tuple[str, str]], method: str
) -> None:
    """What worked with kubectl proxy works."""
    gateway.answers(answer(b"{}"))
    response = await gateway.request(method, "/api", headers, host="localhost:8001")
    assert response.status == 200
    assert response.values("Proxy-Status") == []


async def test_a_websocket_of_an_own_page_passes(gateway: Gateway) -> None:
    """Dashboards under --www watch over WebSockets."""
    gateway.answers(tunnel())
    client = await gateway.connect()
    fields = [*WEBSOCKET, ("Origin", "http://localhost:8001")]
    await client.send(request_bytes("GET", f"{SECRETS}?watch=true", fields, host="localhost:8001"))
    assert (await client.read_head()).status == 101


async def test_an_accepted_origin_may_read(gateway: Gateway) -> None:
    """--accept-origins opens the proxy to a page, with the fields that its browser wants to see."""
    gateway.answers(answer(b"{}"))
    response = await gateway.request(
        "GET", "/api", [("Origin", "https://dev.example"), ("Sec-Fetch-Site", "cross-site")]
    )
    assert response.status == 200
    assert response.value("Access-Control-Allow-Origin") == "https://dev.example"
    assert response.value("Vary") == "Origin"


async def test_an_accepted_origin_may_read_what_kproxy_says(gateway: Gateway) -> None:
    """Refusals, failures, redirects: without leave to read them a page knows only that something failed."""
    await gateway.upstream.stop_listening()
    client = await gateway.connect()
    origin = [("Origin", "https://dev.example"), ("Sec-Fetch-Site", "cross-site")]
    exec_path = "/api/v1/namespaces/default/pods/web/exec"
    for path, status in [(exec_path, 403), ("/api", 502), ("/api//v1", 301), ("/-/status", 200)]:
        response = await client.request("GET", path, origin)
        assert response.status == status
        assert response.values("Access-Control-Allow-Origin") == ["https://dev.example"]
        assert response.value("Vary") == "Origin"
        response = await client.request("GET", path)
        assert response.status == status
        assert response.values("Access-Control-Allow-Origin") == []


async def test_a_preflight_of_an_accepted_origin_is_answered_here(gateway: Gateway) -> None:
    """The API server knows nothing of that page."""
    fields = [
        ("Origin", "https://dev.example"),
        ("Access-Control-Request-Method", "PATCH"),
        ("Access-Control-Request-Headers", "content-type"),
    ]
    response = await gateway.request("OPTIONS", "/api", fields)
    assert response.status == 204
    assert response.value("Access-Control-Allow-Methods") == "PATCH"
    assert response.value("Access-Control-Allow-Headers") == "content-type"
    assert gateway.upstream.requests == []


async def test_a_refused_upload_is_read_away_and_the_connection_kept(gateway: Gateway) -> None:
    """A short body of a refused request does not cost the connection."""
    gateway.answers(answer(b"{}"))
    client = await gateway.connect()
    refused(
        await client.request("POST", "/api", [("Origin", "http://evil.example")], b"x" * 1000),
        "accept-origins",
    )
    assert (await client.request("GET", "/api")).status == 200


async def test_a_huge_refused_upload_is_cut_off(gateway: Gateway) -> None:
    """But its answer arrives."""
    client = await gateway.connect()
    await client.send(
        request_bytes("POST", "/api", [("Origin", "http://evil.example"), ("Content-Length", "100000000")])
    )
    refused(await client.read_response(), "accept-origins")

    async def send_on() -> None:
        while True:
            await client.send(BLOCK)

    with pytest.raises(ConnectionError):
        await send_on()

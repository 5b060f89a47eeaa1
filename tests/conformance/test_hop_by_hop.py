"""Which header fields pass, and which belong to one hop only (RFC 9110, 7.6.1)."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Gateway
from tests.support import http1
from tests.support.answers import answer, echo, head, script
from tests.support.client import request_bytes
from tests.support.upstream import Request


async def forwarded(gateway: Gateway, *headers: tuple[str, str], method: str = "GET") -> Request:
    """The request as the API server saw it."""
    gateway.answers(answer(b"{}"))
    response = await gateway.request(method, "/api", headers)
    assert response.status == 200
    [request] = gateway.upstream.requests
    assert not http1.oddities(request.head)
    return request


async def test_the_credential_is_added(gateway: Gateway) -> None:
    """Token and client certificate are what the proxy is for: both reach the API server."""
    request = await forwarded(gateway)
    assert request.value("Authorization") == f"Bearer {gateway.token}"
    assert request.connection.client_certificate_cn == "alice"


async def test_an_authorization_of_the_client_replaces_the_credential(gateway: Gateway) -> None:
    """As kubectl proxy does: who brings a token of their own acts with it."""
    request = await forwarded(gateway, ("Authorization", "Bearer mine"))
    assert request.values("Authorization") == ["Bearer mine"]


async def test_an_empty_authorization_does_not_hide_the_credential(gateway: Gateway) -> None:
    """client-go takes an empty Authorization for none."""
    request = await forwarded(gateway, ("Authorization", ""))
    assert request.values("Authorization") == [f"Bearer {gateway.token}"]


@pytest.mark.parametrize("named", ["Host", "Content-Length", "Authorization", "X-Forwarded-For"])
async def test_naming_a_field_of_ours_in_connection_does_not_strip_it(gateway: Gateway, named: str) -> None:
    """Otherwise a client could take the credential or the framing off a request (RFC 9110, 7.6.1)."""
    gateway.answers(answer(b"{}"))
    response = await gateway.request("POST", "/api", [("Connection", named)], b"body")
    assert response.status == 200
    [request] = gateway.upstream.requests
    assert request.value("Host") == f"127.0.0.1:{gateway.upstream.port}"
    assert request.value("Authorization") == f"Bearer {gateway.token}"
    assert request.value("X-Forwarded-For") == "127.0.0.1"
    assert bytes(request.body.data) == b"body"


@pytest.mark.parametrize(
    "name", ["Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "TE", "Upgrade"]
)
async def test_a_hop_by_hop_field_of_a_request_is_dropped(gateway: Gateway, name: str) -> None:
    """It spoke to us; to the API server it would speak of another connection."""
    request = await forwarded(gateway, (name, "x"))
    assert request.values(name) == []


async def test_what_connection_names_is_dropped(gateway: Gateway) -> None:
    """A sender marks its own hop-by-hop fields that way."""
    request = await forwarded(gateway, ("Connection", "X-One, x-two"), ("X-One", "1"), ("X-Two", "2"))
    assert request.values("X-One") == request.values("X-Two") == request.values("Connection") == []


async def test_the_wish_for_trailers_passes(gateway: Gateway) -> None:
    """Trailers are passed on, so the wish for them may be; gRPC gateways ask."""
    request = await forwarded(gateway, ("TE", "trailers"), ("Connection", "TE"))
    assert request.value("TE") == "trailers"


async def test_end_to_end_fields_keep_spelling_order_and_duplicates(gateway: Gateway) -> None:
    """Nothing is folded, sorted or canonicalised: what is not ours is not touched."""
    fields = [
        ("x-lower", "a"),
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ("X-STREAM-Protocol-Version", "v3.channel.k8s.io"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("Forwarded", "for=1.2.3.4"),
        ("Via", "1.1 other"),
        ("X-Real-Ip", "1.2.3.4"),
        ("X-Remote-User", "root"),
        ("Referer", "http://localhost/"),
        ("X-Latin", "caf\xe9"),
        ("X-Empty", ""),
    ]
    request = await forwarded(gateway, *fields)
    names = {name.lower() for name, _ in fields}
    assert [field for field in request.headers if field[0].lower() in names] == fields


async def test_the_client_is_appended_to_x_forwarded_for(gateway: Gateway) -> None:
    """Several fields are joined, as Go's ReverseProxy joins them: audit logs read the last hop."""
    request = await forwarded(gateway, ("X-Forwarded-For", "a"), ("X-Forwarded-For", "b"))
    assert request.values("X-Forwarded-For") == ["a, b, 127.0.0.1"]


async def test_nothing_else_is_added(gateway: Gateway) -> None:
    """Host, credential, X-Forwarded-For, gzip and User-Agent: no Via, no X-Forwarded-Host, no Connection."""
    request = await forwarded(gateway)
    assert sorted(name for name, _ in request.headers) == [
        "Accept-Encoding",
        "Authorization",
        "Host",
        "User-Agent",
        "X-Forwarded-For",
    ]


@pytest.mark.parametrize("headers", [[("Range", "bytes=0-1")], [("Accept-Encoding", "identity")]])
async def test_gzip_is_not_asked_for_where_it_would_change_the_meaning(
    gateway: Gateway, headers: list[tuple[str, str]]
) -> None:
    """A range is of the bytes as stored, and a client that names encodings has chosen."""
    request = await forwarded(gateway, *headers)
    assert request.values("Accept-Encoding") == [value for name, value in headers if name != "Range"]


async def test_gzip_is_not_asked_for_on_head(gateway: Gateway) -> None:
    """There is nothing to unpack, and Content-Length must be that of the plain answer."""
    gateway.answers(answer(b"{}"))
    await gateway.request("HEAD", "/api")
    [request] = gateway.upstream.requests
    assert request.values("Accept-Encoding") == []


@pytest.mark.parametrize(
    "name", ["Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Upgrade", "X-Named"]
)
async def test_a_hop_by_hop_field_of_an_answer_is_dropped(gateway: Gateway, name: str) -> None:
    """The API server's connection is not the client's."""
    fields = [("Connection", "X-Named"), (name, "x"), ("Content-Length", "0")]
    gateway.answers(script(head(200, fields)))
    response = await gateway.request()
    assert response.values(name) == response.values("Connection") == []


async def test_a_worker_of_an_app_gets_no_more_than_its_own_folder(either: Gateway) -> None:
    """Service-Worker-Allowed would give it every page of the origin, those of other clusters too."""
    either.replies(b"self.onfetch = null", [("Service-Worker-Allowed", "/"), ("X-Other", "y")])
    response = await either.request("GET", "/api/v1/namespaces/x/services/app/proxy/sw.js")
    assert response.values("Service-Worker-Allowed") == []
    assert response.value("X-Other") == "y"


async def test_an_interim_answer_says_nothing_of_connection_and_framing(gateway: Gateway) -> None:
    """Early hints pass; what else a 103 may hold must not be taken for the answer's that follows."""
    framing = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]
    odd = [("Link", "</a>"), *framing, ("Connection", "close")]
    gateway.answers(script(head(103, odd) + head(200, [("Content-Length", "2")]) + b"{}"))
    response = await gateway.request()
    [interim] = response.interim
    assert [name for name, _ in interim.headers] == ["Link"]
    assert (response.framing, bytes(response.body.data)) == ("length", b"{}")


async def test_naming_content_length_in_an_answers_connection_does_not_strip_it(gateway: Gateway) -> None:
    """Without its length the client would read the next answer as part of this one."""
    gateway.answers(script(head(200, [("Connection", "Content-Length"), ("Content-Length", "2")]) + b"{}"))
    client = await gateway.connect()
    for _ in range(2):
        response = await client.request("GET", "/api")
        assert (response.framing, bytes(response.body.data)) == ("length", b"{}")


async def test_an_answers_fields_keep_spelling_order_and_duplicates(gateway: Gateway) -> None:
    """Warning and Set-Cookie come more than once; Audit-Id and the flow-control fields are for the client."""
    fields = [
        ("x-lower", "1"),
        ("Warning", '299 - "a"'),
        ("Warning", '299 - "b"'),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Audit-Id", "id-1"),
        ("X-Kubernetes-Pf-Flowschema-Uid", "u"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("WWW-Authenticate", "Bearer"),
        ("Retry-After", "1"),
    ]
    gateway.answers(script(head(429, [*fields, ("Content-Length", "0")], reason="Slow Down")))
    response = await gateway.request()
    assert (response.status, response.reason) == (429, "Slow Down")
    assert response.headers == [*fields, ("Content-Length", "0")]


async def test_a_missing_date_is_added(gateway: Gateway) -> None:
    """An origin server must send one, a proxy adds it (RFC 9110, 6.6.1)."""
    gateway.answers(script(head(200, [("Content-Length", "0")])))
    response = await gateway.request()
    assert len(response.values("Date")) == 1


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503])
async def test_the_api_servers_status_passes_untouched(gateway: Gateway, status: int) -> None:
    """A verdict of the API server is never replaced, followed or renewed away by one of ours."""
    gateway.answers(answer(b'{"kind":"Status"}', status, [("Location", "https://elsewhere.example/")]))
    response = await gateway.request("GET", "/api", [("Authorization", "Bearer mine")])
    assert response.status == status
    assert bytes(response.body.data) == b'{"kind":"Status"}'
    assert response.values("Proxy-Status") == []
    assert len(gateway.upstream.requests) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_the_framing_of_a_request_body_stays(gateway: Gateway, framing: str) -> None:
    """Content-Length stays Content-Length, chunked stays chunked: some servers ask for one of them."""
    gateway.answers(echo())
    client = await gateway.connect()
    if framing == "length":
        await client.send(request_bytes("POST", "/api", body=b"hello"))
    else:
        await client.send(
            request_bytes("POST", "/api", [("Transfer-Encoding", "chunked")])
            + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
        )
    seen = (await client.read_response()).json()
    assert (seen["body"], seen["framing"]) == ("hello", framing)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_an_empty_body_is_said(gateway: Gateway, method: str) -> None:
    """A POST without Content-Length leaves some servers waiting (RFC 9110, 8.6)."""
    request = await forwarded(gateway, method=method)
    assert request.values("Content-Length") == ["0"]


async def test_a_get_with_a_body_is_forwarded_with_it(gateway: Gateway) -> None:
    """DELETE with options is common, GET with a body is legal: dropping one changes the request."""
    gateway.answers(echo())
    response = await gateway.request("GET", "/api", body=b"x")
    assert response.json()["body"] == "x"

"""Request targets travel byte for byte; what only looks like a path is answered here."""

from __future__ import annotations

import json

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import answer, echo

HOST = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"

UNTOUCHED = (
    "/",
    "/api/v1/namespaces/a%2Fb/pods",
    "/api/v1/pods?labelSelector=a%3Db,c%20in%20(d)&limit=1",
    "/api/v1/pods?",
    "/api/v1/pods?a;b&c=%zz&&=#",
    "/api/v1/pods?x=/../y//z",
    "/api/v1/namespaces/%e2%82%ac",
    "/apis/apps/v1/deployments?a=1?b=2",
    "/x%00y%0d%0az",
    "/api/v1/namespaces/ns/services/http:web:80/proxy/a//b/../c/./d%2f",
    "/api/v1/nodes/n1/proxy//stats/summary",
    "/api/v1/namespaces/ns/pods/p/portforward",
)


@pytest.mark.parametrize("target", UNTOUCHED)
async def test_a_target_travels_byte_for_byte(gateway: Gateway, target: str) -> None:
    """Decoding and encoding again would change names with a slash, odd selectors and signed URLs."""
    gateway.answers(answer(b"{}"))
    _, response = await gateway.raw(b"GET " + target.encode() + HOST)
    assert response.status == 200, response.text
    assert [request.target for request in gateway.upstream.requests] == [target]


async def test_bytes_beyond_ascii_travel_too(gateway: Gateway) -> None:
    """Browsers escape them, scripts do not; kubectl proxy lets them pass."""
    gateway.answers(answer(b"{}"))
    _, response = await gateway.raw("GET /api/v1/namespaces/gr\xfcn".encode() + HOST)
    assert response.status == 200
    [request] = gateway.upstream.requests
    assert request.head.start_line.encode("latin-1") == "GET /api/v1/namespaces/gr\xfcn HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//api", "/api"),
        ("/api//v1?x=//", "/api/v1?x=//"),
        ("/api/./v1", "/api/v1"),
        ("/a/../api", "/api"),
        ("/api/v1/..", "/api"),
        ("/../../etc", "/etc"),
    ],
)
@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308), ("DELETE", 308)])
async def test_an_unclean_path_is_redirected(
    gateway: Gateway, target: str, location: str, method: str, status: int
) -> None:
    """As Go's mux does, but a redirect never turns a POST into a GET."""
    _, response = await gateway.raw(f"{method} {target}".encode() + HOST)
    assert (response.status, response.value("Location")) == (status, location)
    assert gateway.upstream.requests == []


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
async def test_connect_and_trace_are_refused(gateway: Gateway, method: str) -> None:
    """CONNECT would make us an open relay, TRACE would show the credential we added."""
    _, response = await gateway.raw(f"{method} /api".encode() + HOST)
    assert response.status == 405
    assert response.json()["kind"] == "Status"
    assert gateway.upstream.requests == []


async def test_an_authority_as_target_is_refused(gateway: Gateway) -> None:
    """That form belongs to CONNECT."""
    _, response = await gateway.raw(b"GET localhost:80" + HOST)
    assert response.status == 400
    assert gateway.upstream.requests == []


async def test_the_host_of_an_absolute_target_counts(gateway: Gateway) -> None:
    """RFC 9112, 3.2.2: otherwise `GET http://evil/ ... Host: localhost` would pass the host filter."""
    _, response = await gateway.raw(b"GET http://evil.example/api" + HOST)
    assert response.status == 403
    assert gateway.upstream.requests == []


async def test_an_absolute_target_is_forwarded_as_a_path(gateway: Gateway) -> None:
    """Clients that take us for a forward proxy send it; the API server wants a path."""
    gateway.answers(answer(b"{}"))
    _, response = await gateway.raw(
        b"GET http://localhost:8001/api?x=%2F HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    )
    assert response.status == 200
    [request] = gateway.upstream.requests
    assert (request.target, request.value("Host")) == ("/api?x=%2F", f"127.0.0.1:{gateway.upstream.port}")


@pytest.mark.parametrize("method", ["get", "PROPFIND", "M-SEARCH", "OPTIONS", "x"])
async def test_any_method_is_forwarded(gateway: Gateway, method: str) -> None:
    """An API server behind a service proxy may know methods that Kubernetes does not."""
    gateway.answers(echo())
    _, response = await gateway.raw(f"{method} /api".encode() + HOST)
    assert response.json()["method"] == method


async def test_a_long_target_passes(gateway: Gateway) -> None:
    """Selectors of controllers run to tens of kilobytes."""
    gateway.answers(answer(b"{}"))
    target = "/api/v1/pods?labelSelector=" + "a" * 60_000
    _, response = await gateway.raw(b"GET " + target.encode() + HOST)
    assert response.status == 200
    assert gateway.upstream.requests[0].target == target


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/namespaces/ns/pods/p/exec",
        "/api/v1/namespaces/ns/pods/p/attach?stdin=true",
        "/api/v1/namespaces/ns/pods/p%2fexec",
        "/x/%2e%2e/api/v1/namespaces/ns/pods/p/exec",
        "/x/..%2Fapi/v1/namespaces/ns/pods/p/exec",
        "/api/v1/namespaces/ns/pods/p/%65xec",
        "/api/v1/namespaces/default/pods/web;%2Fproxy%2F/exec",
        "/api/v1/namespaces/default/pods;%2Fy%2Fproxy%2F/web/attach",
        "/api/v1/namespaces/default/pods/web%C0%AFexec",
    ],
)
async def test_exec_is_refused_however_it_is_written(gateway: Gateway, target: str) -> None:
    """The filter judges what the API server would read, not only what was written."""
    _, response = await gateway.raw(b"POST " + target.encode() + HOST)
    assert response.status == 403, response.text
    status = json.loads(response.text)
    assert (status["kind"], status["reason"]) == ("Status", "Forbidden")
    assert "--reject-paths" in status["message"]
    assert response.value("Proxy-Status") == 'kproxy; error=http_request_denied; details="reject-paths"'
    assert gateway.upstream.requests == []


async def test_a_path_with_too_many_readings_is_refused(gateway: Gateway) -> None:
    """With the reason, and before it costs others their time."""
    odd = "/" + "%255c..;%2F%00.%2e/%2509.%23%c0%af%3f" * 200
    _, response = await gateway.raw(b"GET " + odd.encode() + HOST)
    assert response.status == 403, response.text
    assert "too long to be judged in every way it may be read" in response.json()["message"]
    assert gateway.upstream.requests == []

"""An --api-prefix that is part of the path: nothing outside of it is forwarded."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Gateway
from tests.support.answers import answer

PROGRAM_ARGS = ("--api-prefix=/api/v1/namespaces/dev/", "--disable-filter")
DEV = "/api/v1/namespaces/dev"


@pytest.mark.parametrize(
    "path",
    [
        "/%2e%2e/prod/secrets",
        "/..%2Fprod/secrets",
        "/..;/prod/secrets",
        "/..%5Cprod/secrets",
        "/%252e%252e/prod/secrets",
        "/x;%2Fa/%2e%2e/%2e%2e/prod/secrets",
        "/x%2Fa/%2e%2e/%2e%2e/prod/secrets",
        "/%c0%ae%c0%ae/prod/secrets",
        "/services/s/proxy/../../../../prod/secrets",
    ],
)
async def test_no_reading_leads_out_of_the_prefix(gateway: Gateway, path: str) -> None:
    """A namespace beside it is not reached, also where filters are off, as it is not through kubectl."""
    response = await gateway.request("GET", DEV + path)
    assert response.status == 403, response.text
    assert "leads out of --api-prefix='/api/v1/namespaces/dev/'" in response.json()["message"]
    assert response.value("Proxy-Status") == 'kproxy; error=http_request_denied; details="api-prefix"'
    assert gateway.upstream.requests == []


@pytest.mark.parametrize("path", ["/pods", "/", "/services/s/proxy/a%2Fb;c=d/../e", "/pods/p/exec"])
async def test_what_is_below_the_prefix_is_forwarded(gateway: Gateway, path: str) -> None:
    """As it came, with what an app behind a service makes of its own paths."""
    gateway.answers(answer(b"{}"))
    response = await gateway.request("GET", DEV + path)
    assert response.status == 200, response.text
    assert [request.target for request in gateway.upstream.requests] == [DEV + path]

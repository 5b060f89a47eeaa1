"""Failures of ours are Kubernetes `Status` objects that say what to do, on a connection that stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.conftest import Gateway, Pki
from tests.support.answers import Step, answer, script
from tests.support.channel import Channel
from tests.support.client import RawClient, Response, request_bytes
from tests.support.pki import CA
from tests.support.ports import reserved_port
from tests.support.program import Program, kubeconfig
from tests.support.upstream import ByteUpstream

REASONS = {502: "BadGateway", 504: "Timeout"}


def failed(response: Response, proxy_error: str, status: int = 502) -> str:
    """The message of a well-formed failure."""
    assert response.status == status, response.text
    body = response.json()
    assert body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": body["message"],
        "reason": REASONS[status],
        "code": status,
    }
    assert response.value("Content-Type") == "application/json"
    assert response.value("Proxy-Status") == f"kproxy; error={proxy_error}"
    assert body["message"].startswith("kproxy: ")
    return str(body["message"])


async def fails(gateway: Gateway, proxy_error: str, method: str = "GET") -> str:
    """One failing request; the connection must take a second one."""
    client = await gateway.connect()
    await client.request(method, "/api")
    message = failed(await client.request(method, "/api"), proxy_error)
    assert 'context "test"' in message
    return message


async def test_a_refused_connection(gateway: Gateway) -> None:
    """The cluster is down, or the VPN is."""
    await gateway.upstream.stop_listening()
    message = await fails(gateway, "connection_refused")
    assert f"https://127.0.0.1:{gateway.upstream.port}" in message


async def test_an_unknown_authority(gateway: Gateway) -> None:
    """The message leads to the field that holds the authority."""
    await gateway.replace_upstream(tls=CA("other").server_context())
    assert "certificate-authority" in await fails(gateway, "tls_certificate_error")


async def test_a_certificate_for_another_name(gateway: Gateway, pki: Pki) -> None:
    """The message leads to server and tls-server-name."""
    await gateway.replace_upstream(tls=pki.ca.server_context("other.example"))
    assert "tls-server-name" in await fails(gateway, "tls_certificate_error")


async def test_a_client_certificate_that_is_not_accepted(gateway: Gateway, pki: Pki) -> None:
    """TLS 1.3 servers say so only after the handshake, when the request is on its way."""
    await gateway.replace_upstream(tls=pki.ca.server_context(client_ca=CA("other")))
    assert "client certificate" in await fails(gateway, "tls_alert_received")


async def test_an_api_server_without_tls(gateway: Gateway) -> None:
    """`https` for `http` in a kubeconfig."""

    async def speak_http(channel: Channel) -> None:
        await channel.recv()
        await channel.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    await gateway.replace_upstream(tls=None, before_handshake=speak_http)
    assert "does not speak TLS" in await fails(gateway, "tls_protocol_error")


async def test_a_kubeconfig_that_leads_to_kproxy_itself(tmp_path: Path) -> None:
    """As that of `kproxy kubeconfig`: each round would take a connection more, thousands of them."""
    with reserved_port() as port:
        config = kubeconfig(tmp_path, f"http://127.0.0.1:{port}")
        async with (
            Program(f"--port={port}", kubeconfig=config) as program,
            await RawClient.connect(program.address) as client,
        ):
            message = failed(await client.request("GET", "/api"), "proxy_loop_detected")
    assert f"does http://127.0.0.1:{port} lead to kproxy itself?" in message


async def test_an_end_before_the_answer(gateway: Gateway) -> None:
    """An API server that is being restarted."""
    gateway.answers(script(Step.CLOSE))
    assert "before it answered" in await fails(gateway, "connection_terminated")


async def test_a_reset_before_the_answer(gateway: Gateway) -> None:
    """A firewall that has forgotten the connection."""
    gateway.answers(script(Step.RESET))
    await fails(gateway, "connection_terminated")


async def test_an_end_in_the_head(gateway: Gateway) -> None:
    """Half a head is no answer."""
    gateway.answers(script(b"HTTP/1.1 200 OK\r\nContent-", Step.CLOSE))
    assert "in the middle of its answer" in await fails(gateway, "connection_terminated")


async def test_head_fails_without_a_body(gateway: Gateway) -> None:
    """The connection stays usable."""
    await gateway.upstream.stop_listening()
    client = await gateway.connect()
    for _ in range(2):
        response = await client.request("HEAD", "/api")
        assert (response.status, response.body.size) == (502, 0)
        assert response.value("Proxy-Status") == "kproxy; error=connection_refused"


async def test_an_upload_that_fails_is_answered(gateway: Gateway) -> None:
    """Its body was waiting for the connection that never came."""
    await gateway.upstream.stop_listening()
    client = await gateway.connect()
    response = await client.request("POST", "/api", body=b"x" * 100_000)
    failed(response, "connection_refused")
    gateway.upstream.start_listening()
    gateway.answers(answer(b"{}"))
    assert (await client.request("GET", "/api")).status == 200


async def test_an_upgrade_that_fails_is_answered(gateway: Gateway) -> None:
    """kubectl shows the message of the `Status`."""
    await gateway.upstream.stop_listening()
    client = await gateway.connect()
    target = "/api/v1/namespaces/ns/pods/p/portforward"
    await client.send(request_bytes("POST", target, [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]))
    failed(await client.read_response(), "connection_refused")


async def test_the_cluster_coming_back_needs_no_restart(gateway: Gateway) -> None:
    """The next request after the VPN is up works."""
    await gateway.upstream.stop_listening()
    client = await gateway.connect()
    failed(await client.request("GET", "/api"), "connection_refused")
    gateway.upstream.start_listening()
    gateway.answers(answer(b"{}"))
    assert (await client.request("GET", "/api")).status == 200


async def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    """The VPN with the names of the cluster is down."""
    config = kubeconfig(tmp_path, "https://kproxy-test.invalid:6443")
    async with Program(kubeconfig=config) as program, await RawClient.connect(program.address) as client:
        message = failed(await client.request("GET", "/api"), "dns_error")
        assert "kproxy-test.invalid" in message


async def test_a_token_file_that_vanishes_is_no_failure(tmp_path: Path, pki: Pki) -> None:
    """While it is being replaced the last token stays in force."""
    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    async with ByteUpstream(answer(b"{}"), tls=pki.ca.server_context()) as upstream:
        user = {"tokenFile": str(token_file)}
        config = kubeconfig(tmp_path, upstream, ca_pem=pki.ca.pem, user=user)
        async with Program(kubeconfig=config) as program, await RawClient.connect(program.address) as client:
            token_file.unlink()
            assert (await client.request("GET", "/api")).status == 200
            assert upstream.requests[-1].value("Authorization") == "Bearer first"


async def test_every_failure_is_one_log_line(gateway: Gateway) -> None:
    """With the status of the client, the reason, and no traceback (`Program` looks for those)."""
    await gateway.upstream.stop_listening()
    await gateway.request(target="/api/v1/namespaces/logged")
    [line] = await gateway.finished("/api/v1/namespaces/logged")
    assert (line["status"], line["proxy_error"]) == (502, "connection_refused")
    assert "upstream_status" not in line


async def test_a_port_that_takes_connections_and_says_nothing(gateway: Gateway) -> None:
    """Nothing is answered before the time is up, and other requests are not held up by it."""
    await gateway.replace_upstream(tls=None)
    stalled = await gateway.connect()
    await stalled.send(request_bytes("GET", "/api"))
    stalled.timeout = 0.2
    await gateway.upstream.wait_for(lambda: len(gateway.upstream.connections) == 1, "a connection")
    assert (await gateway.request(target="/api/v1/namespaces/ns/pods/p/exec")).status == 403
    with pytest.raises(TimeoutError):
        await stalled.read_response()

"""A 401 from the API server: the credential is renewed once for all, and the request is sent once more."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.answers import Step, chunk, head, script, sequence
from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, exec_user, replace_file
from tests.support.client import RawClient, request_bytes
from tests.support.exec_plugin import Plugin
from tests.support.oidc_issuer import OidcIssuer, jwt
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.pki import CA
from tests.support.program import Program
from tests.support.proxies import ConnectProxy
from tests.support.secrets import plant

LIMIT_BYTES = 1024 * 1024
WEBSOCKET = {"Connection": "Upgrade", "Upgrade": "websocket"}


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer("c", CA()) as server:
        yield server


class Rotating:
    """An exec plugin with a token that the API server takes, and a program that uses it."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self.plugin = Plugin(directory / "plugin")
        self.tokens: list[str] = []
        self.config = Kubeconfig(directory / "config")
        self.config.add(server, exec=exec_user(self.plugin))
        self.config.write()
        self.rotate()

    def rotate(self, *, is_taken: bool = True) -> str:
        """The plugin's next run gives another token; the API server takes only that one from now on."""
        token = plant("plugin-token")
        self.tokens.append(token)
        self.plugin.issues(token=token)
        self.server.accepts = {f"Bearer {token}"} if is_taken else set()
        return token

    @property
    def sent(self) -> list[int | None]:
        """Which of the tokens each request carried, by its number."""
        known: dict[str | None, int] = {f"Bearer {token}": n for n, token in enumerate(self.tokens)}
        return [known.get(each) for each in self.server.tokens()]


@pytest.fixture
async def rotating(server: ApiServer, tmp_path: Path) -> Rotating:
    return Rotating(server, tmp_path)


@pytest.fixture
async def program(rotating: Rotating) -> AsyncIterator[Program]:
    """It has a credential and an idle connection; the API server then wants another token."""
    async with Program(kubeconfig=rotating.config.path) as program:
        assert (await ask(program)).status == 200
        rotating.rotate()
        yield program


# -- what is sent once more --


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST"])
async def test_a_request_without_a_body_is_sent_once_more(
    rotating: Rotating, program: Program, method: str
) -> None:
    """The client sees the second answer only; whatever the method, a 401 means that nothing was done."""
    response = await ask(program, method=method)
    assert response.status == 200
    assert rotating.sent == [0, 0, 1]
    assert rotating.server.requests[-1].method == method
    assert rotating.plugin.runs == 2


@pytest.mark.parametrize("size", [1, 1000, LIMIT_BYTES])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_small_body_is_sent_once_more(
    rotating: Rotating, program: Program, size: int, is_chunked: bool
) -> None:
    """Up to 1 MiB, with framing included: byte for byte, however it is framed."""
    body = (b"0123456789abcdef" * (size // 16 + 1))[: size - (100 if is_chunked and size > 1000 else 0)]
    async with await RawClient.connect(program.address) as client:
        if is_chunked:
            await client.send(request_bytes("POST", "/api", [("Transfer-Encoding", "chunked")]))
            await client.send(chunk(body) + b"0\r\n\r\n")
            response = await client.read_response("POST")
        else:
            response = await client.request("POST", "/api", body=body)
        client.reset()
    assert response.status == 200
    assert response.json()["body"] == body.decode()
    assert rotating.sent == [0, 0, 1]
    assert [bytes(each.body.data) for each in rotating.server.requests[1:]] == [body, body]


async def test_a_large_body_passes_the_401_on(rotating: Rotating, program: Program) -> None:
    """It was not kept. But the credential is renewed, so that the client's own next try works."""
    body = b"x" * (LIMIT_BYTES + 1)
    first = await ask(program, method="PUT", body=body)
    assert (first.status, first.json()["reason"]) == (401, "Unauthorized")
    second = await ask(program, method="PUT", body=body)
    assert second.status == 200
    assert rotating.sent == [0, 0, 1]
    assert rotating.plugin.runs == 2


async def test_an_upload_that_is_refused_midway_is_passed_on(rotating: Rotating, program: Program) -> None:
    """The API server answers before the body is complete; the next request has a new credential."""
    refusal = head(401, [("Content-Length", "2"), ("Connection", "close")]) + b"no"
    rotating.server.routes["/api/upload"] = script(refusal, Step.CLOSE, early=True)
    async with await RawClient.connect(program.address) as client:
        await client.send(request_bytes("POST", "/api/upload", [("Content-Length", "100")]) + b"half")
        response = await client.read_response("POST")
        assert (response.status, response.text) == (401, "no")
        client.reset()
    assert (await ask(program)).status == 200
    assert rotating.sent == [0, 0, 1]


async def test_an_upgrade_is_sent_once_more(rotating: Rotating, program: Program) -> None:
    """kubectl passes the 401 on. The tunnel then carries bytes both ways."""
    async with Stream(program, "/api/tunnel", upgrade="websocket") as tunnel:
        assert tunnel.response.status == 101
        await tunnel.echoes(b"frames" * 1000)
    assert rotating.sent == [0, 0, 1]


async def test_a_watch_is_sent_once_more(rotating: Rotating, program: Program) -> None:
    """Its events come as if nothing had been."""
    async with Stream(program) as watch:
        assert (await watch.first_event())["type"] == "ADDED"
        await rotating.server.tick("more")
        await watch.expects("more")


async def test_a_connection_goes_on_after_it(rotating: Rotating, program: Program) -> None:
    """Pipelined requests behind the one that was sent twice are answered in order."""
    async with await RawClient.connect(program.address) as client:
        await client.send(request_bytes("GET", "/api/1") + request_bytes("GET", "/api/2"))
        answers = [await client.read_response() for _ in range(2)]
        client.reset()
    assert [each.status for each in answers] == [200, 200]
    assert [each.target for each in rotating.server.requests[1:]] == ["/api/1", "/api/1", "/api/2"]


@pytest.mark.parametrize(
    "refusal",
    [
        head(401, [("Content-Length", "0")]),
        head(401, [("Content-Length", "2"), ("Connection", "close")]) + b"no",
        head(401, [("Transfer-Encoding", "chunked")]) + chunk(b"no") + b"0\r\n\r\n",
        head(401, [("Connection", "close")]) + b"to the end",
        head(401, [("Content-Length", "60000")]) + b"x" * 60000,
    ],
    ids=["empty", "close", "chunked", "to the end", "long"],
)
async def test_the_refusal_may_have_any_form(rotating: Rotating, program: Program, refusal: bytes) -> None:
    """Nothing of it reaches the client."""
    closing = (Step.CLOSE,) if b"Connection: close" in refusal else ()
    rotating.server.routes["/api/odd"] = sequence(
        script(refusal, *closing), script(head(200, [("Content-Length", "2")]) + b"ok")
    )
    response = await ask(program, "/api/odd")
    assert (response.status, response.text) == (200, "ok")
    assert rotating.sent == [0, 0, 1]


# -- when the client sees the 401 --


async def test_the_second_401_is_passed_on(rotating: Rotating, program: Program) -> None:
    """After one renewal the API server's word is what counts; with its own body."""
    rotating.rotate(is_taken=False)
    response = await ask(program)
    assert (response.status, response.json()["reason"]) == (401, "Unauthorized")
    assert rotating.sent == [0, 0, 2]
    assert rotating.plugin.runs == 2


async def test_the_same_token_again_is_not_sent_again(rotating: Rotating, program: Program) -> None:
    """The plugin has nothing newer: the 401 is passed on, and the request was sent once."""
    rotating.plugin.issues(token=rotating.tokens[0])
    response = await ask(program)
    assert (response.status, response.json()["reason"]) == (401, "Unauthorized")
    assert rotating.sent == [0, 0]
    assert rotating.plugin.runs == 2


async def test_a_plugin_that_fails_leaves_the_401(rotating: Rotating, program: Program) -> None:
    """The client gets what the API server said; why there is nothing newer is in the log."""
    rotating.plugin.does("exit 3")
    response = await ask(program)
    assert (response.status, response.json()["reason"]) == (401, "Unauthorized")
    assert "exit code 3" in (await program.event("credential.refresh_failed"))["error"]
    rotating.plugin.does("")
    await asyncio.sleep(1)  # a broken plugin is started once a second at most
    assert (await ask(program)).status == 200


SERVICE = "/api/v1/namespaces/ns/services/s/proxy/login"
REFUSAL = script(head(401, [("WWW-Authenticate", "Basic"), ("Content-Length", "4")]) + b"who?")


@pytest.mark.parametrize("behaviour", ["echo 'Run: acme login' >&2; exit 3", "", "sleep 1000"])
async def test_a_401_from_behind_takes_nothing_away(rotating: Rotating, behaviour: str) -> None:
    """A service's 401 is passed on as it is, and all other requests go on with the token that is good.

    kubectl's way; whether the plugin fails, has nothing newer or hangs.
    """
    rotating.server.routes[SERVICE] = REFUSAL
    seconds = "--exec-timeout=1s"
    async with Program(seconds, kubeconfig=rotating.config.path) as program:
        assert (await ask(program)).status == 200
        rotating.plugin.does(behaviour)
        for _ in range(3):
            response = await ask(program, SERVICE)
            assert (response.status, response.text) == (401, "who?")
            assert response.head.value("www-authenticate") == "Basic"
            assert (await ask(program)).status == 200
    assert set(rotating.sent) == {0}
    assert rotating.plugin.runs <= 3


async def test_requests_beside_a_renewal_that_hangs_are_served(rotating: Rotating) -> None:
    """Somebody was refused, but it is not known why: after a few seconds they go with what there is."""
    rotating.server.routes[SERVICE] = REFUSAL
    async with Program(kubeconfig=rotating.config.path) as program:
        assert (await ask(program)).status == 200
        hold = rotating.plugin.hold()
        refused = asyncio.create_task(ask(program, SERVICE))
        await hold.reached()
        assert (await ask(program)).status == 200
        assert not refused.done()
        hold.release()
        assert (await refused).status == 401


async def test_a_page_that_answers_401_again_and_again_runs_the_plugin_now_and_then(
    rotating: Rotating,
) -> None:
    """Even if it has a new token each time. One that the API server refuses is renewed by the next run."""
    rotating.server.routes[SERVICE] = REFUSAL
    async with Program(kubeconfig=rotating.config.path) as program:
        began_at = time.monotonic()
        for number in range(8):
            rotating.plugin.issues(token=plant(f"token-{number}"))
            assert (await ask(program, SERVICE)).status == 401
            await asyncio.sleep(1.1)  # the pace of the page
        seconds = time.monotonic() - began_at
        # The first, that after the first 401, and those after pauses of 1, 2, 4, ... seconds.
        assert rotating.plugin.runs <= 2 + math.log2(seconds + 1)
        rotating.rotate()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while (await ask(program)).status == 401:
                await asyncio.sleep(0.2)
        rotating.rotate()
        assert (await ask(program)).status == 200, "it helped: the next 401 is acted upon at once"


async def test_a_cluster_that_goes_away_meanwhile_is_told(rotating: Rotating, program: Program) -> None:
    """There is a new credential and nobody to show it to: a 401 would send people to log in for nothing."""
    hold = rotating.plugin.hold()
    waiting = asyncio.create_task(ask(program))
    await hold.reached()
    await rotating.server.stop_listening()
    rotating.server.close_connections()
    hold.release()
    response = await waiting
    assert response.status == 502
    assert "connection refused" in response.json()["message"]
    rotating.server.start_listening()
    assert (await ask(program)).status == 200


async def test_a_refusal_too_long_to_keep_is_passed_on_whole(rotating: Rotating, program: Program) -> None:
    """Nobody keeps a megabyte to find out that it is not needed."""
    body = b"x" * 1_000_000
    rotating.server.routes["/api/long"] = script(head(401, [("Content-Length", str(len(body)))]) + body)
    response = await ask(program, "/api/long")
    assert (response.status, response.body.size, response.body.is_complete) == (401, len(body), True)


async def test_other_refusals_are_passed_on(rotating: Rotating, program: Program) -> None:
    """403 and 407 say nothing about the age of a credential."""
    for status in (403, 407):
        rotating.server.routes["/api/other"] = script(head(status, [("Content-Length", "0")]))
        assert (await ask(program, "/api/other")).status == status
    assert rotating.plugin.runs == 1


async def test_a_clients_own_authorization_is_left_alone(rotating: Rotating, program: Program) -> None:
    """It is passed on as it is, its 401 too, and no plugin runs for it."""
    own = f"Bearer {plant('own-token')}"
    response = await ask(program, Authorization=own)
    assert response.status == 401
    assert rotating.server.tokens()[1:] == [own]
    assert rotating.plugin.runs == 1
    rotating.server.accepts = {own}
    assert (await ask(program, Authorization=own)).status == 200


# A client's own Authorization needs none of our credentials.
FAILURES = {
    "fails": "echo 'Run: acme login' >&2; exit 255",
    "hangs": "sleep 1000",
    "has nothing": "echo '{}'; exit",
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_who_brings_a_credential_is_served_without_ours(rotating: Rotating, failure: str) -> None:
    """Whatever the plugin does; reading, writing and upgrades."""
    rotating.plugin.does(FAILURES[failure])
    own = f"Bearer {plant('own-token')}"
    rotating.server.accepts = {own}
    async with Program("--exec-timeout=10s", kubeconfig=rotating.config.path) as program:
        for method in ("GET", "POST"):
            response = await ask(program, method=method, Authorization=own)
            assert (response.status, response.json()["authorization"]) == (200, own)
        upgrade = await ask(program, Authorization=own, **WEBSOCKET)
        assert upgrade.status == 101
        assert rotating.plugin.runs == 1


async def test_who_brings_a_credential_is_served_when_the_issuer_is_gone(
    server: ApiServer, tmp_path: Path
) -> None:
    """Our client certificate still goes beside it, as in kubectl; the issuer is not even asked."""
    authority = CA()
    certificate, key = authority.issue("alice", client=True)
    async with ApiServer("d", CA(), client_ca=authority) as server:
        config = Kubeconfig(tmp_path / "config")
        provider = {"idp-issuer-url": "http://127.0.0.1:1", "client-id": "i", "refresh-token": plant("r")}
        config.add(
            server,
            auth_provider={"name": "oidc", "config": provider},
            client_certificate_data=base64.b64encode(certificate).decode(),
            client_key_data=base64.b64encode(key).decode(),
        )
        config.write()
        own = f"Bearer {plant('own-token')}"
        async with Program(kubeconfig=config.path) as program:
            response = await ask(program, Authorization=own)
            assert response.status == 200
            assert (response.json()["authorization"], response.json()["cn"]) == (own, "alice")
            assert (await ask(program)).status == 502
            assert program.log_events("credential.refresh_failed")


async def test_the_certificate_of_a_plugin_goes_beside_a_clients_own_authorization(tmp_path: Path) -> None:
    """As in kubectl, where the TLS handshake runs the plugin; also when no request has run it before."""
    authority = CA()
    certificate, key = authority.issue("alice", client=True)
    plugin = Plugin(tmp_path / "plugin")
    plugin.issues(clientCertificateData=certificate.decode(), clientKeyData=key.decode())
    async with ApiServer("d", CA(), client_ca=authority) as server:
        config = Kubeconfig(tmp_path / "config")
        config.add(server, exec=exec_user(plugin))
        config.write()
        own = f"Bearer {plant('own-token')}"
        async with Program(kubeconfig=config.path) as program:
            response = await ask(program, Authorization=own)
            assert (response.json()["authorization"], response.json()["cn"]) == (own, "alice")
            assert (await ask(program)).json()["cn"] == "alice"
    assert plugin.runs == 1


async def test_an_empty_token_file_does_not_matter_to_who_brings_a_token(
    server: ApiServer, tmp_path: Path
) -> None:
    """Who brings none is told of it."""
    (tmp_path / "token").touch()
    config = Kubeconfig(tmp_path / "config")
    config.add(server, tokenFile=str(tmp_path / "token"))
    config.write()
    async with Program(kubeconfig=config.path) as program:
        assert (await ask(program, Authorization=f"Bearer {plant('own-token')}")).status == 200
        response = await ask(program)
        assert response.status == 502
        assert "tokenFile" in response.json()["message"]


async def test_a_static_token_is_not_tried_twice(server: ApiServer, tmp_path: Path) -> None:
    """There is nothing to renew."""
    config = Kubeconfig.of(tmp_path / "config", server)
    server.accepts = set()
    async with Program(kubeconfig=config.path) as program:
        assert (await ask(program)).status == 401
    assert len(server.requests) == 1


# -- many at once --


async def test_fifty_requests_that_all_get_401_start_the_plugin_once(
    rotating: Rotating, program: Program
) -> None:
    """And all of them succeed."""
    server = rotating.server
    server.gate = asyncio.Event()
    asking = [asyncio.create_task(ask(program, f"/api/{number}")) for number in range(50)]
    await server.wait_for_requests(51)
    assert rotating.sent[1:] == [0] * 50
    server.gate.set()
    assert [each.status for each in await asyncio.gather(*asking)] == [200] * 50
    assert server.refused == 50
    assert rotating.sent[51:] == [1] * 50
    assert rotating.plugin.runs == 2


async def test_a_401_that_comes_late_does_not_throw_the_new_token_away(
    rotating: Rotating, program: Program
) -> None:
    """It is held against the credential it was given for, not against the one in use by then."""
    server = rotating.server
    server.gate = gate = asyncio.Event()
    late = asyncio.create_task(ask(program, "/api/late"))
    await server.wait_for_requests(2)
    server.gate = None
    assert (await ask(program)).status == 200
    assert rotating.plugin.runs == 2
    gate.set()
    assert (await late).status == 200
    assert rotating.plugin.runs == 2


async def test_a_client_that_leaves_does_not_stop_the_renewal(rotating: Rotating, program: Program) -> None:
    """Others wait for it, too."""
    hold = rotating.plugin.hold()
    leaver = await RawClient.connect(program.address)
    await leaver.send(request_bytes("GET", "/api/leaver"))
    await hold.reached()
    waiting = asyncio.create_task(ask(program, "/api/stayer"))
    leaver.reset()
    hold.release()
    assert (await waiting).status == 200
    assert rotating.plugin.runs == 2


# -- other kinds of credentials --


async def test_a_token_file_is_read_again_after_a_401(server: ApiServer, tmp_path: Path) -> None:
    """Even if nothing about the file but its content has changed."""
    old, new = plant("token"), plant("token")
    path = tmp_path / "token"
    path.write_text(old)
    config = Kubeconfig(tmp_path / "config")
    config.add(server, tokenFile=str(path))
    config.write()
    async with Program(kubeconfig=config.path) as program:
        assert (await ask(program)).status == 200
        before = path.stat()
        with path.open("r+") as file:
            file.write(new)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        server.accepts = {f"Bearer {new}"}
        assert (await ask(program)).status == 200
        assert server.tokens() == [f"Bearer {old}", f"Bearer {old}", f"Bearer {new}"]


def with_ending_token(server: ApiServer, folder: Path, now: float) -> tuple[Kubeconfig, Path]:
    """A kubeconfig, and the file of its token: that comes to the last tenth of its life 5.4 s from `now`."""
    path = folder / "token"
    path.write_text(jwt(iat=now - 54, exp=now + 12))
    config = Kubeconfig(folder / "config")
    config.add(server, tokenFile=str(path))
    config.write()
    return config, path


async def test_a_token_that_comes_to_its_end_is_told_of(server: ApiServer, tmp_path: Path) -> None:
    """By itself, in its last tenth and once: its connection may serve for days, and nothing renews it."""
    now = time.time()
    config, _ = with_ending_token(server, tmp_path, now)
    async with Program(kubeconfig=config.path) as program:
        assert (await ask(program)).status == 200
        line = await program.event("credential.ending")
        assert time.time() >= now + 12 - 6.6
        assert (line["level"], line["context"], line["credential"]) == ("warning", "c", "tokenFile")
        assert (await ask(program)).status == 200
        assert len(server.connections) == len(program.log_events("credential.ending")) == 1


async def test_a_token_that_was_renewed_in_time_is_not_told_of(server: ApiServer, tmp_path: Path) -> None:
    """Though nobody has asked for anything since."""
    now = time.time()
    config, path = with_ending_token(server, tmp_path, now)
    async with Program(kubeconfig=config.path) as program:
        path.write_text(jwt(iat=now, exp=now + 3600))
        await program.event("credential.reloaded")
        assert (await ask(program)).status == 200
        assert not program.log_events("credential.ending")


async def test_a_token_file_is_read_when_it_changes(server: ApiServer, tmp_path: Path) -> None:
    """Before any 401: the kubelet renews it long before the old one ends."""
    path = tmp_path / "token"
    path.write_text(plant("token"))
    config = Kubeconfig(tmp_path / "config")
    config.add(server, tokenFile=str(path))
    config.write()
    async with Program(kubeconfig=config.path) as program:
        assert (await ask(program)).status == 200
        new = plant("token")
        replace_file(path, new.encode())
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while (await ask(program)).json()["authorization"] != f"Bearer {new}":
                await asyncio.sleep(0.05)
    assert server.refused == 0


def oidc_user(issuer: OidcIssuer, **fields: str) -> dict[str, Any]:
    return {"auth-provider": {"name": "oidc", "config": {**issuer.provider_config, **fields}}}


async def test_an_oidc_token_is_refreshed_after_a_401(server: ApiServer, tmp_path: Path) -> None:
    """kubectl passes the 401 on until the token has expired; fifty at once fetch one."""
    stale = jwt(sub="joe", exp=4_000_000_000)
    async with OidcIssuer("id", plant("client-secret"), plant("refresh-token")) as issuer:
        config = Kubeconfig(tmp_path / "config")
        config.add(server, **oidc_user(issuer, **{"id-token": stale}))
        config.write()
        async with Program(kubeconfig=config.path) as program:
            assert (await ask(program)).status == 200
            assert not issuer.issued
            server.gate = asyncio.Event()
            asking = [asyncio.create_task(ask(program, f"/api/{number}")) for number in range(50)]
            await server.wait_for_requests(51)
            server.on_request = lambda _: setattr(server, "accepts", {f"Bearer {issuer.issued[-1]}"})
            server.accepts = set()
            server.gate.set()
            assert [each.status for each in await asyncio.gather(*asking)] == [200] * 50
        assert len(issuer.issued) == 1
        assert issuer.issued[0] in config.path.read_text()


async def test_a_kubeconfig_that_hangs_does_not_hold_up_the_end(server: ApiServer, tmp_path: Path) -> None:
    """A network home that is gone when tokens are looked up in it: the request waits, SIGTERM does not."""
    async with OidcIssuer("id", plant("client-secret"), plant("refresh-token")) as issuer:
        config = Kubeconfig(tmp_path / "config")
        config.add(server, **oidc_user(issuer))
        config.write()
        async with Program("--no-reload", "--grace-period=0s", kubeconfig=config.path) as program:
            config.path.unlink()
            os.mkfifo(config.path)
            asking = asyncio.create_task(ask(program))
            # Opening it for writing takes until somebody reads it.
            end = await asyncio.to_thread(os.open, config.path, os.O_WRONLY)
            assert await program.stopped() == 0
            os.close(end)
            with pytest.raises((OSError, EOFError, AssertionError)):
                await asking


async def test_another_oidc_login_counts_at_once(server: ApiServer, tmp_path: Path) -> None:
    """It is in the kubeconfig, while the token of the one before has long to live; nothing is fetched."""
    first, second = (jwt(sub=name, exp=4_000_000_000) for name in ("joe", "ann"))
    async with OidcIssuer("id", plant("client-secret"), plant("refresh-token")) as issuer:
        config = Kubeconfig(tmp_path / "config")
        config.add(server, **oidc_user(issuer, **{"id-token": first}))
        config.write()
        async with Program(kubeconfig=config.path) as program, Stream(program) as watch:
            await watch.first_event()
            assert (await ask(program)).json()["authorization"] == f"Bearer {first}"
            config.add(server, **oidc_user(issuer, **{"id-token": second}))
            config.write()
            await until(lambda: bool(program.log_events("kubeconfig.reloaded")), "the reload")
            assert (await ask(program)).json()["authorization"] == f"Bearer {second}"
            await server.tick("still here")
            await watch.expects("still here")
        assert issuer.discovered == 0


async def test_our_own_write_is_no_login(server: ApiServer, tmp_path: Path) -> None:
    """A token that was fetched is written back, and found in the kubeconfig by the next reload."""
    async with OidcIssuer("id", plant("client-secret"), plant("refresh-token")) as issuer:
        config = Kubeconfig(tmp_path / "config")
        config.add(server, **oidc_user(issuer))
        config.write()
        async with Program(kubeconfig=config.path) as program:
            token = (await ask(program)).json()["authorization"]
            await until(lambda: issuer.issued[0] in config.path.read_text(), "it is written back")
            text = config.path.read_text()
            program.send_signal(signal.SIGHUP)
            config.path.write_text("{")
            program.send_signal(signal.SIGHUP)
            await until(lambda: bool(program.log_events("kubeconfig.reload_failed")), "it was read")
            config.path.write_text(text)
            program.send_signal(signal.SIGHUP)
            await until(lambda: bool(program.log_events("kubeconfig.reloaded")), "it is read")
            assert (await ask(program)).json()["authorization"] == token
            assert len(program.log_events("credential.refreshed")) == 1
        assert len(issuer.issued) == 1


async def test_the_issuer_is_reached_through_the_proxy_of_the_environment(
    server: ApiServer, tmp_path: Path
) -> None:
    """As in kubectl; proxy-url is for the API server alone."""
    password = plant("proxy-password")
    async with OidcIssuer("id", plant("client-secret"), plant("refresh-token")) as issuer:
        port = int(issuer.url.rpartition(":")[2])
        async with ConnectProxy(
            username="me", password=password, names={f"localhost.test:{port}": ("127.0.0.1", port)}
        ) as proxy:
            issuer.url = f"https://localhost.test:{port}"
            config = Kubeconfig(tmp_path / "config")
            config.add(server, **oidc_user(issuer))
            config.write()
            async with Program(
                kubeconfig=config.path, env={"HTTPS_PROXY": proxy.url_with_password}
            ) as program:
                response = await ask(program)
            # Its certificate is for localhost; that it was seen means that the proxy was gone through.
            assert "certificate" in response.json()["message"]
            assert {each.line for each in proxy.requests} == {f"CONNECT localhost.test:{port} HTTP/1.1"}

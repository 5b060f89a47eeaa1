"""No token, password, key or Authorization is shown: in logs at any level, error bodies, reprs, /proc, files.

`Program` looks through all its output at its end, conftest.py through what each test printed; here is what
must be said without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kproxy.credentials import open_source
from kproxy.errors import KproxyError
from kproxy.kube.kubeconfig import Overrides, load, locate
from kproxy.kube.resolve import resolve
from tests.conformance.conftest import Gateway, Pki
from tests.support import secrets
from tests.support.answers import Step, answer, head, script
from tests.support.api_server import exec_user
from tests.support.client import RawClient, request_bytes
from tests.support.exec_plugin import Plugin
from tests.support.oidc_issuer import jwt
from tests.support.pki import CA
from tests.support.program import Program, ended, kubeconfig
from tests.support.upstream import ByteUpstream

PROGRAM_ARGS = ("-v=8",)
HOST = b"Host: localhost\r\n"
EXEC = "/api/v1/namespaces/ns/pods/p/exec"


@pytest.fixture
def secret() -> bytes:
    """What a client sends in confidence."""
    return secrets.plant("client").encode()


async def shown(client: RawClient, request: bytes) -> str:
    """All that comes back for `request`, head and body; nothing of it may hold a planted secret."""
    await client.send(request)
    response = await client.read_response()
    text = response.head.raw.decode("latin-1") + response.text
    assert secrets.leaked(text) == []
    return text


BAD: Mapping[str, Callable[[bytes], bytes]] = {
    "a control character behind it": lambda s: (
        b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + s + b"\x01"
    ),
    "a bare LF behind it": lambda s: (
        b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + s + b"\nX: 1"
    ),
    "no colon": lambda s: b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization Bearer " + s,
    "a blank before the colon": lambda s: b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization : Bearer " + s,
    "folded": lambda s: b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization:\r\n Bearer " + s,
    "too long": lambda s: b"GET /api HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + s * 3000,
    "in the query of a bad target": lambda s: b"GET /%zz?token=" + s + b" HTTP/1.1\r\n" + HOST[:-2],
    "in the query of a refused target": lambda s: (
        b"GET " + EXEC.encode() + b"?token=" + s + b" HTTP/1.1\r\n" + HOST[:-2]
    ),
    "with a foreign Host": lambda s: b"GET /api HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer " + s,
    "with a foreign Origin": lambda s: (
        b"GET /api HTTP/1.1\r\n" + HOST + b"Origin: http://evil.example\r\nCookie: t=" + s
    ),
    "as a length": lambda s: b"POST /api HTTP/1.1\r\n" + HOST + b"Content-Length: " + s,
    "as a coding": lambda s: b"POST /api HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: " + s,
}


@pytest.mark.parametrize("name", BAD)
async def test_a_refusal_does_not_show_what_the_client_sent_in_confidence(
    gateway: Gateway, name: str, secret: bytes
) -> None:
    """Error bodies are pasted into tickets."""
    client = await gateway.connect()
    assert '"Status"' in await shown(client, BAD[name](secret) + b"\r\n\r\n")


@pytest.mark.parametrize("failure", ["refused", "untrusted", "no certificate wanted", "cut", "garbage"])
async def test_a_failure_shows_neither_credential(
    gateway: Gateway, pki: Pki, failure: str, secret: bytes
) -> None:
    """Neither the kubeconfig's token nor the client's own, in the answer or at -v=8."""
    if failure == "refused":
        await gateway.upstream.stop_listening()
    elif failure == "untrusted":
        await gateway.replace_upstream(tls=CA("other").server_context())
    elif failure == "no certificate wanted":
        await gateway.replace_upstream(tls=pki.ca.server_context(client_ca=CA("other")))
    gateway.answers(script(Step.CLOSE) if failure == "cut" else script(b"no http\r\n\r\n", Step.WAIT_FOR_END))
    client = await gateway.connect()
    own = [("Authorization", f"Bearer {secret.decode()}"), ("Cookie", secret.decode())]
    for headers in ([], own):
        assert "502" in await shown(client, request_bytes("GET", "/api?token=" + secret.decode(), headers))


async def test_an_upgrade_with_a_token_in_its_protocol_is_not_logged(gateway: Gateway, secret: bytes) -> None:
    """Browsers can send a token to a WebSocket in Sec-WebSocket-Protocol only."""
    fields = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Protocol", f"base64url.bearer.authorization.k8s.io.{secret.decode()}"),
    ]
    gateway.answers(script(head(500, [("Content-Length", "0")]), Step.CLOSE))
    client = await gateway.connect()
    assert "500" in await shown(
        client, request_bytes("GET", "/api/v1/namespaces/ns/pods/p/portforward", fields)
    )


async def test_a_good_request_is_logged_without_its_query_and_headers(
    gateway: Gateway, secret: bytes
) -> None:
    """Queries hold exec commands and signed tokens."""
    gateway.answers(answer(b"{}", headers=[("Set-Cookie", secret.decode())]))
    path = "/api/v1/namespaces/hushed"
    await gateway.request(
        "GET", f"{path}?token={secret.decode()}", [("Authorization", f"Bearer {secret.decode()}")]
    )
    [line] = await gateway.finished(path)
    assert secrets.leaked(json.dumps(line)) == []


def key_lines(key_pem: bytes) -> list[str]:
    """The lines of a private key that hold it."""
    return [line for line in key_pem.decode().splitlines() if not line.startswith("-----")]


async def test_the_key_and_the_token_are_nowhere_but_in_memory(gateway: Gateway, pki: Pki) -> None:
    """Not in the arguments of the process, which all users may read, nor in its output."""
    gateway.answers(answer(b"{}"))
    await gateway.request()
    pid = gateway.program.pid
    told = Path(f"/proc/{pid}/cmdline").read_text() + gateway.program.stdout + gateway.program.stderr
    assert secrets.leaked(told) == []
    assert not [line for line in key_lines(pki.client_certificate[1]) if line in told]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The temporary folder of a program."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


async def test_no_file_with_the_key_outlives_the_start(tmp_path: Path, folder: Path, pki: Pki) -> None:
    """The ssl module reads keys from files only: that file must be gone before the first request."""
    async with ByteUpstream(answer(b"{}"), tls=pki.server_context) as upstream:
        config = kubeconfig(tmp_path, upstream, ca_pem=pki.ca.pem, client_certificate=pki.client_certificate)
        async with Program(kubeconfig=config, env={"TMPDIR": str(folder)}) as program:
            assert os.listdir(folder) == []
            async with await RawClient.connect(program.address) as client:
                assert (await client.request("GET", "/api")).status == 200
            assert os.listdir(folder) == []
            assert await program.stopped() == 0
        assert os.listdir(folder) == []


USERS: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "a token with a line break": lambda s, _: {"token": f"{s}\n{s}"},
    "a token beyond ASCII": lambda s, _: {"token": f"{s}\u20ac"},
    "a password without a name": lambda s, _: {"password": s},
    "basic and token": lambda s, _: {"username": "u", "password": s, "token": s},
    "a key that is none": lambda s, _: {"client-certificate-data": "", "client-key-data": s},
    "a key that is text": lambda s, folder: {
        "client-key": written(folder, "key", s),
        "client-certificate": written(folder, "crt", s),
    },
    "a token of a wrong type": lambda s, _: {"token": [s]},
    "a misspelt field": lambda s, _: {"tokn": s},
    "an auth provider": lambda s, _: {"auth-provider": {"name": "gcp", "config": {"access-token": s}}},
}


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


COMPLAINTS = {
    "a token with a line break": "token:",
    "a token beyond ASCII": "token:",
    "basic and token": "username/password",
    "a key that is none": "client-key-data:",
    "a token of a wrong type": "token:",
    "an auth provider": "auth-provider:",
}
"""With the field that each names; the others can be used."""


@pytest.mark.parametrize("name", USERS)
def test_a_kubeconfig_that_cannot_be_used_is_not_quoted(tmp_path: Path, name: str) -> None:
    """The complaint names file and field, and shows no value; where it starts all the same, no log does."""
    secret = secrets.plant("kubeconfig")
    config = kubeconfig(tmp_path, "https://127.0.0.1:1", user=USERS[name](secret, tmp_path))
    # `ended` looks through the output.
    told = ended("check", f"--kubeconfig={config}", "-v=8", code=2 if name in COMPLAINTS else 0).stderr
    if name in COMPLAINTS:
        assert str(config) in told
        assert COMPLAINTS[name] in told


async def test_the_password_of_a_proxy_is_not_shown(tmp_path: Path, pki: Pki) -> None:
    """It stands in a URL, which error messages and logs like to name."""
    password = secrets.plant("proxy-password")
    cluster = {"proxy-url": f"http://user:{password}@127.0.0.1:1"}
    config = kubeconfig(tmp_path, "https://127.0.0.1:2", ca_pem=pki.ca.pem, token="abc", cluster=cluster)
    async with (
        Program("-v=8", kubeconfig=config) as program,
        await RawClient.connect(program.address) as client,
    ):
        assert "502" in await shown(client, request_bytes("GET", "/api"))


async def test_what_a_plugin_says_is_shown_without_secrets(tmp_path: Path, pki: Pki) -> None:
    """In the answer, the log and status: a debug line of a plugin holds what it has sent and got."""
    plugin = Plugin(tmp_path / "plugin")
    variable, *said = (secrets.plant(name) for name in ("env", "bearer", "field", "json", "url", "jwt"))
    token = jwt(sub=said[4])
    lines = [
        "debug: CLIENT_SECRET is $CLIENT_SECRET",
        f"> Authorization: Bearer {said[0]}",
        f"> POST /token refresh_token={said[1]}&grant_type=refresh_token",
        f'< {{"access_token": "{said[2]}"}}',
        f"via https://me:{said[3]}@proxy.example.com",
        f"got {token} and k8s-aws-v1.{secrets.plant('eks')}",
        "Run: acme login",
    ]
    plugin.does("cat >&2 <<END\n" + "\n".join(lines) + "\nEND\nexit 1")
    user = {"exec": exec_user(plugin, env=[{"name": "CLIENT_SECRET", "value": variable}])}
    config = kubeconfig(tmp_path, "https://127.0.0.1:1", ca_pem=pki.ca.pem, user=user)
    async with (
        Program("-v=8", kubeconfig=config) as program,
        await RawClient.connect(program.address) as client,
    ):
        for target in ("/api", "/-/status"):
            text = await shown(client, request_bytes("GET", target))
            assert ("Run: acme login" in text, "CLIENT_SECRET is [hidden]" in text) == (True, True)
        # The log is looked through at the end.
        assert "> Authorization: Bearer [hidden]\n" in program.stderr
        assert token not in program.stderr


async def test_reprs_show_no_secret(tmp_path: Path) -> None:
    """Reprs end in tracebacks, and those in bug reports."""
    oidc = {
        "idp-issuer-url": "https://127.0.0.1:1",
        "client-id": "i",
        "client-secret": secrets.plant("oidc"),
        "refresh-token": secrets.plant("refresh"),
    }
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "x",
        "interactiveMode": "Never",
        "env": [{"name": "TOKEN", "value": secrets.plant("env")}],
    }
    users: tuple[dict[str, Any], ...] = (
        {"token": secrets.plant("token")},
        {"username": "u", "password": secrets.plant("password")},
        {"auth-provider": {"name": "oidc", "config": oidc}},
        {"exec": plugin},
    )
    for user in users:
        path = kubeconfig(tmp_path, "https://127.0.0.1:1", user=user)
        overrides = Overrides(kubeconfig=str(path))
        loaded = load(locate(overrides.kubeconfig, {}))
        context = resolve(loaded, overrides, {})
        objects: list[object] = [loaded, context, context.user]
        try:
            source = open_source(context)
        except KproxyError as error:
            objects.append(error)
        else:
            objects += [source, source.current()]
            await source.close()
        for each in objects:
            assert secrets.leaked(f"{each!r} {each}") == [], (
                f"the repr of {type(each).__name__} shows a secret"
            )

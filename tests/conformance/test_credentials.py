"""Credentials over real sockets: an OIDC issuer with TLS, and certificates that a TLS server asks for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from kproxy.credentials import Credential, CredentialSource, open_source
from kproxy.errors import ConfigError, CredentialError, RefreshError
from kproxy.kube.kubeconfig import AuthProvider, Cluster, ExecConfig, ResolvedContext, User
from kproxy.tls.client import client_context
from tests.support.clock import Clock
from tests.support.exec_plugin import V1, Plugin, timestamp
from tests.support.oidc_issuer import OidcIssuer, jwt
from tests.support.pair_files import PairFiles
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.secrets import plant


@pytest.fixture
async def issuer() -> AsyncIterator[OidcIssuer]:
    async with OidcIssuer("cid", plant("client-secret"), plant("refresh-token")) as issuer:
        yield issuer


class Login:
    """A kubeconfig with one OIDC user, and sources for contexts of that user."""

    def __init__(self, path: Path, issuer: OidcIssuer) -> None:
        self.path = path
        self.clock = issuer.clock = Clock()
        self.sources: list[CredentialSource] = []
        self.config = issuer.provider_config

    def write(self, **changes: str | None) -> None:
        """Write the kubeconfig; `id_token=...` sets `id-token`, None takes it out."""
        for name, value in changes.items():
            self.config.pop(name.replace("_", "-"), None)
            if value is not None:
                self.config[name.replace("_", "-")] = value
        user = {"name": "u", "user": {"auth-provider": {"name": "oidc", "config": self.config}}}
        self.path.write_text(yaml.safe_dump({"users": [user]}))

    @property
    def stored(self) -> dict[str, str]:
        config = yaml.safe_load(self.path.read_text())["users"][0]["user"]["auth-provider"]["config"]
        assert isinstance(config, dict)
        return config

    def open(self, context: str = "x", **options: Any) -> CredentialSource:
        if not self.path.exists():
            self.write()
        user = User(
            name="u",
            auth_provider=AuthProvider(name="oidc", config=dict(self.config)),
            source_path=self.path,
            **options.pop("user", {}),
        )
        resolved = ResolvedContext(name=context, cluster=Cluster(name="c", server="https://h"), user=user)
        options = {"clock": self.clock, "monotonic": self.clock, **options}
        source = open_source(resolved, **options)
        self.sources.append(source)
        return source

    async def failure(self, source: CredentialSource | None = None) -> str:
        """The message of the error that `get` raises; never with a secret in it."""
        with pytest.raises(RefreshError) as caught:
            await (source or self.open()).get()
        text = str(caught.value)
        assert text.startswith(f'context "x": user "u" in {self.path}: auth-provider oidc: ')
        for name in ("client-secret", "refresh-token", "id-token"):
            assert not self.config.get(name) or self.config[name] not in text
        return text


@pytest.fixture
async def login(tmp_path: Path, issuer: OidcIssuer) -> AsyncIterator[Login]:
    login = Login(tmp_path / "kc", issuer)
    yield login
    for source in login.sources:
        await source.close()


def bearer_of(credential: Credential) -> str:
    assert credential.authorization is not None
    return credential.authorization.removeprefix("Bearer ")


# -- which token --


async def test_a_valid_id_token_is_used_without_asking(login: Login, issuer: OidcIssuer) -> None:
    """Nothing is fetched, neither at start nor at the first request."""
    token = jwt(exp=login.clock() + 100)
    login.write(id_token=token)
    credential = await login.open().get()
    assert (bearer_of(credential), credential.kind) == (token, "oidc")
    assert credential.expires_at == login.clock() + 100
    assert issuer.discovered == 0


@pytest.mark.parametrize("left_seconds", [-1000.0, 0.0, 9.0, None])
async def test_an_id_token_near_its_end_is_renewed(
    login: Login, issuer: OidcIssuer, left_seconds: float | None
) -> None:
    """Within 10 s of `exp`, past it, or without one; the form is that of RFC 6749."""
    claims = {} if left_seconds is None else {"exp": login.clock() + left_seconds}
    login.write(id_token=jwt(sub="joe", **claims))
    refresh_token = issuer.refresh_token
    credential = await login.open().get()
    assert [bearer_of(credential)] == issuer.issued
    assert issuer.forms == [{"grant_type": "refresh_token", "refresh_token": refresh_token}]


async def test_without_an_id_token_one_is_fetched(login: Login, issuer: OidcIssuer) -> None:
    """A trailing slash of the issuer's URL does not matter."""
    login.write(idp_issuer_url=issuer.url + "/")
    assert [bearer_of(await login.open().get())] == issuer.issued


async def test_client_id_and_secret_go_into_the_form_when_basic_fails(
    login: Login, issuer: OidcIssuer
) -> None:
    """Some providers know only one of the two ways."""
    issuer.accepts_basic = False
    await login.open().get()
    assert [sorted(form) for form in issuer.forms] == [
        ["grant_type", "refresh_token"],
        ["client_id", "client_secret", "grant_type", "refresh_token"],
    ]


@pytest.mark.parametrize("token", ["abc", "a.b.c", "a.b"])
async def test_an_id_token_that_is_no_jwt_is_an_error(login: Login, issuer: OidcIssuer, token: str) -> None:
    """As in kubectl, even with a refresh-token at hand."""
    login.write(id_token=token)
    assert "ID Token is not a valid JWT" in await login.failure()
    assert issuer.discovered == 0


async def test_without_a_refresh_token_the_end_is_told(login: Login, issuer: OidcIssuer) -> None:
    """Who wrote the tokens has to do so again; then it works without a restart."""
    login.write(id_token=jwt(exp=login.clock() - 1), refresh_token=None)
    source = login.open()
    text = await login.failure(source)
    assert "No valid id-token, and cannot refresh without refresh-token; log in again" in text
    token = jwt(exp=login.clock() + 100)
    login.write(id_token=token)
    login.clock.pass_seconds(1)
    assert bearer_of(await source.get()) == token


# -- what others do to the file --


async def test_tokens_that_somebody_else_has_renewed_are_taken_up(login: Login, issuer: OidcIssuer) -> None:
    """kubectl at work beside us: its id-token is used, its refresh-token is the one that is good now."""
    login.write(id_token=jwt(exp=login.clock() + 100))
    source = login.open()
    await source.get()
    theirs = jwt(exp=login.clock() + 3600, by="kubectl")
    issuer.refresh_token = plant("refresh-token-of-kubectl")
    login.write(id_token=theirs, refresh_token=issuer.refresh_token)
    login.clock.pass_seconds(100)
    assert bearer_of(await source.get()) == theirs
    assert issuer.forms == []
    login.clock.pass_seconds(3600)
    assert [bearer_of(await source.get())] == issuer.issued


async def test_a_login_during_a_renewal_is_not_overwritten(login: Login, issuer: OidcIssuer) -> None:
    """Somebody else logs in while the issuer thinks about the token of the one before."""
    source = login.open()
    issuer.gate = asyncio.Event()
    asking = asyncio.create_task(source.get())
    await issuer.reached.wait()
    theirs = jwt(sub="ann", exp=login.clock() + 100)
    login.write(id_token=theirs, refresh_token=plant("refresh-token-of-ann"))
    issuer.gate.set()
    assert bearer_of(await asking) == theirs
    assert login.stored == login.config


async def test_contexts_of_one_user_share_a_renewal(login: Login, issuer: OidcIssuer) -> None:
    """A refresh-token is good for one use: the second context must not spend it again."""
    sources = [login.open(name) for name in ("x", "y", "z")]
    credentials = await asyncio.gather(*(source.get() for source in sources))
    assert len({credential.authorization for credential in credentials}) == 1
    assert len(issuer.forms) == 1


async def test_a_401_fetches_a_new_token_once(login: Login, issuer: OidcIssuer) -> None:
    """Also while the refused one has long to live, in the file too; for all contexts of the user."""
    login.write(id_token=jwt(exp=login.clock() + 5000))
    sources = [login.open("x"), login.open("y")]
    old = [await source.get() for source in sources]

    async def refused(source: CredentialSource, credential: Credential) -> str:
        source.invalidate(credential)
        return bearer_of(await source.get())

    pairs = list(zip(sources, old, strict=True)) * 25
    new = await asyncio.gather(*(refused(source, credential) for source, credential in pairs))
    assert list(set(new)) == issuer.issued
    assert len(issuer.forms) == 1


async def test_a_401_without_a_refresh_token_keeps_the_token(login: Login) -> None:
    """There is no other: the API server's refusal is what the client shall see."""
    token = jwt(exp=login.clock() + 5000)
    login.write(id_token=token, refresh_token=None)
    source = login.open()
    source.invalidate(await source.get())
    assert bearer_of(await source.get()) == token
    assert source.current() is not None


# -- write-back --


async def test_new_tokens_are_written_back(login: Login, issuer: OidcIssuer) -> None:
    """Both of them; a refresh-token that did not change stays as it is."""
    login.write(id_token=jwt(exp=1))
    await login.open().get()
    assert login.stored == {
        **login.config,
        "id-token": issuer.issued[0],
        "refresh-token": issuer.refresh_token,
    }
    assert sorted(path.name for path in login.path.parent.iterdir()) == ["kc"]
    issuer.rotates = False
    login.clock.pass_seconds(4000)
    await login.sources[0].get()
    assert login.stored["id-token"] == issuer.issued[1]
    assert login.stored["refresh-token"] == issuer.refresh_token


async def test_write_back_can_be_turned_off(login: Login, issuer: OidcIssuer) -> None:
    """The file stays as it is; the rotated refresh-token is kept in memory and works."""
    login.write(id_token=jwt(exp=1))
    before = login.path.read_bytes()
    source = login.open(oidc_write_back=False)
    await source.get()
    login.clock.pass_seconds(4000)
    assert bearer_of(await source.get()) == issuer.issued[1]
    assert login.path.read_bytes() == before


async def test_tokens_that_are_in_no_file_outlive_an_idle_context(login: Login, issuer: OidcIssuer) -> None:
    """The rotated refresh-token is nowhere else: the context that is opened again needs no login."""
    login.write(id_token=jwt(exp=1))
    source = login.open(oidc_write_back=False)
    await source.get()
    await source.close()
    login.sources.clear()
    del source
    gc.collect()
    login.clock.pass_seconds(4000)
    assert bearer_of(await login.open(oidc_write_back=False).get()) == issuer.issued[1]


async def test_a_lock_in_the_way_does_not_fail_the_request(
    login: Login, issuer: OidcIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of, the tokens work from memory, and the next renewal writes them."""
    monkeypatch.setattr("kproxy.credentials.oidc_store.LOCK_SECONDS", 0.05)
    login.write()
    lock = login.path.with_name("kc.lock")
    lock.touch()
    before = login.path.read_bytes()
    source = login.open(kubeconfig_paths=(login.path,))
    with capture_logs() as logs:
        assert [bearer_of(await source.get())] == issuer.issued
    (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
    assert warning["event"] == "kubeconfig.write_failed"
    assert f"could not persist new tokens: open {lock}: file exists" in warning["error"]
    assert login.path.read_bytes() == before
    lock.unlink()
    login.clock.pass_seconds(4000)
    assert bearer_of(await source.get()) == issuer.issued[1]
    assert (login.stored["id-token"], login.stored["refresh-token"]) == (
        issuer.issued[1],
        issuer.refresh_token,
    )


async def test_an_earlier_copy_of_the_file_does_not_bring_back_a_spent_token(
    login: Login, issuer: OidcIssuer
) -> None:
    """An editor that had the kubeconfig open saves it: the next renewal mends it, no login is needed.

    Nor when the context was closed meanwhile, as nobody used it.
    """
    login.write()
    source = login.open()
    contents = []
    for _ in range(3):
        await source.get()
        contents.append(login.path.read_bytes())
        login.clock.pass_seconds(4000)
    login.path.write_bytes(contents[0])
    await source.get()
    assert len(issuer.issued) == 4
    await source.close()
    login.sources.clear()
    del source
    gc.collect()
    login.path.write_bytes(contents[1])
    login.clock.pass_seconds(4000)
    await login.open().get()
    assert len(issuer.issued) == 5
    assert (login.stored["id-token"], login.stored["refresh-token"]) == (
        issuer.issued[-1],
        issuer.refresh_token,
    )


async def test_a_stale_lock_is_taken_over(login: Login, issuer: OidcIssuer) -> None:
    """kubectl would fail for ever."""
    login.write()
    login.path.with_name("kc.lock").touch()
    login.clock.pass_seconds(600)
    with capture_logs() as logs:
        await login.open(kubeconfig_paths=(login.path,)).get()
    assert [entry["event"] for entry in logs] == ["kubeconfig.lock_removed", "credential.refreshed"]
    assert login.stored["id-token"] == issuer.issued[0]


async def test_a_user_without_a_file_works_from_memory(login: Login, issuer: OidcIssuer) -> None:
    """As in a kubeconfig that vanished after start."""
    login.write()
    source = login.open()
    login.path.unlink()
    with capture_logs() as logs:
        assert [bearer_of(await source.get())] == issuer.issued
    assert "kubeconfig.write_failed" in [entry["event"] for entry in logs]


# -- TLS and errors of the issuer --


async def test_the_issuer_is_verified_by_the_system_unless_told_otherwise(login: Login) -> None:
    """There is no way around it; the message says which field to set."""
    login.write(idp_certificate_authority_data=None)
    text = await login.failure()
    assert "cannot verify the certificate of https://127.0.0.1:" in text
    assert "give its authority as idp-certificate-authority or idp-certificate-authority-data" in text


async def test_the_authority_may_be_a_file_of_the_working_directory(
    login: Login, issuer: OidcIssuer, tmp_path: Path
) -> None:
    """Unlike all other paths of a kubeconfig; data beats it."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "ca").write_bytes(issuer.ca.pem)
    login.write(idp_certificate_authority_data=None, idp_certificate_authority="ca")
    assert "idp-certificate-authority ca: No such file" in await login.failure()
    with contextlib.chdir(tmp_path / "cwd"):
        assert [bearer_of(await login.open().get())] == issuer.issued


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        ("idp_certificate_authority_data", "????", "idp-certificate-authority-data: not base64"),
        ("idp_certificate_authority_data", "anVuaw==", "idp-certificate-authority-data: holds no valid cert"),
        ("idp_issuer_url", "https://127.0.0.1:1", "cannot reach https://127.0.0.1:1: "),
        ("idp_issuer_url", "not a url", "cannot reach not a url"),
    ],
)
async def test_wrong_settings_are_told_by_field(login: Login, field: str, value: str, cause: str) -> None:
    """Each cause has its own words."""
    login.write(**{field: value})
    assert cause in await login.failure()


Answer = tuple[int, object]


@pytest.mark.parametrize(
    ("discovery", "answer", "cause"),
    [
        ((404, {"no": "such page" * 20}), None, "oidc: failed to query metadata endpoint 404: "),
        ((200, {}), None, "oidc: discovery object doesn't contain a token_endpoint"),
        ((200, []), None, "the issuer's answer is no JSON object"),
        ((200, {"token_endpoint": "http://127.0.0.1/t"}), None, "leads from https to http"),
        (None, (500, {}), "failed to refresh token: oauth2: 500; check client-id and client-secret"),
        (
            None,
            (401, {"error": "invalid_client"}),
            'failed to refresh token: oauth2: 401 "invalid_client"; check',
        ),
        (None, (200, {"error": "x"}), 'failed to refresh token: oauth2: 200 "x"'),
        (None, (307, {}), "failed to refresh token: oauth2: 307"),
        (None, (200, {}), "token response did not contain an id_token"),
        (None, (200, {"id_token": 5}), "token response did not contain an id_token"),
        (None, (200, {"id_token": "abc"}), "id_token that is not a valid JWT"),
        (None, (200, {"id_token": "x" * 2_000_000}), "the issuer's answer is too long"),
    ],
)
async def test_every_failure_of_the_issuer_has_its_message(
    login: Login, issuer: OidcIssuer, discovery: Answer | None, answer: Answer | None, cause: str
) -> None:
    """With what to check, and the file as it was."""
    issuer.discovery, issuer.answer = discovery, answer
    login.write()
    before = login.path.read_bytes()
    assert cause in await login.failure()
    assert login.path.read_bytes() == before


async def test_a_refused_refresh_token_asks_for_a_new_login(login: Login, issuer: OidcIssuer) -> None:
    """The issuer of this test echoes the token it refuses; the message does not."""
    issuer.refresh_token = "another one"
    text = await login.failure()
    assert 'failed to refresh token: oauth2: 400 "invalid_grant" "unknown [hidden]"; log in again' in text


async def test_a_refresh_token_does_not_follow_redirects(login: Login, issuer: OidcIssuer) -> None:
    """Whoever sits there would get it."""
    issuer.answer, issuer.location = (307, {}), f"{issuer.url}/elsewhere"
    assert "failed to refresh token: oauth2: 307" in await login.failure()
    assert len(issuer.forms) == 2, "by Basic and in the form, to the same place"


async def test_a_broken_issuer_is_asked_once_a_second(login: Login, issuer: OidcIssuer) -> None:
    """And works again as soon as it does."""
    issuer.answer = (500, {})
    source = login.open()
    for _ in range(10):
        await login.failure(source)
    assert issuer.discovered == 1
    issuer.answer = None
    login.clock.pass_seconds(1)
    assert [bearer_of(await source.get())] == issuer.issued


async def test_a_waiter_that_leaves_does_not_end_the_renewal(login: Login, issuer: OidcIssuer) -> None:
    """The refresh-token is spent already: its answer must not be lost."""
    issuer.gate = asyncio.Event()
    source = login.open()
    waiters = [asyncio.create_task(source.get()) for _ in range(3)]
    await issuer.reached.wait()
    waiters[0].cancel()
    await asyncio.wait(waiters[:1])
    issuer.gate.set()
    await asyncio.gather(*waiters[1:])
    assert len(issuer.forms) == 1


async def test_an_end_in_the_middle_of_a_renewal_loses_no_token(login: Login, issuer: OidcIssuer) -> None:
    """The refresh-token is spent by then: without its successor somebody would have to log in again."""
    issuer.gate = asyncio.Event()
    source = login.open()
    asking = asyncio.create_task(source.get())
    await issuer.reached.wait()
    closing = asyncio.create_task(source.close())
    issuer.gate.set()
    await closing
    assert login.stored["refresh-token"] == issuer.refresh_token == login.config["refresh-token"] + "+"
    with pytest.raises(CredentialError, match="credentials are closed"):
        await asking


async def test_the_environments_proxy_is_used_and_must_be_usable(login: Login, issuer: OidcIssuer) -> None:
    """What decides on it is given by the caller; a proxy of another kind, or a wrong one, is an error."""
    asked = []

    def proxy_for_url(url: str) -> str | None:
        asked.append(url)
        return None

    await login.open(proxy_for_url=proxy_for_url).get()
    assert asked == [f"{issuer.url}/.well-known/openid-configuration", f"{issuer.url}/token"]

    def wrong(url: str) -> str | None:
        raise ConfigError("HTTPS_PROXY is no URL")

    for number, (proxy, cause) in enumerate(
        [
            (lambda url: "socks5://127.0.0.1:1", "no HTTP proxy"),
            (wrong, "HTTPS_PROXY is no URL"),
            (lambda url: "http://127.0.0.1:1", "cannot reach"),
        ]
    ):
        login.write(extra_scopes=str(number), refresh_token=issuer.refresh_token)
        login.clock.pass_seconds(4000)
        assert cause in await login.failure(login.open(proxy_for_url=proxy))


async def test_oidc_and_a_client_certificate_go_together(login: Login, issuer: OidcIssuer) -> None:
    """The certificate stays the same object when the token is renewed."""
    certificate, key = CA().issue("alice", client=True)
    source = login.open(user={"client_certificate_data": certificate, "client_key_data": key})
    assert source.current() is None
    first = await source.get()
    assert (bearer_of(first), first.kind) == (issuer.issued[0], "oidc+clientCertificate")
    login.clock.pass_seconds(4000)
    second = await source.get()
    assert bearer_of(second) == issuer.issued[1]
    assert second.certificate is first.certificate


async def test_tokens_of_two_seconds_never_run_out(login: Login, issuer: OidcIssuer) -> None:
    """Under steady traffic the renewal is always ahead: after the first nobody waits, and few are issued."""
    issuer.life_seconds = 2.0
    issuer.clock = time.time
    source = login.open(clock=time.time, monotonic=time.monotonic)
    await source.get()
    waits = 0
    ends_at = time.monotonic() + 3.2
    while time.monotonic() < ends_at:
        credential = source.current()
        if credential is None:
            waits += 1
            credential = await source.get()
        assert credential.expires_at is not None
        assert credential.expires_at > time.time()
        await asyncio.sleep(0.005)
    assert waits == 0
    assert 3 <= len(issuer.issued) <= 5


# -- certificates at a TLS server --


class Greeter:
    """A TLS server that asks for a client certificate and answers with its common name."""

    def __init__(self, ca: CA) -> None:
        self.ca = ca
        self.port = 0

    async def __aenter__(self) -> Greeter:
        context = self.ca.server_context(client_ca=self.ca)
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("ssl_object").getpeercert()
        names = {name: value for part in peer["subject"] for name, value in part}
        writer.write(names["commonName"].encode() + b"\n")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def name_of(self, credential: Credential) -> str:
        """Who the server takes us for with that credential."""
        cluster = Cluster(name="c", server="https://h", certificate_authority_data=self.ca.pem)
        context: ssl.SSLContext = client_context(cluster, credential.certificate)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost"
        )
        name = (await reader.readline()).decode().strip()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return name


async def test_renewed_certificate_files_make_another_identity(tmp_path: Path) -> None:
    """The new certificate works at once; the old object does as well, for streams that still hold it."""
    ca, clock = CA(), Clock()
    pair = PairFiles(tmp_path, "client")
    pair.write(*ca.issue("alice", client=True))
    user = User(name="u", client_certificate=pair.certificate, client_key=pair.key)
    context = ResolvedContext(name="x", cluster=Cluster(name="c", server="https://h"), user=user)
    source = open_source(context, clock=clock, monotonic=clock)
    async with Greeter(ca) as server:
        old = await source.get()
        assert await server.name_of(old) == "alice"
        pair.write(*ca.issue("bob", client=True))
        clock.pass_seconds(1)
        assert await server.name_of(await source.get()) == "bob"
        assert await server.name_of(old) == "alice"
    await source.close()


async def test_a_plugin_with_certificates_makes_new_identities(tmp_path: Path) -> None:
    """After a 401 and ahead of the expiry; a token change alone keeps the certificate."""
    ca, clock = CA(), Clock()
    plugin = Plugin(tmp_path / "p")

    def answer(name: str | None, token: str, pair: dict[str, str]) -> dict[str, str]:
        if name is not None:
            certificate, key = ca.issue(name, client=True)
            pair = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
        plugin.issues(pair, token=token, expirationTimestamp=timestamp(clock() + 3600))
        return pair

    pair = answer("alice", "t1", {})
    user = User(name="u", exec=ExecConfig(command=str(plugin.path), api_version=V1, interactive_mode="Never"))
    context = ResolvedContext(name="x", cluster=Cluster(name="c", server="https://h"), user=user)
    source = open_source(context, clock=clock, monotonic=clock)
    async with Greeter(ca) as server:
        first = await source.get()
        assert await server.name_of(first) == "alice"
        answer(None, "t2", pair)
        source.invalidate(first)
        second = await source.get()
        assert (second.authorization, second.certificate) == ("Bearer t2", first.certificate)
        answer("bob", "t3", {})
        clock.pass_seconds(3500)
        assert source.current() is second, "the renewal goes on in the background"
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while source.current() is second:
                await asyncio.sleep(0.005)
        third = await source.get()
        assert third.authorization == "Bearer t3"
        assert await server.name_of(third) == "bob"
    await source.close()
    assert plugin.runs == 3
    assert json.loads(plugin.info)["kind"] == "ExecCredential"

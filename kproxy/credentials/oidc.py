"""The `oidc` auth-provider: an id-token that is renewed by a refresh-token.

Rules: client-go plugin/pkg/client/auth/oidc/oidc.go, OpenID Connect Discovery 1.0, RFC 6749 section 6. On
purpose unlike it: tokens of short life are used to their end, a 401 renews, tokens that somebody else has
written to the kubeconfig meanwhile are taken up, and a write-back that fails does not fail the request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import ssl
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import structlog

from kproxy.credentials.credential import Content, Credential, bearer, place
from kproxy.credentials.expiry import jwt_claims, schedule, token_life
from kproxy.credentials.oidc_store import StoreError, TokenStore
from kproxy.errors import ConfigError, KubeconfigError, RefreshError
from kproxy.http.forwarding import basic_authorization
from kproxy.kube.kubeconfig import AuthProvider, Cluster, ResolvedContext
from kproxy.system.threads import in_daemon_thread
from kproxy.tls.client import client_context

if TYPE_CHECKING:
    import aiohttp

ID_TOKEN, REFRESH_TOKEN = "id-token", "refresh-token"
# A token found in the kubeconfig is not used so shortly before its end.
LEEWAY_SECONDS = 10.0
TIMEOUT_SECONDS = 30.0
# How long an answer that is on its way is waited for when kproxy ends.
FINISH_SECONDS = 2.0
LIMIT_BYTES = 1 << 20
# Some days of renewals: an editor may have had the kubeconfig open for as long.
REMEMBERED_TOKENS = 100
LOGIN = (
    "log in again with the tool that wrote the tokens (kubelogin, kubectl oidc-login, your provider's portal)"
)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Refused(Exception):
    """Why there is no token: a sentence without values. `code` is the issuer's (RFC 6749, 5.2)."""

    def __init__(self, message: str, code: object = None) -> None:
        super().__init__(message)
        self.code = code


class OidcIssuer:
    """The issuer of one context. A user's contexts share the session: a refresh-token may serve only once."""

    gives_certificates = False
    last_words = ""

    def __init__(self, session: OidcSession, where: str, clock: Callable[[], float]) -> None:
        self.name = session.host
        self._session = session
        self._where = where
        self._clock = clock

    async def issue(self, avoid: Collection[Content]) -> Credential:
        """Raises RefreshError."""
        try:
            token = await self._session.token(avoid)
            authorization = bearer(token)
        except (Refused, ValueError) as error:
            raise RefreshError(f"{self._where}: auth-provider oidc: {error}") from None
        return Credential(
            authorization=authorization,
            issued_at=self._clock(),
            expires_at=token_life(token).expires_at,
            kind="oidc",
        )


# Who asks for a session gets the one for the same user of the same file, also when nobody has used it for a
# while: it knows which refresh-tokens are spent, and may have the one that is not.
_sessions: dict[tuple[object, ...], OidcSession] = {}


def open_issuer(
    context: ResolvedContext,
    *,
    write_back: bool,
    kubeconfig_paths: tuple[Path, ...],
    proxy_for_url: Callable[[str], str | None],
    clock: Callable[[], float],
) -> OidcIssuer:
    """The issuer for the context's user, who has an `oidc` auth-provider."""
    user, provider = context.user, context.user.auth_provider
    if provider is None:
        raise ValueError("the user has no auth-provider")
    # Providers with other tokens are equal.
    key = (user.source_path, user.name, write_back, clock, provider)
    session = _sessions.get(key)
    if session is None:
        store = None
        if user.source_path is not None:
            store = TokenStore(user.source_path, user.name, kubeconfig_paths=kubeconfig_paths, clock=clock)
        session = OidcSession(
            provider, store=store, write_back=write_back, proxy_for_url=proxy_for_url, clock=clock
        )
        _sessions[key] = session
    return OidcIssuer(session, place(context), clock)


class OidcSession:
    """The tokens of one user, and their renewal. Owns what is in memory; `store` is where others see it."""

    def __init__(
        self,
        provider: AuthProvider,
        *,
        store: TokenStore | None,
        write_back: bool,
        proxy_for_url: Callable[[str], str | None],
        clock: Callable[[], float],
    ) -> None:
        config = provider.config
        self._issuer_url = config["idp-issuer-url"]
        # Without the password that any URL may hold.
        self.host = self._issuer_url.partition("://")[2].partition("/")[0].rpartition("@")[2] or "the issuer"
        self._client_id = config["client-id"]
        self._client_secret = config.get("client-secret", "")
        self._authority_path = config.get("idp-certificate-authority", "")
        self._authority_data = config.get("idp-certificate-authority-data", "")
        self._store = store
        self._write_back = write_back
        self._proxy_for_url = proxy_for_url
        self._clock = clock
        self._tokens = {name: config.get(name, "") for name in (ID_TOKEN, REFRESH_TOKEN)}
        # What the file held when last seen: a change of it is somebody's doing and beats what is in memory.
        self._stored = dict(self._tokens)
        # Refresh-tokens that we have exchanged for others.
        self._spent: deque[str] = deque(maxlen=REMEMBERED_TOKENS)
        # Of a token that we fetched ourselves we know its life.
        self._fetched: str | None = None
        self._fetched_until = float("-inf")
        self._turn = asyncio.Lock()

    async def token(self, avoid: Collection[Content]) -> str:
        """An id-token that is good now; a fetched one unless one is at hand that is not to be avoided.

        Raises Refused.
        """
        async with self._turn:
            await self._look()
            while True:
                at_hand = self._tokens[ID_TOKEN]
                if at_hand:
                    if jwt_claims(at_hand) is None:
                        raise Refused(f"ID Token is not a valid JWT; {LOGIN}")
                    if self._is_good(at_hand) and (f"Bearer {at_hand}", None) not in avoid:
                        return at_hand
                if not self._tokens[REFRESH_TOKEN]:
                    if self._clock() < (token_life(at_hand).expires_at or 0.0):
                        return at_hand
                    raise Refused(f"No valid id-token, and cannot refresh without refresh-token; {LOGIN}")
                if await _finished(self._renew()):
                    return self._tokens[ID_TOKEN]

    async def _renew(self) -> bool:
        """Fetch new tokens; False when somebody has logged in meanwhile. Raises Refused."""
        answer = await self._fetch()
        if await self._look():
            # What was fetched is for the one before, and must not get into the file either.
            return False
        self._adopt(answer)
        await self._save()
        return True

    def _is_good(self, token: str) -> bool:
        now = self._clock()
        if token == self._fetched:
            return now < self._fetched_until
        return now + LEEWAY_SECONDS < (token_life(token).expires_at or 0.0)

    async def _look(self) -> bool:
        """Take up what somebody else has written to the kubeconfig, if so."""
        is_changed = False
        if self._store is None:
            return is_changed
        # A file that is gone or broken for now is the reload's to tell of; we go on with what we have.
        with contextlib.suppress(StoreError):
            stored = await in_daemon_thread(self._store.read)
            if stored.get(REFRESH_TOKEN) in self._spent:
                # An earlier copy of the file, as an editor or a backup has it: nobody has logged in.
                return is_changed
            for name in (ID_TOKEN, REFRESH_TOKEN):
                if stored.get(name, "") != self._stored[name]:
                    self._stored[name] = self._tokens[name] = stored.get(name, "")
                    is_changed = True
        return is_changed

    async def _save(self) -> None:
        """Bring the file up to date, with what an earlier write may have left undone."""
        if self._store is None or not self._write_back:
            return
        changes = {name: value for name, value in self._tokens.items() if value != self._stored[name]}
        try:
            # In a thread that the end of the process waits for: the refresh-token is good for one use.
            await asyncio.to_thread(self._store.write, changes)
        except StoreError as error:
            log.warning(
                "kubeconfig.write_failed",
                error=f"could not persist new tokens: {error}",
                consequence="they are lost with this process; the next renewal tries again",
            )

    async def _fetch(self) -> Mapping[str, object]:
        """Spend the refresh-token on new tokens. Raises Refused."""
        # Imported here: it takes a quarter of a second, and only OIDC users need it.
        import aiohttp

        secrets = [self._tokens[REFRESH_TOKEN], self._client_secret]
        try:
            connector = aiohttp.TCPConnector(ssl=await in_daemon_thread(self._ssl_context))
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json"},
            ) as client:
                endpoint = await self._discover(client)
                answer = await self._refresh(client, endpoint)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Refused(
                f"cannot verify the certificate of {self._issuer_url}: "
                f"{getattr(error.certificate_error, 'verify_message', '') or error.certificate_error}; "
                "give its authority as idp-certificate-authority or idp-certificate-authority-data"
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise Refused(_hidden(f"cannot reach {self._issuer_url}: {reason}", secrets)) from None
        except Refused as error:
            raise Refused(_hidden(str(error), secrets)) from None
        return answer

    def _adopt(self, answer: Mapping[str, object]) -> None:
        token, refresh_token = answer.get("id_token"), answer.get("refresh_token")
        if not isinstance(token, str) or not token:
            raise Refused(
                'token response did not contain an id_token, either the scope "openid" wasn\'t requested '
                "upon login, or the provider doesn't support id_tokens as part of the refresh response; "
                f"{LOGIN}"
            )
        if jwt_claims(token) is None:
            raise Refused("the issuer returned an id_token that is not a valid JWT")
        self._tokens[ID_TOKEN] = self._fetched = token
        self._fetched_until = schedule(self._clock(), token_life(token).expires_at).refresh_at
        if isinstance(refresh_token, str) and refresh_token not in ("", self._tokens[REFRESH_TOKEN]):
            self._spent.append(self._tokens[REFRESH_TOKEN])
            self._tokens[REFRESH_TOKEN] = refresh_token

    async def _discover(self, client: aiohttp.ClientSession) -> str:
        """The token endpoint (OpenID Connect Discovery 1.0, 4)."""
        url = self._issuer_url.removesuffix("/") + "/.well-known/openid-configuration"
        async with client.get(url, proxy=self._proxy(url)) as response:
            self._check_scheme(str(response.url))
            body = await _body(response)
            if response.status != 200:
                raise Refused(
                    f"oidc: failed to query metadata endpoint {response.status}: "
                    f"{json.dumps(body[:80].decode(errors='replace'))}; check idp-issuer-url"
                )
        endpoint = _object(body).get("token_endpoint")
        if not isinstance(endpoint, str) or not endpoint:
            raise Refused("oidc: discovery object doesn't contain a token_endpoint; check idp-issuer-url")
        self._check_scheme(endpoint)
        return endpoint

    async def _refresh(self, client: aiohttp.ClientSession, endpoint: str) -> Mapping[str, object]:
        """The issuer's answer (RFC 6749, 6). Client id and secret go by Basic, if that fails in the form."""
        form = {"grant_type": "refresh_token", "refresh_token": self._tokens[REFRESH_TOKEN]}
        client_id, client_secret = quote_plus(self._client_id), quote_plus(self._client_secret)
        basic = {"Authorization": basic_authorization(client_id, client_secret)}
        try:
            return await self._post(client, endpoint, form, basic)
        except Refused as error:
            refused = error
        form["client_id"] = self._client_id
        if self._client_secret:
            form["client_secret"] = self._client_secret
        try:
            return await self._post(client, endpoint, form, {})
        except Refused as error:
            # invalid_grant says that client id and secret were fine, so it tells more than the other one.
            raise (refused if refused.code == "invalid_grant" else error) from None

    async def _post(
        self, client: aiohttp.ClientSession, endpoint: str, form: dict[str, str], headers: dict[str, str]
    ) -> Mapping[str, object]:
        # Redirects are not followed: whoever sits there would get the refresh-token.
        async with client.post(
            endpoint, data=form, headers=headers, allow_redirects=False, proxy=self._proxy(endpoint)
        ) as response:
            status, body = response.status, await _body(response)
        answer: Mapping[str, object] = {}
        with contextlib.suppress(Refused):
            answer = _object(body)
        if not 200 <= status < 300 or answer.get("error"):
            words = (answer.get("error"), answer.get("error_description"))
            detail = " ".join(json.dumps(word) for word in words if isinstance(word, str) and word)
            advice = LOGIN if answer.get("error") == "invalid_grant" else "check client-id and client-secret"
            text = f"failed to refresh token: oauth2: {status} {detail}".rstrip()
            raise Refused(f"{text}; {advice}", answer.get("error"))
        return answer

    def _proxy(self, url: str) -> str | None:
        try:
            proxy = self._proxy_for_url(url)
        except ConfigError as error:
            raise Refused(str(error)) from None
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            raise Refused("the environment's proxy for it is no HTTP proxy; except the issuer with NO_PROXY")
        return proxy

    def _check_scheme(self, url: str) -> None:
        if self._issuer_url.lower().startswith("https:") and not url.lower().startswith("https:"):
            raise Refused(f"the issuer leads from https to {url.partition(':')[0]}, which gives tokens away")

    def _ssl_context(self) -> ssl.SSLContext:
        """Verifies always: with the authority given, else with the system's. Raises Refused."""
        field, data = "idp-certificate-authority-data", None
        try:
            if self._authority_data:
                text = self._authority_data.replace("\r", "").replace("\n", "")
                data = base64.b64decode(text, validate=True)
            elif self._authority_path:
                # Unlike the other paths of a kubeconfig this one is relative to the working directory.
                field = f"idp-certificate-authority {self._authority_path}"
                data = Path(self._authority_path).read_bytes()
            cluster = Cluster(name=self._issuer_url, server=self._issuer_url, certificate_authority_data=data)
            return client_context(cluster, None)
        except binascii.Error:
            raise Refused(f"{field}: not base64") from None
        except OSError as error:
            raise Refused(f"{field}: {error.strerror}") from None
        except KubeconfigError:
            raise Refused(f"{field}: holds no valid certificate in PEM form") from None


async def _finished(renewing: Coroutine[Any, Any, bool]) -> bool:
    """Its outcome; who is cancelled gives it a moment: a refresh-token that is spent has only this answer."""
    task = asyncio.ensure_future(renewing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,), timeout=FINISH_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > LIMIT_BYTES:
            raise Refused("the issuer's answer is too long")
    return bytes(body)


def _object(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Refused("the issuer's answer is no JSON object; check idp-issuer-url")
    return document


def _hidden(text: str, secrets: list[str]) -> str:
    """`text` without the secrets that an issuer may have echoed."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[hidden]")
    return text

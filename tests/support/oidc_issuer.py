"""An OpenID Connect issuer over TLS that renews id-tokens, with the faults that real ones have."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from aiohttp import web

from tests.support.pki import CA


def jwt(**claims: object) -> str:
    """A token with these claims; nobody here checks its signature."""
    parts = ({"alg": "none"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


class OidcIssuer:
    """Used as an async context manager. Attributes may be changed at any time.

    A refresh-token is good for one use, as with many providers; `refresh_token` is the one that is good now.
    """

    def __init__(self, client_id: str, client_secret: str, refresh_token: str) -> None:
        self.ca = CA("oidc-ca")
        self.client_id = client_id
        self.client_secret = client_secret
        self.refresh_token = refresh_token
        self.clock: Callable[[], float] = time.time
        self.life_seconds = 3600.0
        self.accepts_basic = True
        self.rotates = True
        self.url = ""
        # What to answer instead: (status, JSON) of either endpoint, and where to send the client.
        self.discovery: tuple[int, object] | None = None
        self.answer: tuple[int, object] | None = None
        self.location: str | None = None
        self.discovered = 0
        self.forms: list[Mapping[str, str]] = []
        self.issued: list[str] = []
        # Set when the token endpoint is asked; `gate` holds its answer back.
        self.reached = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def provider_config(self) -> dict[str, str]:
        """What a kubeconfig's auth-provider has of it, without an id-token."""
        return {
            "idp-issuer-url": self.url,
            "client-id": self.client_id,
            "client-secret": self.client_secret,
            "refresh-token": self.refresh_token,
            "idp-certificate-authority-data": base64.b64encode(self.ca.pem).decode(),
        }

    async def __aenter__(self) -> OidcIssuer:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.ca.server_context())
        await site.start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if request.path.endswith("/.well-known/openid-configuration"):
            self.discovered += 1
            status, document = self.discovery or (200, {"token_endpoint": f"{self.url}/token"})
            return web.json_response(document, status=status)
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.forms.append(form)
        if self.answer is not None:
            headers = {"Location": self.location} if self.location else None
            return web.json_response(self.answer[1], status=self.answer[0], headers=headers)
        if not self._knows(request, form):
            return web.json_response({"error": "invalid_client"}, status=401)
        if form.get("refresh_token") != self.refresh_token:
            return web.json_response(
                {"error": "invalid_grant", "error_description": f"unknown {form.get('refresh_token')}"},
                status=400,
            )
        token = jwt(sub="joe", jti=len(self.issued), exp=self.clock() + self.life_seconds)
        self.issued.append(token)
        answer = {"id_token": token, "token_type": "Bearer"}
        if self.rotates:
            self.refresh_token = answer["refresh_token"] = f"{self.refresh_token}+"
        return web.json_response(answer)

    def _knows(self, request: web.BaseRequest, form: Mapping[str, str]) -> bool:
        if self.accepts_basic:
            pair = f"{self.client_id}:{self.client_secret}"
            return request.headers.get("Authorization") == "Basic " + base64.b64encode(pair.encode()).decode()
        return (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.client_secret)

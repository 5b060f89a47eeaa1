"""The demo cluster as one thing to start and to stop.

Stop order: the tasks, then listener and connections, then the folder. The folder (mode 0700) holds the
kubeconfig; the server's key is in it for the moment that OpenSSL takes to read it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import ssl
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from aiohttp import web

from kproxy.demo.api import Api
from kproxy.demo.controllers import Controllers
from kproxy.demo.life import Life
from kproxy.demo.pki import Authority, KeyPair
from kproxy.demo.seeds import seed
from kproxy.demo.store import Store
from kproxy.errors import ConfigError

CONTEXT_NAME = "kproxy-demo"
USER_NAME = "kproxy-demo-admin"
GROUP_NAME = "kproxy-demo:admins"
_HOST = "127.0.0.1"
_HEADER_BYTES = 64 * 1024
# Open watches and commands are cut after this; whoever stops the demo wants it gone.
_SHUTDOWN_SECONDS = 0.2


class DemoCluster:
    """An in-memory Kubernetes API over mutual TLS, alive inside `async with`.

    `port` 0 takes a free one. `life` lets a few things change by themselves every `life_seconds`.
    `settle_seconds` is how long pods take to start and to end, `log_seconds` the time between two log lines,
    `bookmark_seconds` that between two bookmarks of a watch, `history` how many changes of a kind can be
    watched from the past.
    Raises ConfigError when it cannot listen there. The attributes are set once it is entered.
    """

    url: str
    kubeconfig: str
    kubeconfig_path: Path
    ca_pem: bytes
    client: KeyPair

    def __init__(
        self,
        *,
        port: int = 0,
        life: bool = True,
        life_seconds: float = 2.5,
        settle_seconds: float = 0.5,
        log_seconds: float = 1.0,
        bookmark_seconds: float = 10.0,
        history: int = 1000,
    ) -> None:
        self._port = port
        self._store = Store(history=history)
        self._api = Api(self._store, bookmark_seconds=bookmark_seconds, log_seconds=log_seconds)
        self._controllers = Controllers(self._store, settle_seconds=settle_seconds)
        self._life = (Life(self._store, tick_seconds=life_seconds),) if life else ()
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="kproxy-demo-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            seed(self._store)
            await self._listen(stack, folder)
            for part in (self._controllers, *self._life):
                task = asyncio.ensure_future(part.run())
                stack.push_async_callback(asyncio.wait, (task,))
                stack.callback(task.cancel)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.aclose()

    async def _listen(self, stack: contextlib.AsyncExitStack, folder: Path) -> None:
        authority = Authority("kproxy-demo-ca")
        server = authority.issue_server(("localhost", _HOST, "kubernetes.default.svc"))
        self.client = authority.issue_client(USER_NAME, (GROUP_NAME,))
        self.ca_pem = authority.certificate_pem
        runner = web.ServerRunner(
            web.Server(
                self._api.handle,
                handler_cancellation=True,
                access_log=None,
                max_line_size=_HEADER_BYTES,
                max_field_size=_HEADER_BYTES,
            ),
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        context = _server_context(server, self.ca_pem, folder)
        try:
            await web.TCPSite(runner, _HOST, self._port, ssl_context=context).start()
        except OSError as error:
            raise ConfigError(
                f"the demo cluster cannot listen on {_HOST}:{self._port}: {error.strerror or error}; "
                "choose another port, or 0 for a free one"
            ) from None
        self.url = f"https://{_HOST}:{runner.addresses[0][1]}"
        self.kubeconfig = _kubeconfig(self.url, self.ca_pem, self.client)
        self.kubeconfig_path = folder / "kubeconfig"
        _write_private(self.kubeconfig_path, self.kubeconfig.encode())


def _server_context(server: KeyPair, ca_pem: bytes, folder: Path) -> ssl.SSLContext:
    """Asks for a client certificate but does without: who has none is system:anonymous."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=ca_pem.decode())
    pair = folder / "server.pem"
    _write_private(pair, server.certificate_pem + server.key_pem)
    try:
        context.load_cert_chain(pair)
    finally:
        pair.unlink()
    return context


def _write_private(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _kubeconfig(url: str, ca_pem: bytes, client: KeyPair) -> str:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    cluster = {"server": url, "certificate-authority-data": text(ca_pem)}
    certificate, key = text(client.certificate_pem), text(client.key_pem)
    user = {"client-certificate-data": certificate, "client-key-data": key}
    context = {"cluster": CONTEXT_NAME, "user": USER_NAME, "namespace": "default"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT_NAME, "cluster": cluster}],
        "users": [{"name": USER_NAME, "user": user}],
        "contexts": [{"name": CONTEXT_NAME, "context": context}],
        "current-context": CONTEXT_NAME,
    }
    return yaml.safe_dump(content, sort_keys=False)

"""The demo cluster as one thing to start and to stop, with a certificate authority of its own.

The folder (mode 0700) holds the kubeconfig; the server's key is in it for the moment that OpenSSL takes to
read it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import shutil
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kproxy.demo.api import Api
from kproxy.demo.controllers import Controllers, Life
from kproxy.demo.http2 import Front
from kproxy.demo.seeds import seed
from kproxy.demo.store import Store
from kproxy.errors import ConfigError

LIFETIME = datetime.timedelta(days=30)
# A virtual machine's clock may lag behind its host's.
_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


class Authority:
    """Issues certificates that also pass `ssl.VERIFY_X509_STRICT`, Python 3.13's default."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate_pem = self._sign(self._name, self._key)

    def issue_server(self, hosts: tuple[str, ...], address: str) -> KeyPair:
        """A certificate for these host names and that IP address."""
        names = [x509.DNSName(host) for host in hosts]
        alternatives = x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address(address))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kproxy-demo")])
        return self._issue(subject, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), alternatives)

    def issue_client(self, user: str, group: str) -> KeyPair:
        """A certificate that names a user (CN) and a group (O), as Kubernetes reads them."""
        attributes = ((NameOID.ORGANIZATION_NAME, group), (NameOID.COMMON_NAME, user))
        subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
        return self._issue(subject, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))

    def _issue(self, subject: x509.Name, *extensions: x509.ExtensionType) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        key_pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        return KeyPair(certificate_pem=self._sign(subject, key, *extensions), key_pem=key_pem)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        is_ca = subject == self._name
        usage = x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
            .add_extension(usage, critical=True)
        )
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in (subject_key, issuer_key, *extensions):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


CONTEXT_NAME = "kproxy-demo"
_HOST = "127.0.0.1"
_HEADER_BYTES = 64 * 1024
# Open watches and commands are cut after this; whoever stops the demo wants it gone.
_SHUTDOWN_SECONDS = 0.2
_KUBECONFIG = """apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster: {{server: "{url}", certificate-authority-data: {0}}}
users:
- name: {name}-admin
  user: {{client-certificate-data: {1}, client-key-data: {2}}}
contexts:
- name: {name}
  context: {{cluster: {name}, user: {name}-admin, namespace: default}}
"""


class DemoCluster:
    """An in-memory Kubernetes API over mutual TLS, alive inside `async with`.

    `port` 0 takes a free one. `life` lets a few things change by themselves every `life_seconds`.
    `settle_seconds` is how long pods take to start and to end, `log_seconds` the time between two log lines,
    `bookmark_seconds` that between bookmarks, `history` how many changes of a kind are remembered.
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

    async def __aexit__(self, *error: object) -> None:
        await self._exit.aclose()

    async def _listen(self, stack: contextlib.AsyncExitStack, folder: Path) -> None:
        authority = Authority(f"{CONTEXT_NAME}-ca")
        self.client = authority.issue_client(f"{CONTEXT_NAME}-admin", f"{CONTEXT_NAME}:admins")
        self.ca_pem = authority.certificate_pem
        limits: Any = {"max_line_size": _HEADER_BYTES, "max_field_size": _HEADER_BYTES}
        front = Front(web.Server(self._api.handle, handler_cancellation=True, access_log=None, **limits))
        stack.push_async_callback(front.close, _SHUTDOWN_SECONDS)
        server = authority.issue_server(("localhost", "kubernetes.default.svc"), _HOST)
        context = _server_context(server, self.ca_pem, folder)
        try:
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(front, _HOST, self._port, ssl=context)
        except OSError as error:
            raise ConfigError(
                f"the demo cluster cannot listen on {_HOST}:{self._port}: {error.strerror or error}; "
                "choose another port, or 0 for a free one"
            ) from None
        stack.callback(listener.close)
        self.url = f"https://{_HOST}:{listener.sockets[0].getsockname()[1]}"
        pems = (self.ca_pem, self.client.certificate_pem, self.client.key_pem)
        encoded = (base64.b64encode(pem).decode() for pem in pems)
        self.kubeconfig = _KUBECONFIG.format(*encoded, name=CONTEXT_NAME, url=self.url)
        self.kubeconfig_path = folder / "kubeconfig"
        self.kubeconfig_path.touch(0o600)
        self.kubeconfig_path.write_text(self.kubeconfig)


def _server_context(server: KeyPair, ca_pem: bytes, folder: Path) -> ssl.SSLContext:
    """Asks for a client certificate but does without: who has none is system:anonymous."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=ca_pem.decode())
    pair = folder / "server.pem"
    pair.touch(0o600)
    try:
        pair.write_bytes(server.certificate_pem + server.key_pem)
        context.load_cert_chain(pair)
    finally:
        pair.unlink()
    return context

"""What the kubeconfig cases talk to: echo servers, a forward proxy, an OIDC issuer, and their PKI.

All on loopback and in threads of the test process. `Fixtures.values` fills the `${NAME}` placeholders of
tests/conformance/kubeconfig_cases.json.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.pki import CA, load_cert_chain

IDLE_SECONDS = 60.0


class Server(ThreadingMixIn, TCPServer):
    """A server on a free loopback port that knows how many connections are open; TLS with `context`."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[StreamRequestHandler], context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.port = int(self.server_address[1])
        self.context = context
        self.log: list[Any] = []
        self._open = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            self.RequestHandlerClass(request, client_address, self)
            return
        try:
            connection = self.context.wrap_socket(request, server_side=True)
        except OSError:
            return
        with connection:
            self.RequestHandlerClass(connection, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A program under test that goes away in the middle is nothing to print."""

    def wait_idle(self) -> None:
        """Until every connection is closed on this side too; TimeoutError when one stays."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, IDLE_SECONDS):
                raise TimeoutError(f"{self._open} connection(s) to port {self.port} stay open")

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Echo(BaseHTTPRequestHandler):
    """Answers with what it got, as JSON.

    /status/N answers N, /sleep/N and ?sleep=N wait, /close closes, an upgrade is refused with 403, and
    /oidc is an issuer whose token endpoint always has a fresh token.
    """

    protocol_version = "HTTP/1.1"
    server: EchoServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("latin-1")
        seen = {"path": self.path, "headers": self.headers.items(), "body": body, **self._tls()}
        self.server.log.append(seen)
        status = 200
        if found := re.match(r"/status/(\d+)", self.path):
            status = int(found[1])
        if found := re.search(r"(?:^/sleep/|[?&]sleep=)(\d+)", self.path):
            time.sleep(int(found[1]))
        answer: object = seen
        if self.path.startswith("/oidc/.well-known"):
            answer = {"token_endpoint": f"https://127.0.0.1:{self.server.port}/oidc/token"}
        elif self.path.startswith("/oidc/token"):
            self.server.token_calls.append(seen)
            answer = self.server.token_answer
        if self.headers.get("Upgrade") and status == 200:
            status = 403
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.path.startswith("/close"):
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 (the names are those of http.server)

    def _tls(self) -> dict[str, object]:
        if not isinstance(self.connection, ssl.SSLSocket):
            return {"tls": False}
        certificate = self.connection.getpeercert() or {}
        names = dict(pair for part in certificate.get("subject", ()) for pair in part)
        return {
            "tls": True,
            "tls_version": self.connection.version(),
            "sni": self.server.names.get(self.connection),
            "client_cn": names.get("commonName"),
        }

    def log_message(self, *args: Any) -> None:
        """Nothing: the program's own words are what matters."""


class EchoServer(Server):
    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.names: dict[object, str | None] = {}
        self.token_calls: list[dict[str, Any]] = []
        self.token_answer: dict[str, object] = {}
        if context is not None:
            context.sni_callback = self._note_name  # type: ignore[assignment]
        super().__init__(Echo, context)

    def _note_name(self, connection: ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        self.names[connection] = name


class ForwardProxy(StreamRequestHandler):
    """CONNECT and absolute-form requests; names under .test are this machine."""

    server: Server

    def handle(self) -> None:
        head = []
        while line := self.rfile.readline().decode("latin-1").strip():
            head.append(line)
        if not head:
            return
        authorization = [line for line in head if line.lower().startswith("proxy-authorization")]
        self.server.log.append("|".join([head[0], *authorization]))
        method, target, _ = head[0].split()
        if method != "CONNECT":
            body = json.dumps({"via_proxy": head}).encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection(("127.0.0.1" if host.endswith(".test") else host, int(port))) as peer:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pipe, args=(peer, self.connection), daemon=True)
            back.start()
            _pipe(self.connection, peer)
            back.join()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class Fixtures:
    """All servers and placeholder values of the cases; `close` when done."""

    def __init__(self) -> None:
        ca, other = CA("kproxy-test-ca"), CA("kproxy-other-ca")
        names = ("localhost", "api.test", "sni.test", "127.0.0.1", "::1")
        lax_pem, lax_context = lax_authority()
        self_pem, self_context = self_signed()
        self.api = EchoServer(_api_context(ca, names))
        self.only = EchoServer(_api_context(ca, ("sni.test",)))
        self.plain = EchoServer()
        self.proxy = Server(ForwardProxy)
        lax, alone = EchoServer(lax_context), EchoServer(self_context)
        self._servers = (self.api, self.only, self.plain, self.proxy, lax, alone)
        fresh = token(7200)
        self.api.token_answer = {
            "access_token": "a",
            "token_type": "Bearer",
            "refresh_token": "r2",
            "id_token": fresh,
            "expires_in": 3600,
        }
        self.values = {
            "TLS_PORT": str(self.api.port),
            "ONLY_PORT": str(self.only.port),
            "HTTP_PORT": str(self.plain.port),
            "PROXY_PORT": str(self.proxy.port),
            "LAX_PORT": str(lax.port),
            "SELF_PORT": str(alone.port),
            "LAX_PEM": lax_pem.decode(),
            "SELF_PEM": self_pem.decode(),
            "JWT_VALID": token(86400),
            "JWT_EXPIRED": token(-60),
            "JWT_FRESH": fresh,
            "PAST": "2001-01-01T00:00:00Z",
            **_spellings("CA", ca.pem),
            **_spellings("OTHERCA", other.pem),
        }
        for name in ("alice", "bob"):
            certificate, key = ca.issue(name, client=True)
            self.values |= _spellings(f"{name.upper()}_CRT", certificate)
            self.values |= _spellings(f"{name.upper()}_KEY", key)
            self.values |= _spellings(f"{name.upper()}_KEY_ENC", _encrypted(key))

    def reset(self) -> None:
        """Forget what was seen; to be called between cases."""
        for server in self._servers:
            server.log.clear()
        self.api.token_calls.clear()

    def wait_idle(self) -> None:
        for server in self._servers:
            server.wait_idle()

    def close(self) -> None:
        for server in self._servers:
            server.close()


def token(seconds: int) -> str:
    """An unsigned JWT that expires in so many seconds."""

    def part(claims: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'exp': int(time.time()) + seconds, 'sub': 'me'})}.signature"


def _spellings(name: str, pem: bytes) -> dict[str, str]:
    text = pem.decode()
    return {
        f"{name}_PEM": text,
        f"{name}_B64": base64.b64encode(pem).decode(),
        f"{name}_JSON": json.dumps(text)[1:-1],
    }


def _encrypted(key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pw"),
    )


def _api_context(ca: CA, names: Sequence[str]) -> ssl.SSLContext:
    return ca.server_context(*names, client_ca=ca, client_certificate_required=False)


def lax_authority() -> tuple[bytes, ssl.SSLContext]:
    """An authority as old clusters have it: basicConstraints not critical, no key identifiers anywhere."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("lax-ca", "lax-ca", ca_key, ca_key, ca=True)
    return _pem(ca), _context(_certificate("server", "lax-ca", key, ca_key, ca=None), key)


def self_signed() -> tuple[bytes, ssl.SSLContext]:
    """A server certificate that signs itself and says nothing about being an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate("server", "server", key, key, ca=None)
    return _pem(certificate), _context(certificate, key)


def _certificate(
    cn: str, issuer: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, ca: bool | None
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=10))
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
    else:
        name = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _context(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    load_cert_chain(context, _pem(certificate), key_pem)
    return context

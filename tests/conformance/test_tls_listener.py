"""Listeners that speak https: which certificate, when another, and the same path of data behind it."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from kproxy.tls.certificates import Certificates
from kproxy.tls.selfsigned import LIFE_SECONDS, SelfSigned
from tests.support.answers import Step, big, big_sha256, chunk, head, never_answer, script, tunnel
from tests.support.client import RawClient, request_bytes
from tests.support.notice import noticed
from tests.support.pair_files import PairFiles
from tests.support.patience import LAST_RESORT_SECONDS, until
from tests.support.pki import CA
from tests.support.program import Program, ended
from tests.support.upstream import ByteUpstream
from tests.support.volume import Volume

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
FORWARD = "/api/v1/namespaces/ns/pods/p/portforward"
WATCH = script(head(200, [("Transfer-Encoding", "chunked")]), chunk(b"{}\n"), Step.WAIT_FOR_END)
NAMES = ("localhost", "127.0.0.1", "::1")
DAY = 86_400.0


class Pair(PairFiles):
    """Of an authority that the tests' clients trust."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "tls")
        self.ca = CA("listeners")
        self.renew()

    def renew(self) -> bytes:
        """Put another pair in its place; returns the certificate in DER."""
        self.write(*self.ca.issue("localhost", NAMES))
        return self.der

    @property
    def flags(self) -> tuple[str, str]:
        return f"--tls-certificate={self.certificate}", f"--tls-key={self.key}"

    @property
    def fingerprint(self) -> str:
        return "SHA256 " + hashlib.sha256(self.der).digest().hex(":").upper()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
async def program(config: Path, pair: Pair) -> AsyncIterator[Program]:
    async with Program(*pair.flags, kubeconfig=config) as program:
        await program.output("server.started")
        yield program


async def connect(program: Program, ca: CA) -> RawClient:
    return await RawClient.connect(program.address, ca.client_context())


async def shown_by(program: Program, ca: CA) -> bytes:
    """The certificate that a new connection gets, in DER."""
    async with await connect(program, ca) as client:
        assert client.channel.tls is not None
        shown = client.channel.tls.getpeercert(binary_form=True)
        assert shown is not None
        return shown


# -- the path of data --


async def test_requests_pass(program: Program, pair: Pair, upstream: ByteUpstream) -> None:
    """Several on one connection; the client's address reaches the API server and the log."""
    async with await connect(program, pair.ca) as client:
        assert (await client.request("GET", "/api")).status == 200
        assert (await client.request("POST", "/api", body=b"x" * 100_000)).status == 200
        host, port = client.channel._socket.getsockname()
    assert [each.values("X-Forwarded-For") for each in upstream.requests] == [[host], [host]]
    await program.output("request.finished(.|\n)*request.finished")
    assert program.log_events("request.finished")[0]["client"] == f"{host}:{port}"


async def test_streams_pass(program: Program, pair: Pair, upstream: ByteUpstream) -> None:
    """20 MB, and a watch whose events come as they are."""
    upstream.routes.update({"/big": big(20_000_000), "/api/v1/pods": WATCH})
    async with await connect(program, pair.ca) as client:
        await client.send(request_bytes("GET", "/big"))
        assert await client.digest(await client.read_head()) == big_sha256(20_000_000)
        await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
        await client.read_until(await client.read_head(), b"{}\n")


async def test_tunnels_pass(program: Program, pair: Pair, upstream: ByteUpstream) -> None:
    """Bytes both ways, those sent before the 101 too."""
    upstream.routes[FORWARD] = tunnel()
    async with await connect(program, pair.ca) as client:
        await client.send(request_bytes("POST", FORWARD, UPGRADE) + b"early")
        assert (await client.read_head()).status == 101
        assert await client.read_exactly(5) == b"early"
        await client.send(b"late" * 100_000)
        assert await client.read_exactly(400_000) == b"late" * 100_000


@pytest.mark.parametrize("how", ["close", "reset", "abandon"])
async def test_a_client_that_leaves_ends_its_request(
    program: Program, pair: Pair, upstream: ByteUpstream, how: str
) -> None:
    """By close_notify, by RST or by FIN alone."""
    upstream.responder = never_answer()
    client = await connect(program, pair.ca)
    await client.send(request_bytes("GET", "/api"))
    [request] = await upstream.wait_for_requests(1)
    getattr(client.channel, how)()
    await asyncio.wait_for(request.connection.ended.wait(), LAST_RESORT_SECONDS)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_that_is_cut_is_cut(
    program: Program, pair: Pair, upstream: ByteUpstream, framing: str
) -> None:
    """No close_notify behind half an answer: to TLS that would be a whole one (RFC 9112, 9.8)."""
    seen = asyncio.Event()
    fields = [("Content-Length", "10")] if framing == "length" else [("Transfer-Encoding", "chunked")]
    body = b"12345" if framing == "length" else chunk(b"12345")
    upstream.responder = script(head(200, fields) + body, seen, Step.RESET)
    async with await connect(program, pair.ca) as client:
        await client.send(request_bytes("GET", "/api"))
        response = await client.read_head()
        await client.read_until(response, b"12345")
        seen.set()
        assert await client.read_piece(response) == b""
        assert client.end in ("cut", "reset")


async def test_an_http_1_0_client_sees_the_cut_as_a_reset(
    program: Program, pair: Pair, upstream: ByteUpstream
) -> None:
    """To it the end of the connection is the end of the answer; `reset()` must find the socket under TLS."""
    seen = asyncio.Event()
    upstream.responder = script(
        head(200, [("Transfer-Encoding", "chunked")]) + chunk(b"12345"), seen, Step.RESET
    )
    async with await connect(program, pair.ca) as client:
        await client.send(b"GET /api HTTP/1.0\r\nHost: localhost\r\n\r\n")
        response = await client.read_head()
        await client.read_until(response, b"12345")
        seen.set()
        assert await client.read_piece(response) == b""
        assert client.end == "reset"


async def test_a_refused_upload_hears_why(program: Program, pair: Pair, upstream: ByteUpstream) -> None:
    """An early answer, then a goodbye: without a half-close the client gets time to stop sending."""
    body = b"too much"
    upstream.responder = script(
        head(413, [("Content-Length", str(len(body)))]) + body, Step.WAIT_FOR_END, early=True
    )
    async with await connect(program, pair.ca) as client:
        await client.send(request_bytes("POST", "/api", [("Content-Length", "100000")]))
        response = await client.read_response()
        assert (response.status, bytes(response.body.data)) == (413, body)
        assert await client.read_to_end() == b""
        assert client.end == "eof"


async def test_clients_that_connect_and_say_nothing_hold_up_nobody(program: Program, pair: Pair) -> None:
    """Half a handshake is a connection, too; the end comes all the same."""
    assert isinstance(program.address, tuple)
    with ExitStack() as owned:
        silent = [owned.enter_context(socket.create_connection(program.address)) for _ in range(10)]
        silent[0].sendall(b"\x16\x03\x01")
        async with await connect(program, pair.ca) as client:
            assert (await client.request("GET", "/api")).status == 200
            assert await program.stopped(signal.SIGTERM) == 0


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_plain_http_is_told_so(
    program: Program, pair: Pair, upstream: ByteUpstream, method: str
) -> None:
    """A client that forgot the s, or a port scanner: 400 with the right URL, no traceback, and the next one
    is served. Nothing else is answered over plain http."""
    async with await RawClient.connect(program.address) as client:
        # A second one behind it, which must not get through either.
        asked = request_bytes(method, "/api", body=b"x" * 1000 if method == "POST" else None)
        await client.send(asked + request_bytes("GET", "/-/healthz"))
        response = await client.read_response(method)
        assert (response.status, response.value("Content-Type")) == (400, "text/plain; charset=utf-8")
        told = "" if method == "HEAD" else f"use https://127.0.0.1:{program.port}\n"
        assert response.text.endswith(told)
        assert await client.read_to_end() == b""
        assert client.end == "eof"
    assert upstream.requests == []
    async with await connect(program, pair.ca) as client:
        assert (await client.request("GET", "/api")).status == 200
    assert await program.stopped() == 0
    assert [line for line in program.log_events() if line["level"] not in ("info",)] == []


# -- the protocol --


def old_client(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1])
async def test_old_tls_is_refused(program: Program, version: ssl.TLSVersion) -> None:
    """RFC 8996: TLS 1.0 and 1.1 must not be used."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await RawClient.connect(program.address, old_client(version))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_current_tls_is_spoken(program: Program, version: ssl.TLSVersion) -> None:
    """1.2 and 1.3."""
    async with await RawClient.connect(program.address, old_client(version)) as client:
        assert (await client.request("GET", "/api")).status == 200


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), ([], None)]
)
async def test_http_1_1_is_agreed_on(
    program: Program, pair: Pair, offered: list[str], chosen: str | None
) -> None:
    """A browser offers h2 first, which is not spoken here."""
    async with await RawClient.connect(program.address, pair.ca.client_context(alpn=offered)) as client:
        assert client.channel.tls is not None
        assert client.channel.tls.selected_alpn_protocol() == chosen
        assert (await client.request("GET", "/api")).status == 200


# -- web pages --


PAGES = [
    ("localhost:{port}", "https://localhost:{port}", 200),
    ("127.0.0.1:{port}", "https://127.0.0.1:{port}", 200),
    ("localhost:{port}", "http://localhost:3000", 200),
    ("kproxy.example:{port}", "https://kproxy.example:{port}", 200),
    ("kproxy.example:{port}", "http://kproxy.example:{port}", 403),
    ("kproxy.example", "http://kproxy.example", 403),
    ("localhost:{port}", "https://evil.example", 403),
]


async def test_pages_of_our_own_origin_come_in(config: Path, pair: Pair) -> None:
    """Over TLS that is an https one: plain http of another name could be anybody's on the way."""
    hosts = r"--accept-hosts=^localhost$,^127\.0\.0\.1$,^kproxy\.example$"
    async with (
        Program(*pair.flags, hosts, kubeconfig=config) as program,
        await connect(program, pair.ca) as client,
    ):
        for host, origin, status in PAGES:
            fields = [("Origin", origin.format(port=program.port)), ("Sec-Fetch-Site", "same-origin")]
            response = await client.request("GET", "/api", fields, host=host.format(port=program.port))
            assert response.status == status, (host, origin)


# -- the certificate that is given --


async def test_the_start_tells_the_fingerprint(program: Program, pair: Pair) -> None:
    """As openssl and browsers show it, with the certificate's end."""
    (loaded,) = program.log_events("certificate.loaded")
    assert (loaded["certificate"], loaded["fingerprint"]) == (str(pair.certificate), pair.fingerprint)
    assert loaded["expires_at"].startswith("20")


async def test_a_changed_pair_is_taken_up(program: Program, pair: Pair) -> None:
    """New connections get it, open ones go on; the log tells once, with the new fingerprint."""
    before = await shown_by(program, pair.ca)
    async with await connect(program, pair.ca) as client:
        wanted = pair.renew()
        reloaded = await program.event("certificate.reloaded")
        assert await shown_by(program, pair.ca) == wanted != before
        assert (await client.request("GET", "/api")).status == 200
    assert program.log_events("certificate.reloaded") == [reloaded]
    assert reloaded["fingerprint"] == pair.fingerprint


async def test_another_kind_of_key_is_taken_up_alone(program: Program, pair: Pair) -> None:
    """From EC to RSA: the old one is shown to nobody any more, whatever they prefer."""
    await asyncio.to_thread(
        subprocess.run,
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
         "-keyout", str(pair.key), "-out", str(pair.certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    await program.output("certificate.reloaded")
    wanted = pair.der
    for ciphers in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
        context = old_client(ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        if "ECDSA" in ciphers:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await RawClient.connect(program.address, context)
            continue
        async with await RawClient.connect(program.address, context) as client:
            assert client.channel.tls is not None
            assert client.channel.tls.getpeercert(binary_form=True) == wanted


async def test_half_a_pair_is_not_taken(program: Program, pair: Pair) -> None:
    """The certificate is there, its key not yet: the old pair serves, one line tells, then the new one."""
    before = await shown_by(program, pair.ca)
    certificate, key = pair.ca.issue("localhost", NAMES)
    pair.certificate.write_bytes(certificate)
    failed = await program.event("certificate.reload_failed")
    assert await shown_by(program, pair.ca) == before
    pair.key.write_bytes(key)
    await program.output("certificate.reloaded")
    assert await shown_by(program, pair.ca) == pair.der
    assert program.log_events("certificate.reload_failed") == [failed]
    assert "the key is not the key of the certificate" in failed["error"]
    assert failed["level"] == "error"


async def test_a_pair_that_goes_and_comes_back(program: Program, pair: Pair) -> None:
    """Serving goes on meanwhile, with what was loaded."""
    before = await shown_by(program, pair.ca)
    content = pair.certificate.read_bytes()
    pair.certificate.unlink()
    await program.output("certificate.reload_failed")
    assert await shown_by(program, pair.ca) == before
    pair.certificate.write_bytes(content)
    await program.output("certificate.reloaded")


async def test_the_swap_of_a_mounted_secret_is_noticed(tmp_path: Path, config: Path, pair: Pair) -> None:
    """Kubernetes turns one symlink, `..data`, for both files at once."""

    def issued() -> dict[str, bytes]:
        return dict(zip(("tls.crt", "tls.key"), pair.ca.issue("localhost", NAMES), strict=True))

    volume, new = Volume(tmp_path / "volume", issued()), issued()
    flags = f"--tls-certificate={volume.path / 'tls.crt'}", f"--tls-key={volume.path / 'tls.key'}"
    async with Program(*flags, kubeconfig=config) as program:
        await noticed(program, lambda: volume.project(new), "certificate.reloaded")
        assert await shown_by(program, pair.ca) == ssl.PEM_cert_to_DER_cert(new["tls.crt"].decode())


async def test_no_reload_leaves_it_alone(config: Path, pair: Pair) -> None:
    """--no-reload is for certificates, too: while another program takes up two new pairs."""
    async with (
        Program(*pair.flags, kubeconfig=config) as other,
        Program(*pair.flags, "--no-reload", kubeconfig=config) as program,
    ):
        before = await shown_by(program, pair.ca)
        for number in (1, 2):
            wanted = pair.renew()
            # One look at the files after the other: this program would have had its own in between.
            await other.event("certificate.reloaded", number)
        assert await shown_by(other, pair.ca) == wanted
        assert await shown_by(program, pair.ca) == before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pair: pair.key.unlink(), "No such file"),
        (lambda pair: pair.key.write_bytes(pair.ca.key_pem), "the key is not the key of the certificate"),
        (lambda pair: pair.certificate.write_text("rubbish"), "no certificate in PEM form"),
    ],
    ids=["missing", "mismatch", "rubbish"],
)
async def test_a_pair_that_cannot_be_used_ends_the_start(
    config: Path, pair: Pair, spoil: Callable[[Pair], Any], said: str
) -> None:
    """Exit code 2, with all other problems; `kproxy check` finds it, too. The key is never shown."""
    spoil(pair)
    for command in ([], ["check"]):
        flags = (*pair.flags, "--port=0", f"--kubeconfig={config}", "--accept-paths=(")
        program = await asyncio.to_thread(ended, *command, *flags, code=2)
        assert "tls_certificate: " in program.stderr
        assert said in program.stderr
        assert "is not a regular expression" in program.stderr
        assert "PRIVATE KEY" not in program.stderr


async def test_a_certificate_near_its_end_is_told(tmp_path: Path, config: Path) -> None:
    """It is somebody else's to renew; it serves to the end."""
    import datetime

    ca = CA("listeners")
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    certificate, key = ca.issue("localhost", NAMES, not_after=tomorrow)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate + key)
    async with Program(f"--tls-certificate={both}", kubeconfig=config) as program:
        await program.output("certificate.ending")
        async with await connect(program, ca) as client:
            assert (await client.request("GET", "/api")).status == 200


async def test_listeners_with_and_without_tls(tmp_path: Path, config: Path, pair: Pair) -> None:
    """Each entry of the file has its own; what it does not say is taken from the flags."""
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"tls_certificate: {pair.certificate}\ntls_key: {pair.key}\n"
        "listeners:\n- port: 0\n- port: 0\n  tls_self_signed: false\n"
    )
    async with Program(f"--config={settings}", kubeconfig=config) as program:
        await program.output("server.started")
        secure, plain = program.addresses
        async with await RawClient.connect(secure, pair.ca.client_context()) as client:
            assert (await client.request("GET", "/api")).status == 200
        async with await RawClient.connect(plain) as client:
            assert (await client.request("GET", "/api")).status == 200


# -- one's own certificate --


def trusting(path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))


async def test_ones_own_certificate_is_the_same_at_each_start(tmp_path: Path, config: Path) -> None:
    """Made once, with its fingerprint in the log; a client that trusts it needs nothing else."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    path = tmp_path / "state" / "kproxy" / "tls" / "tls.crt"
    fingerprints = []
    for _ in range(2):
        async with Program("--tls-self-signed", kubeconfig=config, env=state) as program:
            await program.output("server.started")
            (loaded,) = program.log_events("certificate.loaded")
            fingerprints.append(loaded["fingerprint"])
            made = len(program.log_events("certificate.created"))
            async with await RawClient.connect(program.address, trusting(path)) as client:
                assert (await client.request("GET", "/api")).status == 200
    assert fingerprints[0] == fingerprints[1]
    assert made == 0
    assert stat.S_IMODE((path.parent / "tls.key").stat().st_mode) == 0o600


async def test_two_starts_at_once_share_it(tmp_path: Path, config: Path) -> None:
    """Neither overwrites what the other has loaded."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    programs = [Program("--tls-self-signed", kubeconfig=config, env=state) for _ in range(3)]
    try:
        await asyncio.gather(*(asyncio.to_thread(program.start) for program in programs))
        for program in programs:
            await program.output("server.started")
        loaded = [program.log_events("certificate.loaded")[0]["fingerprint"] for program in programs]
        assert len(set(loaded)) == 1
        assert sum(len(program.log_events("certificate.created")) for program in programs) == 1
    finally:
        for program in programs:
            await asyncio.to_thread(program.kill)


async def test_another_program_may_renew_it(tmp_path: Path, config: Path) -> None:
    """One that listens elsewhere needs another name in it: all who share it go over to it."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    async with Program("--tls-self-signed", kubeconfig=config, env=state) as program:
        await program.output("server.started")
        own = SelfSigned(tmp_path / "state" / "kproxy" / "tls")
        assert await asyncio.to_thread(own.ensure, ["kproxy.example"])
        await program.output("certificate.reloaded")
        async with await RawClient.connect(program.address, trusting(own.paths[0])) as client:
            assert (await client.request("GET", "/api")).status == 200


async def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, config: Path) -> None:
    """One line, with what to do instead; nothing serves without the TLS that was asked for."""
    (tmp_path / "file").write_text("")
    env = {"XDG_STATE_HOME": str(tmp_path / "file")}
    flags = ("--tls-self-signed", "--port=0", f"--kubeconfig={config}")
    program = await asyncio.to_thread(ended, *flags, code=1, env=env)
    (line,) = program.stderr.splitlines()
    assert "--tls-self-signed: cannot keep a certificate in" in line
    assert "XDG_STATE_HOME" in line


async def test_check_makes_no_certificate(tmp_path: Path, config: Path) -> None:
    """It looks, and leaves no trace."""
    env = {"XDG_STATE_HOME": str(tmp_path / "s")}
    await asyncio.to_thread(ended, "check", "--tls-self-signed", f"--kubeconfig={config}", env=env)
    assert not (tmp_path / "s").exists()


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc]


async def test_it_is_renewed_while_it_serves(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """A daemon runs for years: thirty days before the end there is another, for new connections."""
    now = [1_800_000_000.0]
    own = SelfSigned(tmp_path / "kproxy" / "tls", now=lambda: now[0])
    certificates = Certificates(own, check_seconds=0.02, period_seconds=60, now=lambda: now[0])
    context = certificates.open(None, ["127.0.0.1"])
    assert context is not None
    before = own.paths[0].read_bytes()
    async with certificates:
        now[0] += LIFE_SECONDS - 29 * DAY
        await until(lambda: any(line["event"] == "certificate.reloaded" for line in events), "a reload")
    assert own.paths[0].read_bytes() != before
    told = [line["event"] for line in events]
    assert told == [f"certificate.{verb}" for verb in ("created", "loaded", "created", "reloaded")]
    assert events[1]["fingerprint"] != events[3]["fingerprint"]


async def test_a_renewal_that_fails_is_told_once(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """The certificate at hand serves on, to its end, which is told as well."""
    now = [1_800_000_000.0]
    folder = tmp_path / "kproxy" / "tls"
    own = SelfSigned(folder, now=lambda: now[0])
    certificates = Certificates(own, check_seconds=0.02, period_seconds=60, now=lambda: now[0])
    assert certificates.open(None, ["127.0.0.1"]) is not None
    folder.rename(tmp_path / "moved")
    folder.write_text("in the way")
    async with certificates:
        now[0] += LIFE_SECONDS - 3 * DAY
        told = "certificate.ending"
        await until(lambda: [line["event"] for line in events].count(told) > 3, "warnings")
    failures = [line for line in events if line["event"] == "certificate.reload_failed"]
    assert 1 <= len({line["error"] for line in failures}) == len(failures) <= 2

"""kproxy.tls.client: whom we trust, as whom we come, and what is said when that cannot be."""

from __future__ import annotations

import base64
import datetime
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from kproxy.errors import KubeconfigError
from kproxy.kube.kubeconfig import Cluster, User
from kproxy.tls import client as tls
from kproxy.tls.pair import ClientCertificate, memory_file
from tests.support import secrets
from tests.support.kubeconfig_fixtures import lax_authority, self_signed
from tests.support.pki import CA, load_cert_chain

SERVER = "https://api.test:6443"


def cluster(**fields: object) -> Cluster:
    return Cluster(**{"name": "c", "server": SERVER, **fields})  # type: ignore[arg-type]


def trusting(*pems: bytes) -> Cluster:
    return cluster(certificate_authority_data=b"".join(pems))


def client_certificate(ca: CA, name: str = "alice") -> ClientCertificate:
    certificate, key = ca.issue(name, client=True)
    return ClientCertificate(certificate_pem=certificate, key_pem=key)


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "api.test") -> ssl.SSLObject:
    """Do a handshake in memory and return the server's side of it; raises what the client raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    # TLS 1.3 needs a second pass on the server's side, for the client's certificate.
    for _ in range(3):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return theirs


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


# -- whom we trust --


@pytest.mark.parametrize("as_file", [True, False])
def test_named_authority_is_trusted(ca: CA, as_file: bool, tmp_path: Path) -> None:
    """A server of the cluster's CA is trusted, whether the CA is a file or data; the protocol is HTTP/1.1."""
    (tmp_path / "ca").write_bytes(ca.pem)
    chosen = cluster(certificate_authority=tmp_path / "ca") if as_file else trusting(ca.pem)
    theirs = shake_hands(tls.client_context(chosen, None), ca.server_context("api.test"))
    assert theirs.version() == "TLSv1.3"
    assert theirs.selected_alpn_protocol() == "http/1.1"


def test_only_the_named_authority_is_trusted(ca: CA) -> None:
    """With a CA named, neither another CA nor the system's authorities count."""
    context = tls.client_context(trusting(CA("other").pem), None)
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, ca.server_context("api.test"))


def test_system_authorities_without_a_named_one(ca: CA, tmp_path: Path) -> None:
    """A cluster without CA trusts the authorities of the system, which SSL_CERT_FILE can name."""
    (tmp_path / "roots").write_bytes(ca.pem)
    script = (
        "from kproxy.kube.kubeconfig import Cluster; from kproxy.tls.client import client_context;"
        "print([dict(sum(c['subject'], ()))['commonName'] for c in"
        f" client_context(Cluster(name='c', server='{SERVER}'), None).get_ca_certs()])"
    )
    root = str(Path(tls.__file__).parents[2])
    env = {"PYTHONPATH": root, "SSL_CERT_FILE": str(tmp_path / "roots"), "SSL_CERT_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"['{ca.cn}']"


def test_wrong_name_is_refused(ca: CA) -> None:
    """The server must be named by its certificate's subjectAltName, for names and addresses."""
    context = tls.client_context(trusting(ca.pem), None)
    shake_hands(context, ca.server_context("127.0.0.1"), "127.0.0.1")
    for name in ("else.test", "127.0.0.1"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shake_hands(context, ca.server_context("api.test"), name)


def test_common_name_does_not_count(ca: CA) -> None:
    """A certificate that has its name only as common name is refused, as Go refuses it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_cert_chain(server, *ca.issue("api.test"))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(tls.client_context(trusting(ca.pem), None), server)


def test_intermediate_alone_is_trusted(ca: CA) -> None:
    """An intermediate in the CA file is a trust anchor by itself; its root need not be there."""
    intermediate = CA("intermediate", parent=ca)
    shake_hands(tls.client_context(trusting(intermediate.pem), None), intermediate.server_context("api.test"))


def test_self_signed_server_is_trusted() -> None:
    """The server's own self-signed certificate, without CA flag, can be the CA file."""
    pem, server = self_signed()
    shake_hands(tls.client_context(trusting(pem), None), server, "127.0.0.1")


def test_old_authority_is_trusted() -> None:
    """A CA without key identifiers and with non-critical basicConstraints, as old clusters have, will do."""
    pem, server = lax_authority()
    shake_hands(tls.client_context(trusting(pem), None), server, "127.0.0.1")


def test_bundle_with_text_and_junk(ca: CA) -> None:
    """A bundle may hold comments in any encoding, other blocks and a certificate that cannot be parsed."""
    broken = b"-----BEGIN CERTIFICATE-----\nTm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
    bundle = b"# Zertifikat f\xfcr\r\n" + broken + ca.key_pem + CA("other").pem + b"subject=x\n" + ca.pem
    context = tls.client_context(trusting(bundle), None)
    assert len(context.get_ca_certs()) == 2
    shake_hands(context, ca.server_context("api.test"))


def test_expired_server_is_refused(ca: CA) -> None:
    """A certificate that is out of date is refused."""
    past = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC)
    pair = ca.issue("api.test", ["api.test"], not_before=past, not_after=past + datetime.timedelta(days=1))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_cert_chain(server, *pair)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tls.client_context(trusting(ca.pem), None), server)


def test_insecure_accepts_anyone_and_still_names_the_server(ca: CA) -> None:
    """With insecure-skip-tls-verify any server will do, and it is still told the name we want."""
    seen: list[str | None] = []
    server = ca.server_context("else.test")
    server.sni_callback = lambda connection, name, context: seen.append(name)
    shake_hands(tls.client_context(cluster(insecure_skip_tls_verify=True), None), server, "any.test")
    assert seen == ["any.test"]


def test_old_protocols_are_refused(ca: CA) -> None:
    """TLS 1.2 is spoken, anything older is not."""
    server = ca.server_context("api.test")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    context = tls.client_context(trusting(ca.pem), None)
    assert shake_hands(context, server).version() == "TLSv1.2"
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_empty_authority_file_trusts_nobody(ca: CA, tmp_path: Path) -> None:
    """An empty CA file is no error, but does not open the door to the system's authorities either."""
    (tmp_path / "ca").touch()
    context = tls.client_context(cluster(certificate_authority=tmp_path / "ca"), None)
    assert context.get_ca_certs() == []
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, ca.server_context("api.test"))


@pytest.mark.parametrize("junk", [b"junk", b"-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"])
def test_authority_without_certificate_is_an_error(junk: bytes, tmp_path: Path) -> None:
    """A CA in which no certificate can be found is an error that names cluster and file, or field."""
    (tmp_path / "ca").write_bytes(junk)
    with pytest.raises(
        KubeconfigError, match=rf'cluster "c" \(/kc\): certificate-authority {tmp_path}/ca holds no'
    ):
        tls.client_context(cluster(certificate_authority=tmp_path / "ca", source_path=Path("/kc")), None)
    with pytest.raises(KubeconfigError, match='cluster "c": certificate-authority-data holds no'):
        tls.client_context(trusting(junk), None)
    with pytest.raises(KubeconfigError, match="/nonexistent cannot be read: No such file"):
        tls.client_context(cluster(certificate_authority=Path("/nonexistent")), None)


# -- as whom we come --


def accepting(ca: CA) -> ssl.SSLContext:
    return ca.server_context("api.test", client_ca=ca)


def test_client_certificate_is_presented(ca: CA) -> None:
    """The server gets the certificate we were given, and its intermediates with it."""
    intermediate = CA("intermediate", parent=ca)
    leaf = client_certificate(intermediate)
    chain = ClientCertificate(certificate_pem=leaf.certificate_pem + intermediate.pem, key_pem=leaf.key_pem)
    theirs = shake_hands(tls.client_context(trusting(ca.pem), chain), accepting(ca))
    subject = theirs.getpeercert()
    assert subject is not None
    assert (("commonName", "alice"),) in subject["subject"]


def test_certificate_and_key_in_one_file(ca: CA) -> None:
    """Both fields may hold the same text with key and certificate in any order."""
    pair = client_certificate(ca)
    both = pair.key_pem + pair.certificate_pem
    certificate = ClientCertificate(certificate_pem=both, key_pem=both)
    assert shake_hands(tls.client_context(trusting(ca.pem), certificate), accepting(ca)).getpeercert()


USER = User(name="u", client_certificate=Path("/c.pem"), client_key_data=b"k", source_path=Path("/kc"))


def encrypted(key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    scheme = serialization.BestAvailableEncryption(b"pw")
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, scheme
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no certificate", r"client-certificate /c.pem holds no certificate"),
        ("no key", r"client-key-data holds no private key"),
        ("other key", r"client-key-data is not the key of the certificate"),
        ("encrypted key", r"client-key-data is protected by a password"),
        ("broken certificate", r"client-certificate /c.pem or its key cannot be parsed"),
        ("broken key", r"client-certificate /c.pem or its key cannot be parsed"),
    ],
)
def test_unusable_certificates_are_errors(ca: CA, change: str, words: str) -> None:
    """What is wrong with certificate or key is said with user, file and field; nobody is asked anything."""
    good = client_certificate(ca)
    frame = b"-----BEGIN %b-----\nYQ==\n-----END %b-----\n"
    certificate, key = {
        "no certificate": (b"junk", good.key_pem),
        "no key": (good.certificate_pem, good.certificate_pem),
        "other key": (good.certificate_pem, client_certificate(ca).key_pem),
        "encrypted key": (good.certificate_pem, encrypted(good.key_pem)),
        "broken certificate": (frame % (b"CERTIFICATE", b"CERTIFICATE"), good.key_pem),
        "broken key": (good.certificate_pem, frame % (b"PRIVATE KEY", b"PRIVATE KEY")),
    }[change]
    broken = ClientCertificate(certificate_pem=certificate, key_pem=key)
    with pytest.raises(KubeconfigError, match=rf'^user "u" \(/kc\): {words}'):
        tls.client_context(trusting(ca.pem), broken, USER)


def test_plugin_certificate_is_named_so(ca: CA) -> None:
    """A bad certificate of a user without certificate fields comes from the exec plugin, and is named so."""
    junk = ClientCertificate(certificate_pem=b"junk", key_pem=b"junk")
    with pytest.raises(KubeconfigError, match='user "u": certificate of the exec plugin holds no'):
        tls.client_context(trusting(ca.pem), junk, User(name="u"))
    with pytest.raises(KubeconfigError, match=r"^client certificate holds no"):
        tls.client_context(trusting(ca.pem), junk)


def test_errors_show_no_key(ca: CA) -> None:
    """A key that cannot be read is not quoted."""
    secret = secrets.plant("key")
    body = base64.b64encode(secret.encode())
    key = b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n"
    broken = ClientCertificate(certificate_pem=client_certificate(ca).certificate_pem, key_pem=key)
    with pytest.raises(KubeconfigError) as caught:
        tls.client_context(trusting(ca.pem), broken, USER)
    assert not secrets.leaked(str(caught.value))


# -- no key on a disk --


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="keys are kept in memory on Linux only")
def test_key_stays_in_memory(ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux loading a key writes no file and leaves no descriptor open."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there-is-none"))
    before = os.listdir("/proc/self/fd")
    tls.client_context(trusting(ca.pem), client_certificate(ca))
    assert os.listdir("/proc/self/fd") == before


def test_without_memory_files_the_key_is_private_and_removed(
    ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere the key is for a moment in a 0600 file of a 0700 directory, and gone even after an error."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with memory_file(b"key") as path:
        assert Path(path).read_bytes() == b"key"
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    certificate = client_certificate(ca)
    shake_hands(tls.client_context(trusting(ca.pem), certificate), accepting(ca))
    broken = ClientCertificate(
        certificate_pem=certificate.certificate_pem, key_pem=encrypted(certificate.key_pem)
    )
    with pytest.raises(KubeconfigError):
        tls.client_context(trusting(ca.pem), broken)
    assert list(tmp_path.iterdir()) == []


def test_import_is_light() -> None:
    """Neither the kubeconfig modules nor tls import what start-up has no time for."""
    script = "import kproxy.kube.resolve, kproxy.tls.client, sys; print(*sys.modules)"
    env = {"PYTHONPATH": str(Path(tls.__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    heavy = {"cryptography", "aiohttp", "asyncio", "tempfile", "importlib.metadata"}
    assert heavy & set(run.stdout.split()) == set()

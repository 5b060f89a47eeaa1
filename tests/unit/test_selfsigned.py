"""The certificate of --tls-self-signed: made once, good for what it is for, kept from others, renewed."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kproxy.errors import KproxyError
from kproxy.tls.pair import der_of, fingerprint_of
from kproxy.tls.selfsigned import LIFE_SECONDS, NAMES, RENEW_SECONDS, SelfSigned, folder_of

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "kproxy" / "tls"


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def names(folder: Path) -> set[str]:
    extension = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not extension.critical
    return {
        *extension.value.get_values_for_type(x509.DNSName),
        *map(str, extension.value.get_values_for_type(x509.IPAddress)),
    }


def test_it_is_made_once(folder: Path) -> None:
    """The next start has the same: whoever trusted it need not look again."""
    assert SelfSigned(folder).ensure([]) is True
    before = (folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()
    assert SelfSigned(folder).ensure([]) is False
    assert ((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()) == before


def test_what_it_is(folder: Path) -> None:
    """EC P-256, for this machine's own names, no authority for others, of a life that Apple accepts."""
    SelfSigned(folder).ensure([])
    found = certificate(folder)
    key = found.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert names(folder) == set(NAMES)
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False
    life = found.not_valid_after_utc - found.not_valid_before_utc
    assert life.days <= 825
    assert found.not_valid_before_utc.timestamp() < time.time()


def test_only_its_user_can_read_the_key(folder: Path) -> None:
    """Whatever the umask: the folder is 0700, the key 0600."""
    mask = os.umask(0)
    try:
        SelfSigned(folder).ensure([])
    finally:
        os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "tls.key").stat().st_mode) == 0o600
    assert sorted(os.listdir(folder)) == ["lock", "tls.crt", "tls.key"]


def test_an_open_folder_is_closed_and_an_open_key_made_anew(folder: Path) -> None:
    """A key that others could read is nobody's secret."""
    SelfSigned(folder).ensure([])
    folder.chmod(0o755)
    (folder / "tls.key").chmod(0o644)
    before = (folder / "tls.key").read_bytes()
    assert SelfSigned(folder).ensure([]) is True
    assert (folder / "tls.key").read_bytes() != before
    assert stat.S_IMODE((folder / "tls.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_is_made_anew_before_its_end(folder: Path) -> None:
    """Thirty days before, and not sooner."""
    SelfSigned(folder).ensure([])
    ends_at = certificate(folder).not_valid_after_utc.timestamp()
    assert ends_at == pytest.approx(time.time() + LIFE_SECONDS, abs=60)
    early, late = ends_at - RENEW_SECONDS - DAY, ends_at - RENEW_SECONDS + DAY
    assert SelfSigned(folder, now=lambda: early).ensure([]) is False
    assert SelfSigned(folder, now=lambda: late).ensure([]) is True
    assert certificate(folder).not_valid_after_utc.timestamp() == pytest.approx(late + LIFE_SECONDS, abs=60)


def test_the_addresses_that_are_listened_on_are_in_it(folder: Path) -> None:
    """What is in it stays in: two programs that listen elsewhere end with one certificate for both."""
    assert SelfSigned(folder).ensure(["192.0.2.1", "kproxy.example"]) is True
    assert SelfSigned(folder).ensure(["2001:db8::1"]) is True
    assert names(folder) == {*NAMES, "192.0.2.1", "kproxy.example", "2001:db8::1"}
    assert SelfSigned(folder).ensure(["192.0.2.1"]) is False
    assert SelfSigned(folder).ensure(["2001:DB8:0::1", "kproxy.example"]) is False


def test_a_name_within_another_is_not_taken_for_it(folder: Path) -> None:
    """`proxy.example` is not `kproxy.example`."""
    SelfSigned(folder).ensure(["kproxy.example", "x" * 60 + "." + "y" * 60 + "." + "z" * 60])
    assert SelfSigned(folder).ensure(["x" * 60 + "." + "y" * 60 + "." + "z" * 60]) is False
    assert SelfSigned(folder).ensure(["proxy.example"]) is True


def test_all_interfaces_stand_for_the_host_name(folder: Path) -> None:
    """Nobody connects to 0.0.0.0."""
    SelfSigned(folder).ensure(["0.0.0.0", "::"])
    assert names(folder) & {"0.0.0.0", "::"} == set()


@pytest.mark.parametrize("damage", ["no key", "no certificate", "half a key", "another key", "rubbish"])
def test_a_damaged_pair_is_made_anew(folder: Path, tmp_path: Path, damage: str) -> None:
    """A crash between the two files must not need a person."""
    SelfSigned(folder).ensure([])
    key, crt = folder / "tls.key", folder / "tls.crt"
    if damage == "no key":
        key.unlink()
    elif damage == "no certificate":
        crt.unlink()
    elif damage == "half a key":
        key.write_bytes(key.read_bytes()[:100])
    elif damage == "another key":
        SelfSigned(tmp_path / "b" / "kproxy" / "tls").ensure([])
        key.write_bytes((tmp_path / "b" / "kproxy" / "tls" / "tls.key").read_bytes())
    else:
        crt.write_bytes(b"\xff\xfe rubbish")
    assert SelfSigned(folder).ensure([]) is True
    assert SelfSigned(folder).ensure([]) is False


def test_several_starts_at_once_make_one(folder: Path) -> None:
    """Each ends with the certificate that the others have."""
    program = (
        "import sys; from pathlib import Path; from kproxy.tls.selfsigned import SelfSigned\n"
        "sys.stdin.read(1)\n"
        "own = SelfSigned(Path(sys.argv[1])); made = own.ensure([])\n"
        "print(made, own.paths[0].read_text(), own.paths[1].read_text())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    told = [process.communicate()[0].partition(" ") for process in processes]
    assert sorted(made for made, _, _ in told) == ["False", "False", "False", "True"]
    assert len({pair for _, _, pair in told}) == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """With what to do: nothing else is in the way of a read-only home."""
    (tmp_path / "state").write_text("a file")
    with pytest.raises(KproxyError, match="XDG_STATE_HOME") as caught:
        SelfSigned(tmp_path / "state" / "kproxy" / "tls").ensure([])
    assert str(tmp_path) in caught.value.message
    assert "--tls-certificate" in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
@pytest.mark.parametrize("whose", ["folder", "parent", "link"])
def test_a_folder_of_another_user_is_refused(folder: Path, tmp_path: Path, whose: str) -> None:
    """Whoever owns it, or what it is in, could put a key there that they know; links lead to another."""
    folder.parent.mkdir(parents=True)
    own = tmp_path / "own"
    own.mkdir(mode=0o755)
    (own / "tls.key").write_text("another key")
    if whose == "link":
        folder.symlink_to(own)
    elif whose == "folder":
        folder.mkdir()
    os.chown(folder.parent if whose == "parent" else folder, 65534, 65534, follow_symlinks=False)
    with pytest.raises(KproxyError, match="belongs to another user"):
        SelfSigned(folder).ensure([])
    assert (own / "tls.key").read_text() == "another key"
    assert stat.S_IMODE(own.stat().st_mode) == 0o755


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG specification: an absolute path, else the home."""
    monkeypatch.setenv("HOME", "/home/me")
    assert folder_of({"XDG_STATE_HOME": "/state"}) == Path("/state/kproxy/tls")
    for environ in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}):
        assert folder_of(environ) == Path("/home/me/.local/state/kproxy/tls")


def test_strict_clients_accept_it(folder: Path) -> None:
    """OpenSSL with VERIFY_X509_STRICT, as Python 3.13 has it, with the certificate as its own authority."""
    SelfSigned(folder).ensure([])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    client = ssl.create_default_context(cafile=str(folder / "tls.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert waiting == []
    pem = (folder / "tls.crt").read_bytes()
    assert ends[0].getpeercert(binary_form=True) == der_of(pem)


def test_the_fingerprint_is_openssls(folder: Path) -> None:
    """SHA-256 of the certificate, as people compare it."""
    SelfSigned(folder).ensure([])
    from cryptography.hazmat.primitives import hashes

    wanted = certificate(folder).fingerprint(hashes.SHA256()).hex(":").upper()
    assert fingerprint_of((folder / "tls.crt").read_bytes()) == wanted

"""Tokens, token files, basic authentication and client certificates, and which of them is used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from kproxy.credentials import Credential, CredentialSource, Renewal, open_source
from kproxy.credentials.local import CombinedSource, StaticSource
from kproxy.errors import CredentialFileError, KubeconfigError
from kproxy.kube.kubeconfig import AuthProvider, Cluster, ExecConfig, ResolvedContext, User
from kproxy.tls.pair import ClientCertificate
from tests.support.clock import Clock
from tests.support.oidc_issuer import jwt
from tests.support.pki import CA
from tests.support.secrets import plant

CLUSTER = Cluster(name="c", server="https://127.0.0.1:6443")
KUBECONFIG = Path("/home/joe/.kube/config")


def context_of(**fields: object) -> ResolvedContext:
    user = User(name="u", source_path=KUBECONFIG, **fields)  # type: ignore[arg-type]
    return ResolvedContext(name="x", cluster=CLUSTER, user=user)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(clock: Clock) -> Callable[..., CredentialSource]:
    def open_it(**fields: object) -> CredentialSource:
        return open_source(context_of(**fields), clock=clock, monotonic=clock)

    return open_it


def now(source: CredentialSource) -> Credential:
    credential = source.current()
    assert credential is not None
    return credential


def replaced(path: Path, content: bytes | str) -> None:
    """Replace the file as careful programs do: by renaming another one over it."""
    new = path.with_suffix(".new")
    new.write_bytes(content if isinstance(content, bytes) else content.encode())
    new.replace(path)


# -- which credential --


@pytest.mark.parametrize(
    ("fields", "authorization", "kind"),
    [
        ({}, None, "none"),
        ({"token": "tok"}, "Bearer tok", "token"),
        ({"username": "a", "password": "b:ü"}, "Basic YTpiOsO8", "basic"),
        ({"username": "a"}, "Basic YTo=", "basic"),
        ({"password": "b"}, None, "none"),
        ({"client_key_data": b"key"}, None, "none"),
    ],
)
async def test_the_fields_of_a_user_become_a_header(
    opened: Callable[..., CredentialSource],
    fields: dict[str, object],
    authorization: str | None,
    kind: str,
) -> None:
    """Basic authentication is UTF-8; a password or a key alone counts for nothing."""
    source = opened(**fields)
    assert now(source).authorization == authorization
    assert now(source).kind == kind
    assert now(source).certificate is None
    assert await source.get() is source.current()
    await source.close()


PLUGIN = ExecConfig(command="never-run", api_version="client.authentication.k8s.io/v1")
PROVIDER = AuthProvider(name="oidc", config={"idp-issuer-url": "https://127.0.0.1:1", "client-id": "cid"})
PAIR = CA().issue("alice", client=True)
PAIR_FIELDS = {"client_certificate_data": PAIR[0], "client_key_data": PAIR[1]}


@pytest.mark.parametrize("more", [{"exec": PLUGIN}, {"auth_provider": PROVIDER}])
@pytest.mark.parametrize(("fields", "kind"), [({"token": "tok"}, "token"), ({"username": "a"}, "basic")])
def test_token_and_basic_beat_plugins_and_providers(
    opened: Callable[..., CredentialSource], fields: dict[str, object], kind: str, more: dict[str, object]
) -> None:
    """kubectl then neither runs the plugin nor asks the issuer, and says nothing."""
    assert now(opened(**fields, **more)).kind == kind


def test_a_token_file_beats_a_plugin(opened: Callable[..., CredentialSource], tmp_path: Path) -> None:
    """A tokenFile is a token."""
    (tmp_path / "t").write_text("tok")
    assert now(opened(token_file=tmp_path / "t", exec=PLUGIN)).kind == "tokenFile"


def test_a_certificate_keeps_a_plugin_from_running(opened: Callable[..., CredentialSource]) -> None:
    """The certificate is then the only credential."""
    credential = now(opened(**PAIR_FIELDS, exec=PLUGIN))
    assert (credential.authorization, credential.kind) == (None, "clientCertificate")
    assert opened(exec=PLUGIN, client_key_data=b"key").current() is None, "a key alone does not"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"token": "tok"}, "token+clientCertificate"), ({"username": "a"}, "basic+clientCertificate")],
)
def test_header_and_certificate_go_together(
    opened: Callable[..., CredentialSource], fields: dict[str, object], kind: str
) -> None:
    """They are different layers of the connection."""
    credential = now(opened(**fields, **PAIR_FIELDS))
    assert credential.kind == kind
    assert credential.authorization is not None
    assert credential.certificate is not None
    assert (credential.certificate.certificate_pem, credential.certificate.key_pem) == PAIR


def test_only_what_is_needed_is_imported() -> None:
    """A token user does not pay for plugins, OIDC, HTTP clients or cryptography at start."""
    program = (
        "import sys\n"
        "from kproxy.credentials import open_source\n"
        "from kproxy.kube.kubeconfig import Cluster, ResolvedContext, User\n"
        "open_source(ResolvedContext(name='x', cluster=Cluster(name='c', server='https://h'),"
        " user=User(name='u', token='t')))\n"
        "print(*(m for m in sys.modules if m.startswith('kproxy.credentials.') or m in"
        " ('aiohttp', 'cryptography', 'importlib.metadata')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = ran.stdout.split()
    assert sorted(imported) == [f"kproxy.credentials.{name}" for name in ("credential", "expiry", "local")]


async def test_a_static_credential_survives_a_401(opened: Callable[..., CredentialSource]) -> None:
    """There is nothing newer: `get` returns the very same object, which tells the caller so."""
    source = opened(token="tok")
    credential = now(source)
    source.invalidate(credential)
    assert source.current() is credential
    assert await source.get() is credential


@pytest.mark.parametrize("token", ["tok\n", "a\nb", "a\0b", "tök", "a\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_at_once(
    opened: Callable[..., CredentialSource], token: str
) -> None:
    """kubectl starts and fails each request; the message names the field and not the value."""
    secret = plant("token")
    with pytest.raises(KubeconfigError, match='no valid header field value for "Authorization"') as caught:
        opened(token=secret + token)
    text = str(caught.value)
    assert 'context "x": user "u" in /home/joe/.kube/config: token:' in text
    assert secret not in text


def test_nothing_shows_a_secret(opened: Callable[..., CredentialSource], tmp_path: Path) -> None:
    """repr ends up in logs and tracebacks."""
    secret = plant("token")
    (tmp_path / "t").write_text(secret)
    for source in (opened(token=secret, **PAIR_FIELDS), opened(token_file=tmp_path / "t")):
        credential = now(source)
        assert secret in str(credential.authorization)
        for thing in (credential, credential.certificate, source):
            assert secret not in repr(thing)
            assert "PRIVATE KEY" not in repr(thing)


def test_the_life_of_tokens_and_certificates_is_told(opened: Callable[..., CredentialSource]) -> None:
    """Of a token and a certificate together the one that ends first counts."""
    token = jwt(iat=1000, exp=2000)
    assert (now(opened(token=token)).issued_at, now(opened(token=token)).expires_at) == (1000.0, 2000.0)
    assert now(opened(token=token, **PAIR_FIELDS)).expires_at == 2000.0
    ends = now(opened(**PAIR_FIELDS)).expires_at
    assert ends is not None
    assert now(opened(token=jwt(exp=ends + 1), **PAIR_FIELDS)).expires_at == ends
    assert now(opened(token="opaque")).expires_at is None


# -- token files --


async def test_a_token_file_is_trimmed(opened: Callable[..., CredentialSource], tmp_path: Path) -> None:
    """Editors add line ends."""
    path = tmp_path / "t"
    path.write_text("  ft \n\n")
    source = opened(token_file=path)
    assert now(source).authorization == "Bearer ft"
    assert now(source).kind == "tokenFile"


def test_a_token_file_is_read_again_when_it_changes(
    opened: Callable[..., CredentialSource], clock: Clock, tmp_path: Path
) -> None:
    """Looked at once a second: written in place, renamed over, or behind a symbolic link that turns."""
    real, path = tmp_path / "real", tmp_path / "t"
    real.write_text("one")
    path.symlink_to(real)
    source = opened(token_file=path)
    first = now(source)
    real.write_text("two!")
    assert source.current() is first, "within the second nothing is looked at"
    clock.pass_seconds(1)
    assert now(source).authorization == "Bearer two!"
    replaced(real, "three")
    clock.pass_seconds(1)
    assert now(source).authorization == "Bearer three"
    (tmp_path / "other").write_text("four")
    path.unlink()
    path.symlink_to(tmp_path / "other")
    clock.pass_seconds(1)
    assert now(source).authorization == "Bearer four"


def test_an_unchanged_token_file_is_the_same_credential(
    opened: Callable[..., CredentialSource], clock: Clock, tmp_path: Path
) -> None:
    """A new object would say that something is new."""
    path = tmp_path / "t"
    path.write_text("tok")
    source = opened(token_file=path)
    first = now(source)
    path.write_text("tok\n")
    for _ in range(200):
        clock.pass_seconds(1)
        assert source.current() is first


def test_a_token_file_is_read_after_50_seconds_whatever_its_times_say(
    opened: Callable[..., CredentialSource], clock: Clock, tmp_path: Path
) -> None:
    """Some file systems have coarse times; kubectl reads it every 50 s."""
    path = tmp_path / "t"
    path.write_text("old")
    status = path.stat()
    source = opened(token_file=path)
    path.write_text("new")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    clock.pass_seconds(49)
    assert now(source).authorization == "Bearer old"
    clock.pass_seconds(1)
    assert now(source).authorization == "Bearer new"


async def test_a_token_file_is_read_after_a_401(
    opened: Callable[..., CredentialSource], tmp_path: Path
) -> None:
    """At once, and whatever its times say; if nothing is new, the same object tells so."""
    path = tmp_path / "t"
    path.write_text("old")
    status = path.stat()
    source = opened(token_file=path)
    first = now(source)
    source.invalidate(first)
    assert await source.get() is first
    path.write_text("new")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    source.invalidate(first)
    second = await source.get()
    assert second.authorization == "Bearer new"
    path.write_text("newer")
    source.invalidate(first)
    assert source.current() is second, "a late 401 of the old one does nothing"


@pytest.mark.parametrize("harm", ["gone", "empty", "blank", "binary", "two lines", "directory"])
def test_a_token_file_that_goes_bad_leaves_the_last_good_token(
    opened: Callable[..., CredentialSource], clock: Clock, tmp_path: Path, harm: str
) -> None:
    """It is told of once, and taken up again once it is mended."""
    path = tmp_path / "t"
    path.write_text("good")
    source = opened(token_file=path)
    first = now(source)
    if harm in ("gone", "directory"):
        path.unlink()
    contents = {"empty": b"", "blank": b" \n", "binary": b"\xff\xfe", "two lines": b"a\nb"}
    if harm == "directory":
        path.mkdir()
    elif harm in contents:
        path.write_bytes(contents[harm])
    with capture_logs() as logs:
        for _ in range(120):
            clock.pass_seconds(1)
            assert source.current() is first
    assert [entry["event"] for entry in logs] == ["credential.reload_failed"] * (harm != "directory")
    if logs:
        assert str(path) in logs[0]["error"]
        assert 'user "u"' in logs[0]["error"]
    if harm == "directory":
        path.rmdir()
    replaced(path, "mended")
    clock.pass_seconds(1)
    with capture_logs() as logs:
        assert now(source).authorization == "Bearer mended"
    assert [entry["event"] for entry in logs] == ["credential.reloaded"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "No such file"),
        (b"", "empty token"),
        (b" \n", "empty token"),
        (b"a\nb", "header"),
        (b"\xff", "text"),
    ],
)
async def test_without_a_good_token_the_error_names_the_file(
    opened: Callable[..., CredentialSource], tmp_path: Path, content: bytes | None, cause: str
) -> None:
    """And as soon as the file is right it is used: nothing has to be restarted."""
    path = tmp_path / "t"
    if content is not None:
        path.write_bytes(content)
    source = opened(token_file=path)
    assert source.current() is None
    with pytest.raises(CredentialFileError, match=cause) as caught:
        await source.get()
    assert f'context "x": user "u" in /home/joe/.kube/config: tokenFile {path}' in str(caught.value)
    replaced(path, "good")
    assert (await source.get()).authorization == "Bearer good"


def test_the_token_stands_in_for_a_missing_file_until_it_comes(
    opened: Callable[..., CredentialSource], tmp_path: Path
) -> None:
    """The file wins when it is there, at the next request."""
    path = tmp_path / "t"
    source = opened(token_file=path, token="A")
    assert (now(source).authorization, now(source).kind) == ("Bearer A", "token")
    assert source.current() is source.current()
    path.write_text("B")
    assert (now(source).authorization, now(source).kind) == ("Bearer B", "tokenFile")


async def test_a_token_from_a_pipe_is_read_once(
    opened: Callable[..., CredentialSource], clock: Clock
) -> None:
    """`tokenFile: /dev/fd/63` of a process substitution: a second open would block everything."""
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    try:
        source = opened(token_file=Path(f"/dev/fd/{reader}"))
        assert now(source).authorization == "Bearer piped"
        clock.pass_seconds(100)
        source.invalidate(now(source))
        assert (await source.get()).authorization == "Bearer piped"
    finally:
        os.close(reader)


# -- certificate files --


@pytest.fixture
def pair_paths(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "crt", tmp_path / "key"
    certificate.write_bytes(PAIR[0])
    key.write_bytes(PAIR[1])
    return certificate, key


def certificate_of(source: CredentialSource) -> ClientCertificate:
    certificate = now(source).certificate
    assert certificate is not None
    return certificate


def test_certificate_files_are_read_again_when_they_change(
    opened: Callable[..., CredentialSource], clock: Clock, pair_paths: tuple[Path, Path]
) -> None:
    """A new pair is a new object; an unchanged one stays the same, also when the files are written anew."""
    source = opened(client_certificate=pair_paths[0], client_key=pair_paths[1])
    first = now(source)
    replaced(pair_paths[0], PAIR[0])
    clock.pass_seconds(1)
    assert source.current() is first
    other = CA().issue("alice", client=True)
    replaced(pair_paths[0], other[0])
    replaced(pair_paths[1], other[1])
    assert source.current() is first, "within the second nothing is looked at"
    clock.pass_seconds(1)
    with capture_logs() as logs:
        second = certificate_of(source)
    assert (second.certificate_pem, second.key_pem) == other
    assert second is not first.certificate
    assert [entry["event"] for entry in logs] == ["credential.reloaded"]


def test_a_half_renewed_pair_is_not_used(
    opened: Callable[..., CredentialSource], clock: Clock, pair_paths: tuple[Path, Path]
) -> None:
    """Certificate and key are written one after the other: meanwhile the old pair serves, told of once."""
    source = opened(client_certificate=pair_paths[0], client_key=pair_paths[1])
    first = now(source)
    other = CA().issue("alice", client=True)
    replaced(pair_paths[0], other[0])
    with capture_logs() as logs:
        for _ in range(5):
            clock.pass_seconds(1)
            assert source.current() is first
    assert [entry["event"] for entry in logs] == ["credential.reload_failed"]
    assert "is not the key of" in logs[0]["error"]
    assert str(pair_paths[1]) in logs[0]["error"]
    replaced(pair_paths[1], other[1])
    clock.pass_seconds(1)
    assert certificate_of(source).key_pem == other[1]


def encrypted(key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pw"),
    )


@pytest.mark.parametrize(
    ("certificate", "key", "cause"),
    [
        (b"junk", PAIR[1], "certificate in PEM"),
        (PAIR[0], b"junk", "private key in PEM"),
        (PAIR[0], CA().issue("bob")[1], "is not the key of"),
        (PAIR[0], encrypted(PAIR[1]), "protected by a password"),
        (PAIR[0], None, "No such file"),
        (None, PAIR[1], "No such file"),
    ],
)
async def test_files_that_are_no_pair_are_an_error_that_heals(
    opened: Callable[..., CredentialSource],
    pair_paths: tuple[Path, Path],
    certificate: bytes | None,
    key: bytes | None,
    cause: str,
) -> None:
    """The message names the file, the user and the cause, and nothing prompts for a password."""
    for path, content in zip(pair_paths, (certificate, key), strict=True):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    source = opened(client_certificate=pair_paths[0], client_key=pair_paths[1], token="tok")
    assert source.current() is None, "not without the certificate, as somebody else"
    with pytest.raises(CredentialFileError, match=cause) as caught:
        await source.get()
    text = str(caught.value)
    assert 'context "x": user "u"' in text
    assert str(pair_paths[0]) in text or str(pair_paths[1]) in text
    replaced(pair_paths[0], PAIR[0])
    replaced(pair_paths[1], PAIR[1])
    assert (await source.get()).kind == "token+clientCertificate"


def test_one_file_may_hold_certificate_and_key(
    opened: Callable[..., CredentialSource], tmp_path: Path
) -> None:
    """Both fields name it then."""
    path = tmp_path / "both.pem"
    path.write_bytes(PAIR[0] + PAIR[1])
    assert certificate_of(opened(client_certificate=path, client_key=path)).key_pem == PAIR[0] + PAIR[1]


def test_a_file_and_data_may_be_mixed(
    opened: Callable[..., CredentialSource], clock: Clock, tmp_path: Path
) -> None:
    """The part in the file is read again: a renewed certificate of the same key."""
    path = tmp_path / "crt"
    path.write_bytes(PAIR[0])
    source = opened(client_certificate=path, client_key_data=PAIR[1])
    first = certificate_of(source)
    replaced(path, PAIR[0] + b"\n# renewed\n")
    clock.pass_seconds(1)
    assert certificate_of(source) is not first


def test_token_file_and_certificate_files_change_on_their_own(
    opened: Callable[..., CredentialSource], clock: Clock, pair_paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """A new token keeps the certificate object, and with it the connections."""
    path = tmp_path / "t"
    path.write_text("one")
    source = opened(token_file=path, client_certificate=pair_paths[0], client_key=pair_paths[1])
    first = now(source)
    assert first.kind == "tokenFile+clientCertificate"
    path.write_text("two!")
    clock.pass_seconds(1)
    second = now(source)
    assert second.authorization == "Bearer two!"
    assert second.certificate is first.certificate


# -- header and certificate of two sources --


class Swapped:
    """A source whose credential the test swaps."""

    def __init__(self, credential: Credential | None) -> None:
        self.credential = credential
        self.invalidated: list[Credential] = []
        self.is_closed = False

    def current(self) -> Credential | None:
        return self.credential

    async def get(self, refused: Credential | None = None) -> Credential:
        self.credential = self.credential or Credential(authorization="Bearer got", kind="oidc")
        return self.credential

    async def certificate(self) -> ClientCertificate | None:
        return None

    def invalidate(self, credential: Credential) -> bool:
        self.invalidated.append(credential)
        return True

    def confirm(self, credential: Credential) -> None:
        self.confirmed = credential

    def discard(self, credential: Credential) -> None:
        self.credential = None

    def renewal(self) -> Renewal:
        return Renewal(waiting_for="swapped")

    async def close(self) -> None:
        self.is_closed = True


async def test_two_sources_are_one_credential() -> None:
    """The joined object is new exactly when a part is new, and what is heard of it reaches the parts."""
    pair = ClientCertificate(certificate_pem=PAIR[0], key_pem=PAIR[1])
    header = Swapped(None)
    certificate = StaticSource(Credential(certificate=pair, kind="clientCertificate"))
    source = CombinedSource(header, certificate)
    assert source.current() is None
    first = await source.get()
    assert (first.authorization, first.certificate) == ("Bearer got", pair)
    assert first.kind == "oidc+clientCertificate"
    assert source.current() is first
    assert await source.certificate() is pair
    assert source.renewal().waiting_for == "swapped"
    assert source.invalidate(Credential())
    assert header.invalidated == []
    assert source.invalidate(first)
    assert header.invalidated == [header.credential]
    source.confirm(first)
    assert header.confirmed is header.credential
    header.credential = Credential(authorization="Bearer new", kind="oidc")
    second = source.current()
    assert second is not None
    assert second is not first
    assert second.certificate is pair
    source.discard(first)
    assert source.current() is second
    source.discard(second)
    assert source.current() is None
    await source.close()
    assert header.is_closed


def test_a_user_with_oidc_and_a_certificate_has_both(opened: Callable[..., CredentialSource]) -> None:
    """They are different layers; the token is fetched later."""
    assert isinstance(opened(**PAIR_FIELDS, auth_provider=PROVIDER), CombinedSource)

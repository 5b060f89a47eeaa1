"""Writing tokens back: the kubeconfig text, the lock files, the replacement of the file."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kproxy.credentials.lock_file import LockedError, locked
from kproxy.credentials.oidc_store import StoreError, TokenStore
from kproxy.kube.yaml import parse
from tests.support.secrets import plant

NEW = {"id-token": "new-id", "refresh-token": "new-refresh"}

KUBECONFIG = """\
# my clusters
apiVersion: v1
kind: Config
users:
- name: other   # not mine
  user:
    auth-provider:
      name: oidc
      config: {client-id: o, id-token: other-id, refresh-token: other-refresh}
- name: u
  user:
    auth-provider:
      config:
        client-id: "cid"
        extra-scopes: groups   # kept
        id-token: old-id
        idp-issuer-url: https://issuer
        refresh-token: 'old-refresh'
      name: oidc
contexts:
- name: x
  context: {cluster: c, user: u}
- name: "y"
  context: {cluster: "1e3", user: "2020-01-02"}
current-context: x
"""


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., TokenStore]:
    def make(text: str | bytes = KUBECONFIG, user: str = "u") -> TokenStore:
        path = tmp_path / "kc"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return TokenStore(path, user, kubeconfig_paths=(path,), clock=time.time)

    return make


# -- the text --


def test_only_the_two_values_change(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """Comments, order and quoting of all else stay, to the letter."""
    store().write(NEW)
    expected = KUBECONFIG.replace("id-token: old-id", "id-token: new-id")
    expected = expected.replace("refresh-token: 'old-refresh'", "refresh-token: new-refresh")
    assert (tmp_path / "kc").read_text() == expected
    assert store(expected).read()["id-token"] == "new-id"


def config_of(data: bytes, user: str = "u") -> dict[str, object]:
    document = parse(data)
    assert isinstance(document, dict)
    (found,) = (
        entry["user"]["auth-provider"]["config"] for entry in document["users"] if entry["name"] == user
    )
    assert isinstance(found, dict)
    return found


FOLDED = (
    "\n        client-id: cid\n        id-token: >-\n          f\n        refresh-token: |\n          r\n"
)
PROVIDER = "users:\n- name: u\n  user:\n    auth-provider:\n      name: oidc\n      config:"


@pytest.mark.parametrize(
    "text",
    [
        PROVIDER + "\n        client-id: cid\n",
        PROVIDER + "\n          # first\n          client-id: cid\n          id-token:\n",
        PROVIDER + FOLDED,
        PROVIDER + ' {client-id: cid, "id-token": "x"}\n',
        PROVIDER + " {client-id: cid}",
        PROVIDER + "\n        client-id: cid\n        id-token: ''\n",
        '{"users":[{"name":"u","user":{"auth-provider":{"name":"oidc","config":{"client-id":"cid"}}}}]}',
        PROVIDER + "\r\n        client-id: cid\r\n        id-token: a\r\n",
        "# über\n" + PROVIDER + "\n        client-id: cid # ☂\n        id-token: a\n",
        PROVIDER + "\n        client-id: cid\n        id-token: a\n        id-token: b\n",
        PROVIDER + "\n        client-id: cid\n---\nsecond: document\n",
        "anchor: &p {client-id: cid, id-token: x}\n" + PROVIDER + " *p\n",
        "anchor: &p {client-id: cid, id-token: x}\n"
        + PROVIDER
        + "\n        <<: *p\n        refresh-token: r\n",
        PROVIDER + "\n        client-id: cid\n        id-token: &t x\nalias: *t\n",
    ],
)
def test_any_way_of_writing_it_can_be_changed(
    store: Callable[..., TokenStore], tmp_path: Path, text: str
) -> None:
    """The new values are there, and everything else still means what it meant."""
    before = parse(text.encode())
    store(text).write(NEW)
    after = (tmp_path / "kc").read_bytes()
    assert config_of(after) == {"client-id": "cid", **NEW}
    document = parse(after)
    assert isinstance(before, dict)
    assert isinstance(document, dict)
    assert {**document, "users": None} == {**before, "users": None}


def test_a_byte_order_mark_stays(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """Windows editors put it there and kubectl reads it."""
    store(b"\xef\xbb\xbf" + KUBECONFIG.encode()).write(NEW)
    data = (tmp_path / "kc").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf# my clusters")
    assert config_of(data)["id-token"] == "new-id"


def test_a_file_written_anew_keeps_texts_texts(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """With anchors the file is written from its meaning: what looks like another type gets quotes."""
    odd = 'alias: *t\nodd: ["y", "1e3", "2020-01-02", 1, yes]\n'
    text = PROVIDER + "\n        client-id: cid\n        id-token: &t x\n" + odd
    store(text).write(NEW)
    document = parse((tmp_path / "kc").read_bytes())
    assert isinstance(document, dict)
    assert document["odd"] == ["y", "1e3", "2020-01-02", 1, True]
    assert document["alias"] == "x"


def test_json_stays_json(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """Other tools may read it as such."""
    users = '{"users":[{"name":"u","user":{"auth-provider":{"name":"oidc","config":{"id-token":"a"}}}}]}'
    store(users).write(NEW)
    document = json.loads((tmp_path / "kc").read_text())
    assert document["users"][0]["user"]["auth-provider"]["config"] == NEW


@pytest.mark.parametrize(
    "value",
    [
        "true",
        "y",
        "1e3",
        "0x10",
        "12",
        "null",
        "-",
        "a: b",
        "2020-01-02",
        '"',
        "\\",
        "a\nb",
        "ü☂",
        "#",
        "x" * 5000,
        "",
        " ",
    ],
)
def test_any_value_survives(store: Callable[..., TokenStore], value: str) -> None:
    """Also those that YAML would take for something else."""
    opened = store()
    opened.write({"id-token": value})
    assert opened.read()["id-token"] == value


def test_a_user_that_is_gone_is_an_error(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """The file stays as it is, and the message names it and shows no value."""
    secret = plant("token")
    opened = store(KUBECONFIG.replace("old-id", secret), user="nobody")
    with pytest.raises(StoreError, match='user "nobody" has no auth-provider any more') as caught:
        opened.write({"id-token": secret})
    assert str(tmp_path / "kc") in str(caught.value)
    assert secret not in str(caught.value)
    assert not (tmp_path / "kc.lock").exists()
    for broken in ("a: [\n", "- x\n", "users: 1\n", ""):
        with pytest.raises(StoreError):
            store(broken).write(NEW)
        assert (tmp_path / "kc").read_text() == broken


# -- the file --


def test_mode_and_symbolic_links_stay(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """The file behind the link is replaced at one stroke; nothing else is left in its directory."""
    (tmp_path / "real").mkdir()
    opened = store()
    (tmp_path / "kc").rename(tmp_path / "real" / "config")
    (tmp_path / "real" / "config").chmod(0o640)
    (tmp_path / "kc").symlink_to("real/config")
    before = (tmp_path / "real" / "config").stat().st_ino
    opened.write(NEW)
    assert (tmp_path / "kc").is_symlink()
    after = (tmp_path / "real" / "config").stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert after.st_ino != before
    assert config_of((tmp_path / "kc").read_bytes())["id-token"] == "new-id"
    assert os.listdir(tmp_path / "real") == ["config"]
    assert sorted(os.listdir(tmp_path)) == ["kc", "real"]


def test_what_a_crash_left_behind_does_not_matter(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """A half-written new file is neither used nor in the way."""
    opened = store()
    (tmp_path / ".kc.kproxy-new").write_text("half a f")
    opened.write(NEW)
    assert config_of((tmp_path / "kc").read_bytes())["id-token"] == "new-id"
    assert os.listdir(tmp_path) == ["kc"]


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc/self/fd").exists(), reason="root may write anywhere"
)
def test_a_place_that_cannot_be_written_is_an_error(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """The message says which file and why; the old content stays."""
    opened = store()
    (tmp_path / ".kc.kproxy-new").mkdir()
    with pytest.raises(StoreError, match=r"\.kc\.kproxy-new: Is a directory"):
        opened.write(NEW)
    assert (tmp_path / "kc").read_text() == KUBECONFIG
    (tmp_path / "kc").unlink()
    with pytest.raises(StoreError, match="kc: No such file"):
        opened.write(NEW)
    with pytest.raises(StoreError, match="kc: No such file"):
        opened.read()


def test_writers_at_the_same_time_lose_nothing(store: Callable[..., TokenStore], tmp_path: Path) -> None:
    """Each changes its own user; the locks make them take turns."""
    opened = store()
    other = TokenStore(tmp_path / "kc", "other", kubeconfig_paths=(tmp_path / "kc",), clock=time.time)

    def write(target: TokenStore, name: str) -> None:
        for number in range(10):
            target.write({"id-token": f"{name}{number}"})

    threads = [threading.Thread(target=write, args=args) for args in ((opened, "mine"), (other, "other"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (opened.read()["id-token"], other.read()["id-token"]) == ("mine9", "other9")


# -- the locks --


def test_every_file_of_the_list_is_locked_meanwhile(tmp_path: Path) -> None:
    """As kubectl does, under the names as given; afterwards the lock files are gone."""
    paths = [tmp_path / "b", tmp_path / "a", tmp_path / "b"]
    with locked(paths, clock=time.time, wait_seconds=1):
        assert sorted(os.listdir(tmp_path)) == ["a.lock", "b.lock"]
        content = (tmp_path / "a.lock").read_text()
        assert content == f"kproxy {os.getpid()} {socket.gethostname()}\n"
    assert os.listdir(tmp_path) == []


def test_a_list_with_places_we_cannot_write_is_no_obstacle(
    store: Callable[..., TokenStore], tmp_path: Path
) -> None:
    """Only files that could be changed from here need a lock."""
    store()
    others = (tmp_path / "no" / "such" / "dir", Path("/proc/none"), tmp_path / "kc")
    opened = TokenStore(tmp_path / "kc", "u", kubeconfig_paths=others, clock=time.time)
    opened.write(NEW)
    assert opened.read()["id-token"] == "new-id"


def test_a_lock_that_is_held_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    """Somebody may be at work; the message names the lock file. It is left in its place."""
    lock = tmp_path / "kc.lock"
    lock.write_text("")
    began = time.monotonic()
    with pytest.raises(LockedError, match=rf"open {lock}: file exists; .*remove it"):  # noqa: SIM117
        with locked([tmp_path / "kc"], clock=time.time, wait_seconds=0.1):
            pytest.fail("the lock is not ours")
    assert time.monotonic() - began < 30
    assert lock.exists()


def test_a_lock_that_is_given_up_in_time_is_taken(tmp_path: Path) -> None:
    """kubectl holds it for milliseconds."""
    lock = tmp_path / "kc.lock"
    lock.write_text("")
    timer = threading.Timer(0.1, lock.unlink)
    timer.start()
    with locked([tmp_path / "kc"], clock=time.time, wait_seconds=5):
        assert lock.read_text().startswith("kproxy ")
    timer.join()


def ended_process() -> int:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("content", "age_seconds", "reason"),
    [
        ("", 301, "minutes old"),
        ("kproxy {ended} {host}\n", 0, "has ended"),
        ("kproxy {own} {host}\n", 0, "has ended"),
        ("kproxy 1 {host}\n", 400, "minutes old"),
    ],
)
def test_a_stale_lock_is_taken_over_and_told_of(
    tmp_path: Path, content: str, age_seconds: float, reason: str
) -> None:
    """An old one, one of a process that is gone, and one of our own process id from an earlier life."""
    lock = tmp_path / "kc.lock"
    lock.write_text(content.format(ended=ended_process(), own=os.getpid(), host=socket.gethostname()))
    with (
        capture_logs() as logs,
        locked([tmp_path / "kc"], clock=lambda: time.time() + age_seconds, wait_seconds=0),
    ):
        assert str(os.getpid()) in lock.read_text()
    assert os.listdir(tmp_path) == []
    (entry,) = logs
    assert (entry["event"], entry["path"]) == ("kubeconfig.lock_removed", str(lock))
    assert reason in entry["reason"]


@pytest.mark.parametrize(
    "content", ["", "kproxy {parent} {host}\n", "kproxy {ended} other-host\n", "kproxy x {host}\n", "\udcff"]
)
def test_a_lock_that_may_be_alive_is_respected(tmp_path: Path, content: str) -> None:
    """Young and of a living process, of another host, or of a program that says nothing."""
    lock = tmp_path / "kc.lock"
    text = content.format(parent=os.getppid(), ended=ended_process(), host=socket.gethostname())
    lock.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LockedError), locked([tmp_path / "kc"], clock=time.time, wait_seconds=0):
        pytest.fail("the lock is not ours")
    assert lock.exists()

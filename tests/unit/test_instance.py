"""Instances by name: the folder and who may share it, records, locks, and whose process is signalled."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.config.kinds import is_instance_name
from kproxy.instances.inquiry import CRASHED, STOPPED, Standing, as_lines, look, span
from kproxy.instances.instance import (
    FAILED,
    SERVING,
    STARTING,
    InstanceError,
    InstanceFolder,
    Record,
    process_start,
    send_signal,
    state_folder,
)
from tests.support.patience import LAST_RESORT_SECONDS

RECORD = Record(
    name="default",
    state=SERVING,
    host=socket.gethostname(),
    pid=os.getpid(),
    process_started=process_start(os.getpid()),
    started_at=1.0,
    arguments=("--port=0",),
    withheld=(),
    folder="/",
    version="0",
    ending_seconds=10.0,
    is_detached=True,
    addresses=("127.0.0.1:1",),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kproxy"


@pytest.fixture
def folder(path: Path) -> Iterator[InstanceFolder]:
    with InstanceFolder(path, create=True) as opened:
        yield opened


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with kproxy."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("name", ["default", "a", "Dev_1.eu-west", "1", "x" * 63])
def test_names_of_people_are_taken(name: str) -> None:
    """They become part of file names and unit names."""
    assert is_instance_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-f", "a/b", "a b", "ä", "a\n", "x" * 64, "a%i"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """No name is a path, a flag, or hidden."""
    assert not is_instance_name(name)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/s"}, "/run/user/7/kproxy"),
        ({"XDG_RUNTIME_DIR": "", "XDG_STATE_HOME": "/s"}, "/s/kproxy"),
        ({"XDG_RUNTIME_DIR": "relative", "XDG_STATE_HOME": "/s"}, "/s/kproxy"),
        ({}, str(Path("~/.local/state/kproxy").expanduser())),
    ],
)
def test_the_folder_is_where_the_xdg_specification_has_it(environ: dict[str, str], expected: str) -> None:
    """A relative path is no path, says the specification."""
    assert str(state_folder(environ)) == expected


def test_what_is_made_is_private(tmp_path: Path) -> None:
    """The folder, those above it, and every file."""
    with InstanceFolder(tmp_path / "a" / "b" / "kproxy", create=True) as folder:
        lock = folder.lock("default")
        assert lock is not None
        folder.write(RECORD)
        os.close(lock)
    made = [tmp_path / "a", tmp_path / "a" / "b", folder.path, *folder.path.iterdir()]
    assert len(made) == 5
    assert [stat.S_IMODE(each.stat().st_mode) & 0o077 for each in made] == [0] * 5


def test_a_folder_that_others_can_write_is_refused(path: Path) -> None:
    """Whoever can write there could have us signal any process."""
    path.mkdir()
    path.chmod(0o770)
    with pytest.raises(InstanceError, match="written by other users"):
        InstanceFolder(path, create=True)


def test_a_folder_that_others_can_read_is_closed_to_them(path: Path) -> None:
    """Logs and arguments are nobody else's."""
    path.mkdir()
    path.chmod(0o755)
    InstanceFolder(path, create=True).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_another_user_is_refused(path: Path) -> None:
    """As somebody can make it in a shared folder before we do."""
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(InstanceError, match="belongs to user 12345"):
        InstanceFolder(path, create=True)


def test_a_link_is_no_folder(path: Path, tmp_path: Path) -> None:
    """It could lead anywhere, and elsewhere the next time."""
    (tmp_path / "other").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "other")
    with pytest.raises(InstanceError, match="symbolic link"):
        InstanceFolder(path, create=True)


def test_a_file_in_its_place_is_told(path: Path) -> None:
    """One clear sentence instead of `not a directory`."""
    path.write_text("")
    with pytest.raises(InstanceError, match="cannot hold the state of instances"):
        InstanceFolder(path, create=True)


def test_a_folder_that_cannot_be_seen_is_told(path: Path, tmp_path: Path) -> None:
    """As the runtime folder of the user that one was before `su`."""
    tmp_path.chmod(0)
    # Root sees everything.
    os.seteuid(65534 if os.geteuid() == 0 else os.geteuid())
    try:
        with pytest.raises(InstanceError, match=r"Permission denied; set XDG_RUNTIME_DIR to a folder"):
            InstanceFolder(path, create=False)
    finally:
        os.seteuid(os.getuid())
        tmp_path.chmod(0o700)


def test_a_file_system_without_locks_is_told(folder: InstanceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """By those who look, too, and not by the descriptor that they close."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    lock = folder.lock("default")
    assert lock is not None
    os.close(lock)
    monkeypatch.setattr(fcntl, "flock", refuse)
    for ask in (folder.lock, folder.is_locked):
        with pytest.raises(InstanceError, match="without locks"):
            ask("default")


@pytest.mark.parametrize("ending", [".json", ".lock"])
def test_links_in_the_folder_are_not_followed(folder: InstanceFolder, tmp_path: Path, ending: str) -> None:
    """A record or lock that is a link is not ours."""
    precious = tmp_path / "precious"
    precious.write_text(json.dumps(dataclasses.asdict(RECORD)))
    (folder.path / f"default{ending}").symlink_to(precious)
    if ending == ".lock":
        with pytest.raises(InstanceError):
            folder.lock("default")
    else:
        with pytest.raises(OSError, match="symbolic links"):
            folder.read("default")
        folder.write(RECORD)
        assert not (folder.path / "default.json").is_symlink()
    assert precious.read_text().startswith('{"name"')


def test_a_record_is_read_as_it_was_written(folder: InstanceFolder) -> None:
    """Tuples and all."""
    folder.write(RECORD)
    assert folder.read("default") == RECORD
    assert folder.names() == ["default"]
    folder.remove("default")
    assert (folder.read("default"), folder.names()) == (None, [])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": "default"}', json.dumps({**dataclasses.asdict(RECORD), "pid": 0})]
)
def test_a_record_that_makes_no_sense_is_none(folder: InstanceFolder, text: str) -> None:
    """As one that a full disk cut, or that another version wrote."""
    (folder.path / "default.json").write_text(text)
    assert folder.read("default") is None


def test_keys_of_a_later_version_are_passed_over(folder: InstanceFolder) -> None:
    """Who goes back to an older kproxy can still stop the newer one."""
    (folder.path / "default.json").write_text(json.dumps({**dataclasses.asdict(RECORD), "shoe": 43}))
    assert folder.read("default") == RECORD


def test_a_lock_is_one_processs(folder: InstanceFolder) -> None:
    """It is free again when its last descriptor is closed, and its file stays."""
    assert not folder.is_locked("default")
    lock = folder.lock("default")
    assert lock is not None
    assert folder.lock("default") is None
    assert folder.is_locked("default")
    assert not folder.is_locked("other")
    os.close(lock)
    assert not folder.is_locked("default")
    assert (folder.path / "default.lock").exists()


@pytest.mark.skipif(process_start(os.getpid()) is None, reason="nobody here says when a process began")
def test_a_process_with_the_same_id_is_not_the_same(bystander: subprocess.Popen[bytes]) -> None:
    """The id of a process that has ended is given to another one some day."""
    stale = dataclasses.replace(RECORD, pid=bystander.pid)
    assert not stale.is_this_process_alive()
    with pytest.raises(ProcessLookupError):
        send_signal(stale, signal.SIGKILL)
    own = dataclasses.replace(stale, process_started=process_start(bystander.pid))
    assert own.is_this_process_alive()
    assert bystander.poll() is None
    send_signal(own, signal.SIGTERM)
    assert bystander.wait(LAST_RESORT_SECONDS) == -signal.SIGTERM
    assert not own.is_this_process_alive()
    with pytest.raises(ProcessLookupError):
        send_signal(own, signal.SIGTERM)


def test_what_an_instance_does_is_one_word(folder: InstanceFolder) -> None:
    """The lock says whether it runs, the record what it was doing."""
    assert look("default", folder).state == STOPPED
    for state, expected in ((SERVING, CRASHED), (STARTING, FAILED), (FAILED, FAILED)):
        folder.write(dataclasses.replace(RECORD, state=state))
        assert look("default", folder).state == expected
    lock = folder.lock("default")
    assert lock is not None
    assert look("default", folder).state == FAILED
    folder.write(RECORD)
    running = look("default", folder)
    assert (running.state, running.is_running, running.answer) == (SERVING, True, None)
    lines = list(as_lines(running, "/log"))
    assert lines[0] == "default: serving"
    assert "  address:    127.0.0.1:1" in lines
    os.close(lock)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"state": "valid"}, "open; credential exec, ends 2026-11-21"),
        ({"state": "ended"}, "open; credential exec, ended 2026-11-21"),
        (
            {"state": "waiting for acme, 6 s", "last_words": "open\nhttps://login"},
            "open; credential exec, ends 2026-11-21, waiting for acme, 6 s; it says: open\n      https://login",
        ),
        ({"state": "ended", "problem": "m"}, "open; credential exec, ended 2026-11-21; last error: m"),
        (
            {"state": "valid", "problem": "exit code 1"},
            "open; credential exec, ends 2026-11-21; last error: m; renewing the credential: exit code 1",
        ),
    ],
)
def test_the_state_of_a_credential_is_told(facts: dict[str, str], line: str) -> None:
    """In the words of /-/status; what plugins say may have several lines."""
    credential = {"kind": "exec", "expires_at": "2026-11-21", **facts}
    context = {"name": "dev", "default": True, "state": "open", "credential": credential, "url": "u"}
    if "problem" in facts:
        context["last_error"] = {"message": "m"}
    standing = Standing(name="default", is_running=True, record=RECORD, answer={"contexts": [context]})
    assert list(as_lines(standing, "/log"))[-1] == f"  * dev: {line}; u"


def test_an_instance_of_another_machine_is_told_as_such(folder: InstanceFolder) -> None:
    """A home may be on a network: nobody here can tell whether that process lives."""
    folder.write(dataclasses.replace(RECORD, host="elsewhere", pid=1 << 21))
    lock = folder.lock("default")
    assert lock is not None
    assert f"  pid:        {1 << 21} on elsewhere" in list(as_lines(look("default", folder), "/log"))
    os.close(lock)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (59.9, "59s"), (125, "2m 5s"), (3600, "1h 0m"), (90061, "1d 1h")],
)
def test_a_span_has_its_two_largest_units(seconds: float, expected: str) -> None:
    """Nobody needs the seconds of a week."""
    assert span(seconds) == expected

"""Certificates and authorities that are replaced: new connections take the new ones, streams keep theirs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, exec_user, replace_file, seen_by
from tests.support.exec_plugin import Plugin, timestamp
from tests.support.notice import RELOAD_FAILED, noticed
from tests.support.pair_files import PairFiles
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.program import Program


class Files:
    """A client certificate, its key and the cluster's authority, in files that a kubeconfig names."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self.authority = directory / "ca.crt"
        self.pair = PairFiles(directory, "client")
        self.authority.write_bytes(server.ca.pem)
        self.identify("alice")
        self.config = Kubeconfig(directory / "config")
        self.config.add(server, {"certificate-authority": str(self.authority)}, **self.pair.user)
        self.config.write()

    def identify(self, name: str) -> None:
        self.pair.write(*self.server.ca.issue(name, client=True))


@pytest.fixture
def ca() -> CA:
    return CA()


@pytest.fixture
async def server(ca: CA) -> AsyncIterator[ApiServer]:
    async with ApiServer("c", ca, client_ca=ca) as server:
        yield server


@pytest.fixture
async def files(server: ApiServer, tmp_path: Path) -> Files:
    return Files(server, tmp_path)


async def seen_as(program: Program, name: str) -> None:
    """Ask until the API server takes us for `name`; every request on the way there succeeds."""
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        while (await seen_by(program))["cn"] != name:
            await asyncio.sleep(0.02)


# -- client certificates in files --


async def test_a_renewed_client_certificate_is_used(files: Files) -> None:
    """kubectl takes up to five minutes and cuts every stream; here they go on."""
    async with Program(kubeconfig=files.config.path) as program:
        async with Stream(program) as watch, Stream(program, "/api/tunnel", upgrade="SPDY/3.1") as tunnel:
            assert (await watch.first_event())["cn"] == "alice"
            await seen_as(program, "alice")
            idle = files.server.connections[-1]
            files.identify("bob")
            await seen_as(program, "bob")
            await asyncio.wait_for(idle.ended.wait(), LAST_RESORT_SECONDS)
            await files.server.tick("still alice's")
            await watch.expects("still alice's")
            await tunnel.echoes(b"and this")
        async with Stream(program) as watch:
            assert (await watch.first_event())["cn"] == "bob"


async def test_rotate_close_cuts_the_streams(files: Files) -> None:
    """For whom an old identity must not go on: cut so that nothing looks complete."""
    async with (
        Program("--rotate-close", kubeconfig=files.config.path) as program,
        Stream(program) as watch,
        Stream(program, "/api/tunnel", upgrade="SPDY/3.1") as tunnel,
    ):
        await watch.first_event()
        files.identify("bob")
        await seen_as(program, "bob")
        await watch.is_cut()
        assert await tunnel.client.read_to_end() == b""


async def test_half_a_pair_leaves_the_old_one(files: Files) -> None:
    """Certificate and key are written one after the other; in between requests go on as before."""
    async with Program(kubeconfig=files.config.path) as program:
        await seen_as(program, "alice")
        certificate, key = files.server.ca.issue("bob", client=True)
        replace_file(files.pair.certificate, certificate)
        told = "credential.reload_failed"
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while not program.log_events(told):
                assert (await seen_by(program))["cn"] == "alice"
                await asyncio.sleep(0.02)
        (line,) = program.log_events(told)
        assert "is not the key of" in line["error"]
        assert str(files.pair.key) in line["error"]
        assert await fresh_identity(program, files.server) == "alice"
        replace_file(files.pair.key, key)
        await seen_as(program, "bob")
        assert len(program.log_events(told)) == 1


async def fresh_identity(program: Program, server: ApiServer) -> str:
    """Who we are on a connection that is dialled now."""
    async with Stream(program, "/api/tunnel", upgrade="x") as tunnel:
        await tunnel.echoes(b"x")
        return str(server.connections[-1].client_certificate_cn)


async def test_files_that_vanish_leave_the_old_pair(files: Files) -> None:
    """A tool that removes before it writes takes nobody's access away."""
    async with Program(kubeconfig=files.config.path) as program:
        await seen_as(program, "alice")
        files.pair.certificate.unlink()
        files.pair.key.unlink()
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while not program.log_events("credential.reload_failed"):
                await seen_by(program)
                await asyncio.sleep(0.02)
        assert await fresh_identity(program, files.server) == "alice"
        files.identify("bob")
        await seen_as(program, "bob")


async def test_rotation_under_load_loses_no_request(files: Files) -> None:
    """Idle connections are closed, none under a request."""
    async with Program(kubeconfig=files.config.path) as program:
        await program.output("server.started")
        stop = asyncio.Event()

        async def load() -> set[str]:
            names = set()
            while not stop.is_set():
                names.add((await seen_by(program))["cn"])
            return names

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for name in ("bob", "carol"):
            files.identify(name)
            await seen_as(program, name)
        stop.set()
        assert set().union(*await asyncio.gather(*loads)) <= {"alice", "bob", "carol"}


# -- authorities in files --


async def fails_to_verify(program: Program) -> None:
    response = await ask(program)
    assert response.status == 502
    assert "certificate verify failed" in response.json()["message"]


async def test_a_renewed_authority_is_trusted(files: Files) -> None:
    """The cluster's authority is replaced under a running program; its streams go on."""
    new = CA("new-ca")
    async with Program(kubeconfig=files.config.path) as program, Stream(program) as watch:
        await watch.first_event()
        files.server.use_certificate_of(new)
        await fails_to_verify(program)
        await noticed(program, lambda: replace_file(files.authority, new.pem))
        assert (await seen_by(program))["cn"] == "alice"
        await files.server.tick("going on")
        await watch.expects("going on")


async def test_an_authority_renewed_during_a_handshake_counts(files: Files) -> None:
    """A connection that was begun with the old one, and fails for it, is dialled once more."""
    new = CA("new-ca")
    files.server.handshakes = asyncio.Event()
    async with Program(kubeconfig=files.config.path) as program:
        waiting = asyncio.create_task(seen_by(program))
        await files.server.dialled.wait()
        await noticed(program, lambda: replace_file(files.authority, new.pem))
        files.server.use_certificate_of(new)
        files.server.handshakes.set()
        assert (await waiting)["cn"] == "alice"


async def test_an_authority_that_is_taken_away_is_not_trusted(files: Files) -> None:
    """Idle connections that it had vouched for are not used any more."""
    async with Program(kubeconfig=files.config.path) as program:
        await seen_by(program)
        await noticed(program, lambda: replace_file(files.authority, CA("other").pem))
        await fails_to_verify(program)


@pytest.mark.parametrize(
    ("content", "cause"), [(b"", "is empty"), (b"junk", "holds no valid certificate"), (None, "no such file")]
)
async def test_an_authority_of_no_use_leaves_the_old_one(
    files: Files, content: bytes | None, cause: str
) -> None:
    """Empty, junk or gone: told once by name, and new connections are verified as before."""
    async with Program(kubeconfig=files.config.path) as program:
        await seen_by(program)

        def spoil() -> None:
            files.authority.unlink() if content is None else replace_file(files.authority, content)

        line = await noticed(program, spoil, RELOAD_FAILED)
        said = "; ".join(line["problems"])
        assert cause in said.lower()
        assert str(files.authority) in said
        assert await fresh_identity(program, files.server) == "alice"
        await noticed(program, lambda: replace_file(files.authority, files.server.ca.pem))
        assert len(program.log_events(RELOAD_FAILED)) == 1


async def test_rotate_close_cuts_streams_of_an_old_authority(files: Files) -> None:
    """They were verified by what is not trusted any more."""
    async with Program("--rotate-close", kubeconfig=files.config.path) as program, Stream(program) as watch:
        await watch.first_event()
        replace_file(files.authority, files.server.ca.pem + CA("second").pem)
        await watch.is_cut()


async def test_the_same_authority_written_again_changes_nothing(files: Files) -> None:
    """A volume is refreshed every few minutes with the same content."""
    async with Program(kubeconfig=files.config.path) as program:
        await seen_by(program)
        replace_file(files.authority, files.server.ca.pem)
        # Told because of the mistake; by then the file has been looked at.
        await noticed(program, lambda: files.config.write("["), RELOAD_FAILED)
        await noticed(program, files.config.write)
        await seen_by(program)
        assert len(files.server.connections) == 1


# -- certificates from a plugin --


class Issuing:
    """An exec plugin that hands out certificates."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.ca = server.ca
        self.plugin = Plugin(directory / "plugin")
        self.config = Kubeconfig(directory / "config")
        self.config.add(server, exec=exec_user(self.plugin))
        self.config.write()

    def identify(self, name: str, **fields: Any) -> bytes:
        certificate, key = self.ca.issue(name, client=True)
        self.plugin.issues(
            clientCertificateData=certificate.decode(), clientKeyData=key.decode(), token=name, **fields
        )
        return key


async def test_a_plugins_new_certificate_is_used(server: ApiServer, tmp_path: Path) -> None:
    """Ahead of its end and without a failing request; streams keep the old one."""
    issuing = Issuing(server, tmp_path)
    issuing.identify("alice", expirationTimestamp=timestamp(time.time() + 3))
    async with Program(kubeconfig=issuing.config.path) as program, Stream(program) as watch:
        assert (await watch.first_event())["cn"] == "alice"
        issuing.identify("bob", expirationTimestamp=timestamp(time.time() + 3600))
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while (await seen_by(program))["cn"] != "bob":
                await asyncio.sleep(0.02)
        await server.tick("alice's")
        await watch.expects("alice's")
        assert issuing.plugin.runs == 2


@pytest.mark.parametrize("options", [[], ["--rotate-close"]])
async def test_a_refused_certificate_is_renewed(
    server: ApiServer, tmp_path: Path, options: list[str]
) -> None:
    """After a 401 the request is sent again on a connection with the new certificate."""
    issuing = Issuing(server, tmp_path)
    issuing.identify("alice")
    async with Program(*options, kubeconfig=issuing.config.path) as program, Stream(program) as watch:
        assert (await watch.first_event())["cn"] == "alice"
        issuing.identify("bob")
        server.accepts = {"Bearer bob"}
        seen = await seen_by(program)
        assert (seen["cn"], seen["authorization"]) == ("bob", "Bearer bob")
        if options:
            await watch.is_cut()
        else:
            await server.tick("alice's")
            await watch.expects("alice's")


async def test_a_token_alone_does_not_close_connections(server: ApiServer, tmp_path: Path) -> None:
    """The same certificate in another credential is the same identity to TLS."""
    issuing = Issuing(server, tmp_path)
    certificate, key = server.ca.issue("alice", client=True)
    pair = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    issuing.plugin.issues(pair, token="one")
    async with Program(kubeconfig=issuing.config.path) as program:
        await seen_by(program)
        issuing.plugin.issues(pair, token="two")
        server.accepts = {"Bearer two"}
        await seen_by(program)
        await seen_by(program)
        assert [each.ended.is_set() for each in server.connections].count(True) == 0


# -- keys on disk --

IN_CREATE, IN_MOVED_TO, IN_CLOSE_WRITE = 0x100, 0x80, 0x8


@contextmanager
def noted(directories: list[Path]) -> Iterator[Callable[[], list[str]]]:
    """What is created or written in these directories, by name (inotify(7)), as a function to ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        pytest.skip("needs Linux")
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    try:
        for directory in directories:
            mask = IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE
            assert libc.inotify_add_watch(descriptor, os.fsencode(directory), mask) > 0

        def names() -> list[str]:
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return []
            found, at = [], 0
            while at < len(data):
                length = struct.unpack_from("iIII", data, at)[3]
                found.append(data[at + 16 : at + 16 + length].rstrip(b"\0").decode())
                at += 16 + length
            return found

        yield names
    finally:
        os.close(descriptor)


async def test_keys_never_reach_a_disk(server: ApiServer, tmp_path: Path) -> None:
    """Neither those of a plugin nor -data ones; nothing is written to any directory for passing things."""
    issuing = Issuing(server, tmp_path)
    issuing.identify("alice")
    places = {name: tmp_path / name for name in ("tmp", "home", "run", "cwd")}
    for path in places.values():
        path.mkdir()
    env = {
        "TMPDIR": str(places["tmp"]),
        "HOME": str(places["home"]),
        "XDG_RUNTIME_DIR": str(places["run"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with noted([*places.values(), Path("/dev/shm")]) as names:
        (places["tmp"] / "seen").touch()
        assert "seen" in names(), "the watch works"
        async with Program(kubeconfig=issuing.config.path, env=env, cwd=places["cwd"]) as program:
            assert (await seen_by(program))["cn"] == "alice"
            issuing.identify("bob")
            server.accepts = {"Bearer bob"}
            assert (await seen_by(program))["cn"] == "bob"
            opened = []
            for each in Path(f"/proc/{program.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                    opened.append(os.readlink(each))
            assert not [each for each in opened if "memfd" in each]
        assert names() == []

"""Several listeners at once, of every kind: who is let in where, and what is left behind."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from kproxy.config.listeners import ListenerConfig
from kproxy.errors import ConfigError
from kproxy.listeners.binding import Bound, ListenError, SocketFile, adopt, bind, bind_tcp, bind_unix
from kproxy.listeners.listener import Listener
from tests.support.answers import Step, chunk, head, script
from tests.support.client import RawClient, request_bytes
from tests.support.program import ROOT, Program, client_address, ended
from tests.support.upstream import ByteUpstream

WATCH = script(head(200, [("Transfer-Encoding", "chunked")]), chunk(b"{}\n"), Step.WAIT_FOR_END)


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


async def refused(*args: str, code: int) -> str:
    """What kproxy says on stderr before it ends with that exit code, with nothing on stdout."""
    program = await asyncio.to_thread(ended, *args, code=code)
    assert program.stdout == ""
    return program.stderr


# -- several --


@needs_ipv6
async def test_each_listener_serves_and_prints_its_line(
    config: Path, folder: Path, upstream: ByteUpstream
) -> None:
    """IPv4, IPv6 and a unix socket; the lines are in the order of the settings, the first one's first."""
    args = ("--port=0", "--listen=[::1]:0", f"--listen=unix:{folder / 's'}")
    async with Program(*args, kubeconfig=config) as program:
        await program.output("server.started")
        first, second, third = program.serving_on_all
        assert first.startswith("127.0.0.1:")
        assert second.startswith("[::1]:")
        assert third == str(folder / "s")
        for address in program.addresses:
            async with await RawClient.connect(address) as client:
                assert (await client.request("GET", "/api")).status == 200
        (started,) = program.log_events("server.started")
        assert (started["address"], started["also"]) == (first, [second, third])
        await program.output('"listener": "/')
        told = [(line["listener"], line["client"]) for line in program.log_events("request.finished")]
    assert [listener for listener, _ in told] == [first, second, third]
    assert told[0][1].startswith("127.0.0.1:")
    assert told[1][1].startswith("[::1]:")
    assert told[2][1] == "unix"
    assert [request.values("X-Forwarded-For") for request in upstream.requests] == [
        ["127.0.0.1"],
        ["::1"],
        [],
    ]


async def test_all_of_them_end_at_once(config: Path, folder: Path, upstream: ByteUpstream) -> None:
    """After SIGTERM nobody is accepted anywhere, watches on each are cut, and the socket's file is gone."""
    upstream.responder = WATCH
    args = ("--port=0", "--listen=127.0.0.1:0", f"--listen=unix:{folder / 's'}", "--grace-period=5s")
    async with Program(*args, kubeconfig=config) as program:
        await program.output("server.started")
        clients = []
        for address in program.addresses:
            client = await RawClient.connect(address)
            await client.send(request_bytes("GET", "/api/v1/pods?watch=true"))
            await client.read_until(await client.read_head(), b"{}\n")
            clients.append(client)
        addresses = program.addresses
        assert await program.stopped(signal.SIGTERM) == 0
        for client in clients:
            await client.read_to_end()
            client.close()
    for address in addresses:
        with pytest.raises(OSError, match=r"failed|No such file"):
            await RawClient.connect(address)
    assert os.listdir(folder) == []


async def test_one_that_cannot_be_had_keeps_all_from_starting(config: Path, folder: Path) -> None:
    """And nothing is left of those that could."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        place = f"127.0.0.1:{used.getsockname()[1]}"
        listeners = f"--listen=unix:{folder / 's'}", f"--listen={place}"
        assert "already in use" in await refused(*listeners, f"--kubeconfig={config}", code=1)
    assert not (folder / "s").exists()


async def test_the_config_file_lists_them(config: Path, folder: Path) -> None:
    """As mappings; each has settings of its own."""
    settings = folder / "config.yaml"
    settings.write_text(
        f"kubeconfig: {config}\nlisteners:\n- port: 0\n- unix_socket: s\n  mode: '0660'\n- 127.0.0.1:0\n"
    )
    async with Program(f"--config={settings}") as program:
        await program.output("server.started")
        assert len(program.serving_on_all) == 3
        assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o660


# -- localhost --


@needs_ipv6
async def test_localhost_in_a_list_is_both_loopbacks_on_one_port(config: Path) -> None:
    """Which of the two a browser tries first is its own affair."""
    async with Program("--listen=localhost:0", kubeconfig=config) as program:
        await program.output("server.started")
        first, second = program.serving_on_all
        assert (first.rpartition(":")[0], second.rpartition(":")[0]) == ("127.0.0.1", "[::1]")
        assert first.rpartition(":")[2] == second.rpartition(":")[2]
        for address in program.addresses:
            async with await RawClient.connect(address) as client:
                assert (await client.request("GET", "/api")).status == 200


async def test_localhost_as_the_address_is_kubectls(config: Path) -> None:
    """IPv4 alone: one line on stdout."""
    async with Program("--address=localhost", kubeconfig=config) as program:
        await program.output("server.started")
        (only,) = program.serving_on_all
        assert only.startswith("127.0.0.1:")


@needs_ipv6
def test_both_loopbacks_or_neither() -> None:
    """A port that one of them lacks is no port for both."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as used:
        port = used.getsockname()[1]
        with pytest.raises(ListenError, match=rf"port {port} on ::1 is already in use"):
            bind(ListenerConfig(address="localhost", port=port, label="x"), is_exposed_allowed=False)
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))


@needs_ipv6
def test_all_addresses_are_those_of_ipv4_too() -> None:
    """`::`, whatever the system's setting."""
    with ExitStack() as owned:
        (bound,) = bind(ListenerConfig(address="::", port=0), is_exposed_allowed=True)
        owned.enter_context(bound.socket)
        port = bound.socket.getsockname()[1]
        owned.enter_context(socket.create_connection(("127.0.0.1", port)))
        owned.enter_context(socket.create_connection(("::1", port)))


@needs_ipv6
async def test_an_ipv4_client_of_an_ipv6_listener_has_its_own_address(
    config: Path, upstream: ByteUpstream
) -> None:
    """Not ::ffff:127.0.0.1, as the kernel has it; Go tells it likewise."""
    async with (
        Program("--listen=[::]:0", "--unsafe-listen", kubeconfig=config) as program,
        await RawClient.connect(("127.0.0.1", program.port)) as client,
    ):
        assert (await client.request("GET", "/api")).status == 200
    assert upstream.requests[0].values("X-Forwarded-For") == ["127.0.0.1"]


# -- other machines --


@pytest.mark.parametrize("args", [["--address=0.0.0.0", "--port=0"], ["--listen=0.0.0.0:0"]])
async def test_what_other_machines_can_reach_is_refused(config: Path, args: list[str]) -> None:
    """Exit code 2, and what to add; as a drop-in for kubectl proxy it must be told in one clear line."""
    problem, hint = (await refused(*args, f"--kubeconfig={config}", code=2)).splitlines()
    assert "0.0.0.0 can be reached from other machines" in problem
    assert "add --unsafe-listen" in problem
    assert hint == "See 'kproxy --help'."


async def test_a_name_of_such_an_address_is_refused_too(config: Path) -> None:
    """What it stands for is known only when it is looked up."""
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, 0, socket.AF_INET)[0][4][0]
    except OSError:
        pytest.skip("this machine does not know its own name")
    if str(address).startswith("127."):
        pytest.skip("this machine's own name is a loopback address")
    told = await refused(f"--address={name}", "--port=0", f"--kubeconfig={config}", code=2)
    assert "add --unsafe-listen" in told


async def test_with_leave_it_serves_and_warns(config: Path) -> None:
    """One warning, which names the address and that TLS is not there."""
    async with Program(
        "--address=0.0.0.0", kubeconfig=config, env={"KPROXY_UNSAFE_LISTEN": "true"}
    ) as program:
        await program.output("listener.exposed")
        (warning,) = program.log_events("listener.exposed")
        async with await RawClient.connect(("127.0.0.1", program.port)) as client:
            assert (await client.request("GET", "/api")).status == 200
    assert (warning["level"], warning["address"], warning["tls"]) == ("warning", program.serving_on, False)


async def test_nobody_is_warned_of_this_machine(config: Path, folder: Path) -> None:
    """Loopback and unix sockets are where kproxy belongs."""
    async with Program("--port=0", f"--listen=unix:{folder / 's'}", kubeconfig=config) as program:
        await program.output("server.started")
        assert await program.stopped() == 0
        assert program.log_events("listener.exposed") == []


# -- unix sockets --


async def test_a_mode_lets_a_group_in(config: Path, folder: Path) -> None:
    """Exactly as asked, whatever the umask."""
    mask = os.umask(0o077)
    try:
        async with Program(
            f"--unix-socket={folder / 's'}", "--unix-socket-mode=0666", kubeconfig=config
        ) as program:
            assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o666
            assert await program.stopped() == 0
    finally:
        os.umask(mask)


@needs_root
@pytest.mark.parametrize(
    ("owner", "ids"), [("65534", (65534, 0)), (":65533", (0, 65533)), ("65534:65533", (65534, 65533))]
)
def test_an_owner_gets_the_socket(folder: Path, owner: str, ids: tuple[int, int]) -> None:
    """User, group, or both, by number; what is not named stays."""
    bound = bind_unix(str(folder / "s"), owner=owner)
    with bound.socket:
        found = (folder / "s").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*ids, 0o700)


@needs_root
def test_names_of_owners_are_looked_up(folder: Path) -> None:
    """As chown does."""
    user, group = pwd.getpwall()[1], grp.getgrall()[1]
    with bind_unix(str(folder / "s"), owner=f"{user.pw_name}:{group.gr_name}", mode=0o660).socket:
        found = (folder / "s").stat()
        assert (found.st_uid, found.st_gid) == (user.pw_uid, group.gr_gid)
        assert stat.S_IMODE(found.st_mode) == 0o660


_SWAPPING = """
import os, sys
from kproxy.listeners.binding import ListenError, bind_unix

path, other, moment = sys.argv[1:]

def swap(event, arguments):
    if event == moment and (event != "open" or arguments[0] == path) and not os.path.islink(path):
        os.unlink(path)
        os.symlink(other, path)

sys.addaudithook(swap)
try:
    bind_unix(path, mode=0o666, owner=f"{os.getuid()}")
except ListenError as error:
    print(error.message)
print(os.path.islink(path))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="holds the socket by O_PATH")
@pytest.mark.parametrize("moment", ["open", "os.chown", "os.chmod"])
def test_no_other_file_is_opened_to_all(folder: Path, moment: str) -> None:
    """Where others may write to the folder they can put a link in the socket's place just then."""
    private = folder / "private"
    private.touch(mode=0o600)
    done = subprocess.run(
        [sys.executable, "-c", _SWAPPING, str(folder / "s"), str(private), moment],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.endswith("True\n"), "nothing was swapped"
    assert ("somebody else has put a file in its place" in done.stdout) is (moment == "open")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.parametrize("owner", ["no-such-user", ":no-such-group", "0:no-such-group"])
def test_an_unknown_owner_is_refused(folder: Path, owner: str) -> None:
    """Before anything is there."""
    with pytest.raises(ConfigError, match="this machine has no"):
        bind_unix(str(folder / "s"), owner=owner)
    assert os.listdir(folder) == []


async def test_of_many_starts_at_once_one_serves(config: Path, folder: Path) -> None:
    """The others say that the socket is in use; none takes it from under another."""
    programs = [Program(f"-u={folder / 's'}", kubeconfig=config) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(asyncio.to_thread(program.start) for program in programs), return_exceptions=True
    )
    try:
        assert outcomes.count(None) == 1
        assert all("is in use by a running program" in str(each) for each in outcomes if each is not None)
        async with await RawClient.connect(str(folder / "s")) as client:
            assert (await client.request("GET", "/api")).status == 200
    finally:
        for program in programs:
            await asyncio.to_thread(program.kill)


def test_a_locked_folder_is_not_waited_for_long(folder: Path) -> None:
    """Whatever another program wants with it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        bind_unix(str(folder / "s")).socket.close()
    finally:
        os.close(descriptor)


async def test_only_our_own_file_is_removed(config: Path, folder: Path) -> None:
    """Another program has put its socket at our path meanwhile: it stays, and is of use."""
    path = folder / "s"
    async with Program(f"-u={path}", kubeconfig=config) as program:
        path.unlink()
        with socket.create_server(str(path), family=socket.AF_UNIX):
            assert await program.stopped() == 0
            assert path.exists()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
    path.unlink()


def test_a_file_is_found_again_from_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means what it meant at the start."""
    monkeypatch.chdir(folder)
    bound = bind_unix("s")
    monkeypatch.chdir("/")
    with bound.socket:
        assert bound.file is not None
        bound.file.remove()
        bound.file.remove()
    assert os.listdir(folder) == []


# -- passed descriptors --


async def run_with_passed(
    sockets: list[socket.socket], args: list[str], config: Path
) -> tuple[subprocess.Popen[str], list[str]]:
    """kproxy with `sockets` as its descriptors 3 and on, and the lines that it prints."""
    shell = " ".join(f"{3 + index}<&{each.fileno()}" for index, each in enumerate(sockets))
    command = f'exec "$0" -m kproxy "$@" {shell}'
    process = await asyncio.to_thread(
        subprocess.Popen,
        ["bash", "-c", command, sys.executable, *args, f"--kubeconfig={config}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        pass_fds=[each.fileno() for each in sockets],
    )  # fmt: skip
    assert process.stdout is not None
    lines = [await asyncio.to_thread(process.stdout.readline) for _ in args]
    return process, [line.removeprefix("Starting to serve on ").strip() for line in lines]


async def test_passed_sockets_are_served_and_left_alone(config: Path, folder: Path) -> None:
    """A TCP and a unix socket: who passed them removes the path, not kproxy."""
    path = folder / "passed"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(str(path), family=socket.AF_UNIX) as unix,
    ):
        process, lines = await run_with_passed([tcp, unix], ["--listen=fd:3", "--listen=fd:4"], config)
        try:
            host, port = tcp.getsockname()
            assert lines == [f"{host}:{port}", str(path)]
            for line in lines:
                async with await RawClient.connect(client_address(line)) as client:
                    assert (await client.request("GET", "/api")).status == 200
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
            assert process.stdout is not None
            process.stdout.close()
        assert path.exists()


async def test_what_is_no_passed_socket_is_told(config: Path) -> None:
    """A descriptor that is not open, or a file."""
    told = await refused("--listen=fd:77", f"--kubeconfig={config}", code=2)
    assert "file descriptor 77" in told
    assert "listeners[0]" in told


def test_adopt_takes_a_listening_socket_as_it_is() -> None:
    """Non-blocking, and not handed to exec plugins."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        passed.set_inheritable(True)
        assert adopt(passed) is passed
        assert (passed.getblocking(), passed.get_inheritable()) == (False, False)


@pytest.mark.parametrize("kind", ["datagram", "connected", "not listening"])
def test_adopt_refuses_what_cannot_be_served(kind: str) -> None:
    """With the words of a systemd unit, where most of them come from."""
    with ExitStack() as owned:
        _, second = map(owned.enter_context, socket.socketpair())
        if kind == "datagram":
            second = owned.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        elif kind == "not listening":
            second = owned.enter_context(socket.socket())
            second.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="ListenStream=" if kind == "datagram" else "Accept=yes"):
            adopt(second)


def test_a_passed_socket_that_others_reach_needs_leave() -> None:
    """Whoever bound it: the credentials are still ours."""
    with socket.create_server(("0.0.0.0", 0)) as passed:
        config = ListenerConfig(fd=os.dup(passed.fileno()), label="listeners[0]")
        with pytest.raises(ConfigError, match=r"listeners\[0\]: 0.0.0.0 can be reached"):
            bind(config, is_exposed_allowed=False)


# -- what a listener tells of itself --


def listener_of(bound: Bound) -> Listener:
    return Listener(bound.socket, lambda *_: None, lambda *_: None, file=bound.file)


@pytest.mark.parametrize(
    ("address", "is_local", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:{}"),
        ("127.0.0.2", True, "http://127.0.0.2:{}"),
        pytest.param("::1", True, "http://[::1]:{}", marks=needs_ipv6),
        ("0.0.0.0", False, "http://localhost:{}"),
        pytest.param("::", False, "http://localhost:{}", marks=needs_ipv6),
    ],
)
def test_tcp_listeners(address: str, is_local: bool, url: str) -> None:
    """Who reaches it, and by which URL."""
    bound = bind_tcp(address, 0)
    listener = Listener(bound, lambda *_: None, lambda *_: None)
    assert (listener.kind, listener.is_local, listener.is_tls) == ("tcp", is_local, False)
    assert listener.url == url.format(bound.getsockname()[1])
    listener.stop_accepting()


def test_unix_listeners(folder: Path) -> None:
    """A path and nothing else."""
    listener = listener_of(bind_unix(str(folder / "s")))
    assert (listener.kind, listener.is_local, listener.is_tls) == ("unix", True, False)
    assert (listener.name, listener.url) == (str(folder / "s"), f"unix:{folder / 's'}")
    listener.stop_accepting()
    listener.stop_accepting()
    assert os.listdir(folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sockets without a file")
def test_sockets_without_a_file() -> None:
    """Of systemd, say; written as `ss` does."""
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(f"\0kproxy-test-{os.getpid()}")
        passed.listen()
        listener = Listener(adopt(passed), lambda *_: None, lambda *_: None)
        assert (listener.name, listener.is_local) == (f"@kproxy-test-{os.getpid()}", True)


# -- ports that are taken --


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a port")
async def test_whoever_has_the_port_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most common case: another kproxy, forgotten in a terminal."""
    # A fork has not its own command line, by which it is known.
    monkeypatch.setattr("tests.support.program.forks", False)
    async with Program(kubeconfig=config) as program:
        assert await refused(f"--port={program.port}", f"--kubeconfig={config}", code=1) == (
            f"error: port {program.port} on 127.0.0.1 is already in use by kproxy (pid {program.pid}); "
            "stop the program that has it, or choose another with --port (0 for any)\n"
        )


def test_files_are_told_apart_by_inode(folder: Path) -> None:
    """The same name is not the same socket."""
    (folder / "a").write_text("")
    file = SocketFile.of(str(folder / "a"))
    (folder / "b").write_text("")
    (folder / "b").rename(folder / "a")
    file.remove()
    assert os.listdir(folder) == ["a"]

"""Exec plugins, run for real: how they are found, started, listened to and ended."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from kproxy.credentials import CredentialSource, exec_plugin, open_source
from kproxy.errors import ExecPluginError
from kproxy.kube.kubeconfig import Cluster, ExecConfig, ResolvedContext, User
from kproxy.kube.kuberc import PluginPolicy
from tests.support.clock import Clock
from tests.support.exec_plugin import V1, V1BETA1, Hold, Plugin, timestamp
from tests.support.oidc_issuer import jwt
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA
from tests.support.secrets import plant
from tests.support.terminal import Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="plugins are POSIX programs here")

WHERE = 'context "x": user "u" in /home/joe/.kube/config: exec plugin'
AUTHORITY = CA()


def context_of(config: ExecConfig, cluster: Cluster | None = None) -> ResolvedContext:
    return ResolvedContext(
        name="x",
        cluster=cluster or Cluster(name="c", server="https://127.0.0.1:6443"),
        user=User(name="u", exec=config, source_path=Path("/home/joe/.kube/config")),
    )


Open = Callable[..., CredentialSource]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    sources = []

    def open_it(command: Path | str, *, cluster: Cluster | None = None, **kwargs: Any) -> CredentialSource:
        names = set(ExecConfig.__dataclass_fields__)
        fields = {"api_version": V1, "interactive_mode": "Never"}
        fields |= {name: value for name, value in kwargs.items() if name in names}
        options = {name: value for name, value in kwargs.items() if name not in names}
        # Those who would run a plugin in the same way share its runs: most tests want runs of their own.
        options.setdefault("environ", dict(os.environ))
        config = ExecConfig(command=str(command), **fields)  # type: ignore[arg-type]
        source = open_source(context_of(config, cluster), **options)
        sources.append(source)
        return source

    yield open_it
    for source in sources:
        await source.close()


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    plugin = Plugin(tmp_path / "plugin dir")
    plugin.issues(token="pt")
    return plugin


async def failure(source: CredentialSource) -> str:
    with pytest.raises(ExecPluginError) as caught:
        await source.get()
    text = str(caught.value)
    assert text.startswith(WHERE)
    return text


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait for what another process does at its own pace."""
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        while not is_so():
            await asyncio.sleep(0.005)


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pipes() -> int:
    """How many ends of pipes we hold open."""
    modes = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            modes.append(os.fstat(int(name)).st_mode)
    return sum(map(stat.S_ISFIFO, modes))


# -- finding and starting --


async def test_the_token_of_the_plugin_is_the_credential(opened: Open, plugin: Plugin) -> None:
    """It runs at the first request, once, and is then cached for ever without an expirationTimestamp."""
    source = opened(plugin.path)
    assert plugin.runs == 0
    credential = await source.get()
    assert (credential.authorization, credential.kind) == ("Bearer pt", "exec")
    assert (credential.certificate, credential.expires_at) == (None, None)
    assert source.current() is credential
    assert await source.get() is credential
    assert plugin.runs == 1


async def test_a_run_that_is_called_off_as_it_begins(opened: Open, plugin: Plugin) -> None:
    """The kubeconfig has changed in that moment: what was opened for the run is closed, and that once."""
    for turns in range(8):
        source = opened(plugin.path)
        waiting = asyncio.ensure_future(source.get())
        for _ in range(turns):
            await asyncio.sleep(0)
        await source.close()
        await asyncio.gather(waiting, return_exceptions=True)
    # A file that nobody has closed is an error of the test here.
    gc.collect()


async def test_the_old_version_works_as_the_new_one(opened: Open, plugin: Plugin) -> None:
    """v1beta1 is still what many kubeconfigs name."""
    plugin.issues(token="old", version=V1BETA1)
    assert (await opened(plugin.path, api_version=V1BETA1).get()).authorization == "Bearer old"
    assert json.loads(plugin.info)["apiVersion"] == V1BETA1


async def test_arguments_and_environment_arrive_as_written(opened: Open, plugin: Plugin) -> None:
    """Ours first, then exec.env, KUBERNETES_EXEC_INFO last; no shell in between; our working directory."""
    plugin.does(
        f'for a in "$@"; do echo "<$a>"; done > "{plugin.directory}/args"\n'
        f'(env; pwd) > "{plugin.directory}/env"'
    )
    source = opened(
        plugin.path,
        args=("a b", "$HOME", "*", "", "ü'\""),
        env=(("ADDED", "x y"), ("OURS", "changed"), ("KUBERNETES_EXEC_INFO", "forged")),
        environ={**os.environ, "OURS": "original", "KEPT": "1"},
    )
    await source.get()
    assert (plugin.directory / "args").read_text().splitlines() == ["<a b>", "<$HOME>", "<*>", "<>", "<ü'\">"]
    lines = (plugin.directory / "env").read_text().splitlines()
    assert {"ADDED=x y", "OURS=changed", "KEPT=1", os.getcwd()} <= set(lines)
    assert plugin.info == (
        '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}\n'
    )


async def test_a_name_is_sought_in_our_path(opened: Open, tmp_path: Path) -> None:
    """Not in that of exec.env, not in the working directory, not in relative entries of PATH."""
    plugin = Plugin(tmp_path / "bin", "myplug")
    plugin.issues(token="pth")
    path = f"{tmp_path / 'empty'}:{tmp_path / 'bin'}:{os.environ['PATH']}"
    source = opened("myplug", environ={**os.environ, "PATH": path})
    assert (await source.get()).authorization == "Bearer pth"
    short = {**os.environ, "PATH": f":bin:.:{os.environ['PATH']}"}
    with contextlib.chdir(tmp_path / "bin"):
        text = await failure(opened("myplug", environ=short, env=(("PATH", str(tmp_path / "bin")),)))
    assert "exec: executable myplug not found" in text
    assert plugin.runs == 1


async def test_the_path_can_be_extended(opened: Open, tmp_path: Path) -> None:
    """--exec-path is for daemons and desktop programs with a short PATH; the plugin's helpers profit too."""
    plugin = Plugin(tmp_path / "extra", "myplug")
    plugin.does(f'echo "$PATH" > "{plugin.directory}/path"')
    plugin.issues(token="t")
    environ = {**os.environ, "PATH": "/usr/bin:/bin"}
    source = opened("myplug", environ=environ, exec_path=("/nowhere", str(tmp_path / "extra")))
    assert (await source.get()).authorization == "Bearer t"
    assert (plugin.directory / "path").read_text().strip() == f"/usr/bin:/bin:/nowhere:{tmp_path / 'extra'}"


async def test_a_name_not_found_says_where_it_was_sought(opened: Open) -> None:
    """With kubectl's help text, what to do about it, and the install hint without escape sequences."""
    text = await failure(
        opened(
            "nosuch-plugin",
            install_hint="get it:\n\x1b[31mbrew install it",
            environ={"PATH": "/usr/bin:/bin"},
            exec_path=("/opt/sso",),
        )
    )
    assert (
        'exec plugin "nosuch-plugin": getting credentials: exec: executable nosuch-plugin not found '
        "in /usr/bin:/bin:/opt/sso; add its directory with --exec-path, or write its whole path"
    ) in text
    assert "It looks like you are trying to use a client-go credential plugin that is not installed." in text
    assert "https://kubernetes.io/docs/reference/access-authn-authz/authentication/" in text
    assert text.endswith("\n\nget it:\nU+001B[31mbrew install it")


async def test_a_program_that_cannot_be_started_says_why(opened: Open, tmp_path: Path) -> None:
    """Missing, without its interpreter, not executable, a directory: one cause each."""
    orphan, closed = tmp_path / "orphan", tmp_path / "closed"
    orphan.write_text("#!/no/such/shell\n")
    orphan.chmod(0o755)
    closed.write_text("#!/bin/sh\n")
    closed.chmod(0o644)
    cases = {
        tmp_path / "missing": "no such file or directory; it is not there, or the interpreter",
        orphan: "no such file or directory; it is not there, or the interpreter",
        closed: "permission denied; make it executable",
        tmp_path: "permission denied",
    }
    for path, cause in cases.items():
        text = await failure(opened(path, install_hint="HINT"))
        assert f"getting credentials: exec: fork/exec {path}: {cause}" in text
        assert text.endswith("\n\nHINT")


async def test_what_no_environment_can_hold_is_an_error(opened: Open, plugin: Plugin) -> None:
    """A NUL in a value ends in a message, not in an exception of Python's."""
    assert "hold a NUL character" in await failure(opened(plugin.path, env=(("A", "b\0c"),)))
    assert "argument list too long" in await failure(opened(plugin.path, args=("x" * (1 << 22),)))


async def test_the_cluster_is_passed_on_when_asked_for(opened: Open, plugin: Plugin, tmp_path: Path) -> None:
    """provideClusterInfo: an authority in a file is passed as data."""
    (tmp_path / "ca").write_bytes(AUTHORITY.pem)
    cluster = Cluster(
        name="c",
        server="https://h:1",
        certificate_authority=tmp_path / "ca",
        exec_config={"audience": "a"},
    )
    await opened(plugin.path, cluster=cluster, provide_cluster_info=True).get()
    told = json.loads(plugin.info)["spec"]["cluster"]
    assert sorted(told) == ["certificate-authority-data", "config", "server"]
    assert told["config"] == {"audience": "a"}
    (tmp_path / "ca").unlink()
    text = await failure(opened(plugin.path, cluster=cluster, provide_cluster_info=True))
    assert f"failed to load CA bundle for execProvider: {tmp_path / 'ca'}: No such file" in text
    await opened(plugin.path, cluster=cluster).get()
    assert "cluster" not in json.loads(plugin.info)["spec"]


@pytest.mark.parametrize(
    ("policy", "allowlist", "may_run"),
    [("DenyAll", (), False), ("Allowlist", ("other",), False), ("Allowlist", ("{path}",), True)],
)
async def test_the_policy_is_obeyed(
    opened: Open, plugin: Plugin, policy: str, allowlist: tuple[str, ...], may_run: bool
) -> None:
    """What it refuses is not started."""
    entries = tuple(entry.format(path=plugin.path) for entry in allowlist)
    source = opened(plugin.path, plugin_policy=PluginPolicy(policy=policy, allowlist=entries))
    if may_run:
        assert (await source.get()).authorization == "Bearer pt"
    else:
        assert refusal(policy, plugin) in await failure(source)
        assert plugin.runs == 0


def refusal(policy: str, plugin: Plugin) -> str:
    if policy == "DenyAll":
        return f'getting credentials: plugin "{plugin.path}" not allowed: policy set to "DenyAll"'
    return f'plugin path "{plugin.path}" is not permitted by the credential plugin allowlist'


# -- standard input, output and error --


@pytest.mark.parametrize("mode", ["Never", "IfAvailable"])
async def test_without_a_terminal_the_plugin_reads_nothing(opened: Open, plugin: Plugin, mode: str) -> None:
    """Its standard input is /dev/null then, and it is told so."""
    plugin.does(f'readlink /proc/self/fd/0 > "{plugin.directory}/stdin"')
    await opened(plugin.path, interactive_mode=mode).get()
    assert (plugin.directory / "stdin").read_text().strip() == "/dev/null"
    assert json.loads(plugin.info)["spec"] == {"interactive": False}


async def test_a_plugin_that_must_ask_needs_a_terminal(opened: Open, plugin: Plugin) -> None:
    """The message says how to give it one; nothing is started."""
    text = await failure(opened(plugin.path, interactive_mode="Always"))
    assert (
        "getting credentials: exec plugin cannot support interactive mode: standard input is not a terminal; "
        "start kproxy in the foreground of one"
    ) in text
    assert plugin.runs == 0


_ON_TERMINAL = """
import asyncio, sys
from kproxy.credentials import open_source
from kproxy.errors import ExecPluginError
from kproxy.kube.kubeconfig import Cluster, ExecConfig, ResolvedContext, User
async def main():
    config = ExecConfig(command=sys.argv[1], api_version=sys.argv[2], interactive_mode=sys.argv[3])
    source = open_source(ResolvedContext(
        name="x", cluster=Cluster(name="c", server="https://h"), user=User(name="u", exec=config)))
    try:
        print((await source.get()).authorization)
    except ExecPluginError as error:
        print(error)
    await source.close()
asyncio.run(main())
"""


def on_terminal(plugin: Plugin, mode: str, typed: bytes, *, in_background: bool = False) -> str:
    """What a kproxy with that plugin prints whose standard input is a terminal of its own."""
    controller, terminal = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if in_background:
            # Our group stays behind while another one has the terminal, as after `kproxy &`.
            child = os.fork()
            if child:
                os.setpgid(child, child)
                os.tcsetpgrp(0, os.getpgrp())
                _, status = os.waitpid(child, 0)
                os._exit(os.waitstatus_to_exitcode(status))
            os.setpgid(0, 0)

    try:
        os.write(controller, typed)
        ran = subprocess.run(
            [sys.executable, "-c", _ON_TERMINAL, str(plugin.path), V1, mode],
            stdin=terminal,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=take_terminal,
            timeout=30,
            check=True,
        )
        return ran.stdout.decode().splitlines()[-1]
    finally:
        os.close(terminal)
        os.close(controller)


@pytest.mark.parametrize("mode", ["IfAvailable", "Always"])
def test_with_a_terminal_the_plugin_can_ask(plugin: Plugin, mode: str) -> None:
    """It reads what is typed, from our standard input, and is told that it may."""
    plugin.does(
        f'read -r typed; printf \'{{"apiVersion":"{V1}","kind":"ExecCredential","status":'
        '{"token":"%s"}}\' "$typed"; exit'
    )
    assert on_terminal(plugin, mode, b"hello\n") == "Bearer hello"
    assert json.loads(plugin.info)["spec"] == {"interactive": True}


@pytest.mark.parametrize("mode", ["IfAvailable", "Never"])
def test_on_a_terminal_the_plugin_is_seen_as_it_is(plugin: Plugin, mode: str) -> None:
    """With its colours and at once. One that can ask has the terminal itself, as with kubectl."""
    plugin.does("printf '\\033[1mCode:\\033[0m ABC' >&2; [ -t 2 ] && echo ' on a terminal' >&2; exit 3")
    command = [sys.executable, "-c", _ON_TERMINAL, str(plugin.path), V1, mode]
    with contextlib.closing(Terminal(command, env=os.environ)) as terminal:
        terminal.until(rb"\x1b\[1mCode:\x1b\[0m ABC")
        if mode == "IfAvailable":
            terminal.until(rb" on a terminal\r\n")
            terminal.until(rb"exit code 3; .*; what it says is on kproxy's terminal\r\n")
        else:
            terminal.until(rb"exit code 3; .*; it says:\r\nCode: ABC\r\n")


def test_in_the_background_the_terminal_is_left_alone(plugin: Plugin) -> None:
    """Reading it there would stop kproxy itself, so `kproxy &` counts as without a terminal."""
    assert on_terminal(plugin, "IfAvailable", b"", in_background=True) == "Bearer pt"
    assert json.loads(plugin.info)["spec"] == {"interactive": False}
    assert "standard input is not a terminal" in on_terminal(plugin, "Always", b"", in_background=True)


async def test_standard_error_is_ours(
    opened: Open, plugin: Plugin, capfd: pytest.CaptureFixture[str]
) -> None:
    """Login links must be seen while the plugin waits for the login."""
    hold = Hold(plugin.directory / "login")
    plugin.does(f"echo 'open https://login in a browser' >&2; read -r _ < '{plugin.directory}/login'")
    source = opened(plugin.path)
    asking = asyncio.create_task(source.get())
    await hold.reached()
    shown = ""

    def is_shown() -> bool:
        nonlocal shown
        shown += capfd.readouterr().err
        return "open https://login in a browser\n" in shown

    await eventually(is_shown)
    assert source.renewal().last_words == "open https://login in a browser"
    hold.release()
    await asking


async def test_a_failure_tells_what_the_plugin_says(opened: Open, plugin: Plugin) -> None:
    """In plain text, behind the exit code; what it printed on stdout is not shown."""
    secret = plant("output")
    plugin.does(
        f"echo {secret}; printf '\\033[31mError:\\033[0m your session has ended\\r\\n\\n"
        "Run: acme login --profile dev\\n' >&2; exit 255"
    )
    text = await failure(opened(plugin.path, args=(secret,)))
    assert f"getting credentials: exec: executable {plugin.path} failed with exit code 255; " in text
    assert text.endswith("it says:\nError: your session has ended\nRun: acme login --profile dev")
    assert secret not in text


async def test_a_failure_without_a_word_is_told(opened: Open, plugin: Plugin) -> None:
    """So that nobody looks for one."""
    plugin.does("exit 7")
    assert (await failure(opened(plugin.path))).endswith("it says nothing on stderr")


@pytest.mark.parametrize("behaviour", ["exit 1", "echo '{}'; exit", "sleep 1000"])
async def test_every_failure_tells_what_the_plugin_says(opened: Open, plugin: Plugin, behaviour: str) -> None:
    """One that gives nothing usable, or hangs, has mostly said why."""
    plugin.does(f"echo 'enter ABC-123 at https://login' >&2; {behaviour}")
    text = await failure(opened(plugin.path, exec_timeout_seconds=0.5 if "sleep" in behaviour else 60))
    assert text.endswith("it says:\nenter ABC-123 at https://login")


async def test_where_there_is_more_is_told(opened: Open, plugin: Plugin) -> None:
    """Ten lines stand in the message, and the place of all of them."""
    plugin.does("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i >&2; done; exit 1")
    text = await failure(opened(plugin.path))
    assert "line 2\n" not in text
    assert text.endswith("line 12\n(there is more in kproxy's stderr)")


async def test_secrets_that_the_plugin_repeats_are_not_told(opened: Open, plugin: Plugin) -> None:
    """What looks like one, and the values of variables whose names say so."""
    first, second, third = plant("env"), plant("bearer"), plant("field")
    plugin.does(f'echo "$CLIENT_SECRET - Bearer {second} - token={third}" >&2; exit 1')
    text = await failure(opened(plugin.path, env=(("CLIENT_SECRET", first),)))
    assert text.endswith("it says:\n[hidden] - Bearer [hidden] - token=[hidden]")


async def test_a_flood_of_complaints_neither_blocks_nor_grows(
    opened: Open, plugin: Plugin, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plugin that writes 3 MB can end, and the log has some KB of them; one without an end is stopped."""
    plugin.does("yes 'no good' | head -c 3000000 >&2; echo the end >&2; exit 1")
    text = await failure(opened(plugin.path))
    assert "no good\nthe end\n(there is more in" in text
    assert len(capfd.readouterr().err) < 80_000
    plugin.does("yes >&2")
    assert "did not end within 0.5 s" in await failure(opened(plugin.path, exec_timeout_seconds=0.5))


async def test_an_end_by_a_signal_is_told(opened: Open, plugin: Plugin) -> None:
    """Out-of-memory killers and people with kill(1) leave a trace."""
    plugin.does("kill -9 $$")
    assert "was ended by signal 9 (SIGKILL)" in await failure(opened(plugin.path))


async def test_a_flood_of_output_is_an_error(opened: Open, plugin: Plugin) -> None:
    """Memory stays bounded, and the plugin is not left hanging at a full pipe."""
    plugin.does("head -c 3000000 /dev/zero")
    assert "printed more than 1 MiB" in await failure(opened(plugin.path))


async def test_an_unusable_answer_names_context_user_and_command(opened: Open, plugin: Plugin) -> None:
    """The text of each kind of answer is tested with the parser; here it gets its place."""
    plugin.says("{}")
    text = await failure(opened(plugin.path))
    assert text.startswith(f'{WHERE} "{plugin.path}": getting credentials: exec plugin is configured to use')


async def test_a_token_that_no_header_can_hold_is_refused(opened: Open, plugin: Plugin) -> None:
    """It would end the request's head and start another one."""
    secret = plant("token")
    plugin.issues(token=f"{secret}\r\nX-Evil: 1")
    text = await failure(opened(plugin.path))
    assert 'no valid header field value for "Authorization"' in text
    assert secret not in text


# -- certificates and expiry --


async def test_a_certificate_of_the_plugin_is_used(opened: Open, plugin: Plugin) -> None:
    """Alone or beside a token; without a timestamp it ends with its own validity."""
    certificate, key = AUTHORITY.issue("alice", client=True)
    pair = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    plugin.issues(pair)
    credential = await opened(plugin.path).get()
    assert credential.authorization is None
    assert credential.certificate is not None
    assert (credential.certificate.certificate_pem, credential.certificate.key_pem) == (certificate, key)
    assert credential.expires_at == pytest.approx(time.time() + 10 * 86400, abs=60)
    plugin.issues(pair, token="pt")
    credential = await opened(plugin.path).get()
    assert credential.authorization == "Bearer pt"
    assert credential.certificate is not None


async def test_a_certificate_that_cannot_be_used_is_refused(opened: Open, plugin: Plugin) -> None:
    """Junk, a foreign key, a key with a password: told at once, and nothing prompts."""
    certificate, key = (part.decode() for part in AUTHORITY.issue("alice", client=True))
    foreign = AUTHORITY.issue("bob", client=True)[1].decode()
    locked = (
        serialization.load_pem_private_key(key.encode(), None)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pw"),
        )
        .decode()
    )
    cases = [("a", "b"), (certificate, "b"), (certificate, foreign), (certificate, locked)]
    for certificate_data, key_data in cases:
        plugin.issues(clientCertificateData=certificate_data, clientKeyData=key_data)
        text = await failure(opened(plugin.path))
        assert "getting credentials: failed parsing client key/certificate: " in text
        assert "BEGIN" not in text


async def test_the_end_of_the_credential_is_known(opened: Open, plugin: Plugin) -> None:
    """The timestamp, else the token's own `exp` if it is a JWT."""
    ends = float(int(time.time()) + 500)
    plugin.issues(token="opaque", expirationTimestamp=timestamp(ends))
    assert (await opened(plugin.path).get()).expires_at == ends
    plugin.issues(token=jwt(exp=ends + 7))
    assert (await opened(plugin.path).get()).expires_at == ends + 7
    plugin.issues(token=jwt(exp=ends + 7), expirationTimestamp=timestamp(ends))
    assert (await opened(plugin.path).get()).expires_at == ends


async def test_an_expired_credential_is_replaced_before_use(opened: Open, plugin: Plugin) -> None:
    """The plugin runs again after the end, and not before it is near."""
    clock = Clock()
    source = opened(plugin.path, clock=clock, monotonic=clock)
    plugin.issues(token="t1", expirationTimestamp=timestamp(clock() + 3600))
    await source.get()
    clock.pass_seconds(3000)
    assert (await source.get()).authorization == "Bearer t1"
    plugin.issues(token="t2", expirationTimestamp=timestamp(clock() + 3600))
    clock.pass_seconds(700)
    assert source.current() is None
    assert (await source.get()).authorization == "Bearer t2"
    assert plugin.runs == 2


# -- one at a time, and ended in time --


async def test_all_requests_share_one_run(opened: Open, plugin: Plugin) -> None:
    """Fifty at once start one process, and a cancelled one leaves it running for the others."""
    hold = plugin.hold()
    source = opened(plugin.path)
    waiting = [asyncio.create_task(source.get()) for _ in range(50)]
    await hold.reached()
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    hold.release()
    credentials = await asyncio.gather(*waiting[1:])
    assert len(set(map(id, credentials))) == 1
    assert plugin.runs == 1


async def test_fifty_401_answers_start_the_plugin_once(opened: Open, plugin: Plugin) -> None:
    """The first invalidates, all wait for the same run, and late ones do no harm."""
    source = opened(plugin.path)
    old = await source.get()
    plugin.issues(token="pt2")

    async def refused() -> str | None:
        source.invalidate(old)
        return (await source.get()).authorization

    assert set(await asyncio.gather(*(refused() for _ in range(50)))) == {"Bearer pt2"}
    assert plugin.runs == 2


async def test_a_broken_plugin_is_started_once_a_second(opened: Open, plugin: Plugin) -> None:
    """All who come within the second get the same error."""
    clock = Clock()
    plugin.does("exit 1")
    source = opened(plugin.path, clock=clock, monotonic=clock)
    for _ in range(20):
        await failure(source)
    assert plugin.runs == 1
    clock.pass_seconds(1)
    await failure(source)
    assert plugin.runs == 2


async def test_a_plugin_that_hangs_is_ended(opened: Open, plugin: Plugin) -> None:
    """With its children, by SIGTERM, and with a message that names --exec-timeout."""
    plugin.does(f'sleep 1000 & echo $! > "{plugin.directory}/child"; wait')
    source = opened(plugin.path, exec_timeout_seconds=0.3)
    text = await failure(source)
    assert (
        f"getting credentials: exec: executable {plugin.path} did not end within 0.3 s and was stopped"
        in text
    )
    assert "--exec-timeout" in text
    child = int((plugin.directory / "child").read_text())
    await eventually(lambda: not is_alive(child) and not is_alive(plugin.process_ids[0]))


async def test_a_plugin_that_ignores_sigterm_is_killed(
    opened: Open, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a grace, and its children with it."""
    monkeypatch.setattr(exec_plugin, "GRACE_SECONDS", 0.2)
    plugin.does(
        f"trap '' TERM; (trap '' TERM; exec sleep 1000) & echo $! > \"{plugin.directory}/child\"\n"
        "wait; sleep 1000"
    )
    await failure(opened(plugin.path, exec_timeout_seconds=0.3))
    child = int((plugin.directory / "child").read_text())
    await eventually(lambda: not is_alive(child) and not is_alive(plugin.process_ids[0]))


async def test_a_daemon_left_behind_does_not_hold_us_up(
    opened: Open, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents started by a plugin inherit its output and never close it; they are left alone."""
    monkeypatch.setattr(exec_plugin, "DRAIN_SECONDS", 0.1)
    plugin.does(f'sleep 1000 & echo $! > "{plugin.directory}/child"')
    before = pipes()
    assert (await opened(plugin.path, exec_timeout_seconds=20).get()).authorization == "Bearer pt"
    child = int((plugin.directory / "child").read_text())
    assert is_alive(child)
    await eventually(lambda: pipes() <= before)
    os.kill(child, signal.SIGKILL)


async def test_closing_ends_a_running_plugin(opened: Open, plugin: Plugin) -> None:
    """No process outlives the source that started it."""
    hold = plugin.hold()
    source = opened(plugin.path)
    waiting = asyncio.create_task(source.get())
    await hold.reached()
    await source.close()
    with contextlib.suppress(BrokenPipeError):
        hold.release()
    assert (await asyncio.gather(waiting, return_exceptions=True))[0].__class__.__name__ == "CredentialError"
    await eventually(lambda: not is_alive(plugin.process_ids[0]))


# -- runs that are shared --


class Sharing:
    """Sources of several contexts, for the same plugin and in one environment."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.clock = Clock()
        self.environ = dict(os.environ)
        self.sources: list[CredentialSource] = []

    def open(self, name: str, cluster: Cluster | None = None, **fields: Any) -> CredentialSource:
        config = ExecConfig(
            command=str(self.plugin.path), api_version=V1, **{"interactive_mode": "Never", **fields}
        )
        context = replace(context_of(config, cluster), name=name)
        source = open_source(context, environ=self.environ, clock=self.clock, monotonic=self.clock)
        self.sources.append(source)
        return source


@pytest.fixture
async def sharing(plugin: Plugin) -> AsyncIterator[Sharing]:
    sharing = Sharing(plugin)
    yield sharing
    for source in sharing.sources:
        await source.close()


async def test_contexts_with_the_same_plugin_share_a_run(sharing: Sharing, plugin: Plugin) -> None:
    """Those who come at once, and who comes later; one login in a browser is for all of them."""
    sources = [sharing.open(name) for name in "abc"]
    tokens = {(await source.get()).authorization for source in sources}
    tokens |= {each.authorization for each in await asyncio.gather(*(s.get() for s in sources))}
    assert (tokens, plugin.runs) == ({"Bearer pt"}, 1)
    plugin.issues(token="next")
    fresh = [sharing.open(name, env=(("A", "b"),)) for name in "abc"]
    tokens = {each.authorization for each in await asyncio.gather(*(s.get() for s in fresh))}
    assert (tokens, plugin.runs) == ({"Bearer next"}, 2)


async def test_what_a_plugin_is_told_decides_who_shares(sharing: Sharing, plugin: Plugin) -> None:
    """Another argument, or another cluster if it is told of that; what the cluster is called does not."""
    one, other = (Cluster(name=name, server=f"https://{name}.test") for name in ("one", "other"))
    for cluster, fields, runs in (
        (one, {}, 1),
        (other, {}, 1),
        (one, {"args": ("x",)}, 2),
        (one, {"provide_cluster_info": True}, 3),
        (replace(one, name="alias"), {"provide_cluster_info": True}, 3),
        (other, {"provide_cluster_info": True}, 4),
        (replace(other, exec_config={"a": [1]}), {"provide_cluster_info": True}, 5),
    ):
        await sharing.open("x", cluster, **fields).get()
        assert plugin.runs == runs


async def test_a_401_is_one_contexts_own(sharing: Sharing, plugin: Plugin) -> None:
    """Whom the API server refuses gets a new credential; the others keep theirs until it is refused, too."""
    a, b, c = (sharing.open(name) for name in "abc")
    old = [await source.get() for source in (a, b, c)]
    plugin.issues(token="next")
    a.invalidate(old[0])
    assert (await a.get()).authorization == "Bearer next"
    assert b.current() is old[1]
    b.invalidate(old[1])
    c.invalidate(old[2])
    fresh = await asyncio.gather(b.get(), c.get())
    assert [each.authorization for each in fresh] == ["Bearer next"] * 2
    assert plugin.runs == 2


async def test_a_certificate_that_is_refused_is_not_handed_out_again(
    sharing: Sharing, plugin: Plugin
) -> None:
    """Although there is no token that tells the old one from the new one."""
    source = sharing.open("a")
    for runs in (1, 2):
        certificate, key = AUTHORITY.issue("alice", client=True)
        plugin.issues(clientCertificateData=certificate.decode(), clientKeyData=key.decode())
        credential = await source.get()
        assert credential.certificate is not None
        assert (credential.certificate.certificate_pem, plugin.runs) == (certificate, runs)
        source.invalidate(credential)


async def test_a_run_from_before_the_refusal_does_not_answer_it(sharing: Sharing, plugin: Plugin) -> None:
    """It may give just what the API server has refused since: another one does then."""
    a, b = sharing.open("a"), sharing.open("b")
    refused = await a.get()
    sharing.clock.pass_seconds(1)
    hold = plugin.hold()
    b.invalidate(await b.get())
    asking = asyncio.create_task(b.get())
    await hold.reached()
    a.invalidate(refused)
    also = asyncio.create_task(a.get())
    hold.release()
    assert (await asking).authorization == (await also).authorization == "Bearer pt"
    assert plugin.runs == 3


async def test_each_context_is_told_by_its_own_name(sharing: Sharing, plugin: Plugin) -> None:
    """The run that failed was one for both."""
    plugin.does("exit 7")
    hold = plugin.hold()
    asking = [asyncio.create_task(sharing.open(name).get()) for name in "ab"]
    await hold.reached()
    hold.release()
    errors = await asyncio.gather(*asking, return_exceptions=True)
    for name, error in zip("ab", errors, strict=True):
        assert isinstance(error, ExecPluginError)
        assert str(error).startswith(f'context "{name}": ')
        assert "exit code 7" in str(error)
    assert plugin.runs == 1


async def test_a_run_ends_with_the_last_who_wants_it(sharing: Sharing, plugin: Plugin) -> None:
    """A context that is closed does not end it for the others."""
    a, b = sharing.open("a"), sharing.open("b")
    hold = plugin.hold()
    asking = [asyncio.create_task(source.get()) for source in (a, b)]
    await hold.reached()
    await a.close()
    (process_id,) = plugin.process_ids
    assert is_alive(process_id)
    await b.close()
    await eventually(lambda: not is_alive(process_id))
    with contextlib.suppress(BrokenPipeError):
        hold.release()
    errors = await asyncio.gather(*asking, return_exceptions=True)
    assert ["credentials are closed" in str(error) for error in errors] == [True, True]


async def test_a_credential_is_forgotten_with_its_last_context(sharing: Sharing, plugin: Plugin) -> None:
    """A context that nobody used for a while asks anew; one that takes over from another does not."""
    a = sharing.open("a")
    await a.get()
    again = sharing.open("a")
    await a.close()
    await again.get()
    assert plugin.runs == 1
    await again.close()
    await sharing.open("a").get()
    assert plugin.runs == 2


async def test_no_file_descriptor_is_left_open(opened: Open, plugin: Plugin) -> None:
    """Neither by runs that go well nor by those that don't."""

    async def one_of_each() -> None:
        plugin.does("")
        await opened(plugin.path).get()
        plugin.does("exit 3")
        await failure(opened(plugin.path))
        plugin.does("sleep 1000")
        await failure(opened(plugin.path, exec_timeout_seconds=0.05))
        await failure(opened("/no/such/program"))

    await one_of_each()
    before = pipes()
    for _ in range(5):
        await one_of_each()
    await eventually(lambda: pipes() <= before)

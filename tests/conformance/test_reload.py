"""A changed kubeconfig takes effect within two seconds: all of it or nothing, and no stream is cut for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.conftest import Pki
from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, exec_user, replace_file, seen_by
from tests.support.exec_plugin import Plugin
from tests.support.notice import RELOAD_FAILED, RELOADED, hung_up, noticed
from tests.support.patience import until
from tests.support.program import Program
from tests.support.secrets import plant
from tests.support.volume import Volume


@pytest.fixture
def config(tmp_path: Path, a: ApiServer, b: ApiServer) -> Kubeconfig:
    """Contexts for both clusters; the current one is a."""
    return Kubeconfig.of(tmp_path / "config", a, b)


# -- what is noticed --


def edit(config: Kubeconfig) -> None:
    config.path.write_text(config.text())


def rename(config: Kubeconfig) -> None:
    config.write()


@pytest.mark.parametrize("change", [edit, rename])
async def test_a_change_is_noticed(config: Kubeconfig, change: Callable[[Kubeconfig], None]) -> None:
    """Written in place or renamed over: new requests go to the new context."""
    async with Program(kubeconfig=config.path) as program:
        assert (await seen_by(program))["server"] == "a"
        config.current = "b"
        line = await noticed(program, lambda: change(config))
        assert (await seen_by(program))["server"] == "b"
        assert (line["context"], line["server"], line["credential"]) == (
            "b",
            config.clusters["b"]["server"],
            "token",
        )


async def test_a_mounted_file_is_followed(config: Kubeconfig) -> None:
    """The kubelet turns a link to a directory, and touches nothing else."""
    volume = Volume(config.path.parent / "mounted", {"config": config.text().encode()})
    async with Program(kubeconfig=volume.path / "config") as program:
        config.current = "b"
        await noticed(program, lambda: volume.project({"config": config.text().encode()}))
        assert (await seen_by(program))["server"] == "b"


async def test_a_file_of_the_list_appears_and_vanishes(config: Kubeconfig, b: ApiServer) -> None:
    """The first of the list wins while it is there."""
    first = Kubeconfig(config.path.with_name("first"))
    first.add(b, token=plant("token"))
    async with Program(env={"KUBECONFIG": f"{first.path}:{config.path}"}) as program:
        assert (await seen_by(program))["server"] == "a"
        await noticed(program, first.write)
        assert (await seen_by(program))["server"] == "b"
        await noticed(program, first.path.unlink)
        assert (await seen_by(program))["server"] == "a"


async def test_a_change_during_the_start_is_noticed(config: Kubeconfig) -> None:
    """Between the reading of the file and the first look at it nothing is missed."""
    async with Program(kubeconfig=config.path) as program:
        # "Starting to serve" comes before the watch begins.
        config.current = "b"
        await noticed(program, config.write)
        assert (await seen_by(program))["server"] == "b"


async def test_sighup_reloads_at_once(config: Kubeconfig) -> None:
    """More often than the files are looked at, and from the first line of output on."""
    async with Program(kubeconfig=config.path) as program:
        took = []
        for number in range(6):
            config.current = "ba"[number % 2]
            began_at = time.monotonic()
            assert (await hung_up(program, config.write))["context"] == config.current
            took.append(time.monotonic() - began_at)
        # Looking at files takes a quarter of a second at least and comes once a second.
        assert min(took) < 0.25
        assert (await seen_by(program))["server"] == "a"


async def test_no_reload_turns_it_off(config: Kubeconfig) -> None:
    """By the time that another program has noticed a change, and applied it, this one goes on as before."""
    async with Program(kubeconfig=config.path) as other, Program("--no-reload", kubeconfig=config.path) as it:
        config.current = "b"
        await noticed(other, config.write)
        config.current = "a"
        config.users["a"]["token"] = plant("other-token")
        await noticed(other, config.write)
        old, new = await seen_by(it), await seen_by(other)
        assert old["server"] == "a"
        assert old["authorization"] != new["authorization"]
        assert not it.log_events(RELOADED)


# -- broken files --


def syntax(config: Kubeconfig) -> tuple[str, list[str]]:
    return "current-context: b\nusers: [\n", ["line 3"]


def no_such_context(config: Kubeconfig) -> tuple[str, list[str]]:
    config.current = "zz"
    return config.text(), ["current-context", '"zz"', '"a"', '"b"']


def no_authority_file(config: Kubeconfig) -> tuple[str, list[str]]:
    config.clusters["a"] = {"server": config.clusters["a"]["server"], "certificate-authority": "gone.pem"}
    return config.text(), ['cluster "a"', "certificate-authority", "gone.pem"]


def bad_data(config: Kubeconfig) -> tuple[str, list[str]]:
    config.users["a"] = {"client-certificate-data": "a b", "client-key-data": "aGk="}
    return config.text(), ["client-certificate-data", "base64"]


def junk_certificate(config: Kubeconfig) -> tuple[str, list[str]]:
    config.users["a"] = {"client-certificate-data": "aGk=", "client-key-data": "aGk="}
    return config.text(), ['user "a"', "client-certificate-data"]


def wrong_type(config: Kubeconfig) -> tuple[str, list[str]]:
    config.users["a"]["token"] = 5
    return config.text(), ["token", "string"]


def duplicate(config: Kubeconfig) -> tuple[str, list[str]]:
    text = config.text()
    return text.replace('"name": "b"', '"name": "a"'), ['"a"', "users"]


def token_with_newline(config: Kubeconfig) -> tuple[str, list[str]]:
    config.users["a"]["token"] += "\n"
    return config.text(), ['user "a"', "token", "line break"]


@pytest.mark.parametrize(
    "breaks",
    [
        syntax,
        no_such_context,
        no_authority_file,
        bad_data,
        junk_certificate,
        wrong_type,
        duplicate,
        token_with_newline,
    ],
)
async def test_a_broken_file_keeps_the_old_state(
    config: Kubeconfig, a: ApiServer, breaks: Callable[[Kubeconfig], tuple[str, list[str]]]
) -> None:
    """It is said once, by file and field, without a secret; the next good file applies."""
    good = config.text()
    text, names = breaks(config)
    async with Program(kubeconfig=config.path) as program:
        token = (await seen_by(program))["authorization"]
        line = await hung_up(program, lambda: config.write(text), RELOAD_FAILED)
        said = "; ".join(line["problems"])
        assert str(config.path) in said
        for name in names:
            assert name in said
        assert (line["level"], line["context"]) == ("error", "a")
        for _ in range(3):
            config.write(text)
            program.send_signal(signal.SIGHUP)
            seen = await seen_by(program)
            assert (seen["server"], seen["authorization"]) == ("a", token)
        good = good.replace('"current-context": "a"', '"current-context": "b"')
        await hung_up(program, lambda: config.write(good))
        assert (await seen_by(program))["server"] == "b"
        assert len(program.log_events(RELOAD_FAILED)) == 1
        assert len(a.connections) == 1


async def test_another_mistake_is_said_again(config: Kubeconfig) -> None:
    """Also the same one after a good state in between."""
    async with Program(kubeconfig=config.path) as program:
        for current in ("yy", "zz", "a", "zz"):
            config.current = current
            line = await hung_up(program, config.write, RELOADED if current == "a" else RELOAD_FAILED)
            assert current == "a" or f'"{current}"' in line["problems"][0]


async def test_a_vanished_file_keeps_the_old_state(config: Kubeconfig) -> None:
    """Also when the clock of the watch finds it gone; editors take a file away for a moment."""
    async with Program(kubeconfig=config.path) as program:
        line = await noticed(program, config.path.unlink, RELOAD_FAILED)
        assert str(config.path) in line["problems"][0]
        assert (await seen_by(program))["server"] == "a"
        await noticed(program, config.write)


@pytest.mark.parametrize("first", [None, b"half of an authority"], ids=["missing", "half-written"])
async def test_a_named_file_may_be_whole_later(
    config: Kubeconfig, b: ApiServer, pki: Pki, first: bytes | None
) -> None:
    """The kubeconfig is changed before the authority that it names; nothing touches it again."""
    path = config.path.with_name("ca.pem")
    if first is not None:
        path.write_bytes(first)
    async with Program(kubeconfig=config.path) as program:
        config.add(b, {"certificate-authority": str(path)}, token=plant("token-b"))
        config.current = "b"
        await hung_up(program, config.write, RELOAD_FAILED)
        assert (await seen_by(program))["server"] == "a"
        await noticed(program, lambda: replace_file(path, pki.ca.pem))
        assert (await seen_by(program))["server"] == "b"
        assert len(program.log_events(RELOAD_FAILED)) == 1


async def test_of_a_list_the_broken_file_is_named(config: Kubeconfig) -> None:
    """All or nothing: the good file of the list does not apply alone."""
    other = config.path.with_name("other")
    other.write_text("")
    async with Program(env={"KUBECONFIG": f"{other}:{config.path}"}) as program:
        config.current = "b"
        config.write()
        line = await hung_up(program, lambda: replace_file(other, b"kind: Pod\n"), RELOAD_FAILED)
        assert str(other) in line["problems"][0]
        assert (await seen_by(program))["server"] == "a"
        await hung_up(program, lambda: replace_file(other, b""))
        assert (await seen_by(program))["server"] == "b"


# -- what stays --


async def test_equal_values_keep_connections_streams_and_credentials(
    config: Kubeconfig, a: ApiServer, tmp_path: Path
) -> None:
    """Other spelling, other entries, other order; the plugin is not asked again and nothing is dialled."""
    plugin = Plugin(tmp_path / "plugin")
    plugin.issues(token=plant("plugin-token"))
    config.users["a"] = {"exec": exec_user(plugin)}
    config.write()
    async with (
        Program(kubeconfig=config.path) as program,
        Stream(program) as watch,
        Stream(program, "/api/tunnel", upgrade="websocket") as tunnel,
    ):
        await watch.first_event()
        await seen_by(program)
        connections = len(a.connections)
        for text in (config.text(indent=None), config.text(indent=4) + "\n# a comment\n"):
            # A broken file in between: that it is mended is told, equal values are not.
            await hung_up(program, lambda: config.write("["), RELOAD_FAILED)
            await hung_up(program, lambda text=text: config.write(text))
        await hung_up(program, lambda: config.write("["), RELOAD_FAILED)
        config.users = dict(reversed(config.users.items()))
        config.users["b"]["token"] = plant("new-token-of-b")
        config.clusters["c"] = {"server": "https://127.0.0.1:1"}
        await hung_up(program, config.write)
        await seen_by(program)
        await a.tick("still here")
        await watch.expects("still here")
        await tunnel.echoes(b"and here")
        assert len(a.connections) == connections
        assert plugin.runs == 1


async def test_equal_values_say_nothing(config: Kubeconfig) -> None:
    """Who only touches the file, or saves it again, is not told of a reload."""
    async with Program(kubeconfig=config.path) as program:
        config.write()
        program.send_signal(signal.SIGHUP)
        config.path.touch()
        program.send_signal(signal.SIGHUP)
        await seen_by(program)
        # What comes after them has come: they have been dealt with.
        config.current = "b"
        await hung_up(program, config.write)
        assert [line["context"] for line in program.log_events(RELOADED)] == ["b"]


async def test_a_switched_context_moves_new_requests_only(config: Kubeconfig, a: ApiServer) -> None:
    """Watches, tunnels and answers under way stay until they end; then nothing of the old context is left."""
    async with Program(kubeconfig=config.path) as program:
        await program.output("server.started")
        idle = program.descriptors()
        async with Stream(program) as watch, Stream(program, "/api/tunnel", upgrade="SPDY/3.1") as tunnel:
            await watch.first_event()
            a.gate = gate = asyncio.Event()
            before = len(a.requests)
            slow = asyncio.create_task(seen_by(program, "/api/slow"))
            await a.wait_for_requests(before + 1)
            config.current = "b"
            await hung_up(program, config.write)
            for _ in range(3):
                assert (await seen_by(program))["server"] == "b"
            gate.set()
            assert (await slow)["server"] == "a"
            await a.tick("from a")
            await watch.expects("from a")
            await tunnel.echoes(b"through a" * 1000)
            async with Stream(program) as new:
                assert (await new.first_event())["server"] == "b"
        await until(lambda: all(each.ended.is_set() for each in a.connections), "a is left alone")
        await until(lambda: program.descriptors() <= idle, "descriptors are given back")


async def test_a_new_token_in_the_kubeconfig_is_used(config: Kubeconfig, a: ApiServer) -> None:
    """As written by `kubectl config set-credentials` or a login tool; running watches stay."""
    async with Program(kubeconfig=config.path) as program, Stream(program) as watch:
        await watch.first_event()
        config.users["a"]["token"] = token = plant("renewed")
        await hung_up(program, config.write)
        assert (await seen_by(program))["authorization"] == f"Bearer {token}"
        await a.tick("going on")
        await watch.expects("going on")


async def test_switching_to_and_fro_loses_no_request(config: Kubeconfig, a: ApiServer, b: ApiServer) -> None:
    """Under load every request is answered, by one of the two, with the token of that one."""
    tokens = {name: f"Bearer {user['token']}" for name, user in config.users.items()}
    async with Program(kubeconfig=config.path) as program:
        stop = asyncio.Event()

        async def load() -> int:
            number = 0
            while not stop.is_set():
                seen = await seen_by(program)
                assert seen["authorization"] == tokens[seen["server"]]
                number += 1
            return number

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for number in range(20):
            config.current = "ba"[number % 2]
            await hung_up(program, config.write)
        stop.set()
        assert min(await asyncio.gather(*loads)) > 1
        assert a.requests
        assert b.requests


async def test_a_request_that_waits_for_its_credential_is_not_lost(
    config: Kubeconfig, a: ApiServer, tmp_path: Path
) -> None:
    """It began before the switch, so it ends where it began."""
    plugin = Plugin(tmp_path / "plugin")
    plugin.issues(token=plant("plugin-token"))
    config.users["a"] = {"exec": exec_user(plugin)}
    config.write()
    async with Program(kubeconfig=config.path) as program:
        hold = plugin.hold()
        waiting = asyncio.create_task(seen_by(program))
        await hold.reached()
        config.current = "b"
        await hung_up(program, config.write)
        assert (await seen_by(program))["server"] == "b"
        hold.release()
        assert (await waiting)["server"] == "a"


async def test_a_context_that_cannot_be_reached_is_applied(config: Kubeconfig) -> None:
    """Reading is checked, reaching is not: a VPN may come later. The error names the new context."""
    async with Program(kubeconfig=config.path) as program:
        config.clusters["b"]["server"] = "https://127.0.0.1:1"
        config.current = "b"
        await hung_up(program, config.write)
        response = await ask(program)
        assert response.status == 502
        assert 'context "b"' in response.json()["message"]


async def test_a_file_that_cannot_be_read_to_its_end_holds_up_nothing(config: Kubeconfig) -> None:
    """A FIFO without a writer, or a network home that hangs: requests go on, and the program ends."""
    text = config.text().encode()
    config.path.unlink()
    os.mkfifo(config.path)
    writing = asyncio.create_task(asyncio.to_thread(config.path.write_bytes, text))
    async with Program(kubeconfig=config.path) as program:
        await writing
        program.send_signal(signal.SIGHUP)
        for _ in range(5):
            assert (await seen_by(program))["server"] == "a"
        assert await program.stopped() == 0

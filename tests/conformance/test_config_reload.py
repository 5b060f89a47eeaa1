"""A changed config file takes effect while kproxy runs: all of it or nothing, and no stream is cut for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy.config.schema import LIVE, OPTIONS
from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, exec_user, replace_file, seen_by
from tests.support.client import RawClient
from tests.support.exec_plugin import Plugin
from tests.support.notice import NOTICED_SECONDS, hung_up, noticed
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import Program
from tests.support.secrets import plant
from tests.support.volume import Volume

RELOADED = "config.reloaded"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def kubeconfig(tmp_path: Path, a: ApiServer, b: ApiServer) -> Kubeconfig:
    """Contexts for both clusters; the current one is a."""
    return Kubeconfig.of(tmp_path / "kubeconfig", a, b)


class ConfigFile:
    """A config file on a free port, which is rewritten by `set`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {"port": 0}

    def set(self, **settings: Any) -> None:
        """Add these settings, or with None take them out, and replace the file as careful writers do."""
        self.settings.update(settings)
        self.settings = {key: value for key, value in self.settings.items() if value is not None}
        replace_file(self.path, yaml.safe_dump(self.settings).encode())


@pytest.fixture
def config(tmp_path: Path, kubeconfig: Kubeconfig) -> ConfigFile:
    config = ConfigFile(tmp_path / "config.yaml")
    config.set()
    return config


@pytest.fixture
async def program(config: ConfigFile, kubeconfig: Kubeconfig) -> AsyncIterator[Program]:
    program = Program(f"--config={config.path}", kubeconfig=kubeconfig.path)
    async with program:
        await program.output("server.started")
        yield program


def keys(program: Program, event: str = RELOADED) -> list[list[str]]:
    return [line["keys"] for line in program.log_events(event)]


async def reloaded(program: Program, change: Callable[[], object], event: str = RELOADED) -> dict[str, Any]:
    """Make a change; what the log says of it."""
    return await hung_up(program, change, event)


async def status(program: Program, target: str = PODS, method: str = "GET", **headers: str) -> int:
    return (await ask(program, target, method, **headers)).status


# -- what is noticed --


async def test_a_config_map_that_is_mounted_is_followed(tmp_path: Path, kubeconfig: Kubeconfig) -> None:
    """The kubelet turns a link to a directory; the path that kproxy was told stays the same."""
    volume = Volume(tmp_path / "mounted", {"config.yaml": b"port: 0\nreject_methods: ['^PUT$']\n"})
    new = {"config.yaml": b"port: 0\nreject_methods: ['^GET$']\n"}
    async with Program(f"--config={volume.path / 'config.yaml'}", kubeconfig=kubeconfig.path) as program:
        assert await status(program) == 200
        assert (await noticed(program, lambda: volume.project(new), RELOADED))["keys"] == ["reject_methods"]
        assert await status(program) == 403


async def test_a_file_that_appears_is_taken_up(kubeconfig: Kubeconfig, tmp_path: Path) -> None:
    """The user's own config file may come later; before it there are the defaults."""
    folder = tmp_path / "home" / "kproxy"
    folder.mkdir(parents=True)
    async with Program(kubeconfig=kubeconfig.path, env={"XDG_CONFIG_HOME": str(folder.parent)}) as program:
        assert await status(program) == 200
        text = "reject_methods: [GET]\n"
        line = await noticed(program, lambda: (folder / "config.yaml").write_text(text), RELOADED)
        assert line["keys"] == ["reject_methods"]
        assert await status(program) == 403


async def test_a_change_during_the_start_is_noticed(config: ConfigFile, kubeconfig: Kubeconfig) -> None:
    """Between the reading of the file and the first look at it nothing is missed."""
    async with Program(f"--config={config.path}", kubeconfig=kubeconfig.path) as program:
        await noticed(program, lambda: config.set(reject_methods=["^GET$"]), RELOADED)
        assert await status(program) == 403


async def test_without_reload_nothing_is_read_again(config: ConfigFile, kubeconfig: Kubeconfig) -> None:
    """--no-reload is for the config file, too: it is not even looked at."""
    async with Program(f"--config={config.path}", "--no-reload", kubeconfig=kubeconfig.path) as program:
        config.set(reject_methods=["^GET$"])
        before = os.stat(config.path).st_atime_ns
        await asyncio.sleep(NOTICED_SECONDS)  # nothing can be waited for: nothing happens
        assert await status(program) == 200
        assert os.stat(config.path).st_atime_ns == before
        assert keys(program) == []


# -- the filters --


async def test_a_connection_that_was_open_before_is_judged_by_the_new_filters(
    program: Program, config: ConfigFile
) -> None:
    """What was let through, and remembered, is refused from then on; and the other way round."""
    client = await RawClient.connect(program.address)
    for _ in range(3):
        assert (await client.request("GET", PODS)).status == 200
    assert (await client.request("DELETE", PODS)).status == 200
    await reloaded(program, lambda: config.set(reject_paths=["/pods"]))
    refused = await client.request("GET", PODS)
    assert refused.status == 403
    assert "--reject-paths '/pods'" in refused.json()["message"]
    assert (await client.request("GET", "/api/v1/nodes")).status == 200
    await reloaded(program, lambda: config.set(reject_paths=["/nodes"], reject_methods=["^DELETE$"]))
    assert (await client.request("GET", "/api/v1/nodes")).status == 403
    assert (await client.request("GET", PODS)).status == 200
    assert (await client.request("DELETE", PODS)).status == 403
    await reloaded(program, lambda: config.set(disable_filter=True))
    assert (await client.request("DELETE", "/api/v1/nodes")).status == 200
    assert keys(program) == [["reject_paths"], ["reject_paths", "reject_methods"], ["disable_filter"]]
    client.reset()


async def test_hosts_that_were_accepted_before_are_judged_anew(program: Program, config: ConfigFile) -> None:
    """A Host that the program had accepted is refused; one that it had refused comes in."""
    client = await RawClient.connect(program.address)
    assert (await client.request("GET", PODS, host="localhost")).status == 200
    assert (await client.request("GET", PODS, host="dev.example")).status == 403
    await reloaded(program, lambda: config.set(accept_hosts=[r"^dev\.example$"]))
    assert (await client.request("GET", PODS, host="localhost")).status == 403
    assert (await client.request("GET", PODS, host="dev.example")).status == 200
    client.reset()


async def test_pages_are_let_in_and_out(program: Program, config: ConfigFile) -> None:
    """accept_origins counts for the next request of a page that is open already."""
    origin = {"Origin": "https://dash.example"}
    assert await status(program, **origin) == 403
    await reloaded(program, lambda: config.set(accept_origins=[r"^https://dash\.example$"]))
    assert (await ask(program, PODS, **origin)).value("access-control-allow-origin") == origin["Origin"]
    await reloaded(program, lambda: config.set(accept_origins=None))
    assert await status(program, **origin) == 403


async def test_streams_go_on_that_would_not_be_let_in_any_more(
    program: Program, config: ConfigFile, a: ApiServer
) -> None:
    """A change is for requests that begin after it: a watch and a tunnel keep running."""
    tunnel = Stream(program, f"{PODS}/web/portforward", upgrade="websocket")
    async with Stream(program, f"{PODS}?watch=1") as watch, tunnel:
        await watch.first_event()
        await tunnel.echoes(b"before")
        await reloaded(program, lambda: config.set(reject_paths=["/pods"]))
        assert await status(program, f"{PODS}?watch=1") == 403
        await a.tick("going on")
        await watch.expects("going on")
        await tunnel.echoes(b"after")


async def test_no_request_meets_half_of_a_change(program: Program, config: ConfigFile) -> None:
    """Each of two states refuses a path, by another setting; it never comes through in between."""
    states = (
        {"reject_paths": ["/pods"], "accept_paths": ["^.*"]},
        {"reject_paths": ["/x"], "accept_paths": ["/nodes"]},
    )
    await reloaded(program, lambda: config.set(**states[0]))
    seen = set()
    is_over = asyncio.Event()

    async def ask_on(target: str) -> None:
        client = await RawClient.connect(program.address)
        while not is_over.is_set():
            seen.add((target, (await client.request("GET", target)).status))
        client.reset()

    running = [asyncio.create_task(ask_on(target)) for target in (PODS, "/api/v1/nodes")]
    for number in range(1, 6):
        await reloaded(program, lambda number=number: config.set(**states[number % 2]))
    is_over.set()
    await asyncio.gather(*running)
    assert seen == {(PODS, 403), ("/api/v1/nodes", 200)}


# -- contexts and credentials --


async def test_another_context_can_be_chosen(program: Program, config: ConfigFile, a: ApiServer) -> None:
    """New requests go to it; a watch of the old one goes on."""
    async with Stream(program) as watch:
        await watch.first_event()
        assert (await reloaded(program, lambda: config.set(context="b")))["keys"] == ["context"]
        seen = await seen_by(program)
        assert seen["server"] == "b"
        await a.tick("going on")
        await watch.expects("going on")
    assert program.log_events("kubeconfig.reloaded")[-1]["context"] == "b"


async def test_contexts_can_be_added_and_taken_away(program: Program, config: ConfigFile) -> None:
    """From one context to several and back."""
    target = "/clusters/b/api"
    assert (await seen_by(program, "/api"))["server"] == "a"
    await reloaded(program, lambda: config.set(contexts=["a", "b"]))
    assert (await seen_by(program, target))["server"] == "b"
    await reloaded(program, lambda: config.set(contexts=None, all_contexts=True))
    assert (await seen_by(program, target))["server"] == "b"
    await reloaded(program, lambda: config.set(all_contexts=None))
    assert (await seen_by(program, target))["server"] == "a"


async def test_a_token_of_the_config_file_is_replaced(program: Program, config: ConfigFile) -> None:
    """And is in no line of the log."""
    first, second = plant("first"), plant("second")
    await reloaded(program, lambda: config.set(token=first))
    assert (await seen_by(program))["authorization"] == f"Bearer {first}"
    await reloaded(program, lambda: config.set(token=second))
    assert (await seen_by(program))["authorization"] == f"Bearer {second}"


async def test_how_credentials_are_had_can_be_changed(
    tmp_path: Path, program: Program, config: ConfigFile, kubeconfig: Kubeconfig, a: ApiServer
) -> None:
    """A folder for exec plugins is found from then on, and a kuberc that forbids them is heeded."""
    plugin = Plugin(tmp_path / "bin")
    plugin.issues(token=plant("from-the-plugin"))
    kubeconfig.add(a, exec=exec_user(plugin, command=plugin.path.name))
    await noticed(program, kubeconfig.write)
    assert await status(program) == 502
    await reloaded(program, lambda: config.set(exec_path=str(plugin.path.parent)))
    assert await status(program) == 200
    kuberc = tmp_path / "kuberc"
    kuberc.write_text("apiVersion: kubectl.config.k8s.io/v1beta1\nkind: Preference\n")
    await reloaded(program, lambda: config.set(kuberc=str(kuberc)))
    assert await status(program) == 200
    text = kuberc.read_text() + "credentialPluginPolicy: DenyAll\n"
    await reloaded(program, lambda: replace_file(kuberc, text.encode()), "kubeconfig.reloaded")
    assert await status(program) == 502


async def test_other_contexts_that_are_open_change_as_well(
    tmp_path: Path, program: Program, config: ConfigFile, kubeconfig: Kubeconfig, b: ApiServer
) -> None:
    """They are opened anew by their next request; a stream of theirs goes on."""
    plugin = Plugin(tmp_path / "bin")
    plugin.issues(token=plant("from-the-plugin"))
    await reloaded(program, lambda: config.set(contexts=["a", "b"]))
    target = "/clusters/b/api/v1/pods"
    async with Stream(program, f"{target}?watch=1") as watch:
        await watch.first_event()
        kubeconfig.add(b, exec=exec_user(plugin, command=plugin.path.name))
        await reloaded(program, kubeconfig.write, "kubeconfig.reloaded")
        assert await status(program, target) == 502
        await reloaded(program, lambda: config.set(exec_path=str(plugin.path.parent), context_idle="1h"))
        assert keys(program)[-1] == ["context_idle", "exec_path"]
        assert await status(program, target) == 200
        await b.tick("going on")
        await watch.expects("going on")


async def test_new_connections_cost_no_login(
    program: Program, config: ConfigFile, kubeconfig: Kubeconfig
) -> None:
    """An exec plugin is not run again because its context is opened in another way."""
    plugin = Plugin(kubeconfig.path.parent / "plugin")
    plugin.issues(token=plant("of-the-plugin"))
    kubeconfig.users["a"] = {"exec": exec_user(plugin)}
    await hung_up(program, kubeconfig.write)
    await seen_by(program)
    await reloaded(program, lambda: config.set(keepalive="20s"))
    await seen_by(program)
    assert plugin.runs == 1


# -- the rest --


async def test_the_log_can_be_turned_up_and_down(program: Program, config: ConfigFile) -> None:
    """v and log_format: from JSON with requests to text, and to warnings alone."""
    await status(program, "/api/first")
    await program.event("request.finished")
    config.set(log_format="console")
    await program.output(r"config\.reloaded +keys=\['log_format'\]")
    await status(program, "/api/second")
    await program.output(r"request\.finished.*path=/api/second")
    config.set(log_format="json", v=-1, reject_paths=["("])
    await program.output(r"config\.reload_failed")
    config.set(reject_paths=["/x"])
    await until_status(program, 403, "/x")
    await status(program, "/api/third")
    assert await program.stopped() == 0
    assert "/api/third" not in program.stderr


async def until_status(program: Program, wanted: int, target: str) -> None:
    """For changes that no line tells of."""
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        while await status(program, target) != wanted:
            await asyncio.sleep(0.02)


async def test_the_grace_period_is_the_one_of_the_end(
    program: Program, config: ConfigFile, a: ApiServer
) -> None:
    """Not the one of the start."""
    a.gate = asyncio.Event()
    await reloaded(program, lambda: config.set(grace_period="1h"))
    await reloaded(program, lambda: config.set(grace_period="0.05s"))
    asking = asyncio.create_task(ask(program))
    await a.wait_for_requests(1)
    assert await program.stopped() == 0
    (line,) = program.log_events("server.draining")
    assert line["grace_period_seconds"] == 0.05
    a.gate.set()
    with pytest.raises((OSError, EOFError, AssertionError)):
        await asking


async def test_flags_and_variables_win_over_the_changed_file(
    config: ConfigFile, kubeconfig: Kubeconfig
) -> None:
    """As they did at the start."""
    program = Program(
        f"--config={config.path}",
        "--reject-paths=/nodes",
        kubeconfig=kubeconfig.path,
        env={"KPROXY_REJECT_METHODS": "^PATCH$"},
    )
    async with program:
        line = await reloaded(
            program,
            lambda: config.set(
                reject_paths=["/pods"], reject_methods=["^GET$"], accept_paths=["/pods", "/nodes"]
            ),
        )
        assert line["keys"] == ["accept_paths"]
        assert [await status(program, target) for target in (PODS, "/api/v1/nodes", "/api")] == [
            200,
            403,
            403,
        ]
        assert await status(program, PODS, "PATCH") == 403


async def test_what_needs_a_restart_is_named_once(program: Program, config: ConfigFile) -> None:
    """The rest of the change is in force; a value that is put back is told of no more."""
    line = await reloaded(
        program,
        lambda: config.set(www_prefix="/pages/", api_prefix="/k/", reject_methods=["^PUT$"]),
        "config.restart_needed",
    )
    assert line["keys"] == ["api_prefix", "www_prefix"]
    assert keys(program) == [["reject_methods"]]
    assert (await status(program, PODS), await status(program, PODS, "PUT")) == (200, 403)
    await reloaded(program, lambda: config.set(reject_methods=["^POST$"]))
    await reloaded(program, lambda: config.set(reject_methods=["^GET$"], api_prefix=None, www_prefix=None))
    assert keys(program, "config.restart_needed") == [["api_prefix", "www_prefix"]]
    await reloaded(program, lambda: config.set(api_prefix="/k/"), "config.restart_needed")
    assert keys(program, "config.restart_needed")[1] == ["api_prefix"]


async def test_a_comment_changes_nothing(program: Program, config: ConfigFile) -> None:
    """And nothing is said of it."""
    config.path.write_text(config.path.read_text() + "# nothing new\n")
    await reloaded(program, lambda: config.set(reject_methods=["^PUT$"]))
    assert keys(program) == [["reject_methods"]]


def test_each_part_that_is_live_has_its_test() -> None:
    """A part that is added to LIVE needs one here."""
    assert set(LIVE) == {"filters", "contexts", "connections", "log", "end"}
    assert {option.live for option in OPTIONS} == {*LIVE, ""}


# -- what cannot be used --


BROKEN = {
    "no-yaml": ("port: [1", "not YAML"),
    "unknown-key": ("port: 0\nreject_path: [/pods]\n", "did you mean reject_paths? (config.yaml line 2)"),
    "wrong-type": ("port: 0\nreject_paths: 5\n", "reject_paths: expected regular expressions"),
    "no-expression": ("port: 0\nreject_paths: ['(']\n", "is not a regular expression"),
    "no-context": ("port: 0\ncontext: nowhere\nreject_paths: [/pods]\n", "nowhere"),
    "no-contexts": ("port: 0\ncontexts: [a, nowhere]\nreject_paths: [/pods]\n", "nowhere"),
    "no-exec-plugin-policy": ("port: 0\nkuberc: nowhere\nreject_paths: [/pods]\n", "nowhere"),
}


@pytest.mark.parametrize(("text", "complaint"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_changes_nothing(
    program: Program, config: ConfigFile, text: str, complaint: str
) -> None:
    """Not even the part of it that could be used; its problems are told once, however often it is read."""
    await reloaded(program, lambda: config.set(reject_paths=["/nodes"]))
    line = await reloaded(program, lambda: replace_file(config.path, text.encode()), "config.reload_failed")
    assert any(complaint in problem for problem in line["problems"])
    assert (await status(program), await status(program, "/api/v1/nodes")) == (200, 403)
    config.path.touch()
    program.send_signal(signal.SIGHUP)
    await reloaded(program, lambda: config.set(reject_methods=["^PUT$"]))
    assert len(program.log_events("config.reload_failed")) == 1
    assert await status(program, PODS, "PUT") == 403


async def test_all_problems_are_told(program: Program, config: ConfigFile) -> None:
    """In one line, each with its place."""
    text = b"port: x\nreject_paths: ['(']\nvv: 1\n"
    line = await reloaded(program, lambda: replace_file(config.path, text), "config.reload_failed")
    assert [problem.partition(":")[0] for problem in line["problems"]] == ["port", "reject_paths", "vv"]
    assert all(f"(config.yaml line {number})" in line["problems"][number - 1] for number in (1, 2, 3))


async def test_a_file_that_is_gone_changes_nothing(program: Program, config: ConfigFile) -> None:
    """What protected until then goes on; when it is back, it counts."""
    await reloaded(program, lambda: config.set(reject_paths=["/pods"]))
    await reloaded(program, config.path.unlink, "config.reload_failed")
    assert await status(program) == 403
    await reloaded(program, lambda: config.set(reject_paths=["/nodes"]))
    assert await status(program) == 200


async def test_the_users_own_file_may_not_vanish_either(kubeconfig: Kubeconfig, tmp_path: Path) -> None:
    """Without it a start would have the defaults; a running kproxy keeps what it had."""
    path = tmp_path / "home" / "kproxy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("reject_paths: [/pods]\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    async with Program(kubeconfig=kubeconfig.path, env=env) as program:
        line = await reloaded(program, path.unlink, "config.reload_failed")
        assert "is gone" in line["problems"][0]
        assert await status(program) == 403


async def test_a_file_that_is_put_back_is_told_of(program: Program, config: ConfigFile) -> None:
    """Whoever saw that it was broken wants to know that it is not any more."""
    text = config.path.read_bytes()
    await reloaded(program, lambda: replace_file(config.path, b"port: x"), "config.reload_failed")
    line = await reloaded(program, lambda: replace_file(config.path, text))
    assert line["keys"] == []


async def test_a_broken_config_file_holds_up_no_kubeconfig(
    program: Program, config: ConfigFile, kubeconfig: Kubeconfig
) -> None:
    """Credentials are renewed in it, whatever is wrong elsewhere."""
    await reloaded(program, lambda: replace_file(config.path, b"port: x"), "config.reload_failed")
    kubeconfig.current = "b"
    await reloaded(program, kubeconfig.write, "kubeconfig.reloaded")
    assert (await seen_by(program))["server"] == "b"


async def test_a_broken_kubeconfig_holds_up_no_filter(
    program: Program, config: ConfigFile, kubeconfig: Kubeconfig
) -> None:
    """But what must be chosen from it waits, and with it all of that change."""
    await reloaded(program, lambda: kubeconfig.write("{"), "kubeconfig.reload_failed")
    await reloaded(program, lambda: config.set(reject_paths=["/nodes"]))
    assert await status(program, "/api/v1/nodes") == 403
    await reloaded(program, lambda: config.set(context="b", reject_paths=["/pods"]), "config.reload_failed")
    assert (await seen_by(program, PODS))["server"] == "a"
    line = await reloaded(program, kubeconfig.write)
    assert line["keys"] == ["reject_paths", "context"]
    assert (await seen_by(program))["server"] == "b"
    assert await status(program) == 403


async def test_a_kubeconfig_may_come_after_the_setting_that_names_it(
    config: ConfigFile, kubeconfig: Kubeconfig
) -> None:
    """It is looked for, though nobody touches the config file again."""
    config.set(kubeconfig=str(kubeconfig.path))
    other = Kubeconfig(kubeconfig.path.with_name("other"))
    other.clusters, other.users, other.current = kubeconfig.clusters, kubeconfig.users, "b"
    async with Program(f"--config={config.path}") as program:
        await reloaded(program, lambda: config.set(kubeconfig=str(other.path)), "config.reload_failed")
        assert (await seen_by(program))["server"] == "a"
        line = await noticed(program, other.write, "config.reloaded")
        assert line["keys"] == ["kubeconfig"]
        assert (await seen_by(program))["server"] == "b"


async def test_a_change_for_the_worse_is_questioned(program: Program, config: ConfigFile) -> None:
    """As at the start, and once."""
    line = await reloaded(program, lambda: config.set(reject_paths=[]), "config.questioned")
    assert "--reject-paths='' refuses nothing" in line["detail"]
    await reloaded(program, lambda: config.set(reject_methods=["^PUT$"]))
    assert len(program.log_events("config.questioned")) == 1
    line = await reloaded(program, lambda: config.path.chmod(0o666), "config.questioned")
    assert "chmod o-w" in line["detail"]

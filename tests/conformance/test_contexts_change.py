"""Contexts come, go, break and fall idle while others are served, and the others notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Pki
from tests.support.api_server import ApiServer, Kubeconfig, Stream, ask, exec_user, replace_file
from tests.support.client import RawClient, Response
from tests.support.exec_plugin import Plugin
from tests.support.notice import RELOAD_FAILED, hung_up, noticed
from tests.support.patience import until
from tests.support.pki import CA
from tests.support.program import Program, ended
from tests.support.secrets import plant


@pytest.fixture
def config(tmp_path: Path, a: ApiServer, b: ApiServer, c: ApiServer) -> Kubeconfig:
    """Contexts for three clusters; the current one is a."""
    return Kubeconfig.of(tmp_path / "config", a, b, c)


def count(program: Program, event: str, context: str | None = None) -> int:
    return len([line for line in program.log_events(event) if context in (None, line.get("context"))])


async def at_origin(program: Program, name: str, target: str = "/api") -> Response:
    client = await RawClient.connect(program.address)
    try:
        return await client.request("GET", target, host=f"{name}.localhost")
    finally:
        client.reset()


async def served_by(program: Program, target: str) -> str:
    response = await ask(program, target)
    assert response.status == 200, response.text
    name: str = response.json()["server"]
    return name


def without(config: Kubeconfig, name: str) -> Callable[[], None]:
    """Take a context out; what is returned puts it back, in the file."""
    cluster, user = config.clusters.pop(name), config.users.pop(name)

    def put_back() -> None:
        config.clusters[name], config.users[name] = cluster, user
        config.write()

    return put_back


# -- opened when asked for, closed when nobody asks --


async def test_a_context_is_opened_by_its_first_request(
    config: Kubeconfig, b: ApiServer, c: ApiServer
) -> None:
    """Nothing is dialled and no plugin run before; a refused request opens nothing either."""
    plugin = Plugin(config.path.parent / "plugin")
    plugin.issues(token=plant("of-the-plugin"))
    config.users["b"] = {"exec": exec_user(plugin)}
    config.write()
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        assert await served_by(program, "/api") == "a"
        assert (await ask(program, "/clusters/b/api/v1/namespaces/n/pods/p/exec")).status == 403
        assert (plugin.runs, count(program, "context.opened")) == (0, 0)
        assert await served_by(program, "/clusters/b/api") == "b"
        assert (plugin.runs, count(program, "context.opened", "b")) == (1, 1)
        assert await served_by(program, "/clusters/b/api") == "b"
        assert count(program, "context.opened") == 1
        assert c.connections == []


async def test_an_idle_context_is_closed_and_opened_again(
    config: Kubeconfig, a: ApiServer, b: ApiServer
) -> None:
    """Its connections end; the default context's stay, however idle it is."""
    async with Program("--all-contexts", "--context-idle=300ms", kubeconfig=config.path) as program:
        assert await served_by(program, "/api") == "a"
        for number in (1, 2):
            assert await served_by(program, "/clusters/b/api") == "b"
            await program.event("context.closed", number)
            await until(lambda: all(each.ended.is_set() for each in b.connections), "they end")
        assert count(program, "context.opened", "b") == 2
        assert await served_by(program, "/api") == "a"
        assert len(a.connections) == 1
        assert not count(program, "context.closed", "a")


@pytest.mark.parametrize("use", ["watch", "tunnel", "slow answer"])
async def test_a_context_in_use_is_never_idle(
    config: Kubeconfig, b: ApiServer, c: ApiServer, use: str
) -> None:
    """A quiet watch, a tunnel, an answer that takes its time: each holds its context while another closes."""
    async with (
        Program("--all-contexts", "--context-idle=200ms", kubeconfig=config.path) as program,
        AsyncExitStack() as in_use,
    ):
        slow = None
        if use == "watch":
            await in_use.enter_async_context(Stream(program, "/clusters/b/api/v1/pods?watch=1"))
        elif use == "tunnel":
            await in_use.enter_async_context(Stream(program, "/clusters/b/api", upgrade="websocket"))
        else:
            b.gate = asyncio.Event()
            slow = asyncio.create_task(served_by(program, "/clusters/b/api"))
            await b.wait_for_requests(1)
        for closed in (1, 2):
            await served_by(program, "/clusters/c/api")
            await program.event("context.closed", closed)
        assert count(program, "context.closed", "c") == 2
        if slow is not None and b.gate is not None:
            b.gate.set()
            assert await slow == "b"
        await in_use.aclose()
        await until(lambda: count(program, "context.closed", "b") == 1, "b is closed")


# -- a kubeconfig that changes --


async def test_a_new_context_appears(config: Kubeconfig, pki: Pki) -> None:
    """With --all-contexts it is served from the next look at the file on."""
    async with ApiServer("new", pki.ca) as new, Program("--all-contexts", kubeconfig=config.path) as program:
        assert (await at_origin(program, "new")).status == 404
        config.add(new, token=plant("new"))
        line = await noticed(program, config.write)
        assert line["contexts"] == ["a", "b", "c", "new"]
        assert (await at_origin(program, "new")).json()["server"] == "new"
        assert await served_by(program, "/clusters/new/api") == "new"


async def test_a_listed_context_stays_the_only_other_one(config: Kubeconfig, pki: Pki) -> None:
    """With --contexts nothing appears by itself."""
    async with ApiServer("new", pki.ca) as new, Program("--contexts=a,b", kubeconfig=config.path) as program:
        config.add(new, token=plant("new"))
        config.users["b"]["token"] = plant("another")
        await served_by(program, "/clusters/b/api")
        await hung_up(program, config.write)
        assert (await at_origin(program, "new")).status == 404
        assert (await ask(program, "/clusters/new/api")).status == 404


@pytest.mark.parametrize("flag", ["--all-contexts", "--contexts=a,b"])
async def test_a_context_that_has_gone(config: Kubeconfig, a: ApiServer, b: ApiServer, flag: str) -> None:
    """New requests are 404 and told what is served; its streams go on; it may come back."""
    async with (
        Program(flag, kubeconfig=config.path) as program,
        Stream(program, "/clusters/b/api/v1/pods?watch=1") as watch,
        Stream(program, "/clusters/b/api/tunnel", upgrade="websocket") as tunnel,
    ):
        await watch.first_event()
        await served_by(program, "/api")
        put_back = without(config, "b")
        line = await hung_up(program, config.write)
        assert "b" not in line["contexts"]
        seen = len(b.requests)
        gone = [await at_origin(program, "b"), await ask(program, "/clusters/b/api")]
        assert [each.status for each in gone] == [404, 404]
        assert 'context "b" is not served any more' in gone[0].json()["message"]
        assert all('served are "a"' in each.json()["message"] for each in gone)
        assert len(b.requests) == seen
        await b.tick("going on")
        await watch.expects("going on")
        await tunnel.echoes(b"going on, too")
        await hung_up(program, put_back)
        assert (await at_origin(program, "b")).json()["server"] == "b"
        assert await served_by(program, "/clusters/b/api") == "b"
        assert await served_by(program, "/api") == "a"
        assert len(a.connections) == 1


async def test_the_default_context_that_has_gone_keeps_all_as_it_was(config: Kubeconfig) -> None:
    """As with one context: all of a change or nothing of it."""
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        put_back = without(config, "a")
        line = await hung_up(program, config.write, RELOAD_FAILED)
        assert '"a"' in line["problems"][0]
        assert await served_by(program, "/api") == "a"
        assert await served_by(program, "/clusters/b/api") == "b"
        await hung_up(program, put_back)


async def test_a_changed_context_changes_alone(config: Kubeconfig, a: ApiServer, b: ApiServer) -> None:
    """A new token for one: its next request has it, its watch and everything of the others stay."""
    async with (
        Program("--all-contexts", kubeconfig=config.path) as program,
        Stream(program, "/clusters/b/api/v1/pods?watch=1") as watch,
    ):
        await watch.first_event()
        await served_by(program, "/api")
        await served_by(program, "/clusters/c/api")
        config.users["b"]["token"] = token = plant("renewed")
        await hung_up(program, config.write)
        assert (await ask(program, "/clusters/b/api")).json()["authorization"] == f"Bearer {token}"
        await served_by(program, "/api")
        assert len(a.connections) == 1
        assert count(program, "context.opened", "c") == 1
        await b.tick("still")
        await watch.expects("still")


async def test_the_default_moves_and_origins_stay(config: Kubeconfig, a: ApiServer) -> None:
    """`kubectl config use-context`: `/` means another one, each origin the same as before."""
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        assert await served_by(program, "/api") == "a"
        assert await served_by(program, "/clusters/b/api") == "b"
        config.current = "b"
        line = await hung_up(program, config.write)
        assert (line["context"], line["contexts"]) == ("b", ["b", "a", "c"])
        assert await served_by(program, "/api") == "b"
        for name in "abc":
            assert (await at_origin(program, name)).json()["server"] == name
        assert len(a.connections) == 1


async def test_an_origin_of_one_context_does_not_become_anothers(config: Kubeconfig) -> None:
    """Without --contexts too: a page that is still open must not write to another cluster."""
    async with Program("--disable-filter", kubeconfig=config.path) as program:
        assert (await at_origin(program, "a")).json()["server"] == "a"
        config.current = "b"
        await hung_up(program, config.write)
        gone = await at_origin(program, "a")
        assert gone.status == 404
        assert 'context "a" is not served any more' in gone.json()["message"]
        assert (await at_origin(program, "b")).json()["server"] == "b"


async def test_a_renewed_authority_of_another_context_is_trusted(
    config: Kubeconfig, pki: Pki, b: ApiServer
) -> None:
    """The file of an open context is watched like the default's."""
    path = config.path.with_name("ca.pem")
    path.write_bytes(pki.ca.pem)
    config.add(b, {"certificate-authority": str(path)}, token=plant("b"))
    config.write()
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        assert await served_by(program, "/clusters/b/api") == "b"
        renewed = CA("renewed")
        b.use_certificate_of(renewed)
        b.close_connections()
        assert (await ask(program, "/clusters/b/api")).status == 502
        await noticed(program, lambda: replace_file(path, renewed.pem))
        assert await served_by(program, "/clusters/b/api") == "b"


# -- contexts that do not work --


def unusable(config: Kubeconfig) -> dict[str, str]:
    """Contexts that are broken, each in its way, and what must be said of each."""
    broken: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
        "no-ca-file": ({"certificate-authority": "gone.pem"}, {}, "gone.pem"),
        "bad-ca": ({"certificate-authority-data": "aGVsbG8="}, {}, "certificate-authority-data"),
        "bad-pair": (
            {},
            {"client-certificate-data": "aGk=", "client-key-data": "aGk="},
            "client-certificate-data",
        ),
        "bad-token": ({}, {"token": plant("token") + "\n"}, "line break"),
        "bad-server": ({"server": "api.example:6443"}, {}, "has no scheme"),
        "bad-proxy": ({"proxy-url": "ftp://proxy.example"}, {}, "proxy-url"),
    }
    for name, (cluster, user, _) in broken.items():
        config.clusters[name] = {"server": "https://127.0.0.1:1", **cluster}
        config.users[name] = user
    text = config.text()
    user_is_missing = '{"name": "no-user", "context": {"cluster": "a", "user": "nobody"}},'
    config.path.write_text(text.replace('"contexts": [', f'"contexts": [{user_is_missing}'))
    return {"no-user": "nobody", **{name: told for name, (_, _, told) in broken.items()}}


async def test_broken_contexts_spoil_nothing_but_themselves(config: Kubeconfig) -> None:
    """The start warns of each, once; its requests are 502 with the field to look at; others are served."""
    broken = unusable(config)
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        for _ in range(2):
            for name, told in broken.items():
                response = await ask(program, f"/clusters/{name}/api")
                assert response.status == 502, name
                status = response.json()
                assert (status["kind"], status["reason"]) == ("Status", "BadGateway")
                assert told in status["message"], name
                assert response.value("Proxy-Status") == "kproxy; error=proxy_configuration_error"
            for name in "abc":
                assert await served_by(program, f"/clusters/{name}/api") == name
        await program.event("context.unusable", len(broken))
        lines = {line["context"]: line for line in program.log_events("context.unusable")}
        assert set(lines) == set(broken)
        for name, told in broken.items():
            assert lines[name]["level"] == "warning"
            assert told in "; ".join(lines[name]["problems"])


async def test_the_start_warns_before_anybody_asks(config: Kubeconfig) -> None:
    """Also of what only the opening of a context finds out."""
    broken = unusable(config)
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        await program.event("context.unusable", len(broken))
        assert not count(program, "context.opened")
        assert await program.stopped() == 0


async def test_a_context_is_mended_without_a_restart(config: Kubeconfig, pki: Pki) -> None:
    """A file that is there now is found by the next request, though the kubeconfig has not changed."""
    path = config.path.with_name("ca.pem")
    config.clusters["b"] = {**config.clusters["b"], "certificate-authority": str(path)}
    del config.clusters["b"]["certificate-authority-data"]
    config.write()
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        assert (await ask(program, "/clusters/b/api")).status == 502
        path.write_bytes(pki.ca.pem)
        deadline = time.monotonic() + 5
        while (response := await ask(program, "/clusters/b/api")).status == 502:
            assert time.monotonic() < deadline, response.text
        assert response.json()["server"] == "b"


async def test_new_settings_that_do_not_work_leave_the_old_ones(config: Kubeconfig, a: ApiServer) -> None:
    """Of an open context; what else has changed in the file applies."""
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        old = (await ask(program, "/clusters/b/api")).json()["authorization"]
        good = config.users["b"]
        config.users["b"] = {"client-certificate-data": "aGk=", "client-key-data": "aGk="}
        config.users["a"]["token"] = token = plant("renewed-a")
        await hung_up(program, config.write)
        assert (await program.event("context.unusable"))["context"] == "b"
        assert (await ask(program, "/api")).json()["authorization"] == f"Bearer {token}"
        assert (await ask(program, "/clusters/b/api")).json()["authorization"] == old
        config.users["b"] = {**good, "token": (mended := plant("mended-b"))}
        await hung_up(program, config.write)
        assert (await ask(program, "/clusters/b/api")).json()["authorization"] == f"Bearer {mended}"


async def test_what_new_settings_name_may_come_later(config: Kubeconfig, b: ApiServer, pki: Pki) -> None:
    """An open context goes on as it was until the file is there, and not for longer."""
    path = config.path.with_name("ca.pem")
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        assert await served_by(program, "/clusters/b/api") == "b"
        config.add(b, {"certificate-authority": str(path)}, token=(token := plant("later")))
        await noticed(program, config.write, "context.unusable")
        await noticed(program, lambda: path.write_bytes(pki.ca.pem))
        assert (await ask(program, "/clusters/b/api")).json()["authorization"] == f"Bearer {token}"


async def test_a_context_that_is_gone_fails_no_more(config: Kubeconfig) -> None:
    """An alarm on kproxy_upstream_failing ends with it: nobody can ask its API server again."""
    config.clusters["dead"] = {"server": "https://127.0.0.1:1"}
    config.users["dead"] = {"token": plant("dead")}
    config.write()
    failing = 'kproxy_upstream_failing{context="dead"} '
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        assert (await ask(program, "/clusters/dead/api")).status == 502
        assert failing + "1.0" in (await ask(program, "/-/metrics")).text
        without(config, "dead")
        await hung_up(program, config.write)
        assert failing + "0.0" in (await ask(program, "/-/metrics")).text


async def test_a_mended_context_is_not_told_of_as_broken(config: Kubeconfig) -> None:
    """Before anybody has asked for it again."""

    async def state() -> tuple[str, Any]:
        (found,) = [
            each for each in (await ask(program, "/-/status")).json()["contexts"] if each["name"] == "b"
        ]
        return found["state"], found["last_error"]

    good = config.users["b"]
    config.users["b"] = {"client-certificate-data": "aGk=", "client-key-data": "aGk="}
    config.write()
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        await program.event("context.unusable")
        assert (await state())[0] == "unusable"
        config.users["b"] = good
        config.users["a"]["token"] = plant("renewed-a")
        await hung_up(program, config.write)
        assert await state() == ("not opened", None)


async def test_contexts_that_fail_at_run_time_disturb_nobody(config: Kubeconfig, c: ApiServer) -> None:
    """A dead server, a login that has ended, an API server that says nothing: each is its own affair."""
    plugin = Plugin(config.path.parent / "plugin")
    plugin.does("echo 'please log in' >&2; exit 1")
    config.users["b"] = {"exec": exec_user(plugin)}
    config.clusters["dead"] = {"server": "https://127.0.0.1:1"}
    config.users["dead"] = {"token": plant("dead")}
    config.write()
    c.gate = asyncio.Event()
    async with Program("--all-contexts", kubeconfig=config.path) as program:
        silent = asyncio.create_task(served_by(program, "/clusters/c/api"))
        await c.wait_for_requests(1)
        for _ in range(3):
            for name in ("b", "dead"):
                response = await ask(program, f"/clusters/{name}/api")
                assert response.status == 502
                assert f'"{name}"' in response.json()["message"]
            assert await served_by(program, "/api") == "a"
        c.gate.set()
        assert await silent == "c"


# -- the start --


def test_a_broken_default_context_fails_the_start(tmp_path: Path) -> None:
    """--all-contexts forgives the others, not the one at `/`."""
    config = Kubeconfig(tmp_path / "config")
    for name in ("good", "broken"):
        config.clusters[name] = {"server": "https://127.0.0.1:1"}
        config.users[name] = {"token": plant(name)}
    config.clusters["broken"]["certificate-authority-data"] = "aGVsbG8="
    config.current = "broken"
    config.write()
    program = ended("--all-contexts", f"--kubeconfig={config.path}", code=2)
    assert "certificate-authority-data" in program.stderr
    config.current = "good"
    config.write()
    program = ended("--contexts=good,missing,lost", f"--kubeconfig={config.path}", code=2)
    assert '"missing"' in program.stderr
    assert '"lost"' in program.stderr


def test_check_tells_of_every_context(tmp_path: Path) -> None:
    """Which there are, with what credential, and what is wrong with those that do not work; exit code 0."""
    config = Kubeconfig(tmp_path / "config")
    for name in ("good", "Other one", "broken"):
        config.clusters[name] = {"server": f"https://{name[0].lower()}.test"}
        config.users[name] = {"token": plant(name)}
    config.clusters["broken"]["certificate-authority-data"] = "aGVsbG8="
    config.current = "good"
    config.write()
    program = ended("check", "--all-contexts", f"--kubeconfig={config.path}")
    assert '# context "good": https://g.test, credential: token' in program.stdout
    assert '# context "Other one" at other-one.localhost: https://o.test, credential: token' in program.stdout
    assert '# context "broken" at broken.localhost: cannot be used' in program.stdout
    assert "# warning:" in program.stdout
    assert "certificate-authority-data" in program.stdout


async def test_a_request_means_what_it_means_now(config: Kubeconfig, a: ApiServer) -> None:
    """The same bytes on the same connection, before and after /clusters/ came to mean contexts."""
    settings = config.path.with_name("kproxy.yaml")
    settings.write_text("port: 0\n")
    async with Program(f"--config={settings}", kubeconfig=config.path) as program:
        client = await RawClient.connect(program.address)
        for text in ("all_contexts: true", "all_contexts: false"):
            assert (await client.request("GET", "/clusters/a/api")).json()["server"] == "a"
            content = f"port: 0\n{text}\n".encode()
            await hung_up(program, lambda content=content: replace_file(settings, content), "config.reloaded")
        assert (await client.request("GET", "/clusters/a/api")).json()["server"] == "a"
        client.reset()
        assert [each.target for each in a.requests] == ["/clusters/a/api", "/api", "/clusters/a/api"]


async def test_a_path_of_one_context_does_not_become_anothers(tmp_path: Path, pki: Pki) -> None:
    """/clusters/prod/ meant "Prod", by its slug: a "prod" that comes later is somewhere else."""
    async with ApiServer("Prod", pki.ca) as old, ApiServer("prod", pki.ca) as new:
        config = Kubeconfig.of(tmp_path / "config", old)
        async with Program("--all-contexts", kubeconfig=config.path) as program:
            assert await served_by(program, "/clusters/prod/api") == "Prod"
            assert (await at_origin(program, "prod")).json()["server"] == "Prod"
            config.add(new, token=plant("new"))
            await hung_up(program, config.write)
            assert (await ask(program, "/clusters/prod/api")).status == 404
            assert (await at_origin(program, "prod")).status == 404
            assert await served_by(program, "/clusters/Prod/api") == "Prod"
            slugs = {
                each["name"]: each["slug"] for each in (await ask(program, "/-/contexts")).json()["contexts"]
            }
            for name, slug in slugs.items():
                assert slug.startswith("prod-")
                assert await served_by(program, f"/clusters/{slug}/api") == name
                assert (await at_origin(program, slug)).json()["server"] == name
        async with Program("--all-contexts", kubeconfig=config.path) as program:
            assert await served_by(program, "/clusters/prod/api") == "prod"

"""Six demo clusters behind one kproxy, and a browser with two of them open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.browser import Page, PageError
from tests.e2e.clusters import QUICK_DEMO, config_map
from tests.support.client import RawClient, Response, request_bytes
from tests.support.patience import until
from tests.support.program import DemoProgram, Program

NAMES = tuple(f"c{number}" for number in range(6))
DEAD = "c5"
MARKS = "/api/v1/namespaces/default/configmaps"
REQUESTS = 60
"""Of each worker, in each half of the load."""


def merged(demos: dict[str, DemoProgram], path: Path) -> Path:
    """One kubeconfig with a context, cluster and user of its name for each demo cluster."""
    document: dict[str, Any] = {
        "apiVersion": "v1", "kind": "Config", "current-context": next(iter(demos)),
        "clusters": [], "users": [], "contexts": [],
    }  # fmt: skip
    for name, demo in demos.items():
        own = yaml.safe_load(demo.kubeconfig.read_text())
        document["clusters"].append({"name": name, "cluster": own["clusters"][0]["cluster"]})
        document["users"].append({"name": name, "user": own["users"][0]["user"]})
        document["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))
    return path


@contextlib.contextmanager
def running(names: tuple[str, ...]) -> Iterator[dict[str, DemoProgram]]:
    """Demo clusters with certificates of their own; each has a ConfigMap of its name."""
    with contextlib.ExitStack() as owned:
        yield {name: owned.enter_context(DemoProgram(*QUICK_DEMO)) for name in names}


class Load:
    """Workers that read one context, and check that it is that one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sent: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {name: [] for name in NAMES}

    def forget_times(self) -> None:
        self.seconds = {name: [] for name in NAMES}

    async def mark(self, name: str) -> None:
        """Make the ConfigMap by which a cluster is known."""
        client = await RawClient.connect(self.program.address)
        body = json.dumps(config_map(f"mark-{name}", is_of=name)).encode()
        target = f"/clusters/{name}{MARKS}"
        answer = await client.request("POST", target, [("Content-Type", "application/json")], body)
        client.reset()
        assert answer.status == 201, answer.text
        self.sent[name] += 1

    async def read(self, name: str, count: int, *, by_origin: bool) -> None:
        """Lists of one context over one connection: only its own mark is there."""
        host, prefix = (f"{name}.localhost", "") if by_origin else ("localhost", f"/clusters/{name}")
        client = await RawClient.connect(self.program.address)
        for _ in range(count):
            began_at = time.monotonic()
            answer = await client.request("GET", f"{prefix}{MARKS}?limit=50", host=host)
            self.seconds[name].append(time.monotonic() - began_at)
            self.sent[name] += 1
            assert answer.status == 200, answer.text
            marks = [each["metadata"]["name"] for each in answer.json()["items"]]
            assert [each for each in marks if each.startswith("mark-")] == [f"mark-{name}"]
        client.reset()

    async def read_dead(self, count: int) -> None:
        """Requests for the cluster that was killed: each is told so, by the name of its context."""
        client = await RawClient.connect(self.program.address)
        for _ in range(count):
            answer = await client.request("GET", f"/clusters/{DEAD}{MARKS}")
            self.sent[DEAD] += 1
            assert answer.status == 502, answer.text
            assert f'context "{DEAD}"' in answer.json()["message"]
        client.reset()

    async def read_all(self, names: tuple[str, ...]) -> None:
        await asyncio.gather(
            *(self.read(name, REQUESTS, by_origin=way) for name in names for way in (True, False)),
            *([] if DEAD in names else [self.read_dead(REQUESTS)]),
        )

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(seconds) for name, seconds in self.seconds.items() if seconds}


class Watch:
    """A watch of one context, which is read as events come."""

    def __init__(self, client: RawClient, response: Response) -> None:
        self.client = client
        self.response = response

    @classmethod
    async def open(cls, program: Program, name: str) -> Watch:
        client = await RawClient.connect(program.address)
        await client.send(request_bytes("GET", f"{MARKS}?watch=true", host=f"{name}.localhost"))
        watch = cls(client, await client.read_head())
        assert watch.response.status == 200
        return watch

    async def sees(self, text: str) -> None:
        await self.client.read_until(self.response, text.encode())


async def own_answer(program: Program, target: str) -> str:
    client = await RawClient.connect(program.address)
    answer = await client.request("GET", target)
    client.reset()
    assert answer.status == 200, answer.text
    return answer.text


@pytest.mark.slow
@pytest.mark.numbers
async def test_six_clusters_at_once(tmp_path: Path) -> None:
    """Under load each context answers for itself; one that is killed takes nothing from the others; status
    and metrics agree with what was sent.
    """
    with running(NAMES) as demos:
        path = merged(demos, tmp_path / "config")
        async with Program("--all-contexts", kubeconfig=path) as program:
            load = Load(program)
            await asyncio.gather(*map(load.mark, NAMES))
            watches = {name: await Watch.open(program, name) for name in NAMES}
            await load.read_all(NAMES)
            before = load.medians()

            demos[DEAD].kill()
            # Its watch ends in the middle, and that can be told from an end.
            while await watches[DEAD].client.read_piece(watches[DEAD].response):
                pass
            assert not watches[DEAD].response.body.is_complete
            load.sent[DEAD] += 1
            load.forget_times()
            await load.read_all(tuple(name for name in NAMES if name != DEAD))
            after = load.medians()

            for name in after:
                print(f"{name}: median {before[name] * 1e3:.1f} ms, {after[name] * 1e3:.1f} ms with one dead")
                assert after[name] < 2 * before[name] + 0.05
                client = await RawClient.connect(program.address)
                body = json.dumps(config_map(f"late-{name}")).encode()
                fields = [("Content-Type", "application/json")]
                assert (await client.request("POST", f"/clusters/{name}{MARKS}", fields, body)).status == 201
                client.reset()
                load.sent[name] += 1
                await watches[name].sees(f'"late-{name}"')

            await agrees(program, load)
            for watch in watches.values():
                watch.client.reset()
            assert await program.stopped() == 0


async def agrees(program: Program, load: Load) -> None:
    """Hold `/-/status`, `/-/metrics` and the log up to what was sent; a watch runs on each live context."""
    status = json.loads(await own_answer(program, "/-/status"))
    families = {
        family.name: family
        for family in text_string_to_metric_families(await own_answer(program, "/-/metrics"))
    }

    def by_context(family: str, **labels: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for sample in families[family].samples:
            if sample.name.endswith(("_created", "_bucket", "_sum")):
                continue
            if all(sample.labels.get(key) == value for key, value in labels.items()):
                found[sample.labels["context"]] += int(sample.value)
        return found

    finished = by_context("kproxy_requests")
    assert {name: finished[name] for name in NAMES} == dict(load.sent)
    assert by_context("kproxy_requests", code="502") == Counter({DEAD: REQUESTS})
    live = {name: int(name != DEAD) for name in NAMES}
    watches = by_context("kproxy_watches")
    assert {name: watches[name] for name in NAMES} == live
    failing = by_context("kproxy_upstream_failing")
    assert {name: failing[name] for name in NAMES} == {name: 1 - one for name, one in live.items()}

    told = {context["name"]: context for context in status["contexts"]}
    assert {name: told[name]["watches"] for name in NAMES} == live
    assert {name: told[name]["state"] for name in NAMES} == {
        name: "open" if one else "failing" for name, one in live.items()
    }
    assert f'context "{DEAD}"' in told[DEAD]["last_error"]["message"]
    assert all(told[name]["last_error"] is None for name, one in live.items() if one)
    assert told[NAMES[0]]["default"]
    assert [context["url"] for context in status["contexts"]] == [
        f"http://{name}.localhost:{program.port}/" for name in NAMES
    ]
    # The request for the status itself had not finished when it was answered.
    assert status["totals"]["requests"] == sum(load.sent.values())

    def logged() -> Counter[str]:
        return Counter(
            line["context"] for line in program.log_events("request.finished") if "context" in line
        )

    await until(lambda: logged() == load.sent, "the log lines")


# -- a browser --


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """kproxy with two contexts, each with a ConfigMap of its own, and a page of the user's own."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "www").mkdir()
    (folder / "www" / "page.html").write_text("<!doctype html><title>mine</title>")
    with running(("one", "two")) as demos:
        path = merged(demos, folder / "config")
        with Program("--all-contexts", f"--www={folder / 'www'}", kubeconfig=path) as program:
            yield program


FETCH = "async (url, options) => { const answer = await fetch(url, options); return await answer.text(); }"
SOCKET = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onmessage = (event) => { resolve(event.data); socket.close(); };
  socket.onerror = () => resolve("refused");
})"""


async def fetched(page: Page, url: str, options: dict[str, Any] | None = None) -> str:
    text: str = await page.call(f"({FETCH})", url, options or {})
    return text


async def test_two_contexts_in_a_browser(page: Page, two: Program) -> None:
    """Each at its own origin, in one browser: cookies, storage and data stay apart."""
    urls = {name: f"http://{name}.localhost:{two.port}" for name in ("one", "two")}
    for name, url in urls.items():
        await page.open(f"{url}/static/page.html")
        await page.run(f"document.cookie = 'who={name}; path=/'; localStorage.setItem('who', '{name}')")
        body = {
            "method": "POST",
            "headers": {"Content-Type": "application/json"},
            "body": json.dumps(config_map(f"of-{name}")),
        }
        assert f'"of-{name}"' in await fetched(page, MARKS, body)
    for name, url in urls.items():
        other = "two" if name == "one" else "one"
        await page.open(f"{url}/static/page.html")
        assert await page.run("document.cookie") == f"who={name}"
        assert await page.run("localStorage.getItem('who')") == name
        # An absolute path, as dashboards have them.
        listed = await fetched(page, MARKS)
        assert f'"of-{name}"' in listed
        assert f'"of-{other}"' not in listed
        event = await page.call(f"({SOCKET})", f"ws://{name}.localhost:{two.port}{MARKS}?watch=true")
        assert json.loads(event)["type"] == "ADDED"
    await page.open(f"http://localhost:{two.port}/static/page.html")
    assert await page.run("document.cookie + localStorage.length") == "0"


async def test_a_page_of_one_context_cannot_use_another(page: Page, two: Program) -> None:
    """Not its origin, not localhost, not /clusters/ there; by fetch, embedded, or over a WebSocket."""
    await page.open(f"http://one.localhost:{two.port}/static/page.html")
    targets = [
        f"//two.localhost:{two.port}/api/v1/namespaces/other/secrets",
        f"//localhost:{two.port}/api/v1/namespaces/root/secrets",
        f"//localhost:{two.port}/clusters/two/api/v1/namespaces/path/secrets",
    ]
    for target in targets:
        path = target[target.index("/", 2) :]
        with pytest.raises(PageError):
            await fetched(page, f"http:{target}")
        # Not to be read, but it would reach the API server if it was not refused.
        assert await fetched(page, f"http:{target}?opaque", {"mode": "no-cors"}) == ""
        assert await page.call(f"({SOCKET})", f"ws:{target}?watch=true") == "refused"

        def statuses(path: str = path) -> list[int]:
            return [each["status"] for each in two.log_events("request.finished") if each["path"] == path]

        await until(lambda: len(statuses()) >= 3, "the log lines")
        assert set(statuses()) == {403}
    # Its own /clusters/two/ is a path of its own API server, which knows none.
    assert await fetched(page, "/clusters/two/api") == "404 page not found\n"

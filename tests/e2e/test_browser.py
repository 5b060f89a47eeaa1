"""A browser and kproxy: the user's own page may do everything, other people's pages nothing.

What a foreign page tries is looked up in kproxy's log as well: refused there, not by the browser alone. The
control is --accept-origins: with it the same page gets through in the same ways.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Chromium, Page
from tests.e2e.clusters import Api, Cluster, config_map
from tests.e2e.conftest import Serve
from tests.support import secrets
from tests.support.answers import answer
from tests.support.program import Process, Program, kubeconfig
from tests.support.upstream import ByteUpstream, Request

PAGES = Path(__file__).parent / "pages"

POD = {"metadata": {"name": "new"}, "spec": {"containers": [{"name": "it", "image": "demo/it:1"}]}}


class Site(Process):
    """Somebody else's web server, with the pages of this folder."""

    def __init__(self, port: int = 0) -> None:
        command = ["-u", "-m", "http.server", str(port), "--bind=127.0.0.1", f"--directory={PAGES}"]
        super().__init__([sys.executable, *command])

    def wait_until_ready(self) -> None:
        port = self.wait_for_output(r" port (\d+) ", "stdout")[1]
        self.url = f"http://evil.example:{port}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def www_proxy(serve: Serve, demo: Cluster) -> Program:
    """kproxy with the user's own page, for which exec is let through."""
    return serve(demo, f"--www={PAGES}", "--reject-paths=")


@pytest.fixture
async def own_page(page: Page, www_proxy: Program) -> Page:
    await page.open(f"http://localhost:{www_proxy.port}/static/app.html")
    return page


@pytest.fixture
async def evil_page(page: Page, site: Site) -> Page:
    await page.open(f"{site.url}/evil.html")
    return page


async def verdict(program: Program, path: str) -> int:
    """The status that kproxy's log has for a request for this path."""
    found = await program.output(rf'"path": "{re.escape(path)}".*"status": (\d+)')
    return int(found[1])


# -- The user's own page --


async def test_own_page_lists_and_watches(own_page: Page, demo_api: Api, demo_namespace: str) -> None:
    """fetch() of a list, then of a watch, read as a stream: the page shows pods as they come and go."""
    path = f"/api/v1/namespaces/{demo_namespace}/pods"
    demo_api.ask("POST", path, {**POD, "metadata": {"name": "old"}})
    await own_page.run(f"void follow({json.dumps(demo_namespace)})")
    assert await own_page.call("listed", ["old"])
    demo_api.ask("POST", path, POD)
    assert await own_page.call("listed", ["new", "old"])
    demo_api.ask("DELETE", f"{path}/old?gracePeriodSeconds=0")
    assert await own_page.call("listed", ["new"])


async def test_own_page_opens_websockets(own_page: Page) -> None:
    """A watch over a WebSocket, and a shell that is typed into."""
    assert await own_page.call("firstEvent", "/api/v1/namespaces?watch=true") == "ADDED"
    ran = await own_page.call("run", "default", "clock", "echo out\ncat /nope\nexit 0\n", "sh")
    err = "cat: /nope: No such file or directory\n"
    assert ran == ["v5.channel.k8s.io", "out\n", err, "Success"]


async def test_own_page_over_https(page: Page, demo: Cluster, tmp_path: Path) -> None:
    """The same from https://localhost: its origin is kproxy's own, for fetch, writes and wss."""
    flags = (f"--www={PAGES}", "--reject-paths=", "--tls-self-signed")
    with Program(*flags, kubeconfig=demo.kubeconfig, env={"XDG_STATE_HOME": str(tmp_path)}) as program:
        await page.trust_everybody()
        await page.open(f"https://localhost:{program.port}/static/app.html")
        assert await page.run("location.protocol") == "https:"
        assert await page.call("firstEvent", "/api/v1/namespaces?watch=true") == "ADDED"
        ran = await page.call("run", "default", "clock", "echo out\nexit 0\n", "sh")
        assert ran[1] == "out\n"
        made = await page.run(
            "fetch('/api/v1/namespaces', {method: 'POST', body: '{}'}).then(answer => answer.status)"
        )
        assert made not in (0, 403)


async def test_own_page_writes(own_page: Page, demo_api: Api, demo_namespace: str) -> None:
    """POST, with the Origin of its own that a browser adds, and DELETE."""
    path = f"/api/v1/namespaces/{demo_namespace}/configmaps"
    body = {
        "method": "POST",
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(config_map("x")),
    }
    assert await own_page.call("status", path, body) == 201
    assert await own_page.call("status", f"{path}/x", {"method": "DELETE"}) == 200
    assert demo_api.request("GET", f"{path}/x").status == 404


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_an_address_that_is_typed_in_opens(page: Page, demo_proxy: Program, host: str) -> None:
    """The API itself in the browser's window."""
    assert "gitVersion" in await page.open(f"http://{host}:{demo_proxy.port}/version")


# -- Somebody else's page --


async def test_a_foreign_page_reads_nothing(evil_page: Page, demo_proxy: Program) -> None:
    """fetch() of Secrets, as a request that may be read, and as one that may not."""
    for number, mode in enumerate(("cors", "no-cors")):
        path = f"/api/v1/namespaces/read-{number}/secrets"
        kind, _, text = await evil_page.call("read", demo_proxy.url + path, {"mode": mode})
        assert (kind, text) in {("error", "TypeError"), ("opaque", "")}
        assert await verdict(demo_proxy, path) == 403


async def test_a_foreign_page_asks_no_leave(evil_page: Page, demo_proxy: Program) -> None:
    """A request that a browser asks leave for first (a preflight) gets none."""
    path = "/api/v1/namespaces/preflight/configmaps"
    options = {"method": "DELETE", "headers": {"Content-Type": "application/json"}}
    assert await evil_page.call("read", demo_proxy.url + path, options) == ["error", 0, "TypeError"]
    await demo_proxy.output(rf'"method": "OPTIONS", "path": "{path}".*"status": 403')
    assert f'"method": "DELETE", "path": "{path}"' not in demo_proxy.stderr


async def test_a_foreign_page_writes_nothing(
    evil_page: Page, demo_proxy: Program, demo_api: Api, demo_namespace: str
) -> None:
    """A simple POST, for which browsers ask no leave, does not reach the API."""
    path = f"/api/v1/namespaces/{demo_namespace}/configmaps"
    sent = await evil_page.call("post", demo_proxy.url + path, config_map("planted"))
    assert sent == ["opaque", 0, ""]
    assert await verdict(demo_proxy, path) == 403
    assert demo_api.request("GET", f"{path}/planted").status == 404


async def test_a_foreign_form_is_not_taken(evil_page: Page, demo_proxy: Program) -> None:
    """A form that is sent into a frame is a POST that comes as a navigation."""
    path = "/api/v1/namespaces/form/configmaps"
    await evil_page.call("submit", demo_proxy.url + path)
    assert await verdict(demo_proxy, path) == 403


async def test_a_foreign_page_gets_no_websocket(evil_page: Page, demo_proxy: Program) -> None:
    """Browsers ask no leave for WebSockets, and let any page read what comes: this is the worst one."""
    path = "/api/v1/namespaces/default/secrets"
    url = f"ws://localhost:{demo_proxy.port}{path}?watch=true"
    assert await evil_page.call("socket", url) == ["error", ""]
    assert await verdict(demo_proxy, path) == 403


@pytest.mark.parametrize("element", ["img", "script", "iframe"])
async def test_a_foreign_page_triggers_nothing(evil_page: Page, demo_proxy: Program, element: str) -> None:
    """A GET without Origin, which does something in an app behind a service's proxy."""
    path = f"/api/v1/namespaces/default/services/hello/proxy/delete-all-{element}"
    event = await evil_page.call("element", element, demo_proxy.url + path)
    # A frame loads whatever it gets, here the refusal, which the page around it cannot read.
    assert event == ("load" if element == "iframe" else "error")
    assert await verdict(demo_proxy, path) == 403


@pytest.mark.parametrize("kind", ["prefetch", "prerender"])
async def test_a_foreign_page_loads_nothing_ahead(evil_page: Page, demo_proxy: Program, kind: str) -> None:
    """To most of its headers it is a typed address, but no window shows it and nobody has clicked."""
    path = f"/api/v1/namespaces/default/services/hello/proxy/delete-all-{kind}"
    await evil_page.call("speculate", kind, demo_proxy.url + path)
    assert await verdict(demo_proxy, path) == 403


async def test_a_frame_without_an_origin_reads_nothing(evil_page: Page, demo_proxy: Program) -> None:
    """A sandboxed frame says `Origin: null`."""
    path = "/api/v1/namespaces/sandbox/secrets"
    assert await evil_page.call("sandboxed", demo_proxy.url + path) == "error"
    assert await verdict(demo_proxy, path) == 403


async def test_a_rebound_name_is_refused(
    page: Page, chromium: Chromium, demo: Cluster, reserved_port: int
) -> None:
    """DNS rebinding: a page is loaded from evil.example, then that name and port lead to kproxy.

    To the browser it is the page's own origin: it would let the page read everything.
    """
    with Site(reserved_port) as site:
        await page.open(f"{site.url}/evil.html")
        url = site.url
    with Program(f"--port={reserved_port}", "--accept-origins=.*", kubeconfig=demo.kubeconfig) as program:
        kind, status, text = await page.call("read", f"{url}/api/v1/secrets")
        assert (kind, status) == ("basic", 403)
        assert json.loads(text)["message"].startswith("kproxy: Host 'evil.example")
        assert "--accept-hosts" in text
        assert await page.call("socket", f"{url.replace('http', 'ws')}/api/v1/secrets?watch=true") == [
            "error",
            "",
        ]
        kind, status, _ = await page.call("post", f"{url}/api/v1/namespaces", config_map("x"))
        assert (kind, status) == ("basic", 403)
        assert "--accept-hosts" in await page.open(f"{url}/")
        assert not [line for line in program.log_events("request.finished") if line["status"] < 400]


# -- Windows that somebody else's page sends here --

APP = "/api/v1/namespaces/default/services/hello/proxy/delete-all"


@pytest.fixture
async def api_server() -> AsyncIterator[ByteUpstream]:
    """It tells what has arrived; by `demo_proxy`'s log alone a request could have been sent as well."""
    async with ByteUpstream(answer(b'{"kind": "Answer"}')) as upstream:
        yield upstream


@pytest.fixture
async def gate(api_server: ByteUpstream, tmp_path: Path) -> AsyncIterator[Program]:
    """kproxy in front of it."""
    config = kubeconfig(tmp_path, api_server, token=secrets.plant("browser-token"))
    async with Program(kubeconfig=config) as program:
        yield program


def asked(api_server: ByteUpstream) -> list[Request]:
    """What has arrived, but for the icon that a browser asks for beside a page."""
    return [request for request in api_server.requests if request.target != "/favicon.ico"]


@pytest.mark.parametrize("path", ["/api/v1/secrets", APP])
@pytest.mark.parametrize("way", ["storm", "assign", "refresh", "query"])
async def test_a_foreign_page_sends_no_window_here(
    evil_page: Page, gate: Program, api_server: ByteUpstream, way: str, path: str
) -> None:
    """location, again and again and stopped at once, meta refresh, and a form: nobody has clicked."""
    more = [60] if way == "storm" else []
    await evil_page.run(f"void {way}(...{json.dumps([gate.url + path, *more])})", is_clicked=False)
    assert await verdict(gate, path) == 403
    assert api_server.requests == []


async def test_a_foreign_page_opens_no_app_in_a_window(
    evil_page: Page, gate: Program, api_server: ByteUpstream
) -> None:
    """Not with a click either: a page that is clicked anywhere may open what it likes."""
    for number, features in enumerate(("", "noopener")):
        path = f"{APP}-{number}"
        await evil_page.run(f"void open('{gate.url}{path}', '_blank', '{features}')")
        assert await verdict(gate, path) == 403
    assert api_server.requests == []


async def test_a_link_opens(evil_page: Page, gate: Program, api_server: ByteUpstream) -> None:
    """A click on it is the user's own wish; the page that had it is gone."""
    await evil_page.call("link", f"{gate.url}/api/v1/pods?limit=5", is_clicked=False)
    assert await evil_page.follow("a") == '{"kind": "Answer"}'
    assert [request.target for request in asked(api_server)] == ["/api/v1/pods?limit=5"]


async def test_a_link_to_an_app_asks_first(evil_page: Page, gate: Program, api_server: ByteUpstream) -> None:
    """The page instead of it has a link to the same address, which appears late, and then leads there."""
    target = f"{APP}?a=1&b=%22%3E"
    await evil_page.call("link", gate.url + target, is_clicked=False)
    assert "Nothing was sent to the cluster" in await evil_page.follow("a")
    assert api_server.requests == []
    assert await evil_page.run("document.links[0].textContent", is_clicked=False) == target
    shown = "getComputedStyle(document.links[0]).visibility"
    for when, visibility in (("pause(); it.currentTime = 900", "hidden"), ("finish()", "visible")):
        script = f"(([it]) => {{ it.{when}; return {shown}; }})(document.getAnimations())"
        assert await evil_page.run(script, is_clicked=False) == visibility
    assert await evil_page.follow("a") == '{"kind": "Answer"}'
    (request,) = asked(api_server)
    assert (request.target, request.value("Sec-Fetch-Site")) == (target, "same-origin")


# -- kproxy's own page --


async def test_the_page_of_kproxy_is_shown_in_its_own_style(page: Page, demo_proxy: Program) -> None:
    """The browser finds nothing in it that its policy forbids, and its link leads to the context's origin."""
    shown = await page.open(f"http://localhost:{demo_proxy.port}/-/")
    assert "Watches and tunnels" in shown
    assert "GET /-/" not in shown
    # Without its style, as if the policy did not name it, there would be no such limit.
    assert await page.run("getComputedStyle(document.body).maxWidth") == "1152px"
    assert await page.run("document.scripts.length") == 0
    link = await page.run("document.querySelector('td a').href")
    assert re.fullmatch(rf"http://[a-z0-9-]+\.localhost:{demo_proxy.port}/", link)
    assert '"paths"' in await page.open(link)


async def test_a_page_of_another_site_learns_nothing_of_kproxy(
    evil_page: Page, site: Site, demo_proxy: Program
) -> None:
    """Not even which contexts there are."""
    for name in ("status", "contexts", "metrics", "readyz"):
        path = f"/-/{name}"
        kind, *_ = await evil_page.call("read", demo_proxy.url + path, {"method": "GET"})
        assert kind != "cors"
        assert await verdict(demo_proxy, path) == 403


# -- The control: a page that is let in --


async def test_an_accepted_origin_gets_through(
    evil_page: Page, site: Site, serve: Serve, demo: Cluster, demo_api: Api, demo_namespace: str
) -> None:
    """With --accept-origins the same page can do all that was refused: the refusals were kproxy's."""
    program = serve(demo, f"--accept-origins=^{re.escape(site.url)}$")
    path = f"/api/v1/namespaces/{demo_namespace}/configmaps"

    async def read(method: str, path: str, **options: Any) -> tuple[str, int]:
        kind, status, _ = await evil_page.call("read", program.url + path, {"method": method, **options})
        return kind, status

    assert await read("GET", "/api/v1/secrets") == ("cors", 200)
    assert await evil_page.call("post", program.url + path, config_map("sent")) == ["opaque", 0, ""]
    assert demo_api.ask("GET", f"{path}/sent")["metadata"]["name"] == "sent"
    assert await read("DELETE", f"{path}/sent") == ("cors", 200)
    url = f"ws://localhost:{program.port}/api/v1/namespaces?watch=true"
    kind, text = await evil_page.call("socket", url)
    assert (kind, json.loads(text)["type"]) == ("message", "ADDED")

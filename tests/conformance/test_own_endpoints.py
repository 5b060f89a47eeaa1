"""What kproxy answers below /-/: health, readiness, status, metrics, contexts and a page for people."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from kproxy.telemetry.metrics import METRICS
from kproxy.web.probes import ADMIN, ENDPOINTS, PROBES
from kproxy.web.readiness import PATIENCE_SECONDS
from tests.conformance.conftest import Pki
from tests.support import http2_answers, http2_server, secrets
from tests.support.answers import (
    Step,
    answer,
    chunk,
    head,
    json_answer,
    never_answer,
    script,
    status_answer,
    tunnel,
)
from tests.support.api_server import Kubeconfig, exec_user
from tests.support.client import RawClient, Response, request_bytes
from tests.support.exec_plugin import Hold, Plugin, timestamp
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import Program, kubeconfig
from tests.support.upstream import ByteUpstream, Connection, Request

PODS = "/api/v1/namespaces/ns/pods"
EXEC = f"{PODS}/p/exec"
WATCH = script(head(200, [("Transfer-Encoding", "chunked")]), chunk(b"{}\n"), Step.WAIT_FOR_END)
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
HTML = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]


class House:
    """A program of its own, an API server, and clients that are closed for the test."""

    def __init__(self, program: Program, upstream: ByteUpstream, owned: AsyncExitStack) -> None:
        self.program = program
        self.upstream = upstream
        self._owned = owned

    async def connect(self, address: tuple[str, int] | str | None = None) -> RawClient:
        return await self._owned.enter_async_context(await RawClient.connect(address or self.program.address))

    async def get(
        self,
        target: str,
        headers: list[tuple[str, str]] | None = None,
        *,
        method: str = "GET",
        host: str = "localhost",
        address: tuple[str, int] | str | None = None,
    ) -> Response:
        """One request on a connection of its own."""
        client = await self.connect(address)
        return await client.request(method, target, headers or [], host=host)

    async def start(self, target: str, headers: list[tuple[str, str]] | None = None) -> RawClient:
        """A request that has reached the API server."""
        seen = len(self.upstream.requests)
        client = await self.connect()
        await client.send(request_bytes("GET", target, headers or []))
        await self.upstream.wait_for_requests(seen + 1)
        return client

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get("/-/status")).json()
        return found

    async def metric(self, name: str, **labels: str) -> float:
        """One value of the scrape; 0 where there is none."""
        text = (await self.get("/-/metrics")).text
        samples = [sample for family in read_text(text) for sample in family.samples]
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a fact that nothing announces."""
        deadline = time.monotonic() + LAST_RESORT_SECONDS
        while not await condition():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.01)

    def asked(self) -> list[str]:
        """The targets that reached the API server."""
        return [request.target for request in self.upstream.requests]


Build = Callable[..., Awaitable[House]]


@pytest.fixture
async def build(tmp_path: Path, pki: Pki) -> AsyncIterator[Build]:
    """Starts a House: flags of the program, and `user` and `cluster` fields of its kubeconfig."""
    # Over TLS: by plain http no credential is sent.
    tls = pki.ca.server_context()
    async with AsyncExitStack() as owned:

        async def start(
            *flags: str,
            user: dict[str, Any] | None = None,
            cluster: dict[str, Any] | None = None,
            path: str = "",
            env: dict[str, str] | None = None,
        ) -> House:
            upstream = await owned.enter_async_context(ByteUpstream(answer(b"ok"), tls=tls))
            config = kubeconfig(tmp_path, upstream.url + path, ca_pem=pki.ca.pem, user=user, cluster=cluster)
            program = await owned.enter_async_context(Program(*flags, kubeconfig=config, env=env))
            return House(program, upstream, owned)

        yield start


@pytest.fixture
async def house(build: Build) -> House:
    return await build("--reject-paths=")


# -- form --


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_is_ours_and_not_for_keeping(house: House, method: str) -> None:
    """200, Proxy-Status, no-store; HEAD has the same head; the API server hears of readyz only."""
    for name in ("", *ENDPOINTS):
        response = await house.get(f"/-/{name}", method=method)
        assert (name, response.status) == (name, 200)
        assert response.value("Proxy-Status") == "kproxy"
        assert response.value("Cache-Control") == "no-store"
        assert response.value("X-Content-Type-Options") == "nosniff"
        assert response.value("Cross-Origin-Resource-Policy") == "same-origin"
        assert int(response.value("Content-Length") or 0) > 0
        is_head = method == "HEAD"
        assert (response.framing, bool(response.text)) == (("none", False) if is_head else ("length", True))
    assert house.asked() == ["/readyz"]


async def test_the_index_names_all_there_is(house: House) -> None:
    """For programs as JSON."""
    response = await house.get("/-/")
    assert set(response.json()["endpoints"]) == {f"/-/{name}" for name in ENDPOINTS}
    assert (await house.get("/-")).value("Location") == "/-/"


async def test_anything_else_is_a_404_that_names_what_exists(house: House) -> None:
    """A Status, and nothing of it reaches the API server."""
    for target in ("/-/nothing", "/-/healthz/", "/-/HEALTHZ", "/-/health%7a", "/-/api/v1/pods"):
        response = await house.get(target)
        assert (target, response.status, response.json()["kind"]) == (target, 404, "Status")
        assert all(f"/-/{name}" in response.json()["message"] for name in ENDPOINTS)
        assert response.value("Proxy-Status") == "kproxy; error=destination_not_found"
        assert response.value("Cache-Control") == "no-store"
    assert house.asked() == []


async def test_other_methods_are_refused(house: House) -> None:
    """405 with Allow; nothing here can be changed."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "TRACE"):
        response = await house.get("/-/status", method=method)
        assert (method, response.status, response.value("Allow")) == (method, 405, "GET, HEAD")
        assert response.json()["reason"] == "MethodNotAllowed"


async def test_a_body_does_not_spoil_the_next_request(house: House) -> None:
    """A GET may have one; it is read and thrown away, also by an answer that takes its time."""
    client = await house.connect()
    for target in ("/-/healthz", "/-/readyz", "/-/metrics", "/-/healthz"):
        assert (await client.request("GET", target, body=b"x" * 5000)).status == 200


async def test_a_path_that_is_not_clean_is_redirected_first(house: House) -> None:
    """As every path."""
    for target in ("/-//healthz", "/-/./healthz", "/api/../-/healthz"):
        response = await house.get(target)
        assert (response.status, response.value("Location")) == (301, "/-/healthz")


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("evil.example", []),
        ("localhost", [("Origin", "http://evil.example")]),
        ("localhost", [("Origin", "null")]),
        ("localhost", [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]),
    ],
)
async def test_pages_of_other_sites_are_kept_out(
    house: House, host: str, headers: list[tuple[str, str]]
) -> None:
    """Neither a rebound name nor a foreign page learns anything here."""
    for name in ("", *ENDPOINTS):
        response = await house.get(f"/-/{name}", headers, host=host)
        assert (name, response.status, response.json()["reason"]) == (name, 403, "Forbidden")
    assert house.asked() == []


async def test_filters_of_paths_do_not_count_here(build: Build) -> None:
    """They are about the API; a probe must not fail because of them."""
    house = await build("--accept-paths=^/version$", "--reject-methods=GET")
    assert (await house.get("/-/healthz")).status == 200


# -- where --

EVERYWHERE = ("--address=0.0.0.0", "--unsafe-listen", r"--accept-hosts=.*")


@pytest.mark.parametrize(
    ("flags", "served"),
    [
        ((), {*PROBES, *ADMIN}),
        (("--admin=loopback",), {*PROBES, *ADMIN}),
        (("--admin=socket",), {*PROBES}),
        (("--admin=off",), set()),
        (EVERYWHERE, {*PROBES}),
        (("--admin=off", *EVERYWHERE), set()),
    ],
)
async def test_admin_says_what_is_served_on_a_port(
    build: Build, flags: tuple[str, ...], served: set[str]
) -> None:
    """What tells of clusters stays on loopback, probes come from elsewhere, too; the rest says why not."""
    house = await build(*flags)
    address = ("127.0.0.1", house.program.port)
    for name in ENDPOINTS:
        response = await house.get(f"/-/{name}", address=address)
        assert (name, response.status) == (name, 200 if name in served else 404)
        if name not in served:
            assert "--admin=" in response.json()["message"]
    index = await house.get("/-/", HTML, address=address)
    assert index.status == (200 if served else 404)
    assert index.text.startswith("<!doctype html>") == (served == set(ENDPOINTS))
    if served == set(PROBES):
        assert set(index.json()["endpoints"]) == {f"/-/{name}" for name in PROBES}
    # With --admin=off, too, no path of ours reaches the API server.
    assert [target for target in house.asked() if target != "/readyz"] == []


@pytest.mark.parametrize(("admin", "status"), [("loopback", 200), ("socket", 200), ("off", 404)])
async def test_a_unix_socket_serves_all_unless_it_is_off(
    build: Build, tmp_path: Path, admin: str, status: int
) -> None:
    """Its file mode says who may ask."""
    house = await build(f"--unix-socket={tmp_path / 's'}", f"--admin={admin}")
    assert {name: (await house.get(f"/-/{name}")).status for name in ENDPOINTS} == dict.fromkeys(
        ENDPOINTS, status
    )
    if status == 200:
        [context] = (await house.get("/-/contexts")).json()["contexts"]
        assert context["url"] is None


@pytest.mark.parametrize("flag", ["--api-prefix=/-/", "--api-prefix=/-/api", "--www-prefix=/-"])
async def test_no_prefix_may_lie_below_ours(build: Build, flag: str) -> None:
    """Exit code 2 before anything is served, with the flag to change."""
    with pytest.raises(AssertionError, match=f"set another {flag.partition('=')[0]}"):
        await build(flag)


async def test_static_pages_and_a_stripping_prefix_do_not_hide_the_endpoints(
    build: Build, tmp_path: Path
) -> None:
    """They are where they are, whatever is mounted around them."""
    (tmp_path / "-").mkdir()
    (tmp_path / "-" / "healthz").write_text("mine")
    house = await build("--api-prefix=/k8s", f"--www={tmp_path}", "--www-prefix=/")
    assert (await house.get("/-/healthz")).text == "ok\n"
    assert (await house.get("/k8s/-/healthz")).status == 200
    assert house.asked() == ["/-/healthz"]


# -- readyz --

READY = {
    "200": (answer(b"ok"), None),
    "403, which an API server answers that is well": (status_answer(403, "Forbidden"), None),
    "429": (status_answer(429, "TooManyRequests"), None),
    "401": (status_answer(401, "Unauthorized"), "does not accept the credential (401)"),
    "500": (answer(b"[-]etcd failed", 500), "answers 500 to /readyz"),
    "a login page": (answer(b"", 302, [("Location", "/login")]), "answers 302 to /readyz"),
    "no HTTP": (script(b"garbage\r\n\r\n", Step.WAIT_FOR_END), "is not HTTP/1.1"),
    "a cut": (script(Step.CLOSE), "closed the connection before it answered"),
}


@pytest.mark.parametrize("name", READY)
async def test_readiness_is_what_the_api_server_says(house: House, name: str) -> None:
    """200 with `ok`, or 503 with the reason; asked by one request, through the usual way."""
    responder, problem = READY[name]
    house.upstream.responder = responder
    response = await house.get("/-/readyz")
    if problem is None:
        assert (response.status, response.text) == (200, "ok\n")
    else:
        assert response.status == 503
        assert re.search(rf'^\[-\]context "test" failed: .*{re.escape(problem)}', response.text, re.MULTILINE)
        assert response.text.count('context "test"') == 1
        assert response.text.endswith("readyz check failed\n")
    assert set(house.asked()) == {"/readyz"}


async def test_what_is_told_of_a_failure_steers_no_terminal(tmp_path: Path) -> None:
    """Names in a kubeconfig may hold anything, and are printed by curl."""
    path = kubeconfig(
        tmp_path, "http://h:1", name="a\x1b[2J\x9b", cluster={"proxy-url": "http://127.0.0.1:1"}
    )
    async with Program(kubeconfig=path) as program:
        async with await RawClient.connect(program.address) as client:
            response = await client.request("GET", "/-/readyz")
        assert (response.status, "U+001B" in response.text) == (503, True)
        assert response.text.replace("\n", "").isprintable()


@pytest.mark.parametrize("code", [404, 405])
async def test_an_api_server_without_readyz_is_asked_for_its_version(house: House, code: int) -> None:
    """Old ones, and gateways before them."""
    house.upstream.responder = status_answer(code, "NotFound")
    house.upstream.routes["/version"] = json_answer({"major": "1"})
    assert (await house.get("/-/readyz")).status == 200
    assert house.asked() == ["/readyz", "/version"]


async def test_the_path_of_the_server_stands_before_it(build: Build) -> None:
    """Rancher's API servers are below one."""
    house = await build(path="/k8s/clusters/c-1")
    assert (await house.get("/-/readyz")).status == 200
    assert house.asked() == ["/k8s/clusters/c-1/readyz"]


async def test_an_api_server_that_is_down_is_said(house: House) -> None:
    """With the same words that a client would get."""
    await house.upstream.stop_listening()
    response = await house.get("/-/readyz")
    assert (response.status, "refused" in response.text) == (503, True)
    assert response.text.count('context "test"') == 1
    [context] = (await house.status())["contexts"]
    assert context["state"] == "failing"
    assert "refused" in context["last_error"]["message"]


async def test_verbose_tells_of_each_context(house: House) -> None:
    """In the form of the API server's own readyz."""
    response = await house.get("/-/readyz?verbose")
    assert response.text == '[+]kproxy ok\n[+]context "test" ok\nreadyz check passed\n'
    excluded = await house.get("/-/readyz?verbose&exclude=test")
    assert excluded.text == '[+]kproxy ok\n[ ]context "test" excluded\nreadyz check passed\n'


async def test_a_verdict_is_asked_for_once_and_kept(house: House) -> None:
    """Fifty probes at once, and those of the next seconds, are one request to the API server."""
    gate = asyncio.Event()
    house.upstream.responder = script(gate, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    probes = [asyncio.create_task(house.get("/-/readyz")) for _ in range(50)]
    await house.upstream.wait_for_requests(1)
    assert (await house.get("/-/healthz")).status == 200, "others do not wait"
    gate.set()
    assert {(await probe).status for probe in probes} == {200}
    assert (await house.get("/-/readyz")).status == 200
    assert house.asked() == ["/readyz"]


async def test_a_probe_that_goes_away_leaves_the_check_to_the_others(house: House) -> None:
    """A kubelet waits for one second and hangs up; nobody else gets its cancellation."""
    gate = asyncio.Event()
    house.upstream.responder = script(gate, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    impatient = await house.start("/-/readyz")
    patient = asyncio.create_task(house.get("/-/readyz"))
    impatient.reset()
    await house.until(
        lambda: _true(any(line["status"] == 0 for line in house.program.log_events("request.finished"))),
        "a log line of the probe that went away",
    )
    gate.set()
    assert (await patient).status == 200
    assert house.asked() == ["/readyz"]
    finished = [line for line in house.program.log_events("request.finished") if line["status"] == 0]
    assert len(finished) == 1


async def _true(value: bool) -> bool:
    return value


@pytest.mark.slow
async def test_an_api_server_that_hangs_is_not_waited_for_for_ever(house: House) -> None:
    """503 after the time it has; requests meanwhile are relayed, and the next check asks anew."""
    house.upstream.routes["/readyz"] = never_answer()
    began = time.monotonic()
    probe = asyncio.create_task(house.get("/-/readyz"))
    await house.upstream.wait_for_requests(1)
    assert (await house.get("/api")).status == 200
    response = await probe
    assert (response.status, f"no answer within {PATIENCE_SECONDS:g} s" in response.text) == (503, True)
    assert time.monotonic() - began > PATIENCE_SECONDS - 0.5
    [request] = [each for each in house.upstream.requests if each.target == "/readyz"]
    await asyncio.wait_for(request.connection.ended.wait(), LAST_RESORT_SECONDS)


async def test_readiness_asks_for_a_credential_and_status_does_not(build: Build, tmp_path: Path) -> None:
    """An exec plugin may open a browser: looking at pages and numbers does not run it."""
    plugin = Plugin(tmp_path / "plugin")
    plugin.issues(token=secrets.plant("exec"))
    house = await build(user={"exec": exec_user(plugin)})
    for name in ("", *ADMIN, "healthz"):
        assert (await house.get(f"/-/{name}", HTML)).status == 200
    [context] = (await house.status())["contexts"]
    assert (context["credential"]["kind"], context["credential"]["state"]) == ("exec", None)
    assert context["state"] == "open"
    assert plugin.runs == 0
    assert (await house.get("/-/readyz")).status == 200
    assert plugin.runs == 1


async def test_what_a_login_plugin_says_reaches_who_asks(build: Build, tmp_path: Path) -> None:
    """The client, status, readiness and the page: "exit code 255" alone sends nobody to log in."""
    plugin = Plugin(tmp_path / "acme", "acme")
    plugin.does(
        "printf '\\033[31mYour session has ended.\\033[0m\\nRun: acme login --profile <dev>\\n' >&2\nexit 255"
    )
    house = await build(user={"exec": exec_user(plugin)})
    words = "Your session has ended.\nRun: acme login --profile <dev>"
    response = await house.get("/api/v1/pods")
    assert (response.status, words in response.json()["message"]) == (502, True)
    [context] = (await house.status())["contexts"]
    assert words in context["last_error"]["message"]
    assert (context["state"], words in context["credential"]["problem"]) == ("failing", True)
    page = (await house.get("/-/", HTML)).text
    assert page.count("Your session has ended.<br>Run: acme login --profile &lt;dev&gt;") == 1
    assert " ".join(words.split()) in (await house.get("/-/readyz")).text
    [line] = house.program.log_events("credential.refresh_failed")
    assert words in line["error"]


async def test_a_plugin_that_is_waited_for_is_named(build: Build, tmp_path: Path) -> None:
    """With how long, and what it says: perhaps where to log in. Looking does not wait."""
    plugin = Plugin(tmp_path / "acme", "acme")
    plugin.issues(token=secrets.plant("exec"))
    hold = Hold(plugin.directory / "login")
    plugin.does(f"echo 'enter ABC-123 at https://login' >&2; read -r _ < '{plugin.directory}/login'")
    house = await build(user={"exec": exec_user(plugin)})
    waiting = asyncio.create_task(house.get("/api"))
    await hold.reached()

    async def says() -> bool:
        return (await house.status())["contexts"][0]["credential"]["last_words"] is not None

    await house.until(says, "the plugin speaks")
    [context] = (await house.status())["contexts"]
    assert re.fullmatch(r"waiting for acme, \d+ s", context["state"])
    assert context["credential"]["last_words"] == "enter ABC-123 at https://login"
    page = (await house.get("/-/", HTML)).text
    assert re.search(r"waiting for acme, \d+ s</span><br>enter ABC-123 at https://login", page)
    hold.release()
    assert (await waiting).status == 200
    [context] = (await house.status())["contexts"]
    assert (context["state"], context["credential"]["state"]) == ("open", "valid")
    assert context["credential"]["last_words"] is None


async def test_a_credential_that_has_ended_is_called_ended(build: Build, tmp_path: Path) -> None:
    """Since when, and why there is no other."""
    plugin = Plugin(tmp_path / "acme", "acme")
    house = await build(user={"exec": exec_user(plugin)})
    end = time.time() + 2
    plugin.issues(token=secrets.plant("exec"), expirationTimestamp=timestamp(end))
    assert (await house.get("/api")).status == 200
    plugin.does("echo 'Run: acme login' >&2; exit 1")

    async def ended() -> bool:
        await house.get("/api")
        [context] = (await house.status())["contexts"]
        return (context["credential"]["state"], context["state"]) == ("ended", "failing")

    await house.until(ended, "its end")
    assert time.time() >= end
    [context] = (await house.status())["contexts"]
    assert context["credential"]["expires_at"].startswith(timestamp(end)[:19])
    assert "Run: acme login" in context["credential"]["problem"]
    page = (await house.get("/-/", HTML)).text
    assert 'exec, <span class="state bad">ended</span>' in page


async def test_why_a_renewal_failed_is_told_while_the_old_credential_serves(
    build: Build, tmp_path: Path
) -> None:
    """The client was passed the 401; who looks at status learns what the plugin says."""
    plugin = Plugin(tmp_path / "acme", "acme")
    plugin.issues(token=secrets.plant("exec"))
    house = await build(user={"exec": exec_user(plugin)})
    assert (await house.get("/api")).status == 200
    plugin.does("echo 'Run: acme login' >&2; exit 1")
    house.upstream.routes["/api/v1/pods"] = status_answer(401, "Unauthorized")
    assert (await house.get("/api/v1/pods")).status == 401
    assert (await house.get("/api")).status == 200
    [context] = (await house.status())["contexts"]
    assert (context["state"], context["credential"]["state"]) == ("open", "valid")
    assert "Run: acme login" in context["credential"]["problem"]
    assert "Run: acme login" in (await house.get("/-/", HTML)).text


async def test_a_plugin_that_fails_is_why_it_is_not_ready(build: Build, tmp_path: Path) -> None:
    """Named, and without what it was given in confidence."""
    plugin = Plugin(tmp_path / "plugin")
    plugin.does("exit 3")
    env = [{"name": "CLIENT_SECRET", "value": secrets.plant("plugin-env")}]
    house = await build(user={"exec": exec_user(plugin, env=env)})
    response = await house.get("/-/readyz")
    assert (response.status, "failed with exit code 3" in response.text) == (503, True)
    assert secrets.leaked(response.text) == []


# -- the end --


async def test_after_sigterm_it_is_alive_and_not_ready(build: Build) -> None:
    """For --shutdown-delay all is served as before, so that a load balancer can notice; then it ends."""
    house = await build("--shutdown-delay=1h")
    client = await house.connect()
    assert (await client.request("GET", "/-/readyz")).status == 200
    house.program.send_signal(signal.SIGTERM)
    await house.program.output("server.draining")
    response = await client.request("GET", "/-/readyz")
    assert (response.status, response.text.splitlines()[0]) == (503, "[-]kproxy failed: it is shutting down")
    assert (await house.get("/-/healthz")).status == 200, "new connections are taken"
    assert (await house.get("/api")).status == 200
    assert (await house.status())["is_draining"] is True
    assert await house.program.stopped(signal.SIGTERM) == 0, "a second signal skips the wait"


async def test_a_check_under_way_does_not_hold_up_the_end(house: House) -> None:
    """Who waits for it learns at once that kproxy is shutting down."""
    house.upstream.responder = never_answer()
    probe = await house.start("/-/readyz")
    house.program.send_signal(signal.SIGTERM)
    response = await probe.read_response()
    assert (response.status, "it is shutting down" in response.text) == (503, True)
    assert await asyncio.to_thread(house.program.wait) == 0


# -- status, contexts, metrics --


async def test_status_tells_what_runs(house: House) -> None:
    """A watch, a tunnel and a request are counted while they run, in status and in metrics alike."""
    house.upstream.routes.update({PODS: WATCH, EXEC: tunnel(), "/slow": never_answer()})
    watch = await house.start(f"{PODS}?watch=true")
    await watch.read_until(await watch.read_head(), b"{}\n")
    shell = await house.start(f"{EXEC}?command=sh", UPGRADE)
    assert (await shell.read_head()).status == 101
    await shell.send(b"echo")
    assert await shell.read_exactly(4) == b"echo"
    slow = await house.start("/slow")

    found = await house.status()
    [context] = found["contexts"]
    assert found["pid"] == house.program.pid
    assert [context[key] for key in ("in_flight", "watches", "tunnels")] == [1, 1, 1]
    # With one context /clusters/ is a path of the API server.
    assert [context[key] for key in ("name", "slug", "default", "path")] == ["test", "test", True, "/"]
    assert context["url"] == f"http://test.localhost:{house.program.port}/"
    assert context["server"] == house.upstream.url
    assert found["listeners"] == [
        {"address": house.program.serving_on, "url": f"http://{house.program.serving_on}", "tls": False}
    ]
    # The tunnel has taken its connection along.
    assert (context["connections"], context["idle_connections"]) == (2, 0)
    for name in ("requests_in_flight", "watches", "tunnels"):
        assert await house.metric(f"kproxy_{name}", context="test") == 1
    assert await house.metric("kproxy_upstream_connections", context="test") == 2
    assert await house.metric("kproxy_upstream_dials_total", context="test") == found["totals"]["dials"] == 3
    assert await house.metric("kproxy_received_bytes_total", context="test") == 4
    page = (await house.get("/-/", HTML)).text
    assert f"GET {PODS}</td>" in page
    assert f"GET {EXEC}</td>" in page
    assert "command=sh" not in page

    for client in (watch, shell, slow):
        client.reset()

    async def is_over() -> bool:
        [context] = (await house.status())["contexts"]
        return not (context["in_flight"] or context["watches"] or context["tunnels"])

    await house.until(is_over, "nothing running")
    assert await house.metric("kproxy_received_bytes_total", context="test") == 4
    assert await house.metric("kproxy_errors_total", kind="connection_terminated") == 2


async def test_streams_that_share_a_connection_are_counted_apart(tmp_path: Path, pki: Pki) -> None:
    """Over HTTP/2: two watches, a probe and a request that has ended are one connection and one dial."""

    async def respond(stream: http2_server.Stream) -> None:
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        events.put_nowait(b"{}")
        is_watch = stream.target.startswith(PODS)
        await (http2_answers.watch(events) if is_watch else http2_answers.answer(b"ok"))(stream)

    tls = pki.ca.server_context(alpn=["h2"])
    async with AsyncExitStack() as owned:
        server = await owned.enter_async_context(http2_server.Http2Server(respond, tls=tls))
        config = kubeconfig(tmp_path, server, ca_pem=pki.ca.pem)
        house = House(await owned.enter_async_context(Program(kubeconfig=config)), server, owned)
        assert (await house.get("/-/readyz")).status == 200
        for _ in range(2):
            watch = await house.connect()
            await watch.send(request_bytes("GET", f"{PODS}?watch=true"))
            await watch.read_until(await watch.read_head(), b"{}")
        found = await house.status()
        [context] = found["contexts"]
        assert [context[key] for key in ("watches", "connections", "idle_connections")] == [2, 1, 0]
        assert found["totals"]["dials"] == 1
        assert len(server.h2_connections) == 1


async def test_contexts_agree_with_status(house: House) -> None:
    """The same names, slugs, servers and URLs."""
    found = (await house.get("/-/contexts")).json()["contexts"]
    [context] = (await house.status())["contexts"]
    assert found == [{key: context[key] for key in ("name", "slug", "default", "server", "url", "path")}]


async def test_requests_are_counted_as_prometheus_reads_them(house: House) -> None:
    """By verb, group, resource, subresource and code; the parser takes all of it, in both formats."""
    house.upstream.routes[f"{PODS}/gone"] = status_answer(404, "NotFound")
    for target in (
        PODS,
        f"{PODS}?limit=5",
        f"{PODS}/a/log",
        "/apis/apps/v1/deployments",
        f"{PODS}/gone",
        "/version",
    ):
        await house.get(target)
    await house.get(PODS, method="POST")
    plain = await house.get("/-/metrics")
    assert plain.value("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in read_text(plain.text)}
    names = {name.removesuffix("_total") for name, about in METRICS.items() if about.kind == "counter"}
    assert names <= set(families)
    rows = {
        tuple(
            sample.labels[key] for key in ("context", "verb", "group", "resource", "subresource", "code")
        ): int(sample.value)
        for sample in families["kproxy_requests"].samples
        if sample.labels["context"]
    }
    assert rows == {
        ("test", "list", "", "pods", "", "200"): 2,
        ("test", "get", "", "pods", "log", "200"): 1,
        ("test", "list", "apps", "deployments", "", "200"): 1,
        ("test", "get", "", "pods", "", "404"): 1,
        ("test", "get", "", "", "", "200"): 1,
        ("test", "create", "", "pods", "", "200"): 1,
    }
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    rich = await house.get("/-/metrics", [("Accept", accept)])
    assert (rich.value("Content-Type") or "").startswith("application/openmetrics-text; version=1.0.0")
    assert "kproxy_requests" in {family.name for family in read_openmetrics(rich.text)}


async def test_an_error_stays_until_the_next_and_the_state_does_not(house: House) -> None:
    """`failing` ends with the next answer of the API server; when and what it was is still told."""
    house.upstream.responder = script(Step.CLOSE)
    assert (await house.get("/api")).status == 502
    [context] = (await house.status())["contexts"]
    assert context["state"] == "failing"
    assert "closed the connection" in context["last_error"]["message"]
    assert await house.metric("kproxy_upstream_failing", context="test") == 1
    assert "closed the connection" in (await house.get("/-/", HTML)).text
    house.upstream.responder = answer(b"ok")
    assert (await house.get("/api")).status == 200
    [context] = (await house.status())["contexts"]
    assert (context["state"], context["last_error"] is None) == ("open", False)
    assert await house.metric("kproxy_upstream_failing", context="test") == 0


async def test_renewals_and_reloads_are_counted(build: Build, tmp_path: Path) -> None:
    """A changed token file is a renewal; a kubeconfig taken up or refused is a reload."""
    token = tmp_path / "token"
    token.write_text(secrets.plant("first"))
    house = await build(user={"tokenFile": str(token)})
    assert (await house.get("/api")).status == 200
    token.write_text(secrets.plant("second"))

    async def is_renewed() -> bool:
        await house.get("/api")
        return await house.metric("kproxy_credential_renewals_total", context="test") == 1

    await house.until(is_renewed, "a renewal")
    path = tmp_path / "test.kubeconfig"
    good = path.read_text()
    path.write_text("{")
    await house.program.output("kubeconfig.reload_failed")
    path.write_text(good)
    await house.program.output("kubeconfig.reloaded")
    assert await house.metric("kproxy_reloads_total", result="failed") >= 1
    assert await house.metric("kproxy_reloads_total", result="applied") == 1


async def test_status_names_the_instance(build: Build, tmp_path: Path) -> None:
    """`kproxy start --name` gives it one; without it there is none."""
    assert (await (await build()).status())["name"] is None
    house = await build("start", "--foreground", "--name=blue", env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert (await house.status())["name"] == "blue"


# -- secrets --


async def everything(house: House) -> str:
    """All that is shown below /-/, heads included."""
    shown = ""
    for target in ("/-/", "/-/readyz?verbose", *(f"/-/{name}" for name in ENDPOINTS)):
        for accept in ("text/html", "application/json", "application/openmetrics-text"):
            response = await house.get(target, [("Accept", accept)])
            shown += response.head.raw.decode("latin-1") + response.text
    return shown


async def test_nothing_shown_is_secret(build: Build) -> None:
    """Neither what the kubeconfig holds, nor queries and headers that came; failures included."""
    query, header = secrets.plant("query"), secrets.plant("header")
    user = {"username": "u", "password": secrets.plant("password")}
    cluster = {"proxy-url": f"http://user:{secrets.plant('proxy')}@127.0.0.1:1"}
    house = await build("-v=8", user=user, cluster=cluster)
    for target in ("/api", EXEC, f"{PODS}/x"):
        fields = [("Authorization", f"Bearer {header}"), ("Cookie", header)]
        assert (await house.get(f"{target}?token={query}&command={query}", fields)).status in (403, 502)
    shown = await everything(house)
    assert '"state": "failing"' in shown
    assert secrets.leaked(shown) == []


@pytest.mark.parametrize("kind", ["token", "basic", "exec"])
async def test_no_credential_in_use_is_shown(build: Build, tmp_path: Path, kind: str) -> None:
    """While it works, with a stream that runs: not what its query has, nor what the API server sends."""
    secret = secrets.plant(kind)
    plugin = Plugin(tmp_path / "plugin")
    plugin.issues(token=secret)
    env = [{"name": "CLIENT_SECRET", "value": secrets.plant("env")}]
    arguments = ["--secret", secrets.plant("argument")]
    users: dict[str, dict[str, Any]] = {
        "token": {"token": secret},
        "basic": {"username": "u", "password": secret},
        "exec": {"exec": exec_user(plugin, env=env, args=arguments)},
    }
    house = await build("--reject-paths=", user=users[kind])
    event = secrets.plant("event").encode()
    fields = [("Set-Cookie", secrets.plant("cookie")), ("Transfer-Encoding", "chunked")]
    house.upstream.routes[PODS] = script(head(200, fields), chunk(event), Step.WAIT_FOR_END)
    watch = await house.start(f"{PODS}?watch=true&fieldSelector={secrets.plant('selector')}")
    await watch.read_until(await watch.read_head(), event)
    shown = await everything(house)
    assert PODS in shown
    assert secrets.leaked(shown) == []
    [request] = [each for each in house.upstream.requests if each.target.startswith(PODS)]
    sent = request.value("Authorization") or ""
    assert secret in sent or secret in base64.b64decode(sent.partition(" ")[2]).decode()


# -- several contexts --


class Cities:
    """Two clusters and a third that is down, in one kubeconfig."""

    def __init__(self, house: House, clusters: dict[str, ByteUpstream]) -> None:
        self.house = house
        self.clusters = clusters


@pytest.fixture
async def cities(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Cities]]]:
    async with AsyncExitStack() as owned:

        async def start(*flags: str) -> Cities:
            clusters = {
                name: await owned.enter_async_context(ByteUpstream(answer(b"ok")))
                for name in ("bern", "lima", "-")
            }
            urls = {name: upstream.url for name, upstream in clusters.items()}
            config = Kubeconfig(tmp_path / "cities")
            for name, url in {**urls, "atlantis": "http://127.0.0.1:1"}.items():
                config.clusters[name] = {"server": url}
                config.users[name] = {"token": secrets.plant("t")}
            config.current = "bern"
            config.write()
            program = Program("--all-contexts", *flags, kubeconfig=config.path)
            await owned.enter_async_context(program)
            return Cities(House(program, clusters["bern"], owned), clusters)

        yield start


Found = Callable[..., Awaitable[Cities]]


def states(status: dict[str, Any]) -> dict[str, str]:
    return {context["name"]: context["state"] for context in status["contexts"]}


async def test_looking_opens_no_context(cities: Found) -> None:
    """What nobody has asked for stays closed, and is no part of readiness."""
    town = await cities()
    house = town.house
    for name in ("", *ENDPOINTS):
        assert (await house.get(f"/-/{name}", HTML)).status == 200
    verbose = (await house.get("/-/readyz?verbose")).text
    assert [line for line in verbose.splitlines() if "not opened" in line] == [
        '[ ]context "lima" not opened', '[ ]context "-" not opened', '[ ]context "atlantis" not opened',
    ]  # fmt: skip
    assert states(await house.status()) == {
        "bern": "open", "lima": "not opened", "-": "not opened", "atlantis": "not opened",
    }  # fmt: skip
    assert house.program.log_events("context.opened") == []


async def test_readiness_judges_what_is_open_and_names_the_dead(cities: Found) -> None:
    """One that is down makes 503, unless it is left out; its neighbours are told as well as they are."""
    town = await cities()
    house = town.house
    assert (await house.get("/clusters/lima/api")).status == 200
    assert (await house.get("/clusters/atlantis/api")).status == 502
    response = await house.get("/-/readyz")
    assert response.status == 503
    assert '[+]context "lima" ok' in response.text
    assert re.search(r'^\[-\]context "atlantis" failed: .*refused', response.text, re.MULTILINE)
    assert (await house.get("/-/readyz?exclude=atlantis")).status == 200
    assert [each.target for each in town.clusters["lima"].requests] == ["/api", "/readyz"]
    found = states(await house.status())
    assert (found["bern"], found["lima"], found["atlantis"]) == ("open", "open", "failing")
    assert await house.metric("kproxy_requests_total", context="atlantis", code="502") == 1
    assert await house.metric("kproxy_errors_total", context="atlantis", kind="connection_refused") == 1


async def test_probes_do_not_keep_a_context_open(cities: Found) -> None:
    """To ask whether it is ready is not to use it."""
    town = await cities("--context-idle=400ms")
    house = town.house
    assert (await house.get("/clusters/lima/api")).status == 200

    async def is_closed() -> bool:
        await house.get("/-/readyz")
        return states(await house.status())["lima"] == "not opened"

    await house.until(is_closed, "the end of a context that nobody uses")


async def test_a_context_named_like_our_prefix_is_below_clusters(cities: Found) -> None:
    """`/-/` is never a context, and below `/clusters/` it is nothing special."""
    town = await cities()
    house = town.house
    assert (await house.get("/clusters/-/healthz")).status == 200
    assert [each.target for each in town.clusters["-"].requests] == ["/healthz"]
    assert (await house.get("/clusters/lima/-/healthz")).text == "ok"
    assert [each.target for each in town.clusters["lima"].requests] == ["/-/healthz"]


async def test_the_origin_of_a_context_tells_of_no_other(cities: Found) -> None:
    """An app behind one cluster's service proxy has that origin: it learns nothing of the other clusters."""
    town = await cities()
    house = town.house
    for name in ("bern", "lima", "atlantis"):
        assert (await house.get(f"/clusters/{name}/api/v1/pods?watch=1")).status in (200, 502)
    host = f"lima.localhost:{house.program.port}"
    told = ""
    for target in ("/-/", "/-/status", "/-/contexts", "/-/metrics", "/-/readyz?verbose", "/-/healthz"):
        for headers in (HTML, []):
            response = await house.get(target, headers, host=host)
            assert response.status == (404 if target == "/-/metrics" else 200)
            told += response.text
    assert "lima" in told
    for other in ("bern", "atlantis", town.clusters["bern"].url):
        assert other not in told
    status = (await house.get("/-/status", host=host)).json()
    assert [each["name"] for each in status["contexts"]] == ["lima"]
    assert (status["totals"]["requests"], status["totals"]["errors"]) == (1, 0)
    everywhere = [each["name"] for each in (await house.get("/-/contexts")).json()["contexts"]]
    assert everywhere == ["bern", "lima", "-", "atlantis"]


# -- weight --


async def test_a_scrape_of_many_rows_holds_up_nobody(house: House) -> None:
    """It is written by a thread: requests meanwhile get their answers."""

    async def refuse(connection: Connection, request: Request) -> None:
        await connection.send(head(403, [("Content-Length", "0")]))

    house.upstream.responder = refuse
    client = await house.connect()
    for number in range(1500):
        await client.request("GET", f"/apis/g{number}/v1/things")
    house.upstream.responder = answer(b"ok")
    scrape = asyncio.create_task(house.get("/-/metrics"))
    answered = 0
    while not scrape.done():
        assert (await client.request("GET", "/api")).status == 200
        answered += 1
    assert (await scrape).text.count("kproxy_requests_total{") >= 1500
    # Were they held up, there would be one before the scrape and one behind it.
    assert answered > 3

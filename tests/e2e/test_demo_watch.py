"""The demo cluster's watches and logs over its socket, asked directly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from kproxy.demo import DemoCluster
from tests.e2e.clusters import config_map
from tests.e2e.demo_session import (
    CONFIGMAPS,
    DEFAULT,
    HELLO,
    MERGE,
    PODS,
    QUICK,
    DemoSession,
    open_demo,
    open_session,
)
from tests.support.patience import LAST_RESORT_SECONDS

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.fixture
async def demo() -> AsyncIterator[DemoSession]:
    async with open_demo() as session:
        yield session


async def test_a_watch_begins_with_what_is_there(demo: DemoSession) -> None:
    """Without a version, present objects come as added, then each change at once."""
    async with demo.watch(CONFIGMAPS) as events:
        assert await events.named(1) == [("ADDED", "about-this-demo")]
        await demo.ask("POST", CONFIGMAPS, config_map("a"))
        assert (await events.next())[0] == "ADDED"
        await demo.ask("PATCH", f"{CONFIGMAPS}/a", {"data": {"x": "1"}}, Content_Type=MERGE)
        kind, value = await events.next()
        assert (kind, value["data"], value["kind"]) == ("MODIFIED", {"x": "1"}, "ConfigMap")
        gone = await demo.ask("DELETE", f"{CONFIGMAPS}/a")
        kind, value = await events.next()
        assert (kind, gone["status"], value["data"]) == ("DELETED", "Success", {"x": "1"})


async def test_headers_come_before_the_first_event(demo: DemoSession) -> None:
    """A watch of a quiet namespace is open at once."""
    version = (await demo.get(CONFIGMAPS)).value["metadata"]["resourceVersion"]
    async with demo.watch(f"{CONFIGMAPS}?resourceVersion={version}") as events:
        assert events.response.headers["Transfer-Encoding"] == "chunked"
        with pytest.raises(TimeoutError):
            await events.next(0.05)


async def test_a_watch_goes_on_from_a_version(demo: DemoSession) -> None:
    """Changes after the version of a list come, none before it and none of other namespaces."""
    await demo.ask("POST", CONFIGMAPS, config_map("before"))
    version = (await demo.get(CONFIGMAPS)).value["metadata"]["resourceVersion"]
    await demo.ask("POST", CONFIGMAPS, config_map("a"))
    await demo.ask("POST", "/api/v1/namespaces/shop/configmaps", config_map("elsewhere"))
    await demo.ask("POST", CONFIGMAPS, config_map("b"))
    async with demo.watch(f"{CONFIGMAPS}?resourceVersion={version}") as events:
        assert await events.named(2) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_version_too_old_is_gone_as_an_event(demo: DemoSession) -> None:
    """The stream is 200 and holds one ERROR with the Status 410, then ends."""
    async with demo.watch(f"{CONFIGMAPS}?resourceVersion=1") as events:
        kind, value = await events.next()
        assert (kind, value["code"], value["reason"]) == ("ERROR", 410, "Expired")
        with pytest.raises(EOFError):
            await events.next()


async def test_a_watch_by_label_sees_objects_enter_and_leave(demo: DemoSession) -> None:
    """What begins to match is added, what ceases to is deleted, what never did is not seen."""

    async def label(name: str, value: str | None) -> None:
        await demo.ask(
            "PATCH", f"{CONFIGMAPS}/{name}", {"metadata": {"labels": {"on": value}}}, Content_Type=MERGE
        )

    await demo.ask("POST", CONFIGMAPS, config_map("a"))
    async with demo.watch(f"{CONFIGMAPS}?labelSelector=on%3Dyes") as events:
        await label("a", "no")
        await label("a", "yes")
        await demo.ask("PATCH", f"{CONFIGMAPS}/a", {"data": {"x": "1"}}, Content_Type=MERGE)
        await label("a", None)
        seen = [await events.next() for _ in range(3)]
        assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
        # The object as it last matched, under the version of the change that ended it.
        assert seen[2][1]["metadata"]["labels"] == {"on": "yes"}
        assert int(seen[2][1]["metadata"]["resourceVersion"]) > int(seen[1][1]["metadata"]["resourceVersion"])


async def test_one_object_can_be_watched(demo: DemoSession) -> None:
    """kubectl watches a single object by the field metadata.name."""
    async with demo.watch(f"{PODS}?fieldSelector=metadata.name%3Dclock") as events:
        assert await events.named(1) == [("ADDED", "clock")]
        patch = {"metadata": {"annotations": {"a": "b"}}}
        await demo.ask("PATCH", f"{PODS}/clock", patch, Content_Type=MERGE)
        assert await events.named(1) == [("MODIFIED", "clock")]


async def test_a_watch_ends_when_its_time_is_over(demo: DemoSession) -> None:
    """timeoutSeconds ends the stream tidily."""
    started = time.monotonic()
    async with demo.watch(f"{CONFIGMAPS}?timeoutSeconds=1") as events:
        await events.next()
        with pytest.raises(EOFError):
            await events.next()
    assert time.monotonic() - started > 0.9


async def test_bookmarks_tell_the_version_of_a_quiet_watch() -> None:
    """Who allows them gets one now and then, with the version that changes of other kinds have reached."""
    async with open_demo(bookmark_seconds=0.05) as demo:
        version = (await demo.get(CONFIGMAPS)).value["metadata"]["resourceVersion"]
        await demo.ask("PATCH", f"{PODS}/clock", {"metadata": {"labels": {"a": "b"}}}, Content_Type=MERGE)
        query = f"resourceVersion={version}&allowWatchBookmarks=true"
        async with demo.watch(f"{CONFIGMAPS}?{query}") as events:
            kind, value = await events.next()
            assert (kind, value["kind"]) == ("BOOKMARK", "ConfigMap")
            assert int(value["metadata"]["resourceVersion"]) > int(version)


async def test_initial_events_end_with_a_bookmark(demo: DemoSession) -> None:
    """Streaming lists (KEP-3157): everything as added, then the annotated bookmark, then changes."""
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with demo.watch(f"{CONFIGMAPS}?{query}") as events:
        assert await events.named(1) == [("ADDED", "about-this-demo")]
        kind, value = await events.next()
        assert kind == "BOOKMARK"
        assert value["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await demo.ask("POST", CONFIGMAPS, config_map("a"))
        assert await events.named(1) == [("ADDED", "a")]


async def test_tables_can_be_watched(demo: DemoSession) -> None:
    """`kubectl get -w`: each event is a table of one row, the first with columns."""
    async with demo.watch(PODS, Accept=TABLE) as events:
        first, second = (await events.next())[1], (await events.next())[1]
        assert [column["name"] for column in first["columnDefinitions"]][:3] == ["Name", "Ready", "Status"]
        assert second["columnDefinitions"] is None
        assert first["rows"][0]["cells"][:3] == ["clock", "1/1", "Running"]


async def test_a_web_socket_can_watch(demo: DemoSession) -> None:
    """One text message an event; closing it ends the watch."""
    url = f"{demo.cluster.url}{CONFIGMAPS}?watch=true"
    async with demo.http.ws_connect(url) as socket:
        event = await socket.receive_json(timeout=LAST_RESORT_SECONDS)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "about-this-demo")
        await demo.ask("POST", CONFIGMAPS, config_map("a"))
        event = await socket.receive_json(timeout=LAST_RESORT_SECONDS)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")
    async with demo.http.ws_connect(f"{url}&timeoutSeconds=1") as socket:
        for _ in range(2):
            assert (await socket.receive_json(timeout=LAST_RESORT_SECONDS))["type"] == "ADDED"
        assert (await socket.receive(timeout=LAST_RESORT_SECONDS)).type is aiohttp.WSMsgType.CLOSE


async def test_who_falls_behind_is_told_so() -> None:
    """A watch that does not keep up with the history ends with 410 instead of missing changes."""
    async with open_demo(history=2) as demo:
        version = (await demo.get(CONFIGMAPS)).value["metadata"]["resourceVersion"]
        for number in range(4):
            await demo.ask("POST", CONFIGMAPS, config_map(f"c{number}"))
        async with demo.watch(f"{CONFIGMAPS}?resourceVersion={version}") as events:
            kind, value = await events.next()
            assert (kind, value["code"]) == ("ERROR", 410)


async def test_a_scaled_deployment_gets_its_pods_after_a_moment(demo: DemoSession) -> None:
    """New pods go from pending to running; the deployment counts them as they become ready."""
    async with (
        demo.watch(f"{PODS}?labelSelector=app%3Dhello") as pods,
        demo.watch(
            "/apis/apps/v1/namespaces/default/deployments?fieldSelector=metadata.name%3Dhello"
        ) as deployments,
    ):
        await pods.named(2)
        await demo.ask("PATCH", f"{HELLO}/scale", {"spec": {"replicas": 3}}, Content_Type=MERGE)
        seen = [await pods.next() for _ in range(3)]
        assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "MODIFIED"]
        assert [value["status"]["phase"] for _, value in seen] == ["Pending", "Pending", "Running"]
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            ready = 0
            while ready != 3:
                ready = (await deployments.next())[1]["status"].get("readyReplicas", 0)
        await demo.ask("PATCH", f"{HELLO}/scale", {"spec": {"replicas": 0}}, Content_Type=MERGE)
        kinds = sorted(kind for kind, _ in [await pods.next() for _ in range(6)])
        assert kinds == ["DELETED"] * 3 + ["MODIFIED"] * 3


async def test_a_new_template_rolls_out(demo: DemoSession) -> None:
    """Old pods go once the new ones are ready, and the deployment says when it is done."""
    restart = {
        "spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}
    }
    before = set((await demo.get(f"{PODS}?labelSelector=app%3Dhello")).names)
    patched = await demo.ask("PATCH", HELLO, restart, Content_Type=MERGE)
    path = "/apis/apps/v1/namespaces/default/deployments?fieldSelector=metadata.name%3Dhello"
    async with demo.watch(path) as events, asyncio.timeout(LAST_RESORT_SECONDS):
        while True:
            status = (await events.next())[1]["status"]
            counts = [status.get(name) for name in ("replicas", "updatedReplicas", "readyReplicas")]
            if counts == [2, 2, 2] and status["observedGeneration"] == patched["metadata"]["generation"]:
                break
    after = (await demo.get(f"{PODS}?labelSelector=app%3Dhello")).value["items"]
    alive = {pod["metadata"]["name"] for pod in after if "deletionTimestamp" not in pod["metadata"]}
    assert len(alive) == 2
    assert not alive & before


async def test_life_shows_in_a_watch() -> None:
    """With life on, a heartbeat, an event and a tide come without anybody's doing; without it, nothing."""
    async with DemoCluster(life_seconds=0.02, settle_seconds=0.01) as cluster, open_session(cluster) as demo:
        async with demo.watch(f"{PODS}?fieldSelector=metadata.name%3Dclock") as events:
            beats = [(await events.next())[1]["metadata"]["annotations"] for _ in range(2)]
            assert all("kproxy.dev/heartbeat" in each for each in beats)
        async with demo.watch(f"{DEFAULT}/events?fieldSelector=reason%3DHeartbeat") as events:
            assert (await events.next())[1]["involvedObject"]["name"] == "clock"
        async with demo.watch(
            "/apis/apps/v1/namespaces/shop/deployments?fieldSelector=metadata.name%3Dworker"
        ) as events:
            replicas = {(await events.next())[1]["spec"]["replicas"] for _ in range(8)}
            assert replicas == {2, 3}
    async with open_demo() as demo:
        version = (await demo.get("/api/v1/pods")).value["metadata"]["resourceVersion"]
        async with demo.watch(f"/api/v1/pods?resourceVersion={version}") as events:
            with pytest.raises(TimeoutError):
                await events.next(0.3)


async def test_logs(demo: DemoSession) -> None:
    """Lines are the same at every read; tail and timestamps are kept to."""
    log = f"{PODS}/clock/log"
    whole = (await demo.get(log)).body.splitlines(keepends=True)
    tail = (await demo.get(f"{log}?tailLines=3")).body.splitlines(keepends=True)
    assert (len(whole), len(tail)) == (200, 3)
    assert tail[0] in (await demo.get(log)).body.splitlines(keepends=True)
    stamped = (await demo.get(f"{log}?tailLines=1&timestamps=true")).body.decode()
    assert stamped.split(" ")[0].endswith("Z")
    assert (await demo.get(f"{log}?tailLines=0")).body == b""


async def test_a_followed_log_goes_on_until_the_pod_is_gone(demo: DemoSession) -> None:
    """Each line comes when it is due; deleting the pod ends the stream."""
    async with demo.stream(f"{PODS}/clock/log?follow=true&tailLines=1") as lines:
        numbers = [int((await lines.line()).split()[2]) for _ in range(4)]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        await demo.ask("DELETE", f"{PODS}/clock", {"gracePeriodSeconds": 0})
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            while await lines.response.content.readline():
                pass


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("container=x", "container x is not valid for pod clock"),
        ("previous=true", 'container "clock" in pod "clock" has no previous run'),
        ("tailLines=-1", 'invalid query parameter tailLines="-1": not a whole number'),
    ],
)
async def test_a_log_that_cannot_be_shown(demo: DemoSession, query: str, message: str) -> None:
    """A clear 400 for each."""
    reply = await demo.get(f"{PODS}/clock/log?{query}")
    assert (reply.status, reply.value["message"]) == (400, message)


async def test_a_pod_that_has_not_started_has_no_log() -> None:
    """It is waiting to start, and with several containers one must be named."""
    async with open_demo(**{**QUICK, "settle_seconds": 60}) as demo:
        containers = [{"name": name, "image": "x"} for name in ("one", "two")]
        await demo.ask("POST", PODS, {"metadata": {"name": "late"}, "spec": {"containers": containers}})
        waiting = await demo.get(f"{PODS}/late/log?container=two")
        assert (
            waiting.value["message"] == 'container "two" in pod "late" is waiting to start: ContainerCreating'
        )
        unnamed = await demo.get(f"{PODS}/late/log")
        assert "choose one of: [one two]" in unnamed.value["message"]

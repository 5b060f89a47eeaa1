"""The demo cluster's API over its socket, asked directly: objects, lists, refusals, discovery, life cycle."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from kproxy.demo import DemoCluster
from kproxy.errors import ConfigError
from tests.e2e.clusters import config_map
from tests.e2e.demo_session import (
    APPLY,
    CONFIGMAPS,
    CRONTABS,
    DEFAULT,
    HELLO,
    JSON_PATCH,
    MERGE,
    PODS,
    QUICK,
    STRATEGIC,
    DemoSession,
    client_context,
    open_demo,
    open_session,
)
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.pki import CA


@pytest.fixture
async def demo() -> AsyncIterator[DemoSession]:
    async with open_demo() as session:
        yield session


def status(code: int, reason: str, message: str, details: Any = None) -> dict[str, Any]:
    value = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return value if details is None else {**value, "details": details}


async def test_json_and_yaml_make_the_same_object(demo: DemoSession) -> None:
    """A body may be either; the answer is 201 and the object."""
    first = await demo.request("POST", CONFIGMAPS, config_map("a", day="2024-01-01"))
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\ndata:\n  day: '2024-01-01'\n"
    second = await demo.request("POST", CONFIGMAPS, text, Content_Type="application/yaml")
    assert (first.status, second.status) == (201, 201)
    assert first.value["data"] == second.value["data"] == {"day": "2024-01-01"}


async def test_every_answer_carries_the_headers_of_an_api_server(demo: DemoSession) -> None:
    """Audit-Id (the client's own if it sends one), Cache-Control, Content-Type."""
    reply = await demo.get("/api/v1/nodes", Audit_ID="mine")
    other = await demo.get("/api/v1/nodes")
    assert reply.headers["Audit-Id"] == "mine" != other.headers["Audit-Id"]
    assert reply.headers["Cache-Control"] == "no-cache, private"
    assert reply.headers["Content-Type"] == "application/json"


async def test_an_update_with_a_stale_version_is_a_conflict(demo: DemoSession) -> None:
    """The second of two writers loses; without a version the last one wins; no change is no new version."""
    old = await demo.ask("POST", CONFIGMAPS, config_map("a", x="1"))
    new = await demo.ask("PUT", f"{CONFIGMAPS}/a", {**old, "data": {"x": "2"}})
    assert int(new["metadata"]["resourceVersion"]) > int(old["metadata"]["resourceVersion"])
    stale = await demo.request("PUT", f"{CONFIGMAPS}/a", {**old, "data": {"x": "3"}})
    assert stale.value == status(
        409,
        "Conflict",
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your '
        "changes to the latest version and try again",
        {"name": "a", "kind": "configmaps"},
    )
    assert (await demo.ask("PUT", f"{CONFIGMAPS}/a", new))["metadata"] == new["metadata"]
    assert (await demo.ask("PUT", f"{CONFIGMAPS}/a", config_map("a", x="4")))["data"] == {"x": "4"}


async def test_each_kind_of_patch(demo: DemoSession) -> None:
    """Merge, JSON, strategic and server-side apply change an object; apply also makes one."""
    await demo.ask("POST", CONFIGMAPS, config_map("a", x="1"))
    path = f"{CONFIGMAPS}/a"
    assert (await demo.ask("PATCH", path, {"data": {"y": "2"}}, Content_Type=MERGE))["data"] == {
        "x": "1",
        "y": "2",
    }
    operations = [{"op": "remove", "path": "/data/y"}]
    assert (await demo.ask("PATCH", path, operations, Content_Type=JSON_PATCH))["data"] == {"x": "1"}
    image = {"spec": {"template": {"spec": {"containers": [{"name": "hello", "image": "demo/hello:9"}]}}}}
    patched = await demo.ask("PATCH", HELLO, image, Content_Type=STRATEGIC)
    container = patched["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["ports"][0]["containerPort"]) == ("demo/hello:9", 8080)
    applied = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\ndata: {z: '1'}\n"
    for code in (201, 200):
        reply = await demo.request(
            "PATCH", f"{CONFIGMAPS}/new?fieldManager=test", applied, Content_Type=APPLY
        )
        assert (reply.status, reply.value["data"]) == (code, {"z": "1"})


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        (
            "GET",
            f"{PODS}/x",
            None,
            {},
            status(404, "NotFound", 'pods "x" not found', {"name": "x", "kind": "pods"}),
        ),
        (
            "GET",
            "/apis/apps/v1/namespaces/default/deployments/x",
            None,
            {},
            status(
                404,
                "NotFound",
                'deployments.apps "x" not found',
                {"name": "x", "group": "apps", "kind": "deployments"},
            ),
        ),
        (
            "POST",
            CONFIGMAPS,
            config_map("about-this-demo"),
            {},
            status(
                409,
                "AlreadyExists",
                'configmaps "about-this-demo" already exists',
                {"name": "about-this-demo", "kind": "configmaps"},
            ),
        ),
        (
            "POST",
            "/api/v1/namespaces/nowhere/configmaps",
            config_map("a"),
            {},
            status(
                404, "NotFound", 'namespaces "nowhere" not found', {"name": "nowhere", "kind": "namespaces"}
            ),
        ),
        (
            "POST",
            CONFIGMAPS,
            {"metadata": {}},
            {},
            status(
                422,
                "Invalid",
                'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required',
                {
                    "kind": "ConfigMap",
                    "causes": [
                        {
                            "reason": "FieldValueRequired",
                            "message": "Required value: name or generateName is required",
                            "field": "metadata.name",
                        }
                    ],
                },
            ),
        ),
        (
            "PUT",
            CONFIGMAPS,
            {},
            {},
            status(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
                {},
            ),
        ),
        (
            "PATCH",
            f"{CRONTABS}/my-crontab",
            {},
            {"Content_Type": STRATEGIC},
            status(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ),
        ),
        (
            "PATCH",
            f"{PODS}/clock",
            [{"op": "test", "path": "/kind", "value": "Cat"}],
            {"Content_Type": JSON_PATCH},
            status(422, "Invalid", "the server rejected our request due to an error in our request", {}),
        ),
        (
            "GET",
            "/api/v1/pods",
            None,
            {"Accept": "application/cbor"},
            status(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json",
            ),
        ),
        (
            "GET",
            "/openapi/v2",
            None,
            {"Accept": "application/json;q=0"},
            status(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json",
            ),
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default",
            None,
            {},
            status(
                403,
                "Forbidden",
                'namespaces "default" is forbidden: this namespace may not be deleted',
                {"name": "default", "kind": "namespaces"},
            ),
        ),
    ],
)
async def test_refusals_are_statuses_as_kubernetes_writes_them(
    demo: DemoSession, method: str, path: str, body: Any, headers: dict[str, str], expected: dict[str, Any]
) -> None:
    """Clients read kind, reason, message, details and code of a refusal."""
    reply = await demo.request(method, path, body, **headers)
    assert reply.value == expected
    assert reply.status == expected["code"]


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        (CONFIGMAPS, b"{", "application/json"),
        (CONFIGMAPS, b"\xff", "application/json"),
        (CONFIGMAPS, b"a: [", "application/yaml"),
        (CONFIGMAPS, b"--- 1\n--- 2\n", "application/yaml"),
        (CONFIGMAPS, b"k8s\0\xff", "application/vnd.kubernetes.protobuf"),
    ],
)
async def test_a_body_that_is_none_is_a_bad_request(
    demo: DemoSession, path: str, body: bytes, content_type: str
) -> None:
    """What does not parse is 400 in each format, and a form is 415."""
    reply = await demo.request("POST", path, body, Content_Type=content_type)
    assert (reply.status, reply.value["reason"]) == (400, "BadRequest")
    form = await demo.request("POST", path, body, Content_Type="application/x-www-form-urlencoded")
    assert (form.status, form.value["reason"]) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", CONFIGMAPS, b'{"metadata":{"name":"a"},"x":NaN}', {}),
        ("POST", CONFIGMAPS, b'{"metadata":{"name":"a"},"data":{"x":"\\ud800"}}', {}),
        ("POST", CONFIGMAPS, b"metadata: {name: a}\ndata: {x: .nan}", {"Content_Type": "application/yaml"}),
        ("POST", CONFIGMAPS, b'{"metadata":' * 20_000, {}),
        ("POST", CRONTABS, {"metadata": {"name": "a"}}, {}),
        ("PUT", f"{HELLO}/scale", {"metadata": "x"}, {}),
        ("PATCH", f"{HELLO}/scale", {"spec": "x"}, {"Content_Type": MERGE}),
        ("PATCH", HELLO, {"spec": {"template": {"spec": {"containers": 1}}}}, {"Content_Type": STRATEGIC}),
        ("PATCH", HELLO, "x", {"Content_Type": STRATEGIC}),
        ("PATCH", HELLO, ["x"], {"Content_Type": JSON_PATCH}),
    ],
)
async def test_a_body_of_the_wrong_shape_is_a_bad_request(
    demo: DemoSession, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    """What would be stored or read in a wrong way is refused before it does harm."""
    reply = await demo.request(method, path, body, **headers)
    assert (reply.status, reply.value["reason"]) == (400, "BadRequest")


async def test_who_has_no_certificate_is_anonymous() -> None:
    """Without one everything but version and health is 403; a token nobody knows is 401."""
    async with DemoCluster(**QUICK) as cluster, open_session(cluster, certificate=False) as nobody:
        reply = await nobody.get(f"{PODS}/clock")
        assert reply.value == status(
            403,
            "Forbidden",
            'pods "clock" is forbidden: User "system:anonymous" cannot get resource "pods" in API group "" '
            'in the namespace "default"',
            {"name": "clock", "kind": "pods"},
        )
        assert (await nobody.get("/api")).status == 403
        for path in ("/version", "/healthz", "/livez", "/readyz?verbose"):
            assert (await nobody.get(path)).status == 200
        assert (await nobody.get("/version", Authorization="Bearer unknown")).value == status(
            401, "Unauthorized", "Unauthorized"
        )


async def test_a_certificate_of_another_authority_does_not_shake_hands() -> None:
    """A stranger's certificate is refused by TLS, not taken for anonymous."""
    async with DemoCluster(**QUICK) as cluster:
        context = client_context(cluster, certificate=False)
        certificate, key = CA("another").issue("stranger", client=True)
        pair = Path(cluster.kubeconfig_path.parent) / "stranger.pem"
        pair.write_bytes(certificate + key)
        context.load_cert_chain(pair)
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as http:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await http.get(cluster.url + "/version")


async def test_reviews_tell_who_one_is(demo: DemoSession) -> None:
    """The certificate's user, or the one that is impersonated with its groups."""
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    body = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
    me = await demo.ask("POST", path, body)
    assert me["status"]["userInfo"]["username"] == "kproxy-demo-admin"
    headers = {"Impersonate_User": "bob", "Impersonate_Group": "devs"}
    bob = await demo.ask("POST", path, body, **headers)
    assert bob["status"]["userInfo"] == {
        "username": "bob",
        "groups": ["devs", "system:authenticated"],
    }
    nobody = await demo.get("/api/v1/pods", Impersonate_User="system:anonymous")
    assert nobody.status == 403


async def test_pages_go_on_where_the_last_one_ended(demo: DemoSession) -> None:
    """All have the version of the first, so that a watch from there misses nothing of what came between."""
    for name in "abcde":
        await demo.ask("POST", CONFIGMAPS, config_map(name))
    first = await demo.get(f"{CONFIGMAPS}?limit=2")
    metadata = first.value["metadata"]
    assert (first.names, metadata["remainingItemCount"]) == (["a", "about-this-demo"], 4)
    await demo.ask("DELETE", f"{CONFIGMAPS}/c")
    await demo.ask("POST", CONFIGMAPS, config_map("bb"))
    second = await demo.get(f"{CONFIGMAPS}?limit=10&continue={metadata['continue']}")
    assert second.names == ["b", "bb", "d", "e"]
    assert second.value["metadata"] == {"resourceVersion": metadata["resourceVersion"]}
    assert (await demo.get(f"{CONFIGMAPS}?continue=nonsense")).status == 400


async def test_versions_of_the_future_and_of_an_earlier_cluster() -> None:
    """One to come is a 504; that of a demo before is gone, so its client lists anew."""
    async with open_demo() as earlier:
        version = (await earlier.get(CONFIGMAPS)).value["metadata"]["resourceVersion"]
    async with open_demo() as demo:
        future = await demo.get(f"{CONFIGMAPS}?resourceVersion={10**17}")
        assert (future.status, future.value["reason"]) == (504, "Timeout")
        assert (await demo.get(f"{CONFIGMAPS}?resourceVersion=x")).status == 400
        async with demo.watch(f"{CONFIGMAPS}?resourceVersion={version}") as events:
            kind, value = await events.next()
            assert (kind, value["code"]) == ("ERROR", 410)


async def test_lists_select(demo: DemoSession) -> None:
    """By labels, by fields, in one namespace or in all."""
    assert len((await demo.get("/api/v1/pods?labelSelector=app+in+(web,cart)")).names) == 5
    reply = await demo.get("/api/v1/pods?fieldSelector=metadata.name%3Dclock,status.phase%3DRunning")
    assert reply.names == ["clock"]
    assert (await demo.get("/api/v1/pods?fieldSelector=spec.color%3Dred")).status == 400


async def test_a_big_list_is_compressed_for_who_takes_it(demo: DemoSession) -> None:
    """2 MB come whole, in chunks; with gzip they are small and the same."""
    for name in "ab":
        await demo.ask("POST", CONFIGMAPS, config_map(name, data="x" * 1_000_000))
    plain = await demo.get(CONFIGMAPS, Accept_Encoding="identity")
    small = await demo.get(CONFIGMAPS, Accept_Encoding="gzip")
    assert len(plain.body) > 2_000_000
    assert plain.headers["Transfer-Encoding"] == "chunked"
    assert small.headers["Content-Encoding"] == "gzip"
    assert plain.value == small.value
    assert "Content-Encoding" not in (await demo.get(PODS, Accept_Encoding="gzip")).headers


async def test_a_config_map_may_be_big(demo: DemoSession) -> None:
    """10 MB go up and come back."""
    big = "x" * 10_000_000
    await demo.ask("POST", CONFIGMAPS, config_map("big", data=big))
    assert (await demo.get(f"{CONFIGMAPS}/big")).value["data"]["data"] == big


async def test_dry_run_changes_nothing(demo: DemoSession) -> None:
    """The answer is as if, the store as before."""
    made = await demo.request("POST", f"{CONFIGMAPS}?dryRun=All", config_map("a"))
    assert made.status == 201
    assert (await demo.get(f"{CONFIGMAPS}/a")).status == 404
    await demo.ask("DELETE", f"{CONFIGMAPS}/about-this-demo?dryRun=All")
    assert (await demo.get(f"{CONFIGMAPS}/about-this-demo")).status == 200


async def test_deleting_answers_a_status_or_what_is_about_to_go(demo: DemoSession) -> None:
    """A config map is gone at once; a pod is terminating for a while unless that is zero."""
    gone = await demo.ask("DELETE", f"{CONFIGMAPS}/about-this-demo")
    assert (gone["kind"], gone["status"], gone["details"]["name"]) == ("Status", "Success", "about-this-demo")
    pod = await demo.ask("DELETE", f"{PODS}/clock")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 30
    name = (await demo.get(f"{PODS}?labelSelector=app%3Dhello")).names[0]
    await demo.ask("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
    assert (await demo.get(f"{PODS}/{name}")).status == 404


async def test_finalizers_hold_up_a_deletion(demo: DemoSession) -> None:
    """A finalizer keeps the object until it is taken off."""
    body = {**config_map("a"), "metadata": {"name": "a", "finalizers": ["example.com/wait"]}}
    await demo.ask("POST", CONFIGMAPS, body)
    waiting = await demo.ask("DELETE", f"{CONFIGMAPS}/a")
    assert waiting["metadata"]["deletionTimestamp"]
    await demo.ask("PATCH", f"{CONFIGMAPS}/a", {"metadata": {"finalizers": None}}, Content_Type=MERGE)
    assert (await demo.get(f"{CONFIGMAPS}/a")).status == 404


async def test_a_collection_is_deleted_as_selected(demo: DemoSession) -> None:
    """Only what the selector matches goes; the answer lists it."""
    for name in "ab":
        body = {**config_map(name), "metadata": {"name": name, "labels": {"who": name}}}
        await demo.ask("POST", CONFIGMAPS, body)
    gone = await demo.request("DELETE", f"{CONFIGMAPS}?labelSelector=who%3Da")
    assert gone.names == ["a"]
    assert (await demo.get(CONFIGMAPS)).names == ["about-this-demo", "b"]


async def test_scale_is_a_view_of_a_deployment(demo: DemoSession) -> None:
    """It can be read, put and patched; a negative number is refused."""
    scale = await demo.ask("GET", f"{HELLO}/scale")
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == (
        "Scale",
        {"replicas": 2},
        "app=hello",
    )
    scale["spec"]["replicas"] = 4
    assert (await demo.ask("PUT", f"{HELLO}/scale", scale))["spec"] == {"replicas": 4}
    stale = await demo.request("PUT", f"{HELLO}/scale", scale)
    assert stale.status == 409
    patch = {"spec": {"replicas": 1}}
    assert (await demo.ask("PATCH", f"{HELLO}/scale", patch, Content_Type=MERGE))["spec"] == patch["spec"]
    wrong = await demo.request("PATCH", f"{HELLO}/scale", {"spec": {"replicas": -1}}, Content_Type=MERGE)
    assert (wrong.status, wrong.value["reason"]) == (422, "Invalid")
    assert (await demo.ask("GET", HELLO))["spec"]["replicas"] == 1


async def test_the_status_of_a_pod_is_written_apart(demo: DemoSession) -> None:
    """/status writes the status alone, the pod itself everything else."""
    pod = await demo.ask("GET", f"{PODS}/clock")
    pod["metadata"]["labels"] = {"a": "b"}
    pod["status"]["phase"] = "Failed"
    both = await demo.ask("PUT", f"{PODS}/clock", pod)
    assert (both["metadata"]["labels"], both["status"]["phase"]) == ({"a": "b"}, "Running")
    patch = {"metadata": {"labels": {"c": "d"}}, "status": {"phase": "Failed"}}
    apart = await demo.ask("PATCH", f"{PODS}/clock/status", patch, Content_Type=MERGE)
    assert (apart["metadata"]["labels"], apart["status"]["phase"]) == ({"a": "b"}, "Failed")


async def test_a_definition_makes_a_kind(demo: DemoSession) -> None:
    """As soon as it is there its objects can be kept and discovered; with it they go."""
    names = {"plural": "cats", "kind": "Cat", "shortNames": ["meow"]}
    version = {"name": "v1", "served": True, "storage": True}
    spec = {"group": "example.com", "scope": "Cluster", "names": names, "versions": [version]}
    body = {"metadata": {"name": "cats.example.com"}, "spec": spec}
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    made = await demo.ask("POST", definitions, body)
    assert {each["type"] for each in made["status"]["conditions"]} == {"NamesAccepted", "Established"}
    cat = {"apiVersion": "example.com/v1", "kind": "Cat", "metadata": {"name": "tom"}, "color": "grey"}
    kept = await demo.ask("POST", "/apis/example.com/v1/cats", cat)
    assert (kept["color"], kept["metadata"]["generation"]) == ("grey", 1)
    resources = (await demo.ask("GET", "/apis/example.com/v1"))["resources"]
    assert [each["name"] for each in resources] == ["cats"]
    no_version = await demo.request("PUT", "/apis/example.com/v1/cats/tom", cat)
    assert no_version.status == 422
    await demo.ask("DELETE", f"{definitions}/cats.example.com")
    assert (await demo.get("/apis/example.com/v1/cats")).status == 404
    await demo.ask("POST", definitions, body)
    assert (await demo.get("/apis/example.com/v1/cats")).names == []


async def test_discovery_names_what_can_be_listed(demo: DemoSession) -> None:
    """Each group's document names its resources, and what has the verb `list` answers one."""
    groups = [
        group["preferredVersion"]["groupVersion"] for group in (await demo.ask("GET", "/apis"))["groups"]
    ]
    listed = set()
    for path in ("/api/v1", *(f"/apis/{each}" for each in groups)):
        for each in (await demo.ask("GET", path))["resources"]:
            if "list" in each["verbs"]:
                assert (await demo.ask("GET", f"{path}/{each['name']}"))["kind"] == f"{each['kind']}List"
                listed.add(each["name"])
    assert {"pods", "deployments", "crontabs", "customresourcedefinitions"} < listed


async def test_the_version_says_what_this_is(demo: DemoSession) -> None:
    """Nobody can take it for a real cluster."""
    assert (await demo.ask("GET", "/version"))["gitVersion"].endswith("+kproxy-demo")
    nodes = (await demo.ask("GET", "/api/v1/nodes"))["items"]
    assert all(node["metadata"]["labels"]["kproxy.dev/demo"] == "true" for node in nodes)


@pytest.mark.parametrize("path", ["/nothing", "/api/v2", "/apis/none", "/apis/none/v1", "/openapi/v3/api/v9"])
async def test_what_is_not_there_is_the_plain_404_of_go(demo: DemoSession, path: str) -> None:
    """Not a Status: clients tell an unknown resource from a missing object by that."""
    reply = await demo.get(path)
    assert (reply.status, reply.body) == (404, b"404 page not found\n")


async def test_ports_cannot_be_forwarded_and_services_show_a_page(demo: DemoSession) -> None:
    """What is not pretended says so; what a path shows is escaped."""
    refused = await demo.request("POST", f"{PODS}/clock/portforward")
    assert (refused.status, refused.value["reason"]) == (501, "NotImplemented")
    page = await demo.get(f"{DEFAULT}/services/hello/proxy/%3Cscript%3E")
    assert b"GET /&lt;script&gt;" in page.body
    assert page.headers["Content-Type"].startswith("text/html")


async def test_a_deployment_and_a_namespace_clean_up_after_themselves(demo: DemoSession) -> None:
    """Pods follow their deployment, and everything its namespace."""
    await demo.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "here"}})
    await demo.ask("POST", "/api/v1/namespaces/here/configmaps", config_map("a"))
    async with demo.watch("/api/v1/namespaces?fieldSelector=metadata.name%3Dhere") as events:
        assert await events.next()
        assert (await demo.ask("DELETE", "/api/v1/namespaces/here"))["status"]["phase"] == "Terminating"
        assert [kind for kind, _ in await events.named(2)] == ["MODIFIED", "DELETED"]
    assert (await demo.get("/api/v1/namespaces/here/configmaps/a")).status == 404
    async with demo.watch(f"{PODS}?labelSelector=app%3Dhello") as events:
        await events.named(2)
        await demo.ask("DELETE", HELLO)
        kinds = [kind for kind, _ in await events.named(4)]
        assert sorted(kinds) == ["DELETED", "DELETED", "MODIFIED", "MODIFIED"]


def leftovers(cluster: DemoCluster) -> list[Path]:
    return [path for path in (cluster.kubeconfig_path, cluster.kubeconfig_path.parent) if path.exists()]


async def test_nothing_is_left_of_it(demo: DemoSession) -> None:
    """Only its user can read its folder, which holds the kubeconfig alone and is gone afterwards."""
    async with DemoCluster(**QUICK) as cluster:
        folder = cluster.kubeconfig_path.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert cluster.kubeconfig_path.stat().st_mode & 0o777 == 0o600
        assert [each.name for each in folder.iterdir()] == ["kubeconfig"]
        assert cluster.kubeconfig_path.read_text() == cluster.kubeconfig
        assert yaml.safe_load(cluster.kubeconfig)["clusters"][0]["cluster"]["server"] == cluster.url
    assert leftovers(cluster) == []


async def test_it_stops_at_once_under_open_watches() -> None:
    """Watches and followed logs do not hold up the end, nor does being cancelled."""
    started = asyncio.Event()
    kept: list[DemoCluster] = []

    async def serve() -> None:
        async with DemoCluster(**QUICK) as cluster, open_session(cluster) as session:
            kept.append(cluster)
            async with session.watch(PODS), session.stream(f"{PODS}/clock/log?follow=true"):
                started.set()
                await asyncio.Event().wait()

    serving = asyncio.ensure_future(serve())
    await started.wait()
    serving.cancel()
    async with asyncio.timeout(LAST_RESORT_SECONDS):
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert leftovers(kept[0]) == []


async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    """The message names the address; nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = DemoCluster(port=port)
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*choose another port"):
            async with cluster:
                pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_on_a_signal(number: int) -> None:
    """It prints where it is, ends with 0 on either signal, and takes its folder with it."""
    command = [sys.executable, "-m", "kproxy.demo", "--no-life"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        lines = [program.stdout.readline().decode().split(": ", 1) for _ in range(2)]
        assert [name for name, _ in lines] == ["kubeconfig", "server"]
        path = Path(lines[0][1].strip())
        assert yaml.safe_load(path.read_text())["clusters"][0]["cluster"]["server"] == lines[1][1].strip()
        program.send_signal(number)
        assert program.wait(LAST_RESORT_SECONDS) == 0
        assert program.stderr.read() == b""
    assert not path.parent.exists()

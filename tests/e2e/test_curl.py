"""curl through kproxy: the whole life of an object, watches, and the odd requests that curl can make."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clusters import Api, Cluster, config_map
from tests.e2e.conftest import Serve
from tests.support.program import Process, Program
from tests.support.tools import needs

pytestmark = needs("curl")

SECONDS = "60"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    status: int
    version: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def curl(*args: str, data: bytes | None = None) -> Reply:
    """Run curl to its end, which must be a good one; `data` is its standard input."""
    written = "%{stderr}%{http_code} %{http_version}\n%{header_json}"
    done = subprocess.run(
        ["curl", "-q", "-sS", "--max-time", SECONDS, "-w", written, *args],
        input=data,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    summary, _, headers = done.stderr.decode().partition("\n")
    status, version = summary.split()
    return Reply(
        status=int(status),
        version=version,
        headers={name: values[0] for name, values in json.loads(headers).items()},
        body=done.stdout,
    )


def body_of(value: Any, media_type: str = "application/json") -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value)
    return ["-H", f"Content-Type: {media_type}", "--data-binary", text]


@pytest.fixture
def maps(proxy: Program, namespace: str) -> str:
    """The URL of the config maps of a new namespace."""
    return f"{proxy.url}/api/v1/namespaces/{namespace}/configmaps"


def test_the_version_is_that_of_the_cluster(proxy: Program) -> None:
    """What everybody tries first."""
    reply = curl(f"{proxy.url}/version")
    assert (reply.status, reply.version) == (200, "1.1")
    assert "gitVersion" in reply.json


def test_pods_are_listed(proxy: Program) -> None:
    """All of them, with nothing said about credentials."""
    reply = curl(f"{proxy.url}/api/v1/pods")
    assert reply.status == 200
    assert reply.json["kind"] == "PodList"


def test_an_object_is_made_from_json_and_from_yaml(maps: str) -> None:
    """The API server reads either, so both must pass with their Content-Type."""
    assert curl(*body_of(config_map("from-json", a="1")), maps).status == 201
    yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  b: two\n"
    assert curl(*body_of(yaml, "application/yaml"), maps).status == 201
    assert curl(f"{maps}/from-json").json["data"] == {"a": "1"}
    assert curl(f"{maps}/from-yaml").json["data"] == {"b": "two"}


def test_put_replaces_and_tells_a_conflict(maps: str) -> None:
    """The second PUT with the version of the first answer but one is 409, in the API server's words."""
    made = curl(*body_of(config_map("it", a="1")), maps).json
    changed = curl("-X", "PUT", *body_of({**made, "data": {"a": "2"}}), f"{maps}/it")
    assert (changed.status, changed.json["data"]) == (200, {"a": "2"})
    stale = curl("-X", "PUT", *body_of({**made, "data": {"a": "3"}}), f"{maps}/it")
    assert (stale.status, stale.json["reason"]) == (409, "Conflict")


@pytest.mark.parametrize(
    ("media_type", "patch"),
    [
        (MERGE, {"data": {"a": "2", "gone": None}}),
        (
            JSON_PATCH,
            [{"op": "replace", "path": "/data/a", "value": "2"}, {"op": "remove", "path": "/data/gone"}],
        ),
        (STRATEGIC, {"data": {"a": "2", "gone": None}}),
    ],
    ids=["merge", "json", "strategic"],
)
def test_patches(maps: str, media_type: str, patch: Any) -> None:
    """Each type of patch reaches the API server as what it is."""
    curl(*body_of(config_map("it", a="1", gone="soon", kept="yes")), maps)
    reply = curl("-X", "PATCH", *body_of(patch, media_type), f"{maps}/it")
    assert (reply.status, reply.json["data"]) == (200, {"a": "2", "kept": "yes"})


def test_server_side_apply_makes_and_changes(maps: str) -> None:
    """A PATCH that creates, with its owner in the query."""
    url = f"{maps}/applied?fieldManager=curl-test"
    made = curl("-X", "PATCH", *body_of(config_map("applied", a="1"), APPLY), url)
    assert (made.status, made.json["data"]) == (201, {"a": "1"})
    changed = curl("-X", "PATCH", *body_of(config_map("applied", a="2"), APPLY), url)
    assert (changed.status, changed.json["data"]) == (200, {"a": "2"})


def test_one_object_and_a_collection_are_deleted(maps: str) -> None:
    """DELETE of an object, of those with a label, and what is left afterwards."""
    for name, labels in (("one", {}), ("two", {"go": "away"}), ("three", {"go": "away"}), ("four", {})):
        body = config_map(name)
        body["metadata"]["labels"] = labels
        assert curl(*body_of(body), maps).status == 201
    assert curl("-X", "DELETE", f"{maps}/one").status == 200
    assert curl("-X", "DELETE", f"{maps}?labelSelector=go%3Daway").status == 200
    left = {each["metadata"]["name"] for each in curl(maps).json["items"]}
    assert left - {"kube-root-ca.crt"} == {"four"}
    assert curl(f"{maps}/one").status == 404


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_a_watch_shows_a_change_at_once(maps: str, namespace: str, api: Api, version: str) -> None:
    """Within 0.2 s of the answer to the change, if the machine is not busy; the headers before any event."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    since = api.ask("POST", path, config_map("seen"))["metadata"]["resourceVersion"]
    url = f"{maps}?watch=true&resourceVersion={since}&fieldSelector=metadata.name%3Dseen"
    # -v, since curl keeps back what -i shows until there is more of it.
    watch = Process(["curl", "-q", "-sSNv", version, "--max-time", SECONDS, url])
    delays = []
    with watch:
        watch.wait_for_output(r"^< HTTP/1\.. 200 OK")
        assert watch.stdout == ""
        for number in range(10):
            api.merge(f"{path}/seen", {"data": {"number": f"n{number}"}})
            changed_at = time.monotonic()
            watch.wait_for_output(f'"MODIFIED".*"number":"n{number}"', "stdout")
            delays.append(time.monotonic() - changed_at)
    assert sorted(delays)[2] < 0.2, delays


def test_http_1_0_gets_a_whole_answer(proxy: Program) -> None:
    """A client that knows no chunks and no keep-alive reads to the end of the connection."""
    reply = curl("--http1.0", f"{proxy.url}/api/v1/namespaces")
    assert reply.status == 200
    assert "transfer-encoding" not in reply.headers
    assert reply.json["kind"] == "NamespaceList"


def test_an_upgrade_to_http_2_is_ignored(proxy: Program) -> None:
    """RFC 9110 section 7.8: a server may go on with the protocol in use; kubectl proxy answers 500."""
    if "HTTP2" not in subprocess.run(["curl", "-V"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("this curl has no HTTP/2")
    reply = curl("--http2", f"{proxy.url}/version")
    assert (reply.status, reply.version) == (200, "1.1")
    assert "gitVersion" in reply.json


@pytest.mark.parametrize("way", ["file", "pipe", "expect"])
def test_uploads(maps: str, tmp_path: Path, way: str) -> None:
    """-T sends a file with its length, or a pipe in chunks; with Expect it waits for a 100 first."""
    made = curl(*body_of(config_map("big")), maps).json
    content = json.dumps({**made, "data": {"padding": "x" * 600_000}}).encode()
    file = tmp_path / "content"
    file.write_bytes(content)
    # Without a 100 curl would wait for longer than it may.
    expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "600"] if way == "expect" else []
    reply = curl(
        *expect,
        *("-H", "Content-Type: application/json"),
        *("-T", "-" if way == "pipe" else str(file)),
        f"{maps}/big",
        data=content if way == "pipe" else None,
    )
    assert reply.status == 200
    assert len(reply.json["data"]["padding"]) == 600_000


def test_parts_of_a_static_file(serve: Serve, cluster: Cluster, tmp_path: Path) -> None:
    """Ranges, as a download manager or a video asks for them, and one that is not there."""
    (tmp_path / "numbers.txt").write_text("0123456789")
    with Program(f"--www={tmp_path}", kubeconfig=cluster.kubeconfig) as program:
        url = f"{program.url}/static/numbers.txt"
        whole = curl(url)
        assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, b"0123456789", "bytes")
        for part, body, shown in (
            ("2-4", b"234", "bytes 2-4/10"),
            ("7-", b"789", "bytes 7-9/10"),
            ("-2", b"89", "bytes 8-9/10"),
        ):
            reply = curl("-r", part, url)
            assert (reply.status, reply.body, reply.headers["content-range"]) == (206, body, shown)
        assert curl("-r", "20-", url).status == 416
        resumed = tmp_path / "download"
        resumed.write_text("01234")
        curl("-C", "-", "-o", str(resumed), url)
        assert resumed.read_text() == "0123456789"


def test_a_unix_socket_serves_the_same(cluster: Cluster, tmp_path: Path) -> None:
    """--unix-socket on both sides."""
    path = tmp_path / "kproxy.sock"
    with Program(f"--unix-socket={path}", kubeconfig=cluster.kubeconfig):
        reply = curl("--unix-socket", str(path), "http://localhost/api/v1/namespaces/default")
    assert (reply.status, reply.json["metadata"]["name"]) == (200, "default")


@pytest.mark.parametrize("path", ["/api/v1/secrets", "/version", "/static/", "/"])
def test_a_foreign_host_is_refused(proxy: Program, path: str) -> None:
    """A name that somebody points to this machine (DNS rebinding); the Status names the rule."""
    reply = curl("-H", "Host: evil.example", proxy.url + path)
    assert reply.status == 403
    assert (reply.json["kind"], reply.json["reason"]) == ("Status", "Forbidden")
    assert "Host 'evil.example' is not in --accept-hosts" in reply.json["message"]
    assert "--accept-hosts=" in reply.json["message"]


def test_a_failure_of_the_cluster_passes_as_it_is(proxy: Program) -> None:
    """404 of an object is the API server's own Status, with its own number for the request."""
    reply = curl(f"{proxy.url}/api/v1/namespaces/default/configmaps/none")
    assert (reply.status, reply.json["reason"], reply.json["details"]["name"]) == (404, "NotFound", "none")
    assert reply.headers["audit-id"]
    assert "proxy-status" not in reply.headers

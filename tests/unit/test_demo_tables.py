"""How the demo cluster shows objects: ages, columns, media types."""

from __future__ import annotations

import json

import pytest

from kproxy.demo.clock import age
from kproxy.demo.kinds import NODES, PODS, SECRETS, Kind
from kproxy.demo.status import ApiError
from kproxy.demo.store import Event, Store
from kproxy.demo.views import View, choose_view, columns_of

MINUTE, HOUR, DAY = 60, 3600, 86_400
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (2 * MINUTE, "2m"),
        (2 * MINUTE + 5, "2m5s"),
        (10 * MINUTE + 5, "10m"),
        (3 * HOUR, "3h"),
        (7 * HOUR + 59 * MINUTE, "7h59m"),
        (8 * HOUR + 59 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (3 * DAY + 4 * HOUR, "3d4h"),
        (9 * DAY, "9d"),
        (365 * DAY, "365d"),
    ],
)
def test_ages(seconds: float, shown: str) -> None:
    """An age reads as in kubectl's tables."""
    assert age(seconds) == shown


def pod(**status: object) -> dict[str, object]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"containers": [{"name": "x"}, {"name": "y"}]},
        "status": status,
    }


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running"}, "Running"),
        (
            {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "Creating"}}}]},
            "Creating",
        ),
        ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "Error"}}}]}, "Error"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        ({}, "Unknown"),
    ],
)
def test_the_status_column_of_a_pod(status: dict[str, object], shown: str) -> None:
    """What keeps a pod from running is said in its STATUS."""
    cells = {column.definition["name"]: column.show(pod(**status)) for column in columns_of(PODS)}
    assert (cells["Status"], cells["Ready"], cells["IP"]) == (shown, "0/2", "<none>")


def test_a_node_with_a_bare_status_is_shown() -> None:
    """One odd node that somebody stored must not keep the others from being listed."""
    node = {"metadata": {"name": "n"}, "status": {"conditions": [{}], "addresses": [{}]}}
    cells = {column.definition["name"]: column.show(node) for column in columns_of(NODES)}
    assert (cells["Status"], cells["Internal-IP"]) == ("Unknown", "<none>")


def test_columns_of_a_custom_kind_come_from_its_definition() -> None:
    """additionalPrinterColumns with their JSON paths and priorities; a path that leads nowhere is empty."""
    kind = Kind(
        kind="CronTab",
        plural="crontabs",
        singular="crontab",
        list_kind="CronTabList",
        group="stable.example.com",
        custom=True,
        columns=(
            {"name": "Name"},
            {"name": "Schedule", "type": "string", "jsonPath": ".spec.cronSpec"},
            {"name": "Label", "type": "string", "jsonPath": ".metadata.labels['a']", "priority": 1},
            {"name": "Last", "type": "date", "jsonPath": ".status.last"},
        ),
    )
    value = {"metadata": {"name": "c", "labels": {"a": "b"}}, "spec": {"cronSpec": "* * * * *"}}
    columns = columns_of(kind)
    assert [column.show(value) for column in columns] == ["c", "* * * * *", "b", "<unknown>"]
    assert [column.definition["priority"] for column in columns] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("accept", "is_table"),
    [
        ("", False),
        ("*/*", False),
        ("text/html;q=0.9, application/*;q=0.8", False),
        ("application/yaml, application/json", False),
        (TABLE, True),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", False),
        (f"application/json;as=Table;g=meta.k8s.io;v=v1beta1,{TABLE}", True),
        ("application/vnd.kubernetes.protobuf,application/json", False),
    ],
)
def test_the_accept_header_chooses_the_view(accept: str, is_table: bool) -> None:
    """The most wanted form that can be made is taken, tables only when they were asked for."""
    assert choose_view(accept, {}, "test").is_table is is_table


@pytest.mark.parametrize("accept", ["application/cbor", "application/json;q=0", "text/html", "x/yaml"])
def test_nothing_acceptable_is_406(accept: str) -> None:
    """A client that takes none of our media types is told which there are."""
    with pytest.raises(ApiError, match="only the following media types are accepted") as caught:
        choose_view(accept, {}, "test")
    assert caught.value.code == 406


def test_lists_of_built_in_kinds_do_not_repeat_the_kind() -> None:
    """Items are bare, as a real server's, and the whole is JSON."""
    store = Store()
    value = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "type": "Opaque"}
    store.put("secrets", value)
    shown = json.loads(View().show_list(SECRETS, store.objects("secrets"), {"resourceVersion": "7"}))
    assert (shown["kind"], shown["apiVersion"], shown["metadata"]) == (
        "SecretList",
        "v1",
        {"resourceVersion": "7"},
    )
    assert list(shown["items"][0]) == ["metadata", "type"]


def test_only_the_first_table_of_a_watch_defines_columns() -> None:
    """kubectl remembers them from there on."""
    store = Store()
    stored = store.put("pods", pod(phase="Running"))
    event = Event(change="ADDED", stored=stored, previous=None)
    view = choose_view(TABLE, {"includeObject": "Object"}, "test")
    first, second = (json.loads(view.event(PODS, event, first=first))["object"] for first in (True, False))
    assert [column["name"] for column in first["columnDefinitions"]][:2] == ["Name", "Ready"]
    assert second["columnDefinitions"] is None
    assert second["rows"][0]["object"]["kind"] == "Pod"


def test_people_get_indented_json_unless_it_is_big() -> None:
    """curl and browsers get lines to read; indenting megabytes would hold up the process."""
    small, big = {"a": 1}, {"a": "x" * 300_000}
    view = choose_view("*/*", {}, "curl/8.0")
    assert view.write_value(small) == b'{\n  "a": 1\n}\n'
    assert b"\n  " not in view.write_value(big)
    assert choose_view("*/*", {"pretty": "false"}, "curl/8.0").write_value(small) == b'{"a":1}\n'

"""The demo cluster's memory: versions and history."""

from __future__ import annotations

import json

import pytest

from kproxy.demo.store import Expired, Store


def config_map(name: str, **data: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": "default"}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data}


def test_every_write_gets_a_higher_version_which_the_object_carries() -> None:
    """Versions rise over all kinds together, and are those in the objects' metadata."""
    store = Store()
    first = store.put("configmaps", config_map("a"))
    second = store.put("secrets", config_map("b"))
    removed = store.remove("configmaps", "default", "a")
    assert first.version < second.version < removed.version == store.version
    assert removed.value["metadata"]["resourceVersion"] == str(removed.version)


def test_a_put_value_is_not_changed_in_place() -> None:
    """A caller's value stays as it was, so that stored versions can share their parts."""
    store = Store()
    value = config_map("a")
    store.put("configmaps", value)
    assert value == config_map("a")


def test_the_text_begins_with_the_kind_whatever_the_order_of_the_value() -> None:
    """Lists cut the kind off the text's beginning, so it must be there for a value in any order."""
    store = Store()
    stored = store.put("configmaps", {"data": {"ä": "1"}, **config_map("a")})
    assert stored.text.startswith(b'{"kind":"ConfigMap","apiVersion":"v1",')
    assert json.loads(stored.text) == stored.value


def test_objects_come_by_namespace_and_name() -> None:
    """A list is ordered as etcd's keys are, and one namespace can be asked for alone."""
    store = Store()
    for namespace, name in (("b", "a"), ("a", "z"), ("a", "b")):
        value = config_map(name)
        value["metadata"] = {"name": name, "namespace": namespace}
        store.put("configmaps", value)
    assert [each.key for each in store.objects("configmaps")] == [("a", "b"), ("a", "z"), ("b", "a")]
    assert [each.key for each in store.objects("configmaps", "a")] == [("a", "b"), ("a", "z")]


def test_since_tells_the_changes_of_one_kind_after_a_version() -> None:
    """A watch sees adding, changing and removing in their order, and nothing of other kinds."""
    store = Store()
    start = store.put("configmaps", config_map("old")).version
    store.put("configmaps", config_map("a"))
    store.put("secrets", config_map("s"))
    store.put("configmaps", config_map("a", x="1"))
    store.remove("configmaps", "default", "a")
    seen = [(event.change, event.stored.key[1]) for event in store.since("configmaps", start)]
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert store.since("configmaps", store.version) == []


def test_what_fell_out_of_the_history_is_expired() -> None:
    """With room for two changes, a version from before the third last is too old, and no other."""
    store = Store(history=2)
    versions = [store.put("configmaps", config_map(f"c{number}")).version for number in range(4)]
    with pytest.raises(Expired, match=f"too old resource version: {versions[0]} "):
        store.since("configmaps", versions[0])
    assert len(store.since("configmaps", versions[1])) == 2


def test_a_change_wakes_who_waits() -> None:
    """Once; whoever wants to hear of the next change asks again."""
    store = Store()
    waiting = store.changed
    store.put("configmaps", config_map("a"))
    assert (waiting.is_set(), store.changed.is_set()) == (True, False)

"""The four kinds of patches of the demo cluster."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kproxy.demo.patches import (
    PatchError,
    PatchMismatch,
    json_patch,
    merge_patch,
    strategic_merge,
)


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(document: Any, patch: Any, result: Any) -> None:
    """Examples of RFC 7386, appendix A."""
    assert merge_patch(document, patch) == result


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/b"}], {"a": 1}),
        ({"a": [1, 2, 3]}, [{"op": "remove", "path": "/a/1"}], {"a": [1, 3]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/0", "value": 9}], {"a": [9, 2]}),
        (
            {"a": {"b": 1}, "c": {}},
            [{"op": "move", "from": "/a/b", "path": "/c/d"}],
            {"a": {}, "c": {"d": 1}},
        ),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a/b": 1}, [{"op": "test", "path": "/a~1b", "value": 1}], {"a/b": 1}),
        ({"a~1": 1}, [{"op": "remove", "path": "/a~01"}], {}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 1}}], {"b": 1}),
    ],
)
def test_json_patch(document: Any, operations: Any, result: Any) -> None:
    """Each operation of RFC 6902; the document given is left as it was."""
    before = copy.deepcopy(document)
    assert json_patch(document, operations) == result
    assert document == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/x"},
        {"op": "replace", "path": "/x", "value": 1},
        {"op": "test", "path": "/a", "value": 2},
        {"op": "add", "path": "/l/5", "value": 1},
        {"op": "add", "path": "/x/y", "value": 1},
        {"op": "remove", "path": "/l/-"},
        {"op": "replace", "path": "", "value": 7},
    ],
)
def test_a_json_patch_that_does_not_fit(operation: Any) -> None:
    """A place that is not there or a failed test is a mismatch (422), not a malformed patch."""
    with pytest.raises(PatchMismatch):
        json_patch({"a": 1, "l": []}, [operation])


@pytest.mark.parametrize(
    "patch",
    [
        {"op": "add"},
        "x",
        [1],
        [{"op": "add", "path": "/a"}],
        [{"op": "jump", "path": "/a"}],
        [{"path": "/a"}],
        [{"op": "add", "path": "a", "value": 1}],
        [{"op": "add", "path": 5, "value": 1}],
    ],
)
def test_a_malformed_json_patch(patch: Any) -> None:
    """What is no list of operations is an error of the patch (400)."""
    with pytest.raises(PatchError):
        json_patch({"a": 1}, patch)


POD = {
    "containers": [
        {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]},
        {"name": "b", "image": "b:1"},
    ]
}


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"containers": [{"name": "b", "image": "b:2"}]}, [("a", "a:1"), ("b", "b:2")]),
        ({"containers": [{"name": "c", "image": "c:1"}]}, [("a", "a:1"), ("b", "b:1"), ("c", "c:1")]),
        ({"containers": [{"name": "a", "$patch": "delete"}]}, [("b", "b:1")]),
        ({"containers": [{"$patch": "replace"}, {"name": "x", "image": "x:1"}]}, [("x", "x:1")]),
        (
            {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "b", "image": "b:2"}]},
            [("a", "a:1"), ("b", "b:2")],
        ),
        ({"$patch": "replace", "containers": [{"name": "z", "image": "z:1"}]}, [("z", "z:1")]),
    ],
)
def test_strategic_merge_of_keyed_lists(patch: Any, result: Any) -> None:
    """Containers merge by name; directives delete and replace them."""
    merged = strategic_merge(POD, patch)
    assert [(each["name"], each["image"]) for each in merged["containers"]] == result


def test_strategic_merge_goes_down_into_keyed_items() -> None:
    """A port merges by its number inside a container that merges by its name."""
    ports = [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]
    merged = strategic_merge(POD, {"containers": [{"name": "a", "ports": ports}]})
    assert merged["containers"][0] == {"name": "a", "image": "a:1", "ports": ports}


def test_strategic_merge_of_sets_maps_and_other_lists() -> None:
    """Finalizers unite, maps merge with null removing, lists without a key are replaced."""
    document = {"finalizers": ["x"], "labels": {"a": "1", "b": "2"}, "args": ["1", "2"], "kept": True}
    patch = {
        "finalizers": ["y"],
        "labels": {"a": None},
        "args": ["3"],
        "$deleteFromPrimitiveList/finalizers": ["x"],
    }
    assert strategic_merge(document, patch) == {
        "finalizers": ["y"],
        "labels": {"b": "2"},
        "args": ["3"],
        "kept": True,
    }


def test_retain_keys_drops_the_others() -> None:
    """As kubectl sends it for a deployment's strategy: Recreate must not keep rollingUpdate."""
    document = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}
    patch = {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}
    assert strategic_merge(document, patch) == {"strategy": {"type": "Recreate"}}


def test_an_unknown_directive_is_an_error() -> None:
    """A typing error in `$patch` must not become a field."""
    with pytest.raises(PatchError, match="remove"):
        strategic_merge({}, {"a": {"$patch": "remove"}})


def test_apply_merges_maps_and_keyed_lists_and_replaces_the_rest() -> None:
    """What an applied object does not name stays."""
    merged = strategic_merge(
        {"spec": {**POD, "args": [1, 2]}, "data": {"a": "1"}},
        {"spec": {"containers": [{"name": "b", "image": "b:2"}], "args": [3]}, "data": {"b": "2"}},
    )
    assert merged["data"] == {"a": "1", "b": "2"}
    assert merged["spec"]["args"] == [3]
    assert [each["image"] for each in merged["spec"]["containers"]] == ["a:1", "b:2"]

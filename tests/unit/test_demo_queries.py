"""Label and field selectors of the demo cluster."""

from __future__ import annotations

import pytest

from kproxy.demo.kinds import CONFIGMAPS, NODES, PODS
from kproxy.demo.queries import parse_selection
from kproxy.demo.status import ApiError

LABELS = {"app": "web", "tier": "front", "rank": "3", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=cart", False),
        ("app!=cart", True),
        ("absent!=x", True),
        ("app!=web", False),
        ("app", True),
        ("absent", False),
        ("!absent", True),
        ("!app", False),
        ("empty=", True),
        ("app in (web,cart)", True),
        ("app in (cart)", False),
        ("absent in (x)", False),
        ("app notin (cart, db)", True),
        ("absent notin (x)", True),
        ("app notin (web)", False),
        ("app in (web,cart),tier=front,!x", True),
        ("app in (web,cart),tier=back", False),
        ("kproxy.dev/demo=true", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    """Every operator of the selector language means what it means to kubectl."""
    value = {"metadata": {"name": "a", "labels": LABELS}}
    assert parse_selection(PODS, {"labelSelector": selector})(value) is matches


@pytest.mark.parametrize("selector", ["=x", "a=b=c", "a in web", "a in (b", "a,,b", "-a", "a b"])
def test_a_label_selector_that_is_none_is_refused(selector: str) -> None:
    """What cannot be parsed is 400, never "everything"."""
    with pytest.raises(ApiError, match="unable to parse requirement") as caught:
        parse_selection(PODS, {"labelSelector": selector})
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("metadata.name=clock", True),
        ("metadata.name!=clock", False),
        ("metadata.name==clock,metadata.namespace=default", True),
        ("metadata.namespace=shop", False),
        ("status.phase=Running", True),
        ("status.phase!=Succeeded,status.phase!=Failed", True),
        ("spec.nodeName=demo-node-1", True),
    ],
)
def test_field_selectors(selector: str, matches: bool) -> None:
    """Fields that a pod can be selected by, the ones `kubectl describe node` asks for among them."""
    value = {
        "metadata": {"name": "clock", "namespace": "default"},
        "spec": {"nodeName": "demo-node-1"},
        "status": {"phase": "Running"},
    }
    assert parse_selection(PODS, {"fieldSelector": selector})(value) is matches


def test_an_unset_switch_is_false() -> None:
    """`spec.unschedulable=false` finds the nodes that never had the field."""
    matches = parse_selection(NODES, {"fieldSelector": "spec.unschedulable=false"})
    assert matches({"metadata": {}, "spec": {}})
    assert not matches({"metadata": {}, "spec": {"unschedulable": True}})


def test_a_field_that_a_kind_cannot_be_selected_by_is_refused() -> None:
    """The refusal names the field, as the real server's does."""
    with pytest.raises(ApiError, match=r"field label not supported: status\.phase"):
        parse_selection(CONFIGMAPS, {"fieldSelector": "status.phase=Running"})

"""What the demo cluster takes, refuses and adds when objects are written; and the paths they are at."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.demo.admission import conform, created, updated
from kproxy.demo.api import resolve, segments_of, verb_of
from kproxy.demo.kinds import CONFIGMAPS, CRDS, DEPLOYMENTS, PODS, SECRETS, SERVICES, Kind, Registry
from kproxy.demo.status import ApiError
from kproxy.demo.store import Store
from kproxy.demo.views import columns_of

CATS = {
    "group": "example.com",
    "scope": "Cluster",
    "names": {"plural": "cats", "kind": "Cat"},
    "versions": [{"name": "v1", "storage": True}],
}


def admit(kind: Kind, body: Any) -> dict[str, Any]:
    return created(kind, conform(kind, body, namespace="default", name=None))


def config_map(**more: Any) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, **more}


def deployment(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    spec = {"selector": {"matchLabels": {"app": "a"}}, "template": template, **spec}
    return {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "a"}, "spec": spec}


def test_a_new_object_gets_what_only_the_server_knows() -> None:
    """uid, time of creation, namespace; what a client says of those does not count."""
    value = admit(CONFIGMAPS, config_map(metadata={"name": "a", "uid": "mine", "resourceVersion": "5"}))
    metadata = value["metadata"]
    assert metadata["namespace"] == "default"
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert "resourceVersion" not in metadata


def test_generate_name_makes_different_names() -> None:
    """The prefix is kept and the ending is new each time."""
    names = {
        admit(CONFIGMAPS, config_map(metadata={"generateName": "a-"}))["metadata"]["name"] for _ in range(9)
    }
    assert len(names) == 9
    assert all(name.startswith("a-") and len(name) == 7 for name in names)


def test_nulls_mean_not_given() -> None:
    """kubectl writes `creationTimestamp: null`, which must not be stored."""
    value = admit(CONFIGMAPS, config_map(data={"x": None, "y": "1"}, immutable=None))
    assert value["data"] == {"y": "1"}
    assert "immutable" not in value


def test_a_built_in_kind_need_not_be_named_again() -> None:
    """The Python client leaves out kind and apiVersion: the path has said it."""
    assert admit(CONFIGMAPS, {"metadata": {"name": "a"}})["kind"] == "ConfigMap"


@pytest.mark.parametrize(
    ("kind", "body", "code", "message"),
    [
        (CONFIGMAPS, [], 400, "not an object but a list"),
        (CONFIGMAPS, {"kind": "Secret", "apiVersion": "v1"}, 400, "cannot be handled as a ConfigMap"),
        (CONFIGMAPS, config_map(data={"a": 1}), 400, "cannot unmarshal number into Go struct field"),
        (CONFIGMAPS, config_map(metadata={"labels": {"a": True}}), 400, "cannot unmarshal bool"),
        (CONFIGMAPS, config_map(metadata=[]), 400, "cannot be handled as a ConfigMap"),
        (CONFIGMAPS, config_map(metadata={}), 422, "metadata.name: Required value: name or generateName"),
        (CONFIGMAPS, config_map(metadata={"name": "A_b"}), 422, "RFC 1123"),
        (CONFIGMAPS, config_map(metadata={"name": "x" * 254}), 422, "RFC 1123"),
        (
            CONFIGMAPS,
            config_map(metadata={"name": "a", "namespace": "b"}),
            400,
            "namespace of the object does not match",
        ),
        (PODS, {"metadata": {"name": "a"}}, 422, "spec.containers: Required value"),
        (PODS, {"metadata": {"name": "a"}, "spec": {"containers": ["x"]}}, 400, "cannot be handled as a Pod"),
        (
            PODS,
            {"metadata": {"name": "a"}, "spec": {"containers": [{}]}},
            422,
            r"\[spec.containers\[0\].name",
        ),
        (DEPLOYMENTS, deployment(selector=None), 422, "spec.selector: Required value"),
        (DEPLOYMENTS, deployment(selector={"matchLabels": {"app": "b"}}), 422, "does not match template"),
        (DEPLOYMENTS, deployment(replicas=-1), 422, "must be greater than or equal to 0"),
        (DEPLOYMENTS, deployment(replicas=True), 422, "must be greater than or equal to 0"),
        (SERVICES, {"metadata": {"name": "a"}, "spec": {}}, 422, "spec.ports: Required value"),
        (
            SERVICES,
            {"metadata": {"name": "a"}, "spec": {"ports": [{}]}},
            422,
            r"spec.ports\[0\].port: Required",
        ),
        (CRDS, {"metadata": {"name": "a"}, "spec": {}}, 422, "spec.names: Required value"),
        (CRDS, {"spec": CATS}, 422, "metadata.name: Required value"),
        (CRDS, {"metadata": {"name": "a"}, "spec": {**CATS, "versions": [{"name": "v1"}]}}, 400, "as a Cust"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Kind, body: Any, code: int, message: str) -> None:
    """400 for what cannot be decoded, 422 for what is decoded but invalid, each with its cause."""
    with pytest.raises(ApiError, match=message) as caught:
        admit(kind, body)
    assert caught.value.code == code


def test_defaults_of_a_deployment_reach_its_template() -> None:
    """What clients dereference without looking is there: replicas, strategy, ports' protocol."""
    body = deployment()
    body["spec"]["template"]["spec"]["containers"][0]["ports"] = [{"containerPort": 1}]
    value = admit(DEPLOYMENTS, body)
    assert value["spec"]["replicas"] == 1
    assert value["spec"]["strategy"]["type"] == "RollingUpdate"
    (container,) = value["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"containerPort": 1, "protocol": "TCP"}]


def test_string_data_of_a_secret_becomes_data() -> None:
    """stringData is write-only."""
    body = {"metadata": {"name": "a"}, "stringData": {"k": "not-a-secret"}}
    value = admit(SECRETS, body)
    assert (value["data"], value["type"]) == ({"k": "bm90LWEtc2VjcmV0"}, "Opaque")
    assert "stringData" not in value


def test_an_update_keeps_what_a_client_cannot_change_and_counts_generations() -> None:
    """uid and creation stay; the generation rises with the spec, not with labels; status is not written."""
    old = admit(DEPLOYMENTS, deployment())
    old["metadata"]["resourceVersion"] = "7"
    relabelled = {
        **old,
        "metadata": {"name": "a", "namespace": "default", "labels": {"x": "y"}},
        "status": {"a": 1},
    }
    new = updated(DEPLOYMENTS, old, relabelled)
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    assert (new["metadata"]["generation"], new["status"]) == (1, old["status"])
    scaled = updated(DEPLOYMENTS, old, {**old, "spec": {**old["spec"], "replicas": 3}})
    assert scaled["metadata"]["generation"] == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "spec", "containers", "name", "labels", "ports", "x"]), inner
        )
    ),
    max_leaves=12,
)


def test_a_custom_kind_may_have_any_spec() -> None:
    """Its schema is not enforced: what it calls `spec` need not be an object."""
    cats = dataclasses.replace(CONFIGMAPS, group="example.com", custom=True)
    body = {"kind": "ConfigMap", "apiVersion": "example.com/v1", "metadata": {"name": "a"}, "spec": ["x"]}
    assert admit(cats, body)["spec"] == ["x"]


@given(body=st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON))
def test_no_body_breaks_admission(body: dict[str, Any]) -> None:
    """Whatever JSON comes, it is admitted or refused as a Status; nothing else is raised."""
    for kind in (PODS, DEPLOYMENTS, SERVICES, CRDS, CONFIGMAPS):
        with contextlib.suppress(ApiError):
            for column in columns_of(kind):
                column.show(admit(kind, body))


@pytest.mark.parametrize(
    ("path", "resource", "namespace", "name", "subresource"),
    [
        ("/api/v1/pods", "pods", None, "", ""),
        ("/api/v1/pods/", "pods", None, "", ""),
        ("/api/v1/namespaces", "namespaces", None, "", ""),
        ("/api/v1/namespaces/shop", "namespaces", None, "shop", ""),
        ("/api/v1/namespaces/shop/status", "namespaces", None, "shop", "status"),
        ("/api/v1/namespaces/shop/pods", "pods", "shop", "", ""),
        ("/api/v1/namespaces/shop/pods/db-0/log", "pods", "shop", "db-0", "log"),
        ("/api/v1/namespaces/shop/pods/a%2Fb", "pods", "shop", "a/b", ""),
        ("/apis/apps/v1/namespaces/shop/deployments/web/scale", "deployments.apps", "shop", "web", "scale"),
        ("/api/v1/namespaces/shop/services/web/proxy/a/b", "services", "shop", "web", "proxy"),
        ("/api/v1/nodes/demo-node-1", "nodes", None, "demo-node-1", ""),
    ],
)
def test_paths_of_resources(
    path: str, resource: str, namespace: str | None, name: str, subresource: str
) -> None:
    """Where objects, collections and subresources are."""
    target = resolve(Registry(Store()), segments_of(path))
    assert target is not None
    found = (target.kind.resource, target.namespace, target.name, target.subresource)
    assert found == (resource, namespace, name, subresource)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/api/v2/pods",
        "/api/v1/nothing",
        "/apis/apps/v1",
        "/apis/apps/v2/deployments",
        "/api/v1/pods/clock",
        "/api/v1/namespaces/shop/nodes",
        "/api/v1/namespaces/shop/pods/db-0/nothing",
        "/api/v1/namespaces/shop/pods/db-0/log/more",
        "/api/v1/namespaces/shop/pods/db-0//log",
        "/apis/stable.example.com/v1/crontabs",
    ],
)
def test_paths_of_nothing(path: str) -> None:
    """What is no resource is left to the pages of the server, or is a 404."""
    assert resolve(Registry(Store()), segments_of(path)) is None


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("GET", "/api/v1/pods", "list"),
        ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection"),
        ("POST", "/api/v1/namespaces/a/pods", "create"),
        ("POST", "/api/v1/pods", None),
        ("PUT", "/api/v1/namespaces/a/pods", None),
        ("POST", "/api/v1/namespaces/a/pods/b", None),
        ("PATCH", "/api/v1/namespaces/a/pods/b", "patch"),
        ("DELETE", "/api/v1/namespaces/a/pods/b/status", None),
        ("GET", "/api/v1/namespaces/a/pods/b/exec", "get"),
        ("POST", "/api/v1/namespaces/a/pods/b/exec", "create"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", None),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "create"),
        ("HEAD", "/api/v1/pods", None),
    ],
)
def test_verbs(method: str, path: str, verb: str | None) -> None:
    """What a method does depends on where it goes; None is a 405."""
    target = resolve(Registry(Store()), segments_of(path))
    assert target is not None
    assert verb_of(method, target, watch=False) == verb

"""The manifests of README.md: they fit each other, kproxy takes their flags, and they give nothing away."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy import __version__
from kproxy.cli.arguments import parse
from kproxy.config.schema import Config
from kproxy.config.sources import read
from kproxy.server.preparation import compile_policy
from kproxy.web.probes import PROBES
from tests.support.manifests import (
    DEPLOYMENT,
    ROOT,
    SIDECAR,
    Manifest,
    kproxy_of,
    manifest,
    manifests,
    pod_of,
)

both = pytest.mark.parametrize("heading", [SIDECAR, DEPLOYMENT])


def config_file() -> str:
    text: str = manifest(DEPLOYMENT, "ConfigMap")["data"]["config.yaml"]
    return text


def config_of(heading: str, tmp_path: Path) -> Config:
    """What the container's arguments, and the config file that they name, come to."""
    path = tmp_path / "config.yaml"
    path.write_text(config_file())
    arguments = [each.replace("/etc/kproxy/config.yaml", str(path)) for each in kproxy_of(heading)["args"]]
    line = parse(arguments)
    assert line.problems == []
    assert line.words == []
    settings = read(line.given, {})
    assert settings.problems == ()
    return settings.config


@both
def test_kproxy_takes_the_arguments(heading: str, tmp_path: Path) -> None:
    """Each is a flag there is, with a value that it takes; so are the keys of the config file."""
    config = config_of(heading, tmp_path)
    policy = compile_policy(config)
    assert policy.check_request("GET", "/api/v1/namespaces/shop/pods") is None
    assert policy.check_request("DELETE", "/api/v1/namespaces/shop/pods/web") is not None
    assert policy.check_request("GET", "/api/v1/namespaces/shop/pods/web/exec") is not None


@both
def test_the_image_is_of_this_version(heading: str) -> None:
    """A tag that is left behind would start something else."""
    assert kproxy_of(heading)["image"] == f"registry.example/kproxy:{__version__}"


@both
def test_kproxy_is_locked_in(heading: str) -> None:
    """No root, no capability, no writable disk, the engine's own system call filter, and limits."""
    pod, container = pod_of(heading), kproxy_of(heading)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert not any("emptyDir" in volume or "hostPath" in volume for volume in pod["volumes"])
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        assert key not in pod


@both
def test_the_image_can_read_what_is_mounted(heading: str) -> None:
    """By the group that its user has: tokens and keys are mounted for a group, not for all."""
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert int(user[1]) != 0
    assert pod_of(heading)["securityContext"]["fsGroup"] == int(user[2])


@both
def test_probes_ask_what_there_is(heading: str) -> None:
    """Liveness the process alone, readiness the cluster as well, and each with time for the answer."""
    container = kproxy_of(heading)
    for name, path in (("livenessProbe", "healthz"), ("readinessProbe", "readyz")):
        probe = container[name]
        asked = probe["httpGet"]["path"] if "httpGet" in probe else probe["exec"]["command"][-1]
        assert asked == f"/-/{path}"
        assert path in PROBES
        # /-/readyz takes up to 5 s for its verdict.
        assert probe["timeoutSeconds"] > 5


@both
def test_service_links_are_off(heading: str) -> None:
    """They would set variables that look like settings."""
    assert pod_of(heading)["enableServiceLinks"] is False


@both
def test_names_fit(heading: str) -> None:
    """What is referred to is there, in the same namespace, by the same labels."""
    deployment, account = manifest(heading, "Deployment"), manifest(heading, "ServiceAccount")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert pod_of(heading)["serviceAccountName"] == account["metadata"]["name"]
    bindings = [each for each in manifests(heading) if each["kind"].endswith("Binding")]
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", **account["metadata"]}]
    names = {(each["kind"], each["metadata"]["name"]) for each in manifests(heading)}
    assert len(names) == len(manifests(heading))
    volumes = {volume["name"] for volume in pod_of(heading)["volumes"]}
    assert {mount["name"] for mount in kproxy_of(heading)["volumeMounts"]} == volumes
    namespaces = {each["metadata"].get("namespace") for each in manifests(heading)}
    assert namespaces - {None} == {account["metadata"]["namespace"]}


# -- beside an app --


def test_the_sidecar_listens_where_only_its_pod_is(tmp_path: Path) -> None:
    """And where the app is told to ask, and the probes do."""
    config = config_of(SIDECAR, tmp_path)
    assert not config.unsafe_listen
    (listener,) = config.listener_configs()
    url = f"http://localhost:{listener.port}"
    (app,) = pod_of(SIDECAR)["containers"]
    assert {each["value"] for each in app["env"]} == {url}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f'("{listener.address}", {listener.port})' in kproxy_of(SIDECAR)[name]["exec"]["command"][2]


def test_the_app_has_no_token() -> None:
    """The account is mounted into kproxy alone, as Kubernetes would."""
    pod = pod_of(SIDECAR)
    assert pod["automountServiceAccountToken"] is False
    (volume,) = pod["volumes"]
    (mount,) = kproxy_of(SIDECAR)["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    paths = [path for source in volume["projected"]["sources"] for path in _paths(source)]
    assert sorted(paths) == ["ca.crt", "namespace", "token"]
    assert all("volumeMounts" not in container for container in pod["containers"])


def _paths(source: dict[str, Any]) -> list[str]:
    ((kind, projection),) = source.items()
    items = [projection] if kind == "serviceAccountToken" else projection["items"]
    return [item["path"] for item in items]


def test_the_sidecar_is_there_before_the_app_and_after_it() -> None:
    """An init container that is restarted is a sidecar (KEP-753); the app waits for its startup probe."""
    assert kproxy_of(SIDECAR)["restartPolicy"] == "Always"
    assert "startupProbe" in kproxy_of(SIDECAR)


def test_the_apps_role_is_small() -> None:
    """Read, and nothing that matches everything."""
    for rule in manifest(SIDECAR, "Role")["rules"]:
        assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert "secrets" not in rule["resources"]


# -- for many --


def test_ports_fit(tmp_path: Path) -> None:
    """Of the config file, the container, the Service, the probes and the NetworkPolicy."""
    (listener,) = config_of(DEPLOYMENT, tmp_path).listener_configs()
    container = kproxy_of(DEPLOYMENT)
    (port,) = container["ports"]
    assert port["containerPort"] == listener.port
    (served,) = manifest(DEPLOYMENT, "Service")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (443, port["name"])
    (rule,) = manifest(DEPLOYMENT, "NetworkPolicy")["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == [port["name"]]
    for name in ("livenessProbe", "readinessProbe"):
        asked = container[name]["httpGet"]
        assert (asked["port"], asked["scheme"]) == (port["name"], "HTTPS")


def test_it_is_served_with_tls(tmp_path: Path) -> None:
    """The certificate is the Secret's, where that is mounted."""
    (listener,) = config_of(DEPLOYMENT, tmp_path).listener_configs()
    (volume,) = (each for each in pod_of(DEPLOYMENT)["volumes"] if "secret" in each)
    (mount,) = (each for each in kproxy_of(DEPLOYMENT)["volumeMounts"] if each["name"] == volume["name"])
    assert listener.tls_certificate == f"{mount['mountPath']}/tls.crt"
    assert listener.tls_key == f"{mount['mountPath']}/tls.key"
    assert f"secret tls {volume['secret']['secretName']} " in (ROOT / "README.md").read_text()
    # Group and owner, as a key should be; YAML's octal.
    assert volume["secret"]["defaultMode"] == 0o440


def test_the_config_file_is_the_config_maps(tmp_path: Path) -> None:
    """Mounted as a folder, so that a change arrives."""
    (volume,) = (each for each in pod_of(DEPLOYMENT)["volumes"] if "configMap" in each)
    assert volume["configMap"]["name"] == manifest(DEPLOYMENT, "ConfigMap")["metadata"]["name"]
    (mount,) = (each for each in kproxy_of(DEPLOYMENT)["volumeMounts"] if each["name"] == volume["name"])
    assert "subPath" not in mount
    assert kproxy_of(DEPLOYMENT)["args"] == [f"--config={mount['mountPath']}/config.yaml"]
    assert set(manifest(DEPLOYMENT, "ConfigMap")["data"]) == {"config.yaml"}
    assert isinstance(yaml.safe_load(config_file()), dict)


def test_the_names_of_the_service_are_accepted(tmp_path: Path) -> None:
    """From its own namespace and from others, with the port or without; and no other name."""
    policy = compile_policy(config_of(DEPLOYMENT, tmp_path))
    names = manifest(DEPLOYMENT, "Service")["metadata"]
    name, namespace = names["name"], names["namespace"]
    for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"):
        assert policy.check_host(f"{name}{suffix}") is None
        assert policy.check_host(f"{name}{suffix}:443") is None
    for other in ("evil.example", f"{name}.evil.example", f"{name}xsvc", f"x.{name}.{namespace}.svc"):
        assert policy.check_host(other) is not None
    for probe in ("livenessProbe", "readinessProbe"):
        (field,) = kproxy_of(DEPLOYMENT)[probe]["httpGet"]["httpHeaders"]
        assert field["name"] == "Host"
        assert policy.check_host(field["value"]) is None


def test_the_end_of_a_replica_has_its_time(tmp_path: Path) -> None:
    """What kproxy takes fits into what Kubernetes gives it."""
    config = config_of(DEPLOYMENT, tmp_path)
    given = pod_of(DEPLOYMENT)["terminationGracePeriodSeconds"]
    assert config.shutdown_delay_seconds > 0
    assert config.shutdown_delay_seconds + config.grace_period_seconds < given


def test_there_are_several_and_they_stay_apart() -> None:
    """A roll-out and the drain of a node leave some of them."""
    spec = manifest(DEPLOYMENT, "Deployment")["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert spec["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"] == spec["selector"]
    assert manifest(DEPLOYMENT, "PodDisruptionBudget")["spec"]["selector"] == spec["selector"]
    assert manifest(DEPLOYMENT, "Service")["spec"]["selector"] == spec["selector"]["matchLabels"]


def test_callers_are_named_and_may_only_read() -> None:
    """kproxy cannot tell them apart: the network does, and the account may do little."""
    policy: Manifest = manifest(DEPLOYMENT, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"] == manifest(DEPLOYMENT, "Deployment")["spec"]["selector"]
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    assert source["podSelector"]["matchLabels"]
    assert manifest(DEPLOYMENT, "ClusterRoleBinding")["roleRef"]["name"] == "view"

"""The ExecCredential object: what a plugin is told, and what is made of its answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from kproxy.credentials.exec_credential import exec_info, parse_output
from kproxy.kube.kubeconfig import Cluster
from tests.support.exec_plugin import V1, V1BETA1
from tests.support.secrets import plant

CLUSTER = Cluster(name="c", server="https://127.0.0.1:6443")


def test_the_plugin_is_told_version_and_mode() -> None:
    """Byte for byte what client-go writes, line end included."""
    assert exec_info(V1, interactive=False) == (
        '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1",'
        '"spec":{"interactive":false}}\n'
    )
    assert '"spec":{"interactive":true}' in exec_info(V1BETA1, interactive=True)


def test_the_cluster_is_told_in_full() -> None:
    """Fields in client-go's order, the authority as base64, the extension with sorted keys."""
    cluster = replace(
        CLUSTER,
        tls_server_name="kube.example.com",
        proxy_url="http://127.0.0.1:3128",
        disable_compression=True,
        exec_config={"b": [1, {"z": None, "a": True}], "a": "x"},
    )
    assert exec_info(V1, interactive=False, cluster=cluster, authority_pem=b"PEM") == (
        '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"cluster":'
        '{"server":"https://127.0.0.1:6443","tls-server-name":"kube.example.com",'
        '"certificate-authority-data":"UEVN","proxy-url":"http://127.0.0.1:3128",'
        '"disable-compression":true,"config":{"a":"x","b":[1,{"a":true,"z":null}]}},'
        '"interactive":false}}\n'
    )


def test_empty_fields_of_the_cluster_are_left_out_but_for_config() -> None:
    """Without the extension `config` is null."""
    cluster = replace(CLUSTER, insecure_skip_tls_verify=True)
    assert '"cluster":{"server":"https://127.0.0.1:6443","insecure-skip-tls-verify":true,"config":null}' in (
        exec_info(V1, interactive=False, cluster=cluster)
    )


def test_special_letters_are_written_as_go_does() -> None:
    """Go escapes what HTML could trip over; all else stays UTF-8."""
    cluster = replace(CLUSTER, exec_config={"q": "<a&b>\u2028ü"})
    text = exec_info(V1, interactive=False, cluster=cluster)
    assert r'"q":"\u003ca\u0026b\u003e\u2028ü"' in text
    assert json.loads(text)["spec"]["cluster"]["config"] == {"q": "<a&b>\u2028ü"}


def answer(version: str | None = V1, kind: str | None = "ExecCredential", **status: object) -> bytes:
    document = {"apiVersion": version, "kind": kind, "status": status}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_json_and_yaml_are_read() -> None:
    """Unknown fields don't matter; the timestamp may be unquoted in YAML."""
    status = parse_output(answer(token="t", expirationTimestamp="2030-01-31T12:00:00.5+01:00", later="?"), V1)
    assert (status.token, status.expires_at) == ("t", 1896087600.5)
    yaml = b"apiVersion: client.authentication.k8s.io/v1\nkind: ExecCredential\nstatus:\n  token: ytok\n"
    assert parse_output(yaml, V1).token == "ytok"
    assert (
        parse_output(yaml + b"  expirationTimestamp: 2030-01-31T12:00:00Z\n", V1).expires_at == 1896091200.0
    )


def test_the_certificate_is_pem_text() -> None:
    """Not base64, unlike in a kubeconfig; with or without a token."""
    status = parse_output(answer(clientCertificateData="CERT", clientKeyData="KEY"), V1)
    assert (status.certificate_pem, status.key_pem, status.token) == (b"CERT", b"KEY", None)


def test_the_kind_may_be_missing() -> None:
    """The version is what counts, as in client-go."""
    assert parse_output(answer(kind=None, token="t"), V1).token == "t"
    assert parse_output(answer(version=V1BETA1, token="t"), V1BETA1).token == "t"


SECRET = plant("answer")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            answer(version=V1BETA1, token=SECRET),
            f"exec plugin is configured to use API version {V1}, plugin returned version {V1BETA1}",
        ),
        (b"", "plugin returned version client.authentication.k8s.io/__internal"),
        (b"null", "plugin returned version client.authentication.k8s.io/__internal"),
        (
            b'{"status":{"token":"%s"}}' % SECRET.encode(),
            "returned version client.authentication.k8s.io/__int",
        ),
        (
            answer(kind="Foo", token=SECRET),
            'decoding stdout: no kind "Foo" is registered for version "client.au',
        ),
        (SECRET.encode(), "decoding stdout: couldn't get version/kind"),
        (f"[{SECRET}".encode(), "decoding stdout: line "),
        (b"\xff\xfe" + SECRET.encode(), "decoding stdout: "),
        (f'["{SECRET}"]'.encode(), "decoding stdout: couldn't get version/kind"),
        (b'{"apiVersion":1}', "decoding stdout: apiVersion: expected a string, found a number"),
        (answer(token=5), "decoding stdout: status.token: expected a string, found a number"),
        (answer(token=[SECRET]), "decoding stdout: status.token: expected a string, found a list"),
        (
            answer(token=SECRET, expirationTimestamp="soon"),
            "decoding stdout: status.expirationTimestamp: not an RFC 3339 time",
        ),
        (
            b'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential"}',
            "exec plugin didn't return a status field",
        ),
        (answer(), "exec plugin didn't return a token or cert/key pair"),
        (answer(token=""), "exec plugin didn't return a token or cert/key pair"),
        (answer(clientKeyData=SECRET), "exec plugin returned only certificate or key, not both"),
        (
            answer(token=SECRET, clientCertificateData=SECRET),
            "exec plugin returned only certificate or key, not both",
        ),
        (b"[" * 5000, "decoding stdout: "),
    ],
)
def test_every_wrong_answer_has_its_message(output: bytes, message: str) -> None:
    """client-go's words, and nothing of the answer: it may hold a token."""
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_output(output, V1)
    assert SECRET not in str(caught.value)


def test_repr_shows_no_secret() -> None:
    """The parsed status is a value like any other and may be printed."""
    status = parse_output(answer(token=SECRET, clientCertificateData="C", clientKeyData=SECRET), V1)
    assert SECRET not in repr(status)

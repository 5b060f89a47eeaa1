"""The protobuf bodies that kubectl's typed commands send."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.demo.protobuf import decode_protobuf
from kproxy.demo.status import ApiError


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def field(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return (
        b"k8s\0"
        + field(1, field(1, api_version) + field(2, kind))
        + field(2, raw)
        + field(3, "")
        + field(4, "")
    )


def test_a_config_map() -> None:
    """Text, maps of text and of bytes; empty fields, which Go always writes, are left out."""
    metadata = field(1, "a") + field(2, "") + field(3, "default") + field(7, 0) + field(8, b"")
    entry, binary = field(1, "k") + field(2, "v"), field(1, "b") + field(2, b"\x00\xff")
    raw = field(1, metadata) + field(2, entry) + field(3, binary)
    assert decode_protobuf(envelope("v1", "ConfigMap", raw)) == {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "a", "namespace": "default"},
        "data": {"k": "v"},
        "binaryData": {"b": "AP8="},
    }


def test_zero_counts_where_go_has_a_pointer() -> None:
    """`kubectl create deployment --replicas=0` means zero, while minReadySeconds 0 means not given."""
    container = field(1, "c") + field(2, "image") + field(3, "sh") + field(3, "-c") + field(16, 0)
    template = field(1, field(11, field(1, "app") + field(2, "a"))) + field(2, field(2, container))
    spec = field(1, 0) + field(3, template) + field(4, field(1, "")) + field(5, 0)
    decoded = decode_protobuf(envelope("apps/v1", "Deployment", field(2, spec) + field(3, field(1, 0))))
    assert decoded["spec"] == {
        "replicas": 0,
        "template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "image", "command": ["sh", "-c"]}]},
        },
    }


def test_numbers_or_texts_and_negative_numbers() -> None:
    """targetPort may be either, an int64 is signed; when it was made is for the server to say."""
    by_name = field(1, 1) + field(2, 0) + field(3, "http")
    by_number = field(1, 0) + field(2, 8080) + field(3, "")
    ports = field(1, field(3, 80) + field(4, by_name)) + field(1, field(3, 81) + field(4, by_number))
    raw = field(1, field(1, "s") + field(8, field(1, 1_700_000_000))) + field(2, ports)
    decoded = decode_protobuf(envelope("v1", "Service", raw))
    assert decoded["spec"]["ports"] == [
        {"port": 80, "targetPort": "http"},
        {"port": 81, "targetPort": 8080},
    ]
    assert decoded["metadata"] == {"name": "s"}
    options = decode_protobuf(envelope("v1", "DeleteOptions", field(1, -1) + field(5, "All")))
    assert (options["gracePeriodSeconds"], options["dryRun"]) == (-1, ["All"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "does not begin as Kubernetes protobuf"),
        (envelope("batch/v1", "Job", b""), "does not read Job as protobuf"),
        (envelope("v1", "ConfigMap", field(99, "x")), "does not read field 99 of ConfigMap"),
        (envelope("v1", "ConfigMap", field(2, "x")[:-1]), "ends too early"),
        (envelope("v1", "ConfigMap", b"\x0d\x00\x00\x00\x00"), "unexpected wire type 5"),
        (envelope("v1", "ConfigMap", b"\xff" * 12), "too long"),
    ],
)
def test_what_cannot_be_read_is_refused_whole(body: bytes, message: str) -> None:
    """An object is never stored without a field that its sender gave."""
    with pytest.raises(ApiError, match=message) as caught:
        decode_protobuf(body)
    assert caught.value.code == 400


@given(
    raw=st.binary(max_size=60), kind=st.sampled_from(["ConfigMap", "Deployment", "Service", "DeleteOptions"])
)
def test_no_bytes_break_the_decoder(raw: bytes, kind: str) -> None:
    """Noise is decoded or refused as a Status; nothing else is raised."""
    with contextlib.suppress(ApiError):
        assert decode_protobuf(envelope("v1", kind, raw))["kind"] == kind

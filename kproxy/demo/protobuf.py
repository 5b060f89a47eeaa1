"""Reads the protobuf bodies that kubectl's typed commands send since 1.32 (`kubectl create namespace`...).

Only what those commands write can be read; a body with more is refused with the number of the field, never
read in part. Answers are JSON, which such clients take as well. Field numbers are those of the
`generated.proto` files of k8s.io/api and k8s.io/apimachinery.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from kproxy.demo import clock
from kproxy.demo.kinds import Json
from kproxy.demo.status import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_ENVELOPE_TYPE, _ENVELOPE_RAW = 1, 2

# A field's type: "s" text, "y" bytes, "i" number, "b" boolean, "q" quantity, "t" time, "n" number or text,
# else the name of a message; "[]" before it makes an array, "{}" a map from text. "*" stands before what Go
# has as a pointer: there zero is a value; elsewhere it means "not given". "-" is for what is not read.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "ObjectMeta": {
        1: ("name", "s"), 2: ("generateName", "s"), 3: ("namespace", "s"), 4: ("selfLink", "s"),
        5: ("uid", "s"), 6: ("resourceVersion", "s"), 7: ("generation", "i"), 8: ("creationTimestamp", "t"),
        11: ("labels", "{}s"), 12: ("annotations", "{}s"), 13: ("ownerReferences", "[]OwnerReference"),
        14: ("finalizers", "[]s"), 17: ("managedFields", "-"),
    },
    "OwnerReference": {
        5: ("apiVersion", "s"), 1: ("kind", "s"), 3: ("name", "s"), 4: ("uid", "s"),
        6: ("controller", "*b"), 7: ("blockOwnerDeletion", "*b"),
    },
    "ConfigMap": {
        1: ("metadata", "ObjectMeta"), 2: ("data", "{}s"), 3: ("binaryData", "{}y"), 4: ("immutable", "*b")
    },
    "Secret": {
        1: ("metadata", "ObjectMeta"), 2: ("data", "{}y"), 3: ("type", "s"), 4: ("stringData", "{}s"),
        5: ("immutable", "*b"),
    },
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "-")},
    "NamespaceSpec": {1: ("finalizers", "[]s")},
    "ServiceAccount": {
        1: ("metadata", "ObjectMeta"), 3: ("imagePullSecrets", "[]LocalObjectReference"),
        4: ("automountServiceAccountToken", "*b"),
    },
    "LocalObjectReference": {1: ("name", "s")},
    "Service": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ServiceSpec"), 3: ("status", "-")},
    "ServiceSpec": {
        1: ("ports", "[]ServicePort"), 2: ("selector", "{}s"), 3: ("clusterIP", "s"),
        18: ("clusterIPs", "[]s"),
        4: ("type", "s"), 5: ("externalIPs", "[]s"), 7: ("sessionAffinity", "s"), 8: ("loadBalancerIP", "s"),
        10: ("externalName", "s"), 11: ("externalTrafficPolicy", "s"), 13: ("publishNotReadyAddresses", "b"),
        19: ("ipFamilies", "[]s"), 17: ("ipFamilyPolicy", "*s"), 22: ("internalTrafficPolicy", "*s"),
    },
    "ServicePort": {
        1: ("name", "s"), 2: ("protocol", "s"), 6: ("appProtocol", "*s"), 3: ("port", "i"),
        4: ("targetPort", "n"), 5: ("nodePort", "i"),
    },
    "Deployment": {1: ("metadata", "ObjectMeta"), 2: ("spec", "DeploymentSpec"), 3: ("status", "-")},
    "DeploymentSpec": {
        1: ("replicas", "*i"), 2: ("selector", "*LabelSelector"), 3: ("template", "PodTemplateSpec"),
        4: ("strategy", "DeploymentStrategy"), 5: ("minReadySeconds", "i"), 6: ("revisionHistoryLimit", "*i"),
        7: ("paused", "b"), 9: ("progressDeadlineSeconds", "*i"),
    },
    "DeploymentStrategy": {1: ("type", "s"), 2: ("rollingUpdate", "*RollingUpdateDeployment")},
    "RollingUpdateDeployment": {1: ("maxUnavailable", "*n"), 2: ("maxSurge", "*n")},
    "LabelSelector": {1: ("matchLabels", "{}s"), 2: ("matchExpressions", "[]LabelSelectorRequirement")},
    "LabelSelectorRequirement": {1: ("key", "s"), 2: ("operator", "s"), 3: ("values", "[]s")},
    "PodTemplateSpec": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "Pod": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec"), 3: ("status", "-")},
    "PodSpec": {
        20: ("initContainers", "[]Container"), 2: ("containers", "[]Container"), 3: ("restartPolicy", "s"),
        4: ("terminationGracePeriodSeconds", "*i"), 5: ("activeDeadlineSeconds", "*i"), 6: ("dnsPolicy", "s"),
        7: ("nodeSelector", "{}s"), 8: ("serviceAccountName", "s"), 9: ("serviceAccount", "s"),
        10: ("nodeName", "s"), 15: ("imagePullSecrets", "[]LocalObjectReference"), 16: ("hostname", "s"),
        19: ("schedulerName", "s"), 21: ("automountServiceAccountToken", "*b"),
        24: ("priorityClassName", "s"),
    },
    "Container": {
        1: ("name", "s"), 2: ("image", "s"), 3: ("command", "[]s"), 4: ("args", "[]s"),
        5: ("workingDir", "s"),
        6: ("ports", "[]ContainerPort"), 7: ("env", "[]EnvVar"), 8: ("resources", "ResourceRequirements"),
        13: ("terminationMessagePath", "s"), 20: ("terminationMessagePolicy", "s"),
        14: ("imagePullPolicy", "s"), 16: ("stdin", "b"), 17: ("stdinOnce", "b"), 18: ("tty", "b"),
    },
    "ContainerPort": {
        1: ("name", "s"), 2: ("hostPort", "i"), 3: ("containerPort", "i"), 4: ("protocol", "s"),
        5: ("hostIP", "s"),
    },
    "EnvVar": {1: ("name", "s"), 2: ("value", "s")},
    "ResourceRequirements": {1: ("limits", "{}q"), 2: ("requests", "{}q")},
    "SelfSubjectAccessReview": {
        1: ("metadata", "ObjectMeta"), 2: ("spec", "SelfSubjectAccessReviewSpec"), 3: ("status", "-")
    },
    "SelfSubjectAccessReviewSpec": {
        1: ("resourceAttributes", "*ResourceAttributes"),
        2: ("nonResourceAttributes", "*NonResourceAttributes")
    },
    "ResourceAttributes": {
        1: ("namespace", "s"), 2: ("verb", "s"), 3: ("group", "s"), 4: ("version", "s"), 5: ("resource", "s"),
        6: ("subresource", "s"), 7: ("name", "s"),
    },
    "NonResourceAttributes": {1: ("path", "s"), 2: ("verb", "s")},
    "SelfSubjectRulesReview": {
        1: ("metadata", "ObjectMeta"), 2: ("spec", "SelfSubjectRulesReviewSpec"), 3: ("status", "-")
    },
    "SelfSubjectRulesReviewSpec": {1: ("namespace", "s")},
    "SelfSubjectReview": {1: ("metadata", "ObjectMeta"), 2: ("status", "-")},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "*i"), 2: ("preconditions", "*Preconditions"),
        3: ("orphanDependents", "*b"),
        4: ("propagationPolicy", "*s"), 5: ("dryRun", "[]s"),
    },
    "Preconditions": {1: ("uid", "*s"), 2: ("resourceVersion", "*s")},
}  # fmt: skip


def decode_protobuf(raw: bytes) -> Json:
    """The object in a Kubernetes protobuf envelope, as JSON has it. Raises ApiError 400."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the body of the request does not begin as Kubernetes protobuf does")
    try:
        envelope = dict(_fields(raw[len(_MAGIC) :]))
        about = dict(_fields(envelope.get(_ENVELOPE_TYPE, b"")))
        api_version, kind = about.get(1, b"").decode(), about.get(2, b"").decode()
        if kind not in _MESSAGES:
            raise bad_request(f"the demo cluster does not read {kind or 'this kind'} as protobuf: send JSON")
        value = _message(kind, envelope.get(_ENVELOPE_RAW, b""))
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise bad_request(f"the body of the request is not protobuf: {error}") from None
    return {"kind": kind, "apiVersion": api_version, **value}


def _message(name: str, raw: bytes) -> Json:
    known = _MESSAGES[name]
    result: Json = {}
    for number, found in _fields(raw):
        if number not in known:
            if found:
                raise bad_request(
                    f"the demo cluster does not read field {number} of {name} as protobuf: send JSON"
                )
            continue
        field, kind = known[number]
        if kind.startswith("[]"):
            result.setdefault(field, []).append(_value(kind[2:], found))
        elif kind.startswith("{}"):
            entry = dict(_fields(found))
            result.setdefault(field, {})[entry.get(1, b"").decode()] = _value(kind[2:], entry.get(2, b""))
        elif kind.startswith("*"):
            result[field] = _value(kind[1:], found)
        elif kind != "-" and (value := _value(kind, found)):
            result[field] = value
    return result


def _value(kind: str, found: Any) -> Any:
    if kind == "s":
        return found.decode()
    if kind == "y":
        return base64.b64encode(found).decode()
    if kind == "i":
        return found - (1 << 64) if found >> 63 else found
    if kind == "b":
        return bool(found)
    if kind == "q":
        return dict(_fields(found)).get(1, b"").decode()
    if kind == "t":
        seconds = dict(_fields(found)).get(1)
        return clock.rfc3339(seconds) if seconds else ""
    if kind == "n":
        either = dict(_fields(found))
        return either.get(3, b"").decode() if either.get(1) else either.get(2, 0)
    return _message(kind, found)


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers with an int for a varint, bytes for what has a length; k8s.io/api uses no others."""
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        found: int | bytes
        found, place = _varint(raw, place)
        if key & 7 == 2:
            end = place + found
            if end > len(raw):
                raise ValueError("it ends too early")
            found, place = raw[place:end], end
        elif key & 7 != 0:
            raise ValueError(f"unexpected wire type {key & 7}")
        yield key >> 3, found


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number is too long")

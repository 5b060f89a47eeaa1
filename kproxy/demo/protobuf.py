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

# A line for each message: a field's number, its name, its type. "[]" before a type makes an array, "{}" a map
# from text. "*" stands before what Go has as a pointer: there zero is a value; elsewhere it means not
# given. `either` is a number or text (IntOrString); `unread` is passed over.
_SCHEMA = """
ObjectMeta: 1 name text, 2 generateName text, 3 namespace text, 4 selfLink text, 5 uid text,
    6 resourceVersion text, 7 generation number, 8 creationTimestamp time, 11 labels {}text,
    12 annotations {}text, 13 ownerReferences []OwnerReference, 14 finalizers []text,
    17 managedFields unread
OwnerReference: 1 kind text, 3 name text, 4 uid text, 5 apiVersion text, 6 controller *flag,
    7 blockOwnerDeletion *flag
ConfigMap: 1 metadata ObjectMeta, 2 data {}text, 3 binaryData {}bytes, 4 immutable *flag
Secret: 1 metadata ObjectMeta, 2 data {}bytes, 3 type text, 4 stringData {}text, 5 immutable *flag
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status unread
NamespaceSpec: 1 finalizers []text
ServiceAccount: 1 metadata ObjectMeta, 3 imagePullSecrets []LocalObjectReference,
    4 automountServiceAccountToken *flag
LocalObjectReference: 1 name text
Service: 1 metadata ObjectMeta, 2 spec ServiceSpec, 3 status unread
ServiceSpec: 1 ports []ServicePort, 2 selector {}text, 3 clusterIP text, 4 type text, 5 externalIPs []text,
    7 sessionAffinity text, 8 loadBalancerIP text, 10 externalName text, 11 externalTrafficPolicy text,
    13 publishNotReadyAddresses flag, 17 ipFamilyPolicy *text, 18 clusterIPs []text, 19 ipFamilies []text,
    22 internalTrafficPolicy *text
ServicePort: 1 name text, 2 protocol text, 3 port number, 4 targetPort either, 5 nodePort number,
    6 appProtocol *text
Deployment: 1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status unread
DeploymentSpec: 1 replicas *number, 2 selector *LabelSelector, 3 template PodTemplateSpec,
    4 strategy DeploymentStrategy, 5 minReadySeconds number, 6 revisionHistoryLimit *number, 7 paused flag,
    9 progressDeadlineSeconds *number
DeploymentStrategy: 1 type text, 2 rollingUpdate *RollingUpdateDeployment
RollingUpdateDeployment: 1 maxUnavailable *either, 2 maxSurge *either
LabelSelector: 1 matchLabels {}text, 2 matchExpressions []LabelSelectorRequirement
LabelSelectorRequirement: 1 key text, 2 operator text, 3 values []text
PodTemplateSpec: 1 metadata ObjectMeta, 2 spec PodSpec
Pod: 1 metadata ObjectMeta, 2 spec PodSpec, 3 status unread
PodSpec: 2 containers []Container, 3 restartPolicy text, 4 terminationGracePeriodSeconds *number,
    5 activeDeadlineSeconds *number, 6 dnsPolicy text, 7 nodeSelector {}text, 8 serviceAccountName text,
    9 serviceAccount text, 10 nodeName text, 15 imagePullSecrets []LocalObjectReference, 16 hostname text,
    19 schedulerName text, 20 initContainers []Container, 21 automountServiceAccountToken *flag,
    24 priorityClassName text
Container: 1 name text, 2 image text, 3 command []text, 4 args []text, 5 workingDir text,
    6 ports []ContainerPort, 7 env []EnvVar, 8 resources ResourceRequirements,
    13 terminationMessagePath text, 14 imagePullPolicy text, 16 stdin flag, 17 stdinOnce flag, 18 tty flag,
    20 terminationMessagePolicy text
ContainerPort: 1 name text, 2 hostPort number, 3 containerPort number, 4 protocol text, 5 hostIP text
EnvVar: 1 name text, 2 value text
ResourceRequirements: 1 limits {}quantity, 2 requests {}quantity
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec, 3 status unread
SelfSubjectAccessReviewSpec: 1 resourceAttributes *ResourceAttributes,
    2 nonResourceAttributes *NonResourceAttributes
ResourceAttributes: 1 namespace text, 2 verb text, 3 group text, 4 version text, 5 resource text,
    6 subresource text, 7 name text
NonResourceAttributes: 1 path text, 2 verb text
SelfSubjectRulesReview: 1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec, 3 status unread
SelfSubjectRulesReviewSpec: 1 namespace text
SelfSubjectReview: 1 metadata ObjectMeta, 2 status unread
DeleteOptions: 1 gracePeriodSeconds *number, 2 preconditions *Preconditions, 3 orphanDependents *flag,
    4 propagationPolicy *text, 5 dryRun []text
Preconditions: 1 uid *text, 2 resourceVersion *text
"""


def _parse_schema() -> dict[str, dict[int, tuple[str, str]]]:
    messages = {}
    for line in _SCHEMA.replace("\n   ", "").strip().splitlines():
        message, fields = line.split(": ")
        parts = (field.split() for field in fields.split(", "))
        messages[message] = {int(number): (name, kind) for number, name, kind in parts}
    return messages


_MESSAGES = _parse_schema()


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
        elif kind != "unread" and (value := _value(kind, found)):
            result[field] = value
    return result


def _value(kind: str, found: Any) -> Any:
    if kind == "text":
        return found.decode()
    if kind == "bytes":
        return base64.b64encode(found).decode()
    if kind == "number":
        return found - (1 << 64) if found >> 63 else found
    if kind == "flag":
        return bool(found)
    if kind == "quantity":
        return dict(_fields(found)).get(1, b"").decode()
    if kind == "time":
        seconds = dict(_fields(found)).get(1)
        return clock.rfc3339(seconds) if seconds else ""
    if kind == "either":
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

"""From when and until when certificates and tokens hold. Pure."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from dataclasses import dataclass

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

UTC_TIME, GENERALIZED_TIME, VERSION = 0x17, 0x18, 0xA0


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """From when and until when a credential holds, seconds since the epoch; None where nobody tells."""

    issued_at: float | None = None
    expires_at: float | None = None


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time such as 2030-01-31T12:00:00Z")
    day, clock, fraction, zone = match.groups()
    moment = datetime.datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    return moment.timestamp() + float(fraction or 0)


def format_timestamp(at: float | None) -> str | None:
    """RFC 3339 of seconds since the epoch, for logs; None stays None."""
    if at is None:
        return None
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):  # beyond the year 9999
        return "never"


def certificate_life(pem: bytes) -> Life:
    """The validity of the first certificate in `pem` (RFC 5280, 4.1); an empty Life if it cannot be read.

    Read by hand: ssl tells it of a peer's certificate only, and a library for it costs the start 0.1 s.
    """
    match = _PEM_CERTIFICATE.search(pem)
    if match is None:
        return Life()
    try:
        certificate, _, _ = _element(base64.b64decode(match[1]), 0)
        body, _, _ = _element(certificate, 0)
        _, at, tag = _element(body, 0)
        if tag == VERSION:
            _, at, tag = _element(body, at)
        _, at, _ = _element(body, at)
        _, at, _ = _element(body, at)
        validity, _, _ = _element(body, at)
        not_before, at, tag = _element(validity, 0)
        not_after, _, last_tag = _element(validity, at)
        return Life(issued_at=_asn1_time(not_before, tag), expires_at=_asn1_time(not_after, last_tag))
    except (binascii.Error, ValueError, IndexError):
        return Life()


def earliest(*lives: Life) -> Life:
    """The life of a credential made of parts: it ends with the first of them."""
    ending = [life for life in lives if life.expires_at is not None]
    return min(ending, key=lambda life: life.expires_at or 0.0, default=Life())


def _element(data: bytes, at: int) -> tuple[bytes, int, int]:
    """(content, where the next element starts, tag) of the DER element at `at` (X.690, 8.1)."""
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    end = start + length
    if end > len(data):
        raise ValueError("cut short")
    return data[start:end], end, tag


def _asn1_time(content: bytes, tag: int) -> float:
    text = content.decode("ascii")
    if tag == UTC_TIME:
        # RFC 5280, 4.1.2.5.1: two digits mean 1950 to 2049.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()

"""When credentials end: RFC 3339 times, JWT claims, certificate validity, and the time to renew."""

from __future__ import annotations

import datetime

import pytest

from kproxy.credentials import Credential
from kproxy.credentials.expiry import jwt_claims, schedule, token_life
from kproxy.tls.lifetime import Life, certificate_life, earliest, format_timestamp, parse_timestamp
from tests.support.oidc_issuer import jwt
from tests.support.pki import CA

NOON = datetime.datetime(2030, 1, 31, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "offset_seconds"),
    [
        ("2030-01-31T12:00:00Z", 0.0),
        ("2030-01-31t12:00:00z", 0.0),
        ("2030-01-31T12:00:00.5Z", 0.5),
        ("2030-01-31T12:00:00.123456789Z", 0.123456789),
        ("2030-01-31T14:00:00+02:00", 0.0),
        ("2030-01-31T03:30:00-08:30", 0.0),
    ],
)
def test_rfc3339_times_are_understood(text: str, offset_seconds: float) -> None:
    """Offsets and fractions of any length are fine."""
    assert parse_timestamp(text) == pytest.approx(NOON.timestamp() + offset_seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2030-01-31",
        "2030-01-31 12:00:00Z",
        "2030-01-31T12:00:00",
        "2030-02-31T12:00:00Z",
        "20300131T120000Z",
        "2030-W05-4T12:00:00Z",
        "2030-01-31T12:00:00Z ",
        "1893499200",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    """What Go's time.Time does not unmarshal is an error, whatever else ISO 8601 allows."""
    with pytest.raises(ValueError, match=r"RFC 3339|day|month"):
        parse_timestamp(text)


def test_the_claims_of_a_jwt_are_read_without_verifying_it() -> None:
    """`exp` and `iat` may be integers or floats."""
    token = jwt(iat=1000, exp=2000.5, sub="joe")
    assert jwt_claims(token) == {"iat": 1000, "exp": 2000.5, "sub": "joe"}
    assert token_life(token) == Life(issued_at=1000.0, expires_at=2000.5)


@pytest.mark.parametrize(
    "token",
    [
        f"a.!{jwt(exp=1).split('.')[1]}.c",
        "",
        "abc",
        "a.b",
        "a.b.c",
        "a.e30.c.d",
        "a.W10.c",
        "a.!!!.c",
        "a.bnVsbA.c",
        "k8s-aws-v1.aHR0cHM6Ly9z",
    ],
)
def test_what_is_no_jwt_has_no_claims(token: str) -> None:
    """Opaque tokens, EKS's two-part ones among them, tell nothing of their life."""
    assert jwt_claims(token) is None
    assert token_life(token) == Life()


@pytest.mark.parametrize("expiry", ["soon", True, None, [1], 10**400, float("nan"), float("inf")])
def test_an_expiry_that_is_no_number_counts_as_absent(expiry: object) -> None:
    """A strange `exp` must not end in an exception, nor in the year 1970."""
    assert token_life(jwt(exp=expiry)).expires_at is None


def test_the_validity_of_a_certificate_is_read() -> None:
    """It is the one that a real parser finds, for years up to 2049 and after."""
    ca = CA()
    for year in (2031, 2055):
        ends = datetime.datetime(year, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
        pem, _ = ca.issue("alice", client=True, not_before=NOON.replace(year=2020), not_after=ends)
        life = certificate_life(b"# a comment\n" + pem + ca.pem)
        assert life == Life(issued_at=NOON.replace(year=2020).timestamp(), expires_at=ends.timestamp()), (
            f"year {year}"
        )


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"junk",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_a_certificate_that_cannot_be_read_has_no_life(pem: bytes) -> None:
    """Junk is for TLS to refuse; here it tells nothing."""
    assert certificate_life(pem) == Life()


def test_the_earliest_end_counts() -> None:
    """Of two parts the one that ends first ends the whole; a part without an end does not count."""
    early, late = Life(issued_at=1.0, expires_at=10.0), Life(issued_at=0.0, expires_at=20.0)
    assert earliest(late, Life(), early) is early
    assert earliest(Life()) == Life()
    assert earliest() == Life()


@pytest.mark.parametrize(
    ("life_seconds", "window_seconds", "margin_seconds"),
    [
        (2.0, 1.0, 0.1),
        (20.0, 10.0, 1.0),
        (60.0, 10.0, 3.0),
        (600.0, 60.0, 5.0),
        (3600.0, 300.0, 5.0),
        (86400.0, 300.0, 5.0),
        (0.0, 0.0, 0.0),
        (-50.0, 0.0, 0.0),
    ],
)
def test_the_renewal_starts_in_time(
    life_seconds: float, window_seconds: float, margin_seconds: float
) -> None:
    """In the last tenth of a life, within 10 s and 5 min, but not in its first half."""
    plan = schedule(1000.0, 1000.0 + life_seconds)
    assert 1000.0 + life_seconds - plan.refresh_at == pytest.approx(window_seconds)
    assert 1000.0 + life_seconds - plan.unusable_at == pytest.approx(margin_seconds)


def test_what_has_no_end_is_not_renewed() -> None:
    """Without an expiry the credential is kept until a 401."""
    plan = schedule(1000.0, None)
    assert plan.refresh_at == plan.unusable_at == float("inf")


def test_a_credential_is_ending_in_its_last_tenth() -> None:
    """That is what a warning goes by."""
    credential = Credential(authorization="Bearer x", issued_at=0.0, expires_at=100.0, kind="token")
    assert credential.ending_at == 90.0
    assert Credential(expires_at=100.0).ending_at == 100.0
    assert Credential().ending_at is None


def test_times_are_shown_as_rfc3339() -> None:
    """Logs show them readable; None stays None and absurd times don't raise."""
    assert format_timestamp(NOON.timestamp()) == "2030-01-31T12:00:00+00:00"
    assert format_timestamp(None) is None
    assert format_timestamp(1e300) == "never"

"""A certificate and its key: whole pairs are taken, all else is told."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from kproxy.tls.pair import UnusablePairError, server_context
from tests.support.pki import CA

ROOT = CA("root")
INTERMEDIATE = CA("intermediate", parent=ROOT)
LEAF, KEY = INTERMEDIATE.issue("localhost", ("localhost",))
OTHER_KEY = ROOT.issue("other")[1]
CHAIN = LEAF + INTERMEDIATE.pem
LOCKED_KEY = serialization.load_pem_private_key(KEY, None).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"word"),
)


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        (LEAF, KEY),
        (CHAIN, KEY),
        (CHAIN + KEY, CHAIN + KEY),
        (KEY + LEAF, KEY + LEAF),
        (b"text\n" + LEAF, KEY),
    ],
    ids=["alone", "chain", "one file", "key first", "with text"],
)
def test_whole_pairs_are_taken(certificate: bytes, key: bytes) -> None:
    """TLS 1.2 and later."""
    assert server_context(certificate, key).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (b"", KEY, "no certificate"),
        (LEAF, b"", "no private key"),
        (KEY, KEY, "no certificate"),
        (LEAF, LEAF, "no private key"),
        (LEAF, OTHER_KEY, "is not the key of the certificate"),
        (LEAF, LOCKED_KEY, "password"),
        (LEAF[:200], KEY, "is not complete"),
        (CHAIN[:-100], KEY, "is not complete"),
        (LEAF, KEY[:-10], "is not complete"),
        (LEAF.replace(b"MII", b"!!!"), KEY, "cannot be parsed"),
    ],
)
def test_what_is_wrong_is_told(certificate: bytes, key: bytes, said: str) -> None:
    """Which of the two, and why; OpenSSL never asks for a password on the terminal."""
    with pytest.raises(UnusablePairError, match=said):
        server_context(certificate, key)


@given(at=st.integers(0, len(CHAIN) - 2))
def test_no_part_of_a_chain_is_taken(at: int) -> None:
    """Wherever the writer was interrupted; but where one certificate ends it looks whole."""
    part = CHAIN[:at]
    if part.rstrip() == LEAF.rstrip():
        return
    with pytest.raises(UnusablePairError):
        server_context(part, KEY)


@given(at=st.integers(0, len(KEY) - 2))
def test_no_part_of_a_key_is_taken(at: int) -> None:
    """The same of the other file."""
    with pytest.raises(UnusablePairError):
        server_context(CHAIN, KEY[:at])

"""What is dropped, kept, replaced and added on the way through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.http.forwarding import (
    USER_AGENT,
    Impersonation,
    authorization_block,
    basic_authorization,
    map_target,
    may_ask_for_gzip,
    quote_target,
    request_block,
    response_block,
)
from kproxy.http.heads import RequestHead, ResponseHead

BEARER = authorization_block("Bearer configured")


def forward(
    *lines: bytes,
    request_line: bytes = b"GET /api HTTP/1.1",
    credential_block: bytes = BEARER,
    impersonation: Impersonation | None = None,
    client_address: bytes | None = None,
    asks_for_gzip: bool = False,
) -> list[bytes]:
    """The header lines that the API server gets."""
    head = RequestHead(b"\r\n".join([request_line, b"Host: localhost:8001", b"User-Agent: t", *lines]))
    block = request_block(
        head,
        target=head.target,
        authority=b"api.example:6443",
        credential_block=credential_block,
        impersonation=impersonation,
        client_address=client_address,
        asks_for_gzip=asks_for_gzip,
    )
    assert block.endswith(b"\r\n\r\n")
    return block[:-4].split(b"\r\n")


def test_a_plain_request_is_forwarded_as_it_came() -> None:
    """Only Host is replaced and the credential added; order, spelling and duplicates stay."""
    assert forward(b"x-b: 1", b"X-A:2", b"x-b: 3") == [
        b"GET /api HTTP/1.1",
        b"Host: api.example:6443",
        b"User-Agent: t",
        b"x-b: 1",
        b"X-A:2",
        b"x-b: 3",
        b"Authorization: Bearer configured",
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic x",
        b"Proxy-Authenticate: Basic",
        b"Upgrade: websocket",
        b"TE: gzip",
        b"Trailer: X",
    ],
)
def test_hop_by_hop_fields_stay_here(line: bytes) -> None:
    """RFC 9110 7.6.1: what is meant for this connection is not forwarded."""
    assert forward(line) == forward()


def test_fields_named_in_connection_stay_here() -> None:
    """A field that Connection names is dropped, whatever it is called."""
    assert forward(b"Connection: close, X-Mine", b"x-mine: 1", b"X-Other: 2") == forward(b"X-Other: 2")


def test_connection_cannot_strip_what_frames_or_authenticates() -> None:
    """Naming Host, Content-Length or Authorization in Connection strips neither framing nor credential."""
    lines = forward(
        b"Connection: Host, Content-Length, Authorization",
        b"Content-Length: 3",
        b"Authorization: Bearer own",
        request_line=b"POST /api HTTP/1.1",
    )

    assert b"Host: api.example:6443" in lines
    assert b"Content-Length: 3" in lines
    assert b"Authorization: Bearer configured" in lines
    assert b"Authorization: Bearer own" not in lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Authorization: Bearer own", [b"Authorization: Bearer own"]),
        (b"Authorization:", [b"Authorization: Bearer configured"]),
        (b"X-None: 1", [b"Authorization: Bearer configured"]),
    ],
)
def test_a_clients_own_authorization_replaces_the_credential(line: bytes, expected: list[bytes]) -> None:
    """client-go round_trippers.go: a non-empty Authorization passes, an empty one counts as absent."""
    assert [each for each in forward(line) if each.startswith(b"Authorization")] == expected


def test_forwarded_for_is_appended() -> None:
    """X-Forwarded-For joins what is there and ends in the client's address; unix sockets have none."""
    assert b"X-Forwarded-For: 127.0.0.1" in forward(client_address=b"127.0.0.1")
    joined = forward(b"X-Forwarded-For: a", b"x-forwarded-for: b, c", client_address=b"127.0.0.1")
    assert [each for each in joined if each.lower().startswith(b"x-f")] == [
        b"X-Forwarded-For: a, b, c, 127.0.0.1"
    ]
    assert b"X-Forwarded-For: a" in forward(b"X-Forwarded-For: a")


def test_an_upgrade_keeps_its_fields() -> None:
    """Connection and Upgrade are made anew for an upgrade; the protocol's own fields pass untouched."""
    lines = forward(
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: SPDY/3.1",
        b"X-Stream-Protocol-Version: v4",
        b"X-Stream-Protocol-Version: v5",
        request_line=b"POST /x HTTP/1.1",
    )

    assert lines.count(b"Connection: Upgrade") == 1
    assert lines.count(b"Upgrade: SPDY/3.1") == 1
    assert b"X-Stream-Protocol-Version: v4" in lines
    assert b"X-Stream-Protocol-Version: v5" in lines


def test_te_trailers_is_the_only_te_that_passes() -> None:
    """A client that reads trailers may say so; other codings are for this hop."""
    assert b"TE: trailers" in forward(b"TE: trailers", b"Connection: TE")


def test_a_user_agent_is_added_when_there_is_none() -> None:
    """The API server's audit log shall name somebody."""
    head = RequestHead(b"GET / HTTP/1.1\r\nHost: a")
    block = request_block(
        head, target="/", authority=b"a", credential_block=b"", impersonation=None, client_address=None,
        asks_for_gzip=False,
    )  # fmt: skip

    assert b"User-Agent: " + USER_AGENT in block


ALICE = Impersonation("alice", "7", ["dev", "ops"], [("example.com/x%y z", ["1", "2"])])


def test_impersonation_fields_are_escaped_as_client_go_does() -> None:
    """Group and extra are repeated, the key of an extra is percent-encoded."""
    lines = forward(impersonation=ALICE)

    assert [each for each in lines if each.startswith(b"Impersonate")] == [
        b"Impersonate-User: alice",
        b"Impersonate-Uid: 7",
        b"Impersonate-Group: dev",
        b"Impersonate-Group: ops",
        b"Impersonate-Extra-example.com%2Fx%25y%20z: 1",
        b"Impersonate-Extra-example.com%2Fx%25y%20z: 2",
    ]


def test_a_clients_own_impersonate_user_is_left_alone() -> None:
    """With its own Impersonate-User nothing of ours is added; with a group only, ours stands beside it."""
    own = forward(b"Impersonate-User: bob", impersonation=ALICE)
    group = forward(b"Impersonate-Group: g", b"Impersonate-Uid: 1", impersonation=ALICE)

    assert [each for each in own if each.startswith(b"Impersonate")] == [b"Impersonate-User: bob"]
    assert b"Impersonate-Group: g" in group
    assert b"Impersonate-User: alice" in group
    assert b"Impersonate-Uid: 1" not in group


@pytest.mark.parametrize(
    ("request_line", "line", "may"),
    [
        (b"GET / HTTP/1.1", b"X: 1", True),
        (b"POST / HTTP/1.1", b"X: 1", True),
        (b"HEAD / HTTP/1.1", b"X: 1", False),
        (b"GET / HTTP/1.1", b"Range: bytes=0-1", False),
        (b"GET / HTTP/1.1", b"Accept-Encoding: identity", False),
    ],
)
def test_gzip_is_asked_for_only_on_behalf_of_the_silent(request_line: bytes, line: bytes, may: bool) -> None:
    """Go's net/http: not for HEAD, not for ranges, not when the client spoke of encodings."""
    assert may_ask_for_gzip(RequestHead(b"\r\n".join([request_line, b"Host: a", line]))) is may


def answer(*lines: bytes, keeps_framing: bool = True, framing: bytes = b"") -> list[bytes]:
    head = ResponseHead(b"\r\n".join([b"HTTP/1.1 200 OK", *lines]))
    block = response_block(
        head, framing=framing, keeps_framing=keeps_framing, has_body=True, is_unpacked=not keeps_framing,
        connection=b"",
    )  # fmt: skip
    assert block.endswith(b"\r\n\r\n")
    return block[:-4].split(b"\r\n")


def test_an_answer_keeps_its_fields() -> None:
    """Duplicates, order and the upstream's Date stay; hop-by-hop fields and what Connection names go."""
    assert answer(
        b"Set-Cookie: a", b"Warning: 299 - x", b"set-cookie: b", b"Date: D", b"Connection: X-Hop",
        b"X-Hop: 1", b"Keep-Alive: 1", b"Content-Length: 2",
    ) == [
        b"HTTP/1.1 200 OK", b"Set-Cookie: a", b"Warning: 299 - x", b"set-cookie: b", b"Date: D",
        b"Content-Length: 2",
    ]  # fmt: skip


def test_a_missing_date_is_added() -> None:
    """RFC 9110 6.6.1: a recipient with a clock adds Date before forwarding."""
    assert any(line.startswith(b"Date: ") for line in answer(b"Content-Length: 0"))


def test_framing_of_ours_replaces_the_upstreams() -> None:
    """When the body is unpacked, its length, encoding and framing fields give way to ours."""
    lines = answer(
        b"Date: D", b"Content-Encoding: gzip", b"Content-Length: 9",
        keeps_framing=False, framing=b"Transfer-Encoding: chunked\r\n",
    )  # fmt: skip

    assert lines == [b"HTTP/1.1 200 OK", b"Date: D", b"Transfer-Encoding: chunked"]


@pytest.mark.parametrize(
    ("target", "base", "mapped"),
    [
        ("/api?x=1", "/k8s/clusters/c-1", "/k8s/clusters/c-1/api?x=1"),
        ("/k8s/clusters/c-1/api", "/k8s/clusters/c-1", "/k8s/clusters/c-1/api"),
        ("/k8s/clusters/c-1?x", "/k8s/clusters/c-1", "/k8s/clusters/c-1?x"),
        ("/k8s/clusters/c-10/api", "/k8s/clusters/c-1", "/k8s/clusters/c-1/k8s/clusters/c-10/api"),
    ],
)
def test_the_server_path_is_put_before_the_target_once(target: str, base: str, mapped: str) -> None:
    """A target that begins with the server's path already is left alone, on whole segments."""
    assert map_target(target, base) == mapped


def test_basic_authorization_is_utf8() -> None:
    """RFC 7617 with the charset that client-go uses."""
    assert basic_authorization("käthe", "pä:ss") == "Basic a8OkdGhlOnDDpDpzcw=="


@given(
    st.text(
        alphabet=st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), min_size=1
    )
)
def test_a_quoted_target_is_ascii_and_unquotes_to_itself(target: str) -> None:
    """Only bytes beyond ASCII are encoded: a redirect must not change what was asked for."""
    quoted = quote_target(target)

    assert quoted.isascii()
    assert "".join(c for c in quoted if c not in "%0123456789ABCDEF") == "".join(
        c for c in target if ord(c) < 0x7F and c not in "%0123456789ABCDEF"
    )


def test_every_connection_field_of_an_answer_counts() -> None:
    """What an earlier Connection field names is dropped too, whatever the last one says."""
    lines = answer(b"Date: D", b"Connection: X-Hop", b"X-Hop: 1", b"Connection: close", b"Content-Length: 2")

    assert lines == [b"HTTP/1.1 200 OK", b"Date: D", b"Content-Length: 2"]

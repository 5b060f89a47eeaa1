"""HPACK (RFC 7541): the examples of its appendix C, what must be refused, the `hpack` package as oracle."""

from __future__ import annotations

from collections.abc import Iterable

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.http.http2.hpack import Decoder, MalformedBlockError
from tests.support.effort import effort

Fields = list[tuple[bytes, bytes]]


def fields(text: str) -> Fields:
    """One field a line, name and value with a colon and a space between; pseudo fields begin with a colon."""
    found = []
    for line in text.strip().splitlines():
        name, _, value = line.strip()[1:].partition(": ")
        found.append(((line.strip()[0] + name).encode(), value.encode()))
    return found


GET = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com"
SECURE = (
    ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value"
)
REDIRECT = "cache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com"
COOKIE = (
    ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n"
    "location: https://www.example.com\ncontent-encoding: gzip\n"
    "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
)

# Appendix C: table size, then per block its bytes in hex and the fields of it.
EXAMPLES = {
    "C.2.1": (4096, [("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                      "custom-key: custom-header")]),
    "C.2.2": (4096, [("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path")]),
    "C.2.3": (4096, [("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret")]),
    "C.2.4": (4096, [("82", ":method: GET")]),
    "C.3": (4096, [
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", GET),
        ("8286 84be 5808 6e6f 2d63 6163 6865", GET + "\ncache-control: no-cache"),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", SECURE),
    ]),
    "C.4": (4096, [
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", GET),
        ("8286 84be 5886 a8eb 1064 9cbf", GET + "\ncache-control: no-cache"),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", SECURE),
    ]),
    "C.5": (256, [
        (("4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133"
         "3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d"),
         ":status: 302\n" + REDIRECT),
        ("4803 3330 37c1 c0bf", ":status: 307\n" + REDIRECT),
        (("88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a"
         "6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d"
         "6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31"), COOKIE),
    ]),
    "C.6": (256, [
        (("4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d"
         "29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3"), ":status: 302\n" + REDIRECT),
        ("4883 640e ffc1 c0bf", ":status: 307\n" + REDIRECT),
        (("88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d"
         "d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106"
         "3d50 07"), COOKIE),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_rfc(example: str) -> None:
    """Block after block, since each depends on what those before it left in the table."""
    size, blocks = EXAMPLES[example]
    decoder = Decoder(max_table_bytes=size)
    for block, text in blocks:
        assert decoder.decode(bytes.fromhex(block)) == fields(text)


def test_the_whole_static_table() -> None:
    """Each of its 61 entries by its index, as the oracle has it."""
    block = bytes(0x80 | index for index in range(1, 62))
    assert Decoder().decode(block) == oracle(block)


def test_every_byte_in_a_huffman_string() -> None:
    """All 256 codes, also the rare ones of up to 28 bits."""
    value = bytes(range(256))
    block = hpack.Encoder().encode([(b"x", value)], huffman=True)
    assert Decoder().decode(block) == [(b"x", value)]


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "index 0"),
        ("be", "an index behind both tables"),
        ("ff8001", "an index far behind them"),
        ("7f", "an index that breaks off"),
        ("ffffffffffffffffffffffffffffff01", "an integer without end"),
        ("40", "no name"),
        ("400161", "no value"),
        ("4001610361", "a value that breaks off"),
        ("400361", "a name that breaks off"),
        ("40016181", "a huffman value that breaks off"),
        ("400161 81 ff ff", "nothing to index"),
        ("400161 82 1fff", "padding of more than seven bits"),
        ("400161 81 18", "padding that is not of ones"),
        ("400161 84 ffffffff", "the code for the end of a string"),
        ("400161 ffffffffff0f", "a length of 4 GB"),
        ("3fe21f", "a table larger than was allowed"),
        ("3fffffffffffff0f", "a table size without bounds"),
        ("82 20", "a new table size behind a field"),
        ("3f", "a table size that breaks off"),
        ("7e 00", "a name by an index behind the tables"),
    ],
)
def test_a_faulty_block_is_refused(block: str, why: str) -> None:
    """With our own error and no other."""
    with pytest.raises(MalformedBlockError):
        Decoder(max_table_bytes=4096).decode(bytes.fromhex(block))


def test_an_empty_block_has_no_fields() -> None:
    """A header block may hold nothing."""
    assert Decoder().decode(b"") == []


def test_the_table_may_shrink_and_grow_again() -> None:
    """Two sizes at the start of a block (section 4.2); shrinking to nothing empties the table."""
    decoder = Decoder(max_table_bytes=4096)
    decoder.decode(bytes.fromhex("400161 0162"))
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    assert decoder.decode(bytes.fromhex("20 3fe11f 82")) == [(b":method", b"GET")]
    with pytest.raises(MalformedBlockError):
        decoder.decode(b"\xbe")


def test_a_field_larger_than_the_table_empties_it() -> None:
    """Section 4.4: it is no error, and the field itself is whole."""
    decoder = Decoder(max_table_bytes=64)
    decoder.decode(bytes.fromhex("400161 0162"))
    value = b"x" * 100
    assert decoder.decode(b"\x40\x01c\x64" + value) == [(b"c", value)]
    with pytest.raises(MalformedBlockError):
        decoder.decode(b"\xbe")


def test_an_entry_may_be_named_by_one_that_it_evicts() -> None:
    """Section 4.4: the name is read before the entry goes."""
    decoder = Decoder(max_table_bytes=40)
    decoder.decode(b"\x40\x03abc\x01d")
    assert decoder.decode(b"\x7e\x04wxyz") == [(b"abc", b"wxyz")]
    assert decoder.decode(b"\xbe") == [(b"abc", b"wxyz")]


def test_fields_that_are_not_indexed_leave_the_table_alone() -> None:
    """Neither those without indexing nor those that never may be."""
    decoder = Decoder(max_table_bytes=4096)
    decoder.decode(bytes.fromhex("400161 0162"))
    decoder.decode(bytes.fromhex("000163 0164 100165 0166"))
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]


# -- against the oracle --

NAMES = st.sampled_from([b":status", b"content-type", b"date", b"audit-id", b"x", b"set-cookie", b""])
VALUES = st.sampled_from([b"200", b"application/json", b"", b"a" * 300]) | st.binary(max_size=60)
BLOCKS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def oracle(block: bytes) -> Fields:
    return _bytes(hpack.Decoder().decode(block, raw=True))


def _bytes(pairs: Iterable[tuple[bytes | str, bytes | str]]) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in pairs]  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(BLOCKS, st.booleans(), st.sampled_from([None, None, 0, 60, 200, 4096])), max_size=8)
)
@settings(max_examples=effort(50))
def test_what_an_encoder_writes_is_read(blocks: list[tuple[Fields, bool, int | None]]) -> None:
    """Any fields, huffman or not, with the table changing its size in between."""
    encoder, decoder = hpack.Encoder(), Decoder(max_table_bytes=4096)
    for pairs, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        assert decoder.decode(encoder.encode(pairs, huffman=huffman)) == pairs


@given(st.lists(st.binary(max_size=40), max_size=4))
@settings(max_examples=effort(125))
def test_random_blocks_are_read_as_the_oracle_reads_them(blocks: list[bytes]) -> None:
    """The same fields or a fault on both sides, and never another error."""
    ours, theirs = Decoder(max_table_bytes=4096), hpack.Decoder()
    for block in blocks:
        assert _read(ours, block) == _read_by_oracle(theirs, block)


@given(BLOCKS, st.booleans(), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=effort(75))
def test_a_damaged_block_is_read_as_the_oracle_reads_it(
    pairs: Fields, huffman: bool, place: int, byte: int
) -> None:
    """One byte of a sound block is another: nearer to what is sent than random bytes."""
    block = bytearray(hpack.Encoder().encode(pairs, huffman=huffman))
    if block:
        block[place % len(block)] = byte
    damaged = bytes(block)
    assert _read(Decoder(max_table_bytes=4096), damaged) == _read_by_oracle(hpack.Decoder(), damaged)


def _read(decoder: Decoder, block: bytes) -> Fields | None:
    try:
        return decoder.decode(block)
    except MalformedBlockError:
        return None


def _read_by_oracle(decoder: hpack.Decoder, block: bytes) -> Fields | None:
    try:
        return _bytes(decoder.decode(block, raw=True))
    except (hpack.HPACKError, OverflowError):
        return None

"""HPACK, the header compression of HTTP/2 (RFC 7541): requests encoded, answers decoded. No I/O.

Requests use no dynamic table, so that what a head was encoded to can be sent again on any connection. API
servers are asked to use none either (`Decoder.limit_table(0)` is what that means here): then the same field
is the same bytes each time, and is looked up instead of being decoded.
"""

from __future__ import annotations

from kproxy.http.http2.hpack_tables import CODE_BITS, STATIC_TABLE

Pair = tuple[bytes, bytes]
"""Name and value of one field."""

NO_TABLE = b"\x20"
"""A table size of 0. It begins a block behind each change of what the peer allows (RFC 7541, 4.2)."""

TABLE_BYTES = 4096
"""The dynamic table that either side may use until it has heard otherwise (RFC 9113, 6.5.2)."""

_MAX_FIELDS = 8192
"""Of one block. A field counts for at least 32 bytes (RFC 9113, 10.5.1), so these are a head of 256 KB."""
_MAX_KNOWN_FIELDS = 2048
_MAX_KNOWN_BYTES = 128
_FIRST_DYNAMIC = len(STATIC_TABLE)
_CUT = "a header block ends in the middle of a field"
_NOT_KEPT = (b"authorization", b"cookie", b"token", b"secret", b"key", b"password")


class MalformedBlockError(ValueError):
    """A header block that is not HPACK. The connection is of no use afterwards (RFC 9113, 4.3)."""


# -- encoding --

_known_lines: dict[bytes, bytes] = {}
# What frames or routes an HTTP/1.1 message has no place in HTTP/2 (RFC 9113, 8.2.2).
_NOT_SENT = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_METHODS = {b"GET": b"\x82", b"POST": b"\x83"}


def encode_request(head: bytes, *, is_tls: bool) -> bytes:
    """The header block for an HTTP/1.1 request head as `headers.request_block` makes it."""
    lines = head.split(b"\r\n")
    method, target, _ = lines[0].split(b" ")
    parts = [
        _METHODS.get(method) or b"\x02" + _string(method),
        b"\x87" if is_tls else b"\x86",
        b"\x04" + _string(target),
    ]
    known = _known_lines
    parts += [known.get(line) or _encode_line(line) for line in lines[1:] if line]
    return b"".join(parts)


def encode_fields(lines: list[bytes]) -> bytes:
    """The header block of trailers, given as HTTP/1.1 field lines."""
    return b"".join(map(_encode_line, lines))


def _encode_line(line: bytes) -> bytes:
    name, _, value = line.partition(b":")
    name, value = name.lower(), value.strip(b" \t")
    is_secret = any(word in name for word in _NOT_KEPT)
    if name == b"host":
        encoded = b"\x01" + _string(value)
    elif name in _NOT_SENT:
        encoded = b""
    else:
        # "Never indexed" for secrets, for whoever compresses this anew (RFC 7541, 7.1.3).
        encoded = (b"\x10" if is_secret else b"\x00") + _string(name) + _string(value)
    if len(line) <= _MAX_KNOWN_BYTES and not is_secret:
        if len(_known_lines) >= _MAX_KNOWN_FIELDS:
            _known_lines.clear()
        _known_lines[line] = encoded
    return encoded


def _string(value: bytes) -> bytes:
    """Without the Huffman code: it saves a fifth on the wire and costs more than all the rest."""
    size = len(value)
    if size < 127:
        return b"%c%b" % (size, value)
    digits = bytearray(b"\x7f")
    size -= 127
    while size >= 128:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    digits.append(size)
    return bytes(digits) + value


# -- decoding --


class Decoder:
    """The decoding side of one connection; blocks must come in the order in which they were received."""

    def __init__(self, max_table_bytes: int = TABLE_BYTES) -> None:
        self._max_table_bytes = max_table_bytes
        self._limit_bytes = max_table_bytes
        self._table: list[Pair] = []
        self._table_bytes = 0
        self._known: dict[bytes, Pair] = {}
        self.has_history = False
        """Whether the last block used or changed the dynamic table: its bytes mean something of its own."""

    def limit_table(self, max_table_bytes: int) -> None:
        """The peer has agreed to this size; it may still say a smaller one."""
        self._max_table_bytes = max_table_bytes
        self._resize(min(self._limit_bytes, max_table_bytes))

    def decode(self, block: bytes) -> list[Pair]:
        """The fields in order, pseudo fields included. Raises MalformedBlockError."""
        self.has_history = False
        known = self._known
        fields: list[Pair] = []
        position, size = 0, len(block)
        try:
            while position < size:
                if len(fields) == _MAX_FIELDS:
                    raise MalformedBlockError("a block has too many fields")
                first = block[position]
                if first & 0x80:
                    index, position = _integer(block, position, 0x7F)
                    fields.append(self._entry(index))
                elif first & 0xE0 == 0x20:
                    limit, position = _integer(block, position, 0x1F)
                    if fields or limit > self._max_table_bytes:
                        raise MalformedBlockError("a table size is out of place or too large")
                    self.has_history = True
                    self._resize(limit)
                else:
                    end = _literal_end(block, position, first)
                    # What is known stands for itself; what is put into the table must be put there.
                    field = known.get(block[position:end])
                    if field is None or (first & 0x40 and self._max_table_bytes):
                        field = self._read_literal(block, position, first, end)
                    fields.append(field)
                    position = end
        except IndexError:
            raise MalformedBlockError(_CUT) from None
        return fields

    def _read_literal(self, block: bytes, start: int, first: int, end: int) -> Pair:
        if end > len(block):
            raise MalformedBlockError(_CUT)
        index, position = _integer(block, start, 0x3F if first & 0x40 else 0x0F)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _read_string(block, position)
        value, _ = _read_string(block, position)
        field = (name, value)
        if first & 0x40 and self._max_table_bytes:
            self._insert(field)
        if index < _FIRST_DYNAMIC:
            self._remember(block[start:end], field)
        return field

    def _remember(self, raw: bytes, field: Pair) -> None:
        if len(raw) > _MAX_KNOWN_BYTES or any(word in field[0] for word in _NOT_KEPT):
            return
        if len(self._known) >= _MAX_KNOWN_FIELDS:
            self._known.clear()
        self._known[raw] = field

    def _entry(self, index: int) -> Pair:
        if 0 < index < _FIRST_DYNAMIC:
            return STATIC_TABLE[index]
        self.has_history = True
        if not 0 < index < _FIRST_DYNAMIC + len(self._table):
            raise MalformedBlockError("a field refers to an entry that is not in the table")
        return self._table[index - _FIRST_DYNAMIC]

    def _insert(self, field: Pair) -> None:
        # Also if there is no room for it now: next time there may be.
        self.has_history = True
        if not self._limit_bytes:
            return
        self._table.insert(0, field)
        self._table_bytes += _size(field)
        self._evict()

    def _resize(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._evict()

    def _evict(self) -> None:
        while self._table_bytes > self._limit_bytes:
            self._table_bytes -= _size(self._table.pop())


def _size(field: Pair) -> int:
    """RFC 7541, 4.1."""
    return len(field[0]) + len(field[1]) + 32


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """RFC 7541, 5.1: the number in the low bits and, if they are all set, in the bytes behind them."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise MalformedBlockError("a number has too many digits")


def _literal_end(block: bytes, position: int, first: int) -> int:
    """Where a literal field ends that begins at `position`; perhaps beyond the block."""
    mask = 0x3F if first & 0x40 else 0x0F
    index = first & mask
    if index == mask:
        index, position = _integer(block, position, mask)
    else:
        position += 1
    if not index:
        size = block[position] & 0x7F
        if size == 0x7F:
            size, position = _integer(block, position, 0x7F)
            position += size
        else:
            position += 1 + size
    size = block[position] & 0x7F
    if size == 0x7F:
        size, position = _integer(block, position, 0x7F)
        return position + size
    return position + 1 + size


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    size, start = _integer(block, position, 0x7F)
    value = block[start : start + size]
    return (_unpack(value) if block[position] & 0x80 else value), start + size


_END = 256


def _make_tree() -> list[list[int]]:
    """Nodes as (next for 0, next for 1); a symbol is ~symbol, the root is 0 and nobody's child."""
    nodes = [[0, 0]]
    code = bits = 0
    for symbol in sorted(range(257), key=lambda each: (CODE_BITS[each], each)):
        code <<= CODE_BITS[symbol] - bits
        bits = CODE_BITS[symbol]
        node = 0
        for shift in range(bits - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes[node][bit] = len(nodes)
                nodes.append([0, 0])
            node = nodes[node][bit]
        nodes[node][code & 1] = ~symbol
        code += 1
    return nodes


_TREE = _make_tree()
# Node and byte -> node and what was decoded; filled in as they are met, some hundreds in practice.
_steps: dict[int, tuple[int, bytes]] = {}


def _unpack(packed: bytes) -> bytes:
    """Undo the Huffman code (RFC 7541, 5.2). Raises MalformedBlockError."""
    node = 0
    parts = []
    for byte in packed:
        node, decoded = _steps.get(node << 8 | byte) or _step(node, byte)
        parts.append(decoded)
    if node not in _PADDING_ENDS:
        raise MalformedBlockError("a Huffman code is not padded as it must be")
    return b"".join(parts)


def _step(node: int, byte: int) -> tuple[int, bytes]:
    start = node
    decoded = bytearray()
    for shift in range(7, -1, -1):
        node = _TREE[node][byte >> shift & 1]
        if node < 0:
            if ~node == _END:
                raise MalformedBlockError("a Huffman code has its end mark inside")
            decoded.append(~node)
            node = 0
    step = _steps[start << 8 | byte] = (node, bytes(decoded))
    return step


def _make_padding_ends() -> frozenset[int]:
    """Where a string may end: between two symbols, or behind up to seven bits of the end mark."""
    node, ends = 0, [0]
    for _ in range(7):
        node = _TREE[node][1]
        ends.append(node)
    return frozenset(ends)


_PADDING_ENDS = _make_padding_ends()

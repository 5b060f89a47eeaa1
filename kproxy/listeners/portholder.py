"""Which program has a port, for the message that it is in use. Linux tells it in /proc, proc(5).

Only processes of one's own user show their sockets; of others it is not said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTEN = "0A"
"""TCP_LISTEN of the kernel's include/net/tcp_states.h."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListeningSocket:
    """A line of /proc/net/tcp or tcp6; IPv4 addresses in IPv6 form are IPv4 here."""

    address: IPv4Address | IPv6Address
    port: int
    inode: int


def parse_table(text: str) -> Iterator[ListeningSocket]:
    """The listening sockets of a /proc/net/tcp or tcp6; lines of another form are skipped."""
    for line in text.splitlines():
        with suppress(ValueError, IndexError):
            words = line.split()
            host, _, port = words[1].partition(":")
            if words[3] == _LISTEN:
                yield ListeningSocket(address=_address(host), port=int(port, 16), inode=int(words[9]))


def _address(text: str) -> IPv4Address | IPv6Address:
    """Words of 32 bits, each printed as a number of the machine's own byte order."""
    packed = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def conflicting(sockets: Iterator[ListeningSocket], address: str, port: int) -> Iterator[ListeningSocket]:
    """Those that keep `address` and `port` from being bound; a host name stands for any address."""
    try:
        wanted = ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        wanted = None
    takes_any = wanted is None or wanted.is_unspecified
    for each in sockets:
        if each.port == port and (takes_any or each.address.is_unspecified or each.address == wanted):
            yield each


def program_name(comm: str, command_line: Sequence[str]) -> str:
    """What people call a process: of an interpreter the script or module that it runs."""
    if not comm.startswith("python"):
        return comm
    words = list(command_line[1:])
    while words:
        word = words.pop(0)
        if word == "-m" and words:
            return words[0]
        if word == "-c":
            break
        if not word.startswith("-"):
            return os.path.basename(word)
    return comm


def holder_of(address: str, port: int) -> str | None:
    """`kubectl (pid 123)`, or None when it cannot be told."""
    with suppress(OSError):
        inodes = {each.inode for each in conflicting(_sockets(), address, port)}
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
            if inodes and not inodes.isdisjoint(_sockets_of(pid)):
                return "this kproxy itself" if pid == os.getpid() else f"{_name_of(pid)} (pid {pid})"
    return None


def _sockets() -> Iterator[ListeningSocket]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            yield from parse_table(Path("/proc/net", table).read_text())


def _sockets_of(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                kind, _, inode = os.readlink(f"{folder}/{name}").partition(":")
                if kind == "socket":
                    yield int(inode.strip("[]"))


def _name_of(pid: int) -> str:
    comm, words = "a program", []
    with suppress(OSError):
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return "".join(c if c.isprintable() else "?" for c in program_name(comm, words))

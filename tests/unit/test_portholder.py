"""Which program has a port: tables of the kernel, names of processes, and a real one."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.listeners.portholder import conflicting, holder_of, parse_table, program_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000  1000        0"

needs_little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the tables here are of such")


def line(local: str, state: str = "0A", inode: int = 7) -> str:
    return f"   0: {local} 00000000:0000 {state} {REST} {inode} 1 0000000000000000 100 0 0 10 0\n"


@needs_little_endian
@pytest.mark.parametrize(
    ("local", "address"),
    [
        ("0100007F:1F41", "127.0.0.1"),
        ("00000000:1F41", "0.0.0.0"),
        ("00000000000000000000000001000000:1F41", "::1"),
        ("0000000000000000FFFF00000100007F:1F41", "127.0.0.1"),
        ("B80D0120000000000000000001000000:1F41", "2001:db8::1"),
    ],
)
def test_the_kernels_addresses(local: str, address: str) -> None:
    """Words of 32 bits in the machine's byte order."""
    (found,) = parse_table(HEADER + line(local))
    assert (str(found.address), found.port, found.inode) == (address, 8001, 7)


def test_only_listening_sockets_count() -> None:
    """A connection has a local port, too."""
    assert list(parse_table(HEADER + line("0100007F:1F41", state="01"))) == []


@given(text=st.text())
def test_other_text_is_skipped(text: str) -> None:
    """Whatever a kernel may print one day, nothing is raised."""
    list(parse_table(text))


@needs_little_endian
@pytest.mark.parametrize(
    ("bound", "wanted", "is_conflict"),
    [
        ("0100007F:1F41", "127.0.0.1", True),
        ("0100007F:1F41", "127.0.0.2", False),
        ("00000000:1F41", "127.0.0.1", True),
        ("0100007F:1F41", "0.0.0.0", True),
        ("0100007F:1F41", "::", True),
        ("0100007F:1F41", "some.name", True),
        ("0100007F:1F42", "127.0.0.1", False),
        ("00000000000000000000000001000000:1F41", "[::1]", True),
        ("00000000000000000000000001000000:1F41", "127.0.0.1", False),
    ],
)
def test_what_keeps_an_address_from_being_bound(bound: str, wanted: str, is_conflict: bool) -> None:
    """The same address, or all of them on either side."""
    assert bool(list(conflicting(parse_table(line(bound)), wanted, 8001))) is is_conflict


@pytest.mark.parametrize(
    ("comm", "words", "name"),
    [
        ("kubectl", ["kubectl", "proxy"], "kubectl"),
        ("python3", ["python3", "-m", "kproxy", "--port=1"], "kproxy"),
        ("python3.11", ["/usr/bin/python3.11", "-u", "/opt/bin/serve.py", "x"], "serve.py"),
        ("python3", ["python3", "-c", "import this"], "python3"),
        ("python3", [], "python3"),
        ("node", ["node", "app.js"], "node"),
    ],
)
def test_the_name_that_people_know(comm: str, words: list[str], name: str) -> None:
    """`python3` says nothing: its script or module does."""
    assert program_name(comm, words) == name


def test_another_process_is_found() -> None:
    """With its name and number."""
    program = (
        "import socket, sys\n"
        "with socket.create_server(('127.0.0.1', 0)) as bound:\n"
        "    print(bound.getsockname()[1], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        holder = holder_of("127.0.0.1", port)
        process.communicate()
    assert holder is not None
    assert holder.endswith(f"(pid {process.pid})")
    assert holder.startswith("python")


def test_our_own_socket_is_told_as_such() -> None:
    """Two of kproxy's listeners may be after one port."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        assert holder_of("127.0.0.1", bound.getsockname()[1]) == "this kproxy itself"


def test_a_free_port_has_no_holder(reserved_port: int) -> None:
    """Nor is anything said where nothing is known."""
    assert holder_of("127.0.0.1", reserved_port) is None

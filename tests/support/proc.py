"""What the operating system says about a running program (Linux /proc): CPU, memory, descriptors.

Every number covers the process and its descendants, so that nginx's worker or a launcher counts.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    found = [pid]
    for parent in found:
        for task in _listdir(f"/proc/{parent}/task"):
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text().split()
                found += [int(child) for child in children]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time used so far.

    The scheduler's nanoseconds per thread are finer than the ticks of /proc/PID/stat, but forget
    threads and children that ended; so the larger of both counts.
    """
    return sum(max(_tick_seconds(each), _scheduler_seconds(each)) for each in tree(pid))


def rss_bytes(pid: int) -> int:
    return sum(_status_bytes(each, "VmRSS:") for each in tree(pid))


def peak_rss_bytes(pid: int) -> int:
    """The largest resident size since the start or since `reset_peak`."""
    return sum(_status_bytes(each, "VmHWM:") for each in tree(pid))


def reset_peak(pid: int) -> None:
    for each in tree(pid):
        # proc(5), clear_refs: 5 resets the peak resident set size.
        with open(f"/proc/{each}/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")


def descriptors(pid: int) -> int:
    """Open descriptors of any kind."""
    return sum(len(_listdir(f"/proc/{each}/fd")) for each in tree(pid))


def sockets(pid: int) -> int:
    count = 0
    for each in tree(pid):
        for descriptor in _listdir(f"/proc/{each}/fd"):
            with contextlib.suppress(OSError):
                count += os.readlink(f"/proc/{each}/fd/{descriptor}").startswith("socket:")
    return count


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _tick_seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # Fields count from behind the command's name, which may hold spaces: utime, stime, and the same of
    # children that were waited for.
    fields = stat.rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS


def _scheduler_seconds(pid: int) -> float:
    total = 0
    for task in _listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e9


def _status_bytes(pid: int, key: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0

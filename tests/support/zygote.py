"""kproxy as a fork of a process that has imported it: a tenth of the CPU that a start from nothing takes.

What it does from its arguments on is the same. Not for tests of the start itself, of memory, or of what
others see of the process: its command line is not its own.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36
IMPORTED = ("kproxy.cli.main", "kproxy.server.server", "kproxy.gateway.router", "kproxy.system.eventloop")


class Forked:
    """Of `subprocess.Popen` what `Process` needs."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], cwd: Path | None) -> None:
        self.returncode: int | None = None
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        self.stdout: IO[bytes] = os.fdopen(out, "rb", 0)
        self.stderr: IO[bytes] = os.fdopen(err, "rb", 0)
        order = {"arguments": arguments, "environment": dict(environment), "cwd": str(cwd or Path.cwd())}
        try:
            self.pid = _fork(json.dumps(order).encode(), [out_end, err_end])
        finally:
            os.close(out_end)
            os.close(err_end)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("kproxy", timeout or 0.0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Zygote:
    """The process that is forked, from here."""

    def __init__(self) -> None:
        # What it forks becomes a child of ours when the process in between ends: we wait for it.
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError("prctl")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "always::ResourceWarning"},
                pass_fds=[theirs.fileno()],
            )

    def fork(self, order: bytes, ends: list[int]) -> int:
        """The id of the new process, whose stdout and stderr these are."""
        socket.send_fds(self._channel, [order], ends)
        return int(self._channel.recv(100))

    def end(self) -> None:
        self._channel.close()
        self._process.wait()


_zygote: Zygote | None = None
"""One for all tests of a worker."""
_one_at_a_time = threading.Lock()


def begin() -> bool:
    """Start it, unless it runs; whether it can be had on this system."""
    global _zygote
    if sys.platform == "linux" and _zygote is None:
        _zygote = Zygote()
    return _zygote is not None


def end() -> None:
    global _zygote
    if _zygote is not None:
        _zygote.end()
        _zygote = None


def _fork(order: bytes, ends: list[int]) -> int:
    assert _zygote is not None, "not begun"
    with _one_at_a_time:
        return _zygote.fork(order, ends)


def _serve(channel: socket.socket) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        order, ends, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        if not order:
            return
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            if os.fork() == 0:
                # Before it is told of: whoever ends it ends its group.
                os.setsid()
                os.write(writer, b"%d" % os.getpid())
                for each in (reader, writer, channel.detach()):
                    os.close(each)
                _become(json.loads(order), ends)
                return
            os._exit(0)
        os.waitpid(between, 0)
        channel.send(os.read(reader, 100))
        for each in (reader, writer, *ends):
            os.close(each)


def _become(order: dict[str, object], ends: list[int]) -> None:
    for number, each in enumerate(ends, 1):
        os.dup2(each, number)
        os.close(each)
    os.chdir(str(order["cwd"]))
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    time.tzset()
    sys.argv[1:] = order["arguments"]  # type: ignore[assignment]
    runpy.run_module("kproxy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as ours:
        _serve(ours)

"""kproxy in the background, as a user of the commands has it: `Instances` is one user's home with all in it.

    with Instances(tmp_path) as instances:
        instances.run("start", "--port=0")

What is left running at the end is killed, and all output is searched for planted secrets.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import secrets
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.program import ROOT, Process


class Instances:
    """Runs `kproxy COMMAND` with a home and a runtime folder of its own."""

    def __init__(self, folder: Path, *, has_runtime_dir: bool = True) -> None:
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.environ = {
            key: os.environ[key] for key in ("PATH", "LANG", "VIRTUAL_ENV") if key in os.environ
        } | {"HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        self.state = self.home / ".local" / "state" / "kproxy"
        if has_runtime_dir:
            (folder / "run").mkdir(mode=0o700, exist_ok=True)
            self.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
            self.state = folder / "run" / "kproxy"
        # By this the processes of this user are known from all others.
        self.environ["KPROXY_TEST_USER"] = str(folder)
        self._outputs: list[str] = []

    def run(
        self,
        *args: str,
        code: int = 0,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; AssertionError unless it ends with that exit code."""
        done = subprocess.run(
            self._command(args),
            env={**self.environ, **(env or {})},
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LAST_RESORT_SECONDS,
            pass_fds=pass_fds,
            check=False,
        )
        self._outputs += [done.stdout, done.stderr]
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def at_once(self, *commands: Sequence[str]) -> list[tuple[int, str, str]]:
        """Run commands side by side; exit code, stdout and stderr of each."""
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(
                    subprocess.Popen(
                        self._command(command),
                        env=self.environ,
                        cwd=self.home,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                )
                for command in commands
            ]
            outputs = [each.communicate(timeout=LAST_RESORT_SECONDS) for each in running]
        self._outputs += [text for output in outputs for text in output]
        return [(each.returncode, *output) for each, output in zip(running, outputs, strict=True)]

    def process(self, *args: str) -> Process:
        """A command that goes on, such as `logs -f`."""
        return Process(self._command(args), env=self.environ, cwd=self.home)

    def start(self, *args: str, **more: Any) -> str:
        """`kproxy start`; the first address that it names."""
        done = self.run("start", *args, **more)
        found = re.match(r"Starting to serve on (.*)\n", done.stdout)
        assert found, done.stdout
        return found[1]

    def status(self, name: str = "default", *, code: int = 0) -> dict[str, Any]:
        """What `kproxy status --json` says of one."""
        (found,) = json.loads(self.run("status", "--json", f"--name={name}", code=code).stdout)["instances"]
        assert isinstance(found, dict)
        return found

    def log(self, name: str = "default") -> str:
        return self.run("logs", "--tail=-1", f"--name={name}").stdout

    def events(self, name: str = "default") -> list[str]:
        return [json.loads(line)["event"] for line in self.log(name).splitlines() if line.startswith("{")]

    def pids(self) -> set[int]:
        """Every process of this user (Linux)."""
        mark = f"KPROXY_TEST_USER={self.environ['KPROXY_TEST_USER']}".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.add(int(entry.name))
        return found

    def kill(self, pid: int) -> None:
        """As a crash: SIGKILL, and wait until the process is gone."""
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + LAST_RESORT_SECONDS
        while pid in self.pids():
            assert time.monotonic() < deadline, f"{pid} survives SIGKILL"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logs = [path.read_text(errors="replace") for path in self.state.glob("*.log*") if path.is_file()]
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if error is None:
            output = "".join(self._outputs + logs)
            assert secrets.leaked(output) == []
            assert "Traceback" not in output

    @staticmethod
    def _command(args: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "kproxy", *args]


def get(address: str, path: str, timeout: float = LAST_RESORT_SECONDS) -> tuple[int, bytes]:
    """Status and body of a GET on a connection of its own."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

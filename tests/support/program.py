"""Real programs as subprocesses: `Program` is kproxy as a user starts it, `DemoProgram` its demo cluster.

    async with Program(kubeconfig=kubeconfig(tmp_path, upstream)) as program:
        client = await RawClient.connect(program.address)

Leaving the block kills the whole process group; `stop()` asks politely and tells the exit code. Either
way the program's output is then searched for planted secrets and tracebacks, which fail the test.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from tests.support import proc, secrets, zygote
from tests.support.patience import LAST_RESORT_SECONDS
from tests.support.upstream import ByteUpstream

ROOT = Path(__file__).resolve().parents[2]
KPROXY = (sys.executable, "-m", "kproxy")
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV")
T = TypeVar("T")
forks = False
"""Whether kproxy is forked from a process that has imported it, where that does no harm (see zygote.py)."""
_COMPLAINTS = (
    "Traceback (most recent call last)",
    "was never retrieved",
    "was never awaited",
    # A connection that nobody has closed is closed by a garbage collection, perhaps on another thread than
    # the loop's: uvloop's lists of what to close do not survive that (its issue 706).
    "ResourceWarning: ",
)


class Process:
    """A subprocess with its output, from start to end; it leads a process group of its own.

    The environment is clean (no KUBECONFIG, no proxies, an empty home) but for `env`. With
    `stderr_path` the program writes to that file itself, so that nobody here spends time on it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stderr_path: Path | None = None,
        allow_complaints: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.command = list(command)
        self._pass_fds = tuple(pass_fds)
        self.allow_complaints = allow_complaints
        self.exit_code: int | None = None
        self.started_at = 0.0
        self._env = dict(env or {})
        self._cwd = cwd
        self._stderr_path = stderr_path
        self._home = tempfile.TemporaryDirectory(prefix="home-")
        self._process: subprocess.Popen[bytes] | zygote.Forked | None = None
        self._output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._threads: list[threading.Thread] = []
        self._arrived = threading.Condition()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        if self._stderr_path is not None:
            return self._stderr_path.read_text(errors="replace")
        return self._text("stderr")

    def log_events(self, event: str | None = None) -> list[dict[str, Any]]:
        """JSON log lines so far, those of one event name if given."""
        found = []
        for line in self.stderr.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and event in (None, entry.get("event")):
                    found.append(entry)
        return found

    def cpu_seconds(self) -> float:
        return proc.cpu_seconds(self.pid)

    def rss_bytes(self) -> int:
        return proc.rss_bytes(self.pid)

    def peak_rss_bytes(self) -> int:
        return proc.peak_rss_bytes(self.pid)

    def descriptors(self) -> int:
        return proc.descriptors(self.pid)

    def sockets(self) -> int:
        return proc.sockets(self.pid)

    def start(self) -> None:
        """Start, and wait until the program is ready (see `wait_until_ready`)."""
        variables = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
        environment = {
            **variables,
            "HOME": self._home.name,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "always::ResourceWarning",
            **self._env,
        }
        if self._may_be_forked():
            self.started_at = time.monotonic()
            self._process = zygote.Forked(self.command[len(KPROXY) :], environment, self._cwd)
            self._follow()
            return
        with contextlib.ExitStack() as stack:
            stderr: IO[bytes] | int = subprocess.PIPE
            if self._stderr_path is not None:
                stderr = stack.enter_context(self._stderr_path.open("ab"))
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd=self._cwd,
                start_new_session=True,
                pass_fds=self._pass_fds,
            )
        self._follow()

    def _may_be_forked(self) -> bool:
        return (
            forks
            and tuple(self.command[: len(KPROXY)]) == KPROXY
            and not self._pass_fds
            and self._stderr_path is None
            # These count when Python starts.
            and not any(name.startswith(("PYTHON", "LC_", "LANG")) for name in self._env)
        )

    def _follow(self) -> None:
        """Collect the output, and wait until the program is ready."""
        assert self._process is not None
        for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            if stream is not None:
                thread = threading.Thread(target=self._collect, args=(name, stream), daemon=True)
                thread.start()
                self._threads.append(thread)
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self) -> None:
        """Nothing to wait for here; subclasses know their first words."""

    def wait_for_output(
        self, pattern: str, stream: str = "stderr", timeout: float = LAST_RESORT_SECONDS
    ) -> re.Match[str]:
        """Block until the output matches (MULTILINE); AssertionError at its end, TimeoutError too late."""
        return self._wait(
            lambda: re.search(pattern, self._text(stream), re.MULTILINE),
            f"did not print {pattern!r}",
            timeout,
        )

    def wait_for_event(
        self, event: str, number: int = 1, timeout: float = LAST_RESORT_SECONDS
    ) -> dict[str, Any]:
        """Block until the log has that event so many times; that line of it. Raises as `wait_for_output`."""
        lines = self._wait(
            lambda: found if len(found := self.log_events(event)) >= number else None,
            f"did not log {event} {number} time(s)",
            timeout,
        )
        return lines[number - 1]

    def _wait(self, look: Callable[[], T | None], problem: str, timeout: float) -> T:
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                is_over = not any(thread.is_alive() for thread in self._threads)
                if (found := look()) is not None:
                    return found
                if is_over:
                    raise AssertionError(f"{self.command[:4]} ended and {problem}:\n{self._tail()}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.command[:4]} {problem}:\n{self._tail()}")
                self._arrived.wait(0.1)

    async def output(
        self, pattern: str, stream: str = "stderr", timeout: float = LAST_RESORT_SECONDS
    ) -> re.Match[str]:
        """`wait_for_output` without blocking the event loop."""
        return await asyncio.to_thread(self.wait_for_output, pattern, stream, timeout)

    async def event(
        self, event: str, number: int = 1, timeout: float = LAST_RESORT_SECONDS
    ) -> dict[str, Any]:
        """`wait_for_event` without blocking the event loop."""
        return await asyncio.to_thread(self.wait_for_event, event, number, timeout)

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout: float = LAST_RESORT_SECONDS) -> int:
        """Exit code once the program ended; TimeoutError when it does not."""
        assert self._process is not None
        try:
            self.exit_code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.command[:4]} still runs:\n{self._tail()}") from None
        return self.exit_code

    def stop(self, number: int = signal.SIGTERM, timeout: float = LAST_RESORT_SECONDS) -> int:
        """Send a signal and return the exit code; the output's complaints are raised as AssertionError."""
        self.send_signal(number)
        code = self.wait(timeout)
        self.kill()
        self._judge_output()
        return code

    async def stopped(self, number: int = signal.SIGTERM, timeout: float = LAST_RESORT_SECONDS) -> int:
        """`stop` without blocking the event loop."""
        return await asyncio.to_thread(self.stop, number, timeout)

    def kill(self) -> None:
        """End every process of the group, now."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.exit_code = self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._home.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is None:
            self._judge_output()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def complaint(self) -> str | None:
        """What is wrong with the output so far: a planted secret, a traceback; None when it is clean."""
        output = self.stdout + self.stderr
        if names := secrets.leaked(output):
            return f"the program's output shows planted secret(s): {', '.join(names)}"
        if not self.allow_complaints and any(complaint in output for complaint in _COMPLAINTS):
            return f"the program complained:\n{self._tail()}"
        return None

    def _judge_output(self) -> None:
        if complaint := self.complaint():
            raise AssertionError(complaint)

    def _collect(self, name: str, stream: IO[bytes]) -> None:
        while data := os.read(stream.fileno(), 65536):
            with self._arrived:
                self._output[name] += data
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    def _text(self, name: str) -> str:
        with self._arrived:
            return self._output[name].decode(errors="replace")

    def _tail(self) -> str:
        text = f"stdout: {self.stdout[-1000:]}\nstderr: {self.stderr[-4000:]}"
        for name in secrets.leaked(text):
            return f"(not shown: it holds the planted secret {name})"
        return text


def client_address(serving_on: str) -> tuple[str, int] | str:
    """What a line names, as RawClient.connect takes it."""
    if serving_on.startswith("/"):
        return serving_on
    host, _, port = serving_on.rpartition(":")
    return host.strip("[]"), int(port)


class ProxyProcess(Process):
    """A program that says `Starting to serve on ADDRESS` first: kproxy, and kubectl proxy alike."""

    def wait_until_ready(self) -> None:
        self.wait_for_output(r"^Starting to serve on .*\n", "stdout")

    @property
    def serving_on(self) -> str:
        """What the first line names: host:port, or the path of a unix socket."""
        found = re.search(r"^Starting to serve on (.*)$", self.stdout, re.MULTILINE)
        assert found, "not ready"
        return found[1].strip()

    @property
    def serving_on_all(self) -> list[str]:
        """What the lines of all listeners name, in their order; they are waited for."""
        # stdout and stderr are read by two threads: this line may be here before the last one of the other.
        self.wait_for_output(r'"server\.started".*\n')
        others = self.log_events("server.started")[0].get("also", [])
        self.wait_for_output(rf"(^Starting to serve on .*\n){{{1 + len(others)}}}", "stdout")
        return re.findall(r"^Starting to serve on (.*)$", self.stdout, re.MULTILINE)

    @property
    def address(self) -> tuple[str, int] | str:
        """As RawClient.connect takes it."""
        return client_address(self.serving_on)

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """Those of all listeners."""
        return [client_address(each) for each in self.serving_on_all]

    @property
    def port(self) -> int:
        assert isinstance(self.address, tuple), "this is a unix socket"
        return self.address[1]

    @property
    def url(self) -> str:
        return f"http://{self.serving_on}"


class Program(ProxyProcess):
    """kproxy from this checkout. Port 0 unless `args` choose a listener or a sub-command."""

    def __init__(
        self,
        *args: str,
        kubeconfig: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stderr_path: Path | None = None,
        allow_complaints: bool = False,
    ) -> None:
        chosen = any(re.match(r"(-p|--port|-u|--unix-socket|--listen|--config)(=|$|\d)", arg) for arg in args)
        command = [*KPROXY, *args]
        if not chosen:
            command.append("--port=0")
        if kubeconfig is not None:
            command.append(f"--kubeconfig={kubeconfig}")
        super().__init__(
            command, env=env, cwd=cwd, stderr_path=stderr_path, allow_complaints=allow_complaints
        )


def ended(
    *args: str, code: int = 0, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Process:
    """`kproxy ARGS`, run to its end, which must be with that exit code."""
    with Process([*KPROXY, *args], env=env, cwd=cwd) as program:
        assert program.wait() == code, program.stderr
    return program


class KubectlProxy(ProxyProcess):
    """`kubectl proxy` of this machine, for comparison."""

    def __init__(
        self, *args: str, kubeconfig: Path, env: Mapping[str, str] | None = None, kubectl: str = "kubectl"
    ) -> None:
        chosen = any(re.match(r"(-p|--port|-u|--unix-socket)(=|$|\d)", arg) for arg in args)
        port = [] if chosen else ["--port=0"]
        super().__init__([kubectl, "proxy", f"--kubeconfig={kubeconfig}", *port, *args], env=env)


class DemoProgram(Process):
    """The demo cluster: a small Kubernetes API over mTLS."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__([sys.executable, "-m", "kproxy.demo", *args], env=env)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.exit_code is None:
            # Killed, it would leave its folder behind.
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                self.send_signal(signal.SIGTERM)
                self.wait(LAST_RESORT_SECONDS)
        super().__exit__(kind, error, trace)

    def wait_until_ready(self) -> None:
        self.wait_for_output(r"^kubeconfig: (.+)\n", "stdout")
        self.wait_for_output(r"^server: (.+)\n", "stdout")

    @property
    def kubeconfig(self) -> Path:
        return Path(self.wait_for_output(r"^kubeconfig: (.+)\n", "stdout")[1])

    @property
    def url(self) -> str:
        return self.wait_for_output(r"^server: (.+)\n", "stdout")[1]


def kubeconfig(
    directory: Path,
    upstream: ByteUpstream | str,
    *,
    ca_pem: bytes | None = None,
    token: str | None = None,
    client_certificate: tuple[bytes, bytes] | None = None,
    user: Mapping[str, Any] | None = None,
    cluster: Mapping[str, Any] | None = None,
    name: str = "test",
) -> Path:
    """Write directory/NAME.kubeconfig with one context `name`, and return its path.

    `upstream` may be a URL. `client_certificate` is (certificate PEM, key PEM). `user` and `cluster`
    add to, or override, the entries' fields.
    """
    url = upstream if isinstance(upstream, str) else upstream.url
    cluster_entry: dict[str, Any] = {"server": url}
    if ca_pem is not None:
        cluster_entry["certificate-authority-data"] = base64.b64encode(ca_pem).decode()
    user_entry: dict[str, Any] = {}
    if token is not None:
        user_entry["token"] = token
    if client_certificate is not None:
        certificate_pem, key_pem = client_certificate
        user_entry["client-certificate-data"] = base64.b64encode(certificate_pem).decode()
        user_entry["client-key-data"] = base64.b64encode(key_pem).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {**cluster_entry, **(cluster or {})}}],
        "users": [{"name": name, "user": {**user_entry, **(user or {})}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    path = directory / f"{name}.kubeconfig"
    path.touch(mode=0o600)
    # JSON is YAML: no need of a YAML writer here.
    path.write_text(json.dumps(content, indent=1))
    return path

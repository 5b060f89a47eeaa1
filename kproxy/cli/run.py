"""`kproxy run`: a proxy that lives as long as one command, and leaves nothing behind.

Two processes are forked off before there is an event loop or a thread:

- The command. It waits, with the signals, terminal and folder that kproxy was started with, until the proxy
  serves; then it becomes the program that was asked for. On Linux it dies with kproxy.
- The janitor, in a session of its own. It removes the folder once kproxy is gone, however that went: the
  kubeconfig has no secret, but a kubeconfig that leads nowhere is a riddle to whoever finds it.

The command shares kproxy's process group, so that pipelines and job control are the shell's as ever. A
signal from the terminal therefore reaches it without us; what somebody sends to kproxy is passed on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from kproxy.config.schema import LISTEN, OPTIONS, Config
from kproxy.config.sources import Settings
from kproxy.errors import KproxyError, start_advice
from kproxy.kube.clientconfig import UNNAMED, Reach, client_kubeconfig

if TYPE_CHECKING:
    import asyncio

    from kproxy.system.supervisor import Serving

PLACEHOLDER = "{}"

_PASSED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_TERMINALS = (signal.SIGINT, signal.SIGQUIT)
"""What keys send to the whole foreground group. A hang-up may be told to the session's leader alone."""
_IS_TOLD_WHO = hasattr(signal, "sigwaitinfo")
"""Whether a signal comes with its sender. macOS does not say."""
_SI_KERNEL = 0x80
"""sigaction(2): `si_code` of a signal that no process sent."""
_PR_SET_PDEATHSIG = 1

_OURS = {"port": 0, "verbosity": -1}
"""Defaults that are not kproxy's own: a free port, and only warnings between the command's lines."""

_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")

_TLS = ("tls_certificate", "tls_key", "tls_self_signed")

_NOT_HANDED_ON = frozenset(option.variable for option in OPTIONS if option.secret)
"""Our own credentials: the command has the proxy, which stands between it and them."""


class NotRun(KproxyError):
    """The command could not be started."""

    def __init__(self, command: str, number: int) -> None:
        if number == errno.ENOENT and os.sep not in command:
            text = f'"{command}" is in no folder of $PATH'
        else:
            text = f"cannot run {command}: {os.strerror(number)}{start_advice(number)}"
        super().__init__(text)
        self.is_missing = number == errno.ENOENT


class OneCommand:
    """The command, its folder, and how it ended. To be entered while the process has a single thread."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.exit_code: int | None = None
        """None until the command has ended: 128 and the signal's number when one ended it."""
        self._argv = list(argv)
        self._closing = contextlib.ExitStack()
        self._pid = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self.folder = _make_folder()
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._fork()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _fork(self) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (kept_alive, alive), (told, go), (report, reported) = pipes
        # Nobody is to be hit by a Ctrl-C before it has made its arrangements.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            janitor = _fork(lambda: _remove_after(kept_alive, self.folder))
            parent = os.getpid()
            prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

            def become_command() -> None:
                for descriptor in (kept_alive, alive, go, report):
                    os.close(descriptor)
                if prctl is not None:
                    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
                    if os.getppid() != parent:
                        return
                _restore_signals(mask)
                _become(self._argv, told, reported)

            self._pid = _fork(become_command)
        finally:
            # Before any thread is made: one without this mask would take the signals that are waited for.
            signal.pthread_sigmask(signal.SIG_SETMASK, {*mask, *(_PASSED_ON if _IS_TOLD_WHO else ())})
        for descriptor in (kept_alive, told, reported):
            os.close(descriptor)
        self._go: int | None = go
        self._report = report
        # In reverse: the command is gone, then kproxy seems to be, then the janitor has done its work.
        self._closing.callback(os.waitpid, janitor, 0)
        self._closing.callback(os.close, alive)
        self._closing.callback(os.close, report)
        self._closing.callback(self._end)

    def _end(self) -> None:
        self._tell(b"")
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _tell(self, message: bytes) -> None:
        """Let the command start with `message`, or end without one."""
        if self._go is None:
            return
        descriptor, self._go = self._go, None
        with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
            pipe.write(message)

    async def live(self, serving: Serving) -> None:
        """Run the command to its end. Raises `NotRun` when it cannot be started."""
        # Imported here: until the command is forked off there is to be no thread, and little memory.
        import asyncio

        from kproxy.system.threads import in_daemon_thread

        self._pass_on_signals(asyncio.get_running_loop())
        self._tell(json.dumps(self._variables(serving)).encode())
        number, self.exit_code = await in_daemon_thread(self._wait)
        if number:
            raise NotRun(self._argv[0], number)

    def _wait(self) -> tuple[int, int]:
        """Block until the command has ended: the error number of its start, or 0, and its exit code."""
        number = int(os.read(self._report, 16) or b"0")
        if hasattr(os, "waitid"):
            # It stays a zombie until nothing more is passed on: its number cannot be another's meanwhile.
            told = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            assert told is not None
            return number, told.si_status if told.si_code == os.CLD_EXITED else 128 + told.si_status
        # macOS before Python 3.13.
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return number, code if code >= 0 else 128 - code

    def _variables(self, serving: Serving) -> Mapping[str, str]:
        """What the command finds in its environment; writes the kubeconfig."""
        url = serving.urls[0]
        path = self.folder / "kubeconfig"
        contexts = {
            each.name: Reach(
                name=each.name or UNNAMED, server=url + each.path.rstrip("/"), namespace=each.namespace
            )
            for each in serving.contexts
        }
        current = contexts[serving.context]
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(client_kubeconfig(tuple(contexts.values()), current.name))
        server = current.server
        variables = {"KUBECONFIG": str(path), "KPROXY_URL": server, "KUBERNETES_MASTER": server}
        if url.startswith("unix:"):
            variables["KPROXY_SOCKET"] = url.removeprefix("unix:")
        elif any(os.environ.get(name) for name in _PROXIES):
            variables.update(_reached_straight(str(urlsplit(url).hostname)))
        return variables

    def _pass_on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        if _IS_TOLD_WHO:
            threading.Thread(target=self._listen, args=(loop,), name="signals", daemon=True).start()
            return
        # What keys could have sent is taken for theirs.
        for number in _PASSED_ON:
            loop.add_signal_handler(number, self._pass_on, number, True)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            told = signal.sigwaitinfo(_PASSED_ON)
            if told.si_signo in _TERMINALS and told.si_code == _SI_KERNEL:
                continue
            try:
                loop.call_soon_threadsafe(self._pass_on, told.si_signo)
            except RuntimeError:
                return  # the loop is closed: it is over

    def _pass_on(self, number: int, is_doubtful: bool = False) -> None:
        if self.exit_code is None and not (is_doubtful and _is_from_keys(number)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


def private_config(settings: Settings, *, is_unix: bool) -> tuple[Config, list[str]]:
    """The config of a command's proxy, and what contradicts itself in it.

    Where a daemon listens and how much it logs says nothing about this proxy: there only flags count.
    """
    changes: dict[str, object] = {"grace_period_seconds": 0.0, "shutdown_delay_seconds": 0.0}
    problems = []
    for option in OPTIONS:
        origin = settings.origins.get(option.field, "")
        if option.name in _TLS and origin.startswith("--"):
            problems.append(f"{option.name}: the command's proxy speaks plain HTTP; leave it out ({origin})")
        elif option.group == LISTEN and is_unix and origin.startswith("--"):
            problems.append(f"{option.name}: --unix makes a socket of its own; leave one out ({origin})")
        elif (option.group == LISTEN or option.field == "verbosity") and not origin.startswith("--"):
            changes[option.field] = _OURS.get(option.field, option.default)
    if is_unix or settings.config.unix_socket:
        changes["port"] = Config().port
    return replace(settings.config, **changes), problems  # type: ignore[arg-type]  # values by field name


def _reached_straight(host: str) -> Iterator[tuple[str, str]]:
    """What makes curl and Python leave their HTTP proxy out; Go does so by itself for loopback addresses."""
    names = ("NO_PROXY", "no_proxy")
    for name, other in (names, names[::-1]):
        # Where both are set, one of them counts: neither may lose what it said before.
        said = os.environ.get(name) or os.environ.get(other)
        yield name, said if said == "*" else f"{said},{host}" if said else host


def _make_folder() -> Path:
    """A folder of our own, mode 0700, in memory where the session has such a place."""
    with contextlib.suppress(OSError):
        session = os.environ.get("XDG_RUNTIME_DIR", "")
        found = os.stat(session)
        # After `sudo -E` it is another user's, who could put another kubeconfig there.
        if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return Path(tempfile.mkdtemp(prefix="kproxy-run-", dir=session))
    return Path(tempfile.mkdtemp(prefix="kproxy-run-"))


def _is_from_keys(number: int) -> bool:
    """Whether a signal may come from the terminal of which we are the foreground group."""
    if number not in _TERMINALS:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


# -- in the forked processes --


def _fork(body: Callable[[], None]) -> int:
    """The number of a process that does `body` and ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
    finally:
        os._exit(0)


def _remove_after(kept_alive: int, folder: Path) -> None:
    """The janitor's life: with all signals blocked, and nothing open that others wait for the end of."""
    os.setsid()
    os.chdir("/")
    os.dup2(kept_alive, 0)
    for name in os.listdir("/dev/fd"):
        if name != "0":
            with contextlib.suppress(OSError):
                os.close(int(name))
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)


def _restore_signals(mask: set[int | signal.Signals]) -> None:
    """As kproxy was started: without Python's own handlers."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become(argv: Sequence[str], told: int, reported: int) -> None:
    """Wait for the variables, and be the program from then on; or report why not."""
    with os.fdopen(told, "rb") as pipe:
        message = pipe.read()
    if not message:
        return
    variables = json.loads(message)
    address = variables.get("KPROXY_SOCKET", variables["KPROXY_URL"])
    program, *arguments = argv
    try:
        os.execvpe(  # noqa: S606 -- it is the very command that was asked for
            program,
            [program, *(each.replace(PLACEHOLDER, address) for each in arguments)],
            {name: value for name, value in os.environ.items() if name not in _NOT_HANDED_ON} | variables,
        )
    except OSError as error:
        os.write(reported, str(error.errno).encode())
    except ValueError:
        os.write(reported, str(errno.EINVAL).encode())

"""Exec plugins: the program that a user entry names is run and prints a credential.

Rules: client-go plugin/pkg/client/auth/exec/exec.go, KEP-541. On purpose unlike it: a plugin that hangs is
ended, --exec-path is searched after PATH, a terminal is passed on only while kproxy is in its foreground, and
what it says on stderr is kept for the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from io import FileIO
from itertools import chain

from kproxy.credentials.credential import Credential, bearer
from kproxy.credentials.exec_credential import ExecStatus, exec_info, parse_output
from kproxy.credentials.exec_stderr import PluginErrors
from kproxy.credentials.expiry import token_life
from kproxy.errors import KubeconfigError, spelt_out, start_advice
from kproxy.kube.kubeconfig import Cluster, ExecConfig
from kproxy.kube.kuberc import PluginPolicy
from kproxy.telemetry.log import HIDDEN, current_output, hide_secrets, names_secret
from kproxy.tls.client import check_pair
from kproxy.tls.lifetime import certificate_life, earliest
from kproxy.tls.pair import ClientCertificate

# After SIGTERM; SSO plugins have a listener and a browser tab to say goodbye to.
GRACE_SECONDS = 2.0
# For what is still in the pipe when the plugin has ended; a daemon it left behind may hold it open for ever.
DRAIN_SECONDS = 1.0
ERRORS_DRAIN_SECONDS = 0.1
LIMIT_BYTES = 1 << 20
# Shorter values of variables as DEBUG_TOKENS=1 are no secrets.
MIN_SECRET_CHARS = 8

_HELP = """\
It looks like you are trying to use a client-go credential plugin that is not installed.

To learn more about this feature, consult the documentation available at:
      https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins"""


class PluginError(Exception):
    """Why a run gave no credential; whose it would have been is for others to say."""


class ExecPlugin:
    """A program to run, with all that a run depends on."""

    def __init__(
        self,
        config: ExecConfig,
        cluster: Cluster | None,
        *,
        timeout_seconds: float,
        extra_path: tuple[str, ...],
        policy: PluginPolicy,
        environ: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        """`cluster` is what it is told of (provideClusterInfo). `extra_path` lists directories searched after
        those of PATH; `clock`: seconds since the epoch.
        """
        self._config = config
        self._cluster = cluster
        self._timeout_seconds = timeout_seconds
        self._path = os.pathsep.join(filter(None, (environ.get("PATH", os.defpath), *extra_path)))
        self._has_extra_path = bool(extra_path)
        self._policy = policy
        self._environ = environ
        self._clock = clock
        self._errors: PluginErrors | None = None
        """Of the last run; None when it has our terminal for itself."""

    @property
    def last_words(self) -> str:
        """The last lines that it said on stderr."""
        return self._errors.last()[0] if self._errors is not None else ""

    async def run(self) -> Credential:
        """Run it once. Raises PluginError. Cancelled, it leaves nothing running."""
        output = await self._run()
        try:
            return self._credential(parse_output(output, self._config.api_version))
        except ValueError as error:
            raise PluginError(f"{error}{self._what_it_says()}") from None

    def _credential(self, status: ExecStatus) -> Credential:
        """The credential of `status`. Raises ValueError when it cannot be used."""
        certificate = None
        lives = []
        if status.token is not None:
            lives.append(token_life(status.token))
        if status.certificate_pem is not None and status.key_pem is not None:
            certificate = ClientCertificate(certificate_pem=status.certificate_pem, key_pem=status.key_pem)
            lives.append(certificate_life(status.certificate_pem))
            try:
                check_pair(certificate)
            except KubeconfigError as error:
                raise ValueError(f"failed parsing client key/certificate: {error}") from None
        return Credential(
            authorization=bearer(status.token) if status.token is not None else None,
            certificate=certificate,
            issued_at=self._clock(),
            expires_at=status.expires_at if status.expires_at is not None else earliest(*lives).expires_at,
            kind="exec",
        )

    async def _run(self) -> bytes:
        """What the plugin prints, once it has ended well."""
        program = self._find()
        is_interactive = self._is_interactive()
        environment = self._environment(is_interactive)
        loop = asyncio.get_running_loop()
        output = _Output(loop)
        shown = current_output()
        # A plugin that can ask gets the terminal as it is: some look whether stderr is one, too.
        is_inherited = is_interactive and shown.is_terminal
        errors = PluginErrors(loop, shown, partial(_hidden, secrets=_secrets(environment)))
        self._errors = None if is_inherited else errors
        # Pipes of our own: with asyncio's, the end of the plugin does not show before the end of the
        # pipe, which a daemon that it leaves behind may hold open for ever.
        async with _pipe(output) as writer, _pipe(errors) as errors_writer:
            try:
                process = await asyncio.create_subprocess_exec(
                    program,
                    *self._config.args,
                    stdin=None if is_interactive else DEVNULL,
                    stdout=writer,
                    stderr=None if is_inherited else errors_writer,
                    env=environment,
                    # A session of its own, to end it with its children. With the terminal it stays
                    # in ours: in another one it could not read from it.
                    start_new_session=not is_interactive,
                )
            except OSError as error:
                raise PluginError(self._start_failure(program, error)) from None
            writer.close()
            errors_writer.close()
            code = await self._exit_code(process, has_own_session=not is_interactive)
            if code == 0:
                await asyncio.wait((output.ended,), timeout=DRAIN_SECONDS)
            await asyncio.wait((errors.ended,), timeout=ERRORS_DRAIN_SECONDS)
        if code is None:
            raise PluginError(
                f"exec: executable {program} did not end within {self._timeout_seconds:g} s and was "
                "stopped; if it waits for a login, finish that sooner or raise --exec-timeout"
                f"{self._what_it_says()}"
            )
        if code != 0:
            raise PluginError(self._exit_failure(program, code))
        if output.is_too_long:
            raise PluginError(f"exec: executable {program} printed more than {LIMIT_BYTES >> 20} MiB")
        return bytes(output.data)

    async def _exit_code(self, process: Process, *, has_own_session: bool) -> int | None:
        """Wait for the end of the plugin, which comes in any case; None when it was made to."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                await _end(process, has_own_session=has_own_session)

    def _find(self) -> str:
        """The path of the program, which the policy lets us run."""
        command = self._config.command
        program = self._which(command)
        if refusal := self._policy.refusal(command, program or command, self._which):
            raise PluginError(refusal)
        if program is None:
            if os.sep in command:
                return command  # starting it tells best what is wrong with it
            raise PluginError(
                f"exec: executable {command} not found in {self._path or 'an empty PATH'}; "
                "add its directory with --exec-path, or write its whole path as exec.command"
                f"\n\n{_HELP}{self._hint()}"
            )
        return program

    def _which(self, command: str) -> str | None:
        """The program that `command` leads to. Of PATH only absolute entries count, as in Go since 1.19."""
        candidates = [command]
        if os.sep not in command:
            directories = self._path.split(os.pathsep)
            candidates = [os.path.join(each, command) for each in directories if os.path.isabs(each)]
        for candidate in candidates:
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return candidate
        return None

    def _is_interactive(self) -> bool:
        mode = self._config.interactive_mode
        if mode == "Never":
            return False
        has_terminal = _has_terminal()
        if mode == "Always" and not has_terminal:
            raise PluginError(
                "exec plugin cannot support interactive mode: standard input is not a terminal; "
                "start kproxy in the foreground of one, or set interactiveMode if the plugin can do without"
            )
        return has_terminal

    def _environment(self, is_interactive: bool) -> dict[str, str]:
        if any("\0" in text for text in (*self._config.args, *chain.from_iterable(self._config.env))):
            # uvloop would cut it off there, asyncio raise a ValueError.
            raise PluginError("exec: args or env hold a NUL character; take it out")
        environment = dict(self._environ)
        if self._has_extra_path:
            # Plugins start helpers that are found where they are found themselves.
            environment["PATH"] = self._path
        environment.update(self._config.env)
        cluster = self._cluster
        authority = cluster.certificate_authority_data if cluster is not None else None
        if cluster is not None and cluster.certificate_authority is not None:
            try:
                authority = cluster.certificate_authority.read_bytes()
            except OSError as error:
                raise PluginError(
                    f"failed to load CA bundle for execProvider: {cluster.certificate_authority}: "
                    f"{error.strerror}"
                ) from None
        environment["KUBERNETES_EXEC_INFO"] = exec_info(
            self._config.api_version, interactive=is_interactive, cluster=cluster, authority_pem=authority
        )
        return environment

    def _start_failure(self, program: str, error: OSError) -> str:
        number = error.errno or 0
        reason = os.strerror(number)
        reason = reason[:1].lower() + reason[1:]
        return f"exec: fork/exec {program}: {reason}{start_advice(number)}{self._hint()}"

    def _exit_failure(self, program: str, code: int) -> str:
        ending = f"failed with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                ending = f"was ended by signal {-code} ({signal.Signals(-code).name})"
        return (
            f"exec: executable {program} {ending}; log in again the way it wants, or run it by hand to see"
            f"{self._what_it_says()}"
        )

    def _what_it_says(self) -> str:
        """The end of a message: its last words, and where there is more."""
        if self._errors is None:
            return "; what it says is on kproxy's terminal"
        words, is_all = self._errors.last()
        place = current_output().place
        if not words:
            return "; it says nothing on stderr" if is_all else f"; what it says is in {place}"
        return f"; it says:\n{words}" + ("" if is_all else f"\n(there is more in {place})")

    def _hint(self) -> str:
        hint = spelt_out(self._config.install_hint)
        return f"\n\n{hint}" if hint else ""


@contextlib.asynccontextmanager
async def _pipe(protocol: asyncio.Protocol) -> AsyncIterator[FileIO]:
    """The writing end of a pipe that `protocol` reads."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", 0) as writer:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: protocol, os.fdopen(read_end, "rb", 0)
        )
        with contextlib.closing(transport):
            yield writer


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """What a plugin may repeat that must not be shown."""
    return [
        value for name, value in environment.items() if len(value) >= MIN_SECRET_CHARS and names_secret(name)
    ]


def _hidden(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return hide_secrets(text)


class _Output(asyncio.Protocol):
    """What comes out of the pipe, up to `LIMIT_BYTES`; more is dropped, so that the writer can end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.data = bytearray()
        self.is_too_long = False
        self.ended: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data[: LIMIT_BYTES - len(self.data)]
        self.is_too_long |= len(self.data) >= LIMIT_BYTES

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _has_terminal() -> bool:
    """Whether a plugin could ask on our standard input. In the background, reading it would stop us all."""
    if not os.isatty(0):
        return False
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True  # a terminal that is not the controlling one has no background


async def _end(process: Process, *, has_own_session: bool) -> None:
    """SIGTERM, and SIGKILL to what is left after the grace."""
    _signal(process, signal.SIGTERM, has_own_session=has_own_session)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            await process.wait()
    _signal(process, signal.SIGKILL, has_own_session=has_own_session)
    await process.wait()


def _signal(process: Process, number: signal.Signals, *, has_own_session: bool) -> None:
    # PermissionError: what macOS says of a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if has_own_session:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)

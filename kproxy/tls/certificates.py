"""The certificates that TLS listeners show: loaded whole or not at all, and again when their files change."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from kproxy.errors import ConfigError, KproxyError
from kproxy.system.snapshot import Snapshot, take_snapshot
from kproxy.system.threads import in_daemon_thread
from kproxy.system.watcher import FileWatcher
from kproxy.tls.lifetime import certificate_life, format_timestamp
from kproxy.tls.pair import UnusablePairError, fingerprint_of, server_context
from kproxy.tls.selfsigned import SelfSigned

_DAY_SECONDS = 86_400.0
ENDING_SECONDS = 7 * _DAY_SECONDS
"""So long before its end a certificate that somebody else must renew is warned of."""

_log = structlog.get_logger()


class ServerCertificate:
    """One pair of files. New connections get what was loaded last, running ones keep theirs."""

    def __init__(self, certificate_path: Path, key_path: Path) -> None:
        """Raises ConfigError when the pair cannot be used."""
        self.paths = (certificate_path, key_path)
        self.fingerprint = ""
        self.expires_at: float | None = None
        self.context = self._current = self._load()
        """For all listeners and for good; each handshake goes over to the pair that counts by then."""
        self.context.sni_callback = self._choose

    def reload(self) -> bool:
        """Whether another certificate is shown from now on; raises ConfigError, and the old one stays."""
        before = self.fingerprint
        self._current = self._load()
        return self.fingerprint != before

    def facts(self) -> dict[str, object]:
        """For the log."""
        return {
            "certificate": str(self.paths[0]),
            "fingerprint": f"SHA256 {self.fingerprint}",
            "expires_at": format_timestamp(self.expires_at),
        }

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        handshake.context = self._current

    def _load(self) -> ssl.SSLContext:
        contents = []
        for path in self.paths:
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        certificate_pem, key_pem = contents
        try:
            context = server_context(certificate_pem, key_pem)
        except UnusablePairError as error:
            names = " and ".join(dict.fromkeys(map(str, self.paths)))
            raise ConfigError(f"cannot use {names}: the {error.part} {error}") from None
        self.fingerprint = fingerprint_of(certificate_pem)
        self.expires_at = certificate_life(certificate_pem).expires_at
        return context


def certificate_problems(pairs: Iterable[tuple[Path, Path]]) -> Iterator[str]:
    """What is wrong with these files of certificate and key; each pair is loaded once, and dropped."""
    for paths in dict.fromkeys(pairs):
        try:
            ServerCertificate(*paths)
        except ConfigError as error:
            yield f"tls_certificate: {error.message}"


class Certificates:
    """Those of all listeners: opened once each, watched, and the self-signed one renewed in time."""

    def __init__(
        self,
        self_signed: SelfSigned,
        *,
        is_watching: bool = True,
        check_seconds: float = _DAY_SECONDS,
        period_seconds: float = 1.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Without `is_watching` changed files are left alone. The ends of certificates are looked at
        every `check_seconds`, files every `period_seconds`.
        """
        self._self_signed = self_signed
        self._is_watching = is_watching
        self._check_seconds = check_seconds
        self._period_seconds = period_seconds
        self._now = now
        self._opened: dict[tuple[Path, Path], ServerCertificate] = {}
        self._snapshot: Snapshot = {}
        self._names: set[str] | None = None
        self._is_changed = asyncio.Event()
        self._watcher: FileWatcher | None = None
        self._task: asyncio.Task[None] | None = None
        self._said: dict[str, str] = {}

    def open(self, paths: tuple[Path, Path] | None, names: Iterable[str]) -> ssl.SSLContext:
        """What a listener shows that is known by `names`: these files, or else the self-signed certificate.

        Raises ConfigError when the pair cannot be used, KproxyError when none can be made.
        """
        if paths is None:
            self._names = (self._names or set()) | set(names)
            self._tell_of_new(is_new=self._self_signed.ensure(self._names))
            paths = self._self_signed.paths
        if paths not in self._opened:
            self._snapshot = {**self._snapshot, **take_snapshot(paths)}
            self._opened[paths] = ServerCertificate(*paths)
        elif self._opened[paths].reload():
            self._snapshot = {**self._snapshot, **take_snapshot(paths)}
        return self._opened[paths].context

    async def __aenter__(self) -> Self:
        """From now on changes are taken up. To be called when all are open."""
        for certificate in self._opened.values():
            _log.info("certificate.loaded", **certificate.facts())
            self._warn_if_ending(certificate)
        if self._opened:
            if self._is_watching:
                self._watcher = FileWatcher(
                    self._watched,
                    self._is_changed.set,
                    period_seconds=self._period_seconds,
                    since=self._snapshot,
                )
                await self._watcher.start()
            self._task = asyncio.create_task(self._keep(), name="certificates")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watcher is not None:
            await self._watcher.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _watched(self) -> list[Path]:
        return [path for paths in self._opened for path in paths]

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_seconds):
                    await self._is_changed.wait()
            self._is_changed.clear()
            await self._renew()
            for certificate in self._opened.values():
                await self._reload(certificate)
                self._warn_if_ending(certificate)

    async def _renew(self) -> None:
        names = self._names
        if names is not None:
            try:
                # The home may be far away, and cryptography takes its time to import.
                is_new = await in_daemon_thread(lambda: self._self_signed.ensure(names))
            except KproxyError as error:
                self._complain("renewal", error)
            else:
                self._said.pop("renewal", None)
                self._tell_of_new(is_new=is_new)

    async def _reload(self, certificate: ServerCertificate) -> None:
        name = str(certificate.paths[0])
        try:
            is_changed = await in_daemon_thread(certificate.reload)
        except ConfigError as error:
            self._complain(name, error)
            return
        if self._said.pop(name, None) or is_changed:
            _log.info("certificate.reloaded", **certificate.facts())

    def _tell_of_new(self, *, is_new: bool) -> None:
        if is_new:
            _log.info("certificate.created", certificate=str(self._self_signed.paths[0]))

    def _complain(self, what: str, error: KproxyError) -> None:
        if self._said.get(what) != error.message:
            self._said[what] = error.message
            _log.error("certificate.reload_failed", error=error.message)

    def _warn_if_ending(self, certificate: ServerCertificate) -> None:
        ends_at = certificate.expires_at
        if ends_at is not None and ends_at - self._now() < ENDING_SECONDS:
            _log.warning("certificate.ending", **certificate.facts())

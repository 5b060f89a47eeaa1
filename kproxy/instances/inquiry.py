"""How instances are: what their records and locks say, and what they say themselves at `/-/status`."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kproxy.instances.instance import FAILED, SERVING, STARTING, InstanceFolder, Record, naming

CRASHED, STOPPED = "crashed", "stopped"
ASK_SECONDS = 2.0
"""How long an instance may take to answer: one that hangs is told of, not waited for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How an instance is."""

    name: str
    is_running: bool
    record: Record | None
    answer: Mapping[str, Any] | None
    """What its own /-/status says; None where it cannot be asked or does not answer."""

    @property
    def state(self) -> str:
        """One word: what it does, or how it ended."""
        if self.record is None:
            return STARTING if self.is_running else STOPPED
        if self.is_running:
            return self.record.state if self.record.is_this_process_alive() else STARTING
        return FAILED if self.record.state in (FAILED, STARTING) else CRASHED

    @property
    def uptime_seconds(self) -> float | None:
        return max(0.0, time.time() - self.record.started_at) if self.record and self.is_running else None


def look(name: str, folder: InstanceFolder) -> Standing:
    """How the instance is, as far as it can be told."""
    record, is_running = folder.read(name), folder.is_locked(name)
    answer = None
    if is_running and record is not None and record.state == SERVING and not _is_elsewhere(record):
        answer = ask(record.urls, record.folder, "/-/status")
    return Standing(name=name, is_running=is_running, record=record, answer=answer)


def ask(urls: Iterable[str], folder: str, path: str) -> Mapping[str, Any] | None:
    """What the first of the listeners that gives one answers; relative sockets are in `folder`."""
    # Imported here: nothing else of kproxy is a client.
    import http.client

    for url in urls:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("localhost", timeout=ASK_SECONDS)
            connection.sock = _connect(url, folder)
            with contextlib.closing(connection):
                connection.request("GET", path)
                answer = connection.getresponse()
                if answer.status == 200 and isinstance(found := json.load(answer), dict):
                    return found
    return None


def certificate_of(url: str) -> bytes | None:
    """The certificate of an https listener, in PEM; None when the system's authorities vouch for it."""
    # Imported here: as in ask.
    import ssl
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or 443
    context = ssl.create_default_context()
    with (
        contextlib.suppress(ssl.SSLCertVerificationError),
        socket.create_connection((host, port), ASK_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        return None
    return ssl.get_server_certificate((host, port), timeout=ASK_SECONDS).encode()


def _connect(url: str, folder: str) -> socket.socket:
    if url.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(ASK_SECONDS)
        try:
            connected.connect(os.path.join(folder, url.removeprefix("unix:")))
        except BaseException:
            connected.close()
            raise
        return connected
    # Imported here: as in ask.
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connected = socket.create_connection((parts.hostname, parts.port), ASK_SECONDS)
    if parts.scheme == "https":
        import ssl

        # It is our own instance on this machine, it gets no secret, and its certificate may be for any name.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(connected)
    return connected


# -- as programs read it --


def as_json(standing: Standing) -> dict[str, Any]:
    """All that is known; `status` is the answer of /-/status, or null."""
    record = asdict(standing.record) if standing.record is not None else {}
    for key in ("name", "state", "withheld"):
        record.pop(key, None)
    return {
        "name": standing.name,
        "state": standing.state,
        "is_running": standing.is_running,
        "uptime_seconds": standing.uptime_seconds,
        **record,
        "status": standing.answer,
    }


# -- as people read it --


def as_lines(standing: Standing, log_path: str) -> Iterator[str]:
    """The name with what it does, and below it a line for each fact."""
    record = standing.record
    yield f"{standing.name}: {standing.state}"
    if record is None:
        return
    facts: dict[str, str | None] = {}
    if standing.is_running:
        facts["address"] = ", ".join(record.addresses)
        facts["context"] = f"{record.context} ({record.server})" if record.context else None
        facts["pid"] = f"{record.pid} on {record.host}" if _is_elsewhere(record) else str(record.pid)
        facts["uptime"] = span(standing.uptime_seconds or 0.0)
    else:
        words = ("kproxy", "start", *naming(record.name), *record.arguments)
        facts["was"] = shlex.join((*record.variables, *words))
    facts["log"] = log_path if record.is_detached else "where it was started"
    yield from (f"  {key + ':':<12}{value}" for key, value in facts.items() if value)
    if standing.answer is not None:
        yield from _of_answer(standing.answer)
    elif standing.is_running and record.state == SERVING:
        yield "  (it does not say more at /-/status)"


def _of_answer(answer: Mapping[str, Any]) -> Iterator[str]:
    for context in answer.get("contexts") or ():
        credential = context.get("credential") or {}
        parts = [str(context.get("state") or "")]
        if credential.get("kind"):
            state = credential.get("state")
            verb = "ended" if state == "ended" else "ends"
            ends = f", {verb} {credential['expires_at']}" if credential.get("expires_at") else ""
            doing = f", {state}" if state not in (None, "valid", "ended", parts[0]) else ""
            parts.append(f"credential {credential['kind']}{ends}{doing}")
        error = (context.get("last_error") or {}).get("message")
        problem = credential.get("problem")
        if error:
            parts.append(f"last error: {error}")
        if problem and problem != error:
            parts.append(f"renewing the credential: {problem}")
        if words := credential.get("last_words"):
            parts.append(f"it says: {words}")
        parts.append(context.get("url") or "")
        mark = "*" if context.get("default") else " "
        told = f"{context.get('name')}: {'; '.join(filter(None, parts))}"
        # What plugins say may have several lines.
        yield f"  {mark} " + told.replace("\n", "\n      ")


def _is_elsewhere(record: Record) -> bool:
    return record.host != socket.gethostname()


def span(seconds: float) -> str:
    """The two largest units: `3d 4h`, `2m 5s`."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    while len(units) > 1 and not units[0][0]:
        units.pop(0)
    return " ".join(f"{number}{unit}" for number, unit in units[:2])

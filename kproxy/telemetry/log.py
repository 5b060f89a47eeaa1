"""Log lines: structured, on stderr, without secrets. Whoever writes one does not wait for its reader.

Events are `noun.past_participle` with their facts as keys; all of them are listed here. `-v` decides what
is written: below 0 warnings and errors, from 0 also the life cycle and one line per request, from 4 each
step.
"""

from __future__ import annotations

import logging
import os
import re
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

EVENTS: Mapping[str, str] = {
    "certificate.created": "A certificate was made for --tls-self-signed: there was none, or it ends soon.",
    "certificate.ending": "A listener's certificate ends within a week, or has ended; give it a new one.",
    "certificate.loaded": "A listener serves https with this certificate; `fingerprint` is its SHA-256.",
    "certificate.reload_failed": "Changed files of a certificate or key cannot be used; the old one stays.",
    "certificate.reloaded": "New connections get this certificate, since its files changed.",
    "config.questioned": "A setting works, but is dangerous or probably not meant; `detail` says why.",
    "config.reload_failed": "A changed config file cannot be used, for these `problems`; nothing of it is.",
    "config.reloaded": "Changed settings, `keys`, are in force.",
    "config.restart_needed": "The config file has other values for `keys`; they wait for a restart.",
    "context.closed": "Nobody used a context for a while: its connections are closed until somebody does.",
    "context.opened": "The first request for a context beside the default one has come.",
    "context.resumed": "The machine slept for `slept_seconds`: connections are asked for a sign of life.",
    "context.unusable": "A context beside the default one cannot be used, for these `problems`.",
    "credential.ending": "The credential has less than a tenth of its life left, and nothing renews it.",
    "credential.expired": "A new credential has expired already; perhaps a clock is wrong.",
    "credential.refresh_failed": "No new credential could be had; the one in use goes on while it lasts.",
    "credential.refreshed": "An exec plugin or OIDC issuer gave a new credential.",
    "credential.reload_failed": "A credential file cannot be read; what was read before stays in use.",
    "credential.reloaded": "A credential file has changed and was read again.",
    "internal.failed": "A bug in kproxy: the request was answered 500; please report the traceback.",
    "kubeconfig.lock_removed": "A lock on the kubeconfig was left over by a dead process and was removed.",
    "kubeconfig.reload_failed": "A changed kubeconfig cannot be used, for these `problems`; the old stays.",
    "kubeconfig.reloaded": "A changed kubeconfig or CA file of it is in force; with the facts of the start.",
    "kubeconfig.write_failed": "Renewed OIDC tokens could not be written back to the kubeconfig.",
    "library.reported": "A Python library had something to say.",
    "listener.crowded": "Open files are near `limit` (ulimit -n): idle clients are closed, oldest first.",
    "listener.exposed": "Other machines can reach this listener; whoever does acts with your credentials.",
    "log.dropped": "Lines were lost because whoever reads stderr did not keep up; `count` says how many.",
    "request.finished": "A request has ended; status 0 means that the client got no answer.",
    "server.draining": "A signal came: nothing new is accepted, open requests get their time to end.",
    "server.started": "kproxy serves; with the address, the context and the kind of credential.",
    "server.stopped": "Everything has ended in order.",
    "supervisor.unreachable": "The service manager that started kproxy does not take its messages.",
}
"""Every event there is, and what it means."""

LIMIT_BYTES = 1 << 20

_log = structlog.get_logger()


class Output:
    """A file descriptor that takes whole lines and never makes the writer wait.

    What the reader does not take stays here up to `LIMIT_BYTES`; what goes beyond is counted and dropped.
    The descriptor is left in blocking mode: it is shared with the shell and other programs.
    """

    def __init__(
        self,
        descriptor: int,
        make_room: Callable[[int], None] | None = None,
        place: str = "kproxy's stderr",
    ) -> None:
        """`make_room` is told how many bytes come next, and may put another file behind the descriptor.

        `place` says to a person where the lines are.
        """
        self.place = place
        self.is_json = True
        self.is_quiet = False
        """Whether warnings and errors alone are written."""
        self.is_terminal = os.isatty(descriptor)
        self._make_room = make_room
        self._descriptor = descriptor
        # A pipe that select calls writable takes PIPE_BUF bytes without waiting (POSIX); a file takes all.
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._piece_bytes = LIMIT_BYTES if is_file else select.PIPE_BUF
        self._backlog = bytearray()
        self._lost = 0
        self._lock = threading.Lock()

    @property
    def is_waiting(self) -> bool:
        return bool(self._backlog)

    def write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            self._push()
            if len(self._backlog) + len(data) > LIMIT_BYTES:
                self._lost += text.count("\n")
            else:
                self._backlog += data
                self._push()

    def flush(self) -> None:
        with self._lock:
            self._push()

    def drain(self, timeout_seconds: float) -> None:
        """Wait for the reader, so long and no longer, to take what is left."""
        with self._lock:
            self._push(timeout_seconds)

    def take_lost(self) -> int:
        """The number of lines lost since it was last asked for."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def _push(self, timeout_seconds: float = 0.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self._backlog:
            left = max(0.0, deadline - time.monotonic()) if timeout_seconds else 0.0
            try:
                if not select.select([], [self._descriptor], [], left)[1]:
                    return
                piece = self._backlog[: self._piece_bytes]
                if self._make_room is not None:
                    self._make_room(len(piece))
                written = os.write(self._descriptor, piece)
            except OSError:
                return  # a full disk or a reader that has gone: perhaps the next line has more luck
            del self._backlog[:written]


def configure(
    log_format: str,
    verbosity: int,
    stream: TextIO | None = None,
    make_room: Callable[[int], None] | None = None,
    place: str = "kproxy's stderr",
) -> Output:
    """Send every log line of the process, Python libraries' too, to `stream` (stderr unless given).

    `make_room` and `place` as `Output` has them.
    """
    target = stream or cast("TextIO | None", sys.stderr)
    # With `2>&-` descriptor 2 soon belongs to a socket, which is no place for a log.
    descriptor = target.fileno() if target else os.open(os.devnull, os.O_WRONLY)
    output = Output(descriptor, make_room, place)
    adjust(output, log_format, verbosity)
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    return output


def adjust(output: Output, log_format: str, verbosity: int) -> None:
    """Write in that form, and so much, from the next line on."""
    is_terminal = output.is_terminal
    output.is_json = log_format == "json" or (log_format == "auto" and not is_terminal)
    output.is_quiet = verbosity < 0
    level = logging.WARNING if output.is_quiet else logging.INFO if verbosity < 4 else logging.DEBUG
    structlog.configure(
        processors=list(_json_processors() if output.is_json else _console_processors(is_terminal)),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_LoggerFactory(output),
        # A logger that was kept would go on as it was.
        cache_logger_on_first_use=False,
    )


class _LoggerFactory(structlog.WriteLoggerFactory):
    """Remembers where its loggers write."""

    def __init__(self, output: Output) -> None:
        super().__init__(file=cast("TextIO", output))
        self.output = output


def current_output() -> Output:
    """Where log lines go, for what other programs say on our behalf; stderr unless configured."""
    factory = structlog.get_config()["logger_factory"]
    return factory.output if isinstance(factory, _LoggerFactory) else Output(2)


def _json_processors() -> Iterator[Processor]:
    yield structlog.processors.add_log_level
    yield structlog.processors.TimeStamper(fmt="iso", utc=True)
    yield structlog.processors.format_exc_info
    yield redact
    yield _in_order
    yield structlog.processors.JSONRenderer()


def _console_processors(is_terminal: bool) -> Iterator[Processor]:
    yield structlog.processors.add_log_level
    yield structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    yield structlog.processors.format_exc_info
    yield redact
    yield _without_controls
    yield structlog.dev.ConsoleRenderer(
        colors=is_terminal and not os.environ.get("NO_COLOR"),
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )


class _LibraryHandler(logging.Handler):
    """Brings the records of the `logging` module (asyncio, aiohttp, warnings) into our own log."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.log(
            record.levelno,
            "library.reported",
            logger=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


HIDDEN = "[hidden]"
_SECRET_KEY = re.compile(r"authorization|token|passw|secret|cookie|client.?key|private", re.IGNORECASE)
# In linear time: any web page can ask for a path, which is looked through. So nothing may begin anew within
# what it has run over.
_SECRET_VALUE = re.compile(
    r"""(?P<scheme>\b(?:bearer|basic|negotiate)\s+)[\w.~+/=-]{4,}
      | (?P<field>(?:token|passw|secret)[\w-]{0,64}["']?(?:=|["']:\s*)["']?)[^\s"'&,;}]+
      | (?P<userinfo>://)[^/\s"']+(?=@)
      | (?<![\w-])eyJ[\w-]{6,}\.[\w.-]+                                       # a JSON web token
      | (?<![\w-])(?:k8s-aws-v1\.|ya29\.|sha256~)[\w.-]+          # tokens for EKS, GKE and OpenShift
      | -----BEGIN[A-Z ]*PRIVATE\ KEY-----.*?(?:-----END[A-Z ]*-----|\Z)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def redact(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """Hide what a key says is secret and what looks like a credential, however deep it lies."""
    return {
        key: value if key in ("event", "timestamp", "level") else _without_secrets(key, value)
        for key, value in event_dict.items()
    }


def _without_secrets(key: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if names_secret(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(each): _without_secrets(str(each), item) for each, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets("", item) for item in value]
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return hide_secrets(text)


def hide_secrets(text: str) -> str:
    """The text without what looks like a credential in it."""
    return _SECRET_VALUE.sub(_hidden, text)


def names_secret(key: str) -> bool:
    """Whether the name of a field or variable says that its value is a secret."""
    return _SECRET_KEY.search(key) is not None


def _hidden(match: re.Match[str]) -> str:
    return (match["scheme"] or match["field"] or match["userinfo"] or "") + HIDDEN


def _in_order(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    first: dict[str, Any] = {key: event_dict.pop(key) for key in ("timestamp", "level", "event")}
    return {**first, **event_dict}


def _without_controls(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """Escape what a client could use to draw on the terminal."""
    return {
        key: repr(value)[1:-1] if isinstance(value, str) and key != "exception" else value
        for key, value in event_dict.items()
    }

"""Log lines: structured, on stderr, without secrets, and never in the way of a request.

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
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

    from kproxy.exchange import Exchange

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
LIMIT_REQUESTS = 4096
FLUSH_SECONDS = 0.1
MAX_REMEMBERED, MAX_REMEMBERED_PATH = 512, 256
BATCH = 100
"""Requests formatted at a stretch: half a millisecond, so that a burst delays nobody."""

_log = structlog.get_logger()


class Output:
    """A file descriptor that takes whole lines and never makes the writer wait.

    What the reader does not take stays here up to `LIMIT_BYTES`; what goes beyond is counted and dropped.
    The descriptor is left in blocking mode: it is shared with the shell and other programs.
    """

    def __init__(self, descriptor: int, make_room: Callable[[int], None] | None = None) -> None:
        """`make_room` is told how many bytes come next, and may put another file behind the descriptor."""
        self.is_json = True
        self.level = logging.INFO
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


class AccessLog:
    """One `request.finished` line per exchange, formatted many at a time, off the path of the request."""

    def __init__(self, output: Output, loop: AbstractEventLoop) -> None:
        self._output = output
        self._loop = loop
        self._queue: deque[Exchange] = deque()
        self._timer: TimerHandle | None = None
        self._lost = 0
        self.dropped = 0
        """How many lines were lost, as far as that was told."""

    def write(self, exchange: Exchange) -> None:
        """Note a finished exchange; it must not change any more."""
        if self._output.level > logging.INFO:
            return
        if len(self._queue) >= LIMIT_REQUESTS:
            self._lost += 1
            return
        self._queue.append(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def close(self, timeout_seconds: float = 0.5) -> None:
        """Write what is left and wait so long for stderr to take it."""
        if self._timer is not None:
            self._timer.cancel()
        while self._queue:
            self._write_batch()
        self._output.drain(timeout_seconds)
        self._report_lost()

    def _flush(self) -> None:
        self._write_batch()
        self._output.flush()
        self._report_lost()
        self._timer = None
        if self._queue:
            self._timer = self._loop.call_later(0, self._flush)
        elif self._output.is_waiting:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def _write_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        if self._output.is_json:
            clock_offset = time.time() - time.monotonic()
            self._output.write("".join([json_line(exchange, clock_offset) for exchange in batch]))
        else:
            for exchange in batch:
                _log.info("request.finished", **facts(exchange))

    def _report_lost(self) -> None:
        if not self._output.is_waiting and (count := self._output.take_lost() + self._lost):
            self._lost = 0
            self.dropped += count
            _log.warning("log.dropped", count=count)


def facts(exchange: Exchange) -> dict[str, object]:
    """The keys of `request.finished`; what is unknown or empty is left out."""
    info = exchange.info
    finished_at = exchange.finished_at or exchange.started_at
    known: dict[str, object] = {
        "exchange_id": exchange.exchange_id,
        "context": exchange.context,
        "listener": exchange.listener,
        "client": exchange.client,
        "method": exchange.method,
        "path": exchange.path,
        "verb": info and info.verb,
        "group": info and info.api_group,
        "resource": info and info.resource,
        "subresource": info and info.subresource,
        "namespace": info and info.namespace,
        "name": info and info.name,
        "status": exchange.status,
        "upstream_status": exchange.upstream_status,
        "proxy_error": exchange.proxy_error,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "duration_seconds": round(finished_at - exchange.started_at, 6),
        "audit_id": exchange.audit_id,
    }
    return {key: value for key, value in known.items() if value is not None and value != ""}


def json_line(exchange: Exchange, clock_offset: float) -> str:
    """`facts` in JSON, as structlog's JSONRenderer writes them; `clock_offset` is wall minus monotonic time.

    Every request pays for this: a dict, processors and json.dumps cost 20 µs, this costs 5. Hence text
    pasted together, numbers formatted once, and parts that repeat from line to line kept.
    """
    x = exchange
    finished_at = x.finished_at or x.started_at
    seconds, milliseconds = divmod(int((finished_at + clock_offset) * 1000), 1000)
    known = _asked.get((x.client, x.path))
    if known is None or known.info is not x.info or known.rest != (x.method, x.context, x.listener):
        known = _note_asked(x)
    return (
        f'{{"timestamp": "{_second(seconds)}.{milliseconds:03d}Z", "level": "info", '
        f'"event": "request.finished", "exchange_id": {x.exchange_id}{known.text}'
        f', "status": {x.status}{_status(x.upstream_status)}'
        f"{_field('proxy_error', x.proxy_error) if x.proxy_error else ''}"
        f', "bytes_in": {x.bytes_in}, "bytes_out": {x.bytes_out}'
        f', "duration_seconds": {finished_at - x.started_at:.6f}'
        f"{_field('audit_id', x.audit_id) if x.audit_id else ''}}}\n"
    )


class _Asked:
    """The part of a line that says who asked for what: clients that poll ask for the same again."""

    __slots__ = ("info", "rest", "text")

    def __init__(self, x: Exchange) -> None:
        info = x.info
        self.info = info
        self.rest = (x.method, x.context, x.listener)
        self.text = (
            f"{_place(x.context, x.listener)}{_field('client', x.client) if x.client else ''}"
            f', "method": {_quoted(x.method)}, "path": {_quoted(x.path)}'
            f"{'' if info is None else _object(info.verb, info.api_group, info.resource, info.subresource)}"
            f"{_field('namespace', info.namespace) if info and info.namespace else ''}"
            f"{_field('name', info.name) if info and info.name else ''}"
        )


_asked: dict[tuple[str, str], _Asked] = {}


def _note_asked(x: Exchange) -> _Asked:
    asked = _Asked(x)
    if len(x.path) <= MAX_REMEMBERED_PATH:
        if len(_asked) >= MAX_REMEMBERED:
            _asked.clear()
        _asked[x.client, x.path] = asked
    return asked


def _field(key: str, value: str) -> str:
    return f', "{key}": {_quoted(value)}'


@lru_cache(maxsize=64)
def _place(context: str | None, listener: str) -> str:
    known = {"context": context, "listener": listener}
    return "".join(_field(key, value) for key, value in known.items() if value)


@lru_cache(maxsize=64)
def _status(upstream_status: int | None) -> str:
    return "" if upstream_status is None else f', "upstream_status": {upstream_status}'


@lru_cache(maxsize=1024)
def _object(verb: str, group: str, resource: str, subresource: str) -> str:
    known = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
    return "".join(_field(key, value) for key, value in known.items() if value)


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def configure(
    log_format: str,
    verbosity: int,
    stream: TextIO | None = None,
    make_room: Callable[[int], None] | None = None,
) -> Output:
    """Send every log line of the process, Python libraries' too, to `stream` (stderr unless given).

    `make_room` as `Output` has it.
    """
    target = stream or cast("TextIO | None", sys.stderr)
    # With `2>&-` descriptor 2 soon belongs to a socket, which is no place for a log.
    descriptor = target.fileno() if target else os.open(os.devnull, os.O_WRONLY)
    output = Output(descriptor, make_room)
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
    output.level = logging.WARNING if verbosity < 0 else logging.INFO if verbosity < 4 else logging.DEBUG
    structlog.configure(
        processors=list(_json_processors() if output.is_json else _console_processors(is_terminal)),
        wrapper_class=structlog.make_filtering_bound_logger(output.level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", output)),
        # A logger that was kept would go on as it was.
        cache_logger_on_first_use=False,
    )


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
      | (?P<userinfo>://)[^/\s@"']+(?=@)
      | (?<![\w-])eyJ[\w-]{6,}\.[\w.-]+                                       # a JSON web token
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
    if _SECRET_KEY.search(key):
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

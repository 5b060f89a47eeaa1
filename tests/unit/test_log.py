"""Log lines: their form, what they hide, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from kproxy.kube.requestinfo import RequestInfo, parse
from kproxy.telemetry import accessline as accesslog
from kproxy.telemetry import log
from kproxy.telemetry.accessline import AccessLog, facts, json_line
from kproxy.telemetry.exchange import Exchange
from kproxy.telemetry.log import (
    EVENTS,
    LIMIT_BYTES,
    Output,
    configure,
    hide_secrets,
    redact,
)
from tests.support import secrets
from tests.support.patience import LAST_RESORT_SECONDS

Configured = Callable[..., tuple[Output, Callable[[], str]]]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """configure(...) into a file; the second result reads what has been written."""
    path = tmp_path / "log"
    handlers = list(logging.getLogger().handlers)
    level = logging.getLogger().level
    with path.open("w") as stream:
        yield lambda form="json", verbosity=0: (configure(form, verbosity, stream), path.read_text)
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def read_until(reader: int, is_enough: Callable[[bytearray], bool]) -> str:
    """What comes out of the pipe until it is enough."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    done = asyncio.Event()

    def take() -> None:
        received.extend(os.read(reader, 65536))
        if is_enough(received):
            done.set()

    loop.add_reader(reader, take)
    try:
        async with asyncio.timeout(LAST_RESORT_SECONDS):
            await done.wait()
    finally:
        loop.remove_reader(reader)
    return received.decode()


def an_exchange(**changes: Any) -> Exchange:
    """A finished exchange: a pod was got."""
    exchange = Exchange("GET", "/api/v1/namespaces/default/pods/web-0", "127.0.0.1:53122", "127.0.0.1:8001")
    exchange.info = parse("GET", exchange.path)
    exchange.context = "dev"
    exchange.status = exchange.upstream_status = 200
    exchange.bytes_out = 1234
    exchange.audit_id = "1f0c3a5e-8f6d-4f5a-9a57-1c6ad4c8a1aa"
    exchange.finished_at = exchange.started_at + 0.00222134
    for name, value in changes.items():
        setattr(exchange, name, value)
    return exchange


# -- the line of a request --


def test_a_request_is_one_line_with_these_keys(configured: Configured) -> None:
    """Whoever reads the log finds who asked for what, and what became of it."""
    output, written = configured()
    exchange = an_exchange()
    output.write(json_line(exchange, clock_offset=1_700_000_000.0 - (exchange.finished_at or 0)))
    assert json.loads(written()) == {
        "timestamp": "2023-11-14T22:13:20.000Z", "level": "info", "event": "request.finished",
        "exchange_id": exchange.exchange_id, "context": "dev", "listener": "127.0.0.1:8001",
        "client": "127.0.0.1:53122", "method": "GET", "path": "/api/v1/namespaces/default/pods/web-0",
        "verb": "get", "resource": "pods", "namespace": "default", "name": "web-0", "status": 200,
        "upstream_status": 200, "bytes_in": 0, "bytes_out": 1234, "duration_seconds": 0.002221,
        "audit_id": "1f0c3a5e-8f6d-4f5a-9a57-1c6ad4c8a1aa",
    }  # fmt: skip


text = st.text(max_size=12)
infos = st.builds(
    RequestInfo,
    verb=text,
    path=text,
    api_group=text,
    resource=text,
    subresource=text,
    namespace=text,
    name=text,
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "context": st.none() | text,
        "listener": text,
        "client": text,
        "method": st.text(min_size=1, max_size=12),
        "path": st.text(min_size=1, max_size=12),
        "info": st.none() | infos,
        "status": st.integers(0, 599),
        "upstream_status": st.none() | st.integers(100, 599),
        "proxy_error": st.none() | text,
        "bytes_in": st.integers(0, 2**40),
        "bytes_out": st.integers(0, 2**40),
        "audit_id": st.none() | text,
    },
)


@given(changes, st.floats(0, 1e6))
def test_the_fast_line_is_structlogs(changes: dict[str, Any], duration: float) -> None:
    """Whatever a request holds: same keys, same order, same values as JSONRenderer makes of its facts."""
    exchange = an_exchange(**changes)
    exchange.finished_at = exchange.started_at + duration
    line = json_line(exchange, clock_offset=0.0)
    pairs = json.loads(line, object_pairs_hook=list)
    slow = structlog.processors.JSONRenderer()(None, "info", {**dict(pairs[:3]), **facts(exchange)})
    assert pairs == json.loads(slow, object_pairs_hook=list)
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert line.isascii()


def test_an_exchange_that_was_cut_off_has_a_line(configured: Configured) -> None:
    """Without an end, an answer or a known resource: the keys that are unknown are left out."""
    output, written = configured()
    exchange = Exchange("GET", "/", "", "/run/kproxy.sock")
    output.write(json_line(exchange, 0.0))
    line = json.loads(written())
    assert (line["status"], line["duration_seconds"]) == (0, 0.0)
    assert not {"context", "client", "verb", "upstream_status", "proxy_error", "audit_id"} & set(line)


async def test_requests_are_written_together_and_in_order(
    configured: Configured, pipe: tuple[int, int]
) -> None:
    """Lines appear a moment later, all of them, in the order the requests ended."""
    reader, writer = pipe
    with os.fdopen(os.dup(writer), "w") as stream:
        access_log = AccessLog(configure("json", 0, stream), asyncio.get_running_loop())
        exchanges = [an_exchange() for _ in range(3 * accesslog.BATCH + 1)]
        for exchange in exchanges:
            access_log.write(exchange)
        text = await read_until(reader, lambda received: received.count(b"\n") == len(exchanges))
        access_log.close()
    assert [json.loads(line)["exchange_id"] for line in text.splitlines()] == [
        exchange.exchange_id for exchange in exchanges
    ]


async def test_closing_writes_what_is_left(configured: Configured) -> None:
    """Nothing is lost at the end, and no timer stays behind."""
    output, written = configured()
    access_log = AccessLog(output, asyncio.get_running_loop())
    for _ in range(5):
        access_log.write(an_exchange())
    access_log.close()
    assert written().count("request.finished") == 5


async def test_the_console_has_the_same_facts(configured: Configured) -> None:
    """On a terminal a request is one line too, with the same keys."""
    output, written = configured("console")
    access_log = AccessLog(output, asyncio.get_running_loop())
    exchange = an_exchange(path="/a\x1b[31mred")
    access_log.write(exchange)
    access_log.close()
    (line,) = written().splitlines()
    assert "request.finished" in line
    assert all(f"{key}=" in line for key in facts(exchange))
    assert "\x1b" not in line


async def test_requests_are_not_logged_below_verbosity_zero(configured: Configured) -> None:
    """-v=-1 leaves warnings and errors."""
    output, written = configured("json", -1)
    access_log = AccessLog(output, asyncio.get_running_loop())
    access_log.write(an_exchange())
    access_log.close()
    structlog.get_logger().info("server.started")
    structlog.get_logger().warning("config.questioned")
    assert [json.loads(line)["event"] for line in written().splitlines()] == ["config.questioned"]


def test_steps_are_logged_from_verbosity_four(configured: Configured) -> None:
    """-v=4 and more show debug lines."""
    for verbosity, expected in ((0, 0), (3, 0), (4, 1), (10, 2)):
        _, written = configured("json", verbosity)
        structlog.get_logger().debug("server.started")
        assert written().count("server.started") == expected


def test_a_line_costs_little(configured: Configured) -> None:
    """A request's line takes less time than structlog's own renderer needs for it, by a factor of two."""
    exchange = an_exchange()
    event = facts(exchange)
    renderer = structlog.processors.JSONRenderer()

    def cpu_seconds(work: Callable[[], object]) -> float:
        def once() -> float:
            start = time.process_time()
            for _ in range(300):
                work()
            return time.process_time() - start

        return min(once() for _ in range(7))

    fast = cpu_seconds(lambda: json_line(exchange, 1e9))
    slow = cpu_seconds(lambda: renderer(None, "info", dict(event)) and facts(exchange))
    assert fast < slow / 2


# -- the output --


def test_a_reader_that_stalls_delays_nobody(pipe: tuple[int, int]) -> None:
    """Writing goes on at once when nobody reads; what does not fit is counted, and memory is bounded."""
    reader, writer = pipe
    output = Output(writer)
    line = "x" * 999 + "\n"
    started_at = time.monotonic()
    for _ in range(3 * LIMIT_BYTES // 1000):
        output.write(line)
    assert time.monotonic() - started_at < 30
    lost = output.take_lost()
    assert lost >= 1900
    got = b""
    while output.is_waiting:
        got += os.read(reader, 1 << 20)
        output.flush()
    got += os.read(reader, 1 << 20)
    assert got == line.encode() * (3 * LIMIT_BYTES // 1000 - lost)
    assert output.take_lost() == 0


async def test_losses_are_reported_when_the_reader_is_back(
    configured: Configured, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later line says how many are missing."""
    reader, writer = pipe
    monkeypatch.setattr(log, "LIMIT_BYTES", 100_000)
    with os.fdopen(os.dup(writer), "w") as stream:
        output = configure("json", 0, stream)
        access_log = AccessLog(output, asyncio.get_running_loop())
        for _ in range(2):
            output.write("x" * 99_999 + "\n")
        access_log.write(an_exchange())
        text = await read_until(reader, lambda received: b"log.dropped" in received)
        access_log.close()
    *_, last = text.splitlines()
    assert json.loads(last)["event"] == "log.dropped"
    assert json.loads(last)["count"] >= 1


def test_a_reader_that_has_gone_is_no_error(pipe: tuple[int, int]) -> None:
    """The program goes on without its log."""
    reader, writer = os.pipe()
    os.close(reader)
    output = Output(writer)
    output.write("lost\n")
    output.drain(0.05)
    os.close(writer)
    assert output.is_waiting


def test_a_reader_that_has_gone_is_tried_ever_less() -> None:
    """Down to once a second: a proxy at rest should not wake a laptop ten times a second."""

    class Loop(asyncio.AbstractEventLoop):
        def __init__(self) -> None:
            self.delays: list[float] = []

        def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
            self.delays.append(delay)
            self.callback = callback

    reader, writer = os.pipe()
    os.close(reader)
    loop = Loop()
    with os.fdopen(writer, "wb", 0) as stream:
        access_log = AccessLog(Output(stream.fileno()), loop)
        access_log.write(an_exchange())
        for _ in range(6):
            loop.callback()
    assert loop.delays == [0.1, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_draining_waits_so_long_and_no_longer(pipe: tuple[int, int]) -> None:
    """At the end of the program the reader gets a moment."""
    _, writer = pipe
    output = Output(writer)
    output.write("x" * 200_000 + "\n")
    started_at = time.monotonic()
    output.drain(0.2)
    assert 0.15 < time.monotonic() - started_at < 30


def test_the_format_follows_the_stream(tmp_path: Path, configured: Configured) -> None:
    """auto is console on a terminal and JSON in a file; both can be asked for."""
    output, _ = configured("auto")
    assert output.is_json
    output, _ = configured("console")
    assert not output.is_json
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, os.fdopen(controller):
        assert not configure("auto", 0, stream).is_json
        assert configure("json", 0, stream).is_json


def test_a_closed_stderr_is_not_written_to(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2>&- the descriptor may by now be somebody's connection."""
    monkeypatch.setattr("sys.stderr", None)
    output = configure("auto", 0)
    output.write("into the void\n")
    assert output.take_lost() == 0
    assert output._descriptor > 2
    os.close(output._descriptor)


# -- secrets --


def test_nothing_secret_is_written(configured: Configured) -> None:
    """Keys that say so and values that look like it, at any depth, in errors and in libraries' words."""
    values = [secrets.plant(f"log-{number}") for number in range(11)]
    _, written = configured()
    logger = structlog.get_logger()
    logger.info(
        "a.b", authorization=values[0], id_token=values[1], headers={"Cookie": values[2], "a": "fine"}
    )
    logger.info("a.b", detail=f"sent Authorization: Bearer {values[3]} and basic {values[4]}")
    logger.info(
        "a.b",
        detail=f"https://user:p@{values[5]}@host/path",
        password=b"x",
        error=ValueError(values[6] and "fine"),
    )
    logger.info("a.b", items=[f"id_token={values[7]}&a=b", f'{{"refresh_token": "{values[8]}", "a": 1}}'])
    logger.info("a.b", pem=f"-----BEGIN EC PRIVATE KEY-----\n{values[9]}\n-----END EC PRIVATE KEY-----\n")
    logger.error("a.b", exc_info=ValueError(f"Bearer {values[10]}"))
    # Not planted: pytest's own capture of the logging module shows it as it came.
    logging.getLogger("aiohttp.server").error("header was %s", "Bearer not-a-planted-one")
    lines = written()
    assert secrets.leaked(lines) == []
    assert "not-a-planted-one" not in lines
    assert lines.count(log.HIDDEN) >= 12
    assert "fine" in lines
    assert "user" not in lines
    assert "https://[hidden]@host/path" in lines


def test_a_json_web_token_is_recognised() -> None:
    """Also where no word before it gives it away."""
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    assert redact(None, "info", {"detail": f"got {token}, refused"})["detail"] == "got [hidden], refused"


@pytest.mark.parametrize(
    "harmless",
    [
        "context dev: user me has no credential", "/api/v1/namespaces/default/secrets/token-x", "tokenFile",
        "token and username/password are two methods", "the exec plugin aws", "https://host/path?x=1", "eyJ",
    ],
)  # fmt: skip
def test_ordinary_words_stay(harmless: str) -> None:
    """Redaction does not eat what people need to read."""
    assert redact(None, "info", {"detail": harmless, "count": 3, "is_on": True, "none": None}) == {
        "detail": harmless, "count": 3, "is_on": True, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "-",
        "token",
        "token-",
        'token":',
        "eyJ",
        "eyJ-",
        "eyJ.",
        "://",
        "://a:",
        "bearer ",
        '"',
        "-----BEGIN ",
        " ",
    ],
)
def test_no_text_holds_up_the_log(piece: str) -> None:
    """A path may have 64 KB, and any web page can ask for one: looking through it takes next to no time."""
    text = "/" + piece * (60_000 // len(piece))
    assert hide_secrets(text).startswith("/")


@given(
    st.dictionaries(
        st.text(max_size=10), st.recursive(st.none() | st.text() | st.binary(), st.lists, max_leaves=4)
    )
)
def test_redaction_takes_any_value(event: dict[str, Any]) -> None:
    """No event crashes it."""
    assert list(redact(None, "info", event)) == list(event)


# -- libraries --


def test_libraries_speak_through_our_log(configured: Configured) -> None:
    """Warnings and errors of asyncio, aiohttp and the warnings module are lines of ours, no others."""
    _, written = configured()
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("aiohttp.access").info("not this")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    lines = [json.loads(line) for line in written().splitlines()]
    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [
        ("library.reported", "asyncio", "warning"),
        ("library.reported", "py.warnings", "warning"),
    ]
    assert lines[0]["message"] == "slow callback"


def test_an_error_has_its_traceback_in_one_line(configured: Configured) -> None:
    """For a person on the console, for a program in one JSON value."""
    _, written = configured()
    try:
        os.environ["KPROXY_NO_SUCH_VARIABLE"]
    except KeyError:
        structlog.get_logger().exception("internal.failed")
    line = json.loads(written())
    assert (line["level"], line["event"]) == ("error", "internal.failed")
    assert line["exception"].endswith("KeyError: 'KPROXY_NO_SUCH_VARIABLE'")


def test_configuring_twice_does_not_double_the_lines(configured: Configured) -> None:
    """A second start in one process replaces the first one's log."""
    configured()
    _, written = configured()
    logging.getLogger("asyncio").error("once")
    assert written().count("once") == 1


def test_events_are_named_noun_and_participle() -> None:
    """`request.finished`: one dot, lower case, and a sentence that says what it means."""
    for name, meaning in EVENTS.items():
        noun, _, participle = name.partition(".")
        assert noun.isidentifier()
        assert participle.isidentifier()
        assert name == name.lower()
        assert meaning.endswith(".")

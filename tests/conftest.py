"""Guards that every test passes through: nothing may leak, neither tasks, sockets, errors nor secrets.

KPROXY_TEST_LOOP=asyncio runs the tests on asyncio's own event loop instead of uvloop's.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping

import hypothesis
import pytest
import structlog

from tests.support import ports, secrets, zygote
from tests.support.effort import effort
from tests.support.leaks import clean_loop, open_sockets
from tests.support.loops import chosen_loop

# Hypothesis fails an example that takes 0.2 s, and data that takes long to make: a busy machine does both.
hypothesis.settings.register_profile(
    "unhurried",
    max_examples=effort(50),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")

# Below `nohup` or in the background of a script they are ignored, and programs of tests would inherit that,
# unlike a handler.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"loop": chosen_loop}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are processors, since tests of real programs wait much."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + 1


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """What a test has configured the log to write to is closed by the end of it."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `million` unless -m names it; in addopts, another -m would bring it back."""
    if "million" in config.option.markexpr:
        return
    left_out = [item for item in items if "million" in item.keywords]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "million" not in item.keywords]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    _settle_heap()


def pytest_sessionfinish() -> None:
    zygote.end()


def _settle_heap() -> None:
    """What is there by now stays, and is not looked at again: a collection then takes a millisecond."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _settled_heap() -> None:
    """What the modules before have imported and remembered is not looked at again after each test."""
    _settle_heap()


@pytest.fixture(autouse=True)
def _no_open_sockets() -> Iterator[None]:
    """The sockets after a test are those before it; the event loop's own are closed with the loop."""
    before = open_sockets()
    yield
    if leaked := open_sockets() - before:
        gc.collect()
        pytest.fail(f"{len(leaked)} socket(s) left open by the test", pytrace=False)


@pytest.fixture(autouse=True)
def _no_loose_ends(_no_open_sockets: None, request: pytest.FixtureRequest) -> None:
    """Async tests are also watched for leftover tasks and errors that nobody retrieved."""
    function = getattr(request.node, "obj", None)
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if inspect.iscoroutinefunction(inner):
        request.getfixturevalue("_clean_loop")


@pytest.fixture
async def _clean_loop() -> AsyncIterator[None]:
    async with clean_loop():
        yield


@pytest.fixture
def reserved_port() -> Iterator[int]:
    """See `ports.reserved_port`."""
    with ports.reserved_port() as port:
        yield port


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    shown = "\n".join(text for _, text in report.sections)
    if names := secrets.leaked(shown):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: captured output shows planted secret(s): {', '.join(names)}"
        report.sections = []
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests marked `numbers` measured, also when they pass and on whichever worker they ran."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and "numbers" in report.keywords and report.capstdout
    ]
    if reports:
        terminalreporter.section("measured")
    for report in reports:
        terminalreporter.write_line(report.nodeid.rpartition("/")[2])
        for line in report.capstdout.strip().splitlines():
            terminalreporter.write_line(f"    {line.strip()}")

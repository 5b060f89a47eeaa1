"""README.md beyond its tables of settings: the map, the commands, the deviations and numbers it tells."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from kproxy.cli import main as cli
from kproxy.cli.arguments import IGNORED_FLAGS, WISHES
from kproxy.cli.build import facts
from kproxy.cli.commands import own_flags
from kproxy.config.schema import OPTIONS, Config
from kproxy.credentials import local, renewal
from kproxy.gateway import client as downstream
from kproxy.gateway import relay, tunnel
from kproxy.http import heads as wire
from kproxy.instances import daemon
from tests.bench.report import BEGIN, END

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(
    str(path.parent.relative_to(ROOT / "kproxy"))
    for path in sorted((ROOT / "kproxy").glob("*/**/__init__.py"))
)


@cache
def text() -> str:
    return (ROOT / "README.md").read_text()


@cache
def fences() -> list[str]:
    """What stands in fenced blocks."""
    return re.findall(r"^~~~\w*\n(.*?)^~~~$", text(), re.MULTILINE | re.DOTALL)


@cache
def section(title: str) -> str:
    """From a heading of the second level to the next."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text(), re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title}"
    return found[1]


def spans(markdown: str) -> list[str]:
    """What stands in backticks, outside of fenced blocks."""
    return re.findall(r"`([^`]+)`", re.sub(r"^~~~.*?^~~~$", "", markdown, flags=re.MULTILINE | re.DOTALL))


# -- commands --


def test_the_two_commands_stand_in_blocks_of_their_own() -> None:
    """One line ends with kproxy serving, one runs all tests; each sets up all it needs."""
    lines = [block.strip() for block in fences() if block.startswith("python3 -m venv .venv && ")]
    start, test = lines
    assert start == "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/kproxy"
    assert test == (
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest -n auto"
    )


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """The same install and the same run, in a .venv too."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "-m venv --clear .venv" in script
    assert "-e '.[dev]'" in script
    assert re.search(r"^check python -m pytest -n auto$", script, re.MULTILINE)


def test_every_flag_in_the_text_exists() -> None:
    """Advice to use a flag that kproxy has not is worse than none."""
    real = {option.flag for option in OPTIONS} | {option.negation for option in OPTIONS}
    real |= set(IGNORED_FLAGS) | set(WISHES) | set(own_flags())
    told = {re.split("[ =]", span)[0] for span in spans(text()) if span.startswith("--")}
    assert told - real == set()


def test_every_exit_code_is_told() -> None:
    """A row for each code, and none for another."""
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    table = section("Commands and settings").partition("### Exit codes")[2].partition("###")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes


# -- the map --


@cache
def map_of_rooms() -> str:
    return next(block for block in fences() if block.startswith("kproxy/\n"))


def test_every_module_is_on_the_map_once() -> None:
    """Modules of the package by file name, those of its sub-packages by name in their package's lines."""
    names = re.findall(r"^  ([a-z_]+\.py|[a-z_0-9/]+/) ", map_of_rooms(), re.MULTILINE)
    paths = [path for path in (ROOT / "kproxy").iterdir() if path.suffix == ".py"]
    assert sorted(names) == sorted([path.name for path in paths] + [f"{name}/" for name in PACKAGES])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_modules_of_a_package_are_in_its_lines(package: str) -> None:
    """All of them, and no other, whatever words stand around them."""
    lines = re.search(rf"^  {package}/ .*\n((?: {{10,}}.*\n)+)", map_of_rooms(), re.MULTILINE)
    assert lines
    told = set(re.findall(r"[a-z_0-9]+", re.sub(r"\(.*?\)|--.*", "", lines[1])))
    real = {path.stem for path in (ROOT / "kproxy" / package).glob("*.py")} - {"__init__", "__main__"}
    assert told == real


def test_the_packages_are_those_of_pyproject() -> None:
    """Each run-time package has its reason, and nothing that is not installed has one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^\w-]", each)[0].lower() for each in project["dependencies"]}
    told = set(re.findall(r"^\| ([a-z-]+) \|", section("Packages"), re.MULTILINE)) - {"package"}
    assert told == wanted


def test_version_tells_of_each_package() -> None:
    """A new one is part of a bug report, too."""
    told = set(re.findall(r"^\| ([a-z-]+) \|", section("Packages"), re.MULTILINE)) - {"package"}
    assert set(facts()["packages"]) == told  # type: ignore[call-overload]


def test_the_benchmark_finds_its_place() -> None:
    """Each marker once, and in order: `tests.bench --update-readme` writes between them."""
    assert [text().count(BEGIN), text().count(END)] == [1, 1]
    assert text().index(BEGIN) < text().index(END)


# -- differences --


@cache
def deviations() -> set[str]:
    """The ids in DEVIATIONS of the kubeconfig cases, read off its source."""
    path = ROOT / "tests" / "conformance" / "test_kubeconfig_cases.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "DEVIATIONS":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(key) for key in node.value.keys if key is not None}
    raise AssertionError(f"no DEVIATIONS in {path.name}")


def test_every_deviation_is_in_the_table_and_the_reverse() -> None:
    """A case that deviates on purpose is told to users by its id."""
    families = {case.partition("-")[0] for case in deviations()}
    rows = [line for line in section("Differs from kubectl proxy").splitlines() if line.startswith("|")]
    told = {span for row in rows for span in spans(row) if re.fullmatch(r"[a-z]+(?:-[a-z0-9]+)+", span)}
    assert {span for span in told if span.partition("-")[0] in families} == deviations()


def test_every_row_of_differences_is_complete() -> None:
    """What, why, and kubectl's way; "none" is said, not left out."""
    for line in section("Differs from kubectl proxy").splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            assert len(cells) == 3, line
            assert all(cells), line


def kilobytes(size_bytes: int) -> str:
    return f"{size_bytes // 1024} KB"


@pytest.mark.parametrize(
    "told",
    [
        f"A field may have {kilobytes(wire.MAX_FIELD_BYTES)} and a head {kilobytes(wire.MAX_HEAD_BYTES)}",
        f"complete within {downstream.HEAD_SECONDS:g} s (408)",
        f"gets its answer, if it comes within {downstream.HALF_CLOSE_SECONDS:g} s",
        f"if its body has at most {relay.MAX_REPLAYED_BYTES // 1024**2} MB",
        f"DELETE with at most {relay.MAX_REPLAYED_BYTES // 1024**2} MB",
        f"until it has been silent for {tunnel.TOLD_SECONDS:g} s",
        f"a run that takes over {Config.__dataclass_fields__['exec_timeout_seconds'].default:g} s",
        f"waits for the grace period and {daemon.STOP_MARGIN_SECONDS:g} s more",
        f"running requests get {Config.__dataclass_fields__['grace_period_seconds'].default:g} s",
    ],
)
def test_the_numbers_are_those_of_the_code(told: str) -> None:
    """A limit that changes changes here, too."""
    assert told in " ".join(text().split())


def test_the_words_for_periods_are_true() -> None:
    """Where the text says a second, or a minute."""
    assert "once a second" in text()
    assert renewal.RETRY_SECONDS == 1.0
    assert "`credential.refresh_failed`, once a minute" in " ".join(text().split())
    assert renewal.WARNING_SECONDS == 60.0
    assert "looked at each second" in text()
    assert local.LOOK_SECONDS == 1.0

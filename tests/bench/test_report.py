"""The benchmark's arithmetic: a wrong ratio would be a wrong claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.measures import Budget, Row
from tests.bench.proxies import Contender
from tests.bench.report import Results
from tests.bench.upstreams import Upstream
from tests.support.program import Process


def contender(name: str, missing: str | None = None) -> Contender:
    def prepare(upstream: Upstream, directory: Path) -> Process:
        raise NotImplementedError

    return Contender(name=name, version="1.0", missing=missing, prepare=prepare)


ROW = Row(
    key="cost", title="cost", unit="µs", budgets=(Budget(limit=0.6, against="kubectl"), Budget(limit=9))
)


def results() -> Results:
    found = Results()
    for ours, theirs in ((10.0, 20.0), (40.0, 80.0), (9.0, 12.0)):
        found.add("kproxy", {"cost": ours})
        found.add("kubectl", {"cost": theirs})
    return found


def test_ratios_are_taken_within_rounds() -> None:
    """A round in which the machine was slow for both does not move the ratio."""
    assert results().ratio("cost", "kubectl") == 0.5
    assert results().median("cost", "kproxy") == 10.0
    assert results().ratio("cost", "nginx") is None


def test_table_tells_budgets_and_leaves_missing_programs_out() -> None:
    """A held budget is ticked, a broken one crossed; a program that is not there has no column."""
    contenders = [contender("kproxy"), contender("kubectl"), contender("nginx", "not installed")]
    text = report.table([ROW], results(), contenders)
    assert "≤ 0.6 of kubectl ✓, ≤ 9 µs ✗" in text
    assert "nginx" not in text


def test_readme_section_is_replaced_between_its_markers(tmp_path: Path) -> None:
    """Only what stands between the markers changes, however often."""
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.update_readme(path, "new\n")
    assert path.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(ValueError, match="bench:begin"):
        report.update_readme(path, "new")

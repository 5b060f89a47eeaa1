"""Medians, ratios, the table, the JSON file and the README's section."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measures import Budget, Row
from tests.bench.proxies import Contender

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
OURS = "kproxy"


@dataclass(slots=True)
class Results:
    """Every measured value: row key -> contender -> one value per round; and what could not be measured."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, contender: str, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.values.setdefault(key, {}).setdefault(contender, []).append(value)

    def median(self, key: str, contender: str) -> float | None:
        found = self.values.get(key, {}).get(contender)
        return statistics.median(found) if found else None

    def ratio(self, key: str, against: str) -> float | None:
        """Median over the rounds of ours divided by theirs in the same round: drift cancels out."""
        ours = self.values.get(key, {}).get(OURS, [])
        theirs = self.values.get(key, {}).get(against, [])
        pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other > 0]
        return statistics.median(pairs) if pairs else None


def machine(contenders: list[Contender]) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{each.name: each.version for each in contenders if each.missing is None},
        },
    }


def table(rows: list[Row], results: Results, contenders: list[Contender]) -> str:
    """Markdown, aligned so that it reads well in a terminal too."""
    present = [each.name for each in contenders if each.missing is None]
    others = [name for name in present if name != OURS]
    header = ["", "unit", *present, *(f"/ {name}" for name in others), "budget"]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 3), "---"]]
    for row in rows:
        cells = [row.title, row.unit]
        cells += [_number(results.median(row.key, name)) for name in present]
        cells += [_ratio(results.ratio(row.key, name)) for name in others]
        cells.append(", ".join(_verdict(row, budget, results) for budget in row.budgets))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def as_json(rows: list[Row], results: Results, contenders: list[Contender]) -> dict[str, Any]:
    entries = {}
    for row in rows:
        rounds = results.values.get(row.key, {})
        entries[row.key] = {
            "title": row.title,
            "unit": row.unit,
            "rounds": rounds,
            "median": {name: statistics.median(values) for name, values in rounds.items()},
            "ratio": {name: results.ratio(row.key, name) for name in rounds if name != OURS},
            "budgets": [
                {"limit": budget.limit, "against": budget.against, "held": _held(row, budget, results)}
                for budget in row.budgets
            ],
        }
    return {**machine(contenders), "rows": entries, "problems": results.problems}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def readme_section(rows: list[Row], results: Results, contenders: list[Contender]) -> str:
    about = machine(contenders)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    caption = (
        f"Measured {about['date']} on {about['cores']} cores ({about['system']}); {versions}. "
        "Medians; the columns with a slash are kproxy divided by the other."
    )
    problems = "".join(f"\n- {problem}" for problem in results.problems)
    return f"{caption}\n\n{table(rows, results, contenders)}\n{problems}"


def update_readme(path: Path, section: str) -> None:
    """Replace what stands between the markers; ValueError when they are not there."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{section.rstrip()}\n{END}{after}")


def _held(row: Row, budget: Budget, results: Results) -> bool | None:
    """None when it cannot be told."""
    if budget.against is None:
        value = results.median(row.key, OURS)
    else:
        value = results.ratio(row.key, budget.against)
    if value is None:
        return None
    return value >= budget.limit if row.more_is_better else value <= budget.limit


def _verdict(row: Row, budget: Budget, results: Results) -> str:
    sign = "≥" if row.more_is_better else "≤"
    limit = (
        f"{budget.limit:g} {row.unit}" if budget.against is None else f"{budget.limit:g} of {budget.against}"
    )
    mark = {True: "✓", False: "✗", None: "?"}[_held(row, budget, results)]
    return f"{sign} {limit} {mark}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

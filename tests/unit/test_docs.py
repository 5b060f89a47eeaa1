"""What is written about kproxy, held up to kproxy: README tables, config.example.yaml, the list of events."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from kproxy.cli.arguments import IGNORED_FLAGS, WISHES
from kproxy.cli.commands import COMMANDS, own_flags
from kproxy.config.kinds import Option
from kproxy.config.listeners import ENTRY_KEYS
from kproxy.config.schema import OPTIONS, Config
from kproxy.config.sources import Given, read
from kproxy.telemetry.log import EVENTS
from kproxy.telemetry.metrics import METRICS
from kproxy.web.probes import ENDPOINTS, PREFIX

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config.example.yaml"

by_name = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)


# -- README.md --


@cache
def readme() -> str:
    return (ROOT / "README.md").read_text()


@cache
def rows() -> dict[str, list[list[str]]]:
    """Name in the first cell of a table row -> the cells of each such row."""
    found: dict[str, list[list[str]]] = {}
    for line in readme().splitlines():
        if line.startswith("|"):
            # A bar inside a code span is written \\| in a table.
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for span in spans(cells[0]):
                found.setdefault(re.split("[ =]", span)[0], []).append(cells)
    return found


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


@by_name
def test_every_setting_has_a_row_in_the_readme(option: Option) -> None:
    """With its flag, short flag, key in the config file, and default."""
    wanted = {option.flag, f"-{option.short}", option.name, option.negation}
    wanted -= {"-", "", option.name if not option.in_file else ""}
    if not isinstance(option.default, bool):
        wanted |= set(filter(None, option.kind.show(option.default).split(",")))
    told = [set(spans(" ".join(cells).replace(",", "` `"))) for cells in rows().get(option.flag, [])]
    assert any(wanted <= row for row in told), f"README.md has no table row with all of {sorted(wanted)}"


def test_the_readme_has_no_flag_that_kproxy_has_not() -> None:
    """A row of a flag that is gone, or misspelt, is a lie."""
    real = {option.flag for option in OPTIONS} | {f"-{option.short}" for option in OPTIONS if option.short}
    real |= {option.negation for option in OPTIONS} | set(IGNORED_FLAGS) | set(WISHES) | set(own_flags())
    assert {name for name in rows() if name.startswith("-")} - real == set()


def test_the_readme_names_what_needs_a_restart() -> None:
    """All other keys of the config file are applied while kproxy runs."""
    (sentence,) = re.findall(r"A restart is needed for changes of ([^;]*);", readme())
    assert set(spans(sentence)) == {option.name for option in OPTIONS if option.in_file and not option.live}


def test_the_readme_names_the_flags_without_effect() -> None:
    """So that nobody waits for their effect."""
    assert set(IGNORED_FLAGS) <= set(spans(readme()))


def test_every_command_is_in_the_readme_and_the_reverse() -> None:
    """The table of commands has a row for each, with its words and meaning."""
    table = readme().partition("| command | |\n")[2].partition("\n\n")[0]
    told = [line.replace("\\|", "|") for line in table.splitlines()[1:]]
    assert told == [
        f"| `{f'{command.title} {command.words.shown}'.strip()}` | {command.meaning} |"
        for command in COMMANDS.values()
    ]


def test_every_flag_of_a_command_is_in_the_readme() -> None:
    """A row for each: the commands that have it, and what it means there."""
    for command in COMMANDS.values():
        for flag in command.flags:
            assert any(
                f"`{command.title}`" in cells[1] and flag.meaning in cells[2] and flag.short in cells[0]
                for cells in rows().get(flag.flag, [])
                if len(cells) == 3
            ), f"README.md has no row | `{flag.flag}` | `{command.title}` | {flag.meaning} |"


def test_every_event_is_in_the_readme_and_the_reverse() -> None:
    """The table of events is EVENTS, word for word."""
    told = {name: cells for name, cells in rows().items() if re.fullmatch(r"[a-z]+\.[a-z_]+", name)}
    told = {name: cells for name, cells in told.items() if not name.endswith((".py", ".yaml", ".json"))}
    assert set(told) == set(EVENTS)
    for name, meaning in EVENTS.items():
        assert any(meaning in cells for cells in told[name])


def test_every_endpoint_is_in_the_readme_and_the_reverse() -> None:
    """The table of endpoints is ENDPOINTS, word for word, with the index before it."""
    told = {name: cells for name, cells in rows().items() if name.startswith(PREFIX)}
    assert set(told) - {PREFIX} == {PREFIX + name for name in ENDPOINTS}
    for name, about in ENDPOINTS.items():
        assert any(about in cells for cells in told[PREFIX + name])


def test_every_metric_is_in_the_readme_and_the_reverse() -> None:
    """With its kind, labels and meaning, word for word; process_ ones that the kernel tells stand beside."""
    told = {
        name: cells for name, cells in rows().items() if re.fullmatch(r"(?:kproxy|process)_[a-z_]+", name)
    }
    kernel = {f"process_{name}" for name in KERNEL}
    assert set(told) == {*METRICS, *kernel}
    for name, about in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in about.labels) or "-"
        assert told[name] == [[f"`{name}`", about.kind, labels, about.help]]


KERNEL = ("cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "open_fds", "max_fds")
"""What prometheus_client tells of a process on Linux, beside its start."""


def test_the_kernels_metrics_are_those_that_are_told() -> None:
    """Another version of prometheus_client may have more."""
    from prometheus_client import ProcessCollector

    found = {metric.name for metric in ProcessCollector(registry=None).collect()}
    wanted = {f"process_{name}".removesuffix("_total") for name in KERNEL} | {"process_start_time_seconds"}
    assert found in (wanted, set()), "empty without /proc"


def test_every_key_of_a_listener_is_in_the_readme_and_the_reverse() -> None:
    """The entries of `listeners` have a table of their own."""
    table = (
        readme().partition("\n## Listeners\n")[2].partition("| key | |\n|---|---|\n")[2].partition("\n\n")[0]
    )
    assert {name for row in table.splitlines() for name in spans(row.split("|")[1])} == set(ENTRY_KEYS)


def test_the_example_of_listeners_is_one(tmp_path: Path) -> None:
    """It loads without a problem, and each entry is of another kind."""
    block = readme().partition("\n## Listeners\n")[2].partition("~~~yaml\n")[2].partition("~~~")[0]
    (tmp_path / "config.yaml").write_text(block)
    config_option = next(option for option in OPTIONS if option.name == "config")
    given = Given(option=config_option, text=str(tmp_path / "config.yaml"), origin="--config")
    settings = read([given], {})
    assert settings.problems == ()
    places = [each.place for each in settings.config.listener_configs()]
    assert places == ["127.0.0.1:8001", "0.0.0.0:8443", "unix:/run/kproxy/kproxy.sock"]


def test_every_room_is_on_the_map_in_the_readme() -> None:
    """A new module needs its line there, and a line its module."""
    told = set(re.findall(r"^ +((?:[a-z_]+\.py)|(?:[a-z_]+/))", readme(), re.MULTILINE))
    paths = [path for path in (ROOT / "kproxy").iterdir() if path.name not in ("__init__.py", "__pycache__")]
    real = {
        path.name + ("/" if path.is_dir() else "") for path in paths if path.is_dir() or path.suffix == ".py"
    }
    assert real - told == set()
    assert {name for name in told if name.endswith(".py")} - real - {"__init__.py"} == set()


# -- config.example.yaml --


def test_the_example_is_the_default() -> None:
    """config.example.yaml loads without a problem, and what it says is what is in force without it."""
    config_option = next(option for option in OPTIONS if option.name == "config")
    settings = read([Given(option=config_option, text=str(EXAMPLE), origin="--config")], {})
    assert settings.problems == ()
    assert dataclasses.replace(settings.config, config=None) == Config()


def test_the_example_has_every_key_and_no_other() -> None:
    """In the order of --help."""
    assert list(yaml.safe_load(EXAMPLE.read_text())) == [option.name for option in OPTIONS if option.in_file]


def comments() -> dict[str, str]:
    """Key -> the comment right above it."""
    found: dict[str, str] = {}
    block: list[str] = []
    for line in EXAMPLE.read_text().splitlines():
        if line.startswith("#"):
            block.append(line[1:].strip())
        elif match := re.match(r"([a-z_0-9]+):", line):
            found[match[1]] = " ".join(block)
            block = []
        elif not line:
            block = []
    return found


@by_name
def test_the_examples_comments_are_true(option: Option) -> None:
    """Each is what --help says of the setting."""
    if option.in_file:
        assert comments()[option.name] == option.help


# -- events --

_LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def logged() -> Iterator[tuple[str, str]]:
    """(place, event) of every line that kproxy can log; the event of a call without a constant is empty."""
    for path in sorted((ROOT / "kproxy").rglob("*.py")):
        if "demo" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            speaker = ast.unparse(node.func.value)
            is_log = speaker.lstrip("_") in ("log", "logger") and node.func.attr in _LEVELS
            if is_log or (speaker == "self" and node.func.attr == "_warn"):
                texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
                yield (
                    f"{path.name}:{node.lineno}",
                    next((text for text in texts if isinstance(text, str)), ""),
                )


def test_every_event_is_listed_and_every_listed_event_exists() -> None:
    """EVENTS is neither short nor stale."""
    events = {event for _, event in logged() if event}
    assert events == set(EVENTS)


def test_events_are_constant() -> None:
    """Facts are keys: an event with facts in its name cannot be searched for."""
    loose = [place for place, event in logged() if not event]
    # The one place that passes an event on, named by its callers in the same class.
    assert [place.partition(":")[0] for place in loose] == ["renewal.py"]

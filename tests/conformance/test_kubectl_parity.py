"""kproxy and kubectl proxy side by side: the same bytes, the same expectations.

The rows are in tests/conformance/parity. Where the two differ on purpose a row says so, and why; the README's
table of differences has the key of each reason.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import Pki
from tests.conformance.parity.differences import DIFFERENCES
from tests.conformance.parity.model import CliRow, Row
from tests.conformance.parity.runner import Pool, run, run_cli
from tests.conformance.parity.table import CLI_ROWS, ROWS
from tests.conformance.parity.world import World

README = Path(__file__).resolve().parents[2] / "README.md"
OLDEST, NEWEST = 30, 34
"""Minor versions of kubectl whose proxy is known to do what the table says."""


def _why_not_kubectl() -> str | None:
    program = shutil.which("kubectl")
    if program is None:
        return "no kubectl is installed"
    said = subprocess.run([program, "version", "--client"], capture_output=True, text=True, timeout=60)
    found = re.search(r"v1\.(\d+)", said.stdout)
    if found is None or not OLDEST <= int(found[1]) <= NEWEST:
        return f"the table was recorded with kubectl 1.{OLDEST} to 1.{NEWEST}, not {said.stdout.strip()!r}"
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pki: Pki, upstream_port: int) -> World:
    return World(tmp_path_factory.mktemp("parity"), pki, upstream_port)


@pytest.fixture(scope="module")
def pool(world: World) -> Iterator[Pool]:
    pool = Pool(world)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def kubectl() -> str:
    if reason := _why_not_kubectl():
        pytest.skip(reason)
    return "kubectl"


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_kproxy(row: Row, pool: Pool) -> None:
    """kproxy does what the row says."""
    await run(row, pool.served("kproxy", row))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_kubectl(row: Row, pool: Pool, kubectl: str) -> None:
    """kubectl does what the row says: the table is no wish."""
    await run(row, pool.served(kubectl, row))


@pytest.mark.parametrize("row", CLI_ROWS, ids=str)
def test_kproxy_command_line(row: CliRow, world: World) -> None:
    """kproxy starts, or fails to, as the row says."""
    run_cli(row, "kproxy", world)


@pytest.mark.slow
@pytest.mark.parametrize("row", CLI_ROWS, ids=str)
def test_kubectl_command_line(row: CliRow, world: World, kubectl: str) -> None:
    """kubectl starts, or fails to, as the row says."""
    run_cli(row, kubectl, world)


def test_rows_have_names_of_their_own() -> None:
    """A failing row is found by its name."""
    names = Counter([row.id for row in ROWS] + [row.id for row in CLI_ROWS])
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) >= 150


def test_a_row_differs_with_a_reason() -> None:
    """No difference without a reason, no reason without a row that shows it."""
    assert [row.id for row in ROWS if (row.kproxy is None) != (row.differs == "")] == []
    used = ({row.differs for row in ROWS} | {row.differs for row in CLI_ROWS}) - {""}
    assert used == set(DIFFERENCES)


def test_the_readme_tells_each_difference() -> None:
    """Whoever changes from kubectl proxy reads there what is not the same."""
    text = README.read_text()
    assert [key for key in DIFFERENCES if f"`{key}`" not in text] == []

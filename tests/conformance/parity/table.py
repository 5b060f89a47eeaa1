"""All rows of the table, sorted so that those which share a process stand together."""

from __future__ import annotations

from tests.conformance.parity import (
    rows_answers,
    rows_bodies,
    rows_cli,
    rows_connections,
    rows_filters,
    rows_headers,
    rows_hosts,
    rows_static,
    rows_strictness,
    rows_targets,
    rows_upgrades,
)
from tests.conformance.parity.model import CliRow, Row

_MODULES = (
    rows_targets,
    rows_hosts,
    rows_filters,
    rows_headers,
    rows_bodies,
    rows_answers,
    rows_connections,
    rows_strictness,
    rows_upgrades,
    rows_static,
)

ROWS: list[Row] = sorted(
    (row for module in _MODULES for row in module.ROWS), key=lambda row: (row.cluster, row.flags)
)
CLI_ROWS: list[CliRow] = rows_cli.ROWS

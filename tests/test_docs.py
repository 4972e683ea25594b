"""The parts of docs/ that are made from the code are today's. `make docs` writes them anew."""

from __future__ import annotations

from reconciler.sources.source import FOREVER
from reconciler.sources.table import SOURCES
from tests.support.made import check_made

DAYS = {7: "7 days", 3 * 365: "3 years"}


def test_recovery_shows_the_table_of_sources() -> None:
    rows = ["| source | asks | kept by GitLab | can rebuild | can't |", "|---|---|---|---|---|"]
    for entry in SOURCES:
        kept = "until deleted" if entry.keeps_for == FOREVER else DAYS[entry.keeps_for // 86_400_000]
        rows.append(f"| `{entry.name}` | {entry.asks} | {kept} | {entry.rebuilds} | {entry.loses} |")
    check_made("recovery.md", rows)

"""`python -m benchmarks.sizing`: measure what copies can do, and write the tables of docs/sizing.md from that."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from benchmarks.copies import DESTINATIONS, Figures, figures
from reconciler import logs
from reconciler.config.models import GitLab, Reconcile, Retention
from reconciler.events.times import DAY, MINUTE
from tests.support.ledgers import server

PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
BEGIN, END = "<!-- measured: python -m benchmarks.sizing -->\n", "<!-- end of what is measured -->\n"
PROJECTS = (1_000, 10_000, 100_000)

# What is assumed. The page says so: who knows better multiplies.
EVENTS_A_DAY = 20
"""Of a project."""
PEAK = 10
"""The busiest minute, compared with the average."""
HEADROOM = 2
"""No more than a half of what was measured is planned with."""
REQUESTS_A_POLL = 10
"""The sources of a project, and its list of webhooks."""
LIMIT_A_MINUTE = 2_000
"""API requests that GitLab.com allows a user."""


def tables(found: Sequence[Figures]) -> str:
    """The tables of the page, from these figures."""
    return "\n".join([*_measured(found), "", *_needed(found), "", *_asked()]) + "\n"


def _measured(found: Sequence[Figures]) -> list[str]:
    lines = [
        "| what | acknowledged | p99 | recorded | delivered | bytes of an event |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    return lines + [
        f"| {one.name} | {one.acknowledged:,.0f}/s | {one.p99_ms:.0f} ms | {one.recorded:,.0f}/s "
        f"| {one.delivered:,.0f}/s | {one.event_bytes:,.0f} |"
        for one in found
    ]


def _needed(found: Sequence[Figures]) -> list[str]:
    """Which of them are enough for so many projects, and what the ledger takes."""
    retention_days = (Retention().events or 0) / DAY
    lines = [
        "| projects | events a day | on average | at the peak | enough | ledger in PostgreSQL |",
        "|---:|---:|---:|---:|---|---:|",
    ]
    for projects in PROJECTS:
        a_day = projects * EVENTS_A_DAY
        average = a_day * 1000 / DAY
        enough = [one.name for one in found if _is_enough(one, average * PEAK)]
        size = a_day * retention_days * found[-1].event_bytes / 2**30
        lines.append(
            f"| {projects:,} | {a_day:,} | {average:,.1f}/s | {average * PEAK:,.0f}/s "
            f"| {'; '.join(enough) or 'none of these'} | {size:,.0f} GiB |"
        )
    return lines


def _is_enough(one: Figures, peak: float) -> bool:
    """Whether so many events a second are acknowledged, recorded and delivered as fast as they come."""
    slowest = min(one.acknowledged, one.recorded, one.delivered / len(DESTINATIONS))
    return slowest >= peak * HEADROOM


def _asked() -> list[str]:
    """What polling costs, and the shortest `reconcile.full_poll_interval` that GitLab.com's limit allows."""
    default = Reconcile().full_poll_interval
    allowed = LIMIT_A_MINUTE * GitLab().rate_share
    lines = [
        f"| projects | API requests a minute, every {default / MINUTE:.0f} minutes | shortest `full_poll_interval` "
        f"with {allowed:,.0f} requests a minute |",
        "|---:|---:|---:|",
    ]
    for projects in PROJECTS:
        asked = projects * REQUESTS_A_POLL
        lines.append(f"| {projects:,} | {asked / (default / MINUTE):,.0f} | {asked / allowed:,.0f} minutes |")
    return lines


def written(page: str, made: str) -> str:
    """The page with these tables."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main() -> None:
    logs.set_up("error")
    with psycopg.connect(server().value) as conn:
        version = conn.info.parameter_status("server_version")
    about = (
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"PostgreSQL {version}, {os.cpu_count()} cores, which the copies, the database, and all that measures "
        "them share.\n"
    )
    made = f"{about}\n{tables(figures())}"
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    sys.stdout.write(made)


if __name__ == "__main__":
    main()

"""What is known, as JSON shows it: for commands and the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage import intervals, runs
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.status import Status, status
from reconciler.ledger.views.unknowns import Known
from reconciler.polling.knowledge import asked
from reconciler.polling.schedule import expected
from reconciler.sources.table import keeps


def status_report(db: Database, config: Config, *, now: Millis) -> Status:
    """The status of everything, for this config."""
    return status(db, asked=asked(config, now), keeps=keeps(), expected=expected(config, now), now=now)


def project_paths(db: Database) -> dict[int, str]:
    """The paths of projects, by id."""
    return {ident: path for path, ident in runs.project_paths(db).items()}


def complete_report(db: Database) -> list[dict[str, Any]]:
    """The intervals that were read completely."""
    return [
        {
            "project_id": one.project_id,
            "project": one.project,
            "source": one.source,
            "from": one.start,
            "through": one.through,
        }
        for one in intervals.covered_intervals(db)
    ]


def unknown_report(known: Known) -> dict[str, Any]:
    """What is not known."""
    return {"unknown": [msgspec.to_builtins(one) for one in known.unknowns]}


def gap_report(known: Known, paths: Mapping[int, str]) -> dict[str, Any]:
    """The gaps, and what is switched off in projects."""
    switched_off = [
        {"project_id": one, "project": paths.get(one), "sources": some} for one, some in known.switched_off.items()
    ]
    return {"gaps": [_gap(gap, paths) for gap in known.gaps], "switched_off": switched_off}


def _gap(gap: Gap, paths: Mapping[int, str]) -> dict[str, Any]:
    return {
        "project_id": gap.project_id,
        "project": paths.get(gap.project_id),
        "source": gap.source,
        "from": times.iso(gap.during.start),
        "to": times.iso(gap.during.end),
        "why": gap.why,
        "error": gap.error,
        "closable_until": None if gap.closable_until is None else times.iso(gap.closable_until),
        "final": gap.is_final,
    }

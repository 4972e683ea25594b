"""The data of a destination's page."""

from __future__ import annotations

from typing import Any

from reconciler.config.models import Config
from reconciler.dashboard.charts import Chart, chart
from reconciler.dashboard.settings import settings
from reconciler.events import times
from reconciler.events.times import DAY, HOUR, Millis
from reconciler.forwarding.listing import destination_rows
from reconciler.ledger.queue.destinations import DestinationState, destination_states
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import status
from reconciler.ledger.views.traffic import MOST_FAILURES, Traffic, traffic


def page(db: Database, config: Config, name: str, *, now: Millis) -> dict[str, Any] | None:
    """A destination of the config, of the ledger, or of both; None if there is no such destination."""
    wanted = next((one for one in config.destinations if one.name == name), None)
    state = next((one for one in destination_states(db) if one.name == name), None)
    if wanted is None and state is None:
        return None
    known = [one for one in status.destination_statuses(db) if one.name == name]
    row = next(row for row in destination_rows(config, known) if row["name"] == name)
    found = Traffic([], [], None) if state is None else traffic(db, state.id, since=Millis(now - 7 * DAY - HOUR))
    oldest = known[0].oldest_pending_at if known else None
    return {
        "name": name,
        "row": row,
        "known": known[0] if known else None,
        "state": state,
        "since": _since(state),
        "oldest": None if oldest is None else Millis(max(0, now - times.from_iso(oldest))),
        "charts_": _charts(found, now),
        "counted_since": found.since,
        "failures": found.failures,
        "most_failures": MOST_FAILURES,
        "settings": [] if wanted is None else settings(wanted),
        "in_config": wanted is not None,
        "is_pulled": wanted is not None and wanted.is_pulled,
    }


def _since(state: DestinationState | None) -> Millis | None:
    """Since when a destination is paused or down."""
    if state is None:
        return None
    return state.paused_at or (None if state.breaker.state == "closed" else state.breaker.changed_at)


def _charts(found: Traffic, now: Millis) -> list[Chart]:
    return [
        chart("The last 24 hours", "hour", found.period(slots=24, hours=1, now=now)),
        chart("The last 7 days", "6 hours", found.period(slots=28, hours=6, now=now)),
    ]

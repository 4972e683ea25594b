"""The data of each page, read from the ledger. The templates render it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from reconciler.config.models import Config
from reconciler.dashboard.curl import curl_of
from reconciler.dashboard.links import gitlab_link
from reconciler.events import times
from reconciler.events.fields import parsed
from reconciler.events.times import HOUR, Millis
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.queue import destinations
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import browse, dead_letters, overview, status
from reconciler.ledger.views.browse import Filter
from reconciler.ledger.views.overview import DeliveryRecord, Hour
from reconciler.ledger.views.unknowns import Known

STRIP_HOURS = 24
PROJECTS_A_PAGE = 50
ROWS_A_PAGE = 50
UNKNOWN_SHOWN = 20
LARGEST_SHOWN = 1 << 20
"""The largest payload on an event's page, in characters: as HTML it is ten times as large."""


class Cell(msgspec.Struct, frozen=True):
    """One hour of a project's strip. `state`: quiet, webhook, recovered or gap."""

    start: Millis
    state: str
    events: int
    height: int


class ProjectRow(msgspec.Struct, frozen=True):
    """A project and its last 24 hours."""

    id: int
    path: str | None
    last_webhook_at: str | None
    last_poll_at: str | None
    gaps: int
    notes: list[str]
    events: int
    cells: list[Cell]


class DestinationRow(msgspec.Struct, frozen=True):
    """A destination and its recent record."""

    status: status.DestinationStatus
    record: DeliveryRecord
    oldest: Millis | None


def front(db: Database, config: Config, known: Known, *, now: Millis, page: int = 0) -> dict[str, Any]:
    """The overview page. The caller finds out what is `known`, because it knows the sources."""
    since = Millis(now // HOUR * HOUR - (STRIP_HOURS - 1) * HOUR)
    by_hour = overview.hours(db, since=since)
    gaps: dict[int, list[Gap]] = defaultdict(list)
    for gap in known.gaps:
        gaps[gap.project_id].append(gap)
    lines = [
        _Line(row, gaps.get(row["id"], []), by_hour.get(row["id"], {}), known.switched_off.get(row["id"], []))
        for row in status.project_rows(db)
    ]
    lines.sort(key=lambda one: one.rank)
    projects = [one.shown(since) for one in lines[page * PROJECTS_A_PAGE : (page + 1) * PROJECTS_A_PAGE]]
    pending = [one for one in known.unknowns if one.pending]
    ids = {one.name: one.id for one in destinations.destination_states(db)}
    kept = overview.records(db)
    rows = [
        DestinationRow(one, kept.get(ids[one.name], DeliveryRecord()), _age(one.oldest_pending_at, now))
        for one in status.destination_statuses(db)
    ]
    wanted = {one.name for one in config.destinations}
    return {
        "unknown": known.unknowns[:UNKNOWN_SHOWN],
        "more_unknown": len(known.unknowns) - UNKNOWN_SHOWN,
        "all_unknown": sum(one.count for one in known.unknowns),
        "only_pending": len(pending) == len(known.unknowns),
        "projects": projects,
        "more_projects": len(lines) > (page + 1) * PROJECTS_A_PAGE,
        "page": page,
        "all_projects": len(lines),
        "destinations": [row for row in rows if row.status.active or row.status.pending or row.status.dead_letters],
        "by_copies": any(row.status.delivered_by is not None for row in rows),
        "unserved": sorted(wanted - ids.keys()),
        "alerts": status.open_alerts(db),
        "open_gaps": sum(not gap.is_final for gap in known.gaps),
        "lost_gaps": sum(gap.is_final for gap in known.gaps),
        "stuck": [row.status.name for row in rows if row.status.active and row.status.state != "up"],
        "dead_letters": sum(row.status.dead_letters for row in rows),
        "pending": sum(row.status.pending for row in rows),
        "events": browse.last_id(db),
        "newest": browse.newest(db, Filter(), limit=15)[::-1],
    }


def event(db: Database, config: Config, event_id: int) -> dict[str, Any] | None:
    """The page of one event; None if there is none."""
    found = browse.show(db, event_id)
    if found is None:
        return None
    opened = {one["destination"]: one["opened_at"] for one in found["deliveries"]}
    tried: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for attempt in dead_letters.attempts(db, event_id):
        attempt["after"] = _between(opened.get(attempt["destination"]), attempt["started_at"])
        tried[attempt["destination"]].append(attempt)
    for delivery in found["deliveries"]:
        delivery["kept"] = len(tried.get(delivery["destination"], ()))
    seen = found["sightings"]
    body = _payload(found["payload"] or "null")
    return body | {
        "event": found,
        "attempts": tried,
        "project": next(filter(None, (one["project_path"] for one in seen)), found["project_id"]),
        "shown": next((one for one in seen if one["id"] == found["sighting_id"]), _NOTHING),
        "link": gitlab_link(body["payload"][0], config.gitlab.url) if body["payload"] else None,
        "over_http": {one.name for one in config.destinations if one.kind == "http"},
    }


def curl(db: Database, config: Config, event_id: int, destination: str) -> dict[str, Any] | None:
    """The page with the request of one delivery as a command; None if there is no such event."""
    if not browse.exists(db, event_id):
        return None
    found = curl_of(db, config, event_id, destination)
    return {"event_id": event_id, "destination": destination, "curl": found}


def payload(db: Database, event_id: int) -> str | None:
    """An event's payload as stored; None if there is no such event."""
    found = browse.show(db, event_id)
    return None if found is None else found["payload"]


def _payload(text: str) -> dict[str, Any]:
    """A payload as parsed JSON; as text if it can't be parsed; only its size if it is too large."""
    shown: dict[str, Any] = {"size": len(text), "payload": None, "raw": None}
    if len(text) > LARGEST_SHOWN:
        return shown
    try:
        return shown | {"payload": (parsed(text),)}
    except (ValueError, RecursionError):
        return shown | {"raw": text}


def dead_letters_page(db: Database, config: Config, *, destination: str | None, kind: str | None) -> dict[str, Any]:
    """Dead letters, newest first."""
    rows = dead_letters.dead_letters(
        db, Filter(kind=kind or None), destination=destination or None, limit=ROWS_A_PAGE
    )
    names = [one.name for one in config.destinations]
    return {"letters": rows[::-1], "destination": destination, "kind": kind, "names": names, "most": ROWS_A_PAGE}


def webhooks_not_recorded(db: Database) -> dict[str, Any]:
    """Webhooks that were acknowledged and could not be recorded, newest first."""
    return {"webhooks": unrecorded.unrecorded(db, limit=ROWS_A_PAGE), "most": ROWS_A_PAGE}


def runs(db: Database, *, before: int) -> dict[str, Any]:
    """The page of runs: what was read from GitLab."""
    rows = overview.runs(db, before=before, limit=ROWS_A_PAGE + 1)
    return {"runs": rows[:ROWS_A_PAGE], "more": len(rows) > ROWS_A_PAGE}


class _Line:
    """A project's row, drawn only if it is on the page."""

    def __init__(self, row: dict[str, Any], gaps: list[Gap], by_hour: dict[Millis, Hour], off: list[str]) -> None:
        self._row = row
        self._gaps = gaps
        self._by_hour = by_hour
        self._off = [f"{', '.join(off)}: switched off in the project"] if off else []
        self._events = sum(hour.webhook + hour.recovered for hour in by_hour.values())
        notes = [row["last_poll_error"] or ("never polled" if row["last_poll_at"] is None else None)]
        self._notes = [note for note in notes if note] + sorted({gap.why for gap in gaps})

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The sort key: projects with problems come first."""
        return (-len(self._gaps), -len(self._notes), -self._events, self._row["path"] or "")

    def shown(self, since: Millis) -> ProjectRow:
        """The row with its last 24 hours, hour by hour."""
        most = max((hour.webhook + hour.recovered for hour in self._by_hour.values()), default=0)
        cells = []
        for start in map(Millis, range(since, since + STRIP_HOURS * HOUR, HOUR)):
            hour = self._by_hour.get(start, Hour())
            total = hour.webhook + hour.recovered
            open_ = any(gap.during.start < start + HOUR and gap.during.end > start for gap in self._gaps)
            nothing = "unread" if self._row["last_poll_at"] is None else "quiet"
            state = "gap" if open_ else "recovered" if hour.recovered else "webhook" if total else nothing
            cells.append(Cell(start, state, total, max(2, round(24 * total / most)) if total else 0))
        return ProjectRow(
            id=self._row["id"],
            path=self._row["path"],
            last_webhook_at=self._row["last_webhook_at"],
            last_poll_at=self._row["last_poll_at"],
            gaps=len(self._gaps),
            notes=self._notes + self._off,
            events=self._events,
            cells=cells,
        )


_NOTHING = dict.fromkeys(("title", "ref", "author", "action"))


def _between(since: str | None, at: str) -> Millis | None:
    return None if since is None else Millis(max(0, times.from_iso(at) - times.from_iso(since)))


def _age(at: str | None, now: Millis) -> Millis | None:
    return None if at is None else Millis(max(0, now - times.from_iso(at)))

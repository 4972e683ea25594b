"""The Events API: `GET /projects/:id/events`.

Its ways, all from gitlab-facts section 3: `after` and `before` are whole days of the server's own time zone,
and both are excluded; records come newest first by id; a page may be short or empty and not be the last; there
are no totals from 10,000 records on. So a long window is read by slices of whole days. Slices of the server's
days join up without a seam; only at the two ends of the window a day is added on either side, because we do
not know the server's zone, and what lies outside is left out by its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from reconciler.events import times
from reconciler.events.identify import record_sighting
from reconciler.events.sighting import Sighting
from reconciler.events.times import DAY, Millis
from reconciler.ledger.coverage import Interval
from reconciler.sources.client import Client
from reconciler.sources.details import Details
from reconciler.sources.record_details import material_of
from reconciler.sources.shape import in_webhook_shape, raw_record
from reconciler.sources.source import Project, Slice

PER_PAGE = 100
SLICE_RECORDS = 5000
"""How many records a slice should hold: well below 10,000, and many pages, since the last one is seldom full."""
SHORT_WINDOW_DAYS = 7
"""A window of so few days is read in one slice."""
LONGEST_SLICE_DAYS = 366

_ONE_DAY = timedelta(days=1)


class ProjectEvents:
    """Reads a project's Events API."""

    name = "project_events"
    keeps_for: Millis = Millis(3 * 365 * DAY)
    completes = True

    def __init__(self, client: Client) -> None:
        self._client = client

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first."""
        day = _day(window.start) - _ONE_DAY
        last_day = _day(window.end) + _ONE_DAY
        short = (last_day - day).days <= SHORT_WINDOW_DAYS + 2
        length = (last_day - day).days + 1 if short else 1
        covered_to = window.start
        while day <= last_day and covered_to < window.end:
            until = min(day + timedelta(days=length - 1), last_day)
            sightings, records = self._read_days(project, day, until, window)
            # The server's last day may have ended up to a day earlier or later than ours.
            through = window.end if until == last_day else max(covered_to, _start_of(until))
            yield Slice(Interval(covered_to, min(through, window.end)), sightings)
            covered_to = through
            length = _next_length(length, records)
            day = until + _ONE_DAY

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Ask for the objects that the records only name, and for pushes' commits."""
        details = Details(self._client, project)
        return [self._shaped(sighting, project, details) for sighting in sightings]

    def _read_days(self, project: Project, first: date, last: date, window: Interval) -> tuple[list[Sighting], int]:
        """Read the server's days `first` to `last`: what of them is in the window, and how many records."""
        query: dict[str, Any] = {
            "after": str(first - _ONE_DAY),
            "before": str(last + _ONE_DAY),
            "per_page": PER_PAGE,
            "sort": "desc",
        }
        found: dict[str, Sighting] = {}  # a record seen twice, because new ones shifted the pages, counts once
        records = 0
        page: str | None = "1"
        while page is not None:
            answer = self._client.page(f"/projects/{project.id}/events", {**query, "page": page})
            records += len(answer.records)
            seen = [_sighting(record, project) for record in answer.records]
            for sighting in seen:
                if window.start <= sighting.identity.happened_at < window.end:
                    found[sighting.source_id] = sighting
            reached_start = bool(seen) and seen[-1].identity.happened_at < window.start
            page = None if reached_start else answer.next_page
        in_order = sorted(found.values(), key=lambda s: (s.identity.happened_at, len(s.source_id), s.source_id))
        return [self._shaped(sighting, project) for sighting in in_order], records

    def _shaped(self, sighting: Sighting, project: Project, details: Details | None = None) -> Sighting:
        record = raw_record(sighting)
        kind, material = material_of(record, project, details)
        return in_webhook_shape(sighting, kind, material, gitlab_url=self._client.url)


def _sighting(record: Any, project: Project) -> Sighting:
    fields = record if isinstance(record, dict) else {"record": record}
    return record_sighting(
        fields,
        payload=orjson.dumps(fields).decode(),
        project_id=project.id,
        project_path=project.path,
        seen_at=times.now(),
    )


def _next_length(length: int, records: int) -> int:
    """How many days the next slice takes, going by how full the last one was."""
    wanted = length * SLICE_RECORDS // max(records, 1)
    return max(1, min(wanted, length * 8, LONGEST_SLICE_DAYS))


def _day(millis: Millis) -> date:
    return datetime.fromtimestamp(millis / 1000, tz=UTC).date()


def _start_of(day: date) -> Millis:
    return Millis(round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000))

"""The Events API: `GET /projects/:id/events`.

Its peculiarities, all from docs/gitlab.md, "The Events API": `after` and `before` are whole days in the server's
time zone, and both are excluded; records come newest first by id; a page may be short or empty without being the
last; there are no totals above 10,000 records. So a long window is read in slices of whole days, which join without
gaps. Because the server's time zone is not known, a day is added at both ends of the window, and records outside the
window are dropped by their time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import orjson

from reconciler.events import times
from reconciler.events.api_record_sighting import record_sighting
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import DAY, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.sources import answers, checked
from reconciler.sources.api_record_details import source_data_of
from reconciler.sources.checked import Read
from reconciler.sources.client import Client
from reconciler.sources.details import Details
from reconciler.sources.source import Built, Project, Slice
from reconciler.sources.spool import Spool
from reconciler.sources.webhook_payload import (
    explain,
    raw_record,
    to_webhook_payload,
    to_webhook_payload_or_record,
    with_details,
)

SLICE_RECORDS = 5000
"""How many records a slice should have: well below 10,000, but many pages, since the last is seldom full."""
SHORT_WINDOW_DAYS = 7
"""A window of at most this many days is read in one slice."""
LONGEST_SLICE_DAYS = 366

_ONE_DAY = timedelta(days=1)


class ProjectEvents:
    """Reads a project's Events API."""

    name = "project_events"
    keeps_for: Millis = Millis(3 * 365 * DAY)
    rebuilds_lazily = True

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
            records = yield from self._read_days(project, day, until, window)
            # The server's day may end up to a day earlier or later than the day in UTC.
            through = window.end if until == last_day else max(covered_to, _start_of(until))
            yield Slice(covered=Interval(covered_to, min(through, window.end)))
            covered_to = through
            length = _next_length(length, records)
            day = until + _ONE_DAY

    def build(self, project: Project, sightings: Sequence[Sighting], *, details: bool) -> Built:
        """Rebuild the payloads; with details, get the objects that the records only name, and the commits of
        pushes.
        """
        asked = Details(self._client, project)
        failed: list[Unreadable] = []

        def detailed(sighting: Sighting) -> Sighting:
            kind, data = source_data_of(raw_record(sighting), project, asked)
            return to_webhook_payload(sighting, kind, data, gitlab_url=self._client.url)

        def plain(sighting: Sighting) -> Sighting:
            kind, data = source_data_of(raw_record(sighting), project, None)
            return to_webhook_payload_or_record(sighting, kind, data, gitlab_url=self._client.url, failed=failed)

        built = [(with_details(one, detailed) if details else None) or plain(one) for one in sightings]
        return Built(built, failed)

    def _read_days(self, project: Project, first: date, last: date, window: Interval) -> Generator[Slice, None, int]:
        """Read the part of the server's days `first` to `last` that is in the window. Returns how many records they
        have.
        """
        query = {"after": str(first - _ONE_DAY), "before": str(last + _ONE_DAY), "sort": "desc"}
        records = 0
        with Spool() as spool:
            for page in self._client.pages(f"/projects/{project.id}/events", answers.Event, query):
                records += len(page.records)
                made = [times.parse(record.shown.created_at) for record in page.records]
                spool.add(
                    [
                        record.raw
                        for record, at in zip(page.records, made, strict=True)
                        if at is None or window.start <= at < window.end
                    ]
                )
                if page.unreadable:
                    yield Slice(unreadable=page.unreadable)
                if made and made[-1] is not None and made[-1] < window.start:
                    break
            for raws in spool.backwards():
                yield self._slice(project, checked.read_again(raws, answers.Event))
        return records

    def _slice(self, project: Project, records: Sequence[Read[answers.Event]]) -> Slice:
        unreadable: list[Unreadable] = []
        understood, sightings = [], []
        for record in records:
            try:
                sightings.append(self._sighting(project, record))
                understood.append(record.ident)
            except Exception as error:  # one bad record must not affect the others
                unreadable.append(checked.unreadable(record.raw, answers.Event.name_in, explain(error)))
        in_order = sorted(sightings, key=lambda s: (s.identity.happened_at, len(s.source_id), s.source_id))
        return Slice(sightings=in_order, unreadable=unreadable, understood=understood)

    def _sighting(self, project: Project, record: Read[answers.Event]) -> Sighting:
        return record_sighting(
            record.raw,
            payload=orjson.dumps(record.raw).decode(),
            project_id=project.id,
            project_path=project.path,
            seen_at=times.now(),
        )


def _next_length(length: int, records: int) -> int:
    """How many days the next slice has, by how full the last one was."""
    wanted = length * SLICE_RECORDS // max(records, 1)
    return max(1, min(wanted, length * 8, LONGEST_SLICE_DAYS))


def _day(millis: Millis) -> date:
    return datetime.fromtimestamp(millis / 1000, tz=UTC).date()


def _start_of(day: date) -> Millis:
    return Millis(round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000))

"""Recording sightings: applies the matching rule to a batch of them, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.pairing import Seen
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.ledger.queue.known import paths
from reconciler.ledger.queue.opening import Opened, candidates_of, open_deliveries
from reconciler.ledger.queue.routes import Candidate, Route, delivery
from reconciler.ledger.recording import neighbourhood
from reconciler.ledger.recording.assign import Assignment, NewEvent, apply, assign_events, known_events, richness
from reconciler.ledger.recording.neighbourhood import Changed
from reconciler.ledger.recording.reported import known
from reconciler.ledger.storage import hashes
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import next_number
from reconciler.ledger.storage.sql import joined, look_up


class Recorded(msgspec.Struct, frozen=True):
    """What became of one sighting: the event it belongs to, and whether it is the first of a new event.

    `shares_id`: its source sent another body under the same id, so the ledger gave this one an id of its own.
    `repeated`: its source had reported it before.
    """

    event_id: int
    new_event: bool
    shares_id: bool = False
    repeated: bool = False


class BatchResult(msgspec.Struct, frozen=True):
    """What recording a batch of sightings did.

    `new_events` counts the events that are new, including those that a moved sighting left behind. `held` are the
    indexes of the sightings that were not recorded; the others have a `Recorded` each.
    """

    recorded: list[Recorded]
    opened: list[Opened]
    new_events: int
    held: list[int] = []


_SIGHTING = """
    INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind, action,
                           project_id, project_path, author, title, ref, object, payload_sha, headers, payload,
                           recovery, raw)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_HASHES = "INSERT INTO sighting_hashes (sighting_id, id_hash, key_hash, happened_ms) VALUES (?, ?, ?, ?)"
_ORIGINAL = joined(
    """
    UPDATE sightings SET payload = ?, payload_sha = ?, headers = ?, recovery = NULL
     WHERE recovery IS NOT NULL AND id = (SELECT min(h.sighting_id) FROM sighting_hashes AS h
    """,
    look_up("sightings", "s", "s.id = h.sighting_id"),
    "WHERE h.id_hash = ? AND s.source = ? AND s.source_id = ?)",
)
_EVENT = "INSERT INTO events (id, kind, project_id, happened_at, recorded_at, sighting_id) VALUES (?, ?, ?, ?, ?, ?)"
_PROJECT = """
    INSERT INTO projects (id, path, last_webhook_at) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET path = coalesce(excluded.path, projects.path),
                                   last_webhook_at = coalesce(excluded.last_webhook_at, projects.last_webhook_at)
"""


def record(
    db: Database,
    sightings: Sequence[Sighting],
    *,
    now: Millis,
    routes: Sequence[Route] = (),
    only_known: bool = False,
) -> BatchResult:
    """Record sightings inside the transaction that is open on `db`.

    All sightings of one key are matched together. A webhook delivery that was only known from GitLab's hook log
    replaces that body with its original bytes. Each new event opens a delivery for every route that accepts it. The
    result has one `Recorded` for each sighting, in the same order.

    With `only_known`, sightings that would make a new event are held: they are not recorded.
    """
    before, own = known(db, sightings) if sightings else ({}, list[Sighting]())
    fresh: dict[tuple[str, str], Sighting] = {}
    for sighting in own:
        name = (sighting.source, sighting.source_id)
        if name in before:
            continue
        if fresh.setdefault(name, sighting).recovery is not None and sighting.recovery is None:
            fresh[name] = sighting  # GitLab's hook log was read, and the webhook itself comes in the same batch
    originals = [s for s in own if (s.source, s.source_id) in before and s.source.startswith("webhook:")]
    db.executemany(_ORIGINAL, [_original(s) for s in originals if s.recovery is None])
    written = _Writing(db, list(fresh.values()), times.iso(now), only_known=only_known) if fresh else None
    opened = [] if written is None else written.open_deliveries(routes)
    reported: set[int] = set()
    seen: set[tuple[str, str]] = set()
    recorded = []
    held = []
    for index, (sighting, asked) in enumerate(zip(own, sightings, strict=True)):
        name = (sighting.source, sighting.source_id)
        shares_id = sighting is not asked
        if written is not None and name in written.held:
            held.append(index)
            continue
        if written is None or name in before:
            event_id = before[name].event_id
        else:
            event_id = written.event_of[name]
        is_new = written is not None and event_id in written.new_events and event_id not in reported
        reported.add(event_id)
        recorded.append(Recorded(event_id, is_new, shares_id, repeated=name in before or name in seen))
        seen.add(name)
    return BatchResult(recorded, opened, 0 if written is None else len(written.new_events), held)


class _Writing:
    """Writes one batch of sightings to the tables."""

    def __init__(self, db: Database, fresh: list[Sighting], recorded_at: str, *, only_known: bool) -> None:
        self.db = db
        self.recorded_at = recorded_at
        self.event_of: dict[tuple[str, str], int] = {}
        self.new_events: dict[int, NewEvent] = {}
        self.held: set[tuple[str, str]] = set()
        self._fresh_of: dict[int, Sighting] = {}
        self._paths = cache(partial(paths, db))
        self._next_sighting = db.execute("SELECT coalesce(max(id), 0) + 1 FROM sightings").fetchone()[0]

        ids = {self._take_sighting_id(): sighting for sighting in fresh}
        by_key: dict[str, list[Seen]] = {}
        for label, sighting in ids.items():
            by_key.setdefault(sighting.identity.key, []).append(_as_seen(label, sighting))
        assignments = self._assignments(neighbourhood.changed(db, by_key), ids)
        if only_known:
            assignments = self._without_new_events(assignments, ids)
        elif self.new_events:
            assignments = self._numbered(assignments)
        # Events first: other rows refer to them. Sightings that move are rare and come last.
        self._insert_events()
        event_of = {label: event for one in assignments for label, event in one.event_of.items()}
        db.executemany(_SIGHTING, [self._row(label, event_of[label], one) for label, one in ids.items()])
        db.executemany(_HASHES, [_hashes(label, one) for label, one in ids.items()])
        apply(db, assignments)
        self._note_projects(ids.values())

    def open_deliveries(self, routes: Sequence[Route]) -> list[Opened]:
        """Open a delivery of each new event for each destination whose route accepts it."""
        if not routes or not self.new_events:
            return []
        candidates = {ident: self._candidate(new.sighting_id) for ident, new in self.new_events.items()}
        found = [delivery(route, ident, one) for ident, one in candidates.items() for route in routes]
        return open_deliveries(self.db, [one for one in found if one is not None], self.recorded_at)

    def _candidate(self, sighting_id: int) -> Candidate:
        fresh = self._fresh_of.get(sighting_id)
        if fresh is None:  # made of a sighting that was recorded before
            return next(candidates_of(self.db, [sighting_id]))[1]
        others = partial(self._paths, fresh.summary.project_id)
        return Candidate(fresh.summary, fresh.source, lambda: fresh.payload, others)

    def _assignments(self, changed: Sequence[Changed], fresh: dict[int, Sighting]) -> list[Assignment]:
        """Which sightings belong to which events, and what that changes."""
        events = {event for one in changed for event in one.event_of.values()}
        known = known_events(self.db, events) if events else {}
        return [assign_events(self.db, one, known=known, fresh=fresh, create=self._plan_event) for one in changed]

    def _without_new_events(self, assignments: list[Assignment], ids: dict[int, Sighting]) -> list[Assignment]:
        """The assignments that make no new event. The sightings of the others are taken out of `ids` and held."""
        kept = []
        for assignment in assignments:
            if self.new_events.keys().isdisjoint(assignment.event_of.values()):
                kept.append(assignment)
                continue
            held = [ids.pop(label) for label in assignment.event_of if label in ids]
            self.held.update((sighting.source, sighting.source_id) for sighting in held)
        self.new_events.clear()
        return kept

    def _plan_event(self, new: NewEvent) -> int:
        """A new event. It is known by a negative number until all new events are numbered."""
        planned = -1 - len(self.new_events)
        self.new_events[planned] = new
        return planned

    def _numbered(self, assignments: list[Assignment]) -> list[Assignment]:
        """Number the new events in the order of their first sightings, whatever their keys are."""
        first: dict[int, int] = {}
        for label, event in sorted((label, event) for one in assignments for label, event in one.event_of.items()):
            if event in self.new_events:
                first.setdefault(event, label)
        ids = {planned: event_id for event_id, planned in enumerate(first, next_number(self.db))}
        self.new_events = {event_id: self.new_events[planned] for planned, event_id in ids.items()}
        return [one.numbered(ids) for one in assignments]

    def _take_sighting_id(self) -> int:
        taken: int = self._next_sighting
        self._next_sighting += 1
        return taken

    def _row(self, sighting_id: int, event_id: int, s: Sighting) -> tuple[Any, ...]:
        self.event_of[s.source, s.source_id] = event_id
        self._fresh_of[sighting_id] = s
        about = s.summary
        return (
            sighting_id,
            event_id,
            s.source,
            s.source_id,
            s.identity.key,
            times.iso(s.identity.happened_at),
            s.identity.precision.value,
            times.iso(s.seen_at),
            about.kind,
            about.action,
            about.project_id,
            about.project_path,
            about.author,
            about.title,
            about.ref,
            about.object,
            s.payload_sha,
            orjson.dumps(s.headers).decode(),
            s.payload,
            None if s.recovery is None else msgspec.json.encode(s.recovery).decode(),
            s.raw,
        )

    def _insert_events(self) -> None:
        self.db.executemany(
            _EVENT,
            [
                (ident, new.kind, new.project_id, new.happened_at, self.recorded_at, new.sighting_id)
                for ident, new in self.new_events.items()
            ],
        )

    def _note_projects(self, fresh: Iterable[Sighting]) -> None:
        rows: dict[tuple[int, str | None], tuple[int, str | None, str | None]] = {}
        for sighting in fresh:
            about = sighting.summary
            if about.project_id is not None:
                by_webhook = (
                    times.iso(sighting.seen_at) if richness(sighting.source) and not sighting.recovery else None
                )
                rows[about.project_id, about.project_path] = (about.project_id, about.project_path, by_webhook)
        self.db.executemany(_PROJECT, list(rows.values()))


def preview(db: Database, sightings: Sequence[Sighting], *, now: Millis) -> BatchResult:
    """What `record` would do, without changing the ledger. Call it inside an open transaction."""
    db.execute("SAVEPOINT preview")
    try:
        return record(db, sightings, now=now)
    finally:
        if db.in_transaction:  # SQLite ends it itself if the disk is full
            db.execute("ROLLBACK TO preview")
            db.execute("RELEASE preview")


def _as_seen(label: int, s: Sighting) -> Seen:
    at, precision = s.identity.happened_at, s.identity.precision
    return Seen(at, s.source, s.source_id, precision, s.payload_sha, label)


def _original(s: Sighting) -> tuple[str | int, ...]:
    found = (hashes.id_hash(s.source, s.source_id), s.source, s.source_id)
    return (s.payload, s.payload_sha, orjson.dumps(s.headers).decode(), *found)


def _hashes(sighting_id: int, s: Sighting) -> tuple[int, ...]:
    about = s.identity
    return (
        sighting_id,
        hashes.id_hash(s.source, s.source_id),
        hashes.key_hash(about.key),
        hashes.stored(about.happened_at),
    )

"""When a key is told again: which events keep their ids, which sightings move, which payload is the event's.

Grouping itself is `events.matching`'s. Here its answer meets what the ledger already holds. An event keeps
its id and what was forwarded of it: its *anchor* is the sighting whose payload a destination took, or, while
none did, the one whose payload would be sent. The event goes with the group that holds its anchor. Where two
events meet in one group, the older stays; the other goes to a group without an event that tells the same
bytes (for a consumer they are interchangeable), or it is absorbed, and comes back if the groups part again.
A group that is left without an event is a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.matching import Seen
from reconciler.events.sighting import Sighting
from reconciler.ledger.schema import OPEN


class Founding(msgspec.Struct, frozen=True):
    """What a new event is made of."""

    sighting_id: int
    kind: str
    project_id: int | None
    happened_at: str


class Regrouping(msgspec.Struct):
    """What a key's new grouping changes. Labels are sighting ids."""

    event_of: dict[int, int] = {}
    moved: list[tuple[int, int]] = []
    """(sighting, its new event)"""
    payloads: list[tuple[int, int, str]] = []
    """(event, the sighting whose payload is the event's now, when it happened)"""
    absorbed: list[tuple[int, int]] = []
    """(event, the event it turned out to be)"""
    revived: list[int] = []
    """Events that were absorbed and turned out to be events of their own after all."""

    def apply(self, db: Database) -> None:
        """Write the changes to rows that were there before. The caller has written the new rows."""
        db.conn.executemany(
            "UPDATE sightings SET event_id = ? WHERE id = ?",
            [(event_id, sighting_id) for sighting_id, event_id in self.moved],
        )
        db.conn.executemany(
            """
            UPDATE events SET sighting_id = ?2, happened_at = ?3,
                              kind = (SELECT kind FROM sightings WHERE id = ?2),
                              project_id = coalesce((SELECT project_id FROM sightings WHERE id = ?2), project_id)
             WHERE id = ?1 AND (sighting_id <> ?2 OR happened_at <> ?3)
            """,
            self.payloads,
        )
        for event_id in self.revived:
            db.conn.execute("UPDATE events SET merged_into = NULL WHERE id = ?", (event_id,))
        for event_id, survivor in self.absorbed:
            db.conn.execute("UPDATE events SET merged_into = ?1 WHERE merged_into = ?2", (survivor, event_id))
            db.conn.execute("UPDATE events SET merged_into = ? WHERE id = ?", (survivor, event_id))
            db.conn.execute(f"DELETE FROM deliveries WHERE event_id = ? AND {OPEN}", (event_id,))


def richness(source: str) -> int:
    """How much a source's payload tells: a webhook's body is what consumers expect."""
    if source.startswith("webhook:"):
        return 2
    return 1 if source.startswith("system_hook:") else 0


class _Anchor(msgspec.Struct, frozen=True):
    """The sighting that an event goes with, and whether the event was absorbed by another."""

    label: int
    absorbed: bool


def regroup(
    db: Database,
    *,
    groups: Sequence[Sequence[Seen]],
    event_of: Mapping[int, int],
    fresh: Mapping[int, Sighting],
    found: Callable[[Founding], int],
) -> Regrouping:
    """Hold a key's groups against the events that the ledger has for it.

    `event_of` gives the event of each sighting already there; `fresh` are the new ones by their ids; `found`
    makes a new event and returns its id.
    """
    plan = Regrouping()
    payload_of = _payloads(db, set(event_of.values()))
    anchors = _anchors(db, payload_of)
    owner_of = _owners(groups, anchors, plan)
    for index, members in enumerate(groups):
        owner = owner_of.get(index)
        payload = _richest(members, keep=payload_of.get(owner) if owner is not None else None)
        happened_at = times.iso(min(members, key=lambda s: (s.precision.tolerance, s.time)).time)
        if owner is None:
            event_id = found(_founding(db, payload, fresh, happened_at))
        else:
            event_id = owner
            plan.payloads.append((event_id, payload, happened_at))
            if anchors[event_id].absorbed:
                plan.revived.append(event_id)
        for seen in members:
            plan.event_of[seen.label] = event_id
            if seen.label not in fresh and event_of[seen.label] != event_id:
                plan.moved.append((seen.label, event_id))
    return plan


def _owners(groups: Sequence[Sequence[Seen]], anchors: Mapping[int, _Anchor], plan: Regrouping) -> dict[int, int]:
    """Which event each group belongs to, by the group's index; notes in the plan which events are absorbed."""
    home = {seen.label: index for index, members in enumerate(groups) for seen in members}
    content = {seen.label: seen.payload_sha for members in groups for seen in members}
    owner_of: dict[int, int] = {}
    crowded = []
    for event in sorted(anchors, key=lambda e: (anchors[e].absorbed, e)):
        if owner_of.setdefault(home[anchors[event].label], event) != event:
            crowded.append(event)
    for event in crowded:
        told = content[anchors[event].label]
        free = (
            index
            for index, members in enumerate(groups)
            if index not in owner_of and any(seen.payload_sha == told for seen in members)
        )
        index = next(free, None)
        if index is not None:
            owner_of[index] = event
        elif not anchors[event].absorbed:
            plan.absorbed.append((event, owner_of[home[anchors[event].label]]))
    return owner_of


def _payloads(db: Database, events: set[int]) -> dict[int, int]:
    """The payload sightings of a key's events."""
    marks = ",".join("?" * len(events))
    return dict(db.conn.execute(f"SELECT id, sighting_id FROM events WHERE id IN ({marks})", list(events)))


def _anchors(db: Database, payload_of: Mapping[int, int]) -> dict[int, _Anchor]:
    """The anchors of a key's events, and of those that were told and absorbed by them."""
    anchors = {}
    for event, payload in payload_of.items():
        anchors[event] = _Anchor(_told(db, event) or payload, absorbed=False)
        for (other,) in db.conn.execute("SELECT id FROM events WHERE merged_into = ?", (event,)).fetchall():
            told = _told(db, other)
            if told is not None:
                anchors[other] = _Anchor(told, absorbed=True)
    return anchors


def _told(db: Database, event: int) -> int | None:
    """The sighting whose payload a destination took first."""
    row = db.conn.execute(
        "SELECT sighting_id FROM deliveries WHERE event_id = ? AND sighting_id IS NOT NULL "
        "ORDER BY finished_at, destination_id LIMIT 1",
        (event,),
    ).fetchone()
    return None if row is None else row[0]


def _richest(members: Sequence[Seen], keep: int | None) -> int:
    """The sighting with the richest payload; among equals the one that has been the payload, else the first."""
    best = max(members, key=lambda s: (richness(s.source), not s.recovered, s.label == keep, -s.label))
    return best.label


def _founding(db: Database, label: int, fresh: Mapping[int, Sighting], happened_at: str) -> Founding:
    if label in fresh:
        about = fresh[label].summary
        return Founding(label, about.kind, about.project_id, happened_at)
    kind, project_id = db.conn.execute("SELECT kind, project_id FROM sightings WHERE id = ?", (label,)).fetchone()
    return Founding(label, kind, project_id, happened_at)

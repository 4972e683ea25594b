"""When a key is told again: which events keep their ids, which sightings move, which payload is the event's.

Grouping itself is `events.matching`'s. Here its answer meets what the ledger already holds. An event keeps
its id and what was forwarded of it: its *anchor* is the sighting whose payload a destination took, or, while
none did, the one whose payload would be sent. Where a group holds no anchor, it is a new event.
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
        for event_id, survivor in self.absorbed:
            db.conn.execute("UPDATE events SET merged_into = ? WHERE id = ?", (survivor, event_id))
            db.conn.execute(f"DELETE FROM deliveries WHERE event_id = ? AND {OPEN}", (event_id,))


def richness(source: str) -> int:
    """How much a source's payload tells: a webhook's body is what consumers expect."""
    if source.startswith("webhook:"):
        return 2
    return 1 if source.startswith("system_hook:") else 0


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
    events = set(event_of.values())
    payload_of = _payloads(db, events)
    anchors = _anchors(db, payload_of, event_of, split=_is_split(groups, event_of))
    for members in groups:
        labels = {seen.label for seen in members}
        claims = sorted(event for event in events if anchors[event] in labels)
        payload = _richest(members, keep={payload_of[event] for event in claims})
        happened_at = times.iso(min(members, key=lambda s: (s.precision.tolerance, s.time)).time)
        if claims:
            event_id = claims[0]
            plan.payloads.append((event_id, payload, happened_at))
            plan.absorbed.extend((other, event_id) for other in claims[1:])
        else:
            event_id = found(_founding(db, payload, fresh, happened_at))
        for label in labels:
            plan.event_of[label] = event_id
            if label not in fresh and event_of[label] != event_id:
                plan.moved.append((label, event_id))
    return plan


def _is_split(groups: Sequence[Sequence[Seen]], event_of: Mapping[int, int]) -> bool:
    """Whether some event's sightings are in more than one group now."""
    group_of: dict[int, int] = {}
    for index, members in enumerate(groups):
        for seen in members:
            event = event_of.get(seen.label)
            if event is not None and group_of.setdefault(event, index) != index:
                return True
    return False


def _payloads(db: Database, events: set[int]) -> dict[int, int]:
    marks = ",".join("?" * len(events))
    sql = f"SELECT id, sighting_id FROM events WHERE id IN ({marks})"
    return dict(db.conn.execute(sql, list(events)))


def _anchors(db: Database, payload_of: dict[int, int], event_of: Mapping[int, int], *, split: bool) -> dict[int, int]:
    anchors = dict(payload_of)
    if split:  # only then does it matter what was told
        for event in payload_of:
            told = db.conn.execute(
                "SELECT sighting_id FROM deliveries WHERE event_id = ? AND sighting_id IS NOT NULL "
                "ORDER BY finished_at LIMIT 1",
                (event,),
            ).fetchone()
            if told is not None and event_of.get(told[0]) == event:
                anchors[event] = told[0]
    return anchors


def _richest(members: Sequence[Seen], keep: set[int]) -> int:
    """The sighting with the richest payload; among equals the one that has been the payload, else the first."""
    best = max(members, key=lambda s: (richness(s.source), s.label in keep, -s.label))
    return best.label


def _founding(db: Database, label: int, fresh: Mapping[int, Sighting], happened_at: str) -> Founding:
    if label in fresh:
        about = fresh[label].summary
        return Founding(label, about.kind, about.project_id, happened_at)
    kind, project_id = db.conn.execute("SELECT kind, project_id FROM sightings WHERE id = ?", (label,)).fetchone()
    return Founding(label, kind, project_id, happened_at)

"""Assigns events to groups of sightings: which events keep their ids, which sightings move, which payload is used.

`neighbourhood` groups the sightings of a key, by the rule of `events.matching`. This file compares its groups with
the events that the ledger has. An event keeps its id and what was delivered of it. Its *anchor* is the sighting
whose payload a destination accepted; if none has, the one whose payload would be sent. The event belongs to the
group that holds its anchor. If two events belong to one group, the older one keeps it. The other moves to a group
that has no event and holds the same bytes (a consumer can't tell them apart), or else it is merged into the older
one, and is restored if the groups separate later. A group that is left without an event becomes a new event.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.pairing import Seen
from reconciler.events.sighting import Sighting
from reconciler.ledger.recording.neighbourhood import Changed
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.ledger.storage.sql import IDS, joined, look_up


class NewEvent(msgspec.Struct, frozen=True):
    """The columns of a new event."""

    sighting_id: int
    kind: str
    project_id: int | None
    happened_at: str


class Assignment(msgspec.Struct):
    """What a key's new groups change in the ledger. Labels are sighting ids."""

    event_of: dict[int, int] = {}
    moved: list[tuple[int, int]] = []
    """(sighting, its new event)"""
    payloads: list[tuple[int, int, str]] = []
    """(event, the sighting whose payload it has from now on, when it happened)"""
    merged: list[tuple[int, int]] = []
    """(event, the event that it is merged into)"""
    restored: list[int] = []
    """Events that were merged before, and are separate events after all."""

    def numbered(self, ids: Mapping[int, int]) -> Assignment:
        """The same with the new events' ids in place of the ones that they were planned with."""
        return Assignment(
            {label: ids.get(event, event) for label, event in self.event_of.items()},
            [(label, ids.get(event, event)) for label, event in self.moved],
            self.payloads,
            [(event, ids.get(survivor, survivor)) for event, survivor in self.merged],
            self.restored,
        )


def apply(db: Database, assignments: Sequence[Assignment]) -> None:
    """Write the changes to existing rows. The caller has written the new rows."""
    db.executemany(
        "UPDATE sightings SET event_id = ? WHERE id = ?",
        [(event_id, sighting_id) for one in assignments for sighting_id, event_id in one.moved],
    )
    db.executemany(_PAYLOAD, [payload for one in assignments for payload in one.payloads])
    for one in assignments:
        for event_id in one.restored:
            db.execute("UPDATE events SET merged_into = NULL WHERE id = ?", (event_id,))
        for event_id, survivor in one.merged:
            db.execute("UPDATE events SET merged_into = ?1 WHERE merged_into = ?2", (survivor, event_id))
            db.execute("UPDATE events SET merged_into = ? WHERE id = ?", (survivor, event_id))
            db.execute(f"DELETE FROM deliveries WHERE event_id = ? AND {OPEN}", (event_id,))


def richness(source: str) -> int:
    """How complete a source's payload is: consumers expect a webhook's body."""
    if source.startswith("webhook:"):
        return 2
    return 1 if source.startswith("system_hook:") else 0


class KnownEvent(msgspec.Struct, frozen=True):
    """An event as the ledger has it."""

    id: int
    sighting_id: int
    happened_at: str
    merged_into: int | None
    delivered: int | None
    """The sighting whose payload a destination accepted first."""
    delivered_of: int | None
    """The event that this sighting belongs to now."""
    delivered_sha: str | None


_KNOWN = """
    SELECT e.id, e.sighting_id, e.happened_at, e.merged_into,
           (SELECT d.sighting_id FROM deliveries AS d WHERE d.event_id = e.id AND d.sighting_id IS NOT NULL
             ORDER BY d.finished_at NULLS FIRST, d.destination_id LIMIT 1) AS delivered
      FROM
"""
KNOWN = joined(
    "SELECT e.*, t.event_id, t.payload_sha FROM (",
    joined(_KNOWN, IDS, look_up("events", "e", "e.id = ids.value")),
    "UNION ALL",
    joined(_KNOWN, IDS, look_up("events", "e", "e.merged_into = ids.value")),
    ") AS e",
    look_up("sightings", "t", "t.id = e.delivered", left=True),
)
_PAYLOAD = """
    UPDATE events SET sighting_id = ?2, happened_at = ?3,
                      kind = (SELECT kind FROM sightings WHERE id = ?2),
                      project_id = coalesce((SELECT project_id FROM sightings WHERE id = ?2), project_id)
     WHERE id = ?1
"""


def known_events(db: Database, events: Iterable[int]) -> dict[int, list[KnownEvent]]:
    """These events, each with the events that were merged into it after they had been delivered."""
    asked = orjson.dumps(list(events)).decode()
    found: dict[int, list[KnownEvent]] = {}
    for row in db.execute(KNOWN, (asked, asked)):
        event = KnownEvent(*row)
        if event.merged_into is None or event.delivered is not None:
            found.setdefault(event.merged_into or event.id, []).append(event)
    return found


def assign_events(
    db: Database,
    changed: Changed,
    *,
    known: Mapping[int, Sequence[KnownEvent]],
    fresh: Mapping[int, Sighting],
    create: Callable[[NewEvent], int],
) -> Assignment:
    """Compare a key's new groups with the events that the ledger has for it, and decide what changes.

    `known` are these events, as `known_events` returns them. `fresh` are the new sightings by id. `create` makes a
    new event and returns its id.
    """
    plan = Assignment()
    groups = changed.groups
    home = {seen.label: index for index, members in enumerate(groups) for seen in members}
    its_events = [one for event in sorted(set(changed.event_of.values())) for one in known.get(event, ())]
    events = [one for one in its_events if one.merged_into is None or one.delivered in home]
    sightings_of: dict[int, list[Seen]] = {}
    for seen in itertools.chain.from_iterable(groups):
        if seen.label in changed.event_of:
            sightings_of.setdefault(changed.event_of[seen.label], []).append(seen)
    anchors = {event.id: _anchor(event, sightings_of.get(event.id, []), home) for event in events}
    owner_of = _owners(groups, events, anchors, home)
    event_of_group = []
    for index, members in enumerate(groups):
        owner = owner_of.get(index)
        payload = _richest(members, changed.recovered, fresh, keep=None if owner is None else owner.sighting_id)
        happened_at = times.iso(min(members, key=lambda s: (s.precision.tolerance, s.time)).time)
        if owner is None:
            event_id = create(_new_event(db, payload, fresh, happened_at))
        else:
            event_id = owner.id
            if (payload, happened_at) != (owner.sighting_id, owner.happened_at):
                plan.payloads.append((event_id, payload, happened_at))
            if owner.merged_into is not None:
                plan.restored.append(event_id)
        event_of_group.append(event_id)
        for seen in members:
            plan.event_of[seen.label] = event_id
            if changed.event_of.get(seen.label, event_id) != event_id:
                plan.moved.append((seen.label, event_id))
    owners = {owner.id for owner in owner_of.values()}
    for event in events:
        if event.id not in owners:
            survivor = event_of_group[home[anchors[event.id]]]
            if event.delivered not in home and event.delivered_of is not None:
                survivor = event.delivered_of
            if survivor != event.merged_into:
                plan.merged.append((event.id, survivor))
    return plan


def _anchor(event: KnownEvent, sightings: Sequence[Seen], home: Container[int]) -> int:
    """The sighting that stays with an event: the delivered one, or one of the same bytes if another event has it."""
    alike = (seen.label for seen in sightings if seen.payload_sha == event.delivered_sha)
    candidates = (event.delivered, *alike, event.sighting_id, *(seen.label for seen in sightings))
    return next(label for label in candidates if label is not None and label in home)


def _owners(
    groups: Sequence[Sequence[Seen]],
    events: Sequence[KnownEvent],
    anchors: Mapping[int, int],
    home: Mapping[int, int],
) -> dict[int, KnownEvent]:
    """The event of each group, by the group's index."""
    content = {seen.label: seen.payload_sha for members in groups for seen in members}
    owner_of: dict[int, KnownEvent] = {}
    crowded = []
    for event in sorted(events, key=lambda e: (e.merged_into is not None, e.id)):
        if owner_of.setdefault(home[anchors[event.id]], event) is not event:
            crowded.append(event)
    for event in crowded:
        sha = content[anchors[event.id]]
        free = (
            index
            for index, members in enumerate(groups)
            if index not in owner_of and any(seen.payload_sha == sha for seen in members)
        )
        index = next(free, None)
        if index is not None:
            owner_of[index] = event
    return owner_of


def _richest(members: Sequence[Seen], recovered: Set[int], fresh: Mapping[int, Sighting], keep: int | None) -> int:
    """The sighting with the most complete payload. Among equals, the one that is used now, else the first."""

    def rank(seen: Seen) -> tuple[int, bool, bool, int]:
        label = seen.label
        is_recovered = fresh[label].recovery is not None if label in fresh else label in recovered
        return richness(seen.source), not is_recovered, label == keep, -label

    return max(members, key=rank).label


def _new_event(db: Database, label: int, fresh: Mapping[int, Sighting], happened_at: str) -> NewEvent:
    if label in fresh:
        about = fresh[label].summary
        return NewEvent(label, about.kind, about.project_id, happened_at)
    kind, project_id = db.execute("SELECT kind, project_id FROM sightings WHERE id = ?", (label,)).fetchone()
    return NewEvent(label, kind, project_id, happened_at)

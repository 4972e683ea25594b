"""What must hold of copies once their faults are over: nothing is lost, repeated without a fault, or out of order."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reconciler.events.sighting import OWN_KINDS
from reconciler.ledger.storage.connection import opened
from reconciler.location import PostgresUrl
from reconciler.simulator.consumer import Received
from tests.support.copies import ORDERINGS, Copies
from tests.support.service import until

_EVENTS = """
    SELECT source_id, event_id FROM sightings WHERE source = 'webhook:default'
"""
TWICE = """
    SELECT key, event_id, source, source_id, sightings.happened_at, seen_at, precision, merged_into
      FROM sightings JOIN events ON events.id = event_id
     WHERE key IN (SELECT key FROM sightings GROUP BY key HAVING count(DISTINCT event_id) > 1) ORDER BY key, event_id
"""
"""The reports of what is there as two events."""
_OWN = ", ".join(f"'{kind}'" for kind in OWN_KINDS)
OF_GITLAB = f"SELECT count(*) FROM events WHERE kind NOT IN ({_OWN})"
"""Without the service's alerts: an outage may last long enough for one, on a slow machine."""
_LANES = """
    SELECT destinations.name, event_id, lane, state
      FROM deliveries JOIN destinations ON destinations.id = destination_id
"""


@dataclass(frozen=True)
class Fault:
    """Something that was done to the copies, from `began` to `ended` (the clock's seconds)."""

    what: str
    began: float
    ended: float


@dataclass(frozen=True)
class Found:
    """The result of a run."""

    happened: int
    acknowledged: int
    refused: int
    deliveries: int
    duplicates: int
    """Deliveries that a destination accepted once more after a fault."""


def proven(copies: Copies, faults: Sequence[Fault]) -> Found:
    """Wait until everything that happened is delivered, and look at all of it. Raises AssertionError."""
    happened = len(copies.gitlab.world.happenings)

    def by_destination() -> dict[str, dict[str, list[Received]]]:
        found: dict[str, dict[str, list[Received]]] = {name: defaultdict(list) for name in ORDERINGS}
        for one in copies.consumer.accepted[:]:
            found[one.path.strip("/")][one.event_id].append(one)
        return found

    assert copies.consumer.wait_for(
        lambda _: all(len(events) >= happened for events in by_destination().values()), 60
    ), unreceived(copies)
    until(lambda: all(state == "delivered" for _, _, _, state in rows(copies.database, _LANES)), 60)
    assert rows(copies.database, OF_GITLAB) == [(happened,)], rows(copies.database, TWICE)
    assert rows(copies.database, TWICE) == []

    acknowledged = copies.load.acknowledged

    def all_recorded() -> bool:  # GitLab's API may have told of an event before its webhook was recorded
        return acknowledged.keys() <= {key for key, _ in rows(copies.database, _EVENTS)}

    until(all_recorded, 60)
    recorded: defaultdict[str, set[int]] = defaultdict(set)
    for key, event in rows(copies.database, _EVENTS):
        recorded[key].add(event)
    assert all(len(recorded[key]) == 1 for key in acknowledged)
    assert len({event for key in acknowledged for event in recorded[key]}) == len(acknowledged)

    opened_for: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name, event, lane, state in rows(copies.database, _LANES):
        if state == "delivered":  # an alert may end at this moment, and tell of it
            opened_for[name][event] = lane
    received = by_destination()
    again: list[tuple[Received, Received]] = []
    for name in ORDERINGS:
        missing = opened_for[name].keys() - {number(event_id) for event_id in received[name]}
        assert not missing, f"delivered to {name}, and not received: {missing}"
        assert out_of_order(received[name], opened_for[name]) == []
        for tries in received[name].values():
            again += pairwise(tries)
    without_fault = [
        (first.path, first.event_id, first.at, second.at)
        for first, second in again
        if not any(fault.began <= second.at and first.at <= fault.ended for fault in faults)
    ]
    assert without_fault == [], faults
    return Found(
        happened=happened,
        acknowledged=len(acknowledged),
        refused=len(copies.load.refused),
        deliveries=sum(map(len, opened_for.values())),
        duplicates=len(again),
    )


def unreceived(copies: Copies) -> str:
    """What happened and was not received, for a person to look into."""
    bodies = {one.body.decode() for one in copies.consumer.accepted[:]}
    acknowledged = set(copies.load.acknowledged.values())
    recorded = {key for key, _ in rows(copies.database, _EVENTS)}
    lost = copies.load.acknowledged.keys() - recorded
    missing = [one for one in copies.gitlab.world.happenings if json.dumps(one.webhook) not in bodies]
    about = [(one.at, one.what, one.project_id, json.dumps(one.webhook) in acknowledged) for one in missing]
    return f"acknowledged and not recorded: {lost}; (when, what, project, acknowledged) of what did not come: {about}"


def rows(database: PostgresUrl, sql: str) -> list[tuple[Any, ...]]:
    with opened(database, readonly=True) as db:
        return [tuple(row) for row in db.execute(sql)]


def number(event_id: str) -> int:
    """An event's number in the ledger."""
    return int(event_id.rpartition("_")[2])


def out_of_order(received: dict[str, list[Received]], lanes: dict[int, str]) -> list[tuple[str, int, int]]:
    """Where an event came after a later one of its lane: also if it came a second time."""
    arrivals = sorted(((one.at, number(event_id)) for event_id, tries in received.items() for one in tries))
    last: dict[str, int] = {}
    found = []
    for _, event in arrivals:
        lane = lanes.get(event, f"{event}")
        if event < last.get(lane, 0):
            found.append((lane, last[lane], event))
        last[lane] = max(event, last.get(lane, 0))
    return found

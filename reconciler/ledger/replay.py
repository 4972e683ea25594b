"""Sending events again: which deliveries a request means, and how they are reopened."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.browse import Filter
from reconciler.ledger.connection import transaction
from reconciler.ledger.record import lane

EVENTS_A_TRANSACTION = 500
"""Short transactions: the service writes between them."""


class Wanted(msgspec.Struct, frozen=True):
    """Which deliveries are to go out again. No ids: all; no destination: all that are active."""

    filter: Filter = Filter()
    event_ids: tuple[int, ...] = ()
    destination: str | None = None
    dead_only: bool = False


def count(db: Database, wanted: Wanted) -> dict[str, int]:
    """How many deliveries would go out again, by destination."""
    return {name: len(_events(db, wanted, ident)) for ident, name, _ in _destinations(db, wanted)}


def reopen(db: Database, wanted: Wanted, *, now: Millis) -> int:
    """Open the wanted deliveries (those that never were open too); says how many. Safe beside a service."""
    at, total = times.iso(now), 0
    for destination_id, _, ordering in _destinations(db, wanted):
        events = _events(db, wanted, destination_id)
        for start in range(0, len(events), EVENTS_A_TRANSACTION):
            part = events[start : start + EVENTS_A_TRANSACTION]
            rows = [(event, destination_id, lane(ordering, event, project), at, at) for event, project in part]
            with transaction(db):
                db.conn.executemany(
                    """
                    INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at)
                    VALUES (?, ?, 'pending', ?, ?, ?)
                    ON CONFLICT (event_id, destination_id) DO UPDATE SET
                        state = 'pending', lane = excluded.lane, attempts = 0, opened_at = excluded.opened_at,
                        next_attempt_at = excluded.next_attempt_at, first_attempt_at = NULL, finished_at = NULL
                    """,
                    rows,
                )
            total += len(part)
    return total


def _destinations(db: Database, wanted: Wanted) -> list[tuple[int, str, str]]:
    sql = "SELECT id, name, ordering FROM destinations WHERE active = 1 AND (?1 IS NULL OR name = ?1) ORDER BY name"
    return db.execute(sql, [wanted.destination]).fetchall()


def _events(db: Database, wanted: Wanted, destination_id: int) -> list[tuple[int, int | None]]:
    where, values = wanted.filter.where()
    sql = f"SELECT e.id, e.project_id FROM events e WHERE e.merged_into IS NULL{where}"
    asked: list[Any] = list(values)
    if wanted.event_ids:
        sql += f" AND e.id IN ({','.join('?' * len(wanted.event_ids))})"
        asked += wanted.event_ids
    if wanted.dead_only:
        sql += " AND e.id IN (SELECT event_id FROM deliveries WHERE destination_id = ? AND state = 'dead')"
        asked.append(destination_id)
    return db.execute(sql + " ORDER BY e.id", asked).fetchall()

"""A ledger of an earlier version is brought up, with what is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from reconciler.events import times
from reconciler.ledger import browse, destinations, schema
from reconciler.ledger.connection import connect, transaction
from reconciler.ledger.destinations import Wanted
from reconciler.ledger.ids import event_ids
from reconciler.ledger.queue import next_lanes, outgoing
from reconciler.ledger.status import status


@pytest.mark.parametrize("before", ["0002_recovery", "0003_delivery"])
def test_from_an_earlier_version(tmp_path: Path, before: str) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrations.apply(Database(conn, recursive_triggers=False), stop_before=before)
        conn.executescript(
            """
            INSERT INTO events (id, kind, project_id, happened_at, recorded_at, sighting_id)
            VALUES (1, 'push', 42, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z', 1);
            INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind,
                                   project_id, payload_sha, headers, payload)
            VALUES (1, 1, 'webhook:default', 'a', 'push:1', '2026-11-24T10:00:00.000Z', 'received',
                    '2026-11-24T10:00:00.000Z', 'push', 42, 'x', '{}', '{"n": 1}');
            INSERT INTO destinations (name, ordering, active) VALUES ('old', 'project', 1);
            INSERT INTO deliveries (event_id, destination_id, state, lane, attempts, opened_at, next_attempt_at)
            VALUES (1, 1, 'retrying', 'project:42', 3, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z');
            """
        )
    with closing(connect(path)) as db:
        with transaction(db):
            assert destinations.sync(db, [Wanted("old"), Wanted("new")], now=0) == {"old": 1, "new": 2}
        [queued] = next_lanes(db, 1, now=times.now(), limit=10)
        assert (queued.lane, queued.attempts, queued.failures, queued.replays) == ("project:42", 3, 3, 0)
        assert outgoing(db, 1).summary.object is None
        shown = browse.show(db, 1)
        assert shown is not None
        assert shown["payload"] == {"n": 1}
        assert event_ids(db)(1).startswith("evt_")
        found = status(db, keeps={}, expected=0, now=0)
        assert [(one.name, one.state, one.pending) for one in found.destinations] == [
            ("new", "up", 0),
            ("old", "up", 1),
        ]

"""A ledger of an earlier version is brought up, with what is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.deliveries import due_lanes, first_of_lanes, outgoing, ready
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.storage import schema
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep import prune
from reconciler.ledger.views import browse, search
from reconciler.ledger.views.status import status
from reconciler.ledger.views.unknowns import Asked


@pytest.mark.parametrize("before", ["0002_recovery", "0003_delivery", "0004_dashboard"])
def test_from_an_earlier_version(tmp_path: Path, before: str) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrations.apply(SqliteDatabase(conn).utils, stop_before=before)
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
            assert destinations.sync(db, [DestinationSpec("old"), DestinationSpec("new")], now=Millis(0)) == {
                "old": 1,
                "new": 2,
            }
        assert due_lanes(db, 1, now=times.now(), limit=10) == ["project:42"]
        assert first_of_lanes(db, 1, ["project:42"], now=times.now(), limit=10, each=10) == {"project:42": [1]}
        [queued] = [one.queued for one in ready(db, 1, [1], most_bytes=1)]
        assert (queued.lane, queued.attempts, queued.failures, queued.replays) == ("project:42", 3, 3, 0)
        assert outgoing(db, 1).summary.object is None
        shown = browse.show(db, 1)
        assert shown is not None
        assert shown["payload"] == '{"n": 1}'
        assert event_ids(db)(1).startswith("evt_")
        found = status(
            db,
            asked=Asked("https://gitlab.example", True, [], Millis(0)),
            keeps={},
            expected=Millis(0),
            now=Millis(0),
        )
        assert [(one.name, one.state, one.pending) for one in found.destinations] == [
            ("new", "up", 0),
            ("old", "up", 1),
        ]


OLD_ROWS = """
    INSERT INTO events (id, kind, project_id, happened_at, recorded_at, sighting_id) VALUES
        (1, 'user_add_to_group', NULL, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z', 1),
        (2, 'member', 42, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z', 2),
        (3, 'designmanagement::design', 42, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z', 3),
        (4, 'vulnerability', NULL, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z', 4),
        (5, 'issue', 42, '1-01-01T00:00:00.000Z', '2026-11-24T10:00:00.000Z', 5),
        (6, 'issue', 42, '9999-12-31T00:00:00.000Z', '2026-11-24T10:00:00.000Z', 6),
        (7, 'note', 42, '205-01-01T00:00:00.000Z', '2026-11-24T10:00:00.000Z', 7),
        (8, 'vulnerability', NULL, '2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00.000Z', 8);
    INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind, action,
                           project_id, payload_sha, headers, payload)
    SELECT e.id, e.id, iif(e.id = 7, 'project_events', 'webhook:default'), 'd' || e.id, 'issue:' || e.id || ':closed',
           e.happened_at, iif(e.id IN (5, 6), 'stated', 'once'), '2026-11-24T09:59:00.000Z', e.kind,
           CASE e.kind WHEN 'member' THEN 'user_add_to_team' WHEN 'designmanagement::design' THEN 'added' END,
           e.project_id, 'x', '{}',
           CASE e.id WHEN 4 THEN '{"object_attributes": {"project_id": 50}}' WHEN 8 THEN 'no JSON' ELSE '{}' END
      FROM events e;
    INSERT INTO search (rowid, kind, project, author, branch, commits, object, title)
    SELECT id, kind || ' ', '', 'ada', '', '', '', '' FROM events;
    INSERT INTO meta VALUES ('pruned_through', '9999-12-31T00:00:00.000Z');
"""


def test_kinds_and_times_of_older_versions(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrations.apply(SqliteDatabase(conn).utils, stop_before="0010_events")
        conn.executescript(OLD_ROWS)
    with closing(connect(path)) as db:
        events = {row[0]: row[1:] for row in db.execute("SELECT id, kind, project_id, happened_at FROM events")}
        sightings = {
            row[0]: row[1:] for row in db.execute("SELECT id, kind, action, happened_at, precision FROM sightings")
        }
        at, seen = "2026-11-24T10:00:00.000Z", "2026-11-24T09:59:00.000Z"
        assert events == {
            1: ("member", None, at),
            2: ("member", 42, at),
            3: ("design", 42, at),
            4: ("vulnerability", 50, at),
            5: ("issue", 42, seen),
            6: ("issue", 42, seen),
            7: ("note", 42, "0205-01-01T00:00:00.000Z"),  # what GitLab's list says is when it was
            8: ("vulnerability", None, at),
        }
        assert sightings[1] == ("member", "user_add_to_group", at, "once")
        assert sightings[2] == ("member", "user_add_to_team", at, "once")
        assert sightings[3] == ("design", "added", at, "once")
        assert sightings[5] == sightings[6] == ("issue", None, seen, "received")
        listed = [browse.newest(db, browse.Filter(kind=kind), limit=9) for kind in ("member", "user_add_to_group")]
        assert [[row["id"] for row in rows] for rows in listed] == [[1, 2], [1]]
        found = search.find(db, "kind:member", before=99, limit=9)
        assert [row["id"] for row in found] == [2, 1]
        assert [row["id"] for row in search.find(db, "kind:user_add_to_group author:ada", before=99, limit=9)] == [1]
        assert prune.horizon(db) == times.from_iso(at)

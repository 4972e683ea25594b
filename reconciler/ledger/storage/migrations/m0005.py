"""What first contact with foreign GitLabs, clocks and configs asked for."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage.migrations import OPEN, UNREAD, migrations, renaming, run


@migrations(name="0005_forwarding")
def _forwarding(db: Any) -> None:
    head = f"""
        INSERT INTO lanes (destination_id, lane, event_id, due_at)
        SELECT destination_id, lane, event_id, iif(state = 'retrying', next_attempt_at, NULL) FROM deliveries
         WHERE destination_id = {{0}}.destination_id AND lane = {{0}}.lane AND {OPEN} AND {{1}}
         ORDER BY lane, event_id LIMIT 1
            ON CONFLICT (destination_id, lane) DO UPDATE SET event_id = excluded.event_id, due_at = excluded.due_at
    """
    leaves = (
        "DELETE FROM lanes WHERE destination_id = OLD.destination_id AND lane = OLD.lane AND event_id = OLD.event_id"
    )
    run(
        db,
        "ALTER TABLE deliveries ADD COLUMN pause_ms INTEGER",  # how long before next_attempt_at it was tried
        "ALTER TABLE destinations ADD COLUMN resumes INTEGER NOT NULL DEFAULT 0",  # how often it was resumed
        """
        CREATE TABLE lanes (  -- the lanes with open deliveries, in the order in which they have their turn
            turn INTEGER PRIMARY KEY,
            destination_id INTEGER NOT NULL,
            lane TEXT NOT NULL,
            event_id INTEGER NOT NULL,  -- its head: the delivery that goes next
            due_at TEXT  -- when its head is tried again; NULL: it may go at once
        )
        """,
        "CREATE UNIQUE INDEX lanes_by_name ON lanes (destination_id, lane)",
        "CREATE INDEX lanes_ready ON lanes (destination_id, turn) WHERE due_at IS NULL",
        "CREATE INDEX lanes_waiting ON lanes (destination_id, due_at) WHERE due_at IS NOT NULL",
        f"""
        INSERT INTO lanes (destination_id, lane, event_id, due_at)
        SELECT d.destination_id, d.lane, d.event_id, iif(d.state = 'retrying', d.next_attempt_at, NULL)
          FROM (SELECT destination_id, lane, min(event_id) AS event_id FROM deliveries WHERE {OPEN}
                 GROUP BY destination_id, lane) AS heads
          JOIN deliveries AS d ON d.event_id = heads.event_id AND d.destination_id = heads.destination_id
         ORDER BY d.event_id
        """,
        # Triggers, so that whoever changes a delivery, a person with `sqlite3` too, leaves the lanes right.
        f"""
        CREATE TRIGGER lanes_opened AFTER INSERT ON deliveries
        WHEN NEW.{OPEN} AND NOT EXISTS (
            SELECT 1 FROM lanes
             WHERE destination_id = NEW.destination_id AND lane = NEW.lane AND event_id < NEW.event_id
        ) BEGIN
            {head.format("NEW", "true")};
        END
        """,
        # An attempt was its lane's turn: the lane goes to the end. Whatever else changes, it keeps its place.
        f"""
        CREATE TRIGGER lanes_changed AFTER UPDATE OF state, lane, next_attempt_at, attempts ON deliveries
        WHEN OLD.{OPEN} OR NEW.{OPEN} BEGIN
            {leaves} AND (NEW.attempts > OLD.attempts OR NEW.lane <> OLD.lane OR NOT NEW.{OPEN});
            {head.format("OLD", "true")};
            {head.format("NEW", "NEW.lane <> OLD.lane")};
        END
        """,
        f"""
        CREATE TRIGGER lanes_deleted AFTER DELETE ON deliveries WHEN OLD.{OPEN} BEGIN
            {leaves};
            {head.format("OLD", "true")};
        END
        """,
    )


@migrations(name="0006_service")
def _service(db: Any) -> None:
    run(
        db,
        """
        CREATE TABLE parts (  -- the running service's parts that have failed at least once since it started
            name TEXT PRIMARY KEY,
            failing_since TEXT,  -- NULL where it runs
            restarts INTEGER NOT NULL,
            error TEXT  -- the last one
        ) WITHOUT ROWID
        """,
    )


@migrations(name="0007_unknowns")
def _unknowns(db: Any) -> None:
    run(
        db,
        """
        CREATE TABLE watched (  -- what the config wants to be read, and how reading it goes
            kind TEXT NOT NULL,  -- gitlab, group, project, or member: a project below a group
            name TEXT NOT NULL,  -- as the config has it; a member's is its id
            below TEXT NOT NULL,  -- a member's group; '' for the others
            project_id INTEGER,  -- once GitLab has told it
            since TEXT NOT NULL,
            read_at TEXT,
            trouble TEXT,  -- as in `sources`
            error TEXT,
            trouble_since TEXT,
            own_since TEXT,  -- since when the trouble is its own, and not that nothing of GitLab can be read
            PRIMARY KEY (kind, name, below)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX watched_by_project ON watched (project_id)",
        "CREATE INDEX watched_with_gitlab ON watched (kind) WHERE trouble IS NOT NULL AND own_since IS NULL",
        "ALTER TABLE sources ADD COLUMN trouble_since TEXT",
        f"CREATE INDEX sources_unread ON sources (project_id, source) WHERE {UNREAD}",
    )


@migrations(name="0008_neighbourhood")
def _neighbourhood(db: Any) -> None:
    """Finds what is near in the history of a key, and the newest events of a kind.

    The indexes are built once, over all sightings and events: seconds for a million. What was told and then absorbed
    by another event follows the sighting that was told.
    """
    run(
        db,
        "CREATE INDEX sightings_by_moment ON sightings (key, happened_at)",
        "DROP INDEX sightings_by_key",
        "CREATE INDEX events_by_kind ON events (kind, id)",
        """
        UPDATE events SET merged_into = s.event_id
          FROM (SELECT d.event_id, d.sighting_id, min(d.finished_at) FROM deliveries d JOIN events a
                    ON a.id = d.event_id AND a.merged_into IS NOT NULL
                 WHERE d.sighting_id IS NOT NULL GROUP BY d.event_id) AS t
          JOIN sightings s ON s.id = t.sighting_id
         WHERE events.id = t.event_id AND s.event_id <> events.id
        """,
    )


@migrations(name="0009_unreadable")
def _unreadable(db: Any) -> None:
    run(
        db,
        """
        CREATE TABLE unreadable (  -- records of GitLab's that could not be understood
            project_id INTEGER NOT NULL,  -- a group's below zero
            source TEXT NOT NULL,
            record_id TEXT NOT NULL,  -- GitLab's own, or a hash
            error TEXT NOT NULL,
            raw TEXT NOT NULL,  -- its beginning
            first_seen_at TEXT NOT NULL,
            last_seen_at TEXT NOT NULL,
            PRIMARY KEY (project_id, source, record_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX unreadable_by_time ON unreadable (last_seen_at)",
    )


@migrations(name="0010_events")
def _events(db: Any) -> None:
    run(db, *renaming.STATEMENTS)

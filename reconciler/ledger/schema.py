"""The tables, as migrations that run when a ledger is opened.

Times are text: UTC, ISO 8601 with milliseconds, ending in `Z`, so that they sort and read well. JSON is kept
as JSON text. Never change a migration that was released: add one.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlite_utils import Database, Migrations

from reconciler.ledger import renaming

migrations = Migrations("gitlab-reconciler")

OPEN = "state IN ('pending', 'retrying')"
"""What makes a delivery open, letter for letter as in the partial indexes, so that SQLite may use them."""


TIME = "'[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*Z'"
"""A time as the ledger writes it, for GLOB."""

UNREAD = "watched_until IS NULL AND (trouble IS NOT NULL OR last_read_at IS NULL)"
"""What makes a source one that is not read, letter for letter as in its partial index."""


def upgrade(db: Database) -> None:
    """Bring the ledger to this program's schema; nothing happens where it is there already."""
    migrations.apply(db)


def migration_names() -> set[str]:
    """The migrations that this program knows."""
    return {migration.name for migration in migrations.pending(Database(memory=True))}


def _run(db: Database, *statements: str) -> None:
    for statement in statements:
        db.execute(statement)


@migrations(name="0001_ledger")
def _ledger(db: Any) -> None:
    _run(
        db,
        """
        CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
        """,
        """
        CREATE TABLE projects (
            id INTEGER PRIMARY KEY,
            path TEXT,
            watched_since TEXT,  -- from when on the polls answer for completeness
            last_webhook_at TEXT,
            last_poll_at TEXT,
            last_poll_error TEXT
        )
        """,
        """
        CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            project_id INTEGER,
            happened_at TEXT NOT NULL,
            recorded_at TEXT NOT NULL,
            sighting_id INTEGER NOT NULL,  -- the sighting whose payload is the event's
            merged_into INTEGER REFERENCES events(id)  -- told as two, found to be one
        )
        """,
        "CREATE INDEX events_by_project ON events (project_id, id)",
        "CREATE INDEX events_absorbed ON events (merged_into) WHERE merged_into IS NOT NULL",
        """
        CREATE TABLE sightings (
            id INTEGER PRIMARY KEY,
            event_id INTEGER NOT NULL REFERENCES events(id),
            source TEXT NOT NULL,
            source_id TEXT NOT NULL,
            key TEXT NOT NULL,
            happened_at TEXT NOT NULL,
            precision TEXT NOT NULL,
            seen_at TEXT NOT NULL,
            kind TEXT NOT NULL,
            action TEXT,
            project_id INTEGER,
            project_path TEXT,
            author TEXT,
            title TEXT,
            ref TEXT,
            payload_sha TEXT NOT NULL,
            headers TEXT NOT NULL,
            payload TEXT NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX sightings_by_source_id ON sightings (source_id, source)",
        "CREATE INDEX sightings_by_key ON sightings (key)",
        "CREATE INDEX sightings_by_event ON sightings (event_id)",
        """
        CREATE TABLE destinations (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            ordering TEXT NOT NULL,
            active INTEGER NOT NULL
        )
        """,
        """
        CREATE TABLE deliveries (
            event_id INTEGER NOT NULL REFERENCES events(id),
            destination_id INTEGER NOT NULL REFERENCES destinations(id),
            state TEXT NOT NULL,  -- pending, retrying, delivered, dead
            lane TEXT NOT NULL,  -- deliveries of one lane go out one after the other
            attempts INTEGER NOT NULL DEFAULT 0,
            opened_at TEXT NOT NULL,
            next_attempt_at TEXT NOT NULL,
            first_attempt_at TEXT,
            finished_at TEXT,
            last_status INTEGER,
            last_error TEXT,
            sighting_id INTEGER,  -- the sighting whose payload the destination took
            PRIMARY KEY (event_id, destination_id)
        ) WITHOUT ROWID
        """,
        f"CREATE INDEX deliveries_open ON deliveries (destination_id, lane, event_id) WHERE {OPEN}",
        """
        CREATE INDEX deliveries_retrying ON deliveries (destination_id, next_attempt_at)
        WHERE state = 'retrying'
        """,
        "CREATE INDEX deliveries_dead ON deliveries (destination_id, event_id) WHERE state = 'dead'",
        """
        CREATE TABLE coverage (
            project_id INTEGER NOT NULL,
            source TEXT NOT NULL,
            covered_from TEXT NOT NULL,
            covered_through TEXT NOT NULL,
            PRIMARY KEY (project_id, source, covered_from)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE runs (
            id INTEGER PRIMARY KEY,
            project_id INTEGER NOT NULL,
            source TEXT NOT NULL,
            purpose TEXT NOT NULL,  -- poll, backfill
            window_from TEXT NOT NULL,
            window_through TEXT NOT NULL,
            started_at TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            seen INTEGER NOT NULL,
            known INTEGER NOT NULL,
            new INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            error TEXT
        )
        """,
        "CREATE INDEX runs_by_project ON runs (project_id, id)",
        """
        CREATE VIEW event_overview AS
        SELECT e.id, e.happened_at, s.project_path, e.project_id, e.kind, s.action, s.author, s.title, s.ref,
               (SELECT group_concat(source, ' ') FROM sightings WHERE event_id = e.id) AS sources,
               (SELECT group_concat(x.name || '=' || d.state, ' ')
                  FROM deliveries d JOIN destinations x ON x.id = d.destination_id
                 WHERE d.event_id = e.id) AS deliveries,
               e.recorded_at, e.merged_into, s.payload
          FROM events e JOIN sightings s ON s.id = e.sighting_id
        """,
    )
    db.execute("INSERT INTO meta VALUES ('ledger_id', ?)", [secrets.token_hex(6)])


@migrations(name="0002_recovery")
def _recovery(db: Any) -> None:
    _run(
        db,
        "ALTER TABLE sightings ADD COLUMN recovery TEXT",  # JSON; NULL for what a webhook brought
        "ALTER TABLE sightings ADD COLUMN raw TEXT",  # what the API told, where the payload was rebuilt from it
        """
        CREATE TABLE sources (  -- how each source of each project does
            project_id INTEGER NOT NULL,
            source TEXT NOT NULL,
            watched_since TEXT NOT NULL,  -- from when on it answers for completeness
            watched_until TEXT,  -- set when it is not asked any more
            last_read_at TEXT,
            trouble TEXT,  -- why it can't be read: refused, rate limit, unavailable; NULL where it can
            error TEXT,
            PRIMARY KEY (project_id, source)
        ) WITHOUT ROWID
        """,
        """
        INSERT INTO sources (project_id, source, watched_since)
        SELECT id, 'project_events', watched_since FROM projects WHERE watched_since IS NOT NULL
        """,
        """
        CREATE TABLE downtimes (
            started_at TEXT PRIMARY KEY,  -- the last sign of life
            ended_at TEXT NOT NULL,
            how TEXT NOT NULL  -- stopped, or killed
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE hooks (  -- our webhooks in GitLab, as they were last seen
            project_id INTEGER NOT NULL,
            hook_id INTEGER NOT NULL,
            name TEXT NOT NULL,  -- in receiver.hooks
            url TEXT NOT NULL,
            triggers TEXT NOT NULL,  -- JSON
            alert_status TEXT,  -- executable, temporarily_disabled, disabled
            disabled_until TEXT,
            off_since TEXT,  -- when we saw first that GitLab has switched it off
            checked_at TEXT NOT NULL,
            PRIMARY KEY (project_id, hook_id)
        ) WITHOUT ROWID
        """,
    )


@migrations(name="0003_delivery")
def _delivery(db: Any) -> None:
    _run(
        db,
        "ALTER TABLE sightings ADD COLUMN object TEXT",  # what it is about, like issue/12
        "ALTER TABLE deliveries ADD COLUMN replays INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE deliveries ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0",  # the last replay
        """
        CREATE TABLE attempts (
            id INTEGER PRIMARY KEY,
            event_id INTEGER NOT NULL REFERENCES events(id),
            destination_id INTEGER NOT NULL REFERENCES destinations(id),
            number INTEGER NOT NULL,
            started_at TEXT NOT NULL,
            duration_ms INTEGER NOT NULL,
            status INTEGER,  -- of HTTP
            error_class TEXT,  -- NULL: it was taken
            error TEXT,
            response TEXT  -- its first KB
        )
        """,
        "CREATE INDEX attempts_by_event ON attempts (event_id, destination_id)",
        "ALTER TABLE destinations ADD COLUMN paused_at TEXT",
        "ALTER TABLE destinations ADD COLUMN paused_why TEXT",
        "ALTER TABLE destinations ADD COLUMN breaker TEXT NOT NULL DEFAULT 'closed'",  # open, half_open
        "ALTER TABLE destinations ADD COLUMN breaker_failures INTEGER NOT NULL DEFAULT 0",  # in a row
        "ALTER TABLE destinations ADD COLUMN breaker_until TEXT",  # when the next probe may go out
        "ALTER TABLE destinations ADD COLUMN breaker_changed_at TEXT",  # when it opened, or closed
        # A new destination that starts in the past: events after `fill_after`, up to `fill_through`, are
        # still to be opened for it, those that happened before `fill_from` not.
        "ALTER TABLE destinations ADD COLUMN fill_after INTEGER",
        "ALTER TABLE destinations ADD COLUMN fill_through INTEGER",
        "ALTER TABLE destinations ADD COLUMN fill_from TEXT",
        """
        CREATE TABLE alerts (
            id INTEGER PRIMARY KEY,
            what TEXT NOT NULL,  -- destination_down, destination_gone, dead_letters, gap_expiring
            subject TEXT NOT NULL,
            since TEXT NOT NULL,
            over_at TEXT,
            text TEXT NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX alerts_open ON alerts (what, subject) WHERE over_at IS NULL",
    )


@migrations(name="0004_dashboard")
def _dashboard(db: Any) -> None:
    _run(
        db,
        "CREATE INDEX events_by_time ON events (happened_at)",
        # With the state, so that counting a backlog reads the index alone.
        "DROP INDEX deliveries_open",
        f"CREATE INDEX deliveries_open ON deliveries (destination_id, lane, event_id, state) WHERE {OPEN}",
        """
        CREATE VIRTUAL TABLE search USING fts5 (  -- by event id; filled in the background
            kind, project, author, branch, commits, object, title, tokenize = "unicode61 tokenchars '_-./'"
        )
        """,
    )


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
    _run(
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
    _run(
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
    _run(
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
    _run(
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
    _run(
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
    _run(db, *renaming.STATEMENTS)

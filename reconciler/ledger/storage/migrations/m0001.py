"""The tables of the first versions: the ledger, recovery, delivery, the dashboard."""

from __future__ import annotations

import secrets
from typing import Any

from reconciler.ledger.storage.migrations import OPEN, migrations, run


@migrations(name="0001_ledger")
def _ledger(db: Any) -> None:
    run(
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
    run(
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
    run(
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
    run(
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

"""The tables in PostgreSQL, as migrations. Their names and columns are those of SQLite's (see `migrations`).

Texts are compared by their bytes, as SQLite does it. Never change a migration that was released: add one.
"""

from __future__ import annotations

import secrets

from reconciler import __version__
from reconciler.events import times
from reconciler.ledger.errors import LedgerBehind, LedgerMissing, LedgerVersion
from reconciler.ledger.storage import advisory, meta
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.migrations import OPEN, UNREAD

_TABLES = f"""
CREATE COLLATION IF NOT EXISTS nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE projects (
    id INTEGER PRIMARY KEY,
    path TEXT,
    watched_since TEXT,
    last_webhook_at TEXT,
    last_poll_at TEXT,
    last_poll_error TEXT
);
CREATE SEQUENCE event_numbers MINVALUE 0 START 0;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    project_id INTEGER,
    happened_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    sighting_id INTEGER NOT NULL,
    merged_into INTEGER
);
CREATE INDEX events_by_project ON events (project_id, id);
CREATE INDEX events_absorbed ON events (merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX events_by_time ON events (happened_at);
CREATE INDEX events_by_kind ON events (kind, id);
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
    payload TEXT NOT NULL,
    recovery TEXT,
    raw TEXT,
    object TEXT
);
CREATE INDEX sightings_by_event ON sightings (event_id);
CREATE TABLE sighting_hashes (
    sighting_id INTEGER PRIMARY KEY REFERENCES sightings(id) ON DELETE CASCADE,
    id_hash INTEGER NOT NULL,
    key_hash INTEGER NOT NULL,
    happened_ms INTEGER NOT NULL
);
CREATE INDEX sighting_hashes_by_id ON sighting_hashes (id_hash);
CREATE INDEX sighting_hashes_by_moment ON sighting_hashes (key_hash, happened_ms);
CREATE TABLE destinations (
    id NUMBERED,
    name TEXT NOT NULL UNIQUE,
    ordering TEXT NOT NULL,
    active INTEGER NOT NULL,
    paused_at TEXT,
    paused_why TEXT,
    breaker TEXT NOT NULL DEFAULT 'closed',
    breaker_failures INTEGER NOT NULL DEFAULT 0,
    breaker_until TEXT,
    breaker_changed_at TEXT,
    fill_after INTEGER,
    fill_through INTEGER,
    fill_from TEXT,
    resumes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE deliveries (
    event_id INTEGER NOT NULL REFERENCES events(id),
    destination_id INTEGER NOT NULL REFERENCES destinations(id),
    state TEXT NOT NULL,
    lane TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    opened_at TEXT NOT NULL,
    next_attempt_at TEXT NOT NULL,
    first_attempt_at TEXT,
    finished_at TEXT,
    last_status INTEGER,
    last_error TEXT,
    sighting_id INTEGER,
    replays INTEGER NOT NULL DEFAULT 0,
    attempts_before INTEGER NOT NULL DEFAULT 0,
    pause_ms INTEGER,
    PRIMARY KEY (event_id, destination_id)
);
CREATE INDEX deliveries_open ON deliveries (destination_id, lane, event_id, state) WHERE {OPEN};
CREATE INDEX deliveries_retrying ON deliveries (destination_id, next_attempt_at) WHERE state = 'retrying';
CREATE INDEX deliveries_dead ON deliveries (destination_id, event_id) WHERE state = 'dead';
CREATE TABLE attempts (
    id NUMBERED,
    event_id INTEGER NOT NULL REFERENCES events(id),
    destination_id INTEGER NOT NULL REFERENCES destinations(id),
    number INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    status INTEGER,
    error_class TEXT,
    error TEXT,
    response TEXT
);
CREATE INDEX attempts_by_event ON attempts (event_id, destination_id);
CREATE TABLE lanes (
    turn NUMBERED,
    destination_id INTEGER NOT NULL,
    lane TEXT NOT NULL,
    event_id INTEGER NOT NULL,
    due_at TEXT
);
CREATE UNIQUE INDEX lanes_by_name ON lanes (destination_id, lane);
CREATE INDEX lanes_ready ON lanes (destination_id, turn) WHERE due_at IS NULL;
CREATE INDEX lanes_waiting ON lanes (destination_id, due_at) WHERE due_at IS NOT NULL;
CREATE TABLE search (event_id INTEGER PRIMARY KEY, document tsvector NOT NULL);
CREATE INDEX search_words ON search USING gin (document);
CREATE TABLE coverage (
    project_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    covered_from TEXT NOT NULL,
    covered_through TEXT NOT NULL,
    PRIMARY KEY (project_id, source, covered_from)
);
CREATE TABLE runs (
    id NUMBERED,
    project_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    purpose TEXT NOT NULL,
    window_from TEXT NOT NULL,
    window_through TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT NOT NULL,
    seen INTEGER NOT NULL,
    known INTEGER NOT NULL,
    new INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    error TEXT
);
CREATE INDEX runs_by_project ON runs (project_id, id);
CREATE TABLE sources (
    project_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    watched_since TEXT NOT NULL,
    watched_until TEXT,
    last_read_at TEXT,
    trouble TEXT,
    error TEXT,
    trouble_since TEXT,
    PRIMARY KEY (project_id, source)
);
CREATE INDEX sources_unread ON sources (project_id, source) WHERE {UNREAD};
CREATE TABLE downtimes (started_at TEXT PRIMARY KEY, ended_at TEXT NOT NULL, how TEXT NOT NULL);
CREATE TABLE hooks (
    project_id INTEGER NOT NULL,
    hook_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    triggers TEXT NOT NULL,
    alert_status TEXT,
    disabled_until TEXT,
    off_since TEXT,
    checked_at TEXT NOT NULL,
    PRIMARY KEY (project_id, hook_id)
);
CREATE TABLE alerts (
    id NUMBERED,
    what TEXT NOT NULL,
    subject TEXT NOT NULL,
    since TEXT NOT NULL,
    over_at TEXT,
    text TEXT NOT NULL
);
CREATE UNIQUE INDEX alerts_open ON alerts (what, subject) WHERE over_at IS NULL;
CREATE TABLE parts (name TEXT PRIMARY KEY, failing_since TEXT, restarts INTEGER NOT NULL, error TEXT);
CREATE TABLE watched (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    below TEXT NOT NULL,
    project_id INTEGER,
    since TEXT NOT NULL,
    read_at TEXT,
    trouble TEXT,
    error TEXT,
    trouble_since TEXT,
    own_since TEXT,
    PRIMARY KEY (kind, name, below)
);
CREATE INDEX watched_by_project ON watched (project_id);
CREATE INDEX watched_with_gitlab ON watched (kind) WHERE trouble IS NOT NULL AND own_since IS NULL;
CREATE TABLE unreadable (
    project_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    record_id TEXT NOT NULL,
    error TEXT NOT NULL,
    raw TEXT NOT NULL,
    first_seen_at TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    PRIMARY KEY (project_id, source, record_id)
);
CREATE INDEX unreadable_by_time ON unreadable (last_seen_at);
CREATE TABLE former_paths (
    project_id INTEGER NOT NULL,
    path text COLLATE nocase NOT NULL,
    PRIMARY KEY (project_id, path)
);
CREATE INDEX former_paths_by_path ON former_paths (path);
CREATE TABLE unrecorded (
    id NUMBERED,
    received_at TEXT NOT NULL,
    hook TEXT NOT NULL,
    headers TEXT NOT NULL,
    body bytea NOT NULL,
    error TEXT NOT NULL,
    tried_at TEXT NOT NULL,
    tries INTEGER NOT NULL,
    due INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX unrecorded_due ON unrecorded (id) WHERE due = 1;
CREATE TABLE intake (
    position NUMBERED,
    received_at TEXT NOT NULL,
    hook TEXT NOT NULL,
    headers TEXT NOT NULL,
    body bytea NOT NULL
);
CREATE TABLE receivers (
    id INTEGER PRIMARY KEY,  -- of the advisory lock that it holds
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    service INTEGER NOT NULL,
    alive_at TEXT NOT NULL,
    reloads INTEGER NOT NULL,
    error TEXT,
    since TEXT NOT NULL,
    failure TEXT,
    failing_since TEXT
);
CREATE SEQUENCE changes;
"""

_FIRST = """
    INSERT INTO lanes (destination_id, lane, event_id, due_at)
    SELECT destination_id, lane, event_id, CASE WHEN state = 'retrying' THEN next_attempt_at END FROM deliveries
     WHERE destination_id = {0}.destination_id AND lane = {0}.lane AND {1} ORDER BY lane, event_id LIMIT 1
    ON CONFLICT (destination_id, lane) DO UPDATE SET event_id = excluded.event_id, due_at = excluded.due_at;
"""

_TRIGGERS = (
    """
    CREATE FUNCTION note_event_numbers() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM setval('event_numbers', greatest((SELECT max(id) FROM made), (SELECT last_value FROM event_numbers)));
        RETURN NULL;
    END $$;
    CREATE TRIGGER events_numbered AFTER INSERT ON events REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION note_event_numbers();
    """,
    f"""
    CREATE FUNCTION note_lane_opened() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NOT EXISTS (
            SELECT 1 FROM lanes
             WHERE destination_id = NEW.destination_id AND lane = NEW.lane AND event_id < NEW.event_id
        ) THEN
            {_FIRST.format("NEW", OPEN)}
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER lanes_opened AFTER INSERT ON deliveries FOR EACH ROW
    WHEN (NEW.{OPEN}) EXECUTE FUNCTION note_lane_opened();
    """,
    f"""
    CREATE FUNCTION note_lane_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.attempts > OLD.attempts OR NEW.lane <> OLD.lane OR NOT NEW.{OPEN} THEN
            DELETE FROM lanes
             WHERE destination_id = OLD.destination_id AND lane = OLD.lane AND event_id = OLD.event_id;
        END IF;
        {_FIRST.format("OLD", OPEN)}
        IF NEW.lane <> OLD.lane THEN
            {_FIRST.format("NEW", OPEN)}
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER lanes_changed AFTER UPDATE OF state, lane, next_attempt_at, attempts ON deliveries FOR EACH ROW
    WHEN (OLD.{OPEN} OR NEW.{OPEN}) EXECUTE FUNCTION note_lane_changed();
    """,
    f"""
    CREATE FUNCTION note_lane_deleted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM lanes WHERE destination_id = OLD.destination_id AND lane = OLD.lane AND event_id = OLD.event_id;
        {_FIRST.format("OLD", OPEN)}
        RETURN NULL;
    END $$;
    CREATE TRIGGER lanes_deleted AFTER DELETE ON deliveries FOR EACH ROW
    WHEN (OLD.{OPEN}) EXECUTE FUNCTION note_lane_deleted();
    """,
    """
    CREATE FUNCTION note_project_renamed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO former_paths (project_id, path)
        SELECT OLD.id, OLD.path WHERE OLD.path IS NOT NULL AND NEW.path <> OLD.path COLLATE nocase
        ON CONFLICT DO NOTHING;
        DELETE FROM former_paths WHERE path = NEW.path COLLATE nocase;
        RETURN NULL;
    END $$;
    CREATE TRIGGER projects_renamed AFTER UPDATE OF path ON projects FOR EACH ROW
    WHEN (NEW.path IS DISTINCT FROM OLD.path) EXECUTE FUNCTION note_project_renamed();
    """,
    """
    CREATE FUNCTION note_project_named() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM former_paths WHERE path = NEW.path COLLATE nocase;
        RETURN NULL;
    END $$;
    CREATE TRIGGER projects_named AFTER INSERT ON projects FOR EACH ROW
    WHEN (NEW.path IS NOT NULL) EXECUTE FUNCTION note_project_named();
    """,
    # One statement appends a batch: its lock, and so the order of positions, depend on no client that may hang.
    f"""
    CREATE FUNCTION append_to_intake(received text[], hooks text[], headers text[], bodies bytea[])
    RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock({advisory.INTAKE}, {advisory.LEDGER});
        INSERT INTO intake (received_at, hook, headers, body)
        SELECT r, h, e, b FROM unnest(received, hooks, headers, bodies) WITH ORDINALITY AS t (r, h, e, b, n)
         ORDER BY n;
        PERFORM pg_notify('intake', current_schema());
    END $$;
    """,
    # A server that took over may have the tables and not the sequence: no position is used twice.
    r"""
    CREATE FUNCTION continue_intake() RETURNS void LANGUAGE plpgsql AS $$ DECLARE used bigint; BEGIN
        PERFORM pg_advisory_xact_lock(1735290738, hashtext(current_schema()));
        used := greatest(
            (SELECT max(position) FROM intake),
            (SELECT split_part(value, ' ', 2)::bigint FROM meta WHERE name = 'intake' AND value ~ '^\S+ \d+')
        );
        IF used > (SELECT last_value FROM intake_position_seq) THEN
            PERFORM setval('intake_position_seq', used);
        END IF;
    END $$;
    """,
)


def _for_postgresql(tables: str) -> str:
    return (
        tables.replace("NUMBERED", "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        .replace("INTEGER", "bigint")
        .replace("TEXT", 'text COLLATE "C"')
    )


MIGRATIONS = {"0001_ledger": (_for_postgresql(_TABLES), *_TRIGGERS)}

_PROGRAM = "program"


def upgrade(db: Database) -> None:
    """Upgrade the ledger to this program's schema, if it does not have it. Raises LedgerUnavailable."""
    if applied(db) >= MIGRATIONS.keys():
        return
    db.begin()  # others that start now wait here
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at text NOT NULL)")
        done = applied(db)
        for name, statements in MIGRATIONS.items():
            if name in done:
                continue
            for statement in statements:
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, ?)", (name, times.iso(times.now())))
        if meta.get(db, "ledger_id") is None:
            meta.put(db, "ledger_id", secrets.token_hex(6))
        meta.put(db, _PROGRAM, __version__)
        db.commit()
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise


def check(db: Database, where: str, *, may_upgrade: bool) -> None:
    """Refuse a ledger from a later version of this program, and, if it may not be upgraded, one from an earlier
    version or an empty schema.

    Raises LedgerVersion or LedgerBehind, with the versions.
    """
    found, known = applied(db), MIGRATIONS.keys()
    if found - known:
        raise LedgerVersion(
            f"{where}: was written by a later version: its tables are at {max(found)}, and this program "
            f"({__version__}) knows them up to {max(known)}; install that version"
        )
    if may_upgrade or found >= known:
        return
    if not found:
        raise LedgerMissing(f"{where}: there is no ledger yet; `gitlab-reconciler serve` makes it")
    raise LedgerBehind(
        f"{where}: was written by an earlier version: its tables are at {max(found)}, and this program "
        f"({__version__}) needs {max(known)}; `gitlab-reconciler serve` brings it up when it starts"
    )


def applied(db: Database) -> set[str]:
    """The migrations that were applied to a ledger."""
    if db.execute("SELECT to_regclass('migrations')").fetchone()[0] is None:
        return set()
    return {name for (name,) in db.execute("SELECT name FROM migrations")}

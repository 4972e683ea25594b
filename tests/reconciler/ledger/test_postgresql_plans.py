"""Recording costs the same however large a ledger in PostgreSQL is: its statements use indexes, and are few."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from reconciler.events.sighting import Identity, Precision, Recovery, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.ledger.queue.destinations import DestinationSpec, sync
from reconciler.ledger.queue.opening import candidates_of
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording import reported
from reconciler.ledger.recording.place import Progress, note_progress
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database, Parameters, Rows
from reconciler.ledger.storage.placeholders import for_psycopg
from reconciler.ledger.storage.postgresql import PostgresDatabase
from reconciler.ledger.storage.sql import Sql
from tests.support.ledgers import ledger_location

pytestmark = pytest.mark.postgresql

START = Millis(1_790_000_000_000)
ROUTES = [Route(1, "project", lambda _: True)]
LARGE = ("events", "sightings", "sighting_hashes", "deliveries", "lanes", "projects")
_FILL = """
    SET session_replication_role = replica;
    INSERT INTO projects (id, path) SELECT n, 'group/' || n FROM generate_series(1, 2000) AS n;
    INSERT INTO events (id, kind, project_id, happened_at, recorded_at, sighting_id, merged_into)
    SELECT n, 'note', n % 2000, '2026-01-01T00:00:00.000Z', '', n, CASE WHEN n % 50 = 0 THEN n - 1 END
      FROM generate_series(1, 40000) AS n;
    INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind, payload_sha,
                           headers, payload)
    SELECT n, n, 'webhook:default', 'old ' || n, 'note:' || n, '2026-01-01T00:00:00.000Z', 'unique_id', '', 'note',
           '', '{}', '{}' FROM generate_series(1, 40000) AS n;
    INSERT INTO sighting_hashes SELECT n, n * 7919, n * 104729, n FROM generate_series(1::bigint, 40000) AS n;
    INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at, sighting_id)
    SELECT n, 1, 'delivered', 'project:' || n % 2000, '', '', n FROM generate_series(1, 40000) AS n;
    INSERT INTO lanes (destination_id, lane, event_id)
    SELECT 1, 'project:' || n, n FROM generate_series(1, 2000) AS n;
    RESET session_replication_role;
    SELECT setval('event_numbers', 40000);
    ANALYZE projects, events, sightings, sighting_hashes, deliveries, lanes
"""


class Watched(PostgresDatabase):
    """A connection that keeps what it is asked."""

    def __init__(self, db: PostgresDatabase) -> None:
        super().__init__(db.conn)
        self.asked: list[tuple[str, Parameters]] = []

    def execute(self, sql: str, parameters: Parameters = (), /) -> Rows:
        self.asked.append((sql, parameters))
        return super().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> Rows:
        rows = list(rows)
        if rows:
            self.asked.append((sql, rows[0]))
        return super().executemany(sql, rows)


@pytest.fixture(params=["new", "large"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    """A statement that was planned for a new ledger keeps its plan while the ledger grows."""
    with ledger_location("postgresql", tmp_path, fresh=True) as location, closing(connect(location)) as opened:
        with transaction(opened):
            sync(opened, [DestinationSpec("one")], now=START)
        if request.param == "large":
            opened.execute(_FILL)
        assert isinstance(opened, PostgresDatabase)
        yield Watched(opened)


def sighting(number: int, source: str = "webhook:default", *, at: int = 0) -> Sighting:
    return Sighting(
        source=source,
        source_id=f"{number}",
        identity=Identity(f"push:{number}", Millis(START + 1000 * number + at), Precision.GITLAB_TIME),
        summary=Summary(kind="push", project_id=number % 3 + 1, project_path=f"group/{number % 3 + 1}"),
        seen_at=START,
        payload="{}",
        payload_sha=f"{source} {number}",
    )


def record_all(db: Database, sightings: list[Sighting]) -> None:
    with transaction(db):
        record(db, sightings, now=START, routes=ROUTES)
        note_progress(db, Progress("one", 1))


def own(sql: str) -> str:
    return sql.postgresql if isinstance(sql, Sql) else sql


def prepared(sql: str, parameters: Parameters) -> tuple[str, int]:
    """A statement with PostgreSQL's own placeholders, and how many it has."""
    text, values = for_psycopg(own(sql), parameters)
    names: list[str] = list(values) if isinstance(values, Mapping) else []
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if found[1]:
            return f"${names.index(found[1]) + 1}"
        count += 1
        return f"${count}"

    made = re.sub(r"%\((\w+)\)s|%s", number, text).replace("%%", "%")
    return made, len(names) or count


def plans(db: Watched, asked: list[tuple[str, Parameters]]) -> dict[str, str]:
    """The plan of each statement for any parameters, as PostgreSQL uses it from a statement's sixth use on."""
    db.execute("SET plan_cache_mode = force_generic_plan")
    found = {}
    for sql, parameters in asked:
        if sql.split()[0] not in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            continue
        text, count = prepared(sql, parameters)
        db.execute(f"PREPARE one AS {text}")
        nothing = f"({', '.join(['NULL'] * count)})" if count else ""
        lines = db.execute(f"EXPLAIN EXECUTE one {nothing}").fetchall()
        db.execute("DEALLOCATE one")
        found[" ".join(text.split())] = "\n".join(line for (line,) in lines)
    db.execute("RESET plan_cache_mode")
    return found


def test_recording_uses_indexes(db: Watched) -> None:
    some = [sighting(number) for number in range(20)]
    recovered = msgspec.structs.replace(sighting(30), recovery=Recovery(by="hook_log"))
    for batch in (
        some,
        [sighting(number, "project_events", at=-300) for number in range(20)],
        [sighting(99)],
        [recovered],
        [sighting(30), *some],
    ):
        record_all(db, batch)
    list(candidates_of(db, [1, 2]))
    reported.reported_keys(db, ["push:1"])
    found = plans(db, list(db.asked))
    assert len(found) > 15
    whole = re.compile(rf"Seq Scan on ({'|'.join(LARGE)})\b")
    assert {sql: plan for sql, plan in found.items() if whole.search(plan)} == {}
    moments = [plan for sql, plan in found.items() if "happened_ms <=" in sql or "happened_ms >=" in sql]
    assert len(moments) == 2
    assert not any("Sort" in plan for plan in moments)  # a busy key has many


def test_a_batch_is_recorded_in_a_dozen_statements(db: Watched) -> None:
    """Each is a round trip to the server."""
    for first, source in ((0, "webhook:default"), (0, "project_events"), (100, "webhook:default")):
        asked = len(db.asked)
        record_all(db, [sighting(number, source, at=-300) for number in range(first, first + 100)])
        assert len(db.asked) - asked <= 13

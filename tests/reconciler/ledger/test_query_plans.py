"""Cost must not grow with the ledger: every hot query walks an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.ledger import alerts
from reconciler.ledger.coverage import hooks, intervals, source_state
from reconciler.ledger.coverage import watched as names
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.queue import deliveries, destinations, in_the_way, past_deliveries, replay
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording import neighbourhood, reported
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep import prune
from reconciler.ledger.views import browse, dead_letters, listing, overview, search, status, traffic
from tests.support import outcomes

HOT = (
    *("events", "sightings", "sighting_hashes", "deliveries", "lanes", "coverage"),
    *("projects", "sources", "downtimes", "hooks", "attempts", "watched"),
)
BACK = {"destination": 1, "now": 0, "longest": 0, "latest": "x", "limit": 5}
ROUTES = [Route(1, "project", lambda _: True), Route(2, "none", lambda _: True)]


class Watched:
    """A connection that keeps what it is asked."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, sql: str, values: Any = ()) -> Any:
        self.asked.append((sql, values))
        return self._conn.execute(sql, values)

    def executemany(self, sql: str, rows: Any) -> Any:
        rows = list(rows)
        if rows:
            self.asked.append((sql, rows[0]))
        return self._conn.executemany(sql, rows)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(connect(tmp_path / "ledger.db")) as db:
        with transaction(db):
            destinations.sync(db, [DestinationSpec("one"), DestinationSpec("two", "none")], now=Millis(0))
        yield db


def sighting(number: int, source: str = "webhook:default", key: str | None = None) -> Sighting:
    return Sighting(
        source=source,
        source_id=f"{source}-{number}",
        identity=Identity(key or f"note:{number}", Millis(1_700_000_000_000 + number * 1000), Precision.GITLAB_TIME),
        summary=Summary(kind="note", project_id=number % 3 + 1, project_path=f"group/{number % 3 + 1}"),
        seen_at=Millis(1_700_000_000_000),
        payload="{}",
        payload_sha=f"{source} {number}",
    )


def plans(db: SqliteDatabase, watched: Watched) -> dict[str, list[str]]:
    found = {}
    for sql, values in watched.asked:
        if sql.split()[0] in ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT"):
            rows = db.execute("EXPLAIN QUERY PLAN " + sql, values).fetchall()
            found[" ".join(sql.split())] = [row[-1] for row in rows]
    return found


def scans(plan: list[str]) -> list[str]:
    aliases = {"e": "events", "s": "sightings", "d": "deliveries", "f": "sightings", "a": "attempts"}
    aliases |= {"h": "sighting_hashes", "n": "sightings"}
    return [
        step
        for step in plan
        if step.startswith("SCAN")
        and aliases.get(step.split()[1], step.split()[1]) in HOT
        and "INDEX" not in step  # walking an index in order, from its end, is what LIMIT does
    ]


def test_hot_queries_use_indexes(db: SqliteDatabase) -> None:
    watched = Watched(db.conn)
    db.conn = cast(Any, watched)
    with transaction(db):
        record(db, [sighting(n) for n in range(50)], now=times.now(), routes=ROUTES)
        record(db, [sighting(99)], now=times.now(), routes=ROUTES)
        record(
            db, [sighting(1, "project_events", "note:7"), sighting(2, "project_events", "note:7")], now=times.now()
        )
        record(db, [sighting(60, "webhook:b", "note:7")], now=times.now())
    reported.reported_keys(db, ["note:7"])
    lanes = deliveries.due_lanes(db, 1, now=times.now(), limit=1000)
    deliveries.first_of_lanes(db, 1, lanes, now=times.now(), limit=1000, each=10)
    deliveries.ready(db, 1, [1, 2], most_bytes=1000)
    deliveries.failed_often(db, 1, [1, 2], failures=3)
    deliveries.next_due(db, 1, after=times.now())
    deliveries.outgoing(db, 1)
    attempt = deliveries.Attempt(1, 1, 1, 1, Millis(0), Millis(0), 500, "http_5xx", "no")
    outcomes.retry(db, attempt, pause=Millis(0), now=times.now())
    deliveries.pull_back(db, 1, longest=Millis(0), now=times.now())
    outcomes.mark_dead(db, attempt)
    outcomes.deliver(db, attempt)
    intervals.cover(db, 1, "project_events", Interval(Millis(0), Millis(9)))
    source_state.watched_since(db, 1, "project_events")
    source_state.note_read(db, 1, "project_events", Millis(0))
    source_state.note_trouble(db, 1, "project_events", "refused", "no", Millis(0))
    source_state.watched_sources(db, 1)
    names.note_found(db, Name("project", "1"), 1)
    names.note_trouble(db, Name("project", "1"), "refused", "no", Millis(0))
    names.note_read(db, Name("project", "1"), Millis(0))
    hooks.project_hooks(db, 1)
    browse.after(db, browse.Filter(), event_id=1)
    browse.newest(db, browse.Filter(project=1), limit=5)
    browse.show(db, 1)
    dead_letters.attempts(db, 1)
    dead_letters.dead_letters(db, browse.Filter(), destination="one", limit=5)
    past_deliveries.open_past_deliveries(db, ROUTES[0], now=Millis(0))
    destinations.note_breaker(db, 1, destinations.Breaker("open", 5, Millis(1), Millis(1)))
    list(replay.find(db, replay.ReplayRequest(dead_letters_only=True), ROUTES[0]))
    pruning = prune.Pruning(
        prune.Keep(events=Millis(1), dead_letters=Millis(1), attempts=Millis(1), runs=Millis(1)), now=Millis(0)
    )
    while not pruning.step(db):
        pass
    db.execute(alerts.DEAD_LETTERS, (1,)).fetchall()
    db.execute(status.OPENED_AT, (1, 1)).fetchall()
    overview.hours(db, since=Millis(0))
    overview.records(db)
    overview.runs(db, before=9, limit=9)
    traffic.traffic(db, 1, since=Millis(0))
    for wanted in (
        browse.Filter(delivery="dead", destination="one"),
        browse.Filter(delivery="pending", kind="note"),
        browse.Filter(source="pipelines", project=1),
        browse.Filter(author="ada", since=Millis(0)),
    ):
        listing.listed(db, wanted, "", limit=5, before=None)
    listing.listed(db, browse.Filter(source="pipelines", since=Millis(0)), "", limit=5, before=None)
    browse.delivery_states(db, [1, 2])
    search.find(db, "note", before=9, limit=9)
    search.index_step(db)
    for sql in (status.BACKLOG, status.DEAD_LETTERS, status.LAST_ERROR, status.LAST_DEAD_ERROR):
        db.execute(sql, (1,)).fetchall()
    db.conn = watched._conn
    found = plans(db, watched)
    assert len(found) > 20
    assert {sql: scans(plan) for sql, plan in found.items() if scans(plan)} == {}


def test_what_is_asked_most_uses_its_own_indexes(db: SqliteDatabase) -> None:
    asked = {"destination": 1, "now": "x", "limit": 5}
    lanes = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + deliveries.DUE_LANES, asked)]
    assert any("INDEX lanes_ready (destination_id=?)" in step for step in lanes)
    assert any("INDEX lanes_waiting (destination_id=? AND due_at<?)" in step for step in lanes)
    assert sum("TEMP B-TREE" in step for step in lanes) == 1  # of the few that were found
    backlog = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + status.BACKLOG, (1,))]
    assert any("COVERING INDEX deliveries_open" in step for step in backlog)
    hours = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + overview.HOURS, ("x",))]
    assert any("INDEX events_by_time (happened_at>?)" in step for step in hours)
    asked_first = ("x", 1, "lane", -1, 5)
    first = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + deliveries.FIRST_OF_LANE, asked_first)]
    assert any("INDEX deliveries_open (destination_id=? AND lane=? AND event_id>?)" in step for step in first)
    assert not any("TEMP B-TREE" in step for step in first)
    due = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + deliveries.NEXT_DUE, (1, "x"))]
    assert any("INDEX lanes_waiting (destination_id=? AND due_at>?)" in step for step in due)
    back = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + deliveries.PULL_BACK, BACK)]
    assert any("INDEX deliveries_retrying (destination_id=? AND next_attempt_at>?)" in step for step in back)
    of_time = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + traffic.ATTEMPTS, (1, "x", 5))]
    by_time = "attempts USING COVERING INDEX attempts_by_destination (destination_id=? AND started_at>?)"
    assert of_time == [f"SEARCH {by_time}"]
    last = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + in_the_way.IN_THE_WAY, {"destination": 1})]
    assert "SEARCH a USING INDEX attempts_by_event (event_id=?)" in last
    for side in (neighbourhood.EARLIER, neighbourhood.LATER):
        around = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + side, ("[]", 5))]
        by_moment = "h USING COVERING INDEX sighting_hashes_by_moment (key_hash=? AND happened_ms"
        assert any(by_moment in step for step in around)
        assert "SEARCH n USING INTEGER PRIMARY KEY (rowid=?)" in around
        assert not any("TEMP B-TREE" in step for step in around)
    for known, values in ((reported.KNOWN, ("[]",)), (reported.ONE_KNOWN, (1,))):
        by_id = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + known, values)]
        assert "SEARCH h USING COVERING INDEX sighting_hashes_by_id (id_hash=?)" in by_id
        assert "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)" in by_id

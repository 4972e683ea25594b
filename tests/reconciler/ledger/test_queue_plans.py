"""PostgreSQL: what the service asks of the queue walks an index, however long the queue is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger import alerts
from reconciler.ledger.queue import deliveries, destinations, in_the_way, past_deliveries, pulled, replay
from reconciler.ledger.queue.deliveries import Attempt, Settled
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.pulled import HandedOut
from reconciler.ledger.queue.replay import Replay, ReplayRequest
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.postgresql import PostgresDatabase
from tests.support.ledgers import ledger_location
from tests.support.plans import plans_of

pytestmark = pytest.mark.postgresql

NOW = Millis(1_790_000_000_000)
ROUTE = Route(1, "project", lambda _: True)
_EVENTS, _DONE, _LANES = 80_000, 72_000, 4_000
_FILL = f"""
    INSERT INTO events (id, kind, project_id, happened_at, recorded_at, sighting_id)
    SELECT n, 'note', n % {_LANES}, 'at ' || n, '', n FROM generate_series(1, {_EVENTS}) AS n;
    INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind, payload_sha,
                           headers, payload)
    SELECT n, n, 'webhook:default', n::text, n::text, '', '', '', 'note', '', '{{}}', repeat('x', 100)
      FROM generate_series(1, {_EVENTS}) AS n;
    INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at, pause_ms)
    SELECT id, 1, CASE WHEN id <= {_DONE} THEN 'delivered' WHEN id % 10 = 0 THEN 'retrying'
                       WHEN id % 97 = 0 THEN 'dead' ELSE 'pending' END,
           'lane:' || (id % {_LANES}), '{times.iso(NOW)}', '{times.iso(NOW)}', 1000 FROM events;
    INSERT INTO attempts (event_id, destination_id, number, started_at, duration_ms)
    SELECT id, 1, 1, '', 1 FROM events WHERE id <= {_DONE};
    UPDATE destinations SET fill_through = {_EVENTS};
    ANALYZE;
"""


@pytest.fixture(scope="module")
def db() -> Iterator[PostgresDatabase]:
    with ledger_location("postgresql", Path(), fresh=True) as location, closing(connect(location)) as db:
        assert isinstance(db, PostgresDatabase)
        with transaction(db):
            destinations.sync(db, [DestinationSpec("one", start="beginning")], now=NOW)
        db.execute(_FILL)
        yield db


def test_lanes_are_found_in_the_order_of_their_turns(db: PostgresDatabase) -> None:
    with plans_of(db) as plans:
        assert len(deliveries.due_lanes(db, 1, now=NOW, limit=8)) == 8
    assert plans.indexes() == {"lanes_ready", "lanes_waiting"}
    assert not plans.scanned()
    assert plans.sorted() == 1  # of the few that were found


@pytest.mark.parametrize("count", [1, 8])
def test_what_goes_next_of_a_lane_is_found_without_its_past(db: PostgresDatabase, count: int) -> None:
    lanes = deliveries.due_lanes(db, 1, now=NOW, limit=count)
    with plans_of(db) as plans:
        found = deliveries.first_of_lanes(db, 1, lanes, now=NOW, limit=8, each=8)
    assert all(found.values())
    assert plans.indexes() == {"deliveries_open"}
    assert all("lane" in one and "event_id" in one for one in plans.conditions("deliveries_open"))
    assert not plans.sorted()


def test_messages_are_read_by_their_numbers(db: PostgresDatabase) -> None:
    asked = list(range(_DONE, _DONE + 100))
    with plans_of(db) as plans:
        assert len(deliveries.ready(db, 1, asked, most_bytes=1 << 20)) == len(asked)
        deliveries.failed_often(db, 1, asked, failures=3)
    assert plans.indexes() == {"deliveries_pkey", "events_pkey", "sightings_pkey"}
    assert not plans.scanned()


def test_messages_beyond_the_bound_are_not_sent_by_the_server(db: PostgresDatabase) -> None:
    asked = {"asked": "[1, 2, 3, 4, 5]", "destination": 1, "most_bytes": 250}  # each has a hundred
    assert len(db.execute(deliveries.READY, asked).fetchall()) == 3


def test_the_next_retry_is_the_first_of_its_index(db: PostgresDatabase) -> None:
    with plans_of(db) as plans:
        deliveries.next_due(db, 1, after=Millis(0))
    assert plans.indexes() == {"lanes_waiting"}


@pytest.mark.parametrize("count", [1, 20])
def test_outcomes_are_written_and_their_lanes_go_on_by_indexes(db: PostgresDatabase, count: int) -> None:
    lanes = deliveries.due_lanes(db, 1, now=NOW, limit=3 * count)
    found = deliveries.first_of_lanes(db, 1, lanes, now=NOW, limit=3 * count, each=1)
    attempts = [Attempt(event_id, 1, event_id, 1, NOW, NOW) for [event_id] in found.values()]
    settled = [
        Settled(one, NOW, is_dead_letter=n % 3 == 0, pause=Millis(1) if n % 3 == 1 else None)
        for n, one in enumerate(attempts)
    ]
    with plans_of(db) as plans, transaction(db):
        deliveries.settle(db, settled)
    assert plans.indexes() >= {"deliveries_pkey", "deliveries_open", "lanes_by_name"}
    assert not plans.scanned() - {"destinations"}


def test_what_a_consumer_acknowledges_is_looked_up_by_its_numbers(db: PostgresDatabase) -> None:
    found = pulled.next_deliveries(db, 1, now=NOW, limit=100, most_bytes=1 << 20)
    some = [HandedOut(one.queued.event_id, one.event.sighting_id, 0) for one in found]
    with plans_of(db) as plans:
        assert len(pulled.acknowledge(db, 1, some, since=NOW, now=NOW)) == len(some) == 100
    assert plans.indexes() >= {"deliveries_pkey", "deliveries_open", "lanes_by_name"}
    assert not plans.scanned() - {"destinations"}


def test_retries_are_pulled_back_by_their_time(db: PostgresDatabase) -> None:
    with plans_of(db) as plans, transaction(db):
        assert deliveries.pull_back(db, 1, longest=Millis(0), now=Millis(NOW - 10_000_000), limit=5)
    assert "deliveries_retrying" in plans.indexes()
    assert not plans.scanned()


def test_what_is_wrong_with_a_destination_is_found_by_indexes(db: PostgresDatabase) -> None:
    with plans_of(db) as plans:
        in_the_way.in_the_way(db, 1, "one")
        db.execute(alerts.DEAD_LETTERS, (1,)).fetchall()
    assert plans.indexes() >= {"lanes_waiting", "deliveries_dead"}
    assert not plans.scanned() & {"lanes", "deliveries", "attempts"}


def test_events_are_sent_again_in_steps(db: PostgresDatabase) -> None:
    with plans_of(db) as plans:
        next(replay.find(db, ReplayRequest(event_ids=(10, 20)), ROUTE))
        next(replay.find(db, ReplayRequest(dead_letters_only=True), ROUTE))
        next(replay.find(db, ReplayRequest(), ROUTE))
        replay.queue_replays(db, 1, [Replay(10, "lane:10")], now=NOW)
    assert plans.indexes() >= {"events_pkey", "deliveries_dead", "events_by_time", "sightings_pkey"}
    assert not plans.scanned() - {"former_paths", "projects"}


def test_the_past_is_opened_in_steps(db: PostgresDatabase) -> None:
    with plans_of(db) as plans, transaction(db):
        past_deliveries.open_past_deliveries(db, ROUTE, now=NOW)
    assert plans.indexes() >= {"events_pkey", "sightings_pkey"}
    assert not plans.scanned() - {"destinations"}

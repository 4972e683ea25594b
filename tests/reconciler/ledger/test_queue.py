"""The queue, one operation at a time, in each database that may have the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import HOUR, MINUTE, SECOND, Millis
from reconciler.ledger import alerts, beside
from reconciler.ledger.queue import deliveries, destinations, known, past_deliveries, replay
from reconciler.ledger.queue.deliveries import Attempt, Settled
from reconciler.ledger.queue.destinations import Breaker, DestinationSpec
from reconciler.ledger.queue.in_the_way import in_the_way
from reconciler.ledger.queue.replay import Replay, ReplayRequest
from reconciler.ledger.queue.routes import Candidate, Route, Undecided
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.location import Location
from tests.support import outcomes

NOW = times.from_iso("2026-11-25T12:00:00.000Z")
ROUTE = Route(1, "project", lambda _: True)


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    """A ledger with a destination."""
    with closing(connect(ledger_at)) as db:
        with transaction(db):
            destinations.sync(db, [DestinationSpec("one")], now=NOW)
        yield db


def told(db: Database, *projects: int, payload: str = "{}", route: Route | None = ROUTE) -> None:
    """An event of each of these projects is recorded."""
    first = db.execute("SELECT count(*) FROM sightings").fetchone()[0]
    some = [
        Sighting(
            source="webhook:default",
            source_id=str(number),
            identity=Identity(f"note:{number}", Millis(NOW + number * SECOND), Precision.GITLAB_TIME),
            summary=Summary(kind="note", project_id=project, project_path=f"group/p{project}"),
            seen_at=NOW,
            payload=payload,
            payload_sha=str(number),
        )
        for number, project in enumerate(projects, first)
    ]
    with transaction(db):
        record(db, some, now=NOW, routes=[] if route is None else [route])


def attempt(event_id: int, error: str | None = None) -> Attempt:
    return Attempt(event_id, 1, event_id, 1, NOW, Millis(NOW + 5), 500 if error else 200, error and "http_5xx", error)


def fail(db: Database, event_id: int, attempts: int = 1) -> None:
    with transaction(db):
        for _ in range(attempts):
            outcomes.retry(db, attempt(event_id, "no"), pause=HOUR, now=NOW)


def states(db: Database) -> dict[int, str]:
    return dict(db.execute("SELECT event_id, state FROM deliveries ORDER BY event_id").fetchall())


def test_messages_are_read_in_the_order_asked_up_to_a_size(db: Database) -> None:
    told(db, *[1] * 6, payload=json.dumps({"text": "x" * 989}))  # 1001 bytes

    def read(*asked: int, most_bytes: int) -> list[int]:
        found = deliveries.ready(db, 1, asked, most_bytes=most_bytes)
        assert all(len(one.event.payload) == 1001 for one in found)
        return [one.queued.event_id for one in found]

    assert read(5, 2, 4, 1, most_bytes=1 << 20) == [5, 2, 4, 1]
    assert read(5, 2, 4, 1, most_bytes=2002) == [5, 2]
    assert read(5, 2, 4, 1, most_bytes=2003) == [5, 2, 4]
    assert read(3, 99, 2, most_bytes=1) == [3]
    assert read(99, most_bytes=1) == []


def test_an_event_is_sent_as_it_was_recorded(db: Database) -> None:
    told(db, 7, payload='{"a": "ü"}')
    fail(db, 1)
    [one] = deliveries.ready(db, 1, [1], most_bytes=1)
    assert one.event == deliveries.outgoing(db, 1)
    assert one.event.summary == Summary(kind="note", project_id=7, project_path="group/p7")
    assert one.queued == deliveries.Queued("project:7", 1, 1, 1, 0, NOW, NOW)
    assert deliveries.failed_often(db, 1, [1, 2], failures=1) == {1}
    assert deliveries.failed_often(db, 1, [1, 2], failures=2) == set()


def test_outcomes_of_a_batch_are_recorded_together(db: Database) -> None:
    told(db, *range(1, 8))
    settled = []
    for n in (1, 4):
        settled += [
            Settled(attempt(n, "no"), NOW, is_dead_letter=True),
            Settled(attempt(n + 1, "no"), NOW, pause=MINUTE),
            Settled(attempt(n + 2), NOW),
        ]
    with transaction(db):
        deliveries.settle(db, settled)
    assert [*states(db).values()] == ["dead", "retrying", "delivered"] * 2 + ["pending"]
    assert db.execute("SELECT event_id, status FROM attempts ORDER BY id").fetchall() == [
        (n, 200 if n % 3 == 0 else 500) for n in range(1, 7)
    ]
    assert deliveries.next_due(db, 1, after=NOW) == NOW + MINUTE
    assert deliveries.next_due(db, 1, after=Millis(NOW + MINUTE)) is None
    assert deliveries.due_lanes(db, 1, now=NOW, limit=9) == ["project:7"]
    assert set(deliveries.due_lanes(db, 1, now=Millis(NOW + MINUTE), limit=9)) == {f"project:{n}" for n in (2, 5, 7)}


def test_a_destination_is_paused_resumed_and_removed(db: Database) -> None:
    told(db, 1, 2)
    fail(db, 1)
    with transaction(db):
        destinations.note_breaker(db, 1, Breaker("open", 5, Millis(NOW + HOUR), NOW))
    beside.pause(db, 1, now=NOW)
    [one] = destinations.destination_states(db)
    assert (one.paused_at, one.breaker) == (NOW, Breaker("open", 5, Millis(NOW + HOUR), NOW))
    beside.resume(db, 1)
    [one] = destinations.destination_states(db)
    assert (one.paused_at, one.breaker.state, one.breaker.until, one.resumes) == (None, "half_open", 0, 1)
    assert [*states(db).values()] == ["pending"] * 2
    beside.remove(db, 1)
    assert destinations.destination_states(db) == []
    assert states(db) == {}
    assert db.execute("SELECT count(*) FROM lanes").fetchone()[0] == 0


def test_destinations_of_the_config_are_the_active_ones(db: Database) -> None:
    with transaction(db):
        assert destinations.add(db, [DestinationSpec("one"), DestinationSpec("two", "none")]) == {"one": 1, "two": 2}
        assert destinations.sync(db, [DestinationSpec("two", "object")], now=NOW) == {"two": 2}
    assert [(one.name, one.active) for one in destinations.destination_states(db)] == [("one", False), ("two", True)]


def test_the_event_in_the_way_is_reported_and_skipped(db: Database) -> None:
    told(db, 1, 1, 1, 2, 2)
    fail(db, 1, attempts=10)
    fail(db, 4, attempts=3)
    found = in_the_way(db, 1, "one")
    assert found is not None
    assert (found.event_id, found.project, found.failures, found.behind) == (1, "group/p1", 10, 2)
    [condition] = alerts.destination_conditions(db, hold={}, now=NOW)
    assert (condition.what, condition.subject) == ("lane_blocked", "one")
    assert "event 1 (note in group/p1) blocks its lane" in condition.text
    assert beside.skip(db, 1, 1, now=NOW)
    assert not beside.skip(db, 1, 1, now=NOW)
    sql = "SELECT state, last_error FROM deliveries WHERE event_id = 1"
    assert db.execute(sql).fetchone() == ("dead", "skipped manually, after: no")
    second = in_the_way(db, 1, "one")
    assert second is not None
    assert second.event_id == 4


def test_an_alert_is_opened_once_and_closed(db: Database) -> None:
    told(db, 1, 2)
    with transaction(db):
        outcomes.mark_dead(db, attempt(1, "no"))
    for text, rest in (("1 dead letter:", []), ("2 dead letters:", [2])):
        found = alerts.destination_conditions(db, hold={}, now=NOW)
        assert [one.what for one in found] == ["dead_letters"]
        assert alerts.changes(db, found)
        with transaction(db):
            noted = alerts.note(db, found, now=NOW, routes=[ROUTE])
        assert bool(noted.texts) is not bool(rest)
        assert not alerts.changes(db, found)
        [one] = alerts.alerts(db)
        assert text.rstrip(":") in one["text"]
        with transaction(db):
            outcomes.mark_dead(db, attempt(2, "no"))
    with transaction(db):
        [over] = alerts.note(db, [], now=NOW, routes=[]).texts
    assert "no dead letters left" in over
    assert [one["over_at"] for one in alerts.alerts(db)] == [times.iso(NOW)]


def test_events_are_sent_again(db: Database) -> None:
    told(db, 1, 2, 1)
    told(db, 3, route=None)
    with transaction(db):
        outcomes.mark_dead(db, attempt(1, "no"))
        outcomes.deliver(db, attempt(2))

    def found(request: ReplayRequest) -> list[Replay]:
        return list(replay.find(db, request, ROUTE))

    assert replay.unknown(db, [3, 99, 98, 1]) == {98: None, 99: None}
    assert found(ReplayRequest(event_ids=(3, 1, 99))) == [Replay(1, "project:1"), Replay(3, "project:1")]
    assert found(ReplayRequest(event_ids=(1, 2), dead_letters_only=True)) == [Replay(1, "project:1")]
    assert found(ReplayRequest(dead_letters_only=True)) == [Replay(1, "project:1")]
    assert [one.event_id for one in found(ReplayRequest())] == [1, 2, 3, 4]
    replay.queue_replays(db, 1, found(ReplayRequest()), now=NOW)
    assert [*states(db).values()] == ["pending"] * 4
    replays = "SELECT event_id, replays, attempts_before FROM deliveries ORDER BY event_id"
    assert db.execute(replays).fetchall() == [(1, 1, 1), (2, 1, 1), (3, 0, 0), (4, 1, 0)]


@pytest.mark.parametrize("dead_letters_only", [False, True])
def test_a_replay_leaves_out_what_is_recorded_while_it_runs(db: Database, dead_letters_only: bool) -> None:
    def more(count: int) -> None:
        told(db, *[1] * count)
        with transaction(db):
            db.execute("UPDATE deliveries SET state = 'dead'")

    more(3)
    counted = replay.of_now(db, ReplayRequest(dead_letters_only=dead_letters_only))
    more(2)
    assert [one.event_id for one in replay.find(db, counted, ROUTE)] == [1, 2, 3]
    found = replay.find(db, ReplayRequest(dead_letters_only=dead_letters_only), ROUTE)
    ids = [next(found).event_id]
    more(replay.EVENTS_A_STEP)
    ids += [one.event_id for one in found]
    assert ids == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("start", ["beginning", Millis(NOW + 1000 * SECOND)])
def test_a_past_is_opened_in_parts(db: Database, start: destinations.Start) -> None:
    told(db, *[1, 2] * 600)
    with transaction(db):
        two = destinations.add(db, [DestinationSpec("two", start=start)])["two"]
    told(db, 1)

    def accepts(candidate: Candidate) -> bool:
        if candidate.body:
            raise Undecided("strange")
        return candidate.summary.project_id == 1 and "group/p1" in candidate.other_paths

    opened = []
    while True:
        with transaction(db):
            part = past_deliveries.open_past_deliveries(db, Route(two, "none", accepts), now=NOW)
        if part is None:
            break
        opened.append(len(part))
    assert sum(opened) == (600 if start == "beginning" else 100)
    assert len(opened) == 3
    heads = "SELECT count(*) FROM lanes WHERE destination_id = ?"
    assert db.execute(heads, [two]).fetchone()[0] == sum(opened)


def test_what_a_filter_can_t_decide_is_a_dead_letter(db: Database) -> None:
    def accepts(_: Candidate) -> bool:
        raise Undecided("strange")

    told(db, 1, route=Route(1, "project", accepts))
    sql = "SELECT state, finished_at, last_error FROM deliveries"
    assert db.execute(sql).fetchone() == ("dead", times.iso(NOW), "the filter can't decide: strange")


def test_projects_are_known_by_any_of_their_names(db: Database) -> None:
    told(db, 7)
    with transaction(db):
        known.note_former(db, 7, "Old/Place")
        known.note_former(db, 7, "old/place")
        known.note_former(db, 8, "old/place")  # whose project is not known
    assert known.projects(db) == [(7, "group/p7")]
    assert [(one.path, one.project_id, one.now) for one in known.renamed(db)] == [("Old/Place", 7, "group/p7")]
    assert known.renames(db) == 2
    assert sorted(known.paths(db, 7)) == ["Old/Place", "group/p7"]
    assert [known.has_project(db, name) for name in ("GROUP/p7", "OLD/place", "x", 7, 8)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert [known.has_kind(db, kind) for kind in ("note", "push")] == [True, False]
    assert known.sources(db) == ["webhook:default"]

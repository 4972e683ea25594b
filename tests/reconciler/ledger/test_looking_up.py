"""Finding one thing, or a page of things, costs the same in a ledger of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import DAY, MINUTE, Millis
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.queue import deliveries, destinations, discarding, replay
from reconciler.ledger.queue.replay import ReplayRequest
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage import connection
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.views import browse, dead_letters
from reconciler.ledger.views.browse import Filter
from reconciler.location import Location
from tests.support import outcomes
from tests.support.cost import counted
from tests.support.history import START

ROUTES = [Route(1, "project", lambda _: True), Route(2, "none", lambda _: True)]
RARE = 7
"""Which events are of a rare kind, of a rare project, and dead for the first destination: the first of them."""


def event(number: int, at: Millis) -> Sighting:
    is_rare = number < RARE
    return Sighting(
        source="webhook:default",
        source_id=str(number),
        identity=Identity(f"note:{number}", at, Precision.GITLAB_TIME),
        summary=Summary(kind="release" if is_rare else "note", project_id=1 if is_rare else 2),
        seen_at=START,
        payload="{}",
        payload_sha=str(number),
    )


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    with closing(connect(ledger_at)) as db:
        specs = [destinations.DestinationSpec("one"), destinations.DestinationSpec("two", "none")]
        with transaction(db):
            destinations.sync(db, specs, now=START)
        yield db


def minute(number: int) -> Millis:
    return Millis(START + number * MINUTE)


def fill(db: Database, numbers: range, time_of: Callable[[int], Millis] = minute) -> None:
    """Record events; all are dead letters of the second destination."""
    with transaction(db):
        record(db, [event(number, time_of(number)) for number in numbers], now=START, routes=ROUTES)
        for number in numbers:
            ident = number + 1
            outcomes.mark_dead(db, deliveries.Attempt(ident, 2, ident, 1, START, START, 500, "http_5xx", "no"))
            if number < RARE:
                outcomes.mark_dead(db, deliveries.Attempt(ident, 1, ident, 1, START, START, 500, "http_5xx", "no"))
    if not isinstance(db, SqliteDatabase):
        db.execute("ANALYZE")


def find(db: Database, wanted: ReplayRequest, route: int) -> list[Any]:
    """The first step of what would be sent again."""
    return list(islice(replay.find(db, wanted, ROUTES[route]), RARE))


EARLY = Millis(START + RARE * MINUTE)
LOOKED_UP: dict[str, Callable[[Database], Sequence[Any] | dict[str, Any] | None]] = {
    "events list": lambda db: browse.newest(db, Filter(), limit=5),
    "events list --kind": lambda db: browse.newest(db, Filter(kind="release"), limit=50),
    "events list --project": lambda db: browse.newest(db, Filter(project=1), limit=50),
    "events list --to": lambda db: browse.newest(db, Filter(until=EARLY), limit=5),
    "events list --to --project": lambda db: browse.newest(db, Filter(until=EARLY, project=1), limit=5),
    "events list --from": lambda db: browse.newest(db, Filter(since=Millis(START)), limit=5),
    "events list --from --kind": lambda db: browse.newest(db, Filter(since=Millis(START), kind="note"), limit=5),
    "events list, older": lambda db: browse.newest(db, Filter(), limit=5, before=6),
    "events show": lambda db: browse.show(db, 5),
    "dead-letters list": lambda db: dead_letters.dead_letters(db, Filter(), destination=None, limit=5),
    "dead-letters list --destination": lambda db: dead_letters.dead_letters(db, Filter(), destination="one", limit=5),
    "dead-letters show": lambda db: dead_letters.dead_letters_of(db, 5),
    "dead-letters replay --destination": lambda db: find(db, ReplayRequest(dead_letters_only=True), 0),
    "dead-letters replay ID": lambda db: find(db, ReplayRequest(event_ids=(5,), dead_letters_only=True), 1),
    "dead-letters discard ID": lambda db: list(
        discarding.dead_letters(db, ReplayRequest(event_ids=(5,), dead_letters_only=True), 2)
    ),
    "replay ID": lambda db: find(db, ReplayRequest(event_ids=(5,)), 1),
    "replay --from --to": lambda db: find(db, ReplayRequest(Filter(since=Millis(START), until=EARLY)), 0),
}


def test_looking_up_costs_the_same_in_a_ledger_of_any_size(db: Database) -> None:
    costs: dict[str, list[int]] = {command: [] for command in LOOKED_UP}
    for numbers in (range(600), range(600, 3000)):
        fill(db, numbers)
        for command, look_up in LOOKED_UP.items():
            with counted(db) as cost:
                assert look_up(db)
            costs[command].append(cost.steps)
    assert {command: (few, many) for command, (few, many) in costs.items() if many > 1.2 * few + 2} == {}


@pytest.mark.parametrize("dead_letters_only", [False, True])
@pytest.mark.parametrize("wanted", [Filter(), Filter(since=EARLY), Filter(until=Millis(START + DAY), kind="note")])
def test_all_that_is_to_go_out_again_is_found_once(db: Database, wanted: Filter, dead_letters_only: bool) -> None:
    """It is found in steps, and more events than a step has happened in the same millisecond."""
    noon = Millis(START + 300 * MINUTE)
    fill(db, range(1200), lambda number: noon if number >= 20 else Millis(START + number * MINUTE))
    found = [
        again.event_id
        for again in replay.find(db, ReplayRequest(wanted, dead_letters_only=dead_letters_only), ROUTES[1])
    ]
    assert found == list(range(1 if wanted == Filter() else RARE + 1, 1201))


def test_the_newest_dead_letters_are_those_of_the_newest_events(db: Database) -> None:
    """Of whichever destination: one that has many hides no other's."""
    fill(db, range(20))
    shown = dead_letters.dead_letters(db, Filter(until=EARLY), destination=None, limit=4)
    assert [(one["id"], one["destination"]) for one in shown] == [(6, "one"), (6, "two"), (7, "one"), (7, "two")]


def test_what_a_part_of_a_service_asks_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    connect(path).close()
    monkeypatch.setattr(connection, "LOOK_S", 0.05)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(LedgerUnavailable, match="takes too long"), connection.look_at(path, lambda: None) as db:
        db.execute(endless)

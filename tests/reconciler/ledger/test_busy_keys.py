"""Keys that are told again and again: the ledger groups what is near, and comes to what one computation comes to."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from tests.reconciler.ledger.test_matching_histories import feed, pure
from tests.support.cost import Cost, counted
from tests.support.effort import tries
from tests.support.history import START, Partition, partition
from tests.support.ledgers import NewLedger

SOURCES = {
    "project_events": Precision.GITLAB_TIME,
    "webhook:a": Precision.RECEIVED_TIME,
    "webhook:b": Precision.RECEIVED_TIME,
}


def report(source: str, number: int, at: int, precision: Precision, sha: str) -> Sighting:
    return Sighting(
        source=source,
        source_id=f"{source} {number}",
        identity=Identity("key", Millis(START + at), precision),
        summary=Summary(kind="wiki_page", project_id=1),
        seen_at=START,
        payload="{}",
        payload_sha=sha,
    )


def busy(dice: random.Random, *, pace: int, sources: list[str], precise: str, edits: int) -> list[Sighting]:
    """One key, told by several sources at any pace: some fail now and then, some are late, some repeat themselves."""
    precision_of = {one: SOURCES[one] if precise == "as usual" else dice.choice(list(Precision)) for one in sources}
    fails = {one: dice.choice([0, 0.02, 0.3, 0.7]) for one in sources}
    late = {one: dice.choice([0, pace // 20, pace // 2, pace * 2, pace * 10]) for one in sources}
    jitter = dice.choice([0, pace // 10, pace])
    told: list[Sighting] = []
    at = 0
    for number in range(edits):
        at += dice.choice([pace, pace, dice.randint(0, pace), pace * dice.choice([1, 1, 30])])
        for source in sources:
            if dice.random() >= fails[source]:
                moment = at + late[source] + dice.randint(0, jitter)
                precision = dice.choice(list(Precision)) if precise == "mixed" else precision_of[source]
                sha = dice.choice([str(number), str(number), "same"])
                copies = range(dice.choice([1, 1, 2]))
                told += [report(source, len(told) + copy, moment, precision, sha) for copy in copies]
    return told


@settings(deadline=None, max_examples=tries(15))
@given(
    seed=st.integers(0, 2**32),
    pace=st.sampled_from([0, 5, SECOND, MINUTE, 20 * MINUTE, 3 * HOUR, DAY]),
    sources=st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, unique=True),
    precise=st.sampled_from(["as usual", "any", "mixed"]),
    edits=st.integers(20, 70),
    order=st.sampled_from(["as told", "backwards", "any"]),
)
def test_any_order_and_any_batches_come_to_what_one_computation_comes_to(
    new_ledger: NewLedger, seed: int, pace: int, sources: list[str], precise: str, edits: int, order: str
) -> None:
    dice = random.Random(seed)
    told = busy(dice, pace=pace, sources=sources, precise=precise, edits=edits)
    coming = sorted(told, key=lambda s: s.identity.happened_at, reverse=order == "backwards")
    if order == "any":
        dice.shuffle(coming)
    batches, largest = [], dice.choice([3, 10, 60])
    while coming:
        size = dice.randint(1, largest)
        batches.append(coming[:size])
        coming = coming[size:]
    assert feed(new_ledger, batches, told_after=dice.choice([0, 1, 5])).grouping == pure(told)


@settings(deadline=None, max_examples=tries(5))
@given(seed=st.integers(0, 2**32), pace=st.sampled_from([6 * MINUTE, 12 * MINUTE]), failing=st.booleans())
def test_what_others_tell_of_a_long_history_of_one_source_now_and_then(
    new_ledger: NewLedger, seed: int, pace: int, failing: bool
) -> None:
    """Partners may be hours apart: what comes may change what is hours away, and nothing beyond."""
    dice = random.Random(seed)
    times = [number * pace + dice.randint(0, pace // 2) for number in range(400)]
    told = [report("webhook:a", n, at, Precision.RECEIVED_TIME, f"webhook {n}") for n, at in enumerate(times)]
    span = times[-1] // 2 if failing else times[-1]
    records = [
        report("project_events", number, dice.randint(0, span), Precision.GITLAB_TIME, f"record {number}")
        for number in range(dice.choice([1, 4, 12, 60]))
    ]
    assert feed(new_ledger, [told, *([record] for record in records)]).grouping == pure([*told, *records])


def page(edits: int, *, lost: frozenset[int] = frozenset()) -> list[Sighting]:
    """A page that a bot edits once a minute, told by a webhook and by a record."""
    told = []
    for number in range(edits):
        at = number * MINUTE + number * 7919 % 9000
        told.append(report("project_events", number, at, Precision.GITLAB_TIME, f"record {number}"))
        if number not in lost:
            told.append(report("webhook:a", number, at + 2 * SECOND, Precision.RECEIVED_TIME, f"webhook {number}"))
    return told


@pytest.fixture
def db(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(connect(tmp_path / "ledger.db")) as db:
        db.execute("PRAGMA synchronous = OFF")  # nothing is killed here
        yield db


def write(db: Database, *batches: list[Sighting]) -> None:
    for batch in batches:
        with transaction(db):
            record(db, batch, now=START)


def grouping(db: Database) -> Partition:
    rows = db.execute("SELECT event_id, source, source_id FROM sightings").fetchall()
    return partition(lambda: [(event, (source, ident)) for event, source, ident in rows])


def cost_of(db: SqliteDatabase, sightings: Sequence[Sighting]) -> Cost:
    """What it costs to record sightings one by one."""
    with counted(db) as cost:
        write(db, *([sighting] for sighting in sightings))
    return cost


def written(cost: Cost) -> list[str]:
    words = [sql.split()[0] for sql in cost.statements]
    return [word for word in words if word not in ("SELECT", "BEGIN", "COMMIT")]


@pytest.mark.parametrize("lost", [frozenset(), frozenset(range(0, 3000, 7))], ids=["all told", "some lost"])
def test_one_more_sighting_costs_the_same_however_long_the_history(db: SqliteDatabase, lost: frozenset[int]) -> None:
    told = page(3000, lost=lost)
    costs = []
    for history, more in ((told[:400], told[400:440]), (told[440:-40], told[-40:])):
        write(db, history)
        costs.append(cost_of(db, more))
    assert len(costs[1].statements) <= 1.2 * len(costs[0].statements)
    assert costs[1].steps <= 1.2 * costs[0].steps


def test_what_stays_as_it_is_is_not_written(db: SqliteDatabase) -> None:
    write(db, page(200))
    cost = cost_of(db, [report("webhook:a", 200, 200 * MINUTE, Precision.RECEIVED_TIME, "new")])
    once = dict.fromkeys(cost.statements)  # a statement whose trigger looks at its row is traced for that too
    written = [sql.split()[0] for sql in once if sql.split()[0] not in ("SELECT", "BEGIN", "COMMIT")]
    assert written == ["INSERT", "INSERT", "INSERT", "INSERT"]  # the event, the sighting, its hashes, its project


def test_events_of_an_earlier_rule_are_taken_apart_whole(new_ledger: NewLedger) -> None:
    """A ledger from before keys were cut may hold events that reach from one segment to another."""
    told = page(400)
    wrong = """
        UPDATE sightings SET event_id = (SELECT event_id FROM sightings WHERE source_id = ?) WHERE source_id = ?
    """
    late = report("webhook:b", 399, 399 * MINUTE + SECOND, Precision.RECEIVED_TIME, "webhook 399")
    with new_ledger() as db:
        write(db, told)
        db.execute(wrong, ["webhook:a 100", "webhook:a 399"])
        db.execute("DELETE FROM events WHERE id NOT IN (SELECT event_id FROM sightings)")
        write(db, [late])
        assert grouping(db) == pure([*told, late])

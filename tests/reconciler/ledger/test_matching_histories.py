"""The heart: whatever the sources tell, in whatever order, each thing that happened is one event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.events import matching, times
from reconciler.events.pairing import Seen
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.ledger.queue.deliveries import Attempt
from reconciler.ledger.queue.destinations import DestinationSpec, sync
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage import hashes
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from tests.support import outcomes
from tests.support.collisions import few_digests, no_digest
from tests.support.effort import tries
from tests.support.history import (
    HOUR,
    MINUTE,
    SECOND,
    START,
    Partition,
    Told,
    as_they_come,
    histories,
    partition,
    shuffled,
)
from tests.support.ledgers import NewLedger

relaxed = settings(
    deadline=None, max_examples=tries(60), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass
class Fed:
    """What a ledger came to: its grouping, how often each event was delivered, and how many were absorbed."""

    grouping: Partition
    attempts: list[int]
    absorbed: int


def feed(new_ledger: NewLedger, batches: list[list[Sighting]], *, told_after: int = 0) -> Fed:
    """Record batches in a new ledger.

    After every `told_after` batches, what is open is delivered.
    """
    with new_ledger() as db:
        with transaction(db):
            sync(db, [DestinationSpec("one")], now=START)
        for number, batch in enumerate(batches, start=1):
            with transaction(db):
                record(db, batch, now=START, routes=[Route(1, "project", lambda _: True)])
            if told_after and number % told_after == 0:
                _deliver_all(db)
        _deliver_all(db)
        rows = db.execute("SELECT event_id, source, source_id FROM sightings").fetchall()
        _is_sound(db)
        attempts = db.execute(
            "SELECT d.attempts FROM deliveries d JOIN events e ON e.id = d.event_id WHERE e.merged_into IS NULL"
        ).fetchall()
        absorbed = db.execute("SELECT count(*) FROM events WHERE merged_into IS NOT NULL").fetchone()[0]
        grouping = partition(lambda: [(event, (source, ident)) for event, source, ident in rows])
        return Fed(grouping, [number for (number,) in attempts], absorbed)


def _deliver_all(db: Database) -> None:
    with transaction(db):
        sql = """
            SELECT e.id, e.sighting_id FROM deliveries d JOIN events e ON e.id = d.event_id WHERE state = 'pending'
        """
        for event_id, sighting_id in db.execute(sql).fetchall():
            outcomes.deliver(db, Attempt(event_id, 1, sighting_id, 1, START, START, 200))


def _is_sound(db: Database) -> None:
    """Every event has its own payload, happened when one of its sightings says, and is owed to the destination."""
    broken = db.execute(
        """
        SELECT e.id FROM events e JOIN sightings s ON s.id = e.sighting_id
         WHERE e.merged_into IS NULL
           AND (s.event_id <> e.id OR e.happened_at NOT IN (SELECT happened_at FROM sightings WHERE event_id = e.id)
                OR NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = e.id))
        """
    ).fetchall()
    assert broken == []
    told_something_else = db.execute(
        """
        SELECT d.event_id
          FROM deliveries d JOIN events e ON e.id = d.event_id JOIN sightings t ON t.id = d.sighting_id
         WHERE e.merged_into IS NULL
           AND t.payload_sha NOT IN (SELECT payload_sha FROM sightings WHERE event_id = d.event_id)
        """
    ).fetchall()
    assert told_something_else == []
    absorbed_by_another = db.execute(
        """
        SELECT e.id FROM events e JOIN deliveries d ON d.event_id = e.id JOIN sightings t ON t.id = d.sighting_id
         WHERE e.merged_into <> t.event_id
        """
    ).fetchall()
    assert absorbed_by_another == []
    poorer = db.execute(
        """
        SELECT e.id FROM events e JOIN sightings s ON s.id = e.sighting_id
         WHERE e.merged_into IS NULL AND s.source NOT LIKE 'webhook:%'
           AND EXISTS (SELECT 1 FROM sightings w WHERE w.event_id = e.id AND w.source LIKE 'webhook:%')
        """
    ).fetchall()
    assert poorer == []


@relaxed
@given(told=histories(), seed=st.integers(0, 2**32))
def test_one_event_for_each_thing_that_happened(new_ledger: NewLedger, told: Told, seed: int) -> None:
    truth = partition(lambda: [(number, name) for name, number in told.truth.items()])
    fed = feed(new_ledger, shuffled(told.sightings, seed), told_after=1 + seed % 4)
    assert fed.grouping == truth
    assert fed.attempts == [1] * len(truth)


@pytest.mark.long
@relaxed
@given(told=histories(), poll=st.sampled_from([MINUTE, 10 * MINUTE, 12 * HOUR]))
def test_nothing_is_told_twice_when_things_come_as_they_do(new_ledger: NewLedger, told: Told, poll: int) -> None:
    """Webhooks when they are received, records when the next poll reads them, each delivered at once."""
    truth = partition(lambda: [(number, name) for name, number in told.truth.items()])
    fed = feed(new_ledger, as_they_come(told.sightings, poll), told_after=1)
    assert fed.grouping == truth
    assert fed.attempts == [1] * len(truth)
    assert fed.absorbed == 0


@settings(relaxed, max_examples=tries(20))
@given(told=histories(), seed=st.integers(0, 2**32), digest=st.sampled_from([no_digest, few_digests]))
def test_collisions_of_hashes_change_nothing(
    new_ledger: NewLedger, told: Told, seed: int, digest: Callable[..., Any]
) -> None:
    truth = partition(lambda: [(number, name) for name, number in told.truth.items()])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hashes, "blake2b", digest)
        fed = feed(new_ledger, shuffled(told.sightings, seed), told_after=1 + seed % 4)
    assert fed.grouping == truth
    assert fed.attempts == [1] * len(truth)


times_near = st.one_of(
    st.integers(0, 30), st.integers(0, 2 * times.HOUR), st.sampled_from([0, 60_000, 60_001, 900_000, 43_200_000])
)


@st.composite
def anything(draw: st.DrawFn) -> list[Sighting]:
    """Sightings of one key by several sources at any times: nothing that GitLab would do."""
    precision_of = {
        "project_events": Precision.GITLAB_TIME,
        "webhook:a": draw(
            st.sampled_from(
                [
                    Precision.GITLAB_TIME,
                    Precision.RECEIVED_TIME,
                    Precision.RECEIVED_UNVERIFIED,
                    Precision.RECEIVED_REPEATABLE,
                ]
            )
        ),
        "webhook:b": draw(st.sampled_from([Precision.GITLAB_TIME, Precision.RECEIVED_TIME])),
    }
    drawn = draw(
        st.lists(
            st.tuples(st.sampled_from(sorted(precision_of)), times_near, st.sampled_from(["x", "y", "z"])),
            min_size=1,
            max_size=9,
        )
    )
    return [
        Sighting(
            source=source,
            source_id=str(number),
            identity=Identity("key", Millis(START + time), precision_of[source]),
            summary=Summary(kind="push", project_id=1),
            seen_at=START,
            payload="{}",
            payload_sha=sha,
        )
        for number, (source, time, sha) in enumerate(drawn)
    ]


def pure(sightings: list[Sighting]) -> Partition:
    seen = [
        Seen(s.identity.happened_at, s.source, s.source_id, s.identity.precision, s.payload_sha, label)
        for label, s in enumerate(sightings)
    ]
    groups = matching.group(seen)
    return {frozenset((s.source, s.source_id) for s in members) for members in groups}


@pytest.mark.long
@relaxed
@given(sightings=anything(), seed=st.integers(0, 2**32))
def test_grouping_depends_on_the_set_alone(new_ledger: NewLedger, sightings: list[Sighting], seed: int) -> None:
    batches = shuffled(sightings, seed)
    assert pure([s for batch in shuffled(sightings, seed, repeat=False) for s in batch]) == pure(sightings)
    assert feed(new_ledger, batches, told_after=seed % 3).grouping == pure(sightings)


def report(source: str, at: int, content: str = "") -> Sighting:
    """A push of the same two commits, told by one source at a time."""
    return Sighting(
        source=source,
        source_id=str(at),
        identity=Identity(
            "push:1:refs/heads/main:a:b",
            Millis(START + at),
            Precision.GITLAB_TIME if source == "project_events" else Precision.RECEIVED_TIME,
        ),
        summary=Summary(kind="push", project_id=1),
        seen_at=START,
        payload="{}",
        payload_sha=content or f"{source} {at}",
    )


def test_the_design_s_example_a_weaker_link_gives_way(new_ledger: NewLedger) -> None:
    """Webhooks at 0 s (lost) and 10 s, records at 1 s and 11 s: greedy pairing would lose what happened at 0 s."""
    webhook = report("webhook:default", 10 * SECOND)
    early, late = report("project_events", SECOND), report("project_events", 11 * SECOND)
    expected = {
        frozenset({("project_events", "1000")}),
        frozenset({("webhook:default", "10000"), ("project_events", "11000")}),
    }
    for batches in ([[webhook], [early], [late]], [[early], [webhook], [late]], [[late, early], [webhook]]):
        fed = feed(new_ledger, batches, told_after=1)
        assert fed.grouping == expected
        assert (fed.attempts, fed.absorbed) == ([1, 1], 0)


def test_bytes_that_were_told_stand_for_either_of_two_alike(new_ledger: NewLedger) -> None:
    """Two hooks tell of two alike pushes; for a while the evidence pairs them wrongly. Two are told, not three."""
    first, second = report("webhook:a", 0, "same"), report("webhook:b", 6 * MINUTE, "same")
    nearer = report("webhook:b", MINUTE, "same")
    records = report("project_events", 6 * MINUTE), report("project_events", 0)
    for upto in (4, 5):
        fed = feed(new_ledger, [[s] for s in (first, second, nearer, *records)][:upto], told_after=1)
        assert (fed.attempts, fed.absorbed) == ([1, 1], 0)
    assert fed.grouping == {
        frozenset({("webhook:a", "0"), ("webhook:b", "60000"), ("project_events", "0")}),
        frozenset({("webhook:b", "360000"), ("project_events", "360000")}),
    }

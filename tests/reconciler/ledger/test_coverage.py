"""Coverage: intervals join, gaps are what is left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.events.intervals import Interval, uncovered
from reconciler.events.times import Millis
from reconciler.ledger.coverage.intervals import cover, covered
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.database import Database
from reconciler.location import Location
from tests.support.ledgers import nothing_kept

moments = st.integers(0, 60).map(Millis)
intervals = st.lists(st.builds(Interval, moments, moments), max_size=12)


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    with closing(connect(ledger_at)) as db:
        yield db


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(read=intervals, asked=st.tuples(moments, moments))
def test_covered_and_gaps_are_every_moment_once(
    db: Database, read: list[Interval], asked: tuple[Millis, Millis]
) -> None:
    moments = {m for interval in read for m in range(interval.start, interval.end)}
    with nothing_kept(db):
        for interval in read:
            cover(db, 1, "project_events", interval)
        cover(db, 2, "project_events", Interval(Millis(0), Millis(60)))
        found = covered(db, 1, "project_events")
    assert {m for i in found for m in range(i.start, i.end)} == moments
    assert all(left.end < right.start for left, right in itertools.pairwise(found))
    left = uncovered(found, Interval(*asked))
    assert {m for i in left for m in range(i.start, i.end)} == set(range(*asked)) - moments

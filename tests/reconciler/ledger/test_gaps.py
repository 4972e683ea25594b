"""Gaps in few statements: found is what a look at each source finds, whatever the ledger holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.config.models import Config
from reconciler.dashboard import views
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import DAY, MINUTE, Millis
from reconciler.events.troubles import SWITCHED_OFF
from reconciler.ledger.coverage import downtime, intervals, source_state, watched
from reconciler.ledger.coverage.gaps import UNFINISHED, Gap, gaps
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.status import status
from reconciler.ledger.views.unknowns import SOURCES, Asked, Known, unknowns
from reconciler.location import Location
from tests.reconciler.ledger.test_query_plans import Watched
from tests.support.ledgers import nothing_kept

NOW = times.from_iso("2026-11-25T12:00:00.000Z")
KEEPS = {"log": Millis(50), "list": Millis(1000 * DAY)}
AT = st.integers(0, 100).map(lambda n: Millis(NOW - 100 + n))
PART = st.tuples(AT, AT).map(sorted).map(lambda pair: Interval(*pair))


class Told:
    """One source, as the test tells it to the ledger."""

    def __init__(
        self, since: Millis, until: Millis | None, read: list[Interval], trouble: str | None, trouble_at: Millis
    ) -> None:
        self.since, self.until, self.read, self.trouble, self.trouble_at = since, until, read, trouble, trouble_at

    def gaps(self, downs: list[Interval], expected: Millis, keeps_for: Millis) -> set[tuple[Interval, str]]:
        """Moment by moment."""
        end = expected if self.until is None else min(expected, self.until)
        if self.trouble == SWITCHED_OFF:
            end = min(end, Millis(self.trouble_at - (NOW - expected)))
        missing = [
            moment
            for moment in range(self.since, end)
            if not any(part.start <= moment < part.end for part in self.read)
        ]
        found = set()
        for start, stop in stretches(missing, NOW - keeps_for):
            if stop <= NOW - keeps_for:
                why = "too old"
            elif self.trouble and (self.trouble == SWITCHED_OFF or stop >= end):
                why = self.trouble
            elif any(down.start < stop and down.end > start for down in downs):
                why = "down"
            else:
                why = self.trouble or "not read yet"
            found.add((Interval(Millis(start), Millis(stop)), why))
        return found


def stretches(moments: list[int], forgotten: int) -> Iterator[tuple[int, int]]:
    """Moments that follow each other, cut where GitLab begins to know."""
    start = None
    for index, moment in enumerate(moments):
        start = moment if start is None else start
        following = moments[index + 1] if index + 1 < len(moments) else None
        if following != moment + 1 or following == forgotten:
            yield start, moment + 1
            start = None


TROUBLE = st.sampled_from([None, "refused", SWITCHED_OFF])
TOLD = st.builds(Told, AT, st.none() | AT, st.lists(PART, max_size=4), TROUBLE, AT)


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    with closing(connect(ledger_at)) as db:
        yield db


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.lists(TOLD, min_size=1, max_size=4), downs=st.lists(PART, max_size=3), expected=AT)
def test_gaps_are_those_of_each_source(
    db: Database, told: list[Told], downs: list[Interval], expected: Millis
) -> None:
    with nothing_kept(db):
        for down in downs:
            db.execute(
                "INSERT INTO downtimes VALUES (?, ?, 'killed') ON CONFLICT DO NOTHING",
                (times.iso(down.start), times.iso(down.end)),
            )
        downs = [one.during for one in downtime.downtimes(db)]
        wanted = set()
        for number, one in enumerate(told):
            source = ("log", "list")[number % 2]
            source_state.watch(db, number, source, one.since)
            for part in one.read:
                intervals.cover(db, number, source, part)
            if one.trouble is not None:
                source_state.note_read(db, number, source, one.since)
                source_state.note_trouble(db, number, source, one.trouble, "no", one.trouble_at)
            if one.until is not None:
                source_state.unwatch(db, number, until=one.until)
            wanted |= {(number, source, *gap) for gap in one.gaps(downs, expected, KEEPS[source])}
        found = gaps(db, keeps=KEEPS, expected=expected, now=NOW)
        assert {(gap.project_id, gap.source, gap.during, gap.why) for gap in found} == wanted
        assert len(found) == len(wanted)


def filled(db: Database, projects: int) -> None:
    """Projects with two sources each, all read up to now but for the first."""
    with transaction(db):
        watched.sync(db, [Name("gitlab", "u"), Name("group", "team")], NOW)
        watched.add_members(db, "team", {n: f"team/{n}" for n in range(1, projects + 1)}, NOW)
        for project in range(1, projects + 1):
            for source in KEEPS:
                source_state.watch(db, project, source, Millis(NOW - DAY))
                end = NOW - 30 * MINUTE if (project, source) == (1, "list") else NOW
                intervals.cover(db, project, source, Interval(Millis(NOW - DAY), Millis(end)))
                source_state.note_read(db, project, source, NOW)
        source_state.note_trouble(db, 1, "list", "refused", "no", NOW)


ASKED = Asked("u", True, [Name("group", "team")], Millis(NOW - MINUTE))
EXPECTED = Millis(NOW - MINUTE)
CONFIG = Config.model_validate({"receiver": {"hooks": [{"token": "t"}]}})
FACES: dict[str, Any] = {
    "gaps": lambda db: gaps(db, keeps=KEEPS, expected=EXPECTED, now=NOW),
    "unknowns": lambda db: unknowns(db, ASKED, now=NOW),
    "status": lambda db: status(db, asked=ASKED, keeps=KEEPS, expected=EXPECTED, now=NOW),
    "dashboard": lambda db: views.front(db, CONFIG, Known([], []), now=NOW),
}


@pytest.mark.parametrize("face", FACES)
def test_many_projects_cost_no_more_statements_than_few(ledger_at: Location, face: str) -> None:
    def statements(db: Any, projects: int) -> int:
        filled(db, projects)
        db.conn = watched_conn = Watched(db.conn)
        FACES[face](db)
        db.conn = watched_conn._conn
        return len(watched_conn.asked)

    with closing(connect(ledger_at)) as db:
        assert 0 < statements(db, 2) == statements(db, 60) < 60


def test_sources_without_a_gap_are_left_to_sql(ledger_at: Location) -> None:
    with closing(connect(ledger_at)) as db:
        filled(db, 60)
        asked = {"expected": times.iso(EXPECTED), "project": None}
        assert len(db.execute(UNFINISHED, asked).fetchall()) == 1
        assert len(db.execute(SOURCES).fetchall()) == 1
        found = gaps(db, keeps=KEEPS, expected=EXPECTED, now=NOW)
        during = Interval(Millis(NOW - 30 * MINUTE), EXPECTED)
        assert found == [Gap(1, "list", during, "refused", "no", Millis(during.start + KEEPS["list"]))]


def test_gaps_and_what_is_not_read_are_found_by_indexes(tmp_path: Path) -> None:
    asked = {"expected": times.iso(EXPECTED), "project": None}
    with closing(connect(tmp_path / "ledger.db")) as db:
        filled(db, 60)
        gaps_plan = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + UNFINISHED, asked)]
        sources_plan = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + SOURCES)]
    assert [step for step in gaps_plan if step.startswith("SCAN")] == ["SCAN s"]
    assert any(
        "SEARCH w USING PRIMARY KEY (project_id=? AND source=? AND covered_from<?)" in step for step in gaps_plan
    )
    assert any("INDEX sources_unread" in step for step in sources_plan)
    assert any("INDEX watched_by_project (project_id=?)" in step for step in sources_plan)

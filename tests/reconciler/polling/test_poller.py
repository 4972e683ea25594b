"""Which windows are read, and when coverage may grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.intervals import Interval, uncovered
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis
from reconciler.ledger.coverage import intervals
from reconciler.ledger.errors import LedgerDamaged, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.location import Location
from reconciler.polling.reconciling import reconciling
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Project, Slice
from tests.reconciler.polling.conftest import MakeHouse

PROJECT = Project(42, "group/project")


class Parts:
    """A reconciler with everything it needs, all of it real but GitLab."""

    def __init__(self, gitlab: Simulator, location: Location) -> None:
        self.gitlab = gitlab
        self.location = location
        self.db, self.reader = connect(location), connect(location, readonly=True)
        self.writer = Writer(self.db)
        self.ledger = Ledger(self.writer, self.reader)
        config = Config.model_validate(
            {
                "gitlab": {"url": gitlab.url, "token": gitlab.api.token},
                "projects": [42],
                "receiver": {"hooks": [{"token": "t"}]},
                "reconcile": {"grace_period": "1ms", "overlap": "5m", "sources": ["project_events"]},
            }
        )
        self.polling = reconciling(config, ledger=self.ledger)
        self.source = ProjectEvents(self.polling.client)
        self.poll = self.polling.poller.poll

    def events(self) -> int:
        return int(self.reader.execute("SELECT count(*) FROM events").fetchone()[0])

    def covered(self) -> list[Interval]:
        return intervals.covered(self.reader, 42, "project_events")


@pytest.fixture
def gitlab() -> Iterator[Simulator]:
    world = World()
    world.add_project(42, "group/project")
    with Simulator(world) as simulator:
        yield simulator


@pytest.fixture
async def parts(gitlab: Simulator, ledger_at: Location) -> AsyncIterator[Parts]:
    made = Parts(gitlab, ledger_at)
    yield made
    made.polling.stop()
    await made.writer.close()
    with closing(made.db), closing(made.reader):
        pass


def push_at(gitlab: Simulator, *moments: int) -> None:
    real = gitlab.world.clock
    for moment in moments:
        gitlab.world.clock = lambda moment=moment: moment  # type: ignore[misc]  # the default binds the loop variable
        gitlab.world.push(42)
    gitlab.world.clock = real


async def test_never_two_polls_of_one_project_at_a_time(parts: Parts) -> None:
    parts.gitlab.api.faults.slow_s = 0.2
    first, second = await asyncio.gather(parts.poll(42), parts.poll(42))
    assert [counts is None for counts in (first, second)] == [False, True]
    assert await parts.poll(42) is not None


async def test_the_first_poll_looks_back_by_the_overlap_only(parts: Parts) -> None:
    now = times.now()
    push_at(parts.gitlab, now - DAY, now - 4 * MINUTE, now - SECOND)
    counts = await parts.poll(42)
    assert counts is not None
    assert (counts.seen, counts.new) == (2, 2)


async def test_a_later_poll_reads_what_is_not_covered_with_an_overlap(parts: Parts) -> None:
    await parts.poll(42)
    with transaction(parts.db):  # as after two hours of downtime
        parts.db.execute("UPDATE coverage SET covered_through = ?", [times.iso(Millis(times.now() - 2 * HOUR))])
        parts.db.execute("UPDATE coverage SET covered_from = ?", [times.iso(Millis(times.now() - 3 * HOUR))])
        parts.db.execute("UPDATE sources SET watched_since = ?", [times.iso(Millis(times.now() - 3 * HOUR))])
    now = times.now()
    push_at(parts.gitlab, now - 2 * HOUR - 4 * MINUTE, now - HOUR, now - SECOND)
    counts = await parts.poll(42)
    assert counts is not None
    assert (counts.seen, counts.new) == (3, 3)
    assert len(parts.covered()) == 1
    assert parts.covered()[0].end >= now - SECOND


async def test_coverage_grows_only_with_what_is_on_disk(parts: Parts) -> None:
    """The ledger fails in the middle of a window: the slices before are covered, and no more."""
    now = times.now()
    push_at(parts.gitlab, *(now - 20 * DAY + n * HOUR for n in range(24 * 20)))
    window = Interval(Millis(now - 15 * DAY), Millis(now - 5 * DAY))
    stretches: list[Interval] = []

    def break_after_two(part: Slice, _: object) -> None:
        stretches.extend([part.covered] if part.covered is not None else [])
        if part.covered is not None and len(stretches) == 2:
            other.begin()  # and holds it for longer than the writer's patience

    with (
        closing(connect(parts.location)) as other,
        pytest.raises(LedgerUnavailable),
    ):
        await parts.polling.reader.read(PROJECT, parts.source, window, purpose="backfill", progress=break_after_two)
    assert parts.covered() == [Interval(window.start, stretches[1].end)]
    [gap] = uncovered(parts.covered(), window)
    await parts.polling.reader.read(PROJECT, parts.source, gap, purpose="backfill")
    assert parts.covered() == [window]
    assert parts.events() == 240


async def test_a_rehearsal_leaves_no_trace(parts: Parts) -> None:
    now = times.now()
    push_at(parts.gitlab, now - 2 * HOUR, now - HOUR)
    counts = await parts.polling.reader.read(
        PROJECT, parts.source, Interval(Millis(now - DAY), now), purpose="backfill", dry_run=True
    )
    assert (counts.seen, counts.new, parts.events(), parts.covered()) == (2, 2, 0, [])


async def test_coverage_never_runs_ahead_of_gitlab_s_own_clock(parts: Parts) -> None:
    """Our clock is ten minutes ahead: going by it, what happens in GitLab now would be covered before it does."""
    real = parts.gitlab.world.clock
    parts.gitlab.world.clock = lambda: real() - 10 * MINUTE
    await parts.poll(42)
    assert parts.covered()[-1].end <= parts.gitlab.world.clock() + 5 * SECOND  # and the overlap is minutes
    parts.gitlab.world.push(42)
    counts = None
    while counts is None or not counts.new:  # Date tells whole seconds: coverage may be a moment ahead
        counts = await parts.poll(42)
    assert parts.events() == 1


async def test_damage_under_one_source_stops_no_other(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(reconcile={"sources": ["project_events", "pipelines", "releases"]})
    await house.poll(42)
    coverage, asked = house.ledger.coverage, house.gitlab.api.requests["/api/v4/projects/42/releases"]
    read = type(coverage).covered

    def damaged(self: object, project_id: int, source: str) -> object:
        if source == "pipelines":
            raise LedgerDamaged("database disk image is malformed")
        return read(coverage, project_id, source)

    monkeypatch.setattr(type(coverage), "covered", damaged)
    house.now = Millis(house.now + HOUR)
    await house.poll(42)
    assert house.gitlab.api.requests["/api/v4/projects/42/releases"] > asked
    state = coverage.source_state(42, "pipelines")
    assert state is not None
    assert state.trouble

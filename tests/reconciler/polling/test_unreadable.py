"""One record that can't be understood: kept as it came, named, and passed over; and details that can't be had."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import DAY, HOUR, MINUTE, Millis
from reconciler.ledger.coverage import unreadable
from reconciler.ledger.storage.sql import Sql
from reconciler.ledger.views.unknowns import Asked, unknowns
from reconciler.polling.backfill import Backfill
from reconciler.sources import client
from reconciler.sources.errors import Unavailable
from tests.reconciler.polling.conftest import NOW, MakeHouse, SimulatedHouse


def small(**reconcile: Any) -> dict[str, Any]:
    return {"receiver": {"hooks": [{"token": "t"}]}, "reconcile": {"grace_period": "1ms", **reconcile}}


def spoil(house: SimulatedHouse, ending: str, change: Callable[[Any], Any]) -> None:
    house.gitlab.api.faults.mangle = lambda path, value: change(value) if path.endswith(ending) else value


async def test_it_is_named_and_the_rest_goes_on(make_house: MakeHouse) -> None:
    house = make_house(**small(sources=["project_events", "releases"]))
    for _ in range(3):
        house.gitlab.world.push(42)
    house.gitlab.world.release(42, "v1")
    spoil(house, "/projects/42/events", lambda records: [records[0] | {"created_at": []}, *records[1:]])
    house.later(10)
    counts = await house.poll(42)
    assert counts is not None
    assert (counts.error, counts.new, counts.unreadable) == (None, 3, 1)
    [kept] = unreadable.unreadable(house.reader)
    assert (kept.project_id, kept.source) == (42, "project_events")
    assert kept.error == "expected `str`, got `array` - at `$.created_at`"
    assert kept.record_id == str(json.loads(kept.raw)["id"])
    asked = Asked("http://gitlab.example", True, [], house.now)
    [named] = [one for one in unknowns(house.reader, asked, now=house.now) if one.kind == "record"]
    assert "project_events of group/project: not understood" in named.text
    assert kept.error in named.why
    assert house.rows("SELECT trouble FROM sources WHERE trouble IS NOT NULL") == []
    assert house.gaps() == []

    house.later(MINUTE)
    await house.poll(42)  # within the overlap it is seen again
    [again] = unreadable.unreadable(house.reader)
    assert (again.first_seen_at, again.last_seen_at) == (kept.first_seen_at, times.iso(house.now))
    house.gitlab.api.faults.mangle = None
    house.later(MINUTE)
    await house.poll(42)
    assert house.events() == 4
    assert unreadable.unreadable(house.reader) == []  # it was understood


POISON = Sql(
    """
    CREATE TRIGGER poison BEFORE INSERT ON sightings WHEN new.source_id = '{}'
    BEGIN SELECT RAISE(ABORT, 'nobody foresaw this'); END
    """,
    postgresql="""
    CREATE FUNCTION fail_here() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE 'nobody foresaw this' USING ERRCODE = 'check_violation'; END $$;
    CREATE TRIGGER poison BEFORE INSERT ON sightings FOR EACH ROW
    WHEN (new.source_id = '{}') EXECUTE FUNCTION fail_here()
    """,
)
CURE = Sql("DROP TRIGGER poison", postgresql="DROP TRIGGER poison ON sightings")
"""A record on which our own code breaks, whichever that may be."""


def poisoned(record_id: str) -> Sql:
    return Sql(POISON.format(record_id), postgresql=POISON.postgresql.format(record_id))


async def test_a_record_on_which_we_break_takes_no_other_with_it(make_house: MakeHouse) -> None:
    house = make_house(**small(sources=["project_events", "releases"]))
    for _ in range(5):
        house.gitlab.world.push(42)
    house.later(10)
    shown: list[Any] = []

    def looked_at(records: Any) -> Any:
        shown.append(records)
        return records

    spoil(house, "/projects/42/events", looked_at)
    work = Backfill(house.polling, house.config.reconcile, ledger=house.ledger, dry_run=True)

    async def rehearsed() -> tuple[int, int]:
        window = Interval(NOW, Millis(NOW + MINUTE))
        report = await work.project(42, window, lambda name, length: lambda source, part, counts: None)
        return report.counts.new, report.counts.unreadable

    assert await rehearsed() == (5, 0)
    poison = str(sorted(record["id"] for record in shown[0])[2])
    await house.writer.run(lambda db: db.execute(poisoned(poison)))
    assert await rehearsed() == (4, 1)
    counts = await house.poll(42)
    assert counts is not None
    assert (counts.error, counts.seen, counts.new, counts.unreadable) == (None, 4, 4, 1)
    [kept] = unreadable.unreadable(house.reader)
    assert (kept.project_id, kept.source, kept.record_id) == (42, "project_events", poison)
    assert "can't be recorded: " in kept.error
    assert "nobody foresaw this" in kept.error
    assert json.loads(kept.raw)["id"] == int(poison)
    assert house.gaps() == []
    asked = Asked("http://gitlab.example", True, [], house.now)
    [named] = [one for one in unknowns(house.reader, asked, now=house.now) if one.kind == "record"]
    assert "nobody foresaw this" in named.why

    house.gitlab.world.push(42)
    house.later(MINUTE)
    await house.poll(42)
    assert house.events() == 5
    await house.writer.run(lambda db: db.execute(CURE))
    house.later(MINUTE)
    await house.poll(42)
    assert house.events() == 6
    assert unreadable.unreadable(house.reader) == []


async def test_a_comparison_of_another_shape_stops_nothing(make_house: MakeHouse) -> None:
    house = make_house(**small(sources=["project_events"]))
    house.gitlab.world.push(42)
    house.gitlab.world.push(42)
    spoil(house, "/repository/compare", lambda _: [])
    house.later(10)
    with structlog.testing.capture_logs() as logs:
        counts = await house.poll(42)
    assert counts is not None
    assert (counts.error, counts.new) == (None, 2)
    assert max(len(json.dumps(line, default=str)) for line in logs) < 1000
    for (recovery,) in house.rows("SELECT recovery FROM sightings"):
        assert {"commits", "commits[].added"} & set(json.loads(recovery)["unknown"])


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_detail_that_gitlab_does_not_answer_stops_nothing(make_house: MakeHouse, status: int) -> None:
    house = make_house(**small(sources=["project_events", "issues"]))
    issue = house.gitlab.world.issue(42)
    house.gitlab.world.issue_does(42, issue, "close")
    endings = ("/award_emoji", "/resource_label_events", f"/issues/{issue.iid}")
    house.gitlab.api.faults.forbidden_paths = dict.fromkeys(endings, status)
    house.later(10)
    counts = await house.poll(42)
    assert counts is not None
    assert (counts.error, counts.new) == (None, 2)
    assert unreadable.unreadable(house.reader) == []


async def test_where_gitlab_answers_nothing_at_all_it_is_asked_again(make_house: MakeHouse) -> None:
    """What it decorates is then read later, with its details."""
    house = make_house(**small(sources=["project_events"]))
    house.gitlab.world.issue(42)
    house.gitlab.api.faults.forbidden_paths = {"/issues/1": 500}
    house.gitlab.api.faults.mangle = down_after(house, "/projects/42/events")
    house.later(10)
    counts = await house.poll(42)
    assert counts is not None
    assert "HTTP 500" in str(counts.error)
    assert house.events() == 0
    house.gitlab.api.faults.mangle, house.gitlab.api.faults.next = None, []
    house.gitlab.api.faults.forbidden_paths = {}
    await house.poll(42)
    assert house.events() == 1


def down_after(house: SimulatedHouse, ending: str) -> Callable[[str, Any], Any]:
    """A GitLab that answers that, and then nothing more."""

    def mangle(path: str, value: Any) -> Any:
        if path.endswith(ending):
            house.gitlab.api.faults.next = [(500, {})] * 20
        return value

    return mangle


async def test_what_belongs_to_one_record_stops_no_other(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs of one pipeline, the comments on one issue. What may be a passing fault is asked for again first."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    house = make_house(**small(sources=["jobs", "issues"]))
    world = house.gitlab.world
    bad, good = world.new_pipeline(42), world.new_pipeline(42)
    for pipeline in (bad, good):
        for job in world.jobs_of(42, pipeline):
            world.job_becomes(42, job, "success")
    issue, other = world.issue(42), world.issue(42)
    for one in (issue, other):
        world.issue_does(42, one, "update", edit="label")
    house.gitlab.api.faults.forbidden_paths = {f"/pipelines/{bad}/jobs": 500}
    spoil(house, f"/issues/{issue.iid}/notes", lambda _: {"message": "?"})
    house.later(10)
    for expected in (["unavailable"], ["unavailable"], []):
        await house.poll(42)
        troubles = house.rows("SELECT trouble FROM sources WHERE trouble IS NOT NULL")
        assert [trouble for (trouble,) in troubles] == expected
    named = {(kept.source, kept.record_id) for kept in unreadable.unreadable(house.reader)}
    assert named == {("jobs", f"{bad}/jobs"), ("issues", f"{issue.id}/notes")}
    assert house.rows("SELECT count(*) FROM events WHERE kind = 'build'") == [(2,)]
    assert house.rows("SELECT count(*) FROM events WHERE kind = 'issue'") == [(2,)]


async def test_one_source_in_trouble_stops_no_other(make_house: MakeHouse) -> None:
    house = make_house(**small(sources=["project_events", "pipelines", "releases"]))
    house.gitlab.world.pipeline(42)
    house.gitlab.world.release(42, "v1")
    spoil(house, "/projects/42/pipelines", lambda _: {"message": "?"})
    house.later(10)
    await house.poll(42)
    assert house.rows("SELECT source, trouble FROM sources WHERE trouble IS NOT NULL") == [
        ("pipelines", "unexpected answer")
    ]
    assert house.rows("SELECT kind FROM events") == [("release",)]


async def test_backfill_says_it_and_goes_on(make_house: MakeHouse) -> None:
    house = make_house(**small(sources=["project_events", "pipelines", "feature_flags"]))
    house.gitlab.world.push(42)
    house.gitlab.world.switch_flag(42)
    spoil(house, "/pipelines", lambda _: {"message": "?"})
    house.later(HOUR)
    work = Backfill(house.polling, house.config.reconcile, ledger=house.ledger)
    window = Interval(Millis(NOW - DAY), Millis(NOW + MINUTE))
    report = await work.project(42, window, lambda name, length: lambda source, part, counts: None)
    assert "/pipelines: unexpected answer: expected a list" in str(report.error)
    assert house.events() == 2


async def test_a_reader_that_is_told_no_answer_raises_it(make_house: MakeHouse) -> None:
    house = make_house(**small())
    house.gitlab.api.faults.mangle = lambda path, value: b"<html>Sign in</html>"
    with pytest.raises(Unavailable, match="it is not JSON"):
        await house.polling.projects.find(42)

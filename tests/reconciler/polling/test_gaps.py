"""Which time is not known to be complete, why, and until when that can be mended."""

from __future__ import annotations

import asyncio
import threading

import pytest

from reconciler.events.intervals import Interval
from reconciler.events.times import DAY, HOUR, MINUTE, Millis
from reconciler.metrics.collectors import LedgerCollector, state
from reconciler.polling.backfill import Backfill, cut
from reconciler.polling.knowledge import SharedLook
from reconciler.service.alerting import expiring_gaps
from reconciler.sources.source import Project
from tests.reconciler.polling.conftest import NOW, MakeHouse

EVENTS = {"sources": ["project_events"]}
LOG = {"sources": ["hook_log", "project_events"]}


async def test_no_gap_while_polls_go_on(make_house: MakeHouse) -> None:
    house = make_house()
    for _ in range(3):
        await house.poll(42)
        house.later(10 * MINUTE)
    await house.poll(42)
    assert [gap for gap in house.gaps() if gap.source != "hook_log"] == []


async def test_downtime_is_noted_and_names_the_gap(make_house: MakeHouse) -> None:
    house = make_house(reconcile=EVENTS)
    await house.ledger.note_start(house.now)
    await house.poll(42)
    await house.ledger.heartbeat(house.now)
    house.later(3 * HOUR)
    found = await house.ledger.note_start(house.now)
    assert found is not None
    assert (found.during, found.how) == (Interval(NOW, Millis(NOW + 3 * HOUR)), "killed")
    [gap] = house.gaps()
    assert (gap.project_id, gap.source, gap.why) == (42, "project_events", "down")
    assert NOW - MINUTE < gap.during.start <= NOW
    assert gap.closable_until == gap.during.start + 3 * 365 * DAY
    await house.poll(42)
    assert house.gaps() == []


async def test_a_stop_is_told_from_a_crash(make_house: MakeHouse) -> None:
    house = make_house()
    assert await house.ledger.note_start(house.now) is None
    await house.ledger.note_stop(house.now)
    house.later(HOUR)
    found = await house.ledger.note_start(house.now)
    assert found is not None
    assert found.how == "stopped"


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [(403, {}, "refused"), (500, {}, "unavailable"), (429, {"Retry-After": "1"}, "rate limit")],
)
async def test_trouble_with_gitlab_names_the_gap(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], why: str
) -> None:
    monkeypatch.setattr("reconciler.sources.client.TRIES", 2)
    house = make_house(reconcile=EVENTS)
    house.polling.client._tries = 2
    await house.poll(42)
    house.later(HOUR)
    if status == 403:
        house.gitlab.api.faults.forbidden_paths = {"/events": 403}
    else:
        house.gitlab.api.faults.next = [(status, headers)] * 2
    counts = await house.poll(42)
    assert counts is not None
    assert counts.error is not None
    [gap] = house.gaps()
    assert gap.why == why
    assert gap.error is not None
    assert str(status) in gap.error


async def test_one_source_refused_leaves_the_others_alone(make_house: MakeHouse) -> None:
    house = make_house()
    house.gitlab.api.faults.forbidden_paths = {"/pipelines": 403}
    house.gitlab.world.push(42)
    house.later(HOUR)
    counts = await house.poll(42)
    assert counts is not None
    assert counts.error is None
    house.later(HOUR)
    asked = house.gitlab.api.requests["/api/v4/projects/42/pipelines"]
    await house.poll(42)
    assert house.gitlab.api.requests["/api/v4/projects/42/pipelines"] == asked  # left alone for a while
    assert {(gap.source, gap.why) for gap in house.gaps()} == {
        ("pipelines", "refused"),
        ("jobs", "refused"),
        ("hook_log", "no webhook"),
    }


async def test_what_gitlab_forgot_is_final_and_what_it_will_forget_is_said(make_house: MakeHouse) -> None:
    house = make_house(reconcile=LOG)
    house.gitlab.add_hook(42, "http://127.0.0.1:9/webhooks/gitlab")
    await house.poll(42)
    house.later(6 * DAY + 12 * HOUR)
    [log, _] = house.gaps()
    assert (log.source, log.is_final, state(log, house.now)) == ("hook_log", False, "expiring")
    [alert] = expiring_gaps(house.ledger, house.gaps(), house.now)
    assert (alert.what, alert.subject, alert.since) == ("gap_expiring", "group/project", log.during.start)
    assert "hook_log" in alert.text
    reading = LedgerCollector(lambda: (house.config, house.polling.client), SharedLook(lambda: house.config))
    metrics = [m for family in reading.collect() for m in family.samples]
    expiring = [m.value for m in metrics if m.name == "gitlab_reconciler_gaps" and m.labels["state"] == "expiring"]
    assert expiring == [1]
    house.later(2 * DAY)
    lost, left, _ = house.gaps()
    assert (lost.why, lost.is_final, state(lost, house.now)) == ("too old", True, "final")
    assert (left.source, left.during.start) == ("hook_log", house.now - 7 * DAY)
    await house.poll(42)
    [still] = house.gaps()
    assert still.is_final  # it can't be closed, and is named for ever
    assert still.during.end - still.during.start < 2 * DAY


async def test_a_project_that_is_watched_no_more_has_no_new_gaps(make_house: MakeHouse) -> None:
    house = make_house(projects=[], groups=["group"], reconcile=EVENTS)
    world = house.gitlab.world
    world.add_project(43, "group/sub/other")
    await house.polling.projects.refresh_groups()
    assert house.polling.projects.names == [42, 43]
    for name in house.polling.projects.names:
        await house.poll(name)
    world.projects[43].archived = True
    house.later(HOUR)
    await house.polling.projects.refresh_groups()
    assert house.polling.projects.names == [42]
    await house.poll(42)
    house.later(30 * DAY)
    assert {gap.project_id for gap in house.gaps()} == {42, 43}
    [of_archived] = [gap for gap in house.gaps() if gap.project_id == 43]
    assert of_archived.during.end == NOW + HOUR  # until it was let go, and not for ever


async def test_a_project_that_comes_back_is_watched_again(make_house: MakeHouse) -> None:
    """Archived, and opened again: it is read from then on, without a restart."""
    house = make_house(projects=[], groups=["group"], reconcile=EVENTS)
    world = house.gitlab.world
    world.add_project(43, "group/other")
    await house.polling.schedule.catch_up()
    for archived in (True, False):
        world.projects[43].archived = archived
        house.now = Millis(house.now + HOUR)
        await house.polling.projects.refresh_groups()
        for name in house.polling.projects.names:
            await house.poll(name)
    assert house.rows("SELECT watched_until FROM sources WHERE project_id = 43") == [(None,)]
    house.now = Millis(house.now + HOUR)
    world.push(43)
    house.now = Millis(house.now + MINUTE)
    await house.poll(43)
    assert house.events() == 1


async def test_a_group_that_can_t_be_read_keeps_its_projects(make_house: MakeHouse) -> None:
    house = make_house(projects=[], groups=["group", "nowhere"], reconcile=EVENTS)
    await house.polling.projects.refresh_groups()
    house.gitlab.api.faults.next = [(403, {}), (403, {})]
    await house.polling.projects.refresh_groups()
    assert house.polling.projects.names == [42]


async def test_backfill_closes_what_can_be_closed(make_house: MakeHouse) -> None:
    house = make_house(reconcile=EVENTS)
    await house.poll(42)
    house.later(5 * HOUR)
    house.gitlab.world.push(42)
    house.later(5 * HOUR)
    assert len(house.gaps()) == 1
    work = Backfill(house.polling, house.config.reconcile, ledger=house.ledger)
    report = await work.project(42, None, lambda _name, _length: lambda *_: None)
    assert (report.error, report.counts.new) == (None, 1)
    assert house.gaps() == []
    again = await work.project(42, None, lambda _name, _length: lambda *_: None)
    assert again.counts.seen == 0


async def test_a_backfill_of_many_projects_asks_for_few_at_a_time(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(reconcile=EVENTS | {"concurrency": 2})
    asking, most, lock = 0, 0, threading.Lock()
    ask = house.polling.client.project

    def counted(name: int | str) -> Project:
        nonlocal asking, most
        with lock:
            asking += 1
            most = max(most, asking)
        try:
            return ask(name)
        finally:
            with lock:
                asking -= 1

    monkeypatch.setattr(house.polling.client, "project", counted)
    work = Backfill(house.polling, house.config.reconcile, ledger=house.ledger)
    wanted = Interval(Millis(NOW - 2 * DAY), Millis(NOW - HOUR))
    names = [42, *range(100, 112)]
    found = await asyncio.gather(*(work.project(name, wanted, lambda *_: lambda *_: None) for name in names))
    assert [report.error is None for report in found] == [True] + [False] * 12
    assert most == 2


async def test_a_long_backfill_goes_in_parts_and_is_resumed(make_house: MakeHouse) -> None:
    house = make_house(reconcile=EVENTS)
    for n in range(300, 0, -3):
        house.now = Millis(NOW - n * DAY)
        house.gitlab.world.push(42)
    house.now = NOW
    wanted = Interval(Millis(NOW - 301 * DAY), Millis(NOW - HOUR))
    assert len(cut(wanted, 4)) == 4
    work = Backfill(house.polling, house.config.reconcile, ledger=house.ledger)
    reads = 0

    def fail_after_a_while(_: object) -> bool:
        nonlocal reads
        reads += 1
        if reads == 60:
            house.gitlab.api.faults.forbidden = {42: 403}
        return False

    house.gitlab.api.faults.hidden = fail_after_a_while
    failed = await work.project(42, wanted, lambda _name, _length: lambda *_: None)
    assert failed.error is not None
    known = house.events()
    assert 0 < known < 100
    house.gitlab.api.faults.forbidden, house.gitlab.api.faults.hidden = {}, lambda _: False
    done = await work.project(42, wanted, lambda _name, _length: lambda *_: None)
    assert (done.error, house.events()) == (None, 100)
    assert done.counts.seen <= 100 - known + 8  # what was covered was not read again
    once_more = await work.project(42, wanted, lambda _name, _length: lambda *_: None)
    assert once_more.counts.seen == 0

"""Which projects are polled when: many, few of them active, and nothing missed."""

from __future__ import annotations

import asyncio
import random

import pytest

from reconciler.events.times import HOUR, MINUTE
from reconciler.polling.schedule import POLL_ALL_UP_TO
from tests.reconciler.polling.conftest import NOW, MakeHouse, SimulatedHouse

EVENTS = {"sources": ["project_events"], "interval": "60s", "full_poll_interval": "15m", "grace_period": "1ms"}
MANY = list(range(1000, 1075))


def many(make_house: MakeHouse, **reconcile: object) -> SimulatedHouse:
    house = make_house(projects=MANY, reconcile=EVENTS | reconcile)
    for number in MANY:
        house.gitlab.world.add_project(number, f"group/p{number}")
    return house


async def turn(house: SimulatedHouse) -> list[int | str]:
    """One interval: as `turn`, without spreading its polls over a minute."""
    house.later(MINUTE)
    due = await house.polling.schedule.due()
    for name in due:
        await house.poll(name)
    return due


async def test_few_projects_are_all_polled_in_every_interval(make_house: MakeHouse) -> None:
    house = make_house(projects=list(range(1, POLL_ALL_UP_TO + 1)), reconcile=EVENTS)
    assert await house.polling.schedule.due() == list(range(1, POLL_ALL_UP_TO + 1))
    assert house.asked == 0


@pytest.mark.long
@pytest.mark.parametrize("ledger_at", ["sqlite"], indirect=True)  # it is about what is asked of GitLab
async def test_many_projects_active_ones_first_and_all_within_a_round(make_house: MakeHouse) -> None:
    house = many(make_house)
    await house.polling.schedule.catch_up()
    before = house.asked
    active, seen = MANY[:15], set[int | str]()
    for _ in range(15):
        for number in active:
            house.gitlab.world.push(number)
        due = await turn(house)
        assert set(active) <= set(due)
        assert len(due) == len(set(due))
        seen |= set(due)
    assert seen == set(MANY)
    assert house.events() == 15 * 15
    rounds = 15
    looks, details, quiet = 2 * rounds, 15 * 15, len(MANY)
    lists_of_hooks = 2 * (
        3 * len(active) + len(MANY) - len(active)
    )  # once in five minutes, for those that are polled
    assert house.asked - before < looks + details + 15 * 15 + quiet + lists_of_hooks + 60


@pytest.mark.long
@pytest.mark.parametrize("ledger_at", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_missed(make_house: MakeHouse, seed: int) -> None:
    """Things happen all over for an hour, and no webhook arrives: a round later all of it is known."""
    house = many(make_house)
    dice = random.Random(seed)
    await house.polling.schedule.catch_up()
    for _ in range(30):
        house.later(dice.randrange(2 * MINUTE))
        for _ in range(dice.randrange(4)):
            house.gitlab.world.anything(dice.choice(MANY))
        await turn(house)
    for _ in range(16):
        await turn(house)
    happened = [h for h in house.gitlab.world.happenings if h.record is not None]
    assert house.events() == len(happened)
    assert house.now - NOW > HOUR // 2


async def test_a_project_that_went_quiet_is_left_to_the_round(make_house: MakeHouse) -> None:
    house = many(make_house)
    await house.polling.schedule.catch_up()
    house.gitlab.world.push(MANY[7])
    due = [MANY[7] in await turn(house) for _ in range(14)]
    assert due[0]
    assert sum(due) <= 8  # five minutes of overlap, and its turn


async def test_a_wall_clock_that_is_set_back_hides_nothing(make_house: MakeHouse) -> None:
    """What is active is polled, and what a group has is read, without waiting for the two hours to pass again."""
    house = many(make_house)
    house.gitlab.world.add_group(7, "group")
    await house.polling.schedule.catch_up()
    house.later(2 * HOUR)
    await house.polling.schedule.turn()
    house.later(-2 * HOUR)
    house.gitlab.world.push(MANY[7])
    assert MANY[7] in await turn(house)


async def test_nor_are_groups_read_later_for_it(make_house: MakeHouse) -> None:
    house = make_house(projects=[], groups=["group"], reconcile={"grace_period": "1ms"})
    house.gitlab.world.add_group(7, "group")
    await house.polling.schedule.catch_up()
    house.later(-2 * HOUR)
    house.gitlab.world.add_project(43, "group/new")
    await house.polling.schedule.turn()
    assert await house.polling.schedule.due() == [42, 43]


async def test_the_feed_of_events_is_not_trusted(make_house: MakeHouse) -> None:
    """A pipeline is in no feed, and moves no `last_activity_at`: the slower round finds it."""
    house = many(make_house, sources=["project_events", "pipelines"])
    await house.polling.schedule.catch_up()
    house.gitlab.world.pipeline(MANY[-1])
    found_after = 0
    while house.events() == 0 and found_after < 20:
        await turn(house)
        found_after += 1
    assert 1 <= found_after <= 16


async def test_a_project_that_the_token_s_user_is_no_member_of(make_house: MakeHouse) -> None:
    """Neither GitLab's feed nor its list of active projects has it: the slower round finds what happened there."""
    house = many(make_house)
    public = MANY[-1]
    house.gitlab.world.members = set(MANY) - {public}
    await house.polling.schedule.catch_up()
    house.gitlab.world.push(public)
    house.gitlab.world.push(MANY[7])
    due = [await turn(house) for _ in range(15)]
    assert [MANY[7] in due[0], public in due[0]] == [True, False]
    assert sum(public in names for names in due) == 1
    assert house.events() == 2


async def test_the_log_of_a_group_s_own_webhook_is_read(make_house: MakeHouse) -> None:
    """One webhook for the whole group (GitLab Premium): what it failed to deliver is in the group's log."""
    house = make_house(projects=[], groups=["group"], reconcile={"grace_period": "1ms"})
    world = house.gitlab.world
    world.add_group(7, "group")
    world.add_project(43, "group/sub/other")
    house.gitlab.add_hook(-7, "http://127.0.0.1:9/webhooks/gitlab")
    await house.polling.schedule.catch_up()
    for project in (42, 43):
        world.push(project)
        world.vulnerability(project)  # only the log ever tells
    await asyncio.to_thread(house.gitlab.courier.settle)
    house.later(HOUR)
    await house.polling.schedule.catch_up()
    told = house.rows(
        "SELECT e.kind, count(*), min(CASE WHEN s.recovery LIKE '%hook_log%' THEN 1 ELSE 0 END) FROM events e "
        "JOIN sightings s ON s.id = e.sighting_id GROUP BY 1 ORDER BY 1"
    )
    assert told == [("push", 2, 1), ("vulnerability", 2, 1)]
    assert house.rows("SELECT path FROM projects WHERE id = -7") == [("group (group)",)]
    assert {(gap.project_id, gap.source) for gap in house.gaps()} == {(42, "hook_log"), (43, "hook_log")}
    house.later(HOUR)
    [of_group] = [gap for gap in house.gaps() if gap.project_id == -7]
    assert of_group.source == "hook_log"


async def test_a_group_without_a_webhook_of_ours_is_no_gap(make_house: MakeHouse) -> None:
    house = make_house(projects=[], groups=["group"], reconcile=EVENTS)
    await house.polling.schedule.catch_up()
    house.later(HOUR)
    assert {gap.project_id for gap in house.gaps()} == {42}
    house.gitlab.api.faults.next = [(403, {})]
    await house.polling.schedule.catch_up()
    assert house.rows("SELECT count(*) FROM sources WHERE project_id < 0") == [(0,)]


async def test_trouble_with_the_look_is_no_trouble_for_the_round(make_house: MakeHouse) -> None:
    house = many(make_house)
    house.polling.client._tries = 1
    await house.polling.schedule.catch_up()
    house.gitlab.world.push(MANY[7])
    house.gitlab.api.faults.next = [(500, {})]
    due = await house.polling.schedule.due()
    assert len(due) == len(MANY) // 15
    house.later(MINUTE)
    assert MANY[7] in await house.polling.schedule.due()  # the next look goes back to where the failed one began

"""The matching rule by example; tests/reconciler/ledger/test_matching_histories.py has the proof."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from reconciler.events.matching import group
from reconciler.events.pairing import Seen
from reconciler.events.sighting import Precision
from reconciler.events.times import HOUR, MINUTE, SECOND, Millis

UNIQUE_ID, GITLAB_TIME, RECEIVED_TIME = Precision.UNIQUE_ID, Precision.GITLAB_TIME, Precision.RECEIVED_TIME
RECEIVED_UNVERIFIED, RECEIVED_REPEATABLE = Precision.RECEIVED_UNVERIFIED, Precision.RECEIVED_REPEATABLE
ESTIMATED_TIME, ESTIMATED_UNVERIFIED = Precision.ESTIMATED_TIME, Precision.ESTIMATED_UNVERIFIED
A, B, SYSTEM, API = "webhook:a", "webhook:b", "system_hook:a", "project_events"
numbers = itertools.count()


def seen(source: str, time: int, precision: Precision, bytes_: str = "same") -> Seen:
    label = next(numbers)
    return Seen(Millis(time), source, str(label), precision, f"record {label}" if source == API else bytes_, label)


def sizes(*sightings: Seen) -> list[list[str]]:
    """The sources of each group, oldest group first."""
    return [sorted(member.source for member in members) for members in group(sightings)]


@pytest.mark.parametrize(
    ("precision", "apart", "events"),
    [
        (UNIQUE_ID, 10_000 * HOUR, 1),
        (GITLAB_TIME, 0, 1),  # the bytes hold the time: the same bytes, the same time
        (RECEIVED_TIME, MINUTE, 1),
        (RECEIVED_TIME, MINUTE + 1, 2),
        (RECEIVED_UNVERIFIED, MINUTE, 1),
        (RECEIVED_UNVERIFIED, MINUTE + 1, 2),
        (ESTIMATED_TIME, MINUTE, 1),
        (ESTIMATED_TIME, MINUTE + 1, 2),
        (ESTIMATED_UNVERIFIED, 0, 2),
        (RECEIVED_REPEATABLE, 0, 2),
    ],
)
def test_identical_bytes_from_one_source(precision: Precision, apart: int, events: int) -> None:
    assert len(sizes(seen(A, 0, precision), seen(A, apart, precision))) == events


@pytest.mark.parametrize(
    ("precision", "apart", "events"),
    [
        (UNIQUE_ID, 10_000 * HOUR, 1),
        (GITLAB_TIME, 15 * MINUTE, 1),
        (GITLAB_TIME, 15 * MINUTE + 1, 2),
        (RECEIVED_TIME, 12 * HOUR, 1),
        (RECEIVED_TIME, 12 * HOUR + 1, 2),
        (ESTIMATED_TIME, 7 * 24 * HOUR, 1),
        (ESTIMATED_UNVERIFIED, 7 * 24 * HOUR, 1),
        (ESTIMATED_TIME, 7 * 24 * HOUR + 1, 2),
    ],
)
def test_a_webhook_and_a_record(precision: Precision, apart: int, events: int) -> None:
    record = UNIQUE_ID if precision is UNIQUE_ID else GITLAB_TIME
    assert len(sizes(seen(A, apart, precision), seen(API, 0, record))) == events


@pytest.mark.parametrize("precision", [GITLAB_TIME, RECEIVED_TIME])
def test_one_source_tells_an_event_once(precision: Precision) -> None:
    assert sizes(seen(API, 0, GITLAB_TIME), seen(API, SECOND, GITLAB_TIME), seen(A, 0, precision)) == [
        [API, A],
        [API],
    ]


def test_two_hooks_tell_one_event_in_the_same_bytes_only() -> None:
    assert sizes(seen(A, 0, RECEIVED_TIME), seen(B, HOUR, RECEIVED_TIME)) == [[A, B]]
    assert sizes(seen(A, 0, RECEIVED_TIME), seen(B, 0, RECEIVED_TIME, "other")) == [[A], [B]]
    assert sizes(seen(A, 0, RECEIVED_TIME), seen(SYSTEM, 0, RECEIVED_TIME, "other")) == [[SYSTEM, A]]


def test_two_hooks_that_each_missed_one_of_two_alike_are_two_where_nothing_arbitrates() -> None:
    assert sizes(seen(A, 0, RECEIVED_UNVERIFIED), seen(B, 5 * MINUTE, RECEIVED_UNVERIFIED)) == [[A], [B]]
    assert sizes(seen(A, 0, RECEIVED_UNVERIFIED), seen(B, 30 * SECOND, RECEIVED_UNVERIFIED)) == [[A, B]]


def test_the_nearest_are_paired_not_the_first() -> None:
    webhook, early, late = (
        seen(A, 10 * SECOND, RECEIVED_TIME),
        seen(API, SECOND, GITLAB_TIME),
        seen(API, 11 * SECOND, GITLAB_TIME),
    )
    assert group([webhook, early, late]) == [[early], [late, webhook]]


def test_as_many_pairs_as_possible_before_the_nearest() -> None:
    """A to B, B to A, A to B: both webhooks are of some push, even if one is nearer to the other's record."""
    records = [seen(API, 0, GITLAB_TIME), seen(API, 10 * MINUTE, GITLAB_TIME)]
    hooks = [seen(A, 8 * MINUTE, RECEIVED_TIME), seen(A, 11 * MINUTE, RECEIVED_TIME)]
    assert group(records + hooks) == [[records[0], hooks[0]], [records[1], hooks[1]]]


def test_what_happens_every_night_is_paired_night_by_night() -> None:
    nights = range(1500)
    hooks = [seen(A, night * 24 * HOUR + SECOND, RECEIVED_TIME) for night in nights]
    records = [seen(API, night * 24 * HOUR, GITLAB_TIME) for night in nights if night % 3]
    groups = group(hooks + records)  # in one table this would be a million and a half pairs
    assert [len(members) for members in groups] == [2 if night % 3 else 1 for night in nights]


def test_every_order_gives_the_same_groups() -> None:
    told = [
        seen(A, 0, RECEIVED_TIME),
        seen(A, 3 * MINUTE, RECEIVED_TIME),
        seen(B, 4 * MINUTE, RECEIVED_TIME),
        seen(API, 0, GITLAB_TIME),
        seen(API, 3 * MINUTE, GITLAB_TIME),
    ]
    groups = {
        frozenset(frozenset(seen.label for seen in members) for members in group(order))
        for order in itertools.permutations(told)
    }
    assert len(groups) == 1


def test_a_webhook_with_other_bytes_does_not_take_another_s_record() -> None:
    """A wiki page is created, destroyed and created again; the second creation's record is not there yet."""

    def seen(time: int, source: str, sha: str, precision: Precision = Precision.RECEIVED_TIME) -> Seen:
        return Seen(Millis(time * 1000), source, f"{source}-{time}", precision, sha, time)

    record = seen(184, "project_events", "record", Precision.GITLAB_TIME)
    by_group, by_project = seen(323, "webhook:group", "first"), seen(558, "webhook:default", "second")
    assert group([record, by_group, by_project]) == [[record, by_group], [by_project]]
    later = seen(559, "project_events", "record 2", Precision.GITLAB_TIME)
    assert group([record, by_group, by_project, later]) == [[record, by_group], [later, by_project]]


def busy(times_told: dict[str, list[int]]) -> list[Seen]:
    """A page that is edited again and again: by source, when each edit was told, in milliseconds."""
    precision_of = {API: GITLAB_TIME, A: RECEIVED_TIME}
    return [seen(source, at, precision_of[source], f"{at}") for source, told in times_told.items() for at in told]


def edits(numbers: Iterable[int], delay: int = 0) -> list[int]:
    """One edit a minute, give or take; told a few seconds later, or `delay` later."""
    return [number * MINUTE + number * 7919 % 9000 + (delay or number * 104729 % 4000) for number in numbers]


def test_what_waits_for_its_record_takes_nobody_s_partner() -> None:
    """A webhook got lost days ago; the newest record is not there yet. They have nothing to do with each other."""
    webhooks, records = edits(n for n in range(600) if n != 200), [at - 100 for at in edits(range(599))]
    groups = [{member.source for member in members} for members in group(busy({A: webhooks, API: records}))]
    assert groups.count({API}) == groups.count({A}) == 1
    assert groups.count({API, A}) == 598


def test_webhooks_that_were_held_up_for_hours_find_their_records() -> None:
    """GitLab's queue stands still for three hours of a busy day; then all come at once."""
    in_time = [*range(100), *range(280, 400)]
    held_up = [280 * MINUTE + number * 300 for number in range(180)]
    told = {A: edits(in_time) + held_up, API: [at - 100 for at in edits(range(400))]}
    assert [len(members) for members in group(busy(told))] == [2] * 400


@pytest.mark.parametrize("delay", [20 * SECOND, 40 * SECOND, 55 * SECOND])
def test_a_steady_delay_moves_no_webhook_to_the_next_record(delay: int) -> None:
    told = {A: [n * MINUTE + delay for n in range(300)], API: [n * MINUTE for n in range(300)]}
    assert [[member.time for member in members] for members in group(busy(told))] == [
        [n * MINUTE, n * MINUTE + delay] for n in range(300)
    ]

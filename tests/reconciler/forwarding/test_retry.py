"""The retry schedule, and Retry-After."""

from __future__ import annotations

import random
from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.destinations import RetryConfig
from reconciler.events.times import DAY, Millis
from reconciler.forwarding.retry import LONGEST_RETRY_AFTER, backoff, is_rejection, next_pause, retry_after

retries = st.builds(
    lambda first, longest: RetryConfig(initial_delay=f"{first}ms", max_delay=f"{longest}ms"),
    st.integers(1, 10_000),
    st.integers(1, DAY),
)


@given(retries, st.integers(-3, 10_000), st.integers(0, 2**32))
def test_a_pause_is_between_nothing_and_the_doubling_ceiling(retry: RetryConfig, failures: int, seed: int) -> None:
    pause = backoff(retry, failures, uniform=random.Random(seed))
    doublings = max(failures, 1) - 1
    ceiling = retry.max_delay if doublings > 40 else min(retry.max_delay, retry.initial_delay * 2**doublings)
    assert 0 <= pause <= ceiling


def test_jitter_is_full() -> None:
    retry = RetryConfig(initial_delay="1s", max_delay="60s")
    pauses = [backoff(retry, 4, uniform=random.Random(seed)) for seed in range(400)]
    assert min(pauses) < 400
    assert max(pauses) > 7_600


@given(st.none() | st.text(max_size=30) | st.integers(-5, 10**12).map(str), st.integers(0, 4_000_000_000_000))
def test_any_retry_after_is_a_pause(value: str | None, now: int) -> None:
    assert 0 <= retry_after(value, now=Millis(now)) <= LONGEST_RETRY_AFTER


def test_retry_after_in_both_forms() -> None:
    now = 1_800_000_000_000
    assert retry_after("120", now=Millis(now)) == 120_000
    assert retry_after("1.5", now=Millis(now)) == 1_500  # as chat services write it
    assert retry_after("0.0004", now=Millis(now)) == 1
    assert [retry_after(text, now=Millis(now)) for text in ("-1.5", "1e3", "inf", "nan", "1,5", "١")] == [0] * 6
    assert retry_after(formatdate(now / 1000 + 90, usegmt=True), now=Millis(now)) == 90_000
    assert retry_after(formatdate(now / 1000 + 90), now=Millis(now)) == 90_000  # "-0000": no zone
    assert retry_after(formatdate(now / 1000 - 90, usegmt=True), now=Millis(now)) == 0


def test_which_answers_are_refusals() -> None:
    refused = {status for status in range(100, 600) if is_rejection(status, RetryConfig())}
    assert refused == set(range(400, 500)) - {408, 410, 425, 429}
    assert not any(is_rejection(status, RetryConfig(dead_letter_on_4xx=False)) for status in range(100, 600))


@given(retries, st.integers(1, 50), st.integers(0, 10 * DAY))
def test_it_is_tried_again_until_it_is_too_old(retry: RetryConfig, failures: int, age: int) -> None:
    pause = next_pause(retry, failures, age=Millis(age))
    assert (pause is None) == (age >= retry.max_age)


@given(st.lists(st.integers(1, 10 * DAY), min_size=1, max_size=12), st.integers(1, 20), st.integers(0, 10 * DAY))
def test_a_schedule_is_kept_to_its_end(schedule: list[int], failures: int, age: int) -> None:
    pause = next_pause(RetryConfig(schedule=[f"{pause}ms" for pause in schedule]), failures, age=Millis(age))
    if failures > len(schedule):
        assert pause is None
    else:
        wanted = schedule[failures - 1]
        assert pause is not None
        assert round(0.9 * wanted) <= pause <= round(1.1 * wanted)

"""The retry schedule, the pace, and Retry-After."""

from __future__ import annotations

import random
from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.models import Retry
from reconciler.events.times import DAY
from reconciler.forwarding.pace import Pace
from reconciler.forwarding.retry import LONGEST_RETRY_AFTER, backoff, is_refusal, retry_after

retries = st.builds(
    lambda first, longest: Retry(first=first, longest=longest), st.integers(1, 10_000), st.integers(1, DAY)
)


@given(retries, st.integers(-3, 10_000), st.integers(0, 2**32))
def test_a_pause_is_between_nothing_and_the_doubling_ceiling(retry: Retry, failures: int, seed: int) -> None:
    pause = backoff(retry, failures, uniform=random.Random(seed))
    doublings = max(failures, 1) - 1
    ceiling = retry.longest if doublings > 40 else min(retry.longest, retry.first * 2**doublings)
    assert 0 <= pause <= ceiling


def test_jitter_is_full() -> None:
    retry = Retry(first=1000, longest=60_000)
    pauses = [backoff(retry, 4, uniform=random.Random(seed)) for seed in range(400)]
    assert min(pauses) < 400
    assert max(pauses) > 7_600


@given(st.none() | st.text(max_size=30) | st.integers(-5, 10**12).map(str), st.integers(0, 4_000_000_000_000))
def test_any_retry_after_is_a_pause(value: str | None, now: int) -> None:
    assert 0 <= retry_after(value, now=now) <= LONGEST_RETRY_AFTER


def test_retry_after_in_both_forms() -> None:
    now = 1_800_000_000_000
    assert retry_after("120", now=now) == 120_000
    assert retry_after(formatdate(now / 1000 + 90, usegmt=True), now=now) == 90_000
    assert retry_after(formatdate(now / 1000 - 90, usegmt=True), now=now) == 0


def test_which_answers_are_refusals() -> None:
    refused = {status for status in range(100, 600) if is_refusal(status, Retry())}
    assert refused == set(range(400, 500)) - {408, 425, 429}
    assert not any(is_refusal(status, Retry(dead_on_4xx=False)) for status in range(100, 600))


class TestPace:
    def test_full_width_while_up_and_one_probe_while_down(self) -> None:
        pace = Pace(Retry(first=1000, longest=1000), concurrency=3)
        rounds = [pace.started() for _ in range(3)]
        assert not pace.may_start(0)
        for of_round in rounds:  # all three fail: one failure of one round
            pace.failed(of_round, now=0, retry_after=0)
        assert pace.down
        assert pace.may_start(0)  # the first probe follows at once
        probe = pace.started()
        assert not pace.may_start(10**9)  # and it is the only one
        pace.succeeded()
        assert not pace.down
        for _ in range(3):
            assert pace.may_start(0)
            probe = pace.started()
        assert not pace.may_start(0)
        assert probe > rounds[0]

    @given(st.integers(2, 30), st.integers(0, 10_000))
    def test_probes_are_spaced_and_retry_after_is_kept(self, failures: int, asked: int) -> None:
        pace = Pace(Retry(first=1000, longest=8000), concurrency=4)
        now = 0
        for _ in range(failures):
            assert pace.may_start(now)
            pace.failed(pace.started(), now=now, retry_after=asked)
            assert pace.wait(now) >= asked
            assert pace.wait(now) <= max(asked, 8000)
            now += pace.wait(now)
        assert pace.in_flight == 0

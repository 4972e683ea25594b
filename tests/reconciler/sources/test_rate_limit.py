"""The budget: a share of the token's limit, whoever uses it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.models import GitLab
from reconciler.sources import answers
from reconciler.sources.client import Client
from reconciler.sources.rate_limit import GitLabRateLimit
from tests.reconciler.sources.conftest import Scene
from tests.support.service import until


def headers(limit: int, remaining: int, reset_in: int = 30) -> dict[str, str]:
    return {
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(int(time.time()) + reset_in),
    }


@given(limit=st.integers(1, 5000), share=st.floats(0.01, 1), used_by_others=st.integers(0, 5000))
def test_never_more_than_the_share(limit: int, share: float, used_by_others: int) -> None:
    left = max(0, limit - used_by_others)
    rate_limit = GitLabRateLimit(share)
    rate_limit.note(200, headers(limit, left))
    taken = 0
    while rate_limit.take() == 0 and taken <= limit:
        taken += 1
    assert taken <= max(0, left - limit * (1 - share)) + 1


def test_without_headers_there_is_no_limit() -> None:
    rate_limit = GitLabRateLimit(0.5)
    rate_limit.note(200, {})
    assert all(rate_limit.take() == 0 for _ in range(10_000))


def test_a_pause_is_kept_to_in_every_form() -> None:
    for value, least, most in (("1.5", 1, 1.5), ("90", 89, 90), (formatdate(time.time() + 90, usegmt=True), 88, 90)):
        rate_limit = GitLabRateLimit()
        rate_limit.note(429, {"Retry-After": value})
        assert least < rate_limit.take() <= most, value


AHEAD = 2 * 3600
"""How far ahead of ours GitLab's clock is."""


@pytest.mark.parametrize("ahead", [AHEAD, 0, -AHEAD])
@pytest.mark.parametrize("status", [200, 429])
def test_moments_go_by_gitlab_s_own_clock(status: int, ahead: int) -> None:
    rate_limit = GitLabRateLimit()
    told = {"Date": formatdate(time.time() + ahead, usegmt=True)}
    rate_limit.note(status, headers(100, 0, reset_in=30 + ahead) | told)
    assert 25 < rate_limit.take() <= 31
    rate_limit = GitLabRateLimit()
    rate_limit.note(429, {"Retry-After": formatdate(time.time() + ahead + 30, usegmt=True)} | told)
    assert 25 < rate_limit.take() <= 31
    rate_limit = GitLabRateLimit(0.5)
    rate_limit.note(status, headers(100, 40, reset_in=30 + ahead) | told)
    assert 25 < rate_limit.take() <= 31


def test_a_clock_that_is_set_neither_ends_nor_prolongs_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    rate_limit = GitLabRateLimit()
    rate_limit.note(200, headers(100, 0, reset_in=30))
    now = time.time()
    for set_to in (now - AHEAD, now + AHEAD):
        monkeypatch.setattr(time, "time", lambda set_to=set_to: set_to)
        assert 25 < rate_limit.take() <= 30


@pytest.mark.parametrize("date", ["", "now", "Mon, 99 Jan 2026", "Wed, 25 Nov 99999999999 12:00:00 GMT"])
def test_a_date_that_is_none_is_none(date: str) -> None:
    rate_limit = GitLabRateLimit()
    rate_limit.note(200, headers(100, 0, reset_in=30) | {"Date": date})
    assert 25 < rate_limit.take() <= 30


def test_a_new_period_begins_anew() -> None:
    rate_limit = GitLabRateLimit(0.5)
    rate_limit.note(200, headers(100, 50, reset_in=0))
    assert rate_limit.take() == 0
    rate_limit.note(200, headers(100, 40, reset_in=60))
    assert rate_limit.take() > 50


def test_answers_that_overtake_each_other_give_nothing_back() -> None:
    rate_limit = GitLabRateLimit(0.5)
    rate_limit.note(200, headers(100, 60))
    rate_limit.note(200, headers(100, 90))
    assert rate_limit.remaining == 60


def test_many_threads_stay_within_it(scene: Scene) -> None:
    """Against a GitLab that counts: it is never near its limit, and what is over waits."""
    scene.gitlab.api.limit = 60
    while time.time() % 60 > 50:  # the period must not end in the middle
        time.sleep(0.2)
    client = Client(GitLab.model_validate({"url": scene.gitlab.url, "token": scene.gitlab.api.token}))
    client.get("/version", answers.Version)  # the first answer tells the limit
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(client.get, "/version", answers.Version) for _ in range(60)]
        until(lambda: sum(one.done() for one in asked) >= 20)
        wait(asked, timeout=0.5)  # long enough for the rest, if they did not wait
        done = sum(one.done() for one in asked)
        client.stop()
        for one in asked:
            one.exception()
    assert scene.gitlab.api.refused == 0
    assert done <= 30

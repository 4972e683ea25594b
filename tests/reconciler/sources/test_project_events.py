"""The Events API's ways, against a simulated GitLab that has them all."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.config.models import GitLab
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import DAY, HOUR, SECOND, Millis
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World
from reconciler.sources import answers, project_events
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, Stopped, Unavailable
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Project, Slice
from tests.support.effort import tries

PROJECT = Project(42, "group/project")
NOW = times.from_iso("2026-11-24T12:00:00Z")


class Past:
    """A world whose clock is set by hand."""

    def __init__(self) -> None:
        self.now = NOW
        self.world = World(clock=lambda: self.now)
        self.world.add_project(42, "group/project")

    def push_at(self, *moments: int) -> list[str]:
        ids = []
        for moment in moments:
            self.now = Millis(moment)
            record = self.world.push(42).record
            assert record is not None
            ids.append(str(record["id"]))
        self.now = NOW
        return ids


@pytest.fixture
def past() -> Past:
    return Past()


@pytest.fixture
def gitlab(past: Past) -> Iterator[Simulator]:
    with Simulator(past.world) as simulator:
        yield simulator


def client_of(gitlab: Simulator, **more: object) -> Client:
    return Client(GitLab.model_validate({"url": gitlab.url, "token": gitlab.api.token, **more}))


def asked(gitlab: Simulator) -> int:
    return sum(gitlab.api.requests.values())


def read(gitlab: Simulator, start: int, end: int) -> tuple[list[str], list[Slice]]:
    slices = list(ProjectEvents(client_of(gitlab)).read(PROJECT, Interval(Millis(start), Millis(end))))
    return [s.source_id for part in slices for s in part.sightings], slices


def covered(slices: list[Slice]) -> list[Interval]:
    return [part.covered for part in slices if part.covered is not None]


def test_a_window_is_read_exactly_and_oldest_first(past: Past, gitlab: Simulator) -> None:
    start, end = NOW - 3 * HOUR, NOW - HOUR
    ids = past.push_at(start - 1, start, start + 1, NOW - 2 * HOUR, end - 1, end, NOW)
    found, slices = read(gitlab, start, end)
    assert found == ids[1:5]
    assert covered(slices) == [Interval(Millis(start), Millis(end))]


def test_a_quiet_project_costs_one_request(past: Past, gitlab: Simulator) -> None:
    past.push_at(*(NOW - 2 * DAY - n * SECOND for n in range(50, 0, -1)))
    read(gitlab, NOW - 60 * SECOND, NOW)
    assert asked(gitlab) == 1


def test_reading_stops_where_the_window_begins(past: Past, gitlab: Simulator) -> None:
    ids = past.push_at(*(NOW - n * SECOND for n in range(1000, 0, -1)))
    found, _ = read(gitlab, NOW - 150 * SECOND, NOW)
    assert found == ids[-150:]
    assert asked(gitlab) == 2


def test_short_and_empty_pages_are_not_the_last(past: Past, gitlab: Simulator) -> None:
    ids = past.push_at(*(NOW - n * SECOND for n in range(500, 0, -1)))
    hidden = set(ids[50:480])  # whole pages of them
    gitlab.api.faults.hidden = lambda record: str(record["id"]) in hidden
    found, _ = read(gitlab, NOW - HOUR, NOW)
    assert found == [ident for ident in ids if ident not in hidden]


@pytest.mark.parametrize("hours", [-11, -5, 0, 2, 9, 14])
def test_days_are_the_server_s_own(past: Past, gitlab: Simulator, hours: int) -> None:
    gitlab.api.zone = timezone(timedelta(hours=hours))
    moments = [NOW - n * HOUR for n in range(24 * 20, 0, -1)]
    ids = past.push_at(*moments)
    start, end = NOW - 15 * DAY - 7 * HOUR, NOW - 3 * HOUR
    found, slices = read(gitlab, start, end)
    assert found == [ident for ident, at in zip(ids, moments, strict=True) if start <= at < end]
    assert covered(slices)[0].start == start
    assert covered(slices)[-1].end == end
    assert all(left.end == right.start for left, right in itertools.pairwise(covered(slices)))
    seen_until = 0
    for part in slices:  # what a slice covers has been read by then
        seen_until += len(part.sightings)
        if part.covered is not None:
            assert seen_until >= sum(start <= at < part.covered.end for at in moments)


@pytest.mark.long
def test_long_ranges_go_by_days_and_waste_little(
    past: Past, gitlab: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_events, "SLICE_RECORDS", 1000)
    moments = [NOW - 60 * DAY + n * (60 * DAY // 12_000) for n in range(12_000)]
    ids = past.push_at(*moments)
    found, slices = read(gitlab, NOW - 60 * DAY, NOW)
    assert found == ids
    assert len(covered(slices)) > 5
    assert max(len(part.sightings) for part in slices) <= 100  # no more than a page at a time
    assert asked(gitlab) < 1.15 * len(ids) / 100


def test_new_events_while_pages_are_read_are_no_trouble(past: Past, gitlab: Simulator) -> None:
    ids = past.push_at(*(NOW - n * SECOND for n in range(450, 0, -1)))
    shown = 0

    def one_more(_: object) -> bool:  # a push between every few records shown: pages shift under the reader
        nonlocal shown
        shown += 1
        if shown % 40 == 0:
            past.world.push(42)
        return False

    gitlab.api.faults.hidden = one_more
    found, _ = read(gitlab, NOW - HOUR, NOW)
    assert found == ids


class TestTrouble:
    def test_429_waits_as_long_as_it_is_told(self, past: Past, gitlab: Simulator) -> None:
        ids = past.push_at(NOW - HOUR)
        gitlab.api.faults.next = [(429, {"Retry-After": "1"})]
        began = time.monotonic()
        assert read(gitlab, NOW - DAY, NOW)[0] == ids
        assert 1 <= time.monotonic() - began < 5

    def test_429_with_only_a_reset_time(self, past: Past, gitlab: Simulator) -> None:
        ids = past.push_at(NOW - HOUR)
        by_its_clock = gitlab.world.clock() // 1000 + 1
        gitlab.api.faults.next = [(429, {"RateLimit-Reset": str(by_its_clock), "RateLimit-Remaining": "0"})]
        assert read(gitlab, NOW - DAY, NOW)[0] == ids

    def test_5xx_is_tried_again(self, past: Past, gitlab: Simulator) -> None:
        ids = past.push_at(NOW - HOUR)
        gitlab.api.faults.next = [(500, {}), (502, {}), (503, {})]
        assert read(gitlab, NOW - DAY, NOW)[0] == ids

    def test_silence_is_tried_again_and_then_told(self, gitlab: Simulator) -> None:
        gitlab.api.faults.slow_s = 0.5
        client = Client(
            GitLab.model_validate({"url": gitlab.url, "token": gitlab.api.token, "timeout": "100ms"}), tries=2
        )
        with pytest.raises(Unavailable, match="2 tries"):
            client.get("/version", answers.Version)
        assert client.requests == 2

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_no_is_a_no_with_advice(self, gitlab: Simulator, status: int) -> None:
        gitlab.api.faults.forbidden = {42: status}
        client = client_of(gitlab)
        with pytest.raises(GitLabRefused, match=f"HTTP {status}: .*(token|check)") as raised:
            next(client.pages("/projects/42/events", answers.Event, {}))
        assert raised.value.status == status
        assert client.requests == 1

    def test_stopping_ends_a_wait(self, gitlab: Simulator) -> None:
        gitlab.api.faults.next = [(429, {"Retry-After": "3000"})]
        client = client_of(gitlab)
        threading.Timer(0.3, client.stop).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            client.get("/version", answers.Version)
        assert time.monotonic() - began < 10

    def test_an_answer_that_is_no_json(self, gitlab: Simulator) -> None:
        with pytest.raises(GitLabRefused, match="404"):
            client_of(gitlab).get("/nowhere", answers.Version)


@settings(deadline=None, max_examples=tries(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.integers(0, 20 * 24), max_size=40),
    window=st.tuples(st.integers(0, 20 * 24), st.integers(1, 20 * 24)),
    hours=st.integers(-12, 14),
)
def test_any_window_of_any_past(ages: list[int], window: tuple[int, int], hours: int) -> None:
    past = Past()
    moments = sorted(NOW - age * HOUR for age in ages)
    ids = past.push_at(*moments)
    end = NOW - window[0] * HOUR
    start = end - window[1] * HOUR
    with Simulator(past.world) as gitlab:
        gitlab.api.zone = timezone(timedelta(hours=hours))
        found, slices = read(gitlab, start, end)
    assert found == [ident for ident, at in zip(ids, moments, strict=True) if start <= at < end]
    assert (covered(slices)[0].start, covered(slices)[-1].end) == (start, end)

"""What is switched off in a project is refused like anything else, and is no gap: nothing happens there."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from reconciler.dashboard import views
from reconciler.events.intervals import Interval
from reconciler.events.times import DAY, HOUR, MINUTE, Millis
from reconciler.ledger.coverage.source_state import source_troubles
from reconciler.metrics.collectors import LedgerCollector
from reconciler.polling.backfill import Backfill
from reconciler.polling.knowledge import look
from reconciler.simulator.server import Simulator
from reconciler.sources.table import SOURCES
from tests.conftest import PROJECT, MakeService, at_gitlab
from tests.reconciler.polling.conftest import NOW, MakeHouse, SimulatedHouse
from tests.support.service import until

CI = {"/pipelines": 403, "/jobs": 403, "/deployments": 403}
OFF = ["deployments", "jobs", "pipelines"]
HOOK_LOG = "hook_log"
WANTED = {"sources": [entry.name for entry in SOURCES if entry.name != HOOK_LOG]}


def switch_off(gitlab: Simulator, *features: str, paths: dict[str, int]) -> None:
    """GitLab refuses these lists, and says of the project that these features are switched off."""
    levels = {f"{feature}_access_level": "disabled" for feature in features}

    def mangle(path: str, value: Any) -> Any:
        return value | levels if path == f"/api/v4/projects/{PROJECT}" else value

    gitlab.api.faults.forbidden_paths = paths
    gitlab.api.faults.mangle = mangle


@pytest.fixture
async def house(make_house: MakeHouse) -> SimulatedHouse:
    return make_house(reconcile=WANTED)


@pytest.mark.parametrize(
    ("features", "paths", "off"),
    [
        (["builds"], CI, OFF),
        (["environments"], {"/deployments": 403}, ["deployments"]),
        (["issues"], {"/issues": 403}, ["issues"]),
        (["merge_requests"], {"/merge_requests": 403}, ["merge_requests"]),
        (["releases"], {"/releases": 404}, ["releases"]),
        (["feature_flags"], {"/feature_flags": 403}, ["feature_flags"]),
    ],
)
async def test_it_is_no_gap(
    house: SimulatedHouse, features: list[str], paths: dict[str, int], off: list[str]
) -> None:
    switch_off(house.gitlab, *features, paths=paths)
    counts = await house.poll(PROJECT)
    assert counts is not None
    assert counts.error is None
    house.now = Millis(NOW + DAY)
    await house.poll(PROJECT)
    known = look(house.reader, house.config, house.now)
    assert known.gaps == []
    assert [one for one in known.unknowns if one.kind == "source"] == []
    assert known.switched_off == {PROJECT: off}


async def test_what_is_refused_for_another_reason_is_a_gap_as_ever(house: SimulatedHouse) -> None:
    switch_off(house.gitlab, "issues", paths=CI)
    await house.poll(PROJECT)
    house.now = Millis(NOW + DAY)
    await house.poll(PROJECT)
    assert source_troubles(house.reader) == {PROJECT: dict.fromkeys(OFF, "refused")}
    assert {gap.source for gap in house.gaps()} == set(OFF)
    assert look(house.reader, house.config, house.now).switched_off == {}


@pytest.mark.parametrize("refused", [False, True])
async def test_what_was_not_read_before_stays_a_gap(
    house: SimulatedHouse, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the service was down, or could not read it for another reason."""
    await house.poll(PROJECT)
    if refused:
        house.gitlab.api.faults.forbidden_paths = CI
        house.now = Millis(NOW + HOUR)
        await house.poll(PROJECT)
    house.now = Millis(NOW + 2 * DAY)
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)  # what was refused is asked for again
    switch_off(house.gitlab, "builds", paths=CI)
    await house.poll(PROJECT)
    house.now = Millis(NOW + 3 * DAY)
    await house.poll(PROJECT)
    known = look(house.reader, house.config, house.now)
    assert known.switched_off == {PROJECT: OFF}
    assert [(gap.source, gap.why) for gap in known.gaps] == [(source, "switched off") for source in OFF]
    for gap in known.gaps:
        assert NOW - HOUR < gap.during.start <= NOW
        assert NOW + 2 * DAY - HOUR < gap.during.end <= NOW + 2 * DAY
        assert "builds_access_level" in str(gap.error)


async def test_it_is_asked_again_and_read_from_where_it_ended(
    house: SimulatedHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.poll(PROJECT)
    switch_off(house.gitlab, "builds", paths=CI)
    house.now = Millis(NOW + DAY)
    await house.poll(PROJECT)
    house.now = Millis(NOW + 2 * DAY)
    house.gitlab.api.faults.forbidden_paths = {}
    house.gitlab.world.pipeline(PROJECT)
    before = house.events()
    house.later(MINUTE)
    await house.poll(PROJECT)
    assert source_troubles(house.reader) == {PROJECT: dict.fromkeys(OFF, "switched off")}  # not asked so soon
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)
    house.later(MINUTE)
    await house.poll(PROJECT)
    assert source_troubles(house.reader) == {}
    assert house.gaps() == []
    assert house.events() > before


async def test_a_backfill_says_so_too(house: SimulatedHouse) -> None:
    switch_off(house.gitlab, "builds", paths=CI)
    backfill = Backfill(house.polling, house.config.reconcile, ledger=house.ledger)
    report = await backfill.project(PROJECT, Interval(Millis(NOW - DAY), NOW), lambda *_: lambda *_: None)
    assert report.error is None
    assert sorted(report.skipped) == OFF
    assert all("switched off in the project (builds_access_level)" in why for why in report.skipped.values())


async def test_dashboard_and_metrics_say_it(house: SimulatedHouse) -> None:
    switch_off(house.gitlab, "builds", paths=CI)
    await house.poll(PROJECT)
    known = look(house.reader, house.config, house.now)
    [line] = views.front(house.reader, house.config, known, now=house.now)["projects"]
    assert line.notes[-1] == "deployments, jobs, pipelines: switched off in the project"
    registry = CollectorRegistry()
    registry.register(LedgerCollector(lambda: (house.config, None), lambda: known))
    assert "gitlab_reconciler_sources_switched_off 3.0" in generate_latest(registry).decode()


def test_commands_and_the_log_say_it(make_service: MakeService, gitlab: Simulator) -> None:
    switch_off(gitlab, "builds", paths=CI)
    service = make_service(**at_gitlab(gitlab, **WANTED)).start()
    line = service.wait_for_log("a source has nothing to read", source="deployments")
    assert "switched off in the project (builds_access_level)" in line["reason"]
    until(lambda: service.run("gaps", "--exit-code").returncode == 0)
    words = "deployments, jobs, pipelines: switched off in the project"
    for command in ("gaps", "status", "check"):
        assert words in service.run(command).stdout, command
    assert not [one for one in service.logs if one.get("event") == "a source can't be read"]
    assert len([one for one in service.logs if one.get("event") == "a source has nothing to read"]) == 3

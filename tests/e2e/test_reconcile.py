"""Polls and backfills of the real service and command."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.service import TOKEN, Service, until


def count(service: Service, sql: str) -> Any:
    return service.rows(sql)[0][0]


def test_one_project_s_trouble_is_not_the_others(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    gitlab.world.add_project(43, "group/other")
    gitlab.world.add_project(44, "group/third")
    gitlab.api.faults.forbidden = {43: 403, 44: 404}
    sections = at_gitlab(gitlab) | {"projects": [43, "group/third", PROJECT, "group/project-gone"]}
    service = make_service(destinations=[to_consumer(consumer)], **sections).start()
    gitlab.world.push(PROJECT)
    gitlab.world.push(43)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    gitlab.api.faults.forbidden = {}
    assert consumer.wait_for(lambda c: len(c.accepted) == 2)
    status = json.loads(service.run("status", "--json").stdout)
    errors = {p["id"]: p["last_poll_error"] for p in status["projects"]}
    assert errors[PROJECT] is None
    assert service.stop() == 0


def test_records_that_appear_late_are_found(make_service: MakeService, gitlab: Simulator, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab)).start()
    service.wait_for_log("caught up with GitLab")
    gitlab.api.faults.record_delay_ms = 2500  # over two polls later
    gitlab.world.push(PROJECT)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)


def test_a_poll_that_fails_covers_nothing_and_the_next_goes_on(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab, **EVENTS_ONLY)).start()
    service.wait_for_log("caught up with GitLab")
    gitlab.api.faults.forbidden = {PROJECT: 401}
    service.wait_for_log("a project can't be polled")
    covered = count(service, "SELECT covered_through FROM coverage")
    gitlab.world.push(PROJECT)
    polled = len(gitlab.api.requests)
    assert count(service, "SELECT covered_through FROM coverage") == covered
    assert polled
    gitlab.api.faults.forbidden = {}
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert count(service, "SELECT count(*) FROM coverage") == 1
    assert count(service, "SELECT count(*) FROM runs WHERE error IS NOT NULL") >= 1


def test_a_quiet_project_costs_one_request_a_source_and_poll(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(**at_gitlab(gitlab)).start()
    service.wait_for_log("caught up with GitLab")
    path = f"/api/v4/projects/{PROJECT}/events"
    before = gitlab.api.requests[path]
    polls = 3
    while gitlab.api.requests[path] < before + polls:
        service._logged.acquire()
        service._logged.wait(0.05)
        service._logged.release()
    service.stop()
    lists = {"pipelines": 2, "deployments": 1, "releases": 1, "issues": 1, "merge_requests": 1, "feature_flags": 1}
    read = gitlab.api.requests[path]
    for name, times in lists.items():  # a poll that was ended half way has asked for fewer
        assert (read - 1) * times <= gitlab.api.requests[f"/api/v4/projects/{PROJECT}/{name}"] <= read * times
    once = {f"/api/v4/projects/{PROJECT}", f"/api/v4/projects/{PROJECT}/hooks"}
    assert {name for name, asked in gitlab.api.requests.items() if asked == 1} == once
    assert len(gitlab.api.requests) == 1 + len(lists) + len(once)


class Backfill:
    """A past of 40 days, some of it known by webhook."""

    def __init__(self, make_service: MakeService, gitlab: Simulator, **more: Any) -> None:
        self.gitlab = gitlab
        self.service = make_service(**(at_gitlab(gitlab) | more))
        self.real_clock = gitlab.world.clock
        self.today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for day in range(40, 0, -1):
            at = self.today - timedelta(days=day)
            gitlab.world.clock = lambda at=at: round(at.timestamp() * 1000)  # type: ignore[misc]  # a default
            for _ in range(3):
                gitlab.world.anything(PROJECT)
        gitlab.world.clock = self.real_clock

    def day(self, ago: int) -> str:
        return f"{self.today - timedelta(days=ago):%Y-%m-%d}"

    def run(self, *arguments: str) -> dict[str, Any]:
        self.service.write_config()
        done = self.service.run("backfill", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def figures(self, *arguments: str) -> tuple[int, int, int]:
        [project] = self.run(*arguments)["projects"]
        return project["seen"], project["already_known"], project["new"]


def test_backfill_both_days_included_and_safe_to_repeat(make_service: MakeService, gitlab: Simulator) -> None:
    past = Backfill(make_service, gitlab)
    assert past.figures("--from", past.day(20), "--to", past.day(11)) == (30, 0, 30)
    requests = sum(gitlab.api.requests.values())
    assert past.figures("--from", past.day(20), "--to", past.day(11)) == (0, 0, 0)
    assert sum(gitlab.api.requests.values()) - requests == 2  # only the project's name and its webhooks
    assert past.figures("--from", past.day(22), "--to", past.day(10)) == (9, 0, 9)
    assert count(past.service, "SELECT count(*) FROM events") == 39


def test_backfill_dry_run_records_nothing(make_service: MakeService, gitlab: Simulator) -> None:
    past = Backfill(make_service, gitlab)
    past.run("--from", past.day(5), "--to", past.day(4))
    assert past.figures("--from", past.day(6), "--to", past.day(4), "--dry-run") == (9, 6, 3)
    assert count(past.service, "SELECT count(*) FROM events") == 6


def test_backfill_beside_a_service_is_forwarded_at_once(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    past = Backfill(make_service, gitlab, destinations=[to_consumer(consumer)])
    past.service.start()
    past.service.wait_for_log("caught up with GitLab")
    assert past.figures("--from", past.day(3), "--to", past.day(3)) == (3, 0, 3)
    assert consumer.wait_for(lambda c: len(c.accepted) == 3)
    assert past.figures("--from", past.day(2), "--to", past.day(2), "--no-forward") == (3, 0, 3)
    assert past.figures("--from", past.day(1), "--to", past.day(1)) == (3, 0, 3)
    assert consumer.wait_for(lambda c: len(c.accepted) == 6)
    lines = past.service.run("events", "--json").stdout.splitlines()
    told = {event["id"]: event["happened_at"] for event in map(json.loads, lines)}
    order = [told[int(r.event_id.rpartition("_")[2])] for r in consumer.accepted]
    assert order == sorted(order)


def test_backfill_goes_on_after_a_failure(make_service: MakeService, gitlab: Simulator) -> None:
    past = Backfill(make_service, gitlab)
    reads = 0

    def fail_after_a_while(_: object) -> bool:
        nonlocal reads
        reads += 1
        if reads == 4:
            gitlab.api.faults.forbidden = {PROJECT: 403}
        return False

    gitlab.api.faults.hidden = fail_after_a_while
    past.service.write_config()
    failed = past.service.run("backfill", "--from", past.day(39), "--json")
    assert failed.returncode == 1
    [project] = json.loads(failed.stdout)["projects"]
    assert "HTTP 403" in project["error"]
    before = count(past.service, "SELECT count(*) FROM events")
    assert 0 < before < 117
    gitlab.api.faults.forbidden = {}
    gitlab.api.faults.hidden = lambda _: False
    past.figures("--from", past.day(39))
    assert count(past.service, "SELECT count(*) FROM events") == 117


def test_backfill_says_what_gitlab_no_longer_keeps(make_service: MakeService, gitlab: Simulator) -> None:
    past = Backfill(make_service, gitlab)
    past.service.write_config()
    done = past.service.run("backfill", "--from", "2015-01-01", "--project", "group/project")
    assert done.returncode == 0, done.stderr
    assert "GitLab keeps events for 3 years" in done.stderr
    assert "(UTC)" in done.stderr
    assert "120" in done.stdout
    gone = past.service.run("backfill", "--from", "2015-01-01", "--to", "2015-02-01")
    assert gone.returncode == 1


def test_webhooks_and_backfill_meet_in_one_event(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(**(at_gitlab(gitlab) | {"projects": []})).start()
    gitlab.add_hook(PROJECT, service.url + "/webhooks/gitlab", token=TOKEN)
    for _ in range(20):
        gitlab.world.anything(PROJECT)
    gitlab.courier.settle()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    done = service.run("backfill", "--from", today, "--project", str(PROJECT), "--json")
    [project] = json.loads(done.stdout)["projects"]
    assert (project["seen"], project["already_known"], project["new"]) == (40, 40, 0)  # in two sources


def test_a_stop_does_not_wait_for_gitlab(make_service: MakeService, gitlab: Simulator) -> None:
    gitlab.api.faults.slow_s = 600  # far longer than `stop` waits, however busy the machine is
    sections = at_gitlab(gitlab)
    sections["gitlab"]["timeout"] = "10m"
    service = make_service(**sections).start()
    until(lambda: bool(gitlab.api.requests))
    assert service.stop() == 0

"""`gaps`, `hooks` and `backfill --gaps`, as a person runs them beside a service that was down."""

from __future__ import annotations

import json
import sqlite3
from urllib.request import urlopen

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.conftest import PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.service import TOKEN, Service


def told(service: Service) -> list[dict[str, object]]:
    return [json.loads(line) for line in service.run("events", "--json", "--limit", "500").stdout.splitlines()]


def test_a_service_that_was_down_ends_as_if_it_had_not_been(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    """The real process: set up its webhook, go down, have it disabled by GitLab, come back."""
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab)).start()
    service.config["receiver"]["url"] = service.url
    service.stop()
    service.start()
    made = service.run("hooks", "ensure")
    assert made.returncode == 0, made.stderr
    assert f"group/project: webhook default: created, {service.url}/webhooks/gitlab/default" in made.stdout
    assert "unchanged" in service.run("hooks", "ensure", "--dry-run").stdout
    [hook] = gitlab.courier.hooks.values()
    world = gitlab.world
    world.push(PROJECT)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    service.kill()
    issue = world.issue(PROJECT)
    world.pipeline(PROJECT)  # and two jobs
    gitlab.courier.settle()
    assert hook.alert_status == "temporarily_disabled"
    world.merge_request(PROJECT)  # in no log
    world.issue_does(PROJECT, issue, "close")
    shown = service.run("hooks", "list").stdout
    assert "temporarily_disabled" in shown
    service.start()
    service.wait_for_log("our webhook is enabled again")
    assert consumer.wait_for(lambda c: len({r.event_id for r in c.accepted}) == 7)
    assert hook.alert_status == "executable"
    bodies = [json.loads(request.body) for request in consumer.accepted]
    assert {body["object_kind"] for body in bodies} == {"push", "issue", "pipeline", "build", "merge_request"}
    by_api = [r for r in consumer.accepted if r.headers.get("x-reconciler-reconstructed") == "true"]
    assert {r.headers["x-gitlab-event"] for r in by_api} == {"Merge Request Hook", "Issue Hook"}
    assert all(r.headers["x-reconciler-unknown"] for r in by_api)
    by_log = [r for r in consumer.accepted if r.headers.get("x-reconciler-recovered") == "hook_log"]
    assert len(by_log) == 4
    world.push(PROJECT)  # by webhook again
    assert consumer.wait_for(lambda c: len({r.event_id for r in c.accepted}) == 8)
    with sqlite3.connect(service.ledger) as db:
        assert db.execute("SELECT how FROM downtimes ORDER BY started_at").fetchall() == [("stopped",), ("killed",)]


def test_gaps_names_them_and_backfill_closes_them(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(**at_gitlab(gitlab)).start()
    service.wait_for_log("caught up with GitLab")
    service.stop()
    service.config["reconcile"]["interval"] = "60s"  # so that what passes meanwhile is no gap yet
    service.write_config()
    hours_ago = times.now() - 3 * times.HOUR
    with sqlite3.connect(service.ledger) as db:  # as if it had stopped three hours ago
        db.execute("UPDATE sources SET watched_since = ?", [times.iso(Millis(hours_ago - times.HOUR))])
        db.execute("UPDATE coverage SET covered_from = ?", [times.iso(Millis(hours_ago - times.HOUR))])
        db.execute("UPDATE coverage SET covered_through = ?", [times.iso(Millis(hours_ago))])
        db.execute("UPDATE meta SET value = ? WHERE name = 'alive_at'", [times.iso(Millis(hours_ago))])
    shown = service.run("gaps", "--exit-code")
    assert shown.returncode == 1
    assert "no webhook" in shown.stdout  # the hook log, and what to do about it
    assert "hooks ensure" in shown.stdout
    found = json.loads(service.run("gaps", "--json").stdout)
    assert {gap["source"] for gap in found["gaps"]} >= {"project_events", "pipelines", "hook_log"}
    of_events = next(gap for gap in found["gaps"] if gap["source"] == "project_events")
    assert of_events["from"] == times.iso(Millis(hours_ago))
    assert of_events["closable_until"][:4] == str(int(of_events["from"][:4]) + 3)
    assert all(row["through"] >= row["from"] for row in found["complete"])

    done = service.run("backfill", "--gaps")
    assert done.returncode == 0, done.stderr
    assert "hook_log was not read" in done.stderr
    left = json.loads(service.run("gaps", "--json").stdout)["gaps"]
    assert {gap["source"] for gap in left} == {"hook_log"}
    gitlab.add_hook(PROJECT, "http://127.0.0.1:9/webhooks/gitlab", token=TOKEN)
    assert service.run("backfill", "--gaps").returncode == 0
    left = service.run("gaps", "--exit-code")
    assert (left.returncode, "No gaps in what was read." in left.stdout) == (1, True)
    assert "service gitlab-reconciler: not running" in left.stdout


def test_resend_brings_the_original_bytes(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(**at_gitlab(gitlab)).start()
    hook = gitlab.add_hook(PROJECT, service.url + "/webhooks/gitlab", token=TOKEN)
    service.wait_for_log("caught up with GitLab")
    service.stop()
    gitlab.world.push(PROJECT)
    gitlab.courier.settle()
    service.start()
    service.wait_for_log("caught up with GitLab")
    [event] = told(service)

    def body() -> tuple[str, object]:
        shown = json.loads(service.run("events", "show", str(event["id"]), "--json").stdout)
        [sighting] = [s for s in shown["sightings"] if s["source"] == "webhook:default"]
        return shown["payload"]["commits"][0]["author"]["email"], sighting["recovery"]

    shown = service.run("events", "show", str(event["id"])).stdout
    assert "redacted by GitLab: commits[].author.email" in shown
    assert "project_events: rebuilt as a webhook payload; unknown: ref_protected" in shown
    assert body() == ("[REDACTED]", {"by": "hook_log", "unknown": [], "redacted": ["commits[].author.email"]})
    listed = service.run("hooks", "resend", "--project", "group/project", "--dry-run")
    assert "internal error" in listed.stdout
    assert "nothing was resent" in listed.stdout
    sent = service.run("hooks", "resend", "--project", str(PROJECT), "--json")
    assert [row["delivery"] for row in json.loads(sent.stdout)] == [hook.log[0][1]["id"]]
    email, recovery = body()
    assert (email.endswith("@example.com"), recovery) == (True, None)
    assert len(told(service)) == 1


def test_a_group_is_all_its_projects(make_service: MakeService, gitlab: Simulator, consumer: Consumer) -> None:
    gitlab.world.add_project(43, "group/deep/er/project")
    gitlab.world.add_project(44, "elsewhere/project")
    sections = at_gitlab(gitlab) | {"projects": [], "groups": ["group"]}
    service = make_service(destinations=[to_consumer(consumer)], **sections).start()
    service.wait_for_log("caught up with GitLab", projects=2)
    gitlab.world.push(43)
    gitlab.world.push(44)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert json.loads(consumer.accepted[0].body)["project"]["path_with_namespace"] == "group/deep/er/project"
    assert "group/deep/er/project" in service.run("status").stdout
    assert "2 projects" in service.run("check").stdout


def test_metrics(make_service: MakeService, gitlab: Simulator) -> None:
    port = free_port()
    service = make_service(metrics={"port": port}, **at_gitlab(gitlab)).start()
    service.wait_for_log("caught up with GitLab")
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    for name in ("gap_seconds", "gaps", "hooks_disabled 0.0", "api_requests_total", "rate_limit_remaining"):
        assert f"gitlab_reconciler_{name}" in text

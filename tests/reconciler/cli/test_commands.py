"""The real command as a subprocess: what it prints, and how it ends."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, PAYLOADS, PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.scripted import Scripted
from tests.support.service import COMMAND, Service, run


def fill(service: Service, *names: str) -> None:
    for name in names:
        body = (PAYLOADS / name).read_bytes()
        assert service.post(body, Idempotency_Key=str(uuid.uuid4())).status_code == 200


PUSH, ISSUE, NOTE = (
    "drone+go-scm/push.json",
    "drone+go-scm/issue_create.json",
    "go-playground+webhooks/comment-issue-event.json",
)


@pytest.mark.parametrize("command", ["", "serve", "events show"])
def test_help(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("gitlab-reconciler ")


def test_init_writes_a_config_that_is_valid_and_guarded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "config.yaml"
    done = run("init", str(file))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "change-me" not in file.read_text()
    assert f"serve --config {file}" in done.stdout
    assert (file.parent / "config.schema.json").exists()
    assert run("status", "-c", str(file)).returncode == 1  # valid, but there is no ledger yet
    again = run("init", str(file))
    assert (again.returncode, "--force" in again.stderr) == (2, True)
    file.chmod(0o644)
    assert run("init", str(file), "--force").returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("command", ["check", "serve", "status", "events", "backfill --from 2026-10-01", "replay 1"])
def test_a_bad_config_is_told_with_its_lines(tmp_path: Path, command: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("receiver:\n  hooks: [{token: t}]\n  prot: 1\ndestinations:\n- {name: d, url: nowhere}\n")
    done = run(*command.split(), "-c", str(file))
    assert done.returncode == 2
    assert f"{file}:3: receiver.prot: " in done.stderr
    assert f"{file}:5: destinations[0].url: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("backfill", 2),
        ("backfill --gaps --from 2026-10-01", 2),
        ("hooks ensure", 1),
        ("hooks resend", 2),
        ("hooks resend --project group/nowhere", 1),
        ("hooks list --project group/nowhere", 1),
        ("backfill --from soon", 2),
        ("backfill --from 2026-10-02 --to 2026-10-01", 2),
        ("events --limit 0", 2),
        ("events --from tomorrow", 2),
        ("events show 99", 1),
        ("events show x", 2),
        ("replay", 2),
        ("replay 1 --destination nobody", 2),
        ("nonsense", 2),
    ],
)
def test_usage_mistakes(make_service: MakeService, gitlab: Simulator, arguments: str, code: int) -> None:
    service = make_service(**at_gitlab(gitlab)).start()
    command = arguments.split()
    done = service.run(*command) if command != ["nonsense"] else run("nonsense")
    assert done.returncode == code, done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(make_service: MakeService) -> None:
    first, second = make_service().start(), make_service()
    second.config["receiver"]["port"] = first.port
    second.write_config()
    done = second.run("serve")
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{first.port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ledger_that_is_none(make_service: MakeService) -> None:
    service = make_service()
    service.ledger.write_text("this is no database, and long enough to be read as a page header of one " * 20)
    service.write_config()
    for command in (["serve"], ["status"], ["check"]):
        done = service.run(*command)
        assert done.returncode == 1
        assert "no SQLite database" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


class TestCheck:
    def test_ticks(self, make_service: MakeService, gitlab: Simulator, consumer: Consumer) -> None:
        service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab))
        service.write_config()
        done = service.run("check")
        assert done.returncode == 0, done.stdout
        assert (done.stdout.count("✓"), done.stdout.count("!")) == (7, 1)
        assert "none delivers here yet: `hooks ensure` creates one" in done.stdout
        assert "group/project, id 42" in done.stdout
        gitlab.add_hook(PROJECT, "https://us.example/webhooks/gitlab")
        findings = json.loads(service.run("check", "--json").stdout)
        assert all(finding["ok"] for finding in findings)
        log = "GitLab's log of webhook default: no delivery yet"
        assert any(log in finding["what"] for finding in findings)

    def test_what_keeps_events_from_a_webhook(
        self, make_service: MakeService, gitlab: Simulator, consumer: Consumer
    ) -> None:
        service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab))
        service.config["receiver"]["hooks"][0]["signing_token"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        service.write_config()
        hook = gitlab.add_hook(PROJECT, "https://us.example/webhooks/gitlab")
        hook.settings["push_events_branch_filter"] = "main"
        done = service.run("check")
        assert (done.returncode, done.stdout.count("!")) == (0, 2)
        text = "GitLab sends only pushes to branches that match main (push_events_branch_filter, wildcard)"
        assert text in done.stdout
        assert "GitLab stored no signing token" in done.stdout
        listed = service.run("hooks", "list")
        assert f"! group/project: webhook default: {text}" in listed.stdout
        [shown] = json.loads(service.run("hooks", "list", "--json").stdout)[0]["hooks"]
        assert shown["restrictions"] == [text]
        del service.config["receiver"]["hooks"][0]["token"]
        service.write_config()
        assert service.run("check").returncode == 1  # nothing that GitLab sends would be taken

    def test_a_token_that_sees_no_webhooks_is_told_what_it_lacks(
        self, make_service: MakeService, gitlab: Simulator, consumer: Consumer
    ) -> None:
        service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab))
        service.write_config()
        gitlab.api.faults.forbidden_paths = {"/hooks": 403}
        done = service.run("check")
        assert (done.returncode, "can't be read" in done.stdout) == (0, True)
        gitlab.api.faults.forbidden_paths = {"/hooks/1/events": 404}
        gitlab.add_hook(PROJECT, "https://us.example/webhooks/gitlab")
        done = service.run("check")
        assert (done.returncode, "needs GitLab 17.3" in done.stdout) == (0, True)

    def test_crosses_with_what_to_do(self, make_service: MakeService, gitlab: Simulator) -> None:
        sections = at_gitlab(gitlab) | {"projects": [PROJECT, "group/nowhere"]}
        destination = {"name": "d", "url": "https://no-such-host.invalid/x"}
        service = make_service(destinations=[destination], **sections)
        service.write_config()
        gitlab.api.scopes = ("read_user",)
        done = service.run("check")
        assert done.returncode == 1
        assert done.stdout.count("✗") == 3
        for word in ("read_api", "group/nowhere", "no-such-host.invalid does not resolve"):
            assert word in done.stdout

    def test_every_kind_of_destination_is_asked(
        self, make_service: MakeService, gitlab: Simulator, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        destinations = [
            {"name": "a", "kind": "file", "path": str(tmp_path / "events.ndjson")},
            {"name": "b", "kind": "file", "path": str(tmp_path / "file" / "events.ndjson")},
            {"name": "c", "kind": "redis", "url": "redis://127.0.0.1:9/0"},
            {"name": "d", "kind": "stdout"},
        ]
        service = make_service(destinations=destinations, **at_gitlab(gitlab))
        service.write_config()
        done = service.run("check", "--json")
        found = {one["what"].split(":")[0]: one["ok"] for one in json.loads(done.stdout)}
        assert [found[f"destination {name}"] for name in "abcd"] == [True, False, False, True]

    def test_gitlab_that_does_not_answer_and_a_wrong_token(
        self, make_service: MakeService, gitlab: Simulator
    ) -> None:
        wrong = make_service(**(at_gitlab(gitlab) | {"gitlab": {"url": gitlab.url, "token": "wrong"}}))
        wrong.write_config()
        assert "the token is wrong, expired or revoked" in wrong.run("check").stdout
        away = make_service(**(at_gitlab(gitlab) | {"gitlab": {"url": "http://127.0.0.1:9", "token": "x"}}))
        away.write_config()
        assert "no answer" in away.run("check").stdout

    def test_gitlab_that_is_somewhere_else(self, make_service: MakeService, gitlab: Simulator) -> None:
        before = dict(gitlab.api.requests)
        with Scripted(lambda _: (301, b""), Location=f"{gitlab.url}/api/v4/version") as old:
            service = make_service(gitlab={"url": old.url, "token": gitlab.api.token}, projects=[PROJECT])
            service.write_config()
            done = service.run("check")
        assert done.returncode == 1
        assert f"if GitLab has moved there, set gitlab.url to {gitlab.url}" in done.stdout
        assert gitlab.api.requests == before  # the token was not shown there


class TestEvents:
    def test_list_and_filters(self, make_service: MakeService) -> None:
        service = make_service().start()
        fill(service, PUSH, ISSUE, NOTE)

        def ids(*arguments: str) -> list[int]:
            done = service.run("events", *arguments, "--json")
            assert done.returncode == 0, done.stderr
            return [json.loads(line)["id"] for line in done.stdout.splitlines()]

        assert ids() == [1, 2, 3]
        assert ids("--kind", "issue") == [2]
        assert ids("--project", "5") == [3]
        assert ids("--project", "gitlab-org/hello-world") == [1, 2]
        assert ids("--from", "2017-01-01", "--to", "2017-12-10") == [2]
        assert ids("--to", "2017-12-09") == [3]
        assert ids("--source", "webhook") == ids("--source", "webhook:default") == [1, 2, 3]
        assert ids("--source", "project_events") == []
        assert ids("--limit", "1") == [3]
        assert service.run("events", "list").stdout == service.run("events").stdout
        listed = service.run("events").stdout
        assert "found a bug" in listed
        assert "sytses" in listed
        assert "No event matches" in service.run("events", "--kind", "x").stdout

    def test_show(self, make_service: MakeService, consumer: Consumer) -> None:
        service = make_service(destinations=[to_consumer(consumer)]).start()
        fill(service, ISSUE)
        assert consumer.wait_for(lambda c: len(c.accepted) == 1)
        service.stop()
        shown = json.loads(service.run("events", "show", "1", "--json").stdout)
        assert shown["payload"] == json.loads((PAYLOADS / ISSUE).read_text())
        assert shown["sightings"][0]["key"] == "issue:8131350:opened"
        assert shown["deliveries"][0]["state"] == "delivered"
        assert "issue:8131350:opened" in service.run("events", "show", "1").stdout

    def test_follow(self, make_service: MakeService) -> None:
        service = make_service().start()
        fill(service, PUSH)
        follower = subprocess.Popen(
            [*COMMAND, "events", "--follow", "--json", "-c", str(service.file)], stdout=subprocess.PIPE, text=True
        )
        assert follower.stdout is not None
        try:
            assert json.loads(follower.stdout.readline())["id"] == 1
            fill(service, ISSUE)
            assert json.loads(follower.stdout.readline())["id"] == 2
        finally:
            follower.kill()
            follower.communicate()

    def test_a_pipe_that_closes_early(self, make_service: MakeService) -> None:
        service = make_service().start()
        fill(service, *[PUSH] * 50)
        command = f"{' '.join(COMMAND)} events --json -n 50 -c {service.file} | head -1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr


class TestReplay:
    def test_by_id_time_and_dead_only(self, make_service: MakeService, consumer: Consumer) -> None:
        consumer.answer = lambda _h, body: (400 if b"found a bug" in body else 200, {}, b"")
        service = make_service(destinations=[to_consumer(consumer)]).start()
        fill(service, PUSH, ISSUE, NOTE)
        assert consumer.wait_for(lambda c: len(c.requests) == 3)
        consumer.answer = lambda _h, _b: (200, {}, b"")

        asked = service.run("replay", "--dead-letters", stdin="n\n")
        assert (asked.returncode, "consumer: 1 to replay" in asked.stderr) == (1, True)
        assert len(consumer.requests) == 3

        assert service.run("replay", "--dead-letters", stdin="y\n").returncode == 0
        assert consumer.wait_for(lambda c: len(c.accepted) == 3)
        kinds = ("push", "note")
        listed = "".join(service.run("events", "--kind", kind, "--json").stdout for kind in kinds)
        ids = [str(json.loads(line)["id"]) for line in listed.splitlines()]
        by_id = json.loads(service.run("replay", *ids, "--yes", "--json").stdout)
        assert by_id == {"destinations": {"consumer": 2}, "replayed": 2}
        assert consumer.wait_for(lambda c: len(c.accepted) == 5)
        done = service.run("replay", "--from", "2017-12-10", "--to", "2017-12-10", "--destination", "consumer", "-y")
        assert "Queued for delivery: 1." in done.stdout
        assert consumer.wait_for(lambda c: len(c.accepted) == 6)
        assert len({r.event_id for r in consumer.accepted}) == 3
        assert "Nothing matches" in service.run("replay", "--dead-letters", "-y").stdout

    def test_what_was_recorded_before_a_destination_was_there(
        self, make_service: MakeService, consumer: Consumer
    ) -> None:
        service = make_service().start()
        fill(service, PUSH, ISSUE)
        service.stop()
        service.config["destinations"] = [to_consumer(consumer)]
        service.start()
        assert service.run("replay", "--from", "2000-01-01", "-y").returncode == 0
        assert consumer.wait_for(lambda c: len(c.accepted) == 2)


def test_status(make_service: MakeService, gitlab: Simulator, consumer: Consumer) -> None:
    consumer.answer = lambda _h, body: (422 if b'"issue"' in body else 503, {}, b"gone")
    # The interval is longer than the test may take: what a stopped service has not read since would be a gap.
    sections = at_gitlab(gitlab, interval="10m", **EVENTS_ONLY)
    service = make_service(destinations=[to_consumer(consumer)], **sections).start()
    fill(service, ISSUE, PUSH)
    service.wait_for_log("caught up with GitLab")
    assert consumer.wait_for(lambda c: len(c.requests) >= 3)
    service.stop()
    found = json.loads(service.run("status", "--json").stdout)
    assert found["events"] == 2
    projects = {project["id"]: project for project in found["projects"]}
    assert projects[PROJECT]["covered_through"] is not None
    assert projects[PROJECT]["gaps"] == []
    assert projects[4861503]["last_webhook_at"] is not None
    [destination] = found["destinations"]
    assert (destination["pending"], destination["dead_letters"]) == (1, 1)
    assert destination["last_error"].startswith("HTTP 503")
    shown = service.run("status").stdout
    assert "group/project" in shown
    assert "never polled" in shown


def test_status_names_what_is_not_covered(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(**at_gitlab(gitlab, interval="5m", **EVENTS_ONLY)).start()
    service.wait_for_log("caught up with GitLab")
    service.stop()
    hour_ago, now = times.now() - times.HOUR, times.now()
    with sqlite3.connect(service.ledger) as db:
        db.execute("UPDATE sources SET watched_since = ?", [times.iso(Millis(hour_ago))])
        db.execute("UPDATE coverage SET covered_from = ?", [times.iso(Millis(hour_ago + 10 * times.MINUTE))])
        db.execute("UPDATE coverage SET covered_through = ?", [times.iso(Millis(now - 20 * times.MINUTE))])
    [project] = json.loads(service.run("status", "--json").stdout)["projects"]
    first, last = project["gaps"]
    assert (first["start"], first["end"]) == (
        times.iso(Millis(hour_ago)),
        times.iso(Millis(hour_ago + 10 * times.MINUTE)),
    )
    assert last["start"] == times.iso(Millis(now - 20 * times.MINUTE))
    service.start()
    service.wait_for_log("caught up with GitLab")
    [project] = json.loads(service.run("status", "--json").stdout)["projects"]
    assert project["gaps"] == []


def test_schema_is_printed() -> None:
    assert json.loads(run("schema").stdout)["title"] == "gitlab-reconciler config.yaml"


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == run("--version").stdout

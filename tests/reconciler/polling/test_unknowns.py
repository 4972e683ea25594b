"""What nobody could read is the first thing that every face says: for each way in which GitLab can fail, at each
place, from the start and in the middle.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
import yaml
from typer.testing import CliRunner

from reconciler.cli.app import command_line
from reconciler.cli.grouping import without_request
from reconciler.config.load import load
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.events.times import HOUR, MINUTE, SECOND, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.forwarding.filters import routes
from reconciler.forwarding.forwarder import as_spec
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.coverage.downtime import Life
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.place import Progress
from reconciler.ledger.recording.unrecorded import FailedWebhook
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.receivers import Receiver, receivers_path
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep.failing_parts import Part
from reconciler.ledger.views import unknowns
from reconciler.ledger.views.unknowns import Asked, Known, Unknown
from reconciler.metrics.collectors import LedgerCollector
from reconciler.polling import schedule
from reconciler.polling.knowledge import SharedLook, look
from reconciler.polling.reconciling import reconciling
from reconciler.service.alerting import CHECK_INTERVAL_S, Alerting
from reconciler.service.jobs import ScheduledJobs
from reconciler.sources.errors import Stopped
from reconciler.supervisor import Supervisor
from tests.reconciler.polling import conftest
from tests.reconciler.polling.conftest import NOW
from tests.support.damage import overwrite, pages_of
from tests.support.effort import THOROUGH
from tests.support.failing_gitlab import WAYS, FailingGitLab

PLACES = {
    "everything": ("/",),
    "a project": ("/projects/42", "/projects/group/project"),
    "a group": ("/groups/team", "/groups/7"),
    "a source": ("/projects/42/pipelines",),
    "a project below a group": ("/projects/60/",),
}
SAYS = {  # kind, name, what the alert is, and about whom
    "everything": ("gitlab", "http://", "gitlab_not_read", "http://"),
    "a project": ("project", "42", "project_not_read", "42"),
    "a group": ("group", "team", "group_not_read", "team"),
    "a source": ("source", "pipelines of group/project", "project_not_read", "42"),
    "a project below a group": ("project", "team/member", "group_not_read", "team"),
}
NO_FAULT = {  # an empty list is just what a list may be
    ("an empty list", "a source", "start"),
    ("an empty list", "a source", "middle"),
    ("an empty list", "a project below a group", "start"),
    ("an empty list", "a project below a group", "middle"),
    ("an empty list", "a project", "middle"),  # its name was asked before
}
CASES = [
    (way, place, when)
    for number, way in enumerate(WAYS)
    for nth, place in enumerate(PLACES)
    for when in (("start", "middle") if THOROUGH else (("start", "middle")[(number + nth) % 2],))
    if (way, place, when) not in NO_FAULT
]
"""Each way at each place: from the start or in the middle, in turn; in a thorough run both."""


class House(conftest.House):
    """A house with what alerts and every face."""

    db: SqliteDatabase

    def __init__(self, folder: Path, url: str, **sections: Any) -> None:
        written = {
            "gitlab": {"url": url, "token": "glpat-x"},
            "projects": [42, "group/other"],
            "groups": ["team"],
            "reconcile": {"sources": ["project_events", "pipelines"], "full_poll_interval": "60s"},
            "destinations": [{"name": "ops", "url": "https://ops.example", "type": "alerts"}],
        }
        super().__init__(folder, **(written | sections))
        self.alerting = Alerting(lambda: self.config, known=self.known, ledger=self.ledger)

    def start(self) -> None:
        super().start()
        self.polling.client._tries = 1

    def receiver_is_alive(self, failure: str | None = None, since: Millis | None = None) -> None:
        file = receivers_path(intake_path(self.config.ledger.path))
        file.write_bytes(msgspec.json.encode([Receiver(1, 1, self.now, failure=failure, failing_since=since)]))

    async def wake(self, *, received: bool = False) -> None:
        """The service starts, or, if a receiver `received` meanwhile, only its worker."""
        self.receiver_is_alive()
        await self.ledger.note_start(self.now, received=lambda _: received)
        specs = [as_spec(one) for one in self.config.destinations]
        states = await self.ledger.queue.sync_destinations(specs, self.now)
        self.ledger.set_routes(routes(self.config.destinations, {one.name: one.id for one in states}))

    def known(self) -> Known:
        return look(self.reader, self.config, self.now)

    def unknown(self) -> list[Unknown]:
        return self.known().unknowns

    async def round(self, after: int = MINUTE, *, received: bool = True) -> None:
        """Everything is asked once, some time later, and it is looked whether that is worth an alert."""
        self.now = Millis(self.now + after)
        self.polling.poller._refused.clear()  # the quarter of an hour is over
        self.polling.schedule._groups_read_at = None
        await self.ledger.heartbeat(self.now)
        if received:
            self.receiver_is_alive()
        await self.polling.schedule.catch_up()
        await self.alerting._review()

    def told(self) -> list[tuple[str, str, str]]:
        """What the destination that gets alerts will be sent."""
        rows = self.reader.execute(
            "SELECT s.payload FROM deliveries d JOIN sightings s ON s.event_id = d.event_id ORDER BY s.id"
        )
        bodies = [json.loads(payload) for (payload,) in rows.fetchall()]
        return [(body["alert"], body["subject"], body["state"]) for body in bodies]

    def run(self, *command: str) -> tuple[int, str]:
        done = CliRunner().invoke(command_line(command[:1]), [*command, "-c", str(self.file)])
        return done.exit_code, done.stdout

    async def page(self) -> str:
        made = dashboard_app(
            lambda: self.config,
            known=self.known,
            stream=Stream(self.config.ledger.path),
            pulls=Pulls(lambda: self.config),
        )
        transport = httpx.ASGITransport(app=made)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.get("/")
        assert answer.status_code == 200
        return answer.text

    def metric(self, kind: str) -> float:
        families = LedgerCollector(lambda: (self.config, None), self.known).collect()
        [value] = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "gitlab_reconciler_unknowns" and sample.labels["kind"] == kind
        ]
        return float(value)


@pytest.fixture
def gitlab() -> Iterator[FailingGitLab]:
    with FailingGitLab() as running:
        yield running


@pytest.fixture
async def house(gitlab: FailingGitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(threading, "Timer", gitlab.timer)
    made = House(tmp_path, gitlab.url, gitlab={"url": gitlab.url, "token": "glpat-x", "timeout": "30s"})
    monkeypatch.setattr(times, "now", lambda: made.now)
    await made.wake()
    yield made
    await made.close()


async def every_face_says(house: House, kind: str, name: str) -> None:
    """First of all, with a reason and since when."""
    code, text = house.run("status")
    assert (code, text.splitlines()[0]) == (0, "Unknown (times are UTC):")
    assert f"{kind} {name}" in text.split(" Times are UTC.\n")[0]
    shown = json.loads(house.run("status", "--json")[1])
    assert next(iter(shown)) == "unknown"
    [mine] = [one for one in shown["unknown"] if (one["kind"], one["name"][: len(name)]) == (kind, name)]
    assert mine["why"]
    assert mine["trouble"]
    assert mine["since"]
    code, text = house.run("gaps", "--exit-code")
    assert (code, text.splitlines()[0]) == (1, "Unknown (times are UTC):")
    assert without_request(mine["why"].splitlines()[0]) in text  # said once where it is the same with several
    assert mine in json.loads(house.run("gaps", "--json")[1])["unknown"]
    page = await house.page()
    assert "Unknown" in page.partition('aria-labelledby="destinations"')[0]
    assert 'summary-box good">\n    <h2>Is anything lost?' not in page
    assert f'<th scope="row">{name}' in page
    assert house.metric(kind) >= 1


def all_is_known(house: House) -> bool:
    code, text = house.run("gaps", "--exit-code")
    return not house.unknown() and code == 0 and "No gaps." in text


@pytest.mark.parametrize(("way", "place", "when"), CASES, ids=lambda one: one.replace(" ", "_"))
async def test_what_nobody_could_read(house: House, gitlab: FailingGitLab, way: str, place: str, when: str) -> None:
    kind, name, what, subject = SAYS[place]
    if when == "middle":
        await house.round()
        assert all_is_known(house)
        await house.round(HOUR)
    gitlab.fail(way, *PLACES[place])
    with structlog.testing.capture_logs() as logged:
        await house.round()
    assert [one for one in logged if one["log_level"] in ("warning", "error")]
    ended = [one["event"].partition(":")[0] for one in logged if " up with GitLab" in one["event"]]
    assert ended == ["could not catch up with GitLab"]
    if (way, place) in (("not found", "everything"), ("forbidden", "everything")):
        kind, name = "project", "42"  # GitLab answers, but shows nothing
    if (way, place, when) == ("an empty list", "everything", "middle"):
        kind, name, what, subject = SAYS["a group"]  # for the rest it may well be that nothing happened
    await every_face_says(house, kind, name)
    assert house.told() == []  # a moment's trouble is no alert

    await house.round()
    await house.round()
    await house.round(10 * MINUTE)
    await every_face_says(house, kind, name)
    [(told, about, state)] = house.told()  # one, however many names stand in the config
    assert (told, about[: len(subject)], state) == (what, subject, "opened")

    gitlab.recover()
    await house.round()
    assert house.told() == [(told, about, "opened"), (told, about, "over")]
    assert all_is_known(house)
    assert 'Is anything lost?</h2>\n    <p class="answer">No</p>' in await house.page()


NOWHERE = {
    "nobody listens": ("http://127.0.0.1:1", "refused"),
    "no such host": ("http://gitlab.example", "no such host"),
    "no TLS": ("https://127.0.0.1:{port}", "SSL"),
}


@pytest.mark.parametrize("why", NOWHERE)
async def test_a_gitlab_that_was_never_reached(
    gitlab: FailingGitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **others: Any) -> Any:
        if host == "gitlab.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return real(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url, said = NOWHERE[why]
    house = House(tmp_path, url.format(port=gitlab.url.rpartition(":")[2]))
    monkeypatch.setattr(times, "now", lambda: house.now)
    await house.wake()
    for _ in range(4):
        await house.round()
    await every_face_says(house, "gitlab", "http")
    assert said in house.unknown()[0].why
    assert [(what, state) for what, _, state in house.told()] == [("gitlab_not_read", "opened")]
    await house.close()


async def test_what_was_not_read_yet_is_said_as_such(house: House) -> None:
    """Before the first attempt has ended nobody knows anything, and nothing is wrong."""
    await house.polling.projects.begin()
    assert {(one.kind, one.name, one.trouble, one.pending) for one in house.unknown()} == {
        ("group", "team", "not read yet", True),
        ("project", "42", "not read yet", True),
        ("project", "group/other", "not read yet", True),
    }
    assert {one.since for one in house.unknown()} == {times.iso(NOW)}
    assert house.run("gaps", "--exit-code")[0] == 1
    assert "3 items could not be read yet" in await house.page()
    await house.alerting._review()
    assert house.told() == []


async def test_a_reading_that_never_ends_is_an_alert(house: House) -> None:
    await house.polling.projects.begin()
    house.now = Millis(house.now + 2 * HOUR)
    house.receiver_is_alive()
    await house.ledger.heartbeat(house.now)
    assert {(one.trouble, one.pending) for one in house.unknown()} == {("slow", False)}
    await house.alerting._review()
    assert [what for what, _, _ in house.told()] == ["gitlab_not_read"]  # all of it, for one reason


async def test_one_source_in_trouble_stops_no_other(house: House, gitlab: FailingGitLab) -> None:
    house.config.reconcile.sources[:] = ["project_events", "pipelines", "releases"]  # type: ignore[index]  # it is not None
    gitlab.fail("server error", *PLACES["a source"])
    await house.round()
    asked = gitlab.requests["/api/v4/projects/42/releases"]
    assert asked == 1
    [one] = house.unknown()
    assert (one.kind, one.name, one.of.name) == ("source", "pipelines of group/project", "42")


async def test_a_group_that_hangs_holds_no_project_up(
    gitlab: FailingGitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "GROUPS_PATIENCE_S", 0.01)
    house = House(tmp_path, gitlab.url, gitlab={"url": gitlab.url, "token": "glpat-x", "timeout": "30s"})
    monkeypatch.setattr(times, "now", lambda: house.now)
    await house.wake()
    gitlab.fail("never answers", *PLACES["a group"])
    await house.round()
    assert [(one.kind, one.name, one.pending) for one in house.unknown()] == [("group", "team", True)]
    await house.close()


async def test_names_that_leave_the_config_leave_the_ledger(house: House) -> None:
    await house.round()
    house.config = load(rewritten(house, projects=["group/other"], groups=[]), {})
    house.polling.stop()
    house.start()
    await house.round()
    rows = house.reader.execute("SELECT kind, name FROM watched ORDER BY kind").fetchall()
    assert rows == [("gitlab", house.config.gitlab.url), ("project", "group/other")]
    house.now = Millis(house.now + HOUR)
    left_at = times.iso(Millis(NOW + 2 * MINUTE))
    ends = {gap.project_id: times.iso(gap.during.end) for gap in house.known().gaps}
    assert (ends[42], ends[60]) == (left_at, left_at)  # they answer for nothing that comes after
    assert ends[43] > left_at
    assert house.reader.execute("SELECT DISTINCT project_id FROM sources WHERE watched_until IS NULL").fetchall() == [
        (43,)
    ]


def scheduled_jobs(house: House, supervisor: Supervisor) -> ScheduledJobs:
    build = partial(reconciling, ledger=house.ledger)
    return ScheduledJobs(ledger=house.ledger, build=build, recorded=lambda: asyncio.sleep(0), supervisor=supervisor)


async def test_gitlab_is_asked_when_what_webhooks_brought_is_recorded(house: House, gitlab: FailingGitLab) -> None:
    asked: list[int] = []

    async def recorded() -> None:
        await asyncio.sleep(0)
        asked.append(gitlab.requests.total())

    build = partial(reconciling, ledger=house.ledger)
    jobs = ScheduledJobs(ledger=house.ledger, build=build, recorded=recorded, supervisor=Supervisor())
    jobs.apply(jobs.prepare(house.config), lambda: house.config)
    assert jobs._catch_up is not None
    await jobs._catch_up
    jobs.stop()
    assert asked == [0]
    assert gitlab.requests.total() > 0


async def test_a_turn_that_was_held_up_polls_nothing_of_an_old_config(house: House) -> None:
    house.polling.schedule.stop()
    await house.polling.schedule.turn()
    assert not house.polling.schedule._tasks


async def test_a_config_without_names_lets_all_go(house: House) -> None:
    await house.round()
    house.config = load(rewritten(house, projects=[], groups=[]), {})
    jobs = scheduled_jobs(house, Supervisor())
    jobs.apply(jobs.prepare(house.config), lambda: house.config)
    assert jobs._catch_up is not None
    await jobs._catch_up
    jobs.stop()
    assert house.reader.execute("SELECT count(*) FROM watched").fetchone() == (0,)
    assert house.reader.execute("SELECT count(*) FROM sources WHERE watched_until IS NULL").fetchone() == (0,)


async def test_another_file_in_the_ledger_s_place_is_never_looked_at(house: House) -> None:
    await house.round()
    path = house.config.ledger.path
    shared = SharedLook(lambda: house.config, house.db.trouble)
    shared()
    path.rename(path.with_name("aside"))
    with closing(connect(path)):  # another ledger, and an empty one
        house.config = house.config.model_copy()  # so that the look is not the last one
        with pytest.raises(LedgerUnavailable, match="is another file than the one in use"):
            shared()


async def test_what_fails_before_this_process_has_the_ledger_is_shown(house: House) -> None:
    await house.round()
    parts = [Part("dashboard", None, 0, ""), Part("ledger", house.now, 0, "this server is read-only")]
    first, *others = SharedLook(lambda: house.config, parts=lambda: parts)().unknowns
    assert (first.kind, first.name, first.why) == ("part", "ledger", "this server is read-only (see the log)")
    await house.ledger.note_parts(parts[1:])
    assert [one.name for one in SharedLook(lambda: house.config, parts=lambda: parts)().unknowns].count("ledger") == 1
    assert others == [one for one in others if one.kind != "part"]


async def test_status_lists_what_could_not_be_understood(house: House) -> None:
    await house.round()
    bad = Unreadable("7", "expected `str`", '{"id": 7, "title": []}')
    await house.ledger.coverage.note_slice(
        42, "issues", covered=None, unreadable_records=[bad], understood=[], now=house.now
    )
    assert "`status --json` shows it" in " ".join(house.run("status")[1].split())
    [kept] = json.loads(house.run("status", "--json")[1])["unreadable"]
    assert (kept["project_id"], kept["source"], kept["record_id"]) == (42, "issues", "7")
    assert (kept["error"], kept["raw"], kept["last_seen_at"]) == (bad.error, bad.raw, times.iso(house.now))


async def test_damage_that_alerting_meets_is_noted(house: House) -> None:
    """The first look at what is known fails: the next start checks the file."""
    await house.round()
    path = house.config.ledger.path
    house.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path, pages_of(path, "watched"))
    known = SharedLook(lambda: house.config, house.db.trouble)
    alerting = Alerting(lambda: house.config, known=known, ledger=house.ledger)
    assert house.ledger.damage is None
    assert await alerting._review() == CHECK_INTERVAL_S
    assert "malformed" in str(house.ledger.damage)


async def test_a_reload_stops_the_client_that_asked_gitlab(house: House) -> None:
    jobs = scheduled_jobs(house, Supervisor())
    jobs.apply(jobs.prepare(house.config), lambda: house.config)
    before = jobs.client
    house.config = load(rewritten(house, projects=["group/other"]), {})
    jobs.apply(jobs.prepare(house.config), lambda: house.config)
    after = jobs.client
    assert before is not None
    assert after is not None
    with pytest.raises(Stopped):
        before.project(42)
    assert after.project(42).path == "group/project"
    jobs.stop()
    with pytest.raises(Stopped):
        after.project(42)


async def test_a_job_that_a_config_takes_away_fails_no_more(house: House) -> None:
    supervisor = Supervisor()
    jobs = scheduled_jobs(house, supervisor)
    for name in ("polling", "catch-up", "prune"):
        supervisor.note(name, "broken")
    no_token = house.config.model_copy(update={"gitlab": house.config.gitlab.model_copy(update={"token": None})})
    jobs.apply(jobs.prepare(no_token), lambda: no_token)
    assert [part.name for part in supervisor.parts()] == ["prune"]
    supervisor.note("polling", "broken")
    no_names = load(rewritten(house, projects=[], groups=[]), {})
    jobs.apply(jobs.prepare(no_names), lambda: no_names)
    assert jobs._catch_up is not None
    await jobs._catch_up
    jobs.stop()
    assert [(part.name, part.failing_since is None) for part in supervisor.parts()] == [
        ("catch-up", True),
        ("prune", False),
    ]


async def test_projects_below_a_group_are_read_though_the_group_is_not(house: House, gitlab: FailingGitLab) -> None:
    """After a restart they are known from the ledger."""
    await house.round()
    gitlab.fail("server error", *PLACES["a group"])
    house.polling.stop()
    house.start()
    before = gitlab.requests["/api/v4/projects/60/events"]
    await house.round()
    assert gitlab.requests["/api/v4/projects/60/events"] == before + 1
    assert [one.kind for one in house.unknown()] == ["group"]


async def test_a_service_that_does_not_run_is_said_first(house: House) -> None:
    await house.round()
    assert all_is_known(house)
    house.now = Millis(house.now + MINUTE)  # and no sign of life
    code, text = house.run("gaps", "--exit-code")
    assert code == 1
    assert "service gitlab-reconciler: not running since 2026-11-24 12:01:00\n    it was killed" in text
    await house.ledger.note_stop(house.now)
    [one] = house.unknown()
    assert "it was stopped" in one.why
    assert house.run("status")[1].splitlines()[2].startswith("  service gitlab-reconciler: not running")
    await house.wake()
    assert house.unknown() == []


async def waits(house: House, *webhooks: ReceivedWebhook) -> None:
    intake = SqliteAppender(intake_path(house.config.ledger.path))
    for one in webhooks:
        await intake.append(one)
    await intake.close()


def samples(house: House) -> dict[str, float]:
    families = LedgerCollector(lambda: (house.config, None), house.known).collect()
    return {one.name.removeprefix("gitlab_reconciler_"): one.value for family in families for one in family.samples}


async def test_a_webhook_that_could_not_be_recorded(house: House) -> None:
    await house.round()
    await waits(house, ReceivedWebhook("default", house.now, {}, b"{}"))
    failed = FailedWebhook(ReceivedWebhook("default", house.now, {}, b"{}"), "KeyError: 'poisoned'")
    place = Progress("of another", 1)
    await house.ledger.recording.record([], [failed], through=place, now=house.now)
    await every_face_says(house, "intake", "webhooks")
    assert "poisoned" in " ".join(house.run("status")[1].split())
    shown = json.loads(house.run("status", "--json")[1])
    assert [one["error"] for one in shown["unrecorded"]] == ["KeyError: 'poisoned'"]
    assert shown["backlog"]["waiting"] == 1
    found = samples(house)
    assert (found["webhooks_unrecorded"], found["intake_pending"]) == (1, 1)
    await house.alerting._review()
    assert house.told() == [("webhooks_not_recorded", "intake", "opened")]
    [due] = [one.id for one in unrecorded.unrecorded(house.reader)]
    await house.ledger._write(lambda db: unrecorded.drop(db, [due]))
    await house.alerting._review()
    assert house.told()[1:] == [("webhooks_not_recorded", "intake", "over")]
    assert all_is_known(house)


async def test_webhooks_that_wait_for_long(house: House) -> None:
    await house.round()
    received = ReceivedWebhook("default", house.now, {}, b"{}")
    await waits(house, received, received)
    await house.alerting._review()
    assert all_is_known(house)  # they have just come
    await house.round(2 * MINUTE)
    await every_face_says(house, "intake", "webhooks")
    assert "2 webhooks wait" in " ".join(house.run("gaps")[1].split())
    found = samples(house)
    assert (found["intake_pending"], found["intake_oldest_seconds"]) == (2, 120)
    assert house.told() == []
    await house.round(4 * MINUTE)
    assert house.told() == [("webhooks_not_recorded", "recorder", "opened")]
    with closing(SqliteReader(intake_path(house.config.ledger.path))) as intake:
        intake.openings_seen()
        await house.ledger.recording.record([], [], through=Progress(intake.intake_id, 2), now=house.now)
    await house.alerting._review()
    assert house.told()[1:] == [("webhooks_not_recorded", "recorder", "over")]
    assert all_is_known(house)


@pytest.mark.parametrize("received", [False, True])
async def test_a_start_that_finds_webhooks_waiting_is_no_alert(house: House, received: bool) -> None:
    await waits(house, ReceivedWebhook("default", house.now, {}, b"{}"))
    house.now = Millis(house.now + HOUR)
    await house.wake(received=received)
    await house.alerting._review()
    assert house.told() == []
    await house.round(6 * MINUTE)  # and it records none of them
    assert house.told() == [("webhooks_not_recorded", "recorder", "opened")]


async def test_a_webhook_that_could_not_be_recorded_hides_none_that_wait(house: House) -> None:
    await house.round()
    failed = FailedWebhook(ReceivedWebhook("default", house.now, {}, b"{}"), "KeyError: 'poisoned'")
    await house.ledger.recording.record([], [failed], through=Progress("of another", 1), now=house.now)
    await waits(house, ReceivedWebhook("default", house.now, {}, b"{}"))
    await house.round(6 * MINUTE)
    assert sorted(house.told()) == [
        ("webhooks_not_recorded", "intake", "opened"),
        ("webhooks_not_recorded", "recorder", "opened"),
    ]


@pytest.mark.parametrize("received", [False, True])
async def test_a_service_that_dies_every_minute_does_not_hide_that_webhooks_wait(
    house: House, received: bool
) -> None:
    await waits(house, ReceivedWebhook("default", house.now, {}, b"{}"))
    for _ in range(6):
        assert house.told() == []
        house.now = Millis(house.now + MINUTE)
        await house.wake(received=received)
        await house.alerting._review()
    assert house.told() == [("webhooks_not_recorded", "recorder", "opened")]


async def test_a_receiver_that_does_not_run(house: House) -> None:
    await house.round()
    await house.round(30 * SECOND, received=False)
    assert all_is_known(house)
    assert samples(house)["receiver_up"] == 1
    last = times.iso(Millis(house.now - 30 * SECOND))
    await house.round(20 * SECOND, received=False)
    await every_face_says(house, "part", "receiver")
    [one] = house.unknown()
    assert (one.trouble, one.since) == ("not running", last)
    assert samples(house)["receiver_up"] == 0
    assert house.told() == [("receiver_down", "receiver", "opened")]
    await house.round(SECOND)
    assert house.told()[1:] == [("receiver_down", "receiver", "over")]
    assert all_is_known(house)


async def test_a_receiver_that_can_t_append_webhooks(house: House) -> None:
    await house.round()
    since = house.now
    await house.round(received=False)
    house.receiver_is_alive("the disk is full", since)
    await every_face_says(house, "part", "receiver")
    [one] = house.unknown()
    assert (one.trouble, one.since) == ("failing", times.iso(since))
    assert "503: the disk is full" in one.why
    assert samples(house)["receiver_up"] == 0
    await house.alerting._review()
    assert house.told() == [("receiver_down", "receiver", "opened")]
    await house.ledger.note_parts([Part("receiver", house.now, 0, "seen by the worker, too")])
    assert len(house.unknown()) == 1
    await house.ledger.note_parts([])
    await house.round()
    assert house.told()[1:] == [("receiver_down", "receiver", "over")]
    assert all_is_known(house)


def test_a_heartbeat_in_the_future_is_no_sign_of_life() -> None:
    """The clock was ahead, and was set back since."""
    assert Life(NOW, Millis(NOW + 5_000), False).runs(NOW)
    assert not Life(NOW, Millis(NOW + HOUR), False).runs(NOW)


async def test_no_receiver_has_ever_run(house: House) -> None:
    receivers_path(intake_path(house.config.ledger.path)).unlink()
    await house.round(received=False)
    [one] = house.unknown()
    assert (one.kind, one.name, one.trouble) == ("part", "receiver", "not running")
    assert "none has run" in one.why


async def test_an_alert_about_what_waits_stays_while_nobody_can_look(house: House) -> None:
    received = ReceivedWebhook("default", house.now, {}, b"{}")
    await house.round()
    await waits(house, received)
    await house.round(7 * MINUTE)
    opened = [("webhooks_not_recorded", "recorder", "opened")]
    assert house.told() == opened
    intake_path(house.config.ledger.path).write_bytes(b"not a database" * 100)
    await house.round()
    assert house.told() == opened


async def test_an_intake_that_can_t_be_read_for_long_is_an_alert(house: House) -> None:
    await house.round()
    intake_path(house.config.ledger.path).write_bytes(b"not a database" * 100)
    await house.ledger.note_parts([Part("recorder", house.now, 3, "the file is damaged")])
    await house.round(4 * MINUTE)
    assert house.told() == []
    await house.round(2 * MINUTE)
    assert house.told() == [("webhooks_not_recorded", "recorder", "opened")]


async def test_an_intake_that_can_t_be_read(house: House) -> None:
    await house.round()
    intake_path(house.config.ledger.path).write_bytes(b"not a database" * 100)
    [one] = house.unknown()
    assert (one.kind, one.trouble) == ("intake", "not readable")
    assert "is no SQLite database" in one.why
    assert "is no SQLite database" in " ".join(house.run("status")[1].split())
    assert house.run("gaps", "--exit-code")[0] == 1
    assert house.metric("intake") == 1
    assert samples(house).keys().isdisjoint({"intake_pending", "intake_oldest_seconds"})  # 0 would be a lie
    assert house.run("intake", "list")[0] == 0


async def test_names_that_the_service_has_not_taken_up(house: House) -> None:
    await house.round()
    rewritten(house, projects=[42, "group/other", "group/new"])
    code, text = house.run("gaps", "--exit-code")
    assert (code, "project group/new: not read yet\n    the service does not know it yet" in text) == (1, True)


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"projects": [], "groups": []}, "projects"),
        ({"gitlab": {"url": "https://gitlab.example"}}, "gitlab.token"),
    ],
)
async def test_nothing_to_look_at_is_not_all_well(house: House, sections: dict[str, Any], name: str) -> None:
    house.config = load(rewritten(house, **sections), {})
    [one] = house.unknown()
    assert (one.kind, one.name) == ("config", name)
    assert house.run("gaps", "--exit-code")[0] == 1
    assert f'<th scope="row">{name}' in await house.page()


async def test_what_waited_for_gitlab_is_no_trouble_of_its_own(house: House, gitlab: FailingGitLab) -> None:
    """When GitLab is back, the others are still to be read: that is said, and nobody is alarmed."""
    await house.round()
    gitlab.fail("bad gateway", *PLACES["everything"])
    for _ in range(4):
        await house.round()
    gitlab.recover()
    house.now = Millis(house.now + MINUTE)
    house.receiver_is_alive()
    await house.ledger.heartbeat(house.now)
    await house.polling.poller.poll("group/other")
    await house.alerting._review()
    assert [(what, state) for what, _, state in house.told()] == [
        ("gitlab_not_read", "opened"),
        ("gitlab_not_read", "over"),
    ]
    assert {(one.kind, one.name) for one in house.unknown()} == {
        ("group", "team"),
        ("project", "42"),
        ("project", "team/member"),
    }
    await house.round()
    assert all_is_known(house)


async def test_a_poll_that_had_nothing_to_ask_proves_nothing(house: House, gitlab: FailingGitLab) -> None:
    await house.round()
    gitlab.fail("token refused", *PLACES["everything"])
    await house.round(after=0)  # no time has passed: no project has anything to be read
    assert house.unknown()[0].kind == "gitlab"


@pytest.mark.parametrize("way", ["token refused", "forbidden"])
async def test_covered_through_is_told_when_the_token_dies(house: House, gitlab: FailingGitLab, way: str) -> None:
    await house.round()
    gitlab.fail(way, *PLACES["everything"])
    await house.round(HOUR)
    [shown] = [one for one in json.loads(house.run("status", "--json")[1])["projects"] if one["id"] == 42]
    assert shown["covered_through"] == times.iso(Millis(NOW + MINUTE - house.config.reconcile.grace_period))


async def test_another_contributor_is_on_every_face(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.round()

    def parts(_db: object, asked: Asked, _now: Millis) -> list[Unknown]:
        of = Name("gitlab", asked.url)
        return [Unknown("part", "the search", of, "restarts", "disk", times.iso(NOW))]

    monkeypatch.setattr(unknowns, "CONTRIBUTORS", (*unknowns.CONTRIBUTORS, parts))
    await every_face_says(house, "part", "the search")


def rewritten(house: House, **sections: Any) -> Path:
    """The config file, changed."""
    house.file.write_text(yaml.safe_dump(yaml.safe_load(house.file.read_text()) | sections))
    return house.file

"""What nobody could read is the first thing that every face says: for each way in which GitLab can fail, at each
place, from the start and in the middle.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import yaml
from typer.testing import CliRunner

from reconciler.cli.app import app
from reconciler.config.load import load
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.events.times import HOUR, MINUTE, Millis
from reconciler.forwarding.filters import routes
from reconciler.forwarding.forwarder import as_wanted
from reconciler.ledger import destinations, downtime
from reconciler.ledger.connection import connect
from reconciler.ledger.unknowns import Known, Unknown
from reconciler.ledger.writer import Writer
from reconciler.metrics import Standing
from reconciler.reconcile.known import look
from reconciler.reconcile.parts import reconciling
from reconciler.service.alerting import Alerting
from tests.reconciler.reconcile.conftest import NOW
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
    for way in WAYS
    for place in PLACES
    for when in ("start", "middle")
    if (way, place, when) not in NO_FAULT
]


class House:
    """A service without its processes: what asks GitLab, what alerts, and every face, on one ledger and one clock."""

    def __init__(self, folder: Path, url: str, **sections: Any) -> None:
        self.now = NOW
        self.file = folder / "config.yaml"
        written = {
            "gitlab": {"url": url, "token": "glpat-x", "timeout": "250ms"},
            "projects": [42, "group/other"],
            "groups": ["team"],
            "reconcile": {"sources": ["project_events", "pipelines"], "round": "60s"},
            "receiver": {"hooks": [{"token": "t"}]},
            "ledger": {"path": "ledger.db"},
            "destinations": [{"name": "ops", "url": "https://ops.example", "gets": "alerts"}],
        } | sections
        self.file.write_text(yaml.safe_dump(written))
        self.config = load(self.file, {})
        path = self.config.ledger.path
        self.db, self.reader = connect(path), connect(path, readonly=True)
        self.writer = Writer(self.db)
        self.alerting = Alerting(lambda: self.config, known=self.known, db=self.reader, writer=self.writer)
        self.start()

    def start(self) -> None:
        self.parts = reconciling(self.config, db=self.reader, writer=self.writer)
        self.parts.client._tries = 1

    async def wake(self) -> None:
        await self.writer.run(lambda db: downtime.wake(db, self.now))
        wanted = [as_wanted(one) for one in self.config.destinations]
        ids = await self.writer.run(lambda db: destinations.sync(db, wanted, now=self.now))
        self.writer.routes = routes(self.config.destinations, ids)

    def known(self) -> Known:
        return look(self.reader, self.config, self.now)

    def unknown(self) -> list[Unknown]:
        return self.known().unknowns

    async def round(self, after: int = MINUTE) -> None:
        """Everything is asked once, some time later, and it is looked whether that is worth an alert."""
        self.now = Millis(self.now + after)
        self.parts.poller._refused.clear()  # the quarter of an hour is over
        self.parts.rounds._groups_read_at = None
        await self.writer.run(lambda db: downtime.beat(db, self.now))
        await self.parts.rounds.heal()
        await self.alerting._review()

    def told(self) -> list[tuple[str, str, str]]:
        """What the destination that gets alerts will be sent."""
        rows = self.reader.execute(
            "SELECT s.payload FROM deliveries d JOIN sightings s ON s.event_id = d.event_id ORDER BY s.id"
        )
        bodies = [json.loads(payload) for (payload,) in rows.fetchall()]
        return [(body["alert"], body["subject"], body["state"]) for body in bodies]

    def run(self, *command: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*command, "-c", str(self.file)])
        return done.exit_code, done.stdout

    async def page(self) -> str:
        made = dashboard_app(lambda: self.config, known=self.known, stream=Stream(self.config.ledger.path))
        transport = httpx.ASGITransport(app=made)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.get("/")
        assert answer.status_code == 200
        return answer.text

    def metric(self, kind: str) -> float:
        families = Standing(lambda: (self.config, None), self.known).collect()
        [value] = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "gitlab_reconciler_unknowns" and sample.labels["kind"] == kind
        ]
        return float(value)

    async def close(self) -> None:
        self.parts.stop()
        await self.writer.close()
        self.reader.close()
        self.db.close()


@pytest.fixture
def gitlab() -> Iterator[FailingGitLab]:
    with FailingGitLab() as running:
        yield running


@pytest.fixture
async def house(gitlab: FailingGitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    made = House(tmp_path, gitlab.url)
    monkeypatch.setattr(times, "now", lambda: made.now)
    await made.wake()
    yield made
    await made.close()


async def every_face_says(house: House, kind: str, name: str) -> None:
    """First of all, with a reason and since when."""
    code, text = house.run("status")
    assert (code, text.splitlines()[0]) == (0, "Not known (times are UTC):")
    assert f"{kind} {name}" in text.split("events. Times")[0]
    shown = json.loads(house.run("status", "--json")[1])
    assert next(iter(shown)) == "unknown"
    [mine] = [one for one in shown["unknown"] if (one["kind"], one["name"][: len(name)]) == (kind, name)]
    assert mine["why"]
    assert mine["trouble"]
    assert mine["since"]
    code, text = house.run("gaps", "--exit-code")
    assert (code, text.splitlines()[0]) == (1, "Not known (times are UTC):")
    assert mine["why"].splitlines()[0] in text
    assert mine in json.loads(house.run("gaps", "--json")[1])["unknown"]
    page = await house.page()
    assert "Not known" in page.partition('aria-labelledby="destinations"')[0]
    assert 'verdict good">\n    <h2>Is anything lost?' not in page
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
    healed = [one["event"].partition(":")[0] for one in logged if one["event"].startswith("downtime is")]
    assert healed == ["downtime is not healed"]
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

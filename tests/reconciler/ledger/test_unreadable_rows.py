"""A value in the ledger that can't be read, whoever wrote it, stops nobody: each column, each face."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from reconciler.cli.app import command_line
from reconciler.cli.common import Failed
from reconciler.config.load import load
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Identity, Precision, Recovery, Sighting, Summary
from reconciler.events.times import DAY, HOUR, MINUTE, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger import alerts
from reconciler.ledger.coverage import downtime, hooks, intervals, runs, source_state, unreadable, watched
from reconciler.ledger.coverage.hooks import HookState
from reconciler.ledger.coverage.runs import Run
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.intake.intake import Place, ReceivedWebhook, lost
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue import deliveries, destinations
from reconciler.ledger.queue.deliveries import Attempt
from reconciler.ledger.queue.destinations import Breaker, DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.place import note_place
from reconciler.ledger.recording.record import record
from reconciler.ledger.recording.unrecorded import FailedWebhook
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage import schema
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep import failing_parts, reloads
from reconciler.ledger.upkeep.failing_parts import Part
from reconciler.ledger.upkeep.prune import Keep, Pruning
from reconciler.ledger.views.search import index_step
from reconciler.metrics.collectors import LedgerCollector
from reconciler.polling.knowledge import SharedLook
from tests.support import outcomes
from tests.support.receiving import receiving

NOW = times.now()
GARBAGE, YEAR_1 = "garbage", "1-01-01T00:00:00.000Z"  # as an older version wrote the year
BODY: dict[str, Any] = {"object_kind": "issue", "project": {"id": 7, "path_with_namespace": "group/project"}}
BODY["object_attributes"] = {"id": 99, "iid": 1, "action": "close", "closed_at": times.iso(NOW), "title": "one"}


def values() -> Iterator[tuple[str, str, str]]:
    """Every column of every table, but for those that say which row belongs to which, and what is put there."""
    db = SqliteDatabase(sqlite3.connect(":memory:", isolation_level=None))
    schema.upgrade(db)
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if table.startswith(("_", "sqlite_", "search")):
            continue
        for _, column, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
            if column != "id" and not column.endswith("_id"):
                yield table, column, GARBAGE
            if column.endswith(("_at", "_from", "_through", "_since", "_until", "value")):
                yield table, column, YEAR_1


def sighting(source: str, source_id: str, *, key: str = "issue:99:closed", **more: Any) -> Sighting:
    at = Millis(NOW - HOUR)
    body = json.dumps(BODY | {"from": source_id})
    about = Summary("issue", "close", 7, "group/project", "ada", "one", None, "issue/1")
    made: dict[str, Any] = {"payload": body, "payload_sha": source_id, "headers": {"X-Gitlab-Event": "Issue Hook"}}
    return Sighting(source, source_id, Identity(key, at, Precision.GITLAB_TIME), about, at, **(made | more))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a row of everything."""
    folder = tmp_path_factory.mktemp("template")
    config = {
        "gitlab": {"url": "http://127.0.0.1:9", "token": "x"},
        "projects": [7],
        "receiver": {"hooks": [{"token": "secret"}]},
        "destinations": [{"name": name, "kind": "stdout"} for name in ("one", "two")],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with closing(connect(folder / "ledger.db")) as db, transaction(db):
        fill(db)
    return folder


def fill(db: Database) -> None:
    ids = destinations.sync(
        db, [DestinationSpec("one", "none"), DestinationSpec("two", "none", "beginning")], now=NOW
    )
    routes = [Route(ident, "none", lambda _: True) for ident in ids.values()]
    recovered = sighting("project_events", "1", recovery=Recovery("api", ["user"]), raw="{}")
    others = [sighting("webhook:default", str(n), key=f"issue:{n}:closed") for n in range(4)]
    record(db, [recovered, sighting("webhook:default", "a"), *others], now=Millis(NOW - HOUR), routes=routes)
    end = Millis(NOW - MINUTE)
    outcomes.deliver(db, Attempt(1, 1, 1, 1, end, end, 200))
    outcomes.mark_dead(db, Attempt(2, 1, 2, 1, end, end, 400, "refused", "no", "body"))
    outcomes.retry(db, Attempt(3, 1, 3, 1, end, end, 503, "unavailable", "later"), pause=Millis(0), now=NOW)
    destinations.note_breaker(db, 1, Breaker("open", 5, NOW, end))
    destinations.pause(db, 2, destinations.GONE, now=NOW)
    intervals.cover(db, 7, "project_events", Interval(Millis(NOW - DAY), Millis(NOW - HOUR)))
    for source in ("project_events", "pipelines"):
        source_state.watch(db, 7, source, Millis(NOW - DAY))
    source_state.note_read(db, 7, "project_events", NOW)
    source_state.note_trouble(db, 7, "pipelines", "refused", "403", NOW)
    name = Name("project", "7")
    watched.sync(db, [Name("gitlab", "http://127.0.0.1:9"), Name("group", "team"), name], NOW)
    watched.note_found(db, name, 7)
    watched.note_trouble(db, name, "refused", "403", NOW)
    watched.add_members(db, "team", {7: "team/7", 8: "team/8"}, NOW)
    watched.note_read(db, Name("member", "8"), NOW)
    source_state.unwatch(db, 7, keep=["project_events"], until=NOW)
    downtime.heartbeat(db, Millis(NOW - 2 * HOUR))
    downtime.note_start(db, NOW, received=lambda _: False)
    downtime.note_stop(db, NOW)
    hook = HookState(7, 1, "default", "http://x", ["push_events"], "disabled", times.iso(NOW))
    hooks.note_hooks(db, 7, [hook], disabled=[1], now=NOW)
    alerts.note(db, alerts.destination_conditions(db, hold={}, now=NOW), now=NOW, routes=[])
    reloads.note_reload(db, "no")
    db.execute("INSERT INTO meta VALUES ('pruned_through', ?)", [times.iso(Millis(NOW - 9 * DAY))])
    db.execute("INSERT INTO meta VALUES ('ledger_id_from:3', 'abc')")
    runs.note_run(db, Run(7, "project_events", "poll", Millis(NOW - DAY), NOW, NOW, NOW, 1, 1, 1, 1))
    unreadable.note(db, 7, "project_events", [Unreadable("9", "no object", "[]")], now=NOW)
    failing_parts.note_parts(db, [Part("dashboard", NOW, 1, "no")])
    webhook = ReceivedWebhook("default", NOW, {"X-Gitlab-Event": "Issue Hook"}, json.dumps(BODY | {"n": 1}).encode())
    unrecorded.keep(db, [FailedWebhook(webhook, "no"), FailedWebhook(lost(NOW), "damaged")], now=NOW)
    note_place(db, Place("abc", 3))
    index_step(db)


def cli(*arguments: str) -> Callable[[Path], None]:
    """A command; it may fail, but not with a traceback."""

    def ask(folder: Path) -> None:
        done = CliRunner().invoke(command_line(arguments[:1]), [*arguments, "--config", str(folder / "config.yaml")])
        if done.exception is not None and not isinstance(done.exception, (SystemExit, Failed)):
            raise done.exception

    return ask


def dashboard(folder: Path) -> None:
    """The dashboard's pages and the API's: there, or known not to be there."""
    config = load(folder / "config.yaml", {})
    made = dashboard_app(
        lambda: config,
        known=SharedLook(lambda: config),
        stream=Stream(config.ledger.path),
        pulls=Pulls(lambda: config),
    )

    async def get() -> dict[str, int]:
        transport = httpx.ASGITransport(made, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return {page: (await client.get(page)).status_code for page in PAGES}

    answers = asyncio.run(get())
    assert {page: code for page, code in answers.items() if code not in (200, 404)} == {}


def metrics(folder: Path) -> None:
    config = load(folder / "config.yaml", {})
    assert list(LedgerCollector(lambda: (config, None), SharedLook(lambda: config)).collect())


def webhooks(folder: Path) -> None:
    """One about the key whose rows can't be read, one about another."""
    config = load(folder / "config.yaml", {})

    async def post() -> list[int]:
        with closing(connect(config.ledger.path)) as db:
            ledger = Ledger(Writer(db), db)
            async with receiving(config.receiver, ledger=ledger, path=config.ledger.path) as made:
                transport = httpx.ASGITransport(made.app)
                headers = {"X-Gitlab-Token": "secret", "X-Gitlab-Event": "Issue Hook"}
                async with httpx.AsyncClient(
                    transport=transport, base_url="http://localhost", headers=headers
                ) as client:
                    bodies = [
                        BODY | {"more": 1},
                        BODY | {"object_attributes": {**BODY["object_attributes"], "id": 100}},
                    ]
                    codes = [(await client.post("/webhooks/gitlab", json=body)).status_code for body in bodies]
            await ledger.close()
            kept = unrecorded.counted(db)
            assert kept is None or kept.count <= 2  # those that were there before, at most
            return codes

    assert asyncio.run(post()) == [200, 200]


def poll(folder: Path) -> None:
    """What a poll reads of the ledger, and writes to it."""
    config = load(folder / "config.yaml", {})
    with closing(connect(config.ledger.path)) as db, transaction(db):
        source_state.watched_since(db, 7, "project_events")
        intervals.cover(db, 7, "project_events", Interval(Millis(NOW - HOUR), NOW))
        record(db, [sighting("project_events", "2")], now=NOW)
        unreadable.note(db, 7, "project_events", [Unreadable("9", "no object", "[]")], now=NOW)
        assert unreadable.unreadable(db)
        assert unreadable.by_source(db)
        hooks.note_hooks(db, 7, hooks.project_hooks(db, 7), disabled=[1], now=NOW)


def copied(folder: Path) -> None:
    (folder / "copy.db").unlink(missing_ok=True)
    cli("backup", str(folder / "copy.db"))(folder)


def service(folder: Path) -> None:
    """What a service reads as it starts, delivers, alerts, indexes, prunes and stops."""
    config = load(folder / "config.yaml", {})
    with closing(connect(config.ledger.path)) as db:
        with transaction(db):
            downtime.note_start(db, NOW, received=lambda _: False)
            destinations.sync(db, [DestinationSpec("one"), DestinationSpec("two")], now=NOW)
            reloads.note_reload(db, None)
            alerts.note(db, alerts.destination_conditions(db, hold={}, now=NOW), now=NOW, routes=[])
            alerts.note(db, [], now=NOW, routes=[])
            pruning = Pruning(Keep(Millis(DAY), None, Millis(DAY), Millis(DAY)), now=NOW)
            while not pruning.step(db):
                pass
        failing_parts.failing(db)
        event_ids(db)(9)
        for one in destinations.destination_states(db):
            deliveries.pull_back(db, one.id, longest=Millis(HOUR), now=NOW)
            deliveries.next_due(db, one.id, after=NOW)
            lanes = deliveries.due_lanes(db, one.id, now=NOW, limit=10)
            for due in deliveries.first_of_lanes(db, one.id, lanes, now=NOW, limit=10, each=10).values():
                deliveries.ready(db, one.id, due, most_bytes=1000)


PAGES = [
    "/",
    "/events?q=issue",
    "/events/1",
    "/dead-letters",
    "/unrecorded",
    "/runs",
    "/api/v1/status",
    "/api/v1/events?from=1d&author=ada",
    "/api/v1/events/1",
    "/api/v1/dead-letters",
    "/api/v1/gaps",
    "/api/v1/runs",
    "/api/v1/intake",
]
FACES: dict[str, Callable[[Path], None]] = {
    "webhooks": webhooks,
    "poll": poll,
    "status": cli("status"),
    "gaps": cli("gaps"),
    "events list": cli("events", "list"),
    "events show": cli("events", "show", "1"),
    "dead-letters list": cli("dead-letters", "list"),
    "dead-letters show": cli("dead-letters", "show", "2"),
    "destinations list": cli("destinations", "list"),
    "intake list": cli("intake", "list"),
    "intake show": cli("intake", "show", "1"),
    "intake retry": cli("intake", "retry"),
    "intake discard": cli("intake", "discard", "1"),
    "backup": copied,
    "dashboard": dashboard,
    "metrics": metrics,
    "service": service,
}


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    return copy


@pytest.mark.parametrize(("table", "column", "value"), list(values()))
def test_what_can_t_be_read_stops_nobody(folder: Path, table: str, column: str, value: str) -> None:
    with closing(sqlite3.connect(folder / "ledger.db")) as conn:
        try:
            changed = conn.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,)).rowcount
            conn.commit()
        except sqlite3.IntegrityError:
            return  # SQLite itself guards this column
    assert changed, f"the template has no row in {table}"
    problems = {}
    for name, ask in FACES.items():
        try:
            ask(folder)
        except Exception as error:
            problems[name] = f"{type(error).__name__}: {error}"[:300]
    assert problems == {}

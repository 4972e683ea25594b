"""A project that is renamed or moved: filters by its old path go on meaning it, and somebody says so, once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from reconciler.cli.filter_hints import filter_hints
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.forwarding.filter_doubts import doubts
from reconciler.forwarding.filters import routes
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.replay import ReplayRequest, find
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import browse
from reconciler.ledger.views.browse import Filter
from reconciler.location import Location
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, PATH, PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.service import until

NOW = times.now()


def push(project_id: int, path: str, number: int) -> dict[str, Any]:
    project = {"id": project_id, "path_with_namespace": path}
    return {"object_kind": "push", "project": project, "ref": "refs/heads/main", "before": "0", "after": str(number)}


class Book:
    """A ledger with a destination whose filter names projects."""

    def __init__(self, db: Database, *projects: int | str) -> None:
        self.db = db
        one = {"name": "d", "kind": "stdout", "filter": {"projects": list(projects)}}
        self.config = Config.model_validate({"receiver": {"hooks": [{"token": "t"}]}, "destinations": [one]})
        with transaction(db):
            ids = destinations.sync(db, [DestinationSpec("d")], now=NOW)
        self.routes = routes([Destination.model_validate(one)], ids)
        self.number = 0

    def hears(self, project_id: int, path: str) -> bool:
        """Whether a push there goes to the destination."""
        self.number += 1
        body = push(project_id, path, self.number)
        told = webhook_sighting(
            body, payload=json.dumps(body), source="webhook:default", source_id=str(self.number), event_uuid=None,
            seen_at=NOW, headers={}, project_ids={},
        )  # fmt: skip
        with transaction(self.db):
            return bool(record(self.db, [told], now=NOW, routes=self.routes).opened)

    def doubts(self) -> list[str]:
        return [why for _, why in doubts(self.config, self.db)]


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    with closing(connect(ledger_at)) as opened:
        yield opened


def test_the_old_path_goes_on_meaning_the_project(db: Database) -> None:
    book = Book(db, "group/sub/*")
    assert book.hears(7, "group/sub/p7")
    assert not book.hears(8, "new/place/other")
    assert book.doubts() == []
    assert book.hears(7, "new/place/p7")
    assert book.hears(7, "newer/place/p7")
    assert not book.hears(8, "new/place/other")
    [why] = book.doubts()
    assert "group/sub/p7 is newer/place/p7 now" in why
    assert "by the project's id (7)" in why
    [event_id, *_] = [one.event_id for one in find(db, ReplayRequest(), book.routes[0])]
    assert event_id == 1
    assert len(list(find(db, ReplayRequest(), book.routes[0]))) == 3


def test_who_has_the_path_now_is_meant_by_it(db: Database) -> None:
    book = Book(db, "group/p7")
    assert book.hears(7, "group/p7")
    assert book.hears(7, "elsewhere/p7")
    assert book.hears(9, "Group/P7")  # another project takes the path
    assert not book.hears(7, "elsewhere/p7")
    assert book.doubts() == []


def test_it_does_not_matter_who_calls_it_what_meanwhile(db: Database) -> None:
    """A poll calls a project what it was called an hour ago, at the same time as its webhook tells the new path."""
    for pattern in ("old/p", "new/p"):
        book = Book(db, pattern)
        told = []
        for number, path in enumerate(["new/p", "old/p"]):
            body = push(7, path, number)
            told.append(
                webhook_sighting(
                    body,
                    payload=json.dumps(body),
                    source="webhook:default",
                    source_id=f"{pattern} {number}",
                    event_uuid=None,
                    seen_at=times.Millis(NOW + times.DAY * (pattern == "new/p")),
                    headers={},
                    project_ids={},
                )
            )
        with transaction(db):
            assert len(record(db, told, now=NOW, routes=book.routes).opened) == 2, pattern


def test_capitals_are_no_rename(db: Database) -> None:
    book = Book(db, "Group/P7")
    assert book.hears(7, "group/p7")
    assert book.hears(7, "GROUP/p7")
    assert book.doubts() == []
    assert db.execute("SELECT count(*) FROM former_paths").fetchone()[0] == 0


def test_one_that_came_back(db: Database) -> None:
    book = Book(db, "a/p")
    assert [book.hears(7, path) for path in ("a/p", "b/p", "a/p")] == [True] * 3
    assert book.doubts() == []


def test_it_is_found_by_either_path_and_in_any_capitals(db: Database) -> None:
    book = Book(db, "*")
    book.hears(7, "group/p7")
    book.hears(7, "new/p7")
    for path in ("group/p7", "New/P7", "GROUP/P7"):
        assert len(browse.newest(db, Filter(project=path), limit=9)) == 2
        assert filter_hints(db, Filter(project=path, kind="note")) == ["no kind 'note' in the ledger"]
    assert filter_hints(db, Filter(project="other/p7")) == ["no project 'other/p7' in the ledger"]
    assert browse.newest(db, Filter(project="other/p7"), limit=9) == []


def test_the_service_says_it_once_and_delivers(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    wanted = {"filter": {"projects": ["Group/*"]}}
    service = make_service(**at_gitlab(gitlab, **EVENTS_ONLY), destinations=[to_consumer(consumer, **wanted)]).start()
    service.wait_for_log("caught up with GitLab")
    for number, path in enumerate([PATH, "new/place", "new/place"]):
        sent = json.dumps(push(PROJECT, path, number)).encode()
        assert service.post(sent, Idempotency_Key=str(number)).status_code == 200
    until(lambda: len(consumer.accepted) == 3)
    said = service.wait_for_log("filter may not match as intended")
    assert f"{PATH} is new/place now" in said["reason"]
    assert f"{PATH} is new/place now" in service.run("check").stdout
    assert len([one for one in service.logs if one.get("event") == "filter may not match as intended"]) == 1

"""What GitLab sends may be long: an index of PostgreSQL takes no more than 2.7 kB, and none is in the way."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.events.unreadable import Unreadable
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.ledger.coverage import unreadable
from reconciler.ledger.queue import destinations, known
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import browse, search
from reconciler.ledger.views.browse import Filter
from tests.support.ledgers import NewLedger

NOW = times.from_iso("2026-11-24T12:00:00.000Z")
_DICE = random.Random(1)


@pytest.fixture
def db(new_ledger: NewLedger) -> Iterator[Database]:
    with new_ledger() as opened:
        with transaction(opened):
            destinations.sync(opened, [DestinationSpec("one", "object")], now=NOW)
        yield opened


def long(word: str) -> str:
    """10 kB that can't be compressed, of characters that take four bytes."""
    return f"{word} " + "".join(chr(_DICE.randrange(0x20000, 0x2A000)) for _ in range(2500))


def sighting(number: int, body: dict[str, object]) -> Sighting:
    return webhook_sighting(
        body,
        payload=json.dumps(body),
        source="webhook:default",
        source_id=long(f"{number}"),
        event_uuid=None,
        seen_at=Millis(NOW + number),
        headers={"X-Gitlab-Event": long("header")},
        project_ids={},
    )


BODIES: dict[str, dict[str, object]] = {
    "ref": {"object_kind": "push", "ref": long("refs/heads/reffed"), "before": "a", "after": "b", "project_id": 7},
    "tag": {"object_kind": "tag_push", "ref": long("refs/tags/tagged"), "before": "a", "after": "b", "project_id": 7},
    "title": {
        "object_kind": "issue", "project": {"id": 7},
        "object_attributes": {"id": 1, "iid": 1, "action": "open", "title": long("titled")},
    },
    "name": {"object_kind": "push", "ref": "refs/heads/x", "user_username": long("named"), "project_id": 7},
    "path": {
        "object_kind": "push", "ref": "refs/heads/x", "project_id": 7,
        "project": {"id": 7, "path_with_namespace": long("pathed")},
    },
    "slug": {
        "object_kind": "wiki_page", "project": {"id": 7, "path_with_namespace": long("renamed")},
        "object_attributes": {"slug": long("slugged"), "title": "x", "action": "create"},
    },
    "kind": {"object_kind": long("kinded"), "project_id": 7},
}  # fmt: skip


def test_whatever_is_long_is_recorded_listed_and_found(db: Database) -> None:
    route = Route(1, "object", lambda _: True)
    for number, body in enumerate(BODIES.values()):
        one = sighting(number, body)
        for again in (False, True):
            with transaction(db):
                result = record(db, [one], now=NOW, routes=[route])
            assert [each.new_event for each in result.recorded] == [not again]
    assert db.execute("SELECT count(*) FROM deliveries").fetchone() == (len(BODIES),)
    with transaction(db):
        assert search.index_step(db).skipped == []
    assert len(browse.newest(db, Filter(), limit=50)) == len(BODIES)
    for word in ("reffed", "tagged", "titled", "named", "pathed", "wiki_page/slugged", "kinded"):
        assert search.find(db, word, before=1 << 40, limit=9), word


def test_what_only_the_api_or_a_person_makes_long(db: Database) -> None:
    with transaction(db):
        db.execute("INSERT INTO projects (id, path) VALUES (7, ?)", (long("a"),))
        db.execute("UPDATE projects SET path = ?", (long("b"),))
        known.note_former(db, 7, long("c"))
        unreadable.note(db, 7, "issues", [Unreadable(long("id"), "wrong", "{}")], now=NOW)
    assert unreadable.unreadable(db)
    with transaction(db):
        unreadable.clear(db, 7, "issues", [one.record_id for one in unreadable.unreadable(db)])
    assert unreadable.unreadable(db) == []

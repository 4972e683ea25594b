"""What a source has told before is known by its id, unless two bodies can't be of one delivery."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from reconciler.events.api_record_sighting import record_sighting
from reconciler.events.fingerprint import REDACTED
from reconciler.events.sighting import Recovery, Sighting
from reconciler.events.times import Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage import hashes
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from tests.support.collisions import few_digests, no_digest
from tests.support.ledgers import NewLedger

NOW = Millis(1_790_000_000_000)


@pytest.fixture(params=[no_digest, few_digests, blake2b], ids=["one hash", "a few hashes", "hashes"])
def db(new_ledger: NewLedger, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Collisions of hashes change nothing."""
    monkeypatch.setattr(hashes, "blake2b", request.param)
    with new_ledger() as opened:
        yield opened


def delivery(name: str, *, recovered: bool = False, redacted: Sequence[str] = (), **more: Any) -> Sighting:
    """A push of a branch, under a key that never changes."""
    body = {"object_kind": "push", "ref": f"refs/heads/{name}", "before": "a", "after": "b", "project_id": 7, **more}
    sighting = webhook_sighting(
        body,
        payload=json.dumps(body),
        source="webhook:default",
        source_id="constant",
        event_uuid=None,
        seen_at=NOW,
        headers={},
        project_ids={},
    )
    how = Recovery(by="hook_log", redacted=list(redacted)) if recovered else None
    return msgspec.structs.replace(sighting, recovery=how)


def recorded(db: Database, batches: Sequence[Sequence[Sighting]]) -> int:
    """How many events there are in the end."""
    for batch in batches:
        with transaction(db):
            record(db, batch, now=NOW)
    count: int = db.execute("SELECT count(*) FROM events").fetchone()[0]
    return count


@pytest.mark.parametrize("order", sorted(set(itertools.permutations("abb"))))
@pytest.mark.parametrize("together", [True, False])
def test_bodies_that_differ_are_deliveries_of_their_own(db: Database, order: tuple[str, ...], together: bool) -> None:
    told = [delivery(name) for name in order]
    batches = [told] if together else [[one] for one in told]
    assert recorded(db, batches) == 2
    assert recorded(db, batches) == 2  # told again
    shown = db.execute("SELECT ref FROM sightings ORDER BY ref").fetchall()
    assert shown == [("refs/heads/a",), ("refs/heads/b",)]


def test_so_it_is_with_what_gitlab_s_log_shows(db: Database) -> None:
    """Whoever comes first: the webhooks, or the log of them."""
    told = [delivery("a"), delivery("b"), delivery("c", recovered=True)]
    logged = [delivery(name, recovered=True) for name in "cba"]
    assert recorded(db, [told, logged, [delivery("c")]]) == 3
    assert db.execute("SELECT count(*) FROM sightings WHERE recovery IS NOT NULL").fetchone()[0] == 0


def test_what_the_log_has_blotted_out_is_no_other_body(db: Database) -> None:
    """Not even where it is blotted out in a way that the fingerprint knows nothing of."""
    log = delivery("a", recovered=True, redacted=["user_name"], user_name=REDACTED)
    assert recorded(db, [[delivery("a", user_name="a person")], [log]]) == 1
    log, webhook = (
        msgspec.structs.replace(one, source_id="other") for one in (log, delivery("a", user_name="a person"))
    )
    assert recorded(db, [[log], [webhook], [log]]) == 2
    assert db.execute("SELECT payload FROM sightings WHERE source_id = 'other'").fetchall() == [(webhook.payload,)]


@pytest.mark.parametrize("order", sorted(itertools.permutations(["log", "webhook", "log again"])))
@pytest.mark.parametrize("together", [True, False])
def test_a_delivery_s_own_bytes_win_wherever_they_come(db: Database, order: tuple[str, ...], together: bool) -> None:
    """The recorder and a poll of the hook log may share one transaction."""
    log = delivery("a", recovered=True, redacted=["user_name"], user_name=REDACTED)
    webhook = delivery("a", user_name="a person")
    told = [webhook if what == "webhook" else log for what in order]
    assert recorded(db, [told] if together else [[one] for one in told]) == 1
    shown = db.execute("SELECT payload, recovery FROM sightings").fetchall()
    assert shown == [(webhook.payload, None)]


@pytest.mark.parametrize("together", [True, False])
def test_another_body_under_the_id_of_a_redacted_one_is_a_delivery_of_its_own(db: Database, together: bool) -> None:
    log = delivery("a", recovered=True, redacted=["user_name"], user_name=REDACTED)
    told = [log, delivery("a", user_name="a person"), delivery("b")]
    assert recorded(db, [told] if together else [told[:1], told[1:]]) == 2
    assert db.execute("SELECT ref FROM sightings WHERE recovery IS NULL ORDER BY ref").fetchall() == [
        ("refs/heads/a",),
        ("refs/heads/b",),
    ]


def test_records_of_the_api_change_and_stay_the_same_ones(db: Database) -> None:
    def one(title: str) -> Sighting:
        raw = {"id": 1, "created_at": "2026-11-24T12:00:00Z", "action_name": "closed", "target_title": title}
        return record_sighting(raw, payload=json.dumps(raw), project_id=7, project_path="a/b", seen_at=NOW)

    assert recorded(db, [[one("before")], [one("after")], [one("a"), one("b")]]) == 1
    assert db.execute("SELECT count(*) FROM sightings").fetchone()[0] == 1


def test_what_another_source_has_told_under_the_same_id_is_something_else(db: Database) -> None:
    first = delivery("a")
    other = msgspec.structs.replace(delivery("b"), source="webhook:other")
    assert recorded(db, [[first], [other], [first, other]]) == 2


def test_a_delivery_s_own_bytes_replace_no_other_body(db: Database) -> None:
    logged = [delivery("a", recovered=True), delivery("b", recovered=True)]
    assert recorded(db, [logged, [delivery("a")]]) == 2
    shown = db.execute("SELECT ref, payload, recovery IS NULL FROM sightings ORDER BY ref").fetchall()
    assert [(ref, json.loads(payload)["ref"], bool(is_original)) for ref, payload, is_original in shown] == [
        ("refs/heads/a", "refs/heads/a", True),
        ("refs/heads/b", "refs/heads/b", False),
    ]

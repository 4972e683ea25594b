"""Events whose webhooks state times that can't be true: told once, in whatever order, and no page breaks for them."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from reconciler.events import times
from reconciler.events.api_record_sighting import record_sighting
from reconciler.events.sighting import Sighting
from reconciler.events.times import HOUR, Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views import overview
from tests.support.ledgers import NewLedger

NOW = times.from_iso("2026-11-24T12:00:00Z")
STRANGE = ["0001-01-01T00:00:00Z", "0999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"]


def closed(when: str, *, hook: str, at: Millis) -> Sighting:
    attributes = {"id": 99, "action": "close", "closed_at": when, "updated_at": when}
    body = {"object_kind": "issue", "project": {"id": 7}, "object_attributes": attributes}
    return webhook_sighting(
        body,
        payload=orjson.dumps(body).decode(),
        source=f"webhook:{hook}",
        source_id=hook,
        event_uuid=None,
        seen_at=at,
        headers={},
        project_ids={},
    )


def listed(**told: Any) -> Sighting:
    payload = orjson.dumps(told).decode()
    return record_sighting(told, payload=payload, project_id=7, project_path="g/p", seen_at=Millis(NOW + HOUR))


@pytest.mark.parametrize("when", STRANGE)
def test_webhook_and_record_are_one_event_in_any_order(new_ledger: NewLedger, when: str) -> None:
    api = {"id": 40, "action_name": "closed", "target_type": "Issue", "target_id": 99, "created_at": times.iso(NOW)}
    told = [closed(when, hook="a", at=NOW), closed(when, hook="b", at=Millis(NOW + 500)), listed(**api)]
    for order in itertools.permutations(told):
        with new_ledger() as db:
            for sighting in order:
                with transaction(db):
                    record(db, [sighting], now=NOW)
            rows = db.execute("SELECT happened_at FROM events WHERE merged_into IS NULL").fetchall()
            assert rows == [(times.iso(NOW),)]


@pytest.mark.parametrize("when", STRANGE)
def test_a_strange_time_of_a_list_breaks_nothing(tmp_path: Path, when: str) -> None:
    with closing(connect(tmp_path / "ledger.db")) as db:
        for ident in (41, 42):
            one = listed(id=ident, action_name="commented on", target_type="Note", target_id=5, created_at=when)
            with transaction(db):
                record(db, [one], now=NOW)
        assert overview.hours(db, since=times.EARLIEST)

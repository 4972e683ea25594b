"""A record of GitLab's API is built once and matched once, whether or not a webhook reported its event."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from reconciler.events.pairing import Seen
from reconciler.events.times import HOUR, MINUTE, Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.ledger.recording import neighbourhood
from reconciler.reconstruct import Rebuilt, SourceData, rebuild
from reconciler.simulator.world import Happening
from reconciler.sources import webhook_payload
from tests.reconciler.polling.conftest import MakeHouse, SimulatedHouse

SOURCES = {"sources": ["project_events", "pipelines"], "grace_period": "1ms", "overlap": "1h"}


class Work:
    """Counts how often each record was built, and how often each key was matched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: Counter[str] = Counter()
        self.matched: Counter[str] = Counter()
        changed = neighbourhood.changed

        def counting_rebuild(kind: str, data: SourceData) -> Rebuilt:
            self.built[f"{kind} {data.record['id']}"] += 1
            return rebuild(kind, data)

        def counting_changed(db: Any, fresh: dict[str, Sequence[Seen]]) -> Any:
            self.matched.update(fresh.keys())
            return changed(db, fresh)

        monkeypatch.setattr(webhook_payload, "rebuild", counting_rebuild)
        monkeypatch.setattr(neighbourhood, "changed", counting_changed)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


async def by_webhook(house: SimulatedHouse, happening: Happening) -> None:
    assert happening.webhook is not None
    sighting = webhook_sighting(
        happening.webhook,
        payload=json.dumps(happening.webhook),
        source="webhook:default",
        source_id=str(happening.number),
        event_uuid=None,
        seen_at=house.now,
        headers={},
        project_ids={},
    )
    await house.ledger.record([sighting])


async def test_of_events_that_no_webhook_reported(make_house: MakeHouse, work: Work) -> None:
    house = make_house(reconcile=SOURCES)
    house.gitlab.world.push(42)
    house.gitlab.world.issue(42)
    house.gitlab.world.pipeline(42)
    house.now = Millis(house.now + MINUTE)
    await house.poll(42)
    assert house.events() == 3
    assert sorted(work.built.values()) == [1, 1, 1]
    assert sorted(work.matched.values()) == [1, 1, 1]
    assert house.rows("SELECT count(*) FROM sightings WHERE payload LIKE '%\"commits\":[{%'") == [(1,)]  # its details


async def test_of_events_that_a_webhook_reported(make_house: MakeHouse, work: Work) -> None:
    house = make_house(reconcile=SOURCES)
    for happening in (house.gitlab.world.push(42), house.gitlab.world.pipeline(42)):
        await by_webhook(house, happening)
    work.matched.clear()
    house.now = Millis(house.now + MINUTE)
    await house.poll(42)
    assert house.events() == 2
    assert house.rows("SELECT count(*) FROM sightings") == [(4,)]
    assert sorted(work.built.values()) == [1, 1]
    assert sorted(work.matched.values()) == [1, 1]


async def test_of_an_event_whose_key_another_has(make_house: MakeHouse, work: Work) -> None:
    """Closed again 20 hours later, and the webhook was lost: only matching tells. It is built again, with details."""
    house = make_house(reconcile=SOURCES)
    issue = house.gitlab.world.issue(42)
    await by_webhook(house, house.gitlab.world.issue_does(42, issue, "close"))
    house.now = Millis(house.now + 20 * HOUR)
    house.gitlab.world.issue_does(42, issue, "close")
    work.matched.clear()
    house.now = Millis(house.now + MINUTE)
    await house.poll(42)
    assert house.events() == 2
    assert list(work.built.values()) == [2]
    assert list(work.matched.values()) == [2]
    [(payload,)] = house.rows("SELECT payload FROM sightings WHERE source = 'project_events'")
    assert json.loads(payload)["object_attributes"]["description"] is not None

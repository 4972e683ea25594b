"""Edits in the ledger: what a webhook told and GitLab's notes tell too is one event."""

from __future__ import annotations

import json
from collections import Counter

from reconciler.events.times import MINUTE, SECOND, Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.simulator.world import Happening
from reconciler.sources.system_notes import SYSTEM_NOTES
from tests.reconciler.polling.conftest import MakeHouse, SimulatedHouse


async def arrives(house: SimulatedHouse, happening: Happening) -> None:
    assert happening.webhook is not None
    sighting = webhook_sighting(
        happening.webhook,
        payload=json.dumps(happening.webhook),
        source="webhook:default",
        source_id=str(happening.number),
        event_uuid=None,
        seen_at=Millis(happening.at),
        headers={},
        project_ids={},
    )
    await house.ledger.record([sighting])


async def test_every_kind_of_note_is_told_once_or_not_at_all(make_house: MakeHouse) -> None:
    """Of each, one whose webhook arrived, if GitLab sent one, and one whose webhook was lost."""
    house = make_house(reconcile={"sources": ["merge_requests"], "grace_period": "1ms"})
    world, expected = house.gitlab.world, {}
    await house.poll(42)
    for row in SYSTEM_NOTES:
        for is_lost in (False, True):
            house.later(MINUTE)
            request = world.merge_request(42)
            house.later(10 * MINUTE)
            who = world.someone()
            world.system_note(42, request, row.example, who)
            if row.reports_edit:
                house.later(SECOND)  # the webhook's time is a little later than the note's
                edited = world.merge_request_does(42, request, "update", who, edit="silent")
                if not is_lost:
                    await arrives(house, edited)
            expected[str(request.id), row.example, is_lost] = 1 if row.reports_edit else 0
    house.later(MINUTE)
    await house.poll(42)
    keys = house.rows("SELECT max(key) FROM sightings WHERE action = 'update' GROUP BY event_id")
    found = Counter(key.split(":")[1] for (key,) in keys)
    assert {name: found[name[0]] for name in expected} == expected
    assert house.events() == sum(expected.values())

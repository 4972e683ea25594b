"""Deploy tokens that are about to expire: only webhooks and their log tell of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reconciler.events.times import HOUR, MINUTE
from reconciler.polling.ensure import ensure
from reconciler.simulator.world import Happening, World
from tests.reconciler.polling.conftest import MakeHouse, SimulatedHouse


async def both_tell(house: SimulatedHouse, what: Callable[[World, int], Happening]) -> None:
    """Two webhooks, and nobody takes what they deliver: GitLab's log has both."""
    for path in ("", "/b"):
        house.gitlab.add_hook(42, f"http://127.0.0.1:9/webhooks/gitlab{path}").log_has_times = True
    await house.poll(42)
    house.later(MINUTE)
    what(house.gitlab.world, 42)
    await asyncio.to_thread(house.gitlab.courier.settle)
    house.later(HOUR)
    await house.poll(42)


async def test_two_webhooks_tell_of_one_token(make_house: MakeHouse) -> None:
    hooks = [{"token": "t"}, {"name": "b", "token": "t"}]
    house = make_house(receiver={"hooks": hooks}, reconcile={"grace_period": "1ms", "sources": ["hook_log"]})
    await both_tell(house, World.deploy_token_expires)
    told = house.rows("SELECT e.kind, s.action FROM events e JOIN sightings s ON s.id = e.sighting_id")
    assert told == [("deploy_token", "expiring_deploy_token")]
    assert house.rows("SELECT count(*), count(DISTINCT source) FROM sightings") == [(2, 2)]


async def test_our_webhook_is_subscribed_to_them(make_house: MakeHouse) -> None:
    house = make_house()
    [wanted] = house.config.receiver.hooks
    await ensure(house.polling, 42, wanted, dry_run=False)
    [hook] = house.gitlab.courier.hooks.values()
    assert hook.triggers["resource_deploy_token_events"]
    assert hook.triggers["resource_access_token_events"]

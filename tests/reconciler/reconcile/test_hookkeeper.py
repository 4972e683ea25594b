"""A webhook that GitLab switched off, and `hooks ensure`."""

from __future__ import annotations

import asyncio
import socket

import pytest
import structlog

from receiver.app import receiver_app
from reconciler.events.times import HOUR, MINUTE
from reconciler.reconcile.ensure import ensure
from reconciler.service.web import web_server
from reconciler.simulator.hooks import Hook
from tests.reconciler.reconcile.conftest import House, MakeHouse

TOKEN = "t"


async def switched_off(house: House) -> tuple[Hook, int]:
    """A hook that failed four times, at a port where nobody listens yet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    hook = house.gitlab.add_hook(42, f"http://127.0.0.1:{port}/webhooks/gitlab", token=TOKEN)
    for _ in range(6):
        house.gitlab.world.push(42)
    await asyncio.to_thread(house.gitlab.courier.settle)
    assert hook.alert_status == "temporarily_disabled"
    assert len(hook.log) == 4  # two pushes are in no log
    house.now += MINUTE // 2
    return hook, port


async def with_receiver(house: House, port: int, poll: int = 42) -> None:
    app = receiver_app(
        house.config.receiver, writer=house.writer, project_ids={}, expected_tests=house.expected_tests
    )
    server = web_server(app)
    serving = asyncio.create_task(server.serve(sockets=[socket.create_server(("127.0.0.1", port))]))
    await house.poll(poll)
    server.should_exit = True
    await serving


async def test_it_is_reported_reconciled_and_switched_on(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"settle": "1ms"})
    hook, port = await switched_off(house)
    with structlog.testing.capture_logs() as logs:
        await with_receiver(house, port)
    said = [line["event"] for line in logs]
    assert "GitLab has switched our webhook off" in said
    assert said.index("our webhook is on again") > said.index("GitLab has switched our webhook off")
    assert hook.alert_status == "executable"
    assert house.rows("SELECT count(*) FROM events WHERE kind = 'push'") == [(6,)]
    assert house.rows("SELECT count(*) FROM events WHERE kind = 'hook_test'") == [(1,)]
    assert house.rows("SELECT alert_status, off_since FROM hooks") == [("executable", None)]
    house.now += HOUR
    await house.poll(42)  # the test delivery is in GitLab's log: it is no news
    assert house.events() == 7


async def test_what_is_known_of_it_is_in_the_ledger(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"reenable_hooks": False})
    hook, port = await switched_off(house)
    await with_receiver(house, port)
    assert hook.alert_status == "temporarily_disabled"  # as the config wants it
    [(status, off_since)] = house.rows("SELECT alert_status, off_since FROM hooks")
    assert (status, off_since is None) == ("temporarily_disabled", False)


async def test_it_is_noticed_as_soon_as_something_is_missed(make_house: MakeHouse) -> None:
    """A project's webhooks are asked for once in five minutes; at once where a poll found what none had told."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"settle": "1ms", "reenable_hooks": False})
    house.gitlab.add_hook(42, "http://127.0.0.1:9/webhooks/gitlab", token=TOKEN)
    await house.poll(42)
    for _ in range(4):
        house.gitlab.world.push(42)
    await asyncio.to_thread(house.gitlab.courier.settle)
    house.now += MINUTE // 2
    await house.poll(42)
    assert house.rows("SELECT alert_status FROM hooks") == [("temporarily_disabled",)]


async def test_a_moment_without_an_answer_changes_nothing(make_house: MakeHouse) -> None:
    """Which sources are asked follows from the webhook: from how it was last seen, where GitLab does not answer."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    hook = house.gitlab.add_hook(42, "http://127.0.0.1:9/webhooks/gitlab", token=TOKEN)
    hook.triggers = dict.fromkeys(hook.triggers, False) | {"push_events": True}
    await house.poll(42)
    house.gitlab.api.faults.forbidden_paths = {"/hooks": 403}
    house.parts.hooks.forget(42)
    await house.poll(42)
    assert house.rows("SELECT source FROM sources ORDER BY source") == [("hook_log",), ("project_events",)]


async def test_a_token_that_may_not_test_says_so(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    hook, port = await switched_off(house)
    house.gitlab.api.faults.forbidden_paths = {"/test/push_events": 403, "/events": 404}
    with structlog.testing.capture_logs() as logs:
        await with_receiver(house, port)
    assert "a webhook can't be switched on again" in [line["event"] for line in logs]
    assert house.expected_tests == set()
    assert hook.alert_status == "temporarily_disabled"


async def test_a_test_that_fails_is_no_event_and_not_repeated_at_once(make_house: MakeHouse) -> None:
    """GitLab can't reach us. Each failed test is one more failure for GitLab: 40 switch a webhook off for good."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"settle": "1ms"})
    hook, _ = await switched_off(house)
    for _ in range(3):
        await house.poll(42)
        house.now += 6 * MINUTE
    assert sum(n for path, n in house.gitlab.api.requests.items() if "/test/" in path) == 1
    assert len(hook.log) == 5
    assert house.rows("SELECT kind, count(*) FROM events GROUP BY kind") == [("hook_test", 1), ("push", 6)]


async def test_a_real_push_is_no_test(make_house: MakeHouse) -> None:
    """Another project's delivery that comes while a test is expected is an event like any other."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    house.expected_tests.add(99)
    listener = socket.create_server(("127.0.0.1", 0))
    house.gitlab.add_hook(42, f"http://127.0.0.1:{listener.getsockname()[1]}/webhooks/gitlab", token=TOKEN)
    app = receiver_app(
        house.config.receiver, writer=house.writer, project_ids={}, expected_tests=house.expected_tests
    )
    server = web_server(app)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    house.gitlab.world.push(42)
    await asyncio.to_thread(house.gitlab.courier.settle)
    server.should_exit = True
    await serving
    assert house.rows("SELECT kind FROM events") == [("push",)]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_ensure_makes_mends_and_leaves_alone(make_house: MakeHouse, dry_run: bool) -> None:
    house = make_house()
    [wanted] = house.config.receiver.hooks
    done = await ensure(house.parts, 42, wanted, dry_run=dry_run)
    assert (done.did, done.url) == ("created", "http://127.0.0.1:9/webhooks/gitlab/default")
    assert len(house.gitlab.courier.hooks) == (0 if dry_run else 1)
    if dry_run:
        return
    [hook] = house.gitlab.courier.hooks.values()
    assert (hook.token, all(hook.triggers.values())) == (TOKEN, True)
    hook.triggers["note_events"], hook.token = False, "somebody's"
    mended = await ensure(house.parts, 42, wanted, dry_run=False)
    assert (mended.did, [one.setting for one in mended.differences]) == ("updated", ["note_events"])
    assert hook.triggers["note_events"]
    hook.token = "somebody's again"
    assert (await ensure(house.parts, 42, wanted, dry_run=False)).did == "unchanged"
    assert hook.token == TOKEN  # GitLab does not show it: it is set each time


async def test_ensure_says_what_is_missing(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    [wanted] = house.config.receiver.hooks
    failed = await ensure(house.parts, 42, wanted, dry_run=False)
    assert (failed.did, "receiver.url" in str(failed.error)) == ("failed", True)
    gone = await ensure(house.parts, "group/gone", wanted, dry_run=False)
    assert (gone.did, "404" in str(gone.error)) == ("failed", True)

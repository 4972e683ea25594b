"""A webhook that GitLab disabled, and `hooks ensure`."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import structlog

from reconciler.config.destinations import Destination
from reconciler.events.times import HOUR, MINUTE
from reconciler.forwarding.filters import make_filter
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.polling.ensure import ensure
from reconciler.service.web import web_server
from reconciler.simulator.hooks import Hook, webhook_bytes
from reconciler.simulator.ports import free_port
from tests.reconciler.polling.conftest import MakeHouse, SimulatedHouse
from tests.support.receiving import receiving

TOKEN = "t"


async def disabled_hook(house: SimulatedHouse) -> tuple[Hook, int]:
    """A hook that failed four times, at a port where nobody listens yet."""
    port = free_port()
    hook = house.gitlab.add_hook(42, f"http://127.0.0.1:{port}/webhooks/gitlab", token=TOKEN)
    for _ in range(6):
        house.gitlab.world.push(42)
    await asyncio.to_thread(house.gitlab.courier.settle)
    assert hook.alert_status == "temporarily_disabled"
    assert len(hook.log) == 4  # two pushes are in no log
    house.later(MINUTE // 2)
    return hook, port


async def with_receiver(house: SimulatedHouse, port: int, poll: int = 42) -> None:
    async with receiving(
        house.config.receiver,
        ledger=house.ledger,
        path=house.config.ledger.path,
        expected_tests=house.expected_tests,
    ) as received:
        server = web_server(received.app)
        serving = asyncio.create_task(server.serve(sockets=[socket.create_server(("127.0.0.1", port))]))
        await house.poll(poll)
        server.should_exit = True
        await serving


async def test_it_is_reported_reconciled_and_switched_on(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"grace_period": "1ms"})
    hook, port = await disabled_hook(house)
    with structlog.testing.capture_logs() as logs:
        await with_receiver(house, port)
    said = [line["event"] for line in logs]
    assert "GitLab has disabled our webhook" in said
    assert said.index("our webhook is enabled again") > said.index("GitLab has disabled our webhook")
    assert hook.alert_status == "executable"
    assert house.rows("SELECT count(*) FROM events WHERE kind = 'push'") == [(6,)]
    assert house.rows("SELECT count(*) FROM events WHERE kind = 'hook_test'") == [(1,)]
    assert house.rows("SELECT alert_status, off_since FROM hooks") == [("executable", None)]
    house.later(HOUR)
    await house.poll(42)  # the test delivery is in GitLab's log: it is no news
    assert house.events() == 7


async def test_what_is_known_of_it_is_in_the_ledger(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"reenable_hooks": False})
    hook, port = await disabled_hook(house)
    await with_receiver(house, port)
    assert hook.alert_status == "temporarily_disabled"  # as the config wants it
    [(status, off_since)] = house.rows("SELECT alert_status, off_since FROM hooks")
    assert (status, off_since is None) == ("temporarily_disabled", False)


async def test_it_is_noticed_as_soon_as_something_is_missed(make_house: MakeHouse) -> None:
    """A project's webhooks are asked for once in five minutes; at once where a poll found what none had told."""
    house = make_house(
        receiver={"hooks": [{"token": TOKEN}]}, reconcile={"grace_period": "1ms", "reenable_hooks": False}
    )
    house.gitlab.add_hook(42, "http://127.0.0.1:9/webhooks/gitlab", token=TOKEN)
    await house.poll(42)
    for _ in range(4):
        house.gitlab.world.push(42)
    await asyncio.to_thread(house.gitlab.courier.settle)
    house.later(MINUTE // 2)
    await house.poll(42)
    assert house.rows("SELECT alert_status FROM hooks") == [("temporarily_disabled",)]


async def test_a_moment_without_an_answer_changes_nothing(make_house: MakeHouse) -> None:
    """Which sources are asked follows from the webhook: from how it was last seen, where GitLab does not answer."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    hook = house.gitlab.add_hook(42, "http://127.0.0.1:9/webhooks/gitlab", token=TOKEN)
    hook.triggers = dict.fromkeys(hook.triggers, False) | {"push_events": True}
    await house.poll(42)
    house.gitlab.api.faults.forbidden_paths = {"/hooks": 403}
    house.polling.hooks.forget(42)
    await house.poll(42)
    assert house.rows("SELECT source FROM sources ORDER BY source") == [("hook_log",), ("project_events",)]


async def test_a_token_that_may_not_test_says_so(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    hook, port = await disabled_hook(house)
    house.gitlab.api.faults.forbidden_paths = {"/test/push_events": 403, "/events": 404}
    with structlog.testing.capture_logs() as logs:
        await with_receiver(house, port)
    assert "a webhook can't be enabled again" in [line["event"] for line in logs]
    assert not house.expected_tests
    assert hook.alert_status == "temporarily_disabled"


async def test_a_test_that_fails_is_no_event_and_not_repeated_at_once(make_house: MakeHouse) -> None:
    """GitLab can't reach us. Each failed test is one more failure: after 40, GitLab disables a webhook for good."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"grace_period": "1ms"})
    hook, _ = await disabled_hook(house)
    for _ in range(3):
        await house.poll(42)
        house.later(6 * MINUTE)
    assert sum(n for path, n in house.gitlab.api.requests.items() if "/test/" in path) == 1
    assert len(hook.log) == 5
    assert house.rows("SELECT kind, count(*) FROM events GROUP BY kind ORDER BY kind") == [
        ("hook_test", 1),
        ("push", 6),
    ]


def kinds(house: SimulatedHouse) -> list[tuple[str, int]]:
    return [tuple(row) for row in house.rows("SELECT kind, count(*) FROM events GROUP BY kind ORDER BY kind")]


async def test_what_really_happens_while_a_webhook_is_tested_is_no_test(make_house: MakeHouse) -> None:
    """By the same hook and trigger, by the same hook, by another hook: the test itself is the only test."""
    house = make_house(
        receiver={"hooks": [{"token": TOKEN}, {"name": "two", "token": TOKEN}]}, reconcile={"grace_period": "1ms"}
    )
    hook, port = await disabled_hook(house)
    other = house.gitlab.add_hook(42, f"http://127.0.0.1:{port}/webhooks/gitlab/two", token=TOKEN)
    before = len(house.gitlab.world.happenings)
    [destination] = await house.ledger.queue.sync_destinations([DestinationSpec("all")], house.now)
    house.ledger.set_routes([Route(destination.id, "project", make_filter(Destination(name="all")))])

    def happens() -> None:
        world, courier = house.gitlab.world, house.gitlab.courier
        world.push(42)
        world.push(42)
        world.issue(42)
        for happening in world.happenings[before:]:
            courier.post(hook, str(happening.hook_event), webhook_bytes(happening.webhook))
        courier.settle()  # by the other hook too

    hook.faults.during_test = happens
    await with_receiver(house, port)
    assert len(house.gitlab.world.happenings) == before + 3
    assert other.accepted == 3
    assert kinds(house) == [("hook_test", 1), ("issue", 1), ("push", before + 2)]
    assert house.rows("SELECT count(*) FROM deliveries WHERE state = 'pending'") == [(before + 3,)]
    house.later(HOUR)
    await house.poll(42)
    assert kinds(house) == [("hook_test", 1), ("issue", 1), ("push", before + 2)]


async def test_the_newest_in_the_log_need_not_be_the_test(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitLab can't reach us: the test is in its log, and what really happened around it."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"grace_period": "1ms"})
    hook, _ = await disabled_hook(house)

    def push() -> None:
        happening = house.gitlab.world.push(42)
        house.gitlab.courier.post(hook, str(happening.hook_event), webhook_bytes(happening.webhook))

    hook.faults.during_test = push
    ask = house.polling.hooks.test

    def test_then_push(*asked: Any) -> None:
        try:
            ask(*asked)
        finally:
            push()

    monkeypatch.setattr(house.polling.hooks, "test", test_then_push)
    await house.poll(42)
    house.later(6 * MINUTE)
    await house.poll(42)
    assert len(hook.log) == 4 + 3
    assert kinds(house) == [("hook_test", 1), ("push", 8)]


async def test_where_gitlab_made_no_test_nothing_is_taken_for_one(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 422 as for a test that failed. Then it is asked for another, which tells of nothing new."""
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"grace_period": "1ms"})
    hook, _ = await disabled_hook(house)
    hook.faults.untestable = frozenset({"push_events", "issues_events", "merge_requests_events", "note_events"})
    ask = house.polling.hooks.test

    def test_then_push(*asked: Any) -> None:
        happening = house.gitlab.world.push(42)
        house.gitlab.courier.post(hook, str(happening.hook_event), webhook_bytes(happening.webhook))
        ask(*asked)

    monkeypatch.setattr(house.polling.hooks, "test", test_then_push)
    await house.poll(42)
    asked = [path.rpartition("/")[2] for path in house.gitlab.api.requests if "/test/" in path]
    assert asked == ["push_events", "issues_events", "merge_requests_events", "note_events"]
    house.later(6 * MINUTE)
    await house.poll(42)
    assert kinds(house) == [("push", 10)]
    assert not house.expected_tests


async def test_a_project_without_commits_is_tested_with_a_body_of_gitlab_s_own(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]}, reconcile={"grace_period": "1ms"})
    hook, port = await disabled_hook(house)
    house.gitlab.world.projects[42].heads.clear()
    await with_receiver(house, port)
    assert hook.alert_status == "executable"
    assert kinds(house) == [("hook_test", 1), ("push", 6)]


async def test_no_more_tests_are_asked_for_than_gitlab_makes(make_house: MakeHouse) -> None:
    """Five a minute for a project's webhooks together: for one that is refused, everything else would wait."""
    hooks = [{"token": TOKEN}, {"name": "b", "token": TOKEN}]
    house = make_house(receiver={"hooks": hooks}, reconcile={"grace_period": "1ms"})
    first, _ = await disabled_hook(house)
    second = house.gitlab.add_hook(42, f"{first.url}/b", token=TOKEN)
    second.failures, second.disabled_until = first.failures, first.disabled_until
    for hook in (first, second):
        hook.faults.untestable = frozenset({"push_events", "issues_events", "merge_requests_events", "note_events"})
    await house.poll(42)
    asked = [path.split("/hooks/")[1][0] for path, n in house.gitlab.api.requests.items() for _ in range(n)
             if "/test/" in path]  # fmt: skip
    assert asked == ["1"] * 4 + ["2"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_ensure_makes_mends_and_leaves_alone(make_house: MakeHouse, dry_run: bool) -> None:
    house = make_house()
    [wanted] = house.config.receiver.hooks
    done = await ensure(house.polling, 42, wanted, dry_run=dry_run)
    assert (done.did, done.url) == ("created", "http://127.0.0.1:9/webhooks/gitlab/default")
    assert len(house.gitlab.courier.hooks) == (0 if dry_run else 1)
    if dry_run:
        return
    [hook] = house.gitlab.courier.hooks.values()
    assert (hook.token, all(hook.triggers.values())) == (TOKEN, True)
    hook.triggers["note_events"], hook.token = False, "somebody's"
    mended = await ensure(house.polling, 42, wanted, dry_run=False)
    assert (mended.did, [one.setting for one in mended.differences]) == ("updated", ["note_events"])
    assert hook.triggers["note_events"]
    hook.token = "somebody's again"
    assert (await ensure(house.polling, 42, wanted, dry_run=False)).did == "unchanged"
    assert hook.token == TOKEN  # GitLab does not show it: it is set each time


async def test_ensure_shows_what_keeps_events_from_us(make_house: MakeHouse) -> None:
    """Somebody has set it in GitLab: it is left alone, and never called unchanged without a word."""
    house = make_house()
    [wanted] = house.config.receiver.hooks
    await ensure(house.polling, 42, wanted, dry_run=False)
    [hook] = house.gitlab.courier.hooks.values()
    hook.settings |= {"push_events_branch_filter": "release-*", "custom_webhook_template": '{"a": "{{object_kind}}"}'}
    done = await ensure(house.polling, 42, wanted, dry_run=True)
    assert (done.did, done.differences) == ("unchanged", [])
    assert [text.rpartition("(")[2] for text in done.warnings] == [
        "push_events_branch_filter, wildcard)",
        'custom_webhook_template: {"a": "{{object_kind}}"})',
    ]
    hook.settings |= {"branch_filter_strategy": "all_branches", "custom_webhook_template": ""}
    assert (await ensure(house.polling, 42, wanted, dry_run=False)).warnings == []
    assert hook.settings["push_events_branch_filter"] == "release-*"


SIGNED = {"signing_token": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}


@pytest.mark.parametrize("there", [True, False])
async def test_ensure_says_where_gitlab_keeps_no_signing_token(make_house: MakeHouse, there: bool) -> None:
    """A version or a feature flag that does not know it takes it without a word."""
    receiver = {"url": "http://127.0.0.1:9", "hooks": [SIGNED, {"name": "both", "token": TOKEN, **SIGNED}]}
    house = make_house(receiver=receiver)
    house.gitlab.courier.takes_signing_tokens = there
    signed, both = house.config.receiver.hooks
    alone = await ensure(house.polling, 42, signed, dry_run=False)
    beside = await ensure(house.polling, 42, both, dry_run=False)
    if there:
        assert (alone.did, beside.did, alone.warnings, beside.warnings) == ("created", "created", [], [])
        return
    assert alone.did == "failed"
    assert "also set `token`" in str(alone.error)
    assert (beside.did, len(beside.warnings)) == ("created", 1)
    assert "webhook_signing_token" in beside.warnings[0]
    [again] = (await ensure(house.polling, 42, both, dry_run=True)).differences
    assert (again.setting, again.have, again.want) == ("signing_token", False, True)


async def test_ensure_says_what_is_missing(make_house: MakeHouse) -> None:
    house = make_house(receiver={"hooks": [{"token": TOKEN}]})
    [wanted] = house.config.receiver.hooks
    failed = await ensure(house.polling, 42, wanted, dry_run=False)
    assert (failed.did, "receiver.url" in str(failed.error)) == ("failed", True)
    gone = await ensure(house.polling, "group/gone", wanted, dry_run=False)
    assert (gone.did, "404" in str(gone.error)) == ("failed", True)

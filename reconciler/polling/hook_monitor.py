"""Monitors our webhooks in GitLab: one that GitLab has disabled is reported, and enabled again."""

from __future__ import annotations

import time

import structlog

from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.times import HOUR
from reconciler.events.webhook_sighting import as_test
from reconciler.ledger.coverage.hooks import HookState
from reconciler.ledger.ledger import Ledger
from reconciler.polling.threads import in_thread
from reconciler.sources.errors import GitLabRefused, SourceError, Stopped
from reconciler.sources.hook_log import newest_delivery, test_after
from reconciler.sources.hooks import Hook, Hooks, tests_of
from reconciler.sources.source import Project

TEST_PAUSE = HOUR
TESTS, A_MINUTE_S = 5, 60.0
"""GitLab makes at most this many tests a minute for all webhooks of a project. One more is answered as if it were
over the rate limit, and then every other request would wait.
"""
NOT_TAKEN = 422
"""GitLab's answer if a test was not answered with 2xx, and if it made none."""

log = structlog.get_logger(__name__)


class HookMonitor:
    """Knows the state of each project's webhooks.

    `expected_tests` is shared with the recorder: a test that we ask GitLab for is recorded there.
    """

    def __init__(self, hooks: Hooks, *, ledger: Ledger, reenable: bool, expected_tests: ExpectedTests) -> None:
        self._hooks = hooks
        self._ledger = ledger
        self._reenable = reenable
        self._expected_tests = expected_tests
        self._not_before: dict[int, float] = {}
        self._tested: dict[int, list[float]] = {}
        self._seen: dict[int, list[Hook]] = {}
        self._noted: dict[int, list[HookState]] = {}

    async def look(self, project: Project, *, fresh: bool = False) -> list[Hook] | None:
        """A project's webhooks. If GitLab does not answer, as they were last seen; None if they never were.

        Raises Stopped.
        """
        try:
            hooks = await in_thread(lambda: self._hooks.of(project.id, fresh=fresh))
        except Stopped:
            raise
        except SourceError:
            return self._seen.get(project.id)
        self._seen[project.id] = hooks
        await self._note(project, hooks)
        return hooks

    async def enable(self, project: Project, hooks: list[Hook]) -> None:
        """Have each disabled webhook tested: GitLab enables it again if the test is answered with 2xx.

        Call it after the time in which it was disabled has been read. GitLab counts a failed test as one more
        failure, so the next test follows an hour later.
        """
        for hook in hooks if self._reenable else ():
            if hook.is_disabled and time.monotonic() >= self._not_before.get(hook.id, 0.0):
                await self._enable(project, hook)

    async def _enable(self, project: Project, hook: Hook) -> None:
        newest = await self._newest_delivery(hook)
        for trigger in tests_of(hook):
            if not self._may_test(project):
                self._not_before.pop(hook.id, None)  # the rest is tried at the next poll
                break
            failure = await self._test(project, hook, trigger)
            made = await self._note_test(hook, newest)
            if not (isinstance(failure, GitLabRefused) and failure.status == NOT_TAKEN and made is False):
                break  # only if GitLab has nothing to make this test of, another one may work
        await self.look(project, fresh=True)

    def _may_test(self, project: Project) -> bool:
        """Whether GitLab allows another test for this project now."""
        now = time.monotonic()
        tested = [at for at in self._tested.get(project.id, []) if now - at < A_MINUTE_S]
        self._tested[project.id] = tested
        if len(tested) >= TESTS:
            return False
        tested.append(now)
        return True

    async def _test(self, project: Project, hook: Hook, trigger: str) -> SourceError | None:
        """Ask for one test. Returns why it failed, if it did."""
        self._expected_tests.add(hook.name, project.id)
        try:
            await in_thread(lambda: self._hooks.test(hook, trigger))
        except Stopped:
            raise
        except SourceError as error:
            log.warning("a webhook can't be enabled again", project=project.path, error=str(error))
            self._not_before[hook.id] = time.monotonic() + TEST_PAUSE / 1000
            if isinstance(error, GitLabRefused):  # without an answer, the test may still arrive
                self._expected_tests.discard(hook.name, project.id, now=times.now())
            return error
        self._expected_tests.discard(hook.name, project.id, now=times.now())
        return None

    async def _note_test(self, hook: Hook, newest: int) -> bool | None:
        """Record the test that GitLab's log shows after it was asked for, so that it is not taken for an event later.

        Returns whether there is one; None if the log can't be read.
        """
        try:
            test = await in_thread(lambda: test_after(self._hooks, hook, newest))
        except SourceError:
            return None
        if test is not None:
            await self._ledger.record([as_test(test)])
        return test is not None

    async def _newest_delivery(self, hook: Hook) -> int:
        """GitLab's id of it; 0 if GitLab does not show the log."""
        try:
            return await in_thread(lambda: newest_delivery(self._hooks, hook))
        except SourceError:
            return 0

    async def _note(self, project: Project, hooks: list[Hook]) -> None:
        states = [_state(hook) for hook in hooks]
        before = self._noted.get(project.id)
        if states == before:
            return
        was_disabled = {state.hook_id for state in before or [] if state.alert_status not in (None, "executable")}
        for hook in hooks:
            about = {"project": project.path, "hook": hook.name, "alert_status": hook.alert_status}
            if hook.is_disabled and hook.id not in was_disabled:
                log.error("GitLab has disabled our webhook", disabled_until=hook.disabled_until, **about)
            elif not hook.is_disabled and hook.id in was_disabled:
                log.info("our webhook is enabled again", **about)
        disabled = [hook.id for hook in hooks if hook.is_disabled]
        await self._ledger.coverage.note_hooks(project.id, states, disabled=disabled, now=times.now())
        self._noted[project.id] = states


def _state(hook: Hook) -> HookState:
    triggers = sorted(hook.triggers)
    return HookState(hook.project_id, hook.id, hook.name, hook.url, triggers, hook.alert_status, hook.disabled_until)

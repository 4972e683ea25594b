"""Watching over our webhooks in GitLab: one that GitLab switched off is reported, and switched on again."""

from __future__ import annotations

import time

import structlog

from reconciler.events import times
from reconciler.events.hook_tests import Expected
from reconciler.events.times import HOUR
from reconciler.events.webhook_sighting import as_test
from reconciler.ledger.coverage import hooks as ledger_hooks
from reconciler.ledger.coverage.hooks import HookState
from reconciler.ledger.intake.writer import Writer
from reconciler.polling.threads import in_thread
from reconciler.sources.errors import GitLabRefused, SourceError, Stopped
from reconciler.sources.hook_log import newest_delivery, test_after
from reconciler.sources.hooks import Hook, Hooks, tests_of
from reconciler.sources.source import Project

TEST_PAUSE = HOUR
TESTS, A_MINUTE_S = 5, 60.0
"""So many tests GitLab makes a minute for all the webhooks of a project. One more is answered like a request over the
rate limit, for which every other request would wait.
"""
NOT_TAKEN = 422
"""GitLab's answer where a test was not answered with 2xx, and where GitLab made none."""

log = structlog.get_logger(__name__)


class HookKeeper:
    """Knows how each project's webhooks are.

    `expected_tests` are the tests that we asked GitLab for and that have not arrived: the receiver looks there.
    """

    def __init__(self, hooks: Hooks, *, writer: Writer, reenable: bool, expected_tests: set[Expected]) -> None:
        self._hooks = hooks
        self._writer = writer
        self._reenable = reenable
        self._expected_tests = expected_tests
        self._not_before: dict[int, float] = {}
        self._tested: dict[int, list[float]] = {}
        self._seen: dict[int, list[Hook]] = {}
        self._noted: dict[int, list[HookState]] = {}

    async def look(self, project: Project, *, fresh: bool = False) -> list[Hook] | None:
        """A project's webhooks, as they were last seen where GitLab does not answer; None where it never showed them.

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

    async def switch_on(self, project: Project, hooks: list[Hook]) -> None:
        """Have each webhook that is off tested: GitLab switches it on again where the test is answered with 2xx.

        Call it when the time in which it was off has been read. A test that fails counts for GitLab as one more
        failure: the next one is an hour later.
        """
        for hook in hooks if self._reenable else ():
            if hook.is_off and time.monotonic() >= self._not_before.get(hook.id, 0.0):
                await self._switch_on(project, hook)

    async def _switch_on(self, project: Project, hook: Hook) -> None:
        newest = await self._newest_delivery(hook)
        for trigger in tests_of(hook):
            if not self._may_test(project):
                self._not_before.pop(hook.id, None)  # what is left to try is tried at the next poll
                break
            failure = await self._test(project, hook, trigger)
            made = await self._note_test(hook, newest)
            if not (isinstance(failure, GitLabRefused) and failure.status == NOT_TAKEN and made is False):
                break  # only where GitLab had nothing to make this test of, another may do
        await self.look(project, fresh=True)

    def _may_test(self, project: Project) -> bool:
        """Whether GitLab will make another test for this project now."""
        now = time.monotonic()
        tested = [at for at in self._tested.get(project.id, []) if now - at < A_MINUTE_S]
        self._tested[project.id] = tested
        if len(tested) >= TESTS:
            return False
        tested.append(now)
        return True

    async def _test(self, project: Project, hook: Hook, trigger: str) -> SourceError | None:
        """Ask for one test. Returns why it failed, where it did."""
        expected = (hook.name, project.id)
        self._expected_tests.add(expected)
        try:
            await in_thread(lambda: self._hooks.test(hook, trigger))
        except Stopped:
            raise
        except SourceError as error:
            log.warning("a webhook can't be switched on again", project=project.path, error=str(error))
            self._not_before[hook.id] = time.monotonic() + TEST_PAUSE / 1000
            if isinstance(error, GitLabRefused):  # without an answer it may still be on its way
                self._expected_tests.discard(expected)
            return error
        self._expected_tests.discard(expected)
        return None

    async def _note_test(self, hook: Hook, newest: int) -> bool | None:
        """A test is in GitLab's log, before GitLab answers, like any delivery: one that did not arrive must not be
        taken for one later. Whether there is one; None where the log can't be read.
        """
        try:
            told = await in_thread(lambda: test_after(self._hooks, hook, newest))
        except SourceError:
            return None
        if told is not None:
            await self._writer.record([as_test(told)])
        return told is not None

    async def _newest_delivery(self, hook: Hook) -> int:
        """GitLab's number for it; 0 where GitLab does not show the log."""
        try:
            return await in_thread(lambda: newest_delivery(self._hooks, hook))
        except SourceError:
            return 0

    async def _note(self, project: Project, hooks: list[Hook]) -> None:
        states = [_state(hook) for hook in hooks]
        before = self._noted.get(project.id)
        if states == before:
            return
        was_off = {state.hook_id for state in before or [] if state.alert_status not in (None, "executable")}
        for hook in hooks:
            about = {"project": project.path, "hook": hook.name, "alert_status": hook.alert_status}
            if hook.is_off and hook.id not in was_off:
                log.error("GitLab has switched our webhook off", disabled_until=hook.disabled_until, **about)
            elif not hook.is_off and hook.id in was_off:
                log.info("our webhook is on again", **about)
        off = [hook.id for hook in hooks if hook.is_off]
        await self._writer.run(lambda db: ledger_hooks.note_hooks(db, project.id, states, off=off, now=times.now()))
        self._noted[project.id] = states


def _state(hook: Hook) -> HookState:
    triggers = sorted(hook.triggers)
    return HookState(hook.project_id, hook.id, hook.name, hook.url, triggers, hook.alert_status, hook.disabled_until)

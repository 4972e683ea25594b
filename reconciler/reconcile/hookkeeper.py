"""Watching over our webhooks in GitLab: one that GitLab switched off is reported, and switched on again."""

from __future__ import annotations

import time

import structlog

from reconciler.events import times
from reconciler.events.identify import as_test
from reconciler.events.sighting import Sighting
from reconciler.events.times import HOUR
from reconciler.ledger import hooks as ledger_hooks
from reconciler.ledger.hooks import HookState
from reconciler.ledger.writer import Writer
from reconciler.reconcile.threads import in_thread
from reconciler.sources.errors import Refused, SourceError, Stopped
from reconciler.sources.hook_log import last_delivery
from reconciler.sources.hooks import Hook, Hooks
from reconciler.sources.source import Project

TEST_PAUSE = HOUR
TEST_FAILED = 422
"""GitLab's answer where a test was made and not answered with 2xx."""

log = structlog.get_logger(__name__)


class HookKeeper:
    """Knows how each project's webhooks are.

    `expected_tests` are the projects whose next delivery is a test that we asked for; the receiver looks there.
    """

    def __init__(self, hooks: Hooks, *, writer: Writer, reenable: bool, expected_tests: set[int]) -> None:
        self._hooks = hooks
        self._writer = writer
        self._reenable = reenable
        self._expected_tests = expected_tests
        self._not_before: dict[int, float] = {}
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
        last, _ = await self._last_delivery(hook)
        self._expected_tests.add(project.id)
        try:
            await in_thread(lambda: self._hooks.test(hook))
        except Stopped:
            return
        except SourceError as error:
            log.warning("a webhook can't be switched on again", project=project.path, error=str(error))
            self._not_before[hook.id] = time.monotonic() + TEST_PAUSE / 1000
            if isinstance(error, Refused) and error.status == TEST_FAILED:
                await self._note_failed_test(hook, last)
        finally:
            self._expected_tests.discard(project.id)
        await self.look(project, fresh=True)

    async def _note_failed_test(self, hook: Hook, last: int) -> None:
        """A test that did not arrive is in GitLab's log like any delivery: it must not be taken for one."""
        number, told = await self._last_delivery(hook)
        if told is not None and number > last:
            await self._writer.record([as_test(told)])

    async def _last_delivery(self, hook: Hook) -> tuple[int, Sighting | None]:
        """As in the log; nothing where GitLab does not show it."""
        try:
            return await in_thread(lambda: last_delivery(self._hooks, hook))
        except SourceError:
            return 0, None

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

"""Watching over our webhooks in GitLab: one that GitLab switched off is reported, and switched on again."""

from __future__ import annotations

import structlog

from reconciler.events import times
from reconciler.ledger import hooks as ledger_hooks
from reconciler.ledger.hooks import HookState
from reconciler.ledger.writer import Writer
from reconciler.reconcile.threads import in_thread
from reconciler.sources.errors import SourceError, Stopped
from reconciler.sources.hooks import Hook, Hooks
from reconciler.sources.source import Project

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
        self._noted: dict[int, list[HookState]] = {}

    async def look(self, project: Project, *, fresh: bool = False) -> list[Hook] | None:
        """A project's webhooks; None where GitLab does not show them.

        Raises Stopped.
        """
        try:
            hooks = await in_thread(lambda: self._hooks.of(project.id, fresh=fresh))
        except Stopped:
            raise
        except SourceError:
            return None
        await self._note(project, hooks)
        return hooks

    async def switch_on(self, project: Project, hooks: list[Hook]) -> None:
        """Have each webhook that is off tested: GitLab switches it on again where the test is answered with 2xx.

        Call it when the time in which it was off has been read. Never raises.
        """
        off = [hook for hook in hooks if hook.is_off]
        if not off or not self._reenable:
            return
        for hook in off:
            self._expected_tests.add(project.id)
            try:
                await in_thread(lambda hook=hook: self._hooks.test(hook))  # type: ignore[misc]
            except SourceError as error:
                log.warning("a webhook can't be switched on again", project=project.path, error=str(error))
            finally:
                self._expected_tests.discard(project.id)
        await self.look(project, fresh=True)

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

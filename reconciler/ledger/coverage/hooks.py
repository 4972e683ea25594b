"""Our webhooks in GitLab, as they were last seen."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.database import Database


class HookState(msgspec.Struct, frozen=True):
    """A webhook of a project. `disabled_since` is when we first saw that GitLab had disabled it."""

    project_id: int
    hook_id: int
    name: str
    url: str
    triggers: list[str]
    alert_status: str | None
    disabled_until: str | None
    disabled_since: str | None = None
    checked_at: str | None = None

    @property
    def is_disabled(self) -> bool:
        return self.disabled_since is not None


def note_hooks(
    db: Database, project_id: int, hooks: Iterable[HookState], *, disabled: Iterable[int], now: Millis
) -> None:
    """Note the state of a project's webhooks. `disabled` are the ids of those that GitLab has disabled."""
    at, disabled_ids = times.iso(now), set(disabled)
    since = {hook.hook_id: hook.disabled_since for hook in project_hooks(db, project_id)}
    db.execute("DELETE FROM hooks WHERE project_id = ?", (project_id,))
    db.executemany(
        """
        INSERT INTO hooks (project_id, hook_id, name, url, triggers, alert_status, disabled_until, off_since,
                           checked_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [
            (
                project_id,
                hook.hook_id,
                hook.name,
                hook.url,
                orjson.dumps(hook.triggers).decode(),
                hook.alert_status,
                hook.disabled_until,
                (since.get(hook.hook_id) or at) if hook.hook_id in disabled_ids else None,
                at,
            )
            for hook in hooks
        ],
    )


def project_hooks(db: Database, project_id: int) -> list[HookState]:
    """A project's webhooks."""
    return _hooks(db, "WHERE project_id = ?", project_id)


def disabled_hooks(db: Database) -> list[HookState]:
    """All webhooks that GitLab has disabled."""
    return _hooks(db, "WHERE off_since IS NOT NULL")


def _hooks(db: Database, where: str, *values: int) -> list[HookState]:
    rows = db.query(
        f"""
        SELECT project_id, hook_id, name, url, triggers, alert_status, disabled_until, off_since AS disabled_since,
               checked_at
          FROM hooks {where} ORDER BY project_id, hook_id
        """,
        list(values),
    )
    return [HookState(**row | {"triggers": columns.triggers(row["triggers"])}) for row in list(rows)]

"""Whether anybody receives webhooks, as far as the service that records them can tell."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlite_utils import Database

from reconciler.events.intervals import Interval
from reconciler.events.times import Millis
from reconciler.ledger.coverage import downtime
from reconciler.ledger.coverage.downtime import QUIET
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage.connection import LedgerDatabase
from reconciler.ledger.storage.receivers import last_alive, running


class NoReceiver(msgspec.Struct, frozen=True):
    """No receiver runs since then, and what that means."""

    since: Millis
    why: str


def no_receiver(db: Database, *, now: Millis) -> NoReceiver | None:
    """None if a receiver is alive, if the service has just started and it may come, or if no service runs at all."""
    life = downtime.life(db)
    if not isinstance(db, LedgerDatabase) or life.started_at is None or not life.runs(now):
        return None
    alive_at = last_alive(intake_path(db.files.path))
    if any(one is not None and abs(now - one) <= QUIET for one in (alive_at, life.started_at)):
        return None
    ends = "GitLab's webhooks are not accepted: start it (`serve`, or `serve --only receiver`), or see its log"
    if alive_at is None:
        return NoReceiver(life.started_at, f"none has run with this ledger since then: {ends}")
    return NoReceiver(min(alive_at, now), f"it was stopped or killed, or hangs: {ends}")


def has_receiver(db: Database) -> bool:
    """Whether a receiver runs. One in another container is not seen."""
    return isinstance(db, LedgerDatabase) and bool(running(intake_path(db.files.path)))


def received(intake: Path, during: Interval) -> bool:
    """Whether a receiver that runs now was there all the while. One in another container is not seen."""
    return any(one.since is not None and one.since <= during.start for one in running(intake))

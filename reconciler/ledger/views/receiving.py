"""Whether anybody receives webhooks, as far as the service that records them can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from reconciler.events.intervals import Interval
from reconciler.events.times import Millis
from reconciler.ledger.coverage import downtime
from reconciler.ledger.coverage.downtime import QUIET, Life
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage import receivers_table
from reconciler.ledger.storage.connection import LOOK_S, opened
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.receivers import Receiver, noted, running
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.location import Location

NOT_RUNNING, NOT_ANSWERING, FAILING = "not running", "not answering", "failing"


class ReceiverTrouble(msgspec.Struct, frozen=True):
    """Webhooks are not accepted since then: no receiver runs (`NOT_RUNNING`), none of those that run says that it is
    alive (`NOT_ANSWERING`), or one answers 503 (`FAILING`).
    """

    trouble: str
    since: Millis
    why: str


def receiver_trouble(db: Database, *, now: Millis) -> ReceiverTrouble | None:
    """None if a receiver is alive and works, if the service has just started and it may come, or if neither runs."""
    if isinstance(db, SqliteDatabase) and db.files is None:
        return None
    there = _noted(db)
    return _not_running(downtime.life(db), there, now) or _hanging(_running(db), now) or _failing(there, now)


def _not_running(life: Life, there: Sequence[Receiver], now: Millis) -> ReceiverTrouble | None:
    if life.started_at is None or not life.runs(now):
        return None
    alive_at = max((one.alive_at for one in there), default=None)
    if any(one is not None and abs(now - one) <= QUIET for one in (alive_at, life.started_at)):
        return None
    ends = "GitLab's webhooks are not accepted: start it (`serve`, or `serve --only receiver`), or see its log"
    if alive_at is None:
        return ReceiverTrouble(NOT_RUNNING, life.started_at, f"none has run with this ledger since then: {ends}")
    return ReceiverTrouble(NOT_RUNNING, min(alive_at, now), f"it was stopped or killed, or hangs: {ends}")


def _hanging(there: Sequence[Receiver], now: Millis) -> ReceiverTrouble | None:
    """Receivers whose processes run, though none of them says that it is alive."""
    if not there or any(_is_heard(one, now) for one in there):
        return None
    why = "its process runs, but has not said since then that it is alive: GitLab's webhooks may not be accepted"
    return ReceiverTrouble(NOT_ANSWERING, min(max(one.alive_at for one in there), now), why)


def _is_heard(one: Receiver, now: Millis) -> bool:
    return abs(now - one.alive_at) <= QUIET


def _failing(there: Sequence[Receiver], now: Millis) -> ReceiverTrouble | None:
    """Of several, the one that has failed for the longest time."""
    found = [
        ReceiverTrouble(FAILING, one.failing_since, f"GitLab's webhooks are answered with 503: {one.failure}")
        for one in there
        if one.failing_since is not None and _is_heard(one, now)
    ]
    return min(found, key=lambda one: one.since, default=None)


def accepting(db: Database, *, now: Millis) -> bool | None:
    """Whether a receiver accepts webhooks; None if none runs. One of a ledger in a file, in another container, is not
    seen.
    """
    there = _running(db)
    return any(_is_heard(one, now) and one.failing_since is None for one in there) if there else None


def _noted(db: Database) -> Sequence[Receiver]:
    if not isinstance(db, SqliteDatabase):
        return receivers_table.noted(db)
    return [] if db.files is None else noted(intake_path(db.files.path))


def _running(db: Database) -> Sequence[Receiver]:
    if not isinstance(db, SqliteDatabase):
        return receivers_table.running(db)
    return [] if db.files is None else running(intake_path(db.files.path))


def running_here(ledger: Location) -> Sequence[Receiver]:
    """The receivers of a ledger that this process can see and signal. Raises LedgerError."""
    if isinstance(ledger, Path):
        return running(intake_path(ledger))
    with opened(ledger, readonly=True) as db:
        return receivers_table.running(db, host=receivers_table.own_host())


def received(ledger: Location, during: Interval) -> bool:
    """Whether a receiver that runs now was there all the while. One of a ledger in a file, in another container, is
    not seen. Raises LedgerError.
    """
    if isinstance(ledger, Path):
        there: Sequence[Receiver] = running(intake_path(ledger))
    else:
        with opened(ledger, readonly=True) as db:
            db.give_up_after(LOOK_S)
            there = receivers_table.running(db)
    return any(one.since is not None and one.since <= during.start for one in there)

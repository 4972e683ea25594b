"""What a command or the dashboard changes in a ledger, whether or not a service runs.

Each function is one transaction of its own (or several short ones, where it says so) on a ledger from `opened`. They
raise LedgerUnavailable if the ledger can't be written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from reconciler.events.times import Millis
from reconciler.ledger.queue import destinations, discarding, in_the_way
from reconciler.ledger.queue.replay import EVENTS_A_STEP
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.unrecorded import Discard
from reconciler.ledger.storage import connection, damage
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.upkeep.prune import Keep, Pruned, Pruning

BY_HAND = "by hand"
"""Why a destination is paused that a person has paused."""
NOTE_PATIENCE_S = 1.0


def pause(db: Database, destination_id: int, why: str = BY_HAND, *, now: Millis) -> None:
    """Pause a destination: nothing is sent to it, and its deliveries stay pending."""
    with transaction(db):
        destinations.pause(db, destination_id, why, now=now)


def resume(db: Database, destination_id: int) -> None:
    """Resume a destination: its pending deliveries are due at once."""
    with transaction(db):
        destinations.resume(db, destination_id)


def skip(db: Database, destination_id: int, event_id: int, *, now: Millis) -> bool:
    """Make a pending delivery a dead letter, so that those behind it go on. False if it is not pending."""
    with transaction(db):
        return in_the_way.skip(db, destination_id, event_id, now=now)


def discard_dead_letters(db: Database, destination_id: int, event_ids: Sequence[int], *, now: Millis) -> int:
    """Mark the dead letters of a destination that these events have as handled, in short transactions. Returns how
    many there were.
    """
    done = 0
    for start in range(0, len(event_ids), EVENTS_A_STEP):
        with transaction(db):
            done += discarding.discard(db, destination_id, event_ids[start : start + EVENTS_A_STEP], now=now)
    return done


def retry_unrecorded(db: Database, ids: Sequence[int] | None) -> int:
    """Have the service try again to record these webhooks, or all. Returns how many there are."""
    with transaction(db):
        return unrecorded.make_due(db, ids)


def discard_unrecorded(db: Database, ids: Sequence[int], *, is_served: Callable[[], bool]) -> Discard:
    """Give up webhooks that could not be recorded: all of these or none. Returns which, or why none."""
    with transaction(db):
        return unrecorded.discard(db, ids, is_served=is_served)


def remove(db: Database, destination_id: int) -> None:
    """Delete a destination with its deliveries and attempts."""
    with transaction(db):
        destinations.remove(db, destination_id)


def prune(db: Database, keep: Keep, *, now: Millis) -> Pruned:
    """Drop what is older than it is kept, in short transactions. Returns what was dropped."""
    pruning, done = Pruning(keep, now=now), False
    while not done:
        with transaction(db):
            done = pruning.step(db)
    return pruning.pruned


def check_writable(db: Database) -> None:
    """Commit something harmless, which proves that the ledger can be written."""
    with transaction(db):
        connection.touch(db)


def note_damage(path: Path, what: str, *, beyond_repair: bool = False) -> None:
    """Note for the next start that the ledger's file is damaged, or that it can't be repaired."""
    note = damage.note_beyond_repair if beyond_repair else damage.note_damage
    with closing(connect(path, patience_s=NOTE_PATIENCE_S)) as db, transaction(db):
        note(db, what)

"""What a service does all the time: leave signs of life, and notice what other processes do to its ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from reconciler.events import times
from reconciler.ledger.coverage import downtime
from reconciler.ledger.errors import LedgerDamaged, LedgerUnavailable
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.storage.connection import data_version
from reconciler.ledger.upkeep.prune import Keep, Pruned, Pruning
from reconciler.ledger.views import search
from reconciler.service.notify import notify

HEARTBEAT_S = 10.0
"""How often the service leaves a sign of life in the ledger."""
LOOK_S = 0.2
"""How often the ledger is asked, at the cost of microseconds, whether another process changed it."""

INDEX_S = 2.0
"""How long after it was recorded an event can be found, at most, by a service that keeps up."""

log = structlog.get_logger(__name__)


async def note_start(writer: Writer) -> None:
    found = await writer.run(lambda db: downtime.wake(db, times.now()))
    if found is not None:
        start, end = times.iso(found.during.start), times.iso(found.during.end)
        log.info("service was down", since=start, until=end, how=found.how)


async def heartbeat(writer: Writer) -> None:
    """Leave signs of life: the next start knows since when nothing was received; systemd knows that the event loop
    turns, and that the writer answers, if only to say that the ledger can't be written.
    """
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        try:
            await writer.run(lambda db: downtime.beat(db, times.now()))
        except LedgerUnavailable:  # the writer has said so
            pass
        finally:  # a mistake of ours is no reason to be killed
            notify("WATCHDOG=1")


async def watch(writer: Writer, changed: Callable[[], None]) -> None:
    """Notice what other processes (backfill, replay) commit to the ledger.

    Asked of the writer's own connection, whose number does not change with its own commits.
    """
    known = -1
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            version = await writer.run(data_version)
        except LedgerUnavailable:
            continue
        if version != known:
            known = version
            changed()


async def index(writer: Writer) -> None:
    """Make what was recorded findable, a little at a time, so that nobody waits for it."""
    while True:
        try:
            step = await writer.run(search.index_step)
        except LedgerDamaged:  # of the index, it may be: not a matter of waiting a moment
            raise
        except LedgerUnavailable:  # the writer has said so
            more = False
        else:
            more = step.more
            if step.skipped:
                log.warning("events not indexed for search: skipped", events=step.skipped)
        await asyncio.sleep(0.05 if more else INDEX_S)


async def prune(writer: Writer, keep: Keep) -> Pruned:
    """Drop what is older than it is to be kept, in short steps between which others write."""
    pruning, done = Pruning(keep, now=times.now()), False
    try:
        while not done:
            done = await writer.run(pruning.step)
    except LedgerDamaged:
        raise
    except LedgerUnavailable as error:  # the next pruning goes on
        log.warning("pruning interrupted", reason=str(error))
    if pruning.pruned != Pruned():
        log.info("pruned", events=pruning.pruned.events, attempts=pruning.pruned.attempts, pages=pruning.pruned.pages)
    return pruning.pruned

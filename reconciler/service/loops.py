"""What a service does all the time: leave signs of life, and notice what other processes do to its ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from reconciler.events import times
from reconciler.ledger.errors import LedgerDamaged, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.upkeep.prune import Keep, Pruned
from reconciler.service.notify import notify

HEARTBEAT_S = 10.0
"""How often the service leaves a sign of life in the ledger."""
LOOK_S = 0.2
"""How often the ledger is asked, at the cost of microseconds, whether another process changed it."""

INDEX_S = 2.0
"""How long after it was recorded an event can be found, at most, by a service that keeps up."""

log = structlog.get_logger(__name__)


async def note_start(ledger: Ledger) -> None:
    """Note that the service starts, and log how long it was down."""
    found = await ledger.note_start(times.now())
    if found is not None:
        start, end = times.iso(found.during.start), times.iso(found.during.end)
        log.info("the service was down", since=start, until=end, how=found.how)


async def heartbeat(ledger: Ledger) -> None:
    """Leave signs of life: the next start knows since when nothing was received; systemd knows that the event loop
    turns, and that the writer answers, if only to say that the ledger can't be written.
    """
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        try:
            await ledger.heartbeat(times.now())
        except LedgerUnavailable:  # the writer has said so
            pass
        finally:  # a mistake of ours is no reason to be killed
            notify("WATCHDOG=1")


async def watch(ledger: Ledger, changed: Callable[[], None]) -> None:
    """Notice what other processes (backfill, replay) commit to the ledger."""
    known = -1
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            version = await ledger.version()
        except LedgerUnavailable:
            continue
        if version != known:
            known = version
            changed()


async def index(ledger: Ledger) -> None:
    """Make what was recorded findable, a little at a time, so that nobody waits for it."""
    while True:
        try:
            step = await ledger.index_next()
        except LedgerDamaged:  # of the index, it may be: not a matter of waiting a moment
            raise
        except LedgerUnavailable:  # the writer has said so
            more = False
        else:
            more = step.more
            if step.skipped:
                log.warning("events can't be made findable by their words, and are skipped", events=step.skipped)
        await asyncio.sleep(0.05 if more else INDEX_S)


async def prune(ledger: Ledger, keep: Keep) -> Pruned:
    """Drop what is older than it is to be kept, in short steps between which others write."""
    pruned = Pruned()
    try:
        async for so_far in ledger.prune(keep, times.now()):
            pruned = so_far
    except LedgerDamaged:
        raise
    except LedgerUnavailable as error:  # the next pruning goes on
        log.warning("pruning was interrupted", reason=str(error))
    if pruned != Pruned():
        log.info("pruned", events=pruned.events, attempts=pruned.attempts, pages=pruned.pages)
    return pruned

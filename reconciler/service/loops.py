"""The service's loops: heartbeats, watching for other processes' commits, search indexing, pruning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.ledger.errors import LedgerDamaged, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.upkeep.prune import Keep, Pruned

HEARTBEAT_S = 10.0
"""How often the service writes a heartbeat to the ledger."""
CHECK_INTERVAL_S = 0.2
"""How often the ledger is checked for changes by other processes. A check costs microseconds."""

INDEX_S = 2.0
"""The longest time until a new event can be found by search, if indexing keeps up."""

log = structlog.get_logger(__name__)


async def note_start(ledger: Ledger, received: Callable[[Interval], bool]) -> None:
    """Record the start, and log how long the service was down, or only its worker."""
    found = await ledger.note_start(times.now(), received=received)
    if found is None:
        return
    start, end = times.iso(found.during.start), times.iso(found.during.end)
    what = "worker was down: webhooks were accepted meanwhile" if found.received else "service was down"
    log.info(what, since=start, until=end, how=found.how)


async def heartbeat(ledger: Ledger, alive: Callable[[], None], is_worker: Callable[[], bool]) -> None:
    """Write heartbeats, as the worker: the next start needs the last one to know since when nothing was read. Also
    call `alive`: the event loop runs and the writer answers.
    """
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        try:
            await (ledger.heartbeat(times.now()) if is_worker() else ledger.version())
        except LedgerUnavailable:  # logged by the writer
            pass
        finally:  # a bug must not get the service killed
            alive()


async def watch(ledger: Ledger, changed: Callable[[], None]) -> None:
    """Call `changed` when another process (backfill, replay) commits to the ledger."""
    known = -1
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        try:
            version = await ledger.version()
        except LedgerUnavailable:
            continue
        if version != known:
            known = version
            changed()


async def index(ledger: Ledger) -> None:
    """Index new events for search, in small steps so that other writes don't wait."""
    while True:
        try:
            step = await ledger.index_next()
        except LedgerDamaged:  # perhaps the index is damaged: waiting does not help
            raise
        except LedgerUnavailable:  # logged by the writer
            more = False
        else:
            more = step.more
            if step.skipped:
                log.warning("events not indexed for search: skipped", events=step.skipped, error=step.why)
        await asyncio.sleep(0.05 if more else INDEX_S)


async def prune(ledger: Ledger, keep: Keep) -> Pruned:
    """Delete what is older than the retention allows, in short steps so that others can write in between."""
    pruned = Pruned()
    try:
        async for so_far in ledger.prune(keep, times.now()):
            pruned = so_far
    except LedgerDamaged:
        raise
    except LedgerUnavailable as error:  # the next pruning continues
        log.warning("pruning interrupted", reason=str(error))
    if pruned != Pruned():
        log.info("pruned", events=pruned.events, attempts=pruned.attempts, pages=pruned.pages)
    return pruned

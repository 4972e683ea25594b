"""Repairs a damaged ledger before the service starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop

from reconciler.ledger import beside
from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerInUse, LedgerVersion
from reconciler.ledger.storage.connection import explain, opened
from reconciler.ledger.storage.damage import beyond_repair, is_noted
from reconciler.ledger.upkeep.repair import look, repair
from reconciler.service.role import Role, Said

EXTEND_EVERY_S = 15.0
"""How often the parent and systemd are asked to wait for the start: each time for a minute."""

Done = TypeVar("Done")

log = structlog.get_logger(__name__)


def repair_if_damaged(path: Path, role: Role) -> str | None:
    """Repair the ledger if it is known or found to be damaged. Until then webhooks wait in the intake. Returns why
    it can't be repaired, else None. The worker starts in both cases, and does what it can.

    Raises LedgerInUse if a service uses it, LedgerVersion if a later version wrote it.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        why = runner.run(while_asking_for_time(role, partial(_repair_if_damaged, path)))
    if why is not None:
        log.error("ledger not repaired", reason=why)
    return why


async def while_asking_for_time(role: Role, work: Callable[[], Done]) -> Done:
    """Run work that may take long in a thread before the worker starts, and keep reporting that it is starting.
    Returns or raises what `work` does.
    """
    for number in (signal.SIGTERM, signal.SIGINT) if role.is_alone else (signal.SIGTERM,):
        asyncio.get_running_loop().add_signal_handler(number, _end)
    asking = asyncio.create_task(ask_for_time(role))
    try:
        return await asyncio.to_thread(work)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def ask_for_time(role: Role) -> None:
    """Have the parent and systemd wait for the start, again and again. Never ends."""
    while True:
        role.say(Said.STARTING)
        await asyncio.sleep(EXTEND_EVERY_S)


def _end() -> None:
    """Exit at once: a thread can't be stopped, and an interrupted repair leaves a usable ledger (see `exchange`)."""
    log.info("stopped while the ledger was checked or repaired: the next start begins again")
    os._exit(0)


def leave_note(path: Path, what: str, *, beyond_repair: bool = False) -> None:
    """Note for the next start that the ledger is damaged, if that can be written."""
    with contextlib.suppress(LedgerError):
        beside.note_damage(path, what, beyond_repair=beyond_repair)


def _repair_if_damaged(path: Path) -> str | None:
    """Returns why the ledger can't be repaired, else None."""
    why = _given_up(path)
    if why is not None or not _is_damaged(path):
        return why
    log.error("ledger damaged: checking and repairing it")
    return _repair(path)


def _repair(path: Path) -> str | None:
    """Repair the ledger. Returns why that is not possible, else None."""
    try:
        aside = repair(path, lambda what: log.info("repairing ledger", step=what))
    except LedgerInUse:
        raise
    except LedgerDamaged as error:
        leave_note(path, str(error), beyond_repair=True)
        return str(error)
    except LedgerError as error:  # another try may succeed: the disk may have been full
        return str(error)
    if aside is not None:
        log.warning("ledger repaired: nothing is lost, the damaged file is kept", at=str(aside))
    return None


def _given_up(path: Path) -> str | None:
    try:
        with opened(path, readonly=True) as db:
            return beyond_repair(db)
    except (LedgerError, sqlite3.Error):
        return None


def _is_damaged(path: Path) -> bool:
    try:
        with opened(path, readonly=True) as db:
            if is_noted(db):
                return True
            look(db)
    except LedgerDamaged:
        return True
    except LedgerVersion:
        raise
    except LedgerError:  # no ledger yet, or the service will report the error
        return False
    except sqlite3.Error as error:  # no damage: a failed check must not prevent the start
        log.warning("ledger indexes not checked", reason=explain(error))
    return False

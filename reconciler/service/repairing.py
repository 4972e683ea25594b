"""A ledger that is damaged, before a service starts on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop
from sqlite_utils import Database

from receiver.app import waiting_app
from reconciler.config.models import Config, Receiver
from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerInUse, LedgerVersion
from reconciler.ledger.storage.connection import connect, explain, opened, transaction
from reconciler.ledger.storage.damage import beyond_repair, is_noted, note_beyond_repair, note_damage
from reconciler.ledger.upkeep.repair import look, repair
from reconciler.service.notify import notify
from reconciler.service.web import WebServer

PATIENCE_S = 1.0
EXTEND_S, EXTEND_EVERY_S = 60, 15
"""For how long, and how often, systemd is asked to wait for the start."""

Done = TypeVar("Done")

log = structlog.get_logger(__name__)


def repair_if_damaged(config: Config) -> str | None:
    """Repair a ledger that is known to be damaged, or whose damage is seen at once; deliveries are answered with 503
    meanwhile. Returns why it can't be repaired, if so; the service starts on it all the same, and does what it can.

    Raises LedgerInUse where a service has it, LedgerVersion where a later version wrote it, ServiceError where the
    port can't be had.
    """
    path = config.ledger.path
    why = _given_up(path)
    if why is None:
        if not _is_damaged(path):
            return None
        log.error("ledger damaged: checking and repairing it")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            why = runner.run(while_answering(config.receiver, partial(_repair, path)))
    if why is not None:
        log.error("ledger not repaired", reason=why)
    return why


async def while_answering(where: Receiver, work: Callable[[], Done]) -> Done:
    """Do something that takes long before a service can start: on a thread, with the port answering 503, and
    `/healthz` and systemd told that all is well. Returns, or raises, what `work` does.
    """
    app = waiting_app("the ledger is damaged: it is being repaired")
    server = WebServer(app, where.host, where.port, keys="receiver", probe="/healthz", keep_alive=where.keep_alive)
    server.listen()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _end)
    beside = [asyncio.create_task(server.run()), asyncio.create_task(_ask_for_time())]
    try:
        return await asyncio.to_thread(work)
    finally:
        await server.stop()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _ask_for_time() -> None:
    while True:
        notify(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1_000_000}")
        await asyncio.sleep(EXTEND_EVERY_S)


def _end() -> None:
    """A thread can't be stopped; a repair that is cut off anywhere leaves a ledger (see `exchange`)."""
    log.info("stopped during the repair: the next start begins again")
    os._exit(0)


def leave_note(path: Path, what: str, note: Callable[[Database, str], None] = note_damage) -> None:
    """Tell the next start that the ledger is damaged, if that can be written."""
    with contextlib.suppress(LedgerError), closing(connect(path, patience_s=PATIENCE_S)) as db, transaction(db):
        note(db, what)


def _repair(path: Path) -> str | None:
    """Returns why it can't be done."""
    try:
        aside = repair(path, lambda what: log.info("repairing ledger", now=what))
    except LedgerInUse:
        raise
    except LedgerDamaged as error:
        leave_note(path, str(error), note_beyond_repair)
        return str(error)
    except LedgerError as error:  # another try may come further: the disk may have been full
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
    except LedgerError:  # there is none yet, or the service will say what is wrong with it
        return False
    except sqlite3.Error as error:  # no damage: the look itself must not keep a service from starting
        log.warning("ledger indexes not checked", reason=explain(error))
    return False

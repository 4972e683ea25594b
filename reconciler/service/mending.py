"""A ledger that is damaged, before a service starts on it."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from reconciler.ledger.connection import connect, explain, is_noted, note_damage, opened, transaction
from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerInUse, LedgerVersion
from reconciler.ledger.repair import look, repair

PATIENCE_S = 1.0

log = structlog.get_logger(__name__)


def mended(path: Path) -> None:
    """Repair a ledger that is known to be damaged, or whose damage is seen at once. What can't be repaired is said;
    the service starts on it all the same, and does what can be done.

    Raises LedgerInUse where a service has it, LedgerVersion where a later version wrote it.
    """
    if not _is_damaged(path):
        return
    log.error("the ledger is damaged: it is looked through, and repaired if that can be done")
    try:
        aside = repair(path, lambda what: log.info("repairing the ledger", now=what))
    except LedgerInUse:
        raise
    except LedgerError as error:
        log.error("the ledger can't be repaired", reason=str(error))
    else:
        if aside is not None:
            log.warning("the ledger was repaired: nothing is lost, and the damaged file is kept", at=str(aside))


def leave_note(path: Path, what: str) -> None:
    """Tell the next start that the ledger is damaged, if that can be written."""
    with contextlib.suppress(LedgerError), closing(connect(path, patience_s=PATIENCE_S)) as db, transaction(db):
        note_damage(db, what)


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
        log.warning("the ledger's indexes can't be looked at", reason=explain(error))
    return False

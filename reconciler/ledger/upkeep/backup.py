"""Backups: a consistent copy of a ledger while its service runs, and restoring one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from reconciler.events import times
from reconciler.ledger.errors import LedgerDamaged, LedgerError
from reconciler.ledger.intake.copying import copy_after
from reconciler.ledger.intake.file import IntakeFile, intake_path, look_into, open_intake
from reconciler.ledger.intake.intake import Place
from reconciler.ledger.intake.rows import openings, read_after
from reconciler.ledger.recording.place import known_progress, note_openings, note_place, progress, used_again
from reconciler.ledger.recording.unrecorded import FailedWebhook, keep
from reconciler.ledger.storage import schema
from reconciler.ledger.storage.connection import REPAIR, connect, explain, is_damage, transaction
from reconciler.ledger.storage.files import make_private, sync
from reconciler.ledger.storage.ids import rename_from_here
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.storage.sqlite import SqliteDatabase

PAGES_A_STEP = 4096
"""16 MB between two reports of progress."""
WEBHOOKS_A_STEP = 500

_ANOTHER = "restore another copy"
NOT_YET = "not recorded yet when the backup was made"


class Copy(msgspec.Struct, frozen=True):
    """What a copy contains."""

    path: str
    bytes: int
    events: int
    newest: str | None
    undelivered: int


def backup(source: Path, target: Path, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Copy:
    """Copy a ledger, as it is at one moment, to a new file, and check the copy.

    Webhooks that wait in the intake are in the copy too: a service that is started with it records them. Writers do
    not wait: the ledger is read in one snapshot. The file gets its name when it is complete and on disk.
    `progress` is called with the pages done and the total.

    Raises LedgerError if the ledger can't be read, or the copy can't be written.
    """
    if target.is_dir():
        target = target / f"{source.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    if target.exists():
        raise LedgerError(f"{target}: is there already; give another name, or a folder to have one made")
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        make_private(part)
        with closing(connect(source, readonly=True)) as db, _waiting(source, db, target) as waiting:
            _copy_ledger(db, part, progress)
            if waiting is not None:
                _add_waiting(part, waiting)
        found = _inspect(part, called=source)
        sync(part)
        part.rename(target)
        sync(target.parent)
    except sqlite3.Error as error:
        raise LedgerError(f"{target}: the copy failed: {explain(error)}") from error
    except OSError as error:
        raise LedgerError(f"{target}: can't be written: {error.strerror}") from error
    finally:  # also if it is interrupted
        with contextlib.suppress(OSError):
            part.unlink()
    return msgspec.structs.replace(found, path=str(target))


def _copy_ledger(db: SqliteDatabase, part: Path, progress: Callable[[int, int], None]) -> None:
    # One snapshot for the whole copy: otherwise a commit in between would restart it.
    db.execute("BEGIN")
    db.execute("SELECT 1 FROM events LIMIT 1").fetchone()
    with closing(sqlite3.connect(part)) as copy:
        db.conn.backup(copy, pages=PAGES_A_STEP, progress=lambda _status, left, total: progress(total - left, total))
    db.execute("COMMIT")


class _Waiting(msgspec.Struct, frozen=True):
    """Webhooks that wait in the intake, in a file of their own. The ledger may count positions after `reused` as
    recorded that are used again since (`used_again`).
    """

    file: IntakeFile
    reused: int | None


@contextmanager
def _waiting(source: Path, db: SqliteDatabase, target: Path) -> Iterator[_Waiting | None]:
    """What waits in the intake, during the block; None if there is no intake.

    It is copied before the ledger: what is removed from the intake meanwhile is in the ledger's copy. So no snapshot
    of the intake is open while the ledger is copied, for which its log would grow.
    """
    file = look_into(intake_path(source))
    if file is None:
        yield None
        return
    part = target.with_name(f"{target.name}.intake.part")
    try:
        with closing(file):
            _remove(part)
            opened = openings(file.conn)
            reused = used_again(db, file.id, opened)
            copy_after(file, known_progress(db, file.id, opened).place.position, part)
        with closing(open_intake(part)) as waiting:
            yield _Waiting(waiting, reused)
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        _beside(part, suffix).unlink(missing_ok=True)


def _add_waiting(copy: Path, waiting: _Waiting) -> None:
    """Add the webhooks to a copy that are not recorded in it: a service that is started with it records them."""
    intake = waiting.file
    with closing(connect(copy)) as db, transaction(db):
        at = progress(db)
        if at is not None and at.intake_id != intake.id:
            at = None
        elif at is not None and waiting.reused is not None:
            at = at.cut(waiting.reused)
        after = 0 if at is None else at.place.position
        while some := read_after(intake.conn, after=after, limit=WEBHOOKS_A_STEP):
            left = [one for one in some if at is None or not at.has(one.position)]
            keep(db, [FailedWebhook(one.webhook, NOT_YET) for one in left], now=times.now(), due=True)
            after = some[-1].position
        if after:
            through = after if at is None else max(after, at.through)
            note_openings(db, openings(intake.conn))
            note_place(db, Place(intake.id, through))  # a service that finds the same intake goes on behind them


def inspect(path: Path) -> Copy:
    """Check a copy completely, and say what it contains.

    Raises LedgerError if it is damaged, not a ledger, or written by a newer version of this program.
    """
    return _inspect(path, called=path)


def _inspect(path: Path, *, called: Path) -> Copy:
    """`called` is the path that errors name."""
    if not path.exists():
        raise LedgerError(f"{called}: there is no such file")
    if path.is_dir():
        raise LedgerError(f"{called}: is a folder: name the file in it")
    # A copy is one file, and nothing writes to it, so SQLite needs no other files beside it.
    alone = not _beside(path, "-wal").exists()
    target = f"{path.absolute().as_uri()}?{'immutable=1' if alone else 'mode=ro'}"
    try:
        with closing(sqlite3.connect(target, uri=True)) as conn:
            verdict = conn.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                what = verdict.replace("*** in database main ***\n", "").splitlines()[0]
                advice = f"; {_ANOTHER}" if called == path else f"; {REPAIR}"
                raise LedgerDamaged(f"{called}: the file is damaged: {what}{advice}")
            applied = {name for (name,) in conn.execute("SELECT name FROM _sqlite_migrations")}
            unknown = applied - schema.migration_names()
            if unknown:
                raise LedgerError(f"{called}: was written by a newer version (it has {', '.join(sorted(unknown))})")
            events, newest = conn.execute("SELECT count(*), max(recorded_at) FROM events").fetchone()
            sql = f"SELECT count(*) FROM deliveries WHERE {schema.OPEN}"
            undelivered = conn.execute(sql).fetchone()[0]
    except sqlite3.Error as error:
        if called != path:
            raise LedgerError(f"{called}: is no ledger: {explain(error)}") from error
        if is_damage(error):
            raise LedgerDamaged(f"{called}: the file is damaged: {error}; {_ANOTHER}") from error
        raise LedgerError(f"{called}: {_no_copy(error)}") from error
    return Copy(str(path), path.stat().st_size, events, newest, undelivered)


def _no_copy(error: sqlite3.Error) -> str:
    """The message for a file that can't be restored."""
    is_other = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
    return f"is no ledger: name a file that `backup` made ({error})" if is_other else explain(error)


def restore(copy: Path, path: Path) -> tuple[Copy, Path | None]:
    """Replace the ledger with a checked copy. Returns what it contains, and where the previous ledger is now.

    Events that are recorded from now on get ids with a new prefix (see `storage.ids`). The time since the backup
    counts as downtime, so that the next start reads it from GitLab.

    Raises LedgerError if the copy can't be used, or a service has the ledger.
    """
    path = path.resolve()  # a link stays one: the intake is beside the file itself
    with only_service(path):
        found = inspect(copy)
        part = path.with_name(path.name + ".restoring")
        try:
            part.unlink(missing_ok=True)
            make_private(part)
            shutil.copyfile(copy, part)
            with closing(connect(part)) as db, transaction(db):
                rename_from_here(db)
            aside = exchange(part, path, "restore")
        except OSError as error:
            raise LedgerError(f"{path}: can't be restored: {error.strerror}") from error
    return found, aside


def exchange(new: Path, path: Path, why: str) -> Path | None:
    """Replace a ledger with another one that is closed, on disk. Returns where the previous one is now.

    At every moment one of the two is complete at the path: a service that found none would create an empty one. The
    new file gets the owner of the previous one, since root may do this for a service of another user. Raises OSError,
    and then the ledger has not changed.
    """
    if _beside(new, "-wal").exists():  # SQLite could not write the log into the file, and does not report that
        raise OSError(errno.EIO, "its last changes can't be written into its file")
    if not path.exists():
        sync(new)
        new.replace(path)
        sync(path.parent)
        return None
    old, made = path.stat(), new.stat()
    if (old.st_uid, old.st_gid) != (
        made.st_uid,
        made.st_gid,
    ):  # seccomp may forbid a service to call it
        with contextlib.suppress(PermissionError):
            os.chown(new, old.st_uid, old.st_gid)
    sync(new)
    _fold_in(path)
    aside = _unused(path.with_name(f"{path.name}.before-{why}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))
    try:
        for suffix in ("", "-wal"):
            if _beside(path, suffix).exists():
                _keep(_beside(path, suffix), _beside(aside, suffix))
        sync(path.parent)
        _without_log(path)  # SQLite would use it for the new file
        new.replace(path)
    except OSError:
        _give_back(aside, path)
        raise
    sync(path.parent)
    return aside


def _fold_in(path: Path) -> None:
    """Have SQLite write a ledger's log into its file, so that the file alone is the ledger. If that fails, the file
    can't be used anyway.
    """
    target = f"{path.absolute().as_uri()}?mode=rw"
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(target, uri=True)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _keep(file: Path, aside: Path) -> None:
    """Give a file a second name; if the file system has no hard links, copy it."""
    try:
        aside.hardlink_to(file)
    except OSError:
        make_private(aside)
        shutil.copyfile(file, aside)
        shutil.copystat(file, aside)
        sync(aside)


def _unused(path: Path) -> Path:
    """This path, or a similar one if it is taken."""
    tries = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in itertools.count(1))
    return next(one for one in tries if not one.exists() and not _beside(one, "-wal").exists())


def _give_back(aside: Path, path: Path) -> None:
    """Undo what `exchange` did before it failed."""
    log = _beside(aside, "-wal")
    if log.exists() and not _beside(path, "-wal").exists():
        log.replace(_beside(path, "-wal"))
    log.unlink(missing_ok=True)
    aside.unlink(missing_ok=True)


def _without_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)

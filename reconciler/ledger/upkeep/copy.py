"""Copies a ledger to a new place: from SQLite to PostgreSQL, or back. Event ids stay.

What is copied is noted in the new ledger in the transaction that writes it, so that a copy that was interrupted goes
on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage import meta, unfinished
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids, go_on_with, next_number
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep import copy_ends, copy_intake, copy_rows
from reconciler.ledger.upkeep.copy_check import Check, Difference, Sum
from reconciler.ledger.upkeep.copy_ends import Target
from reconciler.ledger.upkeep.copy_tables import MADE_ANEW, META, TABLES, Fit, Table
from reconciler.location import Location, PostgresUrl

COPYING, CHECKING = "copying", "checking"
INTAKE = "intake"


class Step(msgspec.Struct, frozen=True):
    """How far it is: which table is copied or checked, and how many rows of how many in all are done."""

    what: str
    table: str
    done: int
    total: int


class Copied(msgspec.Struct, frozen=True):
    """What became of a copy. `rows` are those of each table, and of the intake the webhooks that wait in it.

    `replaced` values could not be written as they were. `left_out` rows have no readable key, or belong to nothing.
    `differences` are the first of `differing` ones.
    """

    ledger_id: str
    rows: dict[str, int]
    replaced: int
    left_out: int
    differing: int
    differences: list[Difference]


class _Note(msgspec.Struct):
    """How far a copy is, and of which ledger, in which state, it is one."""

    of: str
    state: str
    table: int = 0
    after: tuple[int, ...] | None = None
    rows: dict[str, int] = {}
    replaced: int = 0
    left_out: int = 0


_NOTE = msgspec.json.Decoder(_Note)


def copy(source: Location, target: Location, report: Callable[[Step], None] = lambda _: None) -> Copied:
    """Copy a ledger and compare the copy with it. Without differences, the copy is a ledger from then on.

    No service may have one of them. The target must be new, or what an interrupted copy of the same ledger left.
    Raises LedgerError.
    """
    if _is_same(source, target):
        raise LedgerError(f"{source}: the copy needs another place")
    with copy_ends.source(source) as db, copy_ends.target(target) as made:
        run = _Run(db, source, made, target, report)
        run.copy()
        return run.finish()


def _is_same(source: Location, target: Location) -> bool:
    if isinstance(source, Path) and isinstance(target, Path):
        return source.resolve() == target.resolve()
    return isinstance(source, PostgresUrl) and isinstance(target, PostgresUrl) and source.value == target.value


class _Run:
    def __init__(
        self, db: Database, source: Location, made: Target, target: Location, report: Callable[[Step], None]
    ) -> None:
        self._source, self._made, self._copy = db, made, made.db
        self._intake = source if isinstance(source, PostgresUrl) else intake_path(source)
        self._copied_intake = target if made.intake is None else made.intake
        self._report = report
        self._texts = copy_rows.AnyText(db)
        self._note = _begun(db, made.db, str(target))
        self._total = sum(copy_rows.count(db, table) for table in TABLES)

    def copy(self) -> None:
        """Copy what is not copied yet, each part of a table in a transaction."""
        self._copy_intake()  # each time: a receiver may have appended to it
        for table in TABLES[self._note.table :]:
            self._copy_table(table)
        with transaction(self._copy):
            for table in TABLES:
                copy_rows.continue_numbers(self._copy, table)
            go_on_with(self._copy, next_number(self._source))
        if not isinstance(self._copy, SqliteDatabase):
            names = [*(table.name for table in TABLES), *MADE_ANEW]
            self._copy.execute(f"ANALYZE {', '.join(names)}")

    def _copy_intake(self) -> None:
        self._tell(COPYING, INTAKE, 0)
        with copy_intake.waiting(self._source, self._intake) as found:
            place, count = None, 0
            if found is not None:
                place, count = copy_intake.copy_waiting(found, self._copy, self._made.intake)
            with transaction(self._copy):
                if place is not None:
                    copy_intake.note(self._copy, place)
                self._note.rows[INTAKE] = count
                self._write_note()

    def _copy_table(self, table: Table) -> None:
        fit = Fit(self._copy, table)
        parts = copy_rows.Parts(table, fit.columns)
        self._note.rows.setdefault(table.name, 0)
        for part in parts.all(self._source, self._note.after):
            rows = [row for row in map(fit, part.rows) if row is not None]
            with transaction(self._copy):
                refused = copy_rows.write(self._copy, table, fit.columns, rows)
                self._note.after = part.after
                self._note.rows[table.name] += len(rows) - refused
                self._note.left_out += len(part.rows) - len(rows) + refused
                self._note.replaced += fit.replaced + self._texts.replaced
                fit.replaced = self._texts.replaced = 0
                self._write_note()
            done = sum(rows for name, rows in self._note.rows.items() if name != INTAKE)
            self._tell(COPYING, table.name, done)
        with transaction(self._copy):
            self._note.left_out += copy_rows.without_owner(self._source, table)
            self._note.table += 1
            self._note.after = None
            self._write_note()

    def finish(self) -> Copied:
        """Compare the two, and make the copy a ledger if they are equal."""
        done = 0

        def checked(table: str, rows: int) -> None:
            nonlocal done
            done += rows
            self._tell(CHECKING, table, done)

        check = Check(self._source, self._copy, checked)
        self._compare_intakes(check)
        check.run()
        if not check.differing:
            self._made.finish()
        note = self._note
        return Copied(note.of, note.rows, note.replaced, note.left_out, check.differing, check.differences)

    def _compare_intakes(self, check: Check) -> None:
        with (
            copy_intake.waiting(self._source, self._intake) as one,
            copy_intake.waiting(self._copy, self._copied_intake) as other,
        ):
            last = 0 if one is None else one.last
            check.note(INTAKE, self._waiting(one, last), self._waiting(other, last))

    def _waiting(self, found: copy_intake.Waiting | None, last: int) -> Sum:
        sums = Sum()
        for rows in () if found is None else found.rows(through=last):
            for row in rows:
                sums.add(copy_intake.fits(row, self._copy))
        return sums

    def _tell(self, what: str, table: str, done: int) -> None:
        self._report(Step(what, table, done, self._total))

    def _write_note(self) -> None:
        meta.put(self._copy, unfinished.NAME, msgspec.json.encode(self._note).decode())


def _begun(source: Database, target: Database, called: str) -> _Note:
    """How far an earlier copy came; the note of a new one if there was none. Raises LedgerError if the target has
    something else.
    """
    event_ids(source)  # it must have an id
    fresh = _Note(meta.get(source, "ledger_id") or "", _state(source))
    noted = meta.get(target, unfinished.NAME)
    if noted is None:
        if any(_rows(target)):
            raise LedgerError(f"{called}: is a ledger already, with something in it: the copy needs a new one")
        with transaction(target):
            meta.put(target, unfinished.NAME, msgspec.json.encode(fresh).decode())
        return fresh
    begun = None
    with suppress(msgspec.MsgspecError, ValueError):
        begun = _NOTE.decode(noted)
    anew = "remove it, and copy again"
    if begun is None or begun.of != fresh.of:
        raise LedgerError(f"{called}: has an unfinished copy of another ledger: {anew}")
    if begun.state != fresh.state:
        raise LedgerError(f"{called}: has an unfinished copy of this ledger as it was before it was changed: {anew}")
    return begun


def _rows(target: Database) -> Iterable[int]:
    """How many rows a ledger has of what is copied, in each table."""
    for table in TABLES:
        where = f"{table.where} AND name <> 'ledger_id'" if table is META else "true"
        yield int(target.execute(f"SELECT count(*) FROM {table.name} WHERE {where}").fetchone()[0])
    if not isinstance(target, SqliteDatabase):
        yield int(target.execute("SELECT count(*) FROM intake").fetchone()[0])


_LAST = "SELECT coalesce(max(id), 0) FROM {}"


def _state(source: Database) -> str:
    """What changes with everything that a service does."""
    found = blake2b(digest_size=16)
    for row in source.execute(f"SELECT name, value FROM meta WHERE {META.where} ORDER BY name"):
        found.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
    for table in ("events", "sightings", "attempts", "runs"):
        found.update(f"{source.execute(_LAST.format(table)).fetchone()[0]} ".encode())
    return found.hexdigest()

"""Compares a copied ledger with its source: how many rows both have, and checksums of them.

Both are read by the same code, a part at a time. Of events and deliveries, the differences are given by project and
day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b

import msgspec

from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import next_number
from reconciler.ledger.upkeep.copy_rows import LAST, Parts
from reconciler.ledger.upkeep.copy_tables import ATTEMPTS, DELIVERIES, EVENTS, OTHERS, SIGHTINGS, Fit, Row, Table

MOST_NAMED = 100
_WHOLE = 1 << 128


class Difference(msgspec.Struct, frozen=True):
    """What differs: events with their sightings, deliveries with their attempts, or a table; how many rows the
    source has and how many the copy. If these are equal, contents differ.
    """

    what: str
    source: int
    copy: int
    project_id: int | None = None
    day: str | None = None


class Sum:
    """A number of rows and their checksum, in which their order does not count."""

    def __init__(self) -> None:
        self.rows = 0
        self._digest = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        made = blake2b(msgspec.msgpack.encode(row), digest_size=16).digest()
        self._digest = (self._digest + int.from_bytes(made, "big")) % _WHOLE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.rows, self._digest) == (other.rows, other._digest)

    __hash__ = None  # type: ignore[assignment]  # as Python sets it beside __eq__; mypy wants a method


Group = tuple[str, int | None, str]
"""What, project, day."""


class Check:
    """Compares two ledgers. `differences` has the first ones, `differing` counts all. `checked` is called with the
    number of rows that were read from the source.
    """

    def __init__(self, source: Database, copy: Database, checked: Callable[[str, int], None]) -> None:
        self._source, self._copy = source, copy
        self._checked = checked
        self._fit = {table.name: Fit(copy, table) for table in (*OTHERS, EVENTS, SIGHTINGS, DELIVERIES, ATTEMPTS)}
        self._history = _History(self._fit)
        self.differences: list[Difference] = []
        self.differing = 0

    def run(self) -> None:
        """Compare everything but the intake."""
        for table in OTHERS:
            source, copy = self._table(self._source, table), self._table(self._copy, table)
            self._checked(table.name, source.rows)
            self.note(table.name, source, copy)
        numbers = next_number(self._source), next_number(self._copy)
        if numbers[0] != numbers[1]:
            self._found(Difference("number of the next event", *numbers))
        self._events()

    def note(self, what: str, source: Sum, copy: Sum) -> None:
        """Keep a difference, if there is one."""
        if source != copy:
            self._found(Difference(what, source.rows, copy.rows))

    def _found(self, one: Difference) -> None:
        self.differing += 1
        if len(self.differences) < MOST_NAMED:
            self.differences.append(one)

    def _table(self, db: Database, table: Table) -> Sum:
        found, fit = Sum(), self._fit[table.name]
        for part in Parts(table, fit.columns).all(db):
            self._stay_connected()
            for row in part.rows:
                if (made := fit(row)) is not None:
                    found.add(made)
        return found

    def _stay_connected(self) -> None:
        """A server ends a connection on which it hears nothing for a minute (`copy_ends.SILENT_S`)."""
        for db in (self._source, self._copy):
            db.execute("SELECT 1")

    def _events(self) -> None:
        after, is_end = None, False
        while not is_end:
            part = self._history.events.read(self._source, after or self._history.events.first, within=LAST)
            is_end = part is None
            through = LAST if part is None else part.after[0]
            first = after or self._history.events.first
            sums = self._history.sums(self._source, first, through)
            copied = self._history.sums(self._copy, first, through)
            self._compare(sums, copied)
            self._stay_connected()
            self._checked(EVENTS.name, sum(one.rows for one in sums.values()))
            after = (through,)

    def _compare(self, source: Mapping[Group, Sum], copy: Mapping[Group, Sum]) -> None:
        for group in sorted({*source, *copy}, key=repr):
            one, other = source.get(group, Sum()), copy.get(group, Sum())
            if one != other:
                what, project, day = group
                self._found(Difference(what, one.rows, other.rows, project, day))


class _History:
    """Reads events, with what belongs to them."""

    def __init__(self, fit: Mapping[str, Fit]) -> None:
        self._fit = fit
        self.events = Parts(EVENTS, fit[EVENTS.name].columns, within=True)
        self._belonging = [
            (table.name, what, Parts(table, fit[table.name].columns, by=by, within=True))
            for table, what, by in (
                (SIGHTINGS, "events", ("event_id", "id")),
                (DELIVERIES, "deliveries", ("event_id", "destination_id")),
                (ATTEMPTS, "deliveries", ("event_id", "id")),
            )
        ]
        names = [one.name for one in fit[EVENTS.name].columns]
        self._project, self._time = names.index("project_id"), names.index("happened_at")
        self._id = names.index("id")
        self._event = {
            name: [one.name for one in fit[name].columns].index("event_id") for name, _, _ in self._belonging
        }

    def sums(self, db: Database, after: tuple[int, ...], through: int) -> dict[Group, Sum]:
        """Of the events after one, up to and with another one."""
        found: dict[Group, Sum] = {}
        place: dict[int, tuple[int | None, str]] = {}

        def add(what: str, event: int, row: Row) -> None:
            if event in place:
                found.setdefault((what, *place[event]), Sum()).add(row)

        for row in self._rows(EVENTS.name, self.events, db, after, through):
            place[row[self._id]] = (row[self._project], row[self._time][:10])
            add("events", row[self._id], row)
        for name, what, parts in self._belonging:
            for row in self._rows(name, parts, db, (after[0], LAST), through):
                add(what, row[self._event[name]], (name, *row))
        return found

    def _rows(self, name: str, parts: Parts, db: Database, after: tuple[int, ...], through: int) -> Iterator[Row]:
        for part in parts.all(db, after, within=through):
            yield from filter(None, map(self._fit[name], part.rows))

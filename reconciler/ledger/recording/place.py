"""How far the intake was recorded. It is noted in the transaction that records. The caller holds the transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reconciler.ledger.intake.intake import Opening, Place
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

_NAME, _OPENING = "intake", "intake_opening"


class Progress(msgspec.Struct, frozen=True):
    """How far an intake was read, and which of its webhooks are held: damage to the ledger keeps them from being
    recorded, so they stay in the intake. Everything else up to `through` is in the ledger.

    `held` are the first and the last positions of ranges, in order.
    """

    intake_id: str
    through: int = 0
    held: tuple[tuple[int, int], ...] = ()

    @property
    def place(self) -> Place:
        """The end of what may be removed from the intake: everything up to it is in the ledger."""
        return Place(self.intake_id, self.held[0][0] - 1 if self.held else self.through)

    def has(self, position: int) -> bool:
        """Whether the ledger has the webhook at this position."""
        return position <= self.through and not any(first <= position <= last for first, last in self.held)

    def recorded(self, after: int, upto: int) -> Progress:
        """This progress once everything after a position, up to and with another one, is in the ledger."""
        return Progress(self.intake_id, max(self.through, upto), _without(self.held, after + 1, upto))

    def waiting(self, last: int) -> int:
        """How many webhooks up to and with the last position are not in the ledger."""
        held = sum(min(b, last) - a + 1 for a, b in self.held if a <= last)
        return max(0, last - self.through) + held

    def cut(self, position: int) -> Progress:
        """This progress without what comes after a position, which is used again."""
        held = tuple((first, min(last, position)) for first, last in self.held if first <= position)
        return Progress(self.intake_id, min(self.through, position), held)

    def hold(self, after: int, position: int) -> Progress:
        """This progress once the next webhook after a position can't be recorded."""
        ranges = [*_without(self.held, after + 1, position), (position, position)]
        joined: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if joined and joined[-1][1] + 1 == first:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
        return Progress(self.intake_id, max(self.through, position), tuple(joined))


def _without(ranges: tuple[tuple[int, int], ...], first: int, last: int) -> tuple[tuple[int, int], ...]:
    pieces = [piece for a, b in ranges for piece in ((a, min(b, first - 1)), (max(a, last + 1), b))]
    return tuple(sorted({(a, b) for a, b in pieces if a <= b}))


def progress(db: Database) -> Progress | None:
    """How far which intake was read; None if nothing was recorded from one."""
    found = (meta.get(db, _NAME) or "").split(" ")
    if len(found) < 2 or not found[1].isdecimal():
        return None
    try:
        held = tuple((int(a), int(b)) for a, _, b in (one.partition("-") for one in found[2:]))
    except ValueError:  # somebody has changed it
        held = ()
    return Progress(found[0], int(found[1]), held)


def place(db: Database) -> Place | None:
    """Up to where which intake is in the ledger; None if nothing was recorded from one."""
    found = progress(db)
    return None if found is None else found.place


def note_progress(db: Database, found: Progress) -> None:
    """An intake was read so far."""
    held = [f"{first}-{last}" for first, last in found.held]
    meta.put(db, _NAME, " ".join([found.intake_id, f"{found.through}", *held]))


def used_again(db: Database, intake_id: str, openings: Sequence[Opening]) -> int | None:
    """The position after which an intake uses positions again that the ledger counts as recorded; None if it does
    not. It does if it is an older copy, and was opened by a receiver and by no recorder yet (`Reader.openings`).
    """
    found = progress(db)
    if found is None or found.intake_id != intake_id:
        return None
    ids = [one.id for one in openings]
    known = meta.get(db, _OPENING)
    later = openings[ids.index(known) + 1 :] if known in ids else openings
    first = min((one.after for one in later), default=found.through)
    return first if first < found.through else None


def known_progress(db: Database, intake_id: str, openings: Sequence[Opening]) -> Progress:
    """How far an intake was read, without positions that are used again. Arguments as for `used_again`."""
    found, reused = progress(db), used_again(db, intake_id, openings)
    if found is None or found.intake_id != intake_id:
        return Progress(intake_id)
    return found if reused is None else found.cut(reused)


def note_openings(db: Database, openings: Sequence[Opening]) -> None:
    """What came after these openings is in the ledger, though no recorder has looked at the intake."""
    if openings:
        meta.put(db, _OPENING, openings[-1].id)


def note_place(db: Database, place: Place) -> None:
    """An intake was recorded up to and with this position."""
    note_progress(db, Progress(place.intake_id, place.position))

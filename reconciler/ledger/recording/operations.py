"""The ledger's operations for the recorder: it records what the intake holds, and keeps what can't be recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from sqlite_utils import Database

from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.ledger.intake.intake import Place
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.place import note_place, place
from reconciler.ledger.recording.record import BatchResult
from reconciler.ledger.recording.unrecorded import DueWebhook, FailedWebhook
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.reading import LedgerReader


class RecordingOperations:
    """Writes raise LedgerUnavailable if the ledger can't be written, and ChangeFailed if this change can't be; they
    are on disk when they return. Reads raise LedgerError.
    """

    def __init__(self, writer: Writer, read: LedgerReader) -> None:
        self._writer = writer
        self._write = writer.run
        self._read = read

    def place(self) -> Place | None:
        """How far which intake was recorded; None if nothing was recorded from one."""
        return self._read(place)

    def record(
        self, sightings: Sequence[Sighting], failed: Sequence[FailedWebhook], *, through: Place, now: Millis
    ) -> Awaitable[BatchResult]:
        """Record what the intake holds up to a place, in one transaction. `failed` can't be recorded, and is kept."""

        def write(db: Database) -> None:
            unrecorded.keep(db, failed, now=now)
            note_place(db, through)

        return self._writer.record(sightings, also=write)

    def due(self, *, limit: int) -> list[DueWebhook]:
        """Webhooks that could not be recorded and are to be tried again, oldest first."""
        return self._read(lambda db: unrecorded.due(db, limit=limit))

    def make_all_due(self) -> Awaitable[int]:
        """Have all webhooks that could not be recorded tried again. Returns how many there are."""
        return self._write(unrecorded.make_due)

    def record_again(self, ident: int, sighting: Sighting) -> Awaitable[BatchResult]:
        """Record a webhook that could not be recorded before."""
        return self._writer.record([sighting], also=lambda db: unrecorded.drop(db, [ident]))

    def note_failure(self, ident: int, error: str, *, now: Millis) -> Awaitable[None]:
        """A webhook could not be recorded this time either."""
        return self._write(lambda db: unrecorded.note_failure(db, ident, error, now=now))

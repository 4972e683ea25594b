"""The ledger's operations for the recorder: it records what the intake holds, and keeps what can't be recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from sqlite_utils import Database

from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.ledger.intake.intake import Place
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.place import Progress, note_progress, place, progress
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
        """Up to where which intake is in the ledger; None if nothing was recorded from one."""
        return self._read(place)

    def progress(self) -> Progress | None:
        """How far which intake was read; None if nothing was recorded from one."""
        return self._read(progress)

    def note_progress(self, found: Progress) -> Awaitable[None]:
        """An intake was read so far."""
        return self._write(lambda db: note_progress(db, found))

    def record(
        self, sightings: Sequence[Sighting], failed: Sequence[FailedWebhook], *, through: Progress, now: Millis
    ) -> Awaitable[BatchResult]:
        """Record what the intake has, in one transaction with how far it was read. `failed` can't be recorded: it is
        kept.
        """

        def write(db: Database) -> None:
            unrecorded.keep(db, failed, now=now)
            note_progress(db, through)

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

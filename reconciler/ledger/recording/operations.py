"""The ledger's operations for the recorder: it records what the intake holds, and keeps what can't be recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.ledger.intake.intake import Opening, Place
from reconciler.ledger.recording import trying, unrecorded
from reconciler.ledger.recording.place import Progress, note_progress, place, progress, used_again
from reconciler.ledger.recording.record import BatchResult
from reconciler.ledger.recording.unrecorded import DueWebhook, FailedWebhook
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ledger_reader import LedgerReader


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

    def used_again(self, intake_id: str, openings: Sequence[Opening]) -> int | None:
        """The position after which an intake uses positions again that `progress` counts; None if it does not."""
        return self._read(lambda db: used_again(db, intake_id, openings))

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

    def note_start(self) -> Awaitable[bool]:
        """The recorder starts: all webhooks that could not be recorded are tried again, but for those that ended the
        worker. Returns whether the process before this one did not stop in order.
        """

        def write(db: Database) -> bool:
            unrecorded.make_due(db)
            return trying.note_start(db)

        return self._write(write)

    def note_try(self, what: str) -> Awaitable[int]:
        """The recorder is about to read this. Returns after how many such notes about it the process ended."""
        return self._write(lambda db: trying.note_try(db, what))

    def untried(self, *, after: int, limit: int) -> list[DueWebhook]:
        """The next webhooks that came with a copy and were not tried yet, in the order of arrival."""
        return self._read(lambda db: unrecorded.untried(db, after=after, limit=limit))

    def record_again(self, ids: Sequence[int], sightings: Sequence[Sighting]) -> Awaitable[BatchResult]:
        """Record webhooks that could not be recorded before, or came with a copy."""
        return self._writer.record(sightings, also=lambda db: unrecorded.drop(db, ids))

    def note_failure(self, ident: int, error: str, *, now: Millis) -> Awaitable[None]:
        """A webhook could not be recorded this time either."""
        return self._write(lambda db: unrecorded.note_failure(db, ident, error, now=now))

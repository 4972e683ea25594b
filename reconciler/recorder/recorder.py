"""Records what the intake holds, in order and in batches.

How far it came is noted in the transaction that records, so that a kill anywhere repeats nothing and skips nothing.
A webhook that can't be recorded is kept in the ledger with its error, and stops no other. If damage to the ledger is
the reason, it stays in the intake instead, and the next start tries it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import structlog

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.ledger.errors import ChangeFailed, LedgerDamaged, LedgerUnavailable
from reconciler.ledger.intake.intake import Reader, StoredWebhook
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.place import Progress
from reconciler.ledger.recording.record import BatchResult
from reconciler.ledger.recording.unrecorded import ENDED, DueWebhook, FailedWebhook
from reconciler.recorder.preparing import Prepared, Preparer
from reconciler.recorder.reading import WebhookReader

BATCH = 256
"""At most this many webhooks are recorded at once: the event loop waits for it."""
LEDGER_PAUSE_S = 0.2
MOST_HELD = 1000
"""At most this many ranges of webhooks are held, since all of them are noted with each commit."""
CAREFUL = 2 * BATCH
"""After a process that did not stop in order, this many webhooks are recorded one by one: it had read no more."""
TRIES = 5
"""A webhook that ends the worker so often is kept."""
RETRIED = 100
"""This many webhooks that could not be recorded are retried at once."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Recorder:
    """Records the intake that `open_intake` opens. `run` never ends; if it raises, it may be run again."""

    def __init__(self, open_intake: Callable[[], Reader], *, ledger: Ledger, reader: WebhookReader) -> None:
        self._open_intake = open_intake
        self._ledger = ledger
        self._recording = ledger.recording
        self._preparer = Preparer(reader)
        self._woken = asyncio.Event()
        self._empty = asyncio.Event()
        self._retries = True
        """Whether webhooks may be due that could not be recorded before. A start tries them all again."""
        self._has_started = False
        self._careful = 0
        """How many webhooks are still to be recorded one by one: one of them may have ended the process before."""
        self._progress = Progress("")
        """How far the intake was read, as the ledger has it."""
        self._shared_ids: set[str] = set()
        """The sources that sent different bodies with one id. Each is logged once."""

    def wake(self) -> None:
        """Webhooks were appended."""
        self._woken.set()

    def look_again(self) -> None:
        """The ledger was changed by another process, which may want webhooks tried again."""
        self._retries = True
        self._woken.set()

    async def run(self) -> None:
        """Record what is appended, for ever. Raises IntakeUnavailable."""
        while True:
            # In a thread: the server may be far away, or not answer.
            with contextlib.closing(await asyncio.to_thread(self._open_intake)) as intake:
                await self._record_all(intake)

    async def drain(self, timeout_s: float) -> None:
        """Wait until all that was appended is recorded, but not longer than this."""
        self._empty.clear()
        self._woken.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()

    async def _record_all(self, intake: Reader) -> None:
        """Record until another file is at the intake's path, and this one was read to its end."""
        self._progress = await self._first_progress(intake)
        await self._record_untried()
        if self._careful:
            await self._try_again()
        after = await self._record_carefully(intake, self._progress.place.position)
        batch = self._prepare(intake, after)
        while True:
            if self._retries:
                await self._try_again()
            if not batch:
                if not self._woken.is_set():  # else something was appended after the intake was read
                    self._empty.set()
                await self._notified(intake.look_s)
                replaced = intake.is_replaced()  # before it is read: nothing is appended to it after that
                batch = self._prepare(intake, after)
                if replaced and not batch:
                    log.warning("the intake was replaced: going on with the file that is there now")
                    return
                continue
            recording = asyncio.ensure_future(self._record(batch, after))
            after = batch[-1].position
            try:
                await asyncio.sleep(0)  # the statements run now, so that the next batch is read during their commit
                batch = self._prepare(intake, after)
            except asyncio.CancelledError:
                recording.cancel()
                raise
            except Exception:  # whoever runs this again begins where it has ended
                await recording
                raise
            await recording

    async def _first_progress(self, intake: Reader) -> Progress:
        """Where to begin. Another intake than the one that was recorded before is read from its beginning."""
        if not self._has_started:
            with contextlib.suppress(LedgerDamaged):
                if await self._when_writable(self._recording.note_start):
                    self._careful = CAREFUL
            self._has_started = True
        noted = self._recording.progress()
        if noted is None or noted.intake_id != intake.intake_id:
            if noted is not None and noted.held:
                log.error("the intake was replaced, and the one before has webhooks that are not recorded")
            elif noted is not None:
                log.warning("another intake than before: webhooks that still waited in that one are not here")
            return Progress(intake.intake_id)
        last, reused = intake.last_position(), self._recording.used_again(intake.intake_id, intake.openings())
        known = last if reused is None else min(reused, last)
        if noted.through > known:
            log.warning(
                "the intake has lost its end, or is an older copy: what came since is read",
                recorded=noted.through, last=known,
            )  # fmt: skip
            noted = noted.cut(known)
            await self._when_writable(lambda: self._recording.note_progress(noted))
        intake.openings_seen()
        return noted

    async def _record_untried(self) -> None:
        """Record what waited when the ledger was copied. It came before whatever the intake has."""
        after = 0
        try:
            while some := self._recording.untried(after=after, limit=1 if self._careful else RETRIED):
                ended = await self._has_ended_worker(f"copied {some[0].id}")
                await self._record_kept(some, ended=ended)
                after = some[-1].id
        except (ChangeFailed, LedgerDamaged) as error:  # what the intake has must not wait for them
            log.error("webhooks of a copy not recorded", error=str(error))

    async def _record_kept(self, some: Sequence[DueWebhook], *, ended: bool) -> None:
        """Record webhooks that are kept in the ledger: together, or else each alone."""
        webhooks = [] if ended else [StoredWebhook(one.id, one.webhook) for one in some]
        prepared = list(self._preparer.prepared(webhooks))
        error = ENDED if ended else "".join(one.error for one in prepared[:1])
        sightings = [one.sighting for one in prepared if one.sighting is not None]
        if len(sightings) == len(some):
            try:
                await self._when_writable(lambda: self._recording.record_again([one.id for one in some], sightings))
            except (ChangeFailed, LedgerDamaged) as failure:
                error = str(failure)
            else:
                log.info("webhooks recorded that were kept in the ledger", ids=[one.id for one in some])
                return
        if len(some) == 1:
            await self._when_writable(lambda: self._recording.note_failure(some[0].id, error, now=times.now()))
            return
        for one in some:
            await self._record_kept([one], ended=False)

    async def _record_carefully(self, intake: Reader, after: int) -> int:
        """Record the next webhooks one by one, to find one that ends the worker. Returns the last one's position."""
        while self._careful and (some := _read(intake, after=after, limit=1)):
            [one] = some
            if not self._progress.has(one.position):
                if await self._has_ended_worker(f"{intake.intake_id} {one.position}"):
                    [prepared] = [Prepared(one.position, one.webhook, None, ENDED)]
                else:
                    [prepared] = self._preparer.prepared(some)
                await self._record([prepared], after)
            after = one.position
        self._careful = 0
        return after

    async def _has_ended_worker(self, what: str) -> bool:
        """Whether reading this webhook has ended the worker too often. That it is read now is noted before."""
        if not self._careful:
            return False
        self._careful -= 1
        try:
            return await self._when_writable(lambda: self._recording.note_try(what)) >= TRIES
        except (ChangeFailed, LedgerDamaged):
            return False

    async def _notified(self, at_most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._woken.wait()

    def _prepare(self, intake: Reader, after: int) -> list[Prepared]:
        """Read the next webhooks into sightings, without those that are recorded: they lie behind held ones."""
        self._woken.clear()
        while some := _read(intake, after=after, limit=BATCH):
            if left := [one for one in some if not self._progress.has(one.position)]:
                return list(self._preparer.prepared(left))
            after = some[-1].position
        return []

    async def _record(self, batch: Sequence[Prepared], after: int) -> None:
        """Record the webhooks that follow a position. Raises LedgerDamaged if too many have to be held."""
        try:
            await self._record_batch(batch, after)
        except (ChangeFailed, LedgerDamaged):
            for one in batch:  # each alone: one must not take the others with it
                await self._record_alone(one, after)
                after = one.position

    async def _record_alone(self, one: Prepared, after: int) -> None:
        try:
            await self._record_batch([one], after)
        except ChangeFailed as error:
            failed = msgspec.structs.replace(one, sighting=None, error=str(error))
            try:
                await self._record_batch([failed], after)
            except LedgerDamaged as damage:
                await self._hold(one, after, damage)
        except LedgerDamaged as damage:
            await self._hold(one, after, damage)

    async def _hold(self, one: Prepared, after: int, damage: LedgerDamaged) -> None:
        """Leave a webhook in the intake, which is sound: the ledger may be replaced by a backup."""
        found = self._progress.hold(after, one.position)
        if len(found.held) > MOST_HELD:
            raise damage
        await self._when_writable(lambda: self._recording.note_progress(found))
        self._progress = found
        log.error("webhook not recorded: it waits in the intake", hook=one.webhook.hook, error=str(damage))

    async def _record_batch(self, batch: Sequence[Prepared], after: int) -> None:
        """Record some webhooks, as soon as the ledger can be written. Raises ChangeFailed and LedgerDamaged."""
        sightings = [one.sighting for one in batch if one.sighting is not None]
        failed = [FailedWebhook(one.webhook, one.error) for one in batch if one.sighting is None]
        through = self._progress.recorded(after, batch[-1].position)
        while True:
            try:
                result = await self._recording.record(sightings, failed, through=through, now=times.now())
            except LedgerDamaged:
                raise
            except LedgerUnavailable:  # logged by the writer
                await asyncio.sleep(LEDGER_PAUSE_S)
            else:
                break
        self._progress = through
        for one in failed:
            log.error("webhook not recorded: it is kept, see `intake list`", hook=one.webhook.hook, error=one.error)
        self._log(sightings, result)

    async def _try_again(self) -> None:
        """Record what could not be recorded before and is due."""
        self._retries = False
        try:
            due = self._recording.due(limit=RETRIED)
            for one in due:
                if await self._has_ended_worker(f"kept {one.id}"):
                    await self._recording.note_failure(one.id, ENDED, now=times.now())
                    continue
                [prepared] = self._preparer.prepared([StoredWebhook(0, one.webhook)])
                error = prepared.error
                if prepared.sighting is not None:
                    try:
                        await self._recording.record_again([one.id], [prepared.sighting])
                    except (ChangeFailed, LedgerDamaged) as failure:
                        error = str(failure)
                    else:
                        log.info("webhook recorded that could not be recorded before", id=one.id)
                        continue
                await self._recording.note_failure(one.id, error, now=times.now())
            self._retries = bool(due)
        except (ChangeFailed, LedgerDamaged) as error:  # they stay due until the next start
            log.error("webhooks not tried again", error=str(error))
        except LedgerUnavailable as error:
            log.debug("webhooks not tried again yet", error=str(error))
            self._retries = True

    async def _when_writable(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do this as soon as the ledger can be written. Raises LedgerDamaged."""
        while True:
            try:
                return await do()
            except LedgerDamaged:
                raise
            except LedgerUnavailable:
                await asyncio.sleep(LEDGER_PAUSE_S)

    def _log(self, sightings: Sequence[Sighting], result: BatchResult) -> None:
        for sighting, recorded in zip(sightings, result.recorded, strict=True):
            if recorded.shares_id and sighting.source not in self._shared_ids:
                self._shared_ids.add(sighting.source)
                log.warning(
                    "different webhooks share one Idempotency-Key: all are recorded; check whether a proxy sets it",
                    source=sighting.source,
                    delivery=sighting.source_id,
                )
            log.debug(
                "webhook recorded", event_id=recorded.event_id, new=recorded.new_event, delivery=sighting.source_id
            )


def _read(intake: Reader, *, after: int, limit: int) -> Sequence[StoredWebhook]:
    """The next webhooks. They are about to be recorded, so no opening before them may look like an older copy's."""
    some = intake.read(after=after, limit=limit)
    if some and intake.openings():
        intake.openings_seen()
    return some

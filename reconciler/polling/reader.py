"""Reading one window of one source of one project into the ledger, slice by slice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.ledger.coverage import intervals, runs, unreadable
from reconciler.ledger.coverage.intervals import Interval
from reconciler.ledger.coverage.runs import Run
from reconciler.ledger.coverage.unreadable import Unreadable
from reconciler.ledger.errors import ChangeFailed, LedgerError
from reconciler.ledger.intake.record import rehearse
from reconciler.ledger.intake.writer import BATCH_SIGHTINGS, Writer
from reconciler.polling.counts import Tally
from reconciler.polling.threads import in_thread
from reconciler.sources.client import Client
from reconciler.sources.errors import Refused, SourceError, Stopped, SwitchedOff, TokenRefused
from reconciler.sources.source import Project, Slice, Source
from reconciler.sources.table import features_of, switched_off

T = TypeVar("T")

log = structlog.get_logger(__name__)

Progress = Callable[[Slice, Tally], None]
"""Called with each slice that was taken, and with what its window came to until then."""


class Reader:
    """Records what sources tell. `details`: whether GitLab is asked for what rebuilt bodies lack; it costs about a
    request for each event that no webhook told. At most `concurrency` such questions are asked at a time.
    """

    def __init__(self, *, client: Client, writer: Writer, concurrency: int, details: bool = True) -> None:
        self._client = client
        self._writer = writer
        self._concurrency = concurrency
        self._details = details

    async def read(
        self,
        project: Project,
        source: Source,
        window: Interval,
        *,
        purpose: str,
        progress: Progress | None = None,
        dry_run: bool = False,
    ) -> Tally:
        """Read a window into the ledger; coverage grows with each slice that is recorded.

        Raises SourceError or LedgerError; what was covered until then stays covered. With `dry_run`
        GitLab is asked and nothing is written.
        """
        tally = Tally()
        started_at = times.now()
        slices = source.read(project, window)
        try:
            while (part := await self._ask(lambda: next(slices, None), tally)) is not None:
                tally.seen += len(part.sightings)
                tally.unreadable += len(part.unreadable)
                if dry_run:
                    await self._each_that_can(part.sightings, self._would_found, tally)
                else:
                    await self._take(project, source, part, tally)
                if progress is not None:
                    progress(part, tally)
        except Refused as error:
            reason = await self._reason(project, source, error)
            tally.error = None if isinstance(reason, SwitchedOff) else str(reason)
            raise reason from error
        except (SourceError, LedgerError) as error:
            tally.error = str(error)
            raise
        finally:
            tally.known = max(0, tally.seen - tally.new)
            if not dry_run:
                await self._note(project, source, window, purpose, started_at, tally)
        if purpose == "backfill" or tally.new:
            where = project.path or project.id
            log.info("a window was read", project=where, source=source.name, purpose=purpose, new=tally.new)
        return tally

    async def _reason(self, project: Project, source: Source, refused: Refused) -> Refused:
        """Why GitLab refuses it: that it is switched off in the project looks like any other refusal."""
        if isinstance(refused, TokenRefused) or not features_of(source.name):
            return refused
        off = switched_off(source.name, project.details)
        if not off:  # but GitLab was asked an hour ago, it may be
            try:
                off = switched_off(source.name, (await in_thread(lambda: self._client.project(project.id))).details)
            except Stopped:
                raise
            except SourceError:
                return refused
        if not off:
            return refused
        words = " and ".join(f"{feature}_access_level" for feature in off)
        return SwitchedOff(
            refused.status,
            f"{project.path or project.id}: switched off in the project ({words}): there is nothing to read; it is "
            "asked for again every 15 minutes",
        )

    async def _take(self, project: Project, source: Source, part: Slice, tally: Tally) -> None:
        """Record a slice, then (not before all of it is on disk) its coverage."""

        async def record(batch: Sequence[Sighting]) -> int:
            if self._details and source.completes:
                batch = await self._completed(project, source, batch, tally)
            return (await self._writer.record(batch)).founded

        failed = list(part.unreadable)
        for start in range(0, len(part.sightings), BATCH_SIGHTINGS):
            failed += await self._each_that_can(part.sightings[start : start + BATCH_SIGHTINGS], record, tally)
        for bad in failed:
            about = {"project": project.path or project.id, "source": source.name, "record": bad.record_id}
            log.warning("a record can't be understood: it is kept as it came", error=bad.error, **about)
        understood = [*part.understood, *(sighting.source_id for sighting in part.sightings)]
        if part.covered or failed or understood:
            await self._writer.run(lambda db: _settle(db, project.id, source.name, part.covered, failed, understood))

    async def _each_that_can(
        self, batch: Sequence[Sighting], do: Callable[[Sequence[Sighting]], Awaitable[int]], tally: Tally
    ) -> list[Unreadable]:
        """Do something with a batch, which returns how many events are new; where a mistake of ours, or a value that
        nobody foresaw, is in the way, with each sighting alone. Returns those that it can't be done with.
        """
        if not batch:
            return []
        try:
            tally.new += await do(batch)
        except ChangeFailed as error:  # the writer has logged it
            if len(batch) == 1:
                tally.seen -= 1
                tally.unreadable += 1
                return [
                    Unreadable(batch[0].source_id, f"can't be recorded: {error}", batch[0].raw or batch[0].payload)
                ]
        else:
            return []
        return [bad for one in batch for bad in await self._each_that_can([one], do, tally)]

    async def _completed(
        self, project: Project, source: Source, batch: Sequence[Sighting], tally: Tally
    ) -> list[Sighting]:
        """The batch, with the bodies of what would be a new event made as whole as GitLab can make them."""
        fresh, _ = await self._rehearse(batch)
        if not fresh:
            return list(batch)
        shares = [fresh[n :: self._concurrency] for n in range(min(self._concurrency, len(fresh)))]
        whole = await asyncio.gather(
            *(
                self._ask(partial(source.complete, project, [batch[index] for index in share]), tally)
                for share in shares
            )
        )
        completed = list(batch)
        for share, sightings in zip(shares, whole, strict=True):
            for index, sighting in zip(share, sightings, strict=True):
                completed[index] = sighting
        return completed

    async def _rehearse(self, batch: Sequence[Sighting]) -> tuple[list[int], int]:
        """Which of these would be a new event (their places in the batch), and how many events would be new."""
        if not batch:
            return [], 0
        outcome = await self._writer.run(partial(rehearse, sightings=batch, now=times.now()))
        return [index for index, one in enumerate(outcome.recorded) if one.new_event], outcome.founded

    async def _would_found(self, batch: Sequence[Sighting]) -> int:
        return (await self._rehearse(batch))[1]

    async def _ask(self, call: Callable[[], T], tally: Tally) -> T:
        """Let a thread ask GitLab, and count what it asked."""

        def counted() -> T:
            try:
                return call()
            finally:
                tally.requests += self._client.asked()

        return await in_thread(counted)

    async def _note(
        self, project: Project, source: Source, window: Interval, purpose: str, started_at: Millis, tally: Tally
    ) -> None:
        run = Run(
            project_id=project.id,
            source=source.name,
            purpose=purpose,
            window_from=window.start,
            window_through=window.end,
            started_at=started_at,
            finished_at=times.now(),
            seen=tally.seen,
            known=tally.known,
            new=tally.new,
            requests=tally.requests,
            error=tally.error,
        )
        try:
            await self._writer.run(lambda db: runs.note_run(db, run))
        except LedgerError:
            log.warning("a run can't be noted in the ledger", project=project.id)


def _settle(
    db: Database,
    project_id: int,
    source: str,
    covered: Interval | None,
    failed: Sequence[Unreadable],
    understood: Sequence[str],
) -> None:
    """Note what could not be understood, and what was covered all the same."""
    if understood:
        unreadable.clear(db, project_id, source, understood)
    if failed:
        unreadable.note(db, project_id, source, failed, now=times.now())
    if covered is not None:
        intervals.cover(db, project_id, source, covered)

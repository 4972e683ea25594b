"""Reads one window of one source of one project into the ledger, slice by slice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.events.unreadable import Unreadable
from reconciler.ledger.coverage.runs import Run
from reconciler.ledger.errors import ChangeFailed, LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import BATCH_SIGHTINGS
from reconciler.polling.counts import Counts
from reconciler.polling.threads import in_thread
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, SourceError, Stopped, SwitchedOff, TokenRefused
from reconciler.sources.source import Project, Slice, Source
from reconciler.sources.table import features_of, switched_off

T = TypeVar("T")

log = structlog.get_logger(__name__)

Progress = Callable[[Slice, Counts], None]
"""Called with each slice that was read, and with the counts of its window so far."""


class WindowReader:
    """Records what sources report.

    `details`: whether GitLab is asked for what rebuilt bodies lack. It costs about one request for each event that no
    webhook reported. At most `concurrency` such requests are made at a time.
    """

    def __init__(self, *, client: Client, ledger: Ledger, concurrency: int, details: bool = True) -> None:
        self._client = client
        self._ledger = ledger
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
    ) -> Counts:
        """Read a window into the ledger. Coverage grows with each slice that is recorded.

        With `dry_run` GitLab is read and nothing is written. Raises SourceError or LedgerError; what was covered
        until then stays covered.
        """
        counts = Counts()
        started_at = times.now()
        slices = source.read(project, window)
        try:
            while (part := await self._ask(lambda: next(slices, None), counts)) is not None:
                counts.seen += len(part.sightings)
                counts.unreadable += len(part.unreadable)
                if dry_run:
                    await self._each_that_can(part.sightings, self._would_be_new, counts)
                else:
                    await self._take(project, source, part, counts)
                if progress is not None:
                    progress(part, counts)
        except GitLabRefused as error:
            reason = await self._reason(project, source, error)
            counts.error = None if isinstance(reason, SwitchedOff) else str(reason)
            raise reason from error
        except (SourceError, LedgerError) as error:
            counts.error = str(error)
            raise
        finally:
            counts.known = max(0, counts.seen - counts.new)
            if not dry_run:
                await self._note(project, source, window, purpose, started_at, counts)
        if purpose == "backfill" or counts.new:
            where = project.path or project.id
            log.info("a window was read", project=where, source=source.name, purpose=purpose, new=counts.new)
        return counts

    async def _reason(self, project: Project, source: Source, refused: GitLabRefused) -> GitLabRefused:
        """Why GitLab refuses it. That it is switched off in the project looks like any other refusal."""
        if isinstance(refused, TokenRefused) or not features_of(source.name):
            return refused
        off = switched_off(source.name, project.details)
        if not off:  # but the details may be an hour old
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
            "checked again every 15 minutes",
        )

    async def _take(self, project: Project, source: Source, part: Slice, counts: Counts) -> None:
        """Record a slice, and, once all of it is on disk, its coverage."""

        async def record(batch: Sequence[Sighting]) -> int:
            if self._details and source.completes:
                batch = await self._completed(project, source, batch, counts)
            return (await self._ledger.record(batch)).new_events

        failed = list(part.unreadable)
        for start in range(0, len(part.sightings), BATCH_SIGHTINGS):
            failed += await self._each_that_can(part.sightings[start : start + BATCH_SIGHTINGS], record, counts)
        for bad in failed:
            about = {"project": project.path or project.id, "source": source.name, "record": bad.record_id}
            log.warning("a record can't be understood: it is kept unchanged", error=bad.error, **about)
        understood = [*part.understood, *(sighting.source_id for sighting in part.sightings)]
        if part.covered or failed or understood:
            await self._ledger.coverage.note_slice(
                project.id,
                source.name,
                covered=part.covered,
                unreadable_records=failed,
                understood=understood,
                now=times.now(),
            )

    async def _each_that_can(
        self, batch: Sequence[Sighting], do: Callable[[Sequence[Sighting]], Awaitable[int]], counts: Counts
    ) -> list[Unreadable]:
        """Apply `do` to a batch; it returns how many events are new. If a bug, or an unexpected value, makes it fail,
        apply it to each sighting alone. Returns the sightings for which it fails.
        """
        if not batch:
            return []
        try:
            counts.new += await do(batch)
        except ChangeFailed as error:  # the writer has logged it
            if len(batch) == 1:
                counts.seen -= 1
                counts.unreadable += 1
                return [
                    Unreadable(batch[0].source_id, f"can't be recorded: {error}", batch[0].raw or batch[0].payload)
                ]
        else:
            return []
        return [bad for one in batch for bad in await self._each_that_can([one], do, counts)]

    async def _completed(
        self, project: Project, source: Source, batch: Sequence[Sighting], counts: Counts
    ) -> list[Sighting]:
        """The batch, with the bodies of new events completed as far as GitLab's API allows."""
        fresh, _ = await self._preview(batch)
        if not fresh:
            return list(batch)
        shares = [fresh[n :: self._concurrency] for n in range(min(self._concurrency, len(fresh)))]
        whole = await asyncio.gather(
            *(
                self._ask(partial(source.complete, project, [batch[index] for index in share]), counts)
                for share in shares
            )
        )
        completed = list(batch)
        for share, sightings in zip(shares, whole, strict=True):
            for index, sighting in zip(share, sightings, strict=True):
                completed[index] = sighting
        return completed

    async def _preview(self, batch: Sequence[Sighting]) -> tuple[list[int], int]:
        """Which of these would be a new event (their indexes in the batch), and how many events would be new."""
        if not batch:
            return [], 0
        result = await self._ledger.preview(batch, times.now())
        return [index for index, one in enumerate(result.recorded) if one.new_event], result.new_events

    async def _would_be_new(self, batch: Sequence[Sighting]) -> int:
        return (await self._preview(batch))[1]

    async def _ask(self, call: Callable[[], T], counts: Counts) -> T:
        """Let a thread ask GitLab, and count its requests."""

        def counted() -> T:
            try:
                return call()
            finally:
                counts.requests += self._client.asked()

        return await in_thread(counted)

    async def _note(
        self, project: Project, source: Source, window: Interval, purpose: str, started_at: Millis, counts: Counts
    ) -> None:
        run = Run(
            project_id=project.id,
            source=source.name,
            purpose=purpose,
            window_from=window.start,
            window_through=window.end,
            started_at=started_at,
            finished_at=times.now(),
            seen=counts.seen,
            known=counts.known,
            new=counts.new,
            requests=counts.requests,
            error=counts.error,
        )
        try:
            await self._ledger.coverage.note_run(run)
        except LedgerError:
            log.warning("a run can't be noted in the ledger", project=project.id)

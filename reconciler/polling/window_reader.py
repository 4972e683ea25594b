"""Reads one window of one source of one project into the ledger, slice by slice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass
class _Building:
    """Where the records of a slice are from, and those of which no payload could be built, by their names."""

    project: Project
    source: Source
    counts: Counts
    failed: dict[str, Unreadable] = field(default_factory=dict)


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
                    await self._preview(project, source, part, counts)
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

        building = _Building(project, source, counts)

        async def record(batch: Sequence[Sighting]) -> int:
            if source.rebuilds_lazily:
                batch = await self._built(building, batch)
            return (await self._ledger.record(batch)).new_events if batch else 0

        failed = list(part.unreadable)
        for start in range(0, len(part.sightings), BATCH_SIGHTINGS):
            failed += await self._each_that_can(part.sightings[start : start + BATCH_SIGHTINGS], record, counts)
        counts.unreadable += len(building.failed)
        failed += building.failed.values()
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

    async def _preview(self, project: Project, source: Source, part: Slice, counts: Counts) -> None:
        """Count what recording a slice would do."""

        async def would_be_new(batch: Sequence[Sighting]) -> int:
            return (await self._ledger.preview(batch, times.now())).new_events

        await self._each_that_can(part.sightings, would_be_new, counts)
        if source.rebuilds_lazily:
            building = _Building(project, source, counts)
            await self._build(building, part.sightings, details=False)
            counts.unreadable += len(building.failed)

    async def _built(self, building: _Building, batch: Sequence[Sighting]) -> list[Sighting]:
        """Build a batch's webhook payloads, with details for new events if they are wanted. Returns what is left to
        record.

        Each is built once and matched once: a key that the ledger does not have is that of a new event, and the
        others are recorded unless that makes a new event. Only those are built again, with details.
        """
        if not self._details:
            return await self._build(building, batch, details=False)
        reported = self._ledger.reported_keys({one.identity.key for one in batch})
        maybe_known = [index for index, one in enumerate(batch) if one.identity.key in reported]
        new = set(range(len(batch))).difference(maybe_known)
        if maybe_known:
            plain = await self._build(building, [batch[index] for index in maybe_known], details=False)
            new.update(maybe_known[index] for index in await self._ledger.record_known(plain))
        return await self._build(building, [batch[index] for index in sorted(new)], details=True)

    async def _build(self, building: _Building, batch: Sequence[Sighting], *, details: bool) -> list[Sighting]:
        """Build the webhook payloads of a batch: concurrently, if GitLab is asked for details."""
        step = self._concurrency if details else 1
        shares = [share for n in range(step) if (share := batch[n::step])]
        calls = (partial(building.source.build, building.project, share, details=details) for share in shares)
        made = await asyncio.gather(*(self._ask(call, building.counts) for call in calls))
        built = list(batch)
        for n, part in enumerate(made):
            built[n::step] = part.sightings
            building.failed.update((bad.record_id, bad) for bad in part.unreadable)
        return built

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

"""The ledger's operations on coverage: what was read of each project's sources, and what could not be."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from reconciler.events.intervals import Interval
from reconciler.events.times import Millis
from reconciler.events.unreadable import Unreadable
from reconciler.ledger.coverage import backfills, gaps, hooks, intervals, runs, source_state, unreadable, watched
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.coverage.hooks import HookState
from reconciler.ledger.coverage.runs import Run
from reconciler.ledger.coverage.source_state import SourceState
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.queue import known
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ledger_reader import LedgerReader

MEMBERS_A_STEP = 1000
"""Short transactions: others write between them."""


class CoverageOperations:
    """Sources of projects: which of them are read, how far, and what goes wrong.

    A group is a project whose id is negative. Writes raise LedgerUnavailable if the ledger can't be written; they are
    on disk when they return. Reads raise LedgerError.
    """

    def __init__(self, writer: Writer, read: LedgerReader) -> None:
        self._write = writer.run
        self._read = read

    def covered(self, project_id: int, source: str) -> list[Interval]:
        """The intervals that were read completely, oldest first; no two touch."""
        return self._read(lambda db: intervals.covered(db, project_id, source))

    def gaps(self, *, keeps: Mapping[str, Millis], expected: Millis, now: Millis, project_id: int) -> list[Gap]:
        """The gaps of one project, by source. See `ledger.coverage.gaps`."""
        return self._read(lambda db: gaps.gaps(db, keeps=keeps, expected=expected, now=now, project_id=project_id))

    def watched_since(self, project_id: int, source: str) -> Millis | None:
        """From when on a source is to be complete; None if it is not watched."""
        return self._read(lambda db: source_state.watched_since(db, project_id, source))

    def watched_sources(self, project_id: int) -> set[str]:
        """The sources of a project that are watched now."""
        return self._read(lambda db: source_state.watched_sources(db, project_id))

    def source_state(self, project_id: int, source: str) -> SourceState | None:
        """The state of one source; None before its first poll."""
        return self._read(lambda db: source_state.source_state(db, project_id, source))

    def source_troubles(self) -> dict[int, dict[str, str]]:
        """What keeps sources from being read: troubles by source, by project."""
        return self._read(source_state.source_troubles)

    def project_ids(self) -> dict[str, int]:
        """The ids of all projects whose path is known, by path."""
        return self._read(runs.project_paths)

    def reported_since(self, moment: Millis) -> set[int]:
        """The projects from which a webhook has reported something since a moment."""
        return self._read(lambda db: runs.reported_since(db, moment))

    def watch_sources(
        self, project_id: int, sources: Sequence[str], *, since: Millis, until: Millis
    ) -> Awaitable[None]:
        """Watch these sources of a project, new ones from `since` on; all others are watched until `until` only."""

        def write(db: Database) -> None:
            source_state.unwatch(db, project_id, keep=sources, until=until)
            for source in sources:
                source_state.watch(db, project_id, source, since)

        return self._write(write)

    def note_slice(
        self,
        project_id: int,
        source: str,
        *,
        covered: Interval | None,
        unreadable_records: Sequence[Unreadable],
        understood: Sequence[str],
        now: Millis,
    ) -> Awaitable[None]:
        """A slice of a source was read, and its sightings are recorded.

        `covered` is the interval that is complete now. `understood` are the ids of the records that could be
        understood, perhaps for the first time.
        """

        def write(db: Database) -> None:
            if understood:
                unreadable.clear(db, project_id, source, understood)
            if unreadable_records:
                unreadable.note(db, project_id, source, unreadable_records, now=now)
            if covered is not None:
                intervals.cover(db, project_id, source, covered)

        return self._write(write)

    def note_read(self, project_id: int, source: str, now: Millis) -> Awaitable[None]:
        """A source was read without trouble."""
        return self._write(lambda db: source_state.note_read(db, project_id, source, now))

    def note_trouble(self, project_id: int, source: str, trouble: str, error: str, now: Millis) -> Awaitable[None]:
        """A source can't be read. `trouble` is a word for it, `error` a sentence."""
        return self._write(lambda db: source_state.note_trouble(db, project_id, source, trouble, error, now))

    def note_poll(self, project_id: int, error: str | None, now: Millis) -> Awaitable[None]:
        """A poll of a project has ended, with an error or without."""
        return self._write(lambda db: runs.note_poll(db, project_id, error, now))

    def note_run(self, run: Run) -> Awaitable[None]:
        """A window of a source was read, or could not be."""
        return self._write(lambda db: runs.note_run(db, run))

    def note_backfill(self, ident: str, record: dict[str, Any]) -> Awaitable[None]:
        """A backfill that the service was asked for has begun or ended."""
        return self._write(lambda db: backfills.note(db, ident, record))

    def interrupt_backfills(self, now: Millis) -> Awaitable[None]:
        """No backfill that was noted as running is running any more."""
        return self._write(lambda db: backfills.interrupt(db, now=now))

    def note_path(self, project_id: int, path: str, *, former: str | None = None) -> Awaitable[None]:
        """The path of a project, and one that it had before."""

        def write(db: Database) -> None:
            runs.note_path(db, project_id, path)
            if former is not None:
                known.note_former(db, project_id, former)

        return self._write(write)

    def note_hooks(
        self, project_id: int, states: Sequence[HookState], *, disabled: Iterable[int], now: Millis
    ) -> Awaitable[None]:
        """The webhooks of a project as GitLab shows them. `disabled` are the ids of those that it has disabled."""
        return self._write(lambda db: hooks.note_hooks(db, project_id, states, disabled=disabled, now=now))


class WatchlistOperations:
    """What the config names (GitLab, groups, projects, the projects below groups), and whether it can be read."""

    def __init__(self, writer: Writer) -> None:
        self._write = writer.run

    def set_names(self, names: Sequence[Name], now: Millis) -> Awaitable[dict[str, dict[int, str | None]]]:
        """Watch these names and no others.

        Returns the projects that were below each group when it was last read: their paths by id, by the group's name.
        """

        def write(db: Database) -> dict[str, dict[int, str | None]]:
            watched.sync(db, names, now)
            return {one.name: watched.members(db, one.name) for one in names if one.kind == "group"}

        return self._write(write)

    async def set_members(self, group: str, paths: Mapping[int, str | None], now: Millis) -> None:
        """These are all the projects below a group: their paths by id. It is written in short steps."""
        rows = list(paths.items())
        for start in range(0, len(rows), MEMBERS_A_STEP):
            await self._add_members(group, dict(rows[start : start + MEMBERS_A_STEP]), now)
        await self._write(lambda db: watched.keep_members(db, group, paths, now))

    def _add_members(self, group: str, paths: Mapping[int, str | None], now: Millis) -> Awaitable[None]:
        return self._write(lambda db: watched.add_members(db, group, paths, now))

    def note_found(self, name: Name, project_id: int) -> Awaitable[None]:
        """GitLab has said which project, or which group (its id negated), a name stands for."""
        return self._write(lambda db: watched.note_found(db, name, project_id))

    def note_read(self, name: Name, now: Millis, *, answered: bool) -> Awaitable[str | None]:
        """A name was read. `answered`: GitLab was asked for it, and answered.

        Returns since when it could not be read; None if it could.
        """
        return self._write(lambda db: watched.note_read(db, name, now, answered=answered))

    def note_trouble(
        self,
        name: Name,
        trouble: tuple[str, str],
        now: Millis,
        *,
        everything: tuple[Name, tuple[str, str]] | None,
        answered: bool,
    ) -> Awaitable[None]:
        """A name can't be read. A trouble is a word for it and a sentence.

        `everything` is GitLab's name and its trouble, if nothing can be read from that GitLab at all. `answered`:
        GitLab does answer other requests.
        """

        def write(db: Database) -> None:
            watched.note_trouble(db, name, *trouble, now, by_gitlab=everything is not None)
            if everything is not None:
                gitlab, why = everything
                watched.note_trouble(db, gitlab, *why, now)
            elif answered:
                watched.note_answer(db, now)

        return self._write(write)

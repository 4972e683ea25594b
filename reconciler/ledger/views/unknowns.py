"""What is not known: what the config names and could not be read, or has not been read yet.

status, gaps, check, dashboard, metrics and alerts all ask `unknowns`, and show the answer first. Anything else that
can be unknown is one more function in `CONTRIBUTORS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import msgspec

from reconciler.events import times
from reconciler.events.times import HOUR, MINUTE, Millis
from reconciler.events.troubles import NO_WEBHOOK, SWITCHED_OFF
from reconciler.ledger.coverage import downtime, runs, unreadable, watched
from reconciler.ledger.coverage.downtime import Life
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.coverage.watched import Name, Watched
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import UNREAD
from reconciler.ledger.storage.sql import Sql, filled_in
from reconciler.ledger.upkeep import failing_parts
from reconciler.ledger.upkeep.failing_parts import Part
from reconciler.ledger.views.backlog import backlog
from reconciler.ledger.views.receiving import FAILING, NOT_RUNNING, accepting, receiver_trouble

KINDS = ("service", "part", "intake", "config", "gitlab", "group", "project", "source", "record", "webhook")
"""What can be unknown, in the order in which it is shown.

`part`: a part of the service fails, or no receiver runs. `intake`: acknowledged webhooks are not recorded. `record`:
a record from GitLab could not be understood, and is kept unchanged. `webhook`: a project was never seen to have a
webhook of ours, so there is no log of it to read.
"""
NOT_READ_YET = "not read yet"
RECEIVER = "receiver"
SLOW = HOUR
"""A reading that has not ended after so long is reported as slow."""
LAG = MINUTE
"""Webhooks that wait longer to be recorded are reported."""
EXAMPLES = 3
"""At most so many projects are named."""


class Asked(msgspec.Struct, frozen=True):
    """What the config wants to be read: `names`, from the GitLab at `url`. A service that works as it should has read
    each of them since `late`.
    """

    url: str
    has_token: bool
    names: Sequence[Name]
    late: Millis


class Unknown(msgspec.Struct, frozen=True):
    """Something that is not known.

    `kind` is one of `KINDS`. `name` is its name in the config, if it has one, and `of` the name in the config that it
    belongs to: GitLab's, if it can't be read only because nothing can. `trouble` is a word; `why` says what is wrong
    and what to do. `pending`: nothing is wrong, it has only not been read yet. `count` is how many things this stands
    for. `own_since` is since when the trouble is its own, if that is later than `since`.
    """

    kind: str
    name: str
    of: Name
    trouble: str
    why: str
    since: str | None
    pending: bool = False
    count: int = 1
    own_since: str | None = None

    @property
    def text(self) -> str:
        """One sentence, with its name."""
        since = "" if self.since is None else f" since {self.since[:19].replace('T', ' ')}"
        return f"{self.kind} {self.name}: {self.trouble}{since}: {self.why}"


class Known(msgspec.Struct, frozen=True):
    """What is known: what is not, and the gaps in what is. `switched_off` has the sources of
    each project that are switched off there, which leaves no gap.
    """

    unknowns: list[Unknown]
    gaps: list[Gap]
    switched_off: dict[int, list[str]] = {}


def unknowns(db: Database, asked: Asked, *, now: Millis) -> list[Unknown]:
    """Everything that is not known, the most important first."""
    return [one for contributor in CONTRIBUTORS for one in contributor(db, asked, now)]


def _service(db: Database, asked: Asked, now: Millis) -> Iterator[Unknown]:
    """Whether a service runs, or at least its receiver."""
    life, name = downtime.life(db), "gitlab-reconciler"
    if life.runs(now):
        return
    if life.alive_at is None:
        why, since = "no service has run with this ledger yet: `gitlab-reconciler serve` starts one", None
    else:
        how = "it was stopped" if life.stopped else "it was killed, or can't write to the ledger: see its log"
        why, since = f"{how}; nothing is recorded, read or delivered: start it", times.iso(life.alive_at)
        accepted = accepting(db, now=now)
        if accepted is not None:
            name, why = "worker", f"{why}. Webhooks are accepted and wait in the intake" if accepted else why
    yield Unknown("service", name, Name("gitlab", asked.url), NOT_RUNNING, why, since)


def _receiver(db: Database, asked: Asked, now: Millis) -> Iterator[Unknown]:
    """Whether webhooks are accepted. `_parts` has what the worker sees of a receiver of its own service."""
    found = receiver_trouble(db, now=now)
    if found is None or (found.trouble == FAILING and any(one.name == RECEIVER for one in failing_parts.failing(db))):
        return
    yield Unknown("part", RECEIVER, Name("gitlab", asked.url), found.trouble, found.why, times.iso(found.since))


def _parts(db: Database, asked: Asked, _: Millis) -> Iterator[Unknown]:
    """The parts of the service that fail. Each restarts by itself."""
    for one in failing_parts.failing(db):
        yield _failing(one, asked.url)


def own_failures(known: Iterable[Unknown], parts: Iterable[Part], url: str) -> list[Unknown]:
    """The parts of a process that fail, without those that are known."""
    names = {one.name for one in known if one.kind == "part"}
    return [_failing(one, url) for one in parts if one.failing_since is not None and one.name not in names]


def _failing(part: Part, url: str) -> Unknown:
    since = None if part.failing_since is None else times.iso(part.failing_since)
    again = f"it restarted {part.restarts} times; see the log" if part.restarts else "see the log"
    return Unknown("part", part.name, Name("gitlab", url), FAILING, f"{part.error} ({again})", since)


def _intake(db: Database, asked: Asked, now: Millis) -> Iterator[Unknown]:
    """Webhooks that were acknowledged and are not recorded."""
    of = Name("gitlab", asked.url)
    waits, failed = backlog(db), unrecorded.counted(db)
    if waits.error is not None:
        yield Unknown("intake", "webhooks", of, "not readable", waits.error, None)
    elif waits.oldest_at is not None and now - times.from_iso(waits.oldest_at) > LAG:
        many = f"{waits.waiting:,} webhooks wait" if waits.waiting > 1 else "a webhook waits"
        why = f"{many} to be recorded and delivered: the service is stopped or late, see its log"
        yield Unknown("intake", "webhooks", of, "not recorded yet", why, waits.oldest_at, count=waits.waiting)
    if failed is not None:
        why = f"{_failed(failed.count)}, and not delivered: {failed.error}"
        yield Unknown("intake", "webhooks", of, "not recorded", why, failed.since, count=failed.count)


def _failed(count: int) -> str:
    many = f"{count:,} webhooks could" if count > 1 else "a webhook could"
    kept = "they are" if count > 1 else "it is"
    return f"{many} not be recorded: {kept} kept unchanged (`intake list`), `intake retry` tries again"


def _config(_: Database, asked: Asked, __: Millis) -> Iterator[Unknown]:
    """Whether there is anything to read."""
    of = Name("gitlab", asked.url)
    if not asked.names:
        why = "neither projects nor groups are configured: missed webhooks are not recovered"
        yield Unknown("config", "projects", of, "not configured", why, None)
    elif not asked.has_token:
        why = "without it no project or group can be read: what webhooks miss is not recovered"
        yield Unknown("config", "gitlab.token", of, "not configured", why, None, count=len(asked.names))


def _watched(db: Database, asked: Asked, now: Millis) -> Iterator[Unknown]:
    """What the config names and can't be read, and GitLab itself."""
    if not asked.has_token or not asked.names:
        return
    gitlab, wanted = Name("gitlab", asked.url), set(asked.names)
    there, life = watched.watched(db), downtime.life(db)
    look = _Look(life, asked, now)
    for one in there:
        if Name(one.kind, one.name) == gitlab and one.trouble is not None:
            why = f"{one.error}; missed webhooks are not recovered"
            yield Unknown("gitlab", one.name, gitlab, one.trouble, why, one.trouble_since)
    watched_now = {Name(one.kind, one.name) for one in there}
    for name in asked.names:
        if name not in watched_now:
            why = "the service does not know it yet: `gitlab-reconciler reload`, or start the service"
            yield Unknown(name.kind, name.name, name, NOT_READ_YET, why, None, pending=life.runs(now))
    for one in there:
        name = Name(one.kind, one.name)
        if name in wanted and (found := look.at(one, name)) is not None:
            yield found
    below = (one for one in there if one.kind == "member" and Name("group", one.below) in wanted)
    for group, members in itertools.groupby(below, attrgetter("below")):
        yield from look.at_members(list(members), Name("group", group))


class _Look:
    """Whether each group and project is read."""

    def __init__(self, life: Life, asked: Asked, now: Millis) -> None:
        self._gitlab = Name("gitlab", asked.url)
        self._runs = life.runs(now)
        self._started_at = life.started_at or Millis(0)
        self._slow = Millis(asked.late - SLOW)

    def at(self, one: Watched, of: Name) -> Unknown | None:
        """One of them, if it is not read."""
        kind, shown = ("project", one.path or one.name) if one.kind == "member" else (one.kind, one.name)
        if one.trouble is not None:
            of = self._gitlab if one.own_since is None else of
            return Unknown(kind, shown, of, one.trouble, str(one.error), one.trouble_since, own_since=one.own_since)
        waits_since = max(times.from_iso(one.read_at or one.since), self._started_at)
        hangs = self._runs and waits_since < self._slow
        since = times.iso(waits_since)
        if hangs:
            why = "reading it has not ended for more than an hour: GitLab is slow, or does not answer"
            return Unknown(kind, shown, of, "slow", why, since)
        if one.read_at is None:
            why = "its first reading has not ended" if self._runs else "no service has read it"
            return Unknown(kind, shown, of, NOT_READ_YET, why, since, pending=self._runs)
        return None

    def at_members(self, members: Iterable[Watched], of: Name) -> Iterator[Unknown]:
        """The projects below a group that are not read, grouped by trouble."""
        found: dict[tuple[str, Name], list[Unknown]] = {}
        for one in members:
            if (unknown := self.at(one, of)) is not None:
                found.setdefault((unknown.trouble, unknown.of), []).append(unknown)
        for some in found.values():
            first = min(some, key=lambda one: one.since or "")
            yield msgspec.structs.replace(first, name=_named([one.name for one in some]), count=len(some))


class _Source(NamedTuple):
    """A source that is not read, and the name of its project, or its group, in the config."""

    project_id: int
    source: str
    of: Name
    path: str
    trouble: str | None
    error: str | None
    since: str
    was_read: bool


SOURCES = filled_in(
    """
    SELECT s.project_id, s.source, w.kind, w.name, w.below, w.trouble, coalesce(p.path, CAST(s.project_id AS TEXT)),
           s.trouble, s.error, coalesce(s.trouble_since, s.last_read_at, s.watched_since),
           s.last_read_at IS NOT NULL
      FROM (SELECT * FROM sources {} WHERE {}) s
      JOIN watched w ON w.project_id = s.project_id LEFT JOIN projects p ON p.id = s.project_id
     ORDER BY s.project_id, s.source, w.kind DESC
    """,
    Sql("INDEXED BY sources_unread", postgresql=""),
    UNREAD,
)
"""A project's own name comes before those of its groups."""


def _sources(db: Database, asked: Asked, _: Millis) -> Iterator[Unknown]:
    """Sources that can't be read, or have not been read yet, grouped by name in the config and trouble."""
    if not asked.has_token:
        return
    wanted, found = set(asked.names), dict[Any, list[_Source]]()
    for one in _unread_sources(db):
        if one.of in wanted and one.trouble != SWITCHED_OFF:
            found.setdefault((one.of, one.source, one.trouble, one.was_read), []).append(one)
    for (of, source, trouble, was_read), some in found.items():
        name = f"{source} of {_named([one.path for one in some])}"
        since = min(one.since for one in some)
        if trouble is None:
            why = "its first reading has not ended"
            yield Unknown("source", name, of, NOT_READ_YET, why, since, pending=True, count=len(some))
        else:
            kind = "webhook" if trouble == NO_WEBHOOK and not was_read else "source"
            yield Unknown(kind, name, of, trouble, str(some[0].error), since, count=len(some))


def _unread_sources(db: Database) -> Iterator[_Source]:
    """Each source once, without those of a project that can't be read at all."""
    rows = db.execute(SOURCES).fetchall()
    for (project_id, source), some in itertools.groupby(rows, key=itemgetter(0, 1)):
        _, _, kind, name, below, trouble, *rest = next(some)
        if trouble is None or kind == "group":
            of = Name("group", below) if kind == "member" else Name(kind, name)
            path, *more = rest
            yield _Source(project_id, source, of, str(path), *more)


def _records(db: Database, asked: Asked, _: Millis) -> Iterator[Unknown]:
    """Records that could not be understood."""
    of = Name("gitlab", asked.url)
    some = unreadable.by_source(db)
    paths = {ident: path for path, ident in runs.project_paths(db).items()} if some else {}
    for one in some:
        name = f"{one.source} of {paths.get(one.project_id, one.project_id)}"
        many = f"{one.count} records are" if one.count > 1 else "a record is"
        why = f"{many} kept unchanged (`status --json` shows it), and not recorded: {one.error}"
        yield Unknown("record", name, of, "not understood", why, one.since, count=one.count)


def _named(names: Iterable[str]) -> str:
    """Some of the names, and how many more there are."""
    names = sorted(names)
    more = len(names) - EXAMPLES
    shown = ", ".join(names[:EXAMPLES])
    return f"{shown} and {more} more" if more > 0 else shown


CONTRIBUTORS: tuple[Callable[[Database, Asked, Millis], Iterable[Unknown]], ...] = (
    _service,
    _receiver,
    _parts,
    _intake,
    _config,
    _watched,
    _sources,
    _records,
)

"""Alerts: compares what is wrong now with what was reported, so that each problem is reported once, and its end once.

Alerts are derived from the ledger's state, not from the process's: a kill loses none, and a restart repeats none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from reconciler.events import times
from reconciler.events.alerts import alert_sighting
from reconciler.events.times import MINUTE, Millis
from reconciler.ledger.coverage import downtime
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.queue.destinations import GONE, DestinationState, destination_states
from reconciler.ledger.queue.in_the_way import InTheWay, in_the_way
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.record import record
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ledger_reader import LedgerReader
from reconciler.ledger.upkeep import failing_parts
from reconciler.ledger.views.backlog import backlog
from reconciler.ledger.views.receiving import FAILING, receiver_trouble
from reconciler.ledger.views.unknowns import RECEIVER, Asked, Unknown

What = Literal[
    "destination_down",
    "destination_gone",
    "dead_letters",
    "lane_blocked",
    "gap_expiring",
    "gitlab_not_read",
    "group_not_read",
    "project_not_read",
    "webhooks_not_recorded",
    "receiver_down",
]

DEAD_LETTERS = "SELECT min(finished_at), count(*) FROM deliveries WHERE destination_id = ? AND state = 'dead'"
MANY_FAILURES = 10
"""An event that failed so often while others were delivered is not blocking its lane by chance."""


RECORDER = "recorder"
LATE = Millis(5 * MINUTE)
"""Webhooks that wait longer to be recorded, while a service runs, are an alert."""


class Condition(msgspec.Struct, frozen=True):
    """Something that is wrong. One that `only_lasts` keeps its alert open, but does not open one."""

    what: What
    subject: str
    since: Millis
    text: str
    only_lasts: bool = False


def destination_conditions(db: Database, *, hold: Mapping[str, Millis], now: Millis) -> list[Condition]:
    """What is wrong with destinations. `hold` says how long each must have worked before its alert ends."""
    found = []
    for one in destination_states(db):
        if not one.active:
            continue
        breaker = one.breaker
        changed_at = breaker.changed_at or now
        stuck = in_the_way(db, one.id, one.name)
        if breaker.state != "closed":
            text = f"{one.name} has not accepted events since {times.iso(changed_at)}: they are kept and retried"
            text += "" if stuck is None else f"; {stuck.text}"
            found.append(Condition("destination_down", one.name, changed_at, text))
        elif breaker.changed_at is not None and now - changed_at < hold.get(one.name, 0):
            found.append(Condition("destination_down", one.name, changed_at, "", only_lasts=True))
        if one.paused_at is not None and one.paused_why == GONE:
            text = (
                f"{one.name} answered 410 Gone and is paused: its events are kept; run `destinations resume "
                f"{one.name}` when it is back, or remove it from the config"
            )
            found.append(Condition("destination_gone", one.name, one.paused_at, text))
        found += _stuck(one, stuck, now) + _dead_letters(db, one)
    return found


def _stuck(one: DestinationState, stuck: InTheWay | None, now: Millis) -> list[Condition]:
    """An event that blocks its lane.

    If the destination accepts no event at all, only that is reported. An event that failed while the destination was
    down must fail once more before it is reported.
    """
    if stuck is None or stuck.failures < MANY_FAILURES:
        return []
    since = now if stuck.since is None else times.from_iso(stuck.since)
    failed_alone = times.iso(one.breaker.changed_at or Millis(0)) < (stuck.tried_at or "")
    only_lasts = one.breaker.state != "closed" or not failed_alone
    return [Condition("lane_blocked", one.name, since, f"{one.name}: {stuck.text}", only_lasts=only_lasts)]


def _dead_letters(db: Database, one: DestinationState) -> list[Condition]:
    since, count = db.execute(DEAD_LETTERS, (one.id,)).fetchone()
    if not count:
        return []
    letters = f"{count} dead letter{'s' if count > 1 else ''}"
    text = f"{one.name} has {letters}: `dead-letters list` shows them, `dead-letters replay` sends them again"
    return [Condition("dead_letters", one.name, times.from_iso(since), text)]


def recording_conditions(db: Database, *, now: Millis) -> list[Condition]:
    """Webhooks that were acknowledged and could not be recorded, and those that wait for long. One can hide nothing
    of the other.
    """
    found = []
    if (failed := unrecorded.counted(db)) is not None:
        many = f"{failed.count} webhooks" if failed.count > 1 else "a webhook"
        do = "`intake list` shows them, `intake retry` tries again, `intake discard` gives one up"
        text = f"{many} could not be recorded: {failed.error}; {do}"
        found.append(Condition("webhooks_not_recorded", "intake", times.from_iso(failed.since), text))
    waits = backlog(db)
    if waits.oldest_at is not None and _served(db, times.from_iso(waits.oldest_at), now) > LATE:
        text = f"webhooks wait to be recorded since {waits.oldest_at}: see the log of the service"
        found.append(Condition("webhooks_not_recorded", "recorder", times.from_iso(waits.oldest_at), text))
    elif waits.error is not None:
        found.append(_unreadable_intake(db, waits.error, now))
    return found


def _unreadable_intake(db: Database, error: str, now: Millis) -> Condition:
    """Nobody knows what waits: no alert about it is over, and one begins if the recorder has failed for long."""
    failing = [one.failing_since for one in failing_parts.failing(db) if one.name == RECORDER]
    since = failing[0] if failing and failing[0] is not None else now
    text = f"it is not known what waits to be recorded: {error}"
    return Condition("webhooks_not_recorded", "recorder", since, text, only_lasts=now - since <= LATE)


def _served(db: Database, since: Millis, now: Millis) -> int:
    """How long a service ran since then: one that was stopped for an hour has just begun to record. One that only
    restarts, again and again, counts as running.
    """
    since = max(since, downtime.resumed_at(db) or since)
    served = now - since
    if served > LATE:
        for one in downtime.downtimes(db):
            start, end = max(one.during.start, since), min(one.during.end, now)
            served -= end - start if end - start > downtime.RESTART else 0
    return served


def receiver_conditions(db: Database, *, now: Millis) -> list[Condition]:
    """No receiver runs, or it fails: its process ends again and again, or it can't write to the intake."""
    found = receiver_trouble(db, now=now)
    if found is not None and found.trouble != FAILING:
        text = f"no sign of a receiver since {times.iso(found.since)}: {found.why}"
        return [Condition("receiver_down", RECEIVER, found.since, text)]
    for one in failing_parts.failing(db):
        if one.name == RECEIVER and one.failing_since is not None:
            return [Condition("receiver_down", RECEIVER, one.failing_since, f"the receiver fails: {one.error}")]
    if found is not None:
        return [Condition("receiver_down", RECEIVER, found.since, f"the receiver fails: {found.why}")]
    return []


class Missed(msgspec.Struct, frozen=True):
    """What has failed since these times has missed two polls. GitLab and groups are polled in every interval; every
    project is polled at least once per full poll.
    """

    intervals: Millis
    full_polls: Millis


def reading_conditions(unknown: Sequence[Unknown], asked: Asked, missed: Missed) -> list[Condition]:
    """What can't be read from GitLab: a condition per name in the config, or a single one if nothing can be read."""
    late: dict[Name, list[Unknown]] = {}
    for one in unknown:
        since = missed.full_polls if one.kind in ("project", "source") else missed.intervals
        alarming = one.kind in ("gitlab", "group", "project", "source") and not one.pending
        at = one.own_since or one.since
        if alarming and at is not None and times.from_iso(at) <= since:
            late.setdefault(one.of, []).append(one)
    everything = _everything(late, asked)
    found = [] if everything is None else [everything]
    for of, some in late.items():
        if of.kind in ("group", "project"):
            first = min(times.from_iso(one.since) for one in some if one.since is not None)
            text = f"{of.name} can't be read completely: " + "; ".join(one.text for one in some)
            what: What = "group_not_read" if of.kind == "group" else "project_not_read"
            # An alert about a name, opened before everything failed, stays open; no new one is opened.
            found.append(Condition(what, of.name, first, text, only_lasts=everything is not None))
    return found


def _everything(late: Mapping[Name, Sequence[Unknown]], asked: Asked) -> Condition | None:
    """The condition that nothing can be read: GitLab itself, or every name in the config for the same reason."""
    gitlab = Name("gitlab", asked.url)
    [*some] = [one for one in late.get(gitlab, ()) if one.kind == "gitlab"]
    if not some and len(asked.names) > 1:
        own = [[one for one in late.get(name, ()) if one.kind == name.kind] for name in asked.names]
        if all(own) and len({one.trouble for of_name in own for one in of_name}) == 1:
            some = [of_name[0] for of_name in own]
    if not some:
        return None
    since = max(times.from_iso(one.since) for one in some if one.since is not None)
    text = f"nothing can be read from GitLab at {asked.url} since {times.iso(since)}: {some[0].why}"
    return Condition("gitlab_not_read", asked.url, since, text)


def changes(db: Database, found: Sequence[Condition]) -> bool:
    """Whether `note` would change anything. It reads a handful of rows, so it may be asked often."""
    current, reported = {(one.what, one.subject) for one in found}, _open(db)
    texts = {key: text for key, (_, _, text) in reported.items()}
    return bool(reported.keys() - current) or any(
        texts.get((one.what, one.subject)) != one.text for one in found if not one.only_lasts
    )


class Noted(msgspec.Struct, frozen=True):
    """The alerts that were opened or closed, and the deliveries that this opened."""

    texts: list[str]
    opened: list[Opened]


def note(db: Database, found: Sequence[Condition], *, now: Millis, routes: Sequence[Route]) -> Noted:
    """Open alerts for new conditions, and close those that are over, inside the open transaction."""
    current = {(one.what, one.subject): one for one in found}
    reported = _open(db)
    sightings = []
    for key, one in current.items():
        if one.only_lasts:
            continue
        if key in reported:  # it stays open, with the present text
            db.execute("UPDATE alerts SET text = ? WHERE id = ?", (one.text, reported[key][0]))
        else:
            db.execute(
                "INSERT INTO alerts (what, subject, since, text) VALUES (?, ?, ?, ?)",
                (one.what, one.subject, times.iso(one.since), one.text),
            )
            sightings.append(
                alert_sighting(
                    what=one.what, subject=one.subject, state="opened", text=one.text, since=one.since, at=now
                )
            )
    for what, subject in reported.keys() - current.keys():
        ident, since, _ = reported[what, subject]
        db.execute("UPDATE alerts SET over_at = ? WHERE id = ?", (times.iso(now), ident))
        text = _OVER.get(what, "{subject}: over").format(subject=subject, since=since)
        sightings.append(
            alert_sighting(what=what, subject=subject, state="over", text=text, since=times.from_iso(since), at=now)
        )
    texts = [sighting.summary.title or "" for sighting in sightings]
    return Noted(texts, record(db, sightings, now=now, routes=routes).opened)


_OVER = {
    "destination_down": "{subject} accepts events again (it had not since {since})",
    "destination_gone": "{subject} is no longer paused (it was since {since})",
    "lane_blocked": "{subject}: the event that blocked its lane (since {since}) no longer does",
    "dead_letters": "{subject} has no dead letters left (it had some since {since})",
    "gitlab_not_read": "GitLab at {subject} can be read again (it could not be read since {since})",
    "group_not_read": "{subject} can be read again, or is no longer watched (it could not be read since {since})",
    "project_not_read": "{subject} can be read again, or is no longer watched (it could not be read since {since})",
    "webhooks_not_recorded": "{subject}: no acknowledged webhook is left unrecorded (some were since {since})",
    "receiver_down": "the receiver runs again (it did not since {since})",
    "gap_expiring": "{subject}: the gap that was about to become final (since {since}) is closed, or is final",
}


def alerts(db: Database, *, limit: int = 100) -> list[dict[str, Any]]:
    """The newest alerts, newest first."""
    return list(db.query("SELECT what, subject, since, over_at, text FROM alerts ORDER BY id DESC LIMIT ?", [limit]))


def _open(db: Database) -> dict[tuple[What, str], tuple[int, str, str]]:
    """The open alerts: each one's id, since when, and text."""
    rows = db.execute("SELECT what, subject, id, since, text FROM alerts WHERE over_at IS NULL")
    return {(what, subject): (ident, since, text) for what, subject, ident, since, text in rows}


class AlertOperations:
    """The ledger's operations on alerts. Reads raise LedgerError, writes LedgerUnavailable."""

    def __init__(self, writer: Writer, read: LedgerReader) -> None:
        self._writer = writer
        self._read = read

    def destination_conditions(self, *, hold: Mapping[str, Millis], now: Millis) -> list[Condition]:
        """What is wrong with destinations. `hold` says how long each must have worked before its alert ends."""
        return self._read(lambda db: destination_conditions(db, hold=hold, now=now))

    def recording_conditions(self, now: Millis) -> list[Condition]:
        """Webhooks that were acknowledged and could not be recorded, or wait for long."""
        return self._read(lambda db: recording_conditions(db, now=now))

    def receiver_conditions(self, now: Millis) -> list[Condition]:
        """No receiver runs, or it fails."""
        return self._read(lambda db: receiver_conditions(db, now=now))

    def changes(self, found: Sequence[Condition]) -> bool:
        """Whether `note` would change anything."""
        return self._read(lambda db: changes(db, found))

    async def note(self, found: Sequence[Condition], now: Millis) -> list[str]:
        """Open alerts for new conditions, and close those that are over. Returns what is reported, in sentences."""
        routes = self._writer.routes
        noted = await self._writer.run(lambda db: note(db, found, now=now, routes=routes))
        self._writer.report_opened(noted.opened)
        return noted.texts

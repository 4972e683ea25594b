"""Alerts: what holds now, held against what was said already, so that each thing is said once, and once when over.

They are derived from the ledger's state, never from a moment in a process: a kill can't lose one, and a restart
says nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.alerts import alert_sighting
from reconciler.events.times import Millis
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.intake.record import record
from reconciler.ledger.queue.destinations import Standing, standings
from reconciler.ledger.queue.in_the_way import InTheWay, in_the_way
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.views.unknowns import Asked, Unknown

What = Literal[
    "destination_down",
    "destination_gone",
    "dead_letters",
    "event_in_the_way",
    "gap_expiring",
    "gitlab_not_read",
    "group_not_read",
    "project_not_read",
]

DEAD_LETTERS = "SELECT min(finished_at), count(*) FROM deliveries WHERE destination_id = ? AND state = 'dead'"
MANY_FAILURES = 10
"""An event that was tried so often while others were taken is not in the way by chance."""
GONE = "410 Gone"
"""Why we pause a destination that says so."""


class Condition(msgspec.Struct, frozen=True):
    """Something that people want to be told of. One that `only_lasts` keeps an alert open, but opens none."""

    what: What
    subject: str
    since: Millis
    text: str
    only_lasts: bool = False


def destination_conditions(db: Database, *, settle: Mapping[str, Millis], now: Millis) -> list[Condition]:
    """What is wrong with destinations. `settle`: how long each must have been well before it counts as well."""
    found = []
    for one in standings(db):
        if not one.active:
            continue
        breaker = one.breaker
        changed_at = breaker.changed_at or now
        stuck = in_the_way(db, one.id, one.name)
        if breaker.state != "closed":
            text = f"{one.name} does not take events since {times.iso(changed_at)}: they are kept and tried again"
            text += "" if stuck is None else f"; {stuck.text}"
            found.append(Condition("destination_down", one.name, changed_at, text))
        elif breaker.changed_at is not None and now - changed_at < settle.get(one.name, 0):
            found.append(Condition("destination_down", one.name, changed_at, "", only_lasts=True))
        if one.paused_at is not None and one.paused_why == GONE:
            text = (
                f"{one.name} answered 410 Gone and is paused: events are kept for it; `destinations resume "
                f"{one.name}` when it is back, or take it out of the config"
            )
            found.append(Condition("destination_gone", one.name, one.paused_at, text))
        found += _stuck(one, stuck, now) + _dead_letters(db, one)
    return found


def _stuck(one: Standing, stuck: InTheWay | None, now: Millis) -> list[Condition]:
    """An event that others wait behind. Of a destination that takes none at all, that alone is said; and what failed
    with all others, before the destination took events again, has to fail once more.
    """
    if stuck is None or stuck.failures < MANY_FAILURES:
        return []
    since = now if stuck.since is None else times.from_iso(stuck.since)
    failed_alone = times.iso(one.breaker.changed_at or Millis(0)) < (stuck.tried_at or "")
    only_lasts = one.breaker.state != "closed" or not failed_alone
    return [Condition("event_in_the_way", one.name, since, f"{one.name}: {stuck.text}", only_lasts=only_lasts)]


def _dead_letters(db: Database, one: Standing) -> list[Condition]:
    since, count = db.conn.execute(DEAD_LETTERS, (one.id,)).fetchone()
    if not count:
        return []
    letters = f"{count} dead letter{'s' if count > 1 else ''}"
    text = f"{one.name} has {letters}: `dead-letters list` shows them, `dead-letters replay` delivers them again"
    return [Condition("dead_letters", one.name, times.from_iso(since), text)]


class Missed(msgspec.Struct, frozen=True):
    """Since when something must be in trouble to have missed two rounds: GitLab and groups, which are asked in every
    interval, and projects, of which each has its turn once a round.
    """

    intervals: Millis
    rounds: Millis


def reading_conditions(unknown: Sequence[Unknown], asked: Asked, missed: Missed) -> list[Condition]:
    """What of GitLab can't be read: a condition for each name in the config; where nothing can be, one alone."""
    late: dict[Name, list[Unknown]] = {}
    for one in unknown:
        since = missed.rounds if one.kind in ("project", "source") else missed.intervals
        alarming = one.kind in ("gitlab", "group", "project", "source") and not one.pending
        at = one.own_since or one.since
        if alarming and at is not None and times.from_iso(at) <= since:
            late.setdefault(one.of, []).append(one)
    everything = _everything(late, asked)
    found = [] if everything is None else [everything]
    for of, some in late.items():
        if of.kind in ("group", "project"):
            first = min(times.from_iso(one.since) for one in some if one.since is not None)
            text = f"{of.name} can't be read wholly: " + "; ".join(one.text for one in some)
            what: What = "group_not_read" if of.kind == "group" else "project_not_read"
            # What was said of a name before all the others failed too is not over; nothing more is said.
            found.append(Condition(what, of.name, first, text, only_lasts=everything is not None))
    return found


def _everything(late: Mapping[Name, Sequence[Unknown]], asked: Asked) -> Condition | None:
    """Where nothing can be read: GitLab itself, or every name in the config, for the same reason."""
    gitlab = Name("gitlab", asked.url)
    [*some] = [one for one in late.get(gitlab, ()) if one.kind == "gitlab"]
    if not some and len(asked.names) > 1:
        own = [[one for one in late.get(name, ()) if one.kind == name.kind] for name in asked.names]
        if all(own) and len({one.trouble for of_name in own for one in of_name}) == 1:
            some = [of_name[0] for of_name in own]
    if not some:
        return None
    since = max(times.from_iso(one.since) for one in some if one.since is not None)
    text = f"nothing can be read of GitLab at {asked.url} since {times.iso(since)}: {some[0].why}"
    return Condition("gitlab_not_read", asked.url, since, text)


def changes(db: Database, found: Sequence[Condition]) -> bool:
    """Whether `note` would say anything: asked often, at the cost of reading a handful of rows."""
    held, spoken = {(one.what, one.subject) for one in found}, _open(db)
    told = {key: text for key, (_, _, text) in spoken.items()}
    return bool(spoken.keys() - held) or any(
        told.get((one.what, one.subject)) != one.text for one in found if not one.only_lasts
    )


class Said(msgspec.Struct, frozen=True):
    """What was said, and the deliveries that this opened."""

    texts: list[str]
    opened: list[Opened]


def note(db: Database, found: Sequence[Condition], *, now: Millis, routes: Sequence[Route]) -> Said:
    """Say what is new and what is over, inside the open transaction."""
    held = {(one.what, one.subject): one for one in found}
    spoken = _open(db)
    sightings = []
    for key, one in held.items():
        if one.only_lasts:
            continue
        if key in spoken:  # said already; who looks at it now sees how it is now
            db.conn.execute("UPDATE alerts SET text = ? WHERE id = ?", (one.text, spoken[key][0]))
        else:
            db.conn.execute(
                "INSERT INTO alerts (what, subject, since, text) VALUES (?, ?, ?, ?)",
                (one.what, one.subject, times.iso(one.since), one.text),
            )
            sightings.append(
                alert_sighting(
                    what=one.what, subject=one.subject, state="opened", text=one.text, since=one.since, at=now
                )
            )
    for what, subject in spoken.keys() - held.keys():
        ident, since, _ = spoken[what, subject]
        db.conn.execute("UPDATE alerts SET over_at = ? WHERE id = ?", (times.iso(now), ident))
        text = _OVER.get(what, "{subject}: over").format(subject=subject, since=since)
        sightings.append(
            alert_sighting(what=what, subject=subject, state="over", text=text, since=times.from_iso(since), at=now)
        )
    texts = [sighting.summary.title or "" for sighting in sightings]
    return Said(texts, record(db, sightings, now=now, routes=routes).opened)


_OVER = {
    "destination_down": "{subject} takes events again (it did not since {since})",
    "destination_gone": "{subject} is not paused any more (it was since {since})",
    "event_in_the_way": "{subject}: the event that was in the way (since {since}) is so no more",
    "dead_letters": "{subject} has no dead letters any more (it had since {since})",
    "gitlab_not_read": "GitLab at {subject} can be read again (it could not since {since})",
    "group_not_read": "{subject} can be read wholly again, or is not watched any more (it could not since {since})",
    "project_not_read": "{subject} can be read wholly again, or is not watched any more (it could not since {since})",
    "gap_expiring": "{subject}: the gap that was about to become final (since {since}) is closed, or is final",
}


def alerts(db: Database, *, limit: int = 100) -> list[dict[str, Any]]:
    """The newest alerts, newest first."""
    return list(db.query("SELECT what, subject, since, over_at, text FROM alerts ORDER BY id DESC LIMIT ?", [limit]))


def _open(db: Database) -> dict[tuple[What, str], tuple[int, str, str]]:
    """What was said and is not over: its id, since when, and its text."""
    rows = db.conn.execute("SELECT what, subject, id, since, text FROM alerts WHERE over_at IS NULL")
    return {(what, subject): (ident, since, text) for what, subject, ident, since, text in rows}

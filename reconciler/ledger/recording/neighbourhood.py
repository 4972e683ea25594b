"""The groups of sightings that new sightings of a key can change, however many sightings the ledger has of that key.

A busy key has a long history. Only a window around the new sightings is loaded, and widened until its groups are
certain: until the history is cut (see `events.matching`) before and after the new sightings, and everything that
decides these cuts is in the window and not new.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.matching import NEAR, CutDecision, History
from reconciler.events.pairing import Seen, pair
from reconciler.events.sighting import Precision
from reconciler.events.times import Millis
from reconciler.ledger.storage import hashes
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import IDS, Sql, joined, look_up

_ROWS = 6 * NEAR
"""How many sightings are loaded on each side at first. Most keys have fewer, and a busy key rarely needs more."""
_GROWTH = 4

_SEEN = "s.id, s.event_id, s.happened_at, s.source, s.source_id, s.precision, s.payload_sha"


def _around(side: str, order: str) -> Sql:
    """The sightings on one side of each of the times that are asked about: (number, key, its hash, time)."""
    return Sql(
        f"""
        SELECT {_SEEN}, asked.value ->> 0
          FROM json_each(?) AS asked CROSS JOIN sightings AS s ON s.id IN (
               SELECT n.id FROM sighting_hashes AS h
                 CROSS JOIN sightings AS n ON n.id = h.sighting_id AND n.key = asked.value ->> 1
                WHERE h.key_hash = asked.value ->> 2 AND h.happened_ms {side} asked.value ->> 3
                ORDER BY h.happened_ms {order} LIMIT ?)
        """,
        postgresql=f"""
        SELECT {_SEEN}, (asked.value ->> 0)::bigint
          FROM jsonb_array_elements(?::jsonb) AS asked (value) CROSS JOIN LATERAL (
               SELECT n.* FROM sighting_hashes AS h {look_up("sightings", "n", "n.id = h.sighting_id").postgresql}
                WHERE h.key_hash = (asked.value ->> 2)::bigint AND n.key = asked.value ->> 1
                  AND h.happened_ms {side} (asked.value ->> 3)::bigint
                ORDER BY h.happened_ms {order} LIMIT ?) AS s
        """,
    )


EARLIER: str = _around("<=", "DESC")
LATER: str = _around(">=", "ASC")
OF_EVENTS = joined(
    f"SELECT {_SEEN}, s.recovery IS NOT NULL FROM", IDS, look_up("sightings", "s", "s.event_id = ids.value")
)


class Changed(msgspec.Struct):
    """The groups of a key that differ from the events that the ledger has. Labels are sighting ids."""

    groups: list[list[Seen]]
    event_of: dict[int, int]
    """The event of each of their recorded sightings. These events have no other sightings."""
    recovered: set[int]
    """Their recorded sightings whose payload did not come from a webhook."""


def changed(db: Database, fresh: Mapping[str, Sequence[Seen]]) -> list[Changed]:
    """Group new sightings, given by key, with those around them in the ledger. Groups that do not change are left
    out.
    """
    windows = _first_windows(db, fresh)
    while True:
        windows = _merged(windows)
        uncertain = [window for window in windows if not window.try_group()]
        if uncertain:
            _load(db, uncertain)
        elif not _reach_further(db, windows):
            return [window.changed for window in windows if window.changed is not None]


class _Window:
    """All sightings of a key after one time and before another."""

    def __init__(self, key: str, fresh: Seen) -> None:
        self.key = key
        self.first = self.last = fresh
        """The first and the last sighting that may change the groups."""
        self.seen = {fresh.label: fresh}
        self.event_of: dict[int, int] = {}
        self.after: Millis | None = fresh.time
        self.before: Millis | None = fresh.time
        """The window's ends. None means the beginning or the end of the history."""
        self.lacks = {EARLIER, LATER}
        self.changed: Changed | None = None
        self.rows = {EARLIER: _ROWS, LATER: _ROWS}

    def reaches(self, time: Millis) -> bool:
        """Whether a time is before the window's end."""
        return self.before is None or time < self.before

    def edge(self, side: str) -> Millis:
        """The time from which on sightings are missing on a side."""
        edge = self.after if side == EARLIER else self.before
        return self.first.time if edge is None else edge

    def add(self, seen: Seen) -> None:
        """Add a sighting that may change the groups."""
        self.seen[seen.label] = seen
        self.first, self.last = min(self.first, seen), max(self.last, seen)
        self.changed = None

    def take(self, side: str, rows: Iterable[Sequence[Any]], *, is_all: bool) -> None:
        """Add what was loaded on a side. There may be more sightings of the outermost time."""
        found = [(_seen(row), row[1]) for row in rows]
        self.seen.update((seen.label, seen) for seen, _ in found)
        self.event_of.update((seen.label, event) for seen, event in found)
        if side == EARLIER:
            self.after = None if is_all else min(seen.time for seen, _ in found)
        else:
            self.before = None if is_all else max(seen.time for seen, _ in found)
        self.rows[side] *= _GROWTH

    def absorb(self, other: _Window) -> None:
        """Merge with a later window that overlaps."""
        self.seen |= other.seen
        self.event_of |= other.event_of
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.after = None if self.after is None or other.after is None else min(self.after, other.after)
        self.before = None if self.before is None or other.before is None else max(self.before, other.before)
        self.changed = None

    def try_group(self) -> bool:
        """Group what may have changed. False if the window is too small; `lacks` then says on which sides."""
        if self.changed is None:
            self.lacks = set()
            if self.after is not None and self.first.time <= self.after:
                self.lacks.add(EARLIER)
            if self.before is not None and self.last.time >= self.before:
                self.lacks.add(LATER)
            if not self.lacks:
                self._group()
        return self.changed is not None

    def _group(self) -> None:
        history = History(seen for seen in self.seen.values() if self._holds(seen.time))
        start, end = self._start(history), self._end(history)
        cuts = [start]
        for at in range(start + 1, end):
            decision = history.decide(at)
            self.lacks |= self._unknown(history, decision)
            if decision.cut:
                cuts.append(at)
        if not self.lacks:
            segments = itertools.pairwise([*cuts, end])
            self.changed = self._differing([event for a, b in segments for event in pair(history.ordered[a:b])])

    def _start(self, history: History) -> int:
        """The last cut before the new sightings that does not depend on them."""
        new = bisect_left(history.ordered, self.first)
        for at in range(new - NEAR, 0, -1):
            decision = history.decide(at)
            if decision.cut and decision.decided_by.stop <= new and not self._unknown(history, decision):
                return at
        if self.after is not None:
            self.lacks.add(EARLIER)
        return 0

    def _end(self, history: History) -> int:
        """The first cut after the new sightings that does not depend on them."""
        new = bisect_right(history.ordered, self.last)
        for at in range(new + NEAR, len(history.ordered)):
            decision = history.decide(at)
            if decision.cut and decision.decided_by.start >= new and not self._unknown(history, decision):
                return at
        if self.before is not None:
            self.lacks.add(LATER)
        return len(history.ordered)

    def _unknown(self, history: History, decision: CutDecision) -> set[str]:
        """The sides on which sightings outside the window may affect the result."""
        earlier = self.after is not None and decision.decided_by.start == 0
        later = self.before is not None and decision.decided_by.stop == len(history.ordered)
        return ({EARLIER} if earlier else set()) | ({LATER} if later else set())

    def _holds(self, time: Millis) -> bool:
        return (self.after is None or self.after < time) and self.reaches(time)

    def _differing(self, groups: Iterable[list[Seen]]) -> Changed:
        """The groups that are not exactly the sightings of one event."""
        groups = list(groups)
        sizes = Counter(self.event_of.get(seen.label) for group in groups for seen in group)
        differing = []
        for group in groups:
            events = {self.event_of.get(seen.label) for seen in group}
            if None in events or len(events) > 1 or sizes[events.pop()] != len(group):
                differing.append(group)
        labels = [seen.label for group in differing for seen in group]
        event_of = {label: self.event_of[label] for label in labels if label in self.event_of}
        return Changed(differing, event_of, set())


def _first_windows(db: Database, fresh: Mapping[str, Sequence[Seen]]) -> list[_Window]:
    """Windows that contain all new sightings. The window around one often contains the next."""
    waiting = {key: sorted(several, reverse=True) for key, several in fresh.items()}
    windows: list[_Window] = []
    while waiting:
        opened = [_Window(key, several.pop()) for key, several in waiting.items()]
        _load(db, opened)
        for window in opened:
            several = waiting[window.key]
            while several and window.reaches(several[-1].time):
                window.add(several.pop())
        windows += opened
        waiting = {key: several for key, several in waiting.items() if several}
    return windows


def _load(db: Database, windows: Sequence[_Window]) -> None:
    """Widen windows on the sides where sightings are missing."""
    for side in (EARLIER, LATER):
        lacking = [window for window in windows if side in window.lacks]
        if lacking:
            limit = max(window.rows[side] for window in lacking)
            asked = [
                (number, one.key, hashes.key_hash(one.key), hashes.stored(one.edge(side)))
                for number, one in enumerate(lacking)
            ]
            rows: list[list[Any]] = [[] for _ in lacking]
            for row in db.execute(side, (orjson.dumps(asked).decode(), limit)):
                rows[row[7]].append(row)
            for window, found in zip(lacking, rows, strict=True):
                window.take(side, found, is_all=len(found) < limit)


def _merged(windows: list[_Window]) -> list[_Window]:
    """Merge windows that overlap."""
    merged: list[_Window] = []
    for window in sorted(windows, key=lambda one: (one.key, one.first)):
        last = merged[-1] if merged and merged[-1].key == window.key else None
        if last is not None and (window.after is None or last.before is None or window.after < last.before):
            last.absorb(window)
        else:
            merged.append(window)
    return merged


def _reach_further(db: Database, windows: Sequence[_Window]) -> bool:
    """Add sightings outside a window that belong to an event of a changed group. Returns whether there were any.

    The matching rule makes no such events, but a ledger may have some from an earlier version of the rule, or after
    pruning. Also notes which sightings were recovered.
    """
    window_of = {event: one for one in windows if one.changed is not None for event in one.changed.event_of.values()}
    if not window_of:
        return False
    further = False
    for row in db.execute(OF_EVENTS, (orjson.dumps(list(window_of)).decode(),)):
        window = window_of[row[1]]
        if window.changed is not None and row[0] in window.changed.event_of:
            if row[7]:
                window.changed.recovered.add(row[0])
        else:
            window.add(_seen(row))
            window.event_of[row[0]] = row[1]
            further = True
    return further


def _seen(row: Sequence[Any]) -> Seen:
    ident, _, happened_at, source, source_id, precision, sha, _ = row
    return Seen(times.from_iso(happened_at), source, source_id, Precision(precision), sha, ident)

"""Which range of the past a backfill can read."""

from __future__ import annotations

import msgspec

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import Millis
from reconciler.ledger.storage.connection import opened, there_is
from reconciler.ledger.upkeep import prune
from reconciler.location import Location
from reconciler.sources.project_events import ProjectEvents


class Readable(msgspec.Struct, frozen=True):
    """The part of a range that can be read. `oldest`: GitLab keeps nothing before it, and some was asked for."""

    window: Interval
    oldest: Millis | None = None


def newest(grace_period: Millis) -> Millis:
    """Up to when GitLab's records are read: later ones may not be complete."""
    return Millis(times.now() - grace_period)


def readable(start: Millis, end: Millis, *, grace_period: Millis) -> Readable:
    """A range without the last seconds and without the time before GitLab keeps events. Raises ValueError if nothing
    is left.
    """
    oldest = Millis(times.now() - ProjectEvents.keeps_for)
    window = Interval(max(start, oldest), min(end, newest(grace_period)))
    if window.start >= window.end:
        raise ValueError("nothing in this range can be read: it is too old, or in the future")
    return Readable(window, oldest if start < oldest else None)


def pruned_within(location: Location, window: Interval) -> Millis | None:
    """Up to when events were pruned, if that is in the range: they would be recorded as new and delivered again."""
    if not there_is(location):
        return None
    with opened(location, readonly=True) as db:
        pruned = prune.horizon(db)
    return pruned if pruned is not None and window.start <= pruned else None

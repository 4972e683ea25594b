"""Intervals of time, and what a list of them leaves uncovered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reconciler.events.times import Millis


class Interval(msgspec.Struct, frozen=True, order=True):
    """A span of time, `start` included and `end` excluded."""

    start: Millis
    end: Millis


def uncovered(covered: Sequence[Interval], within: Interval) -> list[Interval]:
    """The parts of `within` that `covered` leaves out. `covered` is in order, and no two of its intervals touch."""
    found = []
    start = within.start
    for interval in covered:
        if interval.end <= start:
            continue
        if interval.start >= within.end:
            break
        if interval.start > start:
            found.append(Interval(start, interval.start))
        start = max(start, interval.end)
    if start < within.end:
        found.append(Interval(start, within.end))
    return found


def joined(covered: Sequence[Interval], added: Interval) -> tuple[Interval, list[Interval]]:
    """`added` together with every interval of `covered` that it overlaps or touches, and those intervals."""
    touching = [old for old in covered if old.start <= added.end and added.start <= old.end]
    start = min([added.start, *(old.start for old in touching)])
    end = max([added.end, *(old.end for old in touching)])
    return Interval(start, end), touching

"""The one matching rule: which sightings of one key are the same event.

The answer depends on the set of sightings alone, never on the order in which they came: `group` is a pure function
of that set. `pairing` says how sightings that are near each other are matched.

The history of a key can go on for years without a gap as wide as its tolerance: a bot edits a page once a minute. So
it is cut into segments, each matched for itself, and one more sighting costs what the segments around it cost:

- What is further apart than the sightings near the gap may be is cut.
- Where a key is busy, it is cut at a pause, if around it every event was told by the same sources: nothing waits for
  a partner there. A telling whose partner got lost long ago then does not take another's partner, which would take
  another's, up to the newest.
- Where a key is busy and some source fails, partners may be as far apart as the tolerance. It is cut at the longest
  pause within that time, if no pair reaches across.

`judge` decides, and says which sightings it looked at: the answer of a segment holds as long as those stay the same.
"""

from __future__ import annotations

import itertools
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import msgspec

from reconciler.events.pairing import Seen, pair

NEAR = 24
"""How many sightings before a gap, and how many after it, are near it."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether a history is cut at a gap, and by which of its sightings that was decided, as indices."""

    cut: bool
    decided_by: range


def group(seen: Iterable[Seen]) -> list[list[Seen]]:
    """Split the sightings of one key into events, each a list of its sightings; oldest event first."""
    ordered = sorted(seen)
    cuts = [0, *(at for at in range(1, len(ordered)) if judge(ordered, at).cut), len(ordered)]
    return [event for start, end in itertools.pairwise(cuts) for event in pair(ordered[start:end])]


def judge(ordered: Sequence[Seen], at: int) -> Verdict:
    """Whether a history, given in order, is cut before `ordered[at]`."""
    near = range(max(0, at - NEAR), min(len(ordered), at + NEAR))
    gap, _ = _gap(ordered, at)
    if gap == 0:
        return Verdict(False, near)
    reach = max([seen.precision.tolerance for seen in ordered[near.start : near.stop]])
    if gap > reach:
        return Verdict(True, near)
    if len(near) < 2 * NEAR or not _is_widest(ordered, at, near):
        return Verdict(False, near)
    if _is_complete(ordered, at, near):
        return Verdict(True, near)
    far = range(
        min(near.start, bisect_left(ordered, ordered[at - 1].time - reach, key=_time)),
        max(near.stop, bisect_right(ordered, ordered[at].time + reach, key=_time)),
    )
    cut = _is_widest(ordered, at, far) and not _is_spanned(ordered, at, pair(ordered[far.start : far.stop]))
    return Verdict(cut, far)


def _is_complete(ordered: Sequence[Seen], at: int, near: range) -> bool:
    """Whether each event around a gap was told by the same sources, several, and none on both sides of the gap.

    The first and the last may have been told by others that are not near any more.
    """
    if len({seen.source for seen in ordered[near.start : near.stop]}) == 1:
        return False
    events = pair(ordered[near.start : near.stop])
    told_by = {frozenset(seen.source for seen in event) for event in events[1:-1]}
    return len(told_by) == 1 and len(told_by.pop()) > 1 and not _is_spanned(ordered, at, events)


def _is_spanned(ordered: Sequence[Seen], at: int, events: Iterable[Sequence[Seen]]) -> bool:
    """Whether an event has sightings on both sides of a gap."""
    return any(len({seen < ordered[at] for seen in event}) == 2 for event in events)


def _is_widest(ordered: Sequence[Seen], at: int, among: range) -> bool:
    gap = _gap(ordered, at)
    return all(_gap(ordered, other) < gap for other in among[1:] if other != at)


def _gap(ordered: Sequence[Seen], at: int) -> tuple[int, int]:
    """How wide the gap before a sighting is. What happens by the clock makes equal gaps; a checksum tells them
    apart, so that among them, too, one is the widest."""
    after = ordered[at].time
    return after - ordered[at - 1].time, zlib.crc32(b"%d" % after)


def _time(seen: Seen) -> int:
    return seen.time

"""The matching rule: which sightings of one key are the same event.

The answer depends only on the set of sightings, not on the order of their arrival: `group` is a pure function of
that set. `pairing` matches sightings that are close in time. `group` defines the rule, and tests compare with it.
The ledger does not call it: it uses `History` and `pair`, so that it need not load a whole key (see
`ledger.recording.neighbourhood`).

The history of a key can go on for years without a gap as wide as its tolerance: a bot edits a page once a minute. So
it is cut into segments that are matched separately, and a new sighting costs only the segments around it:

- A gap wider than the tolerance of the sightings near it is cut.
- A busy key is cut at a pause around which every source reported most events: no report waits for a partner there.
  Without the cut, a report whose partner was lost long ago could take another's partner, which would take another's,
  and so on up to the newest. No report waits either where there are only webhooks with times of their own.
- If a source of a busy key fails, a partner may arrive as late as a webhook can. The key is then cut at the longest
  pause within that time, unless a pair reaches across.

A key with fewer than 2 * NEAR sightings is cut only where nothing could be paired.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Sequence

import msgspec

from reconciler.events.pairing import Seen, pair
from reconciler.events.sighting import Precision

NEAR = 24
"""How many sightings before a gap, and how many after it, are near it."""

_FAR = Precision.RECEIVED_TIME.tolerance
"""How far from a gap a partner may be if a source fails."""


class CutDecision(msgspec.Struct, frozen=True):
    """Whether a history is cut at a gap, and the indices of the sightings that decide it.

    While those sightings stay the same, so does the decision. If there is a cut, sightings on one side of them change
    nothing on the other side of the cut.
    """

    cut: bool
    decided_by: range


def group(seen: Iterable[Seen]) -> list[list[Seen]]:
    """Split the sightings of one key into events, each a list of its sightings; oldest event first."""
    history = History(seen)
    ordered = history.ordered
    cuts = [0, *(at for at in range(1, len(ordered)) if history.decide(at).cut), len(ordered)]
    return [event for start, end in itertools.pairwise(cuts) for event in pair(ordered[start:end])]


class History:
    """The sightings of a key in order, and its cuts into segments. The gap `at` is the one before `ordered[at]`."""

    def __init__(self, seen: Iterable[Seen]) -> None:
        self.ordered = sorted(seen)
        self._tolerances = [one.precision.tolerance for one in self.ordered]
        self._strictest = min(self._tolerances, default=0)
        self._fitness = [0, *itertools.starmap(_fitness, itertools.pairwise(self.ordered))]
        self._near_cuts: dict[int, bool] = {}
        self._decisions: dict[int, CutDecision] = {}

    def decide(self, at: int) -> CutDecision:
        """Decide whether the history is cut at a gap."""
        decision = self._decisions.get(at)
        if decision is None:
            is_open = not self._is_cut_near(at) and self._is_pause(at)
            decision = self._decide_far(at) if is_open else CutDecision(self._is_cut_near(at), self._near(at, at))
            self._decisions[at] = decision
        return decision

    def _near(self, first: int, last: int) -> range:
        """The indices of all sightings near a gap, or near any gap of a range."""
        return range(max(0, first - NEAR), min(len(self.ordered), last + NEAR))

    def _length(self, at: int) -> int:
        return self.ordered[at].time - self.ordered[at - 1].time

    def _is_pause(self, at: int) -> bool:
        """Whether a gap is the fittest of all gaps near it, on a busy key."""
        fitness, near = self._fitness[at], self._near(at, at)
        if len(near) < 2 * NEAR or fitness < self._fitness[at - 1] or fitness < self._fitness[at + 1]:
            return False
        return self._length(at) > 0 and fitness == max(self._fitness[near.start + 1 : near.stop])

    def _is_cut_near(self, at: int) -> bool:
        """Whether the sightings near a gap suffice to cut there."""
        known = self._near_cuts.get(at)
        if known is None:
            known = self._is_too_wide(at) or (self._is_pause(at) and self._is_complete_around(at))
            self._near_cuts[at] = known
        return known

    def _is_too_wide(self, at: int) -> bool:
        length, near = self._length(at), self._near(at, at)
        return length > self._strictest and length > max(self._tolerances[near.start : near.stop])

    def _is_complete_around(self, at: int) -> bool:
        """Whether no report near a gap waits for a partner on its other side."""
        near = self._near(at, at)
        ordered = self.ordered[near.start : near.stop]
        all_sources = {seen.source for seen in ordered}
        is_timely = all(_is_timely_webhook(seen) for seen in ordered)
        if len(all_sources) == 1 and not is_timely:
            return False
        events = pair(ordered)
        if self._is_spanned(at, events):
            return False
        if is_timely:
            return True
        # The outermost events may have reports that are no longer near.
        before = [event for event in events[1:-1] if event[0] < self.ordered[at]]
        after = [event for event in events[1:-1] if not event[0] < self.ordered[at]]
        took = max(_reporting_time(event) for event in events)
        return took < self._length(at) and all(_are_mostly_reported_by(all_sources, some) for some in (before, after))

    def _decide_far(self, at: int) -> CutDecision:
        """Whether a pause is the longest within _FAR, and no pair reaches across."""
        earliest, latest = self.ordered[at - 1].time - _FAR, self.ordered[at].time + _FAR
        start = at - 1
        while start > 0 and self.ordered[start - 1].time >= earliest and not self._is_cut_near(start):
            if self._fitness[start] > self._fitness[at]:
                return CutDecision(False, self._near(start, at))
            start -= 1
        end = at + 1
        while end < len(self.ordered) and self.ordered[end].time <= latest and not self._is_cut_near(end):
            if self._fitness[end] > self._fitness[at]:
                return CutDecision(False, self._near(at, end))
            end += 1
        is_spanned = self._is_spanned(at, pair(self.ordered[start:end]))
        return CutDecision(not is_spanned, self._near(start, end))

    def _is_spanned(self, at: int, events: Iterable[Sequence[Seen]]) -> bool:
        """Whether an event has sightings on both sides of a gap."""
        return any(len({seen < self.ordered[at] for seen in event}) == 2 for event in events)


def _is_timely_webhook(seen: Seen) -> bool:
    is_webhook = seen.source.startswith(("webhook:", "system_hook:"))
    return is_webhook and seen.precision.tolerance <= Precision.GITLAB_TIME.tolerance


def _are_mostly_reported_by(all_sources: set[str], events: Sequence[Sequence[Seen]]) -> bool:
    complete = sum({seen.source for seen in event} == all_sources for event in events)
    return 2 * complete > len(events)


def _reporting_time(event: Sequence[Seen]) -> int:
    """The time between the first and the last report of an event."""
    reported = [seen.time for seen in event]
    return max(reported) - min(reported)


def _fitness(before: Seen, after: Seen) -> int:
    """How fit a gap is for a cut: best before a more precise sighting, which begins an event, and then the longer the
    better.

    Periodic events make equal gaps. A checksum breaks the tie, so that one of them is the fittest.
    """
    begins = after.precision.tolerance < before.precision.tolerance
    return begins << 96 | (after.time - before.time) << 32 | zlib.crc32(b"%d" % after.time)

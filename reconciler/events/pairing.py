"""Pairs the reports of several sources: the matching rule for sightings that are close in time.

1. Within one source, byte-identical bodies report the same event, as far as their precision allows.
2. Across sources, an event has at most one report from each source. Of all ways to pair reports that are close in
   time, the one with the most pairs is chosen, and among those the one with the least total distance. Sources are
   joined one after the other in a fixed order, the most precise first, so that times of receipt are compared with
   GitLab's own times and not with each other. Two project or group webhooks report one event with the same bytes:
   different bytes mean different events.

Times are one-dimensional, so a best pairing never needs to cross, and dynamic programming finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reconciler.events.sighting import FOREVER, Precision
from reconciler.events.times import Millis


class Seen(msgspec.Struct, frozen=True, order=True):
    """The parts of a sighting that matching uses. `label` is for the caller and has no effect."""

    time: Millis
    source: str
    source_id: str
    precision: Precision
    payload_sha: str
    label: int


_PAIR = 1 << 50
"""The score of a pair, in milliseconds: more than the distances of all pairs together."""


class DistinctReport(msgspec.Struct):
    """One source's report of one event: a sighting, together with its byte-identical repeats."""

    time: Millis
    precision: Precision
    members: list[Seen]
    webhook_sha: str | None
    """The hash of the bytes that webhooks reported it with; None without a webhook."""


def pair(ordered: Sequence[Seen]) -> list[list[Seen]]:
    """Split sightings of one key, given in order, into events, each a list of its sightings; oldest event first."""
    by_source: dict[str, list[Seen]] = {}
    for sighting in ordered:
        by_source.setdefault(sighting.source, []).append(sighting)
    waiting = [_without_repeats(of_source) for of_source in by_source.values()]
    waiting.sort(key=lambda t: (t[0].precision.tolerance, t[0].members[0].source))
    events: list[DistinctReport] = []
    while waiting:
        of_source = _next_source(events, waiting)
        waiting.remove(of_source)
        events = _join(events, of_source)
    return [event.members for event in events]


def _next_source(events: list[DistinctReport], waiting: list[list[DistinctReport]]) -> list[DistinctReport]:
    """The source to join next: the most precise one; among equals the one closest to the events so far.

    Two webhooks with different bytes are two events. If the one that fits badly were joined first, it could be
    paired with the other's record while its own has not arrived yet.
    """
    equals = [one for one in waiting if one[0].precision.tolerance == waiting[0][0].precision.tolerance]
    if not events or len(equals) == 1:
        return waiting[0]
    return min(equals, key=lambda one: _misfit(events, one))  # the first of equals: they are in order


def _misfit(events: list[DistinctReport], reports: list[DistinctReport]) -> float:
    """The average distance of the pairs that joining would make; infinite if it would make none."""
    pairs = best_pairing(events, reports)
    distances = [_distance(events[event], reports[report]) or 0 for event, report in pairs]
    return sum(distances) / len(distances) if distances else float("inf")


def _without_repeats(sightings: Sequence[Seen]) -> list[DistinctReport]:
    """Fold one source's sightings, given in order of time, into reports: byte-identical repeats share one."""
    reports: list[DistinctReport] = []
    latest: dict[str, DistinctReport] = {}
    for sighting in sightings:
        first = latest.get(sighting.payload_sha)
        if first is not None and sighting.time - first.time <= sighting.precision.repeat_window:
            first.members.append(sighting)
            continue
        webhook_sha = sighting.payload_sha if sighting.source.startswith("webhook:") else None
        report = DistinctReport(sighting.time, sighting.precision, [sighting], webhook_sha)
        latest[sighting.payload_sha] = report
        reports.append(report)
    return reports


def _join(events: list[DistinctReport], reports: list[DistinctReport]) -> list[DistinctReport]:
    """Join one source's reports to the events so far. An unpaired report is an event of its own."""
    joined = [DistinctReport(e.time, e.precision, list(e.members), e.webhook_sha) for e in events]
    pairs = best_pairing(events, reports)
    for event, report in pairs:
        joined[event].members.extend(reports[report].members)
        joined[event].webhook_sha = joined[event].webhook_sha or reports[report].webhook_sha
    paired = {report for _, report in pairs}
    joined.extend(report for index, report in enumerate(reports) if index not in paired)
    joined.sort(key=lambda event: (event.time, event.members[0]))
    return joined


def best_pairing(left: Sequence[DistinctReport], right: Sequence[DistinctReport]) -> list[tuple[int, int]]:
    """Find the pairing with the most pairs, and among those the least total distance in time.

    Both sides are sorted by time. Returns pairs of indices. The cost is the length of a side times the number of
    unpaired reports.
    """
    # A greedy pairing is found first. The best one leaves no more reports unpaired: before any of its pairs, at most
    # `spare_left` reports of the left side are skipped, and at most `spare_right` of the right.
    some = _greedy_pairs(left, right)
    spare_left, spare_right = len(left) - some, len(right) - some
    # best[i][k]: the score of the best pairing of left[i:] with right[j:], where j = i + k - spare_left. A pair
    # scores more than any distance, so that the highest score has the most pairs, and among those the least distance.
    width = spare_left + spare_right + 1
    best = [[0] * (width + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) - 1, -1, -1):
        row, below, one = best[i], best[i + 1], left[i]
        for k in range(min(width, len(right) - i + spare_left) - 1, max(0, spare_left - i) - 1, -1):
            score = row[k + 1]
            if k and below[k - 1] > score:
                score = below[k - 1]
            distance = _distance(one, right[i + k - spare_left])
            if distance is not None and below[k] + _PAIR - distance > score:
                score = below[k] + _PAIR - distance
            row[k] = score
    pairing: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and (score := best[i][k := j - i + spare_left]):
        distance = _distance(left[i], right[j])
        if distance is not None and score == best[i + 1][k] + _PAIR - distance:
            pairing.append((i, j))
            i, j = i + 1, j + 1
        elif k and score == best[i + 1][k - 1]:
            i += 1
        else:
            j += 1
    return pairing


def _greedy_pairs(left: Sequence[DistinctReport], right: Sequence[DistinctReport]) -> int:
    """The number of pairs if each report takes the earliest free partner. Usually that is the best number."""
    pairs = i = j = 0
    while i < len(left) and j < len(right):
        if _distance(left[i], right[j]) is not None:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif left[i].time < right[j].time:
            i += 1
        else:
            j += 1
    return pairs


def _distance(left: DistinctReport, right: DistinctReport) -> Millis | None:
    """How far apart two reports are in time; None if they can't be one event."""
    if left.webhook_sha and right.webhook_sha and left.webhook_sha != right.webhook_sha:
        return None
    tolerance = max(left.precision.tolerance, right.precision.tolerance)
    if tolerance == FOREVER:
        return Millis(0)
    distance = Millis(abs(left.time - right.time))
    return distance if distance <= tolerance else None

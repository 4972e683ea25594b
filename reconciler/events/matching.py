"""The one matching rule: which sightings of one key are the same event.

The answer depends on the set of sightings alone, never on the order in which they came: `group` is a pure
function of that set. It works in two steps.

1. Within one source, byte-identical bodies are one event told twice, as far as their precision allows.
2. Across sources, at most one telling of each source belongs to an event. Of all ways to pair tellings that
   are near each other in time, the one with the most pairs is taken, and among those the one with the least
   total distance. Sources are brought in one after the other in a fixed order, those that know the time best
   first, so that times of receipt are held against GitLab's own times and not against each other. Two project
   or group webhooks tell one event in the same bytes: where the bytes differ, so do the events.

Times are one-dimensional and the groups tiny, so a best pairing never needs to cross and a table of a few
lines finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from reconciler.events.sighting import FOREVER, Precision
from reconciler.events.times import Millis


class Seen(msgspec.Struct, frozen=True, order=True):
    """What matching needs to know of a sighting. `label` and `recovered` are the caller's own and play no part."""

    time: Millis
    source: str
    source_id: str
    precision: Precision
    payload_sha: str
    label: int
    recovered: bool = False


class _Telling(msgspec.Struct):
    """One source's telling of one event: a sighting and its identical repeats."""

    time: Millis
    precision: Precision
    members: list[Seen]
    webhook_sha: str | None
    """The bytes that webhooks tell it in; None where none did."""


def group(seen: Iterable[Seen]) -> list[list[Seen]]:
    """Split the sightings of one key into events, each a list of its sightings; oldest event first."""
    return [event for stretch in _stretches(sorted(seen)) for event in _group_stretch(stretch)]


def _stretches(seen: Sequence[Seen]) -> list[list[Seen]]:
    """Cut where nothing on one side can be paired with anything on the other.

    The answer stays the same, and what happens every night for years costs what happens once.
    """
    tolerance = max((sighting.precision.tolerance for sighting in seen), default=0)
    stretches: list[list[Seen]] = []
    for sighting in seen:
        if stretches and sighting.time - stretches[-1][-1].time <= tolerance:
            stretches[-1].append(sighting)
        else:
            stretches.append([sighting])
    return stretches


def _group_stretch(seen: Sequence[Seen]) -> list[list[Seen]]:
    by_source: dict[str, list[Seen]] = {}
    for sighting in seen:
        by_source.setdefault(sighting.source, []).append(sighting)
    waiting = [_without_repeats(of_source) for of_source in by_source.values()]
    waiting.sort(key=lambda t: (t[0].precision.tolerance, t[0].members[0].source))
    events: list[_Telling] = []
    while waiting:
        of_source = _next_source(events, waiting)
        waiting.remove(of_source)
        events = _join(events, of_source)
    return [event.members for event in events]


def _next_source(events: list[_Telling], waiting: list[list[_Telling]]) -> list[_Telling]:
    """The source to join next: the most precise; among equals the one that fits best what is known so far.

    Two webhooks with different bytes are two events. Were the one that fits badly joined first, it could take the
    record that belongs to the other, as long as its own is not there yet.
    """
    equals = [one for one in waiting if one[0].precision.tolerance == waiting[0][0].precision.tolerance]
    if not events or len(equals) == 1:
        return waiting[0]
    return min(equals, key=lambda one: _misfit(events, one))  # the first of several: they are in order


def _misfit(events: list[_Telling], tellings: list[_Telling]) -> float:
    """How far apart the pairs are that joining would make, on average; infinite where it would make none."""
    pairs = best_pairing(events, tellings)
    distances = [_distance(events[event], tellings[telling]) or 0 for event, telling in pairs]
    return sum(distances) / len(distances) if distances else float("inf")


def _without_repeats(sightings: Sequence[Seen]) -> list[_Telling]:
    """Fold one source's byte-identical repeats, given in order of time, into tellings."""
    tellings: list[_Telling] = []
    latest: dict[str, _Telling] = {}
    for sighting in sightings:
        first = latest.get(sighting.payload_sha)
        if first is not None and sighting.time - first.time <= sighting.precision.repeat_window:
            first.members.append(sighting)
            continue
        webhook_sha = sighting.payload_sha if sighting.source.startswith("webhook:") else None
        telling = _Telling(sighting.time, sighting.precision, [sighting], webhook_sha)
        latest[sighting.payload_sha] = telling
        tellings.append(telling)
    return tellings


def _join(events: list[_Telling], tellings: list[_Telling]) -> list[_Telling]:
    """Add one source's tellings to the events known so far; an unpaired one is an event of its own."""
    joined = [_Telling(e.time, e.precision, list(e.members), e.webhook_sha) for e in events]
    pairs = best_pairing(events, tellings)
    for event, telling in pairs:
        joined[event].members.extend(tellings[telling].members)
        joined[event].webhook_sha = joined[event].webhook_sha or tellings[telling].webhook_sha
    paired = {telling for _, telling in pairs}
    joined.extend(telling for index, telling in enumerate(tellings) if index not in paired)
    joined.sort(key=lambda event: (event.time, event.members[0]))
    return joined


def best_pairing(left: Sequence[_Telling], right: Sequence[_Telling]) -> list[tuple[int, int]]:
    """The most pairs of near neighbours, and among those the least total distance in time.

    Both sides are sorted by time. Returns pairs of indices. Costs len(left) * len(right).
    """
    # score[i][j]: the best of left[i:] against right[j:], as (pairs, -total distance): the larger the better.
    score = [[(0, 0)] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) - 1, -1, -1):
        for j in range(len(right) - 1, -1, -1):
            best = max(score[i + 1][j], score[i][j + 1])
            distance = _distance(left[i], right[j])
            if distance is not None:
                pairs, total = score[i + 1][j + 1]
                best = max(best, (pairs + 1, total - distance))
            score[i][j] = best
    pairing: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        distance = _distance(left[i], right[j])
        if distance is not None:
            pairs, total = score[i + 1][j + 1]
            if score[i][j] == (pairs + 1, total - distance):
                pairing.append((i, j))
                i, j = i + 1, j + 1
                continue
        if score[i][j] == score[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairing


def _distance(left: _Telling, right: _Telling) -> Millis | None:
    """How far apart two tellings are in time; None where they can't be one event."""
    if left.webhook_sha and right.webhook_sha and left.webhook_sha != right.webhook_sha:
        return None
    tolerance = max(left.precision.tolerance, right.precision.tolerance)
    if tolerance == FOREVER:
        return Millis(0)
    distance = Millis(abs(left.time - right.time))
    return distance if distance <= tolerance else None

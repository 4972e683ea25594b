"""The rule by which copies of a service share the destinations. Each copy computes the same from the same facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def shares(able: Mapping[int, Collection[int]], held: Mapping[int, int]) -> dict[int, int]:
    """Which copy is to deliver to each destination that any copy is `able` to deliver to.

    `held` says which copy has a destination now. It keeps it, unless it has at least two more than one that could
    take it. So the numbers differ by one at most if all copies are able to deliver to all, no destination is without
    a copy, and nothing moves while nothing changes.
    """
    given: dict[int, int] = {}
    has: dict[int, set[int]] = {copy: set() for copy in able}
    for destination in sorted({one for some in able.values() for one in some}):
        holder = held.get(destination)
        if holder is not None and destination in able.get(holder, ()):
            given[destination] = holder
            has[holder].add(destination)
    for destination in sorted({one for some in able.values() for one in some} - given.keys()):
        copy = min((len(has[copy]), copy) for copy in able if destination in able[copy])[1]
        given[destination] = copy
        has[copy].add(destination)
    while (move := _move(able, has)) is not None:
        destination, taker = move
        has[given[destination]].remove(destination)
        has[taker].add(destination)
        given[destination] = taker
    return given


def _move(able: Mapping[int, Collection[int]], has: Mapping[int, set[int]]) -> tuple[int, int] | None:
    """A destination that one copy is to give to another, if one has too many."""
    by_number = sorted(able, key=lambda copy: (len(has[copy]), copy))
    for giver in reversed(by_number):
        for taker in by_number:
            if len(has[giver]) - len(has[taker]) < 2:
                break
            movable = has[giver].intersection(able[taker])
            if movable:
                return min(movable), taker
    return None

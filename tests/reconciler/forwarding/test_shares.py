"""The rule by which copies share the destinations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.forwarding.shares import shares

COPIES = st.integers(1, 5)
DESTINATIONS = st.integers(1, 12)
ABLE = st.dictionaries(COPIES, st.sets(DESTINATIONS), max_size=5)
HELD = st.dictionaries(DESTINATIONS, st.integers(1, 7))
"""Also by copies that are gone, and of destinations that are no longer in a config."""


def numbers(given: dict[int, int], copies: set[int]) -> list[int]:
    return [list(given.values()).count(copy) for copy in copies]


@given(ABLE, HELD)
def test_no_destination_is_without_a_copy_that_is_able_to(able: dict[int, set[int]], held: dict[int, int]) -> None:
    found = shares(able, held)
    assert found.keys() == {one for some in able.values() for one in some}
    assert all(one in able[copy] for one, copy in found.items())


@given(st.sets(COPIES, min_size=1), st.sets(DESTINATIONS), HELD)
def test_none_has_more_than_its_share(copies: set[int], destinations: set[int], held: dict[int, int]) -> None:
    found = shares(dict.fromkeys(copies, destinations), held)
    assert max(numbers(found, copies)) - min(numbers(found, copies)) <= 1


@given(ABLE, HELD)
def test_nothing_moves_while_nothing_changes(able: dict[int, set[int]], held: dict[int, int]) -> None:
    found = shares(able, held)
    assert shares(able, found) == found


@given(st.sets(COPIES, min_size=2), st.sets(DESTINATIONS), HELD, st.data())
def test_only_what_a_lost_copy_had_moves(
    copies: set[int], destinations: set[int], held: dict[int, int], data: st.DataObject
) -> None:
    before = shares(dict.fromkeys(copies, destinations), held)
    lost = data.draw(st.sampled_from(sorted(copies)))
    after = shares(dict.fromkeys(copies - {lost}, destinations), before)
    assert {one for one in before if after[one] != before[one]} == {one for one in before if before[one] == lost}


@given(st.sets(COPIES, min_size=1), st.sets(DESTINATIONS), HELD)
def test_a_new_copy_gets_its_share_and_nothing_else_moves(
    copies: set[int], destinations: set[int], held: dict[int, int]
) -> None:
    before = shares(dict.fromkeys(copies, destinations), held)
    after = shares(dict.fromkeys(copies | {9}, destinations), before)
    moved = {one for one in before if after[one] != before[one]}
    assert {after[one] for one in moved} <= {9}
    assert len(moved) == len(destinations) // (len(copies) + 1)

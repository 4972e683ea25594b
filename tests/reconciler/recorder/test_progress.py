"""How far an intake was recorded, with what is held in it: as a set of positions says it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ledger.recording.place import Progress, note_progress, progress
from reconciler.ledger.storage.connection import connect, transaction


def as_it_should_be(fates: Iterable[tuple[int, bool]]) -> tuple[Progress, dict[int, bool]]:
    """Webhooks are read in order; `fates` are the gaps before them, and whether they are held."""
    made, after, is_held = Progress("one"), 0, dict[int, bool]()
    for gap, held in fates:
        position = after + 1 + gap
        made = made.hold(after, position) if held else made.recorded(after, position)
        is_held[position] = held
        after = position
    return made, is_held


FATES = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12)


@given(FATES, st.lists(st.booleans(), min_size=12, max_size=12))
def test_it_says_of_each_position_whether_it_is_held(fates: list[tuple[int, bool]], again: list[bool]) -> None:
    made, is_held = as_it_should_be(fates)
    assert all(made.has(position) is not held for position, held in is_held.items())
    first = min((position for position, held in is_held.items() if held), default=None)
    assert made.place.position == (made.through if first is None else first - 1)
    assert not made.has(made.through + 1)
    after = made.place.position  # the next life tries them again
    for (position, held), fails in zip(is_held.items(), again, strict=False):
        if held:
            made = made.hold(after, position) if fails else made.recorded(after, position)
            is_held[position] = fails
            after = position
    assert all(made.has(position) is not held for position, held in is_held.items())
    if not any(is_held.values()):
        assert made.place.position == max(is_held, default=0)


def test_what_follows_each_other_is_one_range() -> None:
    made, _ = as_it_should_be([(0, False), *[(0, True)] * 1000])
    assert made.held == ((2, 1001),)


@pytest.mark.parametrize("made", [Progress("a"), Progress("a", 7), Progress("a", 9, ((3, 3), (5, 8)))])
def test_it_is_noted(tmp_path: Path, made: Progress) -> None:
    with closing(connect(tmp_path / "ledger.db")) as db:
        assert progress(db) is None
        with transaction(db):
            note_progress(db, made)
        assert progress(db) == made

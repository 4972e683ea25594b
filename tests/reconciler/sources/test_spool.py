"""Pages put aside and read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.sources import spool
from reconciler.sources.errors import SourceError
from reconciler.sources.spool import Spool


@given(pages=st.lists(st.lists(st.integers(0, 1 << 60) | st.text(), max_size=5), max_size=8), room=st.integers(0, 60))
def test_what_was_added_comes_back_the_other_way_round(pages: list[list[object]], room: int) -> None:
    """In memory and, where it is more than that, from a file."""
    before, spool.IN_MEMORY_BYTES = spool.IN_MEMORY_BYTES, room
    try:
        with Spool() as made:
            for page in pages:
                made.add(page)
            assert list(made.backwards()) == [page[::-1] for page in reversed(pages)]
            assert list(made.backwards()) == []
    finally:
        spool.IN_MEMORY_BYTES = before


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with Spool() as made, pytest.raises(SourceError, match=r"can't store what was read from GitLab in .*gone: "):
        made.add(["x"])


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spool() as made:
        made.add(["x"])
        assert list(tmp_path.iterdir()) == []  # the file has no name

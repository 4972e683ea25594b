"""GitLab's time formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.events import times


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2013-12-03T17:15:43Z", "2013-12-03T17:15:43.000Z"),
        ("2015-05-17 18:08:09 UTC", "2015-05-17T18:08:09.000Z"),
        ("2023-11-20 18:21:41 +0100", "2023-11-20T17:21:41.000Z"),
        ("2023-11-20 18:21:41 -0330", "2023-11-20T21:51:41.000Z"),
        ("2017-09-20T08:31:45.944Z", "2017-09-20T08:31:45.944Z"),
        ("2017-09-20 08:31:45.944123 UTC", "2017-09-20T08:31:45.944Z"),
        ("2020-12-07T12:05:00.000+02:00", "2020-12-07T10:05:00.000Z"),
        ("2020-12-07", "2020-12-07T00:00:00.000Z"),
    ],
)
def test_every_format_gitlab_writes(text: str, iso: str) -> None:
    millis = times.parse(text)
    assert millis is not None
    assert times.iso(millis) == iso


@given(st.none() | st.integers() | st.text(max_size=40) | st.booleans() | st.lists(st.integers(), max_size=2))
def test_anything_else_is_none_or_a_time(value: object) -> None:
    assert times.parse(value) is None or isinstance(times.parse(value), int)


@given(st.integers(0, 253_402_300_799_999))
def test_what_is_written_is_read_back(millis: int) -> None:
    assert times.from_iso(times.iso(millis)) == millis


@given(st.integers(0, 4_000_000_000_000), st.integers(0, 4_000_000_000_000))
def test_text_sorts_as_time_does(left: int, right: int) -> None:
    assert (times.iso(left) < times.iso(right)) == (left < right)

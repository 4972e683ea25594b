"""GitLab's time formats."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.events import times
from reconciler.events.times import Millis


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


ACCEPTED = st.integers(times.EARLIEST, times.LATEST).map(Millis)


@given(ACCEPTED)
@example(times.EARLIEST)
@example(times.LATEST)
def test_what_is_written_is_read_back(millis: Millis) -> None:
    text = times.iso(millis)
    assert len(text) == len("2026-11-24T16:45:00.123Z")
    assert times.from_iso(text) == times.written(text) == times.parse(text) == millis


@given(ACCEPTED, ACCEPTED)
def test_text_sorts_as_time_does(left: Millis, right: Millis) -> None:
    assert (times.iso(left) < times.iso(right)) == (left < right)


@given(st.datetimes(), st.timezones() | st.none())
def test_every_time_that_is_accepted_can_be_written(moment: datetime, zone: ZoneInfo | None) -> None:
    millis = times.parse(moment.replace(tzinfo=zone).isoformat())
    assert millis is None or times.from_iso(times.iso(millis)) == millis


@pytest.mark.parametrize(
    "text",
    ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+05:00", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"],
)
def test_what_can_t_be_written_is_no_time(text: str) -> None:
    assert times.parse(text) is None


@pytest.mark.parametrize(("beyond", "nearest"), [(1 << 62, times.LATEST), (-(1 << 62), times.EARLIEST)])
def test_a_moment_that_can_t_be_written_is_written_as_the_nearest(beyond: int, nearest: Millis) -> None:
    assert times.iso(Millis(beyond)) == times.iso(nearest)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("1-01-01T00:00:00.000Z", "0001-01-01T00:00:00.000Z"),
        ("987-12-31T23:59:59.999Z", "0987-12-31T23:59:59.999Z"),
        ("2026-11-24T16:45:00.123Z", "2026-11-24T16:45:00.123Z"),
    ],
)
def test_what_an_older_version_wrote_is_read_back(text: str, iso: str) -> None:
    assert times.iso(times.from_iso(text)) == iso


@given(st.none() | st.integers() | st.text(max_size=40) | st.binary(max_size=10))
def test_reading_back_never_raises(value: object) -> None:
    assert times.EARLIEST <= times.from_iso(value) <= times.LATEST
    assert times.written(value) in (None, times.from_iso(value))


@pytest.mark.parametrize(
    ("text", "is_stated"),
    [
        ("0001-01-01T00:00:00Z", False),
        ("1970-01-01T00:00:00Z", False),
        ("2010-12-31T23:59:59.999Z", False),
        ("2011-01-01T00:00:00Z", True),
        ("2099-12-31T23:59:59.999Z", True),
        ("2100-01-01T00:00:00Z", False),
        ("9999-12-31T23:59:59Z", False),
        (None, False),
    ],
)
def test_what_can_t_be_true_is_not_stated(text: str | None, is_stated: bool) -> None:
    assert times.stated(text) == (times.parse(text) if is_stated else None)

"""One reader for all JSON: what a webhook may hold, a page of GitLab's answers may hold too."""

from __future__ import annotations

import json

import pytest

from receiver.body import RequestRejected, check_json_object
from reconciler.events.fields import as_json, parsed
from reconciler.sources import answers, checked

TITLES = {
    "half a surrogate pair": rb'"a\ud800b"',
    "a whole one": rb'"\ud83d\ude00"',
    "a large number": b"123456789012345678901234567890",
    "a number of 400 digits": b"9" * 400,
    "a number that Python does not count with": b"9" * 5000,
    "the same below zero": b"-" + b"9" * 5000,
    "a fraction of no bounds": b"1e999",
    "a fraction of many digits": b"9" * 5000 + b".5e9999999999999999999999",
    "NUL": rb'"\u0000"',
    "nesting": b"[" * 600 + b"]" * 600,
}
NONE = [b"NaN", b"Infinity", b"-Infinity", b"{", b"", b"01", b"'x'", b"[" * 3000 + b"]" * 3000]


@pytest.mark.parametrize("what", TITLES)
def test_both_take_it(what: str) -> None:
    raw = TITLES[what]
    check_json_object(b'{"id": 1, "title": ' + raw + b"}")
    page = checked.read_page("GET /x", checked.parse(b'[{"id": 1, "title": ' + raw + b'}, {"id": 2}]'), answers.Thing)
    assert [one.shown.id for one in page.records][-1] == 2
    assert len(page.records) + len(page.unreadable) == 2
    for one in page.records:
        json.dumps(one.raw, ensure_ascii=False).encode()


@pytest.mark.parametrize("what", TITLES)
def test_what_was_read_is_written_again(what: str) -> None:
    """With another odd thing beside it, so that the slow writer has to do it."""
    body = parsed(b'{"title": ' + TITLES[what] + b', "odd": "\\ud800"}')
    assert parsed(as_json(body)) == body


def test_a_number_that_is_none_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json(["\ud800", float("inf")])


@pytest.mark.parametrize(
    "raw", [b"NaN", b"Infinity", b"-Infinity", b"{", b"", b"01", b"'x'", b"[" * 3000 + b"]" * 3000]
)
def test_both_refuse_it(raw: bytes) -> None:
    with pytest.raises(RequestRejected):
        check_json_object(b'{"title": ' + raw + b"}")
    with pytest.raises(ValueError, match=r"."):
        checked.parse(b'{"title": ' + raw + b"}")
    with pytest.raises(ValueError, match=r"."):
        parsed(b'{"title": ' + raw + b"}")


@pytest.mark.parametrize("deep", [300, 900])
def test_a_deep_record_costs_itself_and_no_other(deep: int) -> None:
    raw = b'[{"id": 1, "title": "\\ud800", "deep": ' + b"[" * deep + b"]" * deep + b'}, {"id": 2}]'
    page = checked.read_page("GET /x", checked.parse(raw), answers.Thing)
    assert [one.shown.id for one in page.records] == [2]
    assert len(page.unreadable) == 1

"""Text from outside: nothing of it acts on a terminal, and JSON stays the same value."""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.events.texts import json_line, one_line, pretty_json, printable, safe_json, without_credentials

ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")

any_text = st.text(st.characters(codec=None))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(any_text, v, max_size=3))


def acts(text: str) -> list[str]:
    """What of a text a terminal could act on, or hide."""
    return [hex(ord(c)) for c in text if unicodedata.category(c) in ACTING]


def test_every_character_that_acts_is_written_out() -> None:
    for code in range(sys.maxunicode + 1):
        one = chr(code)
        if unicodedata.category(one) in ACTING:
            assert acts(one_line(one)) == [], hex(code)
            assert acts(safe_json(json.dumps(one, ensure_ascii=False))) == [], hex(code)
            assert printable(one) != one or one in "\n\t"


@pytest.mark.parametrize("text", ["Müller, 漢字 😀", "a b", "", "-"])
def test_plain_text_stays(text: str) -> None:
    assert one_line(text) == printable(text) == text


@given(any_text)
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
    assert acts(one_line(text)) == []
    assert acts(printable(text).replace("\n", "").replace("\t", "")) == []


@given(values, st.sampled_from((None, 1)))
def test_json_stays_the_same_value(value: Any, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    for made in (safe_json(text), json_line(text), pretty_json(text), pretty_json(safe_json(text))):
        assert json.loads(made) == value
    assert acts(safe_json(text)) == []
    assert "\n" not in json_line(text)


def test_pretty_json_is_as_json_dumps_writes_it() -> None:
    value = {"a": [1, {}, [], 'x"{', {"b": None}], "c": 123456789012345678901234567890}
    assert pretty_json(json.dumps(value)) == json.dumps(value, indent=2)


@pytest.mark.parametrize("text", ["[" * 20_000 + "]" * 20_000, '{"a":1e400,"n":' + "9" * 5000 + "}", "no json", ""])
def test_pretty_json_takes_anything(text: str) -> None:
    assert "".join(pretty_json(text).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("can't reach amqp://guest:p@ss@host:5672/v: refused", "can't reach amqp://…@host:5672/v: refused"),
        ("redis://:secret@h/0 http://user@proxy:3128", "redis://…@h/0 http://…@proxy:3128"),
        ("GET https://h/x?page=2&private_token=s3cret&a=1", "GET https://h/x?page=2&private_token=…&a=1"),
        ("mail a@b.c about https://h/p?q=1", "mail a@b.c about https://h/p?q=1"),
        ("https://h/a@b", "https://h/a@b"),
    ],
)
def test_urls_lose_their_credentials(text: str, wanted: str) -> None:
    assert without_credentials(text) == wanted

"""Messages for invalid values, for users: pydantic's are for programmers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from reconciler.config.basics import NAME_PATTERN

NEAR, VERY_NEAR = 0.6, 0.8
"""How similar two words must be for one to be suggested for the other."""
_EMPTY = "is empty: give it a value, or remove the key"
_NOTHING_BELOW = "is empty: its content is commented out or not indented"
_WORDS = {
    "missing": "is missing",
    "int": "should be a whole number",
    "float": "should be a number",
    "finite_number": "should be a number",
    "bool": "should be true or false",
    "string": "should be text: put it in quotes",
    "list": "should be a list, like `[a, b]`",
    "dict": "should be a section: keys, each with a value",
    "model": "should be a section: keys, each with a value",
    "path": "should be a path",
    "greater_than": "should be more than {gt}",
    "greater_than_equal": "should be {ge} or more",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be {le} or less",
    "string_too_long": "should have {max_length} characters at most",
    "too_long": "should have {max_length} at most",
}
"""By pydantic's error type, or its first word (`int_parsing`, `int_type`)."""


def message_for(kind: str, message: str, given: Any, context: dict[str, Any]) -> str:
    """The message for an invalid value. Values are not shown, since they may be secrets, except where one of a few
    known words is required.
    """
    words = _WORDS.get(kind) or _WORDS.get(kind.partition("_")[0])
    if kind in ("value_error", "assertion_error"):
        return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if given is None and kind != "missing":
        return _NOTHING_BELOW if kind.startswith(("list", "dict", "model")) else _EMPTY
    if kind in ("too_short", "string_too_short"):
        return _too_short(given, context["min_length"])
    if kind == "literal_error":
        return one_of(given, re.findall(r"'([^']*)'", context["expected"]))
    if kind == "string_pattern_mismatch":
        return _pattern(context["pattern"])
    if kind == "string_type" and isinstance(given, (list, dict)):
        return "should be text"
    # Not reached by our own keys, but by those of other packages' kinds.
    return message.replace("Input should", "should") if words is None else words.format(**context)


def _too_short(given: Any, least: int) -> str:
    if isinstance(given, (list, dict)):
        return "is empty: give at least one" if least == 1 else f"should have {least} at least"
    return _EMPTY if not given else f"should have {least} characters at least"


def _pattern(pattern: str) -> str:
    if pattern == NAME_PATTERN:
        return "should begin with a letter or a digit, and may hold letters, digits and `.`, `_`, `-`, 64 at most"
    return f"should be like the pattern {pattern}"


def one_of(given: Any, known: Iterable[str]) -> str:
    """That a word should be one of these, with a suggestion if one is similar."""
    words = list(known)
    near = meant(str(given), words)
    return f"should be one of {', '.join(words)}" + ("" if near is None else f": did you mean {near}?")


def meant(given: str, known: Iterable[str], *, cutoff: float = NEAR) -> str | None:
    """The known word that is probably meant; None if none is similar."""
    plain = {word.lower(): word for word in known}
    wanted = given.lower()
    near = get_close_matches(wanted, plain, n=1, cutoff=cutoff) or [
        word for word in plain if wanted and (word.startswith(f"{wanted}_") or wanted.startswith(f"{word}_"))
    ]
    return plain[near[0]] if near else None

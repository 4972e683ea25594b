"""Messages that are the same for many projects are printed once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MOST_NAMES = 5
"""How many names are listed for one message; the others are counted."""
_REQUEST = re.compile(r"(GET|POST|PUT|DELETE) /\S+: ")
"""The request to GitLab: it differs although the answer is the same."""


def grouped(troubles: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each trouble, with the names that have it."""
    found: dict[str, dict[str, str]] = {}
    for name, trouble in troubles:
        found.setdefault(without_request(trouble), {})[name] = trouble
    return [
        f"{named(list(those))}: {trouble if len(those) > 1 else next(iter(those.values()))}"
        for trouble, those in found.items()
    ]


def without_request(trouble: str) -> str:
    """A trouble without the request that caused it."""
    return _REQUEST.sub("", trouble, count=1)


def named(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES:,} more"

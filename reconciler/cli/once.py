"""What is the same with many projects is said once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MOST_NAMES = 5
"""So many are named for one mistake; of the others, their number."""
_REQUEST = re.compile(r"(GET|POST|PUT|DELETE) /\S+: ")
"""What was asked of GitLab: it differs, where the answer is the same."""


def said_once(troubles: Iterable[tuple[str, str]]) -> list[str]:
    """Lines for what went wrong with each of many names."""
    found: dict[str, dict[str, str]] = {}
    for name, trouble in troubles:
        found.setdefault(without_request(trouble), {})[name] = trouble
    return [
        f"{named(list(those))}: {trouble if len(those) > 1 else next(iter(those.values()))}"
        for trouble, those in found.items()
    ]


def without_request(trouble: str) -> str:
    """What GitLab answered, or did not, without what it was asked."""
    return _REQUEST.sub("", trouble, count=1)


def named(names: Sequence[str]) -> str:
    """Some names, and how many there are beside."""
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES:,} more"

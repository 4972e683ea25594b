"""Columns, read back. What a person or another version wrote, and can't be read, stops nobody.

Times have `times.from_iso`; numbers that only count something are read as `column + 0` in SQL.
"""

from __future__ import annotations

import msgspec

from reconciler.events.sighting import Recovery

UNREADABLE = "(the ledger's note of this can't be read)"


def headers(text: str) -> dict[str, str]:
    """A delivery's headers; none where they can't be read."""
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, ValueError, TypeError):
        return {}


def recovery(text: str | None) -> Recovery | None:
    """How a payload was come by. What can't be read was not brought by a webhook: that much is known."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Recovery)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return Recovery(by="api", unknown=[UNREADABLE])


def triggers(text: str) -> list[str]:
    """What a webhook is subscribed to; nothing where that can't be read."""
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.MsgspecError, ValueError, TypeError):
        return []


def count(value: object) -> int:
    """A number of something; 0 where it is none."""
    return value if isinstance(value, int) else 0

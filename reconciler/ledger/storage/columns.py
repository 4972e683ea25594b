"""Reading columns back. A value that a person or another version wrote, and that is unreadable, breaks nothing.

Times are read with `times.from_iso`. Counts are read as `column + 0` in SQL.
"""

from __future__ import annotations

import msgspec

from reconciler.events.sighting import Recovery

UNREADABLE = "(the ledger's note of this can't be read)"

# Made once, before there are threads: msgspec prepares a type at its first use, and only one thread may do that.
_HEADERS = msgspec.json.Decoder(dict[str, str])
_RECOVERY = msgspec.json.Decoder(Recovery)
_TRIGGERS = msgspec.json.Decoder(list[str])


def headers(text: str) -> dict[str, str]:
    """A delivery's headers; empty if they are unreadable."""
    try:
        return _HEADERS.decode(text)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return {}


def recovery(text: str | None) -> Recovery | None:
    """How a payload was recovered. An unreadable value still says that no webhook brought it."""
    if text is None:
        return None
    try:
        return _RECOVERY.decode(text)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return Recovery(by="api", unknown=[UNREADABLE])


def triggers(text: str) -> list[str]:
    """The triggers that a webhook subscribes to; none if they are unreadable."""
    try:
        return _TRIGGERS.decode(text)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return []


def count(value: object) -> int:
    """A count; 0 if the value is no number."""
    return value if isinstance(value, int) else 0
